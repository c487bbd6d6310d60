//! Numerics of fixed precision and scale as scaled 128-bit integers.

use super::integer;

/// The most digits that always fit a u64, and so the unit in which 128-bit numbers are handled: division of a u128
/// is a slow library call.
const CHUNK: usize = 19;
const CHUNK_BASE: u128 = 10u128.pow(CHUNK as u32);

/// Reads a numeric as PostgreSQL writes one of this precision and scale, as a multiple of 10^-scale.
pub(super) fn parse(text: &[u8], precision: u8, scale: u8) -> Option<i128> {
    let (negative, body) = integer::split_sign(text);
    let (whole, fraction) = split_fraction(body, usize::from(scale))?;
    let leading = if whole == b"0" { 0 } else { whole.len() };
    if !integer::is_canonical(whole) || leading + fraction.len() > usize::from(precision) {
        return None;
    }
    let magnitude = append_digits(append_digits(0, whole)?, fraction)?;
    match negative {
        false => Some(magnitude),
        true if magnitude == 0 => None,
        true => Some(-magnitude),
    }
}

/// Splits off exactly `scale` fractional digits and their point.
fn split_fraction(body: &[u8], scale: usize) -> Option<(&[u8], &[u8])> {
    if scale == 0 {
        return Some((body, &[]));
    }
    let (whole, fraction) = body.split_at_checked(body.len().checked_sub(scale + 1)?)?;
    Some((whole, fraction.strip_prefix(b".")?))
}

/// Reads further digits behind those of a number.
fn append_digits(number: i128, text: &[u8]) -> Option<i128> {
    text.chunks(CHUNK).try_fold(number, |number, chunk| {
        let shifted = number.checked_mul(10i128.pow(chunk.len() as u32))?;
        shifted.checked_add(i128::from(integer::digits(chunk)?))
    })
}

/// Writes a multiple of 10^-scale.
pub(super) fn write(number: i128, scale: u8, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    let scale = usize::from(scale);
    let start = out.len();
    write_magnitude(number.unsigned_abs(), out);
    let missing = (scale + 1).saturating_sub(out.len() - start);
    out.splice(start..start, std::iter::repeat_n(b'0', missing));
    if scale > 0 {
        out.insert(out.len() - scale, b'.');
    }
}

fn write_magnitude(number: u128, out: &mut Vec<u8>) {
    match u64::try_from(number) {
        Ok(small) => integer::write_padded(small, 1, out),
        Err(_) => {
            write_magnitude(number / CHUNK_BASE, out);
            integer::write_padded((number % CHUNK_BASE) as u64, CHUNK, out);
        }
    }
}
