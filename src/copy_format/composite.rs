//! A composite value's text (PostgreSQL manual, 8.16.6), read into the fields of a row.

use super::text::{TextRow, malformed};
use crate::failure::Result;

impl TextRow {
    /// Reads what `record_out` wrote of a row of so many columns in place of the row before.
    ///
    /// # Errors
    /// As [`TextRow::read`]; blanks around the parentheses are not taken, since `record_out` writes none.
    pub fn read_composite(&mut self, text: &[u8], columns: usize) -> Result<()> {
        self.clear();
        let inside = text.strip_prefix(b"(").and_then(|text| text.strip_suffix(b")"));
        let outcome = match inside {
            None => Err(malformed("a composite lacks its parentheses")),
            // A row without columns and a row of one NULL look the same.
            Some([]) if columns == 0 => Ok(()),
            Some(inside) => self.read_composite_fields(inside),
        };
        let outcome = outcome.and_then(|()| self.require_width(columns));
        if outcome.is_err() {
            self.clear();
        }
        outcome
    }

    fn read_composite_fields(&mut self, mut rest: &[u8]) -> Result<()> {
        loop {
            let start = self.bytes.len();
            let (present, after) = self.read_composite_field(rest)?;
            self.fields.push(present.then_some(start..self.bytes.len()));
            match after.split_first() {
                None => return Ok(()),
                Some((_, next)) => rest = next,
            }
        }
    }

    /// Reads up to the comma or the end, which it leaves; false where the field is NULL.
    fn read_composite_field<'t>(&mut self, mut rest: &'t [u8]) -> Result<(bool, &'t [u8])> {
        let mut present = false;
        let mut quoted = false;
        while let Some((&byte, after)) = rest.split_first() {
            match byte {
                b',' if !quoted => break,
                b'"' if quoted && after.first() == Some(&b'"') => {
                    self.bytes.push(b'"');
                    rest = &after[1..];
                    continue;
                }
                b'"' => quoted = !quoted,
                b'\\' => {
                    let (&escaped, after) = after.split_first().ok_or_else(|| malformed("it ends within an escape"))?;
                    self.bytes.push(escaped);
                    rest = after;
                    present = true;
                    continue;
                }
                plain => self.bytes.push(plain),
            }
            present = true;
            rest = after;
        }
        if quoted { Err(malformed("a quote is left open")) } else { Ok((present, rest)) }
    }
}
