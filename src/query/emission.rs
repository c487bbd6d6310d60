//! From a reader that hands its batches on without waiting to a stream that is waited for.

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::task::block_in_place;

use super::state::external;
use crate::failure::{self, Failure};

/// Gives batches to whoever reads the stream, waiting while he is busy.
pub(super) struct Emission {
    out: Sender<Result<RecordBatch>>,
    /// The reader has all that he wanted.
    done: bool,
}

impl Emission {
    pub(super) fn new(out: Sender<Result<RecordBatch>>) -> Emission {
        Emission { out, done: false }
    }

    /// # Errors
    /// Where nobody reads any more, so that reading stops.
    pub(super) fn give(&mut self, batch: RecordBatch) -> failure::Result<()> {
        let sent = block_in_place(|| Handle::current().block_on(self.out.send(Ok(batch))));
        sent.map_err(|_| {
            self.done = true;
            Failure::failed("nobody reads the rows any more")
        })
    }

    /// What the reading ended with, to the stream.
    pub(super) fn end(self, read: failure::Result<()>) -> Result<()> {
        if self.done { Ok(()) } else { read.map_err(external) }
    }
}
