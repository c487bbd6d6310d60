//! `afterimage gate`.

use std::io::stdout;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::context::Context;
use super::mark;
use super::output::{print_document, print_text};
use crate::failure::{Failure, Result};
use crate::guard::{Verdict, drift, gate_after, gate_before, gate_finding};
use crate::history::source_position;
use crate::model::{MarkKind, Point};

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  afterimage gate before release-7 --file deploy/gate.toml
  afterimage gate after  release-7 --file deploy/gate.toml --schema schema.sql --report gate.md
Exit code 3 closes the gate. What is asked is in [gate] of the configuration and in --file.")]
pub(super) struct GateArgs {
    #[command(subcommand)]
    when: When,
}

#[derive(Debug, Clone, Subcommand)]
enum When {
    /// Check that all is well, check the constraints that will be made, and mark the point to come back to
    Before(Asked),
    /// Compare what happened since the mark with what was expected, and check again
    After(Asked),
}

#[derive(Debug, Clone, Args)]
struct Asked {
    /// The deployment's name, which is the mark's
    #[arg(value_name = "NAME", value_parser = mark::parse_name)]
    name: String,
    /// What this deployment is expected to do, in the form of [gate]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A dump of the definitions that the source must have: pg_dump --schema-only
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// An empty database to load it into; a throw-away PostgreSQL without it
    #[arg(long, value_name = "URL")]
    scratch: Option<String>,
    /// Write the report there too, as Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: GateArgs) -> Result<()> {
    match args.when {
        When::Before(asked) => {
            let verdict = before(context, &asked).await?;
            told(context, &asked, &verdict)
        }
        When::After(asked) => {
            let verdict = after(context, &asked).await?;
            told(context, &asked, &verdict)
        }
    }
}

async fn before(context: &Context, asked: &Asked) -> Result<Verdict> {
    let (source, archive) = (context.source()?, context.archive().await?);
    let settings = context.config.gate(asked.file.as_deref(), false)?;
    let mut verdict = gate_before(&source, &archive, &settings, &asked.name).await?;
    verdict = with_drift(context, asked, verdict).await?;
    if !verdict.passed {
        return Ok(verdict);
    }
    let (lsn, archived) = mark::make(context, &source, &archive, &asked.name, MarkKind::Deployment).await?;
    let details = match &archived {
        Ok(()) => format!("mark:{} is made at {lsn}, and archived", asked.name),
        Err(late) => format!("mark:{} is made at {lsn}, and not archived: {late}", asked.name),
    };
    Ok(verdict.with(gate_finding("mark", archived.is_ok(), details)))
}

async fn after(context: &Context, asked: &Asked) -> Result<Verdict> {
    let (source, archive) = (context.source()?, context.archive().await?);
    let settings = context.config.gate(asked.file.as_deref(), true)?;
    // Everything that the deployment did must be in the archive.
    let now = context.resolve(&archive, &Point::Lsn(source_position(&source).await?)).await?;
    let marks = archive.marks(archive.watermark().await?.lsn).await?;
    let mark = marks.iter().find(|mark| mark.name == asked.name).ok_or_else(|| {
        Failure::refused(format!("there is no mark {:?} in the archive", asked.name))
            .remedy(format!("afterimage gate before {} makes it, before the deployment", asked.name))
    })?;
    let verdict = gate_after(&source, &archive, &settings, mark, now.lsn).await?;
    with_drift(context, asked, verdict).await
}

async fn with_drift(context: &Context, asked: &Asked, verdict: Verdict) -> Result<Verdict> {
    let Some(path) = &asked.schema else { return Ok(verdict) };
    let dump = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())).remedy("name a dump with --schema"))?;
    Ok(verdict.with_drift(drift(&context.source()?, &dump, asked.scratch.as_deref()).await?))
}

fn told(context: &Context, asked: &Asked, verdict: &Verdict) -> Result<()> {
    if let Some(path) = &asked.report {
        std::fs::write(path, verdict.markdown())
            .map_err(|error| Failure::failed(format!("writing the report {}: {error}", path.display())))?;
    }
    match context.json {
        true => print_document(stdout(), verdict)?,
        false => print_text(stdout(), &verdict.markdown())?,
    }
    if verdict.passed {
        return Ok(());
    }
    let failed: Vec<&str> =
        verdict.findings.iter().filter(|found| !found.passed).map(|found| found.name.as_str()).collect();
    let failure =
        Failure::check_failed(format!("the gate {} {:?} is closed: {}", verdict.gate, verdict.name, failed.join(", ")));
    Err(match verdict.commands.first() {
        Some(command) => failure.remedy(format!("the plan that takes it back: {command}")),
        None => failure.remedy("the report says what to do about each"),
    })
}
