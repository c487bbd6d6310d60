//! `afterimage restore`.

use std::fs;
use std::io::stdout;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::context::{Context, parse_pattern, parse_point};
use super::output::{print_document, print_text};
use super::progress::say;
use crate::archive::Archive;
use crate::config::Span;
use crate::failure::{Failure, Result};
use crate::model::{Point, TablePattern};
use crate::postgres::Source;
use crate::restore::{self, Class, Plan, Report, RestoreRequest};

#[derive(Debug, Clone, Args)]
#[command(after_help = "Without --apply nothing is changed: the plan is shown and saved.")]
pub(super) struct RestoreArgs {
    /// Tables: orders, sales.*, "Quoted"."Name"
    #[arg(value_name = "TABLE", value_parser = parse_pattern, required_unless_present = "plan")]
    tables: Vec<TablePattern>,
    /// The state that is wanted: a time with zone, 15m ago, an LSN, before:TXN, after:TXN, mark:NAME
    #[arg(long, value_name = "POINT", value_parser = parse_point, required_unless_present = "plan")]
    to: Option<Point>,
    /// Only rows to which this happened since
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Only>,
    /// Only rows that meet an SQL condition, as they were at the point (new ones: as they are)
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Perform the plan, in one transaction
    #[arg(long)]
    apply: bool,
    /// Perform exactly this saved plan, or nothing if rows that it touches have changed since
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tables", "to", "only", "filter", "save"], requires = "apply")]
    plan: Option<PathBuf>,
    /// Where the plan is saved; in the user's state directory by default
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    save: Option<PathBuf>,
    /// How long to wait for a lock; 5s by default
    #[arg(long, value_name = "DURATION")]
    lock_timeout: Option<Span>,
    /// Let user triggers fire
    #[arg(long)]
    keep_triggers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Deleted,
    Updated,
    Inserted,
}

impl From<Only> for Class {
    fn from(only: Only) -> Class {
        match only {
            Only::Deleted => Class::Deleted,
            Only::Updated => Class::Updated,
            Only::Inserted => Class::Inserted,
        }
    }
}

pub(super) async fn run(context: &Context, args: RestoreArgs) -> Result<()> {
    let (source, archive) = (context.source()?, context.archive().await?);
    if let Some(path) = &args.plan {
        let plan = saved_plan(path)?;
        return perform(context, &source, &archive, &plan.request()?, Some(&plan)).await;
    }
    let apply = args.apply;
    let save = args.save.clone();
    let request = request(context, &archive, args).await?;
    if apply {
        return perform(context, &source, &archive, &request, None).await;
    }
    let plan = restore::plan(&source, &archive, &request).await?;
    if context.json {
        print_document(stdout(), &plan)?
    } else {
        print_text(stdout(), &plan.to_string())?
    }
    if plan.total().rows() == 0 && save.is_none() {
        return Ok(());
    }
    let path = save_plan(&plan, save)?;
    say(&format!(
        "To perform exactly this plan, if none of its rows has changed by then:\n  afterimage restore --plan {} --apply",
        path.display()
    ));
    Ok(())
}

async fn request(context: &Context, archive: &Archive, args: RestoreArgs) -> Result<RestoreRequest> {
    let to = args.to.ok_or_else(|| Failure::usage("no point is named").remedy("add --to POINT"))?;
    // First the present, so that a point that names something recent is in the archive too.
    let now = context.resolve(archive, &Point::Now).await?;
    let to = context.resolve(archive, &to).await?;
    let mut request = RestoreRequest::new(args.tables, to, now);
    request.only = args.only.into_iter().map(Class::from).collect();
    request.filter = args.filter;
    request.disable_user_triggers = !args.keep_triggers;
    if let Some(span) = args.lock_timeout.or(context.config.restore.lock_timeout) {
        request.lock_timeout = span.0;
    }
    Ok(request)
}

async fn perform(
    context: &Context,
    source: &Source,
    archive: &Archive,
    request: &RestoreRequest,
    expected: Option<&Plan>,
) -> Result<()> {
    let report: Report = restore::apply(source, archive, request, expected).await?;
    if context.json {
        print_document(stdout(), &report)?
    } else {
        print_text(stdout(), &report.to_string())?
    }
    if report.complete() {
        return Ok(());
    }
    Err(Failure::check_failed("not everything that was asked for could be restored")
        .remedy("the report above says what was left out, and why"))
}

fn saved_plan(path: &Path) -> Result<Plan> {
    let json = fs::read(path).map_err(|error| {
        Failure::usage(format!("plan {}: {error}", path.display())).remedy("name a file that restore has saved")
    })?;
    Plan::from_json(&json).map_err(|failure| failure.context(format_args!("plan {}", path.display())))
}

fn save_plan(plan: &Plan, named: Option<PathBuf>) -> Result<PathBuf> {
    let path = named.unwrap_or_else(|| state_directory().join(format!("plan-{}.json", &plan.digest()[..12])));
    let fail = |error: std::io::Error| {
        Failure::failed(format!("saving the plan as {}: {error}", path.display()))
            .remedy("name another file with --save")
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(fail)?;
    }
    fs::write(&path, plan.to_json()?).map_err(fail)?;
    Ok(path)
}

/// Where a user's programs keep what they remember (XDG base directories); the temporary directory where there is no home.
fn state_directory() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("afterimage")
}
