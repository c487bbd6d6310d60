//! One-dimensional arrays, `{1,NULL,"a b"}`, as `array_out` writes them.

use std::ops::Range;

const NULL: &[u8] = b"NULL";

/// An array's elements as their own types write them. Made to be filled again and again.
#[derive(Debug, Default)]
pub(super) struct Elements {
    bytes: Vec<u8>,
    ranges: Vec<Option<Range<usize>>>,
}

impl Elements {
    /// Reads an array in place of the one before; `false` where it has several dimensions or another lower bound than 1,
    /// or where `array_out` would have written it otherwise. What is left then means nothing.
    pub(super) fn parse(&mut self, text: &[u8], delimiter: u8) -> bool {
        self.bytes.clear();
        self.ranges.clear();
        let inside = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}"));
        inside.is_some_and(|inside| inside.is_empty() || self.parse_all(inside, delimiter).is_some())
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The elements in order; `None` for NULL.
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.ranges.iter().map(|range| range.as_ref().map(|range| &self.bytes[range.clone()]))
    }

    fn parse_all(&mut self, mut rest: &[u8], delimiter: u8) -> Option<()> {
        loop {
            rest = match rest.strip_prefix(b"\"") {
                Some(quoted) => self.parse_quoted(quoted, delimiter)?,
                None => self.parse_bare(rest, delimiter)?,
            };
            match rest.split_first() {
                None => return Some(()),
                Some((&byte, next)) if byte == delimiter => rest = next,
                Some(_) => return None,
            }
        }
    }

    /// Takes what goes to the next delimiter, and gives what follows it.
    fn parse_bare<'t>(&mut self, text: &'t [u8], delimiter: u8) -> Option<&'t [u8]> {
        let (word, rest) = text.split_at(memchr::memchr(delimiter, text).unwrap_or(text.len()));
        if word == NULL {
            self.ranges.push(None);
            return Some(rest);
        }
        if needs_quotes(word, delimiter) {
            return None;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(word);
        self.ranges.push(Some(start..self.bytes.len()));
        Some(rest)
    }

    /// Takes what goes to the closing quote, and gives what follows it.
    fn parse_quoted<'t>(&mut self, mut text: &'t [u8], delimiter: u8) -> Option<&'t [u8]> {
        let start = self.bytes.len();
        loop {
            let at = memchr::memchr2(b'"', b'\\', text)?;
            self.bytes.extend_from_slice(&text[..at]);
            if text[at] == b'"' {
                self.ranges.push(Some(start..self.bytes.len()));
                return needs_quotes(&self.bytes[start..], delimiter).then_some(&text[at + 1..]);
            }
            let escaped = *text.get(at + 1)?;
            if !is_escaped(escaped) {
                return None;
            }
            self.bytes.push(escaped);
            text = &text[at + 2..];
        }
    }
}

/// Puts quotes around the element that stands at the end of `out`, from `start` on, where it needs them.
pub(super) fn quote(out: &mut Vec<u8>, start: usize, delimiter: u8) {
    let element = &out[start..];
    if !needs_quotes(element, delimiter) {
        return;
    }
    let escapes = element.iter().filter(|&&byte| is_escaped(byte)).count();
    let end = out.len();
    out.resize(end + escapes + 2, b'"');
    // From the end on, so that nothing is overwritten before it has moved.
    let mut to = out.len() - 1;
    for from in (start..end).rev() {
        let byte = out[from];
        to -= 1;
        out[to] = byte;
        if is_escaped(byte) {
            to -= 1;
            out[to] = b'\\';
        }
    }
    out[start] = b'"';
}

pub(super) fn write_null(out: &mut Vec<u8>) {
    out.extend_from_slice(NULL);
}

fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\')
}

/// Whether `array_out` quotes an element.
fn needs_quotes(element: &[u8], delimiter: u8) -> bool {
    let is_special = |&byte: &u8| {
        // `array_isspace`'s blanks, the vertical tab among them.
        byte == delimiter || matches!(byte, b'{' | b'}' | b'"' | b'\\' | b' ' | b'\t'..=b'\r')
    };
    element.is_empty() || element.eq_ignore_ascii_case(NULL) || element.iter().any(is_special)
}
