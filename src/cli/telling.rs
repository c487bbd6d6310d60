//! Changes of rows, as the commands with git's habits show them.

use std::io::Write;
use std::ops::ControlFlow;

use arrow::array::{Array as _, AsArray as _, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, Utc};
use clap::Args;
use futures::StreamExt as _;
use serde_json::{Map, Value as Json, json};

use super::context::Context;
use super::output::is_closed;
use super::pager::Pager;
use super::session::Asking;
use crate::columnar::{RowReader, RowText};
use crate::failure::{Failure, Result};
use crate::history::{Account, Chronicle, KeySet, json_row, key_of_fields, shown_time};
use crate::model::{Column, Lsn, RelationVersion, TableName};

/// One change of a row, or of a row between two points.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) lsn: Lsn,
    pub(super) xid: Option<i64>,
    pub(super) time: Option<DateTime<Utc>>,
    /// `insert`, `update`, …
    pub(super) operation: String,
    pub(super) old: Option<RowText>,
    pub(super) new: Option<RowText>,
}

/// Tells what happened to the rows of a table, in the order of history.
pub(super) async fn tell(
    asking: &Asking,
    chronicle: Chronicle,
    account: Account,
    sink: &mut dyn FnMut(Told) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let columns = chronicle.columns().to_vec();
    let table = asking.tables.told(chronicle, account);
    let order: &[&str] = if account == Account::Changes { &["_lsn", "_seq"] } else { &["_lsn"] };
    let mut result = asking.session.read(table, order).await?;
    while let Some(batch) = result.batches.next().await {
        for told in rows(&batch?, &columns)? {
            if sink(told)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn rows(batch: &RecordBatch, columns: &[Column]) -> Result<Vec<Told>> {
    let lacking = |name: &str| Failure::failed(format!("an account lacks the column {name}"));
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| lacking(name));
    let lsn: &Int64Array = column("_lsn")?.as_primitive_opt::<Int64Type>().ok_or_else(|| lacking("_lsn"))?;
    let xid: &Int64Array = column("_xid")?.as_primitive_opt::<Int64Type>().ok_or_else(|| lacking("_xid"))?;
    let time: &TimestampMicrosecondArray =
        column("_ts")?.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| lacking("_ts"))?;
    let word = batch.column_by_name("_op").or_else(|| batch.column_by_name("_change"));
    let word: &StringArray = word.and_then(|word| word.as_string_opt()).ok_or_else(|| lacking("_op"))?;
    let (old, new) = (column("old")?.as_struct(), column("new")?.as_struct());
    let (before, after) = (RowReader::of_struct(old, columns)?, RowReader::of_struct(new, columns)?);
    let read = |reader: &RowReader<'_>, row: usize| {
        let mut text = RowText::default();
        reader.read(row, &mut text);
        text
    };
    let told = |row: usize| Told {
        lsn: Lsn::from_i64(lsn.value(row)),
        xid: xid.is_valid(row).then(|| xid.value(row)),
        time: time.is_valid(row).then(|| DateTime::from_timestamp_micros(time.value(row))).flatten(),
        operation: word.value(row).to_owned(),
        old: old.is_valid(row).then(|| read(&before, row)),
        new: new.is_valid(row).then(|| read(&after, row)),
    };
    Ok((0..batch.num_rows()).map(told).collect())
}

/// The key that a person wrote: the values of the key's columns, in their order.
pub(super) fn written_key(chronicle: &Chronicle, values: &[String]) -> Result<KeySet> {
    let name = &chronicle.relation().name;
    let Some(key) = chronicle.unique_key() else {
        return Err(Failure::usage(format!("{name} has no key, so its rows are not told apart by one"))
            .remedy(format!("afterimage query \"SELECT * FROM changes('{name}') WHERE …\" finds them by any column")));
    };
    let columns: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
    if columns.len() != values.len() {
        return Err(Failure::usage(format!(
            "the key of {name} is {}: {} values were given",
            columns.join(", "),
            values.len()
        ))
        .remedy(format!("give one value for each, in this order: {}", columns.join(" "))));
    }
    let key = key_of_fields(values.iter().map(|value| Some(value.as_bytes())));
    Ok(KeySet::from([key.into()]))
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

/// A change as a JSON object.
pub(super) fn json_change(relation: &RelationVersion, columns: &[Column], told: &Told) -> Json {
    let shown = RelationVersion { columns: columns.to_vec(), ..relation.clone() };
    let row = |row: &Option<RowText>| -> Option<Map<String, Json>> { row.as_ref().map(|row| json_row(&shown, row)) };
    json!({
        "lsn": told.lsn, "xid": told.xid, "time": told.time.map(shown_time),
        "schema": relation.name.schema, "table": relation.name.table, "op": told.operation,
        "old": row(&told.old), "new": row(&told.new),
    })
}

/// Finds the history of a table that there must be.
pub(super) async fn chronicle(asking: &Asking, name: &TableName, from: Lsn, to: Lsn) -> Result<Chronicle> {
    let found = Chronicle::find(asking.tables.archive(), name, from, to).await?;
    found.ok_or_else(|| {
        Failure::usage(format!("no archived table is named {name}")).remedy("afterimage status lists them")
    })
}
