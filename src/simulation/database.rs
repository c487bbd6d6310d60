//! The simulated source: its log, its tables, its slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use super::model::{Change, Committed, Running, Shape, State, Table};
use crate::machine;
use crate::model::{Lsn, Xid};
use crate::transaction::{DDL_PREFIX, END_PREFIX};

/// The database's name, and its cluster's number.
pub(super) const DATABASE: &str = "sim";
pub(super) const SYSTEM_IDENTIFIER: u64 = 7_000_000_000_000_000_001;

/// One record of the log.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    /// The transaction; zero for none.
    pub(super) top: Xid,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Change {
        subxid: Xid,
        change: Change,
    },
    /// A message that belongs to no transaction.
    Message {
        prefix: String,
        content: Vec<u8>,
    },
    /// A subtransaction was rolled back.
    SubAbort {
        subxid: Xid,
    },
    Abort,
    Commit {
        time: i64,
    },
    Prepare {
        time: i64,
    },
    CommitPrepared {
        time: i64,
    },
    RollbackPrepared {
        time: i64,
    },
    /// What concerns nobody here.
    Other,
}

#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) confirmed: Lsn,
    /// What of that a crash of the server leaves.
    pub(super) persisted: Lsn,
    /// The connection that streams from it.
    pub(super) active: Option<u64>,
    /// The connection that it ends with.
    pub(super) temporary: Option<u64>,
    pub(super) lost: bool,
    /// From where on what is prepared is sent when it is.
    pub(super) two_phase_at: Option<Lsn>,
}

#[derive(Debug, Default)]
pub(super) struct Database {
    pub(super) log: Vec<Record>,
    position: Lsn,
    next_xid: Xid,
    pub(super) next_row: u64,
    next_shape: u64,
    /// What is committed.
    pub(super) state: State,
    pub(super) running: BTreeMap<Xid, Running>,
    pub(super) commits: Vec<Committed>,
    pub(super) slots: BTreeMap<String, Slot>,
    pub(super) snapshots: BTreeMap<String, State>,
    pub(super) publications: BTreeSet<String>,
    /// The archiver's event triggers are installed.
    pub(super) captures_ddl: bool,
    /// Tables whose first rows no change in the log made.
    pub(super) told: BTreeSet<u32>,
    next_oid: u32,
}

impl Database {
    pub(super) fn new() -> Database {
        Database {
            position: Lsn(0x0100_0000),
            next_xid: 700,
            next_row: 1,
            next_shape: 1,
            next_oid: 17_000,
            ..Database::default()
        }
    }

    /// Where the log ends.
    pub(super) fn position(&self) -> Lsn {
        self.position
    }

    fn write(&mut self, top: Xid, body: Body) -> Record {
        // Records are aligned, and pages have headers: positions are no plain count.
        let lsn = self.position;
        let length = match &body {
            Body::Change { change, .. } => 40 + change.bytes() as u64,
            _ => 48,
        };
        self.position = Lsn(lsn.0 + length.next_multiple_of(8));
        let record = Record { lsn, end: self.position, top, body };
        self.log.push(record.clone());
        record
    }

    /// Something that is in no stream, such as a vacuum's work.
    pub(super) fn write_other(&mut self) {
        self.write(0, Body::Other);
    }

    pub(super) fn create_table(&mut self, shape: Shape) {
        let shape = Arc::new(Shape { version: self.next_version(), ..shape });
        self.state.insert(shape.oid, Arc::new(Table { shape, rows: BTreeMap::new() }));
    }

    pub(super) fn next_version(&mut self) -> u64 {
        self.next_shape += 1;
        self.next_shape
    }

    pub(super) fn new_oid(&mut self) -> u32 {
        self.next_oid += 1;
        self.next_oid
    }

    /// Gives a table another shape, in a transaction of its own.
    pub(super) fn alter_table(&mut self, oid: u32, alter: impl FnOnce(&mut Table)) {
        let version = self.next_version();
        let xid = self.begin();
        let mut table = self.state[&oid].as_ref().clone();
        alter(&mut table);
        Arc::make_mut(&mut table.shape).version = version;
        let message = json!({
            "publication": "afterimage", "tag": "ALTER TABLE", "statement": "ALTER TABLE …", "user": "archiver",
            "relations": [{ "definition": table.shape.described(), "cover": "covered" }],
        });
        self.state.insert(oid, Arc::new(table));
        if self.captures_ddl {
            for (prefix, content) in [(DDL_PREFIX, message.to_string()), (END_PREFIX, String::new())] {
                self.change(xid, Change::Message { prefix: prefix.to_owned(), content: content.into_bytes() });
            }
        }
        self.commit(xid);
    }

    pub(super) fn begin(&mut self) -> Xid {
        let xid = self.new_xid();
        self.running.insert(xid, Running { open: vec![xid], ..Running::default() });
        xid
    }

    fn new_xid(&mut self) -> Xid {
        self.next_xid += 1;
        self.next_xid
    }

    pub(super) fn savepoint(&mut self, xid: Xid) {
        let subxid = self.new_xid();
        self.running.get_mut(&xid).unwrap().open.push(subxid);
    }

    /// Rolls the innermost subtransaction back.
    pub(super) fn roll_back_to_savepoint(&mut self, xid: Xid) {
        let running = self.running.get_mut(&xid).unwrap();
        if running.open.len() < 2 {
            return;
        }
        let subxid = running.open.pop().unwrap();
        // A subtransaction that was released within it goes with it, under a number of its own.
        let gone: BTreeSet<Xid> =
            running.done.iter().map(|(by, _)| *by).filter(|by| *by >= subxid).chain([subxid]).collect();
        running.done.retain(|(by, _)| !gone.contains(by));
        for subxid in gone {
            self.write(xid, Body::SubAbort { subxid });
        }
    }

    pub(super) fn release_savepoint(&mut self, xid: Xid) {
        let running = self.running.get_mut(&xid).unwrap();
        if running.open.len() > 1 {
            running.open.pop();
        }
    }

    pub(super) fn change(&mut self, xid: Xid, change: Change) -> Lsn {
        let running = self.running.get_mut(&xid).unwrap();
        let subxid = *running.open.last().unwrap();
        match &change {
            Change::Insert { shape, id, .. } | Change::Update { shape, id, .. } | Change::Delete { shape, id, .. } => {
                running.rows.insert(*id);
                running.tables.insert(shape.oid);
            }
            Change::Truncate { shapes } => running.tables.extend(shapes.iter().map(|shape| shape.oid)),
            Change::Message { .. } => {}
        }
        running.done.push((subxid, change.clone()));
        self.write(xid, Body::Change { subxid, change }).lsn
    }

    /// The tables as a transaction sees them.
    pub(super) fn seen_by(&self, xid: Xid) -> State {
        let mut state = self.state.clone();
        self.running[&xid].done.iter().for_each(|(_, change)| change.apply(&mut state));
        state
    }

    pub(super) fn abort(&mut self, xid: Xid) {
        let time = machine::now().timestamp_micros();
        let prepared = self.running.remove(&xid).is_some_and(|running| running.prepared);
        self.write(xid, if prepared { Body::RollbackPrepared { time } } else { Body::Abort });
    }

    pub(super) fn prepare(&mut self, xid: Xid) {
        self.running.get_mut(&xid).unwrap().prepared = true;
        let time = machine::now().timestamp_micros();
        self.write(xid, Body::Prepare { time });
    }

    pub(super) fn commit(&mut self, xid: Xid) {
        let Running { done, prepared, .. } = self.running.remove(&xid).unwrap();
        let changes: Vec<Change> = done.into_iter().map(|(_, change)| change).collect();
        changes.iter().for_each(|change| change.apply(&mut self.state));
        let time = machine::now().timestamp_micros();
        let Record { lsn, end, .. } =
            self.write(xid, if prepared { Body::CommitPrepared { time } } else { Body::Commit { time } });
        let state = self.state.clone();
        self.commits.push(Committed { lsn, end_lsn: end, xid, time, changes, state });
    }

    /// Does what `pg_logical_emit_message` does outside of a transaction block.
    pub(super) fn emit(&mut self, transactional: bool, prefix: &str, content: &[u8]) -> Lsn {
        let (prefix, content) = (prefix.to_owned(), content.to_vec());
        if !transactional {
            return self.write(0, Body::Message { prefix, content }).end;
        }
        let xid = self.begin();
        let lsn = self.change(xid, Change::Message { prefix, content });
        self.commit(xid);
        lsn
    }

    /// The server stops, and comes back: what ran is gone, and so is what slots had not written down.
    pub(super) fn restart(&mut self) {
        let unprepared = self.running.iter().filter(|(_, running)| !running.prepared).map(|(xid, _)| *xid);
        let unprepared: Vec<Xid> = unprepared.collect();
        unprepared.into_iter().for_each(|xid| self.abort(xid));
        self.slots.retain(|_, slot| slot.temporary.is_none());
        for slot in self.slots.values_mut() {
            slot.confirmed = slot.persisted;
            slot.active = None;
        }
        self.snapshots.clear();
    }

    /// A connection has ended.
    pub(super) fn disconnected(&mut self, connection: u64) {
        self.slots.retain(|_, slot| slot.temporary != Some(connection));
        for slot in self.slots.values_mut().filter(|slot| slot.active == Some(connection)) {
            slot.active = None;
        }
    }
}
