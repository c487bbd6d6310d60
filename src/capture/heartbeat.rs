//! Says now and then how far the archiver has come, and how much room is left for what has not ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::run::sleep_or_stop;
use crate::archive::{ArchiverState, Store};
use crate::machine;
use crate::model::Lsn;
use crate::transaction::Running;

/// How often it is said, where it has changed.
const PAUSES: Duration = Duration::from_secs(10);

/// Room is short when less is free than is taken, or than this.
const LEAST_FREE: u64 = 1 << 30;

/// How far the stages have come.
#[derive(Debug, Clone, Default)]
pub(super) struct Reached(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    received: AtomicU64,
    decoded: AtomicU64,
}

impl Reached {
    pub(super) fn received(&self, lsn: Lsn) {
        self.0.received.fetch_max(lsn.0, Ordering::Relaxed);
    }

    pub(super) fn decoded(&self, lsn: Lsn) {
        self.0.decoded.fetch_max(lsn.0, Ordering::Relaxed);
    }
}

/// See the module's documentation.
pub(super) struct Heartbeat {
    pub(super) store: Store,
    pub(super) reached: Reached,
    pub(super) running: watch::Receiver<Running>,
    pub(super) spill_directory: PathBuf,
    pub(super) stop: watch::Receiver<bool>,
}

impl Heartbeat {
    /// Speaks until it is stopped. A store that does not answer is somebody else's to report.
    pub(super) async fn run(self) {
        let (mut said, mut short) = (None, false);
        loop {
            let now = self.look();
            let what = (now.received, now.decoded, now.in_progress, now.spilled_bytes);
            if said != Some(what) {
                match now.write(&self.store).await {
                    Ok(()) => said = Some(what),
                    Err(failure) => tracing::debug!("saying how far the archiver is: {failure}"),
                }
            }
            let is_short = now.is_short_of_room();
            if is_short && !short {
                tracing::warn!(
                    "unfinished transactions take {} bytes in {}, {} are free: make room there, or name another directory with --spill-directory",
                    now.spilled_bytes,
                    self.spill_directory.display(),
                    now.spill_free_bytes.unwrap_or(0)
                );
            }
            short = is_short;
            if sleep_or_stop(PAUSES, self.stop.clone()).await {
                return;
            }
        }
    }

    fn look(&self) -> ArchiverState {
        let steps = &self.reached.0;
        let running = self.running.borrow();
        let free = rustix::fs::statvfs(&self.spill_directory).ok();
        ArchiverState {
            at: machine::now(),
            received: Lsn(steps.received.load(Ordering::Relaxed)),
            decoded: Lsn(steps.decoded.load(Ordering::Relaxed)),
            in_progress: running.len(),
            spilled_bytes: running.iter().map(|transaction| transaction.spilled).sum(),
            spill_free_bytes: free.map(|found| found.f_bavail.saturating_mul(found.f_frsize)),
        }
    }
}

impl ArchiverState {
    fn is_short_of_room(&self) -> bool {
        let needed = self.spilled_bytes.max(LEAST_FREE);
        self.spilled_bytes > 0 && self.spill_free_bytes.is_some_and(|free| free < needed)
    }
}
