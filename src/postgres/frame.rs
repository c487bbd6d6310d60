//! The protocol's framing and field encoding: bytes in, frames out, no I/O and no panic on any input.
//!
//! A frame is a tag byte, a big-endian length that counts itself, and a body (PostgreSQL manual,
//! "Message Formats"). Bodies share the read buffer's memory.

use bytes::{Buf, Bytes, BytesMut};

/// The tag and the length word.
pub(super) const FRAME_HEADER: usize = 5;

/// One message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// The bytes are not PostgreSQL's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the server sent is not PostgreSQL's protocol")]
pub(super) struct Malformed;

/// Takes the next whole frame off the front of `buffer`, or leaves it untouched if it is not whole yet.
pub(super) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some(total) = frame_length(buffer)? else { return Ok(None) };
    if buffer.len() < total {
        return Ok(None);
    }
    let mut body = buffer.split_to(total).freeze();
    let tag = body[0];
    body.advance(FRAME_HEADER);
    Ok(Some(Frame { tag, body }))
}

/// How many bytes the frame at the front of `buffer` takes, once its header is there.
pub(super) fn frame_length(buffer: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(header) = buffer.first_chunk::<FRAME_HEADER>() else { return Ok(None) };
    let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    if length < 4 { Err(Malformed) } else { Ok(Some(length + 1)) }
}

/// Reads a body field by field; every read past the end is [`Malformed`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*chunk)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    pub(super) fn i16(&mut self) -> Result<i16, Malformed> {
        self.chunk().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.chunk().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.chunk().map(i64::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.chunk().map(u64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
        let bytes = self.bytes(end)?;
        self.u8()?;
        std::str::from_utf8(bytes).map_err(|_| Malformed)
    }
}

/// The columns of a `DataRow`, which simple queries send as text.
pub(super) fn data_row(body: &[u8]) -> Result<Vec<Option<String>>, Malformed> {
    let mut fields = Fields(body);
    let count = fields.i16()?;
    (0..count).map(|_| column(&mut fields)).collect()
}

fn column(fields: &mut Fields<'_>) -> Result<Option<String>, Malformed> {
    let length = fields.i32()?;
    if length == -1 {
        return Ok(None);
    }
    let bytes = fields.bytes(usize::try_from(length).map_err(|_| Malformed)?)?;
    String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn frames_come_out_the_same_wherever_the_bytes_are_cut() {
        let whole = [framed(b'd', b"one"), framed(b'c', b""), framed(b'd', &[7; 300])].concat();
        for cut in 0..=whole.len() {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in [&whole[..cut], &whole[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    seen.push((frame.tag, frame.body.len()));
                }
            }
            assert_eq!(seen, [(b'd', 3), (b'c', 0), (b'd', 300)], "cut at {cut}");
            assert!(buffer.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [3i32, 0, -1, i32::MIN] {
            let mut buffer = BytesMut::from(&b"d"[..]);
            buffer.extend_from_slice(&length.to_be_bytes());
            assert_eq!(take_frame(&mut buffer), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn a_row_cut_anywhere_is_refused() {
        let mut body = 3i16.to_be_bytes().to_vec();
        for value in [Some("a"), None, Some("longer")] {
            body.extend_from_slice(&value.map_or(-1, |text| text.len() as i32).to_be_bytes());
            body.extend_from_slice(value.unwrap_or_default().as_bytes());
        }
        assert_eq!(data_row(&body), Ok(vec![Some("a".into()), None, Some("longer".into())]));
        for cut in 0..body.len() {
            assert_eq!(data_row(&body[..cut]), Err(Malformed), "cut at {cut}");
        }
    }
}
