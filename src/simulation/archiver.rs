//! Who runs the archiver: as the command line does, again whenever it has ended, and, now and then, until it is killed.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::process::Process;
use super::store;
use super::world::World;
use crate::archive::{Archive, Publication};
use crate::capture::{
    self, CaptureSettings, Chosen, ImageProgress, InitSteps, Outcome, RunEvents, source_check::SourceFacts,
};
use crate::failure::{Category, Failure, Result};
use crate::machine;
use crate::maintenance::{self, Policy, Published, Tiers};
use crate::model::{Freshness, Lsn};
use crate::recovery;
use crate::transaction::Onlooker;

/// What becomes of archivers is decided apart from what the users do.
const ARCHIVERS: u64 = 0xa7c4;

/// Keeps an archiver running.
pub(super) struct Keeper {
    world: Arc<World>,
    dice: StdRng,
    stop: watch::Receiver<bool>,
    number: u64,
    /// The one that runs now, for whoever makes it trouble.
    pub(super) current: watch::Sender<Option<Arc<Process>>>,
}

/// One archiver, in a task of its own.
type Life = JoinHandle<Result<Outcome>>;

impl Keeper {
    pub(super) fn new(world: &Arc<World>, stop: watch::Receiver<bool>) -> Keeper {
        let dice = StdRng::seed_from_u64(world.seed ^ ARCHIVERS);
        Keeper { world: Arc::clone(world), dice, stop, number: 0, current: watch::Sender::new(None) }
    }

    /// Runs one archiver after the other, until one was told to stop and did.
    pub(super) async fn keep(mut self) {
        loop {
            let process = self.start();
            let life = live(&self.world, &process, &self.stop);
            self.current.send_replace(Some(Arc::clone(&process)));
            let mut replaced = self.current.subscribe();
            let mut life = life;
            tokio::select! {
                biased;
                () = process.died.notified() => self.killed(&process, &life),
                // A rival takes its place, and it goes on meanwhile.
                _ = replaced.wait_for(Option::is_none) => {
                    self.world.say(format_args!("{process:?} is cut off"));
                    process.cut_off();
                }
                ended = &mut life => {
                    let ended = ended.unwrap_or_else(|error| Err(Failure::failed(format!("it panicked: {error}"))));
                    self.world.say(format_args!("{process:?} ended: {ended:?}"));
                    if matches!(ended, Ok(Outcome::Stopped)) {
                        return;
                    }
                    self.judge(&ended);
                    process.kill();
                    process.closed.send_replace(true);
                }
            }
            let pause = Duration::from_millis(self.dice.random_range(1..6000));
            machine::sleep(pause).await;
        }
    }

    fn start(&mut self) -> Arc<Process> {
        self.number += 1;
        let life = self.world.knobs.life;
        let mortal = self.world.faults.crashes && !self.world.is_calm();
        let dies_at = self.dice.random_range(1..2 * life);
        let process = Process::start(&self.world, self.number, if mortal { dies_at } else { 0 });
        self.world.say(format_args!("{process:?} starts"));
        process
    }

    fn killed(&mut self, process: &Arc<Process>, life: &Life) {
        self.world.say(format_args!("{process:?} is killed"));
        life.abort();
        // The server notices sooner or later.
        let notices = Duration::from_millis([0, 100, 3000, 20_000][self.dice.random_range(0..4)]);
        let process = Arc::clone(process);
        tokio::spawn(async move {
            machine::sleep(notices).await;
            process.closed.send_replace(true);
        });
    }

    /// What an archiver may end with, when nobody told it to stop.
    fn judge(&self, ended: &Result<Outcome>) {
        match ended {
            Err(failure) if failure.is_transient() => {}
            // A server that restarts while base images are taken takes the snapshot with it: the program is run again.
            Err(failure) if failure.cause().contains("invalid snapshot identifier") => {}
            Err(failure) if failure.category() == Category::Refused && is_about_others(failure) => {}
            other => self.world.violation(format!("the archiver ended: {other:?}")),
        }
    }
}

/// Somebody else has the slot, or has taken the archive over.
fn is_about_others(failure: &Failure) -> bool {
    ["is in use by", "another archiver", "another init", "is active for"]
        .iter()
        .any(|words| failure.cause().contains(words))
}

fn settings(world: &World) -> CaptureSettings {
    CaptureSettings {
        memory: world.knobs.memory,
        flush_interval: Duration::from_millis(world.knobs.flush_ms),
        capture_ddl: world.knobs.ddl,
        copy_workers: 2,
        ..CaptureSettings::default()
    }
}

fn live(world: &Arc<World>, process: &Arc<Process>, stop: &watch::Receiver<bool>) -> Life {
    let life = Archiver { world: Arc::clone(world), process: Arc::clone(process), published: Published::default() };
    tokio::task::spawn_local(Box::pin(life.run(stop.clone())))
}

/// What `afterimage run` does.
struct Archiver {
    world: Arc<World>,
    process: Arc<Process>,
    published: Published,
}

impl Archiver {
    async fn run(self, stop: watch::Receiver<bool>) -> Result<Outcome> {
        let (source, settings) = (self.process.source(), settings(&self.world));
        let store = store::open(&self.world, Some(&self.process));
        if Archive::find(&store).await?.is_none() {
            Box::pin(capture::init(&source, &store, &settings, &Unseen, std::future::pending())).await?;
        }
        let keeping = self.world.faults.maintenance.then(|| {
            let policy = Policy {
                tiers: Tiers { target_bytes: 1 << 20, fan_in: 3 },
                image_floor_bytes: 2000,
                interval: Duration::from_secs(3),
                memory_bytes: 1 << 20,
                retention: Duration::from_secs(20),
                ..Policy::default()
            };
            tokio::spawn(maintenance::keep(store.clone(), policy, self.published.clone(), stop.clone()))
        });
        let outcome = loop {
            let run = capture::run(&source, &store, &settings, None, stop.clone(), Onlooker::default(), &self);
            match Box::pin(run).await {
                Ok(Outcome::Lost(lost)) => {
                    self.world.say(format_args!("{lost:?}"));
                    let progress = Arc::new(ImageProgress::default());
                    Box::pin(recovery::resume(&source, &store, &settings, &lost, progress)).await?;
                }
                outcome => break outcome,
            }
        };
        keeping.iter().for_each(JoinHandle::abort);
        outcome
    }
}

impl RunEvents for Archiver {
    fn streaming(&self, from: Lsn) {
        self.world.say(format_args!("streaming from {from}"));
    }

    fn interrupted(&self, failure: &Failure) {
        self.world.say(format_args!("interrupted: {failure}"));
    }

    fn resumed(&self) {
        self.world.say("resumed");
    }

    fn published(&self, publication: &Publication) {
        self.published.note(publication);
    }

    fn measured(&self, _: Freshness) {}
}

/// Nobody looks how `init` gets on.
struct Unseen;

impl InitSteps for Unseen {
    fn will_do(&self, _: &Chosen, _: &SourceFacts, _: &str, _: &str) {}
    fn captures_ddl(&self, _: bool) {}
    fn waiting_for_transactions(&self) {}
    fn copying(&self, _: &Arc<ImageProgress>) {}
    fn copied(&self) {}
}
