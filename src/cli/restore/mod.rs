//! `afterimage restore`.

mod args;
mod saved;
mod shown;

use std::fs;
use std::io::stdout;

use super::context::{Context, single_table};
use super::output::{print_document, print_text};
use super::progress::say;
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::Cut;
use crate::model::{Point, TablePattern};
use crate::postgres::Source;
use crate::restore::{
    self, Class, CopyRequest, Elsewhere, Goal, OnConflict, Outcome, Owner, Plan, Rejection, RestoreRequest,
};
pub(super) use args::RestoreArgs;
use saved::{save_plan, saved_plan};
use shown::Shown;

pub(super) async fn run(context: &Context, args: RestoreArgs) -> Result<()> {
    let (source, archive) = (context.source()?, context.archive().await?);
    if let Some(path) = &args.plan {
        let plan = saved_plan(path)?;
        let (max_rows, batch_rows, throttle) = (args.max_rows, args.batch_rows, args.throttle);
        let request = RestoreRequest { max_rows, batch_rows, throttle, ..plan.request()? };
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
    request.throttle = args.throttle;
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
    let shown = Shown::of(&request.progress);
    let outcome = restore::apply(source, archive, request, expected).await;
    drop(shown);
    let report = match outcome? {
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
