//! COPY's CSV format.

/// Stands between two fields.
pub const CSV_DELIMITER: u8 = b',';

const QUOTE: u8 = b'"';

/// Writes one field, without a delimiter; `None` is NULL.
///
/// `single_column` says that the row has no other field: only then can a field look like the end of the data.
pub fn write_csv_field(out: &mut Vec<u8>, field: Option<&[u8]>, single_column: bool) {
    match field {
        None => {}
        Some(text) if needs_quotes(text, single_column) => write_quoted(out, text),
        Some(text) => out.extend_from_slice(text),
    }
}

/// Writes a row with its end.
pub fn write_csv_row<'a, I>(out: &mut Vec<u8>, fields: I)
where
    I: IntoIterator<Item = Option<&'a [u8]>>,
    I::IntoIter: ExactSizeIterator,
{
    let fields = fields.into_iter();
    let single_column = fields.len() == 1;
    for (position, field) in fields.enumerate() {
        if position > 0 {
            out.push(CSV_DELIMITER);
        }
        write_csv_field(out, field, single_column);
    }
    super::end_row(out);
}

/// Writes the row of column names that the option HEADER asks for.
pub fn write_csv_header<'a, I>(out: &mut Vec<u8>, names: I)
where
    I: IntoIterator<Item = &'a str>,
    I::IntoIter: ExactSizeIterator,
{
    write_csv_row(out, names.into_iter().map(|name| Some(name.as_bytes())));
}

/// An empty text is quoted because nothing at all is NULL.
fn needs_quotes(text: &[u8], single_column: bool) -> bool {
    text.is_empty()
        || single_column && text == b"\\."
        || text.iter().any(|byte| matches!(*byte, CSV_DELIMITER | QUOTE | b'\n' | b'\r'))
}

fn write_quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(QUOTE);
    for piece in text.split_inclusive(|&byte| byte == QUOTE) {
        out.extend_from_slice(piece);
        if piece.ends_with(&[QUOTE]) {
            out.push(QUOTE);
        }
    }
    out.push(QUOTE);
}
