//! Base images: whole tables as one exported snapshot shows them, copied over several connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::error::SqlState;

use super::catalog::{self, SourceTable};
use super::copy_ranges::{Range, Ranges, TableSize};
use super::open_file::{BATCH_BYTES, OpenFile, joined};
use crate::archive::{FileEncoder, StagedFile, Store, TablePath, log};
use crate::columnar::{BinaryForm, ImageBuilder};
use crate::failure::{Failure, Result};
use crate::model::{Column, Lsn, RelationVersion, quote_identifier};
use crate::postgres::{CopyConnection, RAW_WHERE_UNKNOWN, Session, Source, Throttle, begin_snapshot};

/// How far copying has come; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct ImageProgress {
    pub rows: AtomicU64,
    /// As the source sent them.
    pub bytes: AtomicU64,
    /// Of the tables on the source's disk, by which the time that is left can be told.
    pub disk_bytes_done: AtomicU64,
    pub disk_bytes: AtomicU64,
}

/// One table to copy.
#[derive(Debug, Clone)]
pub(super) struct ImageJob {
    pub(super) table: SourceTable,
    pub(super) relation: RelationVersion,
    /// What the source says of it, one JSON object.
    pub(super) definition: String,
}

impl ImageJob {
    /// A table as the session sees it; `None` where it is gone.
    pub(super) async fn describe(session: &Session, store: &Store, table: SourceTable) -> Result<Option<ImageJob>> {
        let Some(definition) = catalog::describe(session, table.oid).await? else { return Ok(None) };
        let mut relation = definition.relation();
        catalog::assign_stored_names(store, &mut relation).await?;
        Ok(Some(ImageJob { table, relation, definition: definition.json().to_string() }))
    }
}

/// A table's image, its files not yet committed.
#[derive(Debug)]
pub struct StagedImage {
    pub relation: RelationVersion,
    /// What the source says of it, one JSON object.
    pub definition: String,
    pub files: Vec<StagedFile>,
}

/// A session that sees what an exported snapshot shows.
pub(super) async fn snapshot_session(source: &Source, snapshot: &str) -> Result<Session> {
    let session = source.connect("afterimage init").await?;
    let begun = session.batch_execute(&format!("{}; {RAW_WHERE_UNKNOWN}", begin_snapshot(snapshot))).await;
    match begun {
        Ok(()) => Ok(session),
        Err(error) if error.code().is_some_and(|code| SNAPSHOT_GONE.contains(code)) => {
            Err(Failure::transient(format!("the exported snapshot is gone, as when the source restarts: {error}")))
        }
        Err(error) => Err(error.into()),
    }
}

/// How versions of PostgreSQL say that no session holds a snapshot of this name any more.
const SNAPSHOT_GONE: [SqlState; 3] =
    [SqlState::INVALID_PARAMETER_VALUE, SqlState::UNDEFINED_OBJECT, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];

/// How base images are copied: of tables as one snapshot shows them.
pub(super) struct ImageCopy<'a> {
    pub(super) source: &'a Source,
    pub(super) store: &'a Store,
    pub(super) snapshot: &'a str,
    /// The snapshot's place in history.
    pub(super) lsn: Lsn,
    /// How many connections read at once.
    pub(super) workers: usize,
    pub(super) throttle: Option<Throttle>,
    pub(super) progress: Arc<ImageProgress>,
}

impl ImageCopy<'_> {
    /// Copies tables, the largest first.
    pub(super) async fn run(self, jobs: Vec<ImageJob>) -> Result<Vec<StagedImage>> {
        let sizes: Vec<TableSize> = jobs.iter().map(|job| job.table.size()).collect();
        self.progress.disk_bytes.store(sizes.iter().map(|size| size.bytes).sum(), Ordering::Relaxed);
        let ranges = Arc::new(Ranges::new(&sizes, self.workers));
        let jobs: Arc<[ImageJob]> = jobs.into();
        let mut running = JoinSet::new();
        for _ in 0..self.workers.clamp(1, ranges.len().max(1)) {
            let worker = Worker {
                store: self.store.clone(),
                lsn: self.lsn,
                jobs: Arc::clone(&jobs),
                ranges: Arc::clone(&ranges),
                throttle: self.throttle.clone(),
                progress: Arc::clone(&self.progress),
            };
            let (source, begin) = (self.source.clone(), begin_snapshot(self.snapshot));
            running.spawn(async move {
                let mut connection = CopyConnection::connect(&source, "afterimage init").await?;
                connection.execute(&begin).await?;
                worker.run(connection).await
            });
        }
        let mut files: Vec<Vec<StagedFile>> = jobs.iter().map(|_| Vec::new()).collect();
        // Dropping the set on an error stops the other workers.
        while let Some(joined) = running.join_next().await {
            let copied = joined.map_err(|error| Failure::failed(format!("a copying worker stopped: {error}")))??;
            copied.into_iter().for_each(|(table, staged)| files[table].extend(staged));
        }
        let image = |(job, files): (&ImageJob, Vec<StagedFile>)| StagedImage {
            relation: job.relation.clone(),
            definition: job.definition.clone(),
            files,
        };
        Ok(jobs.iter().zip(files).map(image).collect())
    }
}

/// One of the connections at work.
struct Worker {
    store: Store,
    lsn: Lsn,
    jobs: Arc<[ImageJob]>,
    ranges: Arc<Ranges>,
    throttle: Option<Throttle>,
    progress: Arc<ImageProgress>,
}

impl Worker {
    /// Copies ranges until there are no more; gives the files by table. Those of one table's ranges share files.
    async fn run(&self, mut connection: CopyConnection) -> Result<Vec<(usize, Vec<StagedFile>)>> {
        self.hold_split_tables(&mut connection).await?;
        let mut copied = Vec::new();
        let mut open: Option<(usize, ImageFiles<'_>)> = None;
        while let Some(range) = self.ranges.next() {
            if let Some((table, files)) = open.take_if(|(table, _)| *table != range.table) {
                copied.push((table, files.finish().await?));
            }
            let relation = &self.jobs[range.table].relation;
            let (_, files) =
                open.get_or_insert_with(|| (range.table, ImageFiles::new(&self.store, relation, self.lsn)));
            files.even_empty |= range.is_first();
            self.copy(&mut connection, range, files)
                .await
                .map_err(|failure| failure.context(format_args!("copying {}", relation.name)))?;
        }
        if let Some((table, files)) = open {
            copied.push((table, files.finish().await?));
        }
        Ok(copied)
    }

    /// Keeps the tables that have several ranges from being written anew (`VACUUM FULL`, `CLUSTER`), which would move
    /// rows from one range to another. Whoever takes a range holds all of them, to the end of the last range: so no
    /// moment without a holder lies between two ranges of a table.
    async fn hold_split_tables(&self, connection: &mut CopyConnection) -> Result<()> {
        let names = self.ranges.split().iter().map(|table| self.jobs[*table].table.name.to_sql());
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            return Ok(());
        }
        connection.execute(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", names.join(", ONLY "))).await
    }

    async fn copy(&self, connection: &mut CopyConnection, range: Range, files: &mut ImageFiles<'_>) -> Result<()> {
        connection.start(&copy_statement(&self.jobs[range.table], range)).await?;
        let mut left = range.bytes;
        loop {
            let rows = files.builder.rows();
            let Some(bytes) = connection.next(&mut |row| files.builder.push_binary(row)).await? else { break };
            self.progress.rows.fetch_add((files.builder.rows() - rows) as u64, Ordering::Relaxed);
            self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
            // What a row takes on the way and what it takes on disk differ; the end of the range sets it right.
            let done = left.min(bytes);
            left -= done;
            self.progress.disk_bytes_done.fetch_add(done, Ordering::Relaxed);
            files.write_when_full().await?;
            if let Some(throttle) = &self.throttle {
                throttle.pass(bytes).await;
            }
        }
        self.progress.disk_bytes_done.fetch_add(left, Ordering::Relaxed);
        Ok(())
    }
}

/// Reads a range of a table in the forms that the builder of images expects.
fn copy_statement(job: &ImageJob, range: Range) -> String {
    let expression = |column: &Column| {
        let name = quote_identifier(&column.name);
        match BinaryForm::of_column(column) {
            BinaryForm::Converted => {
                format!("CASE WHEN pg_catalog.num_nulls({name}) = 0 THEN pg_catalog.concat({name}) END")
            }
            _ => name,
        }
    };
    let columns: Vec<String> = job.relation.columns.iter().map(expression).collect();
    let (table, condition) = (job.table.name.to_sql(), range.condition());
    format!("COPY (SELECT {} FROM ONLY {table}{condition}) TO STDOUT (FORMAT binary)", columns.join(", "))
}

/// The files of one table's image.
struct ImageFiles<'a> {
    store: &'a Store,
    relation: &'a RelationVersion,
    lsn: Lsn,
    builder: ImageBuilder,
    open: Option<OpenFile>,
    /// The file before, on its way into the store while rows go on.
    staging: Option<JoinHandle<Result<StagedFile>>>,
    files: Vec<StagedFile>,
    /// An empty table gets a file too: an image without files could not be told from none.
    even_empty: bool,
}

impl<'a> ImageFiles<'a> {
    fn new(store: &'a Store, relation: &'a RelationVersion, lsn: Lsn) -> ImageFiles<'a> {
        let builder = ImageBuilder::new(relation);
        ImageFiles { store, relation, lsn, builder, open: None, staging: None, files: Vec::new(), even_empty: false }
    }

    async fn write_when_full(&mut self) -> Result<()> {
        if self.builder.memory() >= BATCH_BYTES {
            self.write_batch().await?;
        }
        match self.open.take_if(|open| open.is_full()) {
            Some(full) => self.close(full).await,
            None => Ok(()),
        }
    }

    /// Hands the rows so far to the open file, or begins one.
    async fn write_batch(&mut self) -> Result<()> {
        let bytes = self.builder.memory();
        let batch = self.builder.finish()?;
        match &mut self.open {
            Some(open) => open.write(batch, bytes).await,
            None => {
                let encoder = self.begin(batch.schema())?;
                self.open = Some(OpenFile::begin(encoder, batch, bytes));
                Ok(())
            }
        }
    }

    fn begin(&self, schema: SchemaRef) -> Result<FileEncoder> {
        FileEncoder::new(self.store, schema, log::relation_metadata(self.relation), Some(self.lsn.as_i64()))
    }

    async fn close(&mut self, file: OpenFile) -> Result<()> {
        self.settle().await?;
        let (store, path) = (self.store.clone(), TablePath::Images(self.relation.name.clone()));
        self.staging = Some(tokio::spawn(async move { file.finish().await?.stage(&store, &path).await }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(staging) = self.staging.take() {
            self.files.push(joined(staging.await)?);
        }
        Ok(())
    }

    /// Writes the rest.
    async fn finish(mut self) -> Result<Vec<StagedFile>> {
        let has_none = self.files.is_empty() && self.staging.is_none() && self.open.is_none();
        if self.builder.rows() > 0 || (has_none && self.even_empty) {
            self.write_batch().await?;
        }
        if let Some(last) = self.open.take() {
            self.close(last).await?;
        }
        self.settle().await?;
        Ok(self.files)
    }
}
