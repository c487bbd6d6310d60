//! `afterimage show`.

use std::io::Write as _;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::{Value as Json, json};

use super::context::{Context, parse_pattern, require_table};
use super::log::shown_counts;
use super::output::is_closed;
use super::pager::Pager;
use super::session::{Asking, MEMORY_BYTES};
use super::telling::{Style, chronicle, json_change, tell, write_change};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::{Account, shown_time};
use crate::model::{DdlRecord, Lsn, Point, TablePattern, Transaction};

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
    /// Show long values whole
    #[arg(long)]
    full: bool,
    /// Print without a pager
    #[arg(long)]
    no_pager: bool,
}

/// Characters of a value that are shown where it is cut.
pub(super) const SHORT_VALUE: usize = 120;

pub(super) async fn run(context: &Context, args: ShowArgs) -> Result<()> {
    let archive = context.archive().await?;
    let transaction = find(context, &archive, &args.transaction).await?;
    for pattern in &args.table {
        require_table(pattern, transaction.tables.keys())?;
    }
    let watermark = archive.watermark().await?.lsn;
    let lsn = transaction.commit.lsn;
    let ddl: Vec<DdlRecord> =
        archive.ddl(watermark).await?.into_iter().filter(|record| record.position.lsn == lsn).collect();
    let asking = Asking::new(context, &archive, None, MEMORY_BYTES).await?;
    let mut out = Pager::start(!args.no_pager && !context.json);
    let style = Style { most: (!args.full).then_some(SHORT_VALUE) };
    if !context.json && is_closed(out.write_all(header(&transaction, &ddl).as_bytes()))? {
        return Ok(());
    }
    let wanted = |name| args.table.is_empty() || args.table.iter().any(|pattern| pattern.matches(name));
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

fn header(transaction: &Transaction, ddl: &[DdlRecord]) -> String {
    let commit = &transaction.commit;
    let mut text = format!("\x1b[33mtransaction {}  xid {}\x1b[0m\n", commit.lsn, commit.xid);
    text.push_str(&format!("Date:   {}\n", shown_time(commit.time)));
    for (name, value) in said(transaction) {
        text.push_str(&format!("{:<8}{value}\n", format!("{name}:")));
    }
    for (name, counts) in &transaction.tables {
        text.push_str(&format!("    {name}{}\n", shown_counts(counts)));
    }
    for record in ddl {
        let statement = record.statement.as_deref().unwrap_or(&record.tag);
        text.push_str(&format!("    {}\n", one_line(statement)));
    }
    text
}

/// What the transaction said of itself, as lines.
pub(super) fn said(transaction: &Transaction) -> Vec<(String, String)> {
    let context = transaction.context.as_deref().and_then(|text| serde_json::from_str::<Json>(text).ok());
    let parts = match context {
        Some(Json::Array(parts)) => parts,
        Some(part) => vec![part],
        None => Vec::new(),
    };
    let mut lines: Vec<(String, String)> = Vec::new();
    for part in parts {
        let object = match part {
            Json::Object(object) => object,
            other => json!({ "said": other }).as_object().cloned().unwrap_or_default(),
        };
        for (name, value) in object {
            let value = match value {
                Json::String(text) => text,
                Json::Null => continue,
                other => other.to_string(),
            };
            let line = (name, one_line(&value));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// Texts come from others, so control characters must not reach the terminal.
pub(super) fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().map(|c| if c.is_control() { '\u{b7}' } else { c }).collect()
}
