//! `afterimage query`.

use std::path::PathBuf;

use clap::Args;

use super::context::{Context, parse_point};
use super::output::OutputForm;
use super::shell::{Shell, ShellSettings, is_interactive};
use crate::config::ByteSize;
use crate::failure::{Failure, Result};
use crate::model::Point;

#[derive(Debug, Clone, Args)]
pub(super) struct QueryArgs {
    /// One statement that reads, in PostgreSQL's dialect; without it, a shell, or what standard input has
    #[arg(value_name = "SQL")]
    sql: Option<String>,
    /// Where tables are shown that are named without a point; where the archive is, if left out
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    at: Option<Point>,
    /// How rows are printed; a table by default
    #[arg(long, value_enum)]
    format: Option<OutputForm>,
    /// Write the rows to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Memory for sorts, joins and aggregates, which spill to disk beyond it
    #[arg(long, value_name = "SIZE", default_value = "512MB")]
    memory: ByteSize,
}

pub(super) async fn run(context: &Context, args: QueryArgs) -> Result<()> {
    let form = form(args.format, context.json)?;
    let settings = ShellSettings { at: args.at, form, output: args.output, memory: args.memory.0 as usize };
    match args.sql {
        Some(sql) if sql.trim().is_empty() => Err(no_statement()),
        Some(sql) => Shell::new(context, settings).await?.one(&sql).await,
        None if is_interactive() => Shell::new(context, settings).await?.interactive().await,
        None => match Shell::new(context, settings).await?.piped().await? {
            true => Ok(()),
            false => Err(no_statement()),
        },
    }
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
