//! A migration, run in a copy of the source before it ever runs in the source: what would it delete, update and reject?
//!
//! The copy is made from the archive, so the source is not asked for anything: its tables with all their rows, types, keys,
//! constraints and indexes. Functions, views, triggers and policies are not in it. What the migration left is compared with
//! what was there, row by row under the primary keys.

use std::time::Instant;

use serde::Serialize;

use crate::archive::{Archive, blocking};
use crate::failure::Result;
use crate::history::Cut;
use crate::model::{TableName, TablePattern, quote_identifier};
use crate::postgres::{Session, Source};
use crate::restore::{self, CopyRequest, Elsewhere};
use crate::scratch::{Installation, Launch};

/// What a migration did to one table of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigratedTable {
    pub table: TableName,
    /// Rows that it had before.
    pub rows: u64,
    pub inserted: u64,
    /// In the columns that it has before and afterwards.
    pub updated: u64,
    pub deleted: u64,
    /// It is gone, or has another name.
    pub dropped: bool,
}

/// What a migration would do.
#[derive(Debug, Clone, Serialize)]
pub struct Migration {
    /// Why PostgreSQL rejected it.
    pub rejected: Option<String>,
    /// The tables that it changed rows of.
    pub tables: Vec<MigratedTable>,
    /// Tables and rows of the copy.
    pub copied: (usize, u64),
    pub seconds: f64,
}

impl Migration {
    /// Whether rows would be gone afterwards, or it would not run at all.
    pub fn does_harm(&self) -> bool {
        self.rejected.is_some() || self.tables.iter().any(|table| table.dropped || table.deleted > 0)
    }
}

/// Runs a migration in a copy of the archive's tables as of a cut: on a throw-away PostgreSQL, or in an empty database.
///
/// # Errors
/// Where the copy cannot be made. That the migration fails is an outcome.
pub async fn try_migration(archive: &Archive, now: Cut, sql: &str, scratch: Option<&str>) -> Result<Migration> {
    match scratch {
        Some(url) => try_in(archive, now, sql, &Source::resolve(Some(url))?).await,
        None => {
            let server = blocking(|| Launch::new(Installation::find(None)?).without_tcp().start()).await?;
            try_in(archive, now, sql, &Source::resolve(Some(&server.url("postgres")))?).await
        }
    }
}

/// Where the rows of before are kept.
const BEFORE: &str = "afterimage_before";

async fn try_in(archive: &Archive, now: Cut, sql: &str, scratch: &Source) -> Result<Migration> {
    let started = Instant::now();
    let request = CopyRequest { tables: vec![TablePattern::parse("*.*")?], to: now, filter: None };
    let copied = Box::pin(restore::copy(archive, &request, Elsewhere::Database(scratch))).await?;
    let session = scratch.connect("afterimage check").await?;
    session.batch_execute(&format!("CREATE SCHEMA {BEFORE}")).await?;
    let mut tables = Vec::new();
    for (at, table) in copied.iter().enumerate() {
        let keep = format!("CREATE TABLE {BEFORE}.t{at} AS TABLE {}", table.name.to_sql());
        session.batch_execute(&keep).await?;
        tables.push((table.name.clone(), format!("{BEFORE}.t{at}"), key(&session, &table.name).await?));
    }
    let rejected = run(scratch, sql).await?;
    let mut changed = Vec::new();
    for (name, before, key) in &tables {
        let table = compare(&session, name, before, key).await?;
        if table.dropped || table.inserted + table.updated + table.deleted > 0 {
            changed.push(table);
        }
    }
    let rows = copied.iter().map(|table| table.rows).sum();
    Ok(Migration { rejected, tables: changed, copied: (copied.len(), rows), seconds: started.elapsed().as_secs_f64() })
}

/// Runs the migration as psql would; its error is an answer.
async fn run(scratch: &Source, sql: &str) -> Result<Option<String>> {
    let session = scratch.connect("afterimage check").await?;
    session.batch_execute("SET search_path = \"$user\", public").await?;
    // psql's own commands mean nothing to the server.
    let sql: Vec<&str> = sql.lines().filter(|line| !line.starts_with('\\')).collect();
    match session.batch_execute(&sql.join("\n")).await {
        Ok(()) => Ok(None),
        Err(error) => match error.as_db_error() {
            Some(said) => {
                let detail = said.detail().map_or(String::new(), |detail| format!(" ({detail})"));
                Ok(Some(format!("{}{detail}", said.message())))
            }
            None => Err(error.into()),
        },
    }
}

const KEY: &str = "SELECT a.attname::text FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
    WHERE i.indrelid = to_regclass($1::text) AND i.indisprimary ORDER BY 1";

async fn key(session: &Session, name: &TableName) -> Result<Vec<String>> {
    let rows = session.query(KEY, &[&name.to_sql()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const COMMON: &str = "SELECT a.attname::text FROM pg_attribute a JOIN pg_attribute b ON b.attname = a.attname
    WHERE a.attrelid = to_regclass($1::text) AND b.attrelid = to_regclass($2::text)
      AND a.attnum > 0 AND b.attnum > 0 AND NOT a.attisdropped AND NOT b.attisdropped ORDER BY a.attnum";

async fn compare(session: &Session, name: &TableName, before: &str, key: &[String]) -> Result<MigratedTable> {
    let count = async |sql: String| -> Result<u64> {
        let row = session.query_one(&sql, &[]).await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    };
    let rows = count(format!("SELECT count(*) FROM {before}")).await?;
    let now = name.to_sql();
    let is_there: bool = session.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&now]).await?.get(0);
    let table = name.clone();
    if !is_there {
        return Ok(MigratedTable { table, rows, inserted: 0, updated: 0, deleted: rows, dropped: true });
    }
    let common: Vec<String> = session.query(COMMON, &[&before, &now]).await?.iter().map(|row| row.get(0)).collect();
    let list = |alias: &str, columns: &[String]| {
        let texts = columns.iter().map(|column| format!("{alias}.{}::text", quote_identifier(column)));
        format!("ROW({})", texts.collect::<Vec<_>>().join(", "))
    };
    if key.is_empty() || !key.iter().all(|column| common.contains(column)) {
        // Without a key an updated row is another row.
        let other = async |these: &str, those: &str| {
            let rows = |alias: &str, from: &str| format!("SELECT {} FROM {from} AS {alias}", list(alias, &common));
            count(format!("SELECT count(*) FROM ({} EXCEPT ALL {}) AS other", rows("a", these), rows("b", those))).await
        };
        let (deleted, inserted) = (other(before, &now).await?, other(&now, before).await?);
        return Ok(MigratedTable { table, rows, inserted, updated: 0, deleted, dropped: false });
    }
    let same = format!("{} = {}", list("a", key), list("b", key));
    let alone = async |these: &str, those: &str| {
        count(format!("SELECT count(*) FROM {these} AS a WHERE NOT EXISTS (SELECT FROM {those} AS b WHERE {same})"))
            .await
    };
    let changed = format!("{} IS DISTINCT FROM {}", list("a", &common), list("b", &common));
    Ok(MigratedTable {
        table,
        rows,
        inserted: alone(&now, before).await?,
        updated: count(format!("SELECT count(*) FROM {before} AS a JOIN {now} AS b ON {same} WHERE {changed}")).await?,
        deleted: alone(before, &now).await?,
        dropped: false,
    })
}
