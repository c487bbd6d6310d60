//! Bringing rows back: plan, order, reject, apply, verify (DESIGN.md, section 5).
//!
//! ```text
//!   a point      transactions to undo     rows in quarantine
//!      └─────────────┬─┴───────────────────────┘
//!                 wanted      which keys are concerned, and where the rows lie that should stand under them
//!                    │        (tables that are gone: recreation)
//!                 staging     COPY into temporary tables of the live columns' types
//!                    │
//!   live table ─► difference  locked live rows against desired rows, set by set in SQL
//!                    │        then: whose rows (belonging), what foreign keys did along (cascades)
//!                judgement    what the constraints of today say to each planned row; parents that are missing
//!                    │
//!                  plan       counts, digests, samples, conflicts, rejections, what cannot be covered
//!                    │
//!   quarantine ◄─ perform ──► verify ──► commit      in foreign-key order, all in one transaction
//! ```
//!
//! Everything up to the plan runs alike for [`plan`], which rolls back, and for [`apply`], which goes on in
//! the same transaction with the live rows locked. What makes the desired rows is the only part that knows what
//! kind of restore it is; what follows works on the difference alone. [`copy`] takes whole tables elsewhere.
//!
//! Only keys that changed between the point and now can differ, so the cost is that of the damage. The one
//! exception is a table that was truncated, or created anew, since: every row of the point counts then.
//!
//! Our own SQL runs with the session's empty search path, with every name qualified: nobody who may create objects in some
//! schema can slip an operator into it. What the user wrote (`--where`) and what belongs to the tables (CHECK
//! functions, triggers that stay on, defaults) expects the path that the application has, so the role's or
//! database's own setting is in force for just those statements, in which our parts compare only built-in types.

mod batch;
mod belonging;
mod bulk;
mod cascades;
mod catalog;
mod classes;
mod columns;
mod constraint;
mod description;
mod desired;
mod difference;
mod elsewhere;
mod expected;
mod filter;
mod judgement;
mod mapping;
mod objection;
mod options;
mod order;
mod parents;
mod perform;
mod plan;
mod planning;
mod policies;
mod progress;
mod quarantine;
mod reading;
mod recreation;
mod relaxation;
mod report;
mod returned;
mod selection;
mod sequences;
mod staging;
mod text;
mod triggers;
mod undo;
mod verify;
mod wanted;
mod workspace;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::Cut;
use crate::model::{Lsn, TablePattern};
use crate::postgres::Source;

pub use belonging::{Owner, TenantCount};
pub use classes::{Class, Counts};
pub use elsewhere::{Copied, CopyRequest, Elsewhere, copy};
pub use judgement::{Introduction, OnReject, RejectedSample, Rejection, RuleKind};
pub use mapping::Mapping;
pub use options::PlanOptions;
pub use plan::{Change, FORMAT, Note, Plan, PlanPoint, Sample, TablePlan};
pub use progress::{Look, Progress, Step};
pub use report::{Marks, Report, SequenceMove, TableReport, TriggersOff};
pub use undo::{Conflict, Dependence, OnConflict};

use workspace::{Mode, Workspace};

/// What kind of state is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// That of a point.
    Point,
    /// That without these transactions, by their commit LSNs, and with all others.
    Undo { transactions: Vec<Lsn>, on_conflict: OnConflict },
    /// Rows that an earlier restore put into quarantine.
    Quarantined,
}

/// What a restore came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    Done(Box<Report>),
    /// Constraints forbid rows of this plan, or later transactions depend on it, and nothing was changed.
    Rejected(Box<Plan>),
}

/// What is to be brought back.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Which tables; each pattern must name one of the archive's at least.
    pub tables: Vec<TablePattern>,
    /// The state that is wanted.
    pub to: Cut,
    /// Up to where changes are looked for: `now`, resolved, so that the archive has everything the source had.
    pub now: Cut,
    /// Only rows to which this happened since the point; any where empty.
    pub only: Vec<Class>,
    /// An SQL condition over a row: as it was at the point, or, where there was none, as it is.
    pub filter: Option<String>,
    pub goal: Goal,
    /// Only rows that belong to it.
    pub owner: Option<Owner>,
    /// Columns that name the tenant.
    pub tenant_columns: Vec<String>,
    /// Rows that those of the plan refer to, and that are gone, come back too.
    pub with_parents: bool,
    /// What becomes of rows that a constraint forbids.
    pub on_reject: OnReject,
    /// Values that are transformed on the way in.
    pub maps: Vec<Mapping>,
    /// More rows than these are not restored.
    pub max_rows: Option<u64>,
    /// So many rows are restored in one transaction at most.
    pub batch_rows: Option<u64>,
    /// Between batches it rests, so that no more rows than these are restored in a second.
    pub throttle: Option<u64>,
    /// How long a lock is waited for.
    pub lock_timeout: Duration,
    /// How long a statement may run; for ever where it is `None`.
    pub statement_timeout: Option<Duration>,
    /// Triggers of users do not fire, on tables that the role owns.
    pub disable_user_triggers: bool,
    /// Where it says how far it is.
    pub progress: Arc<Progress>,
}

impl RestoreRequest {
    /// A request with the defaults: all rows, five seconds for locks, no triggers.
    pub fn new(tables: Vec<TablePattern>, to: Cut, now: Cut) -> RestoreRequest {
        RestoreRequest {
            tables,
            to,
            now,
            only: Vec::new(),
            filter: None,
            goal: Goal::Point,
            owner: None,
            tenant_columns: Vec::new(),
            with_parents: false,
            on_reject: OnReject::default(),
            maps: Vec::new(),
            max_rows: None,
            batch_rows: None,
            throttle: None,
            lock_timeout: Duration::from_secs(5),
            statement_timeout: None,
            disable_user_triggers: true,
            progress: Arc::default(),
        }
    }
}

/// Says what a restore would do. Nothing that it writes outlasts it.
///
/// # Errors
/// Refused where the archive is another database's or cannot tell; failed with the `GRANT` where a
/// privilege is missing, and where a table does not exist any more; usage where a pattern names
/// nothing or the filter is not SQL.
pub async fn plan(source: &Source, archive: &Archive, request: &RestoreRequest) -> Result<Plan> {
    let workspace = Workspace::open(source, archive, request, Mode::Look).await?;
    let (plan, _) = workspace.plan().await?;
    workspace.roll_back().await?;
    Ok(plan)
}

/// Performs a restore: all of it in one transaction, or nothing.
///
/// With `expected`, exactly that plan is performed: changes are looked for up to the plan's own `now`, and
/// if any row that it touches has moved since, nothing is.
///
/// # Errors
/// As [`plan`]; refused besides where a lock is not to be had in time, and where the plan has become another. Failed where the
/// outcome is not what the archive has. Whatever the error, nothing was changed except, at most, that the mark before is there.
pub async fn apply(
    source: &Source,
    archive: &Archive,
    request: &RestoreRequest,
    expected: Option<&Plan>,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut request = request.clone();
    if let Some(expected) = expected {
        expected.require_point(archive.identity(), &request)?;
        request.now.lsn = expected.now.lsn;
    }
    let mut outcome = apply_once(source, archive, &request, expected).await?;
    while let Outcome::Done(report) = &mut outcome {
        request.progress.batch_done();
        report.seconds = started.elapsed().as_secs_f64();
        if report.postponed() == 0 || report.total().rows() == 0 {
            break;
        }
        rest(&request, report.total().rows(), started.elapsed()).await;
        report.seconds = started.elapsed().as_secs_f64();
        match apply_once(source, archive, &request, None).await {
            Ok(Outcome::Done(next)) => report.continue_with(*next),
            // What is done stays done, and is said.
            Ok(Outcome::Rejected(plan)) => {
                let rows = report.total().rows();
                return Err(Failure::refused(format!(
                    "{rows} rows are restored, and constraints forbid some of the others"
                ))
                .remedy(format!("look at the plan of what is left: {}", plan.command().trim_end_matches(" --apply"))));
            }
            Err(failure) => {
                let rows = report.total().rows();
                return Err(failure.context(format_args!("after {rows} rows, which are restored")));
            }
        }
    }
    Ok(outcome)
}

/// Waits until so many rows may have been restored in the time since the beginning.
async fn rest(request: &RestoreRequest, rows: u64, elapsed: Duration) {
    if let Some(throttle) = request.throttle {
        let due = Duration::from_secs_f64(rows as f64 / throttle.max(1) as f64);
        tokio::time::sleep(due.saturating_sub(elapsed)).await;
    }
}

/// Performs a restore, or the next batch of it, in one transaction.
async fn apply_once(
    source: &Source,
    archive: &Archive,
    request: &RestoreRequest,
    expected: Option<&Plan>,
) -> Result<Outcome> {
    let workspace = Workspace::open(source, archive, request, Mode::Change).await?;
    let (plan, mut differences) = workspace.plan().await?;
    if let Some(moved) = expected.and_then(|expected| expected.moved_tables(&plan)) {
        return Err(Failure::refused(format!("the plan does not hold any more: rows of {moved} have changed since"))
            .remedy("plan again and look at what changed"));
    }
    let rows = plan.total().rows();
    if let Some(most) = request.max_rows.filter(|most| rows > *most) {
        return Err(Failure::refused(format!("the restore would touch {rows} rows, more than {most}"))
            .remedy("look at the plan, then raise --max-rows"));
    }
    if plan.is_blocked() {
        workspace.roll_back().await?;
        return Ok(Outcome::Rejected(Box::new(plan)));
    }
    if rows == 0 && plan.recreated.is_empty() {
        workspace.roll_back().await?;
        return Ok(Outcome::Done(Box::new(Report::nothing(&plan))));
    }
    Ok(Outcome::Done(Box::new(workspace.perform(source, &plan, &mut differences).await?)))
}
