//! The last change of every key in a range of history.
//!
//! Where a key is unique at any time, its last change says what stands under it in the end, and whatever it changed in
//! the base is not there any more. So changes need not be put in order: of each key only the latest so far is kept, by
//! several threads at once, each for the files' row groups at hand. What updates left out is not followed here.

use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hashbrown::{DefaultHashBuilder, HashTable};

use super::changes::{
    ChangeBatch, FilePart, Key, KeySet, PARALLEL_FILES, Place, Range, joined, stored_name, wanted_in,
};
use crate::archive::{DataFile, DataReader};
use crate::columnar::{Wanted, names};
use crate::failure::Result;
use crate::model::{Operation, Position, RelationVersion};

/// Parts that the keys are shared out to, so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// Row groups read at the same time.
const PARALLEL_GROUPS: usize = 8;

/// What a key's change left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Row,
    /// A row of which the change did not bring all values.
    Incomplete,
}

/// A change of a key.
#[derive(Debug, Clone, Copy)]
struct Last {
    position: Position,
    place: Place,
    left: Left,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Latest {
    pub(super) files: Vec<DataFile>,
    keys: Keys,
}

impl Latest {
    /// Reads the changes of a range.
    pub(super) async fn read(range: &Range<'_>) -> Result<Latest> {
        let (files, parts) = range.parts().await?;
        let keys = Arc::new(Keys::default());
        let opened = stream::iter(parts).map(|part| opened(part, Arc::clone(&keys))).buffered(PARALLEL_FILES);
        let groups = opened.map_ok(|groups| stream::iter(groups.into_iter().map(Ok))).try_flatten();
        let folding = groups.map_ok(|group| joined(tokio::spawn(group.fold()))).try_buffer_unordered(PARALLEL_GROUPS);
        folding.try_collect::<Vec<()>>().await?;
        // The tasks have ended, so nobody else has it.
        let keys = Arc::into_inner(keys).unwrap_or_default();
        Ok(Latest { files, keys })
    }

    /// Whether the range has no change at all.
    pub(super) fn is_empty(&self) -> bool {
        self.truncation().is_none() && self.keys.shards.iter().all(|shard| lock(shard).known.is_empty())
    }

    /// Whether rows of before are all gone.
    pub(super) fn is_truncated(&self) -> bool {
        self.truncation().is_some()
    }

    fn truncation(&self) -> Option<Position> {
        *lock(&self.keys.truncation)
    }

    /// Whether a key was changed, so that its row of before is not there any more.
    pub(super) fn touches(&self, key: &[u8]) -> bool {
        let hash = self.keys.hasher.hash_one(key);
        lock(self.keys.shard(hash)).find(hash, key).is_some()
    }

    /// The rows that changes left and brought whole: for each file their numbers, ascending. With `only`, those under these
    /// keys.
    pub(super) fn rows(&self, only: Option<&KeySet>) -> Vec<Vec<u32>> {
        let mut rows = vec![Vec::new(); self.files.len()];
        self.for_each_live(|key, last| {
            if only.is_some_and(|only| !only.contains(key)) {
                return;
            }
            if let (Left::Row, Some(rows)) = (last.left, rows.get_mut(last.place.file as usize)) {
                rows.push(last.place.row);
            }
        });
        rows.iter_mut().for_each(|rows| rows.sort_unstable());
        rows
    }

    /// Every key that a change touched.
    pub(super) fn touched(&self) -> KeySet {
        let mut keys = KeySet::new();
        for shard in &self.keys.shards {
            let shard = lock(shard);
            keys.extend(shard.known.iter().map(|known| Key::from(shard.key(known))));
        }
        keys
    }

    /// The keys of rows that changes left without bringing all of their values.
    pub(super) fn incomplete(&self) -> KeySet {
        let mut keys = KeySet::new();
        self.for_each_live(|key, last| {
            if last.left == Left::Incomplete {
                keys.insert(key.into());
            }
        });
        keys
    }

    fn for_each_live(&self, mut visit: impl FnMut(&[u8], &Last)) {
        let truncation = self.truncation();
        for shard in &self.keys.shards {
            let shard = lock(shard);
            for known in &shard.known {
                if truncation.is_none_or(|truncation| known.last.position > truncation) {
                    visit(shard.key(known), &known.last);
                }
            }
        }
    }
}

/// The keys met so far.
#[derive(Debug)]
struct Keys {
    hasher: DefaultHashBuilder,
    shards: Vec<Mutex<Shard>>,
    /// The last truncation.
    truncation: Mutex<Option<Position>>,
}

impl Default for Keys {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Keys { hasher: DefaultHashBuilder::default(), shards, truncation: Mutex::default() }
    }
}

impl Keys {
    /// By bits of the hash that a table does not place its entries by.
    fn index(hash: u64) -> usize {
        (hash >> 40) as usize % SHARDS
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[Keys::index(hash)]
    }
}

/// A panic of another thread ends the reading anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some of the keys, one after the other in one piece of memory.
#[derive(Debug, Default)]
struct Shard {
    /// The hash, and the number of the key.
    table: HashTable<(u64, u32)>,
    bytes: Vec<u8>,
    known: Vec<Known>,
}

/// A key and its last change, side by side: looking one up among many is waiting for memory.
#[derive(Debug)]
struct Known {
    start: usize,
    length: usize,
    last: Last,
}

impl Shard {
    fn key(&self, known: &Known) -> &[u8] {
        &self.bytes[known.start..known.start + known.length]
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is_it = |(known, at): &(u64, u32)| *known == hash && self.key(&self.known[*at as usize]) == key;
        self.table.find(hash, is_it).map(|(_, at)| *at as usize)
    }

    fn note(&mut self, hash: u64, key: &[u8], change: Last) {
        if let Some(at) = self.find(hash, key) {
            let last = &mut self.known[at].last;
            if last.position < change.position {
                *last = change;
            }
            return;
        }
        let at = self.known.len() as u32;
        self.known.push(Known { start: self.bytes.len(), length: key.len(), last: change });
        self.bytes.extend_from_slice(key);
        self.table.insert_unique(hash, (hash, at), |(hash, _)| *hash);
    }
}

/// A row group of a file of changes, to be read beside others.
struct Group {
    part: Arc<FilePart>,
    relation: Arc<RelationVersion>,
    reader: DataReader,
    keys: Arc<Keys>,
}

async fn opened(part: FilePart, keys: Arc<Keys>) -> Result<Vec<Group>> {
    let Some((reader, relation)) = part.open().await? else { return Ok(Vec::new()) };
    let (part, relation) = (Arc::new(part), Arc::new(relation));
    let groups = reader.row_groups().into_iter().map(|rows| Group {
        part: Arc::clone(&part),
        relation: Arc::clone(&relation),
        reader: reader.copy().select(vec![rows]),
        keys: Arc::clone(&keys),
    });
    Ok(groups.collect())
}

impl Group {
    async fn fold(self) -> Result<()> {
        let Group { part, relation, reader, keys } = self;
        let columns: Vec<Wanted<'_>> = part.key.iter().map(|key| wanted_in(key, &relation)).collect();
        let Some(reader) = part.within_range(reader).await? else { return Ok(()) };
        let stored: Vec<&str> = columns.iter().filter_map(stored_name).collect();
        // A key's columns are never NULL, so that an old key has a value where there is one.
        let reader = reader.parts(&[names::OLD, names::MISSING, names::EXACT], |path| {
            let mut path = path.iter().map(String::as_str);
            match path.next() {
                Some(names::OLD) => path.next().is_some_and(|name| name == names::EXACT || stored.contains(&name)),
                Some(name) => READ.contains(&name) || stored.contains(&name),
                None => false,
            }
        });
        let mut numbers = reader.row_numbers();
        let mut batches = reader.stream()?;
        let mut noted = Noted::default();
        while let Some(batch) = batches.try_next().await? {
            noted.read(&part, &batch, &columns, &mut numbers, &keys)?;
            if noted.bytes.len() >= NOTED_BYTES {
                noted.give(&keys);
            }
        }
        noted.give(&keys);
        Ok(())
    }
}

/// Bytes of keys that are noted before they are given to the shards: the more of a shard at once, the more of it is in the
/// processor's cache.
const NOTED_BYTES: usize = 512 << 10;

/// The columns that are read beside the keys'.
const READ: [&str; 5] = [names::LSN, names::SEQ, names::OP, names::MISSING, names::EXACT];

/// The changes of some batches, by shard, neighbours of the same key being one.
struct Noted {
    bytes: Vec<u8>,
    changes: Vec<Vec<(u64, std::ops::Range<usize>, Last)>>,
    /// Where the change that was noted last is.
    latest: Option<(usize, std::ops::Range<usize>)>,
}

impl Default for Noted {
    fn default() -> Self {
        Noted { bytes: Vec::new(), changes: vec![Vec::new(); SHARDS], latest: None }
    }
}

impl Noted {
    fn read(
        &mut self,
        part: &FilePart,
        batch: &RecordBatch,
        columns: &[Wanted<'_>],
        numbers: &mut (impl Iterator<Item = u64> + Send),
        keys: &Keys,
    ) -> Result<()> {
        let changes = ChangeBatch::new(batch, columns)?;
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (row, number) in (0..batch.num_rows()).zip(numbers) {
            let position = changes.position(row);
            if !part.range.contains(&position) {
                continue;
            }
            let operation = changes.operation(row)?;
            if operation == Operation::Truncate {
                let mut last = lock(&keys.truncation);
                *last = (*last).max(Some(position));
                continue;
            }
            let place = Place { file: part.at, row: number as u32 };
            let has_new = changes.new_key(row, operation, &mut new);
            if matches!(operation, Operation::Update | Operation::Delete)
                && changes.old_key(row, &mut old)
                && !(has_new && old == new)
            {
                self.note(&old, Last { position, place, left: Left::Nothing }, keys);
            }
            if has_new {
                let incomplete = operation == Operation::Update && changes.is_incomplete(row);
                let left = if incomplete { Left::Incomplete } else { Left::Row };
                self.note(&new, Last { position, place, left }, keys);
            }
        }
        Ok(())
    }

    fn note(&mut self, key: &[u8], change: Last, keys: &Keys) {
        if let Some((shard, bytes)) = &self.latest
            && self.bytes[bytes.clone()] == *key
            && let Some((_, _, last)) = self.changes[*shard].last_mut()
        {
            if last.position < change.position {
                *last = change;
            }
            return;
        }
        let hash = keys.hasher.hash_one(key);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let (shard, bytes) = (Keys::index(hash), start..self.bytes.len());
        self.changes[shard].push((hash, bytes.clone(), change));
        self.latest = Some((shard, bytes));
    }

    fn give(&mut self, keys: &Keys) {
        for (shard, changes) in keys.shards.iter().zip(&mut self.changes) {
            if changes.is_empty() {
                continue;
            }
            let mut shard = lock(shard);
            for (hash, bytes, change) in changes.drain(..) {
                shard.note(hash, &self.bytes[bytes], change);
            }
        }
        self.bytes.clear();
        self.latest = None;
    }
}
