//! `afterimage export`.

use std::io::{self, BufWriter, IsTerminal as _, Write, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::context::{Context, parse_pattern, parse_point, single_table};
use super::outfile::OutFile;
use super::output::human;
use super::progress::say;
use crate::config::ByteSize;
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
    /// csv, the default, is byte for byte what COPY … (FORMAT csv, HEADER) writes; sql is INSERT statements;
    /// json is one object per line
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Memory for the keys of changed rows, and as much for files; more keys wait in the system's temporary directory
    #[arg(long, value_name = "SIZE", default_value = "256MB")]
    memory: ByteSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Sql,
    Parquet,
    Json,
}

pub(super) async fn run(context: &Context, args: ExportArgs) -> Result<()> {
    let format = format(args.format, context.json)?;
    if format == ExportFormat::Parquet && args.output.is_none() && stdout().is_terminal() {
        return Err(Failure::usage("parquet is binary and not for a terminal").remedy("name a file with --output"));
    }
    let archive = context.archive().await?;
    let cut = context.resolve(&archive, &args.at).await?;
    let name = single_table(&args.table, archive.tables_ever().await?.keys())?;
    let gone = || Failure::refused(format!("{name} did not exist at {}", cut.point));
    let table = TableAt::at(&archive, &name, &cut).await?.ok_or_else(gone)?.within(args.memory.0 as usize);
    for column in &table.relation().left_out {
        say(&format!("warning: {name}.{column} is a generated column: the source does not publish it, it is left out"));
    }
    let rows = match &args.output {
        None => to_pipe(&table, format, stdout()).await?,
        Some(path) => to_file(&table, format, path).await?,
    };
    if let Some(rows) = rows {
        say(&format!("{name} at {}: {}", cut.describe(), human::rows(rows)));
    }
    Ok(())
}

fn format(asked: Option<Format>, json: bool) -> Result<ExportFormat> {
    match asked {
        Some(other) if json && other != Format::Json => {
            Err(Failure::usage("--json and --format name different formats").remedy("leave one of them out"))
        }
        None if json => Ok(ExportFormat::Json),
        None | Some(Format::Csv) => Ok(ExportFormat::Csv),
        Some(Format::Sql) => Ok(ExportFormat::Sql),
        Some(Format::Parquet) => Ok(ExportFormat::Parquet),
        Some(Format::Json) => Ok(ExportFormat::Json),
    }
}

/// Writes to where somebody reads along; `None` where he has left (`| head`), which is no error.
async fn to_pipe(table: &TableAt, format: ExportFormat, out: impl Write + Send) -> Result<Option<u64>> {
    let mut out = Pipe { out: BufWriter::new(out), reader_left: false };
    match export(table, format, &mut out).await {
        Ok(rows) => Ok(Some(rows)),
        Err(_) if out.reader_left => Ok(None),
        Err(failure) => Err(failure),
    }
}

struct Pipe<W> {
    out: W,
    reader_left: bool,
}

impl<W> Pipe<W> {
    fn noticed<T>(&mut self, written: io::Result<T>) -> io::Result<T> {
        self.reader_left |= written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        written
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.noticed(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.noticed(flushed)
    }
}

/// `None` where it was a pipe whose reader has left.
async fn to_file(table: &TableAt, format: ExportFormat, path: &Path) -> Result<Option<u64>> {
    let mut file = OutFile::create(path)?;
    if file.is_device() {
        return to_pipe(table, format, file).await;
    }
    let rows = export(table, format, &mut file).await.map_err(|failure| failure.context(path.display()))?;
    file.finish()?;
    Ok(Some(rows))
}
