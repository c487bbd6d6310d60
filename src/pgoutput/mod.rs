//! The messages of PostgreSQL's `pgoutput` plugin (PostgreSQL manual, "Logical Replication Message
//! Formats"): bytes to messages, without I/O and without copying a value.
//!
//! A message is checked whole when it is decoded: a length that runs past the end is an error, never a
//! panic, and a [`Tuple`] that was handed out can be walked without failing.

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::str;

use crate::model::{Lsn, Operation, Xid};

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a replication message ends early")]
    Short,
    #[error("a replication message of the unknown kind {0:?}")]
    UnknownKind(char),
    #[error("a replication message has a value of the unknown kind {0:?}")]
    UnknownValue(char),
    #[error("a name in a replication message is not UTF-8")]
    NotUtf8,
    #[error("a replication message has {0} bytes too many")]
    TrailingBytes(usize),
}

/// One decoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    Begin {
        /// The transaction's commit LSN.
        commit_lsn: Lsn,
        /// Commit timestamp, microseconds since 2000-01-01 UTC.
        time: i64,
        xid: Xid,
    },
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
        /// Microseconds since 2000-01-01 UTC.
        time: i64,
    },
    Origin {
        name: &'a str,
    },
    Relation(Relation<'a>),
    Type {
        oid: u32,
        schema: &'a str,
        name: &'a str,
    },
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<OldTuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: OldTuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// `pg_logical_emit_message`.
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: &'a str,
        content: &'a [u8],
    },
}

/// A table as the messages after this one mean it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation<'a> {
    pub oid: u32,
    pub schema: &'a str,
    pub name: &'a str,
    /// `pg_class.relreplident`: `d`, `i`, `f` or `n`.
    pub identity: u8,
    pub columns: Vec<RelationColumn<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    pub name: &'a str,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// The row as it was, as far as the replica identity has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldTuple<'a> {
    /// All columns were sent (`REPLICA IDENTITY FULL`); otherwise columns outside the key are null without meaning it.
    pub full: bool,
    pub tuple: Tuple<'a>,
}

/// A column's value as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// A TOASTed value that the change left as it was, and that was therefore not sent.
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

/// The values of a row, in the order of the relation's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub fn len(&self) -> usize {
        self.columns.into()
    }

    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The values; the tuple was checked when it was decoded.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut rest = Cursor { bytes: self.bytes };
        (0..self.columns).map_while(move |_| rest.value().ok())
    }
}

/// Decodes one message of a whole transaction, or of none.
///
/// # Errors
/// [`DecodeError`] on anything that is not exactly one message.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut rest = Cursor { bytes };
    let kind = rest.u8()?;
    let message = match kind {
        b'B' => Message::Begin { commit_lsn: rest.lsn()?, time: rest.i64()?, xid: rest.u32()? },
        b'C' => {
            rest.u8()?;
            Message::Commit { commit_lsn: rest.lsn()?, end_lsn: rest.lsn()?, time: rest.i64()? }
        }
        b'O' => {
            rest.lsn()?;
            Message::Origin { name: rest.text()? }
        }
        b'R' => Message::Relation(rest.relation()?),
        b'Y' => Message::Type { oid: rest.u32()?, schema: rest.text()?, name: rest.text()? },
        b'I' => {
            let relation = rest.u32()?;
            rest.expect(b'N')?;
            Message::Insert { relation, new: rest.tuple()? }
        }
        b'U' => rest.update()?,
        b'D' => {
            let relation = rest.u32()?;
            let kind = rest.u8()?;
            Message::Delete { relation, old: rest.old_tuple(kind)? }
        }
        b'T' => rest.truncate()?,
        b'M' => {
            let flags = rest.u8()?;
            let (lsn, prefix) = (rest.lsn()?, rest.text()?);
            let length = rest.length()?;
            Message::Logical { transactional: flags & 1 != 0, lsn, prefix, content: rest.take(length)? }
        }
        other => return Err(DecodeError::UnknownKind(other.into())),
    };
    if rest.bytes.is_empty() { Ok(message) } else { Err(DecodeError::TrailingBytes(rest.bytes.len())) }
}

/// What bounds the parts of a transaction that is sent before its end, or that ends in two phases (protocol versions 2
/// to 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// Messages of this transaction follow, each with the number of its subtransaction, up to [`Control::StreamStop`].
    StreamStart {
        xid: Xid,
    },
    StreamStop,
    StreamCommit(End),
    /// What a subtransaction sent is void; all of it where both numbers are the same.
    StreamAbort {
        xid: Xid,
        subxid: Xid,
    },
    /// Messages of a transaction that is being prepared follow, up to [`Control::Prepare`].
    BeginPrepare {
        prepare_lsn: Lsn,
        xid: Xid,
    },
    Prepare {
        xid: Xid,
    },
    /// The same for a transaction that was sent before.
    StreamPrepare {
        prepare_lsn: Lsn,
        xid: Xid,
    },
    CommitPrepared {
        end: End,
        /// The name that the application gave it.
        gid: &'a str,
    },
    RollbackPrepared {
        xid: Xid,
    },
}

/// Where and when a transaction was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub xid: Xid,
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 UTC.
    pub time: i64,
}

/// Decodes a message that is no part of a transaction's content; `None` where it is one for [`decode`].
///
/// # Errors
/// [`DecodeError`] where it is cut short. A newer server may say more at the end.
pub fn control(bytes: &[u8]) -> Result<Option<Control<'_>>, DecodeError> {
    let mut rest = Cursor { bytes };
    let control = match rest.u8()? {
        b'S' => Control::StreamStart { xid: rest.u32()? },
        b'E' => Control::StreamStop,
        b'c' => {
            let xid = rest.u32()?;
            rest.u8()?;
            let (commit_lsn, end_lsn, time) = (rest.lsn()?, rest.lsn()?, rest.i64()?);
            Control::StreamCommit(End { xid, commit_lsn, end_lsn, time })
        }
        b'A' => Control::StreamAbort { xid: rest.u32()?, subxid: rest.u32()? },
        b'b' => {
            let (prepare_lsn, _, _) = (rest.lsn()?, rest.lsn()?, rest.i64()?);
            Control::BeginPrepare { prepare_lsn, xid: rest.u32()? }
        }
        kind @ (b'P' | b'p') => {
            rest.u8()?;
            let (prepare_lsn, _, _) = (rest.lsn()?, rest.lsn()?, rest.i64()?);
            let xid = rest.u32()?;
            if kind == b'P' { Control::Prepare { xid } } else { Control::StreamPrepare { prepare_lsn, xid } }
        }
        b'K' => {
            rest.u8()?;
            let (commit_lsn, end_lsn, time, xid) = (rest.lsn()?, rest.lsn()?, rest.i64()?, rest.u32()?);
            Control::CommitPrepared { end: End { xid, commit_lsn, end_lsn, time }, gid: rest.text()? }
        }
        b'r' => {
            rest.u8()?;
            let _ = (rest.lsn()?, rest.lsn()?, rest.i64()?, rest.i64()?);
            Control::RollbackPrepared { xid: rest.u32()? }
        }
        _ => return Ok(None),
    };
    Ok(Some(control))
}

/// Takes the number of the subtransaction out of a message between [`Control::StreamStart`] and
/// [`Control::StreamStop`]: what is left is the kind and the rest of the message for [`decode`].
///
/// # Errors
/// [`DecodeError::Short`].
pub fn streamed(bytes: &[u8]) -> Result<(Xid, u8, &[u8]), DecodeError> {
    let mut rest = Cursor { bytes };
    let (kind, xid) = (rest.u8()?, rest.u32()?);
    Ok((xid, kind, rest.bytes))
}

/// The messages with which [`decode`] expects a transaction to begin and to end.
pub fn bounds(end: &End) -> ([u8; 21], [u8; 26]) {
    let (mut begin, mut commit) = ([0; 21], [0; 26]);
    begin[0] = b'B';
    begin[1..9].copy_from_slice(&end.commit_lsn.0.to_be_bytes());
    begin[9..17].copy_from_slice(&end.time.to_be_bytes());
    begin[17..21].copy_from_slice(&end.xid.to_be_bytes());
    commit[0] = b'C';
    commit[2..10].copy_from_slice(&end.commit_lsn.0.to_be_bytes());
    commit[10..18].copy_from_slice(&end.end_lsn.0.to_be_bytes());
    commit[18..26].copy_from_slice(&end.time.to_be_bytes());
    (begin, commit)
}

/// The relation that a message describes; `None` where it is another kind of message.
pub fn described(message: &[u8]) -> Option<u32> {
    let rest = message.strip_prefix(b"R")?;
    rest.first_chunk().map(|oid| u32::from_be_bytes(*oid))
}

/// Gives each relation whose rows a message changes, without decoding the rows. `rest` is what follows the kind.
pub fn changed(kind: u8, rest: &[u8], mut each: impl FnMut(u32, Operation)) {
    let mut cursor = Cursor { bytes: rest };
    let operation = match kind {
        b'I' => Operation::Insert,
        b'U' => Operation::Update,
        b'D' => Operation::Delete,
        b'T' => {
            if let Ok(Message::Truncate { relations, .. }) = cursor.truncate() {
                relations.into_iter().for_each(|oid| each(oid, Operation::Truncate));
            }
            return;
        }
        _ => return,
    };
    if let Ok(oid) = cursor.u32() {
        each(oid, operation);
    }
}

/// The bytes not yet read.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(u64::from_be_bytes).map(Lsn)
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        self.u32().map(|length| length as usize)
    }

    /// Text that ends with a zero byte.
    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let end = memchr::memchr(0, self.bytes).ok_or(DecodeError::Short)?;
        let text = self.take(end)?;
        self.u8()?;
        str::from_utf8(text).map_err(|_| DecodeError::NotUtf8)
    }

    fn expect(&mut self, kind: u8) -> Result<(), DecodeError> {
        match self.u8()? {
            found if found == kind => Ok(()),
            other => Err(DecodeError::UnknownKind(other.into())),
        }
    }

    fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        match self.u8()? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            kind @ (b't' | b'b') => {
                let length = self.length()?;
                let bytes = self.take(length)?;
                Ok(if kind == b't' { Value::Text(bytes) } else { Value::Binary(bytes) })
            }
            other => Err(DecodeError::UnknownValue(other.into())),
        }
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let columns = self.u16()?;
        let start = self.bytes;
        for _ in 0..columns {
            self.value()?;
        }
        Ok(Tuple { columns, bytes: &start[..start.len() - self.bytes.len()] })
    }

    fn old_tuple(&mut self, kind: u8) -> Result<OldTuple<'a>, DecodeError> {
        match kind {
            b'K' | b'O' => Ok(OldTuple { full: kind == b'O', tuple: self.tuple()? }),
            other => Err(DecodeError::UnknownKind(other.into())),
        }
    }

    fn update(&mut self) -> Result<Message<'a>, DecodeError> {
        let relation = self.u32()?;
        let old = match self.u8()? {
            b'N' => None,
            kind => {
                let old = self.old_tuple(kind)?;
                self.expect(b'N')?;
                Some(old)
            }
        };
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn relation(&mut self) -> Result<Relation<'a>, DecodeError> {
        let (oid, schema, name, identity) = (self.u32()?, self.text()?, self.text()?, self.u8()?);
        let count = self.u16()?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let key = self.u8()? & 1 != 0;
            let name = self.text()?;
            let type_oid = self.u32()?;
            columns.push(RelationColumn { key, name, type_oid, type_modifier: self.u32()? as i32 });
        }
        // The server leaves the schema out where it is pg_catalog.
        let schema = if schema.is_empty() { "pg_catalog" } else { schema };
        Ok(Relation { oid, schema, name, identity, columns })
    }

    fn truncate(&mut self) -> Result<Message<'a>, DecodeError> {
        let count = self.u32()?;
        let options = self.u8()?;
        let mut relations = Vec::new();
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(Message::Truncate { relations, cascade: options & 1 != 0, restart_identity: options & 2 != 0 })
    }
}
