//! `--map 'column = SQL expression'`: values that are transformed on the way in, so that a rule of today admits them.

use std::fmt;

use super::desired::Shared;
use super::difference::Difference;
use super::workspace::Workspace;
use crate::failure::{Failure, Result};
use crate::model::{TableName, TablePattern, quote_identifier};

/// One column's new value, an expression over the row as the archive has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    text: String,
    /// All tables that have the column, where none is named.
    table: Option<TablePattern>,
    pub(super) column: String,
    expression: String,
}

impl Mapping {
    /// Reads `column = expression` or `table.column = expression`.
    ///
    /// # Errors
    /// Usage where it is neither.
    pub fn parse(text: &str) -> Result<Mapping> {
        let wrong = || {
            Failure::usage(format!("mapping {text:?} is not column = expression"))
                .remedy("for instance --map \"smart_code = replace(smart_code, '.V1', '.v1')\"")
        };
        let (left, expression) = text.split_once('=').ok_or_else(wrong)?;
        let (left, expression) = (left.trim(), expression.trim());
        let dot = left.char_indices().rev().find(|&(at, c)| c == '.' && left[..at].matches('"').count() % 2 == 0);
        let (table, column) = match dot {
            Some((at, _)) => (Some(TablePattern::parse(&left[..at])?), &left[at + 1..]),
            None => (None, left),
        };
        let quoted = column.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let column = quoted.map_or_else(|| column.to_lowercase(), |name| name.replace("\"\"", "\""));
        if column.is_empty() || expression.is_empty() {
            return Err(wrong());
        }
        Ok(Mapping { text: text.to_owned(), table, column, expression: expression.to_owned() })
    }

    /// Whether it is about a table.
    pub(super) fn concerns(&self, name: &TableName, columns: &[Shared]) -> bool {
        self.table.as_ref().is_none_or(|table| table.matches(name))
            && columns.iter().any(|column| column.name == self.column)
    }

    /// The expression, which a comment at its end must not swallow more than itself.
    pub(super) fn to_sql(&self) -> String {
        format!("(\n{}\n)", self.expression)
    }

    /// What an objection to a statement with the user's expression means.
    pub(super) fn judge(error: tokio_postgres::Error) -> Failure {
        let failure = Failure::from(error);
        match failure.is_transient() {
            true => failure,
            false => Failure::usage(failure.cause()).context("--map").remedy(
                "write an expression over the table's own columns that gives the column's type: --map \"code = lower(code)\"",
            ),
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Maps the rows that a restore would write; those that were read as text are mapped already.
pub(super) async fn map(workspace: &Workspace<'_>, table: &Difference) -> Result<()> {
    let maps = workspace.request.maps.iter().filter(|map| map.concerns(&table.name, &table.columns));
    let maps: Vec<(usize, &Mapping)> = maps.filter_map(|map| Some((table.position(&map.column)?, map))).collect();
    if let Some((at, map)) = maps.iter().find(|(at, _)| table.matched_by(*at)) {
        return Err(Failure::usage(format!(
            "{map}: {} tells the rows of {} apart",
            table.columns[*at].name, table.name
        ))
        .remedy("map another column"));
    }
    if maps.is_empty() || table.read_as_text() {
        return Ok(());
    }
    workspace.enter_application_path(&table.name).await?;
    workspace.session.execute(&map_sql(table, &maps), &[]).await.map_err(Mapping::judge)?;
    workspace.leave_application_path().await
}

fn map_sql(table: &Difference, maps: &[(usize, &Mapping)]) -> String {
    let (rows, operations) = (table.rows(), table.operations());
    let columns: Vec<String> = (0..table.columns.len())
        .map(|at| format!("t.c{at} AS {}", quote_identifier(&table.columns[at].name)))
        .collect();
    let values: Vec<String> = maps.iter().map(|(at, map)| format!("{} AS v{at}", map.to_sql())).collect();
    let set: Vec<String> = maps.iter().map(|(at, _)| format!("c{at} = m.v{at}")).collect();
    format!(
        "WITH moved AS (\
           UPDATE {rows} AS t SET {set} FROM (\
             SELECT afterimage_place, {values} FROM (\
               SELECT t.ctid AS afterimage_place, {columns} FROM {operations} AS o \
               JOIN {rows} AS t ON t.ctid = o.afterimage_then) AS {alias}) AS m \
           WHERE t.ctid = m.afterimage_place RETURNING m.afterimage_place AS former, t.ctid AS place) \
         UPDATE {operations} AS o SET afterimage_then = moved.place FROM moved WHERE o.afterimage_then = moved.former",
        set = set.join(", "),
        values = values.join(", "),
        columns = columns.join(", "),
        alias = quote_identifier(&table.name.table)
    )
}

/// Requires that every mapping has a table to work on.
pub(super) fn require_targets(workspace: &Workspace<'_>, tables: &[Difference]) -> Result<()> {
    for map in &workspace.request.maps {
        if !tables.iter().any(|table| map.concerns(&table.name, &table.columns)) {
            return Err(Failure::usage(format!("{map}: no table of the restore has that column"))
                .remedy("name a column, or table.column, of a table that is restored"));
        }
    }
    Ok(())
}
