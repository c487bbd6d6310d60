//! Keeps an archive fast to read and free of what nobody reads any more, beside the archiver or without it.
//!
//! ```text
//!   compaction   small files below the watermark -> large ones, a key's changes together
//!   image        a table's state at the watermark, when its changes have outgrown the newest base image
//!   cleaning     files that were replaced longer ago than the retention, what crashes left, the old Delta log
//! ```
//!
//! It changes no row that anybody can read: files are replaced in one commit, by files with the same rows. A crash
//! anywhere leaves files that belong to no table, which a later cleaning deletes. Two at a time exclude each other table
//! by table, see [`crate::archive::MaintainedTable`].

mod clustering;
mod compaction;
mod image;
#[cfg(test)]
mod tests;
mod tiers;

use std::time::Duration;

use chrono::Utc;
use futures::FutureExt as _;
use serde::Serialize;
use tokio::sync::watch;

pub use tiers::Tiers;

use self::image::Imaged;
use crate::archive::{Archive, DataFile, Deleted, LogTable, MaintainedTable, Store, TablePath};
use crate::failure::Result;
use crate::model::{Lsn, TableName};

/// What maintenance does, and when.
#[derive(Debug, Clone)]
pub struct Policy {
    pub tiers: Tiers,
    /// Bytes of changes since the newest base image, as they are stored, below which no other is written.
    pub image_floor_bytes: u64,
    /// How large those changes become, compared with that image, before another is written.
    pub image_ratio: f64,
    /// How long a file stays after it was replaced, for who reads an older version of its table.
    pub retention: Duration,
    /// Memory for sorting.
    pub memory_bytes: usize,
    /// How long [`keep`] rests in between.
    pub interval: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            tiers: Tiers { target_bytes: 128 << 20, fan_in: 8 },
            image_floor_bytes: 16 << 20,
            image_ratio: 1.0,
            retention: Duration::from_secs(24 * 60 * 60),
            memory_bytes: 256 << 20,
            interval: Duration::from_secs(60),
        }
    }
}

impl Policy {
    fn image_due_bytes(&self, newest: u64) -> u64 {
        self.image_floor_bytes.max((newest as f64 * self.image_ratio) as u64)
    }
}

/// What was done to one table of the archive.
#[derive(Debug, Clone, Serialize)]
pub struct TableReport {
    /// Its directory in the archive.
    pub table: String,
    pub files_before: usize,
    pub bytes_before: u64,
    pub files_after: usize,
    pub bytes_after: u64,
    /// The LSN of the base image that was written.
    pub image: Option<Lsn>,
    pub deleted: Deleted,
    /// Somebody else maintained it at the same time, and this maintenance left it alone.
    pub left_alone: bool,
}

/// Maintains every table of an archive, one after the other, until `stop` turns true.
///
/// # Errors
/// As the store says. Nothing is lost then or doubled, and what was done stays done.
pub async fn maintain(archive: &Archive, policy: &Policy, stop: &watch::Receiver<bool>) -> Result<Vec<TableReport>> {
    let mut reports = Vec::new();
    for path in paths(archive).await? {
        if *stop.borrow() {
            break;
        }
        let report = maintain_table(archive, &path, policy).boxed().await;
        reports.extend(report.map_err(|failure| failure.context(format_args!("maintaining {}", path.directory())))?);
    }
    Ok(reports)
}

/// The log first: every reader reads it. A table's images come after its changes, for those decide on them.
async fn paths(archive: &Archive) -> Result<Vec<TablePath>> {
    let mut tables: Vec<TableName> = archive.tables_ever().await?.into_keys().collect();
    tables.sort();
    let logs = LogTable::ALL.into_iter().map(TablePath::Log);
    let tables = tables.into_iter().flat_map(|name| [TablePath::Changes(name.clone()), TablePath::Images(name)]);
    Ok(logs.chain(tables).collect())
}

/// `None` for a table that does not exist yet.
async fn maintain_table(archive: &Archive, path: &TablePath, policy: &Policy) -> Result<Option<TableReport>> {
    // Before the files: what they have below it is whole.
    let watermark = archive.watermark().await?.lsn;
    let mut left_alone = false;
    let found = MaintainedTable::open(archive.store(), path).await?;
    let before = match &found {
        Some(table) => table.files().await?,
        None => Vec::new(),
    };
    let mut image = None;
    match (path, found) {
        (TablePath::Images(name), _) => match write_image(archive, name, policy, watermark).await? {
            Imaged::Written => image = Some(watermark),
            Imaged::LeftAlone => left_alone = true,
            Imaged::NotDue => {}
        },
        (_, Some(mut table)) => {
            left_alone = !compaction::compact(archive, &mut table, path, policy, watermark).await?;
        }
        (_, None) => {}
    }
    let Some(mut table) = MaintainedTable::open(archive.store(), path).await? else { return Ok(None) };
    let deleted = table.clean(Utc::now() - policy.retention, archive.claimed_at().await?).await?;
    left_alone |= deleted.is_none();
    let after = table.files().await?;
    let bytes = |files: &[DataFile]| files.iter().map(|file| file.size).sum();
    Ok(Some(TableReport {
        table: path.directory(),
        files_before: before.len(),
        bytes_before: bytes(&before),
        files_after: after.len(),
        bytes_after: bytes(&after),
        image,
        deleted: deleted.unwrap_or_default(),
        left_alone,
    }))
}

async fn write_image(archive: &Archive, name: &TableName, policy: &Policy, watermark: Lsn) -> Result<Imaged> {
    let changes = TablePath::Changes(name.clone());
    match MaintainedTable::open(archive.store(), &changes).await? {
        Some(changes) => image::write_when_due(archive, name, &changes.files().await?, policy, watermark).await,
        None => Ok(Imaged::NotDue),
    }
}

/// Maintains an archive again and again until `stop` turns true. A failure is logged, and it is tried again at the next
/// turn: capturing goes on without it.
pub async fn keep(store: Store, policy: Policy, mut stop: watch::Receiver<bool>) {
    loop {
        if tokio::time::timeout(policy.interval, stop.wait_for(|stopped| *stopped)).await.is_ok() {
            return;
        }
        if let Err(failure) = turn(&store, &policy, &stop).await {
            tracing::warn!("maintenance waits for its next turn: {failure}");
        }
    }
}

async fn turn(store: &Store, policy: &Policy, stop: &watch::Receiver<bool>) -> Result<()> {
    let archive = Archive::open(store).await?;
    for report in maintain(&archive, policy, stop).await? {
        if report.files_after != report.files_before || report.deleted != Deleted::default() {
            tracing::debug!(
                "{}: {} files were {}, {} deleted",
                report.table,
                report.files_after,
                report.files_before,
                report.deleted.files
            );
        }
    }
    Ok(())
}
