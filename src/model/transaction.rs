//! What the archive keeps about whole transactions.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Lsn, Operation, RelationVersion, TableName, Xid};

/// How many rows of one table a transaction changed. A truncation counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OperationCounts {
    pub insert: u64,
    pub update: u64,
    pub delete: u64,
    pub truncate: u64,
}

impl OperationCounts {
    pub fn add(&mut self, operation: Operation) {
        match operation {
            Operation::Insert | Operation::Snapshot => self.insert += 1,
            Operation::Update => self.update += 1,
            Operation::Delete => self.delete += 1,
            Operation::Truncate => self.truncate += 1,
        }
    }

    pub fn of(&self, operation: Operation) -> u64 {
        match operation {
            Operation::Insert | Operation::Snapshot => self.insert,
            Operation::Update => self.update,
            Operation::Delete => self.delete,
            Operation::Truncate => self.truncate,
        }
    }

    pub fn total(&self) -> u64 {
        self.insert + self.update + self.delete + self.truncate
    }
}

impl AddAssign for OperationCounts {
    fn add_assign(&mut self, other: Self) {
        self.insert += other.insert;
        self.update += other.update;
        self.delete += other.delete;
        self.truncate += other.truncate;
    }
}

/// The place of one committed transaction in commit order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The commit LSN: the start of the commit record, the transaction's identity.
    pub lsn: Lsn,
    /// The position after the commit record.
    pub end_lsn: Lsn,
    pub xid: Xid,
    /// When it committed, by the source's clock; not monotonic in commit order.
    pub time: DateTime<Utc>,
}

/// A committed transaction: its place, what it changed, and what it said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub commit: Commit,
    pub tables: BTreeMap<TableName, OperationCounts>,
    /// What the transaction said of itself (DESIGN.md, section 6), one JSON object.
    pub context: Option<String>,
}

impl Transaction {
    pub fn total(&self) -> OperationCounts {
        self.tables.values().fold(OperationCounts::default(), |mut sum, counts| {
            sum += *counts;
            sum
        })
    }
}

/// A named point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub name: String,
    /// Commit LSN of the transaction that made the mark.
    pub lsn: Lsn,
    pub time: DateTime<Utc>,
    /// Whom the source had authenticated.
    pub user: Option<String>,
}

/// A restore that was performed in the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// Commit LSN of the restore's own transaction.
    pub lsn: Lsn,
    pub time: DateTime<Utc>,
    pub xid: Xid,
    /// What was restored, one JSON object.
    pub report: String,
}

/// A relation version and the LSN from which it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationRecord {
    pub lsn: Lsn,
    pub relation: RelationVersion,
}
