//! Base images: whole tables as one exported snapshot shows them, copied over several connections.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use super::catalog::{self, SourceTable};
use crate::archive::{FileEncoder, RELATION_KEY, StagedFile, Store, TablePath, log};
use crate::columnar::ImageBuilder;
use crate::copy_format::TextRow;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, RelationVersion, quote_identifier};
use crate::postgres::{Session, Source, copy_out};

/// Bytes of rows, as they are in memory, of one file of an image.
const FILE_BYTES: usize = 96 << 20;

/// Bytes of rows that are encoded at once, while the next ones arrive. Small enough to be allocated from what the
/// batch before has freed: memory fresh from the operating system costs more than filling it.
const BATCH_BYTES: usize = 4 << 20;

/// How far copying has come; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct ImageProgress {
    pub rows: AtomicU64,
    pub bytes: AtomicU64,
    pub tables_done: AtomicU64,
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
pub(super) struct StagedImage {
    pub(super) relation: RelationVersion,
    pub(super) definition: String,
    pub(super) files: Vec<StagedFile>,
}

/// A session that sees what an exported snapshot shows.
///
/// Row security would silently hide rows; with it off PostgreSQL refuses instead.
pub(super) async fn snapshot_session(source: &Source, snapshot: &str) -> Result<Session> {
    let session = source.connect("afterimage init").await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; SET LOCAL row_security = off; {}",
        crate::model::quote_literal(snapshot),
        crate::postgres::RAW_WHERE_UNKNOWN
    );
    session.batch_execute(&begin).await?;
    Ok(session)
}

/// Copies tables, the largest first, over `workers` connections on one snapshot.
pub(super) async fn copy_tables(
    source: &Source,
    store: &Store,
    snapshot: &str,
    lsn: Lsn,
    mut jobs: Vec<ImageJob>,
    workers: usize,
    progress: Arc<ImageProgress>,
) -> Result<Vec<StagedImage>> {
    jobs.sort_by_key(|job| std::cmp::Reverse(job.table.bytes));
    let workers = workers.clamp(1, jobs.len().max(1));
    let queue = Arc::new(Mutex::new(VecDeque::from(jobs)));
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (source, store, queue, progress) =
            (source.clone(), store.clone(), Arc::clone(&queue), Arc::clone(&progress));
        let snapshot = snapshot.to_owned();
        running.spawn(async move {
            let session = snapshot_session(&source, &snapshot).await?;
            let mut images = Vec::new();
            while let Some(job) = next(&queue) {
                images.push(copy_table(&session, &store, lsn, job, &progress).await?);
                progress.tables_done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failure>(images)
        });
    }
    let mut images = Vec::new();
    // Dropping the set on an error stops the other workers.
    while let Some(joined) = running.join_next().await {
        images.extend(joined.map_err(|error| Failure::failed(format!("a copying worker stopped: {error}")))??);
    }
    Ok(images)
}

fn next(queue: &Mutex<VecDeque<ImageJob>>) -> Option<ImageJob> {
    queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front()
}

async fn copy_table(
    session: &Session,
    store: &Store,
    lsn: Lsn,
    job: ImageJob,
    progress: &ImageProgress,
) -> Result<StagedImage> {
    let ImageJob { table, relation, definition } = job;
    let columns: Vec<String> = relation.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    let sql = format!("COPY (SELECT {} FROM ONLY {}) TO STDOUT", columns.join(", "), table.name.to_sql());
    let at_table = |failure: Failure| failure.context(format_args!("copying {}", table.name));
    let mut rows = copy_out(session, &sql).await.map_err(at_table)?;
    let mut image = ImageFiles::new(store, &relation, lsn);
    while let Some(lines) = rows.next_chunk().await.map_err(at_table)? {
        progress.bytes.fetch_add(lines.len() as u64, Ordering::Relaxed);
        progress.rows.fetch_add(image.push_lines(&lines)?, Ordering::Relaxed);
        image.write_when_full().await?;
    }
    let files = image.finish().await?;
    Ok(StagedImage { relation, definition, files })
}

/// The files of one table's image.
struct ImageFiles<'a> {
    store: &'a Store,
    relation: &'a RelationVersion,
    lsn: Lsn,
    builder: ImageBuilder,
    row: TextRow,
    open: Option<OpenFile>,
    files: Vec<StagedFile>,
}

/// A file whose latest batch is being encoded on another thread.
struct OpenFile {
    bytes: usize,
    encoding: JoinHandle<Result<FileEncoder>>,
}

impl OpenFile {
    async fn encoded(self) -> Result<FileEncoder> {
        self.encoding.await.map_err(|error| Failure::failed(format!("a worker stopped: {error}")))?
    }
}

impl<'a> ImageFiles<'a> {
    fn new(store: &'a Store, relation: &'a RelationVersion, lsn: Lsn) -> ImageFiles<'a> {
        let builder = ImageBuilder::new(relation);
        ImageFiles { store, relation, lsn, builder, row: TextRow::new(), open: None, files: Vec::new() }
    }

    fn push_lines(&mut self, lines: &[u8]) -> Result<u64> {
        let mut rows = 0;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', lines) {
            self.row.read(&lines[start..end], self.relation.columns.len())?;
            self.builder.push(self.row.fields())?;
            start = end + 1;
            rows += 1;
        }
        Ok(rows)
    }

    async fn write_when_full(&mut self) -> Result<()> {
        if self.builder.memory() >= BATCH_BYTES {
            self.write_batch().await?;
        }
        match self.open.take_if(|open| open.bytes >= FILE_BYTES) {
            Some(full) => self.close(full).await,
            None => Ok(()),
        }
    }

    /// Hands the rows so far to the open file, or begins one.
    async fn write_batch(&mut self) -> Result<()> {
        let mut bytes = self.builder.memory();
        let batch = self.builder.finish()?;
        let mut encoder = match self.open.take() {
            None => self.begin(batch.schema())?,
            Some(open) => {
                bytes += open.bytes;
                open.encoded().await?
            }
        };
        let encoding = spawn_blocking(move || encoder.write(&batch).map(|()| encoder));
        self.open = Some(OpenFile { bytes, encoding });
        Ok(())
    }

    fn begin(&self, schema: SchemaRef) -> Result<FileEncoder> {
        let metadata = vec![(RELATION_KEY.to_owned(), log::relation_json(self.relation))];
        FileEncoder::new(self.store, schema, metadata, Some(self.lsn.as_i64()))
    }

    async fn close(&mut self, file: OpenFile) -> Result<()> {
        let path = TablePath::Images(self.relation.name.clone());
        self.files.push(file.encoded().await?.stage(&path).await?);
        Ok(())
    }

    /// Writes the rest. An empty table gets a file too: an image without files could not be told from none.
    async fn finish(mut self) -> Result<Vec<StagedFile>> {
        if self.builder.rows() > 0 || (self.files.is_empty() && self.open.is_none()) {
            self.write_batch().await?;
        }
        if let Some(last) = self.open.take() {
            self.close(last).await?;
        }
        Ok(self.files)
    }
}
