//! Tables as they were, somewhere else: in a schema beside the live ones, in another database, or as SQL that psql runs.
//!
//! Nothing that lives is touched. Columns, defaults, keys, indexes, comments and the foreign keys between the copied tables
//! come along; triggers, policies, grants and owners belong to the place where the tables live, and do not.

mod sink;

use std::collections::BTreeSet;
use std::io::Write;

use serde::Serialize;
use serde_json::Value as Json;

use super::recreation::objects;
use super::recreation::table::Recipe;
use crate::archive::Archive;
use crate::failure::{Context as _, Failure, Result};
use crate::history::{Cut, Known, TableAt, table_name};
use crate::model::{Partitions, TableName, TablePattern, quote_identifier};
use crate::postgres::Source;
use sink::Sink;

/// What is copied.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    pub tables: Vec<TablePattern>,
    pub to: Cut,
    /// An SQL condition over a row as it was.
    pub filter: Option<String>,
}

/// Where it is copied to.
pub enum Elsewhere<'a> {
    /// A schema of the source, made where it is not there.
    Schema(&'a Source, String),
    /// Another database, made where it is not there.
    Database(&'a Source),
    /// A script.
    Script(&'a mut (dyn Write + Send)),
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    pub name: TableName,
    /// Before a condition was applied, where the rows went into a script.
    pub rows: u64,
}

/// Copies tables as they were at a point, in one transaction.
///
/// # Errors
/// Usage where a pattern names nothing; refused where a table's definition is not known; failed where a table of the name is
/// there already, or something that a table stands on is not.
pub async fn copy(archive: &Archive, request: &CopyRequest, to: Elsewhere<'_>) -> Result<Vec<Copied>> {
    let known = Known::before(archive, request.to.lsn).await?;
    let tables = select(archive, request).await?;
    let schema = match &to {
        Elsewhere::Schema(_, schema) => Some(schema.clone()),
        _ => None,
    };
    let mut sink = match to {
        Elsewhere::Schema(source, _) => Sink::connect(source).await?,
        Elsewhere::Database(target) => {
            sink::require_database(target).await?;
            Sink::connect(target).await?
        }
        Elsewhere::Script(out) => Sink::script(out)?,
    };
    let mut recipes = Vec::new();
    for table in &tables {
        let name = &table.relation().name;
        let definition = known.tables.get(&table.relation().oid);
        let definition = definition.ok_or_else(|| {
            Failure::refused(format!("the archive has no definition of {name}"))
                .remedy("export has its rows: afterimage export TABLE --at POINT")
        })?;
        recipes.push(match &schema {
            Some(schema) => Recipe::within(definition, schema),
            None => Recipe::new(definition),
        });
    }
    let beside = schema.is_some();
    prepare(&mut sink, &known, &recipes, beside).await?;
    let mut copied = Vec::new();
    for (table, recipe) in tables.into_iter().zip(&recipes) {
        let name = recipe.name.clone();
        let rows = fill(&mut sink, table, recipe, request.filter.as_deref()).await.context(&name)?;
        copied.push(Copied { name, rows });
    }
    finish(&mut sink, &known, &recipes, beside).await?;
    sink.commit().await?;
    Ok(copied)
}

async fn select(archive: &Archive, request: &CopyRequest) -> Result<Vec<TableAt>> {
    let known = archive.tables_before(request.to.lsn).await?;
    let partitions = Partitions::of(known.values());
    let mut names: BTreeSet<&TableName> = BTreeSet::new();
    for pattern in &request.tables {
        let before = names.len();
        let found = known.iter().filter(|(name, relation)| !relation.partitioned && partitions.answers(name, pattern));
        names.extend(found.map(|(name, _)| name));
        if names.len() == before {
            return Err(Failure::usage(format!("the archive had no table that matches {pattern} then"))
                .remedy("afterimage status lists its tables"));
        }
    }
    let mut tables = Vec::new();
    for name in names {
        tables.extend(TableAt::find(archive, name, request.to.lsn).await.context(name)?);
    }
    Ok(tables)
}

/// Makes what the rows go into.
async fn prepare(sink: &mut Sink<'_>, known: &Known, recipes: &[Recipe<'_>], beside: bool) -> Result<()> {
    let schemas: BTreeSet<&str> = recipes.iter().map(|recipe| recipe.name.schema.as_str()).collect();
    for schema in schemas {
        sink.execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", quote_identifier(schema))).await?;
    }
    if !beside {
        let columns = recipes.iter().flat_map(|recipe| recipe.columns());
        let types: Vec<&str> = columns.filter_map(|column| column["type"].as_str()).collect();
        for (name, statement) in objects::types(known, &types) {
            sink.execute_unless_type_exists(&name, &statement).await?;
        }
        for sequence in recipes.iter().flat_map(Recipe::sequences) {
            let options = super::recreation::sequence_options(known.object("sequence", &sequence.to_string()));
            sink.execute(&format!("CREATE SEQUENCE IF NOT EXISTS {}{options}", sequence.to_sql())).await?;
        }
    }
    for recipe in recipes {
        sink.execute(&recipe.create(None)).await.context(&recipe.name)?;
    }
    Ok(())
}

async fn fill(sink: &mut Sink<'_>, table: TableAt, recipe: &Recipe<'_>, filter: Option<&str>) -> Result<u64> {
    let computed = |name: &str| {
        let column = recipe.columns().find(|column| column["name"] == name);
        column.is_some_and(|column| !column["generated"].is_null())
    };
    let columns = table.relation().columns.iter().enumerate();
    let columns: Vec<(usize, String)> = columns
        .filter(|(_, column)| !computed(&column.name))
        .map(|(at, column)| (at, quote_identifier(&column.name)))
        .collect();
    let rows = sink.copy(&recipe.name, &columns, table).await?;
    let Some(filter) = filter else { return Ok(rows) };
    let (name, alias) = (recipe.name.to_sql(), quote_identifier(&recipe.name.table));
    let left = sink.execute(&format!("DELETE FROM {name} AS {alias} WHERE (\n{filter}\n) IS NOT TRUE")).await;
    Ok(rows - left.context("--where")?)
}

/// Keys, indexes, foreign keys between the tables, sequences and comments, faster to make once the rows are there.
async fn finish(sink: &mut Sink<'_>, known: &Known, recipes: &[Recipe<'_>], beside: bool) -> Result<()> {
    for recipe in recipes {
        for statement in recipe.keys_and_indexes().into_iter().chain(recipe.identity()) {
            sink.execute(&statement).await.context(&recipe.name)?;
        }
    }
    let copied: BTreeSet<TableName> = recipes.iter().map(|recipe| definition_name(recipe.definition)).collect();
    for recipe in recipes.iter().filter(|_| !beside) {
        for (statement, parent) in recipe.foreign_keys() {
            if TableName::parse(&parent).is_some_and(|parent| copied.contains(&parent)) {
                sink.execute(&statement).await.context(&recipe.name)?;
            }
        }
        for statement in recipe.own_sequences().into_iter().chain(recipe.sequences_moved(known)) {
            sink.execute(&statement).await.context(&recipe.name)?;
        }
    }
    for statement in recipes.iter().flat_map(Recipe::comments) {
        sink.execute(&statement).await?;
    }
    Ok(())
}

fn definition_name(definition: &Json) -> TableName {
    table_name(definition)
}
