//! What a table looked like from one LSN on, and what happened to its rows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TableName;

/// A row operation as the archive's `_op` column spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
    /// A row read by an initial copy.
    Snapshot,
}

impl Operation {
    pub const ALL: [Operation; 5] =
        [Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate, Operation::Snapshot];

    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
            Operation::Snapshot => "snapshot",
        }
    }

    pub fn parse(text: &str) -> Option<Operation> {
        Operation::ALL.into_iter().find(|operation| operation.as_str() == text)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which columns of an old row the source writes to its log (PostgreSQL manual, `REPLICA IDENTITY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The primary key.
    Default,
    /// The columns of a chosen unique index.
    Index,
    /// The whole old row.
    Full,
    /// Nothing: updates and deletes cannot be published.
    Nothing,
}

impl Identity {
    /// Whether at most one row stands under the columns that it names.
    pub fn is_unique(self) -> bool {
        matches!(self, Identity::Default | Identity::Index)
    }

    /// A replica identity by its letter in `pg_class.relreplident`.
    pub fn of_letter(letter: char) -> Identity {
        match letter {
            'd' => Identity::Default,
            'i' => Identity::Index,
            'f' => Identity::Full,
            _ => Identity::Nothing,
        }
    }
}

/// One column of a relation version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// The name as the source has it.
    pub name: String,
    /// The name under which the archive's Parquet files have it.
    pub stored: String,
    /// The oid of the column's type in the source (`pg_type.oid`).
    pub type_oid: u32,
    /// The type as PostgreSQL writes it, with its modifier: `numeric(10,2)`.
    pub type_name: String,
    /// The type modifier (`pg_attribute.atttypmod`), -1 for none.
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub key: bool,
    /// Its number in the source's catalogue (`pg_attribute.attnum`), which a rename keeps; 0 where it is not known.
    #[serde(default)]
    pub number: i16,
    /// For a domain, the type at its bottom, whose values it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseType>,
    /// The text that rows from before the column was added show for it, where it was added with a constant default
    /// (`pg_attribute.attmissingval`); without it they show NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// The type at the bottom of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BaseType {
    pub oid: u32,
    /// The type modifier, -1 for none.
    pub modifier: i32,
}

/// Types whose values are their text: `text`, `varchar`, `bpchar`, `name`, `json`, `xml` (`pg_type.dat`).
const SAME_TEXT: [u32; 6] = [25, 1043, 1042, 19, 114, 142];

impl Column {
    /// A column of which no more is known than what the stream says.
    pub fn new(name: impl Into<String>, type_oid: u32, type_modifier: i32, key: bool) -> Column {
        Column {
            name: name.into(),
            stored: String::new(),
            type_oid,
            type_name: String::new(),
            type_modifier,
            key,
            number: 0,
            base: None,
            missing: None,
        }
    }

    /// Whether a value's text under this version of the column is its text under the other too, so that rows need not have
    /// been written anew between them: PostgreSQL rewrites a table where values change, but not where only their text does.
    pub fn keeps_text_as(&self, other: &Column) -> bool {
        let ((from, _), (to, _)) = (self.value_type(), other.value_type());
        let same_text = SAME_TEXT.contains(&from) && SAME_TEXT.contains(&to);
        self.type_oid == other.type_oid || from == to || same_text
    }

    /// Oid and modifier of the type whose values the column has: a domain's bottom, any other type itself.
    pub fn value_type(&self) -> (u32, i32) {
        self.base.map_or((self.type_oid, self.type_modifier), |base| (base.oid, base.modifier))
    }
}

/// A table's columns and identity from one LSN on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RelationVersion {
    /// The table's oid in the source (`pg_class.oid`): its identity across renames.
    pub oid: u32,
    pub name: TableName,
    pub identity: Identity,
    pub columns: Vec<Column>,
    /// Generated columns, which the source does not publish and the archive therefore does not have.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// A partitioned table, which has no rows of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partitioned: bool,
    /// The partitioned table (`pg_class.oid`) whose partition it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
}

impl RelationVersion {
    /// An ordinary table of which no more is known than what the stream says.
    pub fn new(oid: u32, name: TableName, identity: Identity, columns: Vec<Column>) -> RelationVersion {
        RelationVersion { oid, name, identity, columns, left_out: Vec::new(), partitioned: false, parent: None }
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What this version has of a column of another version: by its number where both know it, else by its name.
    pub fn same_column(&self, other: &Column) -> Option<&Column> {
        if other.number == 0 || self.columns.iter().any(|column| column.number == 0) {
            return self.column(&other.name);
        }
        self.columns.iter().find(|column| column.number == other.number)
    }

    /// Where this version has a column of another version.
    pub fn position_of(&self, other: &Column) -> Option<usize> {
        let here = self.same_column(other)?;
        self.columns.iter().position(|column| column.name == here.name)
    }

    /// Whether at most one row has the same values in the columns of the identity.
    pub fn has_unique_key(&self) -> bool {
        self.identity.is_unique() && self.columns.iter().any(|column| column.key)
    }

    /// Positions of the columns that identify a row: all of them under [`Identity::Full`].
    pub fn key_positions(&self) -> Vec<usize> {
        let full = self.identity == Identity::Full;
        (0..self.columns.len()).filter(|&at| full || self.columns[at].key).collect()
    }
}
