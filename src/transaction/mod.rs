//! From messages to whole committed transactions.
//!
//! A committed transaction comes whole and with its commit LSN in front, so assembling needs no buffer: a change can go on
//! to its table as soon as it arrives, and becomes visible only when the archive's watermark passes the transaction's end.
//! One that is sent while it runs is kept as [`InProgress`] until it has committed, and then comes like any other.

mod context;
mod definition;
mod in_progress;
mod watched;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::columnar::Place;
use crate::failure::{Failure, Result};
use crate::model::{
    Commit, DdlRecord, LogicalMessage, Lsn, Mark, Operation, OperationCounts, Position, RestoreRecord, SequenceSample,
    TableName, Transaction, Xid,
};

pub use in_progress::{InProgress, Records};
pub use watched::{Glimpse, GlimpseReceiver, GlimpseSender, Onlooker, Running, RunningTransaction, glimpses};

pub use definition::{
    Cover, DDL_PREFIX, DdlMessage, Definition, END_PREFIX, OBSERVED, ROW_PREFIX, RelationNow, Rows, told_row,
};

/// Prefix of logical messages in which applications say who and why.
pub const CONTEXT_PREFIX: &str = "afterimage";
/// Prefix of the logical message in which the source's trigger says who wrote and with which statement.
pub const STATEMENT_PREFIX: &str = "afterimage.statement";
/// Prefix of the logical message that makes a mark.
pub const MARK_PREFIX: &str = "afterimage.mark";
/// Prefix of the logical message that reports a restore.
pub const RESTORE_PREFIX: &str = "afterimage.restore";

/// Prefix of the logical message that samples sequences.
pub const SEQUENCES_PREFIX: &str = "afterimage.sequences";

/// Prefix of the logical message that says that a base image was taken; it only moves an idle source's log on.
pub const IMAGE_PREFIX: &str = "afterimage.image";

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
    ddl: Vec<DdlRecord>,
    messages: Vec<LogicalMessage>,
}

/// A transaction that has committed, with what it asked the archive to note.
#[derive(Debug)]
pub struct Committed {
    pub transaction: Transaction,
    pub marks: Vec<Mark>,
    pub restores: Vec<RestoreRecord>,
    pub ddl: Vec<DdlRecord>,
    pub messages: Vec<LogicalMessage>,
}

/// What a message [`SEQUENCES_PREFIX`] says: an array of objects with `schema`, `name`, `value` and `called`.
pub fn sequence_samples(message: &LogicalMessage) -> Vec<SequenceSample> {
    let sampled: Vec<Json> = serde_json::from_slice(&message.content).unwrap_or_default();
    let sample = |sample: &Json| {
        Some(SequenceSample {
            position: message.position,
            time: message.time,
            name: TableName::new(sample["schema"].as_str()?, sample["name"].as_str()?),
            value: sample["value"].as_i64()?,
            called: sample["called"].as_bool()?,
        })
    };
    sampled.iter().filter_map(sample).collect()
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
            ddl: Vec::new(),
            messages: Vec::new(),
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
        self.uncounted_place()
    }

    /// Says where something stands that is no change to rows.
    pub fn uncounted_place(&mut self) -> Place {
        let Position { lsn, seq } = self.next_position();
        Place { lsn, seq, xid: self.xid, time: self.time }
    }

    /// Where the next change will stand. What comes at another time in every session must not take a place.
    pub fn position(&self) -> Position {
        Position { lsn: self.commit_lsn, seq: self.next_seq }
    }

    /// A place without what a row needs.
    pub fn next_position(&mut self) -> Position {
        let seq = self.next_seq;
        self.next_seq += 1;
        Position { lsn: self.commit_lsn, seq }
    }

    /// Notes a statement that changed definitions, as DDL capture told it.
    pub fn ddl(&mut self, message: DdlMessage) {
        let relations = message.relations.iter().map(|relation| relation.definition.json().clone());
        let objects = Json::Array(relations.chain(message.objects).collect());
        let position = self.next_position();
        self.ddl.push(DdlRecord {
            position,
            time: time_of(self.time),
            xid: self.xid,
            tag: message.tag,
            statement: message.statement,
            user: message.user,
            application: message.application,
            client: message.client,
            objects: objects.to_string(),
            dropped: Json::Array(message.dropped).to_string(),
            failed: message.failed,
        });
    }

    /// Notes a logical message of the transaction: ours as what they say, all others as they are.
    pub fn message(&mut self, prefix: &str, content: &[u8]) {
        let json = || {
            serde_json::from_slice(content)
                .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(content).into_owned()))
        };
        let time = time_of(self.time);
        match prefix {
            CONTEXT_PREFIX => self.context.push(context::claimed(json())),
            STATEMENT_PREFIX => self.context.push(context::noted(json())),
            MARK_PREFIX => {
                let mark = json();
                let text = |key: &str| mark.get(key).and_then(Json::as_str).map(str::to_owned);
                if let Some(name) = text("name") {
                    // Whoever writes marks by hand need not say why.
                    let kind = serde_json::from_value(mark["kind"].clone()).unwrap_or_default();
                    self.marks.push(Mark { name, kind, lsn: self.commit_lsn, time, user: text("user") });
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
            IMAGE_PREFIX | END_PREFIX => {}
            _ => {
                let position = self.next_position();
                let (prefix, content) = (prefix.to_owned(), content.to_vec());
                self.messages.push(LogicalMessage { position, time, xid: Some(self.xid), prefix, content });
            }
        }
    }

    /// The same at the place of `begun`: it was gathered before that was known.
    pub fn placed(mut self, begun: &OpenTransaction) -> OpenTransaction {
        let (lsn, micros) = (begun.commit_lsn, begun.time);
        let time = time_of(micros);
        (self.commit_lsn, self.time) = (lsn, micros);
        self.marks.iter_mut().for_each(|mark| (mark.lsn, mark.time) = (lsn, time));
        self.restores.iter_mut().for_each(|restore| (restore.lsn, restore.time) = (lsn, time));
        self.ddl.iter_mut().for_each(|ddl| (ddl.position.lsn, ddl.time) = (lsn, time));
        self.messages.iter_mut().for_each(|message| (message.position.lsn, message.time) = (lsn, time));
        self
    }

    /// When it was committed, microseconds since 1970.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// Where the commit message belongs to another transaction.
    pub fn commit(mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<Committed> {
        if commit_lsn != self.commit_lsn {
            return Err(Failure::failed(format!(
                "the source ended transaction {} with the commit of {commit_lsn}",
                self.commit_lsn
            )));
        }
        let commit = Commit { lsn: commit_lsn, end_lsn, xid: self.xid, time: time_of(self.time) };
        let context = std::mem::take(&mut self.context);
        let context = (!context.is_empty()).then(|| Json::Array(context).to_string());
        let transaction = Transaction { commit, tables: std::mem::take(&mut self.tables), context };
        let OpenTransaction { marks, restores, ddl, messages, .. } = self;
        Ok(Committed { transaction, marks, restores, ddl, messages })
    }
}
