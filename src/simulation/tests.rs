//! Histories that are played, and what is printed of those that fail.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::history::{Outcome, play};
use super::plan::Plan;
use super::world::locked;

/// Seeds that found something once.
const REGRESSIONS: &[u64] = &[];

/// How many seeds are played where nobody says otherwise.
const SEEDS: u64 = 60;

/// Threads that play at the same time: the machine's cores, and no more than a few.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// Plays seeds on all cores; gives those that failed.
fn play_all(seeds: &[u64]) -> Vec<(Plan, Outcome)> {
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(seed) = seeds.get(at) else { return };
                    let plan = Plan::of(*seed);
                    let outcome = play(&plan, false);
                    if !outcome.violations.is_empty() {
                        locked(&failed).push((plan, outcome));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

#[test]
fn no_history_breaks_an_invariant() {
    if let Some(seed) = number("AFTERIMAGE_SEED") {
        return show(seed);
    }
    let count = number("AFTERIMAGE_SOAK_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<u64> = REGRESSIONS.iter().copied().chain(0..count).collect();
    let began = Instant::now();
    let failed = play_all(&seeds);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!("{} seeds in {:.1} s, {:.0} a minute", seeds.len(), minutes * 60.0, seeds.len() as f64 / minutes);
    for (plan, outcome) in &failed {
        println!("{plan:?}: {}", outcome.violations[0]);
    }
    assert!(failed.is_empty(), "{} of {} seeds failed", failed.len(), seeds.len());
}

/// Plays one seed and prints what happened.
fn show(seed: u64) {
    let outcome = play(&Plan::of(seed), true);
    outcome.lines.iter().for_each(|line| println!("{line}"));
    println!("{} commits, {} requests to the store, {} of them failed", outcome.commits, outcome.requests, outcome.failed);
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..6 {
        let plan = Plan::of(seed);
        let (first, second) = (play(&plan, true), play(&plan, true));
        let differs = first.lines.iter().zip(&second.lines).find(|(first, second)| first != second);
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}: {differs:?}");
    }
}
