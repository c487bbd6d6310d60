//! Tables that are gone, made again from their archived definitions.
//!
//! Schema, types, sequences, columns, keys, indexes and their own foreign keys come before the rows, so that these are judged
//! like any others. What must wait until the rows are there, and what others may have to do for want of a privilege, comes
//! after: foreign keys of other tables, triggers, policies, grants, comments, owners.

mod grants;
pub(super) mod objects;
pub(super) mod table;

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::plan::Note;
use super::workspace::Workspace;
use crate::archive::Archive;
use crate::failure::{Context as _, Failure, Result};
use crate::history::{Known, table_name};
use crate::model::{Lsn, RelationVersion, TableName, quote_identifier, quote_literal};
use table::Recipe;

/// What is left to do once the rows are there.
#[derive(Debug, Default)]
pub(super) struct Recreation {
    /// The tables that were made.
    pub(super) tables: Vec<TableName>,
    /// Statements that must succeed.
    must: Vec<String>,
    /// Statements that may fail, each with the table that it is about: what then is missing is said.
    may: Vec<(TableName, String)>,
    /// Views that were in the schemas, and may still be.
    views: Vec<(TableName, String)>,
}

/// Makes those of the relations that do not exist any more.
pub(super) async fn make(
    workspace: &Workspace<'_>,
    archive: &Archive,
    cut: Lsn,
    gone: &[RelationVersion],
) -> Result<Recreation> {
    let mut recreation = Recreation::default();
    if gone.is_empty() {
        return Ok(recreation);
    }
    let known = Known::before(archive, cut).await?;
    let mut made: BTreeSet<u32> = BTreeSet::new();
    let mut schemas = BTreeSet::new();
    for relation in gone {
        if schemas.insert(relation.name.schema.clone()) {
            objects::make_schema(workspace, &known, &relation.name.schema, &mut recreation).await?;
        }
    }
    for relation in gone {
        make_table(workspace, &known, relation.oid, &mut made, &mut recreation).await.context(&relation.name)?;
    }
    for oid in &made {
        make_foreign_keys(workspace, &known, *oid, &made, &mut recreation).await?;
    }
    for schema in &schemas {
        objects::leave_views(&known, schema, &mut recreation);
    }
    Ok(recreation)
}

async fn make_table(
    workspace: &Workspace<'_>,
    known: &Known,
    oid: u32,
    made: &mut BTreeSet<u32>,
    recreation: &mut Recreation,
) -> Result<()> {
    let definition = known.tables.get(&oid).ok_or_else(|| {
        Failure::refused("the table does not exist any more, and the archive has no definition of it")
            .remedy("create it again, empty, with the columns that it had; then restore its rows")
    })?;
    let recipe = Recipe::new(definition);
    let parent = match definition["parent"].as_u64().and_then(|parent| u32::try_from(parent).ok()) {
        Some(parent) => Some(Box::pin(make_parent(workspace, known, parent, made, recreation)).await?),
        None => None,
    };
    for column in recipe.columns() {
        objects::make_type(workspace, known, column["type"].as_str().unwrap_or_default()).await?;
    }
    let owned = objects::make_sequences(workspace, known, &recipe).await?;
    workspace.execute(&recipe.create(parent.as_ref())).await?;
    made.insert(oid);
    for statement in recipe.keys_and_indexes().into_iter().chain(recipe.identity()).chain(owned) {
        workspace.execute(&statement).await?;
    }
    let may = |statement: String| (recipe.name.clone(), statement);
    let late = recipe.triggers_and_rules().into_iter().chain(recipe.comments()).chain(recipe.access());
    recreation.may.extend(late.chain([recipe.owner()]).map(may));
    recreation.tables.push(recipe.name);
    Ok(())
}

async fn make_parent(
    workspace: &Workspace<'_>,
    known: &Known,
    oid: u32,
    made: &mut BTreeSet<u32>,
    recreation: &mut Recreation,
) -> Result<TableName> {
    let definition = known.tables.get(&oid);
    let name = definition
        .map(table_name)
        .ok_or_else(|| Failure::refused("the archive does not know whose partition it is"))?;
    if !exists(workspace, &name).await? {
        make_table(workspace, known, oid, made, recreation).await.context(&name)?;
    }
    Ok(name)
}

/// Its own foreign keys, and after the rows those of others that were lost with it.
async fn make_foreign_keys(
    workspace: &Workspace<'_>,
    known: &Known,
    oid: u32,
    made: &BTreeSet<u32>,
    recreation: &mut Recreation,
) -> Result<()> {
    let Some(definition) = known.tables.get(&oid) else { return Ok(()) };
    let recipe = Recipe::new(definition);
    let is_partition = definition["partition_bound"].is_string();
    for (statement, parent) in recipe.foreign_keys() {
        let there = match TableName::parse(&parent) {
            Some(parent) => exists(workspace, &parent).await?,
            None => true,
        };
        match there {
            true => drop(workspace.execute(&statement).await?),
            false => recreation.may.push((recipe.name.clone(), statement)),
        }
    }
    for (table, name, constraint) in known.referring_to(oid, &recipe.name) {
        let is_made = known.tables.iter().any(|(oid, known)| made.contains(oid) && table_name(known) == table);
        if is_made
            || is_partition
            || !exists(workspace, &table).await?
            || has_constraint(workspace, &table, &name).await?
        {
            continue;
        }
        let name = quote_identifier(&name);
        recreation.must.push(format!("ALTER TABLE {} ADD CONSTRAINT {name} {constraint}", table.to_sql()));
    }
    Ok(())
}

async fn exists(workspace: &Workspace<'_>, name: &TableName) -> Result<bool> {
    let rows = workspace.query("SELECT to_regclass($1) IS NOT NULL", &[&name.to_sql()]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

async fn has_constraint(workspace: &Workspace<'_>, table: &TableName, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2)";
    let rows = workspace.query(sql, &[&table.to_sql(), &name]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

impl Recreation {
    /// Does what had to wait for the rows.
    ///
    /// # Errors
    /// What must be and cannot: rows of other tables that refer to none of these.
    pub(super) async fn complete(&self, workspace: &Workspace<'_>) -> Result<Vec<Note>> {
        for statement in &self.must {
            workspace.execute(statement).await?;
        }
        let mut notes = Vec::new();
        let mut views = Vec::new();
        for view in &self.views {
            if !exists(workspace, &view.0).await? {
                views.push(view.clone());
            }
        }
        for (table, statement) in views.iter().chain(&self.may) {
            workspace.execute("SAVEPOINT afterimage_may").await?;
            match workspace.execute(statement).await {
                Err(failure) if failure.is_transient() => return Err(failure),
                Err(failure) => {
                    workspace.execute("ROLLBACK TO SAVEPOINT afterimage_may").await?;
                    notes.push(Note::skipped(table, format!("{statement}: {}", failure.cause())));
                }
                Ok(_) => drop(workspace.execute("RELEASE SAVEPOINT afterimage_may").await?),
            }
        }
        Ok(notes)
    }
}

/// A sequence's parameters as `CREATE SEQUENCE` takes them.
pub(super) fn sequence_options(definition: Option<&Json>) -> String {
    let Some(sequence) = definition.map(|definition| &definition["sequence"]) else { return String::new() };
    let number = |name: &str| sequence[name].as_i64();
    let mut options = String::new();
    if let Some(kind) = sequence["seqtypid"].as_str() {
        options.push_str(&format!(" AS {kind}"));
    }
    let words = [
        ("INCREMENT BY", "seqincrement"),
        ("MINVALUE", "seqmin"),
        ("MAXVALUE", "seqmax"),
        ("START WITH", "seqstart"),
        ("CACHE", "seqcache"),
    ];
    for (word, name) in words {
        if let Some(number) = number(name) {
            options.push_str(&format!(" {word} {number}"));
        }
    }
    if sequence["seqcycle"] == true {
        options.push_str(" CYCLE");
    }
    options
}

fn set_sequence(name: &TableName, (value, called): (i64, bool)) -> String {
    format!("SELECT setval({}::regclass, {value}, {called})", quote_literal(&name.to_sql()))
}
