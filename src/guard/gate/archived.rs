//! What the definitions were at a point of the archive.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::inventory::{Drift, Inventory, difference, inventory};
use crate::archive::Archive;
use crate::failure::Result;
use crate::history::{Known, table_name};
use crate::model::{Lsn, TableName};
use crate::postgres::Source;

/// Compares the source's definitions with those that the archive has at a cut: archived tables with their columns, indexes
/// and constraints, and enums where definitions are captured.
///
/// # Errors
/// As source and archive say.
pub async fn drift_since(source: &Source, archive: &Archive, cut: Lsn) -> Result<Vec<Drift>> {
    let then = Known::before(archive, cut).await?;
    let now = Known::before(archive, archive.watermark().await?.lsn).await?;
    let session = source.without_waiting().connect("afterimage doctor").await?;
    let mut found = inventory(&session).await?;
    let tables: Vec<TableName> = then.tables.values().chain(now.tables.values()).map(table_name).collect();
    let covered: HashSet<String> = tables.iter().map(raw).collect();
    let enums = then.all("type").next().is_some();
    found.retain(|(kind, name), text| match kind.as_str() {
        "table" => covered.contains(name),
        "column" | "constraint" => name.rsplit_once('.').is_some_and(|(table, _)| covered.contains(table)),
        "index" => tables.iter().any(|table| is_index_of(text, table)),
        "enum" => enums,
        _ => false,
    });
    Ok(difference(&expected(&then), &found))
}

/// A name as the inventory has it, without quotes.
fn raw(name: &TableName) -> String {
    format!("{}.{}", name.schema, name.table)
}

/// Whether an index, as PostgreSQL writes it, is one of a table.
fn is_index_of(definition: &str, table: &TableName) -> bool {
    definition.contains(&format!(" ON {table} ")) || definition.contains(&format!(" ON ONLY {table} "))
}

fn expected(known: &Known) -> Inventory {
    let mut expected = Inventory::new();
    for table in known.tables.values() {
        add_table(&mut expected, table);
    }
    for (name, definition) in known.all("type").filter(|(_, definition)| definition["kind"] == "e") {
        let labels: Vec<&str> = texts(&definition["labels"]).collect();
        if let Some(name) = TableName::parse(name) {
            expected.insert(("enum".to_owned(), raw(&name)), labels.join(", "));
        }
    }
    expected
}

fn add_table(expected: &mut Inventory, table: &Json) {
    let name = table_name(table);
    let mut add = |kind: &str, name: String, text: String| expected.insert((kind.to_owned(), name), text);
    let kind = if table["kind"] == "p" { "partitioned" } else { "table" };
    add("table", raw(&name), kind.to_owned());
    for column in array(&table["columns"]) {
        let not_null = if column["not_null"] == true { " NOT NULL" } else { "" };
        let default = column["default"].as_str().or_else(|| column["generated"]["expression"].as_str());
        let default = default.map_or(String::new(), |default| format!(" DEFAULT {default}"));
        let text = format!("{}{not_null}{default}", text(&column["type"]));
        add("column", format!("{}.{}", raw(&name), self::text(&column["name"])), text);
    }
    for index in array(&table["indexes"]) {
        add("index", format!("{}.{}", name.schema, text(&index["name"])), text(&index["definition"]).to_owned());
    }
    for constraint in array(&table["constraints"]).filter(|constraint| constraint["type"] != "n") {
        let constraint_name = format!("{}.{}", raw(&name), text(&constraint["name"]));
        add("constraint", constraint_name, text(&constraint["definition"]).to_owned());
    }
}

fn array(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}

fn texts(json: &Json) -> impl Iterator<Item = &str> {
    array(json).filter_map(Json::as_str)
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}
