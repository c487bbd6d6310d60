//! The messages of PostgreSQL's protocol 3, as a server reads and writes them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::SqlError;

/// What an unknown peer may send at once.
pub(super) const STARTUP_BYTES: usize = 10_000;
/// What somebody who is logged in may send at once: a statement and its parameters.
pub(super) const MESSAGE_BYTES: usize = 16 << 20;
/// Room for one read.
const READ: usize = 8 << 10;
/// Answers are sent when they have grown to this.
const FULL: usize = 64 << 10;

/// Whatever a connection comes over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One message of a client.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// A connection with a buffer on either side.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    most: usize,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Wire {
        Wire { stream, incoming: BytesMut::new(), outgoing: BytesMut::new(), most: STARTUP_BYTES }
    }

    /// Lets the peer send statements.
    pub(super) fn trust(&mut self) {
        self.most = MESSAGE_BYTES;
    }

    /// The stream again, where nothing was read ahead.
    pub(super) fn into_stream(self) -> Option<Box<dyn Stream>> {
        self.incoming.is_empty().then_some(self.stream)
    }

    /// The first message of a connection, which has no tag. `None` where the peer has gone.
    pub(super) async fn startup(&mut self) -> Result<Option<Bytes>, SqlError> {
        self.whole(0).await
    }

    /// The next message; `None` where the peer has gone.
    pub(super) async fn receive(&mut self) -> Result<Option<Message>, SqlError> {
        if !self.fill(1).await? {
            return Ok(None);
        }
        let tag = self.incoming[0];
        Ok(self.whole(1).await?.map(|body| Message { tag, body }))
    }

    /// A length and what it counts, after `before` bytes that are dropped.
    async fn whole(&mut self, before: usize) -> Result<Option<Bytes>, SqlError> {
        if !self.fill(before + 4).await? {
            return Ok(None);
        }
        let length = (&self.incoming[before..]).get_i32();
        let length = usize::try_from(length).ok().filter(|length| (4..=self.most).contains(length));
        let Some(length) = length else {
            return Err(SqlError::fatal("08P01", "invalid length of a message"));
        };
        if !self.fill(before + length).await? {
            return Ok(None);
        }
        self.incoming.advance(before + 4);
        Ok(Some(self.incoming.split_to(length - 4).freeze()))
    }

    async fn fill(&mut self, wanted: usize) -> Result<bool, SqlError> {
        while self.incoming.len() < wanted {
            self.incoming.reserve(READ);
            match self.stream.read_buf(&mut self.incoming).await {
                Ok(0) | Err(_) => return Ok(false),
                Ok(_) => {}
            }
        }
        Ok(true)
    }

    /// Adds a message, sent at the next [`Wire::flush`].
    pub(super) fn put(&mut self, tag: u8, write: impl FnOnce(&mut BytesMut)) {
        self.outgoing.put_u8(tag);
        let start = self.outgoing.len();
        self.outgoing.put_i32(0);
        write(&mut self.outgoing);
        // A row larger than the protocol can say cannot come: a batch of them does not fit into an Arrow array.
        let length = i32::try_from(self.outgoing.len() - start).unwrap_or(i32::MAX);
        self.outgoing[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// A single byte without a frame: the answer to a request for encryption.
    pub(super) fn put_byte(&mut self, byte: u8) {
        self.outgoing.put_u8(byte);
    }

    /// Whether enough waits to be sent.
    pub(super) fn is_full(&self) -> bool {
        self.outgoing.len() >= FULL
    }

    pub(super) async fn flush(&mut self) -> Result<(), SqlError> {
        let gone = |_| SqlError::fatal("08006", "the client has gone");
        self.stream.write_all(&self.outgoing).await.map_err(gone)?;
        self.outgoing.clear();
        self.stream.flush().await.map_err(gone)
    }
}

/// Reads the fields of a message. What is missing is an error, never a panic.
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    pub(super) fn text(&mut self) -> Result<String, SqlError> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        let text = std::str::from_utf8(&text);
        text.map(str::to_owned).map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding UTF8"))
    }

    pub(super) fn byte(&mut self) -> Result<u8, SqlError> {
        if self.0.is_empty() { Err(malformed()) } else { Ok(self.0.get_u8()) }
    }

    pub(super) fn i16(&mut self) -> Result<i16, SqlError> {
        if self.0.len() < 2 { Err(malformed()) } else { Ok(self.0.get_i16()) }
    }

    pub(super) fn i32(&mut self) -> Result<i32, SqlError> {
        if self.0.len() < 4 { Err(malformed()) } else { Ok(self.0.get_i32()) }
    }

    /// A count and as many of what `read` reads.
    pub(super) fn list<T>(&mut self, read: impl Fn(&mut Fields) -> Result<T, SqlError>) -> Result<Vec<T>, SqlError> {
        let count = u16::try_from(self.i16()?).map_err(|_| malformed())?;
        (0..count).map(|_| read(self)).collect()
    }

    /// A length and as many bytes; `None` for a NULL.
    pub(super) fn value(&mut self) -> Result<Option<Bytes>, SqlError> {
        match self.i32()? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) if length <= self.0.len() => Ok(Some(self.0.split_to(length))),
                _ => Err(malformed()),
            },
        }
    }
}

pub(super) fn malformed() -> SqlError {
    SqlError::fatal("08P01", "invalid message format")
}

/// Writes a text with the zero that ends it; what stands after a zero inside is left out.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.split('\0').next().unwrap_or_default().as_bytes());
    out.put_u8(0);
}
