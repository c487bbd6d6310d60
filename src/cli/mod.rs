//! The command line: one file per command. Parsing is pure; looking at the system comes after.

mod context;
mod demo;
mod export;
mod init;
mod log;
mod mark;
pub mod output;
mod progress;
mod query;
mod restore;
mod run;
mod status;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::failure::{Failure, Result};
use crate::telemetry;
use context::Context;

/// Keeps every row change of a PostgreSQL database, for ever, as Parquet, and brings any of it back.
///
/// The archive is a directory or a bucket of Delta Lake tables that any query engine reads.
#[derive(Debug, Parser)]
#[command(name = "afterimage", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Start with: afterimage demo\nExit codes: 0 done; 1 failed; 2 wrong usage; 3 a check says no; 4 refused to protect data."
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Accepted by every command.
#[derive(Debug, Clone, Args)]
struct GlobalArgs {
    /// Connection URL of the source database [env: AFTERIMAGE_SOURCE, DATABASE_URL, PGHOST, PGDATABASE, …]
    #[arg(long, global = true, value_name = "URL")]
    source: Option<String>,
    /// Root of the archive: file:///directory or s3://bucket/prefix [env: AFTERIMAGE_ARCHIVE]
    #[arg(long, global = true, value_name = "URL")]
    archive: Option<String>,
    /// Configuration file; afterimage.toml where there is one [env: AFTERIMAGE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    /// How long to wait until the archive has what the source has: 10s, 5m
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s")]
    wait: crate::config::Span,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare the source and take the first base image
    Init(init::InitArgs),
    /// Archive continuously; runs init first where there is no archive
    Run(run::RunArgs),
    /// Show how far the archive is and whether all is well
    Status(status::StatusArgs),
    /// List transactions, newest first
    Log(log::LogArgs),
    /// Give the present a name
    Mark(mark::MarkArgs),
    /// Write a table as it was at a point
    Export(export::ExportArgs),
    /// SQL over the archive's tables: changes.*, images.*, log.*
    Query(query::QueryArgs),
    /// Bring rows back: shows a plan, and performs it with --apply
    Restore(restore::RestoreArgs),
    /// The whole story on a private, throw-away PostgreSQL
    Demo(demo::DemoArgs),
}

/// Parses the command line, runs the command, prints the error, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(shown) => {
            // Help and version are not errors; a closed terminal is nobody's fault.
            let _ = shown.print();
            return ExitCode::from(if shown.use_stderr() { 2 } else { 0 });
        }
    };
    telemetry::start_logging();
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(run(cli));
        // Reads that were given up must not hold the exit up.
        runtime.shutdown_timeout(std::time::Duration::from_millis(100));
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            ExitCode::from(failure.category().exit_code())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("afterimage")
        .build()
        .map_err(|error| Failure::failed(format!("starting threads: {error}")))
}

/// One line of cause, one line of remedy.
fn report(failure: &Failure) {
    let mut stderr = anstream::stderr().lock();
    let (red, bold, reset) = ("\x1b[31;1m", "\x1b[1m", "\x1b[0m");
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(stderr, "{red}error:{reset} {}", failure.cause());
    if let Some(remedy) = failure.remedy_text() {
        let _ = writeln!(stderr, " {bold}help:{reset} {remedy}");
    }
}

async fn run(cli: Cli) -> Result<()> {
    let context = Context::new(&cli.global)?;
    match cli.command {
        Command::Init(args) => init::run(&context, args).await,
        Command::Run(args) => Box::pin(run::run(&context, args)).await,
        Command::Status(args) => status::run(&context, args).await,
        Command::Log(args) => log::run(&context, args).await,
        Command::Mark(args) => mark::run(&context, args).await,
        Command::Export(args) => export::run(&context, args).await,
        Command::Query(args) => query::run(&context, args).await,
        Command::Restore(args) => Box::pin(restore::run(&context, args)).await,
        Command::Demo(args) => Box::pin(demo::run(args)).await,
    }
}

/// Whether a person is looking at stderr, where progress is shown.
fn watched() -> bool {
    std::io::stderr().is_terminal()
}
