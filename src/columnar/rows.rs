//! Rows of record batches as PostgreSQL's text, whatever column the text is kept in.

use std::ops::Range;

use arrow::array::{Array as _, AsArray as _, MapArray, RecordBatch, StructArray};

use super::{Storage, ValueReader, names};
use crate::failure::{Failure, Result};
use crate::model::Column;

/// Where a wanted column's values are.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// In this column of the batch; NULL where the batch does not have it.
    Stored(&'a Column),
    /// Rows of the batch are older than the column, and all show this.
    Constant(Option<&'a str>),
}

/// Some columns of a batch.
pub struct RowReader<'a> {
    columns: Vec<Found<'a>>,
    exact: Option<&'a MapArray>,
}

enum Found<'a> {
    Values(ColumnReader<'a>),
    Constant(Option<&'a str>),
}

struct ColumnReader<'a> {
    stored: &'a str,
    values: ValueReader<'a>,
}

impl<'a> RowReader<'a> {
    /// Reads `columns` as the rows have them after the change, or in an image.
    pub fn new(batch: &'a RecordBatch, columns: &[Wanted<'a>]) -> Result<RowReader<'a>> {
        RowReader::build(columns, batch.column_by_name(names::EXACT), |stored| batch.column_by_name(stored))
    }

    /// Reads `columns` as the rows had them before the change; `None` where no row of the batch has that.
    pub fn old(batch: &'a RecordBatch, columns: &[Wanted<'a>]) -> Result<Option<RowReader<'a>>> {
        let Some(old) = old_rows(batch) else { return Ok(None) };
        RowReader::build(columns, old.column_by_name(names::EXACT), |stored| old.column_by_name(stored)).map(Some)
    }

    /// Reads `columns` of rows that are values of a column themselves, beside their own `_exact`.
    pub fn of_struct(rows: &'a StructArray, columns: &'a [Column]) -> Result<RowReader<'a>> {
        let wanted: Vec<Wanted<'a>> = columns.iter().map(Wanted::Stored).collect();
        RowReader::build(&wanted, rows.column_by_name(names::EXACT), |stored| rows.column_by_name(stored))
    }

    /// Whether the batch holds any text of [`RowReader::exact`].
    pub fn has_exact(&self) -> bool {
        self.exact.is_some()
    }

    /// PostgreSQL's text of a value that its column cannot hold.
    pub fn exact(&self, column: usize, row: usize) -> Option<&'a [u8]> {
        match self.columns.get(column)? {
            Found::Values(reader) if reader.values.is_null(row) => exact_text(self.exact?, row, reader.stored),
            _ => None,
        }
    }

    fn build(
        columns: &[Wanted<'a>],
        exact: Option<&'a arrow::array::ArrayRef>,
        find: impl Fn(&str) -> Option<&'a arrow::array::ArrayRef>,
    ) -> Result<RowReader<'a>> {
        let reader = |column: &Wanted<'a>| -> Result<Found<'a>> {
            let column = match *column {
                Wanted::Stored(column) => column,
                Wanted::Constant(text) => return Ok(Found::Constant(text)),
            };
            let Some(array) = find(&column.stored) else { return Ok(Found::Constant(None)) };
            let values = ValueReader::new(array.as_ref(), &Storage::of_column(column))?;
            Ok(Found::Values(ColumnReader { stored: &column.stored, values }))
        };
        let columns = columns.iter().map(reader).collect::<Result<Vec<_>>>()?;
        let exact = exact.map(|map| map.as_map_opt().ok_or_else(|| Failure::failed("the column _exact is not a map")));
        let exact = exact.transpose()?.filter(|map| !map.keys().is_empty());
        Ok(RowReader { columns, exact })
    }

    /// Appends the text of a column in a row; false where it is NULL.
    pub fn write(&self, column: usize, row: usize, out: &mut Vec<u8>) -> bool {
        let reader = match self.columns.get(column) {
            Some(Found::Values(reader)) => reader,
            Some(Found::Constant(Some(text))) => {
                out.extend_from_slice(text.as_bytes());
                return true;
            }
            Some(Found::Constant(None)) | None => return false,
        };
        if !reader.values.is_null(row) {
            reader.values.write_text(row, out);
            return true;
        }
        match self.exact.and_then(|exact| exact_text(exact, row, reader.stored)) {
            Some(text) => {
                out.extend_from_slice(text);
                true
            }
            None => false,
        }
    }

    /// Replaces `text` by a row's fields.
    pub fn read(&self, row: usize, text: &mut RowText) {
        text.clear();
        for column in 0..self.columns.len() {
            text.push_with(|out| self.write(column, row, out));
        }
    }

    /// Replaces `key` by bytes that are equal exactly where the fields' texts are.
    pub fn read_key(&self, row: usize, key: &mut Vec<u8>) {
        key.clear();
        for column in 0..self.columns.len() {
            let start = key.len();
            key.extend_from_slice(&[0; 5]);
            if self.write(column, row, key) {
                let length = (key.len() - start - 5) as u32;
                key[start] = 1;
                key[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
            }
        }
    }
}

/// The old rows of a batch of changes.
pub fn old_rows(batch: &RecordBatch) -> Option<&StructArray> {
    batch.column_by_name(names::OLD).and_then(|old| old.as_struct_opt())
}

fn exact_text<'a>(exact: &'a MapArray, row: usize, stored: &str) -> Option<&'a [u8]> {
    if exact.is_null(row) {
        return None;
    }
    let offsets = exact.value_offsets();
    let keys = exact.keys().as_string_opt::<i32>()?;
    let values = exact.values().as_binary_opt::<i32>()?;
    let mut entries = offsets[row] as usize..offsets[row + 1] as usize;
    entries.find(|&at| keys.value(at) == stored).map(|at| values.value(at))
}

/// One row's fields as text, in a buffer that is used again.
#[derive(Debug, Clone, Default)]
pub struct RowText {
    bytes: Vec<u8>,
    fields: Vec<Option<Range<usize>>>,
}

impl RowText {
    /// The fields, joined by blanks.
    #[cfg(test)]
    pub(crate) fn shown(&self) -> String {
        let fields = self.fields().map(|field| String::from_utf8_lossy(field.unwrap_or(b"NULL")).into_owned());
        fields.collect::<Vec<_>>().join(" ")
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    /// Adds a field: `write` appends its text, or says that it is NULL.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let start = self.bytes.len();
        let present = write(&mut self.bytes);
        self.fields.push(present.then_some(start..self.bytes.len()));
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<Option<Range<usize>>>()
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub fn field(&self, at: usize) -> Option<&[u8]> {
        self.fields.get(at)?.as_ref().map(|range| &self.bytes[range.clone()])
    }

    pub fn fields(&self) -> impl ExactSizeIterator<Item = Option<&[u8]>> {
        self.fields.iter().map(|range| range.as_ref().map(|range| &self.bytes[range.clone()]))
    }
}
