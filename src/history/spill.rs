//! What is said of keys, on disk instead of in memory: a file without a name in the system's temporary directory, written
//! in one go and then read in the same order.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};

use super::changes::Place;
use super::key_table::{Last, Left};
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Position};

/// Bytes of a record before its key: position, place, what was left, and the key's length.
const HEAD: usize = 8 + 8 + 4 + 4 + 1 + 4;

/// Bytes that are written and read at once.
const BUFFER: usize = 32 << 10;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Spill {
    file: BufWriter<File>,
    records: u64,
}

impl Spill {
    pub(super) fn create() -> Result<Spill> {
        let file = tempfile::tempfile().map_err(unusable)?;
        Ok(Spill { file: BufWriter::with_capacity(BUFFER, file), records: 0 })
    }

    /// Adds a record; its bytes come back.
    pub(super) fn write(&mut self, key: &[u8], last: &Last) -> Result<u64> {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&last.position.lsn.0.to_le_bytes());
        head[8..16].copy_from_slice(&last.position.seq.to_le_bytes());
        head[16..20].copy_from_slice(&last.place.file.to_le_bytes());
        head[20..24].copy_from_slice(&last.place.row.to_le_bytes());
        head[24] = last.left as u8;
        head[25..].copy_from_slice(&(key.len() as u32).to_le_bytes());
        self.file.write_all(&head).and_then(|()| self.file.write_all(key)).map_err(unusable)?;
        self.records += 1;
        Ok((HEAD + key.len()) as u64)
    }

    /// From the first record on.
    pub(super) fn read(&mut self) -> Result<Records<'_>> {
        self.file.flush().and_then(|()| self.file.get_mut().rewind()).map_err(unusable)?;
        Ok(Records { file: BufReader::with_capacity(BUFFER, self.file.get_mut()), left: self.records, key: Vec::new() })
    }
}

/// The records of a [`Spill`], one after the other.
#[derive(Debug)]
pub(super) struct Records<'a> {
    file: BufReader<&'a mut File>,
    left: u64,
    key: Vec<u8>,
}

impl Records<'_> {
    pub(super) fn next(&mut self) -> Result<Option<(&[u8], Last)>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut head = [0; HEAD];
        self.file.read_exact(&mut head).map_err(unusable)?;
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
        let last = Last {
            position: Position { lsn: Lsn(long(0)), seq: long(8) as i64 },
            place: Place { file: short(16), row: short(20) },
            left: Left::of(head[24]),
        };
        self.key.resize(short(25) as usize, 0);
        self.file.read_exact(&mut self.key).map_err(unusable)?;
        Ok(Some((&self.key, last)))
    }
}

fn unusable(error: io::Error) -> Failure {
    Failure::failed(format!("keys that do not fit into memory, in {}: {error}", std::env::temp_dir().display()))
        .remedy("make room there, or name another directory in TMPDIR, or give more memory")
}
