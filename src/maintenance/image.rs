//! Base images by policy: when reading a table would take longer for its changes than for its image.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::sync::mpsc;

use super::Policy;
use super::clustering::{Order, Rows, Writing};
use crate::archive::{Archive, DataFile, Image, MaintainedTable, TablePath};
use crate::columnar::{ImageBuilder, RowText, image_schema, image_table_schema};
use crate::failure::{Category, Failure, Result};
use crate::history::TableAt;
use crate::machine;
use crate::model::{Lsn, TableName};

/// Bytes of rows in memory that are handed on at once.
const BATCH_BYTES: usize = 4 << 20;
/// Rows that are written at once.
const BATCH_ROWS: usize = 1024;
/// Between these many rows it is looked at how many bytes they have.
const ROWS_BETWEEN_LOOKS: u64 = 256;

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Imaged {
    /// Perhaps after this time, by the image's age alone.
    NotDue(Option<Duration>),
    Written,
    /// Somebody else maintains the table.
    LeftAlone,
}

/// Writes an image of a table as it is at the watermark, where its changes since the newest one have outgrown that.
/// Every transaction with a commit LSN below the image's is in it, as in any image.
pub(super) async fn write_when_due(
    archive: &Archive,
    name: &TableName,
    changes: &[DataFile],
    policy: &Policy,
    watermark: Lsn,
) -> Result<Imaged> {
    let table = match to_write(archive, name, changes, policy, watermark).await? {
        Ok(table) => table,
        Err(wait) => return Ok(Imaged::NotDue(wait)),
    };
    let path = TablePath::Images(name.clone());
    let schema = image_table_schema(table.relation());
    let mut images = MaintainedTable::open_or_create(archive.store(), &path, &schema).await?;
    // Opened before it is looked at: who writes one after this look is found when ours is to be added.
    if images.files().await?.iter().any(|file| file.image_lsn >= Some(watermark.as_i64())) {
        return Ok(Imaged::NotDue(None));
    }
    let relation = table.relation().clone();
    let writing = Writing {
        store: archive.store(),
        path: &path,
        schema: image_schema(&relation),
        relation: Some(&relation),
        order: Order::of_image(&relation),
        image_lsn: Some(watermark.as_i64()),
        target_bytes: policy.tiers.target_bytes,
        memory_bytes: policy.memory_bytes,
        batch_rows: BATCH_ROWS,
    };
    let files = writing.stage(rows_of(table.within(policy.memory_bytes))).await?;
    Ok(if images.add(&files).await? { Imaged::Written } else { Imaged::LeftAlone })
}

/// Whether [`write_when_due`] would write an image now.
pub(super) async fn is_due(
    archive: &Archive,
    name: &TableName,
    changes: &[DataFile],
    policy: &Policy,
    watermark: Lsn,
) -> Result<bool> {
    Ok(to_write(archive, name, changes, policy, watermark).await?.is_ok())
}

/// The state to write as an image; where none is due, after which time one may be by its age.
async fn to_write(
    archive: &Archive,
    name: &TableName,
    changes: &[DataFile],
    policy: &Policy,
    watermark: Lsn,
) -> Result<std::result::Result<TableAt, Option<Duration>>> {
    let newest = archive.image(name, watermark).await?;
    if let Due::Later(wait) = due(newest.as_ref(), changes, policy, watermark) {
        return Ok(Err(wait));
    }
    match TableAt::find(archive, name, watermark).await {
        Ok(Some(table)) if !table.relation().partitioned => Ok(Ok(table)),
        Ok(_) => Ok(Err(None)),
        // Where the state is not known there is none to write.
        Err(failure) if failure.category() == Category::Refused => Ok(Err(None)),
        Err(failure) => Err(failure),
    }
}

/// When an image is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    /// After this time even if nothing changes any more; without it only when there are more changes.
    Later(Option<Duration>),
}

fn due(newest: Option<&Image>, changes: &[DataFile], policy: &Policy, watermark: Lsn) -> Due {
    let since = newest.map_or(Lsn::ZERO, |image| image.lsn);
    let changed = changed_bytes(changes, since, watermark);
    if since >= watermark || changed == 0 {
        return Due::Later(None);
    }
    let files = newest.map_or_else(Vec::new, |image| image.files.iter().collect());
    if changed >= policy.image_due_bytes(files.iter().map(|file| file.size).sum()) {
        return Due::Now;
    }
    let Some(oldest) = policy.image_age else { return Due::Later(None) };
    // Without an image its changes grow old.
    let begun = if files.is_empty() { changes.iter().collect() } else { files };
    let written = begun.iter().map(|file| file.written_ms).min().unwrap_or(0);
    let age = Duration::from_millis(machine::now().timestamp_millis().abs_diff(written));
    if age >= oldest { Due::Now } else { Due::Later(Some(oldest - age)) }
}

/// The size of the files with changes from one LSN up to another.
fn changed_bytes(files: &[DataFile], from: Lsn, to: Lsn) -> u64 {
    let is_since =
        |file: &&DataFile| file.lsns.is_none_or(|(first, last)| first < to.as_i64() && last >= from.as_i64());
    files.iter().filter(is_since).map(|file| file.size).sum()
}

/// The rows of a table, in batches, from a task of their own.
fn rows_of(table: TableAt) -> Rows {
    let (sender, mut receiver) = mpsc::channel::<Result<arrow::array::RecordBatch>>(1);
    tokio::spawn(async move {
        if let Err(failure) = send_rows(&table, &sender).await {
            // Whoever has stopped listening knows why.
            let _ = sender.send(Err(failure)).await;
        }
    });
    stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
}

async fn send_rows(table: &TableAt, sender: &mpsc::Sender<Result<arrow::array::RecordBatch>>) -> Result<()> {
    let gone = |_| Failure::failed("nobody takes the rows of an image any more");
    let mut builder = ImageBuilder::new(table.relation());
    let mut rows = 0;
    let mut sink = |row: &RowText| {
        builder.push(row.fields())?;
        rows += 1;
        if rows % ROWS_BETWEEN_LOOKS == 0 && builder.memory() >= BATCH_BYTES {
            let batch = builder.finish()?;
            // The rows come from code that does not wait, on a thread that may.
            tokio::task::block_in_place(|| sender.blocking_send(Ok(batch))).map_err(gone)?;
        }
        Ok(())
    };
    table.for_each_row(None, &mut sink).await?;
    match builder.rows() {
        0 => Ok(()),
        _ => sender.send(Ok(builder.finish()?)).await.map_err(gone),
    }
}
