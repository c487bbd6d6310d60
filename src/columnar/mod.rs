//! PostgreSQL's text values as Arrow columns, and back. No I/O.
//!
//! ```text
//!   text, as PostgreSQL wrote it                                text, byte for byte the same
//!        │                                                              ▲
//!        ▼                                                              │
//!   ColumnBuilder ── Fit::Exact ──► typed Arrow array ────────► ValueReader
//!        │
//!        └────────── Fit::Inexact ► NULL here; the caller keeps the bytes beside the column
//! ```
//!
//! The archive is lossless because of one rule: a value enters a typed column only where its text is
//! the one that the reader will write. The parsers therefore accept PostgreSQL's canonical spelling
//! and nothing else, so that they need not format a value to know; only floating point, whose
//! shortest digits cannot be recognised by looking at them, is formatted and compared. Whatever does
//! not fit (`infinity`, years outside 0001 to 9999, `NaN` in a numeric, an array of two dimensions) is
//! [`Fit::Inexact`] and lives on as text. A mistake in a codec can cost a typed value, never its text.
//!
//! The texts are those of a session with `DateStyle` ISO, `IntervalStyle` postgres, `TimeZone` UTC,
//! `extra_float_digits` 1, `bytea_output` hex and `client_encoding` UTF8.

mod binary;
mod bound;
mod builder;
mod built_in;
mod bytea;
mod calendar;
mod changes;
mod conform;
mod decimal;
mod digest;
#[cfg(test)]
mod documentation;
mod float;
mod integer;
mod list;
pub mod names;
mod reader;
mod rows;
mod storage;
#[cfg(test)]
mod tests;

pub use binary::BinaryForm;
pub use bound::Bound;
pub use builder::{ColumnBuilder, Fit};
pub use changes::{
    ChangeBuilder, ExactBuilder, ImageBuilder, Place, change_schema, exact_field, image_schema, image_table_schema,
};
pub use conform::{conform, conform_exact, conform_old};
pub use digest::{Digest, RowDigests, digest, finish, hexadecimal};
pub use reader::ValueReader;
pub use rows::{RowReader, RowText, Wanted, old_rows};
pub use storage::Storage;
