//! PostgreSQL's binary values, as the stream and `COPY … (FORMAT binary)` have them (manual, "COPY", Binary Format). No I/O.
//!
//! Asked for only where they are cheaper than text and say the same: what enters a column is what the text would have
//! brought there, and what does not fit is given as the text that PostgreSQL would have written.

use std::io::Write as _;

use uuid::Uuid;

use super::storage::Storage;
use super::{built_in, calendar};
use crate::failure::{Failure, Result};
use crate::model::Column;

/// Stands in front of the rows; the flags and the length of the extension area follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The only version of jsonb's binary form.
const JSONB_VERSION: u8 = 1;

/// What to make of a column's values in binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryForm {
    /// As the machine has them: numbers, times, bytes.
    Native,
    /// The type's binary form is its text.
    Text,
    /// Its text, with a version before it.
    Jsonb,
    /// 16 bytes.
    Uuid,
    Numeric,
    /// The server has to make the text; in a COPY as `CASE WHEN num_nulls(x) = 0 THEN concat(x) END` is what a type's output function
    /// writes, whatever casts the type has and whoever may call the function.
    Converted,
}

impl BinaryForm {
    pub fn of_column(column: &Column) -> BinaryForm {
        match column.value_type().0 {
            built_in::TEXT | built_in::VARCHAR | built_in::BPCHAR | built_in::NAME | built_in::JSON => {
                return BinaryForm::Text;
            }
            built_in::JSONB => return BinaryForm::Jsonb,
            built_in::UUID => return BinaryForm::Uuid,
            built_in::NUMERIC => return BinaryForm::Numeric,
            _ => {}
        }
        match Storage::of_column(column) {
            Storage::Text | Storage::List { .. } => BinaryForm::Converted,
            _ => BinaryForm::Native,
        }
    }
}

/// The bytes are not what PostgreSQL sends for the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit;

impl From<Misfit> for Failure {
    fn from(_: Misfit) -> Failure {
        Failure::failed("a row is not in PostgreSQL's binary format")
            .remedy("run the command again; where it stays, something between here and the server alters its answers")
    }
}

/// A row's values; `None` for NULL.
#[derive(Debug)]
pub(super) struct BinaryRow<'a> {
    rest: &'a [u8],
    fields: usize,
}

impl<'a> BinaryRow<'a> {
    /// Reads one of COPY's messages; `None` where it holds no row: the end of the data, or nothing but the header.
    pub(super) fn read(message: &'a [u8]) -> Result<Option<BinaryRow<'a>>, Misfit> {
        let mut rest = without_header(message)?;
        if rest.is_empty() {
            return Ok(None);
        }
        let fields = i16::from_be_bytes(take(&mut rest)?);
        match usize::try_from(fields) {
            Ok(fields) => Ok(Some(BinaryRow { rest, fields })),
            Err(_) if fields == -1 && rest.is_empty() => Ok(None),
            Err(_) => Err(Misfit),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.fields
    }

    pub(super) fn next(&mut self) -> Result<Option<&'a [u8]>, Misfit> {
        let length = i32::from_be_bytes(take(&mut self.rest)?);
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| Misfit)?;
        let (value, rest) = self.rest.split_at_checked(length).ok_or(Misfit)?;
        self.rest = rest;
        Ok(Some(value))
    }

    /// Whether nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }
}

fn without_header(message: &[u8]) -> Result<&[u8], Misfit> {
    let Some(mut rest) = message.strip_prefix(SIGNATURE) else { return Ok(message) };
    let _flags: [u8; 4] = take(&mut rest)?;
    let extension = usize::try_from(i32::from_be_bytes(take(&mut rest)?)).map_err(|_| Misfit)?;
    rest.get(extension..).ok_or(Misfit)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Misfit> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(Misfit)?;
    *rest = after;
    Ok(*bytes)
}

/// All of a value's bytes.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Misfit> {
    bytes.try_into().map_err(|_| Misfit)
}

/// A `bigint`, or an `oid`, which is unsigned and half as long.
pub(super) fn whole_number(bytes: &[u8]) -> Result<i64, Misfit> {
    match fixed(bytes) {
        Ok(bytes) => Ok(i64::from_be_bytes(bytes)),
        Err(_) => Ok(u32::from_be_bytes(fixed(bytes)?).into()),
    }
}

/// PostgreSQL's text does not tell one NaN from another.
pub(super) fn float4(bytes: &[u8]) -> Result<f32, Misfit> {
    let number = f32::from_be_bytes(fixed(bytes)?);
    Ok(if number.is_nan() { f32::NAN } else { number })
}

/// As [`float4`].
pub(super) fn float8(bytes: &[u8]) -> Result<f64, Misfit> {
    let number = f64::from_be_bytes(fixed(bytes)?);
    Ok(if number.is_nan() { f64::NAN } else { number })
}

/// Days since 1970-01-01; `None` where the text was written to `out`.
pub(super) fn date(bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<i32>, Misfit> {
    Ok(calendar::date_of_binary(i32::from_be_bytes(fixed(bytes)?), out))
}

/// Microseconds since 1970-01-01; `None` where the text was written to `out`.
pub(super) fn timestamp(bytes: &[u8], zoned: bool, out: &mut Vec<u8>) -> Result<Option<i64>, Misfit> {
    Ok(calendar::timestamp_of_binary(i64::from_be_bytes(fixed(bytes)?), zoned, out))
}

pub(super) fn text_of_jsonb(bytes: &[u8]) -> Result<&[u8], Misfit> {
    bytes.strip_prefix(&[JSONB_VERSION]).ok_or(Misfit)
}

/// As PostgreSQL writes a uuid: lower-case digits in five groups.
pub(super) fn text_of_uuid(bytes: [u8; 16]) -> [u8; 36] {
    let mut text = [0; 36];
    Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text);
    text
}

/// The digits of a `numeric` stand for so many decimal ones each.
const DECIMAL_DIGITS: usize = 4;

/// Writes a `numeric` as PostgreSQL does (`numeric_send` and `numeric_out` in its numeric.c).
pub(super) fn numeric(mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
    let count = usize::from(u16::from_be_bytes(take(&mut bytes)?));
    let weight = i16::from_be_bytes(take(&mut bytes)?);
    let sign = u16::from_be_bytes(take(&mut bytes)?);
    let scale = usize::from(u16::from_be_bytes(take(&mut bytes)?));
    let (digits, rest) = bytes.as_chunks::<2>();
    if digits.len() != count || !rest.is_empty() {
        return Err(Misfit);
    }
    match sign {
        0x0000 => {}
        0x4000 => out.push(b'-'),
        0xc000 => return written(out, b"NaN"),
        0xd000 => return written(out, b"Infinity"),
        0xf000 => return written(out, b"-Infinity"),
        _ => return Err(Misfit),
    }
    let digit = |at: i32| {
        let digit =
            usize::try_from(at).ok().and_then(|at| digits.get(at)).map_or(0, |digit| u16::from_be_bytes(*digit));
        if digit < 10_000 { Ok(digit) } else { Err(Misfit) }
    };
    let (start, weight) = (out.len(), i32::from(weight));
    for at in 0..=weight {
        write!(out, "{:04}", digit(at)?).map_err(|_| Misfit)?;
    }
    let zeros = out[start..].iter().take_while(|digit| **digit == b'0').count();
    out.drain(start..start + zeros);
    if out.len() == start {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        for at in (weight + 1..).take(scale.div_ceil(DECIMAL_DIGITS)) {
            write!(out, "{:04}", digit(at)?).map_err(|_| Misfit)?;
        }
        out.truncate(end);
    }
    Ok(())
}

fn written(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Misfit> {
    out.extend_from_slice(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header with the first row, a row, the end: as a server sends them.
    #[test]
    fn rows_are_read_from_messages() {
        let row = [&1i16.to_be_bytes()[..], &2i32.to_be_bytes(), b"ab"].concat();
        let first = [SIGNATURE, &[0; 8], &row].concat();
        for message in [&first, &row] {
            let mut read = BinaryRow::read(message).unwrap().unwrap();
            assert_eq!((read.len(), read.next(), read.is_over()), (1, Ok(Some(&b"ab"[..])), true));
        }
        let (end, header) = ((-1i16).to_be_bytes(), [SIGNATURE, &[0; 8]].concat());
        assert!(BinaryRow::read(&end).unwrap().is_none());
        assert!(BinaryRow::read(&header).unwrap().is_none());
        for cut in 2..row.len() {
            let mut read = BinaryRow::read(&row[..cut]).unwrap().unwrap();
            assert_eq!(read.next(), Err(Misfit), "cut at {cut}");
        }
    }

    #[test]
    fn times_that_no_column_holds_are_written_as_text() {
        let mut text = Vec::new();
        let mut written = |micros: i64, zoned| {
            text.clear();
            let read = timestamp(&micros.to_be_bytes(), zoned, &mut text).unwrap();
            (read, String::from_utf8(text.clone()).unwrap())
        };
        assert_eq!(written(0, true), (Some(946_684_800_000_000), String::new()));
        assert_eq!(written(i64::MIN, true).1, "-infinity");
        assert_eq!(written(i64::MAX, false).1, "infinity");
        // The outermost that PostgreSQL has (src/include/datatype/timestamp.h).
        assert_eq!(written(9_223_371_331_199_999_999, true).1, "294276-12-31 23:59:59.999999+00");
        assert_eq!(written(-211_813_488_000_000_000, false).1, "4714-11-24 00:00:00 BC");
        let mut days = |days: i32| {
            text.clear();
            let read = date(&days.to_be_bytes(), &mut text).unwrap();
            (read, String::from_utf8(text.clone()).unwrap())
        };
        assert_eq!(days(2_921_939), (Some(2_932_896), String::new()));
        assert_eq!(days(2_921_940).1, "10000-01-01");
        assert_eq!(days(-730_120).1, "0001-12-31 BC");
    }

    #[test]
    fn a_numeric_is_written_digit_by_digit() {
        let text = |weight: i16, sign: u16, scale: u16, digits: &[u16]| {
            let head =
                [(digits.len() as u16).to_be_bytes(), weight.to_be_bytes(), sign.to_be_bytes(), scale.to_be_bytes()];
            let digits: Vec<u8> = digits.iter().flat_map(|digit| digit.to_be_bytes()).collect();
            let mut text = Vec::new();
            numeric(&[head.concat(), digits].concat(), &mut text).map(|()| String::from_utf8(text).unwrap())
        };
        assert_eq!(text(0, 0, 0, &[]).unwrap(), "0");
        assert_eq!(text(0, 0, 3, &[]).unwrap(), "0.000");
        assert_eq!(text(1, 0x4000, 2, &[12, 3456, 7800]).unwrap(), "-123456.78");
        assert_eq!(text(2, 0, 0, &[1]).unwrap(), "100000000");
        assert_eq!(text(-2, 0, 9, &[1200]).unwrap(), "0.000012000");
        assert_eq!(text(-1, 0, 2, &[500]).unwrap(), "0.05");
        assert_eq!(text(0, 0xf000, 0, &[]).unwrap(), "-Infinity");
        assert_eq!(text(0, 0xc000, 0, &[]).unwrap(), "NaN");
        assert_eq!(text(0, 0, 0, &[10_000]), Err(Misfit));
        assert_eq!(text(0, 0x1234, 0, &[1]), Err(Misfit));
    }

    #[test]
    fn a_uuid_is_written_in_groups() {
        let bytes = std::array::from_fn(|at| at as u8 * 17);
        assert_eq!(&text_of_uuid(bytes), b"00112233-4455-6677-8899-aabbccddeeff");
    }
}
