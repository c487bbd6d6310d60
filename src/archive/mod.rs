//! The archive: Parquet files in Delta tables below one object-store root (DESIGN.md, section 3).
//!
//! This module owns the stored format. It takes Arrow batches and LSNs, and knows no PostgreSQL
//! protocol. What a caller can rely on:
//!
//! * nothing above the watermark is visible through [`Archive`], and the watermark moves over whole
//!   transactions only, over all tables at once;
//! * a [`DurableLsn`] exists only for what is durable: data files, commits and, on a local disk, the
//!   directory entries that lead to them are synced first;
//! * one [`ArchiveWriter`] at a time can publish.

mod delta;
mod durable_local;
mod identity;
pub mod layout;
pub mod log;
mod reader;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub use delta::{DataFile, FileContent, FileEncoder, StagedFile, stage};
pub use identity::{ArchiveIdentity, FORMAT};
pub use layout::{LogTable, TablePath};
pub use reader::{Archive, DataReader, Image, RELATION_KEY, Watermark, is_reserved};
pub use store::Store;
pub use writer::{ArchiveWriter, DurableLsn, Publication, existing_columns, stage_all};
