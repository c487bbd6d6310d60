//! What changes since a base image did to its rows, without the rows themselves.
//!
//! Only keys and places are held in memory; the rows are fetched where they lie, in [`super::overlaid`].

use std::collections::HashMap;
use std::sync::Arc;

use super::changes::{Entry, Key, KeyPart, KeySet, Place, Range, Select};
use super::latest::Latest;
use crate::archive::{Archive, DataFile};
use crate::failure::Result;
use crate::model::{Column, Lsn, Operation, Position, RelationEvent, RelationRecord, RelationVersion, TableName};

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

/// Of which keys the rows are wanted.
#[derive(Debug)]
pub(super) enum Only<'a> {
    Keys(&'a KeySet),
    /// Of one of several parts of all keys: where an update leaves nothing out, each can be had without the others.
    Part(&'a KeyPart),
}

impl Only<'_> {
    pub(super) fn has(&self, key: &[u8]) -> bool {
        match self {
            Only::Keys(keys) => keys.contains(key),
            Only::Part(part) => part.has(key),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) files: Vec<DataFile>,
    pub(super) versions: Vec<Version>,
    slots: HashMap<Key, Slot>,
    /// Keys of others are not heeded.
    part: KeyPart,
    /// A truncation has taken the whole image away.
    pub(super) image_dropped: bool,
}

impl Overlay {
    /// Folds the changes of a range of history, in order, as far as they are of these keys; `None` where they take more
    /// memory.
    ///
    /// Where keys are named, what an update left out may lie under others: the keys that were read come back.
    pub(super) async fn read(
        range: &Range<'_>,
        only: &Only<'_>,
        memory: usize,
    ) -> Result<Option<(Overlay, Option<Arc<KeySet>>)>> {
        let (found, part, keys) = match only {
            Only::Part(part) => {
                let select = if part.is_some() { Select::Part((*part).clone()) } else { Select::All };
                let Some(found) = range.entries_in(select, memory).await? else { return Ok(None) };
                (found, (*part).clone(), None)
            }
            Only::Keys(only) => {
                let Some((found, keys)) = range.entries_with_former_keys(only, memory).await? else { return Ok(None) };
                (found, KeyPart::default(), Some(keys))
            }
        };
        let mut overlay = Overlay { files: found.files, part, ..Overlay::default() };
        found.entries.into_iter().for_each(|entry| overlay.apply(entry));
        // Where a row stood before another may stand since, whose own former keys nobody has followed.
        overlay.slots.iter_mut().filter(|(key, _)| !only.has(key)).for_each(|(_, slot)| slot.live.clear());
        Ok(Some((overlay, keys)))
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
        if !self.part.has(&key) {
            return;
        }
        let version = self.versions.len();
        self.versions.push(Version { place, base });
        self.slots.entry(key).or_default().live.push(version);
    }

    /// Takes a row away; where it was comes back if that is `wanted`.
    fn remove(&mut self, key: Key, wanted: bool) -> Option<Source> {
        if !self.part.has(&key) {
            return None;
        }
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

    /// Whether it depends on their keys which rows of the image are there.
    pub(super) fn selects_from_image(&self) -> bool {
        self.part.is_some() || self.image_dropped || self.slots.values().any(|slot| slot.image_gone > 0)
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
    if relation.identity.is_unique() && !key.is_empty() {
        let mut latest = Latest::read(&range, usize::MAX / 2, None, Vec::new()).await?;
        touched.truncated |= latest.is_truncated();
        loop {
            let (further, known) = latest.next_keys().await?;
            latest = further;
            let Some(known) = known else { return Ok(touched) };
            known.for_each(|key, _| {
                touched.keys.insert(key.into());
                Ok(())
            })?;
        }
    }
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
pub(super) fn is_before(record: &RelationRecord, position: Position, start: Lsn) -> bool {
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
