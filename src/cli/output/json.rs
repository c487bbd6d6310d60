//! One JSON object per row and line.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, WriterBuilder};

use super::cells::printable;
use super::unprintable;
use crate::failure::Result;

#[derive(Debug)]
pub(super) struct JsonForm;

impl JsonForm {
    pub(super) fn batch(&self, batch: &RecordBatch) -> Result<String> {
        let batch = printable(batch)?;
        let mut writer = WriterBuilder::new()
            // A row always has all its keys, so that a script can tell NULL from a missing column.
            .with_explicit_nulls(true)
            .with_encoder_factory(Arc::new(WholeFloats))
            .build::<_, LineDelimited>(Vec::new());
        writer.write(&batch).and_then(|()| writer.finish()).map_err(unprintable)?;
        Ok(String::from_utf8_lossy(&writer.into_inner()).into_owned())
    }
}

/// JSON has no number for NaN and the infinities. Arrow would print null, which is another value;
/// they are printed as PostgreSQL's `to_json` prints them, as texts.
#[derive(Debug)]
struct WholeFloats;

impl EncoderFactory for WholeFloats {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float32 => Box::new(Floats(array.as_primitive::<Float32Type>().values())),
            DataType::Float64 => Box::new(Floats(array.as_primitive::<Float64Type>().values())),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct Floats<'a, T>(&'a [T]);

impl<T: Copy + Into<f64> + fmt::Debug> Encoder for Floats<'_, T> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value: f64 = self.0[row].into();
        let text = match value {
            value if value.is_nan() => "\"NaN\"".to_owned(),
            f64::INFINITY => "\"Infinity\"".to_owned(),
            f64::NEG_INFINITY => "\"-Infinity\"".to_owned(),
            // The shortest text that reads back as the same number of the column's own width.
            _ => format!("{:?}", self.0[row]),
        };
        out.extend_from_slice(text.as_bytes());
    }
}
