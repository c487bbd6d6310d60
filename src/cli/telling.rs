//! Changes of rows, as the commands with git's habits show them.

use std::io::Write;
use std::ops::ControlFlow;

use clap::Args;

use super::context::Context;
use super::output::is_closed;
use super::pager::Pager;
use super::session::Asking;
use crate::columnar::RowText;
use crate::failure::{Failure, Result};
use crate::history::{Account, Chronicle};
use crate::model::{Column, Lsn, TableName};
use crate::query::{self, Told};

/// Tells what happened to the rows of a table, in the order of history.
pub(super) async fn tell(
    asking: &Asking,
    chronicle: Chronicle,
    account: Account,
    sink: &mut (dyn FnMut(Told) -> Result<ControlFlow<()>> + Send),
) -> Result<()> {
    let columns = chronicle.columns().to_vec();
    let table = asking.tables.told(chronicle, account);
    query::tell(&asking.session, table, &columns, account, sink).await
}

/// How changes are shown.
#[derive(Debug, Clone, Args)]
pub(super) struct TellingArgs {
    /// Show long values whole
    #[arg(long)]
    full: bool,
    /// Print without a pager
    #[arg(long)]
    no_pager: bool,
}

impl TellingArgs {
    pub(super) fn style(&self) -> Style {
        Style { most: (!self.full).then_some(SHORT_VALUE) }
    }

    /// Where the changes go: JSON is for programs, which turn no pages.
    pub(super) fn pager(&self, context: &Context) -> Pager {
        Pager::start(!self.no_pager && !context.json)
    }
}

/// Characters of a value that are shown where it is cut.
const SHORT_VALUE: usize = 120;

/// How rows are printed for people.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Values longer than this are cut; `None` for none.
    pub(super) most: Option<usize>,
}

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

/// Writes a change as lines: what was, what is, and of an update the columns that differ.
pub(super) fn write_change(out: &mut dyn Write, columns: &[Column], told: &Told, style: Style) -> Result<bool> {
    let line = |colour: &str, sign: char, row: &RowText, only_key: bool| {
        let fields = columns.iter().zip(row.fields()).filter(|(column, _)| !only_key || column.key);
        let fields: Vec<String> =
            fields.map(|(column, field)| format!("{}={}", column.name, shown(field, style))).collect();
        format!("{colour}{sign} {}{RESET}\n", fields.join("  "))
    };
    let text = match (&told.old, &told.new) {
        (Some(old), Some(new)) => {
            let has_key = columns.iter().any(|column| column.key);
            let mut text = line(CYAN, '~', new, has_key);
            for (at, column) in columns.iter().enumerate() {
                let (before, after) = (old.field(at), new.field(at));
                if before != after {
                    let (before, after) = (shown(before, style), shown(after, style));
                    text.push_str(&format!("    {}: {RED}{before}{RESET} → {GREEN}{after}{RESET}\n", column.name));
                }
            }
            text
        }
        (Some(old), None) => line(RED, '-', old, false),
        (None, Some(new)) => line(GREEN, '+', new, false),
        (None, None) => format!("{RED}! {}{RESET}\n", told.operation),
    };
    is_closed(out.write_all(text.as_bytes()))
}

/// A value on one line. It comes from others, so control characters must not reach the terminal.
fn shown(field: Option<&[u8]>, style: Style) -> String {
    let Some(bytes) = field else { return "NULL".to_owned() };
    let text = String::from_utf8_lossy(bytes);
    let most = style.most.unwrap_or(usize::MAX);
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == most {
            shown.push('…');
            break;
        }
        match c {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            c if c.is_control() => shown.push('\u{b7}'),
            c => shown.push(c),
        }
    }
    let plain = !shown.is_empty() && !shown.contains(|c: char| c.is_whitespace() || c == '\'' || c == '=');
    if plain && shown != "NULL" { shown } else { format!("'{}'", shown.replace('\'', "''")) }
}

/// Finds the history of a table that there must be.
pub(super) async fn chronicle(asking: &Asking, name: &TableName, from: Lsn, to: Lsn) -> Result<Chronicle> {
    let found = Chronicle::find(asking.tables.archive(), name, from, to).await?;
    found.ok_or_else(|| {
        Failure::usage(format!("no archived table is named {name}")).remedy("afterimage status lists them")
    })
}
