//! `afterimage check`.

use std::fmt::Write as _;
use std::io::stdout;
use std::path::{Path, PathBuf};

use clap::Args;

use super::context::Context;
use super::output::{human, print_document, print_text};
use crate::failure::{Failure, Result};
use crate::guard::{CheckRequest, Impact, Level, Migration, Proposal, Violations, check, try_migration};
use crate::model::{Point, TableName};

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  afterimage check core_relationships \"smart_code ~ '^HERA\\.'\"
  afterimage check orders 'UNIQUE (tenant_id, number)'
  afterimage check --file migrations/0042.sql
Nothing is changed in the source. The exit code is 3 unless the impact is SAFE, and where a
migration is rejected or rows would be gone after it.")]
pub(super) struct CheckArgs {
    /// The table
    #[arg(value_name = "TABLE", required_unless_present = "file", requires = "constraint")]
    table: Option<String>,
    /// What would stand in CHECK (…); or CHECK (…), UNIQUE (…), NOT NULL column
    #[arg(value_name = "CONSTRAINT")]
    constraint: Option<String>,
    /// A migration instead: it is run in a copy of the archived tables, and what it did there is told
    #[arg(long, value_name = "FILE", conflicts_with_all = ["table", "constraint", "critical", "live_only"])]
    file: Option<PathBuf>,
    /// An empty database to copy the tables into; a throw-away PostgreSQL without it
    #[arg(long, value_name = "URL", requires = "file")]
    scratch: Option<String>,
    /// A row that it must never refuse: an SQL condition; [check] critical in the configuration has more
    #[arg(long, value_name = "CONDITION")]
    critical: Vec<String>,
    /// Archived row versions that are looked at, at most
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    archived_rows: u64,
    /// Judge the live rows alone
    #[arg(long)]
    live_only: bool,
}

pub(super) async fn run(context: &Context, args: CheckArgs) -> Result<()> {
    if let Some(file) = &args.file {
        return migration(context, file, args.scratch.as_deref()).await;
    }
    let (Some(table), Some(constraint)) = (&args.table, &args.constraint) else {
        return Err(Failure::usage("no constraint is named").remedy("afterimage check TABLE 'CONSTRAINT'"));
    };
    let source = context.source()?;
    let archive = if args.live_only { None } else { Some(context.archive().await?) };
    let request = request(context, table, constraint, args.critical, args.archived_rows)?;
    let impact = check(&source, archive.as_ref(), &request).await?;
    match context.json {
        true => print_document(stdout(), &impact)?,
        false => print_text(stdout(), &text(&impact))?,
    }
    verdict(&impact)
}

async fn migration(context: &Context, file: &Path, scratch: Option<&str>) -> Result<()> {
    let sql = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("{}: {error}", file.display())).remedy("name a migration with --file")
    })?;
    let archive = context.archive().await?;
    // As fresh as the source, where that is named and reached; else as the archive has it.
    let point = match context.source_if_named()? {
        Some(_) => Point::Now,
        None => Point::Lsn(archive.watermark().await?.lsn),
    };
    let now = context.resolve(&archive, &point).await?;
    let found = try_migration(&archive, now, &sql, scratch).await?;
    match context.json {
        true => print_document(stdout(), &found)?,
        false => print_text(stdout(), &migration_text(&found))?,
    }
    match (&found.rejected, found.does_harm()) {
        (Some(why), _) => Err(Failure::check_failed(format!("the migration is rejected: {why}"))),
        (None, true) => Err(Failure::check_failed("rows would be gone after the migration")
            .remedy("afterimage gate before NAME marks the point to come back to")),
        (None, false) => Ok(()),
    }
}

fn migration_text(found: &Migration) -> String {
    let (tables, rows) = found.copied;
    let copied = format!("{} with {}", human::counted(tables as u64, "table"), human::rows(rows));
    let mut text = format!("run in a copy of {copied}, in {:.1} s\n", found.seconds);
    for table in &found.tables {
        let gone = if table.dropped { "dropped, " } else { "" };
        text.push_str(&format!(
            "{:<40} {gone}{} inserted, {} updated, {} deleted of {}\n",
            table.table.to_string(),
            human::count(table.inserted),
            human::count(table.updated),
            human::count(table.deleted),
            human::count(table.rows)
        ));
    }
    if found.tables.is_empty() {
        text.push_str("no row is changed\n");
    }
    if let Some(why) = &found.rejected {
        text.push_str(&format!("rejected: {why}\n"));
    }
    text
}

/// A request with what the configuration adds to it.
fn request(
    context: &Context,
    table: &str,
    constraint: &str,
    critical: Vec<String>,
    archived_rows: u64,
) -> Result<CheckRequest> {
    let config = &context.config.check;
    Ok(CheckRequest {
        table: TableName::parse(table).unwrap_or_else(|| TableName::new("public", table)),
        proposal: Proposal::parse(constraint)?,
        critical: config.critical.iter().cloned().chain(critical).collect(),
        steps: config.steps(),
        tenant_columns: context.config.restore.tenant_columns(),
        archived_rows,
    })
}

fn verdict(impact: &Impact) -> Result<()> {
    match impact.level {
        Level::Safe => Ok(()),
        level => Err(Failure::check_failed(format!(
            "the impact is {}: {} rows violate the constraint, {} of them critical",
            level.as_str(),
            impact.live.violating + impact.archived.violating,
            impact.live.critical + impact.archived.critical
        ))
        .remedy(impact.recommendation.clone())),
    }
}

fn text(impact: &Impact) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, impact);
    out
}

fn write(out: &mut String, impact: &Impact) -> std::fmt::Result {
    writeln!(out, "impact         {}", impact.level.as_str())?;
    writeln!(out, "recommendation {}", impact.recommendation)?;
    violations(out, "live rows", &impact.live)?;
    violations(out, "archived", &impact.archived)?;
    if impact.archived_cut_off {
        writeln!(out, "not every archived version was looked at: raise --archived-rows")?;
    }
    Ok(())
}

fn violations(out: &mut String, name: &str, found: &Violations) -> std::fmt::Result {
    let (violating, rows, critical) =
        (human::count(found.violating), human::count(found.rows), human::count(found.critical));
    writeln!(out, "{name:<14} {violating} of {rows} violate it, {critical} of them critical")?;
    for (tenant, rows) in found.tenants.iter().take(10) {
        writeln!(out, "  tenant       {tenant}: {}", human::count(*rows))?;
    }
    for (column, pattern, rows) in &found.patterns {
        writeln!(out, "  pattern      {column} like {pattern:?}: {}", human::count(*rows))?;
    }
    for sample in &found.samples {
        let sample: String = sample.to_string().chars().take(300).collect();
        writeln!(out, "  sample       {sample}")?;
    }
    Ok(())
}
