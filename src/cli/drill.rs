//! `afterimage drill`.

use std::io::stdout;
use std::time::Duration;

use clap::Args;

use super::context::{Context, parse_pattern, parse_point};
use super::output::human::{counted, duration, rows};
use super::output::{print_document, print_text};
use crate::archive::{Archive, note_health};
use crate::failure::{Failure, Result};
use crate::model::{HealthRecord, Point, TablePattern};
use crate::recovery::{Drilled, drill};

/// What the outcome is called among the health checks.
pub(super) const CHECK: &str = "drill";

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  afterimage drill
  afterimage drill 'sales.*' --at '1d ago' --scratch postgres://dba@spare/postgres
The source is not touched. The outcome is noted in the archive's health, which status, doctor and the
metrics show. The exit code is 3 where anything did not come back as it was.")]
pub(super) struct DrillArgs {
    /// Only these tables: orders, sales.*
    #[arg(value_name = "TABLE", value_parser = parse_pattern)]
    tables: Vec<TablePattern>,
    /// The point to restore; where the archive is, if left out
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    at: Option<Point>,
    /// Restore into a database made for it on this server, and dropped afterwards, instead of a throw-away PostgreSQL
    #[arg(long, value_name = "URL")]
    scratch: Option<String>,
}

pub(super) async fn run(context: &Context, args: DrillArgs) -> Result<()> {
    let archive = context.archive().await?;
    let point = match args.at {
        Some(point) => point,
        None => Point::Lsn(archive.watermark().await?.lsn),
    };
    let cut = context.resolve(&archive, &point).await?;
    let scratch = args.scratch.or_else(|| context.config.drill.scratch.clone());
    let drilled = recorded(&archive, drill(&archive, cut, args.tables, scratch.as_deref()).await).await?;
    match context.json {
        true => print_document(stdout(), &drilled)?,
        false => print_text(stdout(), &text(&drilled))?,
    }
    match drilled.objections() {
        0 => Ok(()),
        objections => {
            Err(Failure::check_failed(format!("{} did not come back as it was", counted(objections as u64, "table")))
                .remedy("afterimage verify says whether the archive is whole"))
        }
    }
}

/// Notes how a drill went, above all where it could not be done.
pub(super) async fn recorded(archive: &Archive, drilled: Result<Drilled>) -> Result<Drilled> {
    let (objections, details) = match &drilled {
        Ok(drilled) => (drilled.objections(), summary(drilled)),
        Err(failure) => (1, failure.to_string()),
    };
    let resolution = "afterimage drill says what did not come back; afterimage verify whether the archive is whole";
    let record = HealthRecord::of_proof(CHECK, objections, details, resolution.to_owned());
    note_health(archive.store(), &[record]).await?;
    drilled
}

/// One line.
fn summary(drilled: &Drilled) -> String {
    let tables = counted(drilled.tables as u64, "table");
    let back =
        format!("{tables} with {} of {} in {}", rows(drilled.rows), drilled.point, duration(rounded(drilled.recovery)));
    match drilled.objections() {
        0 => format!("restored {back}; every row is the archived one"),
        objections => format!("restored {back}; {} not as archived", counted(objections as u64, "table")),
    }
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(duration.as_millis() as u64)
}

fn text(drilled: &Drilled) -> String {
    let mut text = format!("{}\n", summary(drilled));
    text.push_str(&format!("compared in {}\n", duration(rounded(drilled.comparison))));
    for table in &drilled.different {
        text.push_str(&format!(
            "{}: {} differ, {} did not come back, {} are too many\n",
            table.table, table.different, table.surplus, table.missing
        ));
        table.samples.iter().for_each(|sample| text.push_str(&format!("  {sample}\n")));
    }
    for finding in &drilled.not_compared {
        text.push_str(&format!("{} could not be compared: {}\n", finding.subject, finding.finding));
    }
    text
}
