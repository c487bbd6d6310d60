//! What happened to rows, change by change, with their values as PostgreSQL's texts.

use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::{
    Array as _, AsArray as _, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::catalog::TableProvider;
use futures::StreamExt as _;
use serde_json::{Map, Value as Json, json};

use super::session::Session;
use crate::columnar::{RowReader, RowText};
use crate::failure::{Failure, Result};
use crate::history::{Account, json_row, shown_time};
use crate::model::{Column, Lsn, RelationVersion};

/// One change of a row, or of a row between two points.
#[derive(Debug, Clone)]
pub struct Told {
    pub lsn: Lsn,
    pub xid: Option<i64>,
    pub time: Option<DateTime<Utc>>,
    /// `insert`, `update`, …
    pub operation: String,
    pub old: Option<RowText>,
    pub new: Option<RowText>,
}

/// Tells what happened to the rows of a table, in the order of history. The table is one of [`super::ArchivedTables::told`],
/// or less of it; the columns are those of its chronicle.
///
/// # Errors
/// As [`Session::read`], and what the sink says.
pub async fn tell(
    session: &Session,
    table: Arc<dyn TableProvider>,
    columns: &[Column],
    account: Account,
    sink: &mut (dyn FnMut(Told) -> Result<ControlFlow<()>> + Send),
) -> Result<()> {
    let order: &[&str] = if account == Account::Changes { &["_lsn", "_seq"] } else { &["_lsn"] };
    let mut result = session.read(table, order).await?;
    while let Some(batch) = result.batches.next().await {
        for told in rows(&batch?, columns)? {
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

/// Which of a row's changes, the oldest first, gave a column the value that it has, or had last; `None` where it is older than
/// what is known.
pub fn setter(past: &[Told], column: usize) -> Option<&Told> {
    past.iter().rev().find(|told| match (&told.old, &told.new) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(old), Some(new)) => old.field(column) != new.field(column),
    })
}

/// A change as a JSON object.
pub fn json_change(relation: &RelationVersion, columns: &[Column], told: &Told) -> Json {
    let shown = RelationVersion { columns: columns.to_vec(), ..relation.clone() };
    let row = |row: &Option<RowText>| -> Option<Map<String, Json>> { row.as_ref().map(|row| json_row(&shown, row)) };
    json!({
        "lsn": told.lsn, "xid": told.xid, "time": told.time.map(shown_time),
        "schema": relation.name.schema, "table": relation.name.table, "op": told.operation,
        "old": row(&told.old), "new": row(&told.new),
    })
}
