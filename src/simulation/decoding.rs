//! Logical decoding and the output plugin: from records of the log to messages (PostgreSQL's reorderbuffer.c, pgoutput.c).
//!
//! Transactions are kept until they commit, or, where what is kept grows too large and the client takes them in parts, the
//! largest is sent as far as it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::database::{Body, Record};
use super::model::{Change, Shape};
use super::protocol::{self, Form};
use crate::model::{Lsn, Xid};

/// A message with its position.
pub(super) struct Sent {
    pub(super) start: Lsn,
    pub(super) body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Transaction {
    changes: Vec<(Lsn, Xid, Change)>,
    streamed: bool,
    /// Where it was prepared, and when.
    prepared: Option<(Lsn, Lsn, i64)>,
    /// Subtransactions of which something was streamed.
    subtransactions: BTreeSet<Xid>,
}

/// One walsender's decoding.
#[derive(Debug)]
pub(super) struct Decoder {
    form: Form,
    /// Transactions that committed before are not sent.
    start: Lsn,
    /// From where on what is prepared is sent when it is.
    two_phase_at: Option<Lsn>,
    /// Bytes that may be kept.
    memory: usize,
    /// Aborts are sent of transactions too of which nothing was (PostgreSQL 18).
    strays: bool,
    transactions: BTreeMap<Xid, Transaction>,
    /// Relations as they were described in this session, and in transactions that are being streamed.
    described: BTreeMap<u32, u64>,
    described_in: BTreeMap<(Xid, u32), u64>,
    /// Where reading has come to.
    pub(super) next: usize,
}

impl Decoder {
    pub(super) fn new(form: Form, start: Lsn, two_phase_at: Option<Lsn>, memory: usize, strays: bool) -> Decoder {
        Decoder {
            form,
            start,
            two_phase_at,
            memory,
            strays,
            transactions: BTreeMap::new(),
            described: BTreeMap::new(),
            described_in: BTreeMap::new(),
            next: 0,
        }
    }

    /// Reads a record.
    pub(super) fn read(&mut self, record: &Record, out: &mut Vec<Sent>) {
        self.next += 1;
        match &record.body {
            Body::Change { subxid, change } => {
                let transaction = self.transactions.entry(record.top).or_default();
                transaction.changes.push((record.lsn, *subxid, change.clone()));
                self.stream_when_full(record.lsn, out);
            }
            Body::Message { prefix, content } => {
                if record.lsn >= self.start && self.form.messages {
                    let body = protocol::message(record.end, prefix, content, false, None);
                    out.push(Sent { start: record.end, body });
                }
            }
            Body::SubAbort { subxid } => self.sub_abort(record, *subxid, out),
            Body::Abort => self.abort(record, out),
            Body::Commit { time } => self.commit(record, *time, out),
            Body::Prepare { time } => self.prepare(record, *time, out),
            Body::CommitPrepared { time } => self.commit_prepared(record, *time, out),
            Body::RollbackPrepared { time } => self.roll_back_prepared(record, *time, out),
            Body::Other => {}
        }
    }

    fn held(transaction: &Transaction) -> usize {
        transaction.changes.iter().map(|(_, _, change)| change.bytes()).sum()
    }

    fn stream_when_full(&mut self, at: Lsn, out: &mut Vec<Sent>) {
        if !self.form.streaming || at < self.start {
            return;
        }
        while self.transactions.values().map(Self::held).sum::<usize>() > self.memory {
            let largest = self.transactions.iter().max_by_key(|(_, transaction)| Self::held(transaction));
            let Some(xid) = largest.map(|(xid, _)| *xid) else { return };
            self.stream(xid, out);
        }
    }

    /// Sends what there is of a transaction that runs.
    fn stream(&mut self, xid: Xid, out: &mut Vec<Sent>) {
        let transaction = self.transactions.get_mut(&xid).unwrap();
        let changes = std::mem::take(&mut transaction.changes);
        let first = !std::mem::replace(&mut transaction.streamed, true);
        transaction.subtransactions.extend(changes.iter().map(|(_, subxid, _)| *subxid));
        let start = changes.first().map_or(Lsn::ZERO, |(lsn, ..)| *lsn);
        out.push(Sent { start, body: protocol::stream_start(xid, first) });
        for (lsn, subxid, change) in &changes {
            self.send(*lsn, xid, Some(*subxid), change, out);
        }
        out.push(Sent { start: Lsn::ZERO, body: protocol::stream_stop() });
    }

    fn sub_abort(&mut self, record: &Record, subxid: Xid, out: &mut Vec<Sent>) {
        let Some(transaction) = self.transactions.get_mut(&record.top) else { return };
        transaction.changes.retain(|(_, by, _)| *by != subxid);
        if transaction.streamed && transaction.subtransactions.remove(&subxid) {
            out.push(Sent { start: record.lsn, body: protocol::stream_abort(record.top, subxid) });
        }
    }

    fn abort(&mut self, record: &Record, out: &mut Vec<Sent>) {
        let Some(transaction) = self.transactions.remove(&record.top) else { return };
        self.forget_descriptions(record.top, false);
        if transaction.streamed || (self.strays && self.form.streaming) {
            out.push(Sent { start: record.lsn, body: protocol::stream_abort(record.top, record.top) });
        }
    }

    fn commit(&mut self, record: &Record, time: i64, out: &mut Vec<Sent>) {
        let xid = record.top;
        let held = self.transactions.get(&xid);
        let (streamed, empty) = held.map_or((false, true), |held| (held.streamed, held.changes.is_empty()));
        if record.lsn < self.start {
            self.transactions.remove(&xid);
            return;
        }
        if streamed {
            if !empty {
                self.stream(xid, out);
            }
            self.transactions.remove(&xid);
            self.forget_descriptions(xid, true);
            let body = protocol::stream_commit(xid, record.lsn, record.end, time);
            out.push(Sent { start: record.lsn, body });
            return;
        }
        let transaction = self.transactions.remove(&xid).unwrap_or_default();
        // What has nothing for us is not sent.
        if transaction.changes.is_empty() {
            return;
        }
        out.push(Sent { start: transaction.changes[0].0, body: protocol::begin(record.lsn, time, xid) });
        for (lsn, _, change) in &transaction.changes {
            self.send(*lsn, xid, None, change, out);
        }
        out.push(Sent { start: record.lsn, body: protocol::commit(record.lsn, record.end, time) });
    }

    fn prepare(&mut self, record: &Record, time: i64, out: &mut Vec<Sent>) {
        let Some(transaction) = self.transactions.get_mut(&record.top) else { return };
        transaction.prepared = Some((record.lsn, record.end, time));
        if self.two_phase_at.is_some() && record.lsn >= self.start {
            self.send_prepared(record.top, out);
        }
    }

    /// Sends a prepared transaction, or what is left of it.
    fn send_prepared(&mut self, xid: Xid, out: &mut Vec<Sent>) {
        let Some(transaction) = self.transactions.get(&xid) else { return };
        let Some((lsn, end, time)) = transaction.prepared else { return };
        if transaction.streamed {
            if !transaction.changes.is_empty() {
                self.stream(xid, out);
            }
            out.push(Sent { start: lsn, body: protocol::prepare(b'p', lsn, end, time, xid) });
            return;
        }
        let changes = std::mem::take(&mut self.transactions.get_mut(&xid).unwrap().changes);
        out.push(Sent { start: lsn, body: protocol::begin_prepare(lsn, end, time, xid) });
        for (lsn, _, change) in &changes {
            self.send(*lsn, xid, None, change, out);
        }
        out.push(Sent { start: lsn, body: protocol::prepare(b'P', lsn, end, time, xid) });
    }

    /// What was prepared before the client took part in it is sent now; else it has been sent, perhaps to a session before.
    fn commit_prepared(&mut self, record: &Record, time: i64, out: &mut Vec<Sent>) {
        let xid = record.top;
        let prepared = self.transactions.get(&xid).and_then(|transaction| transaction.prepared);
        let (Some(two_phase_at), Some((prepared_at, ..))) = (self.two_phase_at, prepared) else {
            return self.commit(record, time, out);
        };
        if record.lsn >= self.start {
            if prepared_at < two_phase_at {
                self.send_prepared(xid, out);
            }
            let body = protocol::commit_prepared(record.lsn, record.end, time, xid);
            out.push(Sent { start: record.lsn, body });
        }
        self.transactions.remove(&xid);
    }

    fn roll_back_prepared(&mut self, record: &Record, time: i64, out: &mut Vec<Sent>) {
        let xid = record.top;
        let prepared = self.transactions.get(&xid).and_then(|transaction| transaction.prepared);
        let (Some(_), Some((_, prepare_end, prepare_time))) = (self.two_phase_at, prepared) else {
            return self.abort(record, out);
        };
        if record.lsn >= self.start {
            let body = protocol::rollback_prepared(prepare_end, record.end, prepare_time, time, xid);
            out.push(Sent { start: record.lsn, body });
        }
        self.transactions.remove(&xid);
    }

    /// What a streamed transaction was told of relations holds from its commit on for all.
    fn forget_descriptions(&mut self, xid: Xid, committed: bool) {
        let of_it: Vec<(Xid, u32)> = self.described_in.keys().filter(|(by, _)| *by == xid).copied().collect();
        for key in of_it {
            let version = self.described_in.remove(&key);
            if let (true, Some(version)) = (committed, version) {
                self.described.insert(key.1, version);
            }
        }
    }

    fn send(&mut self, lsn: Lsn, top: Xid, within: Option<Xid>, change: &Change, out: &mut Vec<Sent>) {
        match change {
            Change::Insert { shape, .. } | Change::Update { shape, .. } | Change::Delete { shape, .. } => {
                self.describe(top, within, shape, out);
            }
            Change::Truncate { shapes } => shapes.iter().for_each(|shape| self.describe(top, within, shape, out)),
            Change::Message { .. } => {}
        }
        let body = match change {
            Change::Insert { shape, new, .. } => protocol::insert(shape, new, within, self.form),
            Change::Update { shape, old, new, .. } => protocol::update(shape, old, new, within, self.form),
            Change::Delete { shape, old, .. } => protocol::delete(shape, old, within, self.form),
            Change::Truncate { shapes } => {
                let oids: Vec<u32> = shapes.iter().map(|shape| shape.oid).collect();
                protocol::truncate(&oids, within)
            }
            // Under the number of the whole transaction, whoever wrote it.
            Change::Message { prefix, content } => protocol::message(lsn, prefix, content, true, within.map(|_| top)),
        };
        out.push(Sent { start: lsn, body });
    }

    fn describe(&mut self, top: Xid, within: Option<Xid>, shape: &Arc<Shape>, out: &mut Vec<Sent>) {
        let known = match within {
            Some(_) => self.described_in.insert((top, shape.oid), shape.version),
            None => self.described.insert(shape.oid, shape.version),
        };
        if known != Some(shape.version) {
            out.push(Sent { start: Lsn::ZERO, body: protocol::relation(shape, within) });
        }
    }
}
