//! A hash of what a change says, whichever file it lies in.
//!
//! What is hashed is the same for all files that have the change, now and in any later version: of each column that is not
//! NULL, in the order of names, its name, the kind of its values and the value. Columns that a table got later are NULL in
//! files that were written anew, and so change nothing. Left out is what the transaction has one of (`_lsn`, `_ts`), which is
//! not known while it runs.
//!
//! | value | bytes |
//! |---|---|
//! | boolean | `b`, 0 or 1 |
//! | whole number, date, timestamp (microseconds) | `i`, 8 bytes, big-endian |
//! | decimal | `d`, 16 bytes, big-endian, of its digits without the point |
//! | float | `f`, 8 bytes of it as a double, big-endian |
//! | text, bytes | `t`, length in 8 bytes, big-endian, then the bytes |
//! | list | `l`, its length in 8 bytes, then of each element `n` for NULL, or its value |
//! | struct | `s`, how many fields are not NULL in 8 bytes, then of each, in the order of names, its name as a text, and its value |
//! | map | as the struct of its keys |

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::names;
use crate::failure::{Failure, Result};

/// A SHA-256.
pub type Digest = [u8; SHA256_OUTPUT_LEN];

/// The hashes of a batch's rows.
pub struct RowDigests<'a> {
    /// In the order of names.
    columns: Vec<(&'a str, &'a ArrayRef)>,
    buffer: Vec<u8>,
}

impl<'a> RowDigests<'a> {
    pub fn new(batch: &'a RecordBatch) -> RowDigests<'a> {
        let fields = batch.schema_ref().fields();
        let named = fields.iter().zip(batch.columns()).map(|(field, column)| (field.name().as_str(), column));
        let mut columns: Vec<_> = named.filter(|(name, _)| ![names::LSN, names::TS].contains(name)).collect();
        columns.sort_unstable_by_key(|(name, _)| *name);
        RowDigests { columns, buffer: Vec::new() }
    }

    /// # Errors
    /// Failed where a column has a type that no column of the archive has.
    pub fn of(&mut self, row: usize) -> Result<Digest> {
        self.buffer.clear();
        for (name, column) in self.columns.iter().filter(|(_, column)| column.is_valid(row)) {
            add_text(&mut self.buffer, name.as_bytes());
            add_value(&mut self.buffer, column, row)?;
        }
        Ok(digest(&self.buffer))
    }
}

/// The hash of bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    finish(context)
}

/// Bytes in hexadecimal, in small letters.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a hash came to.
pub fn finish(context: Context) -> Digest {
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn add_number(buffer: &mut Vec<u8>, kind: u8, number: i64) {
    buffer.push(kind);
    buffer.extend_from_slice(&number.to_be_bytes());
}

fn add_text(buffer: &mut Vec<u8>, bytes: &[u8]) {
    add_number(buffer, b't', bytes.len() as i64);
    buffer.extend_from_slice(bytes);
}

fn add_value(buffer: &mut Vec<u8>, array: &dyn Array, row: usize) -> Result<()> {
    match array.data_type() {
        DataType::Boolean => buffer.extend_from_slice(&[b'b', array.as_boolean().value(row).into()]),
        DataType::Int16 => add_number(buffer, b'i', array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => add_number(buffer, b'i', array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => add_number(buffer, b'i', array.as_primitive::<Int64Type>().value(row)),
        DataType::Date32 => add_number(buffer, b'i', array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(..) => {
            let time = array.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| unknown(array))?;
            add_number(buffer, b'i', time.value(row));
        }
        DataType::Decimal128(..) => {
            buffer.push(b'd');
            buffer.extend_from_slice(&array.as_primitive::<Decimal128Type>().value(row).to_be_bytes());
        }
        // Widening is exact, but for the bits of NaN, of which the archive keeps one.
        DataType::Float32 => add_float(buffer, array.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => add_float(buffer, array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => add_text(buffer, array.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => add_text(buffer, array.as_binary::<i32>().value(row)),
        DataType::List(_) => {
            let elements = array.as_list::<i32>().value(row);
            add_number(buffer, b'l', elements.len() as i64);
            for at in 0..elements.len() {
                if elements.is_null(at) {
                    buffer.push(b'n');
                } else {
                    add_value(buffer, &elements, at)?;
                }
            }
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let mut there: Vec<_> = columns.filter(|(_, column)| column.is_valid(row)).collect();
            there.sort_unstable_by_key(|(field, _)| field.name());
            add_number(buffer, b's', there.len() as i64);
            for (field, column) in there {
                add_text(buffer, field.name().as_bytes());
                add_value(buffer, column, row)?;
            }
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let keys = keys.as_string_opt::<i32>().ok_or_else(|| unknown(array))?;
            let mut there: Vec<usize> = (0..entries.len()).filter(|at| values.is_valid(*at)).collect();
            there.sort_unstable_by_key(|at| keys.value(*at));
            add_number(buffer, b's', there.len() as i64);
            for at in there {
                add_text(buffer, keys.value(at).as_bytes());
                add_value(buffer, values, at)?;
            }
        }
        _ => return Err(unknown(array)),
    }
    Ok(())
}

fn add_float(buffer: &mut Vec<u8>, number: f64) {
    let bits = if number.is_nan() { f64::NAN } else { number }.to_bits();
    add_number(buffer, b'f', bits as i64);
}

fn unknown(array: &dyn Array) -> Failure {
    Failure::failed(format!("a column of changes has the type {}", array.data_type()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, Int64Array, ListArray, StringArray, StructArray, new_null_array};
    use arrow::datatypes::{Field, Int32Type as Int, Schema};

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    fn digests(batch: &RecordBatch) -> Vec<Digest> {
        let mut rows = RowDigests::new(batch);
        (0..batch.num_rows()).map(|row| rows.of(row).unwrap()).collect()
    }

    fn texts(values: [Option<&str>; 2]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn numbers(values: [i64; 2]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn old(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
        let fields = fields.into_iter().map(|(name, column)| {
            let field = Field::new(name, column.data_type().clone(), true);
            (Arc::new(field), column)
        });
        Arc::new(StructArray::from(fields.collect::<Vec<_>>()))
    }

    /// A file that is written anew has the columns that the table got since, in another order, and rows of another place.
    #[test]
    fn what_was_not_said_changes_nothing() {
        let key = || numbers([1, 2]);
        let before = batch(vec![
            ("_lsn", numbers([7, 8])),
            ("_seq", numbers([0, 1])),
            ("_old", old(vec![("id", key())])),
            ("id", key()),
            ("v", texts([Some("a"), None])),
        ]);
        let nothing = || new_null_array(&DataType::Utf8, 2);
        let after = batch(vec![
            ("id", key()),
            ("_ts", numbers([5, 5])),
            ("w", nothing()),
            ("_old", old(vec![("w", nothing()), ("id", key())])),
            ("_seq", numbers([0, 1])),
            ("_lsn", numbers([70, 80])),
            ("v", texts([Some("a"), None])),
        ]);
        assert_eq!(digests(&before), digests(&after));
    }

    #[test]
    fn everything_that_was_said_counts() {
        let row = |columns: Vec<(&str, ArrayRef)>| digests(&batch(columns));
        let list = |elements: [Option<i32>; 2]| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int, _, _>([Some(elements.to_vec()), None]))
        };
        let mut all: Vec<Digest> = [
            vec![("v", texts([Some("a"), Some("")]))],
            vec![("w", texts([Some("a"), None]))],
            vec![("v", texts([Some("ab"), None])), ("w", texts([Some(""), Some("x")]))],
            vec![("v", texts([Some("a"), Some("n")])), ("w", texts([Some("b"), Some("y")]))],
            vec![("v", numbers([1, -1]))],
            vec![("v", Arc::new(arrow::array::Float64Array::from(vec![1.0, -1.0])) as ArrayRef)],
            vec![("v", list([Some(1), None]))],
            vec![("v", list([None, Some(1)]))],
            vec![("v", old(vec![("id", numbers([1, 2]))]))],
            vec![("v", old(vec![("di", numbers([1, 2]))]))],
        ]
        .into_iter()
        .flat_map(row)
        .collect();
        // Two rows of one list are NULL.
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count - 2);
    }

    #[test]
    fn whole_numbers_are_the_same_in_every_width() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![4, -4]));
        assert_eq!(digests(&batch(vec![("v", narrow)])), digests(&batch(vec![("v", numbers([4, -4]))])));
        let strange = RecordBatch::try_new(
            Arc::new(Schema::new(vec![Field::new("v", DataType::UInt8, true)])),
            vec![Arc::new(arrow::array::UInt8Array::from(vec![1]))],
        );
        RowDigests::new(&strange.unwrap()).of(0).unwrap_err();
    }
}
