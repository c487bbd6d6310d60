//! Killed at any moment, the archiver loses nothing and doubles nothing.

use std::env;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Database, Directory, Load, Release, Site, State, Watcher, postgres};

/// How often the archiver is killed where nobody says otherwise.
const ROUNDS: u64 = 12;

/// Sessions that work meanwhile.
const SESSIONS: u64 = 4;

/// As many states as can be compared in a bearable time.
const STATES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kill_soak_on_the_systems_release() {
    kill_at_random_moments(Release::System).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kill_soak_on_eighteen() {
    kill_at_random_moments(Release::Eighteen).await;
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

async fn kill_at_random_moments(release: Release) {
    let seed = number("AFTERIMAGE_SOAK_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    // Shown when the test fails.
    println!("AFTERIMAGE_SOAK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = Directory::new();
    let database = Database::create(postgres(release)).await;
    if release == Release::Eighteen {
        database.send_at_once().await;
    }
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory);
    let load = Load::start(&database, seed, SESSIONS);
    site.init();
    let watcher = Watcher::start(&site);
    let mut states = vec![State::of(&database).await];
    let rounds = number("AFTERIMAGE_SOAK_ROUNDS").unwrap_or(ROUNDS);
    for round in 0..rounds {
        let archiver = site.start();
        tokio::time::sleep(Duration::from_millis(random.random_range(10..1500))).await;
        if random.random_range(0..3) == 0 {
            let state = State::of(&database).await;
            match states.len() {
                STATES => states[random.random_range(0..STATES)] = state,
                _ => states.push(state),
            }
        }
        let end = archiver.kill();
        assert_eq!(end.code, None, "round {round}: it ended before it was killed\n{}", end.stderr);
    }
    load.wait_for_more(10);
    println!("{rounds} kills, {} transactions", load.committed());
    load.stop().await;
    states.push(State::of(&database).await);
    site.catch_up();
    watcher.stop().await;
    for state in &states {
        site.expect_equal(state);
    }
    site.expect_each_once(states[0].tables.keys());
}
