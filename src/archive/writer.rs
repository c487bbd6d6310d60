//! The one writer of an archive: claims it, publishes batches, and alone can say what is durable.
//!
//! ```text
//!   stage (Parquet files, in no table)  ->  commit changes/… and log/… tables  ->  commit log/transactions
//!                                           each with its `applied` number          with the new watermark
//! ```
//!
//! * **Atomic**: readers take nothing above the watermark, and the watermark moves in one commit.
//! * **Exactly once**: a table's `applied` number says up to which LSN it has its rows. After a crash
//!   some tables are ahead of the watermark; the source sends those transactions again, and what a
//!   table has already is not added a second time. The history above the watermark is the source's log,
//!   so both copies would be equal.
//! * **One writer**: claiming an archive commits the next `epoch` to `log/transactions`. A writer whose
//!   commit collides there and finds another epoch has been replaced: it can never publish again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use chrono::{DateTime, Utc};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::chain::{self, Head, Link, Segment};
use super::delta::{Appended, DeltaTable};
use super::file::{FileContent, StagedFile, stage};
use super::identity::ArchiveIdentity;
use super::layout::{LogTable, TablePath};
use super::log::{self, DdlRow, GapRow, MarkRow, MessageRow, RareRow, RelationRow, RestoreRow, SequenceRow};
use super::store::Store;
use crate::failure::{Failure, Result};
use crate::machine;
use crate::model::{
    DdlRecord, Freshness, GapRecord, LogicalMessage, Lsn, Mark, RelationRecord, RestoreRecord, SequenceSample,
    TableName, Transaction,
};

/// Up to which LSN a table has its rows.
const APPLIED: &str = "afterimage.applied";
/// The archive's watermark, in `log/transactions`.
pub(super) const WATERMARK: &str = "afterimage.watermark";
/// When the source had reached the watermark, microseconds since 1970, in `log/transactions`.
pub(super) const WATERMARK_TIME: &str = "afterimage.watermark_time";
/// How fresh the archive was lately: measured transactions, and microseconds; in `log/transactions`.
pub(super) const FRESHNESS: [&str; 3] =
    ["afterimage.freshness_transactions", "afterimage.freshness_p50", "afterimage.freshness_p99"];
/// The source's timeline at the watermark, in `log/transactions`.
pub(super) const TIMELINE: &str = "afterimage.timeline";
/// Which writer may publish, in `log/transactions`.
const EPOCH: &str = "afterimage.epoch";
/// When that writer claimed the archive, milliseconds since 1970 by its clock, in `log/transactions`.
pub(super) const CLAIMED: &str = "afterimage.claimed";

/// Tables committed at the same time.
const PARALLEL_COMMITS: usize = 8;

/// An LSN up to which everything is durable in the archive. Only this module can make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableLsn(Lsn);

impl DurableLsn {
    pub fn lsn(self) -> Lsn {
        self.0
    }

    /// The same, or less.
    pub fn at_most(self, lsn: Lsn) -> DurableLsn {
        DurableLsn(self.0.min(lsn))
    }
}

/// Whole transactions, ready to become visible together.
#[derive(Debug, Default)]
pub struct Publication {
    /// The new watermark: the end of the last transaction, or a later position with nothing in between.
    pub end: Lsn,
    /// When the source had reached it, by the source's clock.
    pub time: DateTime<Utc>,
    pub changes: Vec<(TableName, Vec<StagedFile>)>,
    pub transactions: Vec<Transaction>,
    pub relations: Vec<RelationRecord>,
    pub ddl: Vec<DdlRecord>,
    pub messages: Vec<LogicalMessage>,
    pub sequences: Vec<SequenceSample>,
    pub marks: Vec<Mark>,
    pub restores: Vec<RestoreRecord>,
    pub gaps: Vec<GapRecord>,
    /// What was measured of publications before.
    pub freshness: Option<Freshness>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ArchiveWriter {
    store: Store,
    epoch: i64,
    watermark: Option<Lsn>,
    timeline: Option<u32>,
    transactions: DeltaTable,
    /// The version of `transactions` up to which every commit is ours, or was looked at.
    looked_at: u64,
    tables: HashMap<TablePath, OpenTable>,
    /// A table has rows that this writer does not know of: what it holds may not be committed any more.
    overtaken: bool,
    /// The newest link of the chain.
    head: Option<Head>,
}

#[derive(Debug)]
struct OpenTable {
    delta: DeltaTable,
    applied: Lsn,
    /// The same when this writer opened it.
    had: Lsn,
    /// The version up to which every commit is accounted for in `applied`.
    looked_at: u64,
}

impl ArchiveWriter {
    /// Becomes the archive's writer; whoever was it before can publish no more.
    ///
    /// # Errors
    /// Transient or failed, as the store says.
    pub async fn claim(store: &Store) -> Result<ArchiveWriter> {
        let schema = log::schema(LogTable::Transactions);
        let path = TablePath::Log(LogTable::Transactions);
        let mut transactions = DeltaTable::open_or_create(store, &path, &schema).await?;
        transactions.add_missing_columns(&schema).await?;
        // A collision is the commit of the writer before, of another that claims now, or our own whose answer was
        // lost. They look alike, and the last claim counts.
        let epoch = loop {
            let next = transactions.progress(EPOCH).await?.unwrap_or(0) + 1;
            let claim = [(EPOCH, next), (CLAIMED, machine::now().timestamp_millis())];
            if transactions.append(&[], &claim).await? == Appended::Committed {
                break next;
            }
        };
        let watermark = transactions.progress(WATERMARK).await?.map(Lsn::from_i64);
        let (store, tables, looked_at) = (store.clone(), HashMap::new(), transactions.version());
        let head = chain::head(&store, &transactions.files(None).await?).await?;
        let (timeline, overtaken) = (None, false);
        Ok(ArchiveWriter { store, epoch, watermark, timeline, transactions, looked_at, tables, overtaken, head })
    }

    /// The number of this writer's claim.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Notes with each watermark from now on that it is one of this timeline of the source.
    pub fn on_timeline(&mut self, timeline: u32) {
        self.timeline = Some(timeline);
    }

    /// Whether another writer has claimed the archive since.
    ///
    /// # Errors
    /// Refused if so; else as the store says.
    pub async fn require_epoch(store: &Store, epoch: i64) -> Result<()> {
        let table = DeltaTable::open(store, &TablePath::Log(LogTable::Transactions)).await?;
        let table = table.ok_or_else(|| Failure::failed(format!("archive {store}: log/transactions is gone")))?;
        if table.progress(EPOCH).await? == Some(epoch) { Ok(()) } else { Err(another_writer(store)) }
    }

    /// Whether what this writer still holds must be thrown away and read from the source again, by a new claim.
    pub fn is_overtaken(&self) -> bool {
        self.overtaken
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is durable now; `None` before the first base image is complete.
    pub fn durable(&self) -> Option<DurableLsn> {
        self.watermark.map(DurableLsn)
    }

    /// Prepares a table of changes for rows of a schema.
    ///
    /// Returns its columns and the LSN up to which it has its rows: rows of transactions whose commit
    /// LSN is below must not be added again.
    pub async fn prepare(&mut self, name: &TableName, schema: &Schema) -> Result<Lsn> {
        let table = self.open(TablePath::Changes(name.clone()), schema).await?;
        table.delta.add_missing_columns(schema).await?;
        Ok(table.applied)
    }

    async fn open(&mut self, path: TablePath, schema: &Schema) -> Result<&mut OpenTable> {
        match self.tables.entry(path) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(vacant) => {
                let delta = DeltaTable::open_or_create(&self.store, vacant.key(), schema).await?;
                let applied = delta.progress(APPLIED).await?.map_or(Lsn::ZERO, Lsn::from_i64);
                let looked_at = delta.version();
                Ok(vacant.insert(OpenTable { delta, applied, had: applied, looked_at }))
            }
        }
    }

    /// Adds a base image of a table. It is not used before the archive's watermark has reached its LSN.
    pub async fn add_image(&mut self, name: &TableName, schema: &Schema, files: &[StagedFile]) -> Result<()> {
        let table = self.open(TablePath::Images(name.clone()), schema).await?;
        table.delta.add_missing_columns(schema).await?;
        while table.delta.append(files, &[]).await? == Appended::Conflicted {}
        Ok(())
    }

    /// Makes a publication durable and visible, all of it or nothing.
    ///
    /// Safe to call again with the same publication after a transient failure, unless the writer
    /// [is overtaken](ArchiveWriter::is_overtaken).
    ///
    /// # Errors
    /// Transient: nothing of it is visible yet. Refused: another writer has taken over.
    pub async fn publish(&mut self, publication: &Publication) -> Result<DurableLsn> {
        if self.overtaken {
            return Err(overtaken(&self.store));
        }
        let end = publication.end;
        self.open_log::<RelationRow>(&publication.relations).await?;
        self.open_log::<DdlRow>(&publication.ddl).await?;
        self.open_log::<MessageRow>(&publication.messages).await?;
        self.open_log::<SequenceRow>(&publication.sequences).await?;
        self.open_log::<MarkRow>(&publication.marks).await?;
        self.open_log::<RestoreRow>(&publication.restores).await?;
        self.open_log::<GapRow>(&publication.gaps).await?;
        let mut work: Vec<(TablePath, Vec<StagedFile>)> = Vec::new();
        for (name, files) in &publication.changes {
            work.push((TablePath::Changes(name.clone()), files.clone()));
        }
        self.stage_log::<RelationRow>(&publication.relations, &mut work).await?;
        self.stage_log::<DdlRow>(&publication.ddl, &mut work).await?;
        self.stage_log::<MessageRow>(&publication.messages, &mut work).await?;
        self.stage_log::<SequenceRow>(&publication.sequences, &mut work).await?;
        self.stage_log::<MarkRow>(&publication.marks, &mut work).await?;
        self.stage_log::<RestoreRow>(&publication.restores, &mut work).await?;
        self.stage_log::<GapRow>(&publication.gaps, &mut work).await?;
        self.apply(work, end).await?;
        let (mut files, mut head) = (Vec::new(), self.head.clone());
        if !publication.transactions.is_empty() {
            let link = self.link(publication).await?.text()?;
            head = Some(Head::of(end, &link));
            let batch = log::encode_transactions(&publication.transactions, Some(&link))?;
            let content = FileContent { batches: vec![batch], metadata: Vec::new(), image_lsn: None };
            files.push(stage(&self.store, &TablePath::Log(LogTable::Transactions), content).await?);
        }
        let durable = self.move_watermark(&files, publication).await?;
        self.head = head;
        Ok(durable)
    }

    /// What the chain says of a publication.
    async fn link(&self, publication: &Publication) -> Result<Link> {
        let from = self.head.as_ref().map_or(self.watermark.unwrap_or_default(), |head| head.lsn);
        let mut names: BTreeSet<&TableName> = publication.changes.iter().map(|(name, _)| name).collect();
        names.extend(publication.transactions.iter().flat_map(|one| one.tables.keys()));
        let mut tables = Vec::new();
        for name in names {
            let staged = publication.changes.iter().filter(|(one, _)| one == name).flat_map(|(_, files)| files);
            let staged: Vec<&StagedFile> = staged.collect();
            let segments = self.segments(name, from..publication.end, &staged).await?;
            if !segments.is_empty() {
                tables.push((name.clone(), segments));
            }
        }
        Link::new(from, publication.end, self.head.as_ref(), &publication.transactions, tables)
    }

    /// What a table has of a publication: what was staged now, and before that what the table got of it when its publication was
    /// interrupted.
    async fn segments(&self, name: &TableName, lsns: Range<Lsn>, staged: &[&StagedFile]) -> Result<Vec<Segment>> {
        let path = TablePath::Changes(name.clone());
        let opened;
        let (table, had) = match self.tables.get(&path) {
            Some(open) => (&open.delta, open.had),
            None => {
                let Some(table) = DeltaTable::open(&self.store, &path).await? else { return Ok(Vec::new()) };
                let had = table.progress(APPLIED).await?.map_or(Lsn::ZERO, Lsn::from_i64);
                opened = table;
                (&opened, had)
            }
        };
        let known: Option<Vec<Segment>> = staged.iter().map(|file| file.segment.clone()).collect();
        let mut changes = Vec::new();
        if had > lsns.start {
            let before = lsns.start..had.min(lsns.end);
            let files = table.files(Some((before.start.as_i64(), before.end.as_i64() - 1))).await?;
            let files = files.iter().map(|file| (file.path.as_str(), file.size));
            changes = chain::changes_of(&self.store, files, &before).await?;
        }
        if let Some(mut segments) = known {
            segments.extend(chain::segment_of(changes.clone()));
            if chain::in_order(&mut segments) {
                return Ok(segments);
            }
        }
        let files = staged.iter().map(|file| (file.path.as_str(), file.size));
        changes.extend(chain::changes_of(&self.store, files, &lsns).await?);
        Ok(chain::segment_of(changes).into_iter().collect())
    }

    async fn open_log<R: RareRow>(&mut self, values: &[R::Value]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let schema = log::schema(R::TABLE);
        self.open(TablePath::Log(R::TABLE), &schema).await?.delta.add_missing_columns(&schema).await
    }

    async fn stage_log<R: RareRow>(
        &self,
        values: &[R::Value],
        work: &mut Vec<(TablePath, Vec<StagedFile>)>,
    ) -> Result<()> {
        let path = TablePath::Log(R::TABLE);
        let Some(table) = self.tables.get(&path) else { return Ok(()) };
        // After a crash the source sends again what the table has already.
        let new: Vec<&R::Value> = values.iter().filter(|value| R::lsn(value) >= table.applied).collect();
        if new.is_empty() {
            return Ok(());
        }
        let content = FileContent { batches: vec![log::encode::<R>(new)?], metadata: Vec::new(), image_lsn: None };
        let file = stage(&self.store, &path, content).await?;
        work.push((path, vec![file]));
        Ok(())
    }

    /// Commits each table's files together with its `applied` number, several tables at a time.
    async fn apply(&mut self, work: Vec<(TablePath, Vec<StagedFile>)>, end: Lsn) -> Result<()> {
        let mut taken = Vec::with_capacity(work.len());
        for (path, files) in work {
            let table =
                self.tables.remove(&path).ok_or_else(|| Failure::failed(format!("{path:?} was not prepared")))?;
            taken.push((path, table, files));
        }
        let results: Vec<_> = stream::iter(taken)
            .map(|(path, mut table, files)| async move {
                let outcome = apply_one(&mut table, &files, end).await;
                (path, table, outcome)
            })
            .buffer_unordered(PARALLEL_COMMITS)
            .collect()
            .await;
        let mut outcome = Ok(());
        for (path, table, applied) in results {
            self.tables.insert(path, table);
            match applied {
                Ok(Applied::Ours) => {}
                Ok(Applied::Others) => self.overtaken = true,
                Err(failure) => outcome = Err(failure),
            }
        }
        if self.overtaken { Err(overtaken(&self.store)) } else { outcome }
    }

    async fn move_watermark(&mut self, files: &[StagedFile], publication: &Publication) -> Result<DurableLsn> {
        let (end, time) = (publication.end, publication.time.timestamp_micros());
        let mut progress = vec![(WATERMARK, end.as_i64()), (WATERMARK_TIME, time), (EPOCH, self.epoch)];
        progress.extend(self.timeline.map(|timeline| (TIMELINE, i64::from(timeline))));
        if let Some(Freshness { transactions, p50, p99 }) = publication.freshness {
            let numbers = [transactions as i64, p50.as_micros() as i64, p99.as_micros() as i64];
            progress.extend(FRESHNESS.into_iter().zip(numbers));
        }
        loop {
            // Also where an attempt before saw a commit in its way and failed before it had looked at it.
            if self.transactions.version() != self.looked_at {
                if self.transactions.progress(EPOCH).await? != Some(self.epoch) {
                    return Err(another_writer(&self.store));
                }
                if self.transactions.progress(WATERMARK).await? == Some(end.as_i64()) {
                    // Our own commit, whose answer was lost.
                    break;
                }
                self.looked_at = self.transactions.version();
            }
            if self.transactions.append(files, &progress).await? == Appended::Committed {
                break;
            }
        }
        self.looked_at = self.transactions.version();
        self.watermark = Some(end);
        Ok(DurableLsn(end))
    }

    /// Refuses a root that has history at or after the beginning of a new one. What an interrupted `init` of the same
    /// source left lies before it and does no harm.
    pub async fn require_nothing_since(&self, start: Lsn) -> Result<()> {
        let relations = DeltaTable::open(&self.store, &TablePath::Log(LogTable::Relations)).await?;
        let left = match relations {
            Some(table) => table.progress(APPLIED).await?.map_or(Lsn::ZERO, Lsn::from_i64),
            None => Lsn::ZERO,
        };
        if left < start {
            return Ok(());
        }
        Err(Failure::refused(format!(
            "archive {}: the root holds what is left of another source's archive",
            self.store
        ))
        .remedy("name an empty directory or prefix with --archive"))
    }

    /// Gives the archive its identity: from now on it is one. Its beginning must have been published.
    ///
    /// # Errors
    /// Refused where the archive got an identity from somebody else meanwhile.
    pub async fn begin(&mut self, identity: &ArchiveIdentity) -> Result<()> {
        if identity.write(&self.store).await? { Ok(()) } else { Err(another_writer(&self.store)) }
    }
}

/// Whose rows a table has after an attempt to add some.
enum Applied {
    Ours,
    /// A part of ours, or more than ours.
    Others,
}

async fn apply_one(table: &mut OpenTable, files: &[StagedFile], end: Lsn) -> Result<Applied> {
    if table.applied >= end {
        // Committed by an earlier attempt at the same publication.
        return Ok(Applied::Ours);
    }
    loop {
        // Also where an attempt before saw a commit in its way and failed before it had looked at it.
        if table.delta.version() != table.looked_at {
            let found = table.delta.progress(APPLIED).await?.map_or(Lsn::ZERO, Lsn::from_i64);
            if found == end {
                // Our own commit, whose answer was lost, or the same rows from a writer that was replaced.
                break;
            }
            if found != table.applied {
                return Ok(Applied::Others);
            }
            table.looked_at = table.delta.version();
        }
        if table.delta.append(files, &[(APPLIED, end.as_i64())]).await? == Appended::Committed {
            break;
        }
    }
    table.applied = end;
    table.looked_at = table.delta.version();
    Ok(Applied::Ours)
}

fn overtaken(store: &Store) -> Failure {
    Failure::transient(format!("archive {store}: another writer has added a part of these changes"))
        .remedy("capture starts again from the watermark")
}

fn another_writer(store: &Store) -> Failure {
    Failure::refused(format!("archive {store}: another archiver has taken it over"))
        .remedy("one archiver per archive; stop one of the two")
}

/// The columns that an archive has for a source table so far, in its images and its changes.
pub async fn existing_columns(store: &Store, name: &TableName) -> Result<Option<Schema>> {
    let mut fields: Vec<FieldRef> = Vec::new();
    for path in [TablePath::Changes(name.clone()), TablePath::Images(name.clone())] {
        if let Some(table) = DeltaTable::open(store, &path).await? {
            for field in table.schema()?.fields() {
                if !fields.iter().any(|known| known.name() == field.name()) {
                    fields.push(Arc::clone(field));
                }
            }
        }
    }
    Ok((!fields.is_empty()).then(|| Schema::new(fields)))
}

/// Stages several files at once, in order.
pub async fn stage_all(store: &Store, contents: Vec<(TablePath, FileContent)>) -> Result<Vec<StagedFile>> {
    stream::iter(contents)
        .map(|(path, content)| async move { stage(store, &path, content).await })
        .buffered(PARALLEL_COMMITS)
        .try_collect()
        .await
}
