use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::{DataFile, Derived, Limits, Session, TableFiles, TableRef, Tables};
use crate::failure::{Category, Failure, Result};
use crate::model::TableName;

/// An archive made of files in memory, which counts what is asked of it.
#[derive(Debug, Default)]
struct Fake {
    tables: HashMap<TableRef, TableFiles>,
    opened: AtomicUsize,
    listed: AtomicUsize,
}

#[async_trait]
impl Tables for Fake {
    async fn list(&self) -> Result<Vec<TableRef>> {
        self.listed.fetch_add(1, Ordering::Relaxed);
        Ok(self.tables.keys().cloned().collect())
    }

    async fn derive(&self, _: &Derived) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(None)
    }

    async fn open(&self, table: &TableRef) -> Result<Option<TableFiles>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        if *table == TableRef::Log("broken".into()) {
            return Err(Failure::transient("the store does not answer"));
        }
        Ok(self.tables.get(table).cloned())
    }
}

struct Archive {
    store: Arc<InMemory>,
    fake: Fake,
    memory_bytes: usize,
}

/// What a test asks, with the archive it asks of.
struct Asked {
    session: Session,
    fake: Arc<Fake>,
    _spill: SpillDir,
}

/// A directory of its own for each test, removed with it.
struct SpillDir(std::path::PathBuf);

impl SpillDir {
    fn new() -> Self {
        SpillDir(std::env::temp_dir().join(format!("afterimage-query-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for SpillDir {
    fn drop(&mut self) {
        // Only litter is left where this fails.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Archive {
    fn new() -> Self {
        Archive { store: Arc::new(InMemory::new()), fake: Fake::default(), memory_bytes: 256 << 20 }
    }

    /// Writes a Parquet file with row groups of twelve rows: no watermark below is the last of a group, so that
    /// leaving out row groups cannot stand in for hiding rows.
    async fn file(&self, path: &str, batch: &RecordBatch) -> DataFile {
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(12)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        let file = DataFile::new(Path::from(path), bytes.len() as u64);
        self.store.put(&file.path, bytes.into()).await.unwrap();
        file
    }

    fn table(mut self, table: TableRef, files: TableFiles) -> Self {
        self.fake.tables.insert(table, files);
        self
    }

    fn session(self) -> Asked {
        let spill = SpillDir::new();
        let limits = Limits { memory_bytes: self.memory_bytes, spill_dir: spill.0.clone() };
        let fake = Arc::new(self.fake);
        let url = "memory:///archive".parse().unwrap();
        let session = Session::new(Arc::clone(&fake) as Arc<dyn Tables>, self.store, url, limits).unwrap();
        Asked { session, fake, _spill: spill }
    }
}

impl Asked {
    async fn rows(&self, sql: &str) -> Result<RecordBatch> {
        let result = self.session.sql(sql).await?;
        let batches: Vec<RecordBatch> = result.batches.try_collect().await?;
        Ok(concat_batches(&result.schema, &batches).unwrap())
    }

    async fn number(&self, sql: &str) -> i64 {
        let rows = self.rows(sql).await.unwrap_or_else(|failure| panic!("{sql}: {failure}"));
        assert_eq!((rows.num_rows(), rows.num_columns()), (1, 1), "{sql}");
        rows.column(0).as_primitive::<Int64Type>().value(0)
    }

    async fn text(&self, sql: &str) -> String {
        let rows = self.rows(sql).await.unwrap_or_else(|failure| panic!("{sql}: {failure}"));
        pretty_format_batches(&[rows]).unwrap().to_string()
    }

    async fn refused(&self, sql: &str) -> Failure {
        match self.rows(sql).await {
            Ok(rows) => panic!("{sql} answered {rows:?}"),
            Err(failure) => failure,
        }
    }
}

fn changes(schema: &str, table: &str) -> TableRef {
    TableRef::Changes(TableName::new(schema, table))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// One row for each LSN; `id` is the LSN times ten.
fn rows_at(lsns: std::ops::RangeInclusive<i64>) -> RecordBatch {
    let ids: Int64Array = lsns.clone().map(|lsn| lsn * 10).collect();
    let names: StringArray = lsns.clone().map(|lsn| Some(format!("name {lsn}"))).collect();
    batch(vec![
        ("_lsn", Arc::new(Int64Array::from_iter_values(lsns))),
        ("id", Arc::new(ids)),
        ("name", Arc::new(names)),
    ])
}

/// `changes.orders` with LSNs 1 to 50 in one file, visible through `visible`.
async fn orders(visible: Option<i64>) -> Asked {
    let archive = Archive::new();
    let rows = rows_at(1..=50);
    let file = archive.file("changes/public/orders/a.parquet", &rows).await;
    archive.table(changes("public", "orders"), TableFiles::new(rows.schema(), vec![file], visible)).session()
}

#[tokio::test]
async fn nothing_above_the_watermark_is_seen_in_any_way() {
    let asked = orders(Some(20)).await;
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders").await, 20);
    assert_eq!(asked.number("SELECT count(1) FROM changes.orders").await, 20);
    assert_eq!(asked.number("SELECT count(id) FROM changes.orders").await, 20);
    assert_eq!(asked.number("SELECT max(_lsn) FROM changes.orders").await, 20);
    assert_eq!(asked.number("SELECT max(id) FROM changes.orders").await, 200);
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders WHERE id > 100").await, 10);
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders WHERE _lsn > 20 OR true").await, 20);
    assert_eq!(asked.number("SELECT count(*) FROM (SELECT id FROM changes.orders LIMIT 1000)").await, 20);
    assert_eq!(asked.number("SELECT id FROM changes.orders ORDER BY id DESC LIMIT 1").await, 200);
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders a JOIN changes.orders b ON a.id = b.id").await, 20);
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders WHERE _lsn = 21").await, 0);
}

#[tokio::test]
async fn without_a_watermark_all_rows_are_seen() {
    let asked = orders(None).await;
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders").await, 50);
    assert_eq!(asked.number("SELECT count(*) FROM (SELECT * FROM changes.orders LIMIT 7)").await, 7);
}

#[tokio::test]
async fn a_watermark_below_everything_leaves_nothing() {
    let asked = orders(Some(0)).await;
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders").await, 0);
}

#[tokio::test]
async fn rows_without_a_position_are_not_seen() {
    let archive = Archive::new();
    let rows = batch(vec![("_lsn", Arc::new(Int64Array::from(vec![Some(1), None])))]);
    let file = archive.file("f", &rows).await;
    let asked = archive.table(changes("public", "t"), TableFiles::new(rows.schema(), vec![file], Some(9))).session();
    assert_eq!(asked.number("SELECT count(*) FROM changes.t").await, 1);
}

#[tokio::test]
async fn a_watermark_that_cannot_be_enforced_is_an_error() {
    let archive = Archive::new();
    let rows = batch(vec![("id", Arc::new(Int64Array::from(vec![1])))]);
    let file = archive.file("f", &rows).await;
    let asked = archive.table(changes("public", "t"), TableFiles::new(rows.schema(), vec![file], Some(9))).session();
    let failure = asked.refused("SELECT * FROM changes.t").await;
    assert_eq!(failure.category(), Category::Failed);
    assert!(failure.cause().contains("_lsn"), "{failure}");
}

#[tokio::test]
async fn limits_count_visible_rows_only() {
    let asked = orders(Some(20)).await;
    let sql = "SELECT count(*) FROM (SELECT * FROM changes.orders WHERE id >= 150 LIMIT 4)";
    assert_eq!(asked.number(sql).await, 4);
    assert_eq!(asked.number("SELECT count(*) FROM (SELECT * FROM changes.orders LIMIT 15)").await, 15);
}

#[tokio::test]
async fn row_groups_that_cannot_match_are_skipped() {
    let asked = orders(Some(20)).await;
    let plan = asked.text("EXPLAIN ANALYZE SELECT name FROM changes.orders WHERE id = 50").await;
    assert!(plan.contains("DataSourceExec"), "{plan}");
    // Of five row groups only the one that can have the key is shown to the scan.
    assert!(plan.contains("row_groups_pruned_statistics=1 total → 1 matched"), "{plan}");
    let plan = asked.text("EXPLAIN ANALYZE SELECT name FROM changes.orders WHERE id < 50").await;
    // Of all five the watermark leaves two and the condition one.
    assert!(plan.contains("row_groups_pruned_statistics=5 total → 1 matched"), "{plan}");
}

#[tokio::test]
async fn the_scan_reads_only_the_columns_it_needs() {
    let asked = orders(Some(20)).await;
    let plan = asked.text("EXPLAIN SELECT name FROM changes.orders").await;
    assert!(plan.contains("projection=[name, _lsn]"), "{plan}");
}

#[tokio::test]
async fn files_outside_the_range_are_not_opened() {
    let archive = Archive::new();
    let (old, new) = (rows_at(1..=10), rows_at(11..=20));
    let mut files = vec![archive.file("old", &old).await, archive.file("new", &new).await];
    files[0].lsn_range = Some((1, 10));
    files[1].lsn_range = Some((11, 20));
    let mut above = DataFile::new(Path::from("does/not/exist"), 100);
    above.lsn_range = Some((31, 40));
    files.push(above.clone());
    let asked = archive.table(changes("public", "t"), TableFiles::new(old.schema(), files, Some(30))).session();
    assert_eq!(asked.number("SELECT count(*) FROM changes.t").await, 20);

    let archive = Archive::new();
    let mut file = archive.file("old", &old).await;
    file.lsn_range = Some((1, 10));
    let asked =
        archive.table(changes("public", "t"), TableFiles::new(old.schema(), vec![file, above], Some(90))).session();
    assert_eq!(asked.number("SELECT count(*) FROM changes.t WHERE _lsn < 5").await, 4);
    assert_eq!(asked.refused("SELECT count(*) FROM changes.t").await.category(), Category::Failed);
}

#[tokio::test]
async fn columns_that_an_older_file_lacks_are_null() {
    let archive = Archive::new();
    let old = batch(vec![("_lsn", Arc::new(Int64Array::from(vec![1])))]);
    let new = rows_at(2..=3);
    let files = vec![archive.file("old", &old).await, archive.file("new", &new).await];
    // The table says that the new column is never NULL; the old file knows better.
    let fields: Vec<Field> = new.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(false)).collect();
    let schema = Arc::new(Schema::new(fields));
    let asked = archive.table(changes("public", "t"), TableFiles::new(schema, files, Some(9))).session();
    assert_eq!(asked.number("SELECT count(*) FROM changes.t WHERE name IS NULL").await, 1);
    assert_eq!(asked.number("SELECT count(*) FROM changes.t WHERE name = 'name 2'").await, 1);
    assert_eq!(asked.number("SELECT sum(id) FROM changes.t").await, 50);
    assert_eq!(asked.number("SELECT count(*) FROM changes.t").await, 3);
}

/// A struct `_old` with these numbers and, as the archive has it, a map of exact texts.
fn old_rows(names: &[&str]) -> RecordBatch {
    let mut exact = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    exact.keys().append_value("a");
    exact.values().append_value("NaN");
    exact.append(true).unwrap();
    let exact: ArrayRef = Arc::new(exact.finish());
    let mut fields = vec![Field::new("_exact", exact.data_type().clone(), true)];
    let mut values = vec![exact];
    for name in names {
        fields.push(Field::new(*name, DataType::Int64, true));
        values.push(Arc::new(Int64Array::from(vec![7])));
    }
    batch(vec![("_old", Arc::new(StructArray::new(Fields::from(fields), values, None)))])
}

#[tokio::test]
async fn fields_that_an_older_struct_lacks_are_null() {
    let archive = Archive::new();
    let (old, new) = (old_rows(&["a"]), old_rows(&["a", "b"]));
    let none = batch(vec![("_lsn", Arc::new(Int64Array::from(vec![1])))]);
    let files =
        vec![archive.file("old", &old).await, archive.file("new", &new).await, archive.file("none", &none).await];
    let asked = archive.table(changes("public", "t"), TableFiles::new(new.schema(), files, None)).session();
    assert_eq!(asked.number("SELECT count(*) FROM changes.t WHERE _old['b'] IS NULL AND _old['a'] = 7").await, 1);
    assert_eq!(asked.number("SELECT sum(_old['b']) FROM changes.t").await, 7);
    assert_eq!(asked.number("SELECT count(*) FROM changes.t WHERE _old IS NULL").await, 1);
    let all = asked.text("SELECT * FROM changes.t").await;
    assert_eq!(all.matches("NaN").count(), 2, "{all}");
}

#[tokio::test]
async fn another_column_can_place_the_rows() {
    let archive = Archive::new();
    let rows = batch(vec![("end_lsn", Arc::new(Int64Array::from(vec![1, 2, 3])))]);
    let file = archive.file("f", &rows).await;
    let files = TableFiles { lsn_column: "end_lsn".into(), ..TableFiles::new(rows.schema(), vec![file], Some(2)) };
    let asked = archive.table(TableRef::Log("transactions".into()), files).session();
    assert_eq!(asked.number("SELECT count(*) FROM afterimage.transactions").await, 2);
}

#[tokio::test]
async fn partition_values_are_constant_columns_in_their_place() {
    let archive = Archive::new();
    let rows = rows_at(1..=2);
    let mut files = vec![archive.file("a", &rows).await, archive.file("b", &rows).await];
    files.push(DataFile::new(Path::from("does/not/exist"), 100));
    for (file, base) in files.iter_mut().zip([Some(5), None, Some(99)]) {
        file.partition_values = vec![("base".into(), ScalarValue::Int64(base))];
    }
    // First in the table, though the reader has it last.
    let mut fields = vec![Arc::new(Field::new("base", DataType::Int64, true))];
    fields.extend(rows.schema().fields().iter().cloned());
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let table = TableRef::Images(TableName::new("public", "t"));
    let asked = archive.table(table, TableFiles::new(schema, files, Some(1))).session();
    let sql = "SELECT * FROM images.t WHERE base < 50 OR base IS NULL ORDER BY base";
    let all = asked.rows(sql).await.unwrap();
    assert_eq!(all.schema().field(0).name(), "base");
    let bases = all.column(0).as_primitive::<Int64Type>();
    assert_eq!(bases.iter().collect::<Vec<_>>(), [Some(5), None]);
    assert_eq!(all.column_by_name("id").unwrap().as_primitive::<Int64Type>().values(), &[10, 10]);
    assert_eq!(asked.number("SELECT count(*) FROM images.t WHERE base = 5").await, 1);
    assert_eq!(asked.number("SELECT base FROM images.t WHERE base = 5").await, 5);
    assert_eq!(asked.number("SELECT count(*) FROM images.t WHERE base IS NULL").await, 1);
}

#[tokio::test]
async fn the_sources_names_are_shown_for_stored_ones() {
    let archive = Archive::new();
    let rows = rows_at(1..=5);
    let file = archive.file("f", &rows).await;
    let shown = Schema::new(vec![
        Field::new("name", DataType::Int64, true),
        Field::new("Name", DataType::Utf8, true),
        Field::new("_lsn", DataType::Int64, true),
    ]);
    let mut files = TableFiles::new(Arc::new(shown), vec![file], Some(4));
    files.stored_names = HashMap::from([("name".into(), "id".into()), ("Name".into(), "name".into())]);
    let asked = archive.table(changes("public", "t"), files).session();
    assert_eq!(asked.number("SELECT name FROM changes.t WHERE \"Name\" = 'name 3'").await, 30);
    assert_eq!(asked.number("SELECT max(name) FROM changes.t").await, 40);
    assert_eq!(asked.number("SELECT count(*) FROM changes.t WHERE name = 20 AND \"Name\" = 'name 2'").await, 1);
    let plan = asked.text("EXPLAIN SELECT name FROM changes.t WHERE name = 20").await;
    assert!(plan.contains("pruning_predicate=") && plan.contains("id_min@"), "{plan}");
}

#[tokio::test]
async fn every_form_of_a_name_finds_its_table() {
    let mut archive = Archive::new();
    let tables = [
        (changes("public", "orders"), 1),
        (changes("tenant_1", "orders"), 2),
        (changes("public", "dotted.name"), 3),
        (changes("Tenant", "Orders"), 4),
        (TableRef::Images(TableName::new("tenant_1", "orders")), 5),
        (TableRef::Log("transactions".into()), 6),
    ];
    for (table, rows) in tables {
        let rows = rows_at(1..=rows);
        let file = archive.file(&table.to_string(), &rows).await;
        archive = archive.table(table, TableFiles::new(rows.schema(), vec![file], None));
    }
    let asked = archive.session();
    let names = [
        ("changes.orders", 1),
        ("CHANGES.Orders", 1),
        ("changes.public.orders", 1),
        ("changes.tenant_1.orders", 2),
        ("changes.\"tenant_1.orders\"", 2),
        ("changes.\"dotted.name\"", 3),
        ("changes.\"Tenant\".\"Orders\"", 4),
        ("images.tenant_1.orders", 5),
        ("afterimage.transactions", 6),
    ];
    for (name, rows) in names {
        assert_eq!(asked.number(&format!("SELECT count(*) FROM {name}")).await, rows, "{name}");
    }
    assert_eq!(asked.fake.listed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn each_table_is_listed_once_under_its_shortest_name_without_opening_it() {
    let archive = Archive::new();
    let none = || TableFiles::new(rows_at(1..=1).schema(), Vec::new(), Some(1));
    let asked = archive
        .table(changes("public", "orders"), none())
        .table(changes("tenant_1", "orders"), none())
        .table(TableRef::Log("marks".into()), none())
        .session();
    let listed = asked
        .text(
            "SELECT table_catalog, table_schema, table_name FROM information_schema.tables \
             WHERE table_schema <> 'information_schema'",
        )
        .await;
    assert_eq!(listed.lines().filter(|line| line.contains("orders") || line.contains("marks")).count(), 3, "{listed}");
    assert!(listed.contains("| changes       | tenant_1     | orders"), "{listed}");
    assert_eq!(asked.fake.opened.load(Ordering::Relaxed), 0);
    assert!(asked.text("SHOW TABLES").await.contains("marks"));
    assert!(asked.text("DESCRIBE changes.orders").await.contains("_lsn"));
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders").await, 0);
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_the_nearest() {
    let asked = orders(Some(20)).await;
    for name in ["changes.order", "orders", "images.orders", "changes.public.ordres", "chagnes.orders", "x.y.orders"] {
        let failure = asked.refused(&format!("SELECT * FROM {name}")).await;
        assert_eq!(failure.category(), Category::Usage);
        assert_eq!(failure.cause(), format!("there is no table {name} in the archive"));
        assert!(failure.remedy_text().unwrap().contains("did you mean changes.orders?"), "{:?}", failure.remedy_text());
    }
    let described = asked.refused("DESCRIBE changes.ordres").await;
    assert_eq!(described.cause(), "there is no table changes.ordres in the archive");
    let far = asked.refused("SELECT * FROM afterimage.zebra").await;
    assert_eq!(far.remedy_text(), Some("SHOW TABLES lists what there is"));
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_not_an_unknown_table() {
    let failure = orders(None).await.refused("SELECT * FROM afterimage.broken").await;
    assert!(failure.is_transient());
    assert_eq!(failure.cause(), "the store does not answer");
}

#[tokio::test]
async fn nothing_but_reading_is_possible() {
    let asked = orders(Some(20)).await;
    let elsewhere = SpillDir::new();
    let copy = format!("COPY changes.orders TO '{}' STORED AS PARQUET", elsewhere.0.display());
    let explained = format!("EXPLAIN ANALYZE {copy}");
    let writing = [
        copy.as_str(),
        explained.as_str(),
        "INSERT INTO changes.orders VALUES (1, 2, 'x')",
        "EXPLAIN ANALYZE INSERT INTO changes.orders VALUES (1, 2, 'x')",
        "DELETE FROM changes.orders",
        "UPDATE changes.orders SET id = 1",
        "TRUNCATE changes.orders",
        "DROP TABLE changes.orders",
        "CREATE TABLE t AS SELECT 1",
        "SELECT * INTO t FROM changes.orders",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "BEGIN",
        "PREPARE p AS SELECT 1",
    ];
    for sql in writing {
        assert_eq!(asked.refused(sql).await.category(), Category::Usage, "{sql}");
    }
    assert!(asked.refused("DROP TABLE changes.orders").await.cause().contains("only read"));
    assert!(!elsewhere.0.exists());
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders").await, 20);
}

#[tokio::test]
async fn files_cannot_be_named_as_tables() {
    let asked = orders(None).await;
    assert_eq!(asked.refused("SELECT * FROM '/etc/passwd'").await.category(), Category::Usage);
    assert_eq!(asked.refused("SELECT * FROM 'changes/public/orders/a.parquet'").await.category(), Category::Usage);
}

#[tokio::test]
async fn mistakes_in_sql_are_usage_errors_of_one_line() {
    let asked = orders(Some(20)).await;
    let mistakes = [
        "",
        ";",
        "SELEC 1",
        "SELECT nothing FROM changes.orders",
        "SELECT nofunction(1)",
        "SELECT 1; SELECT 2",
        "SELECT 'x'::bigint",
        "SELECT 1 / 0",
        "SELECT sum(name::bigint) FROM changes.orders",
        "SELECT lsn('nonsense')",
    ];
    for sql in mistakes {
        let failure = asked.refused(sql).await;
        assert_eq!(failure.category(), Category::Usage, "{sql}: {failure}");
        assert!(!failure.cause().contains('\n') && failure.remedy_text().is_some(), "{sql}: {failure}");
    }
}

#[tokio::test]
async fn habits_of_postgresql_work() {
    let asked = orders(Some(20)).await;
    assert_eq!(asked.number("SELECT COUNT(*) FROM changes.orders WHERE ID::text LIKE '%00'").await, 2);
    assert_eq!(asked.number("WITH t AS (SELECT id FROM changes.orders) SELECT max(id) FROM t").await, 200);
    assert_eq!(asked.number("SELECT x FROM (VALUES (7)) AS v(x)").await, 7);
    assert_eq!(asked.number("SELECT count(*) FROM generate_series(1, 3)").await, 3);
    assert_eq!(asked.number("SELECT lsn('16/B374D848')").await, 0x16_B374_D848);
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders WHERE _lsn <= lsn('0/A')").await, 10);
    assert!(asked.text("SELECT lsn_text(max(_lsn)) FROM changes.orders").await.contains("0/14"));
    assert!(asked.text("SELECT timestamptz '2025-10-09 16:03:00+02:00' AS t").await.contains("2025-10-09T14:03:00Z"));
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders WHERE 0.1 + 0.2 = 0.3").await, 20);
}

#[tokio::test]
async fn a_table_is_opened_once_however_often_it_is_named() {
    let asked = orders(Some(20)).await;
    let sql = "SELECT count(*) FROM changes.orders a JOIN changes.orders b ON a.id = b.id JOIN changes.orders c ON c.id = b.id";
    assert_eq!(asked.number(sql).await, 20);
    assert_eq!(asked.fake.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_session_over_another_view_sees_that_view() {
    let asked = orders(Some(20)).await;
    let mut later = Fake::default();
    for (table, files) in &asked.fake.tables {
        later.tables.insert(table.clone(), TableFiles { visible_through: Some(30), ..files.clone() });
    }
    let session = asked.session.over(Arc::new(later));
    let mut result = session.sql("SELECT count(*) FROM changes.orders").await.unwrap().batches;
    let count = result.try_next().await.unwrap().unwrap();
    assert_eq!(count.column(0).as_primitive::<Int64Type>().value(0), 30);
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders").await, 20);
}

/// Rows that hardly compress, and far more of them than the memory limits below.
async fn large(memory_bytes: usize) -> Asked {
    let mut archive = Archive::new();
    archive.memory_bytes = memory_bytes;
    let noise: StringArray = (0..200_000u64)
        .map(|n| Some(format!("{:032x}", u128::from(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 3).repeat(8)))
        .collect();
    let rows = batch(vec![("_lsn", Arc::new(Int64Array::from_iter_values(0..200_000))), ("noise", Arc::new(noise))]);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10_000)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    let bytes = Bytes::from(writer.into_inner().unwrap());
    let file = DataFile::new(Path::from("large"), bytes.len() as u64);
    archive.store.put(&file.path, bytes.into()).await.unwrap();
    archive.table(changes("public", "large"), TableFiles::new(rows.schema(), vec![file], None)).session()
}

#[tokio::test]
async fn what_does_not_fit_into_memory_is_spilled() {
    let asked = large(32 << 20).await;
    let plan = asked.text("EXPLAIN ANALYZE SELECT * FROM changes.large ORDER BY noise").await;
    assert!(plan.contains("spill_count=") && !plan.contains("spill_count=0,"), "{plan}");
    let rows = asked.rows("SELECT noise FROM changes.large ORDER BY noise").await.unwrap();
    assert_eq!(rows.num_rows(), 200_000);
    let noise = rows.column(0).as_string::<i32>();
    assert!((1..noise.len()).all(|row| noise.value(row - 1) <= noise.value(row)));
}

#[tokio::test]
async fn what_can_neither_fit_nor_spill_fails_with_advice() {
    let failure =
        large(64 << 10).await.refused("SELECT noise, count(*) FROM changes.large GROUP BY noise ORDER BY noise").await;
    assert_eq!(failure.category(), Category::Failed);
    assert!(failure.cause().contains("memory"), "{failure}");
    assert!(failure.remedy_text().is_some());
}

#[tokio::test]
async fn a_damaged_or_missing_file_is_said_as_such() {
    for (stored, words) in [(true, "cannot be read"), (false, "cannot read the archive")] {
        let archive = Archive::new();
        let rows = rows_at(1..=2);
        let file = DataFile::new(Path::from("damaged"), 64);
        if stored {
            archive.store.put(&file.path, Bytes::from(vec![7u8; 64]).into()).await.unwrap();
        }
        let asked =
            archive.table(changes("public", "t"), TableFiles::new(rows.schema(), vec![file], Some(9))).session();
        let failure = asked.refused("SELECT * FROM changes.t").await;
        assert_eq!(failure.category(), Category::Failed, "{failure}");
        assert!(failure.cause().contains(words), "{failure}");
    }
}

/// The bounds of a file's numbers keep it closed where no row can match, and never where one may.
#[tokio::test]
async fn files_without_the_key_are_not_opened() {
    let archive = Archive::new();
    let rows = rows_at(1..=50);
    let mut present = archive.file("changes/public/orders/a.parquet", &rows).await;
    present.numbers = vec![("id".into(), 10, 500)];
    let mut gone = DataFile::new(Path::from("changes/public/orders/gone.parquet"), 1000);
    gone.numbers = vec![("id".into(), 510, 900)];
    let files = TableFiles::new(rows.schema(), vec![present, gone], Some(100));
    let asked = archive.table(changes("public", "orders"), files).session();
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders WHERE id = 70").await, 1);
    assert_eq!(asked.number("SELECT count(*) FROM changes.orders WHERE id < 100").await, 9);
    asked.refused("SELECT count(*) FROM changes.orders WHERE id = 600").await;
    asked.refused("SELECT count(*) FROM changes.orders").await;
}
