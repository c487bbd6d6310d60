//! A table of which only the rows are there that a condition holds for.
//!
//! To the query above it is a source of rows like any other, a leaf of the plan: no filter, limit or statistic of the query
//! goes below it. So no condition of the query is ever evaluated on a row that is kept back, which an error or the time it
//! takes could give away. Where the condition is unknown (NULL), the row is kept back.
//!
//! A change has two rows, the one before and the one after, and is shown where every one of them may be shown that it has.
//! One that says nothing of its row, a truncation, never is.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{StreamExt, TryStreamExt};

use crate::columnar::names;
use crate::model::Operation;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct GuardedTable {
    table: Arc<dyn TableProvider>,
    condition: String,
}

impl GuardedTable {
    pub(super) fn new(table: Arc<dyn TableProvider>, condition: String) -> GuardedTable {
        GuardedTable { table, condition }
    }

    /// The condition over rows of a schema, and the columns that it reads.
    fn condition(&self, state: &SessionState, schema: &Schema) -> Result<(Expr, BTreeSet<usize>)> {
        let expression = state.create_logical_expr(&self.condition, &DFSchema::try_from(schema.clone())?)?;
        let mut columns = BTreeSet::new();
        for column in expression.column_refs() {
            columns.insert(schema.index_of(&column.name)?);
        }
        Ok((expression, columns))
    }
}

#[async_trait]
impl TableProvider for GuardedTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let session = state
            .as_any()
            .downcast_ref::<SessionState>()
            .ok_or_else(|| DataFusionError::Internal("the condition on rows cannot be read".into()))?;
        let schema = self.schema();
        let refused = |error: DataFusionError| {
            tracing::warn!("the condition on rows cannot be applied: {error}");
            DataFusionError::Plan("this table cannot be read under the limits of this user".into())
        };
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let mut needed: BTreeSet<usize> = wanted.iter().copied().collect();
        match pair(&schema) {
            Some(places) => needed.extend(places),
            None => {
                needed.extend(self.condition(session, &schema).map_err(refused)?.1);
                let change = [names::OP, names::OLD].map(|name| schema.index_of(name).ok());
                needed.extend(change.into_iter().flatten());
            }
        }
        let needed: Vec<usize> = needed.into_iter().collect();
        let read = Arc::new(schema.project(&needed)?);
        let rule = Arc::new(self.rule(session, &read).map_err(refused)?);
        let plan = self.table.scan(state, Some(&needed), &[], None).await?;
        let parts = (0..plan.output_partitioning().partition_count()).map(|partition| {
            let (plan, rule, schema) = (Arc::clone(&plan), Arc::clone(&rule), Arc::clone(&read));
            Arc::new(Part { plan, partition, rule, schema }) as Arc<dyn PartitionStream>
        });
        let places = wanted.iter().filter_map(|column| needed.iter().position(|place| place == column)).collect();
        Ok(Arc::new(StreamingTableExec::try_new(read.clone(), parts.collect(), Some(&places), None, false, None)?))
    }
}

/// Where a table has whole rows in two columns, the row before and the row after.
fn pair(schema: &Schema) -> Option<[usize; 2]> {
    let place = |name: &str| {
        let place = schema.index_of(name).ok()?;
        matches!(schema.field(place).data_type(), DataType::Struct(_)).then_some(place)
    };
    Some([place("old")?, place("new")?])
}

impl GuardedTable {
    fn rule(&self, session: &SessionState, read: &SchemaRef) -> Result<Rule> {
        let physical = |schema: &Schema| -> Result<Arc<dyn PhysicalExpr>> {
            let (expression, _) = self.condition(session, schema)?;
            session.create_physical_expr(expression, &DFSchema::try_from(schema.clone())?)
        };
        let within = |place: usize| -> Result<Inner> {
            let DataType::Struct(fields) = read.field(place).data_type() else { return Err(unknown_change()) };
            // Where the row does not have the columns, nothing can be said of it, and it is kept back.
            Ok(Inner { place, condition: physical(&Schema::new(fields.clone())).ok() })
        };
        if let Some([old, new]) = pair(read) {
            return Ok(Rule::Pairs(within(old)?, within(new)?));
        }
        let rows = physical(read)?;
        match (read.index_of(names::OP), read.index_of(names::OLD)) {
            (Ok(operation), Ok(old)) => Ok(Rule::Changes { rows, operation, old: within(old)? }),
            _ => Ok(Rule::Rows(rows)),
        }
    }
}

/// Which rows are shown.
#[derive(Debug)]
enum Rule {
    Rows(Arc<dyn PhysicalExpr>),
    /// Changes with the row after them in columns of their own, and the one before in one.
    Changes {
        rows: Arc<dyn PhysicalExpr>,
        operation: usize,
        old: Inner,
    },
    /// Of two whole rows each that is there.
    Pairs(Inner, Inner),
}

/// A whole row in one column, and the condition on it.
#[derive(Debug)]
struct Inner {
    place: usize,
    condition: Option<Arc<dyn PhysicalExpr>>,
}

impl Inner {
    /// For each row whether it is there, and whether the condition holds for it.
    fn look(&self, batch: &RecordBatch) -> Result<Vec<(bool, bool)>> {
        let column = batch.column(self.place).as_struct_opt().ok_or_else(unknown_change)?;
        let holds = match &self.condition {
            Some(condition) => {
                let schema = Arc::new(Schema::new(column.fields().clone()));
                let options = RecordBatchOptions::new().with_row_count(Some(column.len()));
                let rows = RecordBatch::try_new_with_options(schema, column.columns().to_vec(), &options)?;
                holds(condition, &rows)?
            }
            None => BooleanArray::from(vec![false; column.len()]),
        };
        Ok((0..column.len()).map(|row| (column.is_valid(row), column.is_valid(row) && holds.value(row))).collect())
    }
}

impl Rule {
    fn shown(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        match self {
            Rule::Rows(rows) => holds(rows, batch),
            Rule::Pairs(old, new) => {
                let pairs = old.look(batch)?.into_iter().zip(new.look(batch)?);
                let shown = |(old, new): ((bool, bool), (bool, bool))| {
                    (old.0 || new.0) && (!old.0 || old.1) && (!new.0 || new.1)
                };
                Ok(pairs.map(|pair| Some(shown(pair))).collect())
            }
            Rule::Changes { rows, operation, old } => {
                let rows = holds(rows, batch)?;
                let operations = batch.column(*operation).as_string_opt::<i32>().ok_or_else(unknown_change)?;
                let old = old.look(batch)?;
                let shown = |(row, (is_there, old_holds)): (usize, (bool, bool))| {
                    let operation = operations.is_valid(row).then(|| Operation::parse(operations.value(row))).flatten();
                    match operation {
                        Some(Operation::Insert | Operation::Snapshot) => rows.value(row),
                        Some(Operation::Update) => rows.value(row) && (!is_there || old_holds),
                        Some(Operation::Delete) => is_there && old_holds,
                        Some(Operation::Truncate) | None => false,
                    }
                };
                Ok(old.into_iter().enumerate().map(|change| Some(shown(change))).collect())
            }
        }
    }
}

fn unknown_change() -> DataFusionError {
    DataFusionError::Internal("changes of an unknown form".into())
}

/// Where a condition is true; neither false nor unknown.
fn holds(condition: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let values = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    let values = values
        .as_boolean_opt()
        .ok_or_else(|| DataFusionError::Plan("the condition on rows is neither true nor false".into()))?;
    Ok((0..values.len()).map(|row| Some(values.is_valid(row) && values.value(row))).collect())
}

/// One partition of the table below, without what is kept back.
#[derive(Debug)]
struct Part {
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    rule: Arc<Rule>,
    schema: SchemaRef,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (rule, plan, partition) = (Arc::clone(&self.rule), Arc::clone(&self.plan), self.partition);
        let stream = futures::stream::once(async move { plan.execute(partition, context) }).try_flatten();
        let shown = stream.map(move |batch| {
            let batch = batch?;
            Ok(filter_record_batch(&batch, &rule.shown(&batch)?)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), shown))
    }
}
