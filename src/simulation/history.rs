//! One history, from its plan to the auditor's last word.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use super::archiver::Keeper;
use super::auditor::{Look, audit};
use super::plan::Plan;
use super::process::Process;
use super::workload;
use super::world::{World, locked};
use crate::machine::{self, Timeline};
use crate::model::Lsn;

/// Within this (simulated) time everything is archived once no faults happen any more.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What became of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) violations: Vec<String>,
    /// The same for the same plan, always.
    pub(super) fingerprint: u64,
    pub(super) commits: usize,
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// What happened, line by line, where that was asked for.
    pub(super) lines: Vec<String>,
}

/// Plays a history on this thread.
pub(super) fn play(plan: &Plan, verbose: bool) -> Outcome {
    let timeline = Timeline::begin(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(machine::nothing_to_do)
        .build()
        .unwrap();
    let world = World::new(plan.seed, plan.knobs(), plan.faults, verbose);
    world.say(format_args!("{plan:?} {:?}", world.knobs));
    // The archiver's future stays on its thread, as it does in the program.
    tokio::task::LocalSet::new().block_on(&runtime, Box::pin(history(plan, Arc::clone(&world))));
    let (fingerprint, lines) = world.traced();
    let requests = locked(&world.requests);
    let (count, failed) = (requests.count, requests.failed);
    drop(requests);
    let commits = world.database().commits.len();
    let violations = world.violations();
    drop(runtime);
    drop(timeline);
    Outcome { violations, fingerprint, commits, requests: count, failed, lines }
}

async fn history(plan: &Plan, world: Arc<World>) {
    let dice = |what: u64| StdRng::seed_from_u64(plan.seed ^ what);
    let (mut users, mut trouble, mut looks) = (dice(1), dice(2), dice(3));
    workload::prepare(&world, &mut users);
    let (stopper, stop) = watch::channel(false);
    let keeper = Keeper::new(&world, stop);
    let current = keeper.current.clone();
    let keeping = tokio::task::spawn_local(keeper.keep());
    for step in 0..plan.steps {
        workload::step(&world, &mut users);
        machine::sleep(pause(&mut users)).await;
        make_trouble(&world, &current, &mut trouble);
        if looks.random_ratio(1, 12) {
            world.say(format_args!("step {step}: an audit"));
            audit(&world, Look::Passing, &mut looks).await;
        }
        if !world.violations().is_empty() {
            return;
        }
    }
    workload::finish(&world, &mut users);
    world.calm_down();
    if let Some(process) = current.borrow().as_ref() {
        process.outlives_all();
    }
    if archived(&world).await {
        stopper.send_replace(true);
        if machine::timeout(PATIENCE, keeping).await.is_err() {
            world.violation("the archiver does not stop");
        }
        audit(&world, Look::Final, &mut looks).await;
    }
}

/// Waits until everything is archived.
async fn archived(world: &World) -> bool {
    let last = world.database().commits.iter().filter(|one| !one.changes.is_empty()).map(|one| one.end_lsn).max();
    let last = last.unwrap_or(Lsn::ZERO);
    let waited = async {
        while Lsn(world.watermark.load(std::sync::atomic::Ordering::Relaxed)) < last && world.violations().is_empty() {
            machine::sleep(Duration::from_millis(500)).await;
        }
    };
    if machine::timeout(PATIENCE, waited).await.is_err() {
        world.violation(format!("6: {last} is not archived after {} s without faults", PATIENCE.as_secs()));
    }
    world.violations().is_empty()
}

fn pause(dice: &mut StdRng) -> Duration {
    Duration::from_millis(match dice.random_range(0..40) {
        0 => dice.random_range(5_000..90_000),
        1..=10 => dice.random_range(100..2000),
        _ => dice.random_range(0..40),
    })
}

/// What goes wrong between two steps.
fn make_trouble(world: &Arc<World>, current: &watch::Sender<Option<Arc<Process>>>, dice: &mut StdRng) {
    // What there is not is thrown for too: leaving a fault out changes no other.
    let (cut, restart) = (dice.random_ratio(1, 12), dice.random_ratio(1, 20));
    let (rival, loss) = (dice.random_ratio(1, 12), dice.random_ratio(1, 25));
    let how = dice.random_range(0..3);
    let down = Duration::from_millis(dice.random_range(0..5000));
    if cut && world.faults.cuts {
        world.say("all connections are cut");
        world.cuts.send_modify(|count| *count += 1);
    }
    if restart && world.faults.restarts {
        world.say("the server restarts");
        world.set_up(false);
        world.cuts.send_modify(|count| *count += 1);
        world.database().restart();
        world.log_grew();
        let world = Arc::clone(world);
        tokio::spawn(async move {
            machine::sleep(down).await;
            world.set_up(true);
        });
    }
    if rival && world.faults.rivals {
        current.send_replace(None);
    }
    if loss && world.faults.losses {
        lose(world, how);
    }
}

/// The slot cannot give what follows the watermark any more.
fn lose(world: &World, how: u32) {
    let mut database = world.database();
    let position = database.position();
    let Some((name, slot)) = database.slots.iter_mut().find(|(_, slot)| slot.temporary.is_none()) else { return };
    let name = name.clone();
    match how {
        0 => drop(database.slots.remove(&name)),
        1 => slot.lost = true,
        _ => (slot.confirmed, slot.persisted) = (position, position),
    }
    drop(database);
    world.say(format_args!("the slot {name} is lost: {how}"));
    world.cuts.send_modify(|count| *count += 1);
}
