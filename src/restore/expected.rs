//! Rows that somebody has written since the archive's last look at them: for an undo, that is a conflict.

use super::desired::Matching;
use super::difference::Difference;
use super::workspace::Workspace;
use crate::failure::Result;

/// Takes out the operations on rows that are not what the archive says that they are now, and counts them. Rows without a key
/// cannot be told from their equals, so that nothing is known of them.
pub(super) async fn leave_out_changed(workspace: &Workspace<'_>, table: &Difference) -> Result<u64> {
    let Matching::Key(parts) = &table.matching else { return Ok(0) };
    if !table.has_expected_rows() {
        return Ok(0);
    }
    let any = format!(
        "SELECT (EXISTS (SELECT FROM {}) OR EXISTS (SELECT FROM {}))::int4::int8",
        table.live_rows(),
        table.expected_rows()
    );
    if workspace.count(&any).await? == 0 {
        return Ok(0);
    }
    workspace.execute(&format!("ANALYZE {}", table.expected_rows())).await?;
    workspace.execute(&changed_sql(table, parts)).await
}

fn changed_sql(table: &Difference, parts: &[(usize, String)]) -> String {
    let (operations, expected) = (table.operations(), table.expected_rows());
    let meets = |alias: &str| {
        let equal: Vec<String> = parts.iter().map(|(at, equals)| format!("{alias}.c{at} {equals} e.c{at}")).collect();
        equal.join(" AND ")
    };
    let all: Vec<usize> = (0..table.columns.len()).collect();
    format!(
        "DELETE FROM {operations} AS p WHERE p.ctid IN (\
         SELECT o.ctid FROM {operations} AS o JOIN {live} AS l ON l.afterimage_tid = o.afterimage_live \
         LEFT JOIN {expected} AS e ON {of_live} WHERE e.ctid IS NULL OR {differs} \
         UNION ALL SELECT o.ctid FROM {operations} AS o JOIN {rows} AS t ON t.ctid = o.afterimage_then \
         JOIN {expected} AS e ON {of_then} WHERE o.afterimage_live IS NULL)",
        live = table.live_rows(),
        rows = table.rows(),
        of_live = meets("l"),
        of_then = meets("t"),
        differs = table.differs(&all, "l", |at| format!("e.c{at}")),
    )
}
