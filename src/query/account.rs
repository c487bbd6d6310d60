//! `changes()`, `versions()` and `diff()`: what happened to a table's rows, as tables of SQL.
//!
//! ```text
//!   events of the files ── sort by life and place in history (spills) ── lives ── rows of the account
//! ```
//!
//! Changes of which nothing of their rows is asked need none of that ([`super::bare`]).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter};
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream, project_schema};
use futures::StreamExt as _;

use super::bare::{bare_changes, bare_columns};
use super::conditions::range_of;
use super::emission::Emission;
use super::state::{external, keys_of};
use crate::columnar::names;
use crate::history::{Account, Chronicle, Cleared, KIND, LIFE, Lives, Telling, account_schema};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct AccountTable {
    chronicle: Chronicle,
    account: Account,
    schema: SchemaRef,
}

impl AccountTable {
    pub(super) fn new(chronicle: Chronicle, account: Account) -> AccountTable {
        let schema = account_schema(&chronicle, account);
        AccountTable { chronicle, account, schema }
    }
}

#[async_trait]
impl TableProvider for AccountTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters on the key leave out the lives of other rows; the query keeps its own filter.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut plans = Vec::new();
        for part in self.chronicle.parts() {
            plans.push(self.plan(part, state, projection, filters).await?);
        }
        match plans.len() {
            0 => Ok(Arc::new(EmptyExec::new(project_schema(&self.schema, projection)?))),
            1 => Ok(plans.remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }
}

impl AccountTable {
    async fn plan(
        &self,
        part: &Chronicle,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = part.unique_key().and_then(|key| keys_of(filters, &key));
        let mut chronicle = match keys {
            Some(keys) => part.clone().with_keys(keys),
            None => part.clone(),
        };
        // Versions and differences are of the whole range, wherever the change is that ended them.
        if self.account == Account::Changes {
            let (lsns, times) = (range_of(filters, names::LSN), range_of(filters, names::TS));
            chronicle = chronicle.narrowed(lsns, times).await.map_err(external)?;
            let bare = bare_columns(&self.schema, projection).filter(|_| chronicle.is_of_all_rows());
            if let Some(asked) = bare {
                return bare_changes(&chronicle, &self.schema, &asked, state, filters).await;
            }
        }
        let chronicle = Arc::new(chronicle);
        let telling = if self.account == Account::Changes { Telling::Changes } else { Telling::Lives };
        let cleared = Arc::default();
        let events = Events {
            schema: chronicle.event_schema(),
            chronicle: Arc::clone(&chronicle),
            telling,
            cleared: Arc::clone(&cleared),
        };
        let sorted = sorted(events)?;
        let schema = Arc::clone(&self.schema);
        let told = ToldAccount { chronicle, account: self.account, schema, events: sorted, cleared };
        let schema = Arc::clone(&self.schema);
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(told)], projection, [], false, None)?;
        Ok(Arc::new(plan))
    }
}

/// Events in the order of lives.
fn sorted(events: Events) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = Arc::clone(&events.schema);
    let by = |name: &str| -> Result<PhysicalSortExpr> {
        Ok(PhysicalSortExpr {
            expr: col(name, &schema)?,
            options: SortOptions { descending: false, nulls_first: false },
        })
    };
    let order = [LIFE, names::LSN, names::SEQ, KIND].into_iter().map(by).collect::<Result<Vec<_>>>()?;
    let input = StreamingTableExec::try_new(Arc::clone(&schema), vec![Arc::new(events)], None, [], false, None)?;
    let order =
        LexOrdering::new(order).ok_or_else(|| external(crate::failure::Failure::failed("there is no order")))?;
    Ok(Arc::new(SortExec::new(order, Arc::new(input))))
}

/// Where every row was gone, which is known once all events are read.
type ClearedPlaces = Arc<Mutex<Vec<Cleared>>>;

struct Events {
    chronicle: Arc<Chronicle>,
    telling: Telling,
    schema: SchemaRef,
    cleared: ClearedPlaces,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "events of {}", self.chronicle.relation().name)
    }
}

impl PartitionStream for Events {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 2);
        let mut out = Emission::new(builder.tx());
        let (chronicle, telling, places) = (Arc::clone(&self.chronicle), self.telling, Arc::clone(&self.cleared));
        builder.spawn(async move {
            let read = chronicle.events(telling, &mut |events| out.give(events)).await;
            out.end(read.map(|cleared| *places.lock().unwrap_or_else(PoisonError::into_inner) = cleared))
        });
        builder.build()
    }
}

/// The account, told from sorted events.
struct ToldAccount {
    chronicle: Arc<Chronicle>,
    account: Account,
    schema: SchemaRef,
    events: Arc<dyn ExecutionPlan>,
    cleared: ClearedPlaces,
}

impl fmt::Debug for ToldAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}", self.account, self.chronicle.relation().name)
    }
}

impl PartitionStream for ToldAccount {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (chronicle, account, places) = (Arc::clone(&self.chronicle), self.account, Arc::clone(&self.cleared));
        let (events, schema) = (Arc::clone(&self.events), Arc::clone(&self.schema));
        let events = match execute_stream(events, context) {
            Ok(events) => events,
            Err(error) => return Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Err(error)]))),
        };
        let state = (events, None::<Lives>, false);
        let told = futures::stream::try_unfold(state, move |(mut events, mut lives, ended)| {
            let (chronicle, places) = (Arc::clone(&chronicle), Arc::clone(&places));
            async move {
                if ended {
                    return Ok(None);
                }
                // The first sorted event comes after the last that was read.
                let cleared = || places.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let next = events.next().await.transpose()?;
                let telling = lives.get_or_insert_with(|| Lives::new(&chronicle, account, cleared()));
                let told = match &next {
                    Some(batch) => telling.take(batch),
                    None => telling.end(),
                };
                Ok(Some((told.map_err(external)?, (events, lives, next.is_none()))))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, told))
    }
}
