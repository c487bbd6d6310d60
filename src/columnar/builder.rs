//! Text values into an Arrow array.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, GenericByteBuilder, Int16Builder, Int32Builder, Int64Builder, PrimitiveBuilder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{ArrowPrimitiveType, ByteArrayType};

use super::{Storage, bytea, calendar, decimal, float, integer};

/// Whether a value entered its column.
#[must_use = "an inexact value is lost unless its text is kept elsewhere"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The column holds the value, and a [`super::ValueReader`] writes its text again byte for byte.
    Exact,
    /// The column holds NULL in its place: the caller must keep the text elsewhere.
    Inexact,
}

impl Fit {
    fn exact_if(exact: bool) -> Fit {
        if exact { Fit::Exact } else { Fit::Inexact }
    }
}

/// Collects one column's values.
///
/// No input makes it panic, and every append adds exactly one row. An idle builder holds no memory worth counting, so
/// there can be one for each column of thousands of tables.
#[derive(Debug)]
pub struct ColumnBuilder {
    values: Values,
    /// Bytes or digits on their way into a column, here so that no value needs an allocation.
    scratch: Vec<u8>,
}

#[derive(Debug)]
enum Values {
    Boolean(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, u8, u8),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampTz(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
    Text(StringBuilder),
}

/// Does the same with the builder of whichever type.
macro_rules! with_builder {
    ($values:expr, $builder:ident => $do:expr) => {
        match $values {
            Values::Boolean($builder) => $do,
            Values::Int16($builder) => $do,
            Values::Int32($builder) => $do,
            Values::Int64($builder) => $do,
            Values::Float32($builder) => $do,
            Values::Float64($builder) => $do,
            Values::Decimal($builder, ..) => $do,
            Values::Date($builder) => $do,
            Values::Timestamp($builder) | Values::TimestampTz($builder) => $do,
            Values::Binary($builder) => $do,
            Values::Text($builder) => $do,
        }
    };
}

impl ColumnBuilder {
    pub fn new(storage: &Storage) -> ColumnBuilder {
        ColumnBuilder { values: Values::new(storage), scratch: Vec::new() }
    }

    /// Adds a NULL.
    pub fn append_null(&mut self) {
        with_builder!(&mut self.values, builder => builder.append_null());
    }

    /// Adds a value from the text that PostgreSQL wrote for it, or a NULL where the column cannot give back just this
    /// text.
    pub fn append_text(&mut self, text: &[u8]) -> Fit {
        let scratch = &mut self.scratch;
        match &mut self.values {
            Values::Boolean(builder) => append_boolean(builder, text),
            Values::Int16(builder) => append(builder, integer::parse(text).and_then(|number| number.try_into().ok())),
            Values::Int32(builder) => append(builder, integer::parse(text).and_then(|number| number.try_into().ok())),
            Values::Int64(builder) => append(builder, integer::parse(text)),
            Values::Float32(builder) => append(builder, float::parse_f32(text, scratch)),
            Values::Float64(builder) => append(builder, float::parse_f64(text, scratch)),
            Values::Decimal(builder, precision, scale) => append(builder, decimal::parse(text, *precision, *scale)),
            Values::Date(builder) => append(builder, calendar::parse_date(text)),
            Values::Timestamp(builder) => append(builder, calendar::parse_timestamp(text)),
            Values::TimestampTz(builder) => append(builder, calendar::parse_timestamp_tz(text)),
            Values::Binary(builder) => {
                let bytes = bytea::parse(text, scratch).then_some(scratch.as_slice());
                append_bytes(builder, bytes)
            }
            Values::Text(builder) => append_bytes(builder, std::str::from_utf8(text).ok()),
        }
    }

    /// How many rows were added since the start or the last [`ColumnBuilder::finish`].
    pub fn len(&self) -> usize {
        with_builder!(&self.values, builder => builder.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes the rows added so far take in memory.
    pub fn memory(&self) -> usize {
        let validity = self.len() / 8;
        validity
            + match &self.values {
                Values::Boolean(builder) => builder.len() / 8,
                Values::Int16(builder) => size_of_val(builder.values_slice()),
                Values::Int32(builder) => size_of_val(builder.values_slice()),
                Values::Int64(builder) => size_of_val(builder.values_slice()),
                Values::Float32(builder) => size_of_val(builder.values_slice()),
                Values::Float64(builder) => size_of_val(builder.values_slice()),
                Values::Decimal(builder, ..) => size_of_val(builder.values_slice()),
                Values::Date(builder) => size_of_val(builder.values_slice()),
                Values::Timestamp(builder) | Values::TimestampTz(builder) => size_of_val(builder.values_slice()),
                Values::Binary(builder) => builder.values_slice().len() + size_of_val(builder.offsets_slice()),
                Values::Text(builder) => builder.values_slice().len() + size_of_val(builder.offsets_slice()),
            }
    }

    /// The rows added so far as an array of [`Storage::arrow_type`]; the builder starts again with none.
    pub fn finish(&mut self) -> ArrayRef {
        with_builder!(&mut self.values, builder => Arc::new(builder.finish()))
    }
}

impl Values {
    fn new(storage: &Storage) -> Values {
        match *storage {
            Storage::Boolean => Values::Boolean(BooleanBuilder::with_capacity(0)),
            Storage::Int16 => Values::Int16(primitive(storage)),
            Storage::Int32 => Values::Int32(primitive(storage)),
            Storage::Int64 => Values::Int64(primitive(storage)),
            Storage::Float32 => Values::Float32(primitive(storage)),
            Storage::Float64 => Values::Float64(primitive(storage)),
            Storage::Decimal { precision, scale } => Values::Decimal(primitive(storage), precision, scale),
            Storage::Date => Values::Date(primitive(storage)),
            Storage::Timestamp => Values::Timestamp(primitive(storage)),
            Storage::TimestampTz => Values::TimestampTz(primitive(storage)),
            Storage::Binary => Values::Binary(BinaryBuilder::with_capacity(0, 0)),
            Storage::Text => Values::Text(StringBuilder::with_capacity(0, 0)),
        }
    }
}

fn primitive<T: ArrowPrimitiveType>(storage: &Storage) -> PrimitiveBuilder<T> {
    PrimitiveBuilder::with_capacity(0).with_data_type(storage.arrow_type())
}

fn append<T: ArrowPrimitiveType>(builder: &mut PrimitiveBuilder<T>, value: Option<T::Native>) -> Fit {
    builder.append_option(value);
    Fit::exact_if(value.is_some())
}

fn append_boolean(builder: &mut BooleanBuilder, text: &[u8]) -> Fit {
    let value = match text {
        b"t" => Some(true),
        b"f" => Some(false),
        _ => None,
    };
    builder.append_option(value);
    Fit::exact_if(value.is_some())
}

fn append_bytes<T, V>(builder: &mut GenericByteBuilder<T>, value: Option<&V>) -> Fit
where
    T: ByteArrayType<Offset = i32>,
    V: AsRef<T::Native> + AsRef<[u8]> + ?Sized,
{
    let held = builder.values_slice().len();
    // An array's offsets have 31 bits, and its builder panics beyond.
    let value = value.filter(|value| {
        let bytes: &[u8] = (*value).as_ref();
        held + bytes.len() <= i32::MAX as usize
    });
    builder.append_option(value);
    Fit::exact_if(value.is_some())
}
