//! The values that a client gives for `$1`, `$2`, ….

use arrow::datatypes::{DataType, TimeUnit};
use bytes::{Buf, Bytes};
use datafusion::scalar::ScalarValue;

use super::error::SqlError;

/// The type of a parameter, by the client's number for it or else by where it stands.
pub(super) fn type_of(declared: u32, inferred: Option<&DataType>) -> DataType {
    match declared {
        16 => DataType::Boolean,
        21 => DataType::Int16,
        23 => DataType::Int32,
        20 => DataType::Int64,
        26 => DataType::Int64,
        700 => DataType::Float32,
        701 => DataType::Float64,
        1082 => DataType::Date32,
        1114 => DataType::Timestamp(TimeUnit::Microsecond, None),
        1184 => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        17 => DataType::Binary,
        0 | 705 => inferred.cloned().unwrap_or(DataType::Utf8),
        _ => DataType::Utf8,
    }
}

/// One value, from its text or from its binary form.
pub(super) fn value(bytes: Option<Bytes>, data_type: &DataType, binary: bool) -> Result<ScalarValue, SqlError> {
    let Some(mut bytes) = bytes else { return ScalarValue::try_from(data_type).map_err(wrong) };
    if binary {
        let given = bytes.len();
        let whole = |length: usize| if given == length { Ok(()) } else { Err(wrong("its length is wrong")) };
        let micros = 946_684_800_000_000;
        match data_type {
            DataType::Boolean => return whole(1).map(|()| ScalarValue::Boolean(Some(bytes.get_u8() != 0))),
            DataType::Int16 => return whole(2).map(|()| ScalarValue::Int16(Some(bytes.get_i16()))),
            DataType::Int32 => return whole(4).map(|()| ScalarValue::Int32(Some(bytes.get_i32()))),
            DataType::Int64 if bytes.len() == 4 => return Ok(ScalarValue::Int64(Some(bytes.get_u32().into()))),
            DataType::Int64 => return whole(8).map(|()| ScalarValue::Int64(Some(bytes.get_i64()))),
            DataType::Float32 => return whole(4).map(|()| ScalarValue::Float32(Some(bytes.get_f32()))),
            DataType::Float64 => return whole(8).map(|()| ScalarValue::Float64(Some(bytes.get_f64()))),
            DataType::Date32 => {
                return whole(4).map(|()| ScalarValue::Date32(Some(bytes.get_i32().saturating_add(10_957))));
            }
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                let zone = zone.clone();
                return whole(8)
                    .map(|()| ScalarValue::TimestampMicrosecond(Some(bytes.get_i64().saturating_add(micros)), zone));
            }
            DataType::Binary => return Ok(ScalarValue::Binary(Some(bytes.to_vec()))),
            // The binary form of a text is the text.
            DataType::Utf8 => {}
            other => return Err(wrong(format!("{other} cannot be given in binary here; give its text"))),
        }
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| SqlError::new("22021", "a parameter is not UTF-8"))?;
    let text = match (data_type, text) {
        (DataType::Boolean, "t") => "true",
        (DataType::Boolean, "f") => "false",
        (_, text) => text,
    };
    ScalarValue::Utf8(Some(text.to_owned())).cast_to(data_type).map_err(wrong)
}

fn wrong(why: impl std::fmt::Display) -> SqlError {
    let why = why.to_string();
    SqlError::new("22P02", format!("invalid value of a parameter: {}", why.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_as_text_or_in_binary() {
        let text = |text: &'static str, to: &DataType| value(Some(Bytes::from_static(text.as_bytes())), to, false);
        assert_eq!(text("7", &DataType::Int32).unwrap(), ScalarValue::Int32(Some(7)));
        assert_eq!(text("t", &DataType::Boolean).unwrap(), ScalarValue::Boolean(Some(true)));
        assert!(text("seven", &DataType::Int32).is_err());
        let binary = value(Some(Bytes::from_static(&[0, 0, 0, 7])), &DataType::Int32, true);
        assert_eq!(binary.unwrap(), ScalarValue::Int32(Some(7)));
        assert!(value(Some(Bytes::from_static(&[7])), &DataType::Int32, true).is_err());
        assert_eq!(value(None, &DataType::Int32, true).unwrap(), ScalarValue::Int32(None));
        assert!(value(Some(Bytes::from_static(&[0xff])), &DataType::Utf8, false).is_err());
    }
}
