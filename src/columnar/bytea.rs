//! Byte strings in PostgreSQL's hex form.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Marks a byte that is no digit; no nibble has these bits.
const NO_DIGIT: u8 = 0xff;

/// The value of each lower-case hexadecimal digit. PostgreSQL writes no others.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    nibbles
};

/// Reads `\x0aff` into `out`, which is emptied first; `false` where the text is not of that form.
pub(super) fn parse(text: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let Some(digits) = text.strip_prefix(b"\\x") else { return false };
    let (pairs, rest) = digits.as_chunks::<2>();
    // Looking for a wrong digit once, at the end, keeps the loop free of branches.
    let mut seen = 0;
    out.extend(pairs.iter().map(|&[high, low]| {
        let (high, low) = (NIBBLES[usize::from(high)], NIBBLES[usize::from(low)]);
        seen |= high | low;
        high << 4 | low & 0x0f
    }));
    rest.is_empty() && seen & 0xf0 == 0
}

/// Writes bytes as `\x0aff`.
pub(super) fn write(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(2 + 2 * bytes.len());
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0x0f)]]);
    }
}
