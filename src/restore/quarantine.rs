//! Rows that a constraint forbids, kept in a side table with the reason, until they can come back.

use std::collections::BTreeMap;

use super::desired::Desired;
use super::difference::Difference;
use super::plan::Note;
use super::workspace::{Differences, Workspace};
use crate::failure::{Context as _, Failure, Result};
use crate::model::{TableName, quote_literal};

/// Where they are: in the source, beside the tables that they belong to.
const SCHEMA: &str = "afterimage_quarantine";
const TABLE: &str = "afterimage_quarantine.rows";

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS afterimage_quarantine.rows (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  quarantined_at timestamptz NOT NULL DEFAULT now(),
  plan text NOT NULL,
  table_schema text NOT NULL,
  table_name text NOT NULL,
  content jsonb NOT NULL,
  types jsonb NOT NULL,
  reasons jsonb NOT NULL,
  live text,
  restored_at timestamptz
)";

/// Operations of a table that were left out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LeftOut {
    /// Rows in the side table.
    pub(super) quarantined: u64,
    /// Live rows that stay though they were not there at the point.
    pub(super) kept: u64,
}

/// Takes what is forbidden out of the operations, and the rows of the point among it into the side table.
pub(super) async fn set_aside(workspace: &Workspace<'_>, table: &mut Difference, plan: &str) -> Result<LeftOut> {
    if table.counts.rows() == 0 {
        return Ok(LeftOut::default());
    }
    let falls = format!("SELECT FROM {} AS r WHERE r.operation = o.ctid AND r.falls", table.rejected());
    let rows = format!(
        "SELECT count(*) FROM {} AS o WHERE o.afterimage_then IS NOT NULL AND EXISTS ({falls})",
        table.operations()
    );
    let quarantined = workspace.count(&rows).await?;
    if quarantined > 0 {
        require_side_table(workspace).await?;
        workspace.execute(&forget_copies_sql(table)).await?;
        workspace.query(&set_aside_sql(table), &[&plan]).await?;
    }
    let left = workspace.execute(&format!("DELETE FROM {} AS o WHERE EXISTS ({falls})", table.operations())).await?;
    if left > 0 {
        table.recount(workspace).await?;
    }
    Ok(LeftOut { quarantined, kept: left - quarantined })
}

async fn exists(workspace: &Workspace<'_>) -> Result<bool> {
    let rows = workspace.query("SELECT to_regclass($1) IS NOT NULL", &[&TABLE]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

async fn require_side_table(workspace: &Workspace<'_>) -> Result<()> {
    if exists(workspace).await? {
        return Ok(());
    }
    let schema = workspace.query("SELECT to_regnamespace($1) IS NOT NULL", &[&SCHEMA]).await?;
    let attempt = "the rows that are rejected need a side table";
    if !schema.first().is_some_and(|row| row.get(0)) {
        workspace.execute(&format!("CREATE SCHEMA {SCHEMA}")).await.context(attempt)?;
    }
    workspace.execute(CREATE).await.context(attempt)?;
    Ok(())
}

/// A row as the side table keeps it: each column's text by its name.
fn content(table: &Difference) -> String {
    let names: Vec<String> = table.columns.iter().map(|column| quote_literal(&column.name)).collect();
    let texts: Vec<String> = (0..table.columns.len()).map(|at| format!("t.c{at}::text")).collect();
    let texts = if table.read_as_text() {
        "t.afterimage_texts".to_owned()
    } else {
        format!("ARRAY[{}]::text[]", texts.join(", "))
    };
    format!("jsonb_object(ARRAY[{}]::text[], {texts})", names.join(", "))
}

/// The types of those texts.
fn types(table: &Difference) -> String {
    let names = table.columns.iter().map(|column| column.name.as_str());
    let types: serde_json::Map<String, serde_json::Value> =
        names.zip(table.types()).map(|(name, text)| (name.to_owned(), text.as_str().into())).collect();
    format!("{}::jsonb", quote_literal(&serde_json::Value::Object(types).to_string()))
}

fn of_table(name: &TableName) -> String {
    format!(
        "q.table_schema = {} AND q.table_name = {} AND q.restored_at IS NULL",
        quote_literal(&name.schema),
        quote_literal(&name.table)
    )
}

/// What an earlier attempt set aside already.
fn forget_copies_sql(table: &Difference) -> String {
    format!(
        "DELETE FROM {TABLE} AS q USING {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then \
         WHERE {} AND q.content = {} AND EXISTS (SELECT FROM {} AS r WHERE r.operation = o.ctid AND r.falls)",
        table.operations(),
        table.rows(),
        of_table(&table.name),
        content(table),
        table.rejected()
    )
}

fn set_aside_sql(table: &Difference) -> String {
    format!(
        "INSERT INTO {TABLE} (plan, table_schema, table_name, content, types, reasons, live) \
         SELECT $1, {schema}, {name}, {content}, {types}, r.reasons, CASE WHEN o.afterimage_live IS NOT NULL THEN {live} END \
         FROM {operations} AS o JOIN {rows} AS t ON t.ctid = o.afterimage_then \
         JOIN (SELECT operation, jsonb_agg(jsonb_strip_nulls(jsonb_build_object(\
           'rule', kind || ' ' || name, 'reason', reason))) AS reasons FROM {rejected} WHERE falls GROUP BY 1) AS r \
           ON r.operation = o.ctid \
         LEFT JOIN {live_rows} AS l ON l.afterimage_tid = o.afterimage_live",
        schema = quote_literal(&table.name.schema),
        name = quote_literal(&table.name.table),
        content = content(table),
        types = types(table),
        live = table.staged_text("l", &table.compared()),
        operations = table.operations(),
        rows = table.rows(),
        rejected = table.rejected(),
        live_rows = table.live_rows()
    )
}

/// The tables that have rows in quarantine.
pub(super) async fn tables(workspace: &Workspace<'_>) -> Result<Vec<TableName>> {
    if !exists(workspace).await? {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT DISTINCT table_schema, table_name FROM {TABLE} WHERE restored_at IS NULL ORDER BY 1, 2");
    let rows = workspace.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// Fills a table of texts with a table's rows in quarantine, and gives the types that the latest of them are of.
pub(super) async fn read_back(
    workspace: &Workspace<'_>,
    table: &Desired,
    into: &str,
) -> Result<BTreeMap<String, String>> {
    let values = table.columns.iter().map(|column| format!("q.content ->> {}", quote_literal(&column.name)));
    let values: Vec<String> = values.chain(["hashtextextended(q.content::text, 0)".to_owned()]).collect();
    let sql =
        format!("INSERT INTO {into} SELECT {} FROM {TABLE} AS q WHERE {}", values.join(", "), of_table(&table.name));
    workspace.execute(&sql).await?;
    let sql = format!(
        "SELECT e.key, e.value FROM (SELECT q.types FROM {TABLE} AS q WHERE {} ORDER BY q.id DESC LIMIT 1) AS latest \
         CROSS JOIN LATERAL jsonb_each_text(latest.types) AS e",
        of_table(&table.name)
    );
    Ok(workspace.query(&sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Leaves out what others have changed since it was set aside.
pub(super) async fn leave_out_changed(workspace: &Workspace<'_>, table: &Difference) -> Result<Option<Note>> {
    let sql = format!(
        "DELETE FROM {operations} AS p USING {operations} AS o JOIN {rows} AS t ON t.ctid = o.afterimage_then \
         LEFT JOIN {live_rows} AS l ON l.afterimage_tid = o.afterimage_live \
         WHERE p.ctid = o.ctid AND NOT EXISTS (SELECT FROM {TABLE} AS q WHERE {of_table} AND q.content = {content} \
         AND q.live IS NOT DISTINCT FROM CASE WHEN o.afterimage_live IS NOT NULL THEN {live} END)",
        operations = table.operations(),
        rows = table.rows(),
        live_rows = table.live_rows(),
        of_table = of_table(&table.name),
        content = content(table),
        live = table.staged_text("l", &table.compared())
    );
    let left = workspace.execute(&sql).await?;
    let text = format!("{left} rows in quarantine were changed by others since, and are left there");
    Ok((left > 0).then(|| Note::skipped(&table.name, text)))
}

/// Notes which rows have come back.
pub(super) async fn release(workspace: &Workspace<'_>, differences: &Differences) -> Result<()> {
    for table in differences.tables.iter().filter(|table| table.counts.rows() > 0) {
        let sql = format!(
            "UPDATE {TABLE} AS q SET restored_at = now() FROM {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then \
             WHERE {} AND q.content = {}",
            table.operations(),
            table.rows(),
            of_table(&table.name),
            content(table)
        );
        let released = workspace.execute(&sql).await?;
        if released < table.counts.rows() {
            return Err(Failure::failed(format!("only {released} rows of {} left the quarantine", table.name)));
        }
    }
    Ok(())
}
