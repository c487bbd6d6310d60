//! The expected bytes were written by PostgreSQL 15's `COPY … TO STDOUT`.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn text_field(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_text_field(&mut out, Some(field));
    out
}

fn csv_field(field: &[u8], single_column: bool) -> Vec<u8> {
    let mut out = Vec::new();
    write_csv_field(&mut out, Some(field), single_column);
    out
}

fn fields_of(line: &[u8], columns: usize) -> Vec<Option<Vec<u8>>> {
    let mut row = TextRow::new();
    row.read(line, columns).unwrap();
    row.fields().map(|field| field.map(<[u8]>::to_vec)).collect()
}

#[test]
fn text_escapes_what_postgresql_escapes() {
    let all = b"a\tb\nc\rd\x08e\x0cf\x0bg\\h\"i,j\x01k\x7f\xc3\xa9";
    let written = b"a\\tb\\nc\\rd\\be\\ff\\vg\\\\h\"i,j\x01k\x7f\xc3\xa9";
    assert_eq!(text_field(all), written);
    assert_eq!(fields_of(written, 1), [Some(all.to_vec())]);
}

#[test]
fn null_and_what_only_looks_like_it() {
    let mut line = Vec::new();
    write_text_row(&mut line, [None, Some(&b"\\N"[..]), Some(b""), Some(b"N"), Some(b"\\.")]);
    assert_eq!(line, b"\\N\t\\\\N\t\tN\t\\\\.\n");
    let expected = [None, Some(&b"\\N"[..]), Some(b""), Some(b"N"), Some(b"\\.")];
    assert_eq!(fields_of(&line, 5), expected.map(|field| field.map(<[u8]>::to_vec)));
}

/// The manual allows more than COPY TO writes.
#[test]
fn every_escape_of_the_manual_is_read() {
    let escapes: [(&[u8], &[u8]); 10] = [
        (b"\\101", b"A"),
        (b"\\0", b"\0"),
        (b"\\1018", b"A8"),
        (b"\\777", b"\xff"),
        (b"\\x41", b"A"),
        (b"\\x4", b"\x04"),
        (b"\\x414", b"A4"),
        (b"\\xg", b"xg"),
        (b"\\q\\'", b"q'"),
        (b"a\\Nb", b"aNb"),
    ];
    for (line, field) in escapes {
        assert_eq!(fields_of(line, 1), [Some(field.to_vec())], "{}", String::from_utf8_lossy(line));
    }
}

#[test]
fn malformed_rows_are_errors_and_leave_no_fields() {
    let mut row = TextRow::new();
    for (line, columns) in [
        (&b"a\tb\n"[..], 1),
        (b"a\n", 2),
        (b"\n", 2),
        (b"a\n", 0),
        (b"a\\\n", 1),
        (b"a\nb\n", 1),
        (b"\\.\n", 1),
        (b"\\.", 1),
    ] {
        let failure = row.read(line, columns).unwrap_err();
        assert!(failure.remedy_text().is_some());
        assert!(row.is_empty(), "{line:?} left {} fields", row.len());
    }
    assert!(row.read(b"fine\n", 1).is_ok());
    assert_eq!(row.field(0), Some(&b"fine"[..]));
}

#[test]
fn a_row_without_columns_is_not_a_row_of_one_empty_text() {
    assert_eq!(fields_of(b"\n", 0), []);
    assert_eq!(fields_of(b"\n", 1), [Some(Vec::new())]);
    let (mut text, mut csv) = (Vec::new(), Vec::new());
    write_text_row(&mut text, []);
    write_csv_header(&mut csv, []);
    write_csv_row(&mut csv, []);
    assert_eq!((text.as_slice(), csv.as_slice()), (&b"\n"[..], &b"\n\n"[..]));
}

#[test]
fn csv_quotes_what_postgresql_quotes() {
    let fields: [(&[u8], &[u8]); 9] = [
        (b"", b"\"\""),
        (b"a,b", b"\"a,b\""),
        (b"\"", b"\"\"\"\""),
        (b"a\"\"b\"c", b"\"a\"\"\"\"b\"\"c\""),
        (b"a\nb", b"\"a\nb\""),
        (b"a\rb", b"\"a\rb\""),
        (b" a\tb ", b" a\tb "),
        (b"\\N", b"\\N"),
        (b"it's \\ \xc3\xa9", b"it's \\ \xc3\xa9"),
    ];
    for (field, written) in fields {
        assert_eq!(csv_field(field, false), written);
        assert_eq!(csv_field(field, true), written);
    }
}

#[test]
fn csv_quotes_the_end_mark_only_where_it_would_be_alone() {
    assert_eq!(csv_field(b"\\.", true), b"\"\\.\"");
    assert_eq!(csv_field(b"\\.", false), b"\\.");
    assert_eq!(csv_field(b"\\.x", true), b"\\.x");
}

#[test]
fn csv_null_is_nothing() {
    let mut out = Vec::new();
    write_csv_row(&mut out, [None, Some(&b""[..]), None]);
    write_csv_row(&mut out, [None]);
    assert_eq!(out, b",\"\",\n\n");
}

#[test]
fn csv_header_quotes_names_as_it_does_values() {
    let mut out = Vec::new();
    write_csv_header(&mut out, ["\\.", "a,b", "q\"q", "nl\nx"]);
    assert_eq!(out, b"\\.,\"a,b\",\"q\"\"q\",\"nl\nx\"\n");
    out.clear();
    write_csv_header(&mut out, ["\\."]);
    assert_eq!(out, b"\"\\.\"\n");
}

#[test]
fn random_rows_come_back_from_text() {
    let alphabet = b"\t\n\r\x08\x0c\x0b\\\",. Nxn07t\0\xff";
    let mut random = StdRng::seed_from_u64(0xc0b7);
    let mut row = TextRow::new();
    for _ in 0..20_000 {
        let fields: Vec<Option<Vec<u8>>> = (0..random.random_range(0..4))
            .map(|_| {
                let length = random.random_range(0..6);
                let text = (0..length).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect();
                random.random_bool(0.8).then_some(text)
            })
            .collect();
        let mut line = Vec::new();
        write_text_row(&mut line, fields.iter().map(Option::as_deref));
        row.read(&line, fields.len()).unwrap();
        assert!(row.fields().eq(fields.iter().map(Option::as_deref)), "{line:?}");
    }
}

#[test]
fn noise_is_read_or_refused_without_a_panic() {
    let mut random = StdRng::seed_from_u64(0x0015e);
    let mut row = TextRow::new();
    let mut refused = 0;
    for _ in 0..50_000 {
        let alphabet = b"\\\\x0f7\tN.\n\xff";
        let noise: Vec<u8> =
            (0..random.random_range(0..12)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect();
        let columns = random.random_range(0..4);
        match row.read(&noise, columns) {
            Ok(()) => assert_eq!(row.len(), columns),
            Err(_) => refused += 1,
        }
    }
    assert!((1..50_000).contains(&refused));
}

#[test]
fn composites_are_read_as_record_out_wrote_them() {
    let text = br#"(1,"a ""q"" \\ ,",,"","(3,4),(1,2)",{1})"#;
    let mut row = TextRow::new();
    row.read_composite(text, 6).unwrap();
    let fields: Vec<_> = row.fields().map(|field| field.map(|text| str::from_utf8(text).unwrap())).collect();
    assert_eq!(fields, [Some("1"), Some(r#"a "q" \ ,"#), None, Some(""), Some("(3,4),(1,2)"), Some("{1}")]);
    row.read_composite(b"()", 0).unwrap();
    assert!(row.is_empty());
    row.read_composite(b"()", 1).unwrap();
    assert_eq!(row.field(0), None);
    for (text, columns) in [("", 0), ("(", 1), ("(a", 1), ("(\"a)", 1), ("(a,b)", 1), ("(a\\)", 1)] {
        assert!(row.read_composite(text.as_bytes(), columns).is_err(), "{text}");
    }
}
