//! `afterimage diff`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use super::context::{Context, parse_pattern, parse_point, require_table};
use super::output::is_closed;
use super::progress::say;
use super::session::{Asking, MEMORY_BYTES};
use super::telling::{TellingArgs, chronicle, tell, write_change};
use crate::failure::{Failure, Result};
use crate::history::Account;
use crate::model::{OperationCounts, Partitions, Point, TableName, TablePattern};
use crate::query::{Told, json_change};

#[derive(Debug, Clone, Args)]
pub(super) struct DiffArgs {
    /// Only these tables: orders, sales.*
    #[arg(value_name = "TABLE", value_parser = parse_pattern)]
    tables: Vec<TablePattern>,
    /// The earlier point: a time with zone, 15m ago, an LSN, before:TXN, after:TXN, mark:NAME
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    from: Point,
    /// The later point; where the archive is, if left out
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    to: Option<Point>,
    /// Only how many rows of each table differ
    #[arg(long)]
    stat: bool,
    #[command(flatten)]
    telling: TellingArgs,
}

pub(super) async fn run(context: &Context, args: DiffArgs) -> Result<()> {
    let archive = context.archive().await?;
    let from = context.resolve(&archive, &args.from).await?.lsn;
    let to = match &args.to {
        Some(point) => context.resolve(&archive, point).await?.lsn,
        None => archive.watermark().await?.lsn,
    };
    if from > to {
        let to = args.to.as_ref().map_or_else(|| "where the archive is".to_owned(), ToString::to_string);
        return Err(Failure::usage(format!("--from {} comes after {to}", args.from)).remedy("exchange them"));
    }
    let known = archive.tables_ever().await?;
    for pattern in &args.tables {
        require_table(pattern, known.keys())?;
    }
    let within = archive.transactions(to).await?;
    let within = within.iter().filter(|transaction| transaction.commit.lsn >= from && transaction.commit.lsn < to);
    let partitions = Partitions::of(known.values());
    let wanted = |name: &&TableName| args.tables.is_empty() || partitions.answers_any(name, &args.tables);
    let touched: BTreeSet<&TableName> =
        within.flat_map(|transaction| transaction.tables.keys()).filter(wanted).collect();
    let asking = Asking::new(context, &archive, None, MEMORY_BYTES).await?;
    let (mut out, style) = (args.telling.pager(context), args.telling.style());
    let mut any = false;
    for name in touched {
        let chronicle = chronicle(&asking, name, from, to).await?;
        let (relation, columns) = (chronicle.relation().clone(), chronicle.columns().to_vec());
        let (mut counts, mut closed) = (OperationCounts::default(), false);
        let mut sink = |told: Told| {
            let first = counts.total() == 0;
            match (&told.old, &told.new) {
                (None, _) => counts.insert += 1,
                (_, None) => counts.delete += 1,
                _ => counts.update += 1,
            }
            if args.stat {
                return Ok(ControlFlow::Continue(()));
            }
            closed = match context.json {
                true => is_closed(writeln!(out, "{}", json_change(&relation, &columns, &told)))?,
                false => {
                    (first && is_closed(writeln!(out, "\x1b[1m{name}\x1b[0m"))?)
                        || write_change(&mut out, &columns, &told, style)?
                }
            };
            Ok(if closed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        tell(&asking, chronicle, Account::Differences, &mut sink).await?;
        any |= counts.total() > 0;
        if args.stat && counts.total() > 0 {
            let line = match context.json {
                true => json!({ "schema": name.schema, "table": name.table, "insert": counts.insert,
                    "update": counts.update, "delete": counts.delete })
                .to_string(),
                false => format!("{name}{}", super::log::shown_counts(&counts)),
            };
            closed |= is_closed(writeln!(out, "{line}"))?;
        }
        if closed {
            return Ok(());
        }
    }
    if !any && !context.json {
        say("nothing differs");
    }
    is_closed(out.flush()).map(drop)
}
