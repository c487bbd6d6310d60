//! COPY into the server, in chunks that are worth handing on.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures::SinkExt;
use tokio_postgres::{Client, CopyInSink};

use crate::failure::Result;

/// Rows are gathered up to about this many bytes before they are sent.
const CHUNK: usize = 256 * 1024;

/// Starts a `COPY … FROM STDIN`, in whatever format `sql` names.
///
/// # Errors
/// As [`diagnose`](super::diagnose) says.
pub async fn copy_in(client: &Client, sql: &str) -> Result<CopyIn> {
    Ok(CopyIn { sink: Box::pin(client.copy_in(sql).await?), gathered: BytesMut::new() })
}

/// The receiving end of a `COPY … FROM STDIN`. Dropped without [`finish`](Self::finish), the copy is undone.
pub struct CopyIn {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    gathered: BytesMut,
}

impl CopyIn {
    /// Adds bytes, cut wherever the caller likes. The server's objection to a row shows in
    /// [`finish`](Self::finish): it goes on taking bytes until then.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() < CHUNK { Ok(()) } else { self.send().await }
    }

    /// Adds a chunk that is worth handing on as it is. As [`write`](Self::write) otherwise.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn hand_on(&mut self, chunk: Bytes) -> Result<()> {
        if !self.gathered.is_empty() {
            self.send().await?;
        }
        Ok(self.sink.send(chunk).await?)
    }

    async fn send(&mut self) -> Result<()> {
        Ok(self.sink.send(self.gathered.split().freeze()).await?)
    }

    /// Ends the copy and returns how many rows the server took.
    ///
    /// # Errors
    /// The server's objection to any row.
    pub async fn finish(mut self) -> Result<u64> {
        if !self.gathered.is_empty() {
            self.send().await?;
        }
        Ok(self.sink.as_mut().finish().await?)
    }
}
