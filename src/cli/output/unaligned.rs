//! Values with a bar between them, as psql prints them unaligned.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::cells::{Cells, printable};
use super::human;
use super::table::visible;
use crate::failure::Result;

#[derive(Debug)]
pub(super) struct UnalignedForm {
    /// The header, until it is written.
    header: Option<String>,
}

impl UnalignedForm {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let names: Vec<String> = schema.fields().iter().map(|field| visible(field.name())).collect();
        UnalignedForm { header: Some(format!("{}\n", names.join("|"))) }
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<String> {
        let batch = printable(batch)?;
        let cells = Cells::new(&batch)?;
        let mut text = self.header.take().unwrap_or_default();
        for row in 0..batch.num_rows() {
            let row = cells.row(row)?.into_iter().map(|cell| visible(&cell.unwrap_or_default()));
            text.push_str(&row.collect::<Vec<_>>().join("|"));
            text.push('\n');
        }
        Ok(text)
    }

    pub(super) fn finish(&mut self, rows: u64) -> String {
        format!("{}({})\n", self.header.take().unwrap_or_default(), human::rows(rows))
    }
}
