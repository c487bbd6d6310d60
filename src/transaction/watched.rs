//! What can be seen of transactions that have not ended. Whoever looks is never waited for.

use std::sync::Arc;

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

/// Who looks at transactions in progress.
#[derive(Debug, Clone, Default)]
pub struct Onlooker {
    pub running: watch::Sender<Running>,
    /// For whoever wants to see rows. What does not fit is left out.
    pub glimpses: Option<mpsc::Sender<Glimpse>>,
}

impl Onlooker {
    /// Whether anybody wants to see rows.
    pub fn wants_rows(&self) -> bool {
        self.glimpses.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Shows something, unless the onlooker has not looked at what came before.
    pub fn show(&self, glimpse: Glimpse) {
        if let Some(sender) = &self.glimpses {
            // A slow onlooker must not hold the stream up.
            let _ = sender.try_send(glimpse);
        }
    }
}
