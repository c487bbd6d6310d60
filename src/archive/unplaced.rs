//! Rows of a transaction that has not ended, as a Parquet file that lacks where and when they were committed.
//!
//! Those two columns hold one value each, so all others can be encoded while the transaction runs, which is most of the
//! work of archiving it. Encoded pages wait in a file of the caller's, since there may be more than fit into memory.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch, StructArray, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use delta_kernel_default_engine::stats::FileStatsAccumulator;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, PageKey, PageStore,
    PageStoreArgs, PageStoreFactory, compute_leaves,
};
use parquet::file::writer::SerializedFileWriter;

use super::chain::SegmentBuilder;
use super::file::{EncodedFile, ROW_GROUP_ROWS, begun, finished, not_encoded, properties};
use super::store::Store;
use crate::columnar::names;
use crate::failure::Result;
use crate::model::Lsn;

/// What is written when the transaction has committed.
const PLACE: [&str; 2] = [names::LSN, names::TS];

/// Bytes that a row group under construction may take in memory, where it is cut short: the dictionaries of its columns.
const GROUP_MEMORY: usize = 8 << 20;

/// The parts of a file's statistics that bound its values (Delta protocol, "Per-file Statistics").
const BOUNDS: [&str; 2] = ["minValues", "maxValues"];

/// Encoded pages in a file, for as long as somebody may want them back.
#[derive(Debug, Clone)]
pub struct SpilledPages {
    file: Arc<File>,
    end: Arc<AtomicU64>,
}

impl SpilledPages {
    /// Uses an empty file.
    pub fn new(file: File) -> SpilledPages {
        SpilledPages { file: Arc::new(file), end: Arc::default() }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }
}

impl PageStoreFactory for SpilledPages {
    fn create(&self, _: &PageStoreArgs<'_>) -> parquet::errors::Result<Box<dyn PageStore>> {
        Ok(Box::new(Chunk { pages: self.clone(), places: Vec::new() }))
    }
}

/// The pages of one column of one row group.
struct Chunk {
    pages: SpilledPages,
    places: Vec<(u64, usize)>,
}

impl PageStore for Chunk {
    fn put(&mut self, page: Bytes) -> parquet::errors::Result<PageKey> {
        let at = self.pages.end.fetch_add(page.len() as u64, Ordering::Relaxed);
        self.pages.file.write_all_at(&page, at)?;
        self.places.push((at, page.len()));
        Ok(PageKey::new(self.places.len() as u64 - 1))
    }

    fn take(&mut self, key: PageKey) -> parquet::errors::Result<Bytes> {
        let (at, length) = self.places[key.get() as usize];
        let mut page = vec![0; length];
        self.pages.file.read_exact_at(&mut page, at)?;
        Ok(page.into())
    }
}

/// What begins a file, now and when it is placed.
struct Shape {
    store: Store,
    schema: SchemaRef,
    metadata: Vec<(String, String)>,
}

impl Shape {
    /// A column of one value.
    fn constant(&self, mut writer: ArrowColumnWriter, at: usize, values: ArrayRef) -> Result<ArrowColumnChunk> {
        let leaves = compute_leaves(self.schema.field(at), &values).map_err(not_encoded)?;
        leaves.iter().try_for_each(|leaf| writer.write(leaf)).map_err(not_encoded)?;
        writer.close().map_err(not_encoded)
    }

    /// Which column each of [`PLACE`] is; as no nested one is in front of them, among Parquet's columns too.
    fn places(&self) -> Result<[usize; 2]> {
        let [lsn, time] = PLACE.map(|name| self.schema.index_of(name).map_err(not_encoded));
        Ok([lsn?, time?])
    }

    fn begin(
        &self,
        pages: Option<Arc<dyn PageStoreFactory>>,
    ) -> Result<(SerializedFileWriter<Vec<u8>>, ArrowRowGroupWriterFactory)> {
        let properties = properties(&self.schema, self.metadata.clone())?;
        let mut options = ArrowWriterOptions::new().with_properties(properties);
        if let Some(pages) = pages {
            options = options.with_page_store_factory(pages);
        }
        let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&self.schema), options);
        writer.and_then(ArrowWriter::into_serialized_writer).map_err(not_encoded)
    }
}

/// A file under construction. Nothing of it is for an asynchronous thread: compressing takes its time.
pub struct UnplacedEncoder {
    shape: Shape,
    columns: ArrowRowGroupWriterFactory,
    statistics: FileStatsAccumulator,
    /// Of the row group that is being written, without those of [`PLACE`].
    open: Vec<ArrowColumnWriter>,
    open_rows: usize,
    groups: Vec<RowGroup>,
    segment: SegmentBuilder,
}

struct RowGroup {
    rows: usize,
    chunks: Vec<ArrowColumnChunk>,
}

impl UnplacedEncoder {
    /// Begins a file; `metadata` is written into it.
    pub fn new(
        store: &Store,
        schema: SchemaRef,
        metadata: Vec<(String, String)>,
        pages: &SpilledPages,
    ) -> Result<UnplacedEncoder> {
        let statistics = begun(store, &schema)?;
        let shape = Shape { store: store.clone(), schema, metadata };
        let (_, columns) = shape.begin(Some(Arc::new(pages.clone())))?;
        Ok(UnplacedEncoder {
            shape,
            columns,
            statistics,
            open: Vec::new(),
            open_rows: 0,
            groups: Vec::new(),
            segment: SegmentBuilder::default(),
        })
    }

    /// Adds a batch of the file's schema; what it says of the place does not count.
    ///
    /// # Errors
    /// Failed where the pages' file cannot be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.statistics.merge(batch).map_err(|error| self.shape.store.kernel_failure(error))?;
        self.segment.add_batch(batch)?;
        let mut done = 0;
        while done < batch.num_rows() {
            if self.open_rows == 0 {
                self.begin_group()?;
            }
            let rows = (batch.num_rows() - done).min(ROW_GROUP_ROWS - self.open_rows);
            self.write_rows(&batch.slice(done, rows)).map_err(not_encoded)?;
            (self.open_rows, done) = (self.open_rows + rows, done + rows);
            let held: usize = self.open.iter().map(ArrowColumnWriter::memory_size).sum();
            if self.open_rows == ROW_GROUP_ROWS || held >= GROUP_MEMORY {
                self.end_group()?;
            }
        }
        Ok(())
    }

    fn begin_group(&mut self) -> Result<()> {
        let writers = self.columns.create_column_writers(self.groups.len()).map_err(not_encoded)?;
        let places = self.shape.places()?;
        let columns = writers.into_iter().enumerate().filter(|(at, _)| !places.contains(at));
        self.open = columns.map(|(_, writer)| writer).collect();
        Ok(())
    }

    fn write_rows(&mut self, rows: &RecordBatch) -> parquet::errors::Result<()> {
        let mut writers = self.open.iter_mut();
        for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            if !PLACE.contains(&field.name().as_str()) {
                for (leaf, writer) in compute_leaves(field, array)?.iter().zip(&mut writers) {
                    writer.write(leaf)?;
                }
            }
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<()> {
        let chunks = std::mem::take(&mut self.open).into_iter().map(ArrowColumnWriter::close);
        let chunks = chunks.collect::<parquet::errors::Result<_>>().map_err(not_encoded)?;
        self.groups.push(RowGroup { rows: std::mem::take(&mut self.open_rows), chunks });
        Ok(())
    }

    /// Ends the file. At least one batch must have been written.
    pub fn finish(mut self) -> Result<UnplacedFile> {
        if self.open_rows > 0 {
            self.end_group()?;
        }
        let statistics = finished(&self.shape.store, self.statistics)?;
        Ok(UnplacedFile { shape: self.shape, statistics, groups: self.groups, segment: self.segment })
    }
}

/// A file that is whole but for the place of its rows.
pub struct UnplacedFile {
    shape: Shape,
    statistics: StructArray,
    groups: Vec<RowGroup>,
    segment: SegmentBuilder,
}

impl UnplacedFile {
    /// Says where and when the rows were committed, `time` in microseconds since 1970. Not for an asynchronous thread.
    ///
    /// # Errors
    /// Failed where the pages' file cannot be read.
    pub fn place(self, lsn: Lsn, time: i64) -> Result<EncodedFile> {
        let UnplacedFile { shape, statistics, groups, segment } = self;
        let [lsn_at, time_at] = shape.places()?;
        let (mut file, columns) = shape.begin(None)?;
        let mut rows = 0;
        for (number, group) in groups.into_iter().enumerate() {
            let mut others = group.chunks.into_iter();
            let mut out = file.next_row_group().map_err(not_encoded)?;
            for (at, writer) in columns.create_column_writers(number).map_err(not_encoded)?.into_iter().enumerate() {
                let chunk = if at == lsn_at {
                    shape.constant(writer, at, Arc::new(Int64Array::from_value(lsn.as_i64(), group.rows)))?
                } else if at == time_at {
                    shape.constant(writer, at, Arc::new(timestamps(time, group.rows)))?
                } else {
                    others.next().ok_or_else(|| not_encoded("a column is missing"))?
                };
                chunk.append_to_row_group(&mut out).map_err(not_encoded)?;
            }
            out.close().map_err(not_encoded)?;
            rows += group.rows as u64;
        }
        let place: [(&str, ArrayRef); 2] = [
            (names::LSN, Arc::new(Int64Array::from_value(lsn.as_i64(), 1))),
            (names::TS, Arc::new(timestamps(time, 1))),
        ];
        let statistics =
            place.iter().fold(statistics, |statistics, (name, value)| with_bound(&statistics, name, value));
        let bytes = file.into_inner().map_err(not_encoded)?.into();
        Ok(EncodedFile { bytes, rows, statistics, image_lsn: None, segment: segment.finish_at(lsn) })
    }
}

fn timestamps(time: i64, rows: usize) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::from_value(time, rows).with_timezone("UTC")
}

/// The statistics of a file with one value as the least and the greatest of a column.
fn with_bound(statistics: &StructArray, column: &str, value: &ArrayRef) -> StructArray {
    let (fields, mut sections, nulls) = statistics.clone().into_parts();
    for (field, section) in fields.iter().zip(&mut sections) {
        let bounds = BOUNDS.contains(&field.name().as_str()).then(|| section.as_struct_opt()).flatten();
        if let Some((bounds, at)) = bounds.and_then(|bounds| Some((bounds, bounds.fields().find(column)?.0))) {
            let (columns, mut values, nulls) = bounds.clone().into_parts();
            values[at] = Arc::clone(value);
            *section = Arc::new(StructArray::new(columns, values, nulls));
        }
    }
    StructArray::new(fields, sections, nulls)
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use url::Url;

    use super::super::file::FileContent;
    use super::super::layout::{LogTable, TablePath};
    use super::*;

    fn rows(schema: &SchemaRef, first: i64, rows: i64, lsn: i64, time: i64) -> RecordBatch {
        let count = rows as usize;
        let texts = (first..first + rows).map(|n| (n % 3 != 0).then(|| format!("text {n}")));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_value(lsn, count)),
            Arc::new(Int64Array::from_iter_values(first..first + rows)),
            Arc::new(timestamps(time, count)),
            Arc::new(StringArray::from_iter(texts)),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
    }

    /// Rows that are placed later make the same file as rows that were placed from the beginning.
    #[tokio::test(flavor = "multi_thread")]
    async fn placed_later_is_as_if_placed_at_once() {
        let objects = Arc::new(InMemory::new());
        let store = Store::new("memory", Url::parse("memory:///").unwrap(), Arc::clone(&objects) as _);
        let schema = Arc::new(Schema::new(vec![
            Field::new(names::LSN, DataType::Int64, true),
            Field::new(names::SEQ, DataType::Int64, true),
            Field::new(names::TS, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("text", DataType::Utf8, true),
        ]));
        let pages = SpilledPages::new(tempfile::tempfile().unwrap());
        let metadata = vec![("key".to_owned(), "value".to_owned())];
        let mut encoder = UnplacedEncoder::new(&store, Arc::clone(&schema), metadata.clone(), &pages).unwrap();
        // More than one row group, and batches that do not end where they do.
        let parts = [(0, 100_000), (100_000, 1), (100_001, 90_000)];
        let mut batches = Vec::new();
        for (first, count) in parts {
            encoder.write(&rows(&schema, first, count, 0, 0)).unwrap();
            batches.push(rows(&schema, first, count, 4242, 1_700_000_000_000_000));
        }
        let placed = encoder.finish().unwrap().place(Lsn(4242), 1_700_000_000_000_000).unwrap();
        assert!(pages.bytes() > 0);
        let path = TablePath::Log(LogTable::Health);
        let later = placed.stage(&store, &path).await.unwrap();
        let content = FileContent { batches, metadata, image_lsn: None };
        let at_once = super::super::file::stage(&store, &path, content).await.unwrap();
        assert_eq!(later.rows(), at_once.rows());
        assert_eq!(later.statistics, at_once.statistics);
        let mut contents = Vec::new();
        for file in [&later, &at_once] {
            let bytes = objects.get(&file.path().into()).await.unwrap().bytes().await.unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().with_batch_size(1 << 20);
            let (schema, groups) = (reader.schema().clone(), reader.metadata().num_row_groups());
            let values: Vec<_> = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
            let batches: Vec<RecordBatch> = reader.build().unwrap().map(|read| read.unwrap()).collect();
            contents.push((schema, groups, values, batches));
        }
        assert_eq!(contents[0], contents[1]);
        assert_eq!(contents[0].1, 2);
    }
}
