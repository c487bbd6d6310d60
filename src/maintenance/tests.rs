//! States before and after maintenance, over random histories and stores that fail in every place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::archive::{ArchiveIdentity, ArchiveWriter, DataFile, FORMAT, FileContent, Publication, faults, log, stage};
use crate::columnar::{ChangeBuilder, ImageBuilder, Place, RowText, change_schema, image_table_schema};
use crate::history::{Gather, KeySet, TableAt};
use crate::model::{
    Column, Commit, Identity, Operation, Position, RelationEvent, RelationRecord, RelationVersion, Transaction,
};
use crate::pgoutput::OldTuple;
use crate::pgoutput::testing::{UNCHANGED, message, tuple};

const INT4: u32 = 23;
const DATE: u32 = 1082;
const TEXT: u32 = 25;
const START: Lsn = Lsn(100);

/// Merges whatever there are two of, writes an image for every change, keeps nothing.
fn eager() -> Policy {
    Policy {
        tiers: Tiers { target_bytes: 128 << 20, fan_in: 2 },
        image_floor_bytes: 1,
        image_ratio: 0.0,
        retention: Duration::ZERO,
        ..Policy::default()
    }
}

fn relation(identity: Identity, key_type: u32) -> RelationVersion {
    let column = |name: &str, type_oid, key| Column {
        stored: name.to_owned(),
        ..Column::new(name, type_oid, -1, key || identity == Identity::Full)
    };
    let columns = vec![column("id", key_type, true), column("part", TEXT, true), column("value", TEXT, false)];
    RelationVersion::new(1, TableName::new("public", "t"), identity, columns)
}

type Row = [String; 3];

enum Did {
    Insert(Row),
    Update(Option<Row>, Row),
    Delete(Row),
    Truncate,
}

/// A table under a random workload, and what it must be at each LSN.
struct Workload {
    relation: RelationVersion,
    random: StdRng,
    rows: BTreeMap<(String, String), String>,
    at: u64,
    /// The table before each transaction that could follow.
    states: Vec<(Lsn, Vec<String>)>,
}

impl Workload {
    fn new(seed: u64, relation: RelationVersion) -> Workload {
        let random = StdRng::seed_from_u64(seed);
        let mut workload = Workload { relation, random, rows: BTreeMap::new(), at: START.0, states: Vec::new() };
        for id in 0..5 {
            let (key, value) = (workload.key(id), format!("first {id}"));
            workload.rows.insert(key, value);
        }
        workload.remember(START);
        workload
    }

    /// Of dates some that their type cannot hold, and of texts some that look like other things.
    fn key(&self, id: u32) -> (String, String) {
        let first = match self.relation.columns[0].type_oid {
            DATE if id.is_multiple_of(5) => "infinity".to_owned(),
            DATE => format!("2024-01-{:02}", id % 28 + 1),
            _ => (id as i32 - 3).to_string(),
        };
        (first, format!("p{id}"))
    }

    fn random_key(&mut self) -> (String, String) {
        let id = self.random.random_range(0..12);
        self.key(id)
    }

    fn remember(&mut self, lsn: Lsn) {
        let rows = self.rows.iter().map(|((id, part), value)| format!("{id} {part} {value}"));
        let mut rows: Vec<String> = rows.collect();
        rows.sort();
        self.states.push((lsn, rows));
    }

    fn row(key: &(String, String), value: &str) -> Row {
        [key.0.clone(), key.1.clone(), value.to_owned()]
    }

    /// What the source sends of a row that was there.
    fn old(&self, key: &(String, String)) -> Row {
        let full = self.relation.identity == Identity::Full;
        Workload::row(key, if full { &self.rows[key] } else { "NULL" })
    }

    fn change(&mut self) -> Option<Did> {
        let (key, other) = (self.random_key(), self.random_key());
        let value = format!("v{}", self.random.random_range(0..1_000_000));
        let full = self.relation.identity == Identity::Full;
        let present = self.rows.contains_key(&key);
        match self.random.random_range(0..20) {
            0 => {
                self.rows.clear();
                Some(Did::Truncate)
            }
            1..=3 if present => {
                let old = self.old(&key);
                self.rows.remove(&key);
                Some(Did::Delete(old))
            }
            4..=6 if present && !self.rows.contains_key(&other) => {
                let old = self.old(&key);
                let kept = self.rows.remove(&key)?;
                let sent = if full { kept.as_str() } else { UNCHANGED };
                let new = Workload::row(&other, sent);
                self.rows.insert(other, kept);
                Some(Did::Update(Some(old), new))
            }
            7..=9 if present && !full => Some(Did::Update(None, Workload::row(&key, UNCHANGED))),
            _ if present => {
                let old = full.then(|| self.old(&key));
                let new = Workload::row(&key, &value);
                self.rows.insert(key, value);
                Some(Did::Update(old, new))
            }
            _ => {
                let new = Workload::row(&key, &value);
                self.rows.insert(key, value);
                Some(Did::Insert(new))
            }
        }
    }
}

/// The archive of a workload.
struct Grown {
    objects: Arc<InMemory>,
    store: Store,
    writer: ArchiveWriter,
}

impl Grown {
    async fn begin(workload: &Workload) -> Grown {
        let objects = Arc::new(InMemory::new());
        let store = faults::Faulty::over(&objects, None).store();
        let mut writer = ArchiveWriter::claim(&store).await.unwrap();
        let relation = &workload.relation;
        let mut image = ImageBuilder::new(relation);
        for ((id, part), value) in &workload.rows {
            image.push([id, part, value].into_iter().map(|text| Some(text.as_bytes()))).unwrap();
        }
        let content = FileContent {
            batches: vec![image.finish().unwrap()],
            metadata: log::relation_metadata(relation),
            image_lsn: Some(START.as_i64()),
        };
        let file = stage(&store, &TablePath::Images(relation.name.clone()), content).await.unwrap();
        writer.add_image(&relation.name, &image_table_schema(relation), &[file]).await.unwrap();
        let identity = ArchiveIdentity {
            format: FORMAT,
            system_identifier: 7,
            database: "d".into(),
            start_lsn: START,
            created_at: Utc::now(),
            slot: "s".into(),
            publication: "p".into(),
        };
        let (position, event) = (Position::before(START), RelationEvent::Described);
        let record = RelationRecord { position, event, relation: relation.clone(), definition: None };
        let first = Publication { end: START, relations: vec![record], ..Publication::default() };
        writer.publish(&first).await.unwrap();
        writer.begin(&identity).await.unwrap();
        Grown { objects, store, writer }
    }

    async fn commit(&mut self, workload: &mut Workload) {
        let lsn = Lsn(workload.at + 10);
        workload.at += 20;
        let relation = workload.relation.clone();
        let mut builder = ChangeBuilder::new(&relation);
        for seq in 0..workload.random.random_range(1..6) {
            let Some(change) = workload.change() else { continue };
            let place = Place { lsn, seq, xid: 1, time: 0 };
            let (operation, old, new) = match &change {
                Did::Insert(new) => (Operation::Insert, None, Some(message(new))),
                Did::Update(old, new) => (Operation::Update, old.as_ref().map(|old| message(old)), Some(message(new))),
                Did::Delete(old) => (Operation::Delete, Some(message(old)), None),
                Did::Truncate => (Operation::Truncate, None, None),
            };
            let full = relation.identity == Identity::Full;
            let old = old.as_deref().map(|bytes| OldTuple { full, tuple: tuple(bytes) });
            let new = new.as_deref().map(tuple);
            builder.push(place, operation, old.as_ref(), new.as_ref()).unwrap();
        }
        self.writer.prepare(&relation.name, &change_schema(&relation)).await.unwrap();
        let content = FileContent {
            batches: vec![builder.finish().unwrap()],
            metadata: log::relation_metadata(&relation),
            image_lsn: None,
        };
        let file = stage(&self.store, &TablePath::Changes(relation.name.clone()), content).await.unwrap();
        let end = Lsn(workload.at);
        let commit = Commit { lsn, end_lsn: end, xid: 1, time: Utc::now() };
        let publication = Publication {
            end,
            changes: vec![(relation.name.clone(), vec![file])],
            transactions: vec![Transaction { commit, tables: BTreeMap::new(), context: None }],
            ..Publication::default()
        };
        self.writer.publish(&publication).await.unwrap();
        workload.remember(end);
    }

    async fn files(&self, path: &TablePath) -> Vec<DataFile> {
        Archive::open(&self.store).await.unwrap().whole_table(path).await.unwrap().unwrap().1
    }
}

async fn rows_at(archive: &Archive, cut: Lsn, only: Option<&KeySet>) -> (TableAt, Vec<String>) {
    let table = TableAt::find(archive, &TableName::new("public", "t"), cut).await.unwrap().unwrap();
    // Of some states nearly nothing fits into memory.
    let table = if cut.0.is_multiple_of(40) { table.within(2000) } else { table };
    let mut rows = Vec::new();
    let mut sink = |row: &RowText| {
        rows.push(row.shown());
        Ok(())
    };
    table.for_each_row(only, &mut sink).await.unwrap();
    rows.sort();
    (table, rows)
}

/// Every state, whole and by each single key, is what it was.
async fn check(objects: &Arc<InMemory>, workload: &Workload, told: &str) {
    check_each(1, objects, workload, told).await;
}

/// The same of one state in so many.
async fn check_each(states: usize, objects: &Arc<InMemory>, workload: &Workload, told: &str) {
    let store = faults::Faulty::over(objects, None).store();
    let archive = Archive::open(&store).await.unwrap();
    let commits = archive.commits(Lsn(workload.at)).await.unwrap();
    assert_eq!(commits.len() + 1, workload.states.len(), "{told}");
    for (lsn, expected) in workload.states.iter().step_by(states) {
        let (table, rows) = rows_at(&archive, *lsn, None).await;
        assert_eq!(&rows, expected, "{told}: at {lsn}");
        if table.key().len() == 3 {
            continue;
        }
        let start = |id: u32| {
            let (first, part) = workload.key(id);
            format!("{first} {part} ")
        };
        for id in 0..12 {
            let only = KeySet::from([key_in(&table, workload, id)]);
            let found = rows_at(&archive, *lsn, Some(&only)).await.1;
            let wanted: Vec<_> = expected.iter().filter(|row| row.starts_with(&start(id))).cloned().collect();
            assert_eq!(found, wanted, "{told}: {}at {lsn}", start(id));
        }
        // Of so many keys that they are not looked up one by one; most of them nobody has.
        let several = [2, 4, 6, 8];
        let many = several.into_iter().chain((100..1500).filter(|id: &u32| !id.is_multiple_of(5)));
        let only = Arc::new(many.map(|id| key_in(&table, workload, id)).collect::<KeySet>());
        let mut found = Vec::new();
        let mut take = |rows: Shown| {
            found.extend(rows.0);
            Ok(())
        };
        table.gather(Some(&only), Shown::default(), &mut take).await.unwrap();
        found.sort();
        let wanted = |row: &&String| several.iter().any(|id| row.starts_with(&start(*id)));
        let wanted: Vec<_> = expected.iter().filter(wanted).cloned().collect();
        assert_eq!(found, wanted, "{told}: several keys at {lsn}");
    }
}

fn key_in(table: &TableAt, workload: &Workload, id: u32) -> Box<[u8]> {
    let (first, part) = workload.key(id);
    let mut text = RowText::default();
    for field in [&first, &part, &String::new()] {
        text.push_with(|out| {
            out.extend_from_slice(field.as_bytes());
            true
        });
    }
    table.key_of(&text).into_boxed_slice()
}

/// Rows, their fields joined by blanks.
#[derive(Debug, Clone, Default)]
struct Shown(Vec<String>);

impl Gather for Shown {
    fn add(&mut self, row: &RowText) {
        self.0.push(row.shown());
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(String::len).sum()
    }
}

fn never() -> watch::Receiver<bool> {
    watch::channel(false).1
}

async fn maintained(store: &Store, policy: &Policy) -> Result<Vec<TableReport>> {
    maintain(&Archive::open(store).await?, policy, &never()).await
}

fn kinds() -> [RelationVersion; 4] {
    [(Identity::Default, INT4), (Identity::Default, DATE), (Identity::Default, TEXT), (Identity::Full, INT4)]
        .map(|(identity, key)| relation(identity, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_changes_no_state_and_no_keys_rows() {
    for (seed, relation) in kinds().into_iter().enumerate() {
        let mut workload = Workload::new(seed as u64, relation);
        let mut archive = Grown::begin(&workload).await;
        // Once without images, so that states are read from clustered changes.
        for policy in [Policy { image_floor_bytes: u64::MAX, ..eager() }, eager(), eager()] {
            for _ in 0..8 {
                archive.commit(&mut workload).await;
            }
            check_each(7, &archive.objects, &workload, "before").await;
            maintained(&archive.store, &policy).await.unwrap();
            check_each(2, &archive.objects, &workload, &format!("seed {seed}, after")).await;
        }
        let changes = TablePath::Changes(workload.relation.name.clone());
        assert_eq!(archive.files(&changes).await.len(), 1);
        assert_eq!(archive.files(&TablePath::Log(LogTable::Transactions)).await.len(), 1);
        assert!(archive.files(&TablePath::Images(workload.relation.name.clone())).await.len() > 1);
        let below = format!("{}/", changes.directory());
        let all = faults::paths(&archive.objects).await;
        let left = all.iter().filter(|path| path.starts_with(&below) && !path.contains("_delta_log"));
        assert_eq!(left.count(), 1, "what was replaced is deleted");
    }
}

/// A crash at any put of maintenance loses and doubles nothing, for who reads then, and after the next maintenance.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_put_of_maintenance_loses_and_doubles_nothing() {
    for fault in [faults::Fault::Gone, faults::Fault::LostAnswer, faults::Fault::LostAnswerAndRetry] {
        for at in 0.. {
            let mut workload = Workload::new(7, relation(Identity::Default, INT4));
            let mut archive = Grown::begin(&workload).await;
            for _ in 0..4 {
                archive.commit(&mut workload).await;
            }
            let faulty = faults::Faulty::over(&archive.objects, Some((at, fault)));
            let outcome = maintained(&faulty.store(), &eager()).await;
            check_each(2, &archive.objects, &workload, &format!("{fault:?} of put {at}: {outcome:?}")).await;
            archive.commit(&mut workload).await;
            maintained(&archive.store, &eager()).await.unwrap();
            check_each(2, &archive.objects, &workload, &format!("{fault:?} of put {at}, maintained again")).await;
            assert_eq!(archive.files(&TablePath::Changes(workload.relation.name.clone())).await.len(), 1);
            if !faulty.was_met() {
                outcome.unwrap();
                assert!(at > 4, "maintenance took only {at} puts");
                break;
            }
        }
    }
}

/// The archiver publishes while maintenance commits, and does not take it for another archiver.
#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_and_two_maintainers_go_on_side_by_side() {
    let mut workload = Workload::new(11, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    let keep = |store: Store, policy: Policy| async move {
        for _ in 0..12 {
            maintained(&store, &policy).await.unwrap();
        }
    };
    let gentle = Policy { retention: Duration::from_secs(3600), ..eager() };
    let maintainers = [gentle.clone(), gentle].map(|policy| tokio::spawn(keep(archive.store.clone(), policy)));
    for _ in 0..40 {
        archive.commit(&mut workload).await;
    }
    for maintainer in maintainers {
        maintainer.await.unwrap();
    }
    check(&archive.objects, &workload, "side by side").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_maintainers_of_a_table_one_changes_nothing() {
    let mut workload = Workload::new(3, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    for _ in 0..4 {
        archive.commit(&mut workload).await;
    }
    let (path, policy) = (TablePath::Changes(workload.relation.name.clone()), eager());
    let opened = Archive::open(&archive.store).await.unwrap();
    let mut late = MaintainedTable::open(&archive.store, &path).await.unwrap().unwrap();
    let mut first = MaintainedTable::open(&archive.store, &path).await.unwrap().unwrap();
    let at = Lsn(workload.at);
    assert!(compaction::compact(&opened, &mut first, &path, &policy, at).await.unwrap());
    archive.commit(&mut workload).await;
    assert!(!compaction::compact(&opened, &mut late, &path, &policy, at).await.unwrap());
    check(&archive.objects, &workload, "after both").await;
}

/// What the archiver has staged and not published belongs to no table, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_archiver_has_staged_is_not_deleted() {
    let mut workload = Workload::new(5, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    archive.commit(&mut workload).await;
    let path = TablePath::Changes(workload.relation.name.clone());
    let mut builder = ChangeBuilder::new(&workload.relation);
    let content = FileContent { batches: vec![builder.finish().unwrap()], metadata: Vec::new(), image_lsn: None };
    stage(&archive.store, &path, content).await.unwrap();
    let staged = faults::paths(&archive.objects).await.len();
    let mut table = MaintainedTable::open(&archive.store, &path).await.unwrap().unwrap();
    let opened = Archive::open(&archive.store).await.unwrap();
    let claimed = opened.claimed_at().await.unwrap();
    assert!(claimed.is_some());
    let deleted = table.clean(Utc::now(), claimed).await.unwrap().unwrap();
    assert_eq!((deleted.files, faults::paths(&archive.objects).await.len()), (0, staged));
    // A later archiver has not staged it.
    let later = Utc::now() + chrono::TimeDelta::hours(1);
    let deleted = table.clean(Utc::now(), Some(later)).await.unwrap().unwrap();
    assert_eq!(deleted.files, 1);
    check(&archive.objects, &workload, "cleaned").await;
}

/// Of the Delta log goes what is below a checkpoint; who opened the tables before goes on.
#[tokio::test(flavor = "multi_thread")]
async fn writers_and_readers_go_on_when_the_old_log_is_deleted() {
    let mut workload = Workload::new(13, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    let reader = Archive::open(&archive.store).await.unwrap();
    reader.watermark().await.unwrap();
    for _ in 0..110 {
        archive.commit(&mut workload).await;
    }
    let reports = maintained(&archive.store, &eager()).await.unwrap();
    let deleted: usize = reports.iter().map(|report| report.deleted.log_files).sum();
    assert!(deleted > 150, "{deleted} of two tables");
    assert_eq!(reader.watermark().await.unwrap().lsn, Lsn(workload.at));
    for _ in 0..3 {
        archive.commit(&mut workload).await;
    }
    assert_eq!(reader.watermark().await.unwrap().lsn, Lsn(workload.at));
    let last = workload.states.split_off(workload.states.len() - 3);
    for (lsn, expected) in &last {
        assert_eq!(&rows_at(&reader, *lsn, None).await.1, expected);
    }
}

/// Beside an archiver that publishes nothing there is nothing to ask the store for.
#[tokio::test(flavor = "multi_thread")]
async fn only_tables_that_changed_are_looked_at_again() {
    let mut workload = Workload::new(19, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    for _ in 0..3 {
        archive.commit(&mut workload).await;
    }
    let counting = faults::Faulty::over(&archive.objects, None);
    let published = Published::default();
    let policy = Policy { retention: Duration::from_secs(3600), ..eager() };
    let mut keeper = Keeper::new(counting.store(), policy, published.clone());
    keeper.turn(&never()).await.unwrap();
    let changes = TablePath::Changes(workload.relation.name.clone());
    assert_eq!(archive.files(&changes).await.len(), 1, "what was there before it began is maintained");
    let asked = counting.requests();
    assert!(asked > 0);
    keeper.turn(&never()).await.unwrap();
    assert_eq!(counting.requests(), asked, "nothing has changed since");

    let before = archive.files(&TablePath::Log(LogTable::Transactions)).await;
    archive.commit(&mut workload).await;
    let name = workload.relation.name.clone();
    published.note(&Publication { changes: vec![(name, Vec::new())], ..Publication::default() });
    keeper.turn(&never()).await.unwrap();
    assert_eq!(archive.files(&changes).await.len(), 1, "the table has changed");
    assert_eq!(archive.files(&TablePath::Log(LogTable::Transactions)).await.len(), before.len() + 1, "not said of it");
    let asked = counting.requests();
    keeper.turn(&never()).await.unwrap();
    assert_eq!(counting.requests(), asked);
}

/// What was replaced is deleted when the retention is over, though nothing was published since.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_is_deleted_in_time_where_nothing_happens() {
    let mut workload = Workload::new(23, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    for _ in 0..3 {
        archive.commit(&mut workload).await;
    }
    let policy = Policy { retention: Duration::from_secs(1), ..eager() };
    let mut keeper = Keeper::new(archive.store.clone(), policy, Published::default());
    keeper.turn(&never()).await.unwrap();
    let directory = TablePath::Changes(workload.relation.name.clone()).directory();
    let count = async || {
        let all = faults::paths(&archive.objects).await;
        all.iter().filter(|path| path.starts_with(&directory) && !path.contains("_delta_log")).count()
    };
    assert_eq!(count().await, 4);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    keeper.turn(&never()).await.unwrap();
    assert_eq!(count().await, 1);
}

/// A turn that failed is made up for by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_maintained_stays_due() {
    let mut workload = Workload::new(29, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    for _ in 0..3 {
        archive.commit(&mut workload).await;
    }
    let faulty = faults::Faulty::over(&archive.objects, Some((2, faults::Fault::Refused)));
    let mut keeper = Keeper::new(faulty.store(), eager(), Published::default());
    keeper.turn(&never()).await.unwrap_err();
    keeper.turn(&never()).await.unwrap();
    assert_eq!(archive.files(&TablePath::Changes(workload.relation.name.clone())).await.len(), 1);
    check(&archive.objects, &workload, "after the second turn").await;
}

/// An image by age is written for however few changes, and none where there are none since the newest.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_image_is_followed_by_another_where_something_changed() {
    let mut workload = Workload::new(31, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    let images = TablePath::Images(workload.relation.name.clone());
    let by_size = Policy { image_floor_bytes: u64::MAX, ..eager() };
    let aged = Policy { image_age: Some(Duration::from_secs(1)), ..by_size.clone() };
    tokio::time::sleep(Duration::from_millis(1100)).await;
    maintained(&archive.store, &aged).await.unwrap();
    assert_eq!(archive.files(&images).await.len(), 1, "nothing has changed");
    archive.commit(&mut workload).await;
    maintained(&archive.store, &by_size).await.unwrap();
    assert_eq!(archive.files(&images).await.len(), 1, "no age is asked for");
    maintained(&archive.store, &Policy { image_age: Some(Duration::from_secs(3600)), ..by_size }).await.unwrap();
    assert_eq!(archive.files(&images).await.len(), 1, "it is not that old");
    maintained(&archive.store, &aged).await.unwrap();
    assert_eq!(archive.files(&images).await.len(), 2);
    check(&archive.objects, &workload, "with an image by age").await;
}

/// Where nothing happens any more, an image comes when its time has come.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_by_age_does_not_wait_for_another_change() {
    let mut workload = Workload::new(37, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    archive.commit(&mut workload).await;
    let age = Some(Duration::from_millis(1500));
    let policy = Policy { image_floor_bytes: u64::MAX, image_age: age, ..eager() };
    let mut keeper = Keeper::new(archive.store.clone(), policy, Published::default());
    let images = TablePath::Images(workload.relation.name.clone());
    keeper.turn(&never()).await.unwrap();
    assert_eq!(archive.files(&images).await.len(), 1);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    keeper.turn(&never()).await.unwrap();
    assert_eq!(archive.files(&images).await.len(), 2);
}

/// The Delta log says between which numbers a file's keys are, so that queries need not open it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_listed_with_the_bounds_of_its_numbers() {
    let workload = Workload::new(41, relation(Identity::Default, INT4));
    let archive = Grown::begin(&workload).await;
    let files = archive.files(&TablePath::Images(workload.relation.name.clone())).await;
    assert_eq!(files[0].numbers, [("id".to_owned(), -3, 1)]);
}

/// A plan changes nothing, and says what maintenance then does.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_what_maintenance_then_does() {
    let mut workload = Workload::new(43, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    for _ in 0..5 {
        archive.commit(&mut workload).await;
    }
    let opened = Archive::open(&archive.store).await.unwrap();
    for policy in [eager(), Policy { image_floor_bytes: u64::MAX, ..eager() }] {
        let before = faults::paths(&archive.objects).await;
        let plans = plan(&opened, &policy).await.unwrap();
        assert_eq!(faults::paths(&archive.objects).await, before, "planning changes nothing");
        let reports = maintained(&archive.store, &policy).await.unwrap();
        for report in &reports {
            let plan = plans.iter().find(|plan| plan.table == report.table).unwrap();
            assert_eq!(plan.image, report.image.is_some(), "{plan:?} {report:?}");
            assert_eq!((plan.files, plan.bytes), (report.files_before, report.bytes_before), "{plan:?}");
            let added = usize::from(plan.image);
            assert_eq!(plan.files - plan.merge.files + plan.merge.into + added, report.files_after, "{plan:?}");
        }
        assert!(plans.iter().any(|plan| !plan.is_empty()));
        archive.commit(&mut workload).await;
    }
    // A checkpoint that one turn writes lets the next clean the log below it.
    for _ in 0..2 {
        maintained(&archive.store, &eager()).await.unwrap();
    }
    let rest = plan(&opened, &eager()).await.unwrap();
    assert!(rest.iter().all(TablePlan::is_empty), "{rest:?}");

    archive.commit(&mut workload).await;
    let patient = Policy { retention: Duration::from_secs(3600), ..eager() };
    maintained(&archive.store, &patient).await.unwrap();
    let name = workload.relation.name.clone();
    let replaced = plan(&opened, &eager()).await.unwrap();
    let replaced = replaced.iter().find(|plan| plan.table == TablePath::Changes(name.clone()).directory()).unwrap();
    let reports = maintained(&archive.store, &eager()).await.unwrap();
    let cleaned = reports.iter().find(|report| report.table == replaced.table).unwrap();
    assert_eq!((replaced.delete.files, replaced.delete.bytes), (cleaned.deleted.files, cleaned.deleted.bytes));
    assert_eq!(replaced.delete.files, 2);
}

/// Of an image whose files lie in the order of the keys, one row's lookup opens those that may have it.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_image_without_the_key_are_not_opened() {
    let mut workload = Workload::new(47, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    archive.commit(&mut workload).await;
    let (relation, at) = (workload.relation.clone(), Lsn(workload.at));
    let images = TablePath::Images(relation.name.clone());
    let known = archive.files(&images).await.len();
    for ids in [1000..1010, 2000..2010] {
        let mut image = ImageBuilder::new(&relation);
        for id in ids {
            image.push([id.to_string().as_str(), "p", "v"].map(|text| Some(text.as_bytes())).into_iter()).unwrap();
        }
        let content = FileContent {
            batches: vec![image.finish().unwrap()],
            metadata: log::relation_metadata(&relation),
            image_lsn: Some(at.as_i64()),
        };
        let file = stage(&archive.store, &images, content).await.unwrap();
        archive.writer.add_image(&relation.name, &image_table_schema(&relation), &[file]).await.unwrap();
    }
    assert_eq!(archive.files(&images).await.len(), known + 2);
    let image = Archive::open(&archive.store).await.unwrap().image(&relation.name, at).await.unwrap().unwrap();
    let [there, gone] = image.files.as_slice() else { panic!("{image:?}") };
    archive.objects.delete(&gone.path.as_str().into()).await.unwrap();
    let least = |file: &DataFile| file.numbers.iter().find(|(column, ..)| column == "id").unwrap().1.to_string();
    let (there, gone) = (least(there), least(gone));
    let opened = Archive::open(&archive.store).await.unwrap();
    let key = |id: &str| {
        let mut text = RowText::default();
        for field in [id, "p", ""] {
            text.push_with(|out| {
                out.extend_from_slice(field.as_bytes());
                true
            });
        }
        text
    };
    let table = TableAt::find(&opened, &relation.name, at).await.unwrap().unwrap();
    let only = |id: &str| KeySet::from([table.key_of(&key(id)).into_boxed_slice()]);
    assert_eq!(rows_at(&opened, at, Some(&only(&there))).await.1, [format!("{there} p v")]);
    let missing = table.for_each_row(Some(&only(&gone)), &mut |_| Ok(())).await;
    assert!(missing.is_err(), "its file is gone, and no other can have it");
}

/// Every command asks for the watermark; the commits before the newest are not read again for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_watermark_is_read_from_the_newest_commit() {
    let mut workload = Workload::new(53, relation(Identity::Default, INT4));
    let mut archive = Grown::begin(&workload).await;
    for _ in 0..20 {
        archive.commit(&mut workload).await;
    }
    let counting = faults::Faulty::over(&archive.objects, None);
    let opened = Archive::open(&counting.store()).await.unwrap();
    opened.watermark().await.unwrap();
    let before = counting.requests();
    assert_eq!(opened.watermark().await.unwrap().lsn, Lsn(workload.at));
    let asked = counting.requests() - before;
    assert!(asked < 10, "{asked} requests");
    // A commit of maintenance does not move it.
    maintained(&archive.store, &eager()).await.unwrap();
    assert_eq!(opened.watermark().await.unwrap().lsn, Lsn(workload.at));
}
