//! What changes since a base image did to its rows, without the rows themselves.
//!
//! Only keys and places are held in memory; the rows are fetched where they lie, in [`super::table_at`].

use std::collections::{HashMap, HashSet};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt as _;

use crate::archive::{Archive, DataFile};
use crate::columnar::{RowReader, Wanted, names, old_rows};
use crate::failure::{Failure, Result};
use crate::model::{Column, Lsn, Operation, Position, RelationEvent, RelationRecord, RelationVersion, TableName};

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
pub(super) enum Source {
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
    pub(super) base: Option<Source>,
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
}

impl Overlay {
    /// Folds the changes of a range of history, in order.
    ///
    /// With `only`, rows under other keys are left out.
    pub(super) async fn read(range: &Range<'_>, only: Option<&KeySet>) -> Result<Overlay> {
        let mut overlay = Overlay::default();
        let select = only.map_or(Select::All, Select::Keys);
        let mut parts = range.entries(&select).await?;
        parts.sort_by_key(|part| part.first);
        for part in parts {
            let file = overlay.files.len() as u32;
            overlay.files.push(part.file);
            part.entries.into_iter().for_each(|entry| overlay.apply(file, entry));
        }
        Ok(overlay)
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

    fn add(&mut self, key: Key, place: Place, base: Option<Source>) {
        let version = self.versions.len();
        self.versions.push(Version { place, base });
        self.slots.entry(key).or_default().live.push(version);
    }

    fn remove(&mut self, key: Key) -> Source {
        let slot = self.slots.entry(key.clone()).or_default();
        match slot.live.pop() {
            Some(version) => Source::Version(version),
            None => {
                slot.image_gone += 1;
                Source::Image(key)
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

/// The keys that changes in a range of history touched.
#[derive(Debug, Default)]
pub struct TouchedKeys {
    pub keys: KeySet,
    /// The table was truncated or written anew in between, which touches every key of before.
    pub truncated: bool,
}

/// Finds the keys that changes with `from <= _lsn < to` touched, before and after; `key` are columns of the relation
/// version that held at the beginning.
pub async fn touched_keys(
    archive: &Archive,
    relation: &RelationVersion,
    key: &[Column],
    (from, to): (Lsn, Lsn),
) -> Result<TouchedKeys> {
    let records = records_of(archive, relation.oid, Position::before(to)).await?;
    let names = names_of(&records);
    let (from, to) = (Position::before(from), Position::before(to));
    let range = Range { archive, names: &names, oid: relation.oid, key, from, to };
    let mut touched = TouchedKeys::default();
    let within = records.iter().filter(|record| record.position >= from);
    touched.truncated = within.into_iter().any(|record| record.event != RelationEvent::Described);
    for part in range.entries(&Select::All).await? {
        for entry in part.entries {
            touched.truncated |= entry.operation == Operation::Truncate;
            touched.keys.extend(entry.old_key);
            touched.keys.extend(entry.new_key);
        }
    }
    Ok(touched)
}

/// The versions of one relation before a position, oldest first.
pub(super) async fn records_of(archive: &Archive, oid: u32, before: Position) -> Result<Vec<RelationRecord>> {
    let start = archive.identity().start_lsn;
    let records = archive.relations().await?;
    let of_it = records.iter().filter(|record| record.relation.oid == oid);
    Ok(of_it.filter(|record| is_before(record, before, start)).cloned().collect())
}

/// The latest version of every relation before a position, by oid.
pub(super) async fn latest_records(archive: &Archive, before: Position) -> Result<HashMap<u32, RelationRecord>> {
    let start = archive.identity().start_lsn;
    let records = archive.relations().await?;
    let known = records.iter().filter(|record| is_before(record, before, start));
    let latest: HashMap<u32, &RelationRecord> = known.map(|record| (record.relation.oid, record)).collect();
    Ok(latest.into_iter().map(|(oid, record)| (oid, record.clone())).collect())
}

/// The archive's first versions hold from its beginning on.
fn is_before(record: &RelationRecord, position: Position, start: Lsn) -> bool {
    record.position < position || record.position.lsn <= start
}

/// The names that a relation had.
pub(super) fn names_of(records: &[RelationRecord]) -> Vec<TableName> {
    let mut names: Vec<TableName> = Vec::new();
    for record in records {
        if !names.contains(&record.relation.name) {
            names.push(record.relation.name.clone());
        }
    }
    names
}

/// Where a column of one version is in the rows of another. Rows from before it was added show one constant.
pub(super) fn wanted_in<'a>(column: &'a Column, version: &'a RelationVersion) -> Wanted<'a> {
    match version.same_column(column) {
        Some(stored) => Wanted::Stored(stored),
        None => Wanted::Constant(column.missing.as_deref()),
    }
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
    first: Position,
    entries: Vec<Entry>,
}

/// Some of a table's changes: those from one position up to another.
#[derive(Debug)]
pub(super) struct Range<'a> {
    pub(super) archive: &'a Archive,
    /// Every name that the table had.
    pub(super) names: &'a [TableName],
    /// Another table may have had one of the names before or since.
    pub(super) oid: u32,
    pub(super) key: &'a [Column],
    pub(super) from: Position,
    pub(super) to: Position,
}

/// Which changes are of interest.
enum Select<'a> {
    All,
    /// Those of rows under these keys, before or after.
    Keys(&'a KeySet),
    /// Updates that moved a row from one key to another.
    KeyChanges,
}

impl Select<'_> {
    fn takes(&self, entry: &Entry) -> bool {
        let among = |keys: &KeySet, key: &Option<Key>| key.as_ref().is_some_and(|key| keys.contains(key));
        match self {
            Select::All => true,
            Select::Keys(keys) => {
                entry.operation == Operation::Truncate || among(keys, &entry.old_key) || among(keys, &entry.new_key)
            }
            Select::KeyChanges => entry.old_key.is_some() && entry.new_key.is_some() && entry.old_key != entry.new_key,
        }
    }
}

impl Range<'_> {
    /// The keys, and those under which the same rows stood before: what an update left out may lie there.
    pub(super) async fn with_former_keys(&self, keys: &KeySet) -> Result<KeySet> {
        let mut parts = self.entries(&Select::KeyChanges).await?;
        parts.sort_by_key(|part| part.first);
        let mut all = keys.clone();
        // Backwards in history: a former key may itself have had one.
        for entry in parts.into_iter().flat_map(|part| part.entries).rev() {
            if let (Some(old), Some(new)) = (entry.old_key, entry.new_key)
                && all.contains(&new)
            {
                all.insert(old);
            }
        }
        Ok(all)
    }

    async fn entries(&self, select: &Select<'_>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for name in self.names {
            for file in self.archive.change_files(name, self.from.lsn, Lsn(self.to.lsn.0.saturating_add(1))).await? {
                parts.extend(self.entries_of_file(file, select).await?);
            }
        }
        Ok(parts)
    }

    async fn entries_of_file(&self, file: DataFile, select: &Select<'_>) -> Result<Option<Part>> {
        let relation = self.archive.read(&file, Some(&[])).await?.relation()?;
        if relation.oid != self.oid {
            return Ok(None);
        }
        let columns: Vec<Wanted<'_>> = self.key.iter().map(|key| wanted_in(key, &relation)).collect();
        let mut wanted = vec![names::LSN, names::SEQ, names::OP, names::OLD, names::MISSING, names::EXACT];
        wanted.extend(columns.iter().filter_map(stored_name));
        let mut batches = self.archive.read(&file, Some(&wanted)).await?.stream()?;
        let mut part = Part { file, first: Position { lsn: Lsn(u64::MAX), seq: i64::MAX }, entries: Vec::new() };
        let mut first_row = 0u32;
        while let Some(batch) = batches.try_next().await? {
            entries_of(&batch, &columns, first_row, self.from..self.to, select, &mut part)?;
            first_row += batch.num_rows() as u32;
        }
        Ok((!part.entries.is_empty()).then_some(part))
    }
}

/// The stored name of a column that is not a constant.
pub(super) fn stored_name<'a>(wanted: &Wanted<'a>) -> Option<&'a str> {
    match wanted {
        Wanted::Stored(column) => Some(&column.stored),
        Wanted::Constant(_) => None,
    }
}

fn entries_of(
    batch: &RecordBatch,
    columns: &[Wanted<'_>],
    first_row: u32,
    range: std::ops::Range<Position>,
    select: &Select<'_>,
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
        let position = Position { lsn: Lsn::from_i64(lsns.value(row)), seq: seqs.value(row) };
        if !range.contains(&position) {
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
        let incomplete = missing.is_valid(row);
        let entry = Entry { row: first_row + row as u32, operation, old_key, new_key, incomplete };
        if select.takes(&entry) {
            part.first = part.first.min(position);
            part.entries.push(entry);
        }
    }
    Ok(())
}
