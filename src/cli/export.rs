//! `afterimage export`.

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::context::{Context, parse_pattern, parse_point, single_table};
use super::output::human;
use super::progress::say;
use crate::failure::{Failure, Result};
use crate::history::{ExportFormat, TableAt, export};
use crate::model::{Point, TablePattern};

#[derive(Debug, Clone, Args)]
pub(super) struct ExportArgs {
    /// The table: orders, sales.orders, "Quoted"."Name"
    #[arg(value_parser = parse_pattern)]
    table: TablePattern,
    /// As it was here: a time with zone, 15m ago, an LSN, before:TXN, after:TXN, mark:NAME, now
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    at: Point,
    /// csv is byte for byte what COPY … (FORMAT csv, HEADER) writes
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Sql,
    Parquet,
    Json,
}

pub(super) async fn run(context: &Context, args: ExportArgs) -> Result<()> {
    let archive = context.archive().await?;
    let cut = context.resolve(&archive, &args.at).await?;
    let tables = archive.tables_at(cut.lsn).await?;
    let name = single_table(&args.table, tables.keys())?;
    let table = TableAt::find(&archive, &name, cut.lsn).await?.ok_or_else(|| {
        Failure::refused(format!("{name} did not exist at {}", cut.point)).remedy("choose a later point")
    })?;
    for column in &table.relation().left_out {
        say(&format!("warning: {name}.{column} is a generated column: the source does not publish it, it is left out"));
    }
    let format = match args.format {
        _ if context.json => ExportFormat::Json,
        Format::Csv => ExportFormat::Csv,
        Format::Sql => ExportFormat::Sql,
        Format::Parquet => ExportFormat::Parquet,
        Format::Json => ExportFormat::Json,
    };
    let rows = match &args.output {
        None => export(&table, format, &mut BufWriter::new(stdout())).await?,
        Some(path) => to_file(&table, format, path).await?,
    };
    say(&format!("{name} at {}: {}", cut.describe(), human::rows(rows)));
    Ok(())
}

/// Writes beside the target and renames, so that a half-written export never has the name asked for.
async fn to_file(table: &TableAt, format: ExportFormat, path: &Path) -> Result<u64> {
    let fail = |error: std::io::Error| Failure::failed(format!("writing {}: {error}", path.display()));
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut out = BufWriter::new(File::create(&partial).map_err(fail)?);
    let rows = match export(table, format, &mut out).await {
        Ok(rows) => rows,
        Err(failure) => {
            // The failure matters more than what it leaves.
            let _ = std::fs::remove_file(&partial);
            return Err(failure);
        }
    };
    out.flush().map_err(fail)?;
    std::fs::rename(&partial, path).map_err(fail)?;
    Ok(rows)
}
