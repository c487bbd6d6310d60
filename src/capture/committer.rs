//! The last stage: encodes rows into files, publishes, and announces what is durable.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::assembler::{same_columns, same_source_relation};
use super::base_image::StagedImage;
use super::catalog;
use super::freshness::FreshnessMeter;
use super::known::KnownRelations;
use super::open_file::{OpenFile, PARALLEL_FILES};
use super::run::{Backoff, RunEvents, sleep_or_stop};
use crate::archive::{
    ArchiveWriter, DurableLsn, EncodedFile, FileEncoder, Publication, StagedFile, Store, TablePath, UnplacedFile,
    blocking, log,
};
use crate::columnar::{change_schema, image_table_schema};
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Position, RelationEvent, RelationRecord, RelationVersion, TableName};
use crate::postgres::Session;
use crate::transaction::Definition;

/// What the assembler asks for, in order.
pub(super) enum Job {
    /// Make a table ready for rows of a relation version that holds from `since` on.
    Prepare { relation: RelationVersion, since: Position, reply: oneshot::Sender<Prepared> },
    /// Note a relation version that the source described; its table is made ready only when rows come.
    Define {
        definition: Definition,
        event: RelationEvent,
        /// Only the catalogue was seen, and not the statement.
        observed: bool,
        since: Position,
        reply: oneshot::Sender<Defined>,
    },
    /// Note that a table is gone.
    Drop { oid: u32, since: Position, reply: oneshot::Sender<Option<RelationRecord>> },
    /// Add a base image that was taken while changes went on.
    Image(StagedImage),
    /// Rows that become visible with the next publication.
    Rows { relation: Arc<RelationVersion>, batch: RecordBatch, bytes: usize },
    /// The same, encoded but for where and when (microseconds since 1970) they were committed.
    Place { name: TableName, file: UnplacedFile, lsn: Lsn, time: i64 },
    /// Make everything so far durable and visible.
    Publish(Publication),
}

/// A table that is ready.
pub(super) struct Prepared {
    /// With its stored names and type names.
    pub(super) relation: RelationVersion,
    pub(super) applied: Lsn,
    /// To be published, where the archive does not know this version yet.
    pub(super) record: Option<RelationRecord>,
    pub(super) rows: KnownRows,
}

/// Whether what is known of a table's rows reaches to a new version of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownRows {
    Yes,
    /// A base image is needed.
    No,
    /// The table was not known at all. Its transaction may yet say that it made it.
    New,
}

/// A relation version that is noted.
pub(super) struct Defined {
    /// With its stored names.
    pub(super) relation: RelationVersion,
    /// What it says of the rows, the version before considered.
    pub(super) event: RelationEvent,
    /// To be published, where it says something new.
    pub(super) record: Option<RelationRecord>,
}

/// See the module's documentation.
pub(super) struct Committer<'a> {
    pub(super) writer: ArchiveWriter,
    /// For what the stream does not say, such as the names of types.
    pub(super) catalog: Session,
    pub(super) known: KnownRelations,
    /// Statements that change definitions are in the stream.
    pub(super) captures_ddl: bool,
    /// What the source said last of each table in this session.
    pub(super) described: HashMap<u32, String>,
    pub(super) durable: watch::Sender<DurableLsn>,
    pub(super) freshness: Arc<FreshnessMeter>,
    pub(super) waiting: Waiting<'a>,
    pub(super) files: Files<'a>,
}

/// Files of changes on their way into the store.
#[derive(Default)]
pub(super) struct Files<'a> {
    /// Those that grow, the one that grew last at the end.
    open: Vec<(Arc<RelationVersion>, OpenFile)>,
    /// As many as may grow.
    staging: FuturesUnordered<Staging<'a>>,
    staged: BTreeMap<TableName, Vec<StagedFile>>,
}

type Staging<'a> = Pin<Box<dyn Future<Output = Result<(TableName, StagedFile)>> + Send + 'a>>;

impl Committer<'_> {
    /// Works until the assembler hangs up.
    ///
    /// # Errors
    /// What waiting cannot mend. A store that does not answer is waited for.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) -> Result<()> {
        loop {
            let job = tokio::select! {
                biased;
                // So that they go on while nothing else is to do.
                Some(staged) = self.files.staging.next() => {
                    self.files.note(staged?);
                    continue;
                }
                job = jobs.recv() => job,
            };
            let Some(job) = job else { return Ok(()) };
            match job {
                // A receiver that is gone has stopped for a reason of its own.
                Job::Prepare { relation, since, reply } => drop(reply.send(self.prepare(relation, since).await?)),
                Job::Define { definition, event, observed, since, reply } => {
                    drop(reply.send(self.define(&definition, event, observed, since).await?));
                }
                Job::Drop { oid, since, reply } => drop(reply.send(self.forget(oid, since))),
                Job::Image(image) => self.add_image(image).await?,
                Job::Rows { relation, batch, bytes } => self.write(relation, batch, bytes).await?,
                Job::Place { name, file, lsn, time } => {
                    self.stage(name, blocking(move || file.place(lsn, time))).await?;
                }
                Job::Publish(publication) => self.publish(publication).await?,
            }
        }
    }

    /// Makes a table ready for rows in the shape that the stream says. Where no description went before, the catalogue
    /// is asked, which may have moved on: it is believed only where it agrees.
    async fn prepare(&mut self, mut relation: RelationVersion, since: Position) -> Result<Prepared> {
        let before = self.known.get(relation.oid);
        let (mut record, mut rows) = (None, KnownRows::Yes);
        if let Some(known) = before.as_ref().filter(|known| same_source_relation(known, &relation)) {
            relation = known.as_ref().clone();
        } else {
            let described = self.described_now(relation.oid).await?;
            let left_out = described.as_ref().map(|found| found.relation().left_out).unwrap_or_default();
            let definition = described.filter(|found| same_columns(&found.relation(), &relation));
            match &definition {
                // The identity may be another by now.
                Some(definition) => relation = with_identity_of(definition.relation(), &relation),
                None => {
                    self.complete(&mut relation, before.as_deref()).await?;
                    relation.left_out = left_out;
                }
            }
            catalog::assign_stored_names(self.writer.store(), &mut relation).await?;
            rows = known_rows(before.as_deref(), &relation, definition.as_ref());
            let event = if rows == KnownRows::No { RelationEvent::Unseen } else { RelationEvent::Described };
            self.known.insert(relation.clone());
            let definition = definition.map(|definition| definition.json().to_string());
            record = Some(RelationRecord { position: since, event, relation: relation.clone(), definition });
        }
        let applied = self.writer.prepare(&relation.name, &change_schema(&relation)).await?;
        Ok(Prepared { relation, applied, record, rows })
    }

    /// What the catalogue says. The table may be changed again meanwhile, so fast that its parts do not fit together: that
    /// is no worse than that it is gone.
    async fn described_now(&self, oid: u32) -> Result<Option<Definition>> {
        match catalog::describe(&self.catalog, oid).await {
            Err(failure) if !failure.is_transient() && !self.catalog.is_closed() => {
                tracing::debug!("describing relation {oid}: {failure}");
                Ok(None)
            }
            described => described,
        }
    }

    /// What the stream does not say of columns, from the version before and from the catalogue.
    async fn complete(&self, relation: &mut RelationVersion, before: Option<&RelationVersion>) -> Result<()> {
        for (number, column) in (1..).zip(&mut relation.columns) {
            let known = before.and_then(|before| before.column(&column.name));
            if let Some(known) = known.filter(|known| known.type_oid == column.type_oid) {
                (column.number, column.base, column.missing) = (known.number, known.base, known.missing.clone());
            } else if before.is_none() && self.captures_ddl {
                // What is not described beforehand is being filled by the statement that makes it: nothing is dropped yet.
                column.number = number;
            }
            column.type_name = catalog::type_name(&self.catalog, column.type_oid, column.type_modifier).await?;
        }
        relation.parent = before.and_then(|before| before.parent);
        Ok(())
    }

    async fn define(
        &mut self,
        definition: &Definition,
        mut event: RelationEvent,
        observed: bool,
        since: Position,
    ) -> Result<Defined> {
        let mut relation = definition.relation();
        if event == RelationEvent::Described && !relation.partitioned {
            // Where the statement was seen it told the rows of a table that it wrote anew; a type can change without that.
            let before = self.known.get(relation.oid);
            let rows = known_rows(before.as_deref(), &relation, observed.then_some(definition));
            if rows != KnownRows::Yes {
                event = RelationEvent::Unseen;
            }
        }
        catalog::assign_stored_names(self.writer.store(), &mut relation).await?;
        let json = definition.json().to_string();
        let said = self.described.insert(relation.oid, json.clone());
        let new = event != RelationEvent::Described
            || said.as_ref() != Some(&json)
            || self.known.get(relation.oid).as_deref() != Some(&relation);
        self.known.insert(relation.clone());
        let record = RelationRecord { position: since, event, relation: relation.clone(), definition: Some(json) };
        Ok(Defined { relation, event, record: new.then_some(record) })
    }

    fn forget(&mut self, oid: u32, since: Position) -> Option<RelationRecord> {
        self.described.remove(&oid);
        let relation = self.known.remove(oid)?.as_ref().clone();
        Some(RelationRecord { position: since, event: RelationEvent::Dropped, relation, definition: None })
    }

    async fn add_image(&mut self, image: StagedImage) -> Result<()> {
        let schema = image_table_schema(&image.relation);
        let mut backoff = pauses();
        loop {
            match self.writer.add_image(&image.relation.name, &schema, &image.files).await {
                Err(failure) if failure.is_transient() => self.waiting.wait(&mut backoff, failure).await?,
                added => break added?,
            }
        }
        self.waiting.over();
        Ok(())
    }

    /// Adds rows to the file of their table that grows, or begins one.
    async fn write(&mut self, relation: Arc<RelationVersion>, batch: RecordBatch, bytes: usize) -> Result<()> {
        let open = self.files.open.iter().position(|(known, _)| known.name == relation.name);
        let same = open.map(|at| self.files.open.remove(at));
        let file = match same {
            Some((known, mut file)) if known == relation => {
                file.write(batch, bytes).await?;
                file
            }
            other => {
                if let Some((known, file)) = other {
                    self.stage(known.name.clone(), file.finish()).await?;
                } else if self.files.open.len() >= PARALLEL_FILES {
                    let (idlest, file) = self.files.open.remove(0);
                    self.stage(idlest.name.clone(), file.finish()).await?;
                }
                let metadata = log::relation_metadata(&relation);
                let encoder = FileEncoder::of_changes(self.writer.store(), batch.schema(), metadata)?;
                OpenFile::begin(encoder, batch, bytes)
            }
        };
        if file.is_full() {
            self.stage(relation.name.clone(), file.finish()).await
        } else {
            self.files.open.push((relation, file));
            Ok(())
        }
    }

    /// Has a file put into the store while work goes on.
    async fn stage(
        &mut self,
        name: TableName,
        file: impl Future<Output = Result<EncodedFile>> + Send + 'static,
    ) -> Result<()> {
        while self.files.staging.len() >= PARALLEL_FILES {
            if let Some(staged) = self.files.staging.next().await {
                self.files.note(staged?);
            }
        }
        let (store, waiting) = (self.writer.store().clone(), self.waiting.clone());
        self.files.staging.push(Box::pin(staged(store, name, file, waiting)));
        Ok(())
    }

    /// Waits until all files are in the store.
    async fn stage_all(&mut self) -> Result<BTreeMap<TableName, Vec<StagedFile>>> {
        for (relation, file) in std::mem::take(&mut self.files.open) {
            self.stage(relation.name.clone(), file.finish()).await?;
        }
        while let Some(staged) = self.files.staging.next().await {
            self.files.note(staged?);
        }
        Ok(std::mem::take(&mut self.files.staged))
    }

    async fn publish(&mut self, mut publication: Publication) -> Result<()> {
        publication.changes = self.stage_all().await?.into_iter().collect();
        publication.freshness = self.freshness.recent();
        let mut backoff = pauses();
        let durable = loop {
            match self.writer.publish(&publication).await {
                // What another writer has added must not be added again: only a new session can go on.
                Err(failure) if self.writer.is_overtaken() => return Err(failure),
                Err(failure) if failure.is_transient() => self.waiting.wait(&mut backoff, failure).await?,
                published => break published?,
            }
        };
        self.waiting.over();
        self.waiting.events.published(&publication);
        self.durable.send_replace(durable);
        if let Some(recent) = self.freshness.published(&publication) {
            self.waiting.events.measured(recent);
        }
        Ok(())
    }
}

impl Files<'_> {
    fn note(&mut self, (name, file): (TableName, StagedFile)) {
        self.staged.entry(name).or_default().push(file);
    }
}

async fn staged(
    store: Store,
    name: TableName,
    file: impl Future<Output = Result<EncodedFile>>,
    waiting: Waiting<'_>,
) -> Result<(TableName, StagedFile)> {
    let path = TablePath::Changes(name.clone());
    let encoded = file.await?;
    let mut backoff = pauses();
    let file = loop {
        match encoded.stage(&store, &path).await {
            Err(failure) if failure.is_transient() => waiting.wait(&mut backoff, failure).await?,
            staged => break staged?,
        }
    };
    waiting.over();
    Ok((name, file))
}

/// A description of the table with the identity that the stream says.
fn with_identity_of(described: RelationVersion, said: &RelationVersion) -> RelationVersion {
    let mut relation = RelationVersion { identity: said.identity, ..described };
    for (column, said) in relation.columns.iter_mut().zip(&said.columns) {
        column.key = said.key;
    }
    relation
}

/// Whether rows of before are still what they were, by the two shapes alone.
fn known_rows(before: Option<&RelationVersion>, now: &RelationVersion, definition: Option<&Definition>) -> KnownRows {
    let Some(before) = before else { return KnownRows::New };
    let known = now.columns.iter().all(|column| match before.same_column(column) {
        Some(known) => known.keeps_text_as(column),
        // What was generated had values that the stream did not have.
        None if before.left_out.contains(&column.name) => false,
        None => !definition.is_some_and(|definition| definition.was_filled_in(column.number)),
    });
    if known { KnownRows::Yes } else { KnownRows::No }
}

/// Waiting for a store, said once, however much waits.
#[derive(Clone)]
pub(super) struct Waiting<'a> {
    events: &'a dyn RunEvents,
    stop: watch::Receiver<bool>,
    said: Arc<AtomicBool>,
}

fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(15))
}

impl<'a> Waiting<'a> {
    pub(super) fn new(events: &'a dyn RunEvents, stop: watch::Receiver<bool>) -> Self {
        Waiting { events, stop, said: Arc::default() }
    }

    /// Pauses before another attempt; gives the failure back when the archiver is to stop.
    async fn wait(&self, backoff: &mut Backoff, failure: Failure) -> Result<()> {
        if !self.said.swap(true, Ordering::Relaxed) {
            self.events.interrupted(&failure);
        }
        if sleep_or_stop(backoff.next(), self.stop.clone()).await { Err(failure) } else { Ok(()) }
    }

    fn over(&self) {
        if self.said.swap(false, Ordering::Relaxed) {
            self.events.resumed();
        }
    }
}
