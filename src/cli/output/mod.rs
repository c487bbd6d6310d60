//! The forms in which every command prints its results. No terminal, clock or archive is looked at
//! here: where a form depends on one, the caller says so.
//!
//! * **table**, **unaligned**, **wrapped**, **expanded**: for people, as psql prints them;
//! * **json**: one object per line for rows, one indented object for a document;
//! * **csv**: RFC 4180 with a header; NULL is an empty field and an empty text is `""`, as COPY has it;
//! * **parquet**, **arrow** (an IPC file): the columns as they are, with LSNs as numbers.
//!
//! In all of the others instants are RFC 3339 in UTC and LSNs are `16/B374D848`, so that what one command
//! prints another accepts. Whoever stops reading (`| head`) ends the printing and is no error.

mod binary;
mod cells;
mod csv;
mod expanded;
pub mod human;
mod json;
mod table;
mod unaligned;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::ops::ControlFlow;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt};
use serde::Serialize;

use crate::failure::{Failure, Result};

pub use cells::lsns_as_text;
pub use human::{bytes, count, duration, rows, timestamp};

use binary::{ArrowForm, ParquetForm};
use csv::CsvForm;
use expanded::ExpandedForm;
use json::JsonForm;
use table::{Fit, TableForm};
use unaligned::UnalignedForm;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OutputForm {
    /// Aligned columns for people; on a terminal wide values are cut.
    #[default]
    #[value(alias = "aligned")]
    Table,
    /// Values with | between them.
    Unaligned,
    /// Aligned columns whose wide values go on below.
    Wrapped,
    /// One line per value.
    Expanded,
    /// One JSON object per row and line.
    Json,
    /// RFC 4180 with a header.
    Csv,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC file (Feather).
    Arrow,
}

impl OutputForm {
    /// Whether it is one file of bytes, which no terminal shows and behind which nothing can follow.
    pub fn is_binary(self) -> bool {
        matches!(self, OutputForm::Parquet | OutputForm::Arrow)
    }
}

/// Prints batches of rows of one schema in one form.
///
/// Rows are written as they come; a table waits for a bounded number of them to know its widths.
/// [`Printer::finish`] must be called, or a table's last rows are missing.
#[derive(Debug)]
pub struct Printer<W: Write> {
    out: W,
    form: Form,
    rows: u64,
    closed: bool,
}

#[derive(Debug)]
enum Form {
    Table(TableForm),
    Unaligned(UnalignedForm),
    Expanded(ExpandedForm),
    Json(JsonForm),
    Csv(CsvForm),
    Parquet(Box<ParquetForm>),
    Arrow(Box<ArrowForm>),
}

impl<W: Write> Printer<W> {
    /// A printer to `out`. `terminal_width` in columns makes a table's wide cells shorter, or wraps them, so that a
    /// row fits into a line; with `None` every cell is whole. The other forms are never shortened.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where the form has no such columns.
    pub fn new(out: W, form: OutputForm, schema: SchemaRef, terminal_width: Option<usize>) -> Result<Self> {
        let form = match form {
            OutputForm::Table => Form::Table(TableForm::new(schema, terminal_width.map_or(Fit::Whole, Fit::Cut))),
            OutputForm::Wrapped => Form::Table(TableForm::new(schema, terminal_width.map_or(Fit::Whole, Fit::Wrap))),
            OutputForm::Unaligned => Form::Unaligned(UnalignedForm::new(schema)),
            OutputForm::Expanded => Form::Expanded(ExpandedForm::new(schema)),
            OutputForm::Json => Form::Json(JsonForm),
            OutputForm::Csv => Form::Csv(CsvForm::new(schema)),
            OutputForm::Parquet => Form::Parquet(Box::new(ParquetForm::new(schema)?)),
            OutputForm::Arrow => Form::Arrow(Box::new(ArrowForm::new(schema)?)),
        };
        Ok(Printer { out, form, rows: 0, closed: false })
    }

    /// Prints a batch. `Break` means that nobody reads any more and the rest need not be produced.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where the output cannot be written or a value has no form.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<ControlFlow<()>> {
        if self.closed {
            return Ok(ControlFlow::Break(()));
        }
        self.rows += batch.num_rows() as u64;
        let bytes = match &mut self.form {
            Form::Table(table) => table.batch(batch)?.into_bytes(),
            Form::Unaligned(unaligned) => unaligned.batch(batch)?.into_bytes(),
            Form::Expanded(expanded) => expanded.batch(batch)?.into_bytes(),
            Form::Json(json) => json.batch(batch)?.into_bytes(),
            Form::Csv(csv) => csv.batch(batch)?.into_bytes(),
            Form::Parquet(parquet) => parquet.batch(batch)?,
            Form::Arrow(arrow) => arrow.batch(batch)?,
        };
        self.put(&bytes)?;
        Ok(if self.closed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Prints what is still held back and the footer; the number of rows that were printed.
    ///
    /// # Errors
    /// As [`Printer::write`].
    pub fn finish(mut self) -> Result<u64> {
        let bytes = match &mut self.form {
            Form::Table(table) => table.finish(self.rows).into_bytes(),
            Form::Unaligned(unaligned) => unaligned.finish(self.rows).into_bytes(),
            Form::Expanded(expanded) => expanded.finish(self.rows).into_bytes(),
            Form::Json(_) => Vec::new(),
            Form::Csv(csv) => csv.finish().into_bytes(),
            Form::Parquet(parquet) => parquet.finish()?,
            Form::Arrow(arrow) => arrow.finish()?,
        };
        self.put(&bytes)?;
        self.flush()?;
        Ok(self.rows)
    }

    /// Prints the rows held back, without a footer that would say that they are all.
    fn abandon(&mut self) -> Result<()> {
        if let Form::Table(table) = &mut self.form {
            let text = table.release();
            self.put(text.as_bytes())?;
        }
        self.flush()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.closed {
            let written = self.out.write_all(bytes);
            self.closed = is_closed(written)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.closed {
            let flushed = self.out.flush();
            self.closed = is_closed(flushed)?;
        }
        Ok(())
    }
}

/// Prints a stream of batches as they come, and stops asking for more when nobody reads any more.
///
/// # Errors
/// What the stream answered, after the rows that came before it; otherwise as [`Printer::write`].
pub async fn print_stream<W: Write>(
    mut printer: Printer<W>,
    batches: impl Stream<Item = Result<RecordBatch>>,
) -> Result<u64> {
    let mut batches = std::pin::pin!(batches);
    while let Some(batch) = batches.next().await {
        match batch.and_then(|batch| printer.write(&batch)) {
            Ok(ControlFlow::Continue(())) => {
                // Rows of a slow query are worth seeing before the next batch comes.
                printer.flush()?;
            }
            Ok(ControlFlow::Break(())) => break,
            Err(failure) => {
                printer.abandon()?;
                return Err(failure);
            }
        }
    }
    printer.finish()
}

/// Prints one value as indented JSON with a line end.
///
/// # Errors
/// [`crate::failure::Category::Failed`] where the output cannot be written or the value has no JSON form.
pub fn print_document<W: Write>(mut out: W, document: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(document)
        .map_err(|error| Failure::failed(format!("cannot print the result as JSON: {error}")))?;
    text.push(b'\n');
    print_bytes(&mut out, &text)
}

/// Prints ready text; whoever stops reading is no error.
///
/// # Errors
/// [`crate::failure::Category::Failed`] where the output cannot be written.
pub fn print_text<W: Write>(mut out: W, text: &str) -> Result<()> {
    print_bytes(&mut out, text.as_bytes())
}

fn print_bytes<W: Write>(out: &mut W, bytes: &[u8]) -> Result<()> {
    let written = out.write_all(bytes).and_then(|()| out.flush());
    is_closed(written).map(|_| ())
}

/// Whether the reader is gone, which is no error.
///
/// # Errors
/// [`crate::failure::Category::Failed`] where the output cannot be written.
pub fn is_closed(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(Failure::failed(format!("cannot write the output: {error}"))
            .remedy("check that the output's disk is not full and can be written")),
    }
}

/// The failure of a value that Arrow cannot print.
fn unprintable(error: arrow::error::ArrowError) -> Failure {
    Failure::failed(format!("cannot print a value: {error}")).remedy("convert the column to text in the query")
}
