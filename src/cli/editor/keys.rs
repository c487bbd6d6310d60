//! From the bytes that a terminal sends to keys.

/// What somebody pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Up,
    Down,
    /// A letter with Ctrl, in lower case.
    Ctrl(char),
}

/// Bytes that are not yet a whole key.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<u8>);

impl Keys {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Puts a byte before all others.
    pub(super) fn push_front(&mut self, byte: u8) {
        self.0.insert(0, byte);
    }

    /// Whether more has come than what was asked for: a paste, or a fast typist.
    pub(super) fn pending(&self) -> bool {
        !self.0.is_empty()
    }

    /// The next whole key; what no key is known for is left out.
    pub(super) fn next(&mut self) -> Option<Key> {
        loop {
            let (key, length) = decode(&self.0)?;
            self.0.drain(..length);
            if key.is_some() {
                return key;
            }
        }
    }
}

/// The first key and its bytes; `None` where more must come first.
fn decode(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let first = *bytes.first()?;
    let key = match first {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x08 | 0x7f => Key::Backspace,
        0x1b => return escape(bytes),
        1..=26 => Key::Ctrl(char::from(first - 1 + b'a')),
        0..0x20 => return Some((None, 1)),
        _ => return character(bytes),
    };
    Some((Some(key), 1))
}

fn character(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let length = match bytes[0] {
        0..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf8 => 4,
        _ => return Some((None, 1)),
    };
    let whole = bytes.get(..length)?;
    match std::str::from_utf8(whole).ok().and_then(|text| text.chars().next()).filter(|c| !c.is_control()) {
        Some(c) => Some((Some(Key::Char(c)), length)),
        None => Some((None, 1)),
    }
}

/// `ESC [ … letter`, `ESC O letter`, and `ESC letter` for a letter with Alt.
fn escape(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    match bytes.get(1)? {
        b'[' => {
            let end = 2 + bytes.get(2..)?.iter().position(|byte| (0x40..0x7f).contains(byte))?;
            let parameters = &bytes[2..end];
            let key = match (bytes[end], parameters) {
                (b'A', _) => Some(Key::Up),
                (b'B', _) => Some(Key::Down),
                (b'C', b"1;5" | b"1;3") => Some(Key::WordRight),
                (b'D', b"1;5" | b"1;3") => Some(Key::WordLeft),
                (b'C', _) => Some(Key::Right),
                (b'D', _) => Some(Key::Left),
                (b'H', _) | (b'~', b"1" | b"7") => Some(Key::Home),
                (b'F', _) | (b'~', b"4" | b"8") => Some(Key::End),
                (b'~', b"3") => Some(Key::Delete),
                _ => None,
            };
            Some((key, end + 1))
        }
        b'O' => {
            let key = match bytes.get(2)? {
                b'A' => Some(Key::Up),
                b'B' => Some(Key::Down),
                b'C' => Some(Key::Right),
                b'D' => Some(Key::Left),
                b'H' => Some(Key::Home),
                b'F' => Some(Key::End),
                _ => None,
            };
            Some((key, 3))
        }
        b'b' => Some((Some(Key::WordLeft), 2)),
        b'f' => Some((Some(Key::WordRight), 2)),
        // Escape by itself means nothing here.
        _ => Some((None, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        keys.push(bytes);
        std::iter::from_fn(|| keys.next()).collect()
    }

    #[test]
    fn keys_are_told_apart() {
        let expected = [
            Key::Char('a'),
            Key::Char('é'),
            Key::Char('日'),
            Key::Left,
            Key::WordRight,
            Key::Delete,
            Key::Home,
            Key::Up,
            Key::WordLeft,
            Key::Ctrl('c'),
            Key::Tab,
            Key::Backspace,
            Key::Enter,
        ];
        let typed = "aé日\x1b[D\x1b[1;5C\x1b[3~\x1b[H\x1bOA\x1bb\x03\t\x7f\r";
        assert_eq!(keys(typed.as_bytes()), expected);
    }

    #[test]
    fn keys_come_in_pieces() {
        let mut decoder = Keys::default();
        for byte in "\x1b[3~日".as_bytes() {
            assert_eq!(decoder.next(), None);
            decoder.push(&[*byte]);
            if *byte == b'~' {
                assert_eq!(decoder.next(), Some(Key::Delete));
            }
        }
        assert_eq!(decoder.next(), Some(Key::Char('日')));
        assert!(!decoder.pending());
    }

    #[test]
    fn what_is_no_key_is_left_out() {
        assert_eq!(keys(b"\xff\x1b[200~\x00a\xc3(b\x1b\x1b"), [Key::Char('a'), Key::Char('('), Key::Char('b')]);
    }
}
