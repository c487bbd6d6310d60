//! Which transactions changed rows for which a condition holds.

use std::collections::HashSet;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use futures::StreamExt as _;

use super::super::context::Context;
use super::super::session::{Asking, MEMORY_BYTES};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::history::Chronicle;
use crate::model::{Lsn, Operation, TableName, Transaction, quote_identifier};

/// Of these transactions, newest first, those that changed a row of the table in one of these ways (any, where none is
/// named) for which the condition holds before or after.
///
/// # Errors
/// Usage where the condition is wrong.
pub(super) async fn transactions(
    context: &Context,
    archive: &Archive,
    table: &TableName,
    among: &[&Transaction],
    condition: &str,
    operations: &[Operation],
) -> Result<HashSet<Lsn>> {
    let (Some(newest), Some(oldest)) = (among.first(), among.last()) else { return Ok(HashSet::new()) };
    let (from, to) = (oldest.commit.lsn, newest.commit.lsn);
    let Some(chronicle) = Chronicle::find(archive, table, from, Lsn(to.0 + 1)).await? else {
        return Ok(HashSet::new());
    };
    let names: Vec<String> = chronicle.columns().iter().map(|column| column.name.clone()).collect();
    let sql = question(table, from, to, &names, condition, operations);
    let asking = Asking::new(context, archive, None, MEMORY_BYTES).await?;
    let mut rows = asking.session.sql(&sql).await?;
    let mut found = HashSet::new();
    while let Some(batch) = rows.batches.next().await {
        let batch = batch?;
        let lsns = batch.column(0).as_primitive_opt::<Int64Type>();
        let lsns = lsns.ok_or_else(|| Failure::failed("changes() has no commit LSNs"))?;
        found.extend(lsns.iter().flatten().map(Lsn::from_i64));
    }
    Ok(found)
}

/// Each changed row once as it was and once as it became, its columns by their own names.
fn question(
    table: &TableName,
    from: Lsn,
    to: Lsn,
    names: &[String],
    condition: &str,
    operations: &[Operation],
) -> String {
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let changes = format!("changes({}, 'before:{from}', 'after:{to}')", text(&table.to_sql()));
    let side = |side: &str, with: &str| {
        let columns = names.iter().map(|name| format!(", {side}[{}] AS {}", text(name), quote_identifier(name)));
        let columns: String = columns.collect();
        format!("SELECT _lsn, _op, old, new{columns} FROM {changes} WHERE _op IN ({with})")
    };
    let only = match operations {
        [] => String::new(),
        some => {
            let names: Vec<String> = some.iter().map(|operation| text(operation.as_str())).collect();
            format!("_op IN ({}) AND ", names.join(", "))
        }
    };
    format!(
        "SELECT DISTINCT _lsn FROM ({} UNION ALL {}) AS changed WHERE {only}(\n{condition}\n)",
        side("old", "'update', 'delete'"),
        side("new", "'insert', 'update', 'snapshot'"),
    )
}
