//! The gate before a deployment and after it: findings, each of which passes or not, and what to do if one does not.

mod archived;
mod changes;
mod inventory;
mod report;

use std::time::Duration;

use chrono::Utc;
use serde::Serialize;

pub use archived::drift_since;
pub use changes::{Changed, Expectation, Operations};
pub use inventory::{Drift, drift};

use super::check::{self, CheckRequest, Impact, Level};
use super::health::{HealthCheck, examine};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::{AlertEvent, HealthStatus, Lsn, Mark, Severity};
use crate::postgres::{Session, Source};

/// What a gate asks.
#[derive(Debug, Clone, Default)]
pub struct GateSettings {
    /// The archive may be so far behind.
    pub max_lag: Duration,
    pub health: Vec<HealthCheck>,
    /// Unhealthy checks of this severity and above close the gate; milder ones are told.
    pub severity: Option<Severity>,
    /// Constraints that the deployment will make.
    pub checks: Vec<CheckRequest>,
    /// A query for the version of the schema, and its answer.
    pub version: Option<(String, String)>,
    pub expectations: Vec<Expectation>,
    /// Changes that nothing was said of are no failure.
    pub unexpected_allowed: bool,
    pub tenant_columns: Vec<String>,
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub name: String,
    pub passed: bool,
    pub details: String,
}

/// What a gate says.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// `before` or `after`.
    pub gate: &'static str,
    pub name: String,
    pub passed: bool,
    pub findings: Vec<Finding>,
    /// What changed since the mark, in the gate after.
    pub changes: Vec<Changed>,
    /// What the source's definitions lack or have too much.
    pub drift: Vec<Drift>,
    /// What takes it back, where it is needed.
    pub commands: Vec<String>,
}

impl Verdict {
    fn of(gate: &'static str, name: &str, findings: Vec<Finding>) -> Verdict {
        let passed = findings.iter().all(|finding| finding.passed);
        let (changes, drift, commands) = (Vec::new(), Vec::new(), Vec::new());
        Verdict { gate, name: name.to_owned(), passed, findings, changes, drift, commands }
    }

    /// Adds what the definitions lack.
    pub fn with_drift(mut self, drift: Vec<Drift>) -> Verdict {
        let details = match drift.len() {
            0 => "the definitions are those that are expected".to_owned(),
            many => format!("{many} definitions are not what is expected"),
        };
        self.findings.push(finding("definitions", drift.is_empty(), details));
        self.passed &= drift.is_empty();
        self.drift = drift;
        self
    }

    /// Adds something else that was found.
    pub fn with(mut self, found: Finding) -> Verdict {
        self.passed &= found.passed;
        self.findings.push(found);
        self
    }
}

/// Something that was found.
pub fn finding(name: impl Into<String>, passed: bool, details: impl Into<String>) -> Finding {
    Finding { name: name.into(), passed, details: details.into() }
}

/// Whether a deployment may begin. The mark is the caller's to make.
///
/// # Errors
/// Where source or archive do not answer: what could not be asked has not passed.
pub async fn before(source: &Source, archive: &Archive, settings: &GateSettings, name: &str) -> Result<Verdict> {
    let mut findings = vec![archiver(source, archive, settings).await?, alerts(archive, None).await?];
    findings.extend(health(source, settings).await?);
    findings.extend(version(source, settings).await?);
    for request in &settings.checks {
        findings.push(constraint(&check::check(source, Some(archive), request).await?));
    }
    Ok(Verdict::of("before", name, findings))
}

/// Whether a deployment did what was expected of it since its mark, up to a cut.
///
/// # Errors
/// As [`before`].
pub async fn after(
    source: &Source,
    archive: &Archive,
    settings: &GateSettings,
    mark: &Mark,
    now: Lsn,
) -> Result<Verdict> {
    let changes = changes::since(archive, mark.lsn, now, &settings.tenant_columns).await?;
    let mut findings = vec![archiver(source, archive, settings).await?];
    findings.extend(changes::judged(&changes, &settings.expectations, settings.unexpected_allowed));
    findings.push(alerts(archive, Some(mark)).await?);
    findings.extend(health(source, settings).await?);
    findings.extend(version(source, settings).await?);
    let mut verdict = Verdict::of("after", &mark.name, findings);
    if !verdict.passed && !changes.is_empty() {
        let tables: Vec<String> = changes.iter().map(|changed| changed.table.to_string()).collect();
        verdict.commands.push(format!("afterimage restore {} --to 'mark:{}'", tables.join(" "), mark.name));
        verdict.commands.push(format!("afterimage restore {} --to 'mark:{}' --apply", tables.join(" "), mark.name));
    }
    verdict.changes = changes;
    Ok(verdict)
}

const SLOT: &str = "SELECT active, wal_status FROM pg_replication_slots WHERE slot_name = $1";

/// Whether an archiver runs, and keeps up.
async fn archiver(source: &Source, archive: &Archive, settings: &GateSettings) -> Result<Finding> {
    let session = source.decoder().without_waiting().connect("afterimage gate").await?;
    let slot = &archive.identity().slot;
    let Some(row) = session.query_opt(SLOT, &[slot]).await? else {
        return Ok(finding("archive", false, format!("the slot {slot} does not exist: changes are being lost")));
    };
    let (active, status): (bool, Option<String>) = (row.get(0), row.get(1));
    if !active || status.as_deref() == Some("lost") {
        let status = status.unwrap_or_default();
        return Ok(finding("archive", false, format!("no archiver runs: the slot {slot} is not in use ({status})")));
    }
    let watermark = archive.watermark().await?;
    let lag = (Utc::now() - watermark.time).to_std().unwrap_or_default();
    let details = format!("an archiver runs; the watermark is {}, {:.1} s old", watermark.lsn, lag.as_secs_f64());
    Ok(finding("archive", lag <= settings.max_lag, details))
}

/// Whether severe alerts wait for somebody: all of them, or those since a mark.
async fn alerts(archive: &Archive, since: Option<&Mark>) -> Result<Finding> {
    let records = archive.alerts().await?;
    let known = |id: &str| records.iter().any(|one| one.id == id && one.event == AlertEvent::Acknowledged);
    let open = records.iter().filter(|one| one.event == AlertEvent::Raised && one.severity >= Severity::Critical);
    let open = open.filter(|one| since.is_none_or(|mark| one.time >= mark.time) && !known(&one.id));
    let open: Vec<String> = open.map(|one| format!("{} {}", &one.id[..one.id.len().min(8)], one.message)).collect();
    let details = match open.as_slice() {
        [] => "no alert waits for somebody".to_owned(),
        some => format!("{} alerts are not acknowledged: {}", some.len(), some.join("; ")),
    };
    Ok(finding("alerts", open.is_empty(), details))
}

async fn health(source: &Source, settings: &GateSettings) -> Result<Vec<Finding>> {
    if settings.health.is_empty() {
        return Ok(Vec::new());
    }
    let least = settings.severity.unwrap_or(Severity::Critical);
    let found = examine(source, &settings.health).await?;
    let shown = |record: crate::model::HealthRecord| {
        let well = record.status == HealthStatus::Healthy;
        let resolution = record.resolution.filter(|_| !well).map_or(String::new(), |text| format!("; {text}"));
        let details = format!("{}: {}{resolution}", record.status.as_str(), record.details);
        let passed = well || record.status == HealthStatus::Unhealthy && record.severity < least;
        finding(format!("health: {}", record.check), passed, details)
    };
    Ok(found.into_iter().map(shown).collect())
}

async fn version(source: &Source, settings: &GateSettings) -> Result<Option<Finding>> {
    match &settings.version {
        Some((sql, wanted)) => schema_version(source, sql, wanted).await.map(Some),
        None => Ok(None),
    }
}

/// Whether the schema has the version that is wanted, by a query for it.
///
/// # Errors
/// Where the query has no answer.
pub async fn schema_version(source: &Source, sql: &str, wanted: &str) -> Result<Finding> {
    let session: Session = source.without_waiting().connect("afterimage gate").await?;
    session.batch_execute("SET search_path = \"$user\", public; SET default_transaction_read_only = on").await?;
    let messages = session.simple_query(sql.trim().trim_end_matches(';')).await?;
    let found = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    let found = found.ok_or_else(|| Failure::check_failed("the query for the schema's version has no answer"))?;
    let details = format!("the schema's version is {found:?}, {wanted:?} is expected");
    Ok(finding("version", found == wanted, details))
}

fn constraint(impact: &Impact) -> Finding {
    let details = format!(
        "{} on {}: {}, {} live and {} archived rows violate it; {}",
        impact.constraint,
        impact.table,
        impact.level.as_str(),
        impact.live.violating,
        impact.archived.violating,
        impact.recommendation
    );
    finding("constraint", impact.level == Level::Safe, details)
}
