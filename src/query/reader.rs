//! How the scan reads a Parquet file: DataFusion's reader, with footers cached for the session and
//! with the store's errors kept whole.
//!
//! DataFusion's own reader turns a store's error while the footer is read into a text. Whether asking
//! again can help would then be anybody's guess, so the footer is read here.

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
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

/// Opens files of one store.
pub(super) struct Readers {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<RuntimeEnv>,
    data: CachedParquetFileReaderFactory,
    /// Pages will be sought by their bounds, which are then kept with the footers.
    seeking: bool,
}

impl Readers {
    pub(super) fn new(store: Arc<dyn ObjectStore>, runtime: Arc<RuntimeEnv>, seeking: bool) -> Self {
        let cache = runtime.cache_manager.get_file_metadata_cache();
        Readers { data: CachedParquetFileReaderFactory::new(Arc::clone(&store), cache), store, runtime, seeking }
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
            seeking: self.seeking,
            data: self.data.create_reader(partition, file, footer_size_hint, metrics)?,
        }))
    }
}

struct Reader {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<RuntimeEnv>,
    meta: ObjectMeta,
    footer_size_hint: Option<usize>,
    seeking: bool,
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
        let asked = options.map(ArrowReaderOptions::column_index_policy);
        let policy = if self.seeking { Some(PageIndexPolicy::Optional) } else { asked };
        async move {
            DFParquetMetadata::new(self.store.as_ref(), &self.meta)
                .with_file_metadata_cache(Some(self.runtime.cache_manager.get_file_metadata_cache()))
                .with_metadata_size_hint(self.footer_size_hint)
                .with_page_index_policy(policy)
                .fetch_metadata()
                .await
                .map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }
}
