//! Rows of a file by their numbers, a bit each: a set of them is small however many there are.

use std::ops::Range;

const BITS: usize = u64::BITS as usize;

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct RowSet(Vec<u64>);

impl RowSet {
    pub(super) fn insert(&mut self, row: u32) {
        let (word, bit) = (row as usize / BITS, row as usize % BITS);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }

    fn contains(&self, row: u64) -> bool {
        let word = self.0.get(row as usize / BITS).copied().unwrap_or(0);
        word >> (row as usize % BITS) & 1 == 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows that are in it, or those that are not, of those in `within`.
    pub(super) fn ranges(&self, contained: bool, within: Range<u64>) -> Vec<Range<u64>> {
        let (mut ranges, mut at) = (Vec::<Range<u64>>::new(), within.start);
        while at < within.end {
            let start = self.next(at, contained, within.end);
            let end = self.next(start, !contained, within.end);
            if start < end {
                ranges.push(start..end);
            }
            at = end;
        }
        ranges
    }

    /// The first row from `from` on that is in it, or not; `end` where there is none before.
    fn next(&self, from: u64, contained: bool, end: u64) -> u64 {
        let mut at = from;
        while at < end {
            let whole = if contained { 0 } else { u64::MAX };
            let word = self.0.get(at as usize / BITS).copied().unwrap_or(0);
            if (at as usize).is_multiple_of(BITS) && word == whole {
                at += BITS as u64;
                continue;
            }
            if self.contains(at) == contained {
                return at;
            }
            at += 1;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_ranges() {
        let mut rows = RowSet::default();
        assert!(rows.is_empty());
        for row in [0, 1, 5, 63, 64, 65, 300] {
            rows.insert(row);
        }
        assert_eq!(rows.ranges(true, 0..1000), [0..2, 5..6, 63..66, 300..301]);
        assert_eq!(rows.ranges(true, 1..65), [1..2, 5..6, 63..65]);
        assert_eq!(rows.ranges(false, 0..400), [2..5, 6..63, 66..300, 301..400]);
        assert_eq!(rows.ranges(false, 100..299), Vec::from_iter(std::iter::once(100..299)));
        assert_eq!(RowSet::default().ranges(true, 0..200), []);
    }
}
