//! What a database's definitions are, name by name, and how they differ from those of a dump.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::archive::blocking;
use crate::failure::{Context as _, Failure, Result};
use crate::postgres::{Session, Source};
use crate::scratch::{Installation, Launch};

/// A definition that is missing, or another, or too much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// `table`, `column`, `enum`, `index`, `constraint`, `view`, `function`.
    pub kind: String,
    pub name: String,
    /// What it should be; `None` where nothing was expected.
    pub expected: Option<String>,
    /// What it is; `None` where it is missing.
    pub found: Option<String>,
}

/// Objects that the archiver itself made are in its own schema.
const INVENTORY: &str = "
WITH schemas AS (SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT IN ('information_schema', 'afterimage') AND nspname NOT LIKE 'pg\\_%'),
relations AS (SELECT c.oid, c.relkind, s.nspname || '.' || c.relname AS name FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace)
SELECT 'table', name, CASE relkind WHEN 'p' THEN 'partitioned' ELSE 'table' END FROM relations WHERE relkind IN ('r', 'p')
UNION ALL SELECT 'view', r.name, pg_get_viewdef(r.oid) FROM relations r WHERE relkind IN ('v', 'm')
UNION ALL SELECT 'column', r.name || '.' || a.attname, format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || COALESCE(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum WHERE r.relkind IN ('r', 'p')
UNION ALL SELECT 'index', r.name, pg_get_indexdef(r.oid) FROM relations r JOIN pg_index i ON i.indexrelid = r.oid
UNION ALL SELECT 'constraint', r.name || '.' || c.conname, pg_get_constraintdef(c.oid)
    FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid WHERE c.contype <> 'n'
UNION ALL SELECT 'enum', s.nspname || '.' || t.typname, string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
    FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace JOIN pg_enum e ON e.enumtypid = t.oid GROUP BY 1, 2
UNION ALL SELECT 'function', s.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', md5(p.prosrc)
    FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace";

pub(super) type Inventory = BTreeMap<(String, String), String>;

pub(super) async fn inventory(session: &Session) -> Result<Inventory> {
    let rows = session.query(INVENTORY, &[]).await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Compares the source's definitions with those that a dump makes, in a throw-away PostgreSQL or in an empty database.
///
/// # Errors
/// Where the dump cannot be loaded, or no PostgreSQL is installed to load it into.
pub async fn drift(source: &Source, dump: &str, scratch: Option<&str>) -> Result<Vec<Drift>> {
    let expected = match scratch {
        Some(url) => loaded(&Source::resolve(Some(url))?, dump).await?,
        None => {
            let server = blocking(|| Launch::new(Installation::find(None)?).without_tcp().start()).await?;
            loaded(&Source::resolve(Some(&server.url("postgres")))?, dump).await?
        }
    };
    let session = source.without_waiting().connect("afterimage gate").await?;
    Ok(difference(&expected, &inventory(&session).await?))
}

async fn loaded(scratch: &Source, dump: &str) -> Result<Inventory> {
    let session = scratch.connect("afterimage gate").await?;
    if !inventory(&session).await?.is_empty() {
        return Err(Failure::refused("the scratch database is not empty").remedy("name an empty one with --scratch"));
    }
    // psql's own commands, such as newer pg_dump's \restrict, mean nothing to the server.
    let sql: Vec<&str> = dump.lines().filter(|line| !line.starts_with('\\')).collect();
    session.batch_execute("SET search_path = \"$user\", public; SET check_function_bodies = off").await?;
    session.batch_execute(&sql.join("\n")).await.context("loading the expected definitions")?;
    session.batch_execute("SET search_path = ''").await?;
    inventory(&session).await
}

pub(super) fn difference(expected: &Inventory, found: &Inventory) -> Vec<Drift> {
    let keys = expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key)));
    let drift = |key: &(String, String)| {
        let (expected, found) = (expected.get(key), found.get(key));
        (expected != found).then(|| Drift {
            kind: key.0.clone(),
            name: key.1.clone(),
            expected: expected.cloned(),
            found: found.cloned(),
        })
    };
    keys.filter_map(drift).collect()
}
