use super::*;

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind];
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn samples() -> Vec<Vec<u8>> {
    let tuple: &[u8] = b"\x00\x03t\x00\x00\x00\x0242nu";
    vec![
        message(b'B', &[&0x16_B374_D848u64.to_be_bytes(), &7i64.to_be_bytes(), &742u32.to_be_bytes()]),
        message(b'C', &[&[0], &1u64.to_be_bytes(), &2u64.to_be_bytes(), &3i64.to_be_bytes()]),
        message(b'O', &[&1u64.to_be_bytes(), b"elsewhere\0"]),
        message(b'R', &[&9u32.to_be_bytes(), b"public\0t\0d\x00\x01\x01id\0\x00\x00\x00\x17\xff\xff\xff\xff"]),
        message(b'Y', &[&9u32.to_be_bytes(), b"public\0mood\0"]),
        message(b'I', &[&9u32.to_be_bytes(), b"N", tuple]),
        message(b'U', &[&9u32.to_be_bytes(), b"K", tuple, b"N", tuple]),
        message(b'U', &[&9u32.to_be_bytes(), b"N", tuple]),
        message(b'D', &[&9u32.to_be_bytes(), b"O", tuple]),
        message(b'T', &[&2u32.to_be_bytes(), &[3], &9u32.to_be_bytes(), &10u32.to_be_bytes()]),
        message(b'M', &[&[1], &5u64.to_be_bytes(), b"afterimage\0\x00\x00\x00\x02{}"]),
    ]
}

#[test]
fn values_come_out_in_order() {
    let bytes = &samples()[6];
    let Message::Update { relation: 9, old: Some(old), new } = decode(bytes).unwrap() else { panic!("not an update") };
    assert!(!old.full);
    let values: Vec<_> = new.values().collect();
    assert_eq!(values, [Value::Text(b"42"), Value::Null, Value::Unchanged]);
}

#[test]
fn relations_carry_keys_and_modifiers() {
    let bytes = &samples()[3];
    let Message::Relation(relation) = decode(bytes).unwrap() else { panic!("not a relation") };
    assert_eq!((relation.oid, relation.schema, relation.name, relation.identity), (9, "public", "t", b'd'));
    assert_eq!(relation.columns, [RelationColumn { key: true, name: "id", type_oid: 23, type_modifier: -1 }]);
}

#[test]
fn a_message_cut_anywhere_is_an_error() {
    for sample in samples() {
        decode(&sample).unwrap();
        for end in 0..sample.len() {
            assert!(decode(&sample[..end]).is_err(), "{:?} cut at {end}", char::from(sample[0]));
        }
        let longer = [&sample[..], b"x"].concat();
        assert!(decode(&longer).is_err(), "{:?} with a byte too many", char::from(sample[0]));
    }
}

#[test]
fn no_bytes_make_it_panic() {
    // Every single-byte change of every sample, which reaches each length and kind field.
    for sample in samples() {
        for at in 0..sample.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff, b'n', b't'] {
                let mut changed = sample.clone();
                changed[at] = byte;
                if let Ok(Message::Insert { new, .. } | Message::Update { new, .. }) = decode(&changed) {
                    assert_eq!(new.values().count(), new.len());
                }
            }
        }
    }
}

fn controls() -> Vec<(Vec<u8>, Control<'static>)> {
    let end = End { xid: 742, commit_lsn: Lsn(0x16_B374_D848), end_lsn: Lsn(0x16_B374_D880), time: -7 };
    let lsn = |lsn: Lsn| lsn.0.to_be_bytes();
    let (xid, time) = (end.xid.to_be_bytes(), end.time.to_be_bytes());
    let (commit, after, subxid) = (lsn(end.commit_lsn), lsn(end.end_lsn), 743u32.to_be_bytes());
    vec![
        (message(b'S', &[&xid, &[1]]), Control::StreamStart { xid: 742 }),
        (message(b'E', &[]), Control::StreamStop),
        (message(b'c', &[&xid, &[0], &commit, &after, &time]), Control::StreamCommit(end)),
        (message(b'A', &[&xid, &subxid]), Control::StreamAbort { xid: 742, subxid: 743 }),
        // As a server says it to one that applies in parallel.
        (message(b'A', &[&xid, &xid, &commit, &time]), Control::StreamAbort { xid: 742, subxid: 742 }),
        (
            message(b'b', &[&commit, &after, &time, &xid, b"gid\0"]),
            Control::BeginPrepare { prepare_lsn: end.commit_lsn, xid: 742 },
        ),
        (message(b'P', &[&[0], &commit, &after, &time, &xid, b"gid\0"]), Control::Prepare { xid: 742 }),
        (
            message(b'p', &[&[0], &commit, &after, &time, &xid, b"gid\0"]),
            Control::StreamPrepare { prepare_lsn: end.commit_lsn, xid: 742 },
        ),
        (message(b'K', &[&[0], &commit, &after, &time, &xid, b"gid\0"]), Control::CommitPrepared { end, gid: "gid" }),
        (message(b'r', &[&[0], &commit, &after, &time, &time, &xid, b"gid\0"]), Control::RollbackPrepared { xid: 742 }),
    ]
}

#[test]
fn what_bounds_transactions_is_told_from_what_is_in_them() {
    for (bytes, expected) in controls() {
        assert_eq!(control(&bytes), Ok(Some(expected)));
    }
    for bytes in samples() {
        assert_eq!(control(&bytes), Ok(None), "{bytes:?}");
    }
}

#[test]
fn bounds_cut_short_are_errors() {
    for (bytes, _) in controls() {
        // What follows the number of a prepared transaction is its name, which is not always needed.
        let needed = if bytes.ends_with(b"gid\0") && bytes[0] != b'K' { bytes.len() - 4 } else { bytes.len().min(43) };
        let needed =
            if matches!(bytes[0], b'S' | b'A') { needed.min(if bytes[0] == b'S' { 5 } else { 9 }) } else { needed };
        for length in 0..needed {
            assert!(control(&bytes[..length]).is_err(), "{:?} cut to {length}", char::from(bytes[0]));
        }
    }
}

#[test]
fn a_transaction_that_came_in_parts_gets_the_bounds_of_a_whole_one() {
    let end = End { xid: 742, commit_lsn: Lsn(16), end_lsn: Lsn(99), time: 5 };
    let (begin, commit) = bounds(&end);
    assert_eq!(decode(&begin), Ok(Message::Begin { commit_lsn: Lsn(16), time: 5, xid: 742 }));
    assert_eq!(decode(&commit), Ok(Message::Commit { commit_lsn: Lsn(16), end_lsn: Lsn(99), time: 5 }));
}

#[test]
fn a_streamed_message_is_one_of_a_whole_transaction_without_its_number() {
    for whole in samples() {
        let mut parts = vec![whole[0]];
        parts.extend_from_slice(&743u32.to_be_bytes());
        parts.extend_from_slice(&whole[1..]);
        let (subxid, kind, rest) = streamed(&parts).unwrap();
        assert_eq!((subxid, kind, rest), (743, whole[0], &whole[1..]));
        let mut seen = Vec::new();
        changed(kind, rest, |oid, operation| seen.push((oid, operation)));
        let expected: &[(u32, Operation)] = match kind {
            b'I' => &[(9, Operation::Insert)],
            b'U' => &[(9, Operation::Update)],
            b'D' => &[(9, Operation::Delete)],
            b'T' => &[(9, Operation::Truncate), (10, Operation::Truncate)],
            _ => &[],
        };
        assert_eq!(seen, expected);
    }
}
