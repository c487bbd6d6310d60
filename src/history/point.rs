//! Points: from what somebody wrote to a prefix of history.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use tokio_postgres::Client;

use crate::archive::{Archive, Watermark};
use crate::capture::require_same_source;
use crate::failure::{Category, Failure, Result};
use crate::machine::{self, sleep};
use crate::model::{Commit, GapRecord, Lsn, Point, Xid};
use crate::postgres::Source;

/// Between two looks at how far the archive has come: an archiver that runs is there in a moment, one that lags in a while.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

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
/// Refused where the point is not in the archive's history, with the nearest that are, and where the
/// source is another database's; usage where an xid or a mark names two transactions.
pub async fn resolve(resolver: &Resolver<'_>, point: &Point) -> Result<Cut> {
    let archive = resolver.archive;
    let watermark = archive.watermark().await?;
    let history = History::read(archive, watermark).await?;
    let (history, lsn) = match point {
        Point::BeforeXid(_) | Point::AfterXid(_) | Point::BeforeCommit(_) | Point::AfterCommit(_) | Point::Mark(_) => {
            resolver.transaction(history, point).await?
        }
        Point::Now => {
            let source = resolver.source.ok_or_else(|| {
                Failure::usage("now is the source's position, and no source was named").remedy("add --source URL")
            })?;
            let position = resolver.position(source).await?;
            (resolver.caught_up(history, position).await?, position)
        }
        Point::Lsn(lsn) => {
            // PostgreSQL says both of the same place.
            let lsn = if *lsn > watermark.lsn { page_start_if_empty(*lsn).max(watermark.lsn) } else { *lsn };
            let history = match resolver.reached_by_source(lsn, watermark).await? {
                true => resolver.caught_up(history, lsn).await?,
                false => history,
            };
            let found = history.lsn(lsn)?;
            (history, found)
        }
        Point::Time(time) => {
            let position = resolver.position_for(*time, watermark).await?;
            let history = match position {
                Some(position) => resolver.caught_up(history, position).await?,
                None => history,
            };
            let found = history.time(*time, position.is_some())?;
            (history, found)
        }
    };
    Ok(history.cut(point, lsn))
}

impl Resolver<'_> {
    /// Where the source is; the position of another database would mean nothing in this archive.
    async fn position(&self, source: &Source) -> Result<Lsn> {
        let session = source.connect("afterimage").await?;
        require_same_source(&session, self.archive.identity()).await?;
        // On a fresh page the archive may begin behind the page's start.
        Ok(position_of(&session).await?.max(self.archive.identity().start_lsn))
    }

    /// A point that names a transaction. What is archived needs neither the source nor an archiver; what
    /// is not may have committed a moment ago.
    async fn transaction<'h>(&self, history: History<'h>, point: &Point) -> Result<(History<'h>, Lsn)> {
        let absent = match history.transaction_point(point).await {
            Err(failure) if failure.category() == Category::Refused => failure,
            found => return found.map(|lsn| (history, lsn)),
        };
        let Some(source) = self.source else { return Err(absent) };
        let position = match self.position(source).await {
            Ok(position) => position,
            Err(failure) if failure.category() == Category::Refused => return Err(failure),
            // Without the source, the archive's answer is all there is.
            Err(_) => return Err(absent),
        };
        let history = self.caught_up(history, position).await.map_err(|late| late.context(absent.cause()))?;
        let lsn = history.transaction_point(point).await?;
        Ok((history, lsn))
    }

    /// Whether an LSN above the watermark can be waited for: the source has it already.
    async fn reached_by_source(&self, lsn: Lsn, watermark: Watermark) -> Result<bool> {
        match self.source {
            Some(source) if lsn > watermark.lsn => Ok(lsn <= self.position(source).await?),
            _ => Ok(false),
        }
    }

    /// For a time after the watermark's: the position that the archive must have to know what was committed
    /// by then. `None` where the archive knows, or there is no source to ask.
    async fn position_for(&self, time: DateTime<Utc>, watermark: Watermark) -> Result<Option<Lsn>> {
        if time <= watermark.time {
            return Ok(None);
        }
        // The source's clock may be ahead of ours a little.
        if time > machine::now() + chrono::Duration::seconds(5) {
            return Err(
                Failure::refused(format!("{} has not come yet", shown_time(time))).remedy(nearest_end(watermark))
            );
        }
        match self.source {
            Some(source) => self.position(source).await.map(Some),
            None => Ok(None),
        }
    }

    /// The history, read anew where the watermark had not reached the position yet.
    async fn caught_up<'h>(&self, history: History<'h>, position: Lsn) -> Result<History<'h>> {
        if history.watermark.lsn >= position {
            return Ok(history);
        }
        let watermark = self.wait_for(position, history.watermark).await?;
        History::read(history.archive, watermark).await
    }

    async fn wait_for(&self, target: Lsn, mut watermark: Watermark) -> Result<Watermark> {
        let deadline = machine::instant() + self.wait;
        let mut pause = SHORTEST_PAUSE;
        while watermark.lsn < target {
            if machine::instant() >= deadline {
                return Err(Failure::refused(format!(
                    "the archive has history up to {}, the source is at {target}, and it did not catch up within {:?}",
                    watermark.lsn, self.wait
                ))
                .remedy("is an archiver running? start one: afterimage run; or wait longer with --wait"));
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
            watermark = self.archive.watermark().await?;
        }
        Ok(watermark)
    }
}

/// The position up to which everything that the source has committed lies in its log on disk, where the
/// archiver can get it.
///
/// Commits of `synchronous_commit = off` are flushed within three times `wal_writer_delay` (PostgreSQL manual,
/// 30.4); what is not flushed by then belongs to transactions that have not committed.
pub async fn source_position(source: &Source) -> Result<Lsn> {
    let session = source.connect("afterimage").await?;
    position_of(&session).await
}

async fn position_of(client: &Client) -> Result<Lsn> {
    const POSITIONS: &str = "SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text,
        (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_writer_delay')";
    let row = client.query_one(POSITIONS, &[]).await?;
    let inserted = page_start_if_empty(parse_position(row.get(0))?);
    let mut flushed = parse_position(row.get(1))?;
    if flushed < inserted {
        // What a transaction that still runs has written may lie on a page that nobody flushes before somebody commits, and
        // a walsender sends nothing of it. This is such a commit.
        client.query_one("SELECT pg_current_xact_id()", &[]).await?;
    }
    let patience = Duration::from_millis(3 * row.get::<_, i64>(2).unsigned_abs() + 100);
    let deadline = machine::instant() + patience;
    while flushed < inserted && machine::instant() < deadline {
        sleep(Duration::from_millis(20)).await;
        flushed = parse_position(client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0))?;
    }
    Ok(page_start_if_empty(inserted.min(flushed)))
}

fn parse_position(text: String) -> Result<Lsn> {
    text.parse().map_err(|error| Failure::failed(format!("the source's position {text}: {error}")))
}

/// On a fresh page a position lies behind the page's header (at most 40 bytes), while a walsender reports
/// the page's start.
fn page_start_if_empty(Lsn(position): Lsn) -> Lsn {
    const PAGE: u64 = 8192;
    const LONGEST_HEADER: u64 = 40;
    let into_page = position % PAGE;
    Lsn(if into_page <= LONGEST_HEADER { position - into_page } else { position })
}

fn nearest_end(watermark: Watermark) -> String {
    format!("the latest point is {} ({})", watermark.lsn, shown_time(watermark.time))
}

/// Refuses a point inside a gap.
fn inside(gap: &GapRecord, what: &str) -> Failure {
    Failure::refused(format!(
        "{what} is inside a gap: nobody saw what was committed between {} and {}",
        gap.lsn, gap.end_lsn
    ))
    .remedy(format!(
        "the nearest points are {} ({}) and {} ({})",
        gap.lsn,
        shown_time(gap.time),
        gap.end_lsn,
        shown_time(gap.end_time)
    ))
}

/// The history below a watermark.
struct History<'a> {
    archive: &'a Archive,
    watermark: Watermark,
    commits: Vec<Commit>,
    gaps: Vec<GapRecord>,
}

impl<'a> History<'a> {
    async fn read(archive: &'a Archive, watermark: Watermark) -> Result<History<'a>> {
        let (commits, gaps) = (archive.commits(watermark.lsn).await?, archive.gaps(watermark.lsn).await?);
        Ok(History { archive, watermark, commits, gaps })
    }

    fn cut(&self, point: &Point, lsn: Lsn) -> Cut {
        let at = self.commits.partition_point(|commit| commit.lsn < lsn);
        let last = at.checked_sub(1).map(|last| self.commits[last]);
        Cut { point: point.clone(), lsn, last, next: self.commits.get(at).copied() }
    }

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
        if let Some(gap) = self.gaps.iter().find(|gap| gap.lsn < lsn && lsn < gap.end_lsn) {
            return Err(inside(gap, &lsn.to_string()));
        }
        // Inside a commit record: that transaction has not ended there.
        let inside = self.commits.iter().find(|commit| commit.lsn < lsn && lsn < commit.end_lsn);
        Ok(inside.map_or(lsn, |commit| commit.lsn))
    }

    fn time(&self, time: DateTime<Utc>, source_reached: bool) -> Result<Lsn> {
        if time < self.archive.identity().created_at && self.commits.first().is_none_or(|first| first.time > time) {
            return Err(self.before_start(shown_time(time)));
        }
        if let Some(gap) = self.gaps.iter().find(|gap| gap.time < time && time < gap.end_time) {
            return Err(inside(gap, &shown_time(time)));
        }
        if let Some(later) = self.commits.iter().find(|commit| commit.time > time) {
            // What a gap did happened after its beginning.
            let gap = self.gaps.iter().find(|gap| time <= gap.time && gap.lsn < later.lsn);
            return Ok(gap.map_or(later.lsn, |gap| gap.lsn));
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

    /// # Errors
    /// Refused where nothing has that name.
    async fn transaction_point(&self, point: &Point) -> Result<Lsn> {
        match point {
            Point::BeforeXid(xid) => Ok(self.outside(self.transaction(*xid, point)?.lsn)),
            Point::AfterXid(xid) => Ok(self.transaction(*xid, point)?.end_lsn),
            Point::BeforeCommit(lsn) => Ok(self.outside(self.commit(*lsn)?.lsn)),
            Point::AfterCommit(lsn) => Ok(self.commit(*lsn)?.end_lsn),
            Point::Mark(name) => self.mark(name).await,
            Point::Now | Point::Lsn(_) | Point::Time(_) => {
                Err(Failure::failed(format!("{point} names no transaction")))
            }
        }
    }

    /// A place that a transaction has; before what a gap did is where the gap begins.
    fn outside(&self, lsn: Lsn) -> Lsn {
        self.gaps.iter().find(|gap| gap.commit_lsn() == lsn).map_or(lsn, |gap| gap.lsn)
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
