//! Reading an archive: its identity, its watermark, its log tables, and the files of its tables.
//! Nothing above the watermark is ever returned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use futures::{FutureExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;
use tokio::sync::Mutex;

use super::commit;
use super::delta::{DataFile, DeltaTable};
use super::identity::ArchiveIdentity;
use super::layout::{LogTable, TablePath};
use super::log::{self, DdlRow, GapRow, LogRow, MarkRow, RelationRow, RestoreRow, SequenceRow, TransactionRow};
use super::pruning::{self, KeyBounds, Rows};
use super::store::{Store, no_archive, object_path};
use super::writer::{CLAIMED, FRESHNESS, TIMELINE, WATERMARK, WATERMARK_TIME};
use crate::columnar::names;
use crate::failure::{Failure, Result};
use crate::model::{
    Commit, DdlRecord, Freshness, GapRecord, Lsn, Mark, RelationEvent, RelationRecord, RelationVersion, RestoreRecord,
    SequenceSample, TableName, Transaction,
};

/// Key of the number of truncations, in the metadata of files of changes whose rows are in the order of their keys: those
/// are their first rows, for a truncation concerns every key.
pub const CLUSTERED_KEY: &str = "afterimage.clustered";

/// Rows of a batch, and the bytes of it, as they are encoded, beyond which there are fewer.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: u64 = 16 << 20;

/// Bytes read from the end of a file at first: the footer of most, and all of a small one.
const FOOTER_BYTES: usize = 64 << 10;

/// Small files read at the same time: most of the time of each is waiting for the store.
const PARALLEL_READS: usize = 16;

/// How far an archive's history reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// Every transaction whose commit record ends at or before this is in the archive.
    pub lsn: Lsn,
    /// When the source had reached it, by the source's clock.
    pub time: DateTime<Utc>,
}

/// A base image: the whole table at a point.
#[derive(Debug, Clone)]
pub struct Image {
    pub lsn: Lsn,
    pub files: Vec<DataFile>,
}

/// An archive that is read. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Store,
    identity: Arc<ArchiveIdentity>,
    /// Tables as they were last seen: seeing them again costs only what is new.
    seen: Arc<std::sync::Mutex<HashMap<TablePath, Arc<Seen>>>>,
    /// The watermark at a version of `log/transactions`.
    watermark: AtVersion<Watermark>,
    /// The rows of `log/relations` at a version.
    relations: AtVersion<Arc<[RelationRecord]>>,
}

type Seen = Mutex<Option<DeltaTable>>;

/// What was read of a table at one of its versions.
type AtVersion<T> = Arc<Mutex<Option<(u64, T)>>>;

/// A process that lives long may see thousands of tables, and each is some kilobytes.
const MOST_SEEN: usize = 256;

impl Archive {
    /// Opens an archive; `None` where there is none at this root.
    ///
    /// # Errors
    /// Refused where its format is newer than this program's.
    pub async fn find(store: &Store) -> Result<Option<Archive>> {
        let identity = ArchiveIdentity::read(store).await?;
        Ok(identity.map(|identity| Archive {
            store: store.clone(),
            identity: Arc::new(identity),
            seen: Arc::default(),
            watermark: Arc::default(),
            relations: Arc::default(),
        }))
    }

    /// Opens an archive that must be there.
    pub async fn open(store: &Store) -> Result<Archive> {
        Archive::find(store).await?.ok_or_else(|| no_archive(store))
    }

    pub fn identity(&self) -> &ArchiveIdentity {
        &self.identity
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How far history reaches now.
    pub async fn watermark(&self) -> Result<Watermark> {
        let table = self.log_table(LogTable::Transactions).await?;
        let missing =
            || Failure::failed(format!("archive {} has no watermark", self.store)).remedy("run afterimage init again");
        let table = table.ok_or_else(missing)?;
        let mut seen = self.watermark.lock().await;
        if let Some((_, watermark)) = seen.filter(|(version, _)| *version == table.version()) {
            return Ok(watermark);
        }
        let [lsn, micros] = self.moved_together(&table, [WATERMARK, WATERMARK_TIME]).await?;
        let (lsn, micros) = (lsn.ok_or_else(missing)?, micros.unwrap_or(0));
        let time = DateTime::from_timestamp_micros(micros).unwrap_or(self.identity.created_at);
        let watermark = Watermark { lsn: Lsn::from_i64(lsn), time };
        *seen = Some((table.version(), watermark));
        Ok(watermark)
    }

    /// The source's timeline at the watermark; `None` in an archive of which nobody noted it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn timeline(&self) -> Result<Option<u32>> {
        let Some(table) = self.log_table(LogTable::Transactions).await? else { return Ok(None) };
        let [timeline] = self.moved_together(&table, [TIMELINE]).await?;
        Ok(timeline.and_then(|timeline| u32::try_from(timeline).ok()))
    }

    /// Progress numbers of a table. The newest commit mostly has them, which is less to read than the log.
    async fn moved_together<const N: usize>(
        &self,
        table: &DeltaTable,
        names: [&'static str; N],
    ) -> Result<[Option<i64>; N]> {
        let newest = commit::read(&self.store, table.directory(), table.version()).await?.unwrap_or_default();
        let mut numbers = [None; N];
        for (number, name) in numbers.iter_mut().zip(names) {
            let moved = newest.iter().filter_map(|action| action.txn.as_ref()).find(|txn| txn.app_id == name);
            *number = match moved {
                Some(txn) => Some(txn.version),
                None => table.progress(name).await?,
            };
        }
        Ok(numbers)
    }

    /// When the archive's writer became it, by its clock: whatever it has staged is younger. `None` where its program did
    /// not say so yet.
    pub async fn claimed_at(&self) -> Result<Option<DateTime<Utc>>> {
        let Some(table) = self.log_table(LogTable::Transactions).await? else { return Ok(None) };
        Ok(table.progress(CLAIMED).await?.and_then(DateTime::from_timestamp_millis))
    }

    /// How fresh the archive was when its archiver last published; `None` where it was not measured yet.
    pub async fn freshness(&self) -> Result<Option<Freshness>> {
        let Some(table) = self.log_table(LogTable::Transactions).await? else { return Ok(None) };
        let [Some(transactions), Some(p50), Some(p99)] = self.moved_together(&table, FRESHNESS).await? else {
            return Ok(None);
        };
        let [transactions, p50, p99] = [transactions, p50, p99].map(|number| number.max(0) as u64);
        Ok(Some(Freshness { transactions, p50: Duration::from_micros(p50), p99: Duration::from_micros(p99) }))
    }

    async fn log_table(&self, table: LogTable) -> Result<Option<DeltaTable>> {
        self.table(&TablePath::Log(table)).await
    }

    /// A table as it is now.
    async fn table(&self, path: &TablePath) -> Result<Option<DeltaTable>> {
        let seen = self.seen(path);
        let mut seen = seen.lock().await;
        match seen.as_mut() {
            Some(table) => table.refresh().await?,
            None => *seen = DeltaTable::open(&self.store, path).await?,
        }
        Ok(seen.clone())
    }

    fn seen(&self, path: &TablePath) -> Arc<Seen> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_SEEN && !all.contains_key(path) {
            all.retain(|path, _| matches!(path, TablePath::Log(_)));
        }
        Arc::clone(all.entry(path.clone()).or_default())
    }

    /// The place of every transaction at or below the watermark, in commit order.
    pub async fn commits(&self, watermark: Lsn) -> Result<Vec<Commit>> {
        self.commits_from(Lsn::ZERO, watermark).await
    }

    /// The same of those that committed at or after a position.
    pub async fn commits_from(&self, from: Lsn, watermark: Lsn) -> Result<Vec<Commit>> {
        let mut commits = Vec::new();
        for file in self.transaction_files(from, Lsn::MAX).await? {
            let columns = Some(&["lsn", "end_lsn", "xid", "ts"][..]);
            for batch in self.read(&file, columns).await?.batches().await? {
                commits_of(&batch, &mut commits)?;
            }
        }
        commits.retain(|commit| commit.lsn >= from && commit.end_lsn <= watermark);
        commits.sort_by_key(|commit| commit.lsn);
        Ok(commits)
    }

    /// The files of `log/transactions` that may have transactions with `from <=` commit LSN `< to`.
    pub async fn transaction_files(&self, from: Lsn, to: Lsn) -> Result<Vec<DataFile>> {
        let Some(table) = self.log_table(LogTable::Transactions).await? else { return Ok(Vec::new()) };
        let is_outside = |(column, least, greatest): &(String, i64, i64)| {
            column == "lsn" && (*greatest < from.as_i64() || *least >= to.as_i64())
        };
        let mut files = table.files(None).await?;
        files.retain(|file| !file.numbers.iter().any(is_outside));
        Ok(files)
    }

    /// Every transaction at or below the watermark, in commit order.
    pub async fn transactions(&self, watermark: Lsn) -> Result<Vec<Transaction>> {
        let mut found = self.log_rows::<TransactionRow>().await?;
        found.retain(|transaction| transaction.commit.end_lsn <= watermark);
        found.sort_by_key(|transaction| transaction.commit.lsn);
        Ok(found)
    }

    /// Every mark at or below the watermark, in commit order.
    pub async fn marks(&self, watermark: Lsn) -> Result<Vec<Mark>> {
        let mut found = self.log_rows::<MarkRow>().await?;
        found.retain(|mark| mark.lsn < watermark);
        found.sort_by_key(|mark| mark.lsn);
        Ok(found)
    }

    /// Every statement at or below the watermark that changed definitions, in commit order.
    pub async fn ddl(&self, watermark: Lsn) -> Result<Vec<DdlRecord>> {
        let mut found = self.log_rows::<DdlRow>().await?;
        found.retain(|record| record.position.lsn < watermark);
        found.sort_by_key(|record| record.position);
        Ok(found)
    }

    /// Every sample of a sequence at or below the watermark, in commit order.
    pub async fn sequences(&self, watermark: Lsn) -> Result<Vec<SequenceSample>> {
        let mut found = self.log_rows::<SequenceRow>().await?;
        found.retain(|sample| sample.position.lsn < watermark);
        found.sort_by_key(|sample| sample.position);
        Ok(found)
    }

    /// Every restore at or below the watermark, in commit order.
    pub async fn restores(&self, watermark: Lsn) -> Result<Vec<RestoreRecord>> {
        let mut found = self.log_rows::<RestoreRow>().await?;
        found.retain(|restore| restore.lsn < watermark);
        found.sort_by_key(|restore| restore.lsn);
        Ok(found)
    }

    /// Every gap that ends at or below the watermark, in order.
    pub async fn gaps(&self, watermark: Lsn) -> Result<Vec<GapRecord>> {
        let mut found = self.log_rows::<GapRow>().await?;
        found.retain(|gap| gap.end_lsn <= watermark);
        found.sort_by_key(|gap| (gap.lsn, Reverse(gap.end_lsn)));
        // Attempts to go on that were cut off recorded shorter ones: the whole gap is that of the last.
        found.dedup_by_key(|gap| gap.lsn);
        Ok(found)
    }

    /// Every relation version, oldest first, without the source's own descriptions.
    pub async fn relations(&self) -> Result<Arc<[RelationRecord]>> {
        let Some(table) = self.log_table(LogTable::Relations).await? else { return Ok(Arc::default()) };
        let mut seen = self.relations.lock().await;
        match seen.as_ref() {
            Some((version, records)) if *version == table.version() => Ok(Arc::clone(records)),
            _ => {
                let records: Arc<[RelationRecord]> = self.relation_records(&table).await?.into();
                *seen = Some((table.version(), Arc::clone(&records)));
                Ok(records)
            }
        }
    }

    async fn relation_records(&self, table: &DeltaTable) -> Result<Vec<RelationRecord>> {
        let schema = log::schema(LogTable::Relations);
        let columns = schema.fields().iter().map(|field| field.name().as_str());
        let columns: Vec<&str> = columns.filter(|name| *name != log::SOURCE_DEFINITION).collect();
        let mut found = self.rows_of::<RelationRow>(table, Some(&columns)).await?;
        // A version from before the archive's beginning is what an interrupted `init` left.
        found.retain(|record| record.position.lsn >= self.identity.start_lsn);
        found.sort_by(|a, b| (a.position, &a.relation.name).cmp(&(b.position, &b.relation.name)));
        Ok(found)
    }

    /// The versions of one relation, or of all, oldest first, with the source's own descriptions.
    pub async fn definitions(&self, oid: Option<u32>) -> Result<Vec<RelationRecord>> {
        let mut found = self.log_rows::<RelationRow>().await?;
        let wanted = |relation: u32| oid.is_none_or(|oid| oid == relation);
        found.retain(|record| wanted(record.relation.oid) && record.position.lsn >= self.identity.start_lsn);
        found.sort_by_key(|record| record.position);
        Ok(found)
    }

    /// Every table that there ever was, under every name that it had, with the latest version under that name.
    pub async fn tables_ever(&self) -> Result<HashMap<TableName, RelationVersion>> {
        let records = self.relations().await?;
        Ok(records.iter().map(|record| (record.relation.name.clone(), record.relation.clone())).collect())
    }

    /// The tables that there were before the transaction with this commit LSN, each with its latest version; those without
    /// rows of their own too. The archive's beginning counts as before.
    pub async fn tables_before(&self, cut: Lsn) -> Result<HashMap<TableName, RelationVersion>> {
        let start = self.identity.start_lsn;
        let records = self.relations().await?;
        let known = records.iter().filter(|record| record.position.lsn < cut || record.position.lsn <= start);
        let latest: HashMap<u32, &RelationRecord> = known.map(|record| (record.relation.oid, record)).collect();
        let present = latest.into_values().filter(|record| record.event != RelationEvent::Dropped);
        Ok(present.map(|record| (record.relation.name.clone(), record.relation.clone())).collect())
    }

    pub(super) async fn log_rows<R: LogRow>(&self) -> Result<Vec<R::Value>> {
        match self.log_table(R::TABLE).await? {
            Some(table) => self.rows_of::<R>(&table, None).await,
            None => Ok(Vec::new()),
        }
    }

    async fn rows_of<R: LogRow>(&self, table: &DeltaTable, columns: Option<&[&str]>) -> Result<Vec<R::Value>> {
        let files = table.files(None).await?;
        let read = |file: DataFile| async move {
            let mut values = Vec::new();
            for batch in self.read(&file, columns).await?.batches().await? {
                values.extend(log::decode::<R>(&batch)?);
            }
            Ok::<_, Failure>(values)
        };
        let values: Vec<Vec<R::Value>> = stream::iter(files).map(read).buffered(PARALLEL_READS).try_collect().await?;
        Ok(values.into_iter().flatten().collect())
    }

    /// The files that may hold changes with `from <= _lsn < to`, and the table's columns.
    pub async fn change_files(&self, name: &TableName, from: Lsn, to: Lsn) -> Result<Vec<DataFile>> {
        match self.table(&TablePath::Changes(name.clone())).await? {
            Some(table) if from < to => table.files(Some((from.as_i64(), to.as_i64() - 1))).await,
            _ => Ok(Vec::new()),
        }
    }

    /// The newest base image of a table at or before an LSN.
    pub async fn image(&self, name: &TableName, at: Lsn) -> Result<Option<Image>> {
        Ok(self.images(name, at).await?.into_iter().next())
    }

    /// The base images under a name at or before an LSN, the newest first.
    pub async fn images(&self, name: &TableName, at: Lsn) -> Result<Vec<Image>> {
        let Some(table) = self.table(&TablePath::Images(name.clone())).await? else {
            return Ok(Vec::new());
        };
        // An image from before the archive's beginning is what an interrupted `init` left.
        let usable = self.identity.start_lsn.as_i64()..=at.as_i64();
        let mut images: BTreeMap<i64, Vec<DataFile>> = BTreeMap::new();
        for file in table.files(None).await? {
            if let Some(lsn) = file.image_lsn.filter(|lsn| usable.contains(lsn)) {
                images.entry(lsn).or_default().push(file);
            }
        }
        Ok(images.into_iter().rev().map(|(lsn, files)| Image { lsn: Lsn::from_i64(lsn), files }).collect())
    }

    /// The columns and all files of a table as query engines see them.
    pub async fn whole_table(&self, path: &TablePath) -> Result<Option<(arrow::datatypes::SchemaRef, Vec<DataFile>)>> {
        match self.table(path).await? {
            Some(table) => Ok(Some((table.schema()?, table.files(None).await?))),
            None => Ok(None),
        }
    }

    /// Bytes and files that a table holds.
    pub async fn size(&self, path: &TablePath) -> Result<(u64, usize)> {
        let files = self.whole_table(path).await?.map(|(_, files)| files).unwrap_or_default();
        Ok((files.iter().map(|file| file.size).sum(), files.len()))
    }

    /// Opens a data file; `columns` names the top-level columns to read, all without it.
    pub async fn read(&self, file: &DataFile, columns: Option<&[&str]>) -> Result<DataReader> {
        let reader = self.open_file(file, PageIndexPolicy::Skip).await?;
        Ok(columns.map_or_else(|| reader.copy(), |columns| reader.columns(columns)))
    }

    /// Opens a data file of which only some rows are wanted: its pages are looked up where it has an index of them.
    pub async fn read_some(&self, file: &DataFile) -> Result<DataReader> {
        self.open_file(file, PageIndexPolicy::Optional).await
    }

    async fn open_file(&self, file: &DataFile, pages: PageIndexPolicy) -> Result<DataReader> {
        let mut object =
            ObjectReader { objects: Arc::clone(self.store.objects()), path: object_path(&file.path)?, size: file.size };
        let options = ArrowReaderOptions::new().with_page_index_policy(pages);
        let metadata = ArrowReaderMetadata::load_async(&mut object, options).await;
        let metadata = metadata.map_err(|error| parquet_failure(&self.store, &file.path, error))?;
        let (store, path) = (self.store.clone(), file.path.clone());
        Ok(DataReader { store, path, object, metadata, mask: ProjectionMask::all(), rows: None })
    }
}

/// A data file about to be read.
pub struct DataReader {
    store: Store,
    path: String,
    object: ObjectReader,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    rows: Option<Vec<Rows>>,
}

impl DataReader {
    /// How many rows the file has.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().unsigned_abs()
    }

    /// The relation version that the file's rows have.
    pub fn relation(&self) -> Result<RelationVersion> {
        let json = self.said(log::RELATION_KEY);
        log::parse_relation(
            json.ok_or_else(|| Failure::failed(format!("{} does not say what table it is of", self.path)))?,
        )
    }

    /// What the file's metadata says under a key.
    pub fn said(&self, key: &str) -> Option<&str> {
        let entries = self.metadata.metadata().file_metadata().key_value_metadata();
        entries.into_iter().flatten().find(|entry| entry.key == key).and_then(|entry| entry.value.as_deref())
    }

    /// The columns of its rows.
    pub fn schema(&self) -> arrow::datatypes::SchemaRef {
        Arc::clone(self.metadata.schema())
    }

    /// The same file, to be read once more; nothing of it is fetched again that is known.
    pub fn copy(&self) -> DataReader {
        DataReader {
            store: self.store.clone(),
            path: self.path.clone(),
            object: self.object.clone(),
            metadata: self.metadata.clone(),
            mask: self.mask.clone(),
            rows: self.rows.clone(),
        }
    }

    /// The same file, with these top-level columns only.
    pub fn columns(&self, columns: &[&str]) -> DataReader {
        let schema = self.metadata.parquet_schema();
        let roots = schema.root_schema().get_fields().iter().enumerate();
        let wanted = roots.filter(|(_, field)| columns.contains(&field.name())).map(|(at, _)| at);
        DataReader { mask: ProjectionMask::roots(schema, wanted), ..self.copy() }
    }

    /// The same file, with those parts of its columns only that are `wanted` by their paths. Of the columns that may be
    /// `left_out`, none that is NULL in every row.
    pub fn parts(&self, left_out: &[&str], wanted: impl Fn(&[String]) -> bool) -> DataReader {
        let schema = self.metadata.parquet_schema();
        let leaves = (0..schema.num_columns()).filter(|leaf| wanted(schema.column(*leaf).path().parts()));
        let leaves: Vec<usize> = leaves.collect();
        let root = |leaf: usize| schema.column(leaf).path().parts().first().cloned().unwrap_or_default();
        let is_present = |leaf: &usize| {
            let (root, mut all) = (root(*leaf), leaves.iter());
            !left_out.contains(&root.as_str())
                || all.any(|other| schema.column(*other).path().parts().first() == Some(&root) && !self.is_null(*other))
        };
        let present: Vec<usize> = leaves.iter().copied().filter(is_present).collect();
        DataReader { mask: ProjectionMask::leaves(schema, present), ..self.copy() }
    }

    /// Whether any row has something in a top-level column, as far as the statistics say.
    pub fn has_values(&self, column: &str) -> bool {
        let schema = self.metadata.parquet_schema();
        let of_it = |leaf: &usize| schema.column(*leaf).path().parts().first().is_some_and(|root| root == column);
        (0..schema.num_columns()).filter(of_it).any(|leaf| !self.is_null(leaf))
    }

    /// Whether the statistics say that a leaf has no value in any row.
    fn is_null(&self, leaf: usize) -> bool {
        self.metadata.metadata().row_groups().iter().all(|group| {
            let column = group.column(leaf);
            let nulls = column.statistics().and_then(Statistics::null_count_opt);
            nulls.is_some_and(|nulls| i64::try_from(nulls).is_ok_and(|nulls| nulls == column.num_values()))
        })
    }

    /// The rows of each row group, which can be read beside each other without reading anything twice.
    pub fn row_groups(&self) -> Vec<Rows> {
        let mut first = 0;
        let rows = self.metadata.metadata().row_groups().iter().map(|group| {
            let rows = first..first + group.num_rows().max(0) as u64;
            first = rows.end;
            rows
        });
        rows.collect()
    }

    /// Bytes of a row on average, as they are stored: in all columns.
    pub fn row_bytes(&self) -> u64 {
        let groups = self.metadata.metadata().row_groups().iter();
        let (rows, bytes) = groups.fold((0, 0), |(rows, bytes), group| {
            (rows + group.num_rows().max(0) as u64, bytes + group.compressed_size().max(0) as u64)
        });
        bytes.checked_div(rows).unwrap_or(0)
    }

    /// Leaves out rows of images whose keys cannot be the sought ones.
    pub fn select_keys(self, bounds: &[KeyBounds]) -> DataReader {
        let rows = (!bounds.is_empty()).then(|| pruning::rows_of_keys(self.metadata.metadata(), bounds));
        DataReader { rows, ..self }
    }

    /// Leaves out changes of rows whose keys cannot be the sought ones; truncations stay. Nothing is left out where the
    /// file does not say where its truncations are.
    pub fn select_changes(self, bounds: &[KeyBounds]) -> DataReader {
        let Some(truncations) = self.said(CLUSTERED_KEY).and_then(|count| count.parse::<u64>().ok()) else {
            return self;
        };
        let selected = self.select_keys(bounds);
        let rows = selected.rows.clone().map(|rows| pruning::union(rows, std::iter::once(0..truncations)));
        DataReader { rows, ..selected }
    }

    /// Restricts reading to these rows of the file, which ascend.
    pub fn select(self, rows: Vec<Rows>) -> DataReader {
        DataReader { rows: Some(rows), ..self }
    }

    /// The rows of the file whose columns can have these values, by the file's statistics.
    pub fn rows_of_values(&self, bounds: &[KeyBounds]) -> Vec<Rows> {
        pruning::rows_of_values(self.metadata.metadata(), bounds)
    }

    /// Of the rows that are read only those among these, which ascend.
    pub fn within(self, rows: &[Rows]) -> DataReader {
        let rows = self.rows.as_ref().map_or_else(|| rows.to_vec(), |chosen| pruning::intersection(chosen, rows));
        DataReader { rows: Some(rows), ..self }
    }

    /// The numbers in the file of the rows that are read, in order.
    pub fn row_numbers(&self) -> impl Iterator<Item = u64> + Send + use<> {
        let all = 0..self.metadata.metadata().file_metadata().num_rows().max(0) as u64;
        self.rows.clone().unwrap_or_else(|| vec![all]).into_iter().flatten()
    }

    /// How many rows are read.
    pub fn selected_rows(&self) -> u64 {
        let all = || self.metadata.metadata().file_metadata().num_rows().max(0) as u64;
        self.rows.as_ref().map_or_else(all, |rows| rows.iter().map(|rows| rows.end - rows.start).sum())
    }

    /// How many rows a batch has: fewer where they are large.
    pub fn batch_rows(&self) -> usize {
        let groups = self.metadata.metadata().row_groups().iter();
        let (rows, bytes) = groups.fold((0, 0), |(rows, bytes), group| {
            (rows + group.num_rows().max(0) as u64, bytes + group.total_byte_size().max(0) as u64)
        });
        let fitting = BATCH_BYTES.saturating_mul(rows).checked_div(bytes).unwrap_or(u64::MAX);
        BATCH_ROWS.min(fitting.max(1) as usize)
    }

    /// The rows, batch by batch.
    pub fn stream(self) -> Result<impl futures::Stream<Item = Result<RecordBatch>> + Send + Unpin + use<>> {
        let batch_rows = self.batch_rows();
        let DataReader { store, path, object, metadata, mask, rows } = self;
        let total = metadata.metadata().file_metadata().num_rows().max(0) as usize;
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(object, metadata)
            .with_batch_size(batch_rows)
            .with_projection(mask);
        if let Some(rows) = rows {
            let ranges = rows.into_iter().map(|rows| rows.start as usize..rows.end as usize);
            builder = builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, total));
        }
        let stream = builder.build().map_err(|error| parquet_failure(&store, &path, error))?;
        Ok(stream.map_err(move |error| parquet_failure(&store, &path, error)))
    }

    /// All rows.
    pub async fn batches(self) -> Result<Vec<RecordBatch>> {
        self.stream()?.try_collect().await
    }
}

fn parquet_failure(store: &Store, path: &str, error: ParquetError) -> Failure {
    match error {
        ParquetError::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(error) => store.failure(*error),
            Err(other) => Failure::failed(format!("archive {store}: {path}: {other}")),
        },
        other => Failure::failed(format!("archive {store}: {path}: {other}"))
            .remedy("the file is damaged; restore it from the store's own versions if it keeps them"),
    }
}

fn commits_of(batch: &RecordBatch, commits: &mut Vec<Commit>) -> Result<()> {
    let broken = || Failure::failed("log/transactions lacks a column");
    let number =
        |name: &str| batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(broken);
    let (lsns, ends, xids) = (number("lsn")?, number("end_lsn")?, number("xid")?);
    let times =
        batch.column_by_name("ts").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>()).ok_or_else(broken)?;
    for row in 0..batch.num_rows() {
        commits.push(Commit {
            lsn: Lsn::from_i64(lsns.value(row)),
            end_lsn: Lsn::from_i64(ends.value(row)),
            xid: xids.value(row) as u32,
            time: DateTime::from_timestamp_micros(times.value(row)).unwrap_or_default(),
        });
    }
    Ok(())
}

/// Reads Parquet by ranges of an object.
#[derive(Debug, Clone)]
struct ObjectReader {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.objects.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.objects.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let pages = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::column_index_policy);
            let reader = ParquetMetaDataReader::new()
                .with_page_index_policy(pages)
                .with_prefetch_hint(Some(FOOTER_BYTES.min(size as usize)));
            reader.load_and_finish(self, size).await.map(Arc::new)
        }
        .boxed()
    }
}

/// Whether a stored column is one of the archive's own.
pub fn is_reserved(column: &str) -> bool {
    names::RESERVED.contains(&column)
}
