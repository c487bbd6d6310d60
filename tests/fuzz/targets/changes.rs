//! Any stream of row messages of one table: what the record batch holds is what the messages said.
//!
//! The first two bytes say how many columns there are and of which identity, then one byte for each column says which type.
//! Changes follow: a byte says which kind, then for each value a byte whether it is NULL, unchanged or text, which ends with
//! a zero byte.

#![no_main]

use afterimage_fuzz::any_type;
use afterimage_fuzz::columnar::{ChangeBuilder, Place, RowReader, RowText, Wanted, names};
use afterimage_fuzz::model::{Column, Identity, Lsn, Operation, RelationVersion, TableName};
use afterimage_fuzz::pgoutput::{Message, OldTuple, Tuple, Value, decode};
use arrow::array::{Array, AsArray};
use libfuzzer_sys::fuzz_target;

type Row = Vec<Option<Vec<u8>>>;

/// What a change's messages said: the old row, the new one, and which of its values were not sent.
type Said = (Option<Row>, Option<Row>, Vec<String>);

fuzz_target!(|input: &[u8]| {
    let [width, identity, rest @ ..] = input else { return };
    let Some((types, mut rest)) = rest.split_at_checked(usize::from(width % 8)) else { return };
    let relation = relation(types, *identity);
    let mut builder = ChangeBuilder::new(&relation);
    let mut expected: Vec<Said> = Vec::new();
    while !rest.is_empty() {
        let message = message(&mut rest, relation.columns.len());
        let (operation, old, new) = change(decode(&message).expect("a message")).expect("a change");
        let place = Place { lsn: Lsn(7), seq: expected.len() as i64, xid: 3, time: 0 };
        builder.push(place, operation, old.as_ref(), new.as_ref()).expect("a change of the relation");
        let values = new.map(|new| new_values(&new, old.as_ref()));
        let missing = values.as_deref().map(missing).unwrap_or_default();
        let new_row = values.map(|values| values.into_iter().map(text).collect());
        expected.push((old.as_ref().map(|old| old_row(&relation, old)), new_row, missing));
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

/// The bytes of the next change's message.
fn message(rest: &mut &[u8], width: usize) -> Vec<u8> {
    let kind = take_byte(rest);
    let (letter, tuples): (u8, &[u8]) = match kind % 6 {
        0 => (b'I', b"N"),
        1 => (b'U', b"N"),
        2 => (b'U', b"KN"),
        3 => (b'U', b"ON"),
        4 => (b'D', b"K"),
        _ => (b'D', b"O"),
    };
    let mut message = vec![letter, 0, 0, 0, 1];
    for &tuple in tuples {
        message.push(tuple);
        message.extend((width as u16).to_be_bytes());
        (0..width).for_each(|_| push_value(&mut message, rest));
    }
    message
}

fn push_value(message: &mut Vec<u8>, rest: &mut &[u8]) {
    match take_byte(rest) % 4 {
        0 => message.push(b'n'),
        1 => message.push(b'u'),
        _ => {
            let (text, behind) = rest.split_at(rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len()));
            *rest = behind.get(1..).unwrap_or_default();
            message.push(b't');
            message.extend((text.len() as u32).to_be_bytes());
            message.extend(text);
        }
    }
}

/// Zero at the end of the input.
fn take_byte(rest: &mut &[u8]) -> u8 {
    let Some((&byte, behind)) = rest.split_first() else { return 0 };
    *rest = behind;
    byte
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

/// What an update left as it was, it takes from an old row that has all columns.
fn new_values<'a>(new: &Tuple<'a>, old: Option<&OldTuple<'a>>) -> Vec<Value<'a>> {
    let before: Vec<Value<'a>> = old.filter(|old| old.full).map(|old| old.tuple.values().collect()).unwrap_or_default();
    let value = |(at, value): (usize, Value<'a>)| match value {
        Value::Unchanged => before.get(at).copied().unwrap_or(value),
        other => other,
    };
    new.values().enumerate().map(value).collect()
}

/// Names of the columns that are not known from this change.
fn missing(values: &[Value<'_>]) -> Vec<String> {
    let unknown = values.iter().enumerate().filter(|(_, value)| **value == Value::Unchanged);
    unknown.map(|(at, _)| format!("c{at}")).collect()
}

fn compare(relation: &RelationVersion, builder: &mut ChangeBuilder, expected: &[Said]) {
    let batch = builder.finish().expect("rows that were taken");
    assert_eq!(batch.num_rows(), expected.len());
    let columns: Vec<Wanted<'_>> = relation.columns.iter().map(Wanted::Stored).collect();
    let new = RowReader::new(&batch, &columns).expect("the batch has the relation's columns");
    let old = RowReader::old(&batch, &columns).expect("as above").expect("changes have old rows");
    let mut read = RowText::default();
    let nothing = vec![None; columns.len()];
    let not_sent = batch.column_by_name(names::MISSING).expect("changes have it").as_list::<i32>();
    for (row, (old_row, new_row, missing)) in expected.iter().enumerate() {
        let listed = not_sent.is_valid(row).then(|| not_sent.value(row));
        let listed: Vec<String> =
            listed.iter().flat_map(|list| list.as_string::<i32>().iter().flatten().map(str::to_owned)).collect();
        assert_eq!(&listed, missing, "row {row}");
        for (reader, said) in [(&old, old_row), (&new, new_row)] {
            reader.read(row, &mut read);
            let said = said.as_ref().unwrap_or(&nothing);
            assert!(read.fields().eq(said.iter().map(Option::as_deref)), "row {row}: {said:?}");
        }
    }
}
