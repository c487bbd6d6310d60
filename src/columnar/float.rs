//! Floating point: the shortest digits that name a number, as PostgreSQL writes them since version 12.
//!
//! The digits are the shortest decimal *strictly* inside the interval of numbers that round to this one; of several, the
//! nearest; of two as near, the even one. The usual crates (and Rust's own formatting) also take a decimal on the
//! interval's edge where reading rounds it back, so they write `1e23` where PostgreSQL writes `9.999999999999999e+22`.
//!
//! Found by Raffaello Giulietti's method ("The Schubfach way to render doubles"): scale the number and its interval's
//! edges by the one power of ten that leaves at least one, and at most a few, whole numbers inside. One multiplication by
//! a 128-bit approximation of that power, rounded to odd, decides every comparison exactly.

use std::sync::LazyLock;

/// A floating-point type's layout and PostgreSQL's style for it.
struct Layout {
    /// Bits of the fraction, the hidden one not counted.
    fraction_bits: u32,
    /// The power of two of the fraction's last bit where the exponent field is 0 or 1.
    least_exponent: i32,
    /// Decimal exponents from here on are written in scientific notation (`FLT_DIG`, `DBL_DIG`).
    scientific_from: i32,
}

const SINGLE: Layout = Layout { fraction_bits: 23, least_exponent: -149, scientific_from: 6 };
const DOUBLE: Layout = Layout { fraction_bits: 52, least_exponent: -1074, scientific_from: 15 };

/// Decimal exponents below this are written in scientific notation.
const FIXED_FROM: i32 = -4;

/// Reads a `float4`; `scratch` is overwritten.
pub(super) fn parse_f32(text: &[u8], scratch: &mut Vec<u8>) -> Option<f32> {
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    scratch.clear();
    write_f32(number, scratch);
    (scratch.as_slice() == text).then_some(number)
}

/// Reads a `float8`; `scratch` is overwritten.
pub(super) fn parse_f64(text: &[u8], scratch: &mut Vec<u8>) -> Option<f64> {
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    scratch.clear();
    write_f64(number, scratch);
    (scratch.as_slice() == text).then_some(number)
}

/// Writes a `float4`.
pub(super) fn write_f32(number: f32, out: &mut Vec<u8>) {
    match special(f64::from(number)) {
        Some(text) => out.extend_from_slice(text),
        None => write_finite(number.is_sign_negative(), u64::from(number.abs().to_bits()), &SINGLE, out),
    }
}

/// Writes a `float8`.
pub(super) fn write_f64(number: f64, out: &mut Vec<u8>) {
    match special(number) {
        Some(text) => out.extend_from_slice(text),
        None => write_finite(number.is_sign_negative(), number.abs().to_bits(), &DOUBLE, out),
    }
}

/// The numbers that have no digits to look for.
fn special(number: f64) -> Option<&'static [u8]> {
    if number.is_nan() {
        return Some(b"NaN");
    }
    let negative = number.is_sign_negative();
    match (number == 0.0, number.is_infinite(), negative) {
        (true, _, false) => Some(b"0"),
        (true, _, true) => Some(b"-0"),
        (_, true, false) => Some(b"Infinity"),
        (_, true, true) => Some(b"-Infinity"),
        _ => None,
    }
}

/// Writes the positive finite number with these bits.
fn write_finite(negative: bool, bits: u64, layout: &Layout, out: &mut Vec<u8>) {
    if negative {
        out.push(b'-');
    }
    Binary::from_bits(bits, layout).shortest().write(layout.scientific_from, out);
}

/// significand × 2^exponent
struct Binary {
    significand: u64,
    exponent: i32,
    /// The next smaller number is nearer than the next larger one: so it is at a power of two.
    uneven: bool,
}

impl Binary {
    fn from_bits(bits: u64, layout: &Layout) -> Binary {
        let hidden = 1u64 << layout.fraction_bits;
        let (fraction, field) = (bits & (hidden - 1), (bits >> layout.fraction_bits) as i32);
        if field == 0 {
            return Binary { significand: fraction, exponent: layout.least_exponent, uneven: false };
        }
        let exponent = layout.least_exponent + field - 1;
        Binary { significand: hidden | fraction, exponent, uneven: fraction == 0 && field > 1 }
    }

    /// The digits to write.
    fn shortest(&self) -> Decimal {
        self.as_whole_number().unwrap_or_else(|| self.search()).without_trailing_zeros()
    }

    /// Whole numbers within the significand's bits are their own digits.
    fn as_whole_number(&self) -> Option<Decimal> {
        let shift = u32::try_from(-self.exponent).ok().filter(|&shift| shift < u64::BITS)?;
        let whole = self.significand >> shift;
        (whole << shift == self.significand).then_some(Decimal { digits: whole, exponent: 0 })
    }

    fn search(&self) -> Decimal {
        let exponent = floor_log10_pow2(self.exponent, self.uneven);
        let shift = self.exponent + floor_log2_pow10(-exponent) + 1;
        let power = POWERS.of_ten(-exponent);
        // In quarters, so that the edges, half way to the neighbours, are whole.
        let scaled = |quarters: u64| round_to_odd(power, quarters << shift);
        let middle = self.significand * 4;
        let value = scaled(middle);
        // The edges do not belong to the interval.
        let low = scaled(middle - 2 + u64::from(self.uneven)) + 1;
        let high = scaled(middle + 2) - 1;

        let floor = value / 4;
        // At most one multiple of ten is inside, and then it is the shortest.
        let tens = floor / 10;
        if let Some(digits) = only_one_inside(tens, 40, low, high) {
            return Decimal { digits, exponent: exponent + 1 };
        }
        let digits = only_one_inside(floor, 4, low, high).unwrap_or_else(|| nearest(value));
        Decimal { digits, exponent }
    }
}

/// Of `floor` and the number above it, the one that lies from `low` to `high` where the other does not; `unit` is what
/// one is in quarters.
fn only_one_inside(floor: u64, unit: u64, low: u64, high: u64) -> Option<u64> {
    let lower_inside = low <= floor * unit;
    let upper_inside = (floor + 1) * unit <= high;
    (lower_inside != upper_inside).then(|| floor + u64::from(upper_inside))
}

/// The whole number nearest to a number of quarters; of two as near, the even one.
fn nearest(quarters: u64) -> u64 {
    let floor = quarters / 4;
    match quarters % 4 {
        0 | 1 => floor,
        2 => floor + floor % 2,
        _ => floor + 1,
    }
}

/// ⌊log10 2^exponent⌋, or where `uneven` ⌊log10 (¾ · 2^exponent)⌋; exact for every exponent of a double.
fn floor_log10_pow2(exponent: i32, uneven: bool) -> i32 {
    let three_quarters = if uneven { 524_031 } else { 0 };
    (exponent * 1_262_611 - three_quarters) >> 22
}

/// ⌊log2 10^exponent⌋; exact for every exponent of a double.
fn floor_log2_pow10(exponent: i32) -> i32 {
    (exponent * 1_741_647) >> 19
}

/// The upper 64 bits of a 192-bit product, whose last bit says whether anything but the approximation's error is below.
fn round_to_odd(power: u128, factor: u64) -> u64 {
    let factor = u128::from(factor);
    let low = (power & u128::from(u64::MAX)) * factor;
    let product = (power >> 64) * factor + (low >> 64);
    let inexact = product as u64 > 1;
    (product >> 64) as u64 | u64::from(inexact)
}

/// digits × 10^exponent
struct Decimal {
    digits: u64,
    exponent: i32,
}

impl Decimal {
    fn without_trailing_zeros(mut self) -> Decimal {
        while self.digits != 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.exponent += 1;
        }
        self
    }

    fn write(&self, scientific_from: i32, out: &mut Vec<u8>) {
        let start = out.len();
        super::integer::write_padded(self.digits, 1, out);
        let length = (out.len() - start) as i32;
        // Of the first digit.
        let exponent = self.exponent + length - 1;
        if (FIXED_FROM..scientific_from).contains(&exponent) {
            place_point(start, exponent, out);
        } else {
            place_point(start, 0, out);
            write_exponent(exponent, out);
        }
    }
}

/// Puts the point, and the zeros that it needs, into the digits from `start` on, the first of which counts
/// 10^`exponent`.
fn place_point(start: usize, exponent: i32, out: &mut Vec<u8>) {
    if exponent < 0 {
        let zeros = &b"0.0000000"[..exponent.unsigned_abs() as usize + 1];
        out.splice(start..start, zeros.iter().copied());
        return;
    }
    let point = start + exponent as usize + 1;
    if point < out.len() {
        out.insert(point, b'.');
    } else {
        out.resize(point, b'0');
    }
}

fn write_exponent(exponent: i32, out: &mut Vec<u8>) {
    out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
    super::integer::write_padded(u64::from(exponent.unsigned_abs()), 2, out);
}

static POWERS: LazyLock<Powers> = LazyLock::new(Powers::compute);

/// The upper 128 bits of the powers of ten that the scaling of a double needs, each rounded up to the next.
struct Powers {
    table: Vec<u128>,
}

impl Powers {
    /// The greatest number is below 10^309 and needs 17 digits, the least is near 10^-324.
    const LEAST: i32 = -292;
    const GREATEST: i32 = 324;

    fn of_ten(&self, exponent: i32) -> u128 {
        self.table[(exponent - Self::LEAST) as usize]
    }

    /// The powers of ten have the upper bits of the powers of five, which are computed exactly upwards, and downwards by
    /// division of a power of two so great that 128 bits stay exact.
    fn compute() -> Powers {
        let mut table = Vec::new();
        let mut inverse = Natural::power_of_two(832);
        for _ in Self::LEAST..0 {
            inverse.divide_by_five();
            table.push(inverse.upper_bits() + 1);
        }
        table.reverse();
        let mut power = Natural::power_of_two(0);
        for _ in 0..=Self::GREATEST {
            table.push(power.upper_bits() + 1);
            power.multiply_by_five();
        }
        Powers { table }
    }
}

/// A natural number of any size, its lowest 32 bits first and no zero last.
struct Natural {
    limbs: Vec<u32>,
}

impl Natural {
    fn power_of_two(exponent: usize) -> Natural {
        let mut limbs = vec![0; exponent / 32];
        limbs.push(1 << (exponent % 32));
        Natural { limbs }
    }

    fn multiply_by_five(&mut self) {
        let mut carry = 0;
        for limb in &mut self.limbs {
            carry += u64::from(*limb) * 5;
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.limbs.push(carry as u32);
        }
    }

    fn divide_by_five(&mut self) {
        let mut rest = 0;
        for limb in self.limbs.iter_mut().rev() {
            let dividend = rest << 32 | u64::from(*limb);
            *limb = (dividend / 5) as u32;
            rest = dividend % 5;
        }
        if self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }

    /// The upper 128 bits, as if endless zeros followed the number.
    fn upper_bits(&self) -> u128 {
        let mut from_the_top = self.limbs.iter().rev().copied().chain(std::iter::repeat(0));
        let mut limb = || u128::from(from_the_top.next().unwrap_or_default());
        let upper = limb() << 96 | limb() << 64 | limb() << 32 | limb();
        let shift = upper.leading_zeros();
        // Fewer than 32 bits are missing: the top limb is not zero.
        if shift == 0 { upper } else { upper << shift | limb() >> (32 - shift) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table's ends, checked where u128 arithmetic can: 10^k for 0 to 38, and one known from the paper's method.
    #[test]
    fn powers_of_ten_are_their_upper_bits_rounded_up() {
        for exponent in 0..=38u32 {
            let power = 10u128.pow(exponent);
            let expected = (power << power.leading_zeros()).wrapping_add(1);
            assert_eq!(POWERS.of_ten(exponent as i32), expected, "10^{exponent}");
        }
        // 1/5 = 0.(1100) in binary, and so on for every inverse: multiplied back it must just exceed a power of two.
        assert_eq!(POWERS.of_ten(-1), u128::from_str_radix(&"c".repeat(32), 16).unwrap() + 1);
        assert_eq!(POWERS.table.len(), (Powers::GREATEST - Powers::LEAST + 1) as usize);
    }

    /// Every exponent that a double can have must find its power, or a value could panic.
    #[test]
    fn every_exponent_has_its_power_and_shift() {
        for exponent in -1074..=971 {
            for uneven in [false, true] {
                let decimal = floor_log10_pow2(exponent, uneven);
                assert!((Powers::LEAST..=Powers::GREATEST).contains(&-decimal), "2^{exponent}");
                let shift = exponent + floor_log2_pow10(-decimal) + 1;
                assert!((1..=4).contains(&shift), "2^{exponent} is shifted by {shift}");
            }
        }
    }
}
