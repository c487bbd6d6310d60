//! Base images by policy: when reading a table would take longer for its changes than for its image.

use futures::stream::{self, StreamExt as _};
use tokio::sync::mpsc;

use super::Policy;
use super::clustering::{Order, Rows, Writing};
use crate::archive::{Archive, DataFile, MaintainedTable, TablePath};
use crate::columnar::{ImageBuilder, RowText, image_schema, image_table_schema};
use crate::failure::{Category, Failure, Result};
use crate::history::TableAt;
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
    NotDue,
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
    let newest = archive.image(name, watermark).await?;
    let (since, bytes) =
        newest.map_or((Lsn::ZERO, 0), |image| (image.lsn, image.files.iter().map(|file| file.size).sum()));
    if since >= watermark || changed_bytes(changes, since, watermark) < policy.image_due_bytes(bytes) {
        return Ok(Imaged::NotDue);
    }
    let table = match TableAt::find(archive, name, watermark).await {
        Ok(Some(table)) if !table.relation().partitioned => table,
        Ok(_) => return Ok(Imaged::NotDue),
        // Where the state is not known there is none to write.
        Err(failure) if failure.category() == Category::Refused => return Ok(Imaged::NotDue),
        Err(failure) => return Err(failure),
    };
    let path = TablePath::Images(name.clone());
    let schema = image_table_schema(table.relation());
    let mut images = MaintainedTable::open_or_create(archive.store(), &path, &schema).await?;
    // Opened before it is looked at: who writes one after this look is found when ours is to be added.
    if images.files().await?.iter().any(|file| file.image_lsn >= Some(watermark.as_i64())) {
        return Ok(Imaged::NotDue);
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
    let files = writing.stage(rows_of(table)).await?;
    Ok(if images.add(&files).await? { Imaged::Written } else { Imaged::LeftAlone })
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
