//! The pairs marked as PostgreSQL's were written by PostgreSQL 15 and are not derived from this code.

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const fn decimal(precision: u8, scale: u8) -> Storage {
    Storage::Decimal { precision, scale }
}

fn list(element: Storage) -> Storage {
    Storage::List { element: Box::new(element), delimiter: b',' }
}

const SCALARS: [Storage; 15] = [
    Storage::Boolean,
    Storage::Int16,
    Storage::Int32,
    Storage::Int64,
    Storage::Float32,
    Storage::Float64,
    decimal(10, 2),
    decimal(5, 5),
    decimal(38, 0),
    decimal(38, 5),
    Storage::Date,
    Storage::Timestamp,
    Storage::TimestampTz,
    Storage::Binary,
    Storage::Text,
];

/// Each scalar, and lists of each.
fn every_storage() -> impl Iterator<Item = Storage> {
    SCALARS.into_iter().chain(SCALARS.into_iter().map(list))
}

fn column<T: AsRef<[u8]>>(storage: &Storage, texts: &[T]) -> (Vec<Fit>, ArrayRef) {
    let mut builder = ColumnBuilder::new(storage);
    let fits = texts.iter().map(|text| builder.append_text(text.as_ref())).collect();
    (fits, builder.finish())
}

fn text_of(array: &dyn Array, storage: &Storage, row: usize) -> String {
    let mut out = b"before ".to_vec();
    ValueReader::new(array, storage).unwrap().write_text(row, &mut out);
    let text = out.strip_prefix(b"before ").expect("what was there is gone");
    String::from_utf8(text.to_vec()).unwrap()
}

#[track_caller]
fn assert_exact<T: AsRef<[u8]>>(storage: &Storage, texts: &[T]) {
    let (fits, array) = column(storage, texts);
    assert_eq!(array.data_type(), &storage.arrow_type());
    for (row, text) in texts.iter().enumerate() {
        let text = std::str::from_utf8(text.as_ref()).unwrap();
        assert_eq!(fits[row], Fit::Exact, "{storage:?} did not take {text:?}");
        assert_eq!(text_of(&array, storage, row), text, "{storage:?}");
    }
}

#[track_caller]
fn assert_inexact<T: AsRef<[u8]>>(storage: &Storage, texts: &[T]) {
    let (fits, array) = column(storage, texts);
    assert_eq!(array.len(), texts.len());
    for (row, text) in texts.iter().enumerate() {
        let shown = String::from_utf8_lossy(text.as_ref());
        assert_eq!(fits[row], Fit::Inexact, "{storage:?} took {shown:?}");
        assert!(array.is_null(row), "{storage:?} holds a value for {shown:?}");
    }
}

#[test]
fn booleans() {
    assert_exact(&Storage::Boolean, &["t", "f"]);
    assert_inexact(&Storage::Boolean, &["", "true", "T", "1", "tt", "t "]);
}

#[test]
fn integers_reach_both_ends_of_their_type() {
    assert_exact(&Storage::Int16, &["0", "-1", "10", "32767", "-32768"]);
    assert_inexact(&Storage::Int16, &["32768", "-32769"]);
    assert_exact(&Storage::Int32, &["0", "2147483647", "-2147483648", "100000"]);
    assert_inexact(&Storage::Int32, &["2147483648", "-2147483649"]);
    assert_exact(&Storage::Int64, &["0", "9223372036854775807", "-9223372036854775808", "4294967295"]);
    assert_inexact(
        &Storage::Int64,
        &["9223372036854775808", "-9223372036854775809", "18446744073709551616", "99999999999999999999999"],
    );
}

#[test]
fn integers_in_another_spelling_are_inexact() {
    for storage in [Storage::Int16, Storage::Int32, Storage::Int64] {
        assert_inexact(
            &storage,
            &["", "-", "-0", "00", "01", "-01", "+1", " 1", "1 ", "1.0", "1e3", "--1", "0x1", "１"],
        );
    }
}

/// PostgreSQL's `float8out` beside the bits of `float8send`.
const DOUBLES: [(&str, u64); 35] = [
    ("9.999999999999999e+22", 0x44b5_2d02_c7e1_4af6),
    ("9.007199254740992e+15", 0x4340_0000_0000_0000),
    ("5e-324", 1),
    ("1.7976931348623157e+308", 0x7fef_ffff_ffff_ffff),
    ("2.2250738585072014e-308", 0x0010_0000_0000_0000),
    ("1e+15", 0x430c_6bf5_2634_0000),
    ("999999999999999", 0x430c_6bf5_2633_fff8),
    ("100000000000000", 0x42d6_bcc4_1e90_0000),
    ("0.0001", 0x3f1a_36e2_eb1c_432d),
    ("1e-05", 0x3ee4_f8b5_88e3_68f1),
    ("0.1", 0x3fb9_9999_9999_999a),
    ("0.00012345", 0x3f20_2e4b_6ce5_dc68),
    ("1.5e-07", 0x3e84_21f5_f40d_8376),
    ("1e+20", 0x4415_af1d_78b5_8c40),
    ("123456789012345.6", 0x42dc_1221_8377_de66),
    ("1.2345678901234568e+15", 0x4311_8b54_f22a_eb03),
    ("9e+15", 0x433f_f973_cafa_8000),
    ("0", 0),
    ("-0", 0x8000_0000_0000_0000),
    ("NaN", 0x7ff8_0000_0000_0000),
    ("Infinity", 0x7ff0_0000_0000_0000),
    ("-Infinity", 0xfff0_0000_0000_0000),
    ("4.9999999999999996e+22", 0x44a5_2d02_c7e1_4af6),
    ("8.409999999999999e+21", 0x447c_7e83_209e_90b2),
    ("2e+22", 0x4490_f0cf_064d_d592),
    ("9.223372036854776e+18", 0x43e0_0000_0000_0000),
    ("4.35", 0x4011_6666_6666_6666),
    ("-1.25", 0xbff4_0000_0000_0000),
    ("1e+100", 0x54b2_49ad_2594_c37d),
    ("-1e-100", 0xab2b_ff2e_e48e_0530),
    ("2.2517998136852478e+15", 0x431f_ffff_ffff_ffff),
    ("4.503599627370498e+15", 0x4330_0000_0000_0002),
    ("-1.0845456587586062e+15", 0xc30e_d31b_b5dd_2e72),
    ("3.7550027949624016e+16", 0x4360_acf1_a5a7_c95a),
    ("1.1805916207174113e+21", 0x4450_0000_0000_0000),
];

#[test]
fn doubles_are_written_as_postgresql_writes_them() {
    let (fits, array) = column(&Storage::Float64, &DOUBLES.map(|(text, _)| text));
    for (row, (text, bits)) in DOUBLES.into_iter().enumerate() {
        assert_eq!(fits[row], Fit::Exact, "{text}");
        assert_eq!(array.as_primitive::<Float64Type>().value(row).to_bits(), bits, "{text}");
        assert_eq!(text_of(&array, &Storage::Float64, row), text);
    }
}

/// PostgreSQL's `float4out` beside the bits of `float4send`.
const SINGLES: [(&str, u32); 26] = [
    ("1e+06", 0x4974_2400),
    ("999999", 0x4974_23f0),
    ("1.234567e+06", 0x4996_b438),
    ("100000", 0x47c3_5000),
    ("0.0001", 0x38d1_b717),
    ("1e-05", 0x3727_c5ac),
    ("0.1", 0x3dcc_cccd),
    ("3.4028235e+38", 0x7f7f_ffff),
    ("1e-45", 1),
    ("1.1754944e-38", 0x0080_0000),
    ("1.6777216e+07", 0x4b80_0000),
    ("3.3554432e+07", 0x4c00_0000),
    ("8.388608e+06", 0x4b00_0000),
    ("1e+10", 0x5015_02f9),
    ("8.589935e+09", 0x5000_0000),
    ("1.5e-07", 0x3421_0fb0),
    ("-0", 0x8000_0000),
    ("NaN", 0x7fc0_0000),
    ("Infinity", 0x7f80_0000),
    ("-Infinity", 0xff80_0000),
    ("4.35", 0x408b_3333),
    ("0.33333334", 0x3eaa_aaab),
    ("6.7108864e+07", 0x4c80_0000),
    ("1.3421773e+08", 0x4d00_0000),
    ("5e+10", 0x513a_43b7),
    ("4.2949673e+09", 0x4f80_0000),
];

#[test]
fn singles_are_written_as_postgresql_writes_them() {
    let (fits, array) = column(&Storage::Float32, &SINGLES.map(|(text, _)| text));
    for (row, (text, bits)) in SINGLES.into_iter().enumerate() {
        assert_eq!(fits[row], Fit::Exact, "{text}");
        assert_eq!(array.as_primitive::<Float32Type>().value(row).to_bits(), bits, "{text}");
        assert_eq!(text_of(&array, &Storage::Float32, row), text);
    }
}

#[test]
fn floats_in_another_spelling_are_inexact() {
    let others = [
        "",
        "nan",
        "inf",
        "-NaN",
        "+1",
        "1.",
        ".5",
        "1.0",
        "01",
        "1e5",
        "1E+20",
        "1e20",
        "1e400",
        "1e-400",
        " 1",
        "1e+7",
        "infinity",
        "0.10",
        "-0.0",
        "0.1000000000000000055",
        "1e+2",
        "0.00001",
    ];
    assert_inexact(&Storage::Float64, &others);
    assert_inexact(&Storage::Float32, &others);
    assert_inexact(&Storage::Float64, &["1e+23", "1000000000000000"]);
    assert_inexact(&Storage::Float32, &["1000000", "0.10000000149011612"]);
}

/// Reading any number's text must give the same bits: this is what "shortest that names it" may not break.
#[test]
fn every_random_float_is_named_by_its_text() {
    let mut random = StdRng::seed_from_u64(0x5eed);
    let (mut text, mut scratch) = (Vec::new(), Vec::new());
    for _ in 0..100_000 {
        let double = f64::from_bits(random.random());
        text.clear();
        float::write_f64(double, &mut text);
        let read = float::parse_f64(&text, &mut scratch).unwrap();
        assert!(read.to_bits() == double.to_bits() || double.is_nan(), "{double:e}");

        let single = f32::from_bits(random.random());
        text.clear();
        float::write_f32(single, &mut text);
        let read = float::parse_f32(&text, &mut scratch).unwrap();
        assert!(read.to_bits() == single.to_bits() || single.is_nan(), "{single:e}");
    }
}

/// Rust's shortest digits are the same, except where a decimal lies on an interval's edge, or two are equally near: both
/// only happen where all of a number's decimal digits are few enough to matter.
#[test]
fn random_floats_and_powers_of_two_have_the_digits_that_rust_finds() {
    let mut random = StdRng::seed_from_u64(0xd161);
    let mut text = Vec::new();
    let powers_of_two = (0..2047).map(|exponent| exponent << 52);
    for bits in powers_of_two.chain((0..100_000).map(|_| random.random())) {
        let double = f64::from_bits(bits);
        let edges = 2f64.powi(-30)..2f64.powi(140);
        if !double.is_finite() || edges.contains(&double.abs()) {
            continue;
        }
        text.clear();
        float::write_f64(double, &mut text);
        let digits = |text: &str| -> String {
            let mantissa = text.split('e').next().unwrap_or_default();
            mantissa.replace(['.', '-'], "").trim_matches('0').to_owned()
        };
        let ours = String::from_utf8_lossy(&text);
        assert_eq!(digits(&ours), digits(&format!("{double:e}")), "{double:e}");
    }
}

#[test]
fn decimals_keep_their_scale() {
    assert_exact(&decimal(10, 2), &["0.00", "0.01", "-0.01", "1.50", "-99999999.99", "99999999.99", "10.00"]);
    assert_exact(&decimal(2, 2), &["0.00", "0.99", "-0.07"]);
    assert_exact(&decimal(5, 0), &["0", "-1", "99999"]);
    let nines = "9".repeat(38);
    assert_exact(&decimal(38, 0), &[nines.clone(), format!("-{nines}"), format!("1{}", "0".repeat(37))]);
    assert_exact(&decimal(38, 19), &[format!("{}.{}", &nines[..19], &nines[..19]), format!("0.{}1", "0".repeat(18))]);
    assert_exact(&decimal(38, 38), &[format!("0.{nines}"), format!("-0.{}1", "0".repeat(37))]);
}

#[test]
fn decimals_that_would_not_come_back_are_inexact() {
    let others = [
        "",
        "-",
        ".",
        "-.00",
        "NaN",
        "Infinity",
        "-Infinity",
        "-0.00",
        "0",
        "1.5",
        "1.500",
        ".50",
        "00.50",
        "01.50",
        "+1.50",
        "1,50",
        "1.5e",
        "1e0.00",
        "100000000.00",
        "-100000000.00",
        "1.-5",
        " 1.50",
        "1.50 ",
        "--1.00",
    ];
    assert_inexact(&decimal(10, 2), &others);
    assert_inexact(&decimal(2, 2), &["1.00", "10.00", "0.000"]);
    assert_inexact(&decimal(38, 0), &["1".repeat(39), "-0".into(), "1.".into(), "01".into()]);
    assert_inexact(&decimal(38, 38), &[format!("1.{}", "0".repeat(38))]);
}

/// PostgreSQL's days since 1970-01-01.
const DAYS: [(&str, i32); 13] = [
    ("4713-01-01 BC", -2_440_550),
    ("0001-12-31 BC", -719_163),
    ("0001-02-29 BC", -719_469),
    ("5874897-12-31", 2_145_042_905),
    ("10000-01-01", 2_932_897),
    ("0001-01-01", -719_162),
    ("9999-12-31", 2_932_896),
    ("2000-02-29", 11_016),
    ("2200-03-01", 84_065),
    ("2400-02-29", 157_113),
    ("1900-02-28", -25_509),
    ("1969-12-31", -1),
    ("1970-01-01", 0),
];

#[test]
fn dates_are_postgresqls() {
    for (text, days) in DAYS {
        let mut written = Vec::new();
        calendar::write_date(days, &mut written);
        assert_eq!(String::from_utf8_lossy(&written), text);
        let kept = text.len() == 10;
        assert_eq!(calendar::parse_date(text.as_bytes()), kept.then_some(days), "{text}");
    }
}

#[test]
fn every_day_of_ten_thousand_years_comes_back() {
    let mut text = Vec::new();
    for days in -719_162..=2_932_896 {
        text.clear();
        calendar::write_date(days, &mut text);
        assert_eq!(calendar::parse_date(&text), Some(days), "{}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn dates_outside_the_calendar_are_inexact() {
    let others = [
        "",
        "infinity",
        "-infinity",
        "0000-01-01",
        "2025-02-29",
        "1900-02-29",
        "2200-02-29",
        "2025-04-31",
        "2025-13-01",
        "2025-00-10",
        "2025-01-00",
        "2025-01-32",
        "2025-1-01",
        "2025/01/01",
        "10000-01-01",
        "0044-03-15 BC",
        "2025-01-01 ",
        "-001-01-01",
        "2025-01-0:",
        "2025-01-01T00:00:00",
    ];
    assert_inexact(&Storage::Date, &others);
}

/// PostgreSQL's microseconds since 1970-01-01.
const MICROS: [(&str, i64); 10] = [
    ("4714-11-24 00:00:00 BC", -210_866_803_200_000_000),
    ("0001-12-31 23:59:59.999999 BC", -62_135_596_800_000_001),
    ("294247-01-10 04:00:54.775807", i64::MAX),
    ("0001-01-01 00:00:00", -62_135_596_800_000_000),
    ("9999-12-31 23:59:59.999999", 253_402_300_799_999_999),
    ("1969-12-31 23:59:59.5", -500_000),
    ("2025-10-09 14:03:00.25", 1_760_018_580_250_000),
    ("2025-10-09 14:03:00.000001", 1_760_018_580_000_001),
    ("2000-02-29 00:00:00.1", 951_782_400_100_000),
    ("1970-01-01 00:00:00", 0),
];

#[test]
fn timestamps_are_postgresqls() {
    for (text, micros) in MICROS {
        let mut written = Vec::new();
        calendar::write_timestamp(micros, &mut written);
        assert_eq!(String::from_utf8_lossy(&written), text);
        let kept = !text.ends_with("BC") && text.as_bytes()[4] == b'-';
        assert_eq!(calendar::parse_timestamp(text.as_bytes()), kept.then_some(micros), "{text}");
    }
    // Where the zone and the era meet, PostgreSQL writes the era last.
    let mut written = Vec::new();
    calendar::write_timestamp_tz(MICROS[1].1, &mut written);
    assert_eq!(String::from_utf8_lossy(&written), "0001-12-31 23:59:59.999999+00 BC");
}

#[test]
fn timestamps_know_their_zone() {
    assert_exact(&Storage::Timestamp, &["2025-10-09 14:03:00", "2025-10-09 14:03:00.123456", "0001-01-01 00:00:00"]);
    assert_exact(&Storage::TimestampTz, &["2025-10-09 14:03:00+00", "9999-12-31 23:59:59.999999+00"]);
    assert_inexact(&Storage::Timestamp, &["2025-10-09 14:03:00+00", "2025-10-09 14:03:00Z"]);
    assert_inexact(
        &Storage::TimestampTz,
        &["2025-10-09 14:03:00", "2025-10-09 14:03:00+01", "2025-10-09 14:03:00+00:00", "2025-10-09 14:03:00-00"],
    );
}

#[test]
fn timestamps_in_another_spelling_are_inexact() {
    let others = [
        "",
        "infinity",
        "-infinity",
        "2025-10-09",
        "2025-10-09T14:03:00",
        "2025-10-09 24:00:00",
        "2025-10-09 14:60:00",
        "2025-10-09 14:03:60",
        "2025-10-09 14:03:00.",
        "2025-10-09 14:03:00.0",
        "2025-10-09 14:03:00.50",
        "2025-10-09 14:03:00.1234567",
        "2025-10-09 14:03",
        "2025-10-09 14:03:0",
        "12025-10-09 14:03:00",
        "2025-10-09 14:03:00 BC",
        "2025-02-30 00:00:00",
        "2025-10-09  4:03:00",
        "2025-10-09 14:03:00.12a",
    ];
    assert_inexact(&Storage::Timestamp, &others);
    assert_inexact(&Storage::TimestampTz, &others.map(|text| format!("{text}+00")));
}

#[test]
fn byte_strings() {
    let every: String = (0..=255u8).map(|byte| format!("{byte:02x}")).collect();
    assert_exact(&Storage::Binary, &["\\x", "\\x00", "\\xff0a", &format!("\\x{every}")]);
    let (_, array) = column(&Storage::Binary, &["\\x00ff"]);
    assert_eq!(array.as_binary::<i32>().value(0), [0, 255]);
    assert_inexact(&Storage::Binary, &["", "\\", "x00", "\\x0", "\\x0g", "\\xFF", "\\X00", "\\x00 ", "\\000", "\\x:0"]);
}

/// Written by PostgreSQL 15's `array_out`.
#[test]
fn arrays_are_written_as_postgresql_writes_them() {
    assert_exact(&list(Storage::Int32), &["{}", "{1,2,3}", "{NULL}", "{-2147483648,NULL,2147483647}"]);
    assert_exact(&list(Storage::Boolean), &["{t,f,NULL}"]);
    assert_exact(&list(decimal(10, 2)), &["{1.50,-0.01}"]);
    assert_exact(&list(Storage::Timestamp), &["{\"2025-10-09 14:03:00.25\",NULL}"]);
    assert_exact(&list(Storage::Date), &["{2025-10-09,0001-01-01}"]);
    assert_exact(&list(Storage::Binary), &[r#"{"\\x00ff","\\x"}"#]);
    let texts = [
        r#"{""}"#,
        r#"{NULL,"NULL","null","nUlL",nulls,NUL}"#,
        r#"{"a b"," ","a,b","{","}","\"","\\"}"#,
        r#"{"a\\b\"c","\\\\"}"#,
        "{\"a\tb\",\"a\nb\",\"a\rb\",\"a\u{b}b\",\"a\u{c}b\"}",
        "{a\u{a0}b,é,a;b,(1),[2],'}",
        r#"{"{1,2}","{\"a\"}"}"#,
    ];
    assert_exact(&list(Storage::Text), &texts);
    let boxes = Storage::List { element: Box::new(Storage::Text), delimiter: b';' };
    assert_exact(&boxes, &["{(2,2),(1,1);NULL;(4,4),(3,3)}", "{a,b;\"c;d\"}"]);
}

#[test]
fn every_array_of_any_text_is_taken() {
    let alphabet = ["a", "b", " ", "\\", "\"", "{", "}", ",", ";", "é", "'", "(", "💥"];
    let mut random = StdRng::seed_from_u64(0xa22a);
    let mut element = || {
        let letters = (0..random.random_range(0..5)).map(|_| alphabet[random.random_range(0..alphabet.len())]);
        letters.collect::<String>().into_bytes()
    };
    let texts: Vec<Vec<u8>> = (0..5_000).map(|at| array_of((0..at % 6).map(|_| element()))).collect();
    assert_exact(&list(Storage::Text), &texts);
}

#[test]
fn other_arrays_are_inexact() {
    let others = [
        "",
        "{",
        "}",
        "1,2",
        "{1,2",
        "{1,2}}",
        "{1,}",
        "{,1}",
        "{,}",
        "{{1,2},{3,4}}",
        "{{}}",
        "[0:1]={1,2}",
        "[2:3]={1,2}",
        "{ 1}",
        "{1 }",
        "{1} ",
        "{1, 2}",
        "{null}",
        "{\"1\"}",
        "{\"1}",
        "{1\"}",
        "{\"a b\"c}",
        "{\"\\a b\"}",
        "{\"a b\\\"}",
        "{a b}",
        "{a\\\\b}",
        "{\"a b\"\"c d\"}",
    ];
    assert_inexact(&list(Storage::Text), &others);
    assert_inexact(&list(Storage::Int32), &["{2147483648}", "{1,2,x}", "{01}", "{\"\"}"]);
    assert_inexact(&list(Storage::Date), &["{infinity}", "{2025-01-01,0044-03-15 BC}"]);
    assert_inexact(&list(decimal(10, 2)), &["{NaN}", "{1.00,1.0}"]);
    assert_inexact(&list(Storage::Text), &[&b"{\xff}"[..]]);
}

/// Elements before one that did not fit must not be taken for those of the next array.
#[test]
fn an_array_that_does_not_fit_leaves_its_neighbours_alone() {
    let storage = list(Storage::Int32);
    let (fits, array) = column(&storage, &["{1}", "{2,3,x}", "{4,NULL}", "[0:0]={5}", "{}"]);
    assert_eq!(fits, [Fit::Exact, Fit::Inexact, Fit::Exact, Fit::Inexact, Fit::Exact]);
    let lists = array.as_list::<i32>();
    assert_eq!([0, 2, 4].map(|row| text_of(&array, &storage, row)), ["{1}", "{4,NULL}", "{}"]);
    assert_eq!(lists.value(2).as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(4), None]);
    let none_left = arrow::compute::concat(&[&array.slice(2, 1), &array.slice(1, 1)]).unwrap();
    assert_eq!(text_of(&none_left, &storage, 0), "{4,NULL}");
    assert!(none_left.is_null(1));
}

#[test]
fn text_is_kept_whatever_it_says() {
    assert_exact(&Storage::Text, &["", "NULL", "\\N", "é\u{10ffff}\u{1}", "{\"a\": [1, 2]}", "1 day 02:03:04"]);
    assert_inexact(&Storage::Text, &[&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"ok\x80"]);
}

/// A text after up to two small accidents.
fn mangled(text: &[u8], random: &mut StdRng) -> Vec<u8> {
    let alphabet = b"0123456789+-.:eETtf \\xaNCB\xc3\xa9\0{},\"";
    let mut text = text.to_vec();
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..=text.len());
        let byte = alphabet[random.random_range(0..alphabet.len())];
        match random.random_range(0..3) {
            0 => text.insert(at, byte),
            1 if at < text.len() => text[at] = byte,
            _ if at < text.len() => _ = text.remove(at),
            _ => {}
        }
    }
    text
}

/// An array's text, with quotes where these elements need them.
fn array_of(elements: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut text = b"{".to_vec();
    for (at, element) in elements.enumerate() {
        text.extend_from_slice(if at > 0 { b"," } else { b"" });
        let bare = !element.is_empty() && element.iter().all(|byte| !b" \\{},\"".contains(byte));
        if bare {
            text.extend_from_slice(&element);
            continue;
        }
        text.push(b'"');
        for byte in element {
            if b"\\\"".contains(&byte) {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'"');
    }
    text.push(b'}');
    text
}

/// The rule of this module, against spellings that nobody thought of: what is taken comes back byte for byte.
#[test]
fn whatever_is_exact_comes_back_though_it_was_mangled() {
    let seeds = [
        "t",
        "0",
        "-7",
        "32767",
        "-2147483648",
        "9223372036854775807",
        "1.5e-07",
        "-1.25",
        "9.999999999999999e+22",
        "123.45",
        "-0.01",
        "0.99999",
        "2024-02-29",
        "1999-12-31 23:59:59.9",
        "1999-12-31 23:59:59.999999+00",
        "\\x00ff",
        "NaN",
        "é",
    ];
    let mut random = StdRng::seed_from_u64(0xa1c4);
    for storage in every_storage() {
        let mut taken = 0;
        let mut scalar = || mangled(seeds[random.random_range(0..seeds.len())].as_bytes(), &mut random);
        let texts: Vec<Vec<u8>> = match &storage {
            Storage::List { .. } => (0..20_000).map(|at| array_of((0..at % 4).map(|_| scalar()))).collect(),
            _ => (0..20_000).map(|_| scalar()).collect(),
        };
        let texts: Vec<Vec<u8>> = match &storage {
            Storage::List { .. } => texts.iter().map(|text| mangled(text, &mut random)).collect(),
            _ => texts,
        };
        let (fits, array) = column(&storage, &texts);
        let reader = ValueReader::new(&array, &storage).unwrap();
        for (row, text) in texts.iter().enumerate() {
            assert_eq!(reader.is_null(row), fits[row] == Fit::Inexact);
            if fits[row] == Fit::Exact {
                let mut written = Vec::new();
                reader.write_text(row, &mut written);
                assert_eq!(&written, text, "{storage:?} took {}", String::from_utf8_lossy(text));
                taken += 1;
            }
        }
        // A codec that takes nothing would pass the test above.
        assert!(taken > 100, "{storage:?} took only {taken}");
    }
}

#[test]
fn noise_of_any_length_does_no_harm() {
    let mut random = StdRng::seed_from_u64(0x0015e);
    for storage in every_storage() {
        let mut builder = ColumnBuilder::new(&storage);
        for rows in 1..=5_000 {
            let noise: Vec<u8> = (0..random.random_range(0..60)).map(|_| random.random()).collect();
            let _ = builder.append_text(&noise);
            assert_eq!(builder.len(), rows);
        }
    }
}

#[test]
fn numbers_that_another_program_stored_are_written_without_a_panic() {
    let mut out = Vec::new();
    for number in [i128::MIN, -1, 0, i128::MAX] {
        for scale in [0, 38, 255] {
            decimal::write(number, scale, &mut out);
        }
    }
    for days in [i32::MIN, i32::MAX] {
        calendar::write_date(days, &mut out);
    }
    for micros in [i64::MIN, i64::MAX] {
        calendar::write_timestamp_tz(micros, &mut out);
    }
    assert!(out.is_ascii());
}

#[test]
fn a_builder_counts_and_starts_again() {
    for storage in every_storage() {
        let mut builder = ColumnBuilder::new(&storage);
        assert!(builder.is_empty());
        assert!(builder.memory() < 16, "an idle {storage:?} takes {}", builder.memory());
        let text: &[u8] = match storage {
            Storage::Text => &[b'x'; 1000],
            _ => b"7",
        };
        for _ in 0..100 {
            builder.append_null();
            let _ = builder.append_text(text);
        }
        let least = match storage {
            Storage::Text => 100 * 1000 + 200 * 4,
            Storage::Binary => 200 * 4,
            Storage::Boolean => 200 / 8,
            Storage::List { .. } => 200 * 4,
            ref fixed => 200 * fixed.arrow_type().primitive_width().unwrap(),
        };
        assert!((least + 25..least + 100).contains(&builder.memory()), "{storage:?} takes {}", builder.memory());

        let array = builder.finish();
        assert_eq!((array.len(), builder.len()), (200, 0));
        assert!(array.is_null(0));
        assert_eq!(array.data_type(), &storage.arrow_type());
        builder.append_null();
        assert_eq!(builder.finish().data_type(), &storage.arrow_type(), "the second array");
    }
}

#[test]
fn a_null_has_no_text() {
    for storage in every_storage() {
        let mut builder = ColumnBuilder::new(&storage);
        builder.append_null();
        assert_eq!(text_of(&builder.finish(), &storage, 0), "");
    }
}

#[test]
fn an_array_of_another_type_is_refused() {
    let numbers = Int32Array::from(vec![1]);
    let failure = ValueReader::new(&numbers, &Storage::Int64).unwrap_err();
    assert_eq!(failure.cause(), "a column is stored as Int32 where Int64 was expected");
    assert!(failure.remedy_text().is_some());

    let (_, cents) = column(&decimal(10, 2), &["1.00"]);
    assert!(ValueReader::new(&cents, &decimal(10, 3)).is_err(), "another scale is another text");
    assert!(ValueReader::new(&cents, &decimal(12, 2)).is_ok());

    let naive = TimestampMicrosecondArray::from(vec![0]);
    assert!(ValueReader::new(&naive, &Storage::TimestampTz).is_err());
    assert!(ValueReader::new(&naive.with_timezone("+00:00"), &Storage::TimestampTz).is_ok());
}

#[test]
fn arrays_that_were_stored_as_text_are_read() {
    let texts = StringArray::from(vec!["{1,2}", "[0:0]={3}"]);
    assert_eq!(text_of(&texts, &list(Storage::Int32), 1), "[0:0]={3}");
}

#[test]
fn views_that_a_query_engine_made_are_read() {
    let texts = StringArray::from(vec!["short", "longer than the twelve bytes that a view holds itself"]);
    let views = arrow::compute::cast(&texts, &DataType::Utf8View).unwrap();
    assert_eq!(text_of(&views, &Storage::Text, 1), texts.value(1));
    let bytes = arrow::compute::cast(&column(&Storage::Binary, &["\\x00ff"]).1, &DataType::BinaryView).unwrap();
    assert_eq!(text_of(&bytes, &Storage::Binary, 0), "\\x00ff");
}
