//! Heads of the hash chain that are kept elsewhere, where whoever can write to the archive cannot.
//!
//! Each is a small object of its own, made once and never replaced, as a bucket with Object Lock demands.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::chain::{self, Head};
use super::identity::ArchiveIdentity;
use super::layout::LogTable;
use super::reader::Archive;
use super::store::Store;
use crate::failure::{Failure, Result};
use crate::machine;
use crate::model::Lsn;

const ENDING: &str = ".head.json";

/// A head, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptHead {
    system_identifier: String,
    database: String,
    /// Where the archive begins: a source may have several.
    start_lsn: Lsn,
    #[serde(flatten)]
    pub head: Head,
    /// When it was kept, by our clock.
    pub time: DateTime<Utc>,
}

impl KeptHead {
    fn new(identity: &ArchiveIdentity, head: Head) -> KeptHead {
        KeptHead {
            system_identifier: identity.system_identifier.to_string(),
            database: identity.database.clone(),
            start_lsn: identity.start_lsn,
            head,
            time: machine::now(),
        }
    }

    fn is_of(&self, identity: &ArchiveIdentity) -> bool {
        let KeptHead { system_identifier, database, start_lsn, .. } = self;
        *system_identifier == identity.system_identifier.to_string()
            && *database == identity.database
            && *start_lsn == identity.start_lsn
    }
}

impl Archive {
    /// The newest link of the chain, to be kept elsewhere; `None` where there is none yet.
    pub async fn head(&self) -> Result<Option<KeptHead>> {
        let files = self.log_files(LogTable::Transactions).await?;
        let head = chain::head(self.store(), &files).await?;
        Ok(head.map(|head| KeptHead::new(self.identity(), head)))
    }

    /// Keeps a head below a root that is not the archive's.
    ///
    /// # Errors
    /// As the store says.
    pub async fn keep_head(&self, root: &Store, kept: &KeptHead) -> Result<()> {
        let mut bytes =
            serde_json::to_vec(kept).map_err(|error| Failure::failed(format!("a head of the chain: {error}")))?;
        bytes.push(b'\n');
        let name = format!("{}/{:016x}-{}{ENDING}", self.heads(), kept.head.lsn.0, kept.head.hash);
        // Where it is there already, it says the same.
        root.create(&name, bytes).await.map(drop)
    }

    /// The heads of this archive that are kept below a root, the oldest first.
    ///
    /// # Errors
    /// As the store says; failed where an object is not what was kept.
    pub async fn kept_heads(&self, root: &Store) -> Result<Vec<KeptHead>> {
        let mut kept = Vec::new();
        for object in root.list(&self.heads()).await? {
            let path = object.location.to_string();
            if !path.ends_with(ENDING) {
                continue;
            }
            let content = root.read(&path).await?.unwrap_or_default();
            let head: KeptHead = serde_json::from_slice(&content)
                .map_err(|error| Failure::failed(format!("{root}: {path} is no head of a chain: {error}")))?;
            if head.is_of(self.identity()) {
                kept.push(head);
            }
        }
        kept.sort_by_key(|kept| kept.head.lsn);
        Ok(kept)
    }

    /// The directory of this archive's heads.
    fn heads(&self) -> String {
        let identity = self.identity();
        format!("heads-{}-{:x}", identity.system_identifier, identity.start_lsn.0)
    }
}
