//! The changes of a range of history, read from the files in which they lie.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::Int64Type;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hashbrown::DefaultHashBuilder;

use crate::archive::{Archive, DataFile, DataReader, KeyBounds, Values};
use crate::columnar::{RowReader, Storage, Wanted, names, old_rows};
use crate::failure::{Failure, Result};
use crate::model::{Column, Lsn, Operation, Position, RelationVersion, TableName};

/// The values that a column must have.
pub type Condition = (Column, Values);

/// A row's key: the texts of its key columns, so that equal bytes mean equal keys.
pub type Key = Box<[u8]>;

/// Keys of rows.
pub type KeySet = hashbrown::HashSet<Key>;

/// One of several parts that all keys are shared out to.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyPart {
    hasher: DefaultHashBuilder,
    number: u64,
    /// There are two to the power of this.
    halvings: u32,
}

/// In more parts keys are not shared out: reading every change so often takes too long.
const MOST_HALVINGS: u32 = 16;

impl KeyPart {
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.halvings == 0 || self.hasher.hash_one(key) % (1 << self.halvings) == self.number
    }

    /// Whether it is not all keys.
    pub(super) fn is_some(&self) -> bool {
        self.halvings > 0
    }

    /// Its halves; `None` where it is to be taken as it is.
    pub(super) fn halves(self) -> std::result::Result<[KeyPart; 2], KeyPart> {
        if self.halvings >= MOST_HALVINGS {
            return Err(self);
        }
        let other = self.number + (1 << self.halvings);
        let half = |number| KeyPart { hasher: self.hasher.clone(), number, halvings: self.halvings + 1 };
        Ok([half(self.number), half(other)])
    }
}

/// Where a version of a row lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    /// The number of the file among those of the range.
    pub(super) file: u32,
    pub(super) row: u32,
}

/// Where a column of one version is in the rows of another. Rows from before it was added show one constant.
pub(super) fn wanted_in<'a>(column: &'a Column, version: &'a RelationVersion) -> Wanted<'a> {
    match version.same_column(column) {
        Some(stored) => Wanted::Stored(stored),
        None => Wanted::Constant(column.missing.as_deref()),
    }
}

/// What one change did, without its values.
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) place: Place,
    pub(super) operation: Operation,
    /// For updates only where it is another than the new one.
    pub(super) old_key: Option<Key>,
    pub(super) new_key: Option<Key>,
    pub(super) incomplete: bool,
}

/// Changes in the order of history, and the files in which they lie. A file's rows may be in another order, and files
/// overlap, once they have been compacted.
pub(super) struct Entries {
    pub(super) files: Vec<DataFile>,
    pub(super) entries: Vec<Entry>,
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
pub(super) enum Select {
    All,
    /// Those of rows under these keys, before or after.
    Keys(Arc<KeySet>),
    /// The same for one of several parts of all keys.
    Part(KeyPart),
    /// Updates that moved a row from one key to another, and truncations.
    KeyChanges,
}

impl Select {
    fn takes(&self, entry: &Entry) -> bool {
        let any = |is_wanted: &dyn Fn(&Key) -> bool| {
            entry.operation == Operation::Truncate || entry.old_key.iter().chain(&entry.new_key).any(is_wanted)
        };
        match self {
            Select::All => true,
            Select::Keys(keys) => any(&|key| keys.contains(key)),
            Select::Part(part) => any(&|key| part.has(key)),
            Select::KeyChanges => entry.operation == Operation::Truncate || entry.changes_key(),
        }
    }
}

impl Entry {
    pub(super) fn changes_key(&self) -> bool {
        self.old_key.is_some() && self.new_key.is_some()
    }

    /// Bytes that it takes, and what is made of it.
    fn memory(&self) -> usize {
        let keys = self.old_key.iter().chain(&self.new_key);
        ENTRY_BYTES + keys.map(|key| key.len() + KEY_BYTES).sum::<usize>()
    }
}

/// Bytes of a change while changes are put in order and applied, and of a key beside its own.
const ENTRY_BYTES: usize = 2 * size_of::<Entry>();
const KEY_BYTES: usize = 96;

/// Bytes that the changes of a range may take together.
struct Room(AtomicUsize);

impl Room {
    /// False where there is not so much.
    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// Of rows that changed their keys again and again, so many changes are followed one by one before all are looked at.
const FOLLOWED_KEY_CHANGES: usize = 4;

impl Range<'_> {
    /// The changes of rows under these keys, and under those where the same rows stood before: what an update left out may
    /// lie there. All those keys come back; `None` where the changes take more memory.
    pub(super) async fn entries_with_former_keys(
        &self,
        keys: &KeySet,
        memory: usize,
    ) -> Result<Option<(Entries, Arc<KeySet>)>> {
        let mut all = Arc::new(keys.clone());
        for _ in 0..FOLLOWED_KEY_CHANGES {
            let Some(found) = self.entries_in(Select::Keys(Arc::clone(&all)), memory).await? else { return Ok(None) };
            let wider = with_former(&all, &found.entries);
            if wider.len() == all.len() {
                return Ok(Some((found, all)));
            }
            all = Arc::new(wider);
        }
        let changed = self.entries(Select::KeyChanges).await?;
        let all = Arc::new(with_former(keys, &changed.entries));
        Ok(self.entries_in(Select::Keys(Arc::clone(&all)), memory).await?.map(|found| (found, all)))
    }

    /// The files with changes of the range, and what is to be read of each: changes of rows in which, before or after, the
    /// key's columns can have these values.
    pub(super) async fn parts(&self, sought: Vec<Condition>) -> Result<(Vec<DataFile>, Vec<FilePart>)> {
        let sought: Arc<[Condition]> = sought.into();
        let mut files = Vec::new();
        for name in self.names {
            files.extend(self.archive.change_files(name, self.from.lsn, Lsn(self.to.lsn.0.saturating_add(1))).await?);
        }
        let parts = files.iter().enumerate().map(|(at, file)| FilePart {
            archive: self.archive.clone(),
            file: file.clone(),
            at: at as u32,
            oid: self.oid,
            key: self.key.to_vec(),
            sought: Arc::clone(&sought),
            range: self.from..self.to,
        });
        let parts = parts.collect();
        Ok((files, parts))
    }

    /// The changes of the range, in order.
    pub(super) async fn entries(&self, select: Select) -> Result<Entries> {
        let found = self.entries_in(select, usize::MAX).await?;
        found.ok_or_else(|| Failure::failed("more changes than can be counted"))
    }

    /// The same; `None` where they take more memory.
    pub(super) async fn entries_in(&self, select: Select, memory: usize) -> Result<Option<Entries>> {
        let sought = match &select {
            Select::Keys(keys) => key_conditions(self.key, keys),
            _ => Vec::new(),
        };
        let (files, parts) = self.parts(sought).await?;
        let room = Arc::new(Room(AtomicUsize::new(memory)));
        let reading = |part: FilePart| joined(tokio::spawn(part.entries(select.clone(), Arc::clone(&room))));
        let parts = stream::iter(parts).map(reading).buffered(PARALLEL_FILES);
        let Some(found) = parts.try_collect::<Vec<_>>().await?.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let mut entries: Vec<Entry> = found.into_iter().flatten().collect();
        // Stable, because runs that are in order already are then found and merged.
        entries.sort_by_key(|entry| entry.position);
        Ok(Some(Entries { files, entries }))
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
pub(super) async fn joined<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.map_err(|error| Failure::failed(format!("a reader stopped: {error}")))?
}

/// Files read at the same time.
pub(super) const PARALLEL_FILES: usize = 8;

/// Of so many rows at least one must be in the range, else only those are read.
const SELECTED_SHARE: u64 = 4;

/// The changes of a range that lie in one file, to be read beside others.
pub(super) struct FilePart {
    archive: Archive,
    file: DataFile,
    /// The file's number among those of the range.
    pub(super) at: u32,
    oid: u32,
    pub(super) key: Vec<Column>,
    sought: Arc<[Condition]>,
    pub(super) range: std::ops::Range<Position>,
}

impl FilePart {
    /// Opens the file; `None` where it is of another table.
    pub(super) async fn open(&self) -> Result<Option<(DataReader, RelationVersion)>> {
        let reader = self.archive.read_some(&self.file).await?;
        let relation = reader.relation()?;
        let bounds = bounds_in(&self.sought, &relation);
        Ok((relation.oid == self.oid).then(|| (reader.select_changes(&bounds), relation)))
    }

    /// `None` where there is no room for them.
    async fn entries(self, select: Select, room: Arc<Room>) -> Result<Option<Vec<Entry>>> {
        let Some((reader, relation)) = self.open().await? else { return Ok(Some(Vec::new())) };
        let columns: Vec<Wanted<'_>> = self.key.iter().map(|key| wanted_in(key, &relation)).collect();
        let Some(reader) = self.within_range(reader).await? else { return Ok(Some(Vec::new())) };
        let mut wanted = vec![names::LSN, names::SEQ, names::OP, names::OLD, names::MISSING, names::EXACT];
        wanted.extend(columns.iter().filter_map(stored_name));
        let mut numbers = reader.row_numbers();
        let mut batches = reader.columns(&wanted).stream()?;
        let mut entries = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            let before = entries.len();
            self.entries_of(&batch, &columns, &select, &mut numbers, &mut entries)?;
            if !room.take(entries[before..].iter().map(Entry::memory).sum()) {
                return Ok(None);
            }
        }
        Ok(Some(entries))
    }

    /// Where few rows of a large file are in the range, those alone are read; `None` where none are.
    pub(super) async fn within_range(&self, reader: DataReader) -> Result<Option<DataReader>> {
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
        select: &Select,
        numbers: &mut (impl Iterator<Item = u64> + Send),
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let changes = ChangeBatch::new(batch, columns)?;
        let mut buffer = Vec::new();
        for (row, number) in (0..batch.num_rows()).zip(numbers) {
            let position = changes.position(row);
            if !self.range.contains(&position) {
                continue;
            }
            let operation = changes.operation(row)?;
            let old_key = changes.old_key(row, &mut buffer).then(|| Key::from(buffer.as_slice()));
            let new_key = changes.new_key(row, operation, &mut buffer).then(|| Key::from(buffer.as_slice()));
            let place = Place { file: self.at, row: number as u32 };
            let incomplete = changes.is_incomplete(row);
            let old_key = old_key.filter(|old| new_key.as_ref() != Some(old));
            let entry = Entry { position, place, operation, old_key, new_key, incomplete };
            if select.takes(&entry) {
                entries.push(entry);
            }
        }
        Ok(())
    }
}

/// What a batch of changes says, row by row.
pub(super) struct ChangeBatch<'a> {
    lsns: &'a Int64Array,
    seqs: &'a Int64Array,
    operations: &'a StringArray,
    /// Not read where the file has none.
    missing: Option<&'a ArrayRef>,
    new: RowReader<'a>,
    old: Option<(&'a StructArray, RowReader<'a>)>,
}

impl<'a> ChangeBatch<'a> {
    /// Reads `columns` as keys.
    pub(super) fn new(batch: &'a RecordBatch, columns: &[Wanted<'a>]) -> Result<ChangeBatch<'a>> {
        let operations = batch.column_by_name(names::OP).and_then(|column| column.as_string_opt::<i32>());
        Ok(ChangeBatch {
            lsns: number(batch, names::LSN)?,
            seqs: number(batch, names::SEQ)?,
            operations: operations.ok_or_else(|| broken(names::OP))?,
            missing: batch.column_by_name(names::MISSING),
            new: RowReader::new(batch, columns)?,
            old: old_rows(batch).zip(RowReader::old(batch, columns)?),
        })
    }

    pub(super) fn position(&self, row: usize) -> Position {
        Position { lsn: Lsn::from_i64(self.lsns.value(row)), seq: self.seqs.value(row) }
    }

    pub(super) fn operation(&self, row: usize) -> Result<Operation> {
        let text = self.operations.value(row);
        Operation::parse(text).ok_or_else(|| Failure::failed(format!("a change has the unknown operation {text:?}")))
    }

    /// Whether values of the row are left out.
    pub(super) fn is_incomplete(&self, row: usize) -> bool {
        self.missing.is_some_and(|missing| missing.is_valid(row))
    }

    /// Replaces `key` by the row's key before the change; false where that is not said.
    pub(super) fn old_key(&self, row: usize, key: &mut Vec<u8>) -> bool {
        match &self.old {
            Some((rows, keys)) if rows.is_valid(row) => {
                keys.read_key(row, key);
                true
            }
            _ => false,
        }
    }

    /// Replaces `key` by the row's key after the change; false where there is no row then.
    pub(super) fn new_key(&self, row: usize, operation: Operation, key: &mut Vec<u8>) -> bool {
        let has_new = matches!(operation, Operation::Insert | Operation::Update | Operation::Snapshot);
        if has_new {
            self.new.read_key(row, key);
        }
        has_new
    }
}

/// Of more keys nearly every page of a file has one, and looking costs more than it saves.
const PRUNED_KEYS: usize = 100_000;

/// The stored name of a column that is not a constant.
pub(super) fn stored_name<'a>(wanted: &Wanted<'a>) -> Option<&'a str> {
    match wanted {
        Wanted::Stored(column) => Some(&column.stored),
        Wanted::Constant(_) => None,
    }
}

/// What the keys have in common: what their columns have, as far as all of them have a typed value there; nothing for too
/// many.
pub(super) fn key_conditions(key: &[Column], keys: &KeySet) -> Vec<Condition> {
    if keys.len() > PRUNED_KEYS {
        return Vec::new();
    }
    let conditions = key.iter().enumerate().filter_map(|(at, column)| {
        let storage = Storage::of_column(column);
        let values = keys.iter().map(|key| storage.bound(key_field(key, at)?)).collect::<Option<Vec<_>>>()?;
        Some((column.clone(), Values::among(values)))
    });
    conditions.collect()
}

/// What conditions say of the columns of a file. A column whose values were of another type says nothing.
pub(super) fn bounds_in(conditions: &[Condition], relation: &RelationVersion) -> Vec<KeyBounds> {
    let bound = |(column, values): &Condition| match wanted_in(column, relation) {
        Wanted::Stored(stored) if Storage::of_column(stored) == Storage::of_column(column) => {
            Some(KeyBounds::new(&stored.stored, values.clone()))
        }
        _ => None,
    };
    conditions.iter().filter_map(bound).collect()
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

/// The rows of a file at these positions, which ascend, as ranges.
pub(super) fn selection(rows: &[u32]) -> Vec<std::ops::Range<u64>> {
    let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
    for row in rows.iter().map(|row| u64::from(*row)) {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}
