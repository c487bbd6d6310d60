//! What a restore did.

use serde::{Deserialize, Serialize};

use super::classes::Counts;
use super::difference::Difference;
use super::judgement::{OnReject, Rejection};
use super::plan::{Note, Plan};
use super::quarantine::LeftOut;
use super::undo::Conflict;
use super::workspace::Differences;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, TableName, Xid};

/// What was done to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    pub name: TableName,
    /// Row operations of the plan: the sum of all that follow.
    pub planned: u64,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Rows that a constraint forbids, in the side table.
    pub quarantined: u64,
    /// Rows that could not go, because others refer to them.
    pub kept: u64,
    /// Rows besides those of the plan that stay as they are, because later transactions wrote them or hang on them.
    pub skipped: u64,
    /// Rows of the plan that wait for a later transaction.
    #[serde(default)]
    pub postponed: u64,
}

/// A constraint that holds for what is written from now on, and no longer for all that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotValid {
    pub table: TableName,
    pub name: String,
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
    /// Tables that were gone and were made again.
    pub recreated: Vec<TableName>,
    /// Commit LSNs of the transactions that were undone.
    pub undone: Vec<Lsn>,
    /// Later transactions that depend on those.
    pub conflicts: Vec<Conflict>,
    pub tables: Vec<TableReport>,
    pub sequences: Vec<SequenceMove>,
    pub triggers: Vec<TriggersOff>,
    pub on_reject: OnReject,
    /// What the constraints forbade.
    pub rejections: Vec<Rejection>,
    /// Constraints that were made NOT VALID.
    pub not_valid: Vec<NotValid>,
    /// `None` where there was nothing to restore.
    pub marks: Option<Marks>,
    pub xid: Option<Xid>,
    /// The number that says which of all wraps of `xid` it is.
    #[serde(skip)]
    pub(super) full_xid: Option<String>,
    /// A position that the restore's commit lies below.
    pub lsn: Option<Lsn>,
    pub seconds: f64,
    /// What was not covered, and what else to know.
    pub notes: Vec<Note>,
}

impl Report {
    /// The report of a plan without rows.
    pub(super) fn nothing(plan: &Plan) -> Report {
        let tables = plan.tables.iter().map(|table| TableReport {
            skipped: table.skipped,
            ..TableReport::of(&table.name, Counts::default(), LeftOut::default())
        });
        Report {
            plan: plan.digest(),
            to: plan.to.point.clone(),
            to_lsn: plan.to.lsn,
            recreated: Vec::new(),
            undone: plan.undone.clone(),
            conflicts: plan.conflicts.clone(),
            tables: tables.collect(),
            sequences: Vec::new(),
            triggers: Vec::new(),
            on_reject: plan.options.on_reject,
            rejections: plan.rejections.clone(),
            not_valid: Vec::new(),
            marks: None,
            xid: None,
            full_xid: None,
            lsn: None,
            seconds: 0.0,
            notes: plan.notes.clone(),
        }
    }

    /// The report of what was performed, which must be all that was planned.
    pub(super) fn of(
        plan: &Plan,
        differences: &Differences,
        left_out: &[LeftOut],
        postponed: &[u64],
    ) -> Result<Report> {
        let tables = differences.tables.iter().zip(left_out).zip(postponed);
        let skipped =
            |name: &TableName| plan.tables.iter().find(|table| table.name == *name).map_or(0, |table| table.skipped);
        let report = |((table, left_out), postponed): ((&Difference, &LeftOut), &u64)| {
            let done = TableReport::of(&table.name, table.counts, *left_out);
            TableReport {
                planned: done.planned + postponed,
                postponed: *postponed,
                skipped: skipped(&table.name),
                ..done
            }
        };
        let tables: Vec<TableReport> = tables.map(report).collect();
        let planned: u64 = tables.iter().map(|table| table.planned).sum();
        if planned != plan.total().rows() {
            return Err(Failure::failed(format!(
                "{planned} of {} planned rows are accounted for; nothing was changed",
                plan.total().rows()
            )));
        }
        Ok(Report { tables, ..Report::nothing(plan) })
    }

    /// Whether all that was asked for was done.
    pub fn complete(&self) -> bool {
        !self.notes.iter().any(|note| note.skipped) && self.tables.iter().all(|table| table.left_out() == 0)
    }

    /// The rows that were planned and are not restored.
    pub fn left_out(&self) -> u64 {
        self.tables.iter().map(TableReport::left_out).sum()
    }

    /// The rows that wait for a later transaction.
    pub(super) fn postponed(&self) -> u64 {
        self.tables.iter().map(|table| table.postponed).sum()
    }

    /// Adds what a later transaction of the same restore did.
    pub(super) fn continue_with(&mut self, next: Report) {
        for table in next.tables {
            match self.tables.iter_mut().find(|known| known.name == table.name) {
                Some(known) => known.continue_with(&table),
                None => self.tables.push(table),
            }
        }
        self.sequences.extend(next.sequences);
        if next.marks.is_some() {
            (self.xid, self.lsn) = (next.xid, next.lsn);
        }
        if let (Some(marks), Some(next)) = (&mut self.marks, next.marks) {
            marks.after = next.after;
        }
        self.notes.extend(next.notes.into_iter().filter(|note| !self.notes.contains(note)).collect::<Vec<_>>());
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
    pub(super) fn of(name: &TableName, counts: Counts, left_out: LeftOut) -> TableReport {
        TableReport {
            name: name.clone(),
            planned: counts.rows() + left_out.quarantined + left_out.kept,
            inserted: counts.insert,
            updated: counts.update,
            deleted: counts.delete,
            quarantined: left_out.quarantined,
            kept: left_out.kept,
            skipped: 0,
            postponed: 0,
        }
    }

    fn continue_with(&mut self, next: &TableReport) {
        self.inserted += next.inserted;
        self.updated += next.updated;
        self.deleted += next.deleted;
        // Each time they are found again.
        (self.quarantined, self.kept, self.skipped) = (next.quarantined, next.kept, next.skipped);
        self.postponed = next.postponed;
        self.planned = self.inserted + self.updated + self.deleted + self.quarantined + self.kept + self.postponed;
    }

    /// The rows that were planned and are not restored.
    pub fn left_out(&self) -> u64 {
        self.quarantined + self.kept + self.skipped + self.postponed
    }
}
