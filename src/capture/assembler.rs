//! From messages to batches of rows, and the decision when to publish.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::addition::Addition;
use super::committer::{Defined, Job, KnownRows, Prepared};
use super::early::EncodedTransaction;
use super::open_file::BATCH_BYTES;
use super::spool::{Ordered, OrderedBatch};
use super::synchronous::Pace;
use super::terms::{Terms, can_be_binary};
use crate::archive::Publication;
use crate::columnar::ChangeBuilder;
use crate::copy_format::TextRow;
use crate::failure::{Failure, Result};
use crate::machine;
use crate::model::{
    Column, Identity, LogicalMessage, Lsn, Operation, Position, RelationEvent, RelationRecord, RelationVersion,
    TableName,
};
use crate::pgoutput::{self, Message, OldTuple, Tuple};
use crate::transaction::{
    Cover, DDL_PREFIX, DdlMessage, IMAGE_PREFIX, OBSERVED, OpenTransaction, ROW_PREFIX, RelationNow, Rows,
    SEQUENCES_PREFIX, sequence_samples, time_of, told_row, unix_micros,
};

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
    pace: Pace,
    until: Until,
    /// Whose DDL capture is ours.
    publication: String,
    /// Of a session that gets values in binary.
    binary: Option<Terms>,
    /// Tables that need a base image are named here.
    wanted_images: mpsc::UnboundedSender<u32>,
    /// Tables whose rows are not known now.
    unseen: HashSet<u32>,
    /// Base images whose place in history has not been reached yet.
    additions: Vec<Addition>,
    /// Messages outside of transactions, which the next publication beyond them takes along.
    messages: Vec<LogicalMessage>,
    told: TextRow,
    /// Tables that the open transaction was the first to show, and of which it has not said yet where they come from.
    newcomers: Vec<u32>,
    /// Everything below is in the archive: transactions sent again are dropped.
    resume: Lsn,
    targets: HashMap<u32, Target>,
    open: Option<OpenTransaction>,
    bytes_since_look: usize,
    pending: Publication,
    /// What was published last.
    published: Lsn,
    deadline: Option<Instant>,
}

/// Where the rows of a relation go.
struct Target {
    relation: Arc<RelationVersion>,
    /// Rows of transactions with a smaller commit LSN are in the table already. `None` before the table is ready for rows,
    /// since most relation versions get none.
    applied: Option<Lsn>,
    /// Rows that wait to be written; `None` where there are none, since most tables are idle.
    builder: Option<ChangeBuilder>,
}

impl Assembler {
    pub(super) fn new(
        jobs: mpsc::Sender<Job>,
        pace: Pace,
        publication: String,
        wanted_images: mpsc::UnboundedSender<u32>,
        unseen: HashSet<u32>,
        resume: Lsn,
        until: Until,
    ) -> Assembler {
        Assembler {
            jobs,
            pace,
            until,
            publication,
            binary: None,
            wanted_images,
            unseen,
            additions: Vec::new(),
            messages: Vec::new(),
            told: TextRow::new(),
            newcomers: Vec::new(),
            resume,
            targets: HashMap::new(),
            open: None,
            bytes_since_look: 0,
            pending: Publication { end: resume, ..Publication::default() },
            published: resume,
            deadline: None,
        }
    }

    /// Expects values in binary. Where a table comes up of which they would not say enough, the terms are changed.
    pub(super) fn in_binary(self, terms: Terms) -> Assembler {
        Assembler { binary: Some(terms), ..self }
    }

    /// Works until the source's stream ends, `stop` turns true, or the wanted position is published.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<OrderedBatch>,
        mut additions: mpsc::Receiver<Addition>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        loop {
            if *stop.borrow() || self.finished() {
                return self.flush().await;
            }
            let deadline = self.deadline;
            tokio::select! {
                // What comes now and then goes before what can come without end.
                biased;
                // An error means that nobody can stop us any more.
                changed = stop.changed() => if changed.is_err() { return self.flush().await },
                // While a transaction is open its end decides, not the clock.
                () = self.pace.due(deadline.unwrap_or_else(machine::instant), self.published), if deadline.is_some() && self.open.is_none() => {}
                Some(addition) = additions.recv() => self.additions.push(addition),
                batch = events.recv() => match batch {
                    Some(batch) => self.take(batch).await?,
                    // The receiver says why; what is whole is published by the next session.
                    None => return Ok(()),
                },
            }
            if self.due() {
                self.flush().await?;
            }
        }
    }

    fn due(&self) -> bool {
        self.reached(self.pending.end)
            || self.deadline.is_some_and(|deadline| self.pace.is_due(deadline, self.published))
    }

    fn reached(&self, position: Lsn) -> bool {
        matches!(self.until, Until::Reached(target) if position >= target)
    }

    fn finished(&self) -> bool {
        self.reached(self.published)
    }

    async fn take(&mut self, batch: OrderedBatch) -> Result<()> {
        for event in batch {
            match event {
                Ordered::Message(body) => self.message(&body).await?,
                Ordered::Encoded { transaction, taken } => {
                    // Whoever does not hear the answer ends with the session.
                    let _ = taken.send(self.encoded(transaction).await?);
                }
                Ordered::Idle { end, sent } => self.idle_until(end, sent),
                Ordered::Notice(text) => self.notice(&text)?,
            }
            if self.bytes_since_look >= BYTES_PER_LOOK {
                self.write_rows_when_full().await?;
            }
        }
        Ok(())
    }

    /// Hands on the rows of the tables that have the most, until the rest fits.
    async fn write_rows_when_full(&mut self) -> Result<()> {
        self.bytes_since_look = 0;
        let builders = self.targets.iter().filter_map(|(oid, target)| Some((*oid, target.builder.as_ref()?)));
        let mut sizes: Vec<(usize, u32)> = builders.map(|(oid, builder)| (builder.memory(), oid)).collect();
        let mut held: usize = sizes.iter().map(|(bytes, _)| bytes).sum();
        sizes.sort_unstable();
        let goal = if held > self.pace.flush_bytes { self.pace.flush_bytes / 2 } else { held };
        while let Some((bytes, oid)) = sizes.pop() {
            if bytes < BATCH_BYTES && held <= goal {
                break;
            }
            self.write_rows_of(oid).await?;
            held -= bytes;
        }
        Ok(())
    }

    /// Takes a transaction that was encoded while it ran in place of its messages; false where a table is not what it was
    /// taken for.
    async fn encoded(&mut self, encoded: EncodedTransaction) -> Result<bool> {
        let relations: Vec<_> = encoded.tables.iter().map(|table| Arc::clone(&table.relation)).collect();
        for relation in relations {
            self.make_ready(relation.oid).await?;
            if self.targets.get(&relation.oid).is_none_or(|target| target.relation != relation) {
                return Ok(false);
            }
        }
        let open = self.open.as_ref().ok_or_else(outside_transaction)?;
        let transaction = encoded.transaction.placed(open);
        let (lsn, time) = (transaction.commit_lsn(), transaction.time());
        self.open = Some(transaction);
        for table in encoded.tables {
            if self.targets.get(&table.relation.oid).is_some_and(|target| target.has(lsn)) {
                continue;
            }
            for file in table.files {
                self.send(Job::Place { name: table.relation.name.clone(), file, lsn, time }).await?;
            }
        }
        tracing::debug!("the transaction of {lsn} was encoded while it ran");
        Ok(true)
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
        self.pace.reached.decoded(end);
        self.pending.time = time_of(time);
        self.deadline.get_or_insert_with(|| machine::instant() + self.pace.flush_interval);
    }

    async fn message(&mut self, body: &[u8]) -> Result<()> {
        self.bytes_since_look += body.len();
        let message =
            pgoutput::decode(body).map_err(|error| Failure::failed(format!("the source's stream: {error}")))?;
        match message {
            Message::Begin { commit_lsn, time, xid } => {
                self.open = Some(OpenTransaction::new(commit_lsn, xid, time));
            }
            Message::Commit { commit_lsn, end_lsn, time } => return self.commit(commit_lsn, end_lsn, time).await,
            Message::Relation(relation) => return self.relation(relation).await,
            Message::Insert { relation, new } => {
                self.make_ready(relation).await?;
                return self.change(relation, Operation::Insert, None, Some(&new));
            }
            Message::Update { relation, old, new } => {
                self.make_ready(relation).await?;
                return self.change(relation, Operation::Update, old.as_ref(), Some(&new));
            }
            Message::Delete { relation, old } => {
                self.make_ready(relation).await?;
                return self.change(relation, Operation::Delete, Some(&old), None);
            }
            Message::Truncate { relations, .. } => {
                for relation in relations {
                    self.make_ready(relation).await?;
                    self.change(relation, Operation::Truncate, None, None)?;
                }
            }
            Message::Logical { transactional: true, prefix, content, .. } => {
                return self.transactional_message(prefix, content).await;
            }
            Message::Logical { transactional: false, lsn, prefix, content } => {
                self.message_of_none(lsn, prefix, content)
            }
            Message::Origin { .. } | Message::Type { .. } => {}
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
        let target = self.targets.get_mut(&oid);
        let target =
            target.ok_or_else(|| Failure::failed(format!("the source sent a change of the unknown relation {oid}")))?;
        let transaction = self.open.as_mut().ok_or_else(outside_transaction)?;
        let place = transaction.next_place(&target.relation.name, operation);
        if target.has(place.lsn) {
            return Ok(());
        }
        let builder = target.builder.get_or_insert_with(|| ChangeBuilder::new(&target.relation));
        builder.push(place, operation, old, new)
    }

    /// Readies a table for rows of a version that was described but has had none.
    async fn make_ready(&mut self, oid: u32) -> Result<()> {
        let Some(target) = self.targets.get(&oid).filter(|target| target.applied.is_none()) else { return Ok(()) };
        let relation = target.relation.as_ref().clone();
        self.prepare(relation).await
    }

    async fn transactional_message(&mut self, prefix: &str, content: &[u8]) -> Result<()> {
        match prefix {
            ROW_PREFIX => return self.told_row(content).await,
            // Anybody can write anything under any prefix, and what is not ours is kept as it is.
            DDL_PREFIX => match DdlMessage::parse(content) {
                Ok(message) if message.publication == self.publication => return self.ddl(message).await,
                Ok(_) => {}
                Err(failure) => tracing::warn!("{failure}"),
            },
            _ => {}
        }
        self.open.as_mut().ok_or_else(outside_transaction)?.message(prefix, content);
        Ok(())
    }

    /// A message outside of any transaction is at its own place.
    fn message_of_none(&mut self, lsn: Lsn, prefix: &str, content: &[u8]) {
        if lsn < self.resume {
            return;
        }
        self.messages.push(LogicalMessage {
            position: Position { lsn, seq: -1 },
            time: self.pending.time,
            xid: None,
            prefix: prefix.to_owned(),
            content: content.to_vec(),
        });
    }

    /// What a statement did to definitions.
    async fn ddl(&mut self, message: DdlMessage) -> Result<()> {
        if let Some(problem) = &message.failed {
            tracing::warn!("the source could not describe what {} did: {problem}", message.tag);
        }
        for now in message.relations.iter().filter(|now| now.definition.is_table()) {
            self.define(now, message.tag == OBSERVED).await?;
        }
        for oid in message.dropped_tables() {
            self.drop_table(oid).await?;
        }
        self.open.as_mut().ok_or_else(outside_transaction)?.ddl(message);
        Ok(())
    }

    async fn define(&mut self, now: &RelationNow, observed: bool) -> Result<()> {
        let oid = now.definition.oid();
        let transaction = self.open.as_mut().ok_or_else(outside_transaction)?;
        let mut since = transaction.next_position();
        let event = event_of(now);
        self.newcomers.retain(|newcomer| *newcomer != oid);
        if event == RelationEvent::Created {
            // Its first rows may have come before it was described, in a shape that was only guessed.
            since = Position::before(transaction.commit_lsn());
            self.pending.relations.retain(|record| record.relation.oid != oid || record.position.lsn != since.lsn);
        }
        // Rows of the version before go out with the columns that they have.
        self.write_rows_of(oid).await?;
        let (reply, defined) = oneshot::channel();
        self.send(Job::Define { definition: now.definition.clone(), event, observed, since, reply }).await?;
        let Defined { relation, event, record } = defined.await.map_err(|_| committer_gone())?;
        let covered = now.definition.is_logged_table() && now.cover != Cover::None;
        match event {
            RelationEvent::Unseen => drop(self.unseen.insert(oid)),
            RelationEvent::Created | RelationEvent::Rewritten => drop(self.unseen.remove(&oid)),
            RelationEvent::Described | RelationEvent::Dropped => {}
        }
        if covered && self.unseen.contains(&oid) {
            self.want_image(oid);
        }
        self.pending.relations.extend(record);
        if covered {
            self.targets.insert(oid, Target { relation: Arc::new(relation), applied: None, builder: None });
        } else {
            self.targets.remove(&oid);
        }
        Ok(())
    }

    async fn drop_table(&mut self, oid: u32) -> Result<()> {
        let since = self.open.as_mut().ok_or_else(outside_transaction)?.next_position();
        self.write_rows_of(oid).await?;
        self.targets.remove(&oid);
        let (reply, dropped) = oneshot::channel();
        self.send(Job::Drop { oid, since, reply }).await?;
        self.pending.relations.extend(dropped.await.map_err(|_| committer_gone())?);
        Ok(())
    }

    /// One of the rows of a table that was written anew, or is seen for the first time.
    async fn told_row(&mut self, content: &[u8]) -> Result<()> {
        let Some((oid, row)) = told_row(content) else { return Ok(()) };
        self.make_ready(oid).await?;
        let Some(target) = self.targets.get_mut(&oid) else { return Ok(()) };
        let place = self.open.as_mut().ok_or_else(outside_transaction)?.uncounted_place();
        if target.has(place.lsn) {
            return Ok(());
        }
        self.told.read_composite(row, target.relation.columns.len())?;
        let builder = target.builder.get_or_insert_with(|| ChangeBuilder::new(&target.relation));
        builder.push_row(place, Operation::Snapshot, self.told.fields())
    }

    fn want_image(&self, oid: u32) {
        // Whoever takes images ends only with the session.
        let _ = self.wanted_images.send(oid);
    }

    async fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, time: i64) -> Result<()> {
        let open = self.open.take().ok_or_else(|| Failure::failed("the source sent a commit outside a transaction"))?;
        let committed = open.commit(commit_lsn, end_lsn)?;
        self.note_newcomers(commit_lsn);
        self.pending.transactions.push(committed.transaction);
        self.pending.marks.extend(committed.marks);
        self.pending.restores.extend(committed.restores);
        self.pending.ddl.extend(committed.ddl);
        self.pending.messages.extend(committed.messages);
        self.advance(end_lsn, unix_micros(time));
        if self.due() || self.pending.transactions.len() >= MAX_TRANSACTIONS { self.flush().await } else { Ok(()) }
    }

    /// Of a table that is just there, rows of before are not known.
    fn note_newcomers(&mut self, commit_lsn: Lsn) {
        for oid in std::mem::take(&mut self.newcomers) {
            let Some(target) = self.targets.get(&oid) else { continue };
            self.pending.relations.push(RelationRecord {
                position: Position::before(commit_lsn),
                event: RelationEvent::Unseen,
                relation: target.relation.as_ref().clone(),
                definition: None,
            });
            self.want_image(oid);
        }
    }

    /// A relation message comes once a session and after every change of a table's definition.
    async fn relation(&mut self, described: pgoutput::Relation<'_>) -> Result<()> {
        let relation = relation_version(&described);
        if self.targets.get(&relation.oid).is_some_and(|known| same_source_relation(&known.relation, &relation)) {
            return Ok(());
        }
        // Rows of the version before go out with the columns that they have.
        self.write_rows_of(relation.oid).await?;
        self.prepare(relation).await
    }

    async fn prepare(&mut self, relation: RelationVersion) -> Result<()> {
        let (reply, prepared) = oneshot::channel();
        let end = Position::before(self.pending.end);
        let since = self.open.as_ref().map_or(end, OpenTransaction::position);
        self.send(Job::Prepare { relation, since, reply }).await?;
        let Prepared { relation, applied, record, rows } = prepared.await.map_err(|_| committer_gone())?;
        if let Some(terms) = &self.binary
            && !can_be_binary(&relation)
        {
            return Err(terms.want_text(&relation));
        }
        match rows {
            KnownRows::Yes => {}
            KnownRows::No => self.want_image(relation.oid),
            KnownRows::New => self.newcomers.push(relation.oid),
        }
        self.pending.relations.extend(record);
        let oid = relation.oid;
        self.targets.insert(oid, Target { relation: Arc::new(relation), applied: Some(applied), builder: None });
        Ok(())
    }

    async fn write_rows_of(&mut self, oid: u32) -> Result<()> {
        let Some(target) = self.targets.get_mut(&oid) else { return Ok(()) };
        let Some(mut builder) = target.builder.take() else { return Ok(()) };
        let bytes = builder.memory();
        let (relation, batch) = (Arc::clone(&target.relation), builder.finish()?);
        self.send(Job::Rows { relation, batch, bytes }).await
    }

    async fn write_rows(&mut self) -> Result<()> {
        let full = self.targets.iter().filter(|(_, target)| target.builder.is_some());
        let mut oids: Vec<u32> = full.map(|(oid, _)| *oid).collect();
        oids.sort_unstable();
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
        for message in self.messages.extract_if(.., |message| message.position.lsn < end) {
            match message.prefix.as_str() {
                SEQUENCES_PREFIX => self.pending.sequences.extend(sequence_samples(&message)),
                IMAGE_PREFIX => {}
                _ => self.pending.messages.push(message),
            }
        }
        self.add_reached_images().await?;
        let publication = std::mem::replace(&mut self.pending, Publication { end, ..Publication::default() });
        self.published = end;
        self.send(Job::Publish(publication)).await
    }

    /// Adds base images whose place the publication reaches: before, nobody could use them.
    async fn add_reached_images(&mut self) -> Result<()> {
        let end = self.pending.end;
        let reached: Vec<Addition> = self.additions.extract_if(.., |addition| addition.lsn <= end).collect();
        for Addition { lsn, image } in reached {
            self.unseen.remove(&image.relation.oid);
            let (relation, definition) = (image.relation.clone(), image.definition.clone());
            self.pending.relations.push(RelationRecord::described(lsn, relation, definition));
            self.send(Job::Image(image)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, job: Job) -> Result<()> {
        self.jobs.send(job).await.map_err(|_| committer_gone())
    }
}

impl Target {
    /// Whether the table has the rows of a transaction from before a crash.
    fn has(&self, commit_lsn: Lsn) -> bool {
        self.applied.is_some_and(|applied| commit_lsn < applied)
    }
}

/// What a statement's effect on a table says of its rows.
fn event_of(now: &RelationNow) -> RelationEvent {
    if !now.definition.is_logged_table() {
        // A partitioned table has none; those of an UNLOGGED table are not in the log.
        return if now.definition.relation().partitioned { RelationEvent::Described } else { RelationEvent::Unseen };
    }
    match (now.cover, now.rows) {
        (Cover::None | Cover::Pending, _) | (_, Some(Rows::Omitted)) => RelationEvent::Unseen,
        (_, Some(Rows::Told)) => RelationEvent::Rewritten,
        (_, None) if now.created => RelationEvent::Created,
        (_, None) => RelationEvent::Described,
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

pub(super) fn relation_version(described: &pgoutput::Relation<'_>) -> RelationVersion {
    let column = |column: &pgoutput::RelationColumn<'_>| {
        Column::new(column.name, column.type_oid, column.type_modifier, column.key)
    };
    let name = TableName::new(described.schema, described.name);
    let columns = described.columns.iter().map(column).collect();
    RelationVersion::new(described.oid, name, Identity::of_letter(described.identity.into()), columns)
}

/// Whether two versions are the same to the source; stored and type names are the archive's.
pub(super) fn same_source_relation(a: &RelationVersion, b: &RelationVersion) -> bool {
    let same_key = |(a, b): (&Column, &Column)| a.key == b.key;
    a.identity == b.identity && same_columns(a, b) && a.columns.iter().zip(&b.columns).all(same_key)
}

/// The same, whatever identifies a row.
pub(super) fn same_columns(a: &RelationVersion, b: &RelationVersion) -> bool {
    let same_column =
        |(a, b): (&Column, &Column)| a.name == b.name && a.type_oid == b.type_oid && a.type_modifier == b.type_modifier;
    a.oid == b.oid
        && a.name == b.name
        && a.columns.len() == b.columns.len()
        && a.columns.iter().zip(&b.columns).all(same_column)
}
