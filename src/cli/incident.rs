//! `afterimage incident`: one page for 3 a.m.

use std::fmt::Write as _;
use std::io::stdout;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::Value as Json;

use super::context::{Context, parse_point};
use super::output::{human, print_document, print_text};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::shown_time;
use crate::model::{DdlRecord, Lsn, OperationCounts, Point, Said, TableName, Transaction, Xid, one_line};
use crate::postgres::Source;
use crate::restore::{self, Conflict, Goal, OnConflict, OnReject, Plan, Rejection, RestoreRequest, TenantCount};

#[derive(Debug, Clone, Args)]
#[command(after_help = "Nothing is changed: the page ends with the command that brings the rows back.")]
pub(super) struct IncidentArgs {
    /// The transaction: its xid or commit LSN, as log lists them
    #[arg(value_name = "TXN", value_parser = parse_transaction)]
    transaction: Point,
}

fn parse_transaction(text: &str) -> std::result::Result<Point, String> {
    parse_point(&format!("before:{text}"))
}

/// What is known of an incident.
#[derive(Debug, Serialize)]
struct Page {
    lsn: Lsn,
    xid: Xid,
    time: String,
    who: Option<String>,
    /// What the session says of itself, unverified.
    claims: Vec<String>,
    context: Option<Json>,
    statements: Vec<String>,
    tables: Vec<Table>,
    tenants: Vec<TenantCount>,
    conflicts: Vec<Conflict>,
    rejections: Vec<Rejection>,
    rows_to_restore: u64,
    /// The tables that it changed along, by foreign keys.
    command: String,
    seconds: f64,
    estimated_from: String,
}

#[derive(Debug, Serialize)]
struct Table {
    name: TableName,
    #[serde(flatten)]
    counts: OperationCounts,
}

pub(super) async fn run(context: &Context, args: IncidentArgs) -> Result<()> {
    let (source, archive) = (context.source()?, context.archive().await?);
    let (page, _) = page(context, &source, &archive, &args.transaction).await?;
    match context.json {
        true => print_document(stdout(), &page),
        false => print_text(stdout(), &page.text()),
    }
}

/// The same for the console, with the plan that it was made of.
pub(super) async fn told(context: &Context, source: &Source, archive: &Archive, transaction: &Point) -> Result<Json> {
    let (page, plan) = page(context, source, archive, transaction).await?;
    let untellable = |error: serde_json::Error| Failure::failed(format!("telling of an incident: {error}"));
    let mut told = serde_json::to_value(&page).map_err(untellable)?;
    told["plan"] = serde_json::to_value(&plan).map_err(untellable)?;
    Ok(told)
}

async fn page(context: &Context, source: &Source, archive: &Archive, transaction: &Point) -> Result<(Page, Plan)> {
    let now = context.resolve(archive, &Point::Now).await?;
    let to = context.resolve(archive, transaction).await?;
    let mut request = RestoreRequest::new(Vec::new(), to.clone(), now.clone());
    request.goal = Goal::Undo { transactions: vec![to.lsn], on_conflict: OnConflict::Abort };
    request.tenant_columns = context.config.restore.tenant_columns();
    let started = Instant::now();
    let mut plan = restore::plan(source, archive, &request).await?;
    let planning = started.elapsed();
    let transactions = archive.transactions(now.lsn).await?;
    let transaction = transactions.into_iter().find(|transaction| transaction.commit.lsn == to.lsn);
    let transaction =
        transaction.ok_or_else(|| Failure::refused(format!("the archive has no transaction {}", to.lsn)))?;
    let ddl: Vec<DdlRecord> =
        archive.ddl(now.lsn).await?.into_iter().filter(|record| record.position.lsn == to.lsn).collect();
    let (duration, estimated_from) = estimate(archive, &plan, planning, now.lsn).await?;
    get_past(&mut plan);
    Ok((Page::of(&transaction, &ddl, plan.clone(), duration, estimated_from), plan))
}

/// Chooses what the shown command does about what stands in its way.
fn get_past(plan: &mut Plan) {
    if !plan.conflicts.is_empty() {
        plan.options.on_conflict = OnConflict::Skip;
    }
    if !plan.rejections.is_empty() {
        let all = plan.rejections.iter().all(|rejection| rejection.can_be_not_valid);
        plan.options.on_reject = if all { OnReject::NotValid } else { OnReject::Quarantine };
    }
}

/// How long a restore of so many rows takes: as fast as the last large one into this source, or, where there was none, as
/// long as its rows took to be read just now, and once more to be written.
async fn estimate(archive: &Archive, plan: &Plan, planning: Duration, now: Lsn) -> Result<(Duration, String)> {
    const LARGE: u64 = 1000;
    let rows = plan.total().rows();
    for record in archive.restores(now).await?.into_iter().rev() {
        let Ok(report) = serde_json::from_str::<Json>(&record.report) else { continue };
        let count = |name: &str| {
            let tables = report["tables"].as_array().into_iter().flatten();
            tables.filter_map(|table| table[name].as_u64()).sum::<u64>()
        };
        let restored = count("inserted") + count("updated") + count("deleted");
        if let (Some(seconds), true) = (report["seconds"].as_f64(), restored >= LARGE) {
            let rate = restored as f64 / seconds.max(0.001);
            let text = format!("{} rows/s, the restore of {}", human::count(rate as u64), shown_time(record.time));
            return Ok((Duration::from_secs_f64(rows as f64 / rate), text));
        }
    }
    Ok((2 * planning, "the time that its rows took to be read and compared".to_owned()))
}

impl Page {
    fn of(transaction: &Transaction, ddl: &[DdlRecord], plan: Plan, time: Duration, estimated_from: String) -> Page {
        let context: Option<Json> = transaction.context.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let said = Said::of(transaction);
        let mut statements: Vec<String> =
            ddl.iter().filter_map(|record| record.statement.clone()).chain(said.statements()).collect();
        statements.dedup();
        Page {
            lsn: transaction.commit.lsn,
            xid: transaction.commit.xid,
            time: shown_time(transaction.commit.time),
            who: said.who().or_else(|| ddl.iter().find_map(|record| record.user.clone())),
            claims: said.claims(),
            context,
            statements,
            tables: transaction
                .tables
                .iter()
                .map(|(name, counts)| Table { name: name.clone(), counts: *counts })
                .collect(),
            command: plan.command(),
            rows_to_restore: plan.total().rows(),
            tenants: plan.tenants,
            conflicts: plan.conflicts,
            rejections: plan.rejections,
            seconds: time.as_secs_f64(),
            estimated_from,
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "INCIDENT  transaction {}, commit LSN {}", self.xid, self.lsn)?;
        writeln!(out, "when      {}", self.time)?;
        writeln!(
            out,
            "who       {}",
            self.who.as_deref().unwrap_or("unknown: the log does not say, and nothing else was captured")
        )?;
        self.claims.iter().take(5).try_for_each(|claim| writeln!(out, "claims    {}", one_line(claim, 200)))?;
        match self.statements.is_empty() {
            true => writeln!(out, "how       unknown: its statements were not captured")?,
            false => self
                .statements
                .iter()
                .take(5)
                .try_for_each(|statement| writeln!(out, "how       {}", one_line(statement, 200)))?,
        }
        for (at, table) in self.tables.iter().enumerate() {
            let head = if at == 0 { "what" } else { "" };
            writeln!(out, "{head:<10}{} {}", table.name, counts(&table.counts))?;
        }
        if self.tables.is_empty() {
            writeln!(out, "what      no rows")?;
        }
        for (at, tenant) in self.tenants.iter().take(10).enumerate() {
            let head = if at == 0 { "tenants" } else { "" };
            let (rows, value) = (human::count(tenant.rows), tenant.value.as_deref().unwrap_or("NULL"));
            writeln!(out, "{head:<10}{}={value}: {rows} rows of {}", tenant.column, tenant.table)?;
        }
        if self.tenants.len() > 10 {
            writeln!(out, "          and {} more", self.tenants.len() - 10)?;
        }
        self.write_obstacles(out)?;
        writeln!(out, "\nTo restore {} rows:\n  {}", human::count(self.rows_to_restore), self.command)?;
        writeln!(out, "It will take about {:.1} s, by {}.", self.seconds, self.estimated_from)
    }

    fn write_obstacles(&self, out: &mut String) -> std::fmt::Result {
        match self.conflicts.len() {
            0 => writeln!(out, "since     no later transaction depends on it")?,
            many => writeln!(out, "since     {many} later writes depend on it:")?,
        }
        for conflict in self.conflicts.iter().take(10) {
            let xid = conflict.xid.map_or(String::new(), |xid| format!(" (xid {xid})"));
            let (how, rows) = (conflict.how.as_str(), human::count(conflict.rows));
            writeln!(out, "          {}{xid} {how}: {rows} of {}", conflict.lsn, conflict.table)?;
        }
        match self.rejections.is_empty() {
            true => writeln!(out, "rules     every row is admitted by the constraints of today")?,
            false => writeln!(out, "rules     constraints of today forbid:")?,
        }
        for rejection in &self.rejections {
            let since = rejection.since.as_ref().map_or(String::new(), |since| {
                format!(", since transaction {}", since.xid.map_or(since.lsn.to_string(), |xid| xid.to_string()))
            });
            let (rows, kind) = (human::count(rejection.rows), rejection.kind.as_str());
            writeln!(out, "          {rows} rows of {} by {kind} {}{since}", rejection.table, rejection.name)?;
        }
        Ok(())
    }
}

fn counts(counts: &OperationCounts) -> String {
    let named = [
        (counts.insert, "inserted"),
        (counts.update, "updated"),
        (counts.delete, "deleted"),
        (counts.truncate, "truncations"),
    ];
    let shown =
        named.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", human::count(*count)));
    shown.collect::<Vec<_>>().join(", ")
}
