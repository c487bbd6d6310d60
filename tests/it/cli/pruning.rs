//! What a query leaves unread: places that it must not look at are destroyed, so that it fails where it does.

use serde_json::{Value as Json, json};

use super::{PATIENCE, Scene, assert_has, json_lines};
use crate::support::{Release, python};

/// Destroys the first page of some columns in the Parquet files below a directory, and says how many.
const DESTROY: &str = r#"
import glob, sys, pyarrow.parquet
count = 0
for path in glob.glob(sys.argv[1] + "/**/*.parquet", recursive=True):
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    with open(path, "r+b") as file:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                if column.path_in_schema in sys.argv[2:]:
                    file.seek(column.data_page_offset)
                    file.write(b"\xff" * 64)
                    count += 1
print(count)
"#;

fn ids(scene: &Scene, condition: &str) -> Vec<Json> {
    let sql = format!("SELECT id FROM p WHERE {condition} ORDER BY id");
    json_lines(&scene.ask_offline(["query", "--json", &sql])).into_iter().map(|row| row["id"].clone()).collect()
}

#[tokio::test]
async fn conditions_on_any_column_leave_pages_of_a_state_unread() {
    let table = "CREATE TABLE p (id int PRIMARY KEY, n int, note text, day date);
        INSERT INTO p SELECT i, i, 'note ' || to_char(i, '00000000'), date '2000-01-01' + i FROM generate_series(1, 100000) i";
    let scene = Scene::new(Release::System, table).await;
    scene.run(["init", "--copy-workers", "1"]).expect(0);
    let image = scene.directory.join("archive/images/public/p");
    let destroyed = python(DESTROY, [image.to_str().unwrap(), "n", "note", "day"]);
    assert_eq!(destroyed, "3\n", "one row group, whose rows are in order");
    let oracle = async |condition: &str| -> Vec<Json> {
        let sql = format!("SELECT id FROM p WHERE {condition} ORDER BY id");
        let rows = scene.database.connect().await.query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| json!(row.get::<_, i32>(0))).collect()
    };
    // In an image alone, and below changes. A row that was changed since is what it became: its older image, though its
    // page is read, is not it, and its change is, whichever page its image was on.
    let changes =
        "UPDATE p SET n = -5 WHERE id = 5; UPDATE p SET n = 99995 WHERE id = 6; UPDATE p SET n = 1 WHERE id = 99000;
        DELETE FROM p WHERE id = 99001; INSERT INTO p VALUES (200000, 99002, 'note z', '2300-01-01');
        UPDATE p SET note = 'other' WHERE id = 99996";
    for sql in ["", changes] {
        scene.database.run(sql).await;
        scene.catch_up();
        for condition in [
            "n > 99990",
            "n = 99000",
            "n IN (98999, 99000, 99001, 99002)",
            "n < 0",
            "99998 <= n AND note IS NOT NULL",
            "n BETWEEN 99995 AND 99997 AND id <> 99996",
            "note = 'note  00099996'",
            "note >= 'note  00099998'",
            "day > '2273-10-10'",
            "n > 99990 AND day < '1990-01-01'",
        ] {
            assert_eq!(ids(&scene, condition), oracle(condition).await, "{condition}");
        }
    }
    assert_eq!(ids(&scene, "n = 99000"), [] as [Json; 0]);
    assert_eq!(ids(&scene, "n > 99994 AND n < 99997"), [json!(6), json!(99995), json!(99996)]);
    // The test is one: without a condition that excludes it the page is read.
    for condition in ["n > 500 OR note = 'x'", "n < 500"] {
        let end =
            scene.offline(["query", &format!("SELECT count(n) FROM p WHERE {condition}")]).run(PATIENCE).expect(1);
        assert_has(&end.stderr, &["the file is damaged"]);
    }
}

#[tokio::test]
async fn conditions_on_time_and_place_leave_later_changes_unread() {
    let scene = Scene::archived(Release::System, "CREATE TABLE p (id int PRIMARY KEY, v text)").await;
    let mut places = Vec::new();
    for values in ["(1, 'a'), (2, 'b')", "(3, 'c')", "(4, 'd')"] {
        scene.database.run(&format!("INSERT INTO p VALUES {values}; UPDATE p SET v = v || '!' WHERE id = 1")).await;
        scene.catch_up();
        let newest = json_lines(&scene.ask_offline(["log", "--json", "-n", "1"])).remove(0);
        places.push((newest["lsn"].as_str().unwrap().to_owned(), newest["time"].as_str().unwrap().to_owned()));
    }
    let changes = |condition: &str| -> Vec<Json> {
        let sql = format!("SELECT new.id, old.v FROM changes('p') WHERE {condition} ORDER BY _lsn, _seq");
        let rows = json_lines(&scene.ask_offline(["query", "--json", &sql]));
        rows.into_iter().map(|row| row.as_object().unwrap().values().cloned().collect()).collect()
    };
    let (second, third) = (&places[1], &places[2]);
    assert_eq!(changes(&format!("_lsn > lsn('{}')", second.0)), [json!([4, null]), json!([1, "a!!"])]);
    assert_eq!(changes(&format!("_ts >= '{}'", third.1)), [json!([4, null]), json!([1, "a!!"])]);
    assert_eq!(changes("_ts < '2000-01-01T00:00:00Z'"), [] as [Json; 0]);
    assert_eq!(changes("_ts > '2100-01-01T00:00:00Z'"), [] as [Json; 0]);
    // The file of the last publication is gone, and is not missed by who does not ask for it.
    let directory = scene.directory.join("archive/changes/public/p");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    files.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    assert_eq!(files.len(), 3);
    std::fs::remove_file(files.last().unwrap()).unwrap();
    let first_two = [json!([3, null]), json!([1, "a!"])];
    for condition in [
        format!("_lsn = lsn('{}')", second.0),
        format!("_lsn BETWEEN lsn('{0}') AND lsn('{0}')", second.0),
        format!("_ts >= '{0}' AND _ts <= '{0}'", second.1),
    ] {
        assert_eq!(changes(&condition), first_two, "{condition}");
    }
    let end = scene.offline(["query", "SELECT count(*) FROM changes('p')"]).run(PATIENCE).expect(1);
    assert_has(&end.stderr, &["error: "]);
}

#[tokio::test]
async fn what_happened_when_is_told_without_reading_rows() {
    let scene = Scene::archived(Release::System, "CREATE TABLE p (id int PRIMARY KEY, v text)").await;
    scene.database.run("INSERT INTO p SELECT i, 'v' FROM generate_series(1, 3000) i; UPDATE p SET v = 'w'").await;
    scene.database.run("DELETE FROM p WHERE id > 1000").await;
    scene.catch_up();
    let per_minute =
        "SELECT count(*) AS minutes, sum(rows) AS rows FROM (SELECT date_trunc('minute', _ts), count(*) AS rows
        FROM changes('p') WHERE _op = 'delete' GROUP BY 1) AS minute";
    let ask = |sql: &str| json_lines(&scene.ask_offline(["query", "--json", sql])).remove(0);
    let told = ask(per_minute);
    assert_eq!(told["rows"], 2000);
    let files = scene.directory.join("archive/changes/public/p");
    let destroyed = python(DESTROY, [files.to_str().unwrap(), "id", "v", "_old.id", "_missing.list.element"]);
    assert_ne!(destroyed, "0\n");
    assert_eq!(ask(per_minute), told);
    assert_eq!(ask("SELECT count(*) AS n FROM changes('p')")["n"], 8000);
    // The test is one: whoever asks for a row has it read.
    let end = scene.offline(["query", "SELECT count(old.id) FROM changes('p')"]).run(PATIENCE).expect(1);
    assert_has(&end.stderr, &["the file is damaged"]);
}

#[tokio::test]
async fn operations_are_counted_without_any_file_of_changes() {
    let scene = Scene::archived(Release::System, "CREATE TABLE p (id int PRIMARY KEY, v text, w text)").await;
    for sql in [
        "INSERT INTO p SELECT i, md5(i::text), md5((-i)::text) FROM generate_series(1, 6000) i",
        "UPDATE p SET v = md5(v) WHERE id < 3000",
        "DELETE FROM p WHERE id % 3 = 0",
        "ALTER TABLE p RENAME TO former",
        "WITH gone AS (DELETE FROM former WHERE id % 5 = 0 RETURNING id) UPDATE former SET v = md5(v) WHERE id % 5 = 1",
        "TRUNCATE former",
    ] {
        scene.database.run(sql).await;
    }
    scene.catch_up();
    let counts = |condition: &str, more: &str| {
        let sql = format!(
            "SELECT _lsn, _xid, _ts, _op, count(*) AS n{more} FROM changes('former') WHERE {condition}
             GROUP BY 1, 2, 3, 4 ORDER BY 1, 4"
        );
        let rows = json_lines(&scene.ask_offline(["query", "--json", &sql]));
        rows.into_iter()
            .map(|row| row.as_object().unwrap().values().take(5).cloned().collect())
            .collect::<Vec<Vec<_>>>()
    };
    let all = "_op IN ('insert', 'update', 'delete', 'truncate')";
    let truth = counts(all, ", max(_seq)");
    let numbers: Vec<_> = truth.iter().map(|row| (row[3].as_str().unwrap(), row[4].as_i64().unwrap())).collect();
    let expected =
        [("insert", 6000), ("update", 2999), ("delete", 2000), ("delete", 800), ("update", 800), ("truncate", 1)];
    assert_eq!(numbers, expected);
    let third = format!("_op = 'delete' AND _lsn <= lsn('{}')", truth[2][0].as_str().unwrap());
    let before = [counts("_op = 'delete'", ", max(_seq)"), counts(&third, ", max(_seq)")];
    assert_eq!((before[0].len(), before[1].len()), (2, 1));
    let directory = scene.directory.join("archive/changes/public");
    let files =
        std::fs::read_dir(directory).unwrap().flat_map(|table| std::fs::read_dir(table.unwrap().path()).unwrap());
    let files =
        files.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|end| end == "parquet"));
    for file in files {
        let size = file.metadata().unwrap().len() as usize;
        std::fs::write(file, vec![0; size]).unwrap();
    }
    assert_eq!(counts(all, ""), truth);
    assert_eq!([counts("_op = 'delete'", ""), counts(&third, "")], before);
    // The test is one: rows that were told anew are counted nowhere, so whoever may get them has the files read.
    let end =
        scene.offline(["query", "SELECT _op, count(*) FROM changes('former') GROUP BY 1"]).run(PATIENCE).expect(1);
    assert_has(&end.stderr, &["error: "]);
}

#[tokio::test]
async fn changes_are_the_same_whether_their_rows_are_asked_or_not() {
    let tables =
        "CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE bag (v text); ALTER TABLE bag REPLICA IDENTITY FULL;
        CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20)";
    let scene = Scene::archived(Release::System, tables).await;
    let mut points = vec![scene.watermark()];
    for sql in [
        "INSERT INTO p VALUES (1, 'a'), (2, 'b'); INSERT INTO bag VALUES ('x'), ('x'); INSERT INTO parted VALUES (1), (11)",
        "UPDATE p SET id = 3 WHERE id = 1; DELETE FROM bag; UPDATE parted SET id = 12 WHERE id = 1; TRUNCATE p",
        "ALTER TABLE p RENAME TO former; CREATE TABLE p (id int PRIMARY KEY, n int)",
        "INSERT INTO p VALUES (7, 7); UPDATE p SET n = 8; INSERT INTO former VALUES (9, 'z')",
        "ALTER TABLE parted DETACH PARTITION high; INSERT INTO high VALUES (13); DROP TABLE bag; INSERT INTO parted VALUES (2)",
    ] {
        for statement in sql.split("; ") {
            scene.database.run(statement).await;
        }
        scene.catch_up();
        points.push(scene.watermark());
    }
    let told = |range: &str, columns: &str| -> Vec<Vec<Json>> {
        let sql = format!("SELECT {columns} FROM changes({range}) ORDER BY _lsn, _seq, _xid");
        let rows = json_lines(&scene.ask_offline(["query", "--json", &sql]));
        rows.into_iter().map(|row| row.as_object().unwrap().values().take(5).cloned().collect()).collect()
    };
    let (bare, whole) = ("_lsn, _seq, _xid, _ts, _op", "_lsn, _seq, _xid, _ts, _op, old, new");
    let mut count = 0;
    for table in ["p", "former", "bag", "parted", "low", "high"] {
        let last = points.last().unwrap();
        let ranges = points.windows(2).map(|pair| format!("'{table}', '{}', '{}'", pair[0], pair[1]));
        for range in ranges.chain([format!("'{table}'"), format!("'{table}', '{}', '{last}'", points[1])]) {
            let found = told(&range, bare);
            assert_eq!(found, told(&range, whole), "{range}");
            count += found.len();
        }
    }
    assert!(count > 40, "there is too little to compare: {count}");
}
