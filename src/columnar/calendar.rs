//! Dates and timestamps: PostgreSQL's ISO style, in the proleptic Gregorian calendar.
//!
//! What enters a typed column has a year from 0001 to 9999. Arrow could count further, but not every
//! reader of the archive could (Delta's statistics and chrono write such years in ways of their own), and a date that
//! some engine shows wrong is worse than one that is kept as text. Writing is not so limited: whatever number another
//! program stored has a text.

use super::integer;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Days from 1970-01-01 to 2000-01-01, from which PostgreSQL's binary forms count.
const DAYS_TO_2000: i64 = 10_957;

/// The days whose years a typed column takes: 0001-01-01 and 9999-12-31, counted from 1970-01-01.
const TYPED_DAYS: std::ops::RangeInclusive<i64> = -719_162..=2_932_896;

/// Days of 400 Gregorian years, after which the calendar repeats itself.
const DAYS_PER_ERA: i64 = 146_097;

/// Days from 0000-03-01, where the arithmetic's years begin, to 1970-01-01.
const EPOCH: i64 = 719_468;

const ZONE: &[u8] = b"+00";

/// Reads `2025-10-09` as days since 1970-01-01.
pub(super) fn parse_date(text: &[u8]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else { return None };
    let year = integer::digits(&[y1, y2, y3, y4])? as i64;
    let (month, day) = (two_digits(m1, m2)?, two_digits(d1, d2)?);
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_of_month(year, month) {
        return None;
    }
    Some(days_since_epoch(year, month, day) as i32)
}

/// Reads `2025-10-09 14:03:00.25` as microseconds since 1970-01-01.
pub(super) fn parse_timestamp(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (clock, fraction) = rest.split_at_checked(9)?;
    let [b' ', h1, h2, b':', m1, m2, b':', s1, s2] = *clock else { return None };
    let (hour, minute, second) = (two_digits(h1, h2)?, two_digits(m1, m2)?, two_digits(s1, s2)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = (hour * 60 + minute) * 60 + second;
    let days = i64::from(parse_date(date)?);
    Some(days * MICROS_PER_DAY + seconds * MICROS_PER_SECOND + parse_fraction(fraction)?)
}

/// Reads `2025-10-09 14:03:00.25+00` as microseconds since 1970-01-01 UTC.
pub(super) fn parse_timestamp_tz(text: &[u8]) -> Option<i64> {
    parse_timestamp(text.strip_suffix(ZONE)?)
}

/// Reads nothing, or a point and up to six digits of which the last is not zero, as microseconds.
fn parse_fraction(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(b".")?;
    if digits.len() > 6 || digits.last().is_none_or(|&last| last == b'0') {
        return None;
    }
    let scale = 10i64.pow(6 - digits.len() as u32);
    Some(integer::digits(digits)? as i64 * scale)
}

/// Reads PostgreSQL's binary date, days since 2000-01-01 of which the outermost are the infinities, as days since
/// 1970-01-01; `None` where a typed column does not have it and its text was written to `out`.
pub(super) fn date_of_binary(days: i32, out: &mut Vec<u8>) -> Option<i32> {
    if let Some(text) = infinity(days, i32::MIN, i32::MAX) {
        out.extend_from_slice(text);
        return None;
    }
    let days = i64::from(days) + DAYS_TO_2000;
    if TYPED_DAYS.contains(&days) {
        return Some(days as i32);
    }
    let before_christ = write_day(days, out);
    write_era(before_christ, out);
    None
}

/// The same for both timestamps, microseconds since 2000-01-01, of which `zoned` has UTC's zone in its text.
pub(super) fn timestamp_of_binary(micros: i64, zoned: bool, out: &mut Vec<u8>) -> Option<i64> {
    if let Some(text) = infinity(micros, i64::MIN, i64::MAX) {
        out.extend_from_slice(text);
        return None;
    }
    // Day by day, since the last of PostgreSQL's years are beyond what 64 bits count from 1970 on.
    let (days, of_day) = (micros.div_euclid(MICROS_PER_DAY) + DAYS_TO_2000, micros.rem_euclid(MICROS_PER_DAY));
    if TYPED_DAYS.contains(&days) {
        return Some(days * MICROS_PER_DAY + of_day);
    }
    let before_christ = write_day_and_clock(days, of_day, out);
    out.extend_from_slice(if zoned { ZONE } else { b"" });
    write_era(before_christ, out);
    None
}

fn infinity<T: PartialEq>(value: T, least: T, greatest: T) -> Option<&'static [u8]> {
    match () {
        () if value == least => Some(b"-infinity"),
        () if value == greatest => Some(b"infinity"),
        () => None,
    }
}

/// Writes days since 1970-01-01.
pub(super) fn write_date(days: i32, out: &mut Vec<u8>) {
    let before_christ = write_day(i64::from(days), out);
    write_era(before_christ, out);
}

/// Writes microseconds since 1970-01-01.
pub(super) fn write_timestamp(micros: i64, out: &mut Vec<u8>) {
    let before_christ = write_moment(micros, out);
    write_era(before_christ, out);
}

/// Writes microseconds since 1970-01-01 UTC.
pub(super) fn write_timestamp_tz(micros: i64, out: &mut Vec<u8>) {
    let before_christ = write_moment(micros, out);
    out.extend_from_slice(ZONE);
    write_era(before_christ, out);
}

fn write_era(before_christ: bool, out: &mut Vec<u8>) {
    if before_christ {
        out.extend_from_slice(b" BC");
    }
}

/// Writes a day; returns whether its year is before Christ, which PostgreSQL says at the end of the text.
fn write_day(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil(days);
    let before_christ = year <= 0;
    let shown = if before_christ { 1 - year } else { year };
    integer::write_padded(shown.unsigned_abs(), 4, out);
    out.push(b'-');
    write_two(month, out);
    out.push(b'-');
    write_two(day, out);
    before_christ
}

fn write_moment(micros: i64, out: &mut Vec<u8>) -> bool {
    write_day_and_clock(micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY), out)
}

fn write_day_and_clock(days: i64, of_day: i64, out: &mut Vec<u8>) -> bool {
    let before_christ = write_day(days, out);
    let seconds = of_day / MICROS_PER_SECOND;
    out.push(b' ');
    write_two(seconds / 3600, out);
    out.push(b':');
    write_two(seconds / 60 % 60, out);
    out.push(b':');
    write_two(seconds % 60, out);
    write_fraction(of_day % MICROS_PER_SECOND, out);
    before_christ
}

fn write_fraction(micros: i64, out: &mut Vec<u8>) {
    if micros == 0 {
        return;
    }
    out.push(b'.');
    integer::write_padded(micros.unsigned_abs(), 6, out);
    while out.last() == Some(&b'0') {
        out.pop();
    }
}

fn write_two(number: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
}

fn two_digits(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i64::from(tens * 10 + ones))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts in years that begin in March, so that a leap day is a year's last; month 0 is March, and the days before
/// month m are (153 m + 2) / 5.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * DAYS_PER_ERA + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - EPOCH
}

/// The reverse of [`days_since_epoch`]: year (0 is 1 BC), month, day.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let (era, of_era) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    // Without the leap days passed, every year has 365 days.
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}
