//! The text formats of PostgreSQL's COPY (manual, "COPY", File Formats). No I/O.
//!
//! Both with COPY's default options, in UTF-8: text separates fields with tabs and says NULL as `\N`; CSV separates them
//! with commas and says NULL as nothing. What is written is byte for byte what `COPY … TO STDOUT` writes.

mod composite;
mod csv;
#[cfg(test)]
mod tests;
mod text;

pub use csv::{CSV_DELIMITER, write_csv_field, write_csv_header, write_csv_row};
pub use text::{TEXT_DELIMITER, TextRow, write_text_field, write_text_row};

/// Ends a row, in either format.
pub fn end_row(out: &mut Vec<u8>) {
    out.push(b'\n');
}
