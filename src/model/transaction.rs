//! What the archive keeps about whole transactions.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};

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
    /// What is counted. Rows that were told anew, [`Operation::Snapshot`], are not among a transaction's counts.
    pub const COUNTED: [Operation; 4] = [Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate];

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

impl SubAssign for OperationCounts {
    fn sub_assign(&mut self, other: Self) {
        self.insert -= other.insert;
        self.update -= other.update;
        self.delete -= other.delete;
        self.truncate -= other.truncate;
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

/// Why a mark was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkKind {
    /// Somebody named a point.
    #[default]
    Mark,
    /// A deployment begins there.
    Deployment,
}

/// A named point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub name: String,
    pub kind: MarkKind,
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

/// A part of history that the archive could not see: the source's log was gone before it was archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// Everything that committed below is archived.
    pub lsn: Lsn,
    /// Everything that committed from here on is archived again.
    pub end_lsn: Lsn,
    /// When the source had reached the beginning, by its clock.
    pub time: DateTime<Utc>,
    /// When it had reached the end.
    pub end_time: DateTime<Utc>,
    /// How the log was lost.
    pub reason: String,
}

impl GapRecord {
    /// The commit LSN under which the archive has what the gap did: the last position inside.
    pub fn commit_lsn(&self) -> Lsn {
        Lsn(self.end_lsn.0.saturating_sub(1))
    }
}

/// Where something stands in history: before the change with this place, and after all that are smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Commit LSN of the transaction.
    pub lsn: Lsn,
    /// Order inside the transaction, from 0.
    pub seq: i64,
}

impl Position {
    /// Before everything that the transaction with this commit LSN did.
    pub fn before(lsn: Lsn) -> Position {
        Position { lsn, seq: -1 }
    }
}

/// What a relation version says of the table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelationEvent {
    /// Nothing: they are as they were, in another shape at most.
    Described,
    /// There were none before; all that there are come after.
    Created,
    /// All of them were written anew, or seen for the first time: they follow as `snapshot` changes.
    Rewritten,
    /// From here on they are not known, until a later version or base image tells.
    Unseen,
    /// The table is gone.
    Dropped,
}

/// A relation version and the position from which it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationRecord {
    pub position: Position,
    pub event: RelationEvent,
    pub relation: RelationVersion,
    /// The definition as the source described it, one JSON object: what the table can be made again from.
    pub definition: Option<String>,
}

impl RelationRecord {
    /// A version that holds before everything that the transaction with this commit LSN did, by what the source said of
    /// it, and that says nothing of the rows.
    pub fn described(lsn: Lsn, relation: RelationVersion, definition: String) -> RelationRecord {
        let (position, event) = (Position::before(lsn), RelationEvent::Described);
        RelationRecord { position, event, relation, definition: Some(definition) }
    }
}

/// A statement that changed definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlRecord {
    pub position: Position,
    pub time: DateTime<Utc>,
    pub xid: Xid,
    /// The kind of statement: `ALTER TABLE`.
    pub tag: String,
    /// Its text, as the client sent it; with others where they were sent together. `None` where it holds secrets.
    pub statement: Option<String>,
    /// Whom the source had authenticated.
    pub user: Option<String>,
    pub application: Option<String>,
    pub client: Option<String>,
    /// The relations and other objects that it made or changed, each with its definition: a JSON array.
    pub objects: String,
    /// What it dropped: a JSON array.
    pub dropped: String,
    /// Why its effects could not be described.
    pub failed: Option<String>,
}

impl DdlRecord {
    /// The tables and other relations that the statement made, changed or dropped, and what else it dropped, by name.
    pub fn concerns(&self) -> Vec<String> {
        let list = |json: &str| serde_json::from_str::<Vec<serde_json::Value>>(json).unwrap_or_default();
        let name = |object: &serde_json::Value| match (object["schema"].as_str(), object["name"].as_str()) {
            (Some(schema), Some(name)) => Some(TableName::new(schema, name).to_string()),
            _ => object["identity"].as_str().map(str::to_owned),
        };
        let dropped = list(&self.dropped).into_iter().filter(|object| object["original"] == true);
        let mut names: Vec<String> =
            list(&self.objects).iter().chain(&dropped.collect::<Vec<_>>()).filter_map(name).collect();
        names.dedup();
        names
    }
}

/// A logical message (`pg_logical_emit_message`) of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalMessage {
    /// Of a transactional one its transaction's commit LSN; else its own LSN.
    pub position: Position,
    pub time: DateTime<Utc>,
    /// Of a transactional one.
    pub xid: Option<Xid>,
    pub prefix: String,
    pub content: Vec<u8>,
}

/// What a sequence stood at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSample {
    /// Of the transaction that carried the sample; the value is at least as old.
    pub position: Position,
    pub time: DateTime<Utc>,
    pub name: TableName,
    pub value: i64,
    /// Whether `value` has been given out; else it is the next to be.
    pub called: bool,
}
