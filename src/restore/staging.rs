//! Rows of the archive into temporary tables.
//!
//! Straight into the live columns' types where they are the archived ones. Where a type has changed, or PostgreSQL objects
//! to a value, all values come as text first and are read one by one: a row with a value that cannot be read, or that would
//! not stay what it is, is staged without that value and with the objection to it. Domains are not enforced here: what they
//! demand is judged like any other constraint.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};

use super::columns::LiveColumn;
use super::desired::{Desired, Matching, key_fields};
use super::mapping::Mapping;
use super::quarantine;
use super::wanted::{Rows, Wanted};
use super::workspace::Workspace;
use crate::columnar::RowText;
use crate::copy_format::write_text_row;
use crate::failure::{Context as _, Failure, Result};
use crate::history::{KeySet, TableAt};
use crate::model::{Column, RelationVersion, quote_identifier, quote_literal};
use crate::postgres::copy_in;

/// States with the keys that are wanted of each.
type States = Vec<(Arc<TableAt>, Option<Arc<KeySet>>)>;

/// OID of `jsonb` (`pg_type.dat`): what becomes of a text there is said in other words, and is the same.
const JSONB: u32 = 3802;

/// What is known of texts.
#[derive(Debug, PartialEq, Eq)]
enum Texts {
    /// They are of the archived column's type.
    Archived,
    /// They were of these types once, by the names of the columns.
    OfTypes(BTreeMap<String, String>),
}

impl Texts {
    fn read_plainly(&self, live: &LiveColumn, archived: &Column) -> bool {
        *self == Texts::Archived && live.reads_as_it_is(archived)
    }
}

impl Desired {
    /// Fills the tables of keys and of rows.
    pub(super) async fn stage(&mut self, workspace: &Workspace<'_>, wanted: &Wanted) -> Result<()> {
        self.create(workspace, &self.keys(), &self.key_columns.clone(), 'k').await?;
        if !self.everything && !wanted.keys.is_empty() {
            self.copy_keys(workspace, wanted).await?;
        }
        match &wanted.rows {
            Rows::States(states) => self.stage_states(workspace, wanted, states.clone()).await?,
            Rows::Quarantine => {
                self.create_raw(workspace).await?;
                let types = quarantine::read_back(workspace, self, &self.raw()).await?;
                self.read_texts(workspace, &wanted.relation, Texts::OfTypes(types)).await?;
                self.keys_of_rows(workspace).await?;
            }
        }
        if let Some((state, present)) = &wanted.expected {
            self.create(workspace, &self.expected_rows(), &self.all(), 'c').await?;
            // Rows without a key are not compared with it.
            if !present.is_empty() && self.matching != Matching::WholeRow {
                let states = vec![(Arc::clone(state), Some(Arc::clone(present)))];
                self.copy_rows(workspace, &wanted.relation, states, &self.expected_rows()).await?;
            }
        }
        for table in [self.keys(), self.rows()] {
            workspace.execute(&format!("ANALYZE {table}")).await?;
        }
        Ok(())
    }

    async fn stage_states(&mut self, workspace: &Workspace<'_>, wanted: &Wanted, states: States) -> Result<()> {
        let differs = |at: usize| {
            let archived = &wanted.relation.columns[self.columns[at].position];
            self.live_column(at).is_some_and(|live| live.differs_from(archived))
        };
        let differs = self.all().into_iter().any(differs);
        if !differs {
            workspace.execute("SAVEPOINT afterimage_staging").await?;
            self.create(workspace, &self.rows(), &self.all(), 'c').await?;
            match self.copy_rows(workspace, &wanted.relation, states.clone(), &self.rows()).await {
                Err(failure) if failure.is_transient() => return Err(failure),
                Err(objection) => {
                    tracing::debug!("reading the rows as text: {objection}");
                    workspace.execute("ROLLBACK TO SAVEPOINT afterimage_staging").await?;
                }
                Ok(()) => return Ok(()),
            }
        }
        self.create_raw(workspace).await?;
        self.copy_rows(workspace, &wanted.relation, states, &self.raw()).await?;
        self.read_texts(workspace, &wanted.relation, Texts::Archived).await
    }

    fn all(&self) -> Vec<usize> {
        (0..self.columns.len()).collect()
    }

    fn raw(&self) -> String {
        format!("pg_temp.afterimage_raw_{}", self.index)
    }

    /// An empty table of these columns, each without what its domain demands.
    async fn create(&self, workspace: &Workspace<'_>, name: &str, columns: &[usize], letter: char) -> Result<()> {
        let column = |(number, &at): (usize, &usize)| {
            let column = format!("l.{}", quote_identifier(&self.columns[at].name));
            match self.live_column(at).filter(|live| live.domain.is_some()) {
                Some(live) => format!("CAST({column} AS {}) AS {letter}{number}", live.type_sql),
                None => format!("{column} AS {letter}{number}"),
            }
        };
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
        let columns: Vec<String> = self.all().iter().map(|at| format!("r{at} text")).collect();
        let sql = format!("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP", self.raw(), columns.join(", "));
        workspace.execute(&sql).await?;
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

    async fn keys_of_rows(&self, workspace: &Workspace<'_>) -> Result<()> {
        let columns: Vec<String> = self.key_columns.iter().map(|at| format!("c{at}")).collect();
        let sql = format!("INSERT INTO {} SELECT {} FROM {}", self.keys(), columns.join(", "), self.rows());
        workspace.execute(&sql).await?;
        Ok(())
    }

    /// Reads on a thread of its own, so that decoding and PostgreSQL's parsing overlap; a few chunks wait between.
    async fn copy_rows(
        &self,
        workspace: &Workspace<'_>,
        relation: &RelationVersion,
        states: States,
        into: &str,
    ) -> Result<()> {
        let columns: Vec<_> = self.columns.iter().map(|column| relation.columns[column.position].clone()).collect();
        let (sender, mut chunks) = mpsc::channel(QUEUED_CHUNKS);
        let runtime = tokio::runtime::Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                let mut rows = 0;
                for (state, only) in &states {
                    let positions: Vec<Option<usize>> =
                        columns.iter().map(|column| state.relation().position_of(column)).collect();
                    rows += read_rows(state, only.as_deref(), &positions, sender.clone()).await?;
                }
                Ok::<u64, Failure>(rows)
            })
        });
        let mut copy = copy_in(&workspace.session, &format!("COPY {into} FROM STDIN")).await?;
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

    /// From texts to the live columns' types, row by row where that can fail.
    async fn read_texts(&mut self, workspace: &Workspace<'_>, relation: &RelationVersion, texts: Texts) -> Result<()> {
        self.as_text = true;
        self.create(workspace, &self.rows(), &self.all(), 'c').await?;
        let more = "ADD afterimage_objections jsonb, ADD afterimage_texts text[]";
        workspace.execute(&format!("ALTER TABLE {} {more}", self.rows())).await?;
        let maps =
            workspace.request.maps.iter().filter(|map| map.concerns(&self.name, &self.columns)).collect::<Vec<_>>();
        let mut types = self.types.clone();
        let mut readers = Vec::new();
        let mut values = Vec::new();
        for at in self.all() {
            let (column, Some(live)) = (&self.columns[at], self.live_column(at)) else { continue };
            let archived = &relation.columns[column.position];
            if let Some(map) = maps.iter().find(|map| map.column == column.name) {
                values.push(map.to_sql());
            } else if texts.read_plainly(live, archived) {
                values.push(format!("CAST(r.r{at} AS {})", live.type_sql));
            } else {
                let former = match &texts {
                    Texts::Archived => format_type(workspace, archived.value_type()).await?,
                    Texts::OfTypes(types) => types.get(&column.name).cloned(),
                };
                if let Some(former) = &former {
                    types[at].clone_from(former);
                }
                let differs = texts != Texts::Archived || live.differs_from(archived);
                let judged = live.type_oid != JSONB && differs;
                let sql = reader(&self.reader(at), &live.type_sql, former.filter(|_| judged), judged);
                workspace.execute(&sql).await?;
                values.push(format!("v{at}.read"));
                readers.push(at);
            }
        }
        let plain = |at: usize| {
            let archived = &relation.columns[self.columns[at].position];
            self.live_column(at).is_some_and(|live| texts.read_plainly(live, archived))
        };
        let sql = self.reading_sql(plain, &maps, &values, &readers);
        self.types = types;
        workspace.enter_application_path(&self.name).await?;
        workspace.session.execute(&sql, &[]).await.map_err(|error| match maps.is_empty() {
            true => workspace.judge(error),
            false => Mapping::judge(error),
        })?;
        workspace.leave_application_path().await
    }

    fn reader(&self, at: usize) -> String {
        format!("pg_temp.afterimage_read_{}_{at}", self.index)
    }

    fn reading_sql(
        &self,
        plain: impl Fn(usize) -> bool,
        maps: &[&Mapping],
        values: &[String],
        readers: &[usize],
    ) -> String {
        let targets: Vec<String> = self.all().iter().map(|at| format!("c{at}")).collect();
        let texts: Vec<String> = self.all().iter().map(|at| format!("r.r{at}")).collect();
        let objections: Vec<String> = readers
            .iter()
            .map(|&at| format!("jsonb_build_object({}, v{at}.objection)", quote_literal(&self.columns[at].name)))
            .collect();
        let objections = match objections.is_empty() {
            true => "NULL::jsonb".to_owned(),
            false => format!("NULLIF(jsonb_strip_nulls({}), '{{}}'::jsonb)", objections.join(" || ")),
        };
        let laterals: String =
            readers.iter().map(|&at| format!(" CROSS JOIN LATERAL {}(r.r{at}) AS v{at}", self.reader(at))).collect();
        // What a mapping's expression sees: values in their types where these are the same, texts elsewhere.
        let seen: Vec<String> = self
            .all()
            .iter()
            .filter_map(|&at| {
                let (column, live) = (&self.columns[at], self.live_column(at)?);
                let value = if plain(at) { format!("CAST(r.r{at} AS {})", live.type_sql) } else { format!("r.r{at}") };
                Some(format!("{value} AS {}", quote_identifier(&column.name)))
            })
            .collect();
        let mapped = match maps.is_empty() {
            true => String::new(),
            false => {
                format!(" CROSS JOIN LATERAL (SELECT {}) AS {}", seen.join(", "), quote_identifier(&self.name.table))
            }
        };
        let target = targets.iter().map(String::as_str).chain(["afterimage_objections", "afterimage_texts"]);
        let value = values.iter().map(String::as_str).chain([objections.as_str()]);
        format!(
            "INSERT INTO {} ({}) SELECT {}, ARRAY[{}]::text[] FROM {} AS r{laterals}{mapped}",
            self.rows(),
            target.collect::<Vec<_>>().join(", "),
            value.collect::<Vec<_>>().join(", "),
            texts.join(", "),
            self.raw()
        )
    }
}

/// How SQL spells a type, where there is one with this oid.
async fn format_type(workspace: &Workspace<'_>, (oid, modifier): (u32, i32)) -> Result<Option<String>> {
    let sql = "SELECT format_type(t.oid, $2) FROM pg_type t WHERE t.oid = $1";
    let rows = workspace.query(sql, &[&oid, &modifier]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// A function that reads a text as a value of a type, or says why it cannot. A value that comes back as another text, also
/// when it is taken back into the type that it had, has lost something.
fn reader(name: &str, wanted: &str, former: Option<String>, judged: bool) -> String {
    let declared = former.as_ref().map_or(String::new(), |former| format!(" former {former};"));
    let back = match former {
        Some(_) => "BEGIN former := fit; same := former::text = value; EXCEPTION WHEN OTHERS THEN same := false; END;",
        None => "same := false;",
    };
    let judgement = match judged {
        true => format!("IF fit::text IS DISTINCT FROM value THEN {back} END IF;"),
        false => String::new(),
    };
    let body = format!(
        "DECLARE fit {wanted};{declared} same boolean := true; BEGIN fit := value; {judgement} \
         IF same THEN read := fit; ELSE objection := 'it would become ' || fit::text; END IF; \
         EXCEPTION WHEN OTHERS THEN read := NULL; objection := SQLERRM; END"
    );
    format!(
        "CREATE FUNCTION {name}(value text, OUT read {wanted}, OUT objection text) LANGUAGE plpgsql AS {}",
        quote_literal(&body)
    )
}

/// Chunks of rows that may wait for PostgreSQL.
const QUEUED_CHUNKS: usize = 4;
/// Bytes after which a chunk is handed on.
const CHUNK: usize = 256 * 1024;

/// Sends the rows in COPY's text format and returns how many there were. Blocks while the queue is full.
pub(super) async fn read_rows(
    then: &TableAt,
    only: Option<&KeySet>,
    positions: &[Option<usize>],
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
        write_text_row(&mut buffer, positions.iter().map(|at| at.and_then(|at| row.field(at))));
        if buffer.len() < CHUNK { Ok(()) } else { send(&mut buffer) }
    })
    .await?;
    send(&mut buffer)?;
    Ok(rows)
}
