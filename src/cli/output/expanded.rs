//! One line per value, as psql prints them with `\\x`.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use unicode_width::UnicodeWidthStr;

use super::cells::{Cells, printable};
use super::human;
use super::table::visible;
use crate::failure::Result;

#[derive(Debug)]
pub(super) struct ExpandedForm {
    names: Vec<String>,
    records: u64,
}

impl ExpandedForm {
    pub(super) fn new(schema: SchemaRef) -> Self {
        ExpandedForm { names: schema.fields().iter().map(|field| visible(field.name())).collect(), records: 0 }
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<String> {
        let batch = printable(batch)?;
        let cells = Cells::new(&batch)?;
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            let row: Vec<String> = cells.row(row)?.into_iter().map(|cell| visible(&cell.unwrap_or_default())).collect();
            self.record(&mut text, &row);
        }
        Ok(text)
    }

    fn record(&mut self, text: &mut String, row: &[String]) {
        self.records += 1;
        let names = self.names.iter().map(|name| name.width()).max().unwrap_or(0);
        let values = row.iter().map(|value| value.width()).max().unwrap_or(0);
        let title = format!("-[ RECORD {} ]", self.records);
        let rule = match (names + 1).checked_sub(title.len()) {
            Some(left) => format!("{title}{}+{}", "-".repeat(left), "-".repeat(values + 1)),
            None => format!("{title}{}", "-".repeat((names + values + 3).saturating_sub(title.len()))),
        };
        text.push_str(&rule);
        text.push('\n');
        for (name, value) in self.names.iter().zip(row) {
            let line = format!("{name}{} | {value}", " ".repeat(names - name.width()));
            text.push_str(line.trim_end_matches(' '));
            text.push('\n');
        }
    }

    pub(super) fn finish(&mut self, rows: u64) -> String {
        if rows == 0 { format!("({})\n", human::rows(0)) } else { String::new() }
    }
}
