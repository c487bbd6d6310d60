//! Many small files of a table into few large ones.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Fields, Schema};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use super::Policy;
use super::clustering::{Order, Writing};
use crate::archive::{Archive, DataFile, DataReader, MaintainedTable, RELATION_KEY, StagedFile, TablePath, log};
use crate::failure::{Failure, Result};
use crate::model::Lsn;

/// Footers read at the same time.
const PARALLEL_FOOTERS: usize = 16;

/// What two files must have in common to be merged: the relation version, whose table may be another one of the same
/// name, and the columns as they are stored.
#[derive(Debug, Clone, PartialEq)]
struct Kind {
    relation: Option<String>,
    fields: Fields,
}

/// Merges a table's small files below the watermark, as long as it pays. False where somebody else maintains the table.
pub(super) async fn compact(
    archive: &Archive,
    table: &mut MaintainedTable,
    path: &TablePath,
    policy: &Policy,
    watermark: Lsn,
) -> Result<bool> {
    let mut kinds = HashMap::new();
    loop {
        let files = small_files(table, policy, watermark).await?;
        let (merged, staged) = match merge_next(archive, path, &files, &mut kinds, policy).await {
            Ok(Some(merged)) => merged,
            Ok(None) => return Ok(true),
            // They may be deleted already where somebody else has merged them.
            Err(_) if table.is_left_to_others().await? => return Ok(false),
            Err(failure) => return Err(failure),
        };
        if !table.replace(&merged, &staged).await? {
            return Ok(false);
        }
    }
}

/// What merging a table's small files would come to: how many and how many bytes are merged, and about how many files
/// they become. Nothing is changed.
pub(super) async fn plan(
    archive: &Archive,
    table: &MaintainedTable,
    policy: &Policy,
    watermark: Lsn,
) -> Result<PlannedMerge> {
    let mut files = small_files(table, policy, watermark).await?;
    let mut kinds = HashMap::new();
    learn_kinds(archive, &files, &mut kinds).await?;
    let before: HashMap<String, u64> = files.iter().map(|file| (file.path.clone(), file.size)).collect();
    let mut large = 0;
    while let Some((kind, merged)) = next_merge(&files, &kinds, policy) {
        let bytes = merged.iter().map(|file| file.size).sum::<u64>();
        let gone = |file: &DataFile| merged.iter().any(|merged| merged.path == file.path);
        let place = files.iter().position(gone).unwrap_or(0);
        files.retain(|file| !gone(file));
        if !policy.tiers.is_small(bytes) {
            large += bytes.div_ceil(policy.tiers.target_bytes.max(1)) as usize;
            continue;
        }
        let lsns = merged.iter().filter_map(|file| file.lsns);
        let lsns = lsns.reduce(|(first, last), (from, to)| (first.min(from), last.max(to)));
        let Some(file) = merged.into_iter().next() else { break };
        let path = format!("{}+{bytes}", file.path);
        kinds.insert(path.clone(), kind);
        files.insert(place, DataFile { path, size: bytes, lsns, ..file });
    }
    let kept: Vec<&DataFile> = files.iter().filter(|file| before.contains_key(&file.path)).collect();
    Ok(PlannedMerge {
        files: before.len() - kept.len(),
        bytes: before.values().sum::<u64>() - kept.iter().map(|file| file.size).sum::<u64>(),
        into: files.len() - kept.len() + large,
    })
}

/// See [`plan`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlannedMerge {
    /// How many files are merged.
    pub files: usize,
    pub bytes: u64,
    /// About how many files they become.
    pub into: usize,
}

/// Files, and those that can take their place; `None` where no merge pays.
async fn merge_next(
    archive: &Archive,
    path: &TablePath,
    files: &[DataFile],
    kinds: &mut HashMap<String, Kind>,
    policy: &Policy,
) -> Result<Option<(Vec<DataFile>, Vec<StagedFile>)>> {
    if files.len() < 2 {
        return Ok(None);
    }
    learn_kinds(archive, files, kinds).await?;
    let Some((kind, merged)) = next_merge(files, kinds, policy) else { return Ok(None) };
    let staged = merge(archive, path, &kind, &merged, policy).await?;
    Ok(Some((merged, staged)))
}

/// In the order of history.
async fn small_files(table: &MaintainedTable, policy: &Policy, watermark: Lsn) -> Result<Vec<DataFile>> {
    let mut files = table.files().await?;
    let is_below = |file: &DataFile| file.lsns.is_some_and(|(_, last)| last < watermark.as_i64());
    files.retain(|file| policy.tiers.is_small(file.size) && is_below(file));
    files.sort_by_key(|file| file.lsns);
    Ok(files)
}

async fn learn_kinds(archive: &Archive, files: &[DataFile], kinds: &mut HashMap<String, Kind>) -> Result<()> {
    let unknown: Vec<DataFile> = files.iter().filter(|file| !kinds.contains_key(&file.path)).cloned().collect();
    let read = |file: DataFile| async move {
        let reader = archive.read(&file, None).await?;
        let relation = reader.said(RELATION_KEY).map(str::to_owned);
        Ok::<_, Failure>((file.path, Kind { relation, fields: reader.schema().fields().clone() }))
    };
    let found: Vec<_> = stream::iter(unknown).map(read).buffered(PARALLEL_FOOTERS).try_collect().await?;
    kinds.extend(found);
    Ok(())
}

/// The files of one kind that are merged next.
fn next_merge(files: &[DataFile], kinds: &HashMap<String, Kind>, policy: &Policy) -> Option<(Kind, Vec<DataFile>)> {
    let mut by_kind: Vec<(&Kind, Vec<&DataFile>)> = Vec::new();
    for file in files {
        let kind = kinds.get(&file.path)?;
        match by_kind.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, alike)) => alike.push(file),
            None => by_kind.push((kind, vec![file])),
        }
    }
    by_kind.into_iter().find_map(|(kind, alike)| {
        let sizes: Vec<u64> = alike.iter().map(|file| file.size).collect();
        let merged = policy.tiers.next(&sizes)?;
        Some((kind.clone(), alike[merged].iter().map(|file| (*file).clone()).collect()))
    })
}

async fn merge(
    archive: &Archive,
    path: &TablePath,
    kind: &Kind,
    files: &[DataFile],
    policy: &Policy,
) -> Result<Vec<StagedFile>> {
    let relation = kind.relation.as_deref().map(log::parse_relation).transpose()?;
    let order = relation.as_ref().map_or(Order::Log, Order::of_changes);
    let open = |file: DataFile| async move { archive.read(&file, None).await };
    let opened = stream::iter(files.to_vec()).map(open).buffered(PARALLEL_FOOTERS);
    let readers: Vec<_> = opened.try_collect().await?;
    let batch_rows = readers.iter().map(DataReader::batch_rows).min().unwrap_or(1);
    let rows = stream::iter(readers).map(|reader| reader.stream()).try_flatten().boxed();
    let writing = Writing {
        store: archive.store(),
        path,
        schema: Arc::new(Schema::new(kind.fields.clone())),
        relation: relation.as_ref(),
        order,
        image_lsn: None,
        target_bytes: policy.tiers.target_bytes,
        memory_bytes: policy.memory_bytes,
        batch_rows,
    };
    writing.stage(rows).await
}
