//! What should stand in a table: which keys are concerned, and the rows under them at the point.
//!
//! Both go into temporary tables with the live columns' own types, so that PostgreSQL reads the values as it
//! read them once, domains included, and joins by the key's own index.

use std::sync::Arc;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};

use super::catalog::{self, LiveTable};
use super::workspace::Workspace;
use crate::columnar::RowText;
use crate::copy_format::write_text_row;
use crate::failure::{Context as _, Failure, Result};
use crate::history::{KeySet, TableAt, touched_keys};
use crate::model::{Identity, TableName, quote_identifier};
use crate::postgres::copy_in;

/// How rows of the point and live rows find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Matching {
    /// By a unique key: positions among the shared columns, each with its equality.
    Key(Vec<(usize, String)>),
    /// By their whole text; of several equal rows each stands for one.
    WholeRow,
}

/// A column that the table had at the point and has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) name: String,
    /// Its position in the rows of the archive.
    position: usize,
    /// No update can set it.
    pub(super) insert_only: bool,
}

#[cfg(test)]
impl Shared {
    pub(super) fn for_tests(name: &str, position: usize, insert_only: bool) -> Shared {
        Shared { name: name.into(), position, insert_only }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Desired {
    /// Tells the temporary tables apart.
    pub(super) index: usize,
    pub(super) name: TableName,
    pub(super) live: LiveTable,
    pub(super) columns: Vec<Shared>,
    pub(super) matching: Matching,
    /// Every row counts, not only those under keys that changed.
    pub(super) everything: bool,
    /// Positions among the shared columns of what the table of keys holds.
    pub(super) key_columns: Vec<usize>,
    /// Columns that are gone.
    pub(super) dropped: Vec<String>,
    /// Columns that are new.
    pub(super) added: Vec<String>,
    /// Columns that PostgreSQL computes.
    pub(super) generated: Vec<String>,
}

impl Desired {
    /// Reads the archive into the workspace's temporary tables.
    pub(super) async fn load(workspace: &Workspace<'_>, index: usize, then: TableAt) -> Result<Desired> {
        let name = then.relation().name.clone();
        let oid = catalog::find(&workspace.session, &name).await?;
        let oid = oid.ok_or_else(|| Failure::failed("the table does not exist any more"))?;
        let live = catalog::table(&workspace.session, oid).await?;
        if let Some(rule) = live.rules.first() {
            return Err(Failure::refused(format!("the rule {rule} would turn the restore into something else"))
                .remedy(format!("ALTER TABLE {} DISABLE RULE {};", name.to_sql(), quote_identifier(rule))));
        }
        let range = (workspace.request.to.lsn, workspace.request.now.lsn);
        let touched = touched_keys(workspace.archive, then.relation(), then.key(), range).await?;
        let recreated = then.relation().oid != live.oid;
        let everything = touched.truncated || recreated || !has_same_key(workspace, &then).await?;
        let desired = Desired::describe(index, &then, live, everything)?;
        desired.create_tables(workspace).await?;
        if !everything {
            desired.copy_keys(workspace, &then, &touched.keys).await?;
        }
        if everything || !touched.keys.is_empty() {
            let only = (!everything).then(|| Arc::new(touched.keys));
            desired.copy_rows(workspace, then, only).await?;
        }
        for table in [desired.keys(), desired.rows()] {
            workspace.execute(&format!("ANALYZE {table}")).await?;
        }
        Ok(desired)
    }

    fn describe(index: usize, then: &TableAt, live: LiveTable, everything: bool) -> Result<Desired> {
        let relation = then.relation();
        let mut columns: Vec<Shared> = Vec::new();
        let mut dropped = Vec::new();
        for (position, column) in relation.columns.iter().enumerate() {
            match live.columns.iter().find(|live| live.name == column.name) {
                Some(live) if live.generated => {}
                Some(live) => {
                    columns.push(Shared { name: column.name.clone(), position, insert_only: live.always_identity })
                }
                None => dropped.push(column.name.clone()),
            }
        }
        let at = |name: &str| columns.iter().position(|column| column.name == name);
        let is_archive_key = |name: &str| everything || then.key().iter().any(|key| key.name == name);
        let usable = live
            .keys
            .iter()
            .find(|key| key.iter().all(|column| at(&column.name).is_some() && is_archive_key(&column.name)));
        let matching = match usable {
            Some(key) => Matching::Key(
                key.iter().filter_map(|column| at(&column.name).zip(Some(column.equals.clone()))).collect(),
            ),
            None if everything || relation.identity == Identity::Full => Matching::WholeRow,
            None => return Err(no_unique_key(then)),
        };
        let key_columns = match &matching {
            Matching::Key(parts) => parts.iter().map(|(at, _)| *at).collect(),
            Matching::WholeRow => then.key().iter().filter_map(|key| at(&key.name)).collect(),
        };
        let is_shared = |name: &str| at(name).is_some();
        let added = live.columns.iter().filter(|column| !column.generated && !is_shared(&column.name));
        let added = added.map(|column| column.name.clone()).collect();
        let generated = live.columns.iter().filter(|column| column.generated);
        let generated = generated.map(|column| column.name.clone()).collect();
        let name = relation.name.clone();
        Ok(Desired { index, name, live, columns, matching, everything, key_columns, dropped, added, generated })
    }

    /// The temporary table of the keys that changed, columns `k0`, `k1`, ….
    pub(super) fn keys(&self) -> String {
        format!("pg_temp.afterimage_keys_{}", self.index)
    }

    /// The temporary table of the rows of the point, columns `c0`, `c1`, ….
    pub(super) fn rows(&self) -> String {
        format!("pg_temp.afterimage_rows_{}", self.index)
    }

    async fn create_tables(&self, workspace: &Workspace<'_>) -> Result<()> {
        let table = self.name.to_sql();
        let column = |at: usize, named: String| format!("l.{} AS {named}", quote_identifier(&self.columns[at].name));
        let keys: Vec<String> =
            self.key_columns.iter().enumerate().map(|(key, &at)| column(at, format!("k{key}"))).collect();
        let rows: Vec<String> = (0..self.columns.len()).map(|at| column(at, format!("c{at}"))).collect();
        for (name, columns) in [(self.keys(), keys), (self.rows(), rows)] {
            let sql = format!(
                "CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {} FROM ONLY {table} AS l WITH NO DATA",
                columns.join(", ")
            );
            workspace.execute(&sql).await?;
        }
        Ok(())
    }

    async fn copy_keys(&self, workspace: &Workspace<'_>, then: &TableAt, keys: &KeySet) -> Result<()> {
        let wanted = self.key_columns.iter().map(|&at| &self.columns[at].name);
        let positions: Vec<usize> =
            wanted.filter_map(|name| then.key().iter().position(|key| key.name == *name)).collect();
        let mut copy = copy_in(&workspace.session, &format!("COPY {} FROM STDIN", self.keys())).await?;
        let mut line = Vec::new();
        for key in keys {
            let fields = key_fields(key);
            line.clear();
            write_text_row(&mut line, positions.iter().map(|&at| fields.get(at).copied().flatten()));
            copy.write(&line).await?;
        }
        copy.finish().await.context("the keys that changed do not fit the present columns")?;
        Ok(())
    }

    /// Reads on a thread of its own, so that decoding and PostgreSQL's parsing overlap; a few chunks wait between.
    async fn copy_rows(&self, workspace: &Workspace<'_>, then: TableAt, only: Option<Arc<KeySet>>) -> Result<()> {
        let positions: Vec<usize> = self.columns.iter().map(|column| column.position).collect();
        let (sender, mut chunks) = mpsc::channel(QUEUED_CHUNKS);
        let runtime = tokio::runtime::Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            runtime.block_on(read_rows(&then, only.as_deref(), &positions, sender))
        });
        let mut copy = copy_in(&workspace.session, &format!("COPY {} FROM STDIN", self.rows())).await?;
        while let Some(chunk) = chunks.next().await {
            copy.write(&chunk).await?;
        }
        let read =
            reading.await.map_err(|error| Failure::failed(format!("reading the archive stopped: {error}")))??;
        let copied = copy.finish().await.context("the rows of the point do not fit the present columns")?;
        if copied == read {
            return Ok(());
        }
        Err(Failure::failed(format!("the archive has {read} rows, PostgreSQL took {copied}")))
    }
}

/// Chunks of rows that may wait for PostgreSQL.
const QUEUED_CHUNKS: usize = 4;
/// Bytes after which a chunk is handed on.
const CHUNK: usize = 256 * 1024;

/// Sends the rows in COPY's text format and returns how many there were. Blocks while the queue is full.
async fn read_rows(
    then: &TableAt,
    only: Option<&KeySet>,
    positions: &[usize],
    mut chunks: mpsc::Sender<Bytes>,
) -> Result<u64> {
    let (mut rows, mut buffer) = (0u64, Vec::with_capacity(CHUNK * 2));
    let mut send = |buffer: &mut Vec<u8>| {
        let sent = futures::executor::block_on(chunks.send(Bytes::copy_from_slice(buffer)));
        buffer.clear();
        sent.map_err(|_| Failure::transient("the copy to PostgreSQL stopped"))
    };
    then.for_each_row(only, &mut |row: &RowText| {
        rows += 1;
        write_text_row(&mut buffer, positions.iter().map(|&at| row.field(at)));
        if buffer.len() < CHUNK { Ok(()) } else { send(&mut buffer) }
    })
    .await?;
    send(&mut buffer)?;
    Ok(rows)
}

/// The fields of a key as the history makes it: for each a byte (1, or 0 for NULL), four bytes of length, and the text.
pub(super) fn key_fields(key: &[u8]) -> Vec<Option<&[u8]>> {
    let mut fields = Vec::new();
    let mut rest = key;
    while let Some((&[present, a, b, c, d], tail)) = rest.split_first_chunk::<5>() {
        let length = (u32::from_be_bytes([a, b, c, d]) as usize).min(tail.len());
        let (text, after) = tail.split_at(length);
        fields.push((present == 1).then_some(text));
        rest = after;
    }
    fields
}

/// Changes since must tell rows apart by the same columns, or the keys that they touched would not be found.
/// Whether rows are told apart now as they were then: only then do the changes in between say which are concerned.
async fn has_same_key(workspace: &Workspace<'_>, then: &TableAt) -> Result<bool> {
    let present = workspace.present(&then.relation().name).await?;
    let full = |table: &TableAt| table.relation().identity == Identity::Full;
    let names = |table: &TableAt| table.key().iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    Ok(present.is_some_and(|now| full(&now) == full(then) && names(&now) == names(then)))
}

fn no_unique_key(then: &TableAt) -> Failure {
    let columns: Vec<String> = then.key().iter().map(|column| quote_identifier(&column.name)).collect();
    let columns = columns.join(", ");
    Failure::failed(format!("it has no unique key any more on the columns ({columns}) that tell its rows apart"))
        .remedy(format!("ALTER TABLE {} ADD UNIQUE ({columns});", then.relation().name.to_sql()))
}
