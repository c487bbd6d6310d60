//! The archive: Parquet files in Delta tables below one object-store root (DESIGN.md, section 3).
//!
//! This module owns the stored format. It takes Arrow batches and LSNs, and knows no PostgreSQL
//! protocol. What a caller can rely on:
//!
//! * nothing above the watermark is visible through [`Archive`], and the watermark moves over whole
//!   transactions only, over all tables at once;
//! * a [`DurableLsn`] exists only for what is durable: data files, commits and, on a local disk, the
//!   directory entries that lead to them are synced first;
//! * one [`ArchiveWriter`] at a time can publish;
//! * a [`MaintainedTable`] puts rows into other files and deletes what nobody can read any more, beside the writer;
//!   of two on one table, one changes nothing.

mod anchor;
mod archiver;
mod chain;
mod checksum;
mod commit;
mod delta;
mod durable_local;
mod executor;
mod file;
mod identity;
pub mod layout;
mod listed;
pub mod log;
mod notes;
mod pruning;
mod reader;
mod store;
mod transaction_log;
mod unplaced;
mod upkeep;
mod writer;

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod tests;

pub use anchor::KeptHead;
pub use archiver::ArchiverState;
pub use chain::{Head, Link, Linked, Segment, places_of, segment_of, transaction_digests};
pub use checksum::Fetched;
pub use delta::DataFile;
pub use file::{EncodedFile, FileContent, FileEncoder, StagedFile, stage};
pub use identity::{ArchiveIdentity, FORMAT};
pub use layout::{LogTable, TablePath};
pub use log::RELATION_KEY;
pub use notes::{note_alerts, note_health};
pub use pruning::{KeyBounds, Values, groups_with_values};
pub use reader::{Archive, CLUSTERED_KEY, DataReader, Image, Watermark, is_reserved};
pub(crate) use store::blocking;
pub use store::{Location, Store};
pub use transaction_log::{LoggedTransaction, LoggedTransactions};
pub use unplaced::{SpilledPages, UnplacedEncoder, UnplacedFile};
pub use upkeep::{Deleted, MaintainedTable};
pub use writer::{ArchiveWriter, DurableLsn, Publication, existing_columns, stage_all};
