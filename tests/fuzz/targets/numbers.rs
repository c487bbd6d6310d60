//! Any number that a file may hold: it has a text, and a column that takes the text holds that number.
//!
//! The first byte says which type; of the rest as many bytes are taken as the number has.

#![no_main]

use std::fmt::Debug;

use afterimage_fuzz::columnar::{ColumnBuilder, Fit, Storage, ValueReader};
use arrow::array::{AsArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int64Type, TimestampMicrosecondType,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    let mut bytes = [0; 16];
    let length = rest.len().min(16);
    bytes[..length].copy_from_slice(&rest[..length]);
    let wide = i128::from_le_bytes(bytes);
    let (half, quarter) = (wide as i64, wide as i32);
    match kind % 7 {
        0 => double(half as u64),
        1 => single(quarter as u32),
        2 => whole::<Date32Type>(Storage::Date, quarter),
        3 => whole::<TimestampMicrosecondType>(Storage::Timestamp, half),
        4 => whole::<TimestampMicrosecondType>(Storage::TimestampTz, half),
        5 => whole::<Int64Type>(Storage::Int64, half),
        _ => whole::<Decimal128Type>(Storage::Decimal { precision: 38, scale: kind % 39 }, wide),
    }
});

/// The text of a number, and the number that a column makes of it where it takes it.
fn there_and_back<T: ArrowPrimitiveType>(storage: &Storage, number: T::Native) -> (String, Option<T::Native>) {
    let array = PrimitiveArray::<T>::from_value(number, 1).with_data_type(storage.arrow_type());
    let mut text = Vec::new();
    ValueReader::new(&array, storage).expect("an array of this type").write_text(0, &mut text);
    let mut builder = ColumnBuilder::new(storage);
    let taken = builder.append_text(&text) == Fit::Exact;
    let back = builder.finish();
    let back = taken.then(|| back.as_primitive::<T>().value(0));
    (String::from_utf8(text).expect("the text of a number is ASCII"), back)
}

fn whole<T: ArrowPrimitiveType>(storage: Storage, number: T::Native)
where
    T::Native: PartialEq + Debug,
{
    let (text, back) = there_and_back::<T>(&storage, number);
    if let Some(back) = back {
        assert_eq!(back, number, "{storage:?} {text}");
    }
}

/// Every double has a text that is taken; there is only one NaN in PostgreSQL's.
fn double(bits: u64) {
    let number = f64::from_bits(bits);
    let (text, back) = there_and_back::<Float64Type>(&Storage::Float64, number);
    let back = back.unwrap_or_else(|| panic!("{text} is not taken"));
    assert!(back.to_bits() == bits || back.is_nan() && number.is_nan(), "{text}");
    let theirs: f64 = text.parse().expect("Rust reads it");
    assert!(theirs.to_bits() == bits || theirs.is_nan() && number.is_nan(), "{text}");
}

fn single(bits: u32) {
    let number = f32::from_bits(bits);
    let (text, back) = there_and_back::<Float32Type>(&Storage::Float32, number);
    let back = back.unwrap_or_else(|| panic!("{text} is not taken"));
    assert!(back.to_bits() == bits || back.is_nan() && number.is_nan(), "{text}");
    let theirs: f32 = text.parse().expect("Rust reads it");
    assert!(theirs.to_bits() == bits || theirs.is_nan() && number.is_nan(), "{text}");
}
