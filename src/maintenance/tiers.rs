//! Which files of a table are merged.
//!
//! Files of about the same size are merged when there are enough of them, so that a row is written anew once for each
//! size that its file grows through: as many times as the logarithm of the table's size. Only neighbours in the order of
//! history are, so that a file spans as little of history as can be.

use std::ops::Range;

/// The size, in bytes, below which files count as equally small.
const SMALLEST: u64 = 64 << 10;

/// How files are merged.
#[derive(Debug, Clone, Copy)]
pub struct Tiers {
    /// How large files become, encoded, in bytes; one of half that is left alone.
    pub target_bytes: u64,
    /// How many files of about the same size are merged.
    pub fan_in: usize,
}

impl Tiers {
    /// Whether a file is small enough to be merged.
    pub fn is_small(&self, bytes: u64) -> bool {
        bytes < self.target_bytes / 2
    }

    /// The files to merge next, of those with these sizes in the order of history; `None` where it does not pay.
    pub fn next(&self, sizes: &[u64]) -> Option<Range<usize>> {
        let largest = self.tier(self.target_bytes / 2);
        let merged = (0..=largest).find_map(|tier| self.neighbours(sizes, tier))?;
        Some(self.as_many_as_sort_well(sizes, merged))
    }

    /// How often the smallest size must grow by the factor to be larger.
    fn tier(&self, bytes: u64) -> u32 {
        (0..).find(|tier| bytes < self.end_of(*tier)).unwrap_or(u32::MAX)
    }

    fn end_of(&self, tier: u32) -> u64 {
        SMALLEST.saturating_mul((self.fan_in.max(2) as u64).saturating_pow(tier))
    }

    /// Neighbours no larger than a tier that together outgrow it; of the smallest as many as are merged.
    fn neighbours(&self, sizes: &[u64], tier: u32) -> Option<Range<usize>> {
        let pays = |files: &Range<usize>| match tier {
            0 => files.len() >= self.fan_in.max(2),
            _ => files.len() >= 2 && sizes[files.clone()].iter().sum::<u64>() >= self.end_of(tier),
        };
        let mut start = 0;
        for end in 0..=sizes.len() {
            if sizes.get(end).is_some_and(|size| self.tier(*size) <= tier) {
                continue;
            }
            if pays(&(start..end)) {
                return Some(start..end);
            }
            start = end + 1;
        }
        None
    }

    /// Sorting spills to disk; this bounds how much.
    fn as_many_as_sort_well(&self, sizes: &[u64], files: Range<usize>) -> Range<usize> {
        let (mut bytes, start) = (0, files.start);
        let end = files.clone().find(|at| {
            bytes += sizes[*at];
            bytes > self.target_bytes * 4
        });
        start..end.unwrap_or(files.end).max(start + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIERS: Tiers = Tiers { target_bytes: 128 << 20, fan_in: 8 };

    #[test]
    fn few_files_are_left_alone() {
        assert_eq!(TIERS.next(&[1000; 7]), None);
        assert_eq!(TIERS.next(&[1000; 8]), Some(0..8));
        assert_eq!(TIERS.next(&[1000; 300]), Some(0..300));
        assert_eq!(TIERS.next(&[]), None);
    }

    #[test]
    fn a_large_file_among_small_ones_is_not_written_again_for_them() {
        let mut sizes = vec![30 << 20];
        sizes.extend([1000; 9]);
        assert_eq!(TIERS.next(&sizes), Some(1..10));
        assert_eq!(TIERS.next(&sizes[..8]), None);
    }

    /// Puts one file in the place of those that are merged next; its size comes back.
    fn merge_once(files: &mut Vec<u64>) -> Option<u64> {
        let small: Vec<usize> = (0..files.len()).filter(|at| TIERS.is_small(files[*at])).collect();
        let sizes: Vec<u64> = small.iter().map(|at| files[*at]).collect();
        let range = TIERS.next(&sizes)?;
        let merged = sizes[range.clone()].iter().sum();
        let (first, gone) = (small[range.start], &small[range]);
        let mut at = 0..;
        files.retain(|_| at.next().is_some_and(|at| !gone.contains(&at)));
        files.insert(first, merged);
        Some(merged)
    }

    #[test]
    fn a_byte_is_written_a_logarithm_of_times() {
        let (mut files, mut written, mut arrived) = (Vec::<u64>::new(), 0, 0);
        for size in std::iter::repeat_n(20_000, 20_000) {
            files.push(size);
            arrived += size;
            while let Some(merged) = merge_once(&mut files) {
                written += merged;
            }
        }
        assert!(written < arrived * 8, "{written} of {arrived}");
        assert!(files.len() < 40, "{}", files.len());
    }
}
