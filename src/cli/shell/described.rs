//! `\d` and `\dt`: what there is, as rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};

use super::super::context::{parse_pattern, single_table, unknown_table};
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, TablePattern};
use crate::query::{TableRef, Tables};

/// The tables that there were before a cut, and the archive's own logs where no pattern is given.
pub(super) async fn listing(
    archive: &Archive,
    view: &dyn Tables,
    cut: Lsn,
    pattern: Option<&str>,
    only_tables: bool,
) -> Result<RecordBatch> {
    let pattern = pattern.map(|text| parse_pattern(text).map_err(Failure::usage)).transpose()?;
    let mut rows: Vec<[String; 3]> = Vec::new();
    let present = archive.tables_before(cut).await?;
    let wanted = |pattern: &TablePattern| present.keys().any(|name| pattern.matches(name));
    if let Some(pattern) = pattern.as_ref().filter(|pattern| !wanted(pattern)) {
        return Err(unknown_table(pattern, &present.keys().collect::<Vec<_>>()));
    }
    for (name, relation) in &present {
        if pattern.as_ref().is_none_or(|pattern| pattern.matches(name)) {
            let kind = if relation.partitioned { "partitioned table" } else { "table" };
            rows.push([name.schema.clone(), name.table.clone(), kind.to_owned()]);
        }
    }
    if pattern.is_none() && !only_tables {
        for table in view.list().await? {
            if let TableRef::Log(name) = table {
                rows.push(["afterimage".to_owned(), name, "log".to_owned()]);
            }
        }
    }
    rows.sort_unstable();
    batch(["Schema", "Name", "Type"], &rows)
}

/// The columns that a table had before a cut.
pub(super) async fn columns(archive: &Archive, cut: Lsn, pattern: &str) -> Result<RecordBatch> {
    let pattern = parse_pattern(pattern).map_err(Failure::usage)?;
    let present = archive.tables_before(cut).await?;
    let name = single_table(&pattern, present.keys())?;
    let gone = || Failure::refused(format!("{name} did not exist then")).remedy("choose a later point with \\at");
    let relation = present.get(&name).ok_or_else(gone)?;
    let key = |part: bool| if part { "key" } else { "" };
    let shown = relation
        .columns
        .iter()
        .map(|column| [column.name.clone(), column.type_name.clone(), key(column.key).to_owned()]);
    let left_out =
        relation.left_out.iter().map(|name| [name.clone(), String::new(), "generated, not in the archive".to_owned()]);
    batch(["Column", "Type", "Identity"], &shown.chain(left_out).collect::<Vec<_>>())
}

fn batch<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> Result<RecordBatch> {
    let column = |at: usize| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row[at]))) };
    let columns = names.iter().enumerate().map(|(at, name)| (*name, column(at)));
    RecordBatch::try_from_iter(columns).map_err(|error| Failure::failed(format!("listing tables: {error}")))
}
