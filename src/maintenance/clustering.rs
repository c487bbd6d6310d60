//! The order of the rows in files that maintenance writes, and the writing.
//!
//! Changes are in the order of their rows' keys, then of history, so that one key's changes lie together and statistics
//! tell where. A deletion has its key in `_old` only. Truncations, which concern every key, come first. Sorting takes a
//! bounded amount of memory and spills to the system's temporary directory beyond it.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::is_not_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan as _;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionConfig;
use futures::stream::{BoxStream, StreamExt as _};

use crate::archive::{CLUSTERED_KEY, FileEncoder, StagedFile, Store, TablePath, blocking, log};
use crate::columnar::{Storage, names, old_rows};
use crate::failure::{Failure, Result};
use crate::model::{Operation, RelationVersion};

/// Rows batch by batch, in any order.
pub type Rows = BoxStream<'static, Result<RecordBatch>>;

/// By so many columns of a key at most rows are put in order: more tell hardly more apart.
const ORDERING_COLUMNS: usize = 4;

/// The part of the memory that merging what was spilled needs.
const MERGING_SHARE: usize = 4;

/// By what rows are put in order.
#[derive(Debug, Clone)]
pub enum Order {
    /// Changes: by the stored names of the key's columns, then by their place in history.
    Changes(Vec<String>),
    /// Rows of an image: by the same.
    Image(Vec<String>),
    /// Rows of the log: by their place in history.
    Log,
}

impl Order {
    /// That of the changes of a table.
    pub fn of_changes(relation: &RelationVersion) -> Order {
        Order::Changes(key_columns(relation))
    }

    /// That of the images of a table.
    pub fn of_image(relation: &RelationVersion) -> Order {
        Order::Image(key_columns(relation))
    }

    /// The values to compare, in columns of their own.
    fn sorted_by(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |name: &String| batch.column_by_name(name).cloned();
        Ok(match self {
            Order::Log => ["lsn", "seq"].into_iter().filter_map(|name| batch.column_by_name(name).cloned()).collect(),
            Order::Image(key) => key.iter().filter_map(column).collect(),
            Order::Changes(key) => {
                let mut columns: Vec<ArrayRef> = vec![Arc::new(is_no_truncation(batch)?)];
                for name in key {
                    columns.extend(key_of_changes(batch, name)?);
                }
                columns.extend(
                    [names::LSN, names::SEQ].into_iter().filter_map(|name| batch.column_by_name(name).cloned()),
                );
                columns
            }
        })
    }

    /// The batch with what it is sorted by appended.
    fn extended(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
        let mut columns = batch.columns().to_vec();
        for (at, values) in self.sorted_by(batch)?.into_iter().enumerate() {
            fields.push(Arc::new(Field::new(format!("~{at}"), values.data_type().clone(), true)));
            columns.push(values);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(unsorted)
    }
}

fn key_columns(relation: &RelationVersion) -> Vec<String> {
    let key = relation.key_positions().into_iter().map(|at| &relation.columns[at]);
    let ordered = key.filter(|column| Storage::of_column(column).is_ordered());
    ordered.take(ORDERING_COLUMNS).map(|column| column.stored.clone()).collect()
}

fn is_no_truncation(batch: &RecordBatch) -> Result<BooleanArray> {
    let operations = batch.column_by_name(names::OP).and_then(|column| column.as_string_opt::<i32>());
    let operations = operations.ok_or_else(|| Failure::failed("a file of changes lacks the column _op"))?;
    Ok(operations.iter().map(|operation| Some(operation != Some(Operation::Truncate.as_str()))).collect())
}

fn key_of_changes(batch: &RecordBatch, name: &str) -> Result<Option<ArrayRef>> {
    let Some(new) = batch.column_by_name(name) else { return Ok(None) };
    let Some(old) = old_rows(batch).and_then(|old| old.column_by_name(name)) else { return Ok(Some(Arc::clone(new))) };
    let present = is_not_null(new).map_err(unsorted)?;
    zip(&present, new, old).map(Some).map_err(unsorted)
}

fn unsorted(error: arrow::error::ArrowError) -> Failure {
    Failure::failed(format!("putting rows in order: {error}"))
}

/// The rows of a stream, once.
struct Input {
    schema: SchemaRef,
    rows: Mutex<Option<Rows>>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}

impl PartitionStream for Input {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let rows = rows.unwrap_or_else(|| futures::stream::empty().boxed());
        let rows = rows.map(|batch| batch.map_err(|failure| DataFusionError::External(Box::new(failure))));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// What is written: where to, in which order, with how much memory.
#[derive(Debug)]
pub struct Writing<'a> {
    pub store: &'a Store,
    pub path: &'a TablePath,
    pub schema: SchemaRef,
    pub relation: Option<&'a RelationVersion>,
    pub order: Order,
    /// In tables of images.
    pub image_lsn: Option<i64>,
    /// How large a file becomes.
    pub target_bytes: u64,
    /// For sorting.
    pub memory_bytes: usize,
    /// Rows per batch.
    pub batch_rows: usize,
}

impl Writing<'_> {
    /// Puts rows in order and stages them as files, in no table yet. Without rows an image has a file of none.
    pub async fn stage(&self, rows: Rows) -> Result<Vec<StagedFile>> {
        let mut sorted = self.sorted(rows)?;
        let width: Vec<usize> = (0..self.schema.fields().len()).collect();
        let (mut files, mut open) = (Vec::new(), None);
        while let Some(batch) = sorted.next().await {
            let batch = batch.map_err(sorting_failure)?.project(&width).map_err(unsorted)?;
            let file = self.written(open.take(), batch).await?;
            match file.encoder.size() >= self.target_bytes {
                true => files.push(self.closed(file).await?),
                false => open = Some(file),
            }
        }
        if files.is_empty() && open.is_none() {
            open = Some(self.written(None, RecordBatch::new_empty(Arc::clone(&self.schema))).await?);
        }
        if let Some(last) = open {
            files.push(self.closed(last).await?);
        }
        Ok(files)
    }

    fn sorted(&self, rows: Rows) -> Result<SendableRecordBatchStream> {
        let order = self.order.clone();
        let schema = order.extended(&RecordBatch::new_empty(Arc::clone(&self.schema)))?.schema();
        let (first, all) = (self.schema.fields().len(), schema.fields().len());
        let by =
            (first..all).map(|at| PhysicalSortExpr::new_default(Arc::new(Column::new(schema.field(at).name(), at))));
        let wanted = Arc::clone(&self.schema);
        let rows = rows.map(move |batch| {
            // Without the metadata of the file that it comes from.
            let batch = RecordBatch::try_new(Arc::clone(&wanted), batch?.columns().to_vec()).map_err(unsorted)?;
            order.extended(&batch)
        });
        let Some(by) = LexOrdering::new(by.map(PhysicalSortExpr::nulls_first)) else {
            let rows = rows.map(|batch| batch.map_err(|failure| DataFusionError::External(Box::new(failure))));
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)));
        };
        let input = Input { schema: Arc::clone(&schema), rows: Mutex::new(Some(rows.boxed())) };
        let input = StreamingTableExec::try_new(schema, vec![Arc::new(input)], None, [], false, None);
        let sort = SortExec::new(by, Arc::new(input.map_err(sorting_failure)?));
        sort.execute(0, self.context()?).map_err(sorting_failure)
    }

    fn context(&self) -> Result<Arc<TaskContext>> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(self.memory_bytes)))
            .build_arc()
            .map_err(sorting_failure)?;
        let config = SessionConfig::new()
            .with_batch_size(self.batch_rows)
            .with_sort_spill_reservation_bytes(self.memory_bytes / MERGING_SHARE);
        Ok(Arc::new(TaskContext::default().with_session_config(config).with_runtime(runtime)))
    }

    async fn written(&self, file: Option<OpenFile>, batch: RecordBatch) -> Result<OpenFile> {
        let OpenFile { mut encoder, mut truncations } = match file {
            Some(file) => file,
            None => OpenFile { encoder: self.begin()?, truncations: 0 },
        };
        if matches!(self.order, Order::Changes(_)) {
            truncations += is_no_truncation(&batch)?.false_count();
        }
        let encoder = blocking(move || encoder.write(&batch).map(|()| encoder)).await?;
        Ok(OpenFile { encoder, truncations })
    }

    fn begin(&self) -> Result<FileEncoder> {
        let metadata = self.relation.map(log::relation_metadata).unwrap_or_default();
        FileEncoder::new(self.store, Arc::clone(&self.schema), metadata, self.image_lsn)
    }

    async fn closed(&self, file: OpenFile) -> Result<StagedFile> {
        let OpenFile { mut encoder, truncations } = file;
        if matches!(self.order, Order::Changes(_)) {
            encoder.describe(CLUSTERED_KEY, truncations.to_string());
        }
        encoder.stage(self.path).await
    }
}

struct OpenFile {
    encoder: FileEncoder,
    truncations: usize,
}

fn sorting_failure(error: DataFusionError) -> Failure {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(other) => Failure::failed(format!("putting rows in order: {other}")),
        },
        other => Failure::failed(format!("putting rows in order: {}", other.strip_backtrace())),
    }
}
