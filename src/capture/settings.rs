//! What can be set about capturing.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::context::ContextWish;
use crate::model::{TableName, TablePattern};

/// See the fields; the defaults are those of the command line.
#[derive(Debug, Clone)]
pub struct CaptureSettings {
    /// Name of the replication slot; `None` derives it from the database's name.
    pub slot: Option<String>,
    /// Name of the publication.
    pub publication: String,
    /// Which tables to archive; all ordinary ones where empty.
    pub tables: Vec<TablePattern>,
    /// Set tables without a usable replica identity to `FULL` instead of leaving them out.
    pub set_identity_full: bool,
    /// Install DDL capture in the source, where the role may.
    pub capture_ddl: bool,
    /// What to do about context in the source.
    pub context: ContextWish,
    /// What of a statement's text does not leave the source: regular expressions, or [`super::LITERALS`].
    pub context_redact: Vec<String>,
    /// The longest time that a committed transaction waits for others to be published with.
    pub flush_interval: Duration,
    /// Bytes that changes may take in memory, in all stages together.
    pub memory: usize,
    /// Where unfinished transactions go that do not fit into it.
    pub spill_directory: PathBuf,
    /// Connections that copy base images.
    pub copy_workers: usize,
    /// Bytes per second, over all connections, at which base images are read at most.
    pub throttle: Option<u64>,
    pub on_lost_slot: OnLostSlot,
    /// Bytes of log from which on the slot is dropped; never without it.
    pub max_slot_lag: Option<u64>,
}

/// What to do where the slot cannot give what follows the watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLostSlot {
    /// To record the gap, take base images anew, and go on.
    #[default]
    Resume,
    /// To end.
    Stop,
}

impl Default for CaptureSettings {
    fn default() -> Self {
        CaptureSettings {
            slot: None,
            publication: "afterimage".into(),
            tables: Vec::new(),
            set_identity_full: false,
            capture_ddl: true,
            context: ContextWish::AsItIs,
            context_redact: Vec::new(),
            flush_interval: Duration::from_secs(1),
            memory: 256 << 20,
            spill_directory: std::env::temp_dir(),
            copy_workers: 4,
            throttle: None,
            on_lost_slot: OnLostSlot::default(),
            max_slot_lag: None,
        }
    }
}

impl CaptureSettings {
    /// Whether a table is wanted.
    pub fn wants(&self, table: &TableName) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|pattern| pattern.matches(table))
    }

    /// Whether every table is wanted, those to come too.
    pub fn covers_everything(&self) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|pattern| pattern.to_string() == "*.*")
    }

    /// The part of the memory that is for transactions in progress.
    pub(super) fn memory_in_progress(&self) -> usize {
        self.memory / 4
    }

    /// The part that is for rows that are being built. As much is in the queue, in the encoder, and in what the allocator
    /// keeps of each.
    pub(super) fn memory_of_builders(&self) -> usize {
        self.memory / 16
    }

    /// The slot's name: slots are per server, so the database is part of it.
    pub fn slot_name(&self, database: &str) -> String {
        self.slot.clone().unwrap_or_else(|| {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
            // 63 bytes is the longest name; the temporary slot of `init` needs a few for its suffix.
            let database: String = database.chars().map(plain).take(40).collect();
            format!("afterimage_{database}")
        })
    }
}
