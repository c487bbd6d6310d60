//! Sets of rows told apart by sums of hashes, in whatever order the rows come and however many they are.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::model::RelationVersion;

/// A hash of 128 bits; it need not withstand anybody who makes rows to fool it, only chance.
pub(super) fn hash(value: &impl Hash) -> u128 {
    let half = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// What rows of a table are told apart by.
pub struct RowKey {
    /// Positions of its columns; of all where no columns are unique.
    columns: Vec<usize>,
    /// At most one row stands under a key.
    pub unique: bool,
}

impl RowKey {
    pub fn of(relation: &RelationVersion) -> RowKey {
        let unique = relation.has_unique_key();
        let columns = if unique { relation.key_positions() } else { (0..relation.columns.len()).collect() };
        RowKey { columns, unique }
    }

    /// The key of a row, and the hash of all of it.
    pub(super) fn of_row<'r>(&self, fields: impl Iterator<Item = Option<&'r [u8]>>) -> (Vec<Option<&'r [u8]>>, u128) {
        let fields: Vec<Option<&[u8]>> = fields.collect();
        (self.columns.iter().map(|at| fields[*at]).collect(), hash(&fields))
    }

    /// The hashes of a row's key, and of all of it.
    pub fn hashes<'r>(&self, fields: impl Iterator<Item = Option<&'r [u8]>>) -> (u128, u128) {
        let (key, row) = self.of_row(fields);
        (hash(&key), row)
    }
}

/// Rows by a part of the hash of their keys: where two of these differ, only the rows of the buckets that differ need be
/// held against each other.
pub(super) struct Buckets {
    sums: Vec<u128>,
    pub(super) rows: u64,
}

/// 1 MiB for each side.
const BUCKETS: usize = 1 << 16;

impl Buckets {
    pub(super) fn new() -> Buckets {
        Buckets { sums: vec![0; BUCKETS], rows: 0 }
    }

    pub(super) fn of(key: u128) -> usize {
        (key % BUCKETS as u128) as usize
    }

    pub(super) fn add(&mut self, key: u128, row: u128) {
        let sum = &mut self.sums[Buckets::of(key)];
        *sum = sum.wrapping_add(row);
        self.rows += 1;
    }

    pub(super) fn add_row<'r>(&mut self, key: &RowKey, fields: impl Iterator<Item = Option<&'r [u8]>>) {
        let (key, row) = key.hashes(fields);
        self.add(key, row);
    }

    /// Whether both hold the same in a bucket.
    pub(super) fn agree(&self, other: &Buckets, bucket: usize) -> bool {
        self.sums[bucket] == other.sums[bucket]
    }

    pub(super) fn equal(&self, other: &Buckets) -> bool {
        self.rows == other.rows && self.sums == other.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_every_row_does() {
        let of = |rows: &[&str]| {
            let mut buckets = Buckets::new();
            rows.iter().for_each(|row| buckets.add(hash(row), hash(&(row, 1))));
            buckets
        };
        assert!(of(&["a", "b", "c"]).equal(&of(&["c", "a", "b"])));
        for other in [&["a", "b"][..], &["a", "b", "d"], &["a", "b", "c", "c"], &["a", "a", "c"]] {
            assert!(!of(&["a", "b", "c"]).equal(&of(other)), "{other:?}");
        }
    }
}
