//! What the archive promises, over stores that fail in every place.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use chrono::{DateTime, Utc};
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::delta::DeltaTable;
use super::faults::{Fault, Faulty};
use super::*;
use crate::failure::{Category, Failure, Result};
use crate::model::{
    Commit, Identity, Lsn, Mark, MarkKind, Position, RelationEvent, RelationRecord, RelationVersion, TableName,
    Transaction,
};

const START: Lsn = Lsn(1000);

/// The n-th transaction of the source, from 1: it ends where the next one may begin.
fn commit(number: u64) -> Commit {
    let lsn = START.0 + number * 100;
    Commit { lsn: Lsn(lsn), end_lsn: Lsn(lsn + 50), xid: 700 + number as u32, time: time(number) }
}

fn time(number: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + number as i64, 0).unwrap()
}

/// Every transaction changes `often`, every third `seldom`; each second one makes a mark.
fn tables_of(number: u64) -> Vec<TableName> {
    let mut tables = vec![TableName::new("public", "often")];
    if number.is_multiple_of(3) {
        tables.push(TableName::new("public", "seldom"));
    }
    tables
}

fn has_mark(number: u64) -> bool {
    number.is_multiple_of(2)
}

fn relation(name: &TableName) -> RelationVersion {
    RelationVersion::new(1, name.clone(), Identity::Default, Vec::new())
}

fn record(lsn: Lsn, name: &TableName) -> RelationRecord {
    let (position, event) = (Position::before(lsn), RelationEvent::Described);
    RelationRecord { position, event, relation: relation(name), definition: None }
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("_lsn", DataType::Int64, true), Field::new("_seq", DataType::Int64, true)]))
}

/// An archive whose history begins at [`START`] and is empty.
async fn new_archive() -> Arc<InMemory> {
    let objects = Arc::new(InMemory::new());
    begin(&Faulty::over(&objects, None).store()).await.unwrap();
    objects
}

fn identity() -> ArchiveIdentity {
    ArchiveIdentity {
        format: FORMAT,
        system_identifier: 7_000_000_000_000_000_001,
        database: "erp".into(),
        start_lsn: START,
        created_at: time(0),
        slot: "afterimage_erp".into(),
        publication: "afterimage".into(),
    }
}

async fn begin(store: &Store) -> Result<()> {
    let mut writer = ArchiveWriter::claim(store).await?;
    writer.require_nothing_since(START).await?;
    let relations = ["often", "seldom"].map(|name| TableName::new("public", name));
    let relations = relations.iter().map(|name| record(START, name)).collect();
    writer.publish(&Publication { end: START, time: time(0), relations, ..Publication::default() }).await?;
    writer.begin(&identity()).await
}

/// What a capture session of the source makes of transactions, from the watermark on.
struct Capture {
    writer: ArchiveWriter,
    store: Store,
    next: u64,
}

impl Capture {
    async fn start(store: &Store) -> Result<Capture> {
        let writer = ArchiveWriter::claim(store).await?;
        let watermark = writer.durable().map_or(START, DurableLsn::lsn);
        let next = (1..).find(|number| commit(*number).end_lsn > watermark).unwrap();
        Ok(Capture { writer, store: store.clone(), next })
    }

    /// The publication of the transactions up to this one, its files staged.
    async fn publication(&mut self, last: u64) -> Result<Publication> {
        let mut rows: BTreeMap<TableName, Vec<(i64, i64)>> = BTreeMap::new();
        let mut publication = Publication { end: commit(last).end_lsn, time: time(last), ..Publication::default() };
        for number in std::mem::replace(&mut self.next, last + 1)..=last {
            let commit = commit(number);
            for (seq, table) in tables_of(number).into_iter().enumerate() {
                if commit.lsn >= self.writer.prepare(&table, &schema()).await? {
                    rows.entry(table).or_default().push((commit.lsn.as_i64(), seq as i64));
                }
            }
            publication.transactions.push(Transaction { commit, tables: BTreeMap::new(), context: None });
            if has_mark(number) {
                let name = format!("m{number}");
                publication.marks.push(Mark {
                    name,
                    kind: MarkKind::Mark,
                    lsn: commit.lsn,
                    time: commit.time,
                    user: None,
                });
            }
        }
        for (table, rows) in rows {
            let columns = [rows.iter().map(|row| row.0).collect(), rows.iter().map(|row| row.1).collect()];
            let columns = columns.map(|values: Vec<i64>| Arc::new(Int64Array::from(values)) as _);
            let batches = vec![RecordBatch::try_new(schema(), columns.into()).unwrap()];
            let content = FileContent { batches, metadata: Vec::new(), image_lsn: None };
            let file = retried(async || {
                let again = FileContent { batches: content.batches.clone(), metadata: Vec::new(), image_lsn: None };
                stage(&self.store, &TablePath::Changes(table.clone()), again).await
            });
            publication.changes.push((table.clone(), vec![file.await?]));
        }
        Ok(publication)
    }

    /// Publishes the transactions up to this one, and tries again what may be tried again.
    async fn publish(&mut self, last: u64) -> Result<DurableLsn> {
        let publication = self.publication(last).await?;
        for _ in 0..3 {
            match self.writer.publish(&publication).await {
                Err(failure) if failure.is_transient() && !self.writer.is_overtaken() => {}
                published => return published,
            }
        }
        self.writer.publish(&publication).await
    }
}

async fn retried<T>(work: impl AsyncFn() -> Result<T>) -> Result<T> {
    match work().await {
        Err(failure) if failure.is_transient() => work().await,
        outcome => outcome,
    }
}

/// Everything that readers see of an archive.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    watermark: Lsn,
    transactions: Vec<Lsn>,
    marks: Vec<String>,
    relations: Vec<Lsn>,
    rows: BTreeMap<TableName, Vec<(i64, i64)>>,
}

/// What they must see after the transactions up to this one.
fn expected(last: u64) -> Seen {
    let mut rows: BTreeMap<TableName, Vec<(i64, i64)>> = BTreeMap::new();
    for number in 1..=last {
        for (seq, table) in tables_of(number).into_iter().enumerate() {
            rows.entry(table).or_default().push((commit(number).lsn.as_i64(), seq as i64));
        }
    }
    Seen {
        watermark: if last == 0 { START } else { commit(last).end_lsn },
        transactions: (1..=last).map(|number| commit(number).lsn).collect(),
        marks: (1..=last).filter(|number| has_mark(*number)).map(|number| format!("m{number}")).collect(),
        relations: vec![START; 2],
        rows,
    }
}

async fn seen(objects: &Arc<InMemory>) -> Seen {
    let archive = Archive::open(&Faulty::over(objects, None).store()).await.unwrap();
    let watermark = archive.watermark().await.unwrap().lsn;
    let mut rows = BTreeMap::new();
    for name in ["often", "seldom"].map(|name| TableName::new("public", name)) {
        let mut found = Vec::new();
        for file in archive.change_files(&name, START, watermark).await.unwrap() {
            for batch in archive.read(&file, None).await.unwrap().batches().await.unwrap() {
                let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values().to_vec();
                found.extend(column(0).into_iter().zip(column(1)).filter(|row| row.0 < watermark.as_i64()));
            }
        }
        found.sort_unstable();
        if !found.is_empty() {
            rows.insert(name, found);
        }
    }
    let transactions = archive.transactions(watermark).await.unwrap();
    let commits: Vec<Lsn> = archive.commits(watermark).await.unwrap().iter().map(|commit| commit.lsn).collect();
    let transactions: Vec<Lsn> = transactions.iter().map(|transaction| transaction.commit.lsn).collect();
    assert_eq!(commits, transactions);
    let marks = archive.marks(watermark).await.unwrap().into_iter().map(|mark| mark.name).collect();
    let relations = archive.relations().await.unwrap().iter().map(|record| record.position.lsn).collect();
    Seen { watermark, transactions, marks, relations, rows }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_an_earlier_version_gets_its_new_columns() {
    let objects = new_archive().await;
    let store = Faulty::over(&objects, None).store();
    let old: Vec<_> =
        log::schema(LogTable::Marks).fields().iter().filter(|field| field.name() != "kind").cloned().collect();
    let path = TablePath::Log(LogTable::Marks);
    DeltaTable::open_or_create(&store, &path, &Schema::new(old)).await.unwrap();
    let mut capture = Capture::start(&store).await.unwrap();
    let mut publication = capture.publication(2).await.unwrap();
    publication.marks[0].kind = MarkKind::Deployment;
    capture.writer.publish(&publication).await.unwrap();
    let marks = Archive::open(&store).await.unwrap().marks(commit(2).end_lsn).await.unwrap();
    assert_eq!(marks.iter().map(|mark| mark.kind).collect::<Vec<_>>(), [MarkKind::Deployment]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_seen_once_and_whole() {
    let objects = new_archive().await;
    assert_eq!(seen(&objects).await, expected(0));
    let mut capture = Capture::start(&Faulty::over(&objects, None).store()).await.unwrap();
    for last in [2, 3, 9] {
        let durable = capture.publish(last).await.unwrap();
        assert_eq!(durable.lsn(), commit(last).end_lsn);
        assert_eq!(seen(&objects).await, expected(last));
    }
}

/// A session of capture. Where it cannot claim the archive at first, another does.
async fn started(store: &Store) -> Capture {
    loop {
        match Capture::start(store).await {
            Err(failure) => assert!(failure.is_transient(), "{failure}"),
            Ok(capture) => return capture,
        }
    }
}

/// Runs three publications once for every put there is, that one meeting the fault, until none meets it any more.
async fn with_fault_at_every_put(fault: Fault) {
    for at in 0.. {
        let objects = new_archive().await;
        let faulty = Faulty::over(&objects, Some((at, fault)));
        let store = faulty.store();
        let mut capture = started(&store).await;
        for last in [2, 3, 7] {
            let mut published = capture.publish(last).await;
            while published.as_ref().is_err_and(Failure::is_transient) {
                capture = started(&store).await;
                published = capture.publish(last).await;
            }
            let paths = faulty.paths.lock().unwrap().join("\n");
            assert!(published.is_ok(), "{fault:?} of put {at}: {published:?}\n{paths}");
            assert_eq!(seen(&objects).await, expected(last), "{fault:?} of put {at}\n{paths}");
        }
        if !faulty.was_met() {
            assert!(at > 10, "the history took only {at} puts");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_failed_is_done_once() {
    with_fault_at_every_put(Fault::Refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_was_lost_is_done_once() {
    with_fault_at_every_put(Fault::LostAnswer).await;
}

/// The next attempt finds the commit in its way, and cannot read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_could_not_be_looked_at_is_looked_at_before_another() {
    for read in 0..4 {
        with_fault_at_every_put(Fault::LostAnswerAndRead(read)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_the_client_repeats_itself_is_done_once() {
    with_fault_at_every_put(Fault::LostAnswerAndRetry).await;
}

/// A crash between any two puts, and a resumption that groups the same transactions otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_put_loses_and_doubles_nothing() {
    for at in 0.. {
        let objects = new_archive().await;
        let faulty = Faulty::over(&objects, Some((at, Fault::Gone)));
        let mut published = 0;
        if let Ok(mut capture) = Capture::start(&faulty.store()).await {
            for last in [2, 3, 7] {
                if capture.publish(last).await.is_err() {
                    break;
                }
                published = last;
            }
        }
        assert_eq!(seen(&objects).await, expected(published), "crash at put {at}: nothing above the watermark");
        let mut resumed = Capture::start(&Faulty::over(&objects, None).store()).await.unwrap();
        for last in [4, 5, 6, 8].into_iter().filter(|last| *last > published) {
            resumed.publish(last).await.unwrap();
            assert_eq!(seen(&objects).await, expected(last), "crash at put {at}, resumed to {last}");
        }
        if !faulty.was_met() {
            assert!(at > 10, "the history took only {at} puts");
            return;
        }
    }
}

/// A checkpoint falls into this history; without it a fault there would not be met.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_fails_does_not_repeat_the_commit_before_it() {
    let objects = new_archive().await;
    let without = Faulty::over(&objects, None);
    let mut capture = Capture::start(&without.store()).await.unwrap();
    let checkpoint = |faulty: &Faulty| {
        faulty
            .paths
            .lock()
            .unwrap()
            .iter()
            .position(|path| path.contains("transactions") && path.contains(".checkpoint"))
    };
    for last in 1.. {
        capture.publish(last).await.unwrap();
        if checkpoint(&without).is_some() {
            break;
        }
    }
    let (at, last) = (checkpoint(&without).unwrap(), capture.next - 1);

    let objects = new_archive().await;
    let faulty = Faulty::over(&objects, Some((at, Fault::Refused)));
    let mut capture = Capture::start(&faulty.store()).await.unwrap();
    for last in 1..=last + 1 {
        capture.publish(last).await.unwrap();
    }
    assert!(checkpoint(&faulty).is_some());
    assert_eq!(seen(&objects).await, expected(last + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_writer_can_not_publish_any_more() {
    let objects = new_archive().await;
    let store = Faulty::over(&objects, None).store();
    let mut stale = Capture::start(&store).await.unwrap();
    stale.publish(2).await.unwrap();
    let epoch = stale.writer.epoch();
    ArchiveWriter::require_epoch(&store, epoch).await.unwrap();
    let mut second = Capture::start(&store).await.unwrap();
    let refused = stale.publish(5).await.unwrap_err();
    assert_eq!(refused.category(), Category::Refused, "{refused}");
    assert_eq!(ArchiveWriter::require_epoch(&store, epoch).await.unwrap_err().category(), Category::Refused);
    assert_eq!(seen(&objects).await, expected(2));
    // The rows that the stale writer added are the same ones, and are not added again.
    second.publish(5).await.unwrap();
    second.publish(9).await.unwrap();
    assert_eq!(seen(&objects).await, expected(9));
}

/// The stale writer adds rows to tables that the new one has opened already, up to before, at or after where the
/// new one's publication ends.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_stale_writer_adds_late_are_not_doubled() {
    for late in [4, 5, 6] {
        let objects = new_archive().await;
        let store = Faulty::over(&objects, None).store();
        let mut stale = Capture::start(&store).await.unwrap();
        stale.publish(2).await.unwrap();
        let held = stale.publication(late).await.unwrap();
        let mut second = Capture::start(&store).await.unwrap();
        let publication = second.publication(5).await.unwrap();
        assert!(stale.writer.publish(&held).await.is_err());
        let published = second.writer.publish(&publication).await;
        if late == 5 {
            published.unwrap();
        } else {
            let failure = published.unwrap_err();
            assert!(failure.is_transient() && second.writer.is_overtaken(), "{failure}");
            // Once more, as a committer that waits for a store would.
            assert!(second.writer.publish(&publication).await.is_err());
            assert_eq!(seen(&objects).await, expected(2), "late up to {late}");
            second = Capture::start(&store).await.unwrap();
        }
        for last in [7, 8] {
            second.publish(last).await.unwrap();
            assert_eq!(seen(&objects).await, expected(last), "late up to {late}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_the_later_counts() {
    let objects = new_archive().await;
    let store = Faulty::over(&objects, None).store();
    let (one, two) = tokio::join!(Capture::start(&store), Capture::start(&store));
    let mut captures = [one.unwrap(), two.unwrap()];
    captures.sort_by_key(|capture| capture.writer.epoch());
    let [mut earlier, mut later] = captures;
    assert!(earlier.writer.epoch() < later.writer.epoch());
    assert_eq!(earlier.publish(1).await.unwrap_err().category(), Category::Refused);
    later.publish(1).await.unwrap();
    assert_eq!(seen(&objects).await, expected(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_begins_once() {
    let objects = new_archive().await;
    let store = Faulty::over(&objects, None).store();
    let mut writer = ArchiveWriter::claim(&store).await.unwrap();
    assert_eq!(writer.begin(&identity()).await.unwrap_err().category(), Category::Refused);
    assert_eq!(Archive::open(&store).await.unwrap().identity(), &identity());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_source_left_is_not_mixed_in() {
    let objects = new_archive().await;
    let store = Faulty::over(&objects, None).store();
    objects.delete(&Path::from(layout::IDENTITY_FILE)).await.unwrap();
    let writer = ArchiveWriter::claim(&store).await.unwrap();
    assert_eq!(writer.require_nothing_since(START).await.unwrap_err().category(), Category::Refused);
    // An interrupted init of the same source lies before.
    writer.require_nothing_since(Lsn(START.0 + 1)).await.unwrap();
    assert!(Archive::find(&store).await.unwrap().is_none());
}

/// The first beginning is cut off at every put; the second begins later and shows nothing of the first.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_beginning_leaves_nothing_to_see() {
    for at in 0.. {
        let objects = Arc::new(InMemory::new());
        let faulty = Faulty::over(&objects, Some((at, Fault::Gone)));
        let begun = begin(&faulty.store()).await;
        if !faulty.was_met() {
            begun.unwrap();
            assert!(at > 3, "a beginning took only {at} puts");
            return;
        }
        begun.unwrap_err();
        let store = Faulty::over(&objects, None).store();
        assert!(Archive::find(&store).await.unwrap().is_none(), "put {at}");
        let start_lsn = Lsn(START.0 + 7);
        let mut writer = ArchiveWriter::claim(&store).await.unwrap();
        writer.require_nothing_since(start_lsn).await.unwrap();
        let relations = vec![record(start_lsn, &TableName::new("public", "often"))];
        let publication = Publication { end: start_lsn, time: time(1), relations, ..Publication::default() };
        writer.publish(&publication).await.unwrap();
        writer.begin(&ArchiveIdentity { start_lsn, ..identity() }).await.unwrap();
        let archive = Archive::open(&store).await.unwrap();
        assert_eq!(archive.watermark().await.unwrap().lsn, start_lsn);
        let tables: Vec<TableName> = archive.tables_before(start_lsn).await.unwrap().into_keys().collect();
        assert_eq!(tables, [TableName::new("public", "often")], "put {at}");
    }
}
