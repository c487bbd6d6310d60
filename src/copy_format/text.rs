//! COPY's text format.

use std::ops::Range;

use crate::failure::{Failure, Result};

/// Stands between two fields.
pub const TEXT_DELIMITER: u8 = b'\t';

/// A whole field of NULL.
const NULL: &[u8] = b"\\N";

/// A whole line that ends the data where the protocol does not.
const END_OF_DATA: &[u8] = b"\\.";

/// One row's fields, unescaped. Made to be filled again and again: once its buffers have grown, reading a row
/// allocates nothing.
#[derive(Debug, Default, Clone)]
pub struct TextRow {
    pub(super) bytes: Vec<u8>,
    pub(super) fields: Vec<Option<Range<usize>>>,
}

impl TextRow {
    pub fn new() -> TextRow {
        TextRow::default()
    }

    /// Reads a row of so many columns in place of the one before. The line may end with a line feed; COPY's messages
    /// from a server hold one line each, with it.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where the line has another number of fields, has a line feed inside, ends
    /// within an escape, or is the mark `\.` that ends the data. The row then has no fields.
    pub fn read(&mut self, line: &[u8], columns: usize) -> Result<()> {
        self.clear();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let outcome = self.read_line(line, columns);
        if outcome.is_err() {
            self.clear();
        }
        outcome
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The field at a position from 0 on; `None` where it is NULL.
    ///
    /// # Panics
    /// Where the row has no such field, as indexing does.
    pub fn field(&self, position: usize) -> Option<&[u8]> {
        self.slice(&self.fields[position])
    }

    /// The fields in order; `None` for NULL.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = Option<&[u8]>> {
        self.fields.iter().map(|field| self.slice(field))
    }

    fn slice(&self, field: &Option<Range<usize>>) -> Option<&[u8]> {
        field.as_ref().map(|range| &self.bytes[range.clone()])
    }

    fn read_line(&mut self, line: &[u8], columns: usize) -> Result<()> {
        if line == END_OF_DATA {
            return Err(malformed("it is the mark that ends the data"));
        }
        if memchr::memchr(b'\n', line).is_some() {
            return Err(malformed("a line feed is not escaped"));
        }
        // A row without columns and a row of one empty text look the same.
        if !(line.is_empty() && columns == 0) {
            self.read_fields(line)?;
        }
        self.require_width(columns)
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    pub(super) fn require_width(&self, columns: usize) -> Result<()> {
        if self.fields.len() == columns {
            return Ok(());
        }
        Err(malformed(&format!("it has {} fields where {columns} were expected", self.fields.len())))
    }

    fn read_fields(&mut self, line: &[u8]) -> Result<()> {
        // Without a backslash a line has neither escapes nor NULLs: its fields are as they stand.
        let plain = memchr::memchr(b'\\', line).is_none();
        let mut start = 0;
        for end in memchr::memchr_iter(TEXT_DELIMITER, line).chain([line.len()]) {
            if plain {
                self.fields.push(Some(start..end));
            } else {
                self.read_field(&line[start..end])?;
            }
            start = end + 1;
        }
        if plain {
            self.bytes.extend_from_slice(line);
        }
        Ok(())
    }

    fn read_field(&mut self, field: &[u8]) -> Result<()> {
        if field == NULL {
            self.fields.push(None);
            return Ok(());
        }
        let start = self.bytes.len();
        self.unescape(field)?;
        self.fields.push(Some(start..self.bytes.len()));
        Ok(())
    }

    fn unescape(&mut self, mut rest: &[u8]) -> Result<()> {
        while let Some(at) = memchr::memchr(b'\\', rest) {
            self.bytes.extend_from_slice(&rest[..at]);
            let (byte, used) = escaped(&rest[at + 1..]).ok_or_else(|| malformed("it ends within an escape"))?;
            self.bytes.push(byte);
            rest = &rest[at + 1 + used..];
        }
        self.bytes.extend_from_slice(rest);
        Ok(())
    }
}

/// What the text after a backslash stands for, and how much of it.
fn escaped(text: &[u8]) -> Option<(u8, usize)> {
    let first = *text.first()?;
    let letter = match first {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'0'..=b'7' => return Some(number(text, 8, 3)),
        b'x' if text.get(1).is_some_and(u8::is_ascii_hexdigit) => {
            let (byte, used) = number(&text[1..], 16, 2);
            return Some((byte, used + 1));
        }
        itself => itself,
    };
    Some((letter, 1))
}

/// Reads up to `longest` digits. An octal number above 255 loses its upper bits, as it does in PostgreSQL.
fn number(text: &[u8], radix: u32, longest: usize) -> (u8, usize) {
    let digits = text.iter().take(longest).map_while(|&byte| char::from(byte).to_digit(radix));
    digits.fold((0, 0), |(number, used), digit| (number.wrapping_mul(radix as u8).wrapping_add(digit as u8), used + 1))
}

/// Writes one field, without a delimiter; `None` is NULL.
pub fn write_text_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    let Some(mut rest) = field else { return out.extend_from_slice(NULL) };
    while let Some((at, letter)) = first_to_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Writes a row with its end.
pub fn write_text_row<'a>(out: &mut Vec<u8>, fields: impl IntoIterator<Item = Option<&'a [u8]>>) {
    for (position, field) in fields.into_iter().enumerate() {
        if position > 0 {
            out.push(TEXT_DELIMITER);
        }
        write_text_field(out, field);
    }
    super::end_row(out);
}

fn first_to_escape(text: &[u8]) -> Option<(usize, u8)> {
    text.iter().enumerate().find_map(|(at, &byte)| escape_letter(byte).map(|letter| (at, letter)))
}

fn escape_letter(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        0x08 => Some(b'b'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        0x0b => Some(b'v'),
        0x0c => Some(b'f'),
        b'\r' => Some(b'r'),
        _ => None,
    }
}

pub(super) fn malformed(why: &str) -> Failure {
    Failure::failed(format!("a row from COPY cannot be read: {why}"))
        .remedy("run the command again; where it stays, something between here and the server alters its answers")
}
