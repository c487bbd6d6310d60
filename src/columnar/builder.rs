//! Text values into an Arrow array.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, GenericByteBuilder, Int16Builder, Int32Builder, Int64Builder, ListArray, PrimitiveBuilder,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowPrimitiveType, ByteArrayType, FieldRef};

use super::binary::{self, BinaryForm, Misfit};
use super::list::Elements;
use super::storage::list_field;
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
    List(Box<ListBuilder>),
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
            Values::List($builder) => $do,
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
            Values::List(builder) => builder.append_text(text),
        }
    }

    /// Adds a value from a binary form of it. Where the column cannot hold it, a NULL is added and PostgreSQL's text of
    /// it given.
    ///
    /// # Errors
    /// Where the bytes are not of the form; nothing is added then.
    pub(super) fn append_binary<'a>(
        &'a mut self,
        form: BinaryForm,
        bytes: &'a [u8],
    ) -> Result<Option<&'a [u8]>, Misfit> {
        let text = match form {
            BinaryForm::Native => return self.append_native(bytes),
            BinaryForm::Uuid => return self.append_uuid(bytes),
            BinaryForm::Numeric => return self.append_numeric(bytes),
            BinaryForm::Jsonb => binary::text_of_jsonb(bytes)?,
            BinaryForm::Text | BinaryForm::Converted => bytes,
        };
        Ok(match self.append_text(text) {
            Fit::Exact => None,
            Fit::Inexact => Some(text),
        })
    }

    fn append_native(&mut self, bytes: &[u8]) -> Result<Option<&[u8]>, Misfit> {
        let scratch = &mut self.scratch;
        scratch.clear();
        let fit = match &mut self.values {
            Values::Boolean(builder) => {
                builder.append_value(u8::from_be_bytes(binary::fixed(bytes)?) != 0);
                Fit::Exact
            }
            Values::Int16(builder) => append(builder, Some(i16::from_be_bytes(binary::fixed(bytes)?))),
            Values::Int32(builder) => append(builder, Some(i32::from_be_bytes(binary::fixed(bytes)?))),
            Values::Int64(builder) => append(builder, Some(binary::whole_number(bytes)?)),
            Values::Float32(builder) => append(builder, Some(binary::float4(bytes)?)),
            Values::Float64(builder) => append(builder, Some(binary::float8(bytes)?)),
            Values::Date(builder) => append(builder, binary::date(bytes, scratch)?),
            Values::Timestamp(builder) => append(builder, binary::timestamp(bytes, false, scratch)?),
            Values::TimestampTz(builder) => append(builder, binary::timestamp(bytes, true, scratch)?),
            Values::Binary(builder) => {
                let fit = append_bytes(builder, Some(bytes));
                if fit == Fit::Inexact {
                    bytea::write(bytes, scratch);
                }
                fit
            }
            Values::Decimal(..) | Values::Text(_) | Values::List(_) => return Err(Misfit),
        };
        Ok((fit == Fit::Inexact).then_some(scratch.as_slice()))
    }

    fn append_numeric(&mut self, bytes: &[u8]) -> Result<Option<&[u8]>, Misfit> {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        binary::numeric(bytes, &mut text)?;
        let fit = self.append_text(&text);
        self.scratch = text;
        Ok((fit == Fit::Inexact).then_some(self.scratch.as_slice()))
    }

    fn append_uuid(&mut self, bytes: &[u8]) -> Result<Option<&[u8]>, Misfit> {
        let text = binary::text_of_uuid(binary::fixed(bytes)?);
        self.scratch.clear();
        self.scratch.extend_from_slice(&text);
        let Values::Text(builder) = &mut self.values else { return Err(Misfit) };
        let fit = append_bytes(builder, std::str::from_utf8(&text).ok());
        Ok((fit == Fit::Inexact).then_some(self.scratch.as_slice()))
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
                Values::List(builder) => builder.memory(),
            }
    }

    /// The rows added so far as an array of [`Storage::arrow_type`]; the builder starts again with none.
    pub fn finish(&mut self) -> ArrayRef {
        with_builder!(&mut self.values, builder => Arc::new(builder.finish()))
    }
}

impl Values {
    fn new(storage: &Storage) -> Values {
        match storage {
            Storage::Boolean => Values::Boolean(BooleanBuilder::with_capacity(0)),
            Storage::Int16 => Values::Int16(primitive(storage)),
            Storage::Int32 => Values::Int32(primitive(storage)),
            Storage::Int64 => Values::Int64(primitive(storage)),
            Storage::Float32 => Values::Float32(primitive(storage)),
            Storage::Float64 => Values::Float64(primitive(storage)),
            Storage::Decimal { precision, scale } => Values::Decimal(primitive(storage), *precision, *scale),
            Storage::Date => Values::Date(primitive(storage)),
            Storage::Timestamp => Values::Timestamp(primitive(storage)),
            Storage::TimestampTz => Values::TimestampTz(primitive(storage)),
            Storage::Binary => Values::Binary(BinaryBuilder::with_capacity(0, 0)),
            Storage::Text => Values::Text(StringBuilder::with_capacity(0, 0)),
            Storage::List { element, delimiter } => Values::List(Box::new(ListBuilder::new(element, *delimiter))),
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

/// Collects arrays.
///
/// Elements that were taken before one that does not fit stay, under the NULL that then stands for the array: Arrow lets
/// a NULL span elements, and nobody looks at them.
#[derive(Debug)]
struct ListBuilder {
    field: FieldRef,
    delimiter: u8,
    elements: ColumnBuilder,
    /// Where in `elements` each array ends.
    ends: Vec<i32>,
    valid: Vec<bool>,
    /// The array on its way into the column.
    parsed: Elements,
}

impl ListBuilder {
    fn new(element: &Storage, delimiter: u8) -> ListBuilder {
        ListBuilder {
            field: list_field(element),
            delimiter,
            elements: ColumnBuilder::new(element),
            ends: Vec::new(),
            valid: Vec::new(),
            parsed: Elements::default(),
        }
    }

    fn append_null(&mut self) {
        self.end(false);
    }

    fn append_text(&mut self, text: &[u8]) -> Fit {
        let exact = self.parsed.parse(text, self.delimiter) && self.has_room() && self.append_elements();
        self.end(exact);
        Fit::exact_if(exact)
    }

    /// An array's offsets have 31 bits.
    fn has_room(&self) -> bool {
        self.elements.len() + self.parsed.len() <= i32::MAX as usize
    }

    fn append_elements(&mut self) -> bool {
        self.parsed.iter().all(|element| match element {
            Some(text) => self.elements.append_text(text) == Fit::Exact,
            None => {
                self.elements.append_null();
                true
            }
        })
    }

    fn end(&mut self, valid: bool) {
        self.ends.push(self.elements.len() as i32);
        self.valid.push(valid);
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn memory(&self) -> usize {
        size_of_val(self.ends.as_slice()) + self.elements.memory()
    }

    fn finish(&mut self) -> ListArray {
        let offsets: Vec<i32> = std::iter::once(0).chain(self.ends.drain(..)).collect();
        let valid = NullBuffer::from(std::mem::take(&mut self.valid));
        let nulls = (valid.null_count() > 0).then_some(valid);
        ListArray::new(FieldRef::clone(&self.field), OffsetBuffer::new(offsets.into()), self.elements.finish(), nulls)
    }
}
