//! How base images are shared out: tables in ranges of pages, so that one huge table keeps every connection busy.
//!
//! A range is `ctid >= '(from,0)' AND ctid < '(until,0)'`, which version 14 and later find without reading the rest (TID
//! range scans). The last one has no end: whatever the estimates say, every row of the snapshot is in one range.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Bytes of a table, its TOASTed values included, that one range should have: so little that connections end nearly
/// together, so much that beginning a range costs nothing beside it.
const RANGE_BYTES: u64 = 8 << 20;

/// What is known of a table's size before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableSize {
    /// On disk, TOASTed values included.
    pub(super) bytes: u64,
    /// Pages that can be asked for by range; 0 where the table's access method has none.
    pub(super) pages: u64,
}

/// A part of one table, or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// Which of the tables.
    pub(super) table: usize,
    /// The first page.
    pub(super) from: u64,
    /// The page after the last; `None` for whatever comes.
    pub(super) until: Option<u64>,
    /// About how many bytes of the table it has.
    pub(super) bytes: u64,
}

impl Range {
    /// Whether it begins its table, which every table has exactly one of.
    pub(super) fn is_first(&self) -> bool {
        self.from == 0
    }

    /// What its rows meet; nothing where they are all of the table's.
    pub(super) fn condition(&self) -> String {
        let until = self.until.map(|page| format!("ctid < '({page},0)'"));
        let from = (self.from > 0).then(|| format!("ctid >= '({},0)'", self.from));
        let both: Vec<String> = from.into_iter().chain(until).collect();
        if both.is_empty() { String::new() } else { format!(" WHERE {}", both.join(" AND ")) }
    }
}

/// The ranges of all tables, of the largest table first, to be taken by several connections.
#[derive(Debug)]
pub(super) struct Ranges {
    waiting: Mutex<VecDeque<Range>>,
    split: Vec<usize>,
}

impl Ranges {
    /// Shares out tables over so many connections. One connection alone reads each in one go, which leaves the server's
    /// cache to others: a sequential scan of a large table uses a small ring of buffers, a range scan does not.
    pub(super) fn new(sizes: &[TableSize], connections: usize) -> Ranges {
        let mut tables: Vec<usize> = (0..sizes.len()).collect();
        tables.sort_by_key(|table| std::cmp::Reverse(sizes[*table].bytes));
        let (mut waiting, mut split) = (VecDeque::new(), Vec::new());
        for table in tables {
            let ranges = ranges_of(table, sizes[table], connections);
            if ranges.len() > 1 {
                split.push(table);
            }
            waiting.extend(ranges);
        }
        Ranges { waiting: Mutex::new(waiting), split }
    }

    pub(super) fn next(&self) -> Option<Range> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The tables that have several ranges.
    pub(super) fn split(&self) -> &[usize] {
        &self.split
    }
}

fn ranges_of(table: usize, size: TableSize, connections: usize) -> Vec<Range> {
    let count = match connections {
        0 | 1 => 1,
        _ => (size.bytes / RANGE_BYTES).clamp(1, size.pages.max(1)),
    };
    let step = size.pages.div_ceil(count).max(1);
    // Rounding up may leave nothing for the last ones.
    let count = size.pages.div_ceil(step).clamp(1, count);
    let range = |index: u64| Range {
        table,
        from: index * step,
        until: (index + 1 < count).then(|| (index + 1) * step),
        bytes: size.bytes / count,
    };
    (0..count).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: u64, pages: u64) -> TableSize {
        TableSize { bytes, pages }
    }

    #[test]
    fn every_page_is_in_one_range_and_the_last_has_no_end() {
        for pages in [0, 1, 2, 7, 1023, 1024, 1025, 24_379] {
            for bytes in [0, pages * 8192, pages * 8192 * 30, 1 << 40] {
                let ranges = ranges_of(0, size(bytes, pages), 4);
                assert!(ranges[0].is_first());
                assert_eq!(ranges.iter().filter(|range| range.is_first()).count(), 1, "{pages} pages");
                assert_eq!(ranges.last().unwrap().until, None);
                for pair in ranges.windows(2) {
                    assert_eq!(pair[0].until, Some(pair[1].from), "{pages} pages");
                    assert!(pair[0].from < pair[1].from && pair[1].from < pages, "{pages} pages");
                }
            }
        }
    }

    #[test]
    fn the_largest_table_comes_first_and_small_ones_are_whole() {
        let ranges = Ranges::new(&[size(8192, 1), size(RANGE_BYTES * 3, 3072), size(0, 0)], 2);
        assert_eq!((ranges.len(), ranges.split()), (5, &[1][..]));
        let taken: Vec<(usize, String)> =
            std::iter::from_fn(|| ranges.next()).map(|range| (range.table, range.condition())).collect();
        assert_eq!(taken[0], (1, " WHERE ctid < '(1024,0)'".into()));
        assert_eq!(taken[1], (1, " WHERE ctid >= '(1024,0)' AND ctid < '(2048,0)'".into()));
        assert_eq!(taken[2], (1, " WHERE ctid >= '(2048,0)'".into()));
        assert_eq!(taken[3..], [(0, String::new()), (2, String::new())]);
    }

    #[test]
    fn one_connection_and_tables_without_pages_are_not_split() {
        assert_eq!(Ranges::new(&[size(1 << 40, 1 << 27)], 1).len(), 1);
        assert_eq!(Ranges::new(&[size(1 << 40, 0)], 8).len(), 1);
    }
}
