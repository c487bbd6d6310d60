//! `afterimage run`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::chain;
use super::console::{Closed, Listening, acceptor};
use super::context::{Context, parse_point};
use super::guarding;
use super::init::InitArgs;
use super::output::human;
use super::probes::Counters;
use super::progress::{InitShown, RunShown};
use super::schedule;
use super::session::SpillDirectory;
use crate::archive::{Archive, Store, note_alerts};
use crate::capture::{
    self, CaptureSettings, ImageProgress, InitSteps as _, LostSlot, OnLostSlot, Outcome, RunEvents as _,
};
use crate::config::{ByteSize, CaptureConfig, Span};
use crate::failure::{Failure, Result};
use crate::guard::gap_alert;
use crate::history::source_position;
use crate::http::{Answer, Request, Routes, Server};
use crate::maintenance;
use crate::model::{AlertRecord, Lsn, Point};
use crate::postgres::Source;
use crate::query::Limits;
use crate::recovery;
use crate::serve;
use crate::transaction::{Onlooker, Running, RunningTransaction};

#[derive(Debug, Clone, Args)]
pub(super) struct RunArgs {
    /// Stop when the archive has everything up to here: now, or an LSN
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    until: Option<Point>,
    /// The longest time that a committed transaction waits to be published; 1s by default
    #[arg(long, value_name = "DURATION")]
    flush_interval: Option<Span>,
    /// Memory that changes may take before they are written; 256MB by default
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Where unfinished transactions go that do not fit into it; the system's temporary directory by default
    #[arg(long, value_name = "DIRECTORY")]
    spill_directory: Option<PathBuf>,
    /// Drop the slot, and record a gap, rather than let it hold back more of the source's log than this
    #[arg(long, value_name = "SIZE")]
    max_slot_lag: Option<ByteSize>,
    /// Leave the archive's files as they are; afterimage maintain does what is left out
    #[arg(long)]
    no_maintenance: bool,
    /// Answer /livez, /readyz and /metrics over HTTP there, and show the console; 127.0.0.1:8432 where no address is given
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8432")]
    http: Option<String>,
    #[command(flatten)]
    init: InitArgs,
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<()> {
    let only_for_init = args.init.is_given();
    let config = CaptureConfig {
        flush_interval: args.flush_interval,
        memory: args.memory,
        spill_directory: args.spill_directory,
        max_slot_lag: args.max_slot_lag,
        ..args.init.config()
    };
    let settings = context.capture(config)?;
    let (source, store) = (context.source()?, context.store()?);
    if Archive::find(&store).await?.is_none() {
        let steps = InitShown::default();
        let init = capture::init(&source, &store, &settings, &steps, stop_requested());
        answering_meanwhile(context, args.http.as_deref(), Box::pin(init)).await?;
    } else if only_for_init {
        tracing::warn!("there is an archive already: the options about tables, slot and publication change nothing");
    }
    let until = match args.until {
        None => None,
        Some(point) => Some(target(&source, point).await?),
    };
    let answered = answer_http(context, &store, args.http.as_deref()).await?;
    let counters = answered.as_ref().map(|answered| Arc::clone(&answered.counters));
    let (stopper, stop) = watch::channel(false);
    tokio::spawn(async move {
        stop_requested().await;
        tracing::info!("stopping: publishing what has arrived");
        stopper.send_replace(true);
        // Dropping the sender would look like the end of the program.
        stopper.closed().await;
    });
    let (running, in_progress) = watch::channel(Running::default());
    tokio::spawn(tell_of_large(in_progress.clone()));
    let (maintained, published) = (context.config.maintenance.clone(), maintenance::Published::default());
    let policy = maintained.policy().beside_archiver(settings.memory);
    let keeping = (!args.no_maintenance && !maintained.off)
        .then(|| tokio::spawn(maintenance::keep(store.clone(), policy, published.clone(), stop.clone())));
    let bounding = match settings.max_slot_lag {
        Some(most) => {
            let identity = Archive::open(&store).await?.identity().clone();
            Some(tokio::spawn(capture::bound_slot(source.clone(), identity, most)))
        }
        None => None,
    };
    let anchoring = chain::has_anchors(context).then(|| tokio::spawn(chain::keep(context.clone())));
    let proving = schedule::has_any(context).then(|| tokio::spawn(schedule::keep(context.clone())));
    let guarding = guarding::start(context, &source, &store, in_progress.clone(), settings.memory).await?;
    let (guard, glimpses, entrance) = match guarding {
        Some(guarding::Guarding { guard, glimpses, entrance }) => (Some(guard), Some(glimpses), Some(entrance)),
        None => (None, None, None),
    };
    let onlooker = Onlooker { running, glimpses };
    let events = RunShown { json: context.json, published, entrance, counters };
    let archiving = Archiving { source: &source, store: &store, settings: &settings, events: &events };
    let outcome = Box::pin(archiving.run(until, stop, onlooker)).await;
    drop(events);
    // It can be cut off anywhere, as by a crash.
    keeping.iter().chain(&proving).chain(&anchoring).chain(&bounding).for_each(tokio::task::JoinHandle::abort);
    if let Some(guard) = guard {
        guard.finish().await;
    }
    match outcome? {
        Outcome::Stopped => tracing::info!("stopped"),
        Outcome::Reached => tracing::info!("the archive has everything up to {}", until.unwrap_or(Lsn::ZERO)),
        Outcome::Lost(lost) => return Err(lost.failure()),
    }
    Ok(())
}

/// Capture, and what follows where its slot is lost.
struct Archiving<'a> {
    source: &'a Source,
    store: &'a Store,
    settings: &'a CaptureSettings,
    events: &'a RunShown,
}

impl Archiving<'_> {
    async fn run(&self, until: Option<Lsn>, stop: watch::Receiver<bool>, onlooker: Onlooker) -> Result<Outcome> {
        loop {
            let (stop, onlooker) = (stop.clone(), onlooker.clone());
            let outcome =
                capture::run(self.source, self.store, self.settings, until, stop.clone(), onlooker, self.events)
                    .await?;
            let Outcome::Lost(lost) = &outcome else { return Ok(outcome) };
            if self.settings.on_lost_slot == OnLostSlot::Stop {
                return Ok(outcome);
            }
            if self.resume(lost, stop).await? {
                return Ok(Outcome::Stopped);
            }
        }
    }

    /// Whether it was stopped meanwhile.
    async fn resume(&self, lost: &LostSlot, mut stop: watch::Receiver<bool>) -> Result<bool> {
        tracing::error!("{}: there will be a gap; reading every table anew", lost.cause);
        let shown = InitShown::default();
        let progress = Arc::new(ImageProgress::default());
        shown.copying(&progress);
        let resumed = tokio::select! {
            resumed = recovery::resume(self.source, self.store, self.settings, lost, progress) => resumed,
            _ = stop.wait_for(|stopped| *stopped) => Ok(None),
        };
        shown.copied();
        match resumed {
            Ok(None) => {}
            Ok(Some(publication)) => {
                for gap in &publication.gaps {
                    tracing::error!("a gap is recorded: {} to {}: {}", gap.lsn, gap.end_lsn, gap.reason);
                }
                self.events.published(&publication);
                if self.events.entrance.is_none() {
                    let alerts: Vec<AlertRecord> = publication.gaps.iter().map(gap_alert).collect();
                    note_alerts(self.store, &alerts, None).await?;
                }
            }
            Err(failure) if failure.is_transient() => {
                tracing::warn!("capture cannot go on yet, trying again: {failure}");
                let stopped = tokio::time::timeout(RESUMED_AGAIN, stop.wait_for(|stopped| *stopped)).await;
                return Ok(stopped.is_ok());
            }
            Err(failure) => return Err(failure),
        }
        Ok(*stop.borrow())
    }
}

/// How long after a failure it is tried again to go on from a lost slot.
const RESUMED_AGAIN: Duration = Duration::from_secs(5);

/// Answers probes while the first base image is taken, which may take hours.
async fn answering_meanwhile<T>(
    context: &Context,
    address: Option<&str>,
    init: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(address) = address else { return init.await };
    let server = Server::listen(address).await?.with_tls(acceptor(&context.config.serve)?);
    if let Some(url) = server.url() {
        tracing::info!("answering {url}/livez while the first base image is taken");
    }
    tokio::select! {
        done = init => done,
        () = server.run(Arc::new(Beginning)) => Err(Failure::failed(format!("{address} does not answer any more"))),
    }
}

/// What is answered before there is an archive.
struct Beginning;

#[async_trait::async_trait]
impl Routes for Beginning {
    async fn answer(&self, request: &Request) -> Option<Answer> {
        match request.path.as_str() {
            "/livez" => Some(Answer::text("200 OK", "ok\n")),
            "/readyz" | "/metrics" => {
                Some(Answer::text("503 Service Unavailable", "the first base image is being taken\n"))
            }
            _ => None,
        }
    }
}

/// Answers probes, and shows the console, where an address is given, until the program ends; and counts for them.
async fn answer_http(context: &Context, store: &Store, address: Option<&str>) -> Result<Option<Answered>> {
    let Some(address) = address else { return Ok(None) };
    let (archive, counters) = (Archive::open(store).await?, Arc::<Counters>::default());
    let config = &context.config.serve;
    let spill = SpillDirectory::of_console();
    let limits = Limits { memory_bytes: config.memory_bytes(), spill_dir: spill.path().to_owned() };
    let session = serve::session(&archive, limits).await?;
    let counted = Some(Arc::clone(&counters));
    let listening = Listening::start(context, config, (archive, session), address, Closed::ProbesOnly, counted).await?;
    if let Some(url) = listening.url() {
        tracing::info!("answering {url}/livez, /readyz and /metrics");
    }
    let answering = tokio::spawn(listening.run());
    Ok(Some(Answered { counters, answering, _spill: spill }))
}

/// What answers beside archiving, until it is dropped.
struct Answered {
    counters: Arc<Counters>,
    answering: tokio::task::JoinHandle<()>,
    _spill: SpillDirectory,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// How often a large transaction that goes on is told of.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Changes from which on a transaction is large.
const LARGE: u64 = 100_000;

/// Tells of transactions that have changed much and have not committed yet.
async fn tell_of_large(mut in_progress: watch::Receiver<Running>) {
    while in_progress.changed().await.is_ok() {
        let running = Running::clone(&in_progress.borrow_and_update());
        let changes = |one: &RunningTransaction| one.tables.iter().map(|(_, counts)| counts.total()).sum::<u64>();
        let large: Vec<&RunningTransaction> = running.iter().filter(|one| changes(one) >= LARGE).collect();
        for one in &large {
            let most = one.tables.iter().max_by_key(|(_, counts)| counts.total());
            let most = most.map_or(String::new(), |(table, counts)| format!(", {} of them in {table}", counts.total()));
            tracing::info!(
                "transaction {} is in progress: {} changes{most}, {} in files",
                one.xid,
                changes(one),
                human::bytes(one.spilled)
            );
        }
        if !large.is_empty() {
            tokio::time::sleep(TOLD_EVERY).await;
        }
    }
}

async fn target(source: &Source, point: Point) -> Result<Lsn> {
    match point {
        Point::Now => source_position(source).await,
        Point::Lsn(lsn) => Ok(lsn),
        other => Err(Failure::usage(format!("run cannot stop at {other}")).remedy("--until takes now or an LSN")),
    }
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn stop_requested() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the signals end the program by themselves.
        _ => std::future::pending().await,
    }
}
