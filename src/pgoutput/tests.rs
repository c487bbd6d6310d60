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
