//! The names of the archive's own columns, and the names under which source columns are stored.
//!
//! Delta's column names are case-insensitive and exclude a few characters, and a change row has
//! columns of its own. A source name that would clash is stored under an escape that can be undone:
//!
//! * blanks, control characters and each of `,;{}()=%~` become `%XX`, their UTF-8 bytes in hexadecimal;
//! * a name that then equals a reserved name or another column's stored name, letter case aside,
//!   gets the suffix `~N` with the smallest free number from 1.
//!
//! `~` never occurs otherwise (it is itself escaped), so cutting at `~` and decoding `%XX` gives the
//! source's name back.

use std::collections::HashSet;
use std::fmt::Write as _;

/// Commit LSN of the transaction that made the change.
pub const LSN: &str = "_lsn";
/// Order of the change inside its transaction, from 0.
pub const SEQ: &str = "_seq";
/// The transaction's number in the source.
pub const XID: &str = "_xid";
/// Commit timestamp.
pub const TS: &str = "_ts";
/// The operation, as [`crate::model::Operation`] spells it.
pub const OP: &str = "_op";
/// The before image or old key.
pub const OLD: &str = "_old";
/// Names of columns that the source did not send because their TOASTed value did not change.
pub const MISSING: &str = "_missing";
/// PostgreSQL's text of values that the column's Arrow type cannot hold, by stored column name.
pub const EXACT: &str = "_exact";
/// Partition column of base images: the LSN of the image.
pub const IMAGE_LSN: &str = "_image_lsn";

/// Stored names that no source column may have.
pub const RESERVED: [&str; 9] = [LSN, SEQ, XID, TS, OP, OLD, MISSING, EXACT, IMAGE_LSN];

/// Writes every character that is not kept as `%XX`.
pub(crate) fn escape(name: &str, keeps: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        if keeps(c) {
            escaped.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// The reverse of [`escape`]; `None` where the text is not such an escape.
pub(crate) fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

fn kept_in_column(c: char) -> bool {
    !c.is_control() && !matches!(c, ' ' | ',' | ';' | '{' | '}' | '(' | ')' | '=' | '%' | '~')
}

/// Hands out stored names for the columns of one table, each once.
#[derive(Debug, Clone)]
pub struct ColumnNames {
    taken: HashSet<String>,
}

impl Default for ColumnNames {
    fn default() -> Self {
        ColumnNames { taken: RESERVED.iter().map(|name| (*name).to_owned()).collect() }
    }
}

impl ColumnNames {
    /// Keeps a stored name from being handed out.
    pub fn reserve(&mut self, stored: &str) {
        self.taken.insert(stored.to_lowercase());
    }

    /// The stored name for a source column: its escape, with a suffix where that is taken.
    pub fn assign(&mut self, source: &str) -> String {
        let escaped = escape(source, kept_in_column);
        let mut candidate = escaped.clone();
        let mut suffix = 0;
        while !self.taken.insert(candidate.to_lowercase()) {
            suffix += 1;
            candidate = format!("{escaped}~{suffix}");
        }
        candidate
    }
}

/// The source's name of a stored column.
pub fn source_column(stored: &str) -> Option<String> {
    unescape(stored.split('~').next().unwrap_or(stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_are_unique_and_can_be_undone() {
        let sources =
            ["id", "ID", "Id", "_lsn", "_LSN", "a b", "a%20b", "x~1", "x", "X", "日本", "tab\there", "a.b", ""];
        let mut names = ColumnNames::default();
        let stored: Vec<String> = sources.iter().map(|source| names.assign(source)).collect();
        let distinct: HashSet<String> = stored.iter().map(|name| name.to_lowercase()).collect();
        assert_eq!(distinct.len(), sources.len(), "{stored:?}");
        for (source, stored) in sources.iter().zip(&stored) {
            assert_eq!(source_column(stored).as_deref(), Some(*source));
        }
        assert_eq!(stored[0], "id");
        assert_eq!(stored[3], "_lsn~1");
    }
}
