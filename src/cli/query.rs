//! `afterimage query`.

use std::io::{IsTerminal as _, Read as _, stdin, stdout};
use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::output::{OutputForm, Printer, print_stream};
use crate::config::ByteSize;
use crate::failure::{Failure, Result};
use crate::query::{ArchivedTables, Limits, Session};

#[derive(Debug, Clone, Args)]
pub(super) struct QueryArgs {
    /// One reading statement; from standard input where it is left out
    sql: Option<String>,
    /// How rows are printed
    #[arg(long, value_enum, default_value_t)]
    format: OutputForm,
    /// Memory for sorts, joins and aggregates, which spill to disk beyond it
    #[arg(long, value_name = "SIZE", default_value = "512MB")]
    memory: ByteSize,
}

pub(super) async fn run(context: &Context, args: QueryArgs) -> Result<()> {
    let sql = match args.sql {
        Some(sql) => sql,
        None => from_stdin()?,
    };
    let archive = context.archive().await?;
    let store = archive.store();
    let limits = Limits {
        memory_bytes: args.memory.0 as usize,
        spill_dir: std::env::temp_dir().join(format!("afterimage-query-{}", std::process::id())),
    };
    let tables = Arc::new(ArchivedTables::now(&archive).await?);
    let session = Session::new(tables, Arc::clone(store.objects()), store.root().clone(), limits)?;
    let result = session.sql(&sql).await?;
    let form = if context.json { OutputForm::Json } else { args.format };
    let printer = Printer::new(stdout().lock(), form, Arc::clone(&result.schema), terminal_width());
    print_stream(printer, result.batches).await?;
    Ok(())
}

fn from_stdin() -> Result<String> {
    if stdin().is_terminal() {
        return Err(
            Failure::usage("no statement was given").remedy("afterimage query 'SELECT * FROM log.transactions'")
        );
    }
    let mut sql = String::new();
    stdin().read_to_string(&mut sql).map_err(|error| Failure::usage(format!("reading the statement: {error}")))?;
    Ok(sql)
}

/// The width of the terminal that results go to; `None` where they go elsewhere.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(stdout()).map(|(width, _)| width.0.into())
}
