//! `afterimage doctor`.

use std::io::stdout;
use std::path::Path;

use chrono::Utc;
use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::findings::{Finding, State, of_vitals};
use super::output::{print_document, print_text};
use super::vitals;
use crate::archive::Archive;
use crate::capture::source_check;
use crate::config::DoctorSettings;
use crate::failure::{Category, Failure, Result};
use crate::guard::{Drift, drift, drift_since, examine, schema_version};
use crate::model::{HealthRecord, HealthStatus, Point};
use crate::postgres::Source;

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  afterimage doctor
  afterimage doctor --schema schema.sql
  afterimage doctor --schema mark:before-release-7
Exit code 3 where a level has failed. What else is asked is in [doctor] of the configuration: the schema's version, rows
that must be there.")]
pub(super) struct DoctorArgs {
    /// The definitions that the source must have: a dump (pg_dump --schema-only), or a point of the archive
    #[arg(long, value_name = "FILE|POINT")]
    schema: Option<String>,
    /// An empty database to load the dump into; a throw-away PostgreSQL without it
    #[arg(long, value_name = "URL")]
    scratch: Option<String>,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    healthy: bool,
    findings: Vec<Finding>,
    /// Definitions that are missing, or others, or too much.
    drift: Vec<Drift>,
}

pub(super) async fn run(context: &Context, args: DoctorArgs) -> Result<()> {
    let (source, archive) = (context.source()?, context.archive().await?);
    let settings = context.config.doctor()?;
    let (mut found, drift) = diagnosed(context, &source, &archive, &settings, &args).await?;
    found.sort_by_key(|finding| LEVELS.iter().position(|level| *level == finding.level));
    let failed = found.iter().filter(|finding| finding.state == State::Failed);
    let mut failed: Vec<&str> = failed.map(|finding| finding.level).collect();
    failed.dedup();
    let diagnosis = Diagnosis { healthy: failed.is_empty(), findings: found, drift };
    match context.json {
        true => print_document(stdout(), &diagnosis)?,
        false => print_text(stdout(), &text(&diagnosis))?,
    }
    match diagnosis.healthy {
        true => Ok(()),
        false => {
            let cause = format!("not all is well: {}", failed.join(", "));
            Err(Failure::check_failed(cause).remedy("each finding says what to do"))
        }
    }
}

/// In which order they are told: what stands on what.
const LEVELS: [&str; 11] = [
    "connection",
    "source",
    "slot",
    "publication",
    "definitions",
    "archive",
    "schema",
    "version",
    "bootstrap",
    "health",
    "alerts",
];

async fn diagnosed(
    context: &Context,
    source: &Source,
    archive: &Archive,
    settings: &DoctorSettings,
    args: &DoctorArgs,
) -> Result<(Vec<Finding>, Vec<Drift>)> {
    let (mut vitals, unreachable) = vitals::gather(archive, Some(source)).await?;
    if unreachable.is_some() {
        return Ok((of_vitals(&vitals, settings.max_lag), Vec::new()));
    }
    // Asked anew below.
    vitals.health.clear();
    let mut findings = of_vitals(&vitals, settings.max_lag);
    findings.extend(of_source(source).await?);
    findings.extend(healthy("health", examine(source, &settings.health).await?));
    findings.extend(healthy("bootstrap", examine(source, &settings.bootstrap).await?));
    if let Some((sql, wanted)) = &settings.version {
        let found = schema_version(source, sql, wanted).await;
        findings.push(match found {
            Ok(found) if found.passed => Finding::ok("version", found.details),
            Ok(found) => Finding::failed("version", found.details, "run the migrations that are missing"),
            Err(failure) => Finding::of_failure("version", &failure),
        });
    }
    let wanted = args.schema.as_ref().or(settings.schema.as_ref());
    let Some(wanted) = wanted else { return Ok((findings, Vec::new())) };
    let drift = match compared(context, source, archive, wanted, args.scratch.as_deref()).await {
        // What could not be compared has not passed; what was asked wrongly is no finding.
        Err(failure) if failure.category() != Category::Usage => {
            findings.push(Finding::of_failure("schema", &failure));
            return Ok((findings, Vec::new()));
        }
        found => found?,
    };
    findings.push(match drift.len() {
        0 => Finding::ok("schema", format!("the definitions are those of {wanted}")),
        many => {
            let missing = drift.iter().filter(|one| one.found.is_none()).count();
            let details = format!("{many} definitions are not those of {wanted}, {missing} of them missing");
            Finding::failed("schema", details, "run the migrations that are missing; each definition is listed")
        }
    });
    Ok((findings, drift))
}

/// What the server's settings and the role allow.
async fn of_source(source: &Source) -> Result<Vec<Finding>> {
    let session = source.without_waiting().connect("afterimage doctor").await?;
    let facts = source_check::facts(&session).await?;
    let mut findings = vec![match facts.require_archivable() {
        Ok(()) => Finding::ok("source", format!("PostgreSQL {}, wal_level {}", facts.version, facts.wal_level)),
        Err(failure) => Finding::of_failure("source", &failure),
    }];
    for warning in facts.warnings() {
        let (details, remedy) = warning.split_once(": ").unwrap_or((&warning, ""));
        findings.push(Finding::warning("source", details, remedy));
    }
    Ok(findings)
}

fn healthy(level: &'static str, records: Vec<HealthRecord>) -> impl Iterator<Item = Finding> {
    records.into_iter().map(move |record| match record.status {
        HealthStatus::Healthy => Finding::ok(level, record.details),
        _ => {
            let remedy = record.resolution.unwrap_or_else(|| format!("look into it: {}", record.check));
            Finding::failed(level, record.details, remedy)
        }
    })
}

async fn compared(
    context: &Context,
    source: &Source,
    archive: &Archive,
    wanted: &str,
    scratch: Option<&str>,
) -> Result<Vec<Drift>> {
    if Path::new(wanted).exists() {
        let dump = std::fs::read_to_string(wanted).map_err(|error| Failure::usage(format!("{wanted}: {error}")))?;
        return drift(source, &dump, scratch).await;
    }
    let point = Point::parse(wanted, Utc::now()).map_err(|error| {
        Failure::usage(format!("{wanted} is no file, and no point: {error}"))
            .remedy("name a dump (pg_dump --schema-only) or a point of the archive with --schema")
    })?;
    let cut = context.resolve(archive, &point).await?;
    drift_since(source, archive, cut.lsn).await
}

fn text(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    for finding in &diagnosis.findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "FAILED",
        };
        out.push_str(&format!("{:<12}{state:<9}{}\n", finding.level, finding.details));
        if let Some(remedy) = finding.remedy.as_ref().filter(|remedy| !remedy.is_empty()) {
            out.push_str(&format!("{:<21}do: {remedy}\n", ""));
        }
    }
    for drift in &diagnosis.drift {
        let said = match (&drift.expected, &drift.found) {
            (Some(expected), None) => format!("missing, expected {expected}"),
            (None, Some(found)) => format!("not expected, found {found}"),
            (expected, found) => {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("expected {}, found {}", text(expected), text(found))
            }
        };
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        out.push_str(&format!("  {} {}: {said}\n", drift.kind, drift.name));
    }
    out
}
