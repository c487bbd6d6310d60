//! One table of an archive under maintenance: rows put into other files, and what nobody reads any more deleted.
//!
//! Works beside the archive's writer, whose commits only add files. Of two maintainers of one table one changes nothing:
//! every commit made here moves the table's `maintenance` number, which is the commit's version, and one that finds
//! another number than it began with gives up. Files that take others' place without new rows do not conflict by
//! themselves (Delta protocol, "Add File and Remove File"), and two such commits would double every row.
//!
//! **What may be deleted**: a data file that was removed from the table before `before`, so that who reads an older
//! version of the table can finish; and one that is in no version of it, is older than `before` and older than the claim
//! of the archive's writer, which has therefore not staged it. That no other maintainer has staged it is made sure of by
//! moving the number between looking and deleting. Of the Delta log what the protocol allows ("Metadata Cleanup").

use std::collections::{HashMap, HashSet};

use arrow::datatypes::Schema;
use chrono::{DateTime, TimeDelta, Utc};
use object_store::ObjectMeta;
use serde::Serialize;

use super::checksum::DATA_FILE;
use super::commit::{self, Remove};
use super::delta::{Appended, DataFile, DeltaTable, Replacement};
use super::file::StagedFile;
use super::layout::TablePath;
use super::listed::full_path;
use super::store::{Store, object_path};
use crate::failure::{Failure, Result};

/// The version of the table's newest commit of maintenance.
const MAINTENANCE: &str = "afterimage.maintenance";
/// That of the one before, which so can be found.
const MAINTENANCE_BEFORE: &str = "afterimage.maintenance_before";

/// By how much the clocks of two machines and a store may differ.
const CLOCKS: TimeDelta = TimeDelta::minutes(10);

/// A table whose log has grown by this many commits without a checkpoint gets one: whoever opens the table reads them all.
const COMMITS_WITHOUT_CHECKPOINT: u64 = 10;

/// How often a commit that the archive's writer came before is tried again.
const ATTEMPTS: usize = 100;

/// What was deleted of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Deleted {
    /// Data files.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
    /// Files of the Delta log.
    pub log_files: usize,
    /// Data files that were replaced and stay until the retention has passed.
    #[serde(skip)]
    pub waiting: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct MaintainedTable {
    store: Store,
    table: DeltaTable,
    number: i64,
}

impl MaintainedTable {
    /// Begins maintaining a table; `None` where it does not exist.
    pub async fn open(store: &Store, path: &TablePath) -> Result<Option<MaintainedTable>> {
        match DeltaTable::open(store, path).await? {
            Some(table) => MaintainedTable::of(store, table).await.map(Some),
            None => Ok(None),
        }
    }

    /// The same, for a table that is made with these columns where it or some of them are missing.
    pub async fn open_or_create(store: &Store, path: &TablePath, schema: &Schema) -> Result<MaintainedTable> {
        let mut table = DeltaTable::open_or_create(store, path, schema).await?;
        table.add_missing_columns(schema).await?;
        MaintainedTable::of(store, table).await
    }

    async fn of(store: &Store, table: DeltaTable) -> Result<MaintainedTable> {
        let number = number_of(&table).await?;
        Ok(MaintainedTable { store: store.clone(), table, number })
    }

    /// Its files when it was last looked at.
    pub async fn files(&self) -> Result<Vec<DataFile>> {
        self.table.files(None).await
    }

    /// Whether somebody else has maintained the table since it was opened: files that it had then may be gone.
    pub async fn is_left_to_others(&mut self) -> Result<bool> {
        self.table.refresh().await?;
        Ok(number_of(&self.table).await? != self.number)
    }

    /// Puts files with the same rows in the place of others, in one commit. False where somebody else has maintained the
    /// table since it was opened: then nothing is done, and `added` is deleted.
    ///
    /// # Errors
    /// As the store says; it may then be done or not, and must be looked at again.
    pub async fn replace(&mut self, removed: &[DataFile], added: &[StagedFile]) -> Result<bool> {
        self.commit(removed, added, false).await
    }

    /// The same for files with rows that were not there.
    pub async fn add(&mut self, added: &[StagedFile]) -> Result<bool> {
        self.commit(&[], added, true).await
    }

    async fn commit(&mut self, removed: &[DataFile], added: &[StagedFile], new_rows: bool) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let next = self.table.version() as i64 + 1;
            let progress = [(MAINTENANCE, next), (MAINTENANCE_BEFORE, self.number)];
            let replacement = Replacement { removed, added, new_rows, progress: &progress };
            if self.table.replace(&replacement).await? == Appended::Committed {
                self.number = next;
                return Ok(true);
            }
            let found = number_of(&self.table).await?;
            if found == self.number {
                continue;
            }
            // Our own commit, whose answer was lost, shows itself by its files.
            let active: HashSet<String> = self.files().await?.into_iter().map(|file| file.path).collect();
            if !added.is_empty() && added.iter().all(|file| active.contains(file.path())) {
                self.number = found;
                return Ok(true);
            }
            let staged = added.iter().map(|file| object_path(file.path())).collect::<Result<Vec<_>>>()?;
            self.store.delete(staged).await?;
            return Ok(false);
        }
        Err(Failure::transient(format!("archive {}: {} is never left alone", self.store, self.table.directory())))
    }

    /// Deletes what the module's documentation allows; `claimed` is when the archive's writer became it. `None` where
    /// somebody else maintains the table: then nothing is deleted.
    pub async fn clean(&mut self, before: DateTime<Utc>, claimed: Option<DateTime<Utc>>) -> Result<Option<Deleted>> {
        let mut unused = self.unused(before, claimed).await?;
        if !unused.orphans.is_empty() {
            // Who staged one of them before this commit can commit it no more.
            if !self.commit(&[], &[], false).await? {
                return Ok(None);
            }
            self.leave_out_active(&mut unused.orphans).await?;
        }
        let mut deleted = unused.counted();
        let files = unused.replaced.into_iter().chain(unused.orphans);
        self.store.delete(files.map(|file| file.location).collect()).await?;
        // Only now: the log's files say what was removed and when.
        if unused.log.newest_checkpoint() + COMMITS_WITHOUT_CHECKPOINT <= self.table.version() {
            self.table.checkpoint().await?;
        }
        let old = unused.log.outdated(before);
        deleted.log_files = old.len();
        self.store.delete(old).await?;
        Ok(Some(deleted))
    }

    /// What [`clean`](MaintainedTable::clean) would delete now; nothing is changed.
    pub async fn would_delete(&self, before: DateTime<Utc>, claimed: Option<DateTime<Utc>>) -> Result<Deleted> {
        let unused = self.unused(before, claimed).await?;
        let counted = unused.counted();
        Ok(Deleted { log_files: unused.log.outdated(before).len(), ..counted })
    }

    async fn unused(&self, before: DateTime<Utc>, claimed: Option<DateTime<Utc>>) -> Result<Unused> {
        let listed = self.store.list(self.table.directory()).await?;
        let log = format!("{}/_delta_log/", self.table.directory());
        let (log, mut data): (Vec<ObjectMeta>, Vec<ObjectMeta>) =
            listed.into_iter().partition(|object| object.location.as_ref().starts_with(&log));
        data.retain(|file| file.location.as_ref().ends_with(DATA_FILE));
        let removed = self.removed().await?;
        self.leave_out_active(&mut data).await?;
        let staged_before = claimed.map(|claimed| (claimed - CLOCKS).min(before));
        let mut unused = Unused { replaced: Vec::new(), orphans: Vec::new(), waiting: 0, log: LogFiles::of(log) };
        for file in data {
            match removed.get(file.location.as_ref()) {
                Some(since) if *since < before && file.last_modified < before => unused.replaced.push(file),
                Some(_) => unused.waiting += 1,
                None if staged_before.is_some_and(|time| file.last_modified < time) => unused.orphans.push(file),
                None => {}
            }
        }
        Ok(unused)
    }

    async fn leave_out_active(&self, data: &mut Vec<ObjectMeta>) -> Result<()> {
        let active: HashSet<String> = self.files().await?.into_iter().map(|file| file.path).collect();
        data.retain(|file| !active.contains(file.location.as_ref()));
        Ok(())
    }

    /// The files that maintenance removed, and when, as far back as the log goes.
    async fn removed(&self) -> Result<HashMap<String, DateTime<Utc>>> {
        let directory = self.table.directory();
        let (mut removed, mut version) = (HashMap::new(), self.number);
        while let Ok(before) = u64::try_from(version)
            && before > 0
        {
            let Some(actions) = commit::read(&self.store, directory, before).await? else { break };
            version = 0;
            for action in actions {
                if let Some(Remove { path, deletion_timestamp }) = action.remove {
                    let time = DateTime::from_timestamp_millis(deletion_timestamp.unwrap_or(i64::MAX));
                    removed.insert(full_path(directory, &path)?, time.unwrap_or(DateTime::<Utc>::MAX_UTC));
                }
                version = action.txn.filter(|txn| txn.app_id == MAINTENANCE_BEFORE).map_or(version, |txn| txn.version);
            }
        }
        Ok(removed)
    }
}

/// Files that nobody needs.
struct Unused {
    /// Others have taken their place.
    replaced: Vec<ObjectMeta>,
    /// They are in no version of the table.
    orphans: Vec<ObjectMeta>,
    /// How many were replaced too, but not long enough ago.
    waiting: usize,
    log: LogFiles,
}

impl Unused {
    fn counted(&self) -> Deleted {
        let files = || self.replaced.iter().chain(&self.orphans);
        let bytes = files().map(|file| file.size).sum();
        Deleted { files: files().count(), bytes, log_files: 0, waiting: self.waiting }
    }
}

async fn number_of(table: &DeltaTable) -> Result<i64> {
    Ok(table.progress(MAINTENANCE).await?.unwrap_or(0))
}

/// What lies in a table's `_delta_log`.
struct LogFiles {
    commits: Vec<(u64, ObjectMeta)>,
    checkpoints: Vec<(u64, ObjectMeta)>,
    checksums: Vec<(u64, ObjectMeta)>,
}

impl LogFiles {
    fn of(listed: Vec<ObjectMeta>) -> LogFiles {
        let mut files = LogFiles { commits: Vec::new(), checkpoints: Vec::new(), checksums: Vec::new() };
        for file in listed {
            let Some((version, kind)) = file.location.filename().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let Some(version) =
                Some(version).filter(|digits| digits.len() == 20).and_then(|digits| digits.parse().ok())
            else {
                continue;
            };
            match kind {
                "json" => files.commits.push((version, file)),
                "checkpoint.parquet" => files.checkpoints.push((version, file)),
                "crc" => files.checksums.push((version, file)),
                _ => {}
            }
        }
        files
    }

    fn newest_checkpoint(&self) -> u64 {
        self.checkpoints.iter().map(|(version, _)| *version).max().unwrap_or(0)
    }

    /// Everything below the newest checkpoint that is not younger than the newest commit from before a time.
    fn outdated(self, before: DateTime<Utc>) -> Vec<object_store::path::Path> {
        let old = self.commits.iter().filter(|(_, file)| file.last_modified < before);
        let Some(last) = old.map(|(version, _)| *version).max() else { return Vec::new() };
        let kept = self.checkpoints.iter().map(|(version, _)| *version).filter(|version| *version <= last).max();
        let Some(kept) = kept else { return Vec::new() };
        let all = self.commits.into_iter().chain(self.checkpoints).chain(self.checksums);
        all.filter(|(version, _)| *version < kept).map(|(_, file)| file.location).collect()
    }
}
