//! `afterimage query`.

use std::io::{IsTerminal as _, Read as _, stdin, stdout};
use std::sync::Arc;

use clap::Args;

use super::context::{Context, parse_point};
use super::output::{OutputForm, Printer, print_stream};
use super::session::Asking;
use crate::config::ByteSize;
use crate::failure::{Failure, Result};
use crate::model::Point;

#[derive(Debug, Clone, Args)]
pub(super) struct QueryArgs {
    /// One statement that reads, in PostgreSQL's dialect; from standard input where it is left out
    #[arg(value_name = "SQL")]
    sql: Option<String>,
    /// Where tables are shown that are named without a point; where the archive is, if left out
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    at: Option<Point>,
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
    let at = match &args.at {
        Some(point) => Some(context.resolve(&archive, point).await?),
        None => None,
    };
    let asking = Asking::new(context, &archive, at, args.memory.0 as usize).await?;
    let result = asking.session.sql(&sql).await?;
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

fn no_statement() -> Failure {
    Failure::usage("no statement was given")
        .remedy("afterimage query 'SELECT * FROM afterimage.transactions'; SHOW TABLES lists what there is")
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
