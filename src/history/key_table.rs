//! A table of keys and the last change of each, in one piece of memory.

use hashbrown::HashTable;

use super::changes::Place;
use crate::failure::Result;
use crate::model::Position;

/// What a key's change left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Left {
    Nothing,
    Row,
    /// A row of which the change did not bring all values.
    Incomplete,
    /// Not a change: the base has a row there.
    Base,
}

impl Left {
    /// The inverse of `as u8`.
    pub(super) fn of(number: u8) -> Left {
        [Left::Nothing, Left::Row, Left::Incomplete]
            .into_iter()
            .find(|left| *left as u8 == number)
            .unwrap_or(Left::Base)
    }
}

/// A change of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) position: Position,
    pub(super) place: Place,
    pub(super) left: Left,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The hash, and the number of the key.
    places: HashTable<(u64, u32)>,
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

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.places.allocation_size() + self.bytes.capacity() + self.known.capacity() * size_of::<Known>()
    }

    fn key(&self, known: &Known) -> &[u8] {
        &self.bytes[known.start..known.start + known.length]
    }

    /// Finds the number of a key.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is_it = |(known, at): &(u64, u32)| *known == hash && self.key(&self.known[*at as usize]) == key;
        self.places.find(hash, is_it).map(|(_, at)| *at as usize)
    }

    /// Notes a change of a key: of all of them the last is kept.
    pub(super) fn note(&mut self, hash: u64, key: &[u8], change: Last) {
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
        self.places.insert_unique(hash, (hash, at), |(hash, _)| *hash);
    }

    /// Gives each key with its last change.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&[u8], &Last) -> Result<()>) -> Result<()> {
        self.known.iter().try_for_each(|known| visit(self.key(known), &known.last))
    }
}
