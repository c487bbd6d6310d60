//! Messages for the tests of other modules.

use super::{Message, Tuple, decode};

/// A value that stands for an unchanged TOASTed one.
pub const UNCHANGED: &str = "<unchanged>";

/// The bytes of an insert of these values, which [`tuple`] turns into a tuple; `NULL` is one.
pub fn message(values: &[impl AsRef<str>]) -> Vec<u8> {
    let mut bytes = vec![b'I', 0, 0, 0, 1, b'N'];
    bytes.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value.as_ref() {
            UNCHANGED => bytes.push(b'u'),
            "NULL" => bytes.push(b'n'),
            text => {
                bytes.push(b't');
                bytes.extend((text.len() as u32).to_be_bytes());
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

pub fn tuple(bytes: &[u8]) -> Tuple<'_> {
    match decode(bytes) {
        Ok(Message::Insert { new, .. }) => new,
        other => panic!("{other:?}"),
    }
}
