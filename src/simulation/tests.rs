//! Histories that are played, and what is printed of those that fail.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::history::{Outcome, play};
use super::plan::Plan;
use super::world::locked;

/// Plans that found something once, in a form that [`Plan::parse`] reads. They are played every time.
const REGRESSIONS: &[&str] = &[
    // A watermark was committed twice: its answer was lost, and so was the look at what stood in the way of the next attempt.
    "224",
    // A table that a prepared transaction was the first to show was unknown to those that committed before it.
    "192:41:store",
];

/// How many seeds are played where nobody says otherwise.
const SEEDS: u64 = 300;

/// Threads that play at the same time: the machine's cores, and no more than a few.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

fn parsed(text: &str) -> Plan {
    Plan::parse(text).unwrap_or_else(|| panic!("{text:?} is no plan: SEED, or SEED:STEPS:FAULT,FAULT"))
}

/// What the histories of a run came to.
#[derive(Default)]
struct Total {
    failed: Vec<(Plan, Outcome)>,
    commits: u64,
    requests: u64,
    faults: u64,
    /// Of all histories, in whichever order they were played: the same for the same plans, also in another process.
    fingerprint: u64,
}

/// Plays plans on all cores.
fn play_all(plans: &[Plan]) -> Total {
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let outcome = play(plan, false);
                    let mut total = locked(&total);
                    total.commits += outcome.commits as u64;
                    total.requests += outcome.requests;
                    total.faults += outcome.failed;
                    total.fingerprint = total.fingerprint.wrapping_add(outcome.fingerprint);
                    if !outcome.violations.is_empty() {
                        total.failed.push((*plan, outcome));
                    }
                }
            });
        }
    });
    total.into_inner().unwrap()
}

#[test]
fn soak_no_history_breaks_an_invariant() {
    if let Ok(plan) = std::env::var("AFTERIMAGE_SEED") {
        return show(&parsed(&plan));
    }
    let (first, count) = (number("AFTERIMAGE_FIRST_SEED").unwrap_or(0), number("AFTERIMAGE_SOAK_SEEDS"));
    let seeds = (first..first + count.unwrap_or(SEEDS)).map(Plan::of);
    let plans: Vec<Plan> = REGRESSIONS.iter().map(|text| parsed(text)).chain(seeds).collect();
    let began = Instant::now();
    let total = play_all(&plans);
    let seconds = began.elapsed().as_secs_f64();
    let Total { failed, commits, requests, faults, fingerprint } = total;
    println!(
        "{} simulated histories in {seconds:.1} s, {:.0} a minute: {commits} commits, {requests} requests to the store, \
         {faults} of them failed; fingerprint {fingerprint:016x}",
        plans.len(),
        plans.len() as f64 * 60.0 / seconds
    );
    for (plan, outcome) in failed.iter().take(10) {
        println!("{plan}: {}", outcome.violations[0]);
    }
    if let Some((plan, _)) = failed.first() {
        let plan = shrunk(*plan);
        println!("shrunk: AFTERIMAGE_SEED={plan} cargo test --lib simulation -- --nocapture");
        println!("keep it: add \"{plan}\" to REGRESSIONS in src/simulation/tests.rs");
    }
    assert!(failed.is_empty(), "{} of {} histories failed", failed.len(), plans.len());
}

/// The least of a plan that still fails: fewer faults, then fewer steps.
fn shrunk(mut plan: Plan) -> Plan {
    let fails = |plan: &Plan| !play(plan, false).violations.is_empty();
    while let Some(faults) =
        plan.faults.without_one().into_iter().find(|faults| fails(&Plan { faults: *faults, ..plan }))
    {
        plan.faults = faults;
    }
    let (mut enough, mut too_few) = (plan.steps, 0);
    while enough > too_few + 1 {
        let steps = too_few.midpoint(enough);
        if fails(&Plan { steps, ..plan }) { enough = steps } else { too_few = steps }
    }
    Plan { steps: enough, ..plan }
}

/// Plays one history and prints what happened.
fn show(plan: &Plan) {
    let outcome = play(plan, true);
    outcome.lines.iter().for_each(|line| println!("{line}"));
    println!(
        "{} commits, {} requests to the store, {} of them failed",
        outcome.commits, outcome.requests, outcome.failed
    );
    assert!(outcome.violations.is_empty(), "{plan}: {:#?}", outcome.violations);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..number("AFTERIMAGE_SAME_SEEDS").unwrap_or(20) {
        let plan = Plan::of(seed);
        let (first, second) = (play(&plan, true), play(&plan, true));
        let differs = first.lines.iter().zip(&second.lines).find(|(first, second)| first != second);
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}: {differs:?}");
    }
}

#[test]
fn a_plan_is_written_as_it_is_read() {
    for seed in 0..50 {
        let plan = Plan::of(seed);
        assert_eq!(Plan::parse(&plan.to_string()), Some(plan));
    }
    assert_eq!(Plan::parse("7:12:nonsense"), None);
}
