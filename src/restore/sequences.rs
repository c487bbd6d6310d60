//! Sequences of columns whose old values came back: moved past them, never back.

use super::difference::Difference;
use super::report::SequenceMove;
use super::workspace::{Differences, Workspace};
use crate::failure::Result;
use crate::model::{TableName, quote_literal};

/// Moves the owned sequences of all tables. Not undone by a rollback, which does no harm: it only skips values.
pub(super) async fn move_forward(workspace: &Workspace<'_>, differences: &Differences) -> Result<Vec<SequenceMove>> {
    let mut moves = Vec::new();
    for table in differences.tables.iter().filter(|table| table.counts.insert + table.counts.update > 0) {
        for (at, column) in table.columns.iter().enumerate() {
            let live = table.live.columns.iter().find(|live| live.name == column.name);
            if let Some((sequence, upwards)) = live.and_then(|live| live.sequence.as_ref()) {
                moves.extend(move_past(workspace, table, at, sequence, *upwards).await?);
            }
        }
    }
    Ok(moves)
}

async fn move_past(
    workspace: &Workspace<'_>,
    table: &Difference,
    at: usize,
    sequence: &TableName,
    upwards: bool,
) -> Result<Option<SequenceMove>> {
    let sql = move_sql(table, at, sequence, upwards);
    let rows = workspace.query(&sql, &[]).await?;
    let moved =
        |row: &tokio_postgres::Row| SequenceMove { sequence: sequence.clone(), from: row.get(0), to: row.get(1) };
    Ok(rows.first().map(moved))
}

/// One statement, so that others have no time to draw values between the look and the move. A value that has not
/// been drawn yet, though it stands there as the last, counts as one that lies ahead.
pub(super) fn move_sql(table: &Difference, at: usize, sequence: &TableName, upwards: bool) -> String {
    let (extreme, beyond) = if upwards { ("max", ">") } else { ("min", "<") };
    format!(
        "SELECT s.last_value, setval({regclass}::regclass, m.value, true) FROM {name} AS s, \
         (SELECT {extreme}(t.c{at})::bigint AS value FROM {operations} AS o JOIN {rows} AS t ON t.ctid = o.afterimage_then) AS m \
         WHERE m.value {beyond} s.last_value OR (m.value = s.last_value AND NOT s.is_called)",
        regclass = quote_literal(&sequence.to_sql()),
        name = sequence.to_sql(),
        operations = table.operations(),
        rows = table.rows()
    )
}
