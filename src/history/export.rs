//! A table as it was, in formats that other programs read.

use std::io::Write;

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value as Json};

use super::gathering::Gather;
use super::table_at::TableAt;
use crate::columnar::{ImageBuilder, RowText, Storage, image_schema};
use crate::copy_format::{write_csv_header, write_csv_row};
use crate::failure::{Failure, Result};
use crate::model::{RelationVersion, quote_identifier, quote_literal};

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExportFormat {
    /// As `COPY (SELECT * …) TO STDOUT (FORMAT csv, HEADER)` writes it.
    #[default]
    Csv,
    /// `INSERT` statements.
    Sql,
    /// One JSON object per line; numbers and booleans as such, everything else as PostgreSQL's text.
    Json,
    /// One Parquet file with typed columns; `_exact` has the text of values that these cannot hold.
    Parquet,
}

/// Rows of an `INSERT` statement.
const ROWS_PER_INSERT: u64 = 500;
/// Bytes of rows in memory before a Parquet row group is written.
const PARQUET_GROUP_BYTES: usize = 64 << 20;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Writes every row; the number of rows comes back.
///
/// # Errors
/// Failed where the output cannot be written, and what reading the archive says.
pub async fn export(table: &TableAt, format: ExportFormat, out: &mut (dyn Write + Send)) -> Result<u64> {
    match format {
        ExportFormat::Csv => csv(table, out).await,
        ExportFormat::Sql => sql(table, out).await,
        ExportFormat::Json => json(table, out).await,
        ExportFormat::Parquet => parquet(table, out).await,
    }
}

/// What an error of the output means.
fn unwritable(error: std::io::Error) -> Failure {
    Failure::failed(format!("writing the export: {error}"))
        .remedy("check that the output's disk is not full and can be written")
}

/// Gathers bytes and passes them on in large pieces.
struct Gathered<'a> {
    bytes: Vec<u8>,
    out: &'a mut (dyn Write + Send),
}

impl<'a> Gathered<'a> {
    fn new(out: &'a mut (dyn Write + Send)) -> Self {
        Gathered { bytes: Vec::with_capacity(WRITE_BYTES + 4096), out }
    }

    fn pass_on_when_full(&mut self) -> Result<()> {
        if self.bytes.len() >= WRITE_BYTES { self.pass_on() } else { Ok(()) }
    }

    fn pass_on(&mut self) -> Result<()> {
        self.out.write_all(&self.bytes).map_err(unwritable)?;
        self.bytes.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.pass_on()?;
        self.out.flush().map_err(unwritable)
    }
}

/// Rows as CSV.
#[derive(Debug, Clone, Default)]
struct CsvRows {
    bytes: Vec<u8>,
    rows: u64,
}

impl Gather for CsvRows {
    fn add(&mut self, row: &RowText) {
        write_csv_row(&mut self.bytes, row.fields());
        self.rows += 1;
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

async fn csv(table: &TableAt, out: &mut (dyn Write + Send)) -> Result<u64> {
    let mut header = Vec::new();
    write_csv_header(&mut header, table.relation().columns.iter().map(|column| column.name.as_str()));
    out.write_all(&header).map_err(unwritable)?;
    let mut rows = 0;
    let mut take = |gathered: CsvRows| {
        rows += gathered.rows;
        out.write_all(&gathered.bytes).map_err(unwritable)
    };
    table.gather(None, CsvRows::default(), &mut take).await?;
    out.flush().map_err(unwritable)?;
    Ok(rows)
}

/// The settings under which the literals mean what they meant: those that decided their text, as far as a
/// reader heeds them. Money's text is the C locale's.
const SQL_SETTINGS: &[u8] = b"SET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n\
    SET TimeZone = 'UTC';\nSET DateStyle = 'ISO, MDY';\nSET IntervalStyle = 'postgres';\n\
    SET lc_monetary = 'C';\nSET xmloption = 'content';\n";

async fn sql(table: &TableAt, out: &mut (dyn Write + Send)) -> Result<u64> {
    let insert = Insert::into(table.relation());
    let mut gathered = Gathered::new(out);
    gathered.bytes.extend_from_slice(SQL_SETTINGS);
    let mut rows = 0;
    let mut sink = |row: &RowText| {
        insert.write(row, rows, &mut gathered.bytes);
        rows += 1;
        gathered.pass_on_when_full()
    };
    table.for_each_row(None, &mut sink).await?;
    if rows > 0 {
        gathered.bytes.extend_from_slice(b";\n");
    }
    gathered.finish()?;
    Ok(rows)
}

/// `INSERT` statements of several rows each.
struct Insert {
    head: String,
    /// Without columns there is no list of values to put several rows into.
    without_columns: bool,
}

impl Insert {
    fn into(relation: &RelationVersion) -> Insert {
        let table = relation.name.to_sql();
        if relation.columns.is_empty() {
            return Insert { head: format!("INSERT INTO {table} DEFAULT VALUES"), without_columns: true };
        }
        let columns: Vec<String> = relation.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let head = format!("INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE VALUES\n", columns.join(", "));
        Insert { head, without_columns: false }
    }

    /// Writes a row after as many others. What ends the last statement is the caller's.
    fn write(&self, row: &RowText, before: u64, out: &mut Vec<u8>) {
        let first = self.without_columns || before.is_multiple_of(ROWS_PER_INSERT);
        if before > 0 {
            out.extend_from_slice(if first { b";\n" } else { b",\n" });
        }
        if first {
            out.extend_from_slice(self.head.as_bytes());
        }
        if !self.without_columns {
            write_values(row, out);
        }
    }
}

fn write_values(row: &RowText, out: &mut Vec<u8>) {
    let values: Vec<String> = row
        .fields()
        .map(|field| field.map_or_else(|| "NULL".to_owned(), |text| quote_literal(&String::from_utf8_lossy(text))))
        .collect();
    out.push(b'(');
    out.extend_from_slice(values.join(", ").as_bytes());
    out.push(b')');
}

async fn json(table: &TableAt, out: &mut (dyn Write + Send)) -> Result<u64> {
    let relation = table.relation();
    let mut gathered = Gathered::new(out);
    let mut rows = 0;
    let mut sink = |row: &RowText| {
        let object = json_row(relation, row);
        serde_json::to_writer(&mut gathered.bytes, &object).map_err(|error| unwritable(error.into()))?;
        gathered.bytes.push(b'\n');
        rows += 1;
        gathered.pass_on_when_full()
    };
    table.for_each_row(None, &mut sink).await?;
    gathered.finish()?;
    Ok(rows)
}

/// A row as a JSON object. A number that JSON cannot hold is its text.
pub fn json_row(relation: &RelationVersion, row: &RowText) -> Map<String, Json> {
    let fields = relation.columns.iter().zip(row.fields());
    fields
        .map(|(column, field)| {
            let storage = Storage::of_column(column);
            (column.name.clone(), field.map_or(Json::Null, |text| json_value(storage, text)))
        })
        .collect()
}

fn json_value(storage: Storage, text: &[u8]) -> Json {
    let text = String::from_utf8_lossy(text);
    let number = match storage {
        Storage::Boolean => return Json::Bool(text == "t"),
        Storage::Int16 | Storage::Int32 | Storage::Int64 => text.parse::<i64>().ok().map(Json::from),
        Storage::Float32 | Storage::Float64 => serde_json::from_str::<serde_json::Number>(&text).ok().map(Json::Number),
        _ => None,
    };
    number.unwrap_or_else(|| Json::String(text.into_owned()))
}

async fn parquet(table: &TableAt, out: &mut (dyn Write + Send)) -> Result<u64> {
    let fail = |error: parquet::errors::ParquetError| unwritable(std::io::Error::other(error));
    let level = ZstdLevel::try_new(1).map_err(fail)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut writer = ArrowWriter::try_new(out, image_schema(table.relation()), Some(properties)).map_err(fail)?;
    let mut builder = ImageBuilder::new(table.relation());
    let mut rows = 0;
    let mut sink = |row: &RowText| {
        builder.push(row.fields())?;
        rows += 1;
        if rows % 1024 == 0 && builder.memory() >= PARQUET_GROUP_BYTES {
            writer.write(&builder.finish()?).map_err(fail)?;
        }
        Ok(())
    };
    table.for_each_row(None, &mut sink).await?;
    writer.write(&builder.finish()?).map_err(fail)?;
    writer.close().map_err(fail)?;
    Ok(rows)
}
