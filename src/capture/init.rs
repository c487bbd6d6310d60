//! Preparing a source and beginning its archive.
//!
//! The publication comes first, then one slot with one exported snapshot, then one base image of the
//! whole database under it. The slot is temporary until the image is complete: however `init` ends
//! before that, PostgreSQL drops the slot with the connection and nothing holds its log back. Only then
//! is the slot copied to a permanent one and the archive given its identity.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use super::base_image::{ImageCopy, ImageJob, ImageProgress, StagedImage, snapshot_session};
use super::catalog::{self, SourceTable};
use super::context::{self, ContextReport, ContextWish};
use super::decoder::Slots;
use super::definitions;
use super::privileges::require_privileges;
use super::settings::CaptureSettings;
use super::source_check::{self, SourceFacts};
use crate::archive::{Archive, ArchiveIdentity, ArchiveWriter, DurableLsn, FORMAT, Publication, Store};
use crate::columnar::image_table_schema;
use crate::failure::{Failure, Result};
use crate::machine;
use crate::model::{DdlRecord, Lsn, Position, RelationRecord, quote_identifier, quote_literal};
use crate::postgres::{ReplicationConnection, Source, Throttle};
use crate::transaction::Definition;

/// How long a change to the source's tables waits for a lock before it gives up, so that queries
/// queueing behind it are not held up for long.
const LOCK_TIMEOUT: &str = "5s";

/// Where `init` is, for whoever shows it.
pub trait InitSteps: Send + Sync {
    /// What will be changed in the source and the archive, before anything is.
    fn will_do(&self, chosen: &Chosen, facts: &SourceFacts, slot: &str, publication: &str);
    /// Whether changes of definitions are captured in the source, or looked for in its catalogue.
    fn captures_ddl(&self, captured: bool);
    /// Creating the slot waits for transactions that are running now.
    fn waiting_for_transactions(&self);
    /// The base image begins; the progress moves while it is copied.
    fn copying(&self, progress: &Arc<ImageProgress>);
    /// The base image is complete.
    fn copied(&self);
}

/// Which tables are archived, and why others are not.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    pub archived: Vec<SourceTable>,
    /// Without a usable identity; set to `FULL`.
    pub set_full: Vec<SourceTable>,
    /// Without a usable identity; left out.
    pub left_out: Vec<SourceTable>,
    /// Not in the log at all.
    pub unlogged: Vec<SourceTable>,
    /// What else of the source the log does not show, by kind.
    pub outside: Vec<String>,
    /// Event triggers are to be installed in the source, if the role may.
    pub capture_ddl: bool,
    /// The publication is to be of all tables, those to come too.
    pub all_tables: bool,
    /// Triggers that tell who wrote are to be put on tables.
    pub context: bool,
}

/// What `init` did.
#[derive(Debug, Clone)]
pub struct InitReport {
    pub identity: ArchiveIdentity,
    pub tables: usize,
    pub left_out: Vec<String>,
    pub rows: u64,
    pub bytes: u64,
    /// There was an archive already; apart from context nothing was changed.
    pub already: bool,
    /// Where context is captured now because that was asked for.
    pub context: Option<ContextReport>,
}

/// Prepares the source and begins the archive; does nothing where that is done already. When `stop` ends first, it
/// gives up, unless the base image is complete: then it ends what is left, which takes a moment.
///
/// # Errors
/// With the exact remedy where the source cannot be archived. Whatever the error, no slot is left.
pub async fn init(
    source: &Source,
    store: &Store,
    settings: &CaptureSettings,
    steps: &dyn InitSteps,
    stop: impl Future<Output = ()>,
) -> Result<InitReport> {
    // Commits may be set to wait for the archiver, which there is not yet.
    let source = &source.without_waiting();
    let session = source.connect("afterimage init").await?;
    let client: &Client = &session;
    let facts = source_check::facts(client).await?;
    if let Some(archive) = Archive::find(store).await? {
        super::run::require_same_source(client, archive.identity()).await?;
        let tables = archive.tables_before(archive.watermark().await?.lsn).await?.len();
        let identity = archive.identity().clone();
        let context =
            context::install(client, &identity.publication, &settings.context, &settings.context_redact).await?;
        return Ok(InitReport { identity, tables, left_out: Vec::new(), rows: 0, bytes: 0, already: true, context });
    }
    facts.require_archivable()?;
    let slots = Slots::of(source, client).await?;
    let beginning = Beginning { source, store, settings, steps, client, slots, facts };
    // Giving up in the middle of the last part could leave the slot without its archive.
    let copied = tokio::select! {
        copied = beginning.copy() => copied?,
        () = stop => return Err(interrupted()),
    };
    beginning.complete(copied).await
}

fn interrupted() -> Failure {
    Failure::failed("interrupted; no slot is left in the source").remedy("run it again")
}

/// An `init` at work.
struct Beginning<'a> {
    source: &'a Source,
    store: &'a Store,
    settings: &'a CaptureSettings,
    steps: &'a dyn InitSteps,
    client: &'a Client,
    slots: Slots<'a>,
    facts: SourceFacts,
}

/// The base image, in no history yet.
struct Copied {
    writer: ArchiveWriter,
    /// Holds the temporary slot.
    replication: ReplicationConnection,
    temporary: String,
    identity: ArchiveIdentity,
    relations: Vec<RelationRecord>,
    /// The definitions of what is no table, a JSON array.
    ddl: Option<String>,
    report: InitReport,
}

/// A source as a snapshot shows it.
#[derive(Default)]
pub(super) struct DescribedSource {
    pub(super) jobs: Vec<ImageJob>,
    /// Partitioned tables, which have no rows of their own.
    pub(super) parents: Vec<Definition>,
    /// The definitions of what is no table, a JSON array.
    pub(super) others: Option<String>,
}

impl Beginning<'_> {
    async fn copy(&self) -> Result<Copied> {
        let (client, settings, facts) = (self.client, self.settings, &self.facts);
        let slot = settings.slot_name(&facts.database);
        require_only_init(client, &slot).await?;
        require_slot_unused(&self.slots, &slot).await?;
        let mut chosen = choose(catalog::tables(client).await?, settings, facts)?;
        chosen.outside = catalog::outside_the_stream(client).await?;
        chosen.capture_ddl = settings.capture_ddl;
        chosen.context = matches!(settings.context, ContextWish::Of(_));
        // New tables are then covered without that anybody changes the publication, and protected before they have rows.
        chosen.all_tables = facts.superuser
            && settings.capture_ddl
            && settings.set_identity_full
            && settings.covers_everything()
            && chosen.left_out.is_empty();
        self.steps.will_do(&chosen, facts, &slot, &settings.publication);
        // A store that cannot be written must be known before the source is touched.
        let mut writer = ArchiveWriter::claim(self.store).await?;
        drop_stray_slot(&self.slots, &slot, writer.durable().map(DurableLsn::lsn)).await?;
        source_check::facts(&self.slots).await?.require_room()?;
        set_identities(client, &chosen.set_full).await?;
        let context =
            context::install(client, &settings.publication, &settings.context, &settings.context_redact).await?;
        let captures_ddl = settings.capture_ddl && definitions::install(client, settings).await?;
        self.steps.captures_ddl(captures_ddl);
        let everything = captures_ddl && chosen.all_tables;
        let tables: Vec<&SourceTable> = chosen.archived.iter().chain(&chosen.set_full).collect();
        set_publication(client, &settings.publication, (!everything).then_some(&tables), facts.version).await?;
        if captures_ddl {
            definitions::protect_all(client, &settings.publication).await?;
        }

        let decoder = self.source.decoder();
        let mut replication = ReplicationConnection::connect(decoder).await?;
        let system = replication.identify_system().await?;
        let temporary = format!("{slot}_init");
        notice_our_end(&mut replication).await;
        let creating = self.slots.create(client, &mut replication, &temporary, true);
        let created = notify_if_slow(creating, || self.steps.waiting_for_transactions()).await?;
        let lsn = created.consistent_point;
        let snapshot = created.snapshot.ok_or_else(|| Failure::failed("the source exported no snapshot"))?;
        writer.require_nothing_since(lsn).await?;
        writer.on_timeline(system.timeline);

        let described = describe_source(decoder, self.store, &settings.publication, &snapshot).await?;
        let (tables, ddl) = (described.jobs.len(), described.others);
        let (mut relations, progress) = self.copy_images(&snapshot, lsn, described.jobs, &mut writer).await?;
        let parent = |definition: Definition| {
            RelationRecord::described(lsn, definition.relation(), definition.json().to_string())
        };
        relations.extend(described.parents.into_iter().map(parent));
        let identity = ArchiveIdentity {
            format: FORMAT,
            system_identifier: system.system_identifier,
            database: facts.database.clone(),
            start_lsn: lsn,
            created_at: machine::now(),
            slot,
            publication: settings.publication.clone(),
        };
        let report = InitReport {
            identity: identity.clone(),
            tables,
            left_out: chosen.left_out.iter().map(|table| table.name.to_string()).collect(),
            rows: progress.rows.load(Ordering::Relaxed),
            bytes: progress.bytes.load(Ordering::Relaxed),
            already: false,
            context,
        };
        Ok(Copied { writer, replication, temporary, identity, relations, ddl, report })
    }

    async fn copy_images(
        &self,
        snapshot: &str,
        lsn: Lsn,
        jobs: Vec<ImageJob>,
        writer: &mut ArchiveWriter,
    ) -> Result<(Vec<RelationRecord>, Arc<ImageProgress>)> {
        let progress = Arc::new(ImageProgress::default());
        self.steps.copying(&progress);
        let copy = ImageCopy {
            source: self.source.decoder(),
            store: self.store,
            snapshot,
            lsn,
            workers: self.settings.copy_workers,
            throttle: self.settings.throttle.map(Throttle::new),
            progress: Arc::clone(&progress),
        };
        let images = copy.run(jobs).await?;
        let relations = add_images(writer, images, lsn).await?;
        self.steps.copied();
        Ok((relations, progress))
    }

    /// Publishes the image, makes the slot permanent, and gives the archive its identity, in this order: killed in
    /// between, the next `init` finds at most a slot without an archive, which it drops.
    async fn complete(&self, copied: Copied) -> Result<InitReport> {
        let Copied { mut writer, replication, temporary, identity, relations, ddl, report } = copied;
        let (end, time) = (identity.start_lsn, identity.created_at);
        let ddl = ddl.map(|objects| initial_definitions(end, time, "INIT", objects)).into_iter().collect();
        writer.publish(&Publication { end, time, relations, ddl, ..Publication::default() }).await?;
        make_permanent(&self.slots, &temporary, &identity.slot).await?;
        if let Err(failure) = writer.begin(&identity).await {
            drop_slot(&self.slots, &identity.slot).await?;
            return Err(failure);
        }
        drop(replication);
        Ok(report)
    }
}

/// What is to be archived, as the snapshot shows it: a table may have been made since the tables were chosen.
pub(super) async fn describe_source(
    source: &Source,
    store: &Store,
    publication: &str,
    snapshot: &str,
) -> Result<DescribedSource> {
    let session = snapshot_session(source, snapshot).await?;
    let mut described = DescribedSource::default();
    for table in catalog::tables(&session).await? {
        if table.unlogged || !catalog::is_published(&session, table.oid, publication).await? {
            continue;
        }
        described.jobs.extend(ImageJob::describe(&session, store, table).await?);
    }
    for oid in catalog::partitioned_tables(&session).await? {
        described.parents.extend(catalog::describe(&session, oid).await?);
    }
    if definitions::is_installed(&session, publication).await? {
        described.others = definitions::other_objects(&session, publication).await?;
    }
    Ok(described)
}

/// Refuses a second `init` for the same slot: each would rewrite the other's publication, and the later one would
/// take the archive from the earlier. The lock goes with the session.
async fn require_only_init(client: &Client, slot: &str) -> Result<()> {
    let sql = "SELECT pg_try_advisory_lock(hashtextextended('afterimage init ' || $1::text, 0))";
    if client.query_one(sql, &[&slot]).await?.get(0) {
        return Ok(());
    }
    Err(Failure::refused(format!("another init for the slot {slot} is running"))
        .remedy("wait for it, or stop it; another archive of the same database needs another --slot and --publication"))
}

/// Creating a slot can wait for hours, and a server that waits does not look whether its client has gone: the
/// temporary slot would stay until then. Servers on systems that cannot tell refuse the setting.
pub(super) async fn notice_our_end(replication: &mut ReplicationConnection) {
    // Only an SQL statement starts the server's timer; it then goes on through the replication command that follows.
    for sql in ["SET client_connection_check_interval = '1s'", "SELECT"] {
        if let Err(failure) = replication.simple_query(sql).await {
            tracing::debug!("the source cannot watch its connections: {failure}");
        }
    }
}

fn choose(tables: Vec<SourceTable>, settings: &CaptureSettings, facts: &SourceFacts) -> Result<Chosen> {
    catalog::require_matches(&settings.tables, &tables)?;
    let wanted = |table: &SourceTable| settings.wants(&table.name);
    let mut chosen = Chosen::default();
    let (unlogged, logged): (Vec<_>, Vec<_>) = tables.into_iter().filter(wanted).partition(|table| table.unlogged);
    chosen.unlogged = unlogged;
    require_privileges(&logged, &facts.role)?;
    for table in logged {
        let place = match table.can_be_published(settings.set_identity_full) {
            true if table.identity_usable => &mut chosen.archived,
            true => &mut chosen.set_full,
            false => &mut chosen.left_out,
        };
        place.push(table);
    }
    if chosen.archived.is_empty() && chosen.set_full.is_empty() {
        let why = if chosen.left_out.is_empty() {
            "has no tables to archive"
        } else {
            "has no table with a usable replica identity"
        };
        return Err(Failure::failed(format!("the database {} {why}", facts.database))
            .remedy("create a table with a primary key, or pass --set-identity-full"));
    }
    Ok(chosen)
}

async fn set_identities(client: &Client, tables: &[SourceTable]) -> Result<()> {
    for table in tables {
        let Some(identity) = &table.identity_to_set else { continue };
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; ALTER TABLE {} REPLICA IDENTITY {identity}; COMMIT",
            table.name.to_sql()
        );
        if let Err(error) = client.batch_execute(&sql).await {
            client.batch_execute("ROLLBACK").await?;
            return Err(Failure::from(error).context(format_args!("setting the replica identity of {}", table.name)));
        }
    }
    Ok(())
}

/// Makes the publication one of these tables, or of all where there is no list.
async fn set_publication(
    client: &Client,
    publication: &str,
    tables: Option<&Vec<&SourceTable>>,
    version: i32,
) -> Result<()> {
    let exists =
        client.query_opt("SELECT puballtables FROM pg_publication WHERE pubname = $1", &[&publication]).await?;
    let name = quote_identifier(publication);
    let list = tables.map(|tables| {
        let list: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.name.to_sql())).collect();
        format!("TABLE {}", list.join(", "))
    });
    let sql = match (exists.map(|row| row.get::<_, bool>(0)), list) {
        (Some(true), Some(_)) => {
            return Err(Failure::failed(format!("the publication {name} exists and is FOR ALL TABLES")).remedy(
                "an UPDATE of a table without identity fails under it; choose another name with --publication",
            ));
        }
        (Some(true), None) => String::new(),
        (Some(false), Some(list)) => format!("ALTER PUBLICATION {name} SET {list}"),
        (Some(false), None) => format!("DROP PUBLICATION {name}; CREATE PUBLICATION {name} FOR ALL TABLES"),
        (None, Some(list)) => format!("CREATE PUBLICATION {name} FOR {list}"),
        (None, None) => format!("CREATE PUBLICATION {name} FOR ALL TABLES"),
    };
    // Without it an UPDATE of a table with a stored generated column in its identity fails (PostgreSQL manual, 29.6).
    let generated = match version {
        18.. => format!("; ALTER PUBLICATION {name} SET (publish_generated_columns = stored)"),
        _ => String::new(),
    };
    let created = client.batch_execute(&format!("{sql}{generated}")).await;
    created.map_err(|error| Failure::from(error).context("creating the publication"))
}

async fn require_slot_unused(client: &Client, slot: &str) -> Result<()> {
    let found = client
        .query_opt(
            "SELECT active_pid, slot_type, database::text = current_database() FROM pg_replication_slots WHERE slot_name = $1",
            &[&slot],
        )
        .await?;
    let Some(row) = found else { return Ok(()) };
    let (pid, kind, ours): (Option<i32>, String, Option<bool>) = (row.get(0), row.get(1), row.get(2));
    if kind != "logical" || ours != Some(true) {
        return Err(Failure::refused(format!("the slot {slot} exists and belongs to something else"))
            .remedy("choose another name with --slot"));
    }
    match pid {
        Some(pid) => Err(Failure::refused(format!("the slot {slot} is in use by the server process {pid}"))
            .remedy("another archiver runs for this database; name its archive, or choose another slot with --slot")),
        None => Ok(()),
    }
}

/// Drops the slot that an interrupted `init` of this same archive left: it stands where that one's history was to
/// begin. Any other slot of the name is another archive's, which would lose everything from then on.
async fn drop_stray_slot(client: &Client, slot: &str, left_off: Option<Lsn>) -> Result<()> {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = client.query_opt(sql, &[&slot]).await? else { return Ok(()) };
    let stands = row.get::<_, Option<String>>(0).and_then(|text| text.parse::<Lsn>().ok());
    if stands.is_some() && stands == left_off {
        return drop_slot(client, slot).await;
    }
    Err(Failure::refused(format!("the slot {slot} exists and belongs to another archive")).remedy(format!(
        "name that archive with --archive; or choose another --slot and --publication; or, if it is given up for \
         ever: SELECT pg_drop_replication_slot({});",
        quote_literal(slot)
    )))
}

pub(super) async fn drop_slot(client: &Client, slot: &str) -> Result<()> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    client
        .query(sql, &[&slot])
        .await
        .map_err(|error| Failure::from(error).context(format_args!("dropping the slot {slot}")))?;
    Ok(())
}

async fn make_permanent(client: &Client, temporary: &str, slot: &str) -> Result<()> {
    let sql = format!(
        "SELECT pg_copy_logical_replication_slot({}, {}, false)",
        quote_literal(temporary),
        quote_literal(slot)
    );
    client.batch_execute(&sql).await.map_err(|error| Failure::from(error).context("creating the slot"))
}

async fn notify_if_slow<T>(work: impl Future<Output = Result<T>>, notify: impl Fn()) -> Result<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = machine::sleep(Duration::from_secs(3)) => notify(),
    }
    work.await
}

/// What an archive begins with, and goes on with after a gap: the definitions that there were, as if one statement had made
/// them all.
pub(super) fn initial_definitions(lsn: Lsn, time: DateTime<Utc>, tag: &str, objects: String) -> DdlRecord {
    DdlRecord {
        position: Position::before(lsn),
        time,
        xid: 0,
        tag: tag.into(),
        statement: None,
        user: None,
        application: None,
        client: None,
        objects,
        dropped: "[]".into(),
        failed: None,
    }
}

async fn add_images(writer: &mut ArchiveWriter, images: Vec<StagedImage>, lsn: Lsn) -> Result<Vec<RelationRecord>> {
    let mut relations = Vec::new();
    for image in images {
        writer.add_image(&image.relation.name, &image_table_schema(&image.relation), &image.files).await?;
        relations.push(RelationRecord::described(lsn, image.relation, image.definition));
    }
    Ok(relations)
}
