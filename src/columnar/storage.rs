//! Which Arrow type holds the values of which PostgreSQL type.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};

use super::built_in;
use crate::model::Column;

/// The most digits that an Arrow (and a Delta) decimal holds.
const MAX_PRECISION: u32 = 38;

/// PostgreSQL adds the size of a length word to the modifiers of its variable-length types.
const MODIFIER_BASE: i32 = 4;

/// How the values of a PostgreSQL type are stored.
///
/// Only types that Arrow, Parquet and Delta all have are typed; every other is kept as the text that
/// PostgreSQL writes, which loses nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Storage {
    Boolean,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    /// `numeric(precision, scale)` with at most 38 digits and a scale between 0 and the precision.
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since 1970-01-01 of a clock without a zone.
    Timestamp,
    /// Microseconds since 1970-01-01 UTC.
    TimestampTz,
    Binary,
    Text,
    /// Arrays of one dimension that begin at 1, with their elements as a column of the element type has its values.
    List {
        element: Box<Storage>,
        /// What stands between two elements in the array's text.
        delimiter: u8,
    },
}

impl Storage {
    /// How a column's values are stored.
    pub fn of_column(column: &Column) -> Storage {
        let (type_oid, type_modifier) = column.value_type();
        Storage::of(type_oid, type_modifier)
    }

    /// How values of the type are stored; `type_modifier` is `pg_attribute.atttypmod`, -1 for none.
    pub fn of(type_oid: u32, type_modifier: i32) -> Storage {
        match type_oid {
            built_in::BOOL => Storage::Boolean,
            built_in::INT2 => Storage::Int16,
            built_in::INT4 => Storage::Int32,
            // An oid is unsigned, which Delta has no type for.
            built_in::INT8 | built_in::OID => Storage::Int64,
            built_in::FLOAT4 => Storage::Float32,
            built_in::FLOAT8 => Storage::Float64,
            built_in::NUMERIC => numeric(type_modifier),
            built_in::DATE => Storage::Date,
            built_in::TIMESTAMP => Storage::Timestamp,
            built_in::TIMESTAMPTZ => Storage::TimestampTz,
            built_in::BYTEA => Storage::Binary,
            other => built_in::element_of(other).map_or(Storage::Text, |element| list(element, type_modifier)),
        }
    }

    /// The Arrow type of the column. Never a view type: some readers of the archive do not know them.
    pub fn arrow_type(&self) -> DataType {
        match self {
            Storage::Boolean => DataType::Boolean,
            Storage::Int16 => DataType::Int16,
            Storage::Int32 => DataType::Int32,
            Storage::Int64 => DataType::Int64,
            Storage::Float32 => DataType::Float32,
            Storage::Float64 => DataType::Float64,
            Storage::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale as i8),
            Storage::Date => DataType::Date32,
            Storage::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            // Delta wants the zone spelled exactly so.
            Storage::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Storage::Binary => DataType::Binary,
            Storage::Text => DataType::Utf8,
            Storage::List { element, .. } => DataType::List(list_field(element)),
        }
    }
}

/// The elements of a list, named as Delta names them.
pub(super) fn list_field(element: &Storage) -> FieldRef {
    Arc::new(Field::new("element", element.arrow_type(), true))
}

/// An array's modifier is its elements'.
fn list(element: u32, type_modifier: i32) -> Storage {
    let delimiter = built_in::delimiter(element);
    Storage::List { element: Box::new(Storage::of(element, type_modifier)), delimiter }
}

/// Reads a numeric's modifier: the precision in the upper half, the scale in the lower 11 bits, in two's complement
/// since version 15. Before, a scale had up to 16 bits but was never above 1000, so both readings agree.
fn numeric(type_modifier: i32) -> Storage {
    if type_modifier < MODIFIER_BASE {
        return Storage::Text;
    }
    let packed = (type_modifier - MODIFIER_BASE) as u32;
    let (precision, scale) = (packed >> 16, packed & 0x7ff);
    // A negative scale has the highest of its 11 bits set, and so is greater than any precision here.
    if precision == 0 || precision > MAX_PRECISION || scale > precision {
        return Storage::Text;
    }
    Storage::Decimal { precision: precision as u8, scale: scale as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `numerictypmodin` packs it.
    fn modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn numerics_that_arrow_can_hold_are_decimals() {
        for (precision, scale) in [(1, 0), (10, 2), (38, 0), (38, 38)] {
            let expected = Storage::Decimal { precision: precision as u8, scale: scale as u8 };
            assert_eq!(Storage::of(1700, modifier(precision, scale)), expected);
        }
        assert_eq!(Storage::of(1700, 655_366), Storage::Decimal { precision: 10, scale: 2 });
    }

    #[test]
    fn other_numerics_are_text() {
        for (precision, scale) in [(39, 0), (1000, 1000), (3, 5), (5, -2), (38, -1), (2, 1000), (2, -1000)] {
            assert_eq!(Storage::of(1700, modifier(precision, scale)), Storage::Text, "numeric({precision},{scale})");
        }
        for unpacked in [-1, 0, 3, 4, i32::MIN, i32::MAX] {
            assert_eq!(Storage::of(1700, unpacked), Storage::Text, "{unpacked}");
        }
    }

    #[test]
    fn arrays_are_lists_of_what_their_elements_are() {
        let list = |element: Storage, delimiter: u8| Storage::List { element: Box::new(element), delimiter };
        assert_eq!(Storage::of(1007, -1), list(Storage::Int32, b','));
        assert_eq!(Storage::of(1231, modifier(10, 2)), list(Storage::Decimal { precision: 10, scale: 2 }, b','));
        assert_eq!(Storage::of(1231, -1), list(Storage::Text, b','));
        assert_eq!(Storage::of(1020, -1), list(Storage::Text, b';'));
    }

    #[test]
    fn no_oid_is_listed_twice() {
        let mut oids: Vec<u32> = built_in::TYPES.iter().flat_map(|known| [known.oid, known.array]).collect();
        oids.sort_unstable();
        assert!(oids.windows(2).all(|pair| pair[0] < pair[1]), "{oids:?}");
    }

    #[test]
    fn unknown_types_are_text() {
        for oid in [0, 18, 25, 114, 790, 1043, 1083, 1186, 1266, 2950, 3802, 16_384, u32::MAX] {
            assert_eq!(Storage::of(oid, -1), Storage::Text, "{oid}");
        }
    }
}
