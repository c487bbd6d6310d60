//! `afterimage log`.

mod rows;

use std::collections::HashMap;
use std::io::Write as _;
use std::ops::Range;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::context::{Context, parse_pattern, parse_point, require_table, single_table};
use super::output::{human, is_closed};
use super::pager::Pager;
use super::progress::say;
use super::show;
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::shown_time;
use crate::model::{
    ContextFilter, DdlRecord, Lsn, Operation, OperationCounts, Partitions, Point, RelationVersion, Said, TableName,
    TablePattern, Transaction, one_line,
};

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
    /// Only transactions of which this was said: a text anywhere in their context, or exactly this value under a name:
    /// user=app, claimed.jwt.sub=42; of several all
    #[arg(long, value_name = "TEXT|NAME=VALUE")]
    context: Vec<ContextFilter>,
    /// Only transactions that changed a row for which this holds, before or after: a condition on the columns of the one
    /// table that --table names, or on old and new (old.status <> new.status)
    #[arg(long = "where", value_name = "SQL", requires = "table")]
    condition: Option<String>,
    /// Only the newest N of them
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<usize>,
    /// Only the commit LSN and what was changed
    #[arg(long, conflicts_with = "stat")]
    oneline: bool,
    /// All that is known of each: who, when, the statements, and the counts of each table
    #[arg(long)]
    stat: bool,
    /// Print without a pager
    #[arg(long)]
    no_pager: bool,
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
    let partitions = Partitions::of(known.values());
    let transactions = archive.transactions(watermark).await?;
    let mut statements: Statements = HashMap::new();
    for record in archive.ddl(watermark).await? {
        statements.entry(record.position.lsn).or_default().push(record);
    }
    let said = |transaction: &Transaction| statements.get(&transaction.commit.lsn).map_or(&[][..], Vec::as_slice);
    let wanted = |transaction: &&Transaction| {
        range.contains(&transaction.commit.lsn)
            && args.wants(&partitions, transaction, said(transaction))
            && args.context.iter().all(|filter| Said::of(transaction).says(filter))
    };
    let mut chosen: Vec<&Transaction> = transactions.iter().rev().filter(wanted).collect();
    if let Some(condition) = &args.condition {
        let name = args.only_table(&known)?;
        let operations: Vec<Operation> = args.op.iter().map(|op| (*op).into()).collect();
        let changed = rows::transactions(context, &archive, &name, &chosen, condition, &operations).await?;
        chosen.retain(|transaction| changed.contains(&transaction.commit.lsn));
    }
    chosen.truncate(args.limit.unwrap_or(usize::MAX));
    let mut out = Pager::start(!args.no_pager && !context.json);
    for (at, transaction) in chosen.iter().enumerate() {
        let ddl = said(transaction);
        let text = match (context.json, args.oneline, args.stat) {
            (true, ..) => json_line(transaction, ddl),
            (_, true, _) => short_line(transaction, ddl),
            (.., true) => format!("{}{}", if at > 0 { "\n" } else { "" }, show::header(transaction, ddl).trim_end()),
            _ => text_line(transaction, ddl),
        };
        if is_closed(writeln!(out, "{text}"))? {
            return Ok(());
        }
    }
    is_closed(out.flush())?;
    if chosen.is_empty() && !context.json {
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

    /// The table whose columns a condition is on.
    fn only_table(&self, known: &HashMap<TableName, RelationVersion>) -> Result<TableName> {
        match self.table.as_slice() {
            [pattern] => single_table(pattern, known.keys()),
            _ => Err(Failure::usage("--where is a condition on one table's columns").remedy("name one with --table")),
        }
    }

    fn wants(&self, partitions: &Partitions, transaction: &Transaction, ddl: &[DdlRecord]) -> bool {
        let wants_table = |name: &TableName| self.table.is_empty() || partitions.answers_any(name, &self.table);
        if self.table.is_empty() && self.op.is_empty() {
            return true;
        }
        let named = ddl.iter().flat_map(DdlRecord::concerns);
        if self.op.is_empty() && named.filter_map(|name| TableName::parse(&name)).any(|name| wants_table(&name)) {
            return true;
        }
        transaction.tables.iter().any(|(name, counts)| wants_table(name) && self.wants_operation(counts))
    }

    fn wants_operation(&self, counts: &OperationCounts) -> bool {
        self.op.is_empty() || self.op.iter().any(|&op| counts.of(op.into()) > 0)
    }
}

/// What was done to definitions, by commit LSN.
type Statements = HashMap<Lsn, Vec<DdlRecord>>;

fn text_line(transaction: &Transaction, ddl: &[DdlRecord]) -> String {
    let commit = &transaction.commit;
    let (yellow, reset) = ("\x1b[33m", "\x1b[0m");
    let mut line = format!("{yellow}{:<12}{reset} {}  xid {:<10}", commit.lsn, shown_time(commit.time), commit.xid);
    line.push_str(&shown_changes(transaction, ddl));
    let said = Said::of(transaction);
    if let Some(who) = said.who() {
        let statement = said.statements().first().map(|statement| one_line(statement, 60)).unwrap_or_default();
        line.push_str(&format!("  by {}: {statement}", one_line(&who, 60)));
    }
    line
}

fn short_line(transaction: &Transaction, ddl: &[DdlRecord]) -> String {
    format!("\x1b[33m{}\x1b[0m{}", transaction.commit.lsn, shown_changes(transaction, ddl))
}

/// The counts of each table, and the kinds of statements that changed definitions.
fn shown_changes(transaction: &Transaction, ddl: &[DdlRecord]) -> String {
    let mut text = String::new();
    for (name, counts) in &transaction.tables {
        text.push_str(&format!(" {}{}", name, shown_counts(counts)));
    }
    let mut told: Vec<String> =
        ddl.iter().map(|record| format!(" {} {}", record.tag, record.concerns().join(", "))).collect();
    // One statement can be told in two parts.
    told.dedup();
    text.extend(told);
    if text.is_empty() { " no rows".to_owned() } else { text }
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

fn json_line(transaction: &Transaction, ddl: &[DdlRecord]) -> String {
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
    let ddl: Vec<_> = ddl.iter().map(|one| json!({ "tag": one.tag, "concerns": one.concerns() })).collect();
    json!({
        "lsn": commit.lsn, "end_lsn": commit.end_lsn, "xid": commit.xid, "time": shown_time(commit.time),
        "changes": transaction.total().total(), "tables": tables, "ddl": ddl,
        "context": context,
    })
    .to_string()
}
