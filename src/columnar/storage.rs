//! Which Arrow type holds the values of which PostgreSQL type.

use arrow::datatypes::{DataType, TimeUnit};

use crate::model::Column;

/// Oids of PostgreSQL's built-in types (`pg_type.dat`), the same in every version and database.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const OID: u32 = 26;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
}

/// The most digits that an Arrow (and a Delta) decimal holds.
const MAX_PRECISION: u32 = 38;

/// PostgreSQL adds the size of a length word to the modifiers of its variable-length types.
const MODIFIER_BASE: i32 = 4;

/// How the values of a PostgreSQL type are stored.
///
/// Only types that Arrow, Parquet and Delta all have are typed; every other is kept as the text that
/// PostgreSQL writes, which loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
            oid::BOOL => Storage::Boolean,
            oid::INT2 => Storage::Int16,
            oid::INT4 => Storage::Int32,
            // An oid is unsigned, which Delta has no type for.
            oid::INT8 | oid::OID => Storage::Int64,
            oid::FLOAT4 => Storage::Float32,
            oid::FLOAT8 => Storage::Float64,
            oid::NUMERIC => numeric(type_modifier),
            oid::DATE => Storage::Date,
            oid::TIMESTAMP => Storage::Timestamp,
            oid::TIMESTAMPTZ => Storage::TimestampTz,
            oid::BYTEA => Storage::Binary,
            _ => Storage::Text,
        }
    }

    /// The Arrow type of the column. Never a view type: some readers of the archive do not know them.
    pub fn arrow_type(&self) -> DataType {
        match *self {
            Storage::Boolean => DataType::Boolean,
            Storage::Int16 => DataType::Int16,
            Storage::Int32 => DataType::Int32,
            Storage::Int64 => DataType::Int64,
            Storage::Float32 => DataType::Float32,
            Storage::Float64 => DataType::Float64,
            Storage::Decimal { precision, scale } => DataType::Decimal128(precision, scale as i8),
            Storage::Date => DataType::Date32,
            Storage::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            // Delta wants the zone spelled exactly so.
            Storage::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Storage::Binary => DataType::Binary,
            Storage::Text => DataType::Utf8,
        }
    }
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
    fn unknown_types_are_text() {
        for oid in [0, 18, 25, 114, 790, 1043, 1083, 1186, 1266, 2950, 3802, 16_384, u32::MAX] {
            assert_eq!(Storage::of(oid, -1), Storage::Text, "{oid}");
        }
    }
}
