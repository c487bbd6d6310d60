//! What is fuzzed, compiled from the library's own files without the rest of it, and what the targets share.

#[path = "../../../src/columnar/mod.rs"]
pub mod columnar;
#[path = "../../../src/copy_format/mod.rs"]
pub mod copy_format;
#[path = "../../../src/failure.rs"]
pub mod failure;
#[path = "../../../src/model/mod.rs"]
pub mod model;
#[path = "../../../src/pgoutput/mod.rs"]
pub mod pgoutput;

use columnar::{ColumnBuilder, Fit, Storage, ValueReader};

/// Type oids and modifiers of every storage, and of types that are text.
pub const TYPES: [(u32, i32); 17] = [
    (16, -1),
    (17, -1),
    (20, -1),
    (21, -1),
    (23, -1),
    (25, -1),
    (26, -1),
    (700, -1),
    (701, -1),
    (1082, -1),
    (1114, -1),
    (1184, -1),
    (1700, -1),
    // numeric(10,2), numeric(5,5), numeric(38,0), numeric(38,5)
    (1700, 655_366),
    (1700, 327_689),
    (1700, 2_490_372),
    (1700, 2_490_377),
];

/// The array types of [`TYPES`], in the same order, and `box[]`, which has another delimiter.
pub const ARRAY_TYPES: [(u32, i32); 18] = [
    (1000, -1),
    (1001, -1),
    (1016, -1),
    (1005, -1),
    (1007, -1),
    (1009, -1),
    (1028, -1),
    (1021, -1),
    (1022, -1),
    (1182, -1),
    (1115, -1),
    (1185, -1),
    (1231, -1),
    (1231, 655_366),
    (1231, 327_689),
    (1231, 2_490_372),
    (1231, 2_490_377),
    (1020, -1),
];

/// One of [`TYPES`] and [`ARRAY_TYPES`], whatever the number.
pub fn any_type(number: u8) -> (u32, i32) {
    let all: Vec<(u32, i32)> = TYPES.into_iter().chain(ARRAY_TYPES).collect();
    all[usize::from(number) % all.len()]
}

/// Checks the rule of the module `columnar`: what a column takes comes back byte for byte, and what it does not take is a
/// NULL. Says of each text whether it was taken.
pub fn expect_lossless(storage: &Storage, texts: &[&[u8]]) -> Vec<Fit> {
    let mut builder = ColumnBuilder::new(storage);
    let fits: Vec<Fit> = texts.iter().map(|text| builder.append_text(text)).collect();
    let array = builder.finish();
    assert_eq!(array.len(), texts.len());
    let reader = ValueReader::new(&array, storage).expect("an array of the builder's own type");
    for (row, text) in texts.iter().enumerate() {
        assert_eq!(reader.is_null(row), fits[row] == Fit::Inexact);
        if fits[row] == Fit::Exact {
            let mut written = Vec::new();
            reader.write_text(row, &mut written);
            assert_eq!(written, *text, "{storage:?} took {}", String::from_utf8_lossy(text));
        }
    }
    fits
}
