//! Rows of a table as typed columns.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::gathering::{Gather, Texts};
use crate::columnar::{ColumnBuilder, RowText, Storage, Wanted, conform};
use crate::failure::{Failure, Result};
use crate::model::Column;

/// The columns under their names in the source, all of which can be NULL: a value that its type cannot hold is.
pub fn row_schema(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(&column.name, Storage::of_column(column).arrow_type(), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Gathers rows as record batches.
#[derive(Debug, Clone)]
pub struct TypedRows {
    columns: Arc<[Column]>,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// Of the batches.
    bytes: usize,
    /// Rows that came one by one.
    texts: Texts,
}

impl TypedRows {
    /// Takes up rows that have these columns, in this order.
    pub fn new(columns: &[Column]) -> TypedRows {
        let (schema, columns) = (row_schema(columns), columns.into());
        TypedRows { columns, schema, batches: Vec::new(), bytes: 0, texts: Texts::default() }
    }

    /// The batches' columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// What was taken up.
    ///
    /// # Errors
    /// Where the rows do not have the columns.
    pub fn into_batches(mut self) -> Result<Vec<RecordBatch>> {
        let mut builders: Vec<ColumnBuilder> =
            self.columns.iter().map(|column| ColumnBuilder::new(&Storage::of_column(column))).collect();
        let mut rows = 0;
        self.texts.for_each(&mut |row| {
            rows += 1;
            for (builder, field) in builders.iter_mut().zip(row.fields()) {
                match field {
                    // What does not fit is NULL.
                    Some(text) => drop(builder.append_text(text)),
                    None => builder.append_null(),
                }
            }
            Ok(())
        })?;
        if rows > 0 {
            let arrays = builders.iter_mut().map(ColumnBuilder::finish).collect();
            self.batches.push(batch(&self.schema, arrays, rows)?);
        }
        Ok(self.batches)
    }
}

fn batch(schema: &SchemaRef, arrays: Vec<arrow::array::ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)
        .map_err(|error| Failure::failed(format!("rows as columns: {error}")))
}

impl Gather for TypedRows {
    fn add(&mut self, row: &RowText) {
        self.texts.add(row);
    }

    fn add_batch(&mut self, rows: &RecordBatch, columns: &[Wanted<'_>]) -> Result<bool> {
        let arrays = conform(rows, columns, &self.columns)?;
        let made = batch(&self.schema, arrays, rows.num_rows())?;
        // Rows without columns count too.
        self.bytes += made.get_array_memory_size() + made.num_rows();
        self.batches.push(made);
        Ok(true)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.texts.bytes()
    }
}
