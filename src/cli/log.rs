//! `afterimage log`.

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::ops::Range;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::context::{Context, parse_pattern, parse_point, require_table};
use super::output::{human, is_closed};
use super::progress::say;
use super::said::{Said, one_line};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::shown_time;
use crate::model::{Lsn, Operation, OperationCounts, Point, TableName, TablePattern, Transaction};

#[derive(Debug, Clone, Args)]
pub(super) struct LogArgs {
    /// Only transactions that changed these tables: orders, sales.*; can be repeated
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern)]
    table: Vec<TablePattern>,
    /// Only transactions with this operation (on those tables); can be repeated
    #[arg(long, value_enum)]
    op: Vec<Op>,
    /// Only transactions after this point: a time with zone, 15m ago, an LSN, before:TXN, after:TXN, mark:NAME, now
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    from: Option<Point>,
    /// Only transactions up to this point
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    to: Option<Point>,
    /// Only the newest N of them
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl From<Op> for Operation {
    fn from(op: Op) -> Operation {
        match op {
            Op::Insert => Operation::Insert,
            Op::Update => Operation::Update,
            Op::Delete => Operation::Delete,
            Op::Truncate => Operation::Truncate,
        }
    }
}

pub(super) async fn run(context: &Context, args: LogArgs) -> Result<()> {
    let archive = context.archive().await?;
    let range = args.range(context, &archive).await?;
    let watermark = archive.watermark().await?.lsn;
    let known = archive.tables_ever().await?;
    for pattern in &args.table {
        // A mistyped name must not look like a table that nobody touched.
        require_table(pattern, known.keys())?;
    }
    let transactions = archive.transactions(watermark).await?;
    let mut statements: Statements = HashMap::new();
    for record in archive.ddl(watermark).await? {
        statements.entry(record.position.lsn).or_default().push((record.tag.clone(), record.concerns()));
    }
    let said = |transaction: &Transaction| statements.get(&transaction.commit.lsn).map_or(&[][..], Vec::as_slice);
    let chosen = transactions
        .iter()
        .rev()
        .filter(|transaction| range.contains(&transaction.commit.lsn) && args.wants(transaction, said(transaction)))
        .take(args.limit.unwrap_or(usize::MAX));
    let mut out = BufWriter::new(anstream::stdout());
    let mut lines = 0;
    for transaction in chosen {
        let ddl = said(transaction);
        let line = if context.json { json_line(transaction, ddl) } else { text_line(transaction, ddl) };
        lines += 1;
        if is_closed(writeln!(out, "{line}"))? {
            return Ok(());
        }
    }
    is_closed(out.flush())?;
    if lines == 0 && !context.json {
        say(if transactions.is_empty() { "no transactions yet" } else { "no such transactions" });
    }
    Ok(())
}

impl LogArgs {
    async fn range(&self, context: &Context, archive: &Archive) -> Result<Range<Lsn>> {
        let mut range = Lsn::ZERO..Lsn(u64::MAX);
        if let Some(point) = &self.from {
            range.start = context.resolve(archive, point).await?.lsn;
        }
        if let Some(point) = &self.to {
            range.end = context.resolve(archive, point).await?.lsn;
        }
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if range.start > range.end => {
                Err(Failure::usage(format!("--from {from} comes after --to {to}")).remedy("exchange them"))
            }
            _ => Ok(range),
        }
    }

    fn wants(&self, transaction: &Transaction, ddl: &[Statement]) -> bool {
        if self.table.is_empty() && self.op.is_empty() {
            return true;
        }
        let named = ddl.iter().flat_map(|(_, concerns)| concerns).filter_map(|name| TableName::parse(name));
        if self.op.is_empty() && named.into_iter().any(|name| self.wants_table(&name)) {
            return true;
        }
        transaction.tables.iter().any(|(name, counts)| self.wants_table(name) && self.wants_operation(counts))
    }

    fn wants_table(&self, name: &TableName) -> bool {
        self.table.is_empty() || self.table.iter().any(|pattern| pattern.matches(name))
    }

    fn wants_operation(&self, counts: &OperationCounts) -> bool {
        self.op.is_empty() || self.op.iter().any(|&op| counts.of(op.into()) > 0)
    }
}

/// What a transaction did to definitions: the kind of each statement, and what it concerned.
type Statement = (String, Vec<String>);

/// By commit LSN.
type Statements = HashMap<Lsn, Vec<Statement>>;

fn text_line(transaction: &Transaction, ddl: &[Statement]) -> String {
    let commit = &transaction.commit;
    let (yellow, reset) = ("\x1b[33m", "\x1b[0m");
    let mut line = format!("{yellow}{:<12}{reset} {}  xid {:<10}", commit.lsn, shown_time(commit.time), commit.xid);
    for (name, counts) in &transaction.tables {
        line.push_str(&format!(" {}{}", name, shown_counts(counts)));
    }
    for (at, (tag, concerns)) in ddl.iter().enumerate() {
        // One statement can be told in two parts.
        if at == 0 || ddl[at - 1].0 != *tag || ddl[at - 1].1 != *concerns {
            line.push_str(&format!(" {tag} {}", concerns.join(", ")));
        }
    }
    if transaction.tables.is_empty() && ddl.is_empty() {
        line.push_str(" no rows");
    }
    let said = Said::of(transaction);
    if let Some(who) = said.who() {
        let statement = said.statements().first().map(|statement| one_line(statement, 60)).unwrap_or_default();
        line.push_str(&format!("  by {}: {statement}", one_line(&who, 60)));
    }
    line
}

/// `+inserted ~updated -deleted`, what is zero left out; deletions stand out.
pub(super) fn shown_counts(counts: &OperationCounts) -> String {
    let (red, reset) = ("\x1b[31m", "\x1b[0m");
    let mut shown = String::new();
    if counts.insert > 0 {
        shown.push_str(&format!(" +{}", human::count(counts.insert)));
    }
    if counts.update > 0 {
        shown.push_str(&format!(" ~{}", human::count(counts.update)));
    }
    if counts.delete > 0 {
        shown.push_str(&format!(" {red}-{}{reset}", human::count(counts.delete)));
    }
    if counts.truncate > 0 {
        shown.push_str(&format!(" {red}truncated{reset}"));
    }
    shown
}

fn json_line(transaction: &Transaction, ddl: &[Statement]) -> String {
    let commit = &transaction.commit;
    let tables: Vec<_> = transaction
        .tables
        .iter()
        .map(|(name, counts)| {
            json!({
                "schema": name.schema, "table": name.table,
                "insert": counts.insert, "update": counts.update, "delete": counts.delete, "truncate": counts.truncate,
            })
        })
        .collect();
    let context = transaction.context.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let ddl: Vec<_> = ddl.iter().map(|(tag, concerns)| json!({ "tag": tag, "concerns": concerns })).collect();
    json!({
        "lsn": commit.lsn, "end_lsn": commit.end_lsn, "xid": commit.xid, "time": shown_time(commit.time),
        "changes": transaction.total().total(), "tables": tables, "ddl": ddl,
        "context": context,
    })
    .to_string()
}
