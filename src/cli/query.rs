//! `afterimage query`.

use std::io::{IsTerminal as _, Read as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::output::{OutputForm, Printer, print_stream};
use crate::config::ByteSize;
use crate::failure::{Failure, Result};
use crate::query::{ArchivedTables, Limits, Session};

#[derive(Debug, Clone, Args)]
pub(super) struct QueryArgs {
    /// One statement that reads, in PostgreSQL's dialect; from standard input where it is left out
    #[arg(value_name = "SQL")]
    sql: Option<String>,
    /// How rows are printed; a table by default
    #[arg(long, value_enum)]
    format: Option<OutputForm>,
    /// Memory for sorts, joins and aggregates, which spill to disk beyond it
    #[arg(long, value_name = "SIZE", default_value = "512MB")]
    memory: ByteSize,
}

pub(super) async fn run(context: &Context, args: QueryArgs) -> Result<()> {
    let form = form(args.format, context.json)?;
    let sql = match args.sql {
        Some(sql) => sql,
        None => from_stdin()?,
    };
    if sql.trim().is_empty() {
        return Err(no_statement());
    }
    let archive = context.archive().await?;
    let store = archive.store();
    let spill = SpillDirectory::of_this_process(None);
    let limits = Limits { memory_bytes: args.memory.0 as usize, spill_dir: spill.0.clone() };
    let tables = Arc::new(ArchivedTables::now(&archive).await?);
    let session = Session::new(tables, Arc::clone(store.objects()), store.root().clone(), limits)?;
    let result = session.sql(&sql).await?;
    let printer = Printer::new(stdout().lock(), form, Arc::clone(&result.schema), terminal_width());
    print_stream(printer, result.batches).await?;
    Ok(())
}

fn form(asked: Option<OutputForm>, json: bool) -> Result<OutputForm> {
    match asked {
        Some(other) if json && other != OutputForm::Json => {
            Err(Failure::usage("--json and --format name different forms").remedy("leave one of them out"))
        }
        None if json => Ok(OutputForm::Json),
        asked => Ok(asked.unwrap_or_default()),
    }
}

/// Where a query spills to; gone when the query is done.
pub(super) struct SpillDirectory(PathBuf);

impl SpillDirectory {
    /// One of this process alone, in a directory or else in the system's temporary one.
    pub(super) fn of_this_process(below: Option<&Path>) -> SpillDirectory {
        let below = below.map_or_else(std::env::temp_dir, Path::to_owned);
        SpillDirectory(below.join(format!("afterimage-query-{}", std::process::id())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SpillDirectory {
    fn drop(&mut self) {
        // A query that needed no space has made none.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn no_statement() -> Failure {
    Failure::usage("no statement was given")
        .remedy("afterimage query 'SELECT * FROM log.transactions'; SHOW TABLES lists what there is")
}

fn from_stdin() -> Result<String> {
    if stdin().is_terminal() {
        return Err(no_statement());
    }
    let mut sql = String::new();
    stdin().read_to_string(&mut sql).map_err(|error| {
        Failure::usage(format!("reading the statement from standard input: {error}")).remedy("write it in UTF-8")
    })?;
    Ok(sql)
}

/// The width of the terminal that results go to; `None` where they go elsewhere.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(stdout()).map(|(width, _)| width.0.into())
}
