//! One Delta table of an archive: opened, created, widened, appended to, and listed.
//!
//! A commit either adds all its files and moves the table's *progress* numbers, or changes nothing
//! (Delta protocol, "Transaction Identifiers"). A name collision at commit is not decided here: the
//! table is refreshed and the caller, who knows what the numbers mean, looks again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::engine::arrow_conversion::{TryFromArrow as _, TryIntoArrow as _};
use delta_kernel::engine::arrow_data::EngineDataArrowExt as _;
use delta_kernel::expressions::{ColumnName, Scalar};
use delta_kernel::schema::{StructField, StructType};
use delta_kernel::table_features::TableFeature;
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::transaction::{CommitResult, UpdateTableOperation};
use delta_kernel::{FileMeta, KernelError, Snapshot, SnapshotRef};
use delta_kernel_default_engine::build_add_file_metadata;
use delta_kernel_default_engine::parquet::DataFileMetadata;
use serde_json::json;
use tokio::sync::OnceCell;

use super::file::StagedFile;
use super::layout::TablePath;
use super::listed;
use super::store::{Store, blocking};
use crate::columnar::names;
use crate::failure::{Failure, Result};

const ENGINE: &str = concat!("afterimage/", env!("CARGO_PKG_VERSION"));

/// A checkpoint every so many commits keeps opening a table from reading its whole log.
const COMMITS_PER_CHECKPOINT: u64 = 100;

/// A data file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Relative to the archive's root.
    pub path: String,
    pub size: u64,
    /// The least and the greatest LSN of its rows, in tables that have one for each; `None` where the Delta log does not
    /// say.
    pub lsns: Option<(i64, i64)>,
    /// The image that the file belongs to, in tables of base images.
    pub image_lsn: Option<i64>,
    /// When it was written, in milliseconds since 1970.
    pub written_ms: i64,
    /// The least and the greatest of each column of whole numbers, by its stored name, as far as the Delta log says.
    pub numbers: Vec<(String, i64, i64)>,
}

/// What became of an attempt to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Appended {
    Committed,
    /// Somebody else has committed since; the table now shows it. Nothing of this attempt is in it,
    /// unless the store lost the answer to an attempt that succeeded: the progress numbers tell.
    Conflicted,
}

/// Files that take others' place in a table, or only join it.
#[derive(Debug)]
pub(super) struct Replacement<'a> {
    /// Must be in the table, else nothing is done.
    pub(super) removed: &'a [DataFile],
    pub(super) added: &'a [StagedFile],
    /// Whether rows come that were not there before; not so where the same rows lie in other files.
    pub(super) new_rows: bool,
    pub(super) progress: &'a [(&'a str, i64)],
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct DeltaTable {
    store: Store,
    directory: String,
    snapshot: SnapshotRef,
    /// All files of that snapshot, once somebody has asked for them.
    files: Arc<OnceCell<Vec<DataFile>>>,
}

impl DeltaTable {
    /// Opens a table as it is now; `None` where it does not exist.
    pub async fn open(store: &Store, path: &TablePath) -> Result<Option<DeltaTable>> {
        let directory = path.directory();
        let (loading, url) = (store.clone(), store.url_of(&directory)?);
        let loaded = blocking(move || match Snapshot::builder_for(url.as_str()).build(loading.engine()) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(error) if is_empty_log(&error) => Ok(None),
            Err(error) => Err(loading.kernel_failure(error)),
        });
        let table = |snapshot| DeltaTable { store: store.clone(), directory, snapshot, files: Arc::default() };
        Ok(loaded.await?.map(table))
    }

    /// Opens a table or creates it with a schema; whoever creates it first decides.
    pub async fn open_or_create(store: &Store, path: &TablePath, schema: &Schema) -> Result<DeltaTable> {
        if let Some(table) = DeltaTable::open(store, path).await? {
            return Ok(table);
        }
        let directory = path.directory();
        let url = store.url_of(&directory)?;
        let kernel_schema = kernel_schema(store, schema)?;
        let partitioned = schema.field_with_name(names::IMAGE_LSN).is_ok();
        let creating = store.clone();
        blocking(move || {
            let mut builder = create_table(url.as_str(), kernel_schema, ENGINE, false);
            if partitioned {
                builder = builder.with_data_layout(DataLayout::partitioned([names::IMAGE_LSN]));
            }
            let outcome = builder
                .build(creating.engine(), Box::new(FileSystemCommitter::new()))
                .and_then(|transaction| transaction.commit(creating.engine()));
            match outcome {
                Ok(CommitResult::Committed(_) | CommitResult::Conflicted(_)) => Ok(()),
                Err(KernelError::TableAlreadyExistsAtPath(_)) => Ok(()),
                Ok(CommitResult::Retryable(retryable)) => Err(retry_later(&creating, retryable.error)),
                Err(error) => Err(creating.kernel_failure(error)),
            }
        })
        .await?;
        let created = DeltaTable::open(store, path).await?;
        created.ok_or_else(|| Failure::failed(format!("archive {store}: {} is gone again", path.directory())))
    }

    fn show(&mut self, snapshot: SnapshotRef) {
        if snapshot.version() != self.snapshot.version() {
            self.files = Arc::default();
        }
        self.snapshot = snapshot;
    }

    /// The number of its latest commit that is seen.
    pub fn version(&self) -> u64 {
        self.snapshot.version()
    }

    /// The table's columns, partition columns included.
    pub fn schema(&self) -> Result<SchemaRef> {
        let converted: std::result::Result<Schema, _> = self.snapshot.schema().as_ref().try_into_arrow();
        converted.map(Arc::new).map_err(|error| Failure::failed(format!("archive {}: {error}", self.store)))
    }

    /// Shows the table's newest version.
    pub async fn refresh(&mut self) -> Result<()> {
        let (store, old) = (self.store.clone(), Arc::clone(&self.snapshot));
        let newest = blocking(move || {
            Snapshot::builder_from(old).build(store.engine()).map_err(|error| store.kernel_failure(error))
        })
        .await?;
        self.show(newest);
        Ok(())
    }

    /// The number last committed under a name.
    pub async fn progress(&self, name: &'static str) -> Result<Option<i64>> {
        let (store, snapshot) = (self.store.clone(), Arc::clone(&self.snapshot));
        blocking(move || snapshot.get_app_id_version(name, store.engine()).map_err(|error| store.kernel_failure(error)))
            .await
    }

    /// Adds the columns of `wanted` that the table lacks, those inside its structs too. All are nullable.
    pub async fn add_missing_columns(&mut self, wanted: &Schema) -> Result<()> {
        loop {
            let missing = missing_fields(self.schema()?.as_ref(), wanted);
            if missing.is_empty() {
                return Ok(());
            }
            if missing.iter().any(|(_, field)| has_clock(field.data_type())) && !self.allows_clocks() {
                self.allow_clocks().await?;
                continue;
            }
            let (store, snapshot) = (self.store.clone(), Arc::clone(&self.snapshot));
            let committed = blocking(move || {
                let mut builder = snapshot.update_table(UpdateTableOperation::AlterTable, ENGINE, false);
                for (parent, field) in &missing {
                    let field = StructField::try_from_arrow(field.as_ref())
                        .map_err(|error| Failure::failed(format!("column {}: {error}", field.name())))?;
                    builder = match parent {
                        None => builder.add_column(field),
                        Some(parent) => builder.add_column_at(ColumnName::new([parent]), field),
                    };
                }
                let transaction = builder
                    .build(store.engine(), Box::new(FileSystemCommitter::new()))
                    .map_err(|error| store.kernel_failure(error))?;
                committed(&store, transaction.commit(store.engine()))
            })
            .await?;
            match committed {
                Some(snapshot) => self.show(snapshot),
                None => self.refresh().await?,
            }
        }
    }

    /// Whether the table may have timestamps without a zone.
    fn allows_clocks(&self) -> bool {
        let features = self.snapshot.table_configuration().protocol().writer_features();
        features.is_some_and(|features| features.contains(&TableFeature::TimestampWithoutTimezone))
    }

    /// Lets the table have timestamps without a zone. The library can only create a table so; the commit is written here
    /// (Delta protocol, "Protocol Evolution"). Our tables have no other feature.
    async fn allow_clocks(&mut self) -> Result<()> {
        let feature = TableFeature::TimestampWithoutTimezone.to_string();
        let info = json!({ "commitInfo": { "timestamp": crate::machine::now().timestamp_millis(),
            "operation": "UPGRADE PROTOCOL", "operationParameters": {}, "engineInfo": ENGINE } });
        let protocol = json!({ "protocol": { "minReaderVersion": 3, "minWriterVersion": 7,
            "readerFeatures": [feature], "writerFeatures": [feature] } });
        let path = format!("{}/_delta_log/{:020}.json", self.directory, self.snapshot.version() + 1);
        // Whoever came before is seen at the next look.
        self.store.create(&path, format!("{info}\n{protocol}\n").into_bytes()).await?;
        self.refresh().await
    }

    /// Commits files and progress numbers at once. Either may be empty.
    pub async fn append(&mut self, files: &[StagedFile], progress: &[(&str, i64)]) -> Result<Appended> {
        self.commit(Commit {
            operation: UpdateTableOperation::StreamingUpdate,
            removed: HashSet::new(),
            added: files.to_vec(),
            new_rows: !files.is_empty(),
            progress: owned(progress),
        })
        .await
    }

    /// Takes files out and puts others in, in one commit.
    ///
    /// # Errors
    /// Failed where a file to remove is not in the table; else as the store says.
    pub(super) async fn replace(&mut self, replacement: &Replacement<'_>) -> Result<Appended> {
        let removed = replacement.removed.iter().map(|file| file.path.clone()).collect();
        let added = replacement.added.to_vec();
        let operation = UpdateTableOperation::Optimize;
        let (new_rows, progress) = (replacement.new_rows, owned(replacement.progress));
        self.commit(Commit { operation, removed, added, new_rows, progress }).await
    }

    async fn commit(&mut self, commit: Commit) -> Result<Appended> {
        let (store, snapshot, directory) = (self.store.clone(), Arc::clone(&self.snapshot), self.directory.clone());
        match blocking(move || perform(&store, snapshot, &directory, commit)).await? {
            Some(snapshot) => {
                self.show(snapshot);
                // The commit stands whatever becomes of the checkpoint, which only saves reading.
                if self.snapshot.version().is_multiple_of(COMMITS_PER_CHECKPOINT)
                    && let Err(failure) = self.checkpoint().await
                {
                    tracing::warn!("the checkpoint of {} waits for the next turn: {failure}", self.directory);
                }
                Ok(Appended::Committed)
            }
            None => {
                self.refresh().await?;
                Ok(Appended::Conflicted)
            }
        }
    }

    /// Writes what the log says so far into one file, so that opening the table need not read all of it.
    pub(super) async fn checkpoint(&mut self) -> Result<()> {
        let (store, snapshot) = (self.store.clone(), Arc::clone(&self.snapshot));
        let checked = blocking(move || {
            let written = snapshot.checkpoint(store.engine(), None).map_err(|error| store.kernel_failure(error))?;
            Ok(written.1)
        })
        .await?;
        self.show(checked);
        Ok(())
    }

    pub(super) fn directory(&self) -> &str {
        &self.directory
    }

    /// The table's files, without those whose statistics show that they have no `_lsn` in `lsns`.
    pub async fn files(&self, lsns: Option<(i64, i64)>) -> Result<Vec<DataFile>> {
        let files = self.files.get_or_try_init(|| self.listed()).await?;
        let may_have = |file: &&DataFile| match (lsns, file.lsns) {
            (Some((from, to)), Some((least, greatest))) => least <= to && from <= greatest,
            _ => true,
        };
        Ok(files.iter().filter(may_have).cloned().collect())
    }

    async fn listed(&self) -> Result<Vec<DataFile>> {
        let (store, snapshot, directory) = (self.store.clone(), Arc::clone(&self.snapshot), self.directory.clone());
        blocking(move || {
            let fail = |error| store.kernel_failure(error);
            let scan = snapshot.scan_builder().build().map_err(fail)?;
            let mut found = Vec::new();
            for part in scan.scan_metadata(store.engine()).map_err(fail)? {
                let rows = part.and_then(|part| part.scan_files.apply_selection_vector());
                listed::files_of(
                    &rows.and_then(|rows| rows.try_into_record_batch()).map_err(fail)?,
                    &directory,
                    &mut found,
                )?;
            }
            Ok(found)
        })
        .await
    }
}

fn is_empty_log(error: &KernelError) -> bool {
    match error {
        KernelError::EmptyLog => true,
        KernelError::Backtraced { source, .. } => is_empty_log(source),
        _ => false,
    }
}

fn owned(progress: &[(&str, i64)]) -> Vec<(String, i64)> {
    progress.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

/// What one commit does to the files of a table.
struct Commit {
    operation: UpdateTableOperation,
    /// Paths relative to the archive's root.
    removed: HashSet<String>,
    added: Vec<StagedFile>,
    new_rows: bool,
    progress: Vec<(String, i64)>,
}

fn perform(store: &Store, snapshot: SnapshotRef, directory: &str, commit: Commit) -> Result<Option<SnapshotRef>> {
    let fail = |error| store.kernel_failure(error);
    let mut builder = Arc::clone(&snapshot).update_table(commit.operation, ENGINE, commit.new_rows);
    for (name, value) in commit.progress {
        builder = builder.with_transaction_id(name, value);
    }
    let mut transaction = builder.build(store.engine(), Box::new(FileSystemCommitter::new())).map_err(fail)?;
    if !commit.removed.is_empty() {
        for rows in listed::rows_of(store, &snapshot, directory, &commit.removed)? {
            transaction.remove_files(rows);
        }
    }
    if !commit.added.is_empty() {
        let state = transaction.write_state().map_err(fail)?;
        for file in &commit.added {
            let mut context = state.write_context_builder();
            if let Some(lsn) = file.image_lsn {
                let value = HashMap::from([(names::IMAGE_LSN.to_owned(), Scalar::Long(lsn))]);
                context = context.with_partition_values(value);
            }
            let context = context.build().map_err(fail)?;
            let meta = FileMeta::new(store.url_of(&file.path)?, file.written_ms, file.size);
            let metadata = DataFileMetadata::new(meta, file.statistics.clone());
            transaction.add_files(build_add_file_metadata(metadata, &context).map_err(fail)?);
        }
    }
    committed(store, transaction.commit(store.engine()))
}

/// The table after a successful commit; `None` after a conflict.
fn committed(store: &Store, outcome: delta_kernel::KernelResult<CommitResult>) -> Result<Option<SnapshotRef>> {
    match outcome {
        Ok(CommitResult::Committed(committed)) => committed
            .post_commit_snapshot()
            .cloned()
            .map(Some)
            .ok_or_else(|| Failure::failed(format!("archive {store}: a commit did not show its table"))),
        Ok(CommitResult::Conflicted(_)) => Ok(None),
        Ok(CommitResult::Retryable(retryable)) => Err(retry_later(store, retryable.error)),
        Err(error) => Err(store.kernel_failure(error)),
    }
}

fn retry_later(store: &Store, error: KernelError) -> Failure {
    let failure = store.kernel_failure(error);
    Failure::transient(failure.cause()).remedy("the same commit is tried again")
}

pub(super) fn kernel_schema(store: &Store, schema: &Schema) -> Result<Arc<StructType>> {
    StructType::try_from_arrow(schema)
        .map(Arc::new)
        .map_err(|error| Failure::failed(format!("archive {store}: a schema that Delta cannot hold: {error}")))
}

/// Whether a timestamp without a zone is in it.
fn has_clock(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(_, None) => true,
        DataType::List(inside) => has_clock(inside.data_type()),
        DataType::Struct(inside) => inside.iter().any(|field| has_clock(field.data_type())),
        _ => false,
    }
}

type MissingField = (Option<String>, arrow::datatypes::FieldRef);

fn missing_fields(existing: &Schema, wanted: &Schema) -> Vec<MissingField> {
    let mut missing = Vec::new();
    for field in wanted.fields() {
        match existing.field_with_name(field.name()).map(arrow::datatypes::Field::data_type) {
            Err(_) => missing.push((None, Arc::clone(field))),
            Ok(DataType::Struct(inside)) => {
                if let DataType::Struct(wanted_inside) = field.data_type() {
                    let absent = wanted_inside.iter().filter(|child| inside.find(child.name()).is_none());
                    missing.extend(absent.map(|child| (Some(field.name().clone()), Arc::clone(child))));
                }
            }
            Ok(_) => {}
        }
    }
    missing
}
