//! A row of any fields, written as `record_out` writes it, is read as the same; any text is read or refused.
//!
//! The first byte stands between two fields; a field that is one byte 1 is NULL.

#![no_main]

use afterimage_fuzz::copy_format::TextRow;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&between, text)) = input.split_first() else { return };
    let mut row = TextRow::new();
    if row.read_composite(text, usize::from(between % 8)).is_err() {
        assert!(row.is_empty());
    }
    let fields: Vec<Option<&[u8]>> =
        text.split(|&byte| byte == between).map(|field| (field != b"\x01").then_some(field)).collect();
    row.read_composite(&record_out(&fields), fields.len()).expect("what record_out writes");
    assert!(row.fields().eq(fields));
});

/// As PostgreSQL's `record_out` (`rowtypes.c`).
fn record_out(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = vec![b'('];
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let Some(field) = field else { continue };
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'(' | b')' | b',' | b' ' | b'\t'..=b'\r');
        let quoted = field.is_empty() || field.iter().any(special);
        if quoted {
            out.push(b'"');
        }
        for &byte in *field {
            if matches!(byte, b'"' | b'\\') {
                out.push(byte);
            }
            out.push(byte);
        }
        if quoted {
            out.push(b'"');
        }
    }
    out.push(b')');
    out
}
