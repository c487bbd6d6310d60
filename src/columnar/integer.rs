//! Whole numbers, and the digits that the other codecs are made of.

/// Reads a whole number as PostgreSQL writes it: no plus sign, no leading zero, no minus zero.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = split_sign(text);
    let magnitude = canonical_magnitude(digits)?;
    if !negative {
        return i64::try_from(magnitude).ok();
    }
    // Down to -2^63, whose magnitude an i64 does not have.
    (1..=1 << 63).contains(&magnitude).then(|| (magnitude as i64).wrapping_neg())
}

/// Writes a whole number.
pub(super) fn write(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    write_padded(number.unsigned_abs(), 1, out);
}

/// Takes a minus sign off.
pub(super) fn split_sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    }
}

/// Whether the digits have no zero in front that could be left out. Says nothing of what they are.
pub(super) fn is_canonical(digits: &[u8]) -> bool {
    !digits.is_empty() && (digits.len() == 1 || digits[0] != b'0')
}

/// Reads decimal digits, as many as cannot overflow: at most 19.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.len() > 19 {
        return None;
    }
    let mut number = 0u64;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + u64::from(digit);
    }
    Some(number)
}

fn canonical_magnitude(text: &[u8]) -> Option<u64> {
    if is_canonical(text) { digits(text) } else { None }
}

/// Writes a number with zeros in front up to `width` digits; of widths above 20, 20 digits are written.
pub(super) fn write_padded(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = [b'0'; 20];
    let mut start = buffer.len();
    while number > 0 {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let start = start.min(buffer.len().saturating_sub(width));
    out.extend_from_slice(&buffer[start..]);
}
