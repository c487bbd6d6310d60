//! The command line: one file per command. Parsing is pure; looking at the system comes after.

mod chain;
mod check;
mod console;
mod context;
mod demo;
mod diff;
mod doctor;
mod drill;
mod editor;
mod export;
mod findings;
mod gate;
mod guard;
mod guarding;
mod history;
mod incident;
mod init;
mod log;
mod maintain;
mod mark;
mod metrics;
mod outfile;
pub mod output;
mod pager;
mod probes;
mod progress;
mod query;
mod redaction;
mod restore;
mod run;
mod schedule;
mod serve;
mod session;
mod shell;
mod show;
mod sql;
mod state;
mod status;
mod telling;
mod verify;
mod vitals;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

use crate::failure::{Failure, Result};
use crate::telemetry;
use context::Context;

/// Keeps every row change of a PostgreSQL database, for ever, as Parquet, and brings any of it back.
///
/// The archive is a directory or a bucket of Delta Lake tables that any query engine reads.
#[derive(Debug, Parser)]
#[command(name = "afterimage", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Start with: afterimage demo
A point (POINT) is a time with its zone (2025-10-09T14:03:00Z), an age (15m ago), an LSN
(16/B374D848), before:TXN or after:TXN (a transaction's xid or commit LSN, as log lists them),
mark:NAME, or now.
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 a check says no; 4 refused to protect data.")]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Accepted by every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
struct GlobalArgs {
    /// Address of the source database: postgres://user@host/database [env: AFTERIMAGE_SOURCE, DATABASE_URL, PGHOST, …]
    #[arg(long, global = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    source: Option<String>,
    /// Address of a standby of the source that decodes the log in its place (PostgreSQL 16 on) [env: AFTERIMAGE_DECODE_FROM]
    #[arg(long, global = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    decode_from: Option<String>,
    /// Root of the archive: file:///directory or s3://bucket/prefix [env: AFTERIMAGE_ARCHIVE]
    #[arg(long, global = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    archive: Option<String>,
    /// Configuration file; ./afterimage.toml where it exists [env: AFTERIMAGE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    /// How long to wait for the archive where a point is in the source and not yet in it: 10s, 5m
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s")]
    wait: crate::config::Span,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare the source and begin its archive with a first base image of every table
    Init(init::InitArgs),
    /// Archive every change until stopped; runs init first where there is no archive
    Run(run::RunArgs),
    /// Show how far the archive reaches and whether all is well; exit code 3 if not
    Status(status::StatusArgs),
    /// Look at source and archive level by level, and say what to do about each that is not well
    Doctor(doctor::DoctorArgs),
    /// List the archived transactions, newest first
    #[command(after_help = "Examples:
  afterimage log -n 20
  afterimage log --table 'sales.*' --op delete --from '2h ago'
  afterimage log --table orders --where \"status = 'paid'\" --stat
  afterimage log --context user=app --oneline")]
    Log(log::LogArgs),
    /// Show one transaction: who, when, and each row before and after
    #[command(after_help = "Examples:
  afterimage show 742
  afterimage show 0/1A2B3C8 --stat")]
    Show(show::ShowArgs),
    /// Show what happened to one row, newest first
    #[command(after_help = "Examples:
  afterimage history orders 4711
  afterimage history order_lines 4711 3 --from '2h ago'")]
    History(history::HistoryArgs),
    /// Show which rows differ between two points
    #[command(after_help = "Examples:
  afterimage diff --from mark:before-release-7 --stat
  afterimage diff --from before:742 --to after:742 'sales.*'")]
    Diff(diff::DiffArgs),
    /// Show which transaction gave each column of a row its value
    #[command(after_help = "Example:
  afterimage blame orders 4711")]
    Blame(history::HistoryArgs),
    /// Give the present a name, to come back to it later
    #[command(after_help = "Example:
  afterimage mark before-release-7
  afterimage export orders --at mark:before-release-7")]
    Mark(mark::MarkArgs),
    /// Write a table as it was at a point
    #[command(after_help = "Examples:
  afterimage export orders --at '15m ago' >orders.csv
  afterimage export sales.orders --at before:742 --format sql --output orders.sql")]
    Export(export::ExportArgs),
    /// Ask the archive in SQL, one statement or in a shell: tables as they were, their changes, and afterimage.transactions, …
    #[command(after_help = "\
A table's name means its rows at --at, or where the archive is. Other points and histories:
  orders FOR SYSTEM_TIME AS OF 'POINT', as_of('orders', 'POINT')
  changes('orders', 'FROM', 'TO')    each change: _lsn, _seq, _xid, _ts, _op, old, new
  versions('orders', 'FROM', 'TO')   each version of a row, _from and _to when
  diff('orders', 'FROM', 'TO')       what differs: _change, old, new
Without SQL, statements that end in ; and psql's commands (\\d, \\x, \\timing, \\at POINT, \\?) come from the terminal
or from standard input.
Examples:
  afterimage query 'SHOW TABLES'
  afterimage query \"SELECT _ts, _xid, old.id FROM changes('orders') WHERE _op = 'delete' ORDER BY _lsn\"
  afterimage query 'SELECT count(*) FROM sales.orders' --at 2025-10-09T14:00Z
  afterimage query 'SELECT * FROM orders' --format parquet --output orders.parquet
  afterimage query <script.sql")]
    Query(query::QueryArgs),
    /// Print SQL that gives a table's rows at a point, or its changes, on another engine
    #[command(after_help = "\
The engine reads the archive by itself. docs/elsewhere.md says what each needs.
Examples:
  afterimage sql orders --for duckdb --at '15m ago' | duckdb
  afterimage sql orders --for spark --changes --from before:742")]
    Sql(sql::SqlArgs),
    /// Let PostgreSQL's clients (psql, drivers, dashboards) read the archive
    Serve(serve::ServeArgs),
    /// Bring rows back: shows a plan, and performs it with --apply
    Restore(restore::RestoreArgs),
    /// One page about a transaction: who, what, when, what depends on it, and the command that undoes it
    Incident(incident::IncidentArgs),
    /// Which rows would a constraint refuse, those that are there and those that a restore might bring back?
    Check(check::CheckArgs),
    /// Open or close the way for a deployment: before it, and after it; exit code 3 if closed
    Gate(gate::GateArgs),
    /// Rules over what happens in the source: alerts, their acknowledgement, trials over history
    Guard(guard::GuardArgs),
    /// Is the archive whole, and does it hold what the live tables hold? Exit code 3 if not
    Verify(verify::VerifyArgs),
    /// Restore everything for practice, compare every row, and say how long it took; exit code 3 if anything differs
    Drill(drill::DrillArgs),
    /// Merge small files, write base images where they pay, delete what nobody reads any more; run does it too
    Maintain(maintain::MaintainArgs),
    /// The whole story on a private, throw-away PostgreSQL
    Demo(demo::DemoArgs),
}

/// Parses the command line, runs the command, prints the error, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(shown) => {
            explain(&shown);
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

/// Shows what clap has to say. Help and version are not errors.
fn explain(shown: &clap::Error) {
    let text = shown.render().ansi().to_string();
    // A closed terminal is nobody's fault.
    let _ = match shown.use_stderr() {
        true => write!(anstream::stderr(), "{}", redaction::without_passwords(&text)),
        false => write!(anstream::stdout(), "{text}"),
    };
}

/// One line of cause, one line of remedy.
fn report(failure: &Failure) {
    let mut stderr = anstream::stderr().lock();
    let (red, bold, reset) = ("\x1b[31;1m", "\x1b[1m", "\x1b[0m");
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(stderr, "{red}error:{reset} {}", one_line(failure.cause()));
    if let Some(place) = failure.place() {
        let _ = writeln!(stderr, "{}", redaction::without_passwords(&place.excerpt()));
    }
    if let Some(remedy) = failure.remedy_text() {
        let _ = writeln!(stderr, " {bold}help:{reset} {}", one_line(remedy));
    }
}

/// A message of a library or a server may have several lines, and what was mistyped may hold a password.
fn one_line(text: &str) -> String {
    redaction::without_passwords(&text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

async fn run(cli: Cli) -> Result<()> {
    let context = Context::new(&cli.global)?;
    match cli.command {
        Command::Init(args) => init::run(&context, args).await,
        Command::Run(args) => Box::pin(run::run(&context, args)).await,
        Command::Status(args) => status::run(&context, args).await,
        Command::Doctor(args) => Box::pin(doctor::run(&context, args)).await,
        Command::Log(args) => log::run(&context, args).await,
        Command::Show(args) => Box::pin(show::run(&context, args)).await,
        Command::History(args) => Box::pin(history::run(&context, args)).await,
        Command::Diff(args) => Box::pin(diff::run(&context, args)).await,
        Command::Blame(args) => Box::pin(history::blame(&context, args)).await,
        Command::Mark(args) => mark::run(&context, args).await,
        Command::Export(args) => export::run(&context, args).await,
        Command::Query(args) => query::run(&context, args).await,
        Command::Sql(args) => Box::pin(sql::run(&context, args)).await,
        Command::Serve(args) => Box::pin(serve::run(&context, args)).await,
        Command::Restore(args) => Box::pin(restore::run(&context, args)).await,
        Command::Incident(args) => Box::pin(incident::run(&context, args)).await,
        Command::Check(args) => Box::pin(check::run(&context, args)).await,
        Command::Gate(args) => Box::pin(gate::run(&context, args)).await,
        Command::Guard(args) => Box::pin(guard::run(&context, args)).await,
        Command::Verify(args) => verify::run(&context, args).await,
        Command::Drill(args) => drill::run(&context, args).await,
        Command::Maintain(args) => Box::pin(maintain::run(&context, args)).await,
        Command::Demo(args) => Box::pin(demo::run(args)).await,
    }
}

/// Whether a person is looking at stderr, where progress is shown.
fn watched() -> bool {
    std::io::stderr().is_terminal()
}
