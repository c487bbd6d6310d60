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
}

impl RelationVersion {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Positions of the columns that identify a row: all of them under [`Identity::Full`].
    pub fn key_positions(&self) -> Vec<usize> {
        let full = self.identity == Identity::Full;
        (0..self.columns.len()).filter(|&at| full || self.columns[at].key).collect()
    }
}
