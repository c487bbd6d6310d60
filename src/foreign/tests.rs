use std::path::PathBuf;

use super::constant::constant;
use super::*;
use crate::columnar::Storage;
use crate::history::{ImagePart, Part};
use crate::model::{Identity, Lsn, Position, TableName};

const ENGINES: [Engine; 5] = [Engine::DuckDb, Engine::ClickHouse, Engine::Spark, Engine::Trino, Engine::DataFusion];

fn relation(columns: &[(&str, u32, bool)]) -> RelationVersion {
    let column = |(name, oid, key): &(&str, u32, bool)| {
        let mut column = Column::new(*name, *oid, -1, *key);
        column.stored = (*name).to_owned();
        column
    };
    RelationVersion::new(7, TableName::new("public", "orders"), Identity::Default, columns.iter().map(column).collect())
}

fn parts(relation: &RelationVersion, between: std::ops::Range<Position>, greatest_seq: Option<i64>) -> StateParts {
    let part = |directory: &str| Part {
        directory: format!("{directory}/public/orders"),
        files: vec![format!("{directory}/public/orders/a.parquet")],
        relation: relation.clone(),
    };
    let changes = ChangeParts {
        between: between.clone(),
        by_file: vec![part("changes")],
        by_place: vec![(between, part("changes"))],
        greatest_seq,
        leave_out: true,
    };
    let base = BaseParts::Image(ImagePart { lsn: Lsn(5), part: part("images") });
    let key = relation.key_positions().into_iter().map(|at| relation.columns[at].clone()).collect();
    StateParts { relation: relation.clone(), key, unique: true, base, changes }
}

fn at(lsn: u64, seq: i64) -> Position {
    Position { lsn: Lsn(lsn), seq }
}

fn local(root: &str) -> Location {
    Location::Local(PathBuf::from(root))
}

#[test]
fn nothing_beyond_the_point_is_read() {
    let relation = relation(&[("id", 23, true), ("note", 25, false)]);
    let parts = parts(&relation, at(5, -1)..at(900, -1), Some(3));
    for engine in ENGINES {
        let sql = state(engine, local("/archive"), &parts, false).unwrap();
        assert!(sql.contains("_lsn >= 5 AND _lsn < 900"), "{engine}: {sql}");
        assert!(sql.contains("(_lsn - 5) * 4 + _seq AS place"), "{engine}: {sql}");
    }
}

#[test]
fn positions_inside_a_transaction_are_heeded() {
    let relation = relation(&[("id", 23, true)]);
    let parts = parts(&relation, at(5, 3)..at(900, 2), Some(3));
    let sql = state(Engine::DuckDb, local("/archive"), &parts, false).unwrap();
    assert!(sql.contains("(_lsn > 5 OR _lsn = 5 AND _seq >= 3) AND (_lsn < 900 OR _lsn = 900 AND _seq < 2)"), "{sql}");
}

#[test]
fn places_that_need_more_than_64_bits_get_them() {
    let relation = relation(&[("id", 23, true)]);
    for (greatest, wide) in [(Some(1 << 40), true), (None, true), (Some(1 << 20), false)] {
        let parts = parts(&relation, at(5, -1)..at(1 << 40, -1), greatest);
        let sql = state(Engine::DuckDb, local("/archive"), &parts, false).unwrap();
        assert_eq!(sql.contains("AS HUGEINT"), wide, "{greatest:?}: {sql}");
    }
}

#[test]
fn names_and_texts_cannot_end_what_they_stand_in() {
    let odd = "a'b\"c`d\\e";
    let relation = relation(&[("id", 23, true), (odd, 25, false)]);
    let parts = parts(&relation, at(5, -1)..at(900, -1), Some(3));
    let expected = [
        (Engine::DuckDb, "\"a'b\"\"c`d\\e\"", "'a''b\"c`d\\e'"),
        (Engine::Trino, "\"a'b\"\"c`d\\e\"", "'a''b\"c`d\\e'"),
        (Engine::DataFusion, "\"a'b\"\"c`d\\e\"", "'a''b\"c`d\\e'"),
        (Engine::Spark, "`a'b\"c``d\\e`", "'a\\'b\"c`d\\\\e'"),
        (Engine::ClickHouse, "`a'b\"c\\`d\\\\e`", "'a\\'b\"c`d\\\\e'"),
    ];
    for (engine, name, text) in expected {
        let sql = state(engine, local("/archive"), &parts, false).unwrap();
        assert!(sql.contains(&format!("{name} AS c2")), "{engine}: {sql}");
        assert!(
            sql.contains(&format!("_missing, {text})")) || sql.contains(&format!("(_missing, {text})")),
            "{engine}: {sql}"
        );
    }
}

#[test]
fn columns_that_an_engine_cannot_tell_apart_have_their_stored_names() {
    let mut relation = relation(&[("id", 23, true), ("ID", 23, false)]);
    relation.columns[1].stored = "ID~1".to_owned();
    let parts = parts(&relation, at(5, -1)..at(900, -1), Some(3));
    let shown = |engine| state(engine, local("/archive"), &parts, false).unwrap();
    assert!(shown(Engine::DuckDb).contains("c2 AS \"ID~1\""));
    assert!(shown(Engine::DataFusion).contains("c2 AS \"ID\""));
}

#[test]
fn a_root_that_is_a_pattern_is_refused_where_it_would_be_taken_for_one() {
    let relation = relation(&[("id", 23, true)]);
    let parts = parts(&relation, at(5, -1)..at(900, -1), Some(3));
    assert!(state(Engine::DuckDb, local("/archives/[1]"), &parts, false).is_err());
    assert!(state(Engine::Spark, local("/archives/[1]"), &parts, false).is_ok());
}

#[test]
fn buckets_have_the_address_that_the_engine_knows() {
    let relation = relation(&[("id", 23, true)]);
    let parts = parts(&relation, at(5, -1)..at(900, -1), Some(3));
    let bucket = Location::S3 { bucket: "b".to_owned(), prefix: "deep/root".to_owned() };
    let shown = |engine| state(engine, bucket.clone(), &parts, false).unwrap();
    assert!(shown(Engine::DuckDb).contains("'s3://b/deep/root/changes/public/orders/a.parquet'"));
    assert!(shown(Engine::Spark).contains("delta.`s3a://b/deep/root/changes/public/orders`"));
    assert!(shown(Engine::Trino).contains("table_location => 's3://b/deep/root/changes/public/orders'"));
    assert!(shown(Engine::DataFusion).contains("LOCATION 's3://b/deep/root/changes/public/orders/a.parquet'"));
}

#[test]
fn constants_are_of_their_type() {
    let list = Storage::of(1007, -1);
    let given = |engine, storage: &Storage, text| constant(engine, storage, text).unwrap();
    assert_eq!(given(Engine::Spark, &Storage::Text, "o'k").unwrap(), "CAST('o\\'k' AS STRING)");
    assert_eq!(given(Engine::DuckDb, &Storage::Boolean, "t").unwrap(), "TRUE");
    assert_eq!(given(Engine::DuckDb, &Storage::Binary, "\\x0aff").unwrap(), "from_hex('0aff')");
    let elements = "CAST([CAST('1' AS INTEGER), CAST(NULL AS INTEGER)] AS INTEGER[])";
    assert_eq!(given(Engine::DuckDb, &list, "{1,NULL}").unwrap(), elements);
    assert_eq!(given(Engine::DuckDb, &Storage::Date, "infinity"), None);
    let noon = "CAST('2025-01-01 12:00:00+00:00' AS TIMESTAMPTZ)";
    assert_eq!(given(Engine::DuckDb, &Storage::TimestampTz, "2025-01-01 12:00:00+00").unwrap(), noon);
}
