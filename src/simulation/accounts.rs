//! Every change of a table with the row before and after it: as the archive tells it, and as it was.

use arrow::array::{Array as _, AsArray as _, RecordBatch, StructArray};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::Int64Type;

use super::model::{Change, Committed, Row, State};
use crate::archive::Archive;
use crate::columnar::{RowReader, RowText, names};
use crate::failure::{Failure, Result};
use crate::history::{Account, Chronicle, KIND, LIFE, Lives, Telling};
use crate::model::{Column, Lsn, TableName};

/// A change: its commit, what it did, and the row before and after.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Told {
    lsn: Lsn,
    /// Its number inside the commit.
    place: i64,
    operation: String,
    old: Option<Row>,
    new: Option<Row>,
}

/// What the archive tells of a table, in the columns that it has at the end.
pub(super) async fn archived(archive: &Archive, name: &TableName, from: Lsn, to: Lsn) -> Result<Vec<Told>> {
    let Some(chronicle) = Chronicle::find(archive, name, from, to).await? else { return Ok(Vec::new()) };
    let mut batches: Vec<RecordBatch> = Vec::new();
    let mut take = |batch| {
        batches.push(batch);
        Ok(())
    };
    let cleared = chronicle.events(Telling::Changes, &mut take).await?;
    let events = in_lives(concat_batches(&chronicle.event_schema(), &batches).map_err(wrong)?)?;
    let mut lives = Lives::new(&chronicle, Account::Changes, cleared);
    let mut told = Vec::new();
    for batch in [lives.take(&events)?, lives.end()?] {
        told.extend(read(&batch, chronicle.columns())?);
    }
    Ok(in_order(told))
}

/// In the order of history. Numbers inside of a commit count what other tables have too: here they begin at 0.
fn in_order(mut told: Vec<Told>) -> Vec<Told> {
    told.sort();
    let (mut at, mut last) = (0, Lsn::ZERO);
    for one in &mut told {
        at = if one.lsn == last { at + 1 } else { 0 };
        (one.place, last) = (at, one.lsn);
    }
    told
}

fn wrong(error: arrow::error::ArrowError) -> Failure {
    Failure::failed(error.to_string())
}

fn in_lives(events: RecordBatch) -> Result<RecordBatch> {
    let column = |name: &str| SortColumn { values: events.column_by_name(name).unwrap().clone(), options: None };
    let order: Vec<SortColumn> = [LIFE, names::LSN, names::SEQ, KIND].into_iter().map(column).collect();
    let order = lexsort_to_indices(&order, None).map_err(wrong)?;
    take_record_batch(&events, &order).map_err(wrong)
}

fn read(batch: &RecordBatch, columns: &[Column]) -> Result<Vec<Told>> {
    let lsns = batch.column_by_name(names::LSN).unwrap().as_primitive::<Int64Type>();
    let places = batch.column_by_name(names::SEQ).unwrap().as_primitive::<Int64Type>();
    let operations = batch.column_by_name(names::OP).unwrap().as_string::<i32>();
    let side = |name: &str| batch.column_by_name(name).unwrap().as_struct().clone();
    let (old, new) = (rows(&side("old"), columns)?, rows(&side("new"), columns)?);
    let told = old.into_iter().zip(new).enumerate().map(|(at, (old, new))| Told {
        lsn: Lsn::from_i64(lsns.value(at)),
        place: places.value(at),
        operation: operations.value(at).to_owned(),
        old,
        new,
    });
    Ok(told.collect())
}

fn rows(rows: &StructArray, columns: &[Column]) -> Result<Vec<Option<Row>>> {
    let reader = RowReader::of_struct(rows, columns)?;
    let text = |field: Option<&[u8]>| field.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut row = RowText::default();
    let read = |at: usize| {
        rows.is_valid(at).then(|| {
            reader.read(at, &mut row);
            row.fields().map(text).collect()
        })
    };
    Ok((0..rows.len()).map(read).collect())
}

/// What was done to a table, in the columns that it has at the end.
pub(super) fn committed(commits: &[Committed], oid: u32, beginning: &State) -> Vec<Told> {
    let state = commits.last().map_or(beginning, |commit| &commit.state);
    let Some(last) = state.get(&oid) else { return Vec::new() };
    let widened = |row: &Row| {
        let added = last.shape.columns[row.len()..].iter().map(|column| column.missing.clone());
        row.iter().cloned().chain(added).collect::<Row>()
    };
    let mut told = Vec::new();
    for commit in commits {
        let mut tell = |operation: &str, old: Option<&Row>, new: Option<&Row>| {
            let (old, new) = (old.map(widened), new.map(widened));
            let place = told.len() as i64;
            told.push(Told { lsn: commit.lsn, place, operation: operation.to_owned(), old, new });
        };
        for change in &commit.changes {
            match change {
                Change::Insert { shape, new, .. } if shape.oid == oid => tell("insert", None, Some(new)),
                Change::Update { shape, old, new, .. } if shape.oid == oid => tell("update", Some(old), Some(new)),
                Change::Delete { shape, old, .. } if shape.oid == oid => tell("delete", Some(old), None),
                Change::Truncate { shapes } if shapes.iter().any(|shape| shape.oid == oid) => {
                    tell("truncate", None, None);
                }
                _ => {}
            }
        }
    }
    in_order(told)
}
