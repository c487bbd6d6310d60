//! The archiver: sessions with the source, one after the other, until stopped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_postgres::{Client, Row};

use super::addition::Additions;
use super::assembler::{Assembler, Until};
use super::committer::{Committer, Files, Waiting};
use super::decoder::Slots;
use super::definitions;
use super::early::EarlyEncoder;
use super::freshness::FreshnessMeter;
use super::heartbeat::{Heartbeat, Reached};
use super::known::{KnownRelations, known_tables};
use super::observer::Observer;
use super::receiver;
use super::resent::Resent;
use super::settings::CaptureSettings;
use super::source_check;
use super::spool::{Hold, Outlets, Spool};
use super::successor::succession;
use super::synchronous::{Lookout, Pace};
use super::terms::Terms;
use crate::archive::{Archive, ArchiveIdentity, ArchiveWriter, Publication, Store};
use crate::failure::{Failure, Result};
use crate::machine;
use crate::model::{Freshness, Lsn, quote_identifier};
use crate::postgres::{ReplicationConnection, Source};
use crate::transaction::Onlooker;

/// Batches that may wait between the receiver and the assembler.
const QUEUED_BATCHES: usize = 8;
/// Pieces of transactions in progress that may wait to be encoded.
const QUEUED_PIECES: usize = 8;
/// Jobs that may wait between the assembler and the committer.
const QUEUED_JOBS: usize = 1;

/// How long a slot that is still in use is waited for at the start: a killed archiver's connection
/// takes a moment to be noticed.
const SLOT_PATIENCE: Duration = Duration::from_secs(4);
/// The same after a connection broke: the server notices the old one only after `wal_sender_timeout`.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(150);

/// What happens while the archiver runs, for whoever shows it. Each is said once.
pub trait RunEvents: Send + Sync {
    /// Streaming has begun.
    fn streaming(&self, from: Lsn);
    /// The source or the store does not answer; it is tried again until it does.
    fn interrupted(&self, failure: &Failure);
    /// It answers again.
    fn resumed(&self);
    /// A publication became durable.
    fn published(&self, publication: &Publication);
    /// How fresh the archive was in the last minutes, now and then, and at the end since the start.
    fn measured(&self, freshness: Freshness);
}

/// Why the archiver ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was told to stop.
    Stopped,
    /// The wanted position is in the archive.
    Reached,
    /// The slot cannot give what follows the watermark.
    Lost(LostSlot),
}

/// Archives until `stop` turns true, or until the watermark has reached `until`.
///
/// # Errors
/// What waiting cannot mend. Everything that was published before stays published.
pub async fn run(
    source: &Source,
    store: &Store,
    settings: &CaptureSettings,
    until: Option<Lsn>,
    stop: watch::Receiver<bool>,
    onlooker: Onlooker,
    events: &dyn RunEvents,
) -> Result<Outcome> {
    // What the archiver itself writes must not wait for the archiver.
    let source = &source.without_waiting();
    let until = until.map_or(Until::Stopped, Until::Reached);
    let mut course = Course {
        claimed: None,
        streamed: false,
        terms: Terms::default(),
        onlooker,
        freshness: Arc::new(FreshnessMeter::new()),
    };
    let outcome = run_sessions(source, store, settings, until, stop, events, &mut course).await;
    if let Some(total) = course.freshness.total() {
        events.measured(total);
    }
    outcome
}

async fn run_sessions(
    source: &Source,
    store: &Store,
    settings: &CaptureSettings,
    until: Until,
    stop: watch::Receiver<bool>,
    events: &dyn RunEvents,
    course: &mut Course,
) -> Result<Outcome> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let mut interrupted = false;
    let mut patience = SLOT_PATIENCE;
    loop {
        let started = machine::instant();
        let terms = course.terms.now();
        let session = Session { source, store, settings, until, patience, interrupted, events };
        match session.run(course, stop.clone()).await {
            Ok(Some(lost)) => return Ok(Outcome::Lost(lost)),
            Ok(None) if *stop.borrow() => return Ok(Outcome::Stopped),
            Ok(None) => return Ok(Outcome::Reached),
            Err(failure) if failure.is_transient() && course.terms.now() != terms => {
                tracing::debug!("another session: {failure}");
            }
            Err(failure) if failure.is_transient() => {
                if started.elapsed() > Duration::from_secs(60) {
                    backoff.reset();
                }
                // What was mended is said when it breaks again.
                interrupted &= !std::mem::take(&mut course.streamed);
                if !std::mem::replace(&mut interrupted, true) {
                    events.interrupted(&failure);
                }
                patience = RECONNECT_PATIENCE;
                if sleep_or_stop(backoff.next(), stop.clone()).await {
                    return Ok(Outcome::Stopped);
                }
            }
            Err(failure) => return Err(failure),
        }
    }
}

pub(super) async fn sleep_or_stop(duration: Duration, mut stop: watch::Receiver<bool>) -> bool {
    let stopped = machine::timeout(duration, stop.wait_for(|stopped| *stopped)).await;
    matches!(stopped, Ok(Ok(_)))
}

/// What is kept from session to session.
#[derive(Debug)]
struct Course {
    /// The epoch of our latest claim of the archive.
    claimed: Option<i64>,
    /// The latest session got as far as to stream.
    streamed: bool,
    terms: Terms,
    onlooker: Onlooker,
    freshness: Arc<FreshnessMeter>,
}

/// One connection's worth of archiving.
struct Session<'a> {
    source: &'a Source,
    store: &'a Store,
    settings: &'a CaptureSettings,
    until: Until,
    patience: Duration,
    interrupted: bool,
    events: &'a dyn RunEvents,
}

impl Session<'_> {
    /// Works until it is to end, or gives a slot with which it cannot begin.
    async fn run(&self, course: &mut Course, stop: watch::Receiver<bool>) -> Result<Option<LostSlot>> {
        let archive = Archive::open(self.store).await?;
        if let Some(epoch) = course.claimed {
            ArchiveWriter::require_epoch(self.store, epoch).await?;
        }
        let identity = archive.identity();
        let catalog = self.source.connect("afterimage run").await?;
        let facts = source_check::facts(&catalog).await?;
        facts.require_archivable()?;
        require_same_source(&catalog, identity).await?;
        let streamed_from = if course.onlooker.wants_rows() { WATCHED_FROM } else { STREAMED_FROM };
        let sender = self.source.decoder().with_setting("logical_decoding_work_mem", streamed_from);
        let mut replication = ReplicationConnection::connect(&sender).await?;
        let watermark = archive.watermark().await?.lsn;
        let (timeline, parted) = succession(&mut replication, &archive, watermark).await?;
        if parted.is_none() && matches!(self.until, Until::Reached(target) if watermark >= target) {
            return Ok(None);
        }
        let slots = Slots::of(self.source, &catalog).await?;
        let slot = wait_for_slot(&slots, identity, self.patience, &stop).await?;
        slots.warn().await?;
        drop(slots);
        // Read after the slot: whoever used it until then may have moved both on.
        let watermark = archive.watermark().await?.lsn;
        let lost = LostSlot::find(&identity.slot, slot.as_ref(), watermark).or(parted);
        let (Some(slot), None) = (slot, &lost) else { return Ok(lost) };
        if slot.failover == Some(false) && self.source.standby().is_none() {
            keep_through_failovers(&mut replication, &slot.name).await;
        }
        let (known, unseen) = known_tables(&archive, watermark).await?;
        let in_parts = course.terms.whole_up_to() <= watermark;
        let binary = course.terms.allow_binary(known.values());
        let options = stream_options(replication.server_major(), &identity.publication, in_parts, binary);
        // From where the slot is acknowledged: what is in the archive beyond is dropped when it comes again, and what was
        // prepared before and committed after must come again.
        let stream = replication.start_replication(&identity.slot, Lsn::ZERO, &options).await?;
        // The slot is ours now, so no other archiver streams: the archive can be claimed.
        // A claim whose answer is lost may have replaced our own.
        course.claimed = None;
        let mut writer = ArchiveWriter::claim(self.store).await?;
        writer.on_timeline(timeline);
        course.claimed = Some(writer.epoch());
        let durable = writer.durable().ok_or_else(|| Failure::failed("the archive has no watermark"))?;
        if durable.lsn() != watermark {
            return Err(Failure::transient("the archive moved on while it was being claimed"));
        }
        if self.interrupted {
            self.events.resumed();
        } else {
            self.events.streaming(watermark);
        }
        course.streamed = true;

        let (durable_sender, durable_receiver) = watch::channel(durable);
        let (event_sender, event_receiver) = mpsc::channel(QUEUED_BATCHES);
        let (whole_sender, whole_receiver) = mpsc::channel(QUEUED_BATCHES);
        let (hold_sender, hold_receiver) = watch::channel(vec![Hold::first(slot.confirmed_flush)]);
        let relations = KnownRelations::new(known.clone());
        let (early_sender, early_receiver) = mpsc::channel(QUEUED_PIECES);
        let early = EarlyEncoder {
            store: self.store.clone(),
            known: relations.clone(),
            memory: self.settings.memory_of_builders(),
            directory: self.settings.spill_directory.clone(),
            transactions: BTreeMap::new(),
        };
        let outlets =
            Outlets { whole: whole_sender, early: early_sender, holds: hold_sender, onlooker: course.onlooker.clone() };
        let resent = Resent::read(&archive, slot.confirmed_flush, watermark).await?;
        let spool =
            Spool::new(outlets, self.settings, course.terms.clone(), watermark, resent, durable_receiver.clone());
        let (job_sender, job_receiver) = mpsc::channel(QUEUED_JOBS);
        let (wanted_sender, wanted_receiver) = mpsc::unbounded_channel();
        let (taken_sender, taken_receiver) = mpsc::channel(1);
        for oid in &unseen {
            // The receiver is right here.
            let _ = wanted_sender.send(*oid);
        }
        let publication = identity.publication.clone();
        let (waited_for, is_waited_for) = watch::channel(false);
        let lookout =
            Lookout { source: self.source.clone(), identity: identity.clone(), waited_for, stop: stop.clone() };
        let reached = Reached::default();
        let assembler = Assembler::new(
            job_sender,
            Pace {
                flush_interval: self.settings.flush_interval,
                flush_bytes: self.settings.memory_of_builders(),
                waited_for: is_waited_for,
                reached: reached.clone(),
                durable: durable_receiver.clone(),
            },
            publication.clone(),
            wanted_sender,
            unseen,
            watermark,
            self.until,
        );
        let assembler = if binary { assembler.in_binary(course.terms.clone()) } else { assembler };
        let additions = Additions {
            source: self.source.clone(),
            store: self.store.clone(),
            slot: identity.slot.clone(),
            publication,
            throttle: self.settings.throttle,
            taken: taken_sender,
            stop: stop.clone(),
        };
        let observer = Observer {
            source: self.source.clone(),
            archive: archive.clone(),
            settings: self.settings.clone(),
            publication: identity.publication.clone(),
            known,
            suspects: HashMap::new(),
            stop: stop.clone(),
        };
        let heartbeat = Heartbeat {
            store: self.store.clone(),
            reached: reached.clone(),
            running: course.onlooker.running.subscribe(),
            spill_directory: self.settings.spill_directory.clone(),
            stop: stop.clone(),
        };
        let captures_ddl = definitions::is_installed(&catalog, &identity.publication).await?;
        let committer = Committer {
            writer,
            captures_ddl,
            catalog,
            known: relations,
            described: HashMap::new(),
            durable: durable_sender,
            freshness: Arc::clone(&course.freshness),
            waiting: Waiting::new(self.events, stop.clone()),
            files: Files::default(),
        };
        let receiving = tokio::spawn(receiver::receive(
            stream,
            event_sender,
            durable_receiver,
            hold_receiver,
            Arc::clone(&course.freshness),
            reached.clone(),
        ));
        let encoding = tokio::spawn(early.run(early_receiver));
        let spooling = tokio::spawn(spool.run(event_receiver));
        let assembling = tokio::spawn(assembler.run(whole_receiver, taken_receiver, stop));
        let adding = tokio::spawn(additions.run(wanted_receiver));
        let observing = tokio::spawn(observer.run());
        let looking = tokio::spawn(lookout.run());
        let telling = tokio::spawn(heartbeat.run());
        // The committer ends when the assembler has hung up, with everything published that was whole.
        let committed = committer.run(job_receiver).await;
        // Creating a slot waits for as long as others' transactions run. What is lost is taken in the next session.
        adding.abort();
        observing.abort();
        looking.abort();
        telling.abort();
        let assembled = joined(assembling.await);
        let spooled = joined(spooling.await);
        let encoded = joined(encoding.await);
        let received = joined(receiving.await);
        // The stage that failed first makes the others fail with a mere "stopped".
        committed.and(assembled).and(encoded).and(spooled).and(received).map(|()| None)
    }
}

/// Bytes of a transaction's changes in the source's memory from which on it is sent before it has ended, so that little of
/// it is written to the source's disk.
const STREAMED_FROM: &str = "4MB";

/// The same where somebody watches rows as they come: the least that the source allows.
const WATCHED_FROM: &str = "64kB";

/// A slot that standbys keep too survives a failover. Where that cannot be had, a failover leaves a gap.
async fn keep_through_failovers(replication: &mut ReplicationConnection, slot: &str) {
    if let Err(failure) = replication.set_failover(slot).await {
        tracing::warn!("after a failover the slot {slot} will be missing: {failure}");
    }
}

/// What the source's version can do (PostgreSQL manual, 55.5.1). An unknown option is an error.
fn stream_options(major: u32, publication: &str, in_parts: bool, binary: bool) -> Vec<(&'static str, String)> {
    let protocol = match major {
        ..=14 => 2,
        15 => 3,
        16.. => 4,
    };
    let mut options = vec![
        ("proto_version", protocol.to_string()),
        ("publication_names", quote_identifier(publication)),
        ("messages", "true".to_owned()),
    ];
    if binary {
        options.push(("binary", "true".to_owned()));
    }
    if in_parts {
        options.push(("streaming", "on".to_owned()));
    }
    if major >= 15 {
        options.push(("two_phase", "on".to_owned()));
    }
    options
}

fn joined(outcome: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    outcome.unwrap_or_else(|error| Err(Failure::failed(format!("a stage of capture stopped: {error}"))))
}

const SAME_SOURCE: &str = "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text";

/// Refuses a source that is not the archive's.
///
/// # Errors
/// Refused, with both identities.
pub async fn require_same_source(client: &Client, identity: &ArchiveIdentity) -> Result<()> {
    let row = client.query_one(SAME_SOURCE, &[]).await?;
    let (system, database): (String, String) = (row.get(0), row.get(1));
    let wanted = identity.system_identifier.to_string();
    if system == wanted && database == identity.database {
        return Ok(());
    }
    let remedy = "name the archive of this database, or an empty root for a new one";
    Err(Failure::refused(format!(
        "the archive belongs to the database {} of system {wanted}, the source is {database} of system {system}",
        identity.database
    ))
    .remedy(remedy))
}

/// The archive's replication slot as the source has it.
#[derive(Debug, Clone, Serialize)]
pub struct SlotState {
    pub name: String,
    /// The server process that streams from it.
    pub active_pid: Option<i32>,
    /// Up to where the server process has sent.
    pub sent: Option<Lsn>,
    /// Up to where the archiver has received, by what it said last.
    pub received: Option<Lsn>,
    /// Up to where the archiver has acknowledged.
    pub confirmed_flush: Lsn,
    /// `reserved`, `extended`, `unreserved` or `lost` (PostgreSQL manual, `pg_replication_slots`).
    pub wal_status: String,
    /// Bytes of log that the slot keeps from being removed.
    pub held_bytes: i64,
    /// Bytes that can still be written before the slot may lose log; `None` where that is unlimited.
    pub safe_wal_size: Option<i64>,
    /// Commits in the source wait until they are durable in the archive.
    pub synchronous: bool,
    /// Standbys keep the slot too; `None` before version 17.
    pub failover: Option<bool>,
}

const SLOT: &str = "
SELECT active_pid, confirmed_flush_lsn::text, COALESCE(wal_status, 'lost'),
       COALESCE(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                                restart_lsn), 0)::bigint, safe_wal_size,
       COALESCE(r.sync_state IN ('sync', 'quorum'), false), r.sent_lsn::text, r.write_lsn::text,
       (to_jsonb(s) ->> 'failover')::boolean
FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = active_pid WHERE slot_name = $1 AND slot_type = 'logical' AND database = current_database()";

/// Looks at the archive's slot, wherever it is; `None` where it does not exist.
///
/// # Errors
/// As the source, or the standby that decodes for it, says.
pub async fn slot_state(source: &Source, session: &Client, identity: &ArchiveIdentity) -> Result<Option<SlotState>> {
    slot_in(&*Slots::of(source, session).await?, identity).await
}

/// The same in the server that has it.
pub(super) async fn slot_in(client: &Client, identity: &ArchiveIdentity) -> Result<Option<SlotState>> {
    let row = client.query_opt(SLOT, &[&identity.slot]).await?;
    let lsn = |row: &Row, at: usize| row.get::<_, Option<String>>(at).and_then(|text| text.parse().ok());
    Ok(row.map(|row| SlotState {
        name: identity.slot.clone(),
        active_pid: row.get(0),
        sent: lsn(&row, 6),
        received: lsn(&row, 7),
        confirmed_flush: lsn(&row, 1).unwrap_or(Lsn::ZERO),
        wal_status: row.get(2),
        held_bytes: row.get(3),
        safe_wal_size: row.get(4),
        synchronous: row.get(5),
        failover: row.get(8),
    }))
}

/// Waits until nobody else uses the slot; `None` where it does not exist.
///
/// # Errors
/// Refused where somebody else goes on using it.
async fn wait_for_slot(
    client: &Client,
    identity: &ArchiveIdentity,
    patience: Duration,
    stop: &watch::Receiver<bool>,
) -> Result<Option<SlotState>> {
    let slot = &identity.slot;
    let deadline = machine::instant() + patience;
    loop {
        let Some(state) = slot_in(client, identity).await? else { return Ok(None) };
        let Some(pid) = state.active_pid else { return Ok(Some(state)) };
        if machine::instant() >= deadline {
            return Err(Failure::refused(format!("the slot {slot} is in use by the server process {pid}"))
                .remedy("one archiver per archive: another one is running; stop it first"));
        }
        if sleep_or_stop(Duration::from_millis(200), stop.clone()).await {
            return Err(Failure::transient("stopped while the slot was in use"));
        }
    }
}

/// A slot that cannot give everything since the watermark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostSlot {
    /// What became of it.
    pub cause: String,
    /// It gives what comes from now on.
    pub usable: bool,
}

impl LostSlot {
    fn find(name: &str, slot: Option<&SlotState>, watermark: Lsn) -> Option<LostSlot> {
        let Some(slot) = slot else {
            return Some(LostSlot { cause: format!("the slot {name} does not exist any more"), usable: false });
        };
        if slot.wal_status == "lost" {
            let cause = format!("the slot {name} lost log that was not archived yet");
            return Some(LostSlot { cause, usable: false });
        }
        (slot.confirmed_flush > watermark).then(|| LostSlot {
            cause: format!(
                "the slot {name} was moved on to {}, the archive has everything up to {watermark}",
                slot.confirmed_flush
            ),
            usable: true,
        })
    }

    /// What to say where nobody goes on from it.
    pub fn failure(&self) -> Failure {
        Failure::refused(format!("{}: changes in between cannot be archived", self.cause)).remedy(
            "set on_lost_slot = \"resume\" under [capture] to go on with a recorded gap; the history so far stays readable",
        )
    }
}

/// Growing pauses with jitter.
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    current: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, current: first }
    }

    pub(super) fn reset(&mut self) {
        self.current = self.first;
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.current.mul_f64(machine::jitter());
        self.current = (self.current * 2).min(self.most);
        pause
    }
}
