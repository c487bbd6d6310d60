//! Any elements, written as `array_out` writes them: a list of text takes every such array whose text is UTF-8.
//!
//! The first byte says which delimiter. Elements end with a zero byte; one that starts with a one byte is NULL.

#![no_main]

use afterimage_fuzz::columnar::{Fit, Storage};
use afterimage_fuzz::expect_lossless;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&number, rest)) = input.split_first() else { return };
    let (array_oid, delimiter) = if number % 2 == 0 { (1009, b',') } else { (1020, b';') };
    let elements: Vec<Option<&[u8]>> =
        rest.split(|&byte| byte == 0).map(|element| (element.first() != Some(&1)).then_some(element)).collect();
    let text = array_out(&elements, delimiter);
    // Neighbours show whether the elements of one array are taken for another's.
    let fits = expect_lossless(&Storage::of(array_oid, -1), &[b"{a}", &text, b"{}", &text]);
    let expected = if std::str::from_utf8(&text).is_ok() { Fit::Exact } else { Fit::Inexact };
    assert_eq!(fits, [Fit::Exact, expected, Fit::Exact, expected], "{}", String::from_utf8_lossy(&text));
});

/// After `array_out` in PostgreSQL's `arrayfuncs.c`.
fn array_out(elements: &[Option<&[u8]>], delimiter: u8) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (at, element) in elements.iter().enumerate() {
        if at > 0 {
            out.push(delimiter);
        }
        match element {
            None => out.extend_from_slice(b"NULL"),
            Some(text) => write_element(text, delimiter, &mut out),
        }
    }
    out.push(b'}');
    out
}

fn write_element(text: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let mut need_quote = text.is_empty() || text.to_ascii_uppercase() == b"NULL";
    for &ch in text {
        need_quote |= ch == b'"' || ch == b'\\' || ch == b'{' || ch == b'}' || ch == delimiter;
        need_quote |= [b' ', b'\t', b'\n', b'\r', 0x0b, 0x0c].contains(&ch);
    }
    if !need_quote {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for &ch in text {
        if ch == b'"' || ch == b'\\' {
            out.push(b'\\');
        }
        out.push(ch);
    }
    out.push(b'"');
}
