//! Where copied tables go: a session, or a script.

use std::io::Write;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::channel::mpsc;

use super::super::staging::{Hashed, read_rows};
use crate::failure::{Context as _, Failure, Result};
use crate::history::TableAt;
use crate::model::{TableName, quote_identifier};
use crate::postgres::{Session, Source, copy_in};

/// See the module's documentation.
pub(super) enum Sink<'a> {
    Session(Box<Session>),
    Script(&'a mut (dyn Write + Send)),
}

/// The settings under which a script's texts mean what they meant.
const SETTINGS: &str = "SET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\nSET TimeZone = 'UTC';\n\
    SET DateStyle = 'ISO, MDY';\nSET IntervalStyle = 'postgres';\nSET lc_monetary = 'C';\nSET xmloption = 'content';\n\
    SET search_path = '';\nBEGIN;\n";

fn unwritable(error: std::io::Error) -> Failure {
    Failure::failed(format!("writing the script: {error}")).remedy("check that the output's disk is not full")
}

impl<'a> Sink<'a> {
    pub(super) async fn connect(source: &Source) -> Result<Sink<'a>> {
        let session = source.connect("afterimage restore").await?;
        session.batch_execute("BEGIN").await?;
        Ok(Sink::Session(Box::new(session)))
    }

    pub(super) fn script(out: &'a mut (dyn Write + Send)) -> Result<Sink<'a>> {
        out.write_all(SETTINGS.as_bytes()).map_err(unwritable)?;
        Ok(Sink::Script(out))
    }

    /// Runs a statement and says how many rows it changed; a script's statements change none yet.
    pub(super) async fn execute(&mut self, sql: &str) -> Result<u64> {
        match self {
            Sink::Session(session) => Ok(session.execute(sql, &[]).await?),
            Sink::Script(out) => {
                out.write_all(format!("{sql};\n").as_bytes()).map_err(unwritable)?;
                Ok(0)
            }
        }
    }

    /// Makes a type that is not there yet.
    pub(super) async fn execute_unless_type_exists(&mut self, name: &str, sql: &str) -> Result<()> {
        if let Sink::Session(session) = self {
            let row = session.query_one("SELECT to_regtype($1) IS NOT NULL", &[&name]).await?;
            if row.get(0) {
                return Ok(());
            }
        }
        self.execute(sql).await.context(name)?;
        Ok(())
    }

    /// Copies all rows of a table; `columns` are positions in its rows, with their names as SQL writes them.
    pub(super) async fn copy(&mut self, name: &TableName, columns: &[(usize, String)], table: TableAt) -> Result<u64> {
        let names: Vec<&str> = columns.iter().map(|(_, name)| name.as_str()).collect();
        let positions: Vec<Option<usize>> = columns.iter().map(|(at, _)| Some(*at)).collect();
        let statement = match names.is_empty() {
            true => format!("COPY {} FROM stdin", name.to_sql()),
            false => format!("COPY {} ({}) FROM stdin", name.to_sql(), names.join(", ")),
        };
        let (sender, mut chunks) = mpsc::channel(4);
        let runtime = tokio::runtime::Handle::current();
        let table = Arc::new(table);
        let reading = tokio::task::spawn_blocking(move || {
            runtime.block_on(read_rows(&table, None, (&positions, Hashed::No), sender))
        });
        let joined = |error: tokio::task::JoinError| Failure::failed(format!("reading the archive stopped: {error}"));
        match self {
            Sink::Session(session) => {
                let mut copy = copy_in(session, &statement).await?;
                while let Some((chunk, _)) = chunks.next().await {
                    copy.hand_on(chunk).await?;
                }
                reading.await.map_err(joined)??;
                copy.finish().await
            }
            Sink::Script(out) => {
                out.write_all(format!("{statement};\n").as_bytes()).map_err(unwritable)?;
                while let Some((chunk, _)) = chunks.next().await {
                    out.write_all(&chunk).map_err(unwritable)?;
                }
                out.write_all(b"\\.\n").map_err(unwritable)?;
                reading.await.map_err(joined)?
            }
        }
    }

    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Sink::Session(session) => Ok(session.batch_execute("COMMIT").await?),
            Sink::Script(out) => {
                out.write_all(b"COMMIT;\n").map_err(unwritable)?;
                out.flush().map_err(unwritable)
            }
        }
    }
}

/// Makes a database that is not there, by way of the one that every server has.
pub(super) async fn require_database(target: &Source) -> Result<()> {
    let Ok(session) = target.with_database("postgres").connect("afterimage restore").await else { return Ok(()) };
    let name = target.database();
    let there = session.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name]).await?;
    if there.is_none() {
        let sql = format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", quote_identifier(name));
        session.batch_execute(&sql).await.context("making the target database")?;
    }
    Ok(())
}
