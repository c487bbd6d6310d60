//! What looks at the source's catalogue beside the stream: for changes of definitions where DDL capture is not installed
//! or missed one, and always for what sequences stand at, which is in no stream.
//!
//! What it finds it writes into the source's own log, as DDL capture does: so it has a place in history, and the archive
//! hears of it in one way only.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio_postgres::Client;

use super::catalog::{self, SourceTable};
use super::definitions;
use super::known::known_tables;
use super::run::sleep_or_stop;
use super::settings::CaptureSettings;
use crate::archive::Archive;
use crate::failure::Result;
use crate::machine;
use crate::model::{Lsn, RelationVersion, TableName};
use crate::postgres::{MessageKind, Source, emit_message};
use crate::transaction::{Definition, SEQUENCES_PREFIX};

/// How often the catalogue is looked at where definitions are not captured.
const LOOKS: Duration = Duration::from_secs(10);

/// How often the sequences are sampled.
const SAMPLES: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub(super) struct Observer {
    pub(super) source: Source,
    pub(super) archive: Archive,
    pub(super) settings: CaptureSettings,
    pub(super) publication: String,
    /// The latest relation version of each table that the archive knows.
    pub(super) known: HashMap<u32, RelationVersion>,
    /// Tables that the archive did not have as they were at a position, although DDL capture should have told.
    pub(super) suspects: HashMap<u32, Lsn>,
    pub(super) stop: watch::Receiver<bool>,
}

/// A table's number in the catalogue, and what changes whenever its definition does.
type Fingerprints = BTreeMap<u32, String>;

/// Who is expected to tell of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    /// The event triggers. Where they were silenced or failed, what they missed is told here, once the archive has
    /// everything that they may have said.
    DdlCapture,
    Observer,
}

const FINGERPRINTS: &str = "
SELECT c.oid, concat(c.xmin, ' ', c.relfilenode, ' ', (
         SELECT string_agg(concat(a.attnum, ' ', a.xmin), ',' ORDER BY a.attnum) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0), ' ', (
         SELECT string_agg(concat(i.indexrelid, ' ', i.xmin), ',' ORDER BY i.indexrelid) FROM pg_index i
         WHERE i.indrelid = c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

impl Observer {
    /// Looks until it is stopped. A look that fails is tried again at the next turn: what it should have found is still
    /// there then.
    pub(super) async fn run(mut self) {
        let (mut seen, mut sampled) = (Fingerprints::new(), Samples::new());
        let mut next_sample = machine::instant();
        loop {
            let due = machine::instant() >= next_sample;
            if due {
                next_sample += SAMPLES;
            }
            let pause = match self.look(&mut seen, due.then_some(&mut sampled)).await {
                Ok(Teller::DdlCapture) => SAMPLES,
                Ok(Teller::Observer) => LOOKS,
                Err(failure) => {
                    tracing::debug!("looking at the catalogue: {failure}");
                    LOOKS
                }
            };
            if sleep_or_stop(pause, self.stop.clone()).await {
                return;
            }
        }
    }

    async fn look(&mut self, seen: &mut Fingerprints, sampled: Option<&mut Samples>) -> Result<Teller> {
        let session = self.source.connect("afterimage run").await?;
        if let Some(sampled) = sampled {
            sample_sequences(&session, sampled).await?;
        }
        let teller = match definitions::is_installed(&session, &self.publication).await? {
            true => Teller::DdlCapture,
            false => Teller::Observer,
        };
        let position: String = session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
        let mut look = Look { teller, position: position.parse().unwrap_or(Lsn::ZERO), reached: Lsn::ZERO };
        if teller == Teller::DdlCapture {
            look.reached = self.archive.watermark().await?.lsn;
            (self.known, _) = known_tables(&self.archive, look.reached).await?;
        }
        let rows = session.query(FINGERPRINTS, &[]).await?;
        let now: Fingerprints = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for (oid, fingerprint) in &now {
            if seen.get(oid) != Some(fingerprint) || self.suspects.contains_key(oid) {
                self.tell_when_new(&session, *oid, look).await?;
            }
        }
        let mut gone: Vec<u32> = self.known.keys().copied().filter(|oid| !now.contains_key(oid)).collect();
        gone.sort_unstable();
        for oid in gone {
            if !self.is_overdue(oid, look) {
                continue;
            }
            let identity = self.known[&oid].name.to_string();
            let dropped = json!({ "type": "table", "oid": oid, "original": true, "identity": identity });
            definitions::tell_observed(&session, &self.publication, Vec::new(), vec![dropped]).await?;
            self.known.remove(&oid);
        }
        *seen = now;
        Ok(teller)
    }

    async fn tell_when_new(&mut self, session: &Client, oid: u32, look: Look) -> Result<()> {
        let Some(definition) = catalog::describe(session, oid).await? else { return Ok(()) };
        let table = catalog::table(session, oid).await?;
        if self.knows(&definition) && !self.lacks(session, table.as_ref(), look).await? {
            self.suspects.remove(&oid);
            return Ok(());
        }
        if !self.is_overdue(oid, look) {
            return Ok(());
        }
        let cover = match table {
            Some(table) => self.cover(session, &table).await?,
            None => "none",
        };
        session.batch_execute("BEGIN; SET LOCAL lock_timeout = '1s'").await?;
        let told = self.tell_now(session, &definition.relation().name, oid, cover).await;
        session.batch_execute(if told.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        if let Some(relation) = told? {
            self.known.insert(oid, relation);
        }
        Ok(())
    }

    /// Tells what a table is, and keeps it so until that is in the log: what somebody changes next comes after.
    async fn tell_now(
        &self,
        session: &Client,
        name: &TableName,
        oid: u32,
        cover: &str,
    ) -> Result<Option<RelationVersion>> {
        if cover != "none" {
            session.batch_execute(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", name.to_sql())).await?;
        }
        let Some(definition) = catalog::describe(session, oid).await? else { return Ok(None) };
        let relation = json!({ "definition": definition.json(), "cover": cover });
        definitions::tell_observed(session, &self.publication, vec![relation], Vec::new()).await?;
        Ok(Some(definition.relation()))
    }

    /// Whether something that the archive does not have is to be told here: always where nobody else does, else when the
    /// archive has what the source had written when it was noticed, and still does not have it.
    fn is_overdue(&mut self, oid: u32, look: Look) -> bool {
        if look.teller == Teller::Observer {
            return true;
        }
        match self.suspects.get(&oid) {
            Some(noticed) if look.reached >= *noticed => self.suspects.remove(&oid).is_some(),
            Some(_) => false,
            None => {
                self.suspects.insert(oid, look.position);
                false
            }
        }
    }

    /// Whether a table that should be archived is not published, or has an identity with which its own UPDATE fails.
    async fn lacks(&self, session: &Client, table: Option<&SourceTable>, look: Look) -> Result<bool> {
        let Some(table) = table.filter(|table| self.wants(table)) else { return Ok(false) };
        match catalog::is_published(session, table.oid, &self.publication).await? {
            true => Ok(!table.identity_usable),
            // Where DDL capture is there, somebody took it out on purpose.
            false => Ok(look.teller == Teller::Observer),
        }
    }

    fn wants(&self, table: &SourceTable) -> bool {
        let publishable = table.can_be_published(self.settings.set_identity_full) && !table.unlogged;
        self.settings.wants(&table.name) && table.owned && table.readable && publishable
    }

    /// Whether the archive has the table in this shape, stored names aside.
    fn knows(&self, definition: &Definition) -> bool {
        let mut relation = definition.relation();
        let Some(known) = self.known.get(&relation.oid) else { return false };
        for (column, known) in relation.columns.iter_mut().zip(&known.columns) {
            column.stored.clone_from(&known.stored);
        }
        relation == *known
    }

    /// Publishes a table that should be archived and is not, as far as the role may.
    async fn cover(&self, session: &Client, table: &SourceTable) -> Result<&'static str> {
        let was_published = catalog::is_published(session, table.oid, &self.publication).await?;
        if table.unlogged || !(was_published || self.wants(table)) {
            return Ok("none");
        }
        // What the event triggers would tell of these statements is told here.
        session.batch_execute("BEGIN; SET LOCAL lock_timeout = '1s'; SET LOCAL afterimage.busy = 'on'").await?;
        let published = definitions::publish(session, &self.publication, table).await;
        session.batch_execute(if published.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        published.map_err(|failure| failure.context(format_args!("adding {} to the publication", table.name)))?;
        Ok(if was_published && self.known.contains_key(&table.oid) { "covered" } else { "pending" })
    }
}

/// One look at the catalogue.
#[derive(Debug, Clone, Copy)]
struct Look {
    teller: Teller,
    /// What the source had written before.
    position: Lsn,
    /// What the archive has.
    reached: Lsn,
}

/// What each sequence stood at when it was sampled last, by schema and name.
pub type Samples = HashMap<(String, String), (i64, bool)>;

const SEQUENCES: &str = "
SELECT schemaname::text, sequencename::text, COALESCE(last_value, start_value), last_value IS NOT NULL
FROM pg_sequences WHERE schemaname !~ '^pg_' AND has_sequence_privilege(
  format('%I.%I', schemaname, sequencename)::regclass, 'SELECT, USAGE')";

/// Writes into the source's log what those sequences stand at that have moved since the last sample.
///
/// # Errors
/// What the source says.
pub async fn sample_sequences(client: &Client, last: &mut Samples) -> Result<()> {
    let rows = client.query(SEQUENCES, &[]).await?;
    let now: Samples = rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect();
    let moved = now.iter().filter(|(name, value)| last.get(*name) != Some(*value));
    let moved: Vec<_> = moved
        .map(|((schema, name), (value, called))| json!({ "schema": schema, "name": name, "value": value, "called": called }))
        .collect();
    if !moved.is_empty() {
        emit_message(client, MessageKind::Immediate, SEQUENCES_PREFIX, &json!(moved).to_string()).await?;
    }
    *last = now;
    Ok(())
}
