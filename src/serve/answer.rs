//! From Arrow's columns to rows of PostgreSQL's protocol, as text and in binary.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema,
    TimeUnit, TimestampMicrosecondType,
};
use arrow::json::writer::{JsonArray, WriterBuilder};
use bytes::{BufMut, BytesMut};

use super::error::SqlError;
use super::frame::{Wire, put_text};
use crate::columnar::{Storage, ValueReader};
use crate::failure::{Failure, Result as OurResult};

/// Microseconds and days from 1970 to 2000, PostgreSQL's epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// A type of PostgreSQL as far as a client is told: number and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SqlType {
    pub(super) oid: u32,
    pub(super) length: i16,
    pub(super) name: &'static str,
}

const fn sql_type(oid: u32, length: i16, name: &'static str) -> SqlType {
    SqlType { oid, length, name }
}

const TEXT: SqlType = sql_type(25, -1, "text");
const INT8: SqlType = sql_type(20, 8, "bigint");

/// The type under which a column is shown. What has none of its own is text, nested values are JSON.
pub(super) fn type_of(data_type: &DataType) -> SqlType {
    match data_type {
        DataType::Boolean => sql_type(16, 1, "boolean"),
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => sql_type(21, 2, "smallint"),
        DataType::UInt16 | DataType::Int32 => sql_type(23, 4, "integer"),
        DataType::UInt32 | DataType::Int64 => INT8,
        DataType::Float16 | DataType::Float32 => sql_type(700, 4, "real"),
        DataType::Float64 => sql_type(701, 8, "double precision"),
        DataType::UInt64 | DataType::Decimal128(_, 0..) => sql_type(1700, -1, "numeric"),
        DataType::Date32 => sql_type(1082, 4, "date"),
        DataType::Timestamp(_, None) => sql_type(1114, 8, "timestamp without time zone"),
        DataType::Timestamp(_, Some(_)) => sql_type(1184, 8, "timestamp with time zone"),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => sql_type(17, -1, "bytea"),
        DataType::Struct(_) | DataType::Map(_, _) => sql_type(114, -1, "json"),
        _ => TEXT,
    }
}

/// Writes a RowDescription; a format for each column, or one for all, or none where all are text.
pub(super) fn describe(wire: &mut Wire, schema: &Schema, formats: &[i16]) {
    wire.put(b'T', |out| {
        out.put_i16(i16::try_from(schema.fields().len()).unwrap_or(i16::MAX));
        for (at, field) in schema.fields().iter().enumerate() {
            let sql_type = type_of(field.data_type());
            put_text(out, field.name());
            out.put_i32(0);
            out.put_i16(0);
            out.put_u32(sql_type.oid);
            out.put_i16(sql_type.length);
            out.put_i32(-1);
            out.put_i16(i16::from(is_binary(formats, at)));
        }
    });
}

/// Whether a column is asked for in binary.
pub(super) fn is_binary(formats: &[i16], column: usize) -> bool {
    match formats {
        [] => false,
        [all] => *all == 1,
        each => each.get(column) == Some(&1),
    }
}

/// The rows of a batch, to be written one by one.
pub(super) struct Rows {
    columns: Vec<(ArrayRef, Form)>,
}

enum Form {
    /// By the archive's own reader, which writes PostgreSQL's text.
    Text(Storage),
    Binary(Storage),
    Numeric(i8),
    Json(Field),
}

impl Rows {
    pub(super) fn new(batch: &RecordBatch, formats: &[i16]) -> Result<Rows, SqlError> {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).enumerate();
        let columns = columns.map(|(at, (field, column))| prepared(field, column, is_binary(formats, at)));
        Ok(Rows { columns: columns.collect::<Result<_, SqlError>>()? })
    }

    /// Writes one DataRow.
    pub(super) fn write(&self, row: usize, wire: &mut Wire) -> Result<(), SqlError> {
        let mut failed = None;
        wire.put(b'D', |out| {
            out.put_i16(i16::try_from(self.columns.len()).unwrap_or(i16::MAX));
            for (column, form) in &self.columns {
                let start = out.len();
                out.put_i32(-1);
                if column.is_null(row) {
                    continue;
                }
                if let Err(error) = form.write(column, row, out) {
                    failed = Some(error);
                }
                let length = i32::try_from(out.len() - start - 4).unwrap_or(i32::MAX);
                out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
        });
        failed.map_or(Ok(()), Err)
    }
}

/// Brings a column into a type that can be written.
fn prepared(field: &Field, column: &ArrayRef, binary: bool) -> Result<(ArrayRef, Form), SqlError> {
    let to = |data_type: DataType| cast(column, &data_type).map_err(unwritable);
    let form = |storage: Storage| if binary { Form::Binary(storage) } else { Form::Text(storage) };
    let micros = |zone: Option<Arc<str>>| DataType::Timestamp(TimeUnit::Microsecond, zone);
    Ok(match column.data_type() {
        DataType::Boolean => (Arc::clone(column), form(Storage::Boolean)),
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => (to(DataType::Int16)?, form(Storage::Int16)),
        DataType::UInt16 | DataType::Int32 => (to(DataType::Int32)?, form(Storage::Int32)),
        DataType::UInt32 | DataType::Int64 => (to(DataType::Int64)?, form(Storage::Int64)),
        DataType::Float16 | DataType::Float32 => (to(DataType::Float32)?, form(Storage::Float32)),
        DataType::Float64 => (Arc::clone(column), form(Storage::Float64)),
        DataType::UInt64 => {
            let numbers = to(DataType::Decimal128(20, 0))?;
            (numbers, if binary { Form::Numeric(0) } else { Form::Text(Storage::Decimal { precision: 20, scale: 0 }) })
        }
        DataType::Decimal128(_, scale @ 0..) if binary => (Arc::clone(column), Form::Numeric(*scale)),
        DataType::Decimal128(precision, scale @ 0..) => {
            let scale = scale.unsigned_abs();
            (Arc::clone(column), Form::Text(Storage::Decimal { precision: *precision, scale }))
        }
        DataType::Date32 => (Arc::clone(column), form(Storage::Date)),
        DataType::Timestamp(_, None) => (to(micros(None))?, form(Storage::Timestamp)),
        DataType::Timestamp(_, Some(_)) => (to(micros(Some("UTC".into())))?, form(Storage::TimestampTz)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            (to(DataType::Binary)?, form(Storage::Binary))
        }
        DataType::Struct(_) | DataType::Map(_, _) => (Arc::clone(column), Form::Json(field.clone())),
        DataType::List(element) => match element_storage(element.data_type()) {
            Some(element) => {
                (Arc::clone(column), Form::Text(Storage::List { element: Box::new(element), delimiter: b',' }))
            }
            None => (Arc::clone(column), Form::Json(field.clone())),
        },
        _ => (to(DataType::Utf8)?, Form::Text(Storage::Text)),
    })
}

fn failed(error: &SqlError) -> Failure {
    Failure::failed(error.message())
}

/// The cells of a batch as a client that asks for text is sent them, row by row; `None` for NULL.
///
/// # Errors
/// Failed where a value cannot be written.
pub fn texts(batch: &RecordBatch) -> OurResult<Vec<Vec<Option<String>>>> {
    let rows = Rows::new(batch, &[]).map_err(|error| failed(&error))?;
    let cell = |(column, form): &(ArrayRef, Form), row: usize| {
        if column.is_null(row) {
            return Ok(None);
        }
        let mut out = BytesMut::new();
        form.write(column, row, &mut out).map_err(|error| failed(&error))?;
        Ok(Some(String::from_utf8_lossy(&out).into_owned()))
    };
    let cells = |row| rows.columns.iter().map(|column| cell(column, row)).collect();
    (0..batch.num_rows()).map(cells).collect()
}

/// The name of the type under which a column is shown.
pub fn type_name(data_type: &DataType) -> &'static str {
    type_of(data_type).name
}

fn element_storage(data_type: &DataType) -> Option<Storage> {
    Some(match data_type {
        DataType::Boolean => Storage::Boolean,
        DataType::Int16 => Storage::Int16,
        DataType::Int32 => Storage::Int32,
        DataType::Int64 => Storage::Int64,
        DataType::Float32 => Storage::Float32,
        DataType::Float64 => Storage::Float64,
        DataType::Date32 => Storage::Date,
        DataType::Timestamp(TimeUnit::Microsecond, None) => Storage::Timestamp,
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Storage::TimestampTz,
        DataType::Utf8 => Storage::Text,
        _ => return None,
    })
}

fn unwritable(error: impl std::fmt::Display) -> SqlError {
    SqlError::new("XX000", format!("a value cannot be written: {error}"))
}

impl Form {
    fn write(&self, column: &ArrayRef, row: usize, out: &mut BytesMut) -> Result<(), SqlError> {
        match self {
            Form::Text(storage) => {
                let mut text = Vec::new();
                ValueReader::new(column, storage).map_err(unwritable)?.write_text(row, &mut text);
                out.put_slice(&text);
            }
            Form::Binary(storage) => write_binary(column, storage, row, out),
            Form::Numeric(scale) => write_numeric(column.as_primitive::<Decimal128Type>().value(row), *scale, out),
            Form::Json(field) => {
                let schema = Arc::new(Schema::new(vec![field.clone().with_name("v").with_nullable(true)]));
                let batch = RecordBatch::try_new(schema, vec![column.slice(row, 1)]).map_err(unwritable)?;
                let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
                writer.write(&batch).and_then(|()| writer.finish()).map_err(unwritable)?;
                let text = writer.into_inner();
                // [{"v":…}]
                out.put_slice(text.get(6..text.len().saturating_sub(2)).unwrap_or_default());
            }
        }
        Ok(())
    }
}

fn write_binary(column: &ArrayRef, storage: &Storage, row: usize, out: &mut BytesMut) {
    match storage {
        Storage::Boolean => out.put_u8(u8::from(column.as_boolean().value(row))),
        Storage::Int16 => out.put_i16(column.as_primitive::<Int16Type>().value(row)),
        Storage::Int32 => out.put_i32(column.as_primitive::<Int32Type>().value(row)),
        Storage::Int64 => out.put_i64(column.as_primitive::<Int64Type>().value(row)),
        Storage::Float32 => out.put_f32(column.as_primitive::<Float32Type>().value(row)),
        Storage::Float64 => out.put_f64(column.as_primitive::<Float64Type>().value(row)),
        Storage::Date => out.put_i32(column.as_primitive::<Date32Type>().value(row).saturating_sub(EPOCH_DAYS)),
        Storage::Timestamp | Storage::TimestampTz => {
            out.put_i64(column.as_primitive::<TimestampMicrosecondType>().value(row).saturating_sub(EPOCH_MICROS));
        }
        Storage::Binary => out.put_slice(column.as_binary::<i32>().value(row)),
        // The text of any other is its binary form too, under the type that it is shown with.
        Storage::Text | Storage::List { .. } | Storage::Decimal { .. } => {}
    }
}

/// A numeric's binary form: digits of base 10000, aligned to the decimal point.
fn write_numeric(value: i128, scale: i8, out: &mut BytesMut) {
    let scale = usize::from(scale.unsigned_abs());
    let text = value.unsigned_abs().to_string();
    let text = format!("{text:0>width$}", width = scale + 1);
    let (whole, fraction) = text.split_at(text.len() - scale);
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let fraction = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let number = |digits: &[u8]| digits.iter().fold(0, |number: i16, digit| number * 10 + i16::from(digit - b'0'));
    let mut digits: Vec<i16> = whole.as_bytes().chunks(4).chain(fraction.as_bytes().chunks(4)).map(number).collect();
    let mut weight = i16::try_from(whole.len() / 4).unwrap_or(0) - 1;
    while digits.first() == Some(&0) {
        digits.remove(0);
        weight -= 1;
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    out.put_i16(i16::try_from(digits.len()).unwrap_or(0));
    out.put_i16(if digits.is_empty() { 0 } else { weight });
    out.put_u16(if value < 0 { 0x4000 } else { 0 });
    out.put_i16(i16::try_from(scale).unwrap_or(0));
    digits.iter().for_each(|digit| out.put_i16(*digit));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_have_postgresqls_binary_form() {
        let written = |value, scale| {
            let mut out = BytesMut::new();
            write_numeric(value, scale, &mut out);
            out.chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<_>>()
        };
        // From numeric_send of PostgreSQL 15.
        assert_eq!(written(0, 0), [0, 0, 0, 0]);
        assert_eq!(written(1_2345_6789, 4), [3, 1, 0, 4, 1, 2345, 6789]);
        assert_eq!(written(-5, 1), [1, -1, 0x4000, 1, 5000]);
        assert_eq!(written(10_0000, 0), [1, 1, 0, 0, 10]);
        assert_eq!(written(1, 5), [1, -2, 0, 5, 1000]);
    }
}
