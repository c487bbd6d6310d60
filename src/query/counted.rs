//! How often something was done, from what transactions say of themselves: where nothing is asked of a change but when it
//! was and what, the list of transactions has it in a fraction of the bytes, and no file of changes is read.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use datafusion::arrow::compute::{filter, filter_record_batch, take_record_batch};
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::utils::{Guarantee, LiteralGuarantee};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::TryStreamExt as _;

use super::state::external;
use crate::archive::{Archive, DataFile, LoggedTransaction, LoggedTransactions};
use crate::columnar::names;
use crate::history::Chronicle;
use crate::model::{Lsn, Operation, OperationCounts, TableName};

/// Changes are compressed so much better by the column than transactions are that reading their operations costs no more
/// than reading a list of a fraction of the bytes.
const FRACTION: u64 = 16;
/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// A chronicle's changes with these columns, as transactions count them; `None` where they do not say it, or where the
/// changes themselves, in files of so many bytes, are sooner read.
pub(super) async fn counted_changes(
    chronicle: &Chronicle,
    asked: &SchemaRef,
    bytes: u64,
    state: &dyn Session,
    filters: &[Expr],
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(tables) = chronicle.own_names() else { return Ok(None) };
    let schema = DFSchema::try_from(Arc::clone(asked))?;
    let filters = filters.iter().filter(|filter| !filter.is_volatile());
    let conditions: Vec<Arc<dyn PhysicalExpr>> =
        filters.filter_map(|filter| state.create_physical_expr(filter.clone(), &schema).ok()).collect();
    let condition = conjunction(conditions);
    if asked.column_with_name(names::SEQ).is_some() || !asks_for_counted(&condition) {
        return Ok(None);
    }
    let (archive, range) = (chronicle.archive(), chronicle.range());
    let files = archive.transaction_files(range.start, range.end).await.map_err(external)?;
    if files.iter().map(|file| file.size).sum::<u64>().saturating_mul(FRACTION) > bytes {
        return Ok(None);
    }
    let each = files.len().div_ceil(state.config().target_partitions().max(1)).max(1);
    let part = |files: &[DataFile]| -> Arc<dyn PartitionStream> {
        Arc::new(Counted {
            archive: archive.clone(),
            files: files.to_vec(),
            tables: tables.to_vec(),
            range: range.clone(),
            schema: Arc::clone(asked),
            condition: Arc::clone(&condition),
        })
    };
    let parts = files.chunks(each).map(part).collect();
    Ok(Some(Arc::new(StreamingTableExec::try_new(Arc::clone(asked), parts, None, [], false, None)?)))
}

/// Whether nothing passes but operations that are counted, which rows that were told anew are not.
fn asks_for_counted(condition: &Arc<dyn PhysicalExpr>) -> bool {
    let is_counted = |value: &datafusion::scalar::ScalarValue| {
        let text = value.try_as_str().flatten();
        text.is_some_and(|text| OperationCounts::COUNTED.iter().any(|operation| operation.as_str() == text))
    };
    LiteralGuarantee::analyze(condition).iter().any(|known| {
        known.guarantee == Guarantee::In && known.column.name() == names::OP && known.literals.iter().all(is_counted)
    })
}

/// The changes that some files of the list count.
struct Counted {
    archive: Archive,
    files: Vec<DataFile>,
    /// The names that the table had.
    tables: Vec<TableName>,
    range: std::ops::Range<Lsn>,
    schema: SchemaRef,
    /// What may be left out before it is repeated.
    condition: Arc<dyn PhysicalExpr>,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "changes that transactions count of {:?}", self.tables)
    }
}

impl PartitionStream for Counted {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let out = builder.tx();
        let Counted { archive, files, tables, range, schema, condition } = self;
        let (archive, files, tables, range) = (archive.clone(), files.clone(), tables.clone(), range.clone());
        let (schema, condition) = (Arc::clone(schema), Arc::clone(condition));
        builder.spawn(async move {
            for file in &files {
                let mut batches = archive.logged_counts(file, range.clone(), Lsn::MAX).await.map_err(external)?;
                while let Some(batch) = batches.try_next().await.map_err(external)? {
                    let (kinds, times) = kinds(&batch, &tables, &schema)?;
                    for rows in repeated(&kinds, &times, &condition)? {
                        if out.send(Ok(rows?)).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
            Ok(())
        });
        builder.build()
    }
}

/// A row for each operation of each transaction on one of the tables, and how often it was done.
fn kinds(logged: &LoggedTransactions, tables: &[TableName], schema: &SchemaRef) -> Result<(RecordBatch, Int64Array)> {
    let is_named = |schema: &str, table: &str| tables.iter().any(|one| one.table == table && one.schema == schema);
    let mut kinds: Vec<(LoggedTransaction<'_>, Operation, u64)> = Vec::new();
    for one in logged.iter() {
        let mut counts = OperationCounts::default();
        one.tables().filter(|(schema, table, _)| is_named(schema, table)).for_each(|(_, _, here)| counts += here);
        let done = OperationCounts::COUNTED.map(|operation| (one, operation, counts.of(operation)));
        kinds.extend(done.into_iter().filter(|(_, _, times)| *times > 0));
    }
    let number = |of: fn(&LoggedTransaction<'_>) -> i64| kinds.iter().map(move |(one, ..)| of(one));
    let column = |name: &str| -> ArrayRef {
        match name {
            names::LSN => Arc::new(number(|one| one.lsn().as_i64()).collect::<Int64Array>()),
            names::XID => Arc::new(number(|one| one.xid()).collect::<Int64Array>()),
            names::TS => {
                let times = TimestampMicrosecondArray::from_iter_values(number(|one| one.micros()));
                Arc::new(times.with_timezone("UTC"))
            }
            _ => Arc::new(kinds.iter().map(|(_, operation, _)| Some(operation.as_str())).collect::<StringArray>()),
        }
    };
    let columns = schema.fields().iter().map(|field| column(field.name())).collect();
    let times = kinds.iter().map(|(_, _, times)| *times as i64).collect();
    Ok((RecordBatch::try_new(Arc::clone(schema), columns)?, times))
}

/// The rows that meet the condition, each as often as it is said.
fn repeated(
    kinds: &RecordBatch,
    times: &Int64Array,
    condition: &Arc<dyn PhysicalExpr>,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let meets = condition.evaluate(kinds)?.into_array(kinds.num_rows())?;
    let kept = filter_record_batch(kinds, meets.as_boolean())?;
    let times = filter(times, meets.as_boolean())?;
    let times = times.as_primitive::<Int64Type>().clone();
    let times = (0..times.len()).map(move |at| (at as u32, times.value(at)));
    let mut places = times.flat_map(|(at, times)| (0..times).map(move |_| at));
    Ok(std::iter::from_fn(move || {
        let places: UInt32Array = places.by_ref().take(BATCH_ROWS).collect();
        (!places.is_empty()).then(|| Ok(take_record_batch(&kept, &places)?))
    }))
}
