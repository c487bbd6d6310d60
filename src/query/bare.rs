//! Changes of which only the place, the time and the operation are asked, as the files have them: to tell these, no row's
//! life need be followed, so nothing is sorted and no row is read.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider as _};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;

use super::archived::data_file;
use super::counted::counted_changes;
use super::session::store_name;
use super::state::external;
use super::{ArchivedTable, TableFiles};
use crate::columnar::names;
use crate::history::Chronicle;

const COLUMNS: [&str; 5] = [names::LSN, names::SEQ, names::XID, names::TS, names::OP];

/// The columns at some places of an account of changes, where all of them are bare ones.
pub(super) fn bare_columns(account: &SchemaRef, projection: Option<&Vec<usize>>) -> Option<Schema> {
    let asked = Arc::new(account.project(projection?).ok()?);
    let is_bare = |name: &String| COLUMNS.contains(&name.as_str());
    asked.fields().iter().all(|field| is_bare(field.name())).then(|| Schema::clone(&asked))
}

/// The changes of a chronicle with these columns. The filters are the query's, over bare columns.
pub(super) async fn bare_changes(
    chronicle: &Chronicle,
    account: &SchemaRef,
    asked: &Schema,
    state: &dyn Session,
    filters: &[datafusion::logical_expr::Expr],
) -> Result<Arc<dyn ExecutionPlan>> {
    let places = COLUMNS.iter().map(|name| account.index_of(name)).collect::<std::result::Result<Vec<_>, _>>()?;
    let all = Arc::new(account.project(&places)?);
    let files = chronicle.files().await.map_err(external)?;
    let bytes = files.iter().map(|file| file.size).sum();
    let counted = counted_changes(chronicle, &Arc::new(asked.clone()), bytes, state, filters).await?;
    if let Some(counted) = counted {
        return Ok(counted);
    }
    let files = files.iter().map(data_file).collect::<crate::failure::Result<_>>().map_err(external)?;
    let range = chronicle.range();
    let mut found = TableFiles::new(Arc::clone(&all), files, Some(range.end.as_i64() - 1));
    found.visible_from = Some(range.start.as_i64());
    let table = ArchivedTable::new(found, store_name(chronicle.archive().store().root()).map_err(external)?)?;
    let asked = asked.fields().iter().map(|field| all.index_of(field.name()));
    let asked = asked.collect::<std::result::Result<Vec<_>, _>>()?;
    table.scan(state, Some(&asked), filters, None).await
}
