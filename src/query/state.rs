//! A table's rows at a point, as a table of SQL.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array as _, ArrayRef};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Column as ColumnName;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::scalar::ScalarValue;

use super::conditions::conditions_of;
use super::emission::Emission;
use crate::columnar::{Storage, ValueReader};
use crate::failure::Failure;
use crate::history::{Key, KeySet, TableAt, TypedRows, key_of_fields, row_schema};
use crate::model::Column;

/// Keys that a filter names are looked up one by one up to so many; more are found by reading the whole state.
const MOST_KEYS: usize = 1000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct StateTable {
    table: Arc<TableAt>,
    schema: SchemaRef,
}

impl StateTable {
    pub(super) fn new(table: TableAt) -> StateTable {
        let schema = row_schema(&table.relation().columns);
        StateTable { table: Arc::new(table), schema }
    }
}

#[async_trait]
impl TableProvider for StateTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters only leave out what need not be read; the query keeps its own filter.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = &self.table.relation().columns;
        let columns: Vec<Column> = match projection {
            Some(places) => places.iter().map(|place| all[*place].clone()).collect(),
            None => all.clone(),
        };
        let only = self.table.unique_key().and_then(|key| keys_of(filters, key)).map(Arc::new);
        let conditions = conditions_of(filters, all);
        let table = match conditions.is_empty() {
            true => Arc::clone(&self.table),
            false => Arc::new(TableAt::clone(&self.table).with_conditions(&conditions)),
        };
        let rows = StateRows { table, schema: row_schema(&columns), columns, only };
        let schema = Arc::clone(&rows.schema);
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(rows)], None, [], false, None)?;
        Ok(Arc::new(plan))
    }
}

/// The rows of a state, read when they are asked for.
struct StateRows {
    table: Arc<TableAt>,
    columns: Vec<Column>,
    schema: SchemaRef,
    only: Option<Arc<KeySet>>,
}

impl fmt::Debug for StateRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state of {}", self.table.relation().name)?;
        self.only.as_ref().map_or(Ok(()), |only| write!(f, ", {} keys", only.len()))
    }
}

impl PartitionStream for StateRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let mut out = Emission::new(builder.tx());
        let (table, columns, only) = (Arc::clone(&self.table), self.columns.clone(), self.only.clone());
        builder.spawn(async move {
            let mut take = |rows: TypedRows| rows.into_batches()?.into_iter().try_for_each(|batch| out.give(batch));
            let read = table.gather_columns(&columns, only.as_ref(), TypedRows::new(&columns), &mut take).await;
            out.end(read)
        });
        builder.build()
    }
}

/// The keys that alone can pass the filters, where these say so of every column of the key.
pub(super) fn keys_of(filters: &[Expr], key: &[Column]) -> Option<KeySet> {
    let mut keys: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    for column in key {
        let values = filters.iter().find_map(|filter| values_of(filter, column))?;
        if keys.len() * values.len() > MOST_KEYS {
            return None;
        }
        let with = |key: &Vec<Vec<u8>>, value: &Vec<u8>| key.iter().cloned().chain([value.clone()]).collect();
        keys = keys.iter().flat_map(|key| values.iter().map(|value| with(key, value)).collect::<Vec<_>>()).collect();
    }
    Some(
        keys.iter().map(|fields| Key::from(key_of_fields(fields.iter().map(|field| Some(field.as_slice()))))).collect(),
    )
}

/// The values that a filter leaves a column: `column = value`, `column IN (…)`, and several of these joined by OR.
pub(super) fn values_of(filter: &Expr, column: &Column) -> Option<Vec<Vec<u8>>> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(name), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(name)) => {
                is(name, column).then(|| text_of(value, column).map(|text| vec![text]))?
            }
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (mut some, more) = (values_of(left, column)?, values_of(right, column)?);
            some.extend(more);
            Some(some)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            values_of(left, column).or_else(|| values_of(right, column))
        }
        Expr::InList(list) if !list.negated => {
            let Expr::Column(name) = list.expr.as_ref() else { return None };
            let text = |item: &Expr| match item {
                Expr::Literal(value, _) => text_of(value, column),
                _ => None,
            };
            is(name, column).then(|| list.list.iter().map(text).collect::<Option<Vec<_>>>())?
        }
        _ => None,
    }
}

fn is(name: &ColumnName, column: &Column) -> bool {
    name.name == column.name
}

/// A literal as PostgreSQL writes the column's value. Planning has brought it into the column's type.
pub(super) fn text_of(value: &ScalarValue, column: &Column) -> Option<Vec<u8>> {
    let storage = Storage::of_column(column);
    if value.data_type() != storage.arrow_type() {
        return None;
    }
    let array: ArrayRef = value.to_array().ok()?;
    let reader = ValueReader::new(array.as_ref(), &storage).ok()?;
    let mut text = Vec::new();
    reader.write_text(0, &mut text);
    (!array.is_null(0)).then_some(text)
}

/// What a failure is to the query engine.
pub(super) fn external(failure: Failure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}
