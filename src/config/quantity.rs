//! Durations and sizes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration: `250ms`, `1s`, `5m`, `2h`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Span(pub Duration);

/// A size: `512kB`, `64MB`, `2GB`, each 1024 times the one before, as PostgreSQL counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ByteSize(pub u64);

/// A rate: `512kB/s`, `50MB/s`, its size as a size is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ByteRate(pub u64);

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((text[..digits].parse().ok()?, text[digits..].trim()))
}

fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (count, unit) = split(text)?;
    let (_, scale) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    count.checked_mul(*scale)
}

fn write(value: u64, units: &[(&str, u64)]) -> String {
    let fitting = units.iter().rev().find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale));
    let (name, scale) = fitting.unwrap_or(&units[0]);
    format!("{}{name}", value / scale)
}

const SPANS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 5] = [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let millis =
            read(text, &SPANS).ok_or_else(|| format!("{text:?} is not a duration; write 250ms, 1s, 5m, 2h or 1d"))?;
        Ok(Span(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&write(self.0.as_millis() as u64, &SPANS))
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let wrong = || format!("{text:?} is not a size; write 512kB, 64MB or 2GB");
        read(text, &SIZES).filter(|&bytes| bytes > 0).map(ByteSize).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&write(self.0, &SIZES))
    }
}

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteRate, String> {
        let size = text.trim().strip_suffix("/s").and_then(|size| size.parse::<ByteSize>().ok());
        size.map(|size| ByteRate(size.0)).ok_or_else(|| format!("{text:?} is not a rate; write 512kB/s or 50MB/s"))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", ByteSize(self.0)))
    }
}

macro_rules! as_text {
    ($kind:ty) => {
        impl TryFrom<String> for $kind {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from(value: $kind) -> String {
                value.to_string()
            }
        }
    };
}

as_text!(Span);
as_text!(ByteSize);
as_text!(ByteRate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["250ms", "1s", "90s", "5m", "2h", "1d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["1B", "512kB", "64MB", "2GB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
            let rate = format!("{text}/s");
            assert_eq!(rate.parse::<ByteRate>().unwrap().to_string(), rate);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "5", "s", "-1s", "1.5s", "5 parsecs", "99999999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text:?} was accepted");
        }
        assert!("0MB".parse::<ByteSize>().is_err());
        for text in ["50MB", "0MB/s", "/s", "50 parsecs/s"] {
            assert!(text.parse::<ByteRate>().is_err(), "{text:?} was accepted");
        }
    }
}
