//! `afterimage history` and `afterimage blame`: one row's past.

use std::io::Write as _;

use clap::Args;
use serde_json::{Value as Json, json};

use super::context::{Context, parse_pattern, parse_point, single_table};
use super::output::is_closed;
use super::session::{Asking, MEMORY_BYTES};
use super::telling::{TellingArgs, chronicle, tell, write_change};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::{Account, shown_time};
use crate::model::{Column, Lsn, Point, RelationVersion, Said, TablePattern, Transaction, one_line};
use crate::query::{Sought, Told, json_change, setter};

#[derive(Debug, Clone, Args)]
pub(super) struct HistoryArgs {
    /// The table: orders, sales.orders
    #[arg(value_parser = parse_pattern)]
    table: TablePattern,
    /// The row's key: the values of the key's columns, in their order
    #[arg(value_name = "KEY", required = true)]
    key: Vec<String>,
    /// Only changes after this point
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    from: Option<Point>,
    /// Only changes up to this point
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    to: Option<Point>,
    #[command(flatten)]
    telling: TellingArgs,
}

/// A row's past, oldest first, and what its rows look like.
struct Past {
    relation: RelationVersion,
    columns: Vec<Column>,
    told: Vec<Told>,
}

impl HistoryArgs {
    async fn past(&self, context: &Context, archive: &Archive) -> Result<Past> {
        let name = single_table(&self.table, archive.tables_ever().await?.keys())?;
        let from = match &self.from {
            Some(point) => context.resolve(archive, point).await?.lsn,
            None => archive.identity().start_lsn,
        };
        let to = match &self.to {
            Some(point) => context.resolve(archive, point).await?.lsn,
            None => archive.watermark().await?.lsn,
        };
        let asking = Asking::new(context, archive, None, MEMORY_BYTES).await?;
        let chronicle = chronicle(&asking, &name, from, to).await?;
        let sought = Sought::row(&chronicle, &self.key).await?;
        let (relation, columns) = (chronicle.relation().clone(), chronicle.columns().to_vec());
        let mut told = Vec::new();
        let mut sink = |change| {
            if sought.is_in(&change, told.last()) {
                told.push(change);
            }
            Ok(std::ops::ControlFlow::Continue(()))
        };
        tell(&asking, sought.narrow(chronicle), Account::Changes, &mut sink).await?;
        Ok(Past { relation, columns, told })
    }
}

pub(super) async fn run(context: &Context, args: HistoryArgs) -> Result<()> {
    let archive = context.archive().await?;
    let past = args.past(context, &archive).await?;
    if past.told.is_empty() {
        return Err(untouched(&args, &past.relation));
    }
    let (mut out, style) = (args.telling.pager(context), args.telling.style());
    let transactions = transactions(&archive).await?;
    for told in past.told.iter().rev() {
        if context.json {
            if is_closed(writeln!(out, "{}", json_change(&past.relation, &past.columns, told)))? {
                return Ok(());
            }
            continue;
        }
        let xid = told.xid.map_or_else(|| "unknown".to_owned(), |xid| xid.to_string());
        let time = told.time.map(shown_time).unwrap_or_default();
        let who = transactions(told.lsn).map(who).unwrap_or_default();
        let head = format!("\x1b[33m{}\x1b[0m {time}  xid {xid}  {}{who}", told.lsn, told.operation);
        if is_closed(writeln!(out, "{head}"))? || write_change(&mut out, &past.columns, told, style)? {
            return Ok(());
        }
    }
    is_closed(out.flush()).map(drop)
}

fn untouched(args: &HistoryArgs, relation: &RelationVersion) -> Failure {
    Failure::refused(format!("the archive has no change of {} {}", relation.name, args.key.join(", ")))
        .remedy(format!("its state: afterimage query 'SELECT * FROM {}'", relation.name))
}

/// Looks transactions up by their commit LSN.
async fn transactions(archive: &Archive) -> Result<impl Fn(Lsn) -> Option<Transaction> + use<>> {
    let all = archive.transactions(archive.watermark().await?.lsn).await?;
    Ok(move |lsn: Lsn| {
        let at = all.partition_point(|transaction| transaction.commit.lsn < lsn);
        all.get(at).filter(|transaction| transaction.commit.lsn == lsn).cloned()
    })
}

/// Who did it, as far as the transaction says.
fn who(transaction: Transaction) -> String {
    Said::of(&transaction).who().map_or_else(String::new, |who| format!("  by {}", one_line(&who, 60)))
}

/// Which transaction gave each column its value.
pub(super) async fn blame(context: &Context, args: HistoryArgs) -> Result<()> {
    let archive = context.archive().await?;
    let past = args.past(context, &archive).await?;
    let Some(last) = past.told.last() else { return Err(untouched(&args, &past.relation)) };
    let Some(row) = last.new.as_ref().or(last.old.as_ref()) else {
        return Err(
            Failure::refused(format!("{} was truncated", past.relation.name)).remedy("afterimage history shows it")
        );
    };
    let gone = last.new.is_none();
    let transactions = transactions(&archive).await?;
    let mut lines: Vec<[String; 5]> = Vec::new();
    let mut out = args.telling.pager(context);
    for (at, column) in past.columns.iter().enumerate() {
        let set = setter(&past.told, at);
        let value = row.field(at).map(|field| String::from_utf8_lossy(field).into_owned());
        if context.json {
            let by = set.map(|told| {
                json!({ "lsn": told.lsn, "xid": told.xid, "time": told.time.map(shown_time), "op": told.operation,
                    "context": transactions(told.lsn).and_then(|transaction| transaction.context)
                        .and_then(|text| serde_json::from_str::<Json>(&text).ok()) })
            });
            if is_closed(writeln!(out, "{}", json!({ "column": column.name, "value": value, "set_by": by })))? {
                return Ok(());
            }
            continue;
        }
        let most = args.telling.style().most.map_or(usize::MAX, |most| most / 3);
        let value = value.map_or_else(|| "NULL".to_owned(), |value| one_line(&value, most));
        lines.push(match set {
            Some(told) => [
                told.lsn.to_string(),
                told.xid.map_or_else(String::new, |xid| format!("xid {xid}")),
                told.time.map(shown_time).unwrap_or_default() + &transactions(told.lsn).map(who).unwrap_or_default(),
                column.name.clone(),
                value,
            ],
            None => ["-".to_owned(), String::new(), "before the archive".to_owned(), column.name.clone(), value],
        });
    }
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [lsn, xid, time, column, value] in &lines {
        let [a, b, c, d] = widths;
        if is_closed(writeln!(out, "\x1b[33m{lsn:<a$}\x1b[0m {xid:<b$}  {time:<c$}  {column:<d$}  {value}"))? {
            return Ok(());
        }
    }
    if gone && !context.json {
        let by = last.xid.map_or_else(|| last.lsn.to_string(), |xid| format!("{xid} ({})", last.lsn));
        is_closed(writeln!(out, "\x1b[31mdeleted by transaction {by}\x1b[0m"))?;
    }
    is_closed(out.flush()).map(drop)
}
