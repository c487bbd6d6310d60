//! Traffic, faults and maintenance for as long as one likes: nothing is lost, and nothing grows that need not.
//!
//! `make soak MINUTES=60 ONLY=endurance`; a minute in every test run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{Database, Directory, Load, PATIENCE, Proxy, Release, Running, Site, State, Watcher};

/// The archiver is killed in the first only, so that what grows has the others to grow in.
const PARTS: u32 = 4;

/// What is looked at all the time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// kB.
    memory: u64,
    files: u64,
    /// Bytes of log that the slot holds back; nothing while the source is away.
    lag: Option<i64>,
}

impl Sample {
    async fn take(archiver: &Running, site: &Site<'_>, archive: &Path) -> Sample {
        Sample { memory: memory(archiver), files: files(archive), lag: lag(site).await }
    }
}

fn memory(archiver: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", archiver.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn files(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

async fn lag(site: &Site<'_>) -> Option<i64> {
    let (client, connection) = tokio_postgres::connect(site.database.url(), tokio_postgres::NoTls).await.ok()?;
    tokio::spawn(connection);
    let sql = "SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1";
    client.query_opt(sql, &[&site.slot()]).await.ok()??.get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn endurance_soak() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let minutes = number("AFTERIMAGE_SOAK_MINUTES").unwrap_or(1);
    let seed = number("AFTERIMAGE_SOAK_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("AFTERIMAGE_SOAK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = Directory::new();
    let launch = Release::Eighteen.launch().set("fsync", "on").set("wal_sender_timeout", "5s");
    let mut server = launch.set("checkpoint_timeout", "30s").set("max_wal_size", "256MB").start().unwrap();
    let database = Database::create(&server).await;
    Load::prepare(&database).await;
    let proxy = Proxy::to(server.port());
    let (direct, proxied) = (format!("127.0.0.1:{}/", server.port()), format!("127.0.0.1:{}/", proxy.port()));
    let through_proxy = server.tcp_url(database.name()).unwrap().replace(&direct, &proxied);
    let file = directory.join("soak.toml");
    fs::write(&file, "[maintenance]\ninterval = \"5s\"\nretention = \"20s\"\nimage_floor = \"4MB\"\n").unwrap();
    let site =
        Site::local(&database, &directory).source(&through_proxy).variable("AFTERIMAGE_CONFIG", file.to_str().unwrap());
    site.init();
    let start = || site.command(["run", "--flush-interval", "500ms"]).start();
    let load = Load::start(&database, seed, 3);
    let watcher = Watcher::start(&site);
    let mut archiver = start().streaming();
    let (mut states, mut samples) = (Vec::new(), Vec::new());
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for part in 0..PARTS {
        let (begun, mut seen) = (Instant::now(), Vec::new());
        while begun.elapsed() < Duration::from_secs(minutes * 60) / PARTS {
            tokio::time::sleep(Duration::from_millis(random.random_range(1000..4000))).await;
            assert!(archiver.is_running(), "it ended by itself\n{}", archiver.stderr());
            seen.push(Sample::take(&archiver, &site, &directory.join("archive")).await);
            let pause = Duration::from_millis(random.random_range(100..7000));
            let fault = match random.random_range(0..12) {
                0 => {
                    proxy.cut();
                    tokio::time::sleep(pause).await;
                    proxy.heal();
                    "network cut"
                }
                1 => {
                    proxy.stall();
                    tokio::time::sleep(pause).await;
                    proxy.heal();
                    "network stalled"
                }
                2 => {
                    end_session(&database).await;
                    "session ended"
                }
                3 => {
                    archiver.signal("STOP");
                    tokio::time::sleep(pause).await;
                    archiver.signal("CONT");
                    "archiver stopped"
                }
                4 if random.random_range(0..4) == 0 => {
                    server.kill().unwrap();
                    server.start().unwrap();
                    "source killed"
                }
                5..8 if part == 0 => {
                    archiver.kill();
                    archiver = start();
                    "archiver killed"
                }
                _ => continue,
            };
            *faults.entry(fault).or_default() += 1;
        }
        samples.push(seen);
        states.push(State::of(&database).await);
    }
    println!("{} transactions, {faults:?}", load.committed());
    load.stop().await;
    states.push(State::of(&database).await);
    watcher.stop().await;
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    site.catch_up();
    for state in &states {
        site.expect_equal(state);
    }
    site.expect_each_once(states[0].tables.keys());
    site.offline(["verify", "--chain"]).run(PATIENCE).expect(0);
    for (part, seen) in samples.iter().enumerate() {
        let (memory, files, lags) = (most(seen, |one| one.memory), most(seen, |one| one.files), lags(seen));
        println!("part {part}: at most {} MB, {files} files; the slot held back {lags:?} bytes", memory / 1024);
        assert!(lags.0 < 64 << 20, "the slot does not come after: {lags:?}");
    }
    // Each part has as much time as the others: whatever grows with it would have doubled.
    let [settled, last] = [1, 3].map(|part| &samples[part as usize]);
    let (before, after) = (most(settled, |one| one.memory), most(last, |one| one.memory));
    assert!(after < before * 3 / 2 + (32 << 10), "memory grows: {before} kB, {after} kB");
    let (before, after) = (most(settled, |one| one.files), most(last, |one| one.files));
    assert!(after < before * 3 / 2 + 200, "files grow: {before}, {after}");
}

fn most(samples: &[Sample], of: fn(&Sample) -> u64) -> u64 {
    samples.iter().map(of).max().unwrap()
}

/// The least and the most.
fn lags(samples: &[Sample]) -> (i64, i64) {
    let lags = || samples.iter().filter_map(|one| one.lag);
    (lags().min().unwrap(), lags().max().unwrap())
}

async fn end_session(database: &Database) {
    let client = database.connect().await;
    let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    client.query(sql, &[]).await.unwrap();
}
