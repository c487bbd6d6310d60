//! Rows of the archive into temporary tables.
//!
//! Straight into the live columns' types where they are the archived ones. Where a type has changed, or PostgreSQL objects
//! to a value, all values come as text first and are read one by one ([`super::reading`]). Domains are not enforced here: what
//! they demand is judged like any other constraint.
//!
//! Each row brings a hash of its texts along, so that nobody has to make texts of it again to say which rows a plan is about.

use std::sync::Arc;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};

use super::Step;
use super::desired::{Desired, Matching};
use super::quarantine;
use super::reading::Texts;
use super::wanted::{Rows, Wanted};
use super::workspace::Workspace;
use crate::columnar::{RowText, digest};
use crate::copy_format::write_text_row;
use crate::failure::{Context as _, Failure, Result};
use crate::history::{Gather, KeySet, TableAt, key_fields};
use crate::model::{Identity, RelationVersion};
use crate::postgres::copy_in;

/// States with the keys that are wanted of each.
type States = Vec<(Arc<TableAt>, Option<Arc<KeySet>>)>;

/// Whether rows bring a hash of themselves along, after their columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hashed {
    Yes,
    No,
}

impl Desired {
    /// Fills the tables of keys and of rows.
    pub(super) async fn stage(&mut self, workspace: &Workspace<'_>, wanted: &Wanted) -> Result<()> {
        workspace.request.progress.enter(Step::Reading, wanted.keys.len() as u64);
        match &wanted.rows {
            Rows::States(states) => {
                let rows = self.stage_states(workspace, wanted, states.clone()).await?;
                // Under each key there was a row, and one at most: the rows say the keys.
                let told_apart = self.matching != Matching::WholeRow && wanted.relation.identity != Identity::Full;
                self.keys_of_rows = told_apart && !self.everything && rows == wanted.keys.len() as u64;
                if !self.keys_of_rows {
                    self.stage_keys(workspace, wanted).await?;
                }
            }
            Rows::Quarantine => {
                self.create_raw(workspace).await?;
                let types = quarantine::read_back(workspace, self, &self.raw()).await?;
                self.read_texts(workspace, &wanted.relation, Texts::OfTypes(types)).await?;
                self.keys_of_rows = true;
            }
        }
        if let Some((state, present)) = &wanted.expected {
            self.create(workspace, &self.expected_rows(), &self.all(), 'c').await?;
            // Rows without a key are not compared with it.
            if !present.is_empty() && self.matching != Matching::WholeRow {
                let states = vec![(Arc::clone(state), Some(Arc::clone(present)))];
                self.copy_rows(workspace, &wanted.relation, states, (&self.expected_rows(), Hashed::No)).await?;
            }
        }
        // Rows are sought by their keys; of the other columns, which may be long, nothing need be known.
        let key: Vec<String> = match &self.matching {
            Matching::Key(parts) => parts.iter().map(|(at, _)| format!("c{at}")).collect(),
            Matching::WholeRow => self.all().iter().map(|at| format!("c{at}")).collect(),
        };
        let key = if key.is_empty() { String::new() } else { format!(" ({})", key.join(", ")) };
        workspace.execute(&format!("ANALYZE {}{key}", self.rows())).await?;
        Ok(())
    }

    async fn stage_states(&mut self, workspace: &Workspace<'_>, wanted: &Wanted, states: States) -> Result<u64> {
        let differs = |at: usize| {
            let archived = &wanted.relation.columns[self.columns[at].position];
            self.live_column(at).is_some_and(|live| live.differs_from(archived))
        };
        let differs = self.all().into_iter().any(differs);
        if !differs {
            workspace.execute("SAVEPOINT afterimage_staging").await?;
            self.create_rows(workspace).await?;
            let into = (self.rows(), Hashed::Yes);
            match self.copy_rows(workspace, &wanted.relation, states.clone(), (&into.0, into.1)).await {
                Err(failure) if failure.is_transient() => return Err(failure),
                Err(objection) => {
                    tracing::debug!("reading the rows as text: {objection}");
                    workspace.execute("ROLLBACK TO SAVEPOINT afterimage_staging").await?;
                }
                Ok(rows) => return Ok(rows),
            }
        }
        self.create_raw(workspace).await?;
        let rows = self.copy_rows(workspace, &wanted.relation, states, (&self.raw(), Hashed::Yes)).await?;
        self.read_texts(workspace, &wanted.relation, Texts::Archived).await?;
        Ok(rows)
    }

    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.columns.len()).collect()
    }

    /// The temporary table of texts, columns `r0`, `r1`, …, that wait to be read.
    pub(super) fn raw(&self) -> String {
        format!("pg_temp.afterimage_raw_{}", self.index)
    }

    /// The empty table of the rows of the point.
    pub(super) async fn create_rows(&self, workspace: &Workspace<'_>) -> Result<()> {
        self.create(workspace, &self.rows(), &self.all(), 'c').await?;
        workspace.execute(&format!("ALTER TABLE {} ADD afterimage_hash bigint", self.rows())).await?;
        Ok(())
    }

    /// An empty table of these columns.
    async fn create(&self, workspace: &Workspace<'_>, name: &str, columns: &[usize], letter: char) -> Result<()> {
        let column = |(number, &at): (usize, &usize)| format!("{} AS {letter}{number}", self.live_value("l", at));
        let columns: Vec<String> = columns.iter().enumerate().map(column).collect();
        let sql = format!(
            "CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {} FROM ONLY {} AS l WITH NO DATA",
            columns.join(", "),
            self.name.to_sql()
        );
        workspace.execute(&sql).await?;
        Ok(())
    }

    async fn create_raw(&self, workspace: &Workspace<'_>) -> Result<()> {
        let columns = self.all().into_iter().map(|at| format!("r{at} text"));
        let columns: Vec<String> = columns.chain(["afterimage_hash bigint".to_owned()]).collect();
        let sql = format!("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP", self.raw(), columns.join(", "));
        workspace.execute(&sql).await?;
        Ok(())
    }

    async fn stage_keys(&self, workspace: &Workspace<'_>, wanted: &Wanted) -> Result<()> {
        self.create(workspace, &self.keys(), &self.key_columns, 'k').await?;
        if !self.everything && !wanted.keys.is_empty() {
            self.copy_keys(workspace, wanted).await?;
        }
        workspace.execute(&format!("ANALYZE {}", self.keys())).await?;
        Ok(())
    }

    async fn copy_keys(&self, workspace: &Workspace<'_>, wanted: &Wanted) -> Result<()> {
        let archived = |at: usize| &wanted.relation.columns[self.columns[at].position].name;
        let position = |&at: &usize| wanted.key.iter().position(|key| key.name == *archived(at));
        let positions: Vec<usize> = self.key_columns.iter().filter_map(position).collect();
        let mut copy = copy_in(&workspace.session, &format!("COPY {} FROM STDIN", self.keys())).await?;
        let mut line = Vec::new();
        for key in wanted.keys.iter() {
            let fields = key_fields(key);
            line.clear();
            write_text_row(&mut line, positions.iter().map(|&at| fields.get(at).copied().flatten()));
            copy.write(&line).await?;
        }
        copy.finish().await.context("the keys that changed do not fit the present columns")?;
        Ok(())
    }

    /// Reads on threads of its own, so that decoding and PostgreSQL's parsing overlap; a few chunks wait between.
    async fn copy_rows(
        &self,
        workspace: &Workspace<'_>,
        relation: &RelationVersion,
        states: States,
        (into, hashed): (&str, Hashed),
    ) -> Result<u64> {
        let columns: Vec<_> = self.columns.iter().map(|column| relation.columns[column.position].clone()).collect();
        let (sender, mut chunks) = mpsc::channel(QUEUED_CHUNKS);
        let runtime = tokio::runtime::Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                let mut rows = 0;
                for (state, only) in &states {
                    let positions: Vec<Option<usize>> =
                        columns.iter().map(|column| state.relation().position_of(column)).collect();
                    rows += read_rows(state, only.as_ref(), (&positions, hashed), sender.clone()).await?;
                }
                Ok::<u64, Failure>(rows)
            })
        });
        let mut copy = copy_in(&workspace.session, &format!("COPY {into} FROM STDIN")).await?;
        while let Some((chunk, rows)) = chunks.next().await {
            copy.hand_on(chunk).await?;
            workspace.request.progress.advance(rows);
        }
        let read =
            reading.await.map_err(|error| Failure::failed(format!("reading the archive stopped: {error}")))??;
        let copied = copy.finish().await.context("the rows of the point do not fit the present columns")?;
        if copied == read {
            return Ok(read);
        }
        Err(Failure::failed(format!("the archive has {read} rows, PostgreSQL took {copied}")))
    }
}

/// Chunks of rows that may wait for PostgreSQL.
const QUEUED_CHUNKS: usize = 4;

/// Rows in COPY's text format.
#[derive(Debug, Clone)]
struct CopyRows {
    /// Where the columns are in the rows.
    positions: Arc<[Option<usize>]>,
    hashed: Hashed,
    rows: u64,
    bytes: Vec<u8>,
}

impl Gather for CopyRows {
    fn add(&mut self, row: &RowText) {
        self.rows += 1;
        let start = self.bytes.len();
        write_text_row(&mut self.bytes, self.positions.iter().map(|at| at.and_then(|at| row.field(at))));
        if self.hashed == Hashed::Yes {
            add_hash(&mut self.bytes, start);
        }
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Sends the rows in COPY's text format, each chunk with how many it has, and returns how many there were. Blocks while the queue is full.
pub(super) async fn read_rows(
    then: &TableAt,
    only: Option<&Arc<KeySet>>,
    (positions, hashed): (&[Option<usize>], Hashed),
    mut chunks: mpsc::Sender<(Bytes, u64)>,
) -> Result<u64> {
    let mut rows = 0;
    let mut take = |gathered: CopyRows| {
        rows += gathered.rows;
        let sent = futures::executor::block_on(chunks.send((gathered.bytes.into(), gathered.rows)));
        sent.map_err(|_| Failure::transient("the copy to PostgreSQL stopped"))
    };
    let empty = CopyRows { positions: positions.into(), hashed, rows: 0, bytes: Vec::new() };
    then.gather(only, empty, &mut take).await?;
    Ok(rows)
}

/// The hash of a row in COPY's text format, its newline included; the same on every machine and in every version.
pub(super) fn hash_of(row: &[u8]) -> i64 {
    digest(row).first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

/// Adds to the row that begins at `start` a field with its hash.
fn add_hash(buffer: &mut Vec<u8>, start: usize) {
    let number = hash_of(&buffer[start..]);
    buffer.pop();
    if buffer.len() > start {
        buffer.push(b'\t');
    }
    buffer.extend_from_slice(number.to_string().as_bytes());
    buffer.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_followed_by_its_hash_and_nothing_before_it_changes() {
        let mut buffer = b"before\n".to_vec();
        for row in [&b"1\ta\n"[..], b"1\ta\n", b"1\tb\n", b"\n"] {
            let start = buffer.len();
            buffer.extend_from_slice(row);
            add_hash(&mut buffer, start);
        }
        let text = String::from_utf8(buffer).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[1]), (5, "before", lines[2]));
        assert!(lines[1].starts_with("1\ta\t") && lines[1][4..].parse::<i64>().is_ok(), "{}", lines[1]);
        assert_ne!(lines[1][4..], lines[3][4..]);
        assert!(lines[4].parse::<i64>().is_ok(), "a row without columns has no tab: {}", lines[4]);
    }
}
