//! A Parquet file that grows batch by batch, each encoded on another thread while the next one is built.

use arrow::array::RecordBatch;
use tokio::task::JoinHandle;

use crate::archive::{EncodedFile, FileEncoder, blocking};
use crate::failure::{Failure, Result};
use crate::machine::spawn_blocking;

/// Bytes of rows, as they are in memory, of one batch. Small enough to be allocated from what the batch before has freed:
/// memory fresh from the operating system costs more than filling it.
pub(super) const BATCH_BYTES: usize = 4 << 20;

/// Bytes of rows, as they are in memory, of one file.
pub(super) const FILE_BYTES: usize = 96 << 20;

/// Bytes of one file as it is encoded: it is in memory until it is whole.
pub(super) const ENCODED_BYTES: u64 = 8 << 20;

/// Files that grow at the same time, at most.
pub(super) const PARALLEL_FILES: usize = 4;

/// See the module's documentation.
pub(super) struct OpenFile {
    bytes: usize,
    /// Before the batch that is being encoded.
    encoded: u64,
    encoding: JoinHandle<Result<FileEncoder>>,
}

impl OpenFile {
    /// Begins a file with its first batch, of so many bytes in memory.
    pub(super) fn begin(encoder: FileEncoder, batch: RecordBatch, bytes: usize) -> OpenFile {
        OpenFile { bytes, encoded: 0, encoding: encode(encoder, batch) }
    }

    /// Adds a batch, when the one before has been encoded.
    pub(super) async fn write(&mut self, batch: RecordBatch, bytes: usize) -> Result<()> {
        let encoder = joined((&mut self.encoding).await)?;
        self.bytes += bytes;
        self.encoded = encoder.size();
        self.encoding = encode(encoder, batch);
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= FILE_BYTES || self.encoded >= ENCODED_BYTES
    }

    pub(super) async fn finish(self) -> Result<EncodedFile> {
        let encoder = joined(self.encoding.await)?;
        blocking(move || encoder.finish()).await
    }
}

fn encode(mut encoder: FileEncoder, batch: RecordBatch) -> JoinHandle<Result<FileEncoder>> {
    spawn_blocking(move || encoder.write(&batch).map(|()| encoder))
}

/// What work on another thread came to.
pub(super) fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| Err(Failure::failed(format!("a worker stopped: {error}"))))
}
