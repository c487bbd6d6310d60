//! Base images that are taken while changes go on: of tables that history begins to cover, or lost sight of.
//!
//! A snapshot that a new slot exports has a place in commit order of its own. The stream gives the table's changes on both
//! sides of it, and the image becomes a base for every point from there on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::base_image::{ImageCopy, ImageJob, ImageProgress, StagedImage, snapshot_session};
use super::catalog;
use super::decoder::Slots;
use super::definitions;
use super::run::sleep_or_stop;
use crate::archive::Store;
use crate::failure::{Failure, Result};
use crate::model::Lsn;
use crate::postgres::{MessageKind, ReplicationConnection, Source, Throttle, emit_message};
use crate::transaction::IMAGE_PREFIX;

/// A base image with its place.
pub(super) struct Addition {
    /// Transactions that committed before this are in the image, and no others.
    pub(super) lsn: Lsn,
    pub(super) image: StagedImage,
}

/// Takes images, one table at a time, so that the source hardly notices.
pub(super) struct Additions {
    pub(super) source: Source,
    pub(super) store: Store,
    pub(super) slot: String,
    pub(super) publication: String,
    /// Bytes per second at most.
    pub(super) throttle: Option<u64>,
    pub(super) taken: mpsc::Sender<Addition>,
    pub(super) stop: watch::Receiver<bool>,
}

/// How long after a failure an image is tried again.
const PAUSE: Duration = Duration::from_secs(20);

impl Additions {
    /// Works until nobody wants images any more. A failure is said, and the table tried again later: meanwhile it is
    /// refused to readers, and its changes are kept.
    pub(super) async fn run(self, mut wanted: mpsc::UnboundedReceiver<u32>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let Some(oid) = wanted.recv().await else { return };
                waiting.push_back(oid);
            }
            while let Ok(oid) = wanted.try_recv() {
                if !waiting.contains(&oid) {
                    waiting.push_back(oid);
                }
            }
            let Some(oid) = waiting.pop_front() else { continue };
            match self.take(oid).await {
                Ok(Some(addition)) => {
                    if self.taken.send(addition).await.is_err() {
                        return;
                    }
                }
                // It is gone, or is no table whose rows are in the log.
                Ok(None) => {}
                Err(failure) => {
                    tracing::warn!("the base image of table {oid} waits: {failure}");
                    waiting.push_back(oid);
                    if self.taken.is_closed() || sleep_or_stop(PAUSE, self.stop.clone()).await {
                        return;
                    }
                }
            }
        }
    }

    async fn take(&self, oid: u32) -> Result<Option<Addition>> {
        let session = self.source.connect("afterimage image").await?;
        if catalog::table(&session, oid).await?.is_none_or(|table| table.unlogged) {
            return Ok(None);
        }
        if !catalog::is_published(&session, oid, &self.publication).await?
            && !definitions::protect(&session, oid, &self.publication).await?
        {
            return Ok(None);
        }
        let decoder = self.source.decoder();
        let mut replication = ReplicationConnection::connect(decoder).await?;
        let slots = Slots::of(&self.source, &session).await?;
        let created = slots.create(&session, &mut replication, &format!("{}_image", self.slot), true).await?;
        let lsn = created.consistent_point;
        let snapshot = created.snapshot.ok_or_else(|| Failure::failed("the source exported no snapshot"))?;
        let then = snapshot_session(decoder, &snapshot).await?;
        let Some(table) = catalog::table(&then, oid).await? else { return Ok(None) };
        let Some(job) = ImageJob::describe(&then, &self.store, table).await? else { return Ok(None) };
        drop(then);
        let progress = Arc::new(ImageProgress::default());
        let copy = ImageCopy {
            source: decoder,
            store: &self.store,
            snapshot: &snapshot,
            lsn,
            workers: 1,
            throttle: self.throttle.map(Throttle::new),
            progress,
        };
        let images = copy.run(vec![job]).await?;
        // An idle source writes nothing that would carry the stream past the image's place.
        emit_message(&session, MessageKind::Immediate, IMAGE_PREFIX, &lsn.to_string()).await?;
        let image = images.into_iter().next();
        Ok(image.map(|image| Addition { lsn, image }))
    }
}
