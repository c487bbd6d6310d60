//! From columns to the texts of their cells.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::unprintable;
use crate::failure::{Failure, Result};
use crate::model::Lsn;

/// Columns of this name and 64-bit integers are positions in the write-ahead log.
const LSN_COLUMNS: [&str; 5] = ["_lsn", "_image_lsn", "commit_lsn", "end_lsn", "lsn"];

/// Instants, whichever nesting they are in; [`in_utc`] has made their zone UTC.
const UTC_INSTANT: &str = "%Y-%m-%dT%H:%M:%S%.fZ";
const LOCAL_INSTANT: &str = "%Y-%m-%dT%H:%M:%S%.f";
const UTC: &str = "UTC";

/// The batch with its LSN columns in the form `16/B374D848`; other columns are untouched.
///
/// # Errors
/// None in practice: the columns keep their lengths.
pub fn lsns_as_text(batch: &RecordBatch) -> Result<RecordBatch> {
    with_columns(batch, |field, column| if is_lsn(field) { Ok(lsn_texts(column)) } else { Ok(Arc::clone(column)) })
}

/// The batch as all forms print it: LSNs as text, instants in UTC.
pub(super) fn printable(batch: &RecordBatch) -> Result<RecordBatch> {
    with_columns(&lsns_as_text(batch)?, |_, column| in_utc(column))
}

/// Whether a column is right-aligned. LSNs are texts to the reader, though not to Arrow.
pub(super) fn is_number(field: &Field) -> bool {
    field.data_type().is_numeric() && !is_lsn(field)
}

fn is_lsn(field: &Field) -> bool {
    field.data_type() == &DataType::Int64 && LSN_COLUMNS.contains(&field.name().as_str())
}

fn with_columns(batch: &RecordBatch, change: impl Fn(&Field, &ArrayRef) -> Result<ArrayRef>) -> Result<RecordBatch> {
    let schema = batch.schema();
    let pairs = || schema.fields().iter().zip(batch.columns());
    let columns = pairs().map(|(field, column)| change(field, column)).collect::<Result<Vec<_>>>()?;
    let fields =
        schema.fields().iter().zip(&columns).map(|(field, column)| {
            field.as_ref().clone().with_data_type(column.data_type().clone()).with_nullable(true)
        });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(schema), columns, &options).map_err(unprintable)
}

fn lsn_texts(column: &ArrayRef) -> ArrayRef {
    let positions = column.as_primitive::<Int64Type>();
    let texts: StringArray = positions.iter().map(|lsn| lsn.map(|lsn| Lsn::from_i64(lsn).to_string())).collect();
    Arc::new(texts)
}

fn in_utc(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() != UTC => {
            cast(column, &DataType::Timestamp(*unit, Some(UTC.into()))).map_err(unprintable)
        }
        _ => Ok(Arc::clone(column)),
    }
}

/// Renders the cells of a printable batch.
pub(super) struct Cells<'a> {
    columns: Vec<(ArrayFormatter<'a>, Option<NullBuffer>)>,
}

impl<'a> Cells<'a> {
    pub(super) fn new(batch: &'a RecordBatch) -> Result<Self> {
        let column = |array: &'a ArrayRef| -> Result<_> {
            let formatter = ArrayFormatter::try_new(array.as_ref(), &format_options()).map_err(unprintable)?;
            Ok((formatter, array.logical_nulls()))
        };
        Ok(Cells { columns: batch.columns().iter().map(column).collect::<Result<_>>()? })
    }

    /// The texts of a row's cells, `None` for NULL.
    pub(super) fn row(&self, row: usize) -> Result<Vec<Option<String>>> {
        let cell = |(formatter, nulls): &(ArrayFormatter<'a>, Option<NullBuffer>)| {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                return Ok(None);
            }
            formatter.value(row).try_to_string().map(Some).map_err(unprintable)
        };
        self.columns.iter().map(cell).collect::<Result<Vec<_>, Failure>>()
    }
}

fn format_options() -> FormatOptions<'static> {
    FormatOptions::new()
        // An error must be reported and not be printed as if it were the value.
        .with_display_error(false)
        .with_timestamp_tz_format(Some(UTC_INSTANT))
        .with_timestamp_format(Some(LOCAL_INSTANT))
        .with_datetime_format(Some(LOCAL_INSTANT))
}
