//! `archiver.json`: what the archiver said of itself last, for whoever looks from elsewhere. Nothing relies on it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::store::Store;
use crate::failure::{Failure, Result};
use crate::model::Lsn;

const FILE: &str = "archiver.json";

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiverState {
    /// When, by the archiver's clock.
    pub at: DateTime<Utc>,
    /// Up to where it had received.
    pub received: Lsn,
    /// Up to where what is committed had become rows, which may not be durable yet.
    pub decoded: Lsn,
    /// Transactions that had not ended.
    pub in_progress: usize,
    /// Bytes of them in files.
    pub spilled_bytes: u64,
    /// Bytes that are free where those files are; `None` where that is not known.
    pub spill_free_bytes: Option<u64>,
}

impl ArchiverState {
    /// What was said last; `None` where nothing was, or by a version that says it otherwise.
    ///
    /// # Errors
    /// As the store says.
    pub async fn read(store: &Store) -> Result<Option<ArchiverState>> {
        let bytes = store.read(FILE).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Takes the place of what was said before.
    ///
    /// # Errors
    /// As the store says.
    pub async fn write(&self, store: &Store) -> Result<()> {
        let bytes = serde_json::to_vec(self).map_err(|error| Failure::failed(format!("writing {FILE}: {error}")))?;
        store.put(FILE, bytes.into()).await
    }
}
