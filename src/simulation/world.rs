//! Everything outside of the program: the source, the store, the network between, and who watches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use super::database::Database;
use super::plan::{Faults, Knobs};
use crate::machine;
use crate::model::Lsn;

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) knobs: Knobs,
    pub(super) faults: Faults,
    database: Mutex<Database>,
    /// Changes whenever the log has grown.
    pub(super) log: watch::Sender<usize>,
    /// Every connection ends when this changes.
    pub(super) cuts: watch::Sender<u64>,
    up: AtomicBool,
    connections: AtomicU64,
    pub(super) objects: Arc<InMemory>,
    pub(super) requests: Mutex<Requests>,
    /// The watermark that the store has.
    pub(super) watermark: AtomicU64,
    /// No faults any more.
    calm: AtomicBool,
    dice: Mutex<StdRng>,
    trace: Mutex<Trace>,
    violations: Mutex<Vec<String>>,
}

/// What was asked of the store.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// How often each operation was asked for each path.
    pub(super) seen: BTreeMap<(&'static str, String), u64>,
    /// When each object was written.
    pub(super) written: BTreeMap<String, DateTime<Utc>>,
    pub(super) count: u64,
    pub(super) failed: u64,
}

/// What happened, as one number; and, on request, line by line.
#[derive(Debug)]
struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

/// FNV-1a: the same in every build.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number of everything that is given.
pub(super) fn hash_of(seed: u64, parts: &[&[u8]]) -> u64 {
    let hash = parts.iter().fold(fold(0xcbf2_9ce4_8422_2325, &seed.to_le_bytes()), |hash, part| fold(hash, part));
    // The last bytes reach the upper bits only so.
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (hash >> 32)
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(seed: u64, knobs: Knobs, faults: Faults, verbose: bool) -> Arc<World> {
        Arc::new(World {
            seed,
            knobs,
            faults,
            database: Mutex::new(Database::new()),
            log: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
            up: AtomicBool::new(true),
            connections: AtomicU64::new(0),
            objects: Arc::new(InMemory::new()),
            requests: Mutex::default(),
            watermark: AtomicU64::new(0),
            calm: AtomicBool::new(false),
            dice: Mutex::new(StdRng::seed_from_u64(seed ^ 0x5eed)),
            trace: Mutex::new(Trace { hash: seed, lines: verbose.then(Vec::new) }),
            violations: Mutex::default(),
        })
    }

    pub(super) fn database(&self) -> MutexGuard<'_, Database> {
        locked(&self.database)
    }

    /// Tells walsenders that there may be more.
    pub(super) fn log_grew(&self) {
        let length = self.database().log.len();
        self.log.send_if_modified(|known| std::mem::replace(known, length) != length);
    }

    pub(super) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub(super) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub(super) fn pipe_bytes(&self) -> usize {
        self.knobs.pipe_bytes
    }

    pub(super) fn chance(&self, of: u32, among: u32) -> bool {
        locked(&self.dice).random_ratio(of, among)
    }

    /// Waits for up to so many milliseconds.
    pub(super) async fn delay(&self, most_ms: u64) {
        let micros = locked(&self.dice).random_range(0..=most_ms * 1000);
        machine::sleep(Duration::from_micros(micros)).await;
    }

    /// Notes what happened, for the history's fingerprint.
    pub(super) fn trace(&self, what: &str, bytes: &[u8]) {
        let mut trace = locked(&self.trace);
        trace.hash = fold(fold(trace.hash, what.as_bytes()), bytes);
        let hash = trace.hash;
        if let Some(lines) = &mut trace.lines {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
            lines.push(format!("{} {hash:016x} {what} {shown:?}", machine::now().format("%T%.6f")));
        }
    }

    /// Says something, for whoever looks at one history.
    pub(super) fn say(&self, what: impl std::fmt::Display) {
        self.trace("", what.to_string().as_bytes());
    }

    pub(super) fn traced(&self) -> (u64, Vec<String>) {
        let trace = locked(&self.trace);
        (trace.hash, trace.lines.clone().unwrap_or_default())
    }

    /// Notes that something that must hold does not.
    pub(super) fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        self.say(format_args!("VIOLATION {what}"));
        locked(&self.violations).push(what);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        locked(&self.violations).clone()
    }

    /// The archiver acknowledges a position: invariant 1 says how far it may.
    pub(super) fn acknowledged(&self, slot: &str, flushed: Lsn) {
        let watermark = Lsn(self.watermark.load(Ordering::Relaxed));
        if flushed > watermark {
            self.violation(format!("1: {flushed} was acknowledged, the watermark is {watermark}"));
        }
        let mut database = self.database();
        let Some(slot) = database.slots.get_mut(slot) else { return };
        slot.confirmed = slot.confirmed.max(flushed);
        if self.chance(1, 3) {
            slot.persisted = slot.confirmed;
        }
    }

    /// The store has another watermark, which never goes back.
    pub(super) fn published(&self, watermark: Lsn) {
        self.say(format_args!("watermark {watermark}"));
        let before = Lsn(self.watermark.swap(watermark.0, Ordering::Relaxed));
        if watermark < before {
            self.violation(format!("2: the watermark went back from {before} to {watermark}"));
        }
    }
}
