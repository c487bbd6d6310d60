//! What a PostgreSQL server sends, byte by byte (manual, "Message Formats" and "Logical Replication Message Formats").

use super::model::{Row, Shape};
use super::value::Value;
use crate::model::{Lsn, Xid};

/// Microseconds from 1970 to 2000.
pub(super) const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A message under construction.
#[derive(Debug, Default, Clone)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn tagged(tag: u8) -> Bytes {
        Bytes(vec![tag])
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn i16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn i64(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn lsn(mut self, value: Lsn) -> Self {
        self.0.extend(value.0.to_be_bytes());
        self
    }

    pub(super) fn text(mut self, value: &str) -> Self {
        self.0.extend(value.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }

    /// With its length before it, as values have it.
    pub(super) fn sized(self, value: Option<&[u8]>) -> Self {
        match value {
            None => self.i32(-1),
            Some(value) => self.i32(value.len() as i32).raw(value),
        }
    }

    /// As a frame: the first byte is its tag, and its length follows.
    pub(super) fn framed(self) -> Vec<u8> {
        let mut frame = vec![self.0[0]];
        frame.extend((self.0.len() as i32 + 3).to_be_bytes());
        frame.extend(&self.0[1..]);
        frame
    }
}

pub(super) fn error(severity: &str, code: &str, message: &str) -> Vec<u8> {
    let fields = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message)];
    let body = fields.into_iter().fold(Bytes::tagged(b'E'), |bytes, (field, text)| bytes.u8(field).text(text));
    body.u8(0).framed()
}

pub(super) fn ready() -> Vec<u8> {
    Bytes::tagged(b'Z').u8(b'I').framed()
}

pub(super) fn complete(tag: &str) -> Vec<u8> {
    Bytes::tagged(b'C').text(tag).framed()
}

pub(super) fn copy_data(body: &[u8]) -> Vec<u8> {
    Bytes::tagged(b'd').raw(body).framed()
}

/// A message; where the log ends a walsender that decodes does not say here (`WalSndPrepareWrite`).
pub(super) fn wal_data(start: Lsn, sent: i64, message: &[u8]) -> Vec<u8> {
    copy_data(&Bytes::tagged(b'w').lsn(start).lsn(start).i64(sent).raw(message).0)
}

pub(super) fn keepalive(end: Lsn, sent: i64, reply: bool) -> Vec<u8> {
    copy_data(&Bytes::tagged(b'k').lsn(end).i64(sent).u8(u8::from(reply)).0)
}

/// How the output plugin was asked to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) binary: bool,
    pub(super) streaming: bool,
    pub(super) messages: bool,
}

/// A message that has a number after its kind inside of a stream.
pub(super) fn numbered(kind: u8, within: Option<Xid>) -> Bytes {
    let bytes = Bytes::tagged(kind);
    match within {
        Some(xid) => bytes.u32(xid),
        None => bytes,
    }
}

pub(super) fn begin(commit_lsn: Lsn, time: i64, xid: Xid) -> Vec<u8> {
    Bytes::tagged(b'B').lsn(commit_lsn).i64(time - POSTGRES_EPOCH).u32(xid).0
}

pub(super) fn commit(commit_lsn: Lsn, end_lsn: Lsn, time: i64) -> Vec<u8> {
    Bytes::tagged(b'C').u8(0).lsn(commit_lsn).lsn(end_lsn).i64(time - POSTGRES_EPOCH).0
}

pub(super) fn stream_start(xid: Xid, first: bool) -> Vec<u8> {
    Bytes::tagged(b'S').u32(xid).u8(u8::from(first)).0
}

pub(super) fn stream_stop() -> Vec<u8> {
    vec![b'E']
}

pub(super) fn stream_abort(xid: Xid, subxid: Xid) -> Vec<u8> {
    Bytes::tagged(b'A').u32(xid).u32(subxid).0
}

pub(super) fn stream_commit(xid: Xid, commit_lsn: Lsn, end_lsn: Lsn, time: i64) -> Vec<u8> {
    Bytes::tagged(b'c').u32(xid).u8(0).lsn(commit_lsn).lsn(end_lsn).i64(time - POSTGRES_EPOCH).0
}

pub(super) fn relation(shape: &Shape, within: Option<Xid>) -> Vec<u8> {
    let head = numbered(b'R', within).u32(shape.oid).text("public").text(&shape.name);
    let head = head.u8(shape.identity_letter() as u8).i16(shape.columns.len() as i16);
    let columns = shape.columns.iter().fold(head, |bytes, column| {
        bytes.u8(u8::from(shape.identifies(column))).text(&column.name).u32(column.kind.oid()).i32(-1)
    });
    columns.0
}

/// A row as a tuple. `before` is the row that an update replaced: what it leaves out is told by that.
fn tuple(bytes: Bytes, shape: &Shape, row: &Row, before: Option<&Row>, form: Form) -> Bytes {
    let mut bytes = bytes.i16(row.len() as i16);
    for (at, (column, value)) in shape.columns.iter().zip(row).enumerate() {
        let unchanged = before.is_some_and(|before| before[at] == *value) && column.kind.is_toasted(value);
        bytes = match value {
            None => bytes.u8(b'n'),
            Some(_) if unchanged => bytes.u8(b'u'),
            Some(text) if form.binary => bytes.u8(b'b').sized(Some(&column.kind.binary(text))),
            Some(text) => bytes.u8(b't').sized(Some(text.as_bytes())),
        };
    }
    bytes
}

/// The old row: all of it, or its key.
fn old_tuple(bytes: Bytes, shape: &Shape, old: &Row, form: Form) -> Bytes {
    if shape.identity == crate::model::Identity::Full {
        return tuple(bytes.u8(b'O'), shape, old, None, form);
    }
    let key = |(column, value): (&super::model::ColumnDefinition, &Value)| value.clone().filter(|_| column.key);
    let key: Row = shape.columns.iter().zip(old).map(key).collect();
    tuple(bytes.u8(b'K'), shape, &key, None, form)
}

pub(super) fn insert(shape: &Shape, new: &Row, within: Option<Xid>, form: Form) -> Vec<u8> {
    tuple(numbered(b'I', within).u32(shape.oid).u8(b'N'), shape, new, None, form).0
}

pub(super) fn update(shape: &Shape, old: &Row, new: &Row, within: Option<Xid>, form: Form) -> Vec<u8> {
    let moved = shape.columns.iter().enumerate().any(|(at, column)| column.key && old[at] != new[at]);
    let mut bytes = numbered(b'U', within).u32(shape.oid);
    if moved || shape.identity == crate::model::Identity::Full {
        bytes = old_tuple(bytes, shape, old, form);
    }
    tuple(bytes.u8(b'N'), shape, new, Some(old), form).0
}

pub(super) fn delete(shape: &Shape, old: &Row, within: Option<Xid>, form: Form) -> Vec<u8> {
    old_tuple(numbered(b'D', within).u32(shape.oid), shape, old, form).0
}

pub(super) fn truncate(oids: &[u32], within: Option<Xid>) -> Vec<u8> {
    let head = numbered(b'T', within).i32(oids.len() as i32).u8(0);
    oids.iter().fold(head, |bytes, oid| bytes.u32(*oid)).0
}

pub(super) fn message(lsn: Lsn, prefix: &str, content: &[u8], transactional: bool, within: Option<Xid>) -> Vec<u8> {
    let head = numbered(b'M', within).u8(u8::from(transactional)).lsn(lsn).text(prefix);
    head.sized(Some(content)).0
}

fn gid(xid: Xid) -> String {
    format!("gid {xid}")
}

pub(super) fn begin_prepare(lsn: Lsn, end: Lsn, time: i64, xid: Xid) -> Vec<u8> {
    Bytes::tagged(b'b').lsn(lsn).lsn(end).i64(time - POSTGRES_EPOCH).u32(xid).text(&gid(xid)).0
}

/// `kind` tells whether the transaction was streamed.
pub(super) fn prepare(kind: u8, lsn: Lsn, end: Lsn, time: i64, xid: Xid) -> Vec<u8> {
    Bytes::tagged(kind).u8(0).lsn(lsn).lsn(end).i64(time - POSTGRES_EPOCH).u32(xid).text(&gid(xid)).0
}

pub(super) fn commit_prepared(lsn: Lsn, end: Lsn, time: i64, xid: Xid) -> Vec<u8> {
    prepare(b'K', lsn, end, time, xid)
}

pub(super) fn rollback_prepared(prepare_end: Lsn, end: Lsn, prepare_time: i64, time: i64, xid: Xid) -> Vec<u8> {
    let head = Bytes::tagged(b'r').u8(0).lsn(prepare_end).lsn(end);
    head.i64(prepare_time - POSTGRES_EPOCH).i64(time - POSTGRES_EPOCH).u32(xid).text(&gid(xid)).0
}
