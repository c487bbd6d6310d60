//! The last change of every key in a range of history, and what of the base is left beside it.
//!
//! Where a key is unique at any time, its last change says what stands under it in the end, and whatever it changed in
//! the base is not there any more. So changes need not be put in order: of each key only the latest so far is kept, by
//! several threads at once, each for the files' row groups at hand. What updates left out is not followed here.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::changes::{
    ChangeBatch, Condition, FilePart, KeySet, PARALLEL_FILES, Place, Range, joined, stored_name, wanted_in,
};
use super::gathering::{FileRows, PARALLEL_GROUPS, Part};
use super::key_table::{Last, Left};
use super::keys::{Keys, KnownKeys, SHARDS};
use super::row_set::RowSet;
use super::spill::Spill;
use crate::archive::{DataFile, DataReader, blocking};
use crate::columnar::{Wanted, names};
use crate::failure::{Failure, Result};
use crate::model::{Operation, RelationVersion};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Latest {
    pub(super) files: Vec<DataFile>,
    /// Of each file the rows that stand there in the end, brought whole.
    pub(super) rows: Vec<RowSet>,
    /// Of each file of the base the rows that do not any more.
    pub(super) gone: Vec<RowSet>,
    /// The keys of rows that changes left without bringing all of their values.
    pub(super) incomplete: Option<Spill>,
    keys: Keys,
    taken: bool,
    /// Rows under other keys are of no interest.
    only: Option<Arc<KeySet>>,
}

impl Latest {
    /// Reads the changes of a range; with `only`, those of rows under these keys, for which the conditions hold. Keys take
    /// about so many bytes of memory, the others wait on disk.
    pub(super) async fn read(
        range: &Range<'_>,
        memory: usize,
        only: Option<Arc<KeySet>>,
        sought: Vec<Condition>,
    ) -> Result<Latest> {
        let (files, parts) = range.parts(sought).await?;
        let keys = Arc::new(Keys::new(memory));
        let opening = |part| opened(part, Arc::clone(&keys), only.clone());
        let opened = stream::iter(parts).map(opening).buffered(PARALLEL_FILES);
        let groups = opened.map_ok(|groups| stream::iter(groups.into_iter().map(Ok))).try_flatten();
        let folding = groups.map_ok(|group| joined(tokio::spawn(group.fold()))).try_buffer_unordered(PARALLEL_GROUPS);
        folding.try_collect::<Vec<()>>().await?;
        let rows = vec![RowSet::default(); files.len()];
        Ok(Latest { files, rows, gone: Vec::new(), incomplete: None, keys: alone(keys)?, taken: false, only })
    }

    /// Whether the range has no change at all.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_truncated() && self.keys.is_empty()
    }

    /// Whether rows of before are all gone.
    pub(super) fn is_truncated(&self) -> bool {
        self.keys.truncation().is_some()
    }

    /// Finds the rows of the base that changes have taken away or that are not wanted, by their keys alone. To be asked before
    /// [`Latest::next_keys`], which finds the others.
    pub(super) async fn take_from_base(self, files: Vec<FileRows>) -> Result<Latest> {
        let Latest { files: changes, rows, incomplete, keys, taken, only, .. } = self;
        let mut gone = vec![RowSet::default(); files.len()];
        let keys = Arc::new(keys);
        let opened = stream::iter(files).map(FileRows::open).buffered(PARALLEL_FILES).enumerate();
        let parts = opened.map(|(at, parts)| parts.map(|parts| (at as u32, parts)));
        let parts = parts.map_ok(|(at, parts)| stream::iter(parts.into_iter().map(move |part| Ok((at, part)))));
        {
            let taking = |(at, part)| joined(tokio::spawn(taken_from(at, part, Arc::clone(&keys), only.clone())));
            let mut found = std::pin::pin!(parts.try_flatten().map_ok(taking).try_buffer_unordered(PARALLEL_GROUPS));
            while let Some((at, rows)) = found.try_next().await? {
                rows.into_iter().for_each(|row| gone[at as usize].insert(row));
            }
        }
        Ok(Latest { files: changes, rows, gone, incomplete, keys: alone(keys)?, taken, only })
    }

    /// Some of the keys, others at each call, until there are none. Their rows are known from then on.
    pub(super) async fn next_keys(mut self) -> Result<(Latest, Option<KnownKeys>)> {
        blocking(move || {
            let known = match std::mem::replace(&mut self.taken, true) {
                false => Some(self.keys.resident()),
                true => self.keys.recall(&mut self.gone)?,
            };
            if let Some(known) = &known {
                self.note(known)?;
            }
            Ok((self, known))
        })
        .await
    }

    fn note(&mut self, known: &KnownKeys) -> Result<()> {
        known.for_each(|key, last| {
            match last.left {
                Left::Row => {
                    if let Some(rows) = self.rows.get_mut(last.place.file as usize) {
                        rows.insert(last.place.row);
                    }
                }
                Left::Incomplete => {
                    let incomplete = match &mut self.incomplete {
                        Some(incomplete) => incomplete,
                        none => none.insert(Spill::create()?),
                    };
                    incomplete.write(key, last)?;
                }
                Left::Nothing | Left::Base => {}
            }
            Ok(())
        })
    }
}

/// What tasks that have ended shared.
fn alone(keys: Arc<Keys>) -> Result<Keys> {
    Arc::into_inner(keys).ok_or_else(|| Failure::failed("a reader has not ended"))
}

/// The rows of a part of the base, in a file with this number, that changes have taken away or that are not wanted.
async fn taken_from(at: u32, part: Part, keys: Arc<Keys>, only: Option<Arc<KeySet>>) -> Result<(u32, Vec<u32>)> {
    let mut gone = Vec::new();
    part.for_each_key(|row, key| {
        if is_left_out(&only, key) || keys.takes_from_base(key, Place { file: at, row })? {
            gone.push(row);
        }
        Ok(())
    })
    .await?;
    Ok((at, gone))
}

/// A row group of a file of changes, to be read beside others.
struct Group {
    part: Arc<FilePart>,
    relation: Arc<RelationVersion>,
    reader: DataReader,
    keys: Arc<Keys>,
    only: Option<Arc<KeySet>>,
}

fn is_left_out(only: &Option<Arc<KeySet>>, key: &[u8]) -> bool {
    only.as_ref().is_some_and(|only| !only.contains(key))
}

async fn opened(part: FilePart, keys: Arc<Keys>, only: Option<Arc<KeySet>>) -> Result<Vec<Group>> {
    let Some((reader, relation)) = part.open().await? else { return Ok(Vec::new()) };
    let (part, relation) = (Arc::new(part), Arc::new(relation));
    let groups = reader.row_groups().into_iter().map(|rows| Group {
        part: Arc::clone(&part),
        relation: Arc::clone(&relation),
        reader: reader.copy().within(&[rows]),
        keys: Arc::clone(&keys),
        only: only.clone(),
    });
    Ok(groups.filter(|group| group.reader.selected_rows() > 0).collect())
}

impl Group {
    async fn fold(self) -> Result<()> {
        let Group { part, relation, reader, keys, only } = self;
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
        let mut noted = Noted { only, ..Noted::default() };
        while let Some(batch) = batches.try_next().await? {
            noted.read(&part, &batch, &columns, &mut numbers, &keys)?;
            if noted.bytes.len() >= NOTED_BYTES {
                noted.give(&keys)?;
            }
        }
        noted.give(&keys)?;
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
    only: Option<Arc<KeySet>>,
}

impl Default for Noted {
    fn default() -> Self {
        Noted { bytes: Vec::new(), changes: vec![Vec::new(); SHARDS], latest: None, only: None }
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
                keys.truncated_at(position);
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
        if is_left_out(&self.only, key) {
            return;
        }
        if let Some((shard, bytes)) = &self.latest
            && self.bytes[bytes.clone()] == *key
            && let Some((_, _, last)) = self.changes[*shard].last_mut()
        {
            if last.position < change.position {
                *last = change;
            }
            return;
        }
        let hash = keys.hash(key);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let (shard, bytes) = (Keys::shard_of(hash), start..self.bytes.len());
        self.changes[shard].push((hash, bytes.clone(), change));
        self.latest = Some((shard, bytes));
    }

    fn give(&mut self, keys: &Keys) -> Result<()> {
        for (shard, changes) in self.changes.iter_mut().enumerate() {
            if !changes.is_empty() {
                let bytes = &self.bytes;
                keys.note(shard, changes.drain(..).map(|(hash, key, change)| (hash, &bytes[key], change)))?;
            }
        }
        self.bytes.clear();
        self.latest = None;
        Ok(())
    }
}
