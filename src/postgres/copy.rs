//! COPY in the text format, in chunks that are worth handing on.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio_postgres::{Client, CopyInSink, CopyOutStream};

use crate::failure::{Failure, Result};

/// Rows are gathered up to about this many bytes: the server sends each in a message of its own.
const CHUNK: usize = 256 * 1024;

/// Starts a `COPY … TO STDOUT` in the text format.
///
/// # Errors
/// As [`diagnose`](super::diagnose) says.
pub async fn copy_out(client: &Client, sql: &str) -> Result<CopyOut> {
    Ok(CopyOut { stream: Box::pin(client.copy_out(sql).await?), gathered: BytesMut::new(), ended: false })
}

/// The rows of a `COPY … TO STDOUT`, read by [`next_chunk`](Self::next_chunk).
pub struct CopyOut {
    stream: Pin<Box<CopyOutStream>>,
    gathered: BytesMut,
    ended: bool,
}

impl CopyOut {
    /// The next rows: whole lines, of which the last ends with a newline too; `None` after the last. In the text
    /// format a newline inside a value is escaped, so every newline byte ends a row.
    ///
    /// May be dropped half-way and called again.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says; rows handed out before one are not the whole result.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        while !self.ended && (self.gathered.len() < CHUNK || self.whole_lines() == 0) {
            match self.stream.next().await {
                Some(rows) => self.gathered.extend_from_slice(&rows?),
                None => self.ended = true,
            }
        }
        match self.whole_lines() {
            0 if self.gathered.is_empty() => Ok(None),
            0 => Err(Failure::failed("COPY ended in the middle of a row").remedy("copy in the text format")),
            lines => Ok(Some(self.gathered.split_to(lines).freeze())),
        }
    }

    /// How many of the gathered bytes are whole lines.
    fn whole_lines(&self) -> usize {
        self.gathered.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
    }
}

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
