//! What maintenance would do, without doing it.

use serde::Serialize;

use super::compaction::{self, PlannedMerge};
use super::{Policy, image, paths};
use crate::archive::{Archive, DataFile, Deleted, MaintainedTable, TablePath};
use crate::failure::Result;
use crate::machine;
use crate::model::{Lsn, TableName};

/// What would be done to one table of the archive.
#[derive(Debug, Clone, Serialize)]
pub struct TablePlan {
    /// Its directory in the archive.
    pub table: String,
    pub files: usize,
    pub bytes: u64,
    pub merge: PlannedMerge,
    /// Whether a base image would be written.
    pub image: bool,
    /// Of what was replaced before; what maintenance itself replaces is deleted after the retention.
    pub delete: Deleted,
}

impl TablePlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let nothing = (PlannedMerge::default(), false, 0, 0);
        (self.merge, self.image, self.delete.files, self.delete.log_files) == nothing
    }
}

/// What [`super::maintain`] would do now. Nothing is changed.
///
/// # Errors
/// As the store says.
pub async fn plan(archive: &Archive, policy: &Policy) -> Result<Vec<TablePlan>> {
    let mut plans = Vec::new();
    for path in paths(archive).await? {
        plans.extend(plan_of(archive, &path, policy).await?);
    }
    Ok(plans)
}

async fn plan_of(archive: &Archive, path: &TablePath, policy: &Policy) -> Result<Option<TablePlan>> {
    let watermark = archive.watermark().await?.lsn;
    let table = MaintainedTable::open(archive.store(), path).await?;
    let image = match path {
        TablePath::Images(name) => is_image_due(archive, name, policy, watermark).await?,
        _ => false,
    };
    let mut found = TablePlan {
        table: path.directory(),
        files: 0,
        bytes: 0,
        merge: PlannedMerge::default(),
        image,
        delete: Deleted::default(),
    };
    let Some(table) = table else { return Ok(image.then_some(found)) };
    let files: Vec<DataFile> = table.files().await?;
    (found.files, found.bytes) = (files.len(), files.iter().map(|file| file.size).sum());
    found.delete = table.would_delete(machine::now() - policy.retention, archive.claimed_at().await?).await?;
    if !matches!(path, TablePath::Images(_)) {
        found.merge = compaction::plan(archive, &table, policy, watermark).await?;
    }
    Ok(Some(found))
}

async fn is_image_due(archive: &Archive, name: &TableName, policy: &Policy, watermark: Lsn) -> Result<bool> {
    match MaintainedTable::open(archive.store(), &TablePath::Changes(name.clone())).await? {
        Some(changes) => image::is_due(archive, name, &changes.files().await?, policy, watermark).await,
        None => Ok(false),
    }
}
