//! RFC 4180, with line feeds as COPY writes them.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::cells::{Cells, printable};
use crate::failure::Result;

#[derive(Debug)]
pub(super) struct CsvForm {
    schema: SchemaRef,
    header_written: bool,
}

impl CsvForm {
    pub(super) fn new(schema: SchemaRef) -> Self {
        CsvForm { schema, header_written: false }
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<String> {
        let batch = printable(batch)?;
        let cells = Cells::new(&batch)?;
        let mut text = self.header();
        for row in 0..batch.num_rows() {
            line(&mut text, cells.row(row)?.iter().map(Option::as_deref));
        }
        Ok(text)
    }

    /// An answer without rows still has its header.
    pub(super) fn finish(&mut self) -> String {
        self.header()
    }

    fn header(&mut self) -> String {
        let mut text = String::new();
        if !self.header_written {
            self.header_written = true;
            line(&mut text, self.schema.fields().iter().map(|field| Some(field.name().as_str())));
        }
        text
    }
}

fn line<'a>(text: &mut String, fields: impl Iterator<Item = Option<&'a str>>) {
    for (at, field) in fields.enumerate() {
        if at > 0 {
            text.push(',');
        }
        if let Some(field) = field {
            push_field(text, field);
        }
    }
    text.push('\n');
}

fn push_field(text: &mut String, field: &str) {
    let plain = !field.is_empty() && !field.contains([',', '"', '\n', '\r']) && field.trim() == field;
    if plain {
        text.push_str(field);
        return;
    }
    text.push('"');
    text.push_str(&field.replace('"', "\"\""));
    text.push('"');
}
