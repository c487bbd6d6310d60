//! How much was changed when: counts of changes by time, table and application, in memory, so that a year draws as fast as a
//! minute.
//!
//! ```text
//!   log/transactions ── seconds ── minutes ── hours ── days        spans: of each hour its LSNs and transactions
//! ```
//!
//! Every level has everything until it is full; then its older half goes, and what was there is known a level coarser, or
//! exactly by reading the log again: the spans say which part of it. Memory is bounded by [`MOST_CELLS`], whatever happens
//! in the source.

mod level;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::archive::LoggedTransactions;
use crate::model::{Lsn, OperationCounts, Said, TableName};
use level::{Cell, Counts, Level, Place, coarser};
use names::{Names, UNKNOWN};

/// Seconds of a stretch at each level, and how many cells it keeps. A cell takes 24 bytes.
pub(super) const MOST_CELLS: [(u32, usize); 4] =
    [(1, 3_000_000), (60, 2_000_000), (3600, 1_000_000), (86_400, 1_000_000)];
/// Cells that are gathered before they are sorted into the levels.
const GATHERED: usize = 100_000;

const HOUR: u32 = 3600;

/// The transactions of one hour, by their commit times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    least: Lsn,
    greatest: Lsn,
    transactions: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Rollup {
    names: Names,
    levels: Vec<Level>,
    gathered: HashMap<Place, Counts>,
    spans: BTreeMap<u32, Span>,
    /// Every transaction below has been counted, if all come in commit order.
    pub(super) until: Lsn,
    pub(super) transactions: u64,
    pub(super) changes: u64,
    /// The least and the greatest commit time, in microseconds since 1970.
    pub(super) times: Option<(i64, i64)>,
}

/// Which changes are counted, by when, of which tables and by which applications.
pub(super) struct Question<'a> {
    /// Seconds since 1970; the beginning is a multiple of the width.
    pub(super) range: Range<u32>,
    /// Seconds of a bar.
    pub(super) width: u32,
    pub(super) table: &'a (dyn Fn(&TableName) -> bool + Sync),
    /// Whether every table is wanted, those that are counted together too.
    pub(super) every_table: bool,
    /// All where it is empty.
    pub(super) applications: &'a [String],
}

/// What is drawn.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Drawn {
    /// One for each width from the range's beginning on.
    pub(super) bars: Vec<OperationCounts>,
    /// By table, whichever are wanted; without a name those that are counted together.
    pub(super) tables: Vec<(Option<TableName>, OperationCounts)>,
    /// By application, whichever are wanted.
    pub(super) applications: Vec<(Option<String>, OperationCounts)>,
}

impl Default for Rollup {
    fn default() -> Rollup {
        Rollup {
            names: Names::default(),
            levels: MOST_CELLS.iter().map(|(unit, most)| Level::new(*unit, *most)).collect(),
            gathered: HashMap::new(),
            spans: BTreeMap::new(),
            until: Lsn::ZERO,
            transactions: 0,
            changes: 0,
            times: None,
        }
    }
}

/// A commit time in whole seconds; what no clock shows is at the edge.
fn seconds(micros: i64) -> u32 {
    u32::try_from(micros.div_euclid(1_000_000).max(0)).unwrap_or(u32::MAX - 2 * 86_400)
}

impl Rollup {
    /// Counts transactions, each of which must come once. They are seen after [`Rollup::settle`].
    pub(super) fn count(&mut self, logged: &LoggedTransactions) {
        for one in logged.iter() {
            let (micros, lsn) = (one.micros(), one.lsn());
            let second = seconds(micros);
            let application = match one.context().and_then(application_of) {
                Some(name) => self.names.application(&name),
                None => UNKNOWN,
            };
            for (schema, table, counts) in one.tables() {
                let place = (second, self.names.table(schema, table), application);
                let counted = [counts.insert, counts.update, counts.delete, counts.truncate];
                let counted = counted.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
                let cell = self.gathered.entry(place).or_default();
                *cell = level::sum(*cell, counted);
                self.changes += counts.total();
            }
            self.until = self.until.max(Lsn(lsn.0 + 1));
            self.transactions += 1;
            let (least, greatest) = self.times.unwrap_or((micros, micros));
            self.times = Some((least.min(micros), greatest.max(micros)));
            let span = self.spans.entry(second - second % HOUR);
            let span = span.or_insert(Span { least: lsn, greatest: lsn, transactions: 0 });
            span.least = span.least.min(lsn);
            span.greatest = span.greatest.max(lsn);
            span.transactions += 1;
        }
        if self.gathered.len() >= GATHERED {
            self.settle();
        }
    }

    /// Sorts what was counted into the levels.
    pub(super) fn settle(&mut self) {
        let mut cells: Vec<Cell> = self.gathered.drain().map(|(place, counts)| Cell { place, counts }).collect();
        cells.sort_unstable_by_key(|cell| cell.place);
        for level in &mut self.levels {
            cells = coarser(&cells, level.unit);
            level.add(&cells);
        }
    }

    /// The finest width of bars that is known from a time on, in seconds, at least one that is asked for.
    pub(super) fn finest(&self, from: u32, width: u32) -> u32 {
        let known = self.levels.iter().find(|level| level.since <= from || level.unit == 86_400);
        known.map_or(86_400, |level| level.unit).max(width)
    }

    /// What is drawn.
    pub(super) fn draw(&self, question: &Question<'_>) -> Drawn {
        let Question { range, width, .. } = question;
        let bars = (range.end.saturating_sub(range.start)).div_ceil((*width).max(1)) as usize;
        let mut drawn = Drawn { bars: vec![OperationCounts::default(); bars], ..Drawn::default() };
        let fits = |level: &&Level| width.is_multiple_of(level.unit) && range.start.is_multiple_of(level.unit);
        let known = |level: &&Level| level.since <= range.start;
        let mut coarsest = self.levels.iter().rev().filter(fits);
        let Some(level) = coarsest.clone().find(known).or_else(|| coarsest.next_back()) else { return drawn };
        let (mut by_table, mut by_application) = (HashMap::new(), HashMap::new());
        let mut wanted_tables: HashMap<u16, bool> = HashMap::new();
        let mut wanted_applications: HashMap<u16, bool> = HashMap::new();
        for cell in level.within(range.start, range.end) {
            let (time, table, application) = cell.place;
            let is_wanted = *wanted_tables.entry(table).or_insert_with(|| {
                question.every_table || self.names.table_of(table).is_some_and(|name| (question.table)(name))
            });
            let by_wanted = *wanted_applications.entry(application).or_insert_with(|| {
                let known = self.names.application_of(application);
                question.applications.is_empty()
                    || known.is_some_and(|known| question.applications.iter().any(|one| one == known))
            });
            let counts = operation_counts(cell.counts);
            // What a filter offers is counted as if it were not set: one sees what else there is.
            if by_wanted {
                *by_table.entry(table).or_insert_with(OperationCounts::default) += counts;
            }
            if is_wanted {
                *by_application.entry(application).or_insert_with(OperationCounts::default) += counts;
            }
            if let (true, true, Some(bar)) =
                (is_wanted, by_wanted, drawn.bars.get_mut(((time - range.start) / width) as usize))
            {
                *bar += counts;
            }
        }
        drawn.tables = by_table.into_iter().map(|(at, counts)| (self.names.table_of(at).cloned(), counts)).collect();
        let name = |at: u16| self.names.application_of(at).map(str::to_owned);
        drawn.applications = by_application.into_iter().map(|(at, counts)| (name(at), counts)).collect();
        drawn.tables.sort_by(|a, b| (b.1.total(), &a.0).cmp(&(a.1.total(), &b.0)));
        drawn.applications.sort_by(|a, b| (b.1.total(), &a.0).cmp(&(a.1.total(), &b.0)));
        drawn
    }

    /// The commit LSNs among which all transactions of a range of seconds are, and how many of other times may be among
    /// them at most; `None` where there are none.
    pub(super) fn span(&self, range: Range<u32>) -> Option<(Range<Lsn>, u64)> {
        let first = range.start - range.start % HOUR;
        let mut found: Option<(Range<Lsn>, u64)> = None;
        for span in self.spans.range(first..range.end.max(first)).map(|(_, span)| span) {
            let (lsns, transactions) = found.unwrap_or((span.least..span.least, 0));
            let end = lsns.end.max(Lsn(span.greatest.0 + 1));
            found = Some((lsns.start.min(span.least)..end, transactions + span.transactions));
        }
        found
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.levels.iter().map(Level::bytes).sum()
    }
}

fn operation_counts([insert, update, delete, truncate]: Counts) -> OperationCounts {
    let [insert, update, delete, truncate] = [insert, update, delete, truncate].map(u64::from);
    OperationCounts { insert, update, delete, truncate }
}

/// The application's name in a context, which is parsed only where it can have one: there are as many as transactions.
pub(super) fn application_of(context: &str) -> Option<String> {
    memchr::memmem::find(context.as_bytes(), b"\"application\"")?;
    Said::parse(context).application().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(second: u32, table: &str, rollup: &mut Rollup, counts: Counts) {
        let place = (second, rollup.names.table("public", table), UNKNOWN);
        rollup.gathered.insert(place, counts);
    }

    fn question(range: Range<u32>, width: u32) -> Question<'static> {
        Question { range, width, table: &|_| true, every_table: true, applications: &[] }
    }

    #[test]
    fn every_level_draws_the_same() {
        let mut rollup = Rollup::default();
        for second in (0..200_000).step_by(7) {
            cell(second, "a", &mut rollup, [1, 0, 2, 0]);
            if second % 3 == 0 {
                rollup.settle();
            }
        }
        // What comes late is sorted in.
        cell(3, "b", &mut rollup, [0, 5, 0, 1]);
        rollup.settle();
        let sum = |width: u32| {
            let drawn = rollup.draw(&question(0..259_200, width));
            assert_eq!(drawn.bars.len() as u32, 259_200_u32.div_ceil(width));
            drawn.bars.into_iter().fold(OperationCounts::default(), |mut sum, bar| {
                sum += bar;
                sum
            })
        };
        let expected = OperationCounts { insert: 28_572, update: 5, delete: 57_144, truncate: 1 };
        for width in [1, 5, 60, 90, 3600, 7200, 86_400] {
            assert_eq!(sum(width), expected, "{width}");
        }
        let drawn =
            rollup.draw(&Question { table: &|name| name.table == "b", every_table: false, ..question(0..10, 1) });
        assert_eq!(drawn.bars[3].update, 5);
        assert_eq!(drawn.bars.iter().map(OperationCounts::total).sum::<u64>(), 6);
        assert_eq!(drawn.tables.len(), 2, "what else there is can be chosen");
    }

    #[test]
    fn a_full_level_forgets_its_older_half_and_says_so() {
        let mut level = Level::new(1, 10);
        let new: Vec<Cell> = (0..12).map(|second| Cell { place: (second, 0, 0), counts: [1, 0, 0, 0] }).collect();
        level.add(&new);
        assert_eq!((level.since, level.within(0, 100).len()), (7, 5));
        let mut rollup = Rollup::default();
        rollup.levels[0].since = 1000;
        assert_eq!((rollup.finest(1000, 1), rollup.finest(999, 1), rollup.finest(999, 300)), (1, 60, 300));
    }

    #[test]
    fn applications_are_found_in_contexts() {
        let context = r#"[{"user": "u", "statement": "x", "claimed": {"application": "psql"}}]"#;
        assert_eq!(application_of(context).as_deref(), Some("psql"));
        assert_eq!(application_of(r#"[{"user": "u"}]"#), None);
        assert_eq!(application_of(r#"{"application" broken"#), None);
    }
}
