//! An Arrow array's values as PostgreSQL's text.

use arrow::array::{
    Array, AsArray, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, TimeUnit};

use super::{Storage, bytea, calendar, decimal, float, integer, list};
use crate::failure::{Failure, Result};

/// Writes the values of one array as the text that PostgreSQL wrote for them.
///
/// It is the exact inverse of [`super::ColumnBuilder::append_text`] wherever that said [`super::Fit::Exact`].
#[derive(Debug)]
pub struct ValueReader<'a> {
    array: &'a dyn Array,
    values: Values<'a>,
}

#[derive(Debug)]
enum Values<'a> {
    Boolean(&'a BooleanArray),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
    TimestampTz(&'a TimestampMicrosecondArray),
    Binary(&'a BinaryArray),
    BinaryView(&'a BinaryViewArray),
    Text(&'a StringArray),
    TextView(&'a StringViewArray),
    List(ListReader<'a>),
}

impl<'a> ValueReader<'a> {
    /// Reads an array that holds values stored this way. View arrays, which query engines make of text and bytes, are
    /// read too.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where the array is of another type.
    pub fn new(array: &'a dyn Array, storage: &Storage) -> Result<ValueReader<'a>> {
        let values = Values::of(array, storage).ok_or_else(|| wrong_type(array, storage))?;
        Ok(ValueReader { array, values })
    }

    /// # Panics
    /// Where the array has no such row, as indexing does.
    pub fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    /// Appends a value's text to `out`; nothing for a NULL.
    ///
    /// # Panics
    /// Where the array has no such row, as indexing does.
    pub fn write_text(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return;
        }
        match &self.values {
            Values::Boolean(array) => out.push(if array.value(row) { b't' } else { b'f' }),
            Values::Int16(array) => integer::write(i64::from(array.value(row)), out),
            Values::Int32(array) => integer::write(i64::from(array.value(row)), out),
            Values::Int64(array) => integer::write(array.value(row), out),
            Values::Float32(array) => float::write_f32(array.value(row), out),
            Values::Float64(array) => float::write_f64(array.value(row), out),
            Values::Decimal(array, scale) => decimal::write(array.value(row), *scale, out),
            Values::Date(array) => calendar::write_date(array.value(row), out),
            Values::Timestamp(array) => calendar::write_timestamp(array.value(row), out),
            Values::TimestampTz(array) => calendar::write_timestamp_tz(array.value(row), out),
            Values::Binary(array) => bytea::write(array.value(row), out),
            Values::BinaryView(array) => bytea::write(array.value(row), out),
            Values::Text(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Values::TextView(array) => out.extend_from_slice(array.value(row).as_bytes()),
            Values::List(lists) => lists.write_text(row, out),
        }
    }
}

impl<'a> Values<'a> {
    /// `None` where the array's type is not the storage's. A decimal's precision does not matter, for its text does not
    /// depend on it; nor does the name of a zone, for the numbers are UTC in any.
    fn of(array: &'a dyn Array, storage: &Storage) -> Option<Values<'a>> {
        use DataType as D;
        Some(match (storage, array.data_type()) {
            (Storage::Boolean, D::Boolean) => Values::Boolean(array.as_boolean_opt()?),
            (Storage::Int16, D::Int16) => Values::Int16(array.as_primitive_opt()?),
            (Storage::Int32, D::Int32) => Values::Int32(array.as_primitive_opt()?),
            (Storage::Int64, D::Int64) => Values::Int64(array.as_primitive_opt()?),
            (Storage::Float32, D::Float32) => Values::Float32(array.as_primitive_opt()?),
            (Storage::Float64, D::Float64) => Values::Float64(array.as_primitive_opt()?),
            (Storage::Decimal { scale, .. }, D::Decimal128(_, stored)) if i16::from(*stored) == i16::from(*scale) => {
                Values::Decimal(array.as_primitive_opt()?, *scale)
            }
            (Storage::Date, D::Date32) => Values::Date(array.as_primitive_opt()?),
            (Storage::Timestamp, D::Timestamp(TimeUnit::Microsecond, None)) => {
                Values::Timestamp(array.as_primitive_opt()?)
            }
            (Storage::TimestampTz, D::Timestamp(TimeUnit::Microsecond, Some(_))) => {
                Values::TimestampTz(array.as_primitive_opt()?)
            }
            (Storage::Binary, D::Binary) => Values::Binary(array.as_binary_opt()?),
            (Storage::Binary, D::BinaryView) => Values::BinaryView(array.as_binary_view_opt()?),
            // Text says all that any storage could: an archive in which a column was not typed yet stays readable.
            (Storage::Text | Storage::List { .. }, D::Utf8) => Values::Text(array.as_string_opt()?),
            (Storage::Text | Storage::List { .. }, D::Utf8View) => Values::TextView(array.as_string_view_opt()?),
            (Storage::List { element, delimiter }, D::List(_)) => {
                Values::List(ListReader::new(array.as_list_opt()?, element, *delimiter)?)
            }
            _ => return None,
        })
    }
}

/// Arrays of one dimension.
#[derive(Debug)]
struct ListReader<'a> {
    lists: &'a ListArray,
    elements: Box<ValueReader<'a>>,
    delimiter: u8,
}

impl<'a> ListReader<'a> {
    fn new(lists: &'a ListArray, element: &Storage, delimiter: u8) -> Option<ListReader<'a>> {
        let array = lists.values().as_ref();
        let values = Values::of(array, element)?;
        Some(ListReader { lists, elements: Box::new(ValueReader { array, values }), delimiter })
    }

    fn write_text(&self, row: usize, out: &mut Vec<u8>) {
        let offsets = self.lists.value_offsets();
        let (first, end) = (offsets[row] as usize, offsets[row + 1] as usize);
        out.push(b'{');
        for at in first..end {
            if at > first {
                out.push(self.delimiter);
            }
            self.write_element(at, out);
        }
        out.push(b'}');
    }

    fn write_element(&self, at: usize, out: &mut Vec<u8>) {
        if self.elements.is_null(at) {
            return list::write_null(out);
        }
        let start = out.len();
        self.elements.write_text(at, out);
        list::quote(out, start, self.delimiter);
    }
}

fn wrong_type(array: &dyn Array, storage: &Storage) -> Failure {
    Failure::failed(format!("a column is stored as {} where {} was expected", array.data_type(), storage.arrow_type()))
        .remedy("another program may have rewritten the archive's files; run: afterimage verify --deep")
}
