//! Looks all the time whether the source was told more than is durable (invariant 1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use afterimage::archive::{Archive, Store};
use afterimage::model::Lsn;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::Site;

/// At work until stopped.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    /// How many positions of the slot it has seen.
    task: JoinHandle<usize>,
}

impl Watcher {
    /// Watches a site with a local archive and the usual slot.
    pub(crate) fn start(site: &Site<'_>) -> Watcher {
        let stop = Arc::new(AtomicBool::new(false));
        let (source, archive) = (site.database.url().to_owned(), site.archive_url().to_owned());
        let task = tokio::spawn(watch(source, archive, site.slot(), Arc::clone(&stop)));
        Watcher { stop, task }
    }

    /// # Panics
    /// Where the slot's position was ever above the watermark, or never moved while it was watched.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let positions = self.task.await.unwrap();
        assert!(positions > 1, "the slot did not move while it was watched");
    }
}

async fn watch(source: String, archive: String, slot: String, stop: Arc<AtomicBool>) -> usize {
    let archive = Archive::open(&Store::open(&archive).unwrap()).await.unwrap();
    let (mut positions, mut last) = (0, Lsn::ZERO);
    while !stop.load(Ordering::Relaxed) {
        if let Ok((client, connection)) = tokio_postgres::connect(&source, NoTls).await {
            tokio::spawn(connection);
            // Until the server goes away, which some tests make it do.
            while let (false, Some(confirmed)) = (stop.load(Ordering::Relaxed), confirmed(&client, &slot).await) {
                // Read second: the watermark only grows.
                let watermark = archive.watermark().await.unwrap().lsn;
                assert!(confirmed <= watermark, "the slot is at {confirmed}, the watermark at {watermark}");
                positions += usize::from(confirmed != last);
                last = confirmed;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    positions
}

async fn confirmed(client: &Client, slot: &str) -> Option<Lsn> {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_opt(sql, &[&slot]).await.ok()?;
    row?.get::<_, String>(0).parse().ok()
}
