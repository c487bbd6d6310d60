//! What changes since a base image did to its rows, without the rows themselves.
//!
//! Only keys and places are held in memory; the rows are fetched where they lie, in [`super::table_at`].

use std::collections::{HashMap, HashSet};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt as _;

use crate::archive::{Archive, DataFile};
use crate::columnar::{RowReader, names, old_rows};
use crate::failure::{Failure, Result};
use crate::model::{Column, Identity, Lsn, Operation, RelationVersion, TableName};

/// A row's key: the texts of its key columns, so that equal bytes mean equal keys.
pub type Key = Box<[u8]>;

/// Keys of rows.
pub type KeySet = HashSet<Key>;

/// Where a version of a row lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    /// Index into the overlay's files.
    pub(super) file: u32,
    pub(super) row: u32,
}

/// Where the values that an update left out are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// In another version in the changes, by its index.
    Version(usize),
    /// In the image's row with this key.
    Image(Key),
}

/// One version of a row that the changes brought.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) place: Place,
    /// For an update that left out unchanged TOASTed values.
    pub(super) base: Option<Base>,
}

/// What stands under one key.
#[derive(Debug, Default)]
struct Slot {
    /// How many of the image's rows with this key are gone. Without a unique key there can be several.
    image_gone: u32,
    /// Versions that are there now.
    live: Vec<usize>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) files: Vec<DataFile>,
    pub(super) versions: Vec<Version>,
    slots: HashMap<Key, Slot>,
    /// A truncation has taken the whole image away.
    pub(super) image_dropped: bool,
    /// The keys asked for and those whose rows gave them values; `None` where the former suffice.
    extended: Option<KeySet>,
}

impl Overlay {
    /// Folds the changes of a table with `from <= _lsn < to`, in order.
    ///
    /// With `only`, rows under other keys are left out, except those that wanted rows descend from and took unchanged values of:
    /// an update that changes the key sends no TOASTed value that it left alone.
    pub(super) async fn read(
        archive: &Archive,
        name: &TableName,
        key: &[String],
        (from, to): (Lsn, Lsn),
        only: Option<&KeySet>,
    ) -> Result<Overlay> {
        let mut overlay = Overlay::default();
        let mut parts = read_entries(archive, name, key, (from, to), only).await?;
        while let Some(more) = overlay.wanted(only).and_then(|wanted| ancestors(&parts, wanted)) {
            let wanted = overlay.extended.get_or_insert_with(|| only.cloned().unwrap_or_default());
            wanted.extend(more);
            parts = read_entries(archive, name, key, (from, to), Some(wanted)).await?;
        }
        parts.sort_by_key(|part| part.first);
        for part in parts {
            let file = overlay.files.len() as u32;
            overlay.files.push(part.file);
            part.entries.into_iter().for_each(|entry| overlay.apply(file, entry));
        }
        Ok(overlay)
    }

    /// The keys whose rows are needed, of those asked for.
    pub(super) fn wanted<'k>(&'k self, only: Option<&'k KeySet>) -> Option<&'k KeySet> {
        self.extended.as_ref().or(only)
    }

    fn apply(&mut self, file: u32, entry: Entry) {
        let place = Place { file, row: entry.row };
        match entry.operation {
            Operation::Insert | Operation::Snapshot => {
                if let Some(key) = entry.new_key {
                    self.add(key, place, None);
                }
            }
            Operation::Update => {
                // A key that did not change is not sent twice.
                let base = entry.old_key.or_else(|| entry.new_key.clone()).map(|key| self.remove(key));
                if let Some(key) = entry.new_key {
                    self.add(key, place, base.filter(|_| entry.incomplete));
                }
            }
            Operation::Delete => {
                if let Some(key) = entry.old_key {
                    self.remove(key);
                }
            }
            Operation::Truncate => {
                self.image_dropped = true;
                self.slots.clear();
            }
        }
    }

    fn add(&mut self, key: Key, place: Place, base: Option<Base>) {
        let version = self.versions.len();
        self.versions.push(Version { place, base });
        self.slots.entry(key).or_default().live.push(version);
    }

    fn remove(&mut self, key: Key) -> Base {
        let slot = self.slots.entry(key.clone()).or_default();
        match slot.live.pop() {
            Some(version) => Base::Version(version),
            None => {
                slot.image_gone += 1;
                Base::Image(key)
            }
        }
    }

    /// Whether an image's row with this key is still there. Counts: of several equal rows only as many
    /// are taken as were changed.
    pub(super) fn takes_from_image(&mut self, key: &[u8]) -> bool {
        match self.slots.get_mut(key) {
            Some(slot) if slot.image_gone > 0 => {
                slot.image_gone -= 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn touches_image(&self) -> bool {
        self.image_dropped || self.slots.values().any(|slot| slot.image_gone > 0)
    }

    /// The versions that are there in the end.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> {
        self.slots.values().flat_map(|slot| slot.live.iter().copied())
    }
}

/// The keys that changes with `from <= _lsn < to` touched.
#[derive(Debug, Default)]
pub struct TouchedKeys {
    pub keys: KeySet,
    /// The table was truncated in between, which touches every key of before.
    pub truncated: bool,
}

/// Finds the keys that a range of history touched, before and after.
pub async fn touched_keys(
    archive: &Archive,
    name: &TableName,
    key: &[String],
    range: (Lsn, Lsn),
) -> Result<TouchedKeys> {
    let mut touched = TouchedKeys::default();
    for part in read_entries(archive, name, key, range, None).await? {
        for entry in part.entries {
            touched.truncated |= entry.operation == Operation::Truncate;
            touched.keys.extend(entry.old_key);
            touched.keys.extend(entry.new_key);
        }
    }
    Ok(touched)
}

/// The columns by which rows are told apart over all relation versions given: those that each of them
/// identifies rows by.
///
/// # Errors
/// Refused where versions have nothing in common.
pub(super) fn common_key<'a>(
    name: &TableName,
    versions: impl IntoIterator<Item = &'a RelationVersion>,
) -> Result<Vec<String>> {
    let mut common: Option<Vec<String>> = None;
    for version in versions {
        if version.identity == Identity::Nothing {
            continue;
        }
        let keys: Vec<&str> = version.key_positions().iter().map(|&at| version.columns[at].name.as_str()).collect();
        common = Some(match common {
            None => keys.iter().map(|key| (*key).to_owned()).collect(),
            Some(common) => common.into_iter().filter(|key| keys.contains(&key.as_str())).collect(),
        });
    }
    match common {
        Some(key) if key.is_empty() && has_columns(name) => {
            Err(Failure::refused(format!("{name} changed its replica identity to columns that it did not have before"))
                .remedy("choose a point after that change"))
        }
        common => Ok(common.unwrap_or_default()),
    }
}

fn has_columns(_: &TableName) -> bool {
    true
}

/// What one change did, without its values.
struct Entry {
    row: u32,
    operation: Operation,
    old_key: Option<Key>,
    new_key: Option<Key>,
    incomplete: bool,
}

/// The changes of one file, in order.
struct Part {
    file: DataFile,
    /// Commit LSN and order of the first change.
    first: (i64, i64),
    entries: Vec<Entry>,
}

/// Keys that are not wanted yet, but which wanted rows had before an incomplete update; `None` where there are none.
fn ancestors(parts: &[Part], wanted: &KeySet) -> Option<Vec<Key>> {
    let entries = parts.iter().flat_map(|part| &part.entries).filter(|entry| entry.incomplete);
    let descended = entries.filter(|entry| entry.new_key.as_ref().is_some_and(|key| wanted.contains(key)));
    let old_keys = descended.filter_map(|entry| entry.old_key.as_ref());
    let missing: Vec<Key> = old_keys.filter(|key| !wanted.contains(*key)).cloned().collect();
    (!missing.is_empty()).then_some(missing)
}

async fn read_entries(
    archive: &Archive,
    name: &TableName,
    key: &[String],
    (from, to): (Lsn, Lsn),
    only: Option<&KeySet>,
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for file in archive.change_files(name, from, to).await? {
        let relation = archive.read(&file, Some(&[])).await?.relation()?;
        let columns: Vec<Option<&Column>> = key.iter().map(|key| relation.column(key)).collect();
        let mut wanted = vec![names::LSN, names::SEQ, names::OP, names::OLD, names::MISSING, names::EXACT];
        wanted.extend(columns.iter().flatten().map(|column| column.stored.as_str()));
        let mut batches = archive.read(&file, Some(&wanted)).await?.stream()?;
        let mut part = Part { file: file.clone(), first: (i64::MAX, i64::MAX), entries: Vec::new() };
        let mut first_row = 0u32;
        while let Some(batch) = batches.try_next().await? {
            entries_of(&batch, &columns, first_row, (from, to), only, &mut part)?;
            first_row += batch.num_rows() as u32;
        }
        if !part.entries.is_empty() {
            parts.push(part);
        }
    }
    Ok(parts)
}

fn entries_of(
    batch: &RecordBatch,
    columns: &[Option<&Column>],
    first_row: u32,
    (from, to): (Lsn, Lsn),
    only: Option<&KeySet>,
    part: &mut Part,
) -> Result<()> {
    let broken = |column: &str| Failure::failed(format!("a file of changes lacks the column {column}"));
    let number = |column: &str| {
        batch.column_by_name(column).and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(|| broken(column))
    };
    let (lsns, seqs) = (number(names::LSN)?, number(names::SEQ)?);
    let operations = batch.column_by_name(names::OP).and_then(|c| c.as_string_opt::<i32>());
    let operations = operations.ok_or_else(|| broken(names::OP))?;
    let missing = batch.column_by_name(names::MISSING).ok_or_else(|| broken(names::MISSING))?;
    let new = RowReader::new(batch, columns)?;
    let old = RowReader::old(batch, columns)?;
    let old_rows = old_rows(batch);
    let mut buffer = Vec::new();
    for row in 0..batch.num_rows() {
        let lsn = lsns.value(row);
        if lsn < from.as_i64() || lsn >= to.as_i64() {
            continue;
        }
        let operation = Operation::parse(operations.value(row)).ok_or_else(|| {
            Failure::failed(format!("a change has the unknown operation {:?}", operations.value(row)))
        })?;
        let mut key = |reader: &RowReader<'_>| {
            reader.read_key(row, &mut buffer);
            Key::from(buffer.as_slice())
        };
        let old_key = old.as_ref().filter(|_| old_rows.is_some_and(|old| old.is_valid(row))).map(&mut key);
        let has_new = matches!(operation, Operation::Insert | Operation::Update | Operation::Snapshot);
        let new_key = has_new.then(|| key(&new));
        let concerns = |key: &Option<Key>| key.as_ref().is_some_and(|key| only.is_none_or(|only| only.contains(key)));
        if operation != Operation::Truncate && !concerns(&old_key) && !concerns(&new_key) {
            continue;
        }
        part.first = part.first.min((lsn, seqs.value(row)));
        let incomplete = missing.is_valid(row);
        part.entries.push(Entry { row: first_row + row as u32, operation, old_key, new_key, incomplete });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.as_bytes().into()
    }

    fn update(old: Option<&str>, new: &str, incomplete: bool) -> Entry {
        Entry { row: 0, operation: Operation::Update, old_key: old.map(key), new_key: Some(key(new)), incomplete }
    }

    fn parts(entries: Vec<Entry>) -> Vec<Part> {
        let file = DataFile { path: String::new(), size: 0, image_lsn: None };
        vec![Part { file, first: (0, 0), entries }]
    }

    #[test]
    fn a_row_whose_key_changed_wants_the_row_that_holds_its_unchanged_values() {
        let wanted: KeySet = [key("b"), key("d")].into();
        let changes = parts(vec![update(Some("a"), "b", true), update(Some("c"), "d", false), update(None, "d", true)]);
        assert_eq!(ancestors(&changes, &wanted), Some(vec![key("a")]));
        let enough: KeySet = [key("a"), key("b")].into();
        assert_eq!(ancestors(&changes, &enough), None);
    }
}
