//! How people name a place in commit order (DESIGN.md, section 2).

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::{Lsn, Xid};

/// A place in commit order as somebody wrote it; the archive resolves it to a prefix of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// The prefix before the first transaction whose commit timestamp is later.
    Time(DateTime<Utc>),
    /// Every transaction whose commit record ends at or before this.
    Lsn(Lsn),
    /// The prefix without the transaction.
    BeforeXid(Xid),
    /// The prefix up to and with the transaction.
    AfterXid(Xid),
    /// The prefix without the transaction that has this commit LSN.
    BeforeCommit(Lsn),
    /// The prefix up to and with the transaction that has this commit LSN.
    AfterCommit(Lsn),
    /// A named point.
    Mark(String),
    /// The source's current position.
    Now,
}

/// Why a text is not a point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointSyntax {
    #[error("{0:?} has no time zone; write it as 2025-10-09T14:03:00Z or 2025-10-09T16:03:00+02:00")]
    NoZone(String),
    #[error("{0:?} is not a transaction: a number (xid) or a commit LSN")]
    NotATransaction(String),
    #[error("{0:?} is not an age: write 15m ago, 2h ago or 3d ago")]
    NotAnAge(String),
    #[error(
        "{0:?} is not a point: write a time with its zone, an age (15m ago), an LSN (16/B374D848), before:TXN, after:TXN, mark:NAME or now"
    )]
    Unknown(String),
}

impl Point {
    /// Reads a point; `now` is what ages are counted from.
    ///
    /// # Errors
    /// [`PointSyntax`], which says what the text should have been.
    pub fn parse(text: &str, now: DateTime<Utc>) -> Result<Point, PointSyntax> {
        let text = text.trim();
        if text == "now" {
            return Ok(Point::Now);
        }
        if let Some(name) = text.strip_prefix("mark:").filter(|name| !name.is_empty()) {
            return Ok(Point::Mark(name.to_owned()));
        }
        if let Some(transaction) = text.strip_prefix("before:") {
            return transaction_point(transaction, Point::BeforeXid, Point::BeforeCommit);
        }
        if let Some(transaction) = text.strip_prefix("after:") {
            return transaction_point(transaction, Point::AfterXid, Point::AfterCommit);
        }
        if let Some(age) = text.strip_suffix("ago") {
            let age = parse_age(age.trim()).ok_or_else(|| PointSyntax::NotAnAge(text.into()))?;
            return now.checked_sub_signed(age).map(Point::Time).ok_or_else(|| PointSyntax::NotAnAge(text.into()));
        }
        if let Ok(lsn) = text.parse() {
            return Ok(Point::Lsn(lsn));
        }
        parse_time(text)
    }
}

fn transaction_point(text: &str, by_xid: fn(Xid) -> Point, by_commit: fn(Lsn) -> Point) -> Result<Point, PointSyntax> {
    if let Ok(xid) = text.parse::<Xid>() {
        return Ok(by_xid(xid));
    }
    Lsn::from_str(text).map(by_commit).map_err(|_| PointSyntax::NotATransaction(text.into()))
}

/// Reads `15m`, `1h30m`, `90 s`, `2 days`: whole numbers with a unit, added up.
fn parse_age(text: &str) -> Option<chrono::Duration> {
    let mut rest = text;
    let mut seconds = 0i64;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let count: i64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = match &rest[..letters] {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 604_800,
            _ => return None,
        };
        seconds = seconds.checked_add(count.checked_mul(unit)?)?;
        rest = rest[letters..].trim_start();
    }
    (!text.is_empty()).then(|| chrono::Duration::try_seconds(seconds)).flatten()
}

fn parse_time(text: &str) -> Result<Point, PointSyntax> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Point::Time(time.to_utc()));
    }
    // RFC 3339 as people shorten it: a blank for the T, no seconds.
    for format in ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z"] {
        let spelled = text.strip_suffix(['Z', 'z']).map(|bare| format!("{bare}+00:00"));
        if let Ok(time) = DateTime::parse_from_str(spelled.as_deref().unwrap_or(text), format) {
            return Ok(Point::Time(time.to_utc()));
        }
    }
    let looks_like_time = text.len() >= 10
        && text.bytes().take(10).enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    Err(if looks_like_time { PointSyntax::NoZone(text.into()) } else { PointSyntax::Unknown(text.into()) })
}

/// Shown in the form in which it can be written again.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Time(time) => f.write_str(&time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
            Point::Lsn(lsn) => lsn.fmt(f),
            Point::BeforeXid(xid) => write!(f, "before:{xid}"),
            Point::AfterXid(xid) => write!(f, "after:{xid}"),
            Point::BeforeCommit(lsn) => write!(f, "before:{lsn}"),
            Point::AfterCommit(lsn) => write!(f, "after:{lsn}"),
            Point::Mark(name) => write!(f, "mark:{name}"),
            Point::Now => f.write_str("now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2025-10-09T14:30:00Z".parse().unwrap()
    }

    fn time(text: &str) -> Point {
        Point::Time(text.parse().unwrap())
    }

    #[test]
    fn every_form_is_read() {
        let forms = [
            ("2025-10-09T14:03:00Z", time("2025-10-09T14:03:00Z")),
            ("2025-10-09T16:03:00+02:00", time("2025-10-09T14:03:00Z")),
            ("2025-10-09 14:03:00.25Z", time("2025-10-09T14:03:00.25Z")),
            ("2025-10-09 14:03Z", time("2025-10-09T14:03:00Z")),
            ("15m ago", time("2025-10-09T14:15:00Z")),
            ("1h 30 minutes ago", time("2025-10-09T13:00:00Z")),
            ("16/B374D848", Point::Lsn(Lsn(0x16_B374_D848))),
            ("before:742", Point::BeforeXid(742)),
            ("after:742", Point::AfterXid(742)),
            ("before:16/B374D848", Point::BeforeCommit(Lsn(0x16_B374_D848))),
            ("mark:release 7", Point::Mark("release 7".into())),
            ("now", Point::Now),
        ];
        for (text, point) in forms {
            assert_eq!(Point::parse(text, now()), Ok(point), "{text}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_refused_as_such() {
        for text in ["2025-10-09T14:03:00", "2025-10-09", "2025-10-09 14:03"] {
            assert!(matches!(Point::parse(text, now()), Err(PointSyntax::NoZone(_))), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "yesterday", "mark:", "before:", "before:x", "ago", "5 ago", "-5m ago", "99999999999999999w ago"]
        {
            assert!(Point::parse(text, now()).is_err(), "{text:?} was accepted");
        }
    }
}
