//! Points: from what somebody wrote to a prefix of history.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::time::{Instant, sleep};

use crate::archive::{Archive, Watermark};
use crate::failure::{Failure, Result};
use crate::model::{Commit, Lsn, Point, Xid};
use crate::postgres::Source;

/// A prefix of history: the transactions whose commit LSN is below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// What was asked for.
    pub point: Point,
    /// Transactions with a commit LSN below this belong to the prefix, and no others.
    pub lsn: Lsn,
    /// The last transaction of the prefix.
    pub last: Option<Commit>,
    /// The first transaction after it.
    pub next: Option<Commit>,
}

impl Cut {
    /// The resolved place and its neighbours, one line.
    pub fn describe(&self) -> String {
        let commit = |commit: &Option<Commit>, none: &str| match commit {
            Some(commit) => format!("{} (xid {}, {})", commit.lsn, commit.xid, shown_time(commit.time)),
            None => none.to_owned(),
        };
        format!(
            "{} is LSN {}, after {}, before {}",
            self.point,
            self.lsn,
            commit(&self.last, "the first base image"),
            commit(&self.next, "anything later")
        )
    }
}

/// A time as every command shows it.
pub fn shown_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// What resolving may use besides the archive.
#[derive(Debug, Clone)]
pub struct Resolver<'a> {
    pub archive: &'a Archive,
    /// Needed for `now`, and for times after the last transaction.
    pub source: Option<&'a Source>,
    /// How long to wait for the watermark to reach what the source has.
    pub wait: Duration,
}

/// Resolves a point.
///
/// # Errors
/// Refused where the point is not in the archive's history, with the nearest that are; usage where
/// an xid or a mark names two transactions.
pub async fn resolve(resolver: &Resolver<'_>, point: &Point) -> Result<Cut> {
    let archive = resolver.archive;
    let mut watermark = archive.watermark().await?;
    let target = resolver.wait_target(point, watermark).await?;
    if let Some(target) = target {
        watermark = resolver.wait_for(target, watermark).await?;
    }
    let commits = archive.commits(watermark.lsn).await?;
    let history = History { archive, watermark, commits: &commits };
    let lsn = match point {
        Point::Now => target.unwrap_or(watermark.lsn),
        Point::Lsn(lsn) => history.lsn(*lsn)?,
        Point::Time(time) => history.time(*time, target.is_some())?,
        Point::BeforeXid(xid) => history.transaction(*xid, point)?.lsn,
        Point::AfterXid(xid) => history.transaction(*xid, point)?.end_lsn,
        Point::BeforeCommit(lsn) => history.commit(*lsn)?.lsn,
        Point::AfterCommit(lsn) => history.commit(*lsn)?.end_lsn,
        Point::Mark(name) => history.mark(name).await?,
    };
    let at = commits.partition_point(|commit| commit.lsn < lsn);
    let last = at.checked_sub(1).map(|last| commits[last]);
    Ok(Cut { point: point.clone(), lsn, last, next: commits.get(at).copied() })
}

impl Resolver<'_> {
    /// The position that the watermark must have reached before the point can be resolved.
    async fn wait_target(&self, point: &Point, watermark: Watermark) -> Result<Option<Lsn>> {
        match point {
            Point::Now => {
                let source = self.source.ok_or_else(|| {
                    Failure::usage("now is the source's position, and no source was named").remedy("add --source URL")
                })?;
                source_position(source).await.map(Some)
            }
            Point::Lsn(lsn) if *lsn > watermark.lsn => match self.source {
                // What the source has reached can be waited for; more cannot.
                Some(source) => {
                    let position = source_position(source).await?;
                    Ok(Some(*lsn).filter(|lsn| *lsn <= position))
                }
                None => Ok(None),
            },
            Point::Time(time) if *time > watermark.time => {
                if *time > Utc::now() + chrono::Duration::seconds(5) {
                    return Err(Failure::refused(format!("{} has not come yet", shown_time(*time)))
                        .remedy(nearest_end(watermark)));
                }
                match self.source {
                    Some(source) => source_position(source).await.map(Some),
                    None => Ok(None),
                }
            }
            Point::BeforeXid(_)
            | Point::AfterXid(_)
            | Point::BeforeCommit(_)
            | Point::AfterCommit(_)
            | Point::Mark(_) => {
                // It may have committed a moment ago.
                match self.source {
                    Some(source) => Ok(source_position(source).await.ok()),
                    None => Ok(None),
                }
            }
            Point::Lsn(_) | Point::Time(_) => Ok(None),
        }
    }

    async fn wait_for(&self, target: Lsn, mut watermark: Watermark) -> Result<Watermark> {
        let deadline = Instant::now() + self.wait;
        while watermark.lsn < target {
            if Instant::now() >= deadline {
                return Err(Failure::refused(format!(
                    "the archive has history up to {}, the source is at {target}, and it did not catch up within {} s",
                    watermark.lsn,
                    self.wait.as_secs()
                ))
                .remedy("is an archiver running? start one: afterimage run; or wait longer with --wait"));
            }
            sleep(Duration::from_millis(100)).await;
            watermark = self.archive.watermark().await?;
        }
        Ok(watermark)
    }
}

/// The source's position in its log, rounded down to where a walsender can tell that it has been.
///
/// On a fresh page the insert position lies behind the page's header (at most 40 bytes), while a
/// walsender reports the page's start.
pub async fn source_position(source: &Source) -> Result<Lsn> {
    const PAGE: u64 = 8192;
    const LONGEST_HEADER: u64 = 40;
    let session = source.connect("afterimage").await?;
    let row = session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
    let text: String = row?.get(0);
    let Lsn(position) =
        text.parse().map_err(|error| Failure::failed(format!("the source's position {text}: {error}")))?;
    let into_page = position % PAGE;
    Ok(Lsn(if into_page <= LONGEST_HEADER { position - into_page } else { position }))
}

fn nearest_end(watermark: Watermark) -> String {
    format!("the latest point is {} ({})", watermark.lsn, shown_time(watermark.time))
}

/// The history below a watermark.
struct History<'a> {
    archive: &'a Archive,
    watermark: Watermark,
    commits: &'a [Commit],
}

impl History<'_> {
    fn start(&self) -> Lsn {
        self.archive.identity().start_lsn
    }

    fn lsn(&self, lsn: Lsn) -> Result<Lsn> {
        if lsn < self.start() {
            return Err(self.before_start(lsn.to_string()));
        }
        if lsn > self.watermark.lsn {
            return Err(
                Failure::refused(format!("{lsn} is above the archive's watermark")).remedy(nearest_end(self.watermark))
            );
        }
        // Inside a commit record: that transaction has not ended there.
        let inside = self.commits.iter().find(|commit| commit.lsn < lsn && lsn < commit.end_lsn);
        Ok(inside.map_or(lsn, |commit| commit.lsn))
    }

    fn time(&self, time: DateTime<Utc>, source_reached: bool) -> Result<Lsn> {
        if time < self.archive.identity().created_at && self.commits.first().is_none_or(|first| first.time > time) {
            return Err(self.before_start(shown_time(time)));
        }
        if let Some(later) = self.commits.iter().find(|commit| commit.time > time) {
            return Ok(later.lsn);
        }
        if time <= self.watermark.time || source_reached {
            return Ok(self.watermark.lsn);
        }
        Err(Failure::refused(format!(
            "the archive does not know whether anything was committed before {}",
            shown_time(time)
        ))
        .remedy(format!("{}; with --source it can wait for the rest", nearest_end(self.watermark))))
    }

    fn before_start(&self, what: String) -> Failure {
        let identity = self.archive.identity();
        Failure::refused(format!("{what} is before the archive's beginning")).remedy(format!(
            "the earliest point is {} ({})",
            identity.start_lsn,
            shown_time(identity.created_at)
        ))
    }

    fn transaction(&self, xid: Xid, point: &Point) -> Result<Commit> {
        let found: Vec<&Commit> = self.commits.iter().filter(|commit| commit.xid == xid).collect();
        match found[..] {
            [commit] => Ok(*commit),
            [] => Err(Failure::refused(format!("the archive has no transaction {xid}"))
                .remedy("it may have changed no archived table; afterimage log lists those that did")),
            _ => {
                let list: Vec<String> =
                    found.iter().map(|commit| format!("{} ({})", commit.lsn, shown_time(commit.time))).collect();
                let word = if matches!(point, Point::AfterXid(_)) { "after" } else { "before" };
                Err(Failure::usage(format!("xid {xid} names {} transactions: {}", found.len(), list.join(", ")))
                    .remedy(format!("name one by its commit LSN: {word}:{}", found[0].lsn)))
            }
        }
    }

    fn commit(&self, lsn: Lsn) -> Result<Commit> {
        let at = self.commits.partition_point(|commit| commit.lsn < lsn);
        if let Some(commit) = self.commits.get(at).filter(|commit| commit.lsn == lsn) {
            return Ok(*commit);
        }
        let near: Vec<String> = [at.checked_sub(1), Some(at)]
            .into_iter()
            .flatten()
            .filter_map(|at| self.commits.get(at))
            .map(|commit| commit.lsn.to_string())
            .collect();
        Err(Failure::refused(format!("no transaction has the commit LSN {lsn}")).remedy(match near.is_empty() {
            true => "the archive has no transactions yet".to_owned(),
            false => format!("the nearest are {}", near.join(" and ")),
        }))
    }

    async fn mark(&self, name: &str) -> Result<Lsn> {
        let marks = self.archive.marks(self.watermark.lsn).await?;
        let found: Vec<_> = marks.iter().filter(|mark| mark.name == name).collect();
        match found[..] {
            [mark] => Ok(self.commit(mark.lsn)?.end_lsn),
            [] => {
                let mut known: Vec<&str> = marks.iter().rev().take(5).map(|mark| mark.name.as_str()).collect();
                known.sort_unstable();
                let remedy = match known.is_empty() {
                    true => "the archive has no marks; afterimage mark NAME makes one".to_owned(),
                    false => format!("the latest are {}", known.join(", ")),
                };
                Err(Failure::refused(format!("the archive has no mark {name:?}")).remedy(remedy))
            }
            _ => {
                let list: Vec<String> = found.iter().map(|mark| format!("after:{}", mark.lsn)).collect();
                Err(Failure::usage(format!("{} marks are named {name:?}", found.len()))
                    .remedy(format!("name one by its transaction: {}", list.join(" or "))))
            }
        }
    }
}
