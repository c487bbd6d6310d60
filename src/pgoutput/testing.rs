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

/// The bytes of a description of the table public.t, of relation 1, whose columns are texts and whose key is the first.
pub fn description(columns: &[&str]) -> Vec<u8> {
    let mut bytes = b"R\0\0\0\x01public\0t\0d".to_vec();
    bytes.extend((columns.len() as u16).to_be_bytes());
    for (at, name) in columns.iter().enumerate() {
        bytes.push(u8::from(at == 0));
        bytes.extend(name.as_bytes());
        bytes.extend([0, 0, 0, 0, 25]);
        bytes.extend((-1_i32).to_be_bytes());
    }
    bytes
}

/// The bytes of a logical message of a transaction.
pub fn logical(prefix: &str, content: &str) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [b"M\x01\0\0\0\0\0\0\0\x09", prefix.as_bytes(), b"\0", &length, content.as_bytes()].concat()
}
