//! Keys and the last change of each, noted by several threads at once in bounded memory.
//!
//! Keys are shared out by their hashes. When all of them take more memory than they may, the largest share goes to disk,
//! and from then on what is said of its keys is written behind it. In the end each share that is on disk is read back by
//! itself, in parts where it is too large even so.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::DefaultHashBuilder;

use super::changes::Place;
use super::key_table::{Last, Left, Table};
use super::row_set::RowSet;
use super::spill::Spill;
use crate::failure::Result;
use crate::model::{Lsn, Position};

/// Parts that the keys are shared out to, so that threads seldom wait for each other.
pub(super) const SHARDS: usize = 64;

/// At most so many parts of a shard are read back one by one: the hash has bits for no more.
const MOST_PARTS: u64 = 1 << 11;

/// Bytes in memory for each byte of a change on disk, at most: tables grow by doubling.
const MEMORY_PER_SPILLED: u64 = 4;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Keys {
    hasher: DefaultHashBuilder,
    shards: Vec<Mutex<Shard>>,
    /// Bytes of the shards in memory, and how many they may have.
    held: AtomicUsize,
    limit: usize,
    /// The last truncation.
    truncation: Mutex<Option<Position>>,
}

#[derive(Debug, Default)]
struct Shard {
    table: Table,
    /// Where the shard is when it is not in memory.
    spill: Option<Spill>,
    /// Bytes of changes there.
    changed: u64,
    /// How many of its parts have been read back.
    recalled: u64,
}

/// A panic of another thread ends the reading anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keys {
    /// No keys, which may take so many bytes of memory.
    pub(super) fn new(limit: usize) -> Keys {
        Keys {
            hasher: DefaultHashBuilder::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            held: AtomicUsize::new(0),
            limit,
            truncation: Mutex::default(),
        }
    }

    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// By bits of the hash that a table does not place its entries by.
    pub(super) fn shard_of(hash: u64) -> usize {
        (hash >> 40) as usize % SHARDS
    }

    pub(super) fn truncated_at(&self, position: Position) {
        let mut last = lock(&self.truncation);
        *last = (*last).max(Some(position));
    }

    pub(super) fn truncation(&self) -> Option<Position> {
        *lock(&self.truncation)
    }

    pub(super) fn is_empty(&self) -> bool {
        let has_none = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            shard.table.is_empty() && shard.spill.is_none()
        };
        self.shards.iter().all(has_none)
    }

    /// Notes changes of keys of one shard.
    pub(super) fn note<'k>(&self, shard: usize, changes: impl Iterator<Item = (u64, &'k [u8], Last)>) -> Result<()> {
        let held = {
            let mut shard = lock(&self.shards[shard]);
            let before = shard.table.memory();
            for (hash, key, change) in changes {
                match shard.spill {
                    Some(_) => shard.write(key, &change)?,
                    None => shard.table.note(hash, key, change),
                }
            }
            let more = shard.table.memory() - before;
            self.held.fetch_add(more, Ordering::Relaxed) + more
        };
        if held > self.limit { self.make_room() } else { Ok(()) }
    }

    /// Writes the largest shards to disk until the others are few enough.
    fn make_room(&self) -> Result<()> {
        while self.held.load(Ordering::Relaxed) > self.limit {
            let sizes = self.shards.iter().map(|shard| lock(shard).table.memory());
            let Some((largest, size)) = sizes.enumerate().max_by_key(|(_, size)| *size) else { return Ok(()) };
            if size == 0 {
                return Ok(());
            }
            let mut shard = lock(&self.shards[largest]);
            let freed = shard.table.memory();
            shard.spill()?;
            self.held.fetch_sub(freed, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Says of a row of the base under which key it stands. True where a change has taken it away; where that cannot be
    /// said yet, [`Keys::recall`] will.
    pub(super) fn takes_from_base(&self, key: &[u8], place: Place) -> Result<bool> {
        let hash = self.hash(key);
        let shard = &mut *lock(&self.shards[Keys::shard_of(hash)]);
        match &mut shard.spill {
            None => Ok(shard.table.find(hash, key).is_some()),
            Some(spill) => {
                let position = Position { lsn: Lsn::ZERO, seq: 0 };
                spill.write(key, &Last { position, place, left: Left::Base }).map(|_| false)
            }
        }
    }

    /// The keys that are in memory, when all changes have been noted.
    pub(super) fn resident(&mut self) -> KnownKeys {
        self.held.store(0, Ordering::Relaxed);
        let tables = self.shards.iter_mut().map(|shard| {
            let shard = unlocked(shard);
            shard.spill.is_none().then(|| std::mem::take(&mut shard.table))
        });
        let tables = tables.collect();
        KnownKeys {
            hasher: self.hasher.clone(),
            tables,
            part: Part { number: 0, of: 1 },
            truncation: self.truncation(),
        }
    }

    /// Some of the keys that are on disk, others at each call, until there are none. Which rows of the base their changes
    /// have taken away is added to `gone`, by file.
    pub(super) fn recall(&mut self, gone: &mut [RowSet]) -> Result<Option<KnownKeys>> {
        let Some(at) = self.shards.iter_mut().position(|shard| unlocked(shard).spill.is_some()) else {
            return Ok(None);
        };
        let (hasher, truncation) = (self.hasher.clone(), self.truncation());
        let shard = unlocked(&mut self.shards[at]);
        let part = Part { number: shard.recalled, of: shard.parts(self.limit) };
        let Some(spill) = &mut shard.spill else { return Ok(None) };
        let (mut table, mut records) = (Table::default(), spill.read()?);
        while let Some((key, last)) = records.next()? {
            let hash = hasher.hash_one(key);
            if !part.has(hash) {
                continue;
            }
            if last.left != Left::Base {
                table.note(hash, key, last);
            } else if table.find(hash, key).is_some()
                && let Some(gone) = gone.get_mut(last.place.file as usize)
            {
                gone.insert(last.place.row);
            }
        }
        shard.recalled += 1;
        if shard.recalled == part.of {
            *shard = Shard::default();
        }
        let mut tables: Vec<Option<Table>> = (0..SHARDS).map(|_| None).collect();
        tables[at] = Some(table);
        Ok(Some(KnownKeys { hasher, tables, part, truncation }))
    }
}

/// Without waiting, where nobody else can have it.
fn unlocked<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Moves the keys to disk.
    fn spill(&mut self) -> Result<()> {
        let table = std::mem::take(&mut self.table);
        if self.spill.is_none() {
            self.spill = Some(Spill::create()?);
        }
        table.for_each(|key, last| self.write(key, last))
    }

    fn write(&mut self, key: &[u8], last: &Last) -> Result<()> {
        let Some(spill) = &mut self.spill else { return Ok(()) };
        self.changed += spill.write(key, last)?;
        Ok(())
    }

    /// In how many parts it is read back, so that each can be in memory.
    fn parts(&self, limit: usize) -> u64 {
        (self.changed * MEMORY_PER_SPILLED).div_ceil(limit.max(1) as u64).clamp(1, MOST_PARTS)
    }
}

/// Keys of which every change is known.
#[derive(Debug)]
pub(super) struct KnownKeys {
    hasher: DefaultHashBuilder,
    /// By shard, those that it has.
    tables: Vec<Option<Table>>,
    part: Part,
    truncation: Option<Position>,
}

impl KnownKeys {
    /// Whether changes have taken away what stood under a key; `None` where others know.
    pub(super) fn touch(&self, key: &[u8]) -> Option<bool> {
        let hash = self.hasher.hash_one(key);
        let table = self.tables[Keys::shard_of(hash)].as_ref().filter(|_| self.part.has(hash))?;
        Some(table.find(hash, key).is_some())
    }

    /// Gives each key with its last change, but for those that were truncated away since.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&[u8], &Last) -> Result<()>) -> Result<()> {
        let is_left = |last: &Last| self.truncation.is_none_or(|truncation| last.position > truncation);
        let mut visit = |key: &[u8], last: &Last| if is_left(last) { visit(key, last) } else { Ok(()) };
        self.tables.iter().flatten().try_for_each(|table| table.for_each(&mut visit))
    }
}

/// One of several equal parts of a shard.
#[derive(Debug, Clone, Copy)]
struct Part {
    number: u64,
    of: u64,
}

impl Part {
    /// By bits of the hash that neither a shard nor a table goes by.
    fn has(self, hash: u64) -> bool {
        (hash >> 46) % MOST_PARTS % self.of == self.number
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn change(seq: i64, left: Left) -> Last {
        Last { position: Position { lsn: Lsn(7), seq }, place: Place { file: 3, row: seq as u32 }, left }
    }

    #[test]
    fn no_more_is_held_than_may_be_and_no_key_is_lost() {
        const LIMIT: usize = 256 << 10;
        let mut keys = Keys::new(LIMIT);
        let key = |number: u32| format!("key number {number}").into_bytes();
        for seq in 0..60_000_u32 {
            let key = key(seq * 7 % 20_011);
            let hash = keys.hash(&key);
            let change = change(i64::from(seq), Left::Row);
            keys.note(Keys::shard_of(hash), [(hash, key.as_slice(), change)].into_iter()).unwrap();
            let held: usize = keys.shards.iter().map(|shard| lock(shard).table.memory()).sum();
            assert_eq!(held, keys.held.load(Ordering::Relaxed));
            assert!(held <= LIMIT, "{held}");
        }
        let (mut gone, mut said) = (RowSet::default(), RowSet::default());
        for number in 0..30_000 {
            if keys.takes_from_base(&key(number), Place { file: 0, row: number }).unwrap() {
                said.insert(number);
            }
        }
        let mut found = HashMap::new();
        let mut known = Some(keys.resident());
        while let Some(some) = known {
            let held: usize = some.tables.iter().flatten().map(Table::memory).sum();
            assert!(held <= LIMIT, "{held}");
            some.for_each(|key, last| {
                assert_eq!(some.touch(key), Some(true));
                assert!(found.insert(key.to_vec(), last.position.seq).is_none(), "a key came twice");
                Ok(())
            })
            .unwrap();
            known = keys.recall(std::slice::from_mut(&mut gone)).unwrap();
        }
        assert_eq!(found.len(), 20_011);
        for seq in 40_000..60_000 {
            assert!(found[&key(seq * 7 % 20_011)] >= i64::from(seq));
        }
        let [said, gone] = [said, gone].map(|rows| rows.ranges(true, 0..30_000));
        assert!(!said.is_empty() && !gone.is_empty(), "some keys were in memory and some were not");
        assert_eq!(said.iter().chain(&gone).map(|rows| rows.end - rows.start).sum::<u64>(), 20_011);
    }
}
