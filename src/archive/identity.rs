//! `archive.json`: which source an archive belongs to. Written once, by conditional put.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::layout::IDENTITY_FILE;
use super::store::Store;
use crate::failure::{Failure, Result};
use crate::model::Lsn;

/// The layout that this version reads and writes.
pub const FORMAT: u32 = 1;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveIdentity {
    pub format: u32,
    /// `pg_control_system().system_identifier` of the source, which its physical copies share.
    #[serde(with = "as_text")]
    pub system_identifier: u64,
    pub database: String,
    /// History begins here: the point of the first base image.
    pub start_lsn: Lsn,
    pub created_at: DateTime<Utc>,
    /// The source's replication slot.
    pub slot: String,
    /// The source's publication.
    pub publication: String,
}

impl ArchiveIdentity {
    pub(super) async fn read(store: &Store) -> Result<Option<ArchiveIdentity>> {
        let Some(bytes) = store.read(IDENTITY_FILE).await? else { return Ok(None) };
        let wrong = |why: String| {
            Failure::failed(format!("archive {store}: {IDENTITY_FILE} {why}"))
                .remedy("is this the root of an archive that Afterimage made?")
        };
        let found: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("is not JSON: {error}")))?;
        match found.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(newer) => {
                return Err(Failure::refused(format!(
                    "archive {store} has format {newer}, this program knows {FORMAT}"
                ))
                .remedy("use the version of Afterimage that made it, or a newer one"));
            }
            None => return Err(wrong("has no format number".into())),
        }
        serde_json::from_value(found).map(Some).map_err(|error| wrong(error.to_string()))
    }

    /// Writes the identity; false where the archive has one already.
    pub(super) async fn write(&self, store: &Store) -> Result<bool> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::failed(format!("writing {IDENTITY_FILE}: {error}")))?;
        bytes.push(b'\n');
        store.create(IDENTITY_FILE, bytes).await
    }
}

/// The number has 64 bits; JSON readers keep 53.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
