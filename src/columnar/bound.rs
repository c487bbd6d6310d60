//! Values in the order in which Parquet's statistics have them.

use super::{ColumnBuilder, Fit, Storage};
use arrow::array::{Array, AsArray as _};
use arrow::datatypes::{DataType, Date32Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};

/// A value as a column's statistics compare it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    Number(i64),
    Bytes(Box<[u8]>),
}

impl Storage {
    /// Whether values stored this way have [bounds](Bound).
    pub fn is_ordered(&self) -> bool {
        use Storage::{Date, Int16, Int32, Int64, Text, Timestamp, TimestampTz};
        matches!(self, Int16 | Int32 | Int64 | Date | Timestamp | TimestampTz | Text)
    }

    /// What a text is in the typed column; `None` where that has no order, or where the value is not in it but in
    /// `_exact`.
    pub fn bound(&self, text: &[u8]) -> Option<Bound> {
        if !self.is_ordered() {
            return None;
        }
        let mut builder = ColumnBuilder::new(self);
        match builder.append_text(text) {
            Fit::Exact => bound_of(builder.finish().as_ref()),
            Fit::Inexact => None,
        }
    }
}

/// The first value of an array.
fn bound_of(array: &dyn Array) -> Option<Bound> {
    Some(match array.data_type() {
        DataType::Int16 => Bound::Number(array.as_primitive_opt::<Int16Type>()?.value(0).into()),
        DataType::Int32 => Bound::Number(array.as_primitive_opt::<Int32Type>()?.value(0).into()),
        DataType::Int64 => Bound::Number(array.as_primitive_opt::<Int64Type>()?.value(0)),
        DataType::Date32 => Bound::Number(array.as_primitive_opt::<Date32Type>()?.value(0).into()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Bound::Number(array.as_primitive_opt::<TimestampMicrosecondType>()?.value(0))
        }
        DataType::Utf8 => Bound::Bytes(array.as_string_opt::<i32>()?.value(0).as_bytes().into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_beside_the_column_has_no_bound() {
        assert_eq!(Storage::Int32.bound(b"-7"), Some(Bound::Number(-7)));
        assert_eq!(Storage::Date.bound(b"1970-01-02"), Some(Bound::Number(1)));
        assert_eq!(Storage::Date.bound(b"infinity"), None);
        assert_eq!(Storage::Int32.bound(b"99999999999"), None);
        assert_eq!(Storage::Text.bound(b"b"), Some(Bound::Bytes(Box::from(*b"b"))));
        assert_eq!(Storage::Boolean.bound(b"t"), None);
    }
}
