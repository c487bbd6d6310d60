//! Synchronous replication into the archive: commits in the source that wait until they are durable here.
//!
//! PostgreSQL lets a commit wait for whoever `synchronous_standby_names` lists (manual, "Synchronous Replication"), by the
//! name of the connection that streams, and releases it by the position that we acknowledge as flushed. That is the
//! watermark, so nothing has to be added for it to be right. For it to be fast, what waits must be published at once: as
//! soon as the publication before is durable, with everything that came meanwhile.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::heartbeat::Reached;
use super::run::{SlotState, sleep_or_stop, slot_in};
use crate::archive::{ArchiveIdentity, DurableLsn};
use crate::failure::Result;
use crate::machine;
use crate::model::Lsn;
use crate::postgres::{Session, Source};

/// How often the source is asked whether its commits wait for us.
const LOOKS: Duration = Duration::from_secs(1);

/// Looks whether commits wait for the archiver.
pub(super) struct Lookout {
    pub(super) source: Source,
    pub(super) identity: ArchiveIdentity,
    pub(super) waited_for: watch::Sender<bool>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Lookout {
    /// Looks until it is stopped. While the source does not answer, what was seen last holds.
    pub(super) async fn run(self) {
        let mut session = None;
        loop {
            match self.look(&mut session).await {
                Ok(now) => self.note(now),
                Err(failure) => {
                    session = None;
                    tracing::debug!("asking whether commits wait for the archive: {failure}");
                }
            }
            if sleep_or_stop(LOOKS, self.stop.clone()).await {
                return;
            }
        }
    }

    async fn look(&self, session: &mut Option<Session>) -> Result<bool> {
        let session = match session {
            Some(session) => session,
            None => session.insert(self.source.connect("afterimage run").await?),
        };
        Ok(slot_in(session, &self.identity).await?.is_some_and(|slot: SlotState| slot.synchronous))
    }

    fn note(&self, now: bool) {
        if self.waited_for.send_if_modified(|before| std::mem::replace(before, now) != now) {
            tracing::info!(
                "{}",
                if now { "commits wait for the archive" } else { "commits do not wait for the archive" }
            );
        }
    }
}

/// When rows are to be written, and what has ended is to be published.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) flush_interval: Duration,
    /// Bytes of changes in memory.
    pub(super) flush_bytes: usize,
    pub(super) waited_for: watch::Receiver<bool>,
    pub(super) reached: Reached,
    pub(super) durable: watch::Receiver<DurableLsn>,
}

impl Pace {
    /// Whether it is time, where the flush interval ends at `deadline` and everything up to `published` has been handed
    /// on. Where commits wait, the deadline does not count, and what is on its way does: publications one by one take in
    /// all that came meanwhile, and many small ones would queue.
    pub(super) fn is_due(&self, deadline: Instant, published: Lsn) -> bool {
        match *self.waited_for.borrow() {
            true => self.durable.borrow().lsn() >= published,
            false => machine::instant() >= deadline,
        }
    }

    /// Waits until it may be time.
    pub(super) async fn due(&mut self, deadline: Instant, published: Lsn) {
        tokio::select! {
            biased;
            () = machine::sleep_until(deadline) => {}
            () = is_so(&mut self.waited_for, |waited_for| *waited_for) => {
                is_so(&mut self.durable, |durable| durable.lsn() >= published).await;
            }
        }
    }
}

/// Waits until a value is as wanted; for ever where nobody will change it any more, since whoever knows why ends the
/// session.
async fn is_so<T>(value: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    if value.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}
