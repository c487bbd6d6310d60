//! Measures how long transactions take from their commit to being durable in the archive.
//!
//! The commit's time is the source's clock's, the end is ours'. What the two clocks differ by shows in the times that the
//! source sends with its messages: the least that a message seemed to travel is that difference and the shortest way of the
//! network, which is too short to matter.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::archive::Publication;
use crate::machine;
use crate::model::Freshness;
use crate::transaction::unix_micros;

/// What is called recent reaches back between one and two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// See the module's documentation. One for as long as the archiver runs, shared by its stages.
#[derive(Debug)]
pub(super) struct FreshnessMeter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window_ends: Instant,
    difference: Difference,
    /// Of this window, of the one before, and of all.
    current: Histogram,
    before: Histogram,
    total: Histogram,
}

impl FreshnessMeter {
    pub(super) fn new() -> FreshnessMeter {
        let state = State {
            window_ends: machine::instant() + WINDOW,
            difference: Difference::default(),
            current: Histogram::new(),
            before: Histogram::new(),
            total: Histogram::new(),
        };
        FreshnessMeter { state: Mutex::new(state) }
    }

    /// Notes when a message was sent that has just arrived, microseconds since 2000 by the source's clock.
    pub(super) fn arrived(&self, sent: i64) {
        let difference = machine::now().timestamp_micros().saturating_sub(unix_micros(sent));
        self.with(|state| state.difference.note(difference));
    }

    /// Notes that a publication is durable now. Once in a window it returns what is recent, where that is something.
    pub(super) fn published(&self, publication: &Publication) -> Option<Freshness> {
        let now = machine::now().timestamp_micros();
        self.with(|state| {
            let by_the_sources_clock = now.saturating_sub(state.difference.least());
            for transaction in &publication.transactions {
                let took = by_the_sources_clock.saturating_sub(transaction.commit.time.timestamp_micros());
                let took = u64::try_from(took).unwrap_or(0);
                state.current.add(took);
                state.total.add(took);
            }
            if machine::instant() < state.window_ends {
                return None;
            }
            let recent = state.recent();
            state.turn();
            recent
        })
    }

    /// Of the last minutes; `None` where nothing committed.
    pub(super) fn recent(&self) -> Option<Freshness> {
        self.with(|state| state.recent())
    }

    /// Of everything so far.
    pub(super) fn total(&self) -> Option<Freshness> {
        self.with(|state| state.total.freshness())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn recent(&self) -> Option<Freshness> {
        let mut both = self.before.clone();
        both.merge(&self.current);
        both.freshness()
    }

    fn turn(&mut self) {
        self.window_ends = machine::instant() + WINDOW;
        self.before = std::mem::replace(&mut self.current, Histogram::new());
        self.difference.turn();
    }
}

/// By how much our clock is ahead of the source's, in microseconds; clocks are corrected, so what was seen long ago is
/// forgotten.
#[derive(Debug, Default)]
struct Difference {
    current: Option<i64>,
    before: Option<i64>,
}

impl Difference {
    fn note(&mut self, difference: i64) {
        self.current = Some(self.current.map_or(difference, |least| least.min(difference)));
    }

    fn least(&self) -> i64 {
        self.current.into_iter().chain(self.before).min().unwrap_or(0)
    }

    fn turn(&mut self) {
        self.before = self.current.take().or(self.before);
    }
}

/// Parts of each power of two. A bucket is at most a sixteenth wider than its least number.
const PARTS: u64 = 16;
const PARTS_BITS: u32 = PARTS.trailing_zeros();
/// Every number of 64 bits has its bucket.
const BUCKETS: usize = ((64 - PARTS_BITS as usize) + 1) * PARTS as usize;

/// How often numbers occurred, in buckets of fixed edges.
#[derive(Debug, Clone)]
struct Histogram {
    counts: Box<[u64]>,
}

impl Histogram {
    fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS].into() }
    }

    fn add(&mut self, micros: u64) {
        self.counts[bucket_of(micros)] += 1;
    }

    fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
    }

    fn freshness(&self) -> Option<Freshness> {
        let transactions = self.counts.iter().sum();
        let quantile = |percent| Duration::from_micros(self.quantile(transactions, percent));
        (transactions > 0).then(|| Freshness { transactions, p50: quantile(50), p99: quantile(99) })
    }

    /// The greatest number of the bucket in which so many percent of all are reached.
    fn quantile(&self, total: u64, percent: u64) -> u64 {
        let wanted = (total * percent).div_ceil(100);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        greatest_of(reached.unwrap_or(BUCKETS - 1))
    }
}

fn bucket_of(number: u64) -> usize {
    if number < PARTS {
        return number as usize;
    }
    let shift = number.ilog2() - PARTS_BITS;
    // The upper bits, the first of which is always set.
    let part = (number >> shift) - PARTS;
    ((u64::from(shift) + 1) * PARTS + part) as usize
}

fn greatest_of(bucket: usize) -> u64 {
    let (power, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    if power == 0 {
        return part;
    }
    // The last bucket ends where the numbers do.
    let least = u128::from(PARTS + part) << (power - 1);
    u64::try_from(least + (1 << (power - 1)) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::model::{Commit, Lsn, Transaction};

    #[test]
    fn every_number_is_in_a_bucket_that_ends_at_most_a_sixteenth_above() {
        let powers = (0..64).map(|power| 1u64 << power);
        for number in powers.flat_map(|power| [power - 1, power, power + power / 3]).chain([u64::MAX]) {
            let greatest = greatest_of(bucket_of(number));
            assert!(greatest >= number && greatest - number <= number / PARTS, "{number} to {greatest}");
            assert_eq!(bucket_of(greatest), bucket_of(number));
        }
    }

    fn publication(ages: impl IntoIterator<Item = Duration>) -> Publication {
        let transaction = |age: Duration| {
            let commit = Commit { lsn: Lsn(1), end_lsn: Lsn(2), xid: 3, time: Utc::now() - age };
            Transaction { commit, tables: Default::default(), context: None }
        };
        Publication { transactions: ages.into_iter().map(transaction).collect(), ..Publication::default() }
    }

    #[test]
    fn quantiles_are_of_what_was_published() {
        let meter = FreshnessMeter::new();
        assert_eq!(meter.total(), None);
        let ages = (0..100).map(|at| Duration::from_secs(if at < 98 { 10 } else { 1000 }));
        assert_eq!(meter.published(&publication(ages)), None);
        let Freshness { transactions, p50, p99 } = meter.recent().unwrap();
        assert_eq!(transactions, 100);
        let about = |duration: Duration, seconds: u64| (seconds..=seconds + seconds / 8).contains(&duration.as_secs());
        assert!(about(p50, 10) && about(p99, 1000), "{p50:?} {p99:?}");
    }

    /// The source's clock is an hour behind ours: its times look old, and are not.
    #[test]
    fn what_the_clocks_differ_by_does_not_count() {
        let meter = FreshnessMeter::new();
        let hour = Duration::from_secs(3600);
        let sent = (Utc::now() - hour).timestamp_micros() - unix_micros(0);
        for delay in [5_000_000, 0, 7_000_000] {
            meter.arrived(sent - delay);
        }
        meter.published(&publication([hour + Duration::from_secs(20)]));
        let p99 = meter.total().unwrap().p99.as_secs();
        assert!((20..=30).contains(&p99), "{p99} s");
    }
}
