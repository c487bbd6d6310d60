//! Any bytes as a message of the stream: an error, or a message whose tuples can be walked to their ends.

#![no_main]

use afterimage_fuzz::pgoutput::{Message, OldTuple, Tuple, changed, control, decode, streamed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // What bounds a transaction is nothing that can be in one.
    assert!(!matches!(control(input), Ok(Some(_))) || decode(input).is_err());
    if let Ok((_, kind, rest)) = streamed(input) {
        changed(kind, rest, |_, _| ());
    }
    let Ok(message) = decode(input) else { return };
    match message {
        Message::Insert { new, .. } => walk(&new),
        Message::Update { old, new, .. } => {
            old.iter().for_each(walk_old);
            walk(&new);
        }
        Message::Delete { old, .. } => walk_old(&old),
        _ => {}
    }
    // Whatever one byte less is, it is not this message.
    assert!(decode(&input[..input.len() - 1]).is_err());
});

fn walk_old(old: &OldTuple<'_>) {
    walk(&old.tuple);
}

fn walk(tuple: &Tuple<'_>) {
    assert_eq!(tuple.values().count(), tuple.len());
}
