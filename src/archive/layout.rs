//! Where things lie in an archive.
//!
//! Directory names are the source's names with everything except ASCII letters and digits, `_`, `-`
//! and `.` written as `~XX`, their UTF-8 bytes in hexadecimal; a leading dot or underscore too. Not as `%XX`: the
//! Delta library turns what it lists into URLs as it is, and so would read `%20` back as a blank.

use crate::columnar::names::escape;
use crate::model::TableName;

/// The identity of an archive, written once.
pub const IDENTITY_FILE: &str = "archive.json";

/// The Delta tables of an archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TablePath {
    /// One row per change of a source table.
    Changes(TableName),
    /// Base images of a source table.
    Images(TableName),
    /// One of the archive's own tables.
    Log(LogTable),
}

/// The archive's own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogTable {
    Transactions,
    Relations,
    Ddl,
    Messages,
    Sequences,
    Marks,
    Gaps,
    Alerts,
    Health,
    Restores,
}

impl LogTable {
    pub const ALL: [LogTable; 10] = [
        LogTable::Transactions,
        LogTable::Relations,
        LogTable::Ddl,
        LogTable::Messages,
        LogTable::Sequences,
        LogTable::Marks,
        LogTable::Gaps,
        LogTable::Alerts,
        LogTable::Health,
        LogTable::Restores,
    ];

    pub fn name(self) -> &'static str {
        match self {
            LogTable::Transactions => "transactions",
            LogTable::Relations => "relations",
            LogTable::Ddl => "ddl",
            LogTable::Messages => "messages",
            LogTable::Sequences => "sequences",
            LogTable::Marks => "marks",
            LogTable::Gaps => "gaps",
            LogTable::Alerts => "alerts",
            LogTable::Health => "health",
            LogTable::Restores => "restores",
        }
    }
}

impl TablePath {
    /// The directory below the archive's root, without a slash at the end.
    pub fn directory(&self) -> String {
        match self {
            TablePath::Changes(name) => source_directory("changes", name),
            TablePath::Images(name) => source_directory("images", name),
            TablePath::Log(table) => format!("log/{}", table.name()),
        }
    }
}

fn source_directory(kind: &str, name: &TableName) -> String {
    format!("{kind}/{}/{}", escape_directory(&name.schema), escape_directory(&name.table))
}

fn escape_directory(name: &str) -> String {
    let mut escaped = escape(name, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    // A leading dot or underscore hides a directory from Spark and from object-store listings.
    if escaped.starts_with(['.', '_']) {
        escaped = format!("%{:02X}{}", escaped.as_bytes()[0], &escaped[1..]);
    }
    // A tilde of the name itself is escaped like everything else.
    escaped.replace('%', "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columnar::names::unescape;

    #[test]
    fn directories_can_be_undone_and_hide_nothing() {
        for name in ["orders", "My Table", "_hidden", ".dot", "a/b", "..", "ünïcode", "100%", "a~b"] {
            let path = TablePath::Changes(TableName::new("public", name)).directory();
            let last = path.rsplit('/').next().unwrap();
            assert_eq!(path.split('/').count(), 3, "{path}");
            assert!(!last.starts_with(['.', '_']), "{path}");
            assert_eq!(unescape(&last.replace('~', "%")).as_deref(), Some(name));
            // Read as a part of a URL it must stay what it is.
            assert!(!last.contains('%'), "{path}");
        }
    }
}
