//! A table as it was, byte for byte, in every format.

use std::fs;

use afterimage::model::TableName;
use serde_json::Value as Json;
use tokio_postgres::SimpleQueryMessage;

use super::{PATIENCE, Scene, assert_has, complaint, json_lines, misuse, records};
use crate::support::{Database, Program, Release, Snapshot, postgres, python};

/// Values and names that writers of CSV, SQL and JSON get wrong. `$n` stands for the row.
const NASTY: &str = r#"
CREATE SCHEMA "Ünï ""q"".x%";
CREATE TYPE "Ünï ""q"".x%"."mood, or" AS ENUM ('so so', 'a"b', 'it''s', '');
CREATE TYPE public.pair AS (a int, "b c" text);
CREATE DOMAIN public.posint AS numeric CHECK (VALUE IS NULL OR VALUE = 'NaN' OR VALUE > 0);
CREATE TABLE "Ünï ""q"".x%"."T, 1" (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  "select" text, "a,b ""c""" varchar(40), "Id" char(4), "_lsn" "char", "ünïcode 💥" name,
  truth boolean, small smallint, big bigint, real_ real, double_ double precision, num numeric, scaled numeric(12, 4),
  cash money, day date, clock time(3), zoned timetz, moment timestamp, instant timestamptz, span interval,
  bytes bytea, texts text[], grid int[][], mood "Ünï ""q"".x%"."mood, or", moods "Ünï ""q"".x%"."mood, or"[],
  pair public.pair, pairs public.pair[], pos public.posint, doc json, docb jsonb, bits bit(5), varbits varbit,
  addr inet, net cidr, mac macaddr, uid uuid, spans int4range, multi nummultirange, words tsvector, ask tsquery, markup xml,
  spot point, way path, at_ pg_lsn, class regclass, dict hstore.hstore
);
"#;

const ROWS: [&str; 7] = [
    "DEFAULT, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    r#"DEFAULT, '', '', '', '', '', false, 0, 0, 0, 0, 0, 0, 0, '0001-01-01', '00:00', '00:00+00', '0001-01-01',
     '0001-01-01 00:00+00', '0', '', '{}', '{}', '', '{}', '(,)', '{}', 1, '""', '""', '00000', '', '0.0.0.0/0', '0.0.0.0/0',
     '00:00:00:00:00:00', '00000000-0000-0000-0000-000000000000', 'empty', '{}', '', '', '', '(0,0)', '[(0,0)]', '0/0', '-',
     ''"#,
    r#"DEFAULT, E'a,b "c"\n\\.\r\n\t|;''', E'\\.', 'x', 'x', 'n', true, 32767, 9223372036854775807, 'NaN', 'NaN', 'NaN',
     -99999999.9999, '92233720368547758.07', 'infinity', '24:00', '23:59:59.999999+15:59', 'infinity', '-infinity',
     '1 year -2 mons 3 days -04:05:06.789', '\x00ff0a2c22', E'{"a,b","c\\"d",NULL,"NULL",""," "}', '{{1,2},{NULL,-3}}',
     'a"b', E'{"a\\"b","",NULL}', '(1,"x,y ""z""")', E'{"(1,\\"a b\\")",NULL}', 'NaN', E'{"b":1, "a" : [1.0, "\\u00e9"]}',
     '{"b": 1e3, "a": [1.10, null, "x\"y"]}', '10101', '1', '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '[1,)', '{[1.5,2.5),(3,)}', $$'it''s':1A 'b':2$$, $$'a' & !'b':*$$,
     '<a b="c">d,e</a>', '(1.5,-2)', '((1,1),(2,2))', '16/B374D848', 'pg_class', 'a=>"b,c", "d e"=>NULL'"#,
    r#"DEFAULT, E'\\.', '\N', 'ab', E'\\001', 'x', true, -32768, -9223372036854775808, 'Infinity', '-Infinity', 'Infinity',
     0.0001, '-0.01', '4713-01-01 BC', '12:34:56.789', '01:02:03.4-11', '0044-03-15 12:00 BC', '2025-10-09 16:03:00.123456+02',
     '-1 days +00:00:00.000001', '\x', '[0:1]={x,y}', '{{{1}}}', 'it''s', '{"so so"}', '(,"")', '{}', 0.5, ' null', 'null',
     '01010', '0101', '::1', '2001:db8::/32', '08:00:2b:01:02:04', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', '(,)', '{(,)}', 'a',
     'a|b', 'plain', '(NaN,Infinity)', '[(1,1)]', 'FFFFFFFF/FFFFFFFF', 'pg_catalog.pg_type', '"=>"=>"\\"'"#,
    r#"DEFAULT, ' ', '"', '"', '"', '"', true, 1, 1, 3.4028235e38, 1e-300, 1e100, 1.5, 1, '5874897-12-31', '00:00:00.001',
     '00:00-00:00:01', '294276-12-31 23:59:59.999999', '4714-11-24 00:00 BC', '178000000 years', '\x5c2e', '{NULL}', '{1}',
     'so so', NULL, NULL, '{"(,)"}', 123456789012345678901234567890.12345, '[]', '[]', '11111', '111', '255.255.255.255',
     '1.2.3.4/32', 'ff:ff:ff:ff:ff:ff', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '[-5,5)', '{[1,1]}', NULL, NULL, NULL,
     '(1e300,1e-300)', NULL, '0/1', NULL, NULL"#,
    r#"DEFAULT, E'\n', E'a\rb', E'\n', 'n', E'\n', false, -1, -1, -0.0, -0.0, -0.0, -1, -1, '2024-02-29', '23:59:59.999',
     '12:00+05:30', '1999-12-31 23:59:59.5', '2000-01-01 00:00+00', '14 mons', '\x0a', E'{"\n"}', '{-1}', 'so so', '{it''s}',
     E'(-1,"\n")', '{}', 'NaN', E'"\\n"', E'"\\n"', '00001', '0', '1.2.3.4', '1.2.3.0/24', '08:00:2b:01:02:05',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a13', '[1,2)', '{}', E'''\n'':1', 'x', '<x/>', '(-0,0)', NULL, '1/0', NULL, E'a=>"\n"'"#,
    r#"DEFAULT, 'NULL', 'null', 'NULL', 'N', 'NULL', true, 7, 7, 0.1, 0.1, 0.10, 7, 7, 'epoch', '07:07:07', '07:07+07', 'epoch',
     'epoch', '7 days', 'NULL', '{"NULL"}', '{7}', 'so so', '{so so}', '(7,NULL)', '{}', 7, '7', '7', '00111', '111', '7.7.7.7',
     '7.7.7.0/24', '07:07:07:07:07:07', '07070707-0707-0707-0707-070707070707', '[7,8)', '{[7,8)}', 'NULL', 'NULL', 'NULL',
     '(7,7)', '((7,7),(8,8))', '7/7', 'pg_proc', 'NULL=>"NULL"'"#,
];

/// In which the values are read; what a server's own defaults may be instead.
const STYLES: &str = "SET TimeZone = 'UTC'; SET search_path = public, pg_catalog;";

fn table() -> TableName {
    TableName::new("Ünï \"q\".x%", "T, 1")
}

const NAME: &str = r#""Ünï ""q"".x%"."T, 1""#;

fn insert(rows: &[&str]) -> String {
    let rows: Vec<String> = rows.iter().map(|row| format!("({row})")).collect();
    format!("{STYLES} INSERT INTO {NAME} VALUES {}", rows.join(", "))
}

async fn create(database: &Database, release: Release) {
    if release == Release::System {
        database.run("CREATE SCHEMA hstore; CREATE EXTENSION hstore SCHEMA hstore").await;
        database.run(NASTY).await;
    } else {
        // The others are built without contrib and libxml.
        database.run(&NASTY.replace("hstore.hstore", "text").replace("markup xml", "markup text")).await;
    }
}

/// Half of the rows come from the base image, half from changes, some from updates of the one by the other.
async fn nasty(release: Release) -> (Scene, String) {
    let scene = Scene::new(release, "").await;
    create(&scene.database, release).await;
    scene.database.run(&insert(&ROWS[..4])).await;
    scene.run(["init"]).expect(0);
    scene.database.run(&insert(&ROWS[4..])).await;
    scene.database.run(&insert(&ROWS)).await;
    scene.database.run(&format!(r#"UPDATE {NAME} SET big = 1 WHERE id IN (3, 9)"#)).await;
    scene.database.run(&format!(r#"DELETE FROM {NAME} WHERE id IN (2, 10)"#)).await;
    let csv = Snapshot::take(&scene.database).csv(&table()).await;
    scene.catch_up();
    (scene, csv)
}

const HERE: [Release; 2] = [Release::System, Release::Eighteen];

#[tokio::test]
async fn csv_is_what_copy_wrote() {
    for release in HERE {
        let (scene, expected) = nasty(release).await;
        let latest = scene.watermark();
        let exported = scene.ask(["export", NAME, "--at", &latest]);
        let (exported, expected) = (records(&exported), records(&expected));
        assert_eq!(expected.len(), 13, "the header and every row that should be there");
        for (exported, expected) in exported.iter().zip(&expected) {
            assert_eq!(exported, expected);
        }
        assert_eq!(exported.len(), expected.len());
        // To a file it is the same, and nothing else is left there.
        scene.ask(["export", NAME, "--at", &latest, "--output", "out.csv"]);
        let file = fs::read_to_string(scene.directory.join("out.csv")).unwrap();
        assert_eq!(records(&file), expected);
        assert_eq!(files(&scene), ["archive", "out.csv"]);
    }
}

fn files(scene: &Scene) -> Vec<String> {
    let found = fs::read_dir(scene.directory.path()).unwrap();
    let mut names: Vec<String> = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Into a database whose own settings would read the literals otherwise.
#[tokio::test]
async fn sql_makes_the_same_table_elsewhere() {
    for release in HERE {
        let (scene, expected) = nasty(release).await;
        let latest = scene.watermark();
        scene.ask(["export", NAME, "--at", &latest, "--format", "sql", "--output", "out.sql"]);
        let fresh = Database::create(postgres(release)).await;
        create(&fresh, release).await;
        let settings = ["DateStyle = 'German, DMY'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kolkata'"];
        for setting in settings.iter().chain(&["standard_conforming_strings = off", "xmloption = 'document'"]) {
            fresh.run(&format!("ALTER DATABASE {} SET {setting}", fresh.name())).await;
        }
        let psql = Program::new(&fresh.program("psql"))
            .arguments(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f", "out.sql", fresh.url()])
            .working_directory(scene.directory.path());
        psql.run(PATIENCE).expect(0);
        let read = Snapshot::take(&fresh).csv(&table()).await;
        assert_eq!(records(&read), records(&expected));
    }
}

#[tokio::test]
async fn json_has_every_value() {
    let (scene, _) = nasty(Release::System).await;
    let latest = scene.watermark();
    let exported = json_lines(&scene.ask(["export", NAME, "--at", &latest, "--format", "json"]));
    assert_eq!(scene.ask(["export", NAME, "--at", &latest, "--json"]).lines().count(), exported.len());
    let client = scene.database.connect().await;
    client.batch_execute("SET TimeZone = 'UTC'; SET search_path = ''; SET lc_monetary = 'C'").await.unwrap();
    let mut compared = 0;
    for message in client.simple_query(&format!("SELECT * FROM {NAME}")).await.unwrap() {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let id: i64 = row.get("id").unwrap().parse().unwrap();
        let object = exported.iter().find(|object| object["id"] == id).unwrap().as_object().unwrap();
        assert_eq!(object.len(), row.columns().len());
        for (at, (column, value)) in row.columns().iter().zip(object.values()).enumerate() {
            assert_same(value, column.name(), row.get(at), id);
        }
        compared += 1;
    }
    assert_eq!(compared, 12);
    assert_eq!(exported.len(), compared);
}

/// What the documentation says of a value: numbers and booleans as such, everything else as PostgreSQL's text.
#[track_caller]
fn assert_same(value: &Json, column: &str, text: Option<&str>, id: i64) {
    let Some(text) = text else { return assert_eq!(*value, Json::Null, "{column} of {id}") };
    match column {
        "truth" => assert_eq!(*value, (text == "t"), "{column} of {id}"),
        "id" | "small" | "big" => assert_eq!(value.as_i64(), text.parse().ok(), "{column} of {id}"),
        "real_" | "double_" if text.parse::<f64>().unwrap().is_finite() => {
            assert_eq!(value.as_f64(), text.parse().ok(), "{column} of {id}");
        }
        _ => assert_eq!(*value, text, "{column} of {id}"),
    }
}

#[tokio::test]
async fn parquet_is_read_by_others() {
    let (scene, expected) = nasty(Release::System).await;
    let latest = scene.watermark();
    scene.ask(["export", NAME, "--at", &latest, "--format", "parquet", "--output", "out.parquet"]);
    let script = r#"
import json, sys, pyarrow.parquet
table = pyarrow.parquet.read_table(sys.argv[1])
for row in table.to_pylist():
    exact = {name: text.decode() for name, text in row['_exact'] or []}
    print(json.dumps({'id': row['id'], 'text': row['select'], 'bytes': None if row['bytes'] is None else row['bytes'].hex(),
        'truth': row['truth'], 'big': row['big'], 'num': row['num'], 'day': exact.get('day') or str(row['day'])}))
"#;
    let path = scene.directory.join("out.parquet");
    let rows = json_lines(&python(script, [path.to_str().unwrap()]));
    assert_eq!(rows.len() + 1, records(&expected).len());
    let row = |id: i64| rows.iter().find(|row| row["id"] == id).unwrap();
    assert_eq!(row(3)["text"], "a,b \"c\"\n\\.\r\n\t|;'");
    assert_eq!(row(3)["bytes"], "00ff0a2c22");
    assert_eq!((&row(3)["num"], &row(3)["day"]), (&Json::from("NaN"), &Json::from("infinity")));
    assert_eq!((&row(3)["big"], &row(3)["truth"]), (&Json::from(1), &Json::from(true)));
    assert_eq!(row(4)["day"], "4713-01-01 BC");
    assert_eq!(row(1)["text"], Json::Null);
    assert_eq!(row(6)["day"], "2024-02-29");
}

/// Tables at the edge of what is a table.
#[tokio::test]
async fn empty_narrow_and_columnless_tables() {
    let tables = "CREATE TABLE empty (id int PRIMARY KEY, note text); CREATE TABLE narrow (\"only\" text PRIMARY KEY);
        CREATE TABLE nulls (a int); CREATE TABLE bare ()";
    let scene = Scene::new(Release::System, tables).await;
    let rows = "INSERT INTO narrow VALUES (''), ('\\.'), (E'a\\nb'); INSERT INTO nulls VALUES (NULL), (NULL);
        INSERT INTO bare DEFAULT VALUES";
    scene.database.run(rows).await;
    scene.run(["init", "--set-identity-full"]).expect(0);
    scene
        .database
        .run("INSERT INTO bare DEFAULT VALUES; INSERT INTO nulls VALUES (1), (NULL); DELETE FROM nulls WHERE a = 1")
        .await;
    let snapshot = Snapshot::take(&scene.database);
    scene.catch_up();
    let latest = scene.watermark();
    let fresh = Database::create(postgres(Release::System)).await;
    fresh.run(tables).await;
    for (name, rows) in [("empty", 0), ("narrow", 3), ("nulls", 3), ("bare", 2)] {
        let table = TableName::new("public", name);
        let expected = records(&snapshot.csv(&table).await);
        assert_eq!(expected.len(), rows + 1, "{name}");
        assert_eq!(records(&scene.ask(["export", name, "--at", &latest])), expected, "{name}");
        assert_eq!(json_lines(&scene.ask(["export", name, "--at", &latest, "--json"])).len(), rows, "{name}");
        fresh.run(&scene.ask(["export", name, "--at", &latest, "--format", "sql"])).await;
        assert_eq!(records(&Snapshot::take(&fresh).csv(&table).await), expected, "{name}");
        let file = scene.directory.join(name);
        scene.ask(["export", name, "--at", &latest, "--format", "parquet", "-o", file.to_str().unwrap()]);
        let count = "import sys, pyarrow.parquet as p; print(p.ParquetFile(sys.argv[1]).metadata.num_rows)";
        assert_eq!(python(count, [file.to_str().unwrap()]).trim(), rows.to_string(), "{name}");
    }
}

#[tokio::test]
async fn generated_columns_are_named_as_left_out() {
    let scene = Scene::archived(
        Release::System,
        "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO t VALUES (1)",
    )
    .await;
    scene.catch_up();
    let latest = scene.watermark();
    let end = scene.run(["export", "t", "--at", &latest]).expect(0);
    assert_eq!(end.stdout, "id\n1\n");
    assert_has(&end.stderr, &["public.t.twice is a generated column", "left out"]);
}

#[tokio::test]
async fn an_output_that_cannot_be_written_is_named() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    scene.catch_up();
    let latest = scene.watermark();
    fs::create_dir(scene.directory.join("folder")).unwrap();
    for output in ["no/such/place.csv", "folder", "archive/archive.json/x"] {
        let complaint = complaint(scene.run(["export", "t", "--at", &latest, "--output", output]), 1);
        assert_has(&complaint.cause, &["writing ", output]);
        assert_has(&complaint.remedy, &["name a file"]);
    }
    let full = complaint(scene.run(["export", "t", "--at", &latest, "--output", "/dev/full"]), 1);
    assert_has(&full.cause, &["No space left"]);
    assert_eq!(files(&scene), ["archive", "folder"]);
    let both = complaint(scene.run(["export", "t", "--at", &latest, "--json", "--format", "sql"]), 2);
    assert_has(&both.cause, &["--json and --format"]);
    assert_has(&misuse(scene.run(["export", "t", "--at", &latest, "--format", "xls"])), &["csv, sql, parquet, json"]);
    assert_has(&misuse(scene.run(["export", "t"])), &["--at"]);
}

/// A device stays one, a link keeps pointing, and an existing file is whole at any time.
#[tokio::test]
async fn an_output_that_exists_is_replaced_and_a_device_is_not() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    scene.catch_up();
    let latest = scene.watermark();
    let (file, link) = (scene.directory.join("file"), scene.directory.join("link"));
    fs::write(&file, "before, and longer than what comes").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    scene.ask(["export", "t", "--at", &latest, "--output", link.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "id\n1\n");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    scene.ask(["export", "t", "--at", &latest, "--output", "/dev/null"]);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    assert_eq!(scene.ask(["export", "t", "--at", &latest, "--output", "/dev/stdout"]), "id\n1\n");
}
