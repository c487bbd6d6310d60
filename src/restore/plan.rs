//! The plan: what a restore would do, in a form that can be saved, looked at and held to.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::RestoreRequest;
use super::belonging::TenantCount;
use super::classes::{Class, Counts};
use super::judgement::{OnReject, Rejection};
use super::options::PlanOptions;
use super::undo::{Conflict, OnConflict};
use crate::archive::ArchiveIdentity;
use crate::columnar::{digest, hexadecimal};
use crate::failure::{Failure, Result};
use crate::history::Cut;
use crate::model::{Lsn, Point, TableName};

/// The form of plan files that this version writes and reads.
pub const FORMAT: u32 = 3;

/// Characters of a sample's values.
pub(super) const SAMPLE_LENGTH: usize = 120;

/// A resolved point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanPoint {
    /// As it was asked for.
    pub point: String,
    /// Transactions with a commit LSN below this belong to it.
    pub lsn: Lsn,
    /// The resolved place and its neighbours.
    pub description: String,
}

impl PlanPoint {
    pub(super) fn of(cut: &Cut) -> PlanPoint {
        PlanPoint { point: cut.point.to_string(), lsn: cut.lsn, description: cut.describe() }
    }

    pub(super) fn cut(&self) -> Result<Cut> {
        let point =
            Point::parse(&self.point, Utc::now()).map_err(|error| Failure::usage(format!("the plan: {error}")))?;
        Ok(Cut { point, lsn: self.lsn, last: None, next: None })
    }
}

/// One column that a restore changes in a sample row. Values as PostgreSQL writes them, cut after some length;
/// `None` is NULL, or that there is no such row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub column: String,
    pub now: Option<String>,
    pub then: Option<String>,
}

/// One of the rows that a restore would touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub class: Class,
    /// The row's key, or a part of the row where it has none.
    pub key: String,
    /// For an updated row, what changes.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// What a restore does to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePlan {
    pub name: TableName,
    #[serde(flatten)]
    pub counts: Counts,
    /// Rows that are left as they are, because later transactions wrote them or hang on them.
    #[serde(default)]
    pub skipped: u64,
    /// Equal where the very same row operations would be performed on the very same rows.
    pub digest: String,
    pub samples: Vec<Sample>,
}

/// Something to know about a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The table it is about.
    pub table: Option<TableName>,
    pub text: String,
    /// Something that was asked for is not done.
    pub skipped: bool,
}

impl Note {
    pub(super) fn about(table: &TableName, text: impl Into<String>) -> Note {
        Note { table: Some(table.clone()), text: text.into(), skipped: false }
    }

    pub(super) fn skipped(table: &TableName, text: impl Into<String>) -> Note {
        Note { skipped: true, ..Note::about(table, text) }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub format: u32,
    /// The archive's source; a number of 64 bits, as text.
    pub system_identifier: String,
    pub database: String,
    pub made_at: DateTime<Utc>,
    pub to: PlanPoint,
    pub now: PlanPoint,
    pub options: PlanOptions,
    /// Every table that was looked at, those without differences too; parents before children.
    pub tables: Vec<TablePlan>,
    /// Tables that are gone and are made again.
    #[serde(default)]
    pub recreated: Vec<TableName>,
    /// Its rows by tenant, where a column names one.
    #[serde(default)]
    pub tenants: Vec<TenantCount>,
    /// Commit LSNs of all transactions that are undone.
    #[serde(default)]
    pub undone: Vec<Lsn>,
    /// Later transactions that depend on those, and are not undone.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// What the constraints of today forbid.
    pub rejections: Vec<Rejection>,
    /// What cannot be covered, and what else to know.
    pub notes: Vec<Note>,
}

impl Plan {
    /// Reads a saved plan.
    ///
    /// # Errors
    /// Usage where it is not one; refused where a newer version made it.
    pub fn from_json(json: &[u8]) -> Result<Plan> {
        let wrong = |error: serde_json::Error| Failure::usage(format!("not a plan: {error}"));
        let value: serde_json::Value = serde_json::from_slice(json).map_err(wrong)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => serde_json::from_value(value).map_err(wrong),
            Some(format) => Err(Failure::refused(format!("the plan has format {format}, this program knows {FORMAT}"))
                .remedy("plan again with this version")),
            None => Err(Failure::usage("not a plan: it has no format number")),
        }
    }

    /// The plan as it is saved.
    pub fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self);
        json.map(|json| json + "\n").map_err(|error| Failure::failed(format!("writing the plan: {error}")))
    }

    /// The rows of all tables.
    pub fn total(&self) -> Counts {
        self.tables.iter().fold(Counts::default(), |mut sum, table| {
            sum += table.counts;
            sum
        })
    }

    /// The rows that a rule forbids, counted under each, that stand in the way of performing the plan.
    pub fn blocking(&self) -> Vec<&Rejection> {
        let blocks = |rejection: &&Rejection| match self.options.on_reject {
            OnReject::Abort => true,
            OnReject::Quarantine => false,
            OnReject::NotValid => !rejection.can_be_not_valid,
        };
        self.rejections.iter().filter(blocks).collect()
    }

    /// The rules that are made NOT VALID to perform the plan.
    pub(super) fn relaxed(&self) -> Vec<Rejection> {
        let relaxes = self.options.on_reject == OnReject::NotValid;
        self.rejections.iter().filter(|rejection| relaxes && rejection.can_be_not_valid).cloned().collect()
    }

    /// Whether performing it is refused.
    pub fn is_blocked(&self) -> bool {
        let conflicts = !self.conflicts.is_empty() && self.options.on_conflict != OnConflict::Skip;
        conflicts || !self.blocking().is_empty()
    }

    /// Whether all that was asked for is in the plan.
    pub fn complete(&self) -> bool {
        !self.notes.iter().any(|note| note.skipped)
    }

    /// A name for exactly these row operations: 32 hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut tables: Vec<&TablePlan> = self.tables.iter().collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        let mut content = format!("{}/{}/{}/{}", self.format, self.system_identifier, self.database, self.to.lsn);
        for table in tables {
            let Counts { insert, update, delete } = table.counts;
            // Writing to a String cannot fail.
            let _ = write!(content, "\n{}: {insert} {update} {delete} {}", table.name.to_sql(), table.digest);
        }
        let options = (&self.options.on_reject.as_str(), &self.options.maps, &self.undone);
        let _ = write!(content, "\n{options:?}");
        for rejection in &self.rejections {
            let (kind, rows) = (rejection.kind.as_str(), rejection.rows);
            let _ = write!(content, "\n{}: {kind} {} forbids {rows}", rejection.table.to_sql(), rejection.name);
        }
        hexadecimal(&digest(content.as_bytes())[..16])
    }

    /// Refuses a plan that was made for another archive or another request.
    pub(super) fn require_point(&self, identity: &ArchiveIdentity, request: &RestoreRequest) -> Result<()> {
        if self.system_identifier != identity.system_identifier.to_string() || self.database != identity.database {
            return Err(Failure::refused(format!(
                "the plan is for the database {} of system {}, the archive for {} of system {}",
                self.database, self.system_identifier, identity.database, identity.system_identifier
            ))
            .remedy("name the archive that the plan was made with"));
        }
        let asked = PlanOptions::of(request);
        let same = self.to.lsn == request.to.lsn
            && PlanOptions { lock_timeout_ms: 0, ..self.options.clone() }
                == PlanOptions { lock_timeout_ms: 0, ..asked };
        if same {
            return Ok(());
        }
        Err(Failure::refused("the plan was made for another point, other tables or another selection of rows")
            .remedy("give the plan alone, or plan again"))
    }

    /// The tables for which another plan is not this one; `None` where there are none.
    pub(super) fn moved_tables(&self, other: &Plan) -> Option<String> {
        let same = |a: &TablePlan, b: &TablePlan| a.name == b.name && a.counts == b.counts && a.digest == b.digest;
        let differs = |plans: &[TablePlan], table: &TablePlan| !plans.iter().any(|b| same(table, b));
        let mine = self.tables.iter().filter(|table| differs(&other.tables, table));
        let others = other.tables.iter().filter(|table| differs(&self.tables, table));
        let mut moved: Vec<String> = mine.chain(others).map(|table| table.name.to_string()).collect();
        let forbids = |plan: &Plan, one: &Rejection| {
            plan.rejections.iter().any(|other| {
                (&other.table, other.kind, &other.name, other.rows) == (&one.table, one.kind, &one.name, one.rows)
            })
        };
        let more = other.rejections.iter().filter(|one| !forbids(self, one));
        let fewer = self.rejections.iter().filter(|one| !forbids(other, one));
        moved.extend(more.chain(fewer).map(|rejection| rejection.table.to_string()));
        moved.sort();
        moved.dedup();
        (!moved.is_empty()).then(|| moved.join(", "))
    }
}
