//! A restore for practice: does what is archived come back, all of it, and how long does that take?

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::archive::{Archive, blocking};
use crate::failure::{Failure, Result};
use crate::history::Cut;
use crate::model::{Lsn, TableName, TablePattern};
use crate::postgres::Source;
use crate::restore::{self, CopyRequest, Elsewhere};
use crate::scratch::{Installation, Launch};
use crate::verification::{Finding, LiveSnapshot, LiveTable, compare_all};

/// How a drill went.
#[derive(Debug, Clone, Serialize)]
pub struct Drilled {
    /// The point that was restored.
    pub point: String,
    pub lsn: Lsn,
    pub tables: usize,
    pub rows: u64,
    /// From the beginning, a throw-away server's start included, to the last row's commit.
    #[serde(rename = "recovery_seconds", serialize_with = "seconds")]
    pub recovery: Duration,
    #[serde(rename = "comparison_seconds", serialize_with = "seconds")]
    pub comparison: Duration,
    /// Tables whose restored rows are not the archived ones.
    pub different: Vec<LiveTable>,
    /// What could not be compared, and why.
    pub not_compared: Vec<Finding>,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Drilled {
    /// How many tables did not come back as they were.
    pub fn objections(&self) -> usize {
        self.different.len() + self.not_compared.len()
    }
}

/// Restores tables as they were into a throw-away PostgreSQL, or into a database that is made for it on a server and dropped
/// afterwards, and compares every row.
///
/// # Errors
/// Where the restore cannot be done, which is what a drill is to find out; a row that came back otherwise is an outcome.
pub async fn drill(archive: &Archive, cut: Cut, tables: Vec<TablePattern>, scratch: Option<&str>) -> Result<Drilled> {
    let started = Instant::now();
    match scratch {
        Some(url) => {
            let server = Source::resolve(Some(url))?;
            let name = format!("afterimage_drill_{}", uuid::Uuid::new_v4().simple());
            let drilled = drill_in(archive, cut, tables, &server.with_database(&name), started).await;
            let session = server.connect("afterimage drill").await?;
            session.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
            drilled
        }
        None => {
            let server = blocking(|| Launch::new(Installation::find(None)?).without_tcp().start()).await?;
            drill_in(archive, cut, tables, &Source::resolve(Some(&server.url("postgres")))?, started).await
        }
    }
}

async fn drill_in(
    archive: &Archive,
    cut: Cut,
    tables: Vec<TablePattern>,
    scratch: &Source,
    started: Instant,
) -> Result<Drilled> {
    let tables = if tables.is_empty() { vec![TablePattern::parse("*.*")?] } else { tables };
    let (point, lsn) = (cut.point.to_string(), cut.lsn);
    let request = CopyRequest { tables, to: cut, filter: None };
    let copied = Box::pin(restore::copy(archive, &request, Elsewhere::Database(scratch))).await?;
    if copied.is_empty() {
        return Err(Failure::check_failed("the archive has no table to restore"));
    }
    let recovery = started.elapsed();
    let comparing = Instant::now();
    let mut snapshot = LiveSnapshot::of_copy(scratch, lsn).await?;
    let names: Vec<&TableName> = copied.iter().map(|table| &table.name).collect();
    let (mut different, not_compared) = compare_all(&mut snapshot, archive, &names, |_| {}).await?;
    different.retain(|table| !table.equal);
    let (tables, rows) = (copied.len(), copied.iter().map(|table| table.rows).sum());
    let comparison = comparing.elapsed();
    Ok(Drilled { point, lsn, tables, rows, recovery, comparison, different, not_compared })
}
