//! States read from an archive in memory whose changes are written by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::Int8Type;
use chrono::Utc;
use object_store::memory::InMemory;

use super::gathering::Texts;
use super::*;
use crate::archive::{
    Archive, ArchiveIdentity, ArchiveWriter, FORMAT, FileContent, Publication, Store, TablePath, log, stage,
};
use crate::columnar::{ChangeBuilder, ImageBuilder, Place, RowReader, RowText, change_schema, image_table_schema};
use crate::model::{
    Column, Identity, Lsn, Operation, Position, RelationEvent, RelationRecord, RelationVersion, TableName,
};
use crate::pgoutput::OldTuple;
use crate::pgoutput::testing::{UNCHANGED, message, tuple};

const TEXT: u32 = 25;

/// Bytes into which nearly no change fits.
const TOO_LITTLE: usize = 1000;

fn relation(name: &str, oid: u32, identity: Identity, key: &[bool]) -> RelationVersion {
    let column = |at: usize| Column {
        stored: format!("Column%20{at}"),
        type_name: "text".into(),
        ..Column::new(format!("Column {at}"), TEXT, -1, key[at])
    };
    RelationVersion::new(oid, TableName::new("public", name), identity, (0..key.len()).map(column).collect())
}

fn record(position: Position, relation: &RelationVersion) -> RelationRecord {
    RelationRecord { position, event: RelationEvent::Described, relation: relation.clone(), definition: None }
}

enum Did<'a> {
    Insert(&'a [&'a str]),
    Update(Option<&'a [&'a str]>, &'a [&'a str]),
    Delete(&'a [&'a str]),
    Truncate,
}

/// An archive that grows by one transaction at a time.
struct Growing {
    store: Store,
    writer: ArchiveWriter,
    at: u64,
}

impl Growing {
    /// Begins with an image of `rows`, at LSN 100.
    async fn begin(relation: &RelationVersion, rows: &[&[&str]]) -> Growing {
        let store = Store::new("memory", "memory:///".parse().unwrap(), Arc::new(InMemory::new()));
        let mut writer = ArchiveWriter::claim(&store).await.unwrap();
        let mut image = ImageBuilder::new(relation);
        for row in rows {
            image.push(row.iter().map(|value| Some(value.as_bytes()))).unwrap();
        }
        let content = FileContent {
            batches: vec![image.finish().unwrap()],
            metadata: log::relation_metadata(relation),
            image_lsn: Some(100),
        };
        let file = stage(&store, &TablePath::Images(relation.name.clone()), content).await.unwrap();
        writer.add_image(&relation.name, &image_table_schema(relation), &[file]).await.unwrap();
        let identity = ArchiveIdentity {
            format: FORMAT,
            system_identifier: 7,
            database: "d".into(),
            start_lsn: Lsn(100),
            created_at: Utc::now(),
            slot: "s".into(),
            publication: "p".into(),
        };
        let record = record(Position::before(Lsn(100)), relation);
        let first = Publication { end: Lsn(100), relations: vec![record], ..Publication::default() };
        writer.publish(&first).await.unwrap();
        writer.begin(&identity).await.unwrap();
        Growing { store, writer, at: 100 }
    }

    /// Commits one transaction; the LSN after it comes back.
    async fn commit(&mut self, relation: &RelationVersion, new_version: bool, changes: &[Did<'_>]) -> Lsn {
        let lsn = Lsn(self.at + 10);
        self.at += 20;
        let mut builder = ChangeBuilder::new(relation);
        for (seq, change) in changes.iter().enumerate() {
            let place = Place { lsn, seq: seq as i64, xid: 1, time: 0 };
            let full = relation.identity == Identity::Full;
            let (operation, old, new) = match change {
                Did::Insert(new) => (Operation::Insert, None, Some(message(new))),
                Did::Update(old, new) => (Operation::Update, old.map(message), Some(message(new))),
                Did::Delete(old) => (Operation::Delete, Some(message(old)), None),
                Did::Truncate => (Operation::Truncate, None, None),
            };
            let old = old.as_deref().map(|bytes| OldTuple { full, tuple: tuple(bytes) });
            let new = new.as_deref().map(tuple);
            builder.push(place, operation, old.as_ref(), new.as_ref()).unwrap();
        }
        self.writer.prepare(&relation.name, &change_schema(relation)).await.unwrap();
        let content = FileContent {
            batches: vec![builder.finish().unwrap()],
            metadata: log::relation_metadata(relation),
            image_lsn: None,
        };
        let file = stage(&self.store, &TablePath::Changes(relation.name.clone()), content).await.unwrap();
        let record = record(Position { lsn, seq: 0 }, relation);
        let publication = Publication {
            end: Lsn(self.at),
            changes: vec![(relation.name.clone(), vec![file])],
            relations: if new_version { vec![record] } else { Vec::new() },
            ..Publication::default()
        };
        self.writer.publish(&publication).await.unwrap();
        Lsn(self.at)
    }

    async fn table(&self, name: &str, cut: Lsn) -> TableAt {
        let archive = Archive::open(&self.store).await.unwrap();
        TableAt::find(&archive, &TableName::new("public", name), cut).await.unwrap().unwrap()
    }

    /// The rows of a table, sorted, fields joined by blanks; the same whether or not the changes fit into memory.
    async fn rows(&self, name: &str, cut: Lsn, only: Option<&KeySet>) -> Vec<String> {
        let table = self.table(name, cut).await;
        let rows = Growing::rows_of(&table, only).await;
        assert_eq!(Growing::rows_of(&table.within(TOO_LITTLE), only).await, rows);
        rows
    }

    async fn rows_of(table: &TableAt, only: Option<&KeySet>) -> Vec<String> {
        let mut rows = Vec::new();
        let mut sink = |row: &RowText| {
            rows.push(row.shown());
            Ok(())
        };
        table.for_each_row(only, &mut sink).await.unwrap();
        rows.sort();
        rows
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_the_image_with_the_changes_over_it() {
    let table = relation("t", 1, Identity::Default, &[true, false]);
    let mut archive = Growing::begin(&table, &[&["1", "a"], &["2", "b"], &["3", "c"]]).await;
    let first = archive.commit(&table, false, &[Did::Update(None, &["1", "A"]), Did::Delete(&["2", "NULL"])]).await;
    let changes = [Did::Insert(&["2", "again"]), Did::Update(Some(&["3", "NULL"]), &["4", "c"])];
    let second = archive.commit(&table, false, &changes).await;
    let third = archive.commit(&table, false, &[Did::Truncate, Did::Insert(&["9", "z"])]).await;
    assert_eq!(archive.rows("t", Lsn(100), None).await, ["1 a", "2 b", "3 c"]);
    assert_eq!(archive.rows("t", first, None).await, ["1 A", "3 c"]);
    assert_eq!(archive.rows("t", second, None).await, ["1 A", "2 again", "4 c"]);
    assert_eq!(archive.rows("t", third, None).await, ["9 z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_updates_left_out_are_found_through_changed_keys() {
    let table = relation("t", 1, Identity::Default, &[true, false, false]);
    let mut archive = Growing::begin(&table, &[&["1", "huge", "x"]]).await;
    let changes = [
        Did::Update(None, &["1", UNCHANGED, "y"]),
        Did::Update(Some(&["1", "NULL", "NULL"]), &["2", UNCHANGED, "y"]),
        Did::Insert(&["7", "large", "p"]),
        Did::Update(Some(&["7", "NULL", "NULL"]), &["8", UNCHANGED, "q"]),
    ];
    archive.commit(&table, false, &changes).await;
    let end = archive.commit(&table, false, &[Did::Update(None, &["2", UNCHANGED, "z"])]).await;
    assert_eq!(archive.rows("t", end, None).await, ["2 huge z", "8 large q"]);
    let state = archive.table("t", end).await;
    for (row, expected) in [(["2", "huge", "z"], "2 huge z"), (["8", "large", "q"], "8 large q")] {
        let mut text = RowText::default();
        row.iter().for_each(|value| {
            text.push_with(|out| {
                out.extend_from_slice(value.as_bytes());
                true
            });
        });
        let only = KeySet::from([state.key_of(&text).into_boxed_slice()]);
        assert_eq!(archive.rows("t", end, Some(&only)).await, [expected]);
    }
}

/// The rows before a change of the identity are told apart by all their columns, those after it by their key.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_row_was_is_told_across_a_change_of_the_identity() {
    let full = relation("t", 1, Identity::Full, &[true, true]);
    let keyed = relation("t", 1, Identity::Default, &[true, false]);
    let mut archive = Growing::begin(&full, &[&["1", "a"], &["2", "b"]]).await;
    archive.commit(&full, false, &[Did::Update(Some(&["1", "a"]), &["1", "A"])]).await;
    let end = archive.commit(&keyed, true, &[Did::Update(None, &["1", "z"]), Did::Delete(&["2", "NULL"])]).await;
    let archive = Archive::open(&archive.store).await.unwrap();
    let chronicle = Chronicle::find(&archive, &full.name, Lsn(100), end).await.unwrap().unwrap();
    let mut before = Vec::new();
    let mut take = |events: arrow::array::RecordBatch| {
        let kinds = events.column_by_name(KIND).unwrap().clone();
        let kinds = kinds.as_primitive::<Int8Type>();
        let news = events.column_by_name(NEW).unwrap().as_struct().clone();
        let columns = chronicle.columns().to_vec();
        let reader = RowReader::of_struct(&news, &columns)?;
        for row in (0..events.num_rows()).filter(|row| kinds.value(*row) == EventKind::Before as i8) {
            let mut text = RowText::default();
            reader.read(row, &mut text);
            before.push(text.shown());
        }
        Ok(())
    };
    chronicle.events(Telling::Changes, &mut take).await.unwrap();
    before.sort();
    assert_eq!(before, ["1 A", "2 b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_keys_that_others_had_since_only_what_was_before_is_followed() {
    let table = relation("t", 1, Identity::Default, &[true, false]);
    let mut archive = Growing::begin(&table, &[&["0", "huge"]]).await;
    // More changes of the key than are followed one by one.
    for (old, new) in [("0", "1"), ("1", "2"), ("2", "3"), ("3", "4"), ("4", "5"), ("5", "6"), ("6", "7")] {
        archive.commit(&table, false, &[Did::Update(Some(&[old, "NULL"]), &[new, UNCHANGED])]).await;
    }
    let changes = [
        Did::Insert(&["other", "large"]),
        Did::Update(Some(&["other", "NULL"]), &["2", UNCHANGED]),
        Did::Update(Some(&["2", "NULL"]), &["elsewhere", UNCHANGED]),
        Did::Delete(&["elsewhere", "NULL"]),
    ];
    let end = archive.commit(&table, false, &changes).await;
    assert_eq!(archive.rows("t", end, None).await, ["7 huge"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_equal_rows_as_many_go_as_were_deleted() {
    let table = relation("t", 1, Identity::Full, &[true, true]);
    let mut archive = Growing::begin(&table, &[&["1", "a"], &["1", "a"], &["1", "a"]]).await;
    let changes = [
        Did::Delete(&["1", "a"]),
        Did::Insert(&["1", "a"]),
        Did::Insert(&["2", "b"]),
        Did::Insert(&["2", "b"]),
        Did::Update(Some(&["2", "b"]), &["2", "c"]),
    ];
    let end = archive.commit(&table, false, &changes).await;
    assert_eq!(archive.rows("t", end, None).await, ["1 a", "1 a", "1 a", "2 b", "2 c"]);
    let end = archive.commit(&table, false, &[Did::Delete(&["1", "a"]), Did::Delete(&["1", "a"])]).await;
    assert_eq!(archive.rows("t", end, None).await, ["1 a", "2 b", "2 c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_keeps_its_rows_and_another_gets_none_of_them() {
    let table = relation("t", 1, Identity::Default, &[true, false]);
    let mut archive = Growing::begin(&table, &[&["1", "a"], &["2", "b"]]).await;
    archive.commit(&table, false, &[Did::Delete(&["2", "NULL"])]).await;
    let renamed = relation("u", 1, Identity::Default, &[true, false]);
    let end = archive.commit(&renamed, true, &[Did::Insert(&["3", "c"])]).await;
    assert_eq!(archive.rows("u", end, None).await, ["1 a", "3 c"]);
    let other = relation("t", 2, Identity::Default, &[true, false]);
    let end = archive.commit(&other, true, &[Did::Insert(&["5", "e"])]).await;
    let opened = Archive::open(&archive.store).await.unwrap();
    let refused = TableAt::find(&opened, &other.name, end).await;
    assert!(refused.is_err(), "the image of the table that had the name before is not its image");
    assert_eq!(archive.rows("u", end, None).await, ["1 a", "3 c"]);
}

/// A row, or that there is none.
type Fields = Option<[String; 2]>;

fn fields_of(row: &Fields) -> Option<[&str; 2]> {
    row.as_ref().map(|row| [row[0].as_str(), row[1].as_str()])
}

/// Rows by key, and what was done to them, for changes that do not fit into the memory that they may take.
async fn many_changes(identity: Identity, key: &[bool]) {
    let table = relation("t", 1, identity, key);
    let full = identity == Identity::Full;
    let texts = |rows: &BTreeMap<u32, [String; 2]>, id: u32| rows[&id].clone();
    let row = |id: u32, value: &str| [id.to_string(), format!("{value} {id}")];
    let mut rows: BTreeMap<u32, [String; 2]> = (0..20_000).map(|id| (id, row(id, "image"))).collect();
    let image: Vec<[&str; 2]> = rows.values().map(|row| [row[0].as_str(), row[1].as_str()]).collect();
    let image: Vec<&[&str]> = image.iter().map(|row| row.as_slice()).collect();
    let mut archive = Growing::begin(&table, &image).await;
    let mut end = Lsn(100);
    for round in 0..6_u32 {
        let mut done: Vec<(Fields, Fields)> = Vec::new();
        for id in (round..6000).step_by(3) {
            let old = rows.contains_key(&id).then(|| texts(&rows, id));
            let sent = old.clone().filter(|_| full);
            match (id + round) % 5 {
                // A row moves to another key, and leaves out what it does not change where the old row is not sent.
                0 if old.is_some() && !rows.contains_key(&(id + 50_000)) => {
                    let value = rows.remove(&id).unwrap()[1].clone();
                    let left_out = if full { value.clone() } else { UNCHANGED.to_owned() };
                    rows.insert(id + 50_000, [(id + 50_000).to_string(), value]);
                    done.push((
                        sent.or(Some([id.to_string(), "NULL".to_owned()])),
                        Some([(id + 50_000).to_string(), left_out]),
                    ));
                }
                1 if old.is_some() => {
                    rows.remove(&id);
                    done.push((sent.or(Some([id.to_string(), "NULL".to_owned()])), None));
                }
                _ => {
                    let new = row(id, &format!("round {round}"));
                    rows.insert(id, new.clone());
                    done.push((sent, Some(new)));
                }
            }
        }
        let known: Vec<_> = done.iter().map(|(old, new)| (fields_of(old), fields_of(new))).collect();
        let changes = known.iter().map(|(old, new)| match (old, new) {
            (Some(old), None) => Did::Delete(old),
            (None, Some(new)) if full => Did::Insert(new),
            (old, Some(new)) => Did::Update(old.as_ref().map(|old| old.as_slice()), new),
            (None, None) => Did::Truncate,
        });
        let changes: Vec<Did<'_>> = changes.collect();
        end = archive.commit(&table, false, &changes).await;
    }
    let mut expected: Vec<String> = rows.values().map(|row| row.join(" ")).collect();
    expected.sort();
    let state = archive.table("t", end).await;
    for memory in [1 << 30, 256 << 10] {
        let found = Growing::rows_of(&state.clone().within(memory), None).await;
        assert_eq!(found.len(), expected.len(), "within {memory}");
        assert!(found == expected, "within {memory}");
    }
    // Of so many keys that they are not looked up one by one; some pages of the image have none of them.
    let is_wanted = |id: u32| id < 1000 || (17_000..19_000).contains(&id);
    let key_of = |id: u32| {
        let key = id.to_string();
        key_of_fields(std::iter::once(Some(key.as_bytes()))).into_boxed_slice()
    };
    if state.unique_key().is_some() {
        let only = Arc::new((0..20_000).filter(|id| is_wanted(*id)).map(key_of).collect::<KeySet>());
        let mut found = Vec::new();
        let mut take = |rows: Texts| {
            rows.for_each(&mut |row| {
                found.push(row.shown());
                Ok(())
            })
        };
        state.gather(Some(&only), Texts::default(), &mut take).await.unwrap();
        found.sort();
        let wanted = rows.iter().filter(|(id, _)| is_wanted(**id));
        let mut expected: Vec<String> = wanted.map(|(_, row)| row.join(" ")).collect();
        expected.sort();
        assert!(found == expected, "{} of {} rows", found.len(), expected.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_the_same_when_the_keys_of_its_changes_do_not_fit_into_memory() {
    many_changes(Identity::Default, &[true, false]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_without_a_key_is_the_same_when_its_changes_do_not_fit_into_memory() {
    many_changes(Identity::Full, &[true, true]).await;
}
