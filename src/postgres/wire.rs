//! Whole frames over a transport.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::failure::{Failure, Result};

use super::diagnosis::{closed, diagnose_io};
use super::frame::{FRAME_HEADER, Frame, Malformed, frame_length, take_frame};
use super::transport::Transport;

/// What one read asks the socket for.
const READ_CHUNK: usize = 128 * 1024;
/// A new chunk is taken when less than this is left of the last one.
const READ_LEAST: usize = 16 * 1024;
/// A frame says how long it is before it comes; this much is taken on trust.
const RESERVE_MOST: usize = 8 * 1024 * 1024;

/// A transport with a buffer on either side. Every method may be dropped half-way (in a `select!`) and called
/// again: nothing read is lost, and nothing is sent in part and then forgotten.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    incoming: BytesMut,
    outgoing: BytesMut,
}

impl Wire {
    pub(super) fn new(transport: Transport) -> Wire {
        Wire { transport, incoming: BytesMut::new(), outgoing: BytesMut::new() }
    }

    pub(super) fn end_point_binding(&self) -> Option<Vec<u8>> {
        self.transport.end_point_binding()
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// The next frame of the server; one that is buffered is returned without touching the socket.
    ///
    /// # Errors
    /// [`Category::Transient`](crate::failure::Category::Transient) where the connection ends.
    pub(super) async fn receive(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.incoming)? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// Gives `take` the bodies of the whole frames that are buffered in front and have a tag, in place, and drops them;
    /// returns how many bytes they had.
    ///
    /// # Errors
    /// What `take` says.
    pub(super) fn take_bodies(&mut self, tag: u8, take: &mut (dyn FnMut(&[u8]) -> Result<()> + Send)) -> Result<u64> {
        let mut rest = &self.incoming[..];
        while rest.first() == Some(&tag) {
            let Some(total) = frame_length(rest)?.filter(|total| *total <= rest.len()) else { break };
            take(&rest[FRAME_HEADER..total])?;
            rest = &rest[total..];
        }
        let taken = self.incoming.len() - rest.len();
        self.incoming.advance(taken);
        Ok(taken as u64)
    }

    /// The next frame, unless it has a tag: then `None`, once it is buffered whole.
    ///
    /// # Errors
    /// [`Category::Transient`](crate::failure::Category::Transient) where the connection ends.
    pub(super) async fn receive_unless(&mut self, tag: u8) -> Result<Option<Frame>> {
        while frame_length(&self.incoming)?.is_none_or(|total| total > self.incoming.len()) {
            self.read().await?;
        }
        if self.incoming.first() == Some(&tag) { Ok(None) } else { Ok(take_frame(&mut self.incoming)?) }
    }

    async fn read(&mut self) -> Result<()> {
        self.make_room()?;
        let count = self.transport.read_buf(&mut self.incoming).await.map_err(|error| diagnose_io(&error))?;
        if count == 0 { Err(closed()) } else { Ok(()) }
    }

    /// The next frame if it is buffered whole.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame>> {
        Ok(take_frame(&mut self.incoming)?)
    }

    fn make_room(&mut self) -> Result<(), Malformed> {
        let rest = frame_length(&self.incoming)?.map_or(0, |total| total.saturating_sub(self.incoming.len()));
        let spare = self.incoming.capacity() - self.incoming.len();
        if spare < rest.clamp(READ_LEAST, RESERVE_MOST) {
            self.incoming.reserve(rest.clamp(READ_CHUNK, RESERVE_MOST));
        }
        Ok(())
    }

    /// Adds a message to what is to be sent.
    ///
    /// # Errors
    /// Where the message cannot be encoded: a text with a zero byte.
    pub(super) fn enqueue(&mut self, encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<()> {
        let before = self.outgoing.len();
        encode(&mut self.outgoing).map_err(|error| {
            self.outgoing.truncate(before);
            Failure::failed(format!("a message to the server cannot be written: {error}"))
        })
    }

    /// Sends everything enqueued.
    ///
    /// # Errors
    /// [`Category::Transient`](crate::failure::Category::Transient) where the connection is gone.
    pub(super) async fn flush(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            let count = self.transport.write_buf(&mut self.outgoing).await.map_err(|error| diagnose_io(&error))?;
            if count == 0 {
                return Err(closed());
            }
        }
        self.transport.flush().await.map_err(|error| diagnose_io(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag][..], &(body.len() as i32 + 4).to_be_bytes(), body].concat()
    }

    #[tokio::test]
    async fn a_read_that_is_dropped_half_way_loses_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(Transport::Unix(ours));
        let bytes = [frame(b'd', b"first"), frame(b'd', &[9; 40_000])].concat();
        let (head, tail) = bytes.split_at(12_345);
        theirs.write_all(head).await.unwrap();
        assert_eq!(&wire.receive().await.unwrap().body[..], b"first");
        let dropped = tokio::time::timeout(std::time::Duration::from_millis(20), wire.receive()).await;
        assert!(dropped.is_err(), "the second frame is not whole yet");
        theirs.write_all(tail).await.unwrap();
        assert_eq!(wire.receive().await.unwrap().body.len(), 40_000);
        drop(theirs);
        assert!(wire.receive().await.unwrap_err().is_transient());
    }

    #[tokio::test]
    async fn a_message_that_cannot_be_encoded_leaves_nothing_behind() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(Transport::Unix(ours));
        assert!(wire.enqueue(|out| postgres_protocol::message::frontend::query("a\0b", out)).is_err());
        wire.enqueue(|out| postgres_protocol::message::frontend::query("ok", out)).unwrap();
        wire.flush().await.unwrap();
        drop(wire);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        assert_eq!(sent, frame(b'Q', b"ok\0"));
    }
}
