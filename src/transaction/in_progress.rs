//! A transaction whose end has not come, as far as it was received: what its subtransactions sent, in order, and how much
//! they changed.
//!
//! A record is the number of the subtransaction and the length of the message, four bytes each, big-endian, then the
//! message as in a whole transaction. Who keeps the records may take them out of memory: [`Records`] reads them again from
//! any pieces.

use std::collections::{HashMap, HashSet};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::model::{Operation, OperationCounts, Xid};
use crate::pgoutput;

const HEADER: usize = 8;

/// Bytes of records that are kept in one piece: growing a larger one would take twice its memory for a moment.
const PIECE: usize = 256 << 10;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct InProgress {
    /// Whole records that are in memory, after those that were taken out.
    pieces: Vec<Bytes>,
    /// Those that came last.
    newest: Vec<u8>,
    /// Bytes of both.
    memory: usize,
    /// Bytes of records that were taken out.
    taken: u64,
    /// Subtransactions that were rolled back.
    aborted: HashSet<Xid>,
    /// A logical message is among the records.
    has_messages: bool,
    doubtful: bool,
    /// What each subtransaction changed, by relation.
    counts: HashMap<Xid, Vec<(u32, OperationCounts)>>,
    /// What all of them changed that were not rolled back.
    sums: HashMap<u32, OperationCounts>,
    /// Somebody looks at the records as they come.
    watched: bool,
    /// Bytes of `newest` that were looked at.
    looked: usize,
    /// What became complete before it was looked at.
    unseen: Vec<Bytes>,
}

impl InProgress {
    /// Adds a message, its kind and the rest apart. Where that completes a piece of records, gives a look at it.
    pub fn push(&mut self, subxid: Xid, kind: u8, rest: &[u8]) -> Option<Bytes> {
        let bytes = HEADER + 1 + rest.len();
        let piece = if self.newest.len() + bytes > PIECE { self.complete() } else { None };
        self.newest.extend_from_slice(&subxid.to_be_bytes());
        self.newest.extend_from_slice(&(rest.len() as u32 + 1).to_be_bytes());
        self.newest.push(kind);
        self.newest.extend_from_slice(rest);
        self.memory += bytes;
        self.has_messages |= kind == b'M';
        pgoutput::changed(kind, rest, |oid, operation| self.count(subxid, oid, operation));
        piece
    }

    /// Ends the piece of the records that came last, and gives a look at it; `None` where none came since the one before.
    pub fn complete(&mut self) -> Option<Bytes> {
        let piece = Bytes::from(std::mem::take(&mut self.newest));
        if piece.is_empty() {
            return None;
        }
        let looked = std::mem::take(&mut self.looked);
        if self.watched && looked < piece.len() {
            self.unseen.push(piece.slice(looked..));
        }
        self.pieces.push(piece.clone());
        Some(piece)
    }

    /// Has what comes from now on kept for [`InProgress::look`].
    pub fn watch(&mut self) {
        self.watched = true;
    }

    /// The records that came since the last look, whole ones, whether their piece is complete or not.
    pub fn look(&mut self) -> Vec<Bytes> {
        let mut seen = std::mem::take(&mut self.unseen);
        if self.watched && self.looked < self.newest.len() {
            seen.push(Bytes::copy_from_slice(&self.newest[self.looked..]));
            self.looked = self.newest.len();
        }
        seen
    }

    fn count(&mut self, subxid: Xid, oid: u32, operation: Operation) {
        self.sums.entry(oid).or_default().add(operation);
        let counts = self.counts.entry(subxid).or_default();
        match counts.iter_mut().find(|(known, _)| *known == oid) {
            Some((_, counted)) => counted.add(operation),
            None => {
                let mut counted = OperationCounts::default();
                counted.add(operation);
                counts.push((oid, counted));
            }
        }
    }

    /// Voids what a subtransaction sent; false where it sent nothing.
    pub fn abort(&mut self, subxid: Xid) -> bool {
        let voided = self.counts.remove(&subxid);
        for (oid, counted) in voided.iter().flatten() {
            if let Some(sum) = self.sums.get_mut(oid) {
                *sum -= *counted;
            }
        }
        self.aborted.insert(subxid);
        self.doubtful |= self.has_messages;
        voided.is_some()
    }

    /// Whether a logical message may have been rolled back. The source sends them under the number of the whole
    /// transaction, whichever subtransaction wrote them (`pgoutput_message` in PostgreSQL's pgoutput.c, 14 to 18).
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Whether a record's subtransaction was rolled back.
    pub fn is_void(&self, subxid: Xid) -> bool {
        self.aborted.contains(&subxid)
    }

    /// What it changed so far, by relation, without what was rolled back.
    pub fn counts(&self) -> impl Iterator<Item = (u32, OperationCounts)> {
        self.sums.iter().filter(|(_, sum)| sum.total() > 0).map(|(oid, sum)| (*oid, *sum))
    }

    /// Bytes of records in memory.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes of records that were taken out.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes all complete pieces out of memory: they come after those that were taken before.
    pub fn take(&mut self) -> Vec<Bytes> {
        let pieces = std::mem::take(&mut self.pieces);
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        self.memory -= bytes;
        self.taken += bytes as u64;
        pieces
    }
}

/// Reads records from pieces, whatever their sizes.
#[derive(Debug, Default)]
pub struct Records {
    /// The beginning of a record whose end has not come.
    begun: BytesMut,
    pieces: Bytes,
}

impl Records {
    /// Adds the next piece. The one before must have been read to its end.
    pub fn add(&mut self, piece: Bytes) {
        if self.begun.is_empty() {
            self.pieces = piece;
        } else {
            self.begun.extend_from_slice(&piece);
            self.pieces = std::mem::take(&mut self.begun).freeze();
        }
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.pieces.is_empty()
    }
}

impl Iterator for Records {
    type Item = (Xid, Bytes);

    /// The next whole record; `None` where another piece is needed.
    fn next(&mut self) -> Option<(Xid, Bytes)> {
        let header = self.pieces.first_chunk::<HEADER>();
        let length = header.map(|header| {
            let [.., a, b, c, d] = *header;
            u32::from_be_bytes([a, b, c, d]) as usize
        });
        match length {
            Some(length) if self.pieces.len() >= HEADER + length => {
                let subxid = self.pieces.get_u32();
                self.pieces.advance(HEADER - size_of::<Xid>());
                Some((subxid, self.pieces.split_to(length)))
            }
            _ => {
                self.begun = BytesMut::from(std::mem::take(&mut self.pieces));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u32) -> Vec<u8> {
        let mut rest = number.to_be_bytes().to_vec();
        rest.resize(4 + number as usize % 70, b'x');
        rest
    }

    #[test]
    fn whoever_looks_sees_every_record_once() {
        let mut transaction = InProgress::default();
        assert!(transaction.look().is_empty());
        transaction.watch();
        let (mut records, mut seen) = (Records::default(), 0);
        for number in 0..20_000 {
            transaction.push(number % 7, b'I', &message(number));
            if number % 1000 == 77 || number == 19_999 {
                for piece in transaction.look() {
                    records.add(piece);
                    for (subxid, found) in records.by_ref() {
                        assert_eq!((subxid, &found[1..]), (seen % 7, message(seen).as_slice()));
                        seen += 1;
                    }
                }
                assert_eq!(seen, number + 1);
            }
        }
        assert!(transaction.look().is_empty());
    }

    #[test]
    fn records_come_back_from_pieces_of_any_size() {
        let mut transaction = InProgress::default();
        for number in 0..300 {
            transaction.push(number % 7, b'I', &message(number));
        }
        assert_eq!(transaction.memory(), transaction.complete().unwrap().len(), "one piece holds them");
        assert!(transaction.complete().is_none());
        let whole = transaction.take().concat();
        assert_eq!((transaction.memory(), transaction.taken()), (0, whole.len() as u64));
        for size in [1, 3, 8, 13, 64, 1000, whole.len()] {
            let (mut records, mut number) = (Records::default(), 0);
            for piece in whole.chunks(size) {
                records.add(Bytes::copy_from_slice(piece));
                for (subxid, found) in records.by_ref() {
                    assert_eq!(subxid, number % 7);
                    assert_eq!((found[0], &found[1..]), (b'I', message(number).as_slice()));
                    number += 1;
                }
            }
            assert_eq!(number, 300, "pieces of {size}");
            assert!(records.is_empty());
        }
    }

    #[test]
    fn what_was_rolled_back_does_not_count() {
        let mut transaction = InProgress::default();
        let of = |oid: u32| oid.to_be_bytes();
        transaction.push(1, b'I', &of(10));
        transaction.push(2, b'D', &of(10));
        transaction.push(2, b'D', &of(11));
        transaction.push(3, b'U', &of(10));
        assert!(!transaction.abort(99), "it sent nothing");
        assert!(transaction.abort(2));
        let counts: Vec<_> = transaction.counts().collect();
        assert_eq!(counts, [(10, OperationCounts { insert: 1, update: 1, ..OperationCounts::default() })]);
        assert!(transaction.is_void(2) && !transaction.is_void(1));
    }
}
