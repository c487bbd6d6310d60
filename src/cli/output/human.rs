//! Numbers, sizes and times as people read them.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::model::Freshness;

/// A count with thousands separators: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut separated = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
}

/// A count of rows: `1 row`, `1,234 rows`.
pub fn rows(n: u64) -> String {
    counted(n, "row")
}

/// A count of things whose plural ends in s.
pub fn counted(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A size in binary units with one decimal: `512 B`, `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut size = n as f64 / 1024.0;
    let mut unit = 0;
    // What rounds to 1024.0 is one of the next unit.
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A length of time in its two largest units: `850 ms`, `4.2 s`, `2 min 05 s`, `3 h 07 min`, `2 d 04 h`.
pub fn duration(length: Duration) -> String {
    let milliseconds = length.as_millis();
    let seconds = length.as_secs();
    match seconds {
        0 if milliseconds == 0 && !length.is_zero() => "<1 ms".into(),
        0 => format!("{milliseconds} ms"),
        // Cut off, not rounded, so that 59.99 s is never shown as 60.0 s.
        1..60 => format!("{seconds}.{} s", length.subsec_millis() / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How fresh an archive was.
pub fn freshness(freshness: &Freshness) -> String {
    let Freshness { transactions, p50, p99 } = freshness;
    format!("{} (p50), {} (p99), over {}", duration(*p50), duration(*p99), counted(*transactions, "transaction"))
}

/// An instant in RFC 3339 and UTC, with as many groups of three decimals as it needs: `2025-10-09T14:03:00.250Z`.
pub fn timestamp(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_separated_by_thousands() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567"), (100_000, "100,000")] {
            assert_eq!(count(n), text);
        }
        assert_eq!((rows(1), rows(0), rows(2000)), ("1 row".into(), "0 rows".into(), "2,000 rows".into()));
    }

    #[test]
    fn sizes_keep_to_their_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 * 1024, "1.5 MiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text, "{n}");
        }
    }

    #[test]
    fn lengths_of_time_show_two_units() {
        let cases = [
            (Duration::ZERO, "0 ms"),
            (Duration::from_micros(20), "<1 ms"),
            (Duration::from_millis(850), "850 ms"),
            (Duration::from_millis(59_990), "59.9 s"),
            (Duration::from_secs(125), "2 min 05 s"),
            (Duration::from_secs(11_220), "3 h 07 min"),
            (Duration::from_secs(187_200), "2 d 04 h"),
        ];
        for (length, text) in cases {
            assert_eq!(duration(length), text);
        }
    }

    #[test]
    fn instants_end_in_z() {
        assert_eq!(timestamp("2025-10-09T16:03:00.25+02:00".parse().unwrap()), "2025-10-09T14:03:00.250Z");
    }
}
