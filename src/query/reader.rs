//! How the scan reads a Parquet file: DataFusion's reader, with footers cached for the session and
//! with the store's errors kept whole.
//!
//! DataFusion's own reader turns a store's error while the footer is read into a text. Whether asking
//! again can help would then be anybody's guess, so the footer is read here.
//!
//! Where a column must have one of some values, a file is shown with only the row groups that can have
//! them: DataFusion would read and parse the bounds of every page of every row group before it leaves
//! any out, which takes longer than all else that looking up a key needs.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetFileReaderFactory};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::{ObjectMeta, ObjectStore};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataBuilder};

use crate::archive::{KeyBounds, groups_with_values};

/// Opens files of one store.
pub(super) struct Readers {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<RuntimeEnv>,
    data: CachedParquetFileReaderFactory,
    /// What the rows that are wanted have in some columns.
    sought: Arc<[KeyBounds]>,
}

impl Readers {
    pub(super) fn new(store: Arc<dyn ObjectStore>, runtime: Arc<RuntimeEnv>, sought: Vec<KeyBounds>) -> Self {
        let cache = runtime.cache_manager.get_file_metadata_cache();
        let data = CachedParquetFileReaderFactory::new(Arc::clone(&store), cache);
        Readers { data, store, runtime, sought: sought.into() }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("store", &self.store).finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        footer_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        Ok(Box::new(Reader {
            store: Arc::clone(&self.store),
            runtime: Arc::clone(&self.runtime),
            meta: file.object_meta.clone(),
            footer_size_hint,
            sought: Arc::clone(&self.sought),
            data: self.data.create_reader(partition, file, footer_size_hint, metrics)?,
        }))
    }
}

struct Reader {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<RuntimeEnv>,
    meta: ObjectMeta,
    footer_size_hint: Option<usize>,
    sought: Arc<[KeyBounds]>,
    data: Box<dyn AsyncFileReader + Send>,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.data.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        self.data.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let policy = options.map(ArrowReaderOptions::column_index_policy);
        async move {
            let whole = DFParquetMetadata::new(self.store.as_ref(), &self.meta)
                .with_file_metadata_cache(Some(self.runtime.cache_manager.get_file_metadata_cache()))
                .with_metadata_size_hint(self.footer_size_hint)
                .with_page_index_policy(policy)
                .fetch_metadata()
                .await
                .map_err(|error| ParquetError::External(Box::new(error)))?;
            Ok(only_groups_with(whole, &self.sought))
        }
        .boxed()
    }
}

/// The file as if it had only the row groups that can have the values.
fn only_groups_with(whole: Arc<ParquetMetaData>, sought: &[KeyBounds]) -> Arc<ParquetMetaData> {
    let kept = groups_with_values(&whole, sought);
    if kept.len() == whole.num_row_groups() {
        return whole;
    }
    let groups = kept.into_iter().map(|group| whole.row_group(group).clone()).collect();
    let metadata = ParquetMetaDataBuilder::new(whole.file_metadata().clone()).set_row_groups(groups);
    Arc::new(metadata.build())
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::archive::Values;
    use crate::columnar::Bound;

    /// Ten rows a row group, with the numbers from zero and the same as text of four digits.
    fn file_of(groups: i64) -> Arc<ParquetMetaData> {
        let ids = Arc::new((0..groups * 10).collect::<Int64Array>()) as ArrayRef;
        let names = Arc::new(StringArray::from_iter_values((0..groups * 10).map(|id| format!("{id:04}")))) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        Arc::clone(ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap().metadata())
    }

    #[test]
    fn only_row_groups_that_can_have_the_values_are_shown() {
        let whole = file_of(5);
        let firsts = |sought: &[KeyBounds]| -> Vec<i64> {
            let shown = only_groups_with(Arc::clone(&whole), sought);
            shown.row_groups().iter().map(|group| group.file_offset().unwrap()).collect()
        };
        let offsets = firsts(&[]);
        assert_eq!(offsets.len(), 5);
        let ids = KeyBounds::new("id", Values::among(vec![Bound::Number(12), Bound::Number(39), Bound::Number(77)]));
        assert_eq!(firsts(std::slice::from_ref(&ids)), [offsets[1], offsets[3]]);
        let name =
            |name: &str| KeyBounds::new("name", Values::among(once(Bound::Bytes(name.as_bytes().into())).collect()));
        assert_eq!(firsts(&[name("0041")]), [offsets[4]]);
        assert_eq!(firsts(&[ids, name("0041")]), [0; 0]);
        assert_eq!(firsts(&[KeyBounds::new("absent", Values::among(vec![Bound::Number(1)]))]), offsets);
    }
}
