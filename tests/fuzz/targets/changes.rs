//! Any stream of row messages of one table: what the record batch holds is what the messages said.
//!
//! The first two bytes say how many columns there are and of which identity, then one byte for each column says which type;
//! messages follow, each behind a byte with its length.

#![no_main]

use afterimage_fuzz::any_type;
use afterimage_fuzz::columnar::{ChangeBuilder, Place, RowReader, RowText};
use afterimage_fuzz::model::{Column, Identity, Lsn, Operation, RelationVersion, TableName};
use afterimage_fuzz::pgoutput::{Message, OldTuple, Tuple, Value, decode};
use libfuzzer_sys::fuzz_target;

type Row = Vec<Option<Vec<u8>>>;

fuzz_target!(|input: &[u8]| {
    let [width, identity, rest @ ..] = input else { return };
    let Some((types, mut rest)) = rest.split_at_checked(usize::from(width % 8)) else { return };
    let relation = relation(types, *identity);
    let mut builder = ChangeBuilder::new(&relation);
    let mut expected: Vec<(Option<Row>, Option<Row>)> = Vec::new();
    while let Some((&length, behind)) = rest.split_first() {
        let Some((message, behind)) = behind.split_at_checked(usize::from(length)) else { break };
        rest = behind;
        let Some((operation, old, new)) = decode(message).ok().and_then(change) else { continue };
        let place = Place { lsn: Lsn(7), seq: expected.len() as i64, xid: 3, time: 0 };
        // A tuple of another width, or with a binary value, ends the stream of the real archiver.
        if builder.push(place, operation, old.as_ref(), new.as_ref()).is_err() {
            return;
        }
        expected.push((old.as_ref().map(|old| old_row(&relation, old)), new.map(|new| new_row(&new, old.as_ref()))));
    }
    compare(&relation, &mut builder, &expected);
});

fn relation(types: &[u8], identity: u8) -> RelationVersion {
    let columns = types.iter().enumerate().map(|(at, &number)| {
        let (oid, modifier) = any_type(number);
        let name = format!("c{at}");
        Column { stored: name.clone(), ..Column::new(name, oid, modifier, at == 0 || number >= 128) }
    });
    let identity = if identity % 2 == 0 { Identity::Default } else { Identity::Full };
    RelationVersion::new(1, TableName::new("public", "t"), identity, columns.collect())
}

type Change<'a> = (Operation, Option<OldTuple<'a>>, Option<Tuple<'a>>);

fn change(message: Message<'_>) -> Option<Change<'_>> {
    match message {
        Message::Insert { new, .. } => Some((Operation::Insert, None, Some(new))),
        Message::Update { old, new, .. } => Some((Operation::Update, old, Some(new))),
        Message::Delete { old, .. } => Some((Operation::Delete, Some(old), None)),
        _ => None,
    }
}

fn text(value: Value<'_>) -> Option<Vec<u8>> {
    match value {
        Value::Text(text) => Some(text.to_vec()),
        _ => None,
    }
}

/// The key columns only: others of an old row mean nothing.
fn old_row(relation: &RelationVersion, old: &OldTuple<'_>) -> Row {
    let keys = relation.key_positions();
    let values = old.tuple.values().enumerate();
    values.map(|(at, value)| if keys.contains(&at) { text(value) } else { None }).collect()
}

fn new_row(new: &Tuple<'_>, old: Option<&OldTuple<'_>>) -> Row {
    let before: Vec<Value<'_>> = old.filter(|old| old.full).map(|old| old.tuple.values().collect()).unwrap_or_default();
    let value = |(at, value)| match value {
        Value::Unchanged => before.get(at).copied().and_then(text),
        other => text(other),
    };
    new.values().enumerate().map(value).collect()
}

fn compare(relation: &RelationVersion, builder: &mut ChangeBuilder, expected: &[(Option<Row>, Option<Row>)]) {
    let batch = builder.finish().expect("rows that were taken");
    assert_eq!(batch.num_rows(), expected.len());
    let columns: Vec<Option<&Column>> = relation.columns.iter().map(Some).collect();
    let new = RowReader::new(&batch, &columns).expect("the batch has the relation's columns");
    let old = RowReader::old(&batch, &columns).expect("as above").expect("changes have old rows");
    let mut read = RowText::default();
    let nothing = vec![None; columns.len()];
    for (row, (old_row, new_row)) in expected.iter().enumerate() {
        for (reader, said) in [(&old, old_row), (&new, new_row)] {
            reader.read(row, &mut read);
            let said = said.as_ref().unwrap_or(&nothing);
            assert!(read.fields().eq(said.iter().map(Option::as_deref)), "row {row}: {said:?}");
        }
    }
}
