//! Rows of a table as record batches: changes with the archive's own columns in front, or bare images.
//!
//! A value that its Arrow type cannot hold is NULL in its column and kept as PostgreSQL's text in
//! `_exact`, under the column's stored name; that of an old row in `_old._exact`. So a reader that
//! looks there first gets back every value as PostgreSQL wrote it.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int64Builder, ListBuilder, MapBuilder, MapFieldNames, RecordBatch, StringBuilder,
    StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use super::binary::{BinaryForm, BinaryRow, Misfit};
use super::{ColumnBuilder, Fit, Storage, names};
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Operation, RelationVersion, Xid};
use crate::pgoutput::{OldTuple, Tuple, Value};

/// Where a change stands in history.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Commit LSN of the transaction.
    pub lsn: Lsn,
    /// Order inside the transaction, from 0.
    pub seq: i64,
    pub xid: Xid,
    /// Commit timestamp, microseconds since 1970 UTC.
    pub time: i64,
}

/// The columns of a table of changes for one relation version.
pub fn change_schema(relation: &RelationVersion) -> SchemaRef {
    let mut fields = vec![
        Field::new(names::LSN, DataType::Int64, true),
        Field::new(names::SEQ, DataType::Int64, true),
        Field::new(names::XID, DataType::Int64, true),
        Field::new(names::TS, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new(names::OP, DataType::Utf8, true),
        Field::new(names::OLD, DataType::Struct(old_fields(relation)), true),
        Field::new(names::MISSING, missing_type(), true),
        exact_field(),
    ];
    fields.extend(column_fields(relation));
    Arc::new(Schema::new(fields))
}

/// The columns of a data file of a base image.
pub fn image_schema(relation: &RelationVersion) -> SchemaRef {
    let mut fields = vec![exact_field()];
    fields.extend(column_fields(relation));
    Arc::new(Schema::new(fields))
}

/// The columns of a table of base images: those of its files and the partition column.
pub fn image_table_schema(relation: &RelationVersion) -> SchemaRef {
    let mut fields = vec![Field::new(names::IMAGE_LSN, DataType::Int64, true), exact_field()];
    fields.extend(column_fields(relation));
    Arc::new(Schema::new(fields))
}

fn column_fields(relation: &RelationVersion) -> impl Iterator<Item = Field> {
    relation.columns.iter().map(|column| {
        let storage = Storage::of_column(column);
        Field::new(&column.stored, storage.arrow_type(), true)
    })
}

fn old_fields(relation: &RelationVersion) -> Fields {
    let keys = relation.key_positions();
    let mut fields = vec![exact_field()];
    fields.extend(column_fields(relation).enumerate().filter(|(at, _)| keys.contains(at)).map(|(_, field)| field));
    fields.into()
}

fn missing_type() -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)))
}

/// The column `_exact`.
pub fn exact_field() -> Field {
    let entry =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)]);
    let entries = Field::new("key_value", DataType::Struct(entry), false);
    Field::new(names::EXACT, DataType::Map(Arc::new(entries), false), true)
}

/// Some columns of a table under construction, with the values that do not fit their types.
struct Columns {
    /// Stored name and builder of each column.
    builders: Vec<(String, ColumnBuilder)>,
    exact: ExactBuilder,
}

/// The column `_exact` under construction.
pub struct ExactBuilder {
    map: MapBuilder<StringBuilder, BinaryBuilder>,
    in_row: bool,
    /// Bytes of names and texts.
    memory: usize,
}

impl ExactBuilder {
    pub fn new() -> ExactBuilder {
        let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
        let map = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new());
        ExactBuilder { map, in_row: false, memory: 0 }
    }

    /// Keeps the text of a value of the row that its column cannot hold.
    pub fn keep(&mut self, stored: &str, text: &[u8]) {
        self.map.keys().append_value(stored);
        self.map.values().append_value(text);
        self.in_row = true;
        self.memory += stored.len() + text.len();
    }

    /// Ends a row; without kept texts it has none.
    pub fn end_row(&mut self) -> Result<()> {
        let present = std::mem::take(&mut self.in_row);
        self.map.append(present).map_err(arrow_failure)
    }

    pub fn finish(&mut self) -> ArrayRef {
        self.memory = 0;
        Arc::new(self.map.finish())
    }
}

impl Default for ExactBuilder {
    fn default() -> Self {
        ExactBuilder::new()
    }
}

impl Columns {
    fn new(relation: &RelationVersion, positions: &[usize]) -> Columns {
        let builders = positions.iter().map(|&at| {
            let column = &relation.columns[at];
            (column.stored.clone(), ColumnBuilder::new(&Storage::of_column(column)))
        });
        Columns { builders: builders.collect(), exact: ExactBuilder::new() }
    }

    fn append_null(&mut self, at: usize) {
        self.builders[at].1.append_null();
    }

    fn append_text(&mut self, at: usize, text: &[u8]) {
        let (stored, builder) = &mut self.builders[at];
        if let Fit::Inexact = builder.append_text(text) {
            self.exact.keep(stored, text);
        }
    }

    fn append_binary(&mut self, at: usize, form: BinaryForm, bytes: &[u8]) -> Result<(), Misfit> {
        let (stored, builder) = &mut self.builders[at];
        if let Some(text) = builder.append_binary(form, bytes)? {
            self.exact.keep(stored, text);
        }
        Ok(())
    }

    /// A binary value of the stream, which knows no conversion on the way.
    fn append_streamed(&mut self, at: usize, form: BinaryForm, bytes: &[u8]) -> Result<()> {
        if form == BinaryForm::Converted {
            return Err(Failure::failed("the source sent a binary value of a type that is archived as text"));
        }
        Ok(self.append_binary(at, form, bytes)?)
    }

    fn end_row(&mut self) -> Result<()> {
        self.exact.end_row()
    }

    fn null_row(&mut self) -> Result<()> {
        (0..self.builders.len()).for_each(|at| self.append_null(at));
        self.end_row()
    }

    fn memory(&self) -> usize {
        self.builders.iter().map(|(_, builder)| builder.memory()).sum::<usize>() + self.exact.memory
    }

    /// `_exact` first, then the columns.
    fn finish(&mut self) -> Vec<ArrayRef> {
        let mut arrays: Vec<ArrayRef> = vec![self.exact.finish()];
        arrays.extend(self.builders.iter_mut().map(|(_, builder)| builder.finish()));
        arrays
    }
}

fn arrow_failure(error: arrow::error::ArrowError) -> Failure {
    Failure::failed(format!("building a record batch: {error}"))
}

/// Changes of one relation version under construction.
pub struct ChangeBuilder {
    schema: SchemaRef,
    width: usize,
    lsn: Int64Builder,
    seq: Int64Builder,
    xid: Int64Builder,
    ts: TimestampMicrosecondBuilder,
    op: StringBuilder,
    old: Columns,
    old_present: Vec<bool>,
    /// For each column of the relation its position in `old`.
    old_positions: Vec<Option<usize>>,
    missing: ListBuilder<StringBuilder>,
    new: Columns,
    /// What each column's binary values are.
    forms: Vec<BinaryForm>,
    memory_of_fixed: usize,
}

/// Bytes that a row's own columns take before encoding.
const FIXED_ROW_BYTES: usize = 48;

impl ChangeBuilder {
    pub fn new(relation: &RelationVersion) -> ChangeBuilder {
        let keys = relation.key_positions();
        let all: Vec<usize> = (0..relation.columns.len()).collect();
        ChangeBuilder {
            schema: change_schema(relation),
            width: relation.columns.len(),
            lsn: Int64Builder::new(),
            seq: Int64Builder::new(),
            xid: Int64Builder::new(),
            ts: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            op: StringBuilder::new(),
            old: Columns::new(relation, &keys),
            old_present: Vec::new(),
            old_positions: all.iter().map(|at| keys.iter().position(|key| key == at)).collect(),
            missing: ListBuilder::new(StringBuilder::new()).with_field(Field::new("element", DataType::Utf8, true)),
            new: Columns::new(relation, &all),
            forms: relation.columns.iter().map(BinaryForm::of_column).collect(),
            memory_of_fixed: 0,
        }
    }

    pub fn rows(&self) -> usize {
        self.old_present.len()
    }

    /// Approximate bytes held.
    pub fn memory(&self) -> usize {
        self.new.memory() + self.old.memory() + self.memory_of_fixed
    }

    /// Adds one change as the stream sent it. An unchanged TOASTed value is taken from the old row where
    /// that has it, and named in `_missing` otherwise.
    ///
    /// # Errors
    /// Where the tuples do not have the relation's columns.
    pub fn push(
        &mut self,
        place: Place,
        operation: Operation,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
    ) -> Result<()> {
        let widths = old.map(|old| old.tuple.len()).into_iter().chain(new.map(Tuple::len));
        for width in widths {
            self.require_width(width)?;
        }
        self.push_place(place, operation);
        self.push_old(old)?;
        self.push_new(old, new)
    }

    /// Adds a row as PostgreSQL's text, its values in the relation's order, as an operation without an old row.
    ///
    /// # Errors
    /// Where the row does not have the relation's columns.
    pub fn push_row<'v>(
        &mut self,
        place: Place,
        operation: Operation,
        values: impl ExactSizeIterator<Item = Option<&'v [u8]>>,
    ) -> Result<()> {
        self.require_width(values.len())?;
        self.push_place(place, operation);
        self.push_old(None)?;
        self.missing.append_null();
        for (at, value) in values.enumerate() {
            match value {
                Some(text) => self.new.append_text(at, text),
                None => self.new.append_null(at),
            }
        }
        self.new.end_row()
    }

    /// Adds the deletion of a row as PostgreSQL's text, its values in the relation's order; those of the identity are kept.
    ///
    /// # Errors
    /// Where the row does not have the relation's columns.
    pub fn push_gone<'v>(
        &mut self,
        place: Place,
        values: impl ExactSizeIterator<Item = Option<&'v [u8]>>,
    ) -> Result<()> {
        self.require_width(values.len())?;
        self.push_place(place, Operation::Delete);
        self.old_present.push(true);
        for (value, position) in values.zip(&self.old_positions) {
            match (value, *position) {
                (_, None) => {}
                (Some(text), Some(position)) => self.old.append_text(position, text),
                (None, Some(position)) => self.old.append_null(position),
            }
        }
        self.old.end_row()?;
        self.missing.append_null();
        self.new.null_row()
    }

    fn require_width(&self, width: usize) -> Result<()> {
        if width == self.width {
            return Ok(());
        }
        Err(Failure::failed(format!("a change has {width} columns where its relation has {}", self.width)))
    }

    fn push_place(&mut self, place: Place, operation: Operation) {
        self.lsn.append_value(place.lsn.as_i64());
        self.seq.append_value(place.seq);
        self.xid.append_value(place.xid.into());
        self.ts.append_value(place.time);
        self.op.append_value(operation.as_str());
        self.memory_of_fixed += FIXED_ROW_BYTES;
    }

    fn push_old(&mut self, old: Option<&OldTuple<'_>>) -> Result<()> {
        self.old_present.push(old.is_some());
        let Some(old) = old else { return self.old.null_row() };
        for ((value, position), form) in old.tuple.values().zip(&self.old_positions).zip(&self.forms) {
            let Some(position) = *position else { continue };
            match value {
                Value::Text(text) => self.old.append_text(position, text),
                Value::Null | Value::Unchanged => self.old.append_null(position),
                Value::Binary(bytes) => self.old.append_streamed(position, *form, bytes)?,
            }
        }
        self.old.end_row()
    }

    fn push_new(&mut self, old: Option<&OldTuple<'_>>, new: Option<&Tuple<'_>>) -> Result<()> {
        let Some(new) = new else {
            self.missing.append_null();
            return self.new.null_row();
        };
        let mut any_missing = false;
        let mut before = old.filter(|old| old.full).map(|old| old.tuple.values());
        for (at, value) in new.values().enumerate() {
            let old_value = before.as_mut().and_then(Iterator::next);
            let value = if value == Value::Unchanged { old_value.unwrap_or(value) } else { value };
            match value {
                Value::Text(text) => self.new.append_text(at, text),
                Value::Null => self.new.append_null(at),
                Value::Unchanged => {
                    self.missing.values().append_value(&self.new.builders[at].0);
                    any_missing = true;
                    self.new.append_null(at);
                }
                Value::Binary(bytes) => self.new.append_streamed(at, self.forms[at], bytes)?,
            }
        }
        self.missing.append(any_missing);
        self.new.end_row()
    }

    /// The changes so far as a batch; the builder is empty again.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let old_validity = NullBuffer::from(std::mem::take(&mut self.old_present));
        let DataType::Struct(old_fields) = self.schema.field(5).data_type().clone() else {
            return Err(Failure::failed("the column _old is not a struct"));
        };
        let old = StructArray::try_new(old_fields, self.old.finish(), Some(old_validity)).map_err(arrow_failure)?;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(self.lsn.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.xid.finish()),
            Arc::new(self.ts.finish()),
            Arc::new(self.op.finish()),
            Arc::new(old),
            Arc::new(self.missing.finish()),
        ];
        arrays.extend(self.new.finish());
        self.memory_of_fixed = 0;
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(arrow_failure)
    }
}

/// Rows of a base image under construction.
pub struct ImageBuilder {
    schema: SchemaRef,
    columns: Columns,
    /// In which form [`ImageBuilder::push_binary`] finds each column.
    forms: Vec<BinaryForm>,
    rows: usize,
}

impl ImageBuilder {
    pub fn new(relation: &RelationVersion) -> ImageBuilder {
        let all: Vec<usize> = (0..relation.columns.len()).collect();
        let forms = relation.columns.iter().map(BinaryForm::of_column).collect();
        ImageBuilder { schema: image_schema(relation), columns: Columns::new(relation, &all), forms, rows: 0 }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Approximate bytes held.
    pub fn memory(&self) -> usize {
        self.columns.memory()
    }

    /// Adds one row, its values in the relation's order, as PostgreSQL's text.
    pub fn push<'v>(&mut self, values: impl ExactSizeIterator<Item = Option<&'v [u8]>>) -> Result<()> {
        self.require_width(values.len())?;
        for (at, value) in values.enumerate() {
            match value {
                Some(text) => self.columns.append_text(at, text),
                None => self.columns.append_null(at),
            }
        }
        self.rows += 1;
        self.columns.end_row()
    }

    /// Adds the row of one message of a COPY in the binary format, its values in the relation's order and each in its
    /// [`BinaryForm`]. A message without a row adds none.
    ///
    /// # Errors
    /// Where the message is something else; the builder is of no use then.
    pub fn push_binary(&mut self, message: &[u8]) -> Result<()> {
        let Some(mut row) = BinaryRow::read(message)? else { return Ok(()) };
        self.require_width(row.len())?;
        for at in 0..row.len() {
            match row.next()? {
                Some(value) => self.columns.append_binary(at, self.forms[at], value)?,
                None => self.columns.append_null(at),
            }
        }
        if !row.is_over() {
            return Err(Misfit.into());
        }
        self.rows += 1;
        self.columns.end_row()
    }

    fn require_width(&self, width: usize) -> Result<()> {
        let expected = self.columns.builders.len();
        if width == expected {
            return Ok(());
        }
        Err(Failure::failed(format!("a row has {width} columns where its relation has {expected}")))
    }

    /// The rows so far as a batch; the builder is empty again.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        self.rows = 0;
        RecordBatch::try_new(Arc::clone(&self.schema), self.columns.finish()).map_err(arrow_failure)
    }
}
