//! What can be seen of transactions that have not ended. Whoever looks is never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::model::{OperationCounts, TableName, Xid};

/// A transaction that has not ended, as far as the source has sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTransaction {
    pub xid: Xid,
    /// What it changed so far, by table.
    pub tables: Vec<(TableName, OperationCounts)>,
    /// It was prepared: it can be committed by anybody at any time.
    pub prepared: bool,
    /// Bytes of it in files.
    pub spilled: u64,
}

/// What the source has sent of transactions that have not ended.
pub type Running = Arc<[RunningTransaction]>;

/// What comes of a transaction in progress.
#[derive(Debug)]
pub enum Glimpse {
    /// Its next records, for [`super::Records`]. Some are left out where the onlooker is slow.
    Rows {
        xid: Xid,
        records: Bytes,
    },
    RolledBack {
        xid: Xid,
    },
}

impl Glimpse {
    /// Bytes that it takes, about.
    fn memory(&self) -> usize {
        let records = match self {
            Glimpse::Rows { records, .. } => records.len(),
            Glimpse::RolledBack { .. } => 0,
        };
        size_of::<Glimpse>() + records
    }
}

/// The way of glimpses to whoever looks, in which so many bytes may wait. An eighth of it is kept for ends, which say more
/// than rows do.
pub fn glimpses(most: usize) -> (GlimpseSender, GlimpseReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (GlimpseSender { sender, waiting: Arc::clone(&waiting), most }, GlimpseReceiver { receiver, waiting })
}

/// See [`glimpses`].
#[derive(Debug, Clone)]
pub struct GlimpseSender {
    sender: mpsc::UnboundedSender<Glimpse>,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl GlimpseSender {
    /// Sends it where there is room, and says whether there was.
    fn try_send(&self, glimpse: Glimpse) -> bool {
        let most = match glimpse {
            Glimpse::Rows { .. } => self.most - self.most / 8,
            Glimpse::RolledBack { .. } => self.most,
        };
        let bytes = glimpse.memory();
        let fits = self.waiting.fetch_add(bytes, Ordering::SeqCst) + bytes <= most;
        let sent = fits && self.sender.send(glimpse).is_ok();
        if !sent {
            self.waiting.fetch_sub(bytes, Ordering::SeqCst);
        }
        sent
    }
}

/// See [`glimpses`].
#[derive(Debug)]
pub struct GlimpseReceiver {
    receiver: mpsc::UnboundedReceiver<Glimpse>,
    waiting: Arc<AtomicUsize>,
}

impl GlimpseReceiver {
    /// Waits for the next glimpses, so many at most; none where nobody shows any more.
    pub async fn next(&mut self, most: usize) -> Vec<Glimpse> {
        let mut glimpses = Vec::new();
        self.receiver.recv_many(&mut glimpses, most).await;
        self.taken(&glimpses);
        glimpses
    }

    /// Those that are there, so many at most.
    pub fn waiting(&mut self, most: usize) -> Vec<Glimpse> {
        let mut glimpses = Vec::new();
        while glimpses.len() < most
            && let Ok(glimpse) = self.receiver.try_recv()
        {
            glimpses.push(glimpse);
        }
        self.taken(&glimpses);
        glimpses
    }

    fn taken(&self, glimpses: &[Glimpse]) {
        self.waiting.fetch_sub(glimpses.iter().map(Glimpse::memory).sum(), Ordering::SeqCst);
    }
}

/// Who looks at transactions in progress.
#[derive(Debug, Clone, Default)]
pub struct Onlooker {
    pub running: watch::Sender<Running>,
    /// For whoever wants to see rows. What does not fit is left out.
    pub glimpses: Option<GlimpseSender>,
}

impl Onlooker {
    /// Whether anybody wants to see rows.
    pub fn wants_rows(&self) -> bool {
        self.glimpses.as_ref().is_some_and(|glimpses| !glimpses.sender.is_closed())
    }

    /// Shows something, unless the onlooker has not looked at what came before: a slow one must not hold the stream up.
    pub fn show(&self, glimpse: Glimpse) {
        if let Some(glimpses) = &self.glimpses {
            glimpses.try_send(glimpse);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(bytes: usize) -> Glimpse {
        Glimpse::Rows { xid: 7, records: vec![0; bytes].into() }
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_its_bytes_and_ends_still_fit() {
        let (sender, mut receiver) = glimpses(8000);
        let sent = (0..100).filter(|_| sender.try_send(rows(1000))).count();
        assert_eq!(sent, 6, "seven eighths are for rows");
        assert!(sender.try_send(Glimpse::RolledBack { xid: 7 }));
        assert_eq!(receiver.next(4).await.len(), 4);
        assert!(sender.try_send(rows(1000)), "there is room again");
        assert_eq!(receiver.waiting(100).len(), 4);
        assert_eq!(sender.waiting.load(Ordering::SeqCst), 0);
        assert!(!sender.try_send(rows(8000)), "what never fits is judged when it has committed");
        drop(sender);
        assert!(receiver.next(4).await.is_empty());
    }
}
