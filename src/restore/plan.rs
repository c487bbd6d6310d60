//! The plan: what a restore would do, in a form that can be saved, looked at and held to.

use std::fmt::Write as _;
use std::ops::AddAssign;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::belonging::{Owner, TenantCount};
use super::judgement::{OnReject, Rejection};
use super::mapping::Mapping;
use super::undo::{Conflict, OnConflict};
use super::{Goal, RestoreRequest};
use crate::archive::ArchiveIdentity;
use crate::failure::{Failure, Result};
use crate::history::Cut;
use crate::model::{Lsn, Point, TableName, TablePattern};

/// The form of plan files that this version writes and reads.
pub const FORMAT: u32 = 2;

/// Characters of a sample's values.
pub(super) const SAMPLE_LENGTH: usize = 120;

/// What happened to a row since the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It is gone; the restore inserts it.
    Deleted,
    /// It has other values; the restore updates it.
    Updated,
    /// It is new; the restore deletes it.
    Inserted,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Deleted, Class::Updated, Class::Inserted];

    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Deleted => "deleted",
            Class::Updated => "updated",
            Class::Inserted => "inserted",
        }
    }

    /// The reverse of [`Class::as_str`].
    pub fn parse(text: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.as_str() == text)
    }

    /// What the restore does about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Class::Deleted => "insert",
            Class::Updated => "update",
            Class::Inserted => "delete",
        }
    }
}

/// Rows that a restore inserts, updates and deletes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub insert: u64,
    pub update: u64,
    pub delete: u64,
}

impl Counts {
    pub fn rows(&self) -> u64 {
        self.insert + self.update + self.delete
    }

    /// The count for rows to which this happened.
    pub fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Deleted => &mut self.insert,
            Class::Updated => &mut self.update,
            Class::Inserted => &mut self.delete,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.insert += other.insert;
        self.update += other.update;
        self.delete += other.delete;
    }
}

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

    fn cut(&self) -> Result<Cut> {
        let point =
            Point::parse(&self.point, Utc::now()).map_err(|error| Failure::usage(format!("the plan: {error}")))?;
        Ok(Cut { point, lsn: self.lsn, last: None, next: None })
    }
}

/// What was asked for besides the point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    pub tables: Vec<String>,
    #[serde(default)]
    pub only: Vec<Class>,
    #[serde(default)]
    pub filter: Option<String>,
    /// Commit LSNs of transactions that are undone.
    #[serde(default)]
    pub undo: Vec<Lsn>,
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// Rows of an earlier restore's quarantine.
    #[serde(default)]
    pub quarantined: bool,
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub tenant_columns: Vec<String>,
    /// One row of a table, and all below it.
    #[serde(default)]
    pub entity: Option<(TableName, String)>,
    #[serde(default)]
    pub with_parents: bool,
    #[serde(default)]
    pub on_reject: OnReject,
    #[serde(default)]
    pub maps: Vec<String>,
    pub lock_timeout_ms: u64,
    #[serde(default)]
    pub statement_timeout_ms: Option<u64>,
    pub disable_user_triggers: bool,
}

impl PlanOptions {
    pub(super) fn of(request: &RestoreRequest) -> PlanOptions {
        let mut only = request.only.clone();
        only.sort_unstable();
        only.dedup();
        let (undo, on_conflict) = match &request.goal {
            Goal::Undo { transactions, on_conflict } => (transactions.clone(), *on_conflict),
            _ => (Vec::new(), OnConflict::default()),
        };
        let (tenant, entity) = match &request.owner {
            Some(Owner::Tenant(tenant)) => (Some(tenant.clone()), None),
            Some(Owner::Entity { table, key }) => (None, Some((table.clone(), key.clone()))),
            None => (None, None),
        };
        PlanOptions {
            tenant,
            entity,
            tenant_columns: request.tenant_columns.clone(),
            with_parents: request.with_parents,
            undo,
            on_conflict,
            tables: request.tables.iter().map(ToString::to_string).collect(),
            only,
            filter: request.filter.clone(),
            quarantined: request.goal == Goal::Quarantined,
            on_reject: request.on_reject,
            maps: request.maps.iter().map(ToString::to_string).collect(),
            statement_timeout_ms: request.statement_timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok()),
            lock_timeout_ms: u64::try_from(request.lock_timeout.as_millis()).unwrap_or(u64::MAX),
            disable_user_triggers: request.disable_user_triggers,
        }
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

    /// The request that leads to this plan.
    ///
    /// # Errors
    /// Usage where the saved request cannot be read.
    pub fn request(&self) -> Result<RestoreRequest> {
        let tables = self.options.tables.iter().map(|text| TablePattern::parse(text)).collect::<Result<_>>()?;
        Ok(RestoreRequest {
            tables,
            to: self.to.cut()?,
            now: self.now.cut()?,
            only: self.options.only.clone(),
            filter: self.options.filter.clone(),
            goal: match &self.options {
                options if options.quarantined => Goal::Quarantined,
                options if options.undo.is_empty() => Goal::Point,
                options => Goal::Undo { transactions: options.undo.clone(), on_conflict: options.on_conflict },
            },
            owner: match (&self.options.tenant, &self.options.entity) {
                (Some(tenant), _) => Some(Owner::Tenant(tenant.clone())),
                (None, Some((table, key))) => Some(Owner::Entity { table: table.clone(), key: key.clone() }),
                (None, None) => None,
            },
            tenant_columns: self.options.tenant_columns.clone(),
            with_parents: self.options.with_parents,
            on_reject: self.options.on_reject,
            maps: self.options.maps.iter().map(|text| Mapping::parse(text)).collect::<Result<_>>()?,
            max_rows: None,
            batch_rows: None,
            lock_timeout: Duration::from_millis(self.options.lock_timeout_ms),
            statement_timeout: self.options.statement_timeout_ms.map(Duration::from_millis),
            disable_user_triggers: self.options.disable_user_triggers,
        })
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
        let digest = ring::digest::digest(&ring::digest::SHA256, content.as_bytes());
        digest.as_ref().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
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
