//! Positions in the write-ahead log and transaction numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in a source's write-ahead log (PostgreSQL manual, `pg_lsn`).
///
/// Shown as PostgreSQL shows it, two hexadecimal halves: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The invalid position that PostgreSQL uses for "none".
    pub const ZERO: Lsn = Lsn(0);

    /// Beyond every position.
    pub const MAX: Lsn = Lsn(i64::MAX as u64);

    /// The form stored in the archive. PostgreSQL's positions stay far below 2^63 bytes.
    pub fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// The reverse of [`Lsn::as_i64`].
    pub fn from_i64(stored: i64) -> Lsn {
        Lsn(stored as u64)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF))
    }
}

/// The text was not two hexadecimal halves of at most eight digits each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an LSN: two hexadecimal numbers with a slash between, as in 16/B374D848")]
pub struct NotAnLsn;

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Lsn, NotAnLsn> {
        let (high, low) = text.split_once('/').ok_or(NotAnLsn)?;
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

fn half(text: &str) -> Result<u32, NotAnLsn> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.is_empty() || text.len() > 8 || !is_hex {
        return Err(NotAnLsn);
    }
    u32::from_str_radix(text, 16).map_err(|_| NotAnLsn)
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A 32-bit transaction number. It wraps, so it names a transaction only among those still known;
/// a transaction's identity is its commit [`Lsn`].
pub type Xid = u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads_what_postgresql_shows() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_postgresql_refuses() {
        for text in ["", "1", "1/", "/1", "g/1", "1/123456789", "+1/2", "1/2/3", " 1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was accepted");
        }
    }
}
