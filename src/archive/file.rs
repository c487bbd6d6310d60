//! One Parquet file of an archive: encoded from rows, then put into the store, before a table takes it in.

use arrow::array::{RecordBatch, StructArray};
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use bytes::Bytes;
use delta_kernel::expressions::ColumnName;
use delta_kernel_default_engine::stats::FileStatsAccumulator;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::chain::{Segment, SegmentBuilder};
use super::checksum;
use super::delta::kernel_schema;
use super::layout::TablePath;
use super::store::{Store, blocking};
use crate::columnar::names;
use crate::failure::{Failure, Result};

/// Columns of a file that get minimum and maximum in the Delta log, from the left.
const STATISTICS_COLUMNS: usize = 32;

/// Rows per Parquet row group: small enough to prune, large enough to compress.
pub(super) const ROW_GROUP_ROWS: usize = 128 * 1024;

/// Rows per page: what looking one key up has to decode of each column.
const PAGE_ROWS: usize = 4096;

/// A column whose dictionary grows beyond this goes on without. The library's own limit, a MiB, would let it hold each of a
/// row group's numbers; and whoever wants one row decodes the whole dictionary.
const DICTIONARY_BYTES: usize = 128 * 1024;

/// What a page's bounds keep of texts: they are all read to find one page.
const PAGE_BOUND_BYTES: usize = 16;

/// A Parquet file that lies in the store and belongs to no table yet.
#[derive(Debug, Clone)]
pub struct StagedFile {
    pub(super) path: String,
    pub(super) size: u64,
    rows: u64,
    pub(super) written_ms: i64,
    pub(super) statistics: StructArray,
    /// The value of [`names::IMAGE_LSN`] where the table is partitioned by it.
    pub(super) image_lsn: Option<i64>,
    /// Its changes, where it is known.
    pub(super) segment: Option<Segment>,
}

impl StagedFile {
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// What goes into one Parquet file.
#[derive(Debug)]
pub struct FileContent {
    /// All of one schema.
    pub batches: Vec<RecordBatch>,
    /// Written into the file, so that it describes itself.
    pub metadata: Vec<(String, String)>,
    /// The image that the rows belong to; the batches do not carry it as a column.
    pub image_lsn: Option<i64>,
}

/// Encodes rows as one Parquet file and puts it into the store, in no table yet.
///
/// # Errors
/// Transient or failed, as the store says.
pub async fn stage(store: &Store, path: &TablePath, content: FileContent) -> Result<StagedFile> {
    let encoding = store.clone();
    let encoded = blocking(move || {
        let schema = content.batches.first().map(RecordBatch::schema).ok_or_else(|| not_encoded("no rows"))?;
        let mut encoder = FileEncoder::new(&encoding, schema, content.metadata, content.image_lsn)?;
        content.batches.iter().try_for_each(|batch| encoder.write(batch))?;
        encoder.finish()
    });
    encoded.await?.stage(store, path).await
}

/// A whole Parquet file that is in memory only.
#[derive(Debug)]
pub struct EncodedFile {
    pub(super) bytes: Bytes,
    pub(super) rows: u64,
    pub(super) statistics: StructArray,
    pub(super) image_lsn: Option<i64>,
    pub(super) segment: Option<Segment>,
}

impl EncodedFile {
    /// Puts the file into the store, in no table yet. Can be tried again, under another name each time.
    ///
    /// # Errors
    /// Transient or failed, as the store says.
    pub async fn stage(&self, store: &Store, path: &TablePath) -> Result<StagedFile> {
        let EncodedFile { bytes, rows, statistics, image_lsn, segment } = self;
        let partition = image_lsn.map(|lsn| format!("{}={lsn}/", names::IMAGE_LSN)).unwrap_or_default();
        let name = format!("{}/{partition}{}", path.directory(), checksum::name(bytes));
        store.put(&name, bytes.clone()).await?;
        Ok(StagedFile {
            path: name,
            size: bytes.len() as u64,
            rows: *rows,
            written_ms: crate::machine::now().timestamp_millis(),
            statistics: statistics.clone(),
            image_lsn: *image_lsn,
            segment: segment.clone(),
        })
    }
}

/// A Parquet file under construction: every batch is encoded as it comes, so that only the encoded bytes wait for the
/// end of the file.
pub struct FileEncoder {
    store: Store,
    writer: ArrowWriter<Vec<u8>>,
    statistics: FileStatsAccumulator,
    rows: u64,
    image_lsn: Option<i64>,
    segment: Option<SegmentBuilder>,
}

impl FileEncoder {
    /// Begins a file; the parameters are as in [`FileContent`].
    pub fn new(
        store: &Store,
        schema: SchemaRef,
        metadata: Vec<(String, String)>,
        image_lsn: Option<i64>,
    ) -> Result<FileEncoder> {
        let statistics = begun(store, &schema)?;
        let properties = properties(&schema, metadata)?;
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(not_encoded)?;
        Ok(FileEncoder { store: store.clone(), writer, statistics, rows: 0, image_lsn, segment: None })
    }

    /// Begins a file of new changes, which come in the order of history.
    pub fn of_changes(store: &Store, schema: SchemaRef, metadata: Vec<(String, String)>) -> Result<FileEncoder> {
        let encoder = FileEncoder::new(store, schema, metadata, None)?;
        Ok(FileEncoder { segment: Some(SegmentBuilder::default()), ..encoder })
    }

    /// Adds a batch of the file's schema. Takes as long as compressing it does: not for an asynchronous thread.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.statistics.merge(batch).map_err(|error| self.store.kernel_failure(error))?;
        self.writer.write(batch).map_err(not_encoded)?;
        if let Some(segment) = &mut self.segment {
            segment.add_batch(batch)?;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Bytes of the file so far, as they are encoded.
    pub fn size(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Says something of the file that is known only after its rows.
    pub fn describe(&mut self, key: &str, value: String) {
        self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }

    /// Ends the file. At least one batch must have been written. Takes as long as compressing the last rows does: not for
    /// an asynchronous thread.
    pub fn finish(self) -> Result<EncodedFile> {
        let FileEncoder { store, writer, statistics, rows, image_lsn, segment } = self;
        let statistics = finished(&store, statistics)?;
        let bytes = writer.into_inner().map_err(not_encoded)?.into();
        let segment = segment.and_then(SegmentBuilder::finish);
        Ok(EncodedFile { bytes, rows, statistics, image_lsn, segment })
    }

    /// Ends the file and puts it into the store, in no table yet. At least one batch must have been written.
    ///
    /// # Errors
    /// Transient or failed, as the store says.
    pub async fn stage(self, path: &TablePath) -> Result<StagedFile> {
        let store = self.store.clone();
        blocking(move || self.finish()).await?.stage(&store, path).await
    }
}

/// Of what the Delta log says of a file, the part that its rows say.
pub(super) fn begun(store: &Store, schema: &Schema) -> Result<FileStatsAccumulator> {
    let kernel_schema = kernel_schema(store, schema)?;
    Ok(FileStatsAccumulator::new(&statistics_columns(schema), &kernel_schema))
}

pub(super) fn finished(store: &Store, statistics: FileStatsAccumulator) -> Result<StructArray> {
    let statistics = statistics.finish().map_err(|error| store.kernel_failure(error))?;
    statistics.ok_or_else(|| not_encoded("no statistics"))
}

pub(super) fn not_encoded(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("encoding a Parquet file: {error}"))
}

pub(super) fn properties(schema: &Schema, metadata: Vec<(String, String)>) -> Result<WriterProperties> {
    let metadata = metadata.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
    let level = ZstdLevel::try_new(1).map_err(not_encoded)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_column_index_truncate_length(Some(PAGE_BOUND_BYTES))
        .set_key_value_metadata(Some(metadata));
    Ok(with_whole_numbers(properties, &[], schema.fields()).build())
}

/// Says how the whole numbers among the columns are encoded, those inside structs too.
fn with_whole_numbers(
    properties: WriterPropertiesBuilder,
    parents: &[String],
    fields: &Fields,
) -> WriterPropertiesBuilder {
    fields.iter().fold(properties, |properties, field| {
        let path = [parents, &[field.name().clone()]].concat();
        match field.data_type() {
            DataType::Struct(inside) => with_whole_numbers(properties, &path, inside),
            number if is_whole_number(number) => {
                // What the archive counts by ascends or repeats, which differences say in the fewest bits.
                let ascends = parents.is_empty() && ASCENDING.contains(&field.name().as_str());
                let column = ColumnPath::new(path);
                properties
                    .set_column_encoding(column.clone(), Encoding::DELTA_BINARY_PACKED)
                    .set_column_dictionary_enabled(column, !ascends)
            }
            _ => properties,
        }
    })
}

const ASCENDING: [&str; 4] = [names::LSN, names::SEQ, names::XID, names::TS];

/// Whether Parquet stores it as a whole number.
fn is_whole_number(data_type: &DataType) -> bool {
    use DataType::{Date32, Int16, Int32, Int64, Timestamp};
    matches!(data_type, Int16 | Int32 | Int64 | Date32 | Timestamp(..))
}

fn statistics_columns(schema: &Schema) -> Vec<ColumnName> {
    let plain = schema.fields().iter().filter(|field| !field.data_type().is_nested());
    plain
        .filter(|field| !matches!(field.data_type(), DataType::Binary | DataType::Boolean))
        .take(STATISTICS_COLUMNS)
        .map(|field| ColumnName::new([field.name()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::Field;
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use url::Url;

    use super::*;
    use crate::archive::layout::LogTable;

    /// More distinct numbers than a dictionary may hold, the outermost among them, and NULLs.
    fn numbers() -> ArrayRef {
        let spread = (0..50_000).map(|n: i64| (n % 7 != 0).then(|| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)));
        Arc::new(Int64Array::from_iter([Some(i64::MIN), Some(i64::MAX), None].into_iter().chain(spread)))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whole_numbers_come_back_however_they_are_encoded() {
        let inside = Fields::from(vec![Field::new("id", DataType::Int64, true)]);
        let old: ArrayRef = Arc::new(StructArray::new(inside.clone(), vec![numbers()], None));
        let fields = [(names::LSN, numbers()), (names::OLD, old), ("id", numbers())];
        let batch = RecordBatch::try_from_iter_with_nullable(fields.map(|(name, array)| (name, array, true))).unwrap();

        let objects = Arc::new(InMemory::new());
        let store = Store::new("memory", Url::parse("memory:///").unwrap(), Arc::clone(&objects) as _);
        let halves = vec![batch.slice(0, 30_000), batch.slice(30_000, batch.num_rows() - 30_000)];
        let content = FileContent { batches: halves, metadata: Vec::new(), image_lsn: None };
        let file = stage(&store, &TablePath::Log(LogTable::Health), content).await.unwrap();
        assert_eq!(file.rows(), batch.num_rows() as u64);

        let bytes = objects.get(&file.path.as_str().into()).await.unwrap().bytes().await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let columns = reader.metadata().row_group(0).columns();
        let encoded = |column: usize| columns[column].encodings().collect::<Vec<_>>();
        assert!(!encoded(0).contains(&Encoding::RLE_DICTIONARY), "{:?}", encoded(0));
        for column in 0..3 {
            assert!(encoded(column).contains(&Encoding::DELTA_BINARY_PACKED), "{:?}", encoded(column));
        }
        let read: Vec<RecordBatch> =
            reader.with_batch_size(1 << 20).build().unwrap().map(|read| read.unwrap()).collect();
        assert_eq!(read, [batch]);
    }
}
