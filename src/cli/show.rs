//! `afterimage show`.

use std::io::Write as _;
use std::ops::ControlFlow;

use clap::Args;

use super::context::{Context, parse_pattern, unknown_table};
use super::log::shown_counts;
use super::output::is_closed;
use super::session::{Asking, MEMORY_BYTES};
use super::telling::{TellingArgs, chronicle, tell, write_change};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::{Account, shown_time};
use crate::model::{DdlRecord, Lsn, Partitions, Point, Said, TablePattern, Transaction, one_line};
use crate::query::json_change;

#[derive(Debug, Clone, Args)]
pub(super) struct ShowArgs {
    /// The transaction: its xid or its commit LSN, as log lists them
    #[arg(value_name = "TXN")]
    transaction: String,
    /// Only these tables: orders, sales.*; can be repeated
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern)]
    table: Vec<TablePattern>,
    /// Only the counts of each table, without the rows
    #[arg(long)]
    stat: bool,
    #[command(flatten)]
    telling: TellingArgs,
}

pub(super) async fn run(context: &Context, args: ShowArgs) -> Result<()> {
    let archive = context.archive().await?;
    let transaction = find(context, &archive, &args.transaction).await?;
    let partitions = Partitions::of(archive.tables_ever().await?.values());
    for pattern in &args.table {
        if !transaction.tables.keys().any(|name| partitions.answers(name, pattern)) {
            return Err(unknown_table(pattern, &transaction.tables.keys().collect::<Vec<_>>()));
        }
    }
    let watermark = archive.watermark().await?.lsn;
    let lsn = transaction.commit.lsn;
    let ddl: Vec<DdlRecord> =
        archive.ddl(watermark).await?.into_iter().filter(|record| record.position.lsn == lsn).collect();
    let asking = Asking::new(context, &archive, None, MEMORY_BYTES).await?;
    let (mut out, style) = (args.telling.pager(context), args.telling.style());
    if !context.json && is_closed(out.write_all(header(&transaction, &ddl).as_bytes()))? {
        return Ok(());
    }
    let wanted = |name| args.table.is_empty() || partitions.answers_any(name, &args.table);
    for (name, counts) in transaction.tables.iter().filter(|(name, _)| wanted(name)) {
        if args.stat && !context.json {
            continue;
        }
        let chronicle = chronicle(&asking, name, lsn, Lsn(lsn.0 + 1)).await?;
        let (relation, columns) = (chronicle.relation().clone(), chronicle.columns().to_vec());
        if !context.json && is_closed(writeln!(out, "\n\x1b[1m{name}\x1b[0m{}", shown_counts(counts)))? {
            return Ok(());
        }
        let mut closed = false;
        let mut sink = |told| {
            closed = match context.json {
                true => is_closed(writeln!(out, "{}", json_change(&relation, &columns, &told)))?,
                false => write_change(&mut out, &columns, &told, style)?,
            };
            Ok(if closed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        tell(&asking, chronicle, Account::Changes, &mut sink).await?;
        if closed {
            return Ok(());
        }
    }
    is_closed(out.flush()).map(drop)
}

/// The transaction that a person names.
pub(super) async fn find(context: &Context, archive: &Archive, text: &str) -> Result<Transaction> {
    let point = Point::parse(&format!("before:{text}"), chrono::Utc::now())
        .map_err(|error| Failure::usage(error.to_string()).remedy("afterimage log lists the transactions"))?;
    let cut = context.resolve(archive, &point).await?;
    let watermark = archive.watermark().await?.lsn;
    let mut all = archive.transactions(watermark).await?.into_iter();
    all.find(|transaction| transaction.commit.lsn == cut.lsn).ok_or_else(|| {
        Failure::refused(format!("the archive has no transaction {text}")).remedy("afterimage log lists them")
    })
}

/// All that is known of a transaction apart from its rows.
pub(super) fn header(transaction: &Transaction, ddl: &[DdlRecord]) -> String {
    let commit = &transaction.commit;
    let mut text = format!("\x1b[33mtransaction {}  xid {}\x1b[0m\n", commit.lsn, commit.xid);
    text.push_str(&format!("Date:   {}\n", shown_time(commit.time)));
    for (name, value) in Said::of(transaction).lines() {
        text.push_str(&format!("{:<8}{value}\n", format!("{name}:")));
    }
    for (name, counts) in &transaction.tables {
        text.push_str(&format!("    {name}{}\n", shown_counts(counts)));
    }
    for record in ddl {
        let statement = record.statement.as_deref().unwrap_or(&record.tag);
        text.push_str(&format!("    {}\n", one_line(statement, usize::MAX)));
    }
    text
}
