//! From messages to whole committed transactions.
//!
//! Protocol version 1 sends a transaction when it has committed, whole and with its commit LSN in
//! front, so assembling needs no buffer: a change can go on to its table as soon as it arrives, and
//! becomes visible only when the archive's watermark passes the transaction's end.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::columnar::Place;
use crate::failure::{Failure, Result};
use crate::model::{Commit, Lsn, Mark, Operation, OperationCounts, RestoreRecord, TableName, Transaction, Xid};

/// Prefix of logical messages that say who and why.
pub const CONTEXT_PREFIX: &str = "afterimage";
/// Prefix of the logical message that makes a mark.
pub const MARK_PREFIX: &str = "afterimage.mark";
/// Prefix of the logical message that reports a restore.
pub const RESTORE_PREFIX: &str = "afterimage.restore";

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A time as PostgreSQL sends it, microseconds since 2000-01-01 UTC, as microseconds since 1970.
pub fn unix_micros(postgres: i64) -> i64 {
    postgres.saturating_add(POSTGRES_EPOCH)
}

/// Microseconds since 1970 as a time. Times beyond chrono's range cannot be commit timestamps.
pub fn time_of(unix_micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(unix_micros).unwrap_or_default()
}

/// A transaction whose commit message has not arrived yet.
#[derive(Debug)]
pub struct OpenTransaction {
    commit_lsn: Lsn,
    xid: Xid,
    /// Microseconds since 1970.
    time: i64,
    next_seq: i64,
    tables: BTreeMap<TableName, OperationCounts>,
    context: Vec<Json>,
    marks: Vec<Mark>,
    restores: Vec<RestoreRecord>,
}

/// A transaction that has committed, with what it asked the archive to note.
#[derive(Debug)]
pub struct Committed {
    pub transaction: Transaction,
    pub marks: Vec<Mark>,
    pub restores: Vec<RestoreRecord>,
}

impl OpenTransaction {
    /// Begins a transaction; `time` as PostgreSQL sends it.
    pub fn new(commit_lsn: Lsn, xid: Xid, time: i64) -> OpenTransaction {
        OpenTransaction {
            commit_lsn,
            xid,
            time: unix_micros(time),
            next_seq: 0,
            tables: BTreeMap::new(),
            context: Vec::new(),
            marks: Vec::new(),
            restores: Vec::new(),
        }
    }

    pub fn commit_lsn(&self) -> Lsn {
        self.commit_lsn
    }

    /// Counts one change and says where it stands.
    pub fn next_place(&mut self, table: &TableName, operation: Operation) -> Place {
        if let Some(counts) = self.tables.get_mut(table) {
            counts.add(operation);
        } else {
            let mut counts = OperationCounts::default();
            counts.add(operation);
            self.tables.insert(table.clone(), counts);
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        Place { lsn: self.commit_lsn, seq, xid: self.xid, time: self.time }
    }

    /// Notes a logical message of the transaction; prefixes that are not ours are left to others.
    pub fn message(&mut self, prefix: &str, content: &[u8]) {
        let json = || {
            serde_json::from_slice(content)
                .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(content).into_owned()))
        };
        let time = time_of(self.time);
        match prefix {
            CONTEXT_PREFIX => self.context.push(json()),
            MARK_PREFIX => {
                let mark = json();
                let text = |key: &str| mark.get(key).and_then(Json::as_str).map(str::to_owned);
                if let Some(name) = text("name") {
                    self.marks.push(Mark { name, lsn: self.commit_lsn, time, user: text("user") });
                }
            }
            RESTORE_PREFIX => {
                self.restores.push(RestoreRecord {
                    lsn: self.commit_lsn,
                    time,
                    xid: self.xid,
                    report: json().to_string(),
                });
            }
            _ => {}
        }
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// Where the commit message belongs to another transaction.
    pub fn commit(self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<Committed> {
        if commit_lsn != self.commit_lsn {
            return Err(Failure::failed(format!(
                "the source ended transaction {} with the commit of {commit_lsn}",
                self.commit_lsn
            )));
        }
        let commit = Commit { lsn: commit_lsn, end_lsn, xid: self.xid, time: time_of(self.time) };
        let context = (!self.context.is_empty()).then(|| Json::Array(self.context).to_string());
        let transaction = Transaction { commit, tables: self.tables, context };
        Ok(Committed { transaction, marks: self.marks, restores: self.restores })
    }
}
