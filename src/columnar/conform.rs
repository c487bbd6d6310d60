//! Rows of one relation version as columns of another.

use arrow::array::{Array as _, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take;

use super::changes::exact_field;
use super::rows::old_rows;
use super::{ColumnBuilder, ExactBuilder, RowReader, Storage, Wanted};
use crate::failure::{Failure, Result};
use crate::model::Column;

/// The values of `wanted` columns of a batch in the types of `targets`, one for each. A value that its target's type
/// cannot hold is NULL.
pub fn conform(batch: &RecordBatch, wanted: &[Wanted<'_>], targets: &[Column]) -> Result<Vec<ArrayRef>> {
    let stored = |name: &str| batch.column_by_name(name).cloned();
    let reader = RowReader::new(batch, wanted)?;
    columns(batch.num_rows(), &reader, wanted, targets, stored)
}

/// The same of the rows as they were before the change; `None` where no row of the batch has that.
pub fn conform_old(batch: &RecordBatch, wanted: &[Wanted<'_>], targets: &[Column]) -> Result<Option<Vec<ArrayRef>>> {
    let (Some(old), Some(reader)) = (old_rows(batch), RowReader::old(batch, wanted)?) else { return Ok(None) };
    let stored = |name: &str| old.column_by_name(name).cloned();
    columns(batch.num_rows(), &reader, wanted, targets, stored).map(Some)
}

fn columns(
    rows: usize,
    reader: &RowReader<'_>,
    wanted: &[Wanted<'_>],
    targets: &[Column],
    stored: impl Fn(&str) -> Option<ArrayRef>,
) -> Result<Vec<ArrayRef>> {
    let column = |(at, (wanted, target)): (usize, (&Wanted<'_>, &Column))| {
        let storage = Storage::of_column(target);
        match *wanted {
            Wanted::Constant(text) => repeated(text, &storage, rows),
            Wanted::Stored(column) => match stored(&column.stored) {
                None => Ok(new_null_array(&storage.arrow_type(), rows)),
                Some(array) if *array.data_type() == storage.arrow_type() && Storage::of_column(column) == storage => {
                    Ok(array)
                }
                Some(_) => Ok(by_text(reader, at, &storage, rows)),
            },
        }
    };
    wanted.iter().zip(targets).enumerate().map(column).collect()
}

/// The texts of values that their columns cannot hold, by the stored names of `targets`.
pub fn conform_exact(reader: &RowReader<'_>, targets: &[Column], rows: usize) -> Result<ArrayRef> {
    if !reader.has_exact() {
        return Ok(new_null_array(exact_field().data_type(), rows));
    }
    let mut exact = ExactBuilder::new();
    for row in 0..rows {
        for (at, target) in targets.iter().enumerate() {
            if let Some(text) = reader.exact(at, row) {
                exact.keep(&target.stored, text);
            }
        }
        exact.end_row()?;
    }
    Ok(exact.finish())
}

fn repeated(text: Option<&str>, storage: &Storage, rows: usize) -> Result<ArrayRef> {
    let Some(text) = text else { return Ok(new_null_array(&storage.arrow_type(), rows)) };
    let mut builder = ColumnBuilder::new(storage);
    let _ = builder.append_text(text.as_bytes());
    let one: ArrayRef = builder.finish();
    take(&one, &UInt32Array::from(vec![0; rows]), None)
        .map_err(|error| Failure::failed(format!("repeating a column's value: {error}")))
}

/// Another type's values, as PostgreSQL converts them where their text stays what it is.
fn by_text(reader: &RowReader<'_>, at: usize, storage: &Storage, rows: usize) -> ArrayRef {
    let mut builder = ColumnBuilder::new(storage);
    let mut text = Vec::new();
    for row in 0..rows {
        text.clear();
        if reader.write(at, row, &mut text) {
            // What does not fit is NULL, as everywhere in a typed column.
            let _ = builder.append_text(&text);
        } else {
            builder.append_null();
        }
    }
    builder.finish()
}
