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

mod agenda;
mod clustering;
mod compaction;
mod image;
mod plan;
#[cfg(test)]
mod tests;
mod tiers;

use std::time::Duration;

use futures::FutureExt as _;
use serde::Serialize;
use tokio::sync::watch;

pub use agenda::Published;
pub use compaction::PlannedMerge;
pub use plan::{TablePlan, plan};
pub use tiers::Tiers;

use self::agenda::Agenda;
use self::image::Imaged;
use crate::archive::{Archive, DataFile, Deleted, LogTable, MaintainedTable, Store, TablePath};
use crate::failure::Result;
use crate::machine;
use crate::model::{Lsn, TableName};

/// What maintenance does, and when.
#[derive(Debug, Clone)]
pub struct Policy {
    pub tiers: Tiers,
    /// Bytes of changes since the newest base image, as they are stored, below which no other is written.
    pub image_floor_bytes: u64,
    /// How large those changes become, compared with that image, before another is written.
    pub image_ratio: f64,
    /// How old the newest base image becomes, or the changes where there is none, before another is written even for few
    /// changes; never without it.
    pub image_age: Option<Duration>,
    /// How long a file stays after it was replaced, for who reads an older version of its table.
    pub retention: Duration,
    /// Memory for sorting, and for the keys of changed rows: what is more waits in the system's temporary directory.
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
            image_age: None,
            retention: Duration::from_secs(24 * 60 * 60),
            memory_bytes: 256 << 20,
            interval: Duration::from_secs(60),
        }
    }
}

impl Policy {
    /// The same beside an archiver that has so many bytes of memory for itself: a quarter of that for sorting and for
    /// keys each, and files no larger than an eighth, since they are in memory until they are whole.
    pub fn beside_archiver(self, memory: usize) -> Policy {
        let tiers = Tiers { target_bytes: self.tiers.target_bytes.min(memory as u64 / 8), ..self.tiers };
        Policy { tiers, memory_bytes: self.memory_bytes.min(memory / 4), ..self }
    }

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

/// What looking at a table came to.
struct Looked {
    report: TableReport,
    /// When to look again though nothing changes: then something can be deleted, or an image is due.
    again: Option<Duration>,
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
        reports.extend(look_at(archive, &path, policy).await?.map(|looked| looked.report));
    }
    Ok(reports)
}

async fn look_at(archive: &Archive, path: &TablePath, policy: &Policy) -> Result<Option<Looked>> {
    let looked = maintain_table(archive, path, policy).boxed().await;
    looked.map_err(|failure| failure.context(format_args!("maintaining {}", path.directory())))
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
async fn maintain_table(archive: &Archive, path: &TablePath, policy: &Policy) -> Result<Option<Looked>> {
    // Before the files: what they have below it is whole.
    let watermark = archive.watermark().await?.lsn;
    let mut left_alone = false;
    let found = MaintainedTable::open(archive.store(), path).await?;
    let before = match &found {
        Some(table) => table.files().await?,
        None => Vec::new(),
    };
    let (mut image, mut again) = (None, None);
    match (path, found) {
        (TablePath::Images(name), _) => match write_image(archive, name, policy, watermark).await? {
            Imaged::Written => image = Some(watermark),
            Imaged::LeftAlone => left_alone = true,
            Imaged::NotDue(due) => again = due,
        },
        (_, Some(mut table)) => {
            left_alone = !compaction::compact(archive, &mut table, path, policy, watermark).await?;
        }
        (_, None) => {}
    }
    let Some(mut table) = MaintainedTable::open(archive.store(), path).await? else { return Ok(None) };
    let deleted = table.clean(machine::now() - policy.retention, archive.claimed_at().await?).await?;
    left_alone |= deleted.is_none();
    let after = table.files().await?;
    let bytes = |files: &[DataFile]| files.iter().map(|file| file.size).sum();
    if deleted.is_none_or(|deleted| deleted.waiting > 0) {
        again = Some(again.map_or(policy.retention, |again| again.min(policy.retention)));
    }
    let report = TableReport {
        table: path.directory(),
        files_before: before.len(),
        bytes_before: bytes(&before),
        files_after: after.len(),
        bytes_after: bytes(&after),
        image,
        deleted: deleted.unwrap_or_default(),
        left_alone,
    };
    Ok(Some(Looked { report, again }))
}

async fn write_image(archive: &Archive, name: &TableName, policy: &Policy, watermark: Lsn) -> Result<Imaged> {
    let changes = TablePath::Changes(name.clone());
    match MaintainedTable::open(archive.store(), &changes).await? {
        Some(changes) => image::write_when_due(archive, name, &changes.files().await?, policy, watermark).await,
        None => Ok(Imaged::NotDue(None)),
    }
}

/// Maintains an archive again and again until `stop` turns true: at first every table, then those of which something was
/// `published` since. A failure is logged, and it is tried again at the next turn: capturing goes on without it.
pub async fn keep(store: Store, policy: Policy, published: Published, mut stop: watch::Receiver<bool>) {
    let mut keeper = Keeper::new(store, policy, published);
    loop {
        if machine::timeout(keeper.policy.interval, stop.wait_for(|stopped| *stopped)).await.is_ok() {
            return;
        }
        if let Err(failure) = keeper.turn(&stop).await {
            tracing::warn!("maintenance waits for its next turn: {failure}");
        }
    }
}

/// Maintenance beside the archiver. Where nothing is due it asks nothing of the store.
struct Keeper {
    store: Store,
    policy: Policy,
    agenda: Agenda,
    archive: Option<Archive>,
}

impl Keeper {
    fn new(store: Store, policy: Policy, published: Published) -> Keeper {
        Keeper { store, policy, agenda: Agenda::new(published), archive: None }
    }

    async fn turn(&mut self, stop: &watch::Receiver<bool>) -> Result<()> {
        let archive = match &self.archive {
            Some(archive) => archive.clone(),
            None => {
                let archive = Archive::open(&self.store).await?;
                self.agenda.add(paths(&archive).await?);
                self.archive.insert(archive).clone()
            }
        };
        for path in self.agenda.due(machine::instant()) {
            if *stop.borrow() {
                break;
            }
            let looked = look_at(&archive, &path, &self.policy).await?;
            self.agenda.seen(&path, looked.as_ref().and_then(|looked| looked.again));
            if let Some(Looked { report, .. }) = looked {
                report.log();
            }
        }
        Ok(())
    }
}

impl TableReport {
    fn log(&self) {
        if self.files_after != self.files_before || self.deleted.files + self.deleted.log_files > 0 {
            tracing::debug!(
                "{}: {} files were {}, {} deleted",
                self.table,
                self.files_after,
                self.files_before,
                self.deleted.files
            );
        }
    }
}
