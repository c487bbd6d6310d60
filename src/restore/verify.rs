//! The outcome against the archive, before anything is committed.

use super::desired::Matching;
use super::difference::Difference;
use super::workspace::{Differences, Workspace};
use crate::failure::{Failure, Result};
use crate::model::quote_identifier;

/// Requires that every planned row is now as the archive has it, and that what had to go is gone. Of the `proven` tables that
/// is known.
///
/// # Errors
/// Failed, with a count; the caller rolls back.
pub(super) async fn require_outcome(
    workspace: &Workspace<'_>,
    differences: &Differences,
    proven: &[u32],
) -> Result<()> {
    let is_open = |table: &&Difference| table.counts.rows() > 0 && !proven.contains(&table.live.oid);
    for table in differences.tables.iter().filter(is_open) {
        let wrong = match &table.matching {
            Matching::Key(parts) => {
                workspace.join_for_written(table.counts.rows(), table.live.oid).await?;
                let wrong = workspace.count(&wrong_by_key(table, parts)).await?;
                workspace.join_as_ever().await?;
                wrong + workspace.count(&left_over_by_key(table, parts)).await?
            }
            Matching::WholeRow => workspace.count(&wrong_by_text(table)).await?,
        };
        if wrong > 0 {
            return Err(Failure::failed(format!(
                "{wrong} rows of {} are not what the archive has after the restore; nothing was changed",
                table.name
            ))
            .remedy(
                "a trigger that stays on changes them, or their key moved meanwhile: restore as the table's owner, and plan again",
            ));
        }
    }
    Ok(())
}

/// Rows of the point that are not there, or differ.
pub(super) fn wrong_by_key(table: &Difference, parts: &[(usize, String)]) -> String {
    let on: Vec<String> = parts
        .iter()
        .map(|(at, equals)| format!("x.{} {equals} t.c{at}", quote_identifier(&table.columns[*at].name)))
        .collect();
    let compared = table.compared();
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let differs = |positions: &[usize]| table.differs(positions, "t", |at| table.desired.live_value("x", at));
    let (planned, differs) = match table.only_inserts {
        true => (format!("{} AS t", table.rows()), differs(&all)),
        false => (
            format!("{} AS o JOIN {} AS t ON t.ctid = o.afterimage_then", table.operations(), table.rows()),
            format!("CASE o.afterimage_class WHEN 'updated' THEN {} ELSE {} END", differs(&compared), differs(&all)),
        ),
    };
    format!(
        "SELECT count(*) FROM {planned} LEFT JOIN ONLY {} AS x ON {} WHERE x.ctid IS NULL OR {differs}",
        table.name.to_sql(),
        on.join(" AND ")
    )
}

/// Rows that had to go and are there.
pub(super) fn left_over_by_key(table: &Difference, parts: &[(usize, String)]) -> String {
    let on: Vec<String> = parts
        .iter()
        .map(|(at, equals)| format!("x.{} {equals} l.c{at}", quote_identifier(&table.columns[*at].name)))
        .collect();
    format!(
        "SELECT count(*) FROM {} AS o JOIN {} AS l ON l.afterimage_tid = o.afterimage_live JOIN ONLY {} AS x ON {} \
         WHERE o.afterimage_class = 'inserted'",
        table.operations(),
        table.live_rows(),
        table.name.to_sql(),
        on.join(" AND ")
    )
}

/// Texts of which there are not as many rows as before, plus the inserted, minus the deleted.
pub(super) fn wrong_by_text(table: &Difference) -> String {
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let (then, live, now) = (table.staged_text("t", &all), table.staged_text("l", &all), table.live_text("x", &all));
    let (operations, rows, live_rows, name) =
        (table.operations(), table.rows(), table.live_rows(), table.name.to_sql());
    format!(
        "WITH planned AS (\
           SELECT {then} AS row_text, 1 AS copies FROM {operations} AS o JOIN {rows} AS t ON t.ctid = o.afterimage_then \
           UNION ALL \
           SELECT {live}, -1 FROM {operations} AS o JOIN {live_rows} AS l ON l.afterimage_tid = o.afterimage_live), \
         concerned AS (SELECT DISTINCT row_text FROM planned), \
         expected AS (\
           SELECT e.row_text, sum(e.copies) AS copies FROM (\
             SELECT * FROM planned UNION ALL SELECT {live}, 1 FROM {live_rows} AS l) AS e \
           WHERE e.row_text IN (SELECT row_text FROM concerned) GROUP BY 1), \
         present AS (\
           SELECT {now} AS row_text, count(*) AS copies FROM ONLY {name} AS x \
           WHERE {now} IN (SELECT row_text FROM concerned) GROUP BY 1) \
         SELECT count(*) FROM expected AS e LEFT JOIN present AS p ON p.row_text = e.row_text \
         WHERE e.copies <> COALESCE(p.copies, 0)"
    )
}
