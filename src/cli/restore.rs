//! `afterimage restore`.

use std::fs;
use std::io::stdout;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::context::{Context, parse_pattern, parse_point, single_table};
use super::output::{print_document, print_text};
use super::progress::say;
use crate::archive::Archive;
use crate::config::Span;
use crate::failure::{Failure, Result};
use crate::history::Cut;
use crate::model::{Point, TablePattern};
use crate::postgres::Source;
use crate::restore::{
    self, Class, CopyRequest, Elsewhere, Goal, Mapping, OnConflict, OnReject, Outcome, Owner, Plan, Rejection,
    RestoreRequest,
};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without --apply nothing is changed: the plan is shown and saved.
Examples:
  afterimage restore orders --to '15m ago' --only deleted
  afterimage restore --undo 742 --on-reject quarantine --apply
  afterimage restore --entity customers 4711 --to before:742 --with-parents --apply
  afterimage restore 'tenant_7.*' --to before:742 --into tenant_7_then --apply")]
pub(super) struct RestoreArgs {
    /// Tables: orders, sales.*, "Quoted"."Name"
    #[arg(value_name = "TABLE", value_parser = parse_pattern, required_unless_present_any = ["plan", "quarantined", "undo", "tenant", "entity"])]
    tables: Vec<TablePattern>,
    /// The state that is wanted: a time with zone, 15m ago, an LSN, before:TXN, after:TXN, mark:NAME
    #[arg(long, value_name = "POINT", value_parser = parse_point, required_unless_present_any = ["plan", "quarantined", "undo"])]
    to: Option<Point>,
    /// Only rows to which this happened since
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Only>,
    /// Only rows that meet an SQL condition, as they were at the point (new ones: as they are)
    #[arg(long = "where", value_name = "SQL")]
    filter: Option<String>,
    /// Undo exactly these transactions (xid or commit LSN), whoever came after; tables named restrict it
    #[arg(long, value_name = "TXN", value_delimiter = ',', value_parser = parse_transaction, conflicts_with_all = ["to", "quarantined"])]
    undo: Vec<Point>,
    /// What to do where later transactions wrote the same rows, or hang on them
    #[arg(long, value_enum, default_value = "abort", value_name = "WHAT", requires = "undo")]
    on_conflict: Conflicting,
    /// Rows that an earlier restore put into quarantine, instead of those of a point
    #[arg(long, conflicts_with_all = ["to", "only"])]
    quarantined: bool,
    /// Only rows of this tenant: by the columns that restore.tenant_columns names, or by the rows that they refer to
    #[arg(long, value_name = "TENANT", conflicts_with = "quarantined")]
    tenant: Option<String>,
    /// One row and everything below it, by foreign keys: --entity core_entities 4711
    #[arg(long, num_args = 2, value_names = ["TABLE", "KEY"], conflicts_with_all = ["tables", "tenant", "undo", "quarantined"])]
    entity: Vec<String>,
    /// Bring back what restored rows refer to as well, where it is gone
    #[arg(long, conflicts_with = "quarantined")]
    with_parents: bool,
    /// What becomes of rows that a constraint of today forbids
    #[arg(long, value_enum, default_value = "abort", value_name = "WHAT")]
    on_reject: Rejected,
    /// Transform a column on the way in: 'code = lower(code)', or 'table.code = …'; can be repeated
    #[arg(long = "map", value_name = "COLUMN = SQL", value_parser = parse_mapping)]
    maps: Vec<Mapping>,
    /// Into this schema beside the live tables, which stay as they are: whole tables as they were
    #[arg(long, value_name = "SCHEMA", requires = "apply", conflicts_with_all = IN_PLACE)]
    into: Option<String>,
    /// Into another database, made where it is not there: whole tables as they were
    #[arg(long, value_name = "URL", requires = "apply", conflicts_with_all = IN_PLACE, conflicts_with = "into")]
    target: Option<String>,
    /// As SQL that psql runs anywhere: whole tables as they were
    #[arg(long, value_name = "FILE", conflicts_with_all = IN_PLACE, conflicts_with_all = ["into", "target", "apply"])]
    output: Option<PathBuf>,
    /// Perform the plan, in one transaction
    #[arg(long)]
    apply: bool,
    /// Perform exactly this saved plan, or nothing if rows that it touches have changed since
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tables", "to", "only", "filter", "save", "quarantined", "undo", "maps", "tenant", "entity", "with_parents"], requires = "apply")]
    plan: Option<PathBuf>,
    /// Where the plan is saved; in the user's state directory by default
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    save: Option<PathBuf>,
    /// In transactions of so many rows at most, for very large damage; stopped, it goes on where it was when run again
    #[arg(long, value_name = "N", requires = "apply", value_parser = clap::value_parser!(u64).range(1..))]
    batch_rows: Option<u64>,
    /// Refuse to touch more rows than this
    #[arg(long, value_name = "N")]
    max_rows: Option<u64>,
    /// How long a statement may run; for ever by default
    #[arg(long, value_name = "DURATION")]
    statement_timeout: Option<Span>,
    /// How long to wait for a lock; 5s by default
    #[arg(long, value_name = "DURATION")]
    lock_timeout: Option<Span>,
    /// Let user triggers fire
    #[arg(long)]
    keep_triggers: bool,
}

/// What makes sense only where the live tables are.
const IN_PLACE: [&str; 9] =
    ["only", "undo", "quarantined", "tenant", "entity", "with_parents", "maps", "plan", "keep_triggers"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Deleted,
    Updated,
    Inserted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rejected {
    /// Nothing is restored
    Abort,
    /// They go into the side table afterimage_quarantine.rows, with the reason
    Quarantine,
    /// CHECKs and foreign keys that forbid them become NOT VALID
    NotValid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Conflicting {
    /// Nothing is undone; the plan names each such transaction
    Abort,
    /// Those rows stay as they are
    Skip,
    /// Those transactions are undone too
    Cascade,
}

impl From<Conflicting> for OnConflict {
    fn from(conflicting: Conflicting) -> OnConflict {
        match conflicting {
            Conflicting::Abort => OnConflict::Abort,
            Conflicting::Skip => OnConflict::Skip,
            Conflicting::Cascade => OnConflict::Cascade,
        }
    }
}

/// Reads a transaction as the point before it.
fn parse_transaction(text: &str) -> std::result::Result<Point, String> {
    parse_point(&format!("before:{text}"))
}

impl From<Rejected> for OnReject {
    fn from(rejected: Rejected) -> OnReject {
        match rejected {
            Rejected::Abort => OnReject::Abort,
            Rejected::Quarantine => OnReject::Quarantine,
            Rejected::NotValid => OnReject::NotValid,
        }
    }
}

fn parse_mapping(text: &str) -> std::result::Result<Mapping, String> {
    Mapping::parse(text).map_err(|failure| failure.to_string())
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
        let request = RestoreRequest { max_rows: args.max_rows, batch_rows: args.batch_rows, ..plan.request()? };
        return perform(context, &source, &archive, &request, Some(&plan)).await;
    }
    if args.into.is_some() || args.target.is_some() || args.output.is_some() {
        return elsewhere(context, &source, &archive, args).await;
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
    // First the present, so that a point that names something recent is in the archive too.
    let now = context.resolve(archive, &Point::Now).await?;
    let (mut undone, mut first) = (Vec::new(), None::<Cut>);
    for transaction in &args.undo {
        let cut = context.resolve(archive, transaction).await?;
        undone.push(cut.lsn);
        first = first.into_iter().chain([cut]).min_by_key(|cut| cut.lsn);
    }
    let to = match args.to {
        None if first.is_some() => first.unwrap_or_else(|| now.clone()),
        Some(to) => context.resolve(archive, &to).await?,
        None if args.quarantined => now.clone(),
        None => return Err(Failure::usage("no point is named").remedy("add --to POINT")),
    };
    let mut tables = args.tables;
    if tables.is_empty() && args.tenant.is_some() && undone.is_empty() {
        tables.push(TablePattern::parse("*.*")?);
    }
    let owner = match (args.tenant, args.entity.as_slice()) {
        (Some(tenant), _) => Some(Owner::Tenant(tenant)),
        (None, [table, key]) => {
            let known = archive.tables_before(to.lsn).await?;
            let table = single_table(&TablePattern::parse(table)?, known.keys())?;
            Some(Owner::Entity { table, key: key.clone() })
        }
        _ => None,
    };
    let mut request = RestoreRequest::new(tables, to, now);
    request.owner = owner;
    request.tenant_columns = context.config.restore.tenant_columns();
    request.with_parents = args.with_parents;
    request.max_rows = args.max_rows;
    request.batch_rows = args.batch_rows;
    request.statement_timeout = args.statement_timeout.map(|span| span.0);
    request.only = args.only.into_iter().map(Class::from).collect();
    request.filter = args.filter;
    request.on_reject = args.on_reject.into();
    request.maps = args.maps;
    if !undone.is_empty() {
        request.goal = Goal::Undo { transactions: undone, on_conflict: args.on_conflict.into() };
    } else if args.quarantined {
        request.goal = Goal::Quarantined;
    }
    request.disable_user_triggers = !args.keep_triggers;
    if let Some(span) = args.lock_timeout.or(context.config.restore.lock_timeout) {
        request.lock_timeout = span.0;
    }
    Ok(request)
}

/// Copies tables as they were to where they disturb nobody.
async fn elsewhere(context: &Context, source: &Source, archive: &Archive, args: RestoreArgs) -> Result<()> {
    let to = args.to.ok_or_else(|| Failure::usage("no point is named").remedy("add --to POINT"))?;
    let to = context.resolve(archive, &to).await?;
    let request = CopyRequest { tables: args.tables, to, filter: args.filter };
    let (copied, place) = match (args.into, args.target, args.output) {
        (Some(schema), _, _) => {
            let place = format!("schema {schema}");
            (restore::copy(archive, &request, Elsewhere::Schema(source, schema)).await?, place)
        }
        (None, Some(url), _) => {
            let target = Source::resolve(Some(&url))?;
            let place = target.redacted();
            (restore::copy(archive, &request, Elsewhere::Database(&target)).await?, place)
        }
        (None, None, path) => {
            let path = path.unwrap_or_default();
            let fail = |error: std::io::Error| {
                Failure::usage(format!("{}: {error}", path.display())).remedy("name a file that can be written")
            };
            let mut file = std::io::BufWriter::new(fs::File::create(&path).map_err(fail)?);
            let place = path.display().to_string();
            (restore::copy(archive, &request, Elsewhere::Script(&mut file)).await?, place)
        }
    };
    if context.json {
        return print_document(stdout(), &copied);
    }
    let lines = copied.iter().map(|table| format!("{}: {} rows\n", table.name, table.rows));
    print_text(stdout(), &format!("Copied to {place}, as of {}:\n{}", request.to.point, lines.collect::<String>()))
}

async fn perform(
    context: &Context,
    source: &Source,
    archive: &Archive,
    request: &RestoreRequest,
    expected: Option<&Plan>,
) -> Result<()> {
    let report = match restore::apply(source, archive, request, expected).await? {
        Outcome::Done(report) => report,
        Outcome::Rejected(plan) => {
            match context.json {
                true => print_document(stdout(), &plan)?,
                false => print_text(stdout(), &plan.to_string())?,
            }
            return Err(forbidden(&plan));
        }
    };
    if context.json {
        print_document(stdout(), &report)?
    } else {
        print_text(stdout(), &report.to_string())?
    }
    if report.complete() {
        return Ok(());
    }
    let what = match report.left_out() {
        0 => "not everything that was asked for could be restored".to_owned(),
        rows => format!("{rows} rows of the plan are not restored"),
    };
    Err(Failure::refused(what).remedy("the report above says what was left out, and why"))
}

/// What stands in the way of a plan.
fn forbidden(plan: &Plan) -> Failure {
    if let (Some(conflict), true) = (plan.conflicts.first(), plan.options.on_conflict != OnConflict::Skip) {
        let mut transactions: Vec<_> = plan.conflicts.iter().map(|conflict| conflict.lsn).collect();
        transactions.dedup();
        let (count, first) = (transactions.len(), conflict.lsn);
        let cause = format!("{count} later transactions depend on it, the first is {first}; nothing was changed");
        return Failure::refused(cause).remedy("the plan above names each; go on with --on-conflict skip or cascade");
    }
    let blocking = plan.blocking();
    let shown = |rejection: &&Rejection| format!("{} of {} ({} rows)", rejection.name, rejection.table, rejection.rows);
    let list: Vec<String> = blocking.iter().take(3).map(shown).collect();
    let more = if blocking.len() > 3 { format!(" and {} more", blocking.len() - 3) } else { String::new() };
    Failure::refused(format!("constraints forbid the restore: {}{more}; nothing was changed", list.join(", "))).remedy(
        "the plan above has each with samples; go on with --on-reject quarantine or not-valid, --map, or --where",
    )
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
