//! Rows that PostgreSQL gives back as it has written them, so that nobody has to look for them again to compare them.
//!
//! Every staged row brings a hash of the archive's text along. Where the rows come back in the same form, the sum of their
//! hashes must be that of the staged ones. That holds for what is there at the end only if nothing changes rows between:
//! no trigger, no rule, and no operation but inserting. Where the sums differ, a text may just be written in another way, as
//! the name of a type is under another search path; then the rows are sought and compared as ever ([`super::verify`]).

use futures::StreamExt as _;

use super::difference::Difference;
use super::perform::insert_sql;
use super::staging::hash_of;
use super::workspace::{Differences, Workspace};
use crate::failure::Result;
use crate::model::quote_identifier;

/// Whether rows stay as they are written, in all tables of a restore.
pub(super) async fn stay(workspace: &Workspace<'_>, differences: &Differences) -> Result<bool> {
    if differences.tables.iter().any(|table| table.counts.update + table.counts.delete > 0) {
        return Ok(false);
    }
    let tables: Vec<u32> = differences.tables.iter().map(|table| table.live.oid).collect();
    let sql =
        "SELECT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = ANY ($1) AND NOT tgisinternal AND tgenabled <> 'D')
        AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = ANY ($1))";
    let rows = workspace.query(sql, &[&tables]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Whether rows of a table are staged with the hash of what they are to be.
pub(super) fn can_be_compared(workspace: &Workspace<'_>, table: &Difference) -> bool {
    let mapped = workspace.request.maps.iter().any(|map| map.concerns(&table.name, &table.columns));
    table.only_inserts && !table.read_as_text() && !mapped
}

/// Inserts, and returns how many rows came back and whether they are what was staged.
pub(super) async fn insert(workspace: &Workspace<'_>, table: &Difference) -> Result<(u64, bool)> {
    workspace.enter_application_path(&table.name).await?;
    let columns: Vec<String> = table.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    let sql = format!("COPY ({} RETURNING {}) TO STDOUT", insert_sql(table), columns.join(", "));
    let chunks = workspace.session.copy_out(&sql).await.map_err(|error| workspace.judge(error))?;
    futures::pin_mut!(chunks);
    let (mut count, mut sum, mut row) = (0, 0, Vec::new());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| workspace.judge(error))?;
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            row.extend_from_slice(piece);
            // A newline ends a row: within a value it is escaped.
            if row.ends_with(b"\n") {
                sum += i128::from(hash_of(&row));
                row.clear();
                count += 1;
            }
        }
    }
    workspace.leave_application_path().await?;
    let staged = format!("SELECT sum(afterimage_hash)::text FROM {}", table.rows());
    let staged: Option<String> = workspace.query(&staged, &[]).await?.first().and_then(|row| row.get(0));
    Ok((count, staged.is_some_and(|staged| staged == sum.to_string())))
}
