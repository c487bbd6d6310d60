//! Keeps a roll-up as far as the watermark is, once somebody has asked for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde::Serialize;

use super::rollup::Rollup;
use crate::archive::Archive;
use crate::failure::Result;

/// Between two looks at the watermark while somebody looks at the console, and while nobody does.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(30);
/// Who has asked this long ago looks no more.
const LOOKING: Duration = Duration::from_secs(60);

/// Between two looks whether the log has been read.
const LOOKS: Duration = Duration::from_millis(10);

/// How far the roll-up is.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Progress {
    /// Whether it has been where the watermark was.
    pub(super) whole: bool,
    /// What part of the log has been read, from 0 to 1.
    pub(super) share: f64,
    pub(super) transactions: u64,
    pub(super) changes: u64,
    /// Memory that it takes.
    pub(super) bytes: usize,
    /// How long the log took to be read at first.
    pub(super) seconds: f64,
}

/// See the module's documentation.
pub(super) struct Followed {
    archive: Archive,
    rollup: RwLock<Rollup>,
    started: AtomicBool,
    whole: AtomicBool,
    /// Bytes of the log that have been read, and those that there are to be read at first.
    read: AtomicU64,
    to_read: AtomicU64,
    /// Milliseconds that the first reading took.
    took: AtomicU64,
    /// Milliseconds since `born` at which somebody asked last.
    asked: AtomicU64,
    born: Instant,
}

impl Followed {
    pub(super) fn new(archive: &Archive) -> Arc<Followed> {
        Arc::new(Followed {
            archive: archive.clone(),
            rollup: RwLock::default(),
            started: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            read: AtomicU64::new(0),
            to_read: AtomicU64::new(0),
            took: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            born: Instant::now(),
        })
    }

    /// The roll-up as far as it is; the first who asks has it begun.
    pub(super) fn look(self: &Arc<Self>) -> RwLockReadGuard<'_, Rollup> {
        self.asked.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
        if !self.started.swap(true, Ordering::Relaxed) {
            let weak = Arc::downgrade(self);
            tokio::spawn(async move {
                // It ends with the console.
                while let Some(followed) = weak.upgrade() {
                    if let Err(failure) = followed.catch_up().await {
                        tracing::warn!("the timeline waits: {failure}");
                    }
                    let pause = followed.pause();
                    drop(followed);
                    tokio::time::sleep(pause).await;
                }
            });
        }
        // A count that was cut off by a panic is short; the next start counts anew.
        self.rollup.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all of the log has been read, but no longer than this; whether it has been.
    pub(super) async fn settled(self: &Arc<Self>, patience: Duration) -> bool {
        drop(self.look());
        let began = Instant::now();
        while !self.whole.load(Ordering::Relaxed) {
            if began.elapsed() >= patience {
                return false;
            }
            tokio::time::sleep(LOOKS).await;
        }
        true
    }

    fn pause(&self) -> Duration {
        let asked = Duration::from_millis(self.asked.load(Ordering::Relaxed));
        if self.born.elapsed().saturating_sub(asked) < LOOKING { SOON } else { LATER }
    }

    async fn catch_up(&self) -> Result<()> {
        let began = Instant::now();
        let watermark = self.archive.watermark().await?.lsn;
        let until = self.write(|rollup| rollup.until);
        if watermark > until {
            let range = until..watermark;
            let files = self.archive.logged_files(&range).await?;
            self.to_read.fetch_add(files.iter().map(|file| file.size).sum(), Ordering::Relaxed);
            for file in &files {
                // After a failure it goes on behind what was counted: files and their rows are in commit order.
                let range = self.write(|rollup| rollup.until)..watermark;
                let mut batches = self.archive.logged(file, range, watermark).await?;
                while let Some(batch) = batches.next().await {
                    let batch = batch?;
                    self.write(|rollup| rollup.count(&batch));
                    tokio::task::yield_now().await;
                }
                self.read.fetch_add(file.size, Ordering::Relaxed);
            }
            self.write(|rollup| {
                rollup.settle();
                rollup.until = watermark;
            });
        }
        if !self.whole.swap(true, Ordering::Relaxed) {
            self.took.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn write<T>(&self, change: impl FnOnce(&mut Rollup) -> T) -> T {
        change(&mut self.rollup.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn progress(self: &Arc<Self>) -> Progress {
        let rollup = self.look();
        let (read, to_read) = (self.read.load(Ordering::Relaxed), self.to_read.load(Ordering::Relaxed));
        let whole = self.whole.load(Ordering::Relaxed);
        Progress {
            whole,
            share: if whole { 1.0 } else { read as f64 / to_read.max(1) as f64 },
            transactions: rollup.transactions,
            changes: rollup.changes,
            bytes: rollup.bytes(),
            seconds: self.took.load(Ordering::Relaxed) as f64 / 1000.0,
        }
    }
}
