//! What changes since a base image did to its rows, without the rows themselves.
//!
//! Only keys and places are held in memory; the rows are fetched where they lie, in [`super::table_at`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::archive::{Archive, DataFile, DataReader, KeyBounds};
use crate::columnar::{RowReader, Storage, Wanted, names, old_rows};
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
    /// With `only`, rows under other keys are left out, except where what an update left out may lie there: the keys that
    /// it has come back.
    pub(super) async fn read(range: &Range<'_>, only: Option<&KeySet>) -> Result<(Overlay, Option<Arc<KeySet>>)> {
        let (found, keys) = match only {
            None => (range.entries(Select::All).await?, None),
            Some(only) => range.entries_with_former_keys(only).await.map(|(found, keys)| (found, Some(keys)))?,
        };
        let mut overlay = Overlay { files: found.files, ..Overlay::default() };
        found.entries.into_iter().for_each(|entry| overlay.apply(entry));
        Ok((overlay, keys))
    }

    fn apply(&mut self, entry: Entry) {
        let place = entry.place;
        match entry.operation {
            Operation::Insert | Operation::Snapshot => {
                if let Some(key) = entry.new_key {
                    self.add(key, place, None);
                }
            }
            Operation::Update => {
                // A key that did not change is not sent twice.
                let base =
                    entry.old_key.or_else(|| entry.new_key.clone()).and_then(|key| self.remove(key, entry.incomplete));
                if let Some(key) = entry.new_key {
                    self.add(key, place, base);
                }
            }
            Operation::Delete => {
                if let Some(key) = entry.old_key {
                    self.remove(key, false);
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

    /// Takes a row away; where it was comes back if that is `wanted`.
    fn remove(&mut self, key: Key, wanted: bool) -> Option<Source> {
        let in_image = wanted.then(|| key.clone());
        let slot = self.slots.entry(key).or_default();
        match slot.live.pop() {
            Some(version) => wanted.then_some(Source::Version(version)),
            None => {
                slot.image_gone += 1;
                in_image.map(Source::Image)
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
    for entry in range.entries(Select::All).await?.entries {
        touched.truncated |= entry.operation == Operation::Truncate;
        touched.keys.extend(entry.old_key);
        touched.keys.extend(entry.new_key);
    }
    Ok(touched)
}

/// What one change did, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Commit LSN of its transaction.
    pub lsn: Lsn,
    pub operation: Operation,
    /// For updates only where it is another than the new one.
    pub old_key: Option<Key>,
    pub new_key: Option<Key>,
}

/// The changes with `from <= _lsn < to`, in order; with `only`, those under these keys before or after, and truncations.
/// What a definition's change told of rows anew is not among them. `key` are columns of any version of the relation.
pub async fn writes(
    archive: &Archive,
    relation: &RelationVersion,
    key: &[Column],
    (from, to): (Lsn, Lsn),
    only: Option<Arc<KeySet>>,
) -> Result<Vec<Write>> {
    let records = records_of(archive, relation.oid, Position::before(to)).await?;
    let names = names_of(&records);
    let (from, to) = (Position::before(from), Position::before(to));
    let range = Range { archive, names: &names, oid: relation.oid, key, from, to };
    let found = range.entries(only.map_or(Select::All, Select::Keys)).await?.entries.into_iter();
    let told_anew = |entry: &Entry| entry.operation == Operation::Snapshot;
    let write = |entry: Entry| Write {
        lsn: entry.position.lsn,
        operation: entry.operation,
        old_key: entry.old_key,
        new_key: entry.new_key,
    };
    Ok(found.filter(|entry| !told_anew(entry)).map(write).collect())
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
    position: Position,
    place: Place,
    operation: Operation,
    /// For updates only where it is another than the new one.
    old_key: Option<Key>,
    new_key: Option<Key>,
    incomplete: bool,
}

/// Changes in the order of history, and the files in which they lie. A file's rows may be in another order, and files
/// overlap, once they have been compacted.
struct Entries {
    files: Vec<DataFile>,
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
#[derive(Clone)]
enum Select {
    All,
    /// Those of rows under these keys, before or after.
    Keys(Arc<KeySet>),
    /// Updates that moved a row from one key to another.
    KeyChanges,
}

impl Select {
    fn takes(&self, entry: &Entry) -> bool {
        let among = |keys: &KeySet, key: &Option<Key>| key.as_ref().is_some_and(|key| keys.contains(key));
        match self {
            Select::All => true,
            Select::Keys(keys) => {
                entry.operation == Operation::Truncate || among(keys, &entry.old_key) || among(keys, &entry.new_key)
            }
            Select::KeyChanges => entry.changes_key(),
        }
    }
}

impl Entry {
    fn changes_key(&self) -> bool {
        self.old_key.is_some() && self.new_key.is_some()
    }
}

/// Of rows that changed their keys again and again, so many changes are followed one by one before all are looked at.
const FOLLOWED_KEY_CHANGES: usize = 4;

impl Range<'_> {
    /// The changes of rows under these keys, and under those where the same rows stood before: what an update left out may
    /// lie there. All those keys come back.
    async fn entries_with_former_keys(&self, keys: &KeySet) -> Result<(Entries, Arc<KeySet>)> {
        let mut all = Arc::new(keys.clone());
        for _ in 0..FOLLOWED_KEY_CHANGES {
            let found = self.entries(Select::Keys(Arc::clone(&all))).await?;
            let wider = with_former(&all, &found.entries);
            if wider.len() == all.len() {
                return Ok((found, all));
            }
            all = Arc::new(wider);
        }
        let changed = self.entries(Select::KeyChanges).await?;
        let all = Arc::new(with_former(keys, &changed.entries));
        Ok((self.entries(Select::Keys(Arc::clone(&all))).await?, all))
    }

    /// The changes of the range, in order.
    async fn entries(&self, select: Select) -> Result<Entries> {
        let mut files = Vec::new();
        for name in self.names {
            files.extend(self.archive.change_files(name, self.from.lsn, Lsn(self.to.lsn.0.saturating_add(1))).await?);
        }
        let reading: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(at, file)| FilePart {
                archive: self.archive.clone(),
                file: file.clone(),
                at: at as u32,
                oid: self.oid,
                key: self.key.to_vec(),
                range: self.from..self.to,
                select: select.clone(),
            })
            .collect();
        let parts = stream::iter(reading).map(|part| joined(tokio::spawn(part.entries()))).buffered(PARALLEL_FILES);
        let mut entries: Vec<Entry> = parts.try_collect::<Vec<_>>().await?.into_iter().flatten().collect();
        // Stable, because runs that are in order already are then found and merged.
        entries.sort_by_key(|entry| entry.position);
        Ok(Entries { files, entries })
    }
}

/// The keys, and the former ones that changes in order show. Backwards in history: a former key may itself have had one.
fn with_former(keys: &KeySet, entries: &[Entry]) -> KeySet {
    let mut all = keys.clone();
    for entry in entries.iter().rev() {
        if let (Some(old), Some(new)) = (&entry.old_key, &entry.new_key)
            && all.contains(new)
        {
            all.insert(old.clone());
        }
    }
    all
}

/// A task that was cut off failed.
async fn joined<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.map_err(|error| Failure::failed(format!("a reader stopped: {error}")))?
}

/// Files read at the same time.
const PARALLEL_FILES: usize = 8;

/// Of so many rows at least one must be in the range, else only those are read.
const SELECTED_SHARE: u64 = 4;

/// The changes of a range that lie in one file, to be read beside others.
struct FilePart {
    archive: Archive,
    file: DataFile,
    at: u32,
    oid: u32,
    key: Vec<Column>,
    range: std::ops::Range<Position>,
    select: Select,
}

impl FilePart {
    async fn entries(self) -> Result<Vec<Entry>> {
        let reader = match &self.select {
            Select::Keys(_) => self.archive.read_some(&self.file).await?,
            _ => self.archive.read(&self.file, None).await?,
        };
        let relation = reader.relation()?;
        if relation.oid != self.oid {
            return Ok(Vec::new());
        }
        let columns: Vec<Wanted<'_>> = self.key.iter().map(|key| wanted_in(key, &relation)).collect();
        let reader = match &self.select {
            Select::Keys(keys) => reader.select_changes(&key_bounds(&columns, keys)),
            _ => reader,
        };
        let Some(reader) = self.within_range(reader).await? else { return Ok(Vec::new()) };
        let mut wanted = vec![names::LSN, names::SEQ, names::OP, names::OLD, names::MISSING, names::EXACT];
        wanted.extend(columns.iter().filter_map(stored_name));
        let mut numbers = reader.row_numbers();
        let mut batches = reader.columns(&wanted).stream()?;
        let mut entries = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            self.entries_of(&batch, &columns, &mut numbers, &mut entries)?;
        }
        Ok(entries)
    }

    /// Where few rows of a large file are in the range, those alone are read; `None` where none are.
    async fn within_range(&self, reader: DataReader) -> Result<Option<DataReader>> {
        let (from, to) = (self.range.start.lsn.as_i64(), self.range.end.lsn.as_i64());
        if self.file.lsns.is_some_and(|(first, last)| from <= first && last <= to) {
            return Ok(Some(reader));
        }
        let (mut rows, mut numbers) = (Vec::<std::ops::Range<u64>>::new(), reader.row_numbers());
        let (mut seen, mut taken) = (0, 0);
        let mut batches = reader.columns(&[names::LSN]).stream()?;
        while let Some(batch) = batches.try_next().await? {
            for (lsn, number) in number(&batch, names::LSN)?.values().iter().zip(numbers.by_ref()) {
                seen += 1;
                if (from..=to).contains(lsn) {
                    taken += 1;
                    match rows.last_mut() {
                        Some(last) if last.end == number => last.end += 1,
                        _ => rows.push(number..number + 1),
                    }
                }
            }
        }
        Ok(match taken {
            0 => None,
            few if few * SELECTED_SHARE < seen => Some(reader.select(rows)),
            _ => Some(reader),
        })
    }

    fn entries_of(
        &self,
        batch: &RecordBatch,
        columns: &[Wanted<'_>],
        numbers: &mut (impl Iterator<Item = u64> + Send),
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let (lsns, seqs) = (number(batch, names::LSN)?, number(batch, names::SEQ)?);
        let operations = batch.column_by_name(names::OP).and_then(|c| c.as_string_opt::<i32>());
        let operations = operations.ok_or_else(|| broken(names::OP))?;
        let missing = batch.column_by_name(names::MISSING).ok_or_else(|| broken(names::MISSING))?;
        let new = RowReader::new(batch, columns)?;
        let old = RowReader::old(batch, columns)?;
        let old_rows = old_rows(batch);
        let mut buffer = Vec::new();
        for (row, number) in (0..batch.num_rows()).zip(numbers) {
            let position = Position { lsn: Lsn::from_i64(lsns.value(row)), seq: seqs.value(row) };
            if !self.range.contains(&position) {
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
            let place = Place { file: self.at, row: number as u32 };
            let incomplete = missing.is_valid(row);
            let old_key = old_key.filter(|old| new_key.as_ref() != Some(old));
            let entry = Entry { position, place, operation, old_key, new_key, incomplete };
            if self.select.takes(&entry) {
                entries.push(entry);
            }
        }
        Ok(())
    }
}

/// Of more keys nearly every page of a file has one, and looking costs more than it saves.
const PRUNED_KEYS: usize = 1000;

/// The stored name of a column that is not a constant.
pub(super) fn stored_name<'a>(wanted: &Wanted<'a>) -> Option<&'a str> {
    match wanted {
        Wanted::Stored(column) => Some(&column.stored),
        Wanted::Constant(_) => None,
    }
}

/// What statistics can tell of keys: the columns in which all of them have a typed value.
pub(super) fn key_bounds(columns: &[Wanted<'_>], keys: &KeySet) -> Vec<KeyBounds> {
    if keys.len() > PRUNED_KEYS {
        return Vec::new();
    }
    let stored = columns.iter().enumerate().filter_map(|(at, wanted)| match wanted {
        Wanted::Stored(column) => Some((at, *column)),
        Wanted::Constant(_) => None,
    });
    let bounds = stored.filter_map(|(at, column)| {
        let storage = Storage::of_column(column);
        let values = keys.iter().map(|key| storage.bound(key_field(key, at)?)).collect::<Option<Vec<_>>>()?;
        Some(KeyBounds::new(&column.stored, values))
    });
    bounds.collect()
}

/// A column's text in a key; `None` for NULL. See [`RowReader::read_key`].
fn key_field(key: &[u8], column: usize) -> Option<&[u8]> {
    let mut rest = key;
    for _ in 0..column {
        rest = split_field(rest)?.1;
    }
    split_field(rest)?.0
}

/// A key's first field, and the others.
fn split_field(key: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (head, rest) = key.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    let (field, rest) = rest.split_at_checked(length)?;
    Some(((head[0] == 1).then_some(field), rest))
}

fn broken(column: &str) -> Failure {
    Failure::failed(format!("a file of changes lacks the column {column}"))
}

fn number<'a>(batch: &'a RecordBatch, column: &str) -> Result<&'a Int64Array> {
    batch.column_by_name(column).and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(|| broken(column))
}
