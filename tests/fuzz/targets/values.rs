//! Any text, as any type: a column takes it and gives it back, or leaves it.
//!
//! The first byte says which type; the texts after it end with a zero byte each.

#![no_main]

use afterimage_fuzz::columnar::Storage;
use afterimage_fuzz::{any_type, expect_lossless};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&number, rest)) = input.split_first() else { return };
    let (oid, modifier) = any_type(number);
    let texts: Vec<&[u8]> = rest.split(|&byte| byte == 0).collect();
    expect_lossless(&Storage::of(oid, modifier), &texts);
});
