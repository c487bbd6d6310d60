//! What tables stand on: schemas, types, functions, sequences; and the views that stand on them.

use serde_json::Value as Json;

use super::table::Recipe;
use super::{Recreation, exists, sequence_options, set_sequence};
use crate::failure::{Context as _, Result};
use crate::history::{Known, table_name};
use crate::model::{TableName, quote_identifier, quote_literal};

use super::super::workspace::Workspace;

/// Makes a schema that is gone, with the types, functions and sequences that were in it.
pub(in super::super) async fn make_schema(
    workspace: &Workspace<'_>,
    known: &Known,
    schema: &str,
    recreation: &mut Recreation,
) -> Result<()> {
    let quoted = quote_identifier(schema);
    let rows = workspace.query("SELECT to_regnamespace($1) IS NOT NULL", &[&quoted]).await?;
    if rows.first().is_some_and(|row| row.get(0)) {
        return Ok(());
    }
    workspace.execute(&format!("CREATE SCHEMA {quoted}")).await?;
    workspace.execute("SET LOCAL check_function_bodies = off").await?;
    for (name, _) in known.objects_in("type", schema) {
        make_type(workspace, known, name).await?;
    }
    for (name, definition) in known.objects_in("function", schema) {
        if let Some(statement) = definition.as_str() {
            workspace.execute(statement).await.context(name)?;
        }
    }
    for (_, definition) in known.objects_in("sequence", schema) {
        if definition["sequence"]["owned_by"].is_null() {
            let name = table_name(definition);
            make_sequence(workspace, known, &name).await?;
        }
    }
    let name = TableName::new(schema, "");
    if let Some(definition) = known.object("schema", &shown(schema)) {
        if let Some(comment) = definition["comment"].as_str() {
            recreation.may.push((name.clone(), format!("COMMENT ON SCHEMA {quoted} IS {}", quote_literal(comment))));
        }
        let owner = definition["owner"].as_str().unwrap_or_default();
        for item in schema_grants(&quoted, &definition["acl"], owner) {
            recreation.may.push((name.clone(), item));
        }
        recreation.may.push((name, format!("ALTER SCHEMA {quoted} OWNER TO {}", quote_identifier(owner))));
    }
    Ok(())
}

/// A name as PostgreSQL writes it.
fn shown(schema: &str) -> String {
    let table = TableName::new(schema, "x").to_string();
    table.strip_suffix(".x").unwrap_or(&table).to_owned()
}

/// USAGE and CREATE, by an access list's letters.
fn schema_grants(schema: &str, list: &Json, owner: &str) -> Vec<String> {
    let items = list.as_array().into_iter().flatten().filter_map(Json::as_str);
    let grant = |item: &str| {
        let (grantee, rest) = item.rsplit_once('=')?;
        let letters = rest.split('/').next().unwrap_or_default();
        let named = [('U', "USAGE"), ('C', "CREATE")].into_iter().filter(|(letter, _)| letters.contains(*letter));
        let privileges: Vec<&str> = named.map(|(_, privilege)| privilege).collect();
        let wanted = grantee != owner && !privileges.is_empty();
        let to = super::grants::role(grantee.trim_matches('"'));
        wanted.then(|| format!("GRANT {} ON SCHEMA {schema} TO {to}", privileges.join(", ")))
    };
    items.filter_map(grant).collect()
}

/// The types that columns of these types need and that the archive knows, each with the statement that makes it, after
/// those that it is made of.
pub(in super::super) fn types(known: &Known, wanted: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in wanted {
        add_type(known, name, &mut found);
    }
    found
}

fn add_type(known: &Known, name: &str, found: &mut Vec<(String, String)>) {
    let name = name.split('(').next().unwrap_or(name).trim_end_matches("[]").trim();
    let Some(definition) = known.object("type", name) else { return };
    if found.iter().any(|(known, _)| known == name) {
        return;
    }
    let parts = definition["attributes"].as_array().into_iter().flatten().filter_map(|part| part["type"].as_str());
    for part in parts.chain(definition["base"].as_str()).chain(definition["subtype"].as_str()) {
        add_type(known, part, found);
    }
    found.push((name.to_owned(), type_sql(name, definition)));
}

/// Makes a type that is gone, where the archive knows it; what it is made of comes first.
pub(super) async fn make_type(workspace: &Workspace<'_>, known: &Known, name: &str) -> Result<()> {
    for (name, statement) in types(known, &[name]) {
        let rows = workspace.query("SELECT to_regtype($1) IS NOT NULL", &[&name]).await?;
        if rows.first().is_some_and(|row| row.get(0)) {
            continue;
        }
        workspace.execute(&statement).await.context(&name)?;
        let comment = known.object("type", &name).and_then(|definition| definition["comment"].as_str());
        if let Some(comment) = comment {
            workspace.execute(&format!("COMMENT ON TYPE {name} IS {}", quote_literal(comment))).await?;
        }
    }
    Ok(())
}

fn type_sql(name: &str, definition: &Json) -> String {
    let list = |key: &str| definition[key].as_array().cloned().unwrap_or_default();
    match definition["kind"].as_str() {
        Some("d") => {
            let default = definition["default"].as_str().map_or(String::new(), |default| format!(" DEFAULT {default}"));
            let not_null = if definition["not_null"] == true { " NOT NULL" } else { "" };
            let constraints: Vec<String> = list("constraints")
                .iter()
                .filter(|constraint| constraint["definition"].as_str().is_some_and(|text| text.starts_with("CHECK")))
                .map(|constraint| {
                    let name = quote_identifier(constraint["name"].as_str().unwrap_or_default());
                    format!(" CONSTRAINT {name} {}", constraint["definition"].as_str().unwrap_or_default())
                })
                .collect();
            let base = definition["base"].as_str().unwrap_or_default();
            format!("CREATE DOMAIN {name} AS {base}{default}{not_null}{}", constraints.concat())
        }
        Some("c") => {
            let attributes: Vec<String> = list("attributes")
                .iter()
                .map(|attribute| {
                    let name = quote_identifier(attribute["name"].as_str().unwrap_or_default());
                    format!("{name} {}", attribute["type"].as_str().unwrap_or_default())
                })
                .collect();
            format!("CREATE TYPE {name} AS ({})", attributes.join(", "))
        }
        Some("r") => {
            format!("CREATE TYPE {name} AS RANGE (SUBTYPE = {})", definition["subtype"].as_str().unwrap_or_default())
        }
        _ => {
            let labels = list("labels");
            let labels: Vec<String> = labels.iter().filter_map(Json::as_str).map(quote_literal).collect();
            format!("CREATE TYPE {name} AS ENUM ({})", labels.join(", "))
        }
    }
}

/// Makes the sequences that a table's defaults draw from, and gives the statements that tie them to their columns.
pub(super) async fn make_sequences(
    workspace: &Workspace<'_>,
    known: &Known,
    recipe: &Recipe<'_>,
) -> Result<Vec<String>> {
    let mut owned = Vec::new();
    for column in recipe.columns() {
        let Some(name) = column["sequence"].as_str().and_then(TableName::parse) else { continue };
        let sample = known.sample(&name).map(|sample| set_sequence(&name, sample));
        if column["identity"].is_string() {
            owned.extend(sample);
            continue;
        }
        if !exists(workspace, &name).await? {
            make_sequence(workspace, known, &name).await?;
        }
    }
    owned.extend(recipe.own_sequences());
    Ok(owned)
}

async fn make_sequence(workspace: &Workspace<'_>, known: &Known, name: &TableName) -> Result<()> {
    if exists(workspace, name).await? {
        return Ok(());
    }
    let options = sequence_options(known.object("sequence", &name.to_string()));
    workspace.execute(&format!("CREATE SEQUENCE {}{options}", name.to_sql())).await?;
    if let Some(sample) = known.sample(name) {
        workspace.execute(&set_sequence(name, sample)).await?;
    }
    Ok(())
}

/// The views of a schema, to be made after the tables, where they are gone.
pub(super) fn leave_views(known: &Known, schema: &str, recreation: &mut Recreation) {
    for (kind, word) in [("view", "VIEW"), ("materialized view", "MATERIALIZED VIEW")] {
        for (_, definition) in known.objects_in(kind, schema) {
            let name = table_name(definition);
            if let Some(query) = definition["view"].as_str() {
                let statement = format!("CREATE {word} {} AS {}", name.to_sql(), query.trim_end_matches(';'));
                recreation.views.push((name, statement));
            }
        }
    }
}
