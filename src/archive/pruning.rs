//! Which rows of a data file can be of some keys, by the file's statistics.
//!
//! A value that its column's type cannot hold is NULL there, so statistics say nothing of it: only columns are compared
//! in which every sought key has a typed value. A change has its row's key in the columns, in `_old`, or in both.

use std::ops::Range;
use std::sync::Arc;

use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

use super::delta::DataFile;
use crate::columnar::{Bound, names};

/// What the values of one column can be.
#[derive(Debug, Clone)]
pub struct KeyBounds {
    stored: String,
    values: Values,
}

/// Some of the values that a column's type has.
#[derive(Debug, Clone)]
pub enum Values {
    /// These, ascending.
    Among(Arc<[Bound]>),
    /// All from one to another, both included; to or from all, where one is left out.
    Between(Option<Bound>, Option<Bound>),
}

impl Values {
    /// These, in any order.
    pub fn among(mut values: Vec<Bound>) -> Values {
        values.sort_unstable();
        values.dedup();
        Values::Among(values.into())
    }
}

/// Rows by their number in the file, from and to.
pub(super) type Rows = Range<u64>;

impl KeyBounds {
    /// The values that a column, under its stored name, may have.
    pub fn new(stored: &str, values: Values) -> KeyBounds {
        KeyBounds { stored: stored.to_owned(), values }
    }

    /// Whether a file of rows, not of changes, can have one of the values, by what the Delta log says of it.
    pub fn may_be_in(&self, file: &DataFile) -> bool {
        let known = file.numbers.iter().find(|(column, ..)| *column == self.stored);
        let (least, greatest) = known.map(|(_, least, greatest)| (*least, *greatest)).unzip();
        self.may_lie_within(least.map(Bound::Number), greatest.map(Bound::Number))
    }

    fn may_lie_within(&self, least: Option<Bound>, greatest: Option<Bound>) -> bool {
        let sought = match &self.values {
            Values::Among(values) => values.first(),
            Values::Between(first, last) => first.as_ref().or(last.as_ref()),
        };
        // A column that was not typed yet when the file was written has bounds of another kind.
        let comparable =
            |bound: &Bound| sought.is_some_and(|value| std::mem::discriminant(value) == std::mem::discriminant(bound));
        let (least, greatest) = (least.filter(comparable), greatest.filter(comparable));
        match &self.values {
            Values::Among(values) => {
                let first = least.map_or(0, |least| values.partition_point(|value| *value < least));
                values.get(first).is_some_and(|value| greatest.is_none_or(|greatest| *value <= greatest))
            }
            Values::Between(first, last) => {
                let below = first.as_ref().zip(greatest).is_some_and(|(first, greatest)| greatest < *first);
                let above = last.as_ref().zip(least).is_some_and(|(last, least)| least > *last);
                !below && !above
            }
        }
    }

    /// The rows in which the column at this path can have one of the values; all where nothing is known.
    fn rows(&self, metadata: &ParquetMetaData, parents: &[&str]) -> Vec<Rows> {
        let Some(leaf) = self.leaf(metadata, parents) else { return Vec::new() };
        let (mut found, mut first) = (Vec::new(), 0);
        for group in 0..metadata.num_row_groups() {
            let rows = first..first + metadata.row_group(group).num_rows().max(0) as u64;
            first = rows.end;
            if self.in_group(metadata.row_group(group).column(leaf).statistics(), rows.end - rows.start) {
                found.extend(self.pages(metadata, group, leaf, rows));
            }
        }
        found
    }

    /// Which of the file's columns it is.
    fn leaf(&self, metadata: &ParquetMetaData, parents: &[&str]) -> Option<usize> {
        let path: Vec<&str> = parents.iter().copied().chain([self.stored.as_str()]).collect();
        let columns = metadata.file_metadata().schema_descr().columns();
        columns.iter().position(|column| column.path().parts() == path)
    }

    fn in_group(&self, statistics: Option<&Statistics>, rows: u64) -> bool {
        let Some(statistics) = statistics else { return true };
        match bounds_of(statistics) {
            (None, None) => statistics.null_count_opt() != Some(rows),
            (least, greatest) => self.may_lie_within(least, greatest),
        }
    }

    fn pages(&self, metadata: &ParquetMetaData, group: usize, leaf: usize, rows: Rows) -> Vec<Rows> {
        let index = metadata.column_index().and_then(|index| index.get(group)?.get(leaf));
        let offsets = metadata.offset_index().and_then(|index| index.get(group)?.get(leaf));
        let (Some(index), Some(offsets)) = (index, offsets) else { return vec![rows] };
        let starts: Vec<u64> = offsets.page_locations().iter().map(|page| page.first_row_index.max(0) as u64).collect();
        if matches!(index, ColumnIndexMetaData::NONE) || index.num_pages() != starts.len() as u64 {
            return vec![rows];
        }
        let end = |page: usize| starts.get(page + 1).map_or(rows.end, |next| rows.start + next);
        let pages = (0..starts.len()).filter(|page| !index.is_null_page(*page) && self.in_page(index, *page));
        pages.map(|page| rows.start + starts[page]..end(page)).collect()
    }

    fn in_page(&self, index: &ColumnIndexMetaData, page: usize) -> bool {
        let (least, greatest) = match index {
            ColumnIndexMetaData::INT32(index) => (
                index.min_value(page).map(|least| Bound::Number(i64::from(*least))),
                index.max_value(page).map(|greatest| Bound::Number(i64::from(*greatest))),
            ),
            ColumnIndexMetaData::INT64(index) => (
                index.min_value(page).map(|least| Bound::Number(*least)),
                index.max_value(page).map(|greatest| Bound::Number(*greatest)),
            ),
            ColumnIndexMetaData::BYTE_ARRAY(index) => (
                index.min_value(page).map(|least| Bound::Bytes(least.into())),
                index.max_value(page).map(|greatest| Bound::Bytes(greatest.into())),
            ),
            _ => (None, None),
        };
        self.may_lie_within(least, greatest)
    }
}

/// The least and the greatest value, where they are known and [`Bound`]s.
fn bounds_of(statistics: &Statistics) -> (Option<Bound>, Option<Bound>) {
    match statistics {
        Statistics::Int32(known) => (
            known.min_opt().map(|least| Bound::Number(i64::from(*least))),
            known.max_opt().map(|greatest| Bound::Number(i64::from(*greatest))),
        ),
        Statistics::Int64(known) => {
            (known.min_opt().map(|least| Bound::Number(*least)), known.max_opt().map(|max| Bound::Number(*max)))
        }
        Statistics::ByteArray(known) => (
            known.min_opt().map(|least| Bound::Bytes(least.data().into())),
            known.max_opt().map(|greatest| Bound::Bytes(greatest.data().into())),
        ),
        _ => (None, None),
    }
}

/// The rows that can be of the keys, before or after a change; all where `bounds` is empty.
pub(super) fn rows_of_keys(metadata: &ParquetMetaData, bounds: &[KeyBounds]) -> Vec<Rows> {
    let all = || Vec::from_iter(std::iter::once(0..metadata.file_metadata().num_rows().max(0) as u64));
    let among = |parents: &[&str]| {
        bounds.iter().fold(all(), |rows, column| intersection(&rows, &column.rows(metadata, parents)))
    };
    if bounds.is_empty() { all() } else { union(among(&[]), among(&[names::OLD])) }
}

/// The rows whose own columns can have all of these values. A column that the file does not have says nothing.
pub(super) fn rows_of_values(metadata: &ParquetMetaData, bounds: &[KeyBounds]) -> Vec<Rows> {
    let all = Vec::from_iter(std::iter::once(0..metadata.file_metadata().num_rows().max(0) as u64));
    let known = bounds.iter().filter(|column| column.leaf(metadata, &[]).is_some());
    known.fold(all, |rows, column| intersection(&rows, &union(column.rows(metadata, &[]), [])))
}

/// The row groups whose own columns can have all of these values. A column that the file does not have says nothing.
pub fn groups_with_values(metadata: &ParquetMetaData, bounds: &[KeyBounds]) -> Vec<usize> {
    let known: Vec<_> = bounds.iter().filter_map(|column| Some((column, column.leaf(metadata, &[])?))).collect();
    let may = |group: &RowGroupMetaData| {
        let rows = group.num_rows().max(0) as u64;
        known.iter().all(|(column, leaf)| column.in_group(group.column(*leaf).statistics(), rows))
    };
    (0..metadata.num_row_groups()).filter(|group| may(metadata.row_group(*group))).collect()
}

pub(super) fn intersection(one: &[Rows], other: &[Rows]) -> Vec<Rows> {
    let (mut found, mut at, mut beside) = (Vec::new(), 0, 0);
    while let (Some(a), Some(b)) = (one.get(at), other.get(beside)) {
        let both = a.start.max(b.start)..a.end.min(b.end);
        if !both.is_empty() {
            found.push(both);
        }
        if a.end < b.end { at += 1 } else { beside += 1 }
    }
    found
}

/// In order, those that touch joined.
pub(super) fn union(mut rows: Vec<Rows>, more: impl IntoIterator<Item = Rows>) -> Vec<Rows> {
    rows.extend(more);
    rows.retain(|rows| !rows.is_empty());
    rows.sort_unstable_by_key(|rows| rows.start);
    let mut joined: Vec<Rows> = Vec::with_capacity(rows.len());
    for next in rows {
        match joined.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            _ => joined.push(next),
        }
    }
    joined
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_rows_are_joined_and_cut() {
        assert_eq!(union(vec![5..7, 0..2], vec![2..3, 6..9, 4..4]), [0..3, 5..9]);
        assert_eq!(intersection(&[0..10, 20..30], &[5..22, 29..40]), [5..10, 20..22, 29..30]);
    }

    #[test]
    fn values_are_looked_for_between_bounds() {
        let number = |number| Some(Bound::Number(number));
        let bounds = KeyBounds::new("id", Values::among(vec![Bound::Number(9), Bound::Number(3)]));
        assert!(bounds.may_lie_within(number(0), number(3)));
        assert!(!bounds.may_lie_within(number(4), number(8)));
        assert!(bounds.may_lie_within(number(4), None));
        assert!(!bounds.may_lie_within(number(10), None));
        assert!(bounds.may_lie_within(None, number(3)));
        assert!(!bounds.may_lie_within(None, number(2)));
        assert!(bounds.may_lie_within(Some(Bound::Bytes(Box::from(*b"5"))), Some(Bound::Bytes(Box::from(*b"6")))));
        let bounds = KeyBounds::new("id", Values::Between(number(3), number(9)));
        for (least, greatest, may) in [(0, 2, false), (0, 3, true), (5, 5, true), (9, 20, true), (10, 20, false)] {
            assert_eq!(bounds.may_lie_within(number(least), number(greatest)), may, "{least} {greatest}");
        }
        assert!(KeyBounds::new("id", Values::Between(None, number(9))).may_lie_within(number(2), number(20)));
        assert!(!KeyBounds::new("id", Values::Between(None, number(9))).may_lie_within(number(10), None));
    }
}
