//! What a restore did.

use serde::{Deserialize, Serialize};

use super::plan::{Counts, Note, Plan};
use crate::model::{Lsn, TableName, Xid};

/// What was done to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    pub name: TableName,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

/// A sequence that was moved forward, past values that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceMove {
    pub sequence: TableName,
    pub from: i64,
    pub to: i64,
}

/// Triggers that did not fire; all are as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggersOff {
    pub table: TableName,
    pub triggers: Vec<String>,
}

/// The points between which the restore stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    pub before: String,
    pub after: String,
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`Plan::digest`] of what was performed.
    pub plan: String,
    /// The point, as it was asked for.
    pub to: String,
    pub to_lsn: Lsn,
    pub tables: Vec<TableReport>,
    pub sequences: Vec<SequenceMove>,
    pub triggers: Vec<TriggersOff>,
    /// `None` where there was nothing to restore.
    pub marks: Option<Marks>,
    pub xid: Option<Xid>,
    /// A position that the restore's commit lies below.
    pub lsn: Option<Lsn>,
    pub seconds: f64,
    /// What was not covered, and what else to know.
    pub notes: Vec<Note>,
}

impl Report {
    /// The report of a plan without rows.
    pub(super) fn nothing(plan: &Plan) -> Report {
        Report {
            plan: plan.digest(),
            to: plan.to.point.clone(),
            to_lsn: plan.to.lsn,
            tables: plan.tables.iter().map(|table| TableReport::of(&table.name, Counts::default())).collect(),
            sequences: Vec::new(),
            triggers: Vec::new(),
            marks: None,
            xid: None,
            lsn: None,
            seconds: 0.0,
            notes: plan.notes.clone(),
        }
    }

    /// Whether all that was asked for was done.
    pub fn complete(&self) -> bool {
        !self.notes.iter().any(|note| note.skipped)
    }

    /// The rows of all tables.
    pub fn total(&self) -> Counts {
        self.tables.iter().fold(Counts::default(), |mut sum, table| {
            sum += Counts { insert: table.inserted, update: table.updated, delete: table.deleted };
            sum
        })
    }
}

impl TableReport {
    pub(super) fn of(name: &TableName, counts: Counts) -> TableReport {
        TableReport { name: name.clone(), inserted: counts.insert, updated: counts.update, deleted: counts.delete }
    }
}
