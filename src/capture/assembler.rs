//! From messages to batches of rows, and the decision when to publish.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant, sleep_until};

use super::catalog::identity_of;
use super::committer::{Job, Prepared};
use super::receiver::EventBatch;
use crate::archive::Publication;
use crate::columnar::ChangeBuilder;
use crate::failure::{Failure, Result};
use crate::model::{Column, Lsn, Operation, RelationVersion, TableName};
use crate::pgoutput::{self, Message, OldTuple, Tuple};
use crate::postgres::StreamEvent;
use crate::transaction::{OpenTransaction, time_of, unix_micros};

/// When to stop by oneself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    Stopped,
    /// The archive's watermark has reached this.
    Reached(Lsn),
}

/// Bytes received between two looks at the memory in use.
const BYTES_PER_LOOK: usize = 256 << 10;

/// See the module's documentation.
pub(super) struct Assembler {
    jobs: mpsc::Sender<Job>,
    flush_interval: Duration,
    flush_bytes: usize,
    until: Until,
    /// Everything below is in the archive: transactions sent again are dropped.
    resume: Lsn,
    targets: HashMap<u32, Target>,
    open: Option<OpenTransaction>,
    skipping: bool,
    bytes_since_look: usize,
    pending: Publication,
    /// What was published last.
    published: Lsn,
    deadline: Option<Instant>,
}

/// Where the rows of a relation go.
struct Target {
    relation: Arc<RelationVersion>,
    /// Rows of transactions with a smaller commit LSN are in the table already.
    applied: Lsn,
    /// Rows that wait to be written; `None` where there are none, since most tables are idle.
    builder: Option<ChangeBuilder>,
}

impl Assembler {
    pub(super) fn new(
        jobs: mpsc::Sender<Job>,
        flush_interval: Duration,
        flush_bytes: usize,
        resume: Lsn,
        until: Until,
    ) -> Assembler {
        Assembler {
            jobs,
            flush_interval,
            flush_bytes,
            until,
            resume,
            targets: HashMap::new(),
            open: None,
            skipping: false,
            bytes_since_look: 0,
            pending: Publication { end: resume, ..Publication::default() },
            published: resume,
            deadline: None,
        }
    }

    /// Works until the source's stream ends, `stop` turns true, or the wanted position is published.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<EventBatch>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        loop {
            if *stop.borrow() || self.finished() {
                return self.flush().await;
            }
            let deadline = self.deadline;
            tokio::select! {
                batch = events.recv() => match batch {
                    Some(batch) => self.take(batch).await?,
                    // The receiver says why; what is whole is published by the next session.
                    None => return Ok(()),
                },
                // While a transaction is open its end decides, not the clock.
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() && self.open.is_none() => {}
                // An error means that nobody can stop us any more.
                changed = stop.changed() => if changed.is_err() { return self.flush().await },
            }
            if self.due() {
                self.flush().await?;
            }
        }
    }

    fn due(&self) -> bool {
        self.reached(self.pending.end) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn reached(&self, position: Lsn) -> bool {
        matches!(self.until, Until::Reached(target) if position >= target)
    }

    fn finished(&self) -> bool {
        self.reached(self.published)
    }

    async fn take(&mut self, batch: EventBatch) -> Result<()> {
        for event in batch {
            match event {
                StreamEvent::WalData { body, .. } => self.message(&body).await?,
                StreamEvent::Keepalive { end, sent, .. } => self.idle_until(end, sent),
                StreamEvent::Notice(text) => self.notice(&text)?,
            }
            if self.bytes_since_look >= BYTES_PER_LOOK {
                self.write_rows_when_full().await?;
            }
        }
        Ok(())
    }

    async fn write_rows_when_full(&mut self) -> Result<()> {
        self.bytes_since_look = 0;
        let builders = self.targets.values().filter_map(|target| target.builder.as_ref());
        if builders.map(ChangeBuilder::memory).sum::<usize>() >= self.flush_bytes {
            self.write_rows().await?;
        }
        Ok(())
    }

    /// Versions 18 and later say here, and only here, that they leave changes out.
    fn notice(&self, text: &str) -> Result<()> {
        if text.contains("publication") {
            return Err(Failure::refused(format!("the source leaves changes out: {text}"))
                .remedy("restore the publication; then a new archive is needed, since changes were not sent"));
        }
        tracing::warn!("the source says: {text}");
        Ok(())
    }

    /// The source has nothing for us up to `end`.
    fn idle_until(&mut self, end: Lsn, sent: i64) {
        if self.open.is_none() && end > self.pending.end {
            self.advance(end, unix_micros(sent));
        }
    }

    fn advance(&mut self, end: Lsn, time: i64) {
        self.pending.end = end;
        self.pending.time = time_of(time);
        self.deadline.get_or_insert_with(|| Instant::now() + self.flush_interval);
    }

    async fn message(&mut self, body: &[u8]) -> Result<()> {
        self.bytes_since_look += body.len();
        let message =
            pgoutput::decode(body).map_err(|error| Failure::failed(format!("the source's stream: {error}")))?;
        match message {
            Message::Begin { commit_lsn, time, xid } => {
                self.skipping = commit_lsn < self.resume;
                self.open = Some(OpenTransaction::new(commit_lsn, xid, time));
            }
            Message::Commit { commit_lsn, end_lsn, time } => return self.commit(commit_lsn, end_lsn, time).await,
            Message::Relation(relation) => return self.relation(relation).await,
            Message::Insert { relation, new } => {
                return self.change(relation, Operation::Insert, None, Some(&new));
            }
            Message::Update { relation, old, new } => {
                return self.change(relation, Operation::Update, old.as_ref(), Some(&new));
            }
            Message::Delete { relation, old } => {
                return self.change(relation, Operation::Delete, Some(&old), None);
            }
            Message::Truncate { relations, .. } => {
                for relation in relations {
                    self.change(relation, Operation::Truncate, None, None)?;
                }
            }
            Message::Logical { transactional: true, prefix, content, .. } => {
                self.open.as_mut().ok_or_else(outside_transaction)?.message(prefix, content);
            }
            Message::Logical { transactional: false, .. } | Message::Origin { .. } | Message::Type { .. } => {}
        }
        Ok(())
    }

    fn change(
        &mut self,
        oid: u32,
        operation: Operation,
        old: Option<&OldTuple<'_>>,
        new: Option<&Tuple<'_>>,
    ) -> Result<()> {
        if self.skipping {
            return Ok(());
        }
        let target = self.targets.get_mut(&oid);
        let target =
            target.ok_or_else(|| Failure::failed(format!("the source sent a change of the unknown relation {oid}")))?;
        let transaction = self.open.as_mut().ok_or_else(outside_transaction)?;
        let place = transaction.next_place(&target.relation.name, operation);
        if place.lsn < target.applied {
            return Ok(());
        }
        let builder = target.builder.get_or_insert_with(|| ChangeBuilder::new(&target.relation));
        builder.push(place, operation, old, new)
    }

    async fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, time: i64) -> Result<()> {
        let open = self.open.take().ok_or_else(|| Failure::failed("the source sent a commit outside a transaction"))?;
        if std::mem::take(&mut self.skipping) {
            return Ok(());
        }
        let committed = open.commit(commit_lsn, end_lsn)?;
        self.pending.transactions.push(committed.transaction);
        self.pending.marks.extend(committed.marks);
        self.pending.restores.extend(committed.restores);
        self.advance(end_lsn, unix_micros(time));
        if self.due() || self.pending.transactions.len() >= MAX_TRANSACTIONS { self.flush().await } else { Ok(()) }
    }

    /// A relation message comes once a session and after every change of a table's definition.
    async fn relation(&mut self, described: pgoutput::Relation<'_>) -> Result<()> {
        let relation = relation_version(&described);
        if self.targets.get(&relation.oid).is_some_and(|known| same_source_relation(&known.relation, &relation)) {
            return Ok(());
        }
        // Rows of the version before go out with the columns that they have.
        self.write_rows_of(relation.oid).await?;
        let (reply, prepared) = oneshot::channel();
        let since = self.open.as_ref().map_or(self.pending.end, OpenTransaction::commit_lsn);
        self.send(Job::Prepare { relation, since, reply }).await?;
        let Prepared { relation, applied, record } = prepared.await.map_err(|_| committer_gone())?;
        self.pending.relations.extend(record);
        self.targets.insert(relation.oid, Target { relation: Arc::new(relation), applied, builder: None });
        Ok(())
    }

    async fn write_rows_of(&mut self, oid: u32) -> Result<()> {
        let Some(target) = self.targets.get_mut(&oid) else { return Ok(()) };
        let Some(mut builder) = target.builder.take() else { return Ok(()) };
        let (relation, batch) = (Arc::clone(&target.relation), builder.finish()?);
        self.send(Job::Rows { relation, batch }).await
    }

    async fn write_rows(&mut self) -> Result<()> {
        let full = self.targets.iter().filter(|(_, target)| target.builder.is_some());
        let oids: Vec<u32> = full.map(|(oid, _)| *oid).collect();
        for oid in oids {
            self.write_rows_of(oid).await?;
        }
        Ok(())
    }

    /// Publishes every transaction that has ended.
    async fn flush(&mut self) -> Result<()> {
        if self.open.is_some() {
            // Its rows must not be committed before its end is known; that end flushes.
            return Ok(());
        }
        self.deadline = None;
        if self.pending.end <= self.published {
            return Ok(());
        }
        self.write_rows().await?;
        let end = self.pending.end;
        let publication = std::mem::replace(&mut self.pending, Publication { end, ..Publication::default() });
        self.published = end;
        self.send(Job::Publish(publication)).await
    }

    async fn send(&mut self, job: Job) -> Result<()> {
        self.jobs.send(job).await.map_err(|_| committer_gone())
    }
}

/// Transactions published at once, at most: their summaries wait in memory.
const MAX_TRANSACTIONS: usize = 50_000;

fn outside_transaction() -> Failure {
    Failure::failed("the source sent a change outside a transaction")
}

fn committer_gone() -> Failure {
    Failure::transient("the committing stage stopped")
}

fn relation_version(described: &pgoutput::Relation<'_>) -> RelationVersion {
    let column = |column: &pgoutput::RelationColumn<'_>| {
        Column::new(column.name, column.type_oid, column.type_modifier, column.key)
    };
    let name = TableName::new(described.schema, described.name);
    let columns = described.columns.iter().map(column).collect();
    RelationVersion::new(described.oid, name, identity_of(described.identity), columns)
}

/// Whether two versions are the same to the source; stored and type names are the archive's.
pub(super) fn same_source_relation(a: &RelationVersion, b: &RelationVersion) -> bool {
    let same_column = |(a, b): (&Column, &Column)| {
        a.name == b.name && a.type_oid == b.type_oid && a.type_modifier == b.type_modifier && a.key == b.key
    };
    a.oid == b.oid
        && a.name == b.name
        && a.identity == b.identity
        && a.columns.len() == b.columns.len()
        && a.columns.iter().zip(&b.columns).all(same_column)
}
