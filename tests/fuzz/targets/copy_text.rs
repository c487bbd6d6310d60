//! Any line in COPY's text format: it is refused, or its fields, written again, are read as the same.
//!
//! The first byte says how many columns are expected.

#![no_main]

use afterimage_fuzz::copy_format::{TextRow, write_text_row};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&columns, line)) = input.split_first() else { return };
    expect_same_again(line, usize::from(columns % 8));
    // As many columns as the line has, so that most lines are read.
    expect_same_again(line, line.split(|&byte| byte == b'\t').count());
    expect_fields_back(&line.split(|&byte| byte == columns).collect::<Vec<_>>());
});

fn expect_same_again(line: &[u8], columns: usize) {
    let (mut row, mut again) = (TextRow::new(), TextRow::new());
    if row.read(line, columns).is_err() {
        return assert!(row.is_empty());
    }
    assert_eq!(row.len(), columns);
    let mut written = Vec::new();
    write_text_row(&mut written, row.fields());
    again.read(&written, columns).expect("what we wrote");
    assert!(row.fields().eq(again.fields()));
}

fn expect_fields_back(fields: &[&[u8]]) {
    let fields = || fields.iter().map(|&field| (field != b"\x01").then_some(field));
    let (mut row, mut written) = (TextRow::new(), Vec::new());
    write_text_row(&mut written, fields());
    assert_eq!(written.iter().filter(|&&byte| byte == b'\n').count(), 1);
    row.read(&written, fields().count()).expect("what we wrote");
    assert!(row.fields().eq(fields()));
}
