//! The source's log was lost: the gap is recorded, capture goes on, and what happened in it is found.

use serde_json::{Value as Json, json};

use crate::support::{Database, Directory, PATIENCE, Release, Site, own_postgres, postgres, wait_for};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
INSERT INTO t SELECT i, repeat('x', 3000) || i FROM generate_series(1, 100) i;
CREATE TABLE bag (a int, b numeric(6,2)); ALTER TABLE bag REPLICA IDENTITY FULL;
INSERT INTO bag VALUES (1, 'NaN'), (1, 'NaN'), (2, 1.50), (NULL, NULL);
CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);
CREATE TABLE going (id int PRIMARY KEY); INSERT INTO going VALUES (1);
CREATE TABLE keyed (id int PRIMARY KEY, k int NOT NULL); INSERT INTO keyed VALUES (1, 10), (2, 20);
CREATE TABLE parts (id int, y int, PRIMARY KEY (id, y)) PARTITION BY LIST (y);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1, 1)";

/// What happens while nobody sees it.
const UNSEEN: &str =
    "UPDATE t SET v = 'changed' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (200, 'new');
UPDATE t SET id = 300 WHERE id = 3; ALTER TABLE t ADD note text DEFAULT 'n'; UPDATE t SET note = 'm' WHERE id = 4;
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 1); INSERT INTO bag VALUES (3, 3), (3, 3);
DELETE FROM bag WHERE a IS NULL;
DROP TABLE going; CREATE TABLE coming (id int PRIMARY KEY, w text); INSERT INTO coming VALUES (1, 'one');
ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (k); UPDATE keyed SET id = 3 WHERE k = 20;
INSERT INTO parts VALUES (2, 1)";

/// What happens when somebody sees again.
const SEEN: &str = "UPDATE t SET v = 'seen' WHERE id = 200; DELETE FROM t WHERE id = 5; INSERT INTO bag VALUES (4, 4);
INSERT INTO coming VALUES (2, 'two'); UPDATE keyed SET id = 4 WHERE k = 10; INSERT INTO parts VALUES (3, 1)";

async fn rows(database: &Database, sql: &str) -> Vec<Json> {
    let sql = format!("SELECT coalesce(json_agg(r), '[]')::text FROM ({sql}) AS r");
    let text: String = database.connect().await.query_one(&sql, &[]).await.unwrap().get(0);
    serde_json::from_str(&text).unwrap()
}

fn point(site: &Site<'_>, table: &str, at: &str) -> String {
    site.command(["export", table, "--at", at]).run(PATIENCE).expect(0).stdout
}

fn sorted(csv: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = csv.lines().collect();
    lines.sort_unstable();
    lines
}

async fn exported(database: &Database, table: &str) -> String {
    let sql = format!("COPY (SELECT * FROM {table}) TO STDOUT (FORMAT csv, HEADER)");
    let client = database.connect().await;
    let stream = client.copy_out(&sql).await.unwrap();
    let chunks: Vec<bytes::Bytes> = futures::TryStreamExt::try_collect(stream).await.unwrap();
    String::from_utf8(chunks.concat()).unwrap()
}

/// Loses the slot, and sees that everything around the gap is as it was.
async fn lost_and_resumed(release: Release, lose: &str) {
    let (database, directory) = (Database::create(postgres(release)).await, Directory::new());
    database.run(TABLES).await;
    let site = Site::local(&database, &directory);
    site.init();
    database.run("UPDATE t SET v = 'before' WHERE id = 7").await;
    site.catch_up();
    let (before, t_before, bag_before) =
        (site.watermark().await.to_string(), exported(&database, "t").await, exported(&database, "bag").await);
    let lose = lose.replace("{slot}", &site.slot());
    if !lose.contains("advance") {
        database.run(&lose).await;
    }
    database.run(UNSEEN).await;
    if lose.contains("advance") {
        database.run(&lose).await;
    }
    let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
    assert!(end.stderr.contains("a gap is recorded"), "{}", end.stderr);
    let gaps = site.query("SELECT schema, lsn, end_lsn, ts, end_ts, reason FROM afterimage.gaps");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(gaps[0]["schema"].is_null() && gaps[0]["reason"].as_str().unwrap().contains(&site.slot()), "{gaps:?}");
    let (from, until) = (gaps[0]["lsn"].as_str().unwrap().to_owned(), gaps[0]["end_lsn"].as_str().unwrap().to_owned());
    assert_eq!(from, before);

    // Both sides are what they were; what is inside is refused, with the nearest points.
    let after = [exported(&database, "t").await, exported(&database, "bag").await, exported(&database, "keyed").await];
    for (table, expected) in [("t", &after[0]), ("bag", &after[1]), ("keyed", &after[2])] {
        assert_eq!(sorted(&point(&site, table, &until)), sorted(expected), "{table} after the gap");
    }
    assert_eq!(sorted(&point(&site, "t", &from)), sorted(&t_before));
    assert_eq!(sorted(&point(&site, "bag", &from)), sorted(&bag_before));
    assert_eq!(point(&site, "going", &from), "id\n1\n");
    let inside = afterimage::model::Lsn(from.parse::<afterimage::model::Lsn>().unwrap().0 + 1).to_string();
    let refused = site.command(["export", "t", "--at", &inside]).run(PATIENCE).expect(4);
    assert!(refused.stderr.contains("inside a gap") && refused.stderr.contains(&until), "{}", refused.stderr);
    let time = gaps[0]["ts"].as_str().unwrap().replace(' ', "T");
    let moment = chrono::DateTime::parse_from_rfc3339(&time).unwrap() + chrono::Duration::milliseconds(1);
    let refused = site.command(["export", "t", "--at", &moment.to_rfc3339()]).run(PATIENCE).expect(4);
    assert!(refused.stderr.contains("inside a gap"), "{}", refused.stderr);

    // What happened inside is known, as one transaction.
    let ops = |table: &str| {
        let sql =
            format!("SELECT _op, count(*) AS n FROM changes('{table}', '{from}', '{until}') GROUP BY 1 ORDER BY 1");
        site.query(&sql).iter().map(|row| format!("{} {}", row["_op"].as_str().unwrap(), row["n"])).collect::<Vec<_>>()
    };
    assert_eq!(ops("t"), ["delete 2", "insert 2", "update 2"]);
    assert_eq!(ops("bag"), ["delete 2", "insert 2"]);
    assert_eq!(ops("other"), Vec::<String>::new());
    assert_eq!(ops("coming"), ["insert 1"]);
    assert_eq!(ops("parts"), ["insert 1"]);
    let old = site.query(&format!(
        "SELECT old.v AS v FROM changes('t', '{from}', '{until}') WHERE _op = 'update' AND new.id = 1"
    ));
    assert_eq!(old[0]["v"].as_str().unwrap().len(), 3001, "what it was before is known");
    let transactions = site.query("SELECT xid, context FROM afterimage.transactions WHERE xid = 0");
    assert!(transactions[0]["context"].to_string().contains("gap"), "{transactions:?}");
    let alerts = site.query("SELECT rule, severity FROM afterimage.alerts");
    assert_eq!(alerts, [json!({ "rule": "gap", "severity": "EMERGENCY" })]);
    site.command(["verify"]).run(PATIENCE).expect(0);

    // Capture goes on as ever, over the gap and all.
    database.run(SEEN).await;
    site.catch_up();
    for table in ["t", "bag", "other", "coming", "keyed", "parts"] {
        let now = site.watermark().await.to_string();
        assert_eq!(sorted(&point(&site, table, &now)), sorted(&exported(&database, table).await), "{table}");
    }
    site.command(["maintain"]).run(PATIENCE).expect(0);
    assert_eq!(sorted(&point(&site, "t", &from)), sorted(&t_before), "after maintenance");
    assert_eq!(sorted(&point(&site, "bag", &until)), sorted(&after[1]), "after maintenance");

    // A restore to a point before the gap misses nothing that the gap did.
    let archiver = site.command(["run", "--flush-interval", "50ms"]).start();
    database.run("ALTER TABLE t DROP COLUMN note").await;
    site.command(["restore", "t", "bag", "--to", &from, "--apply"]).run(PATIENCE).expect(0);
    assert_eq!(sorted(&exported(&database, "t").await), sorted(&t_before));
    assert_eq!(sorted(&exported(&database, "bag").await), sorted(&bag_before));
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    assert_eq!(rows(&database, "SELECT count(*) AS n FROM pg_replication_slots WHERE database = current_database() AND slot_name NOT LIKE 'oracle%'").await, [json!({ "n": 1 })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_leaves_a_recorded_gap() {
    for release in Release::ALL {
        lost_and_resumed(release, "SELECT pg_drop_replication_slot('{slot}')").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_moved_on_leaves_a_recorded_gap() {
    lost_and_resumed(Release::System, "SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_lost_log_leaves_a_recorded_gap() {
    let server = own_postgres(Release::System);
    let (database, directory) = (Database::create(&server).await, Directory::new());
    database.run(TABLES).await;
    let site = Site::local(&database, &directory);
    site.init();
    let client = database.connect().await;
    for sql in ["ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()"] {
        client.batch_execute(sql).await.unwrap();
    }
    let lost = "SELECT count(*) FROM pg_replication_slots WHERE wal_status = 'lost'";
    let mut rounds = 0;
    while client.query_one(lost, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        rounds += 1;
        assert!(rounds < 50, "the slot keeps its log");
        client.batch_execute("INSERT INTO other SELECT max(id) + 1 FROM other").await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
    }
    let stopped = site.command(["run", "--until", "now"]).variable("AFTERIMAGE_CONFIG", &stop(&directory));
    let end = stopped.run(PATIENCE).expect(4);
    assert!(
        end.stderr.contains("lost log that was not archived yet") && end.stderr.contains("on_lost_slot"),
        "{}",
        end.stderr
    );
    let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
    assert!(end.stderr.contains("a gap is recorded"), "{}", end.stderr);
    let now = site.watermark().await.to_string();
    assert_eq!(sorted(&point(&site, "other", &now)), sorted(&exported(&database, "other").await));
    let end = site.command(["status"]).run(PATIENCE).expect(3);
    assert!(end.stdout.contains("1 gap in which nobody saw"), "{}", end.stdout);
    // Nothing was lost any more.
    let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
    assert!(!end.stderr.contains("gap"), "{}", end.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_that_is_told_to_ends_instead() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    database.run(TABLES).await;
    let site = Site::local(&database, &directory);
    site.init();
    database.run("INSERT INTO other VALUES (2)").await;
    database.run(&format!("SELECT pg_drop_replication_slot('{}')", site.slot())).await;
    let watermark = site.watermark().await;
    let stopped = site.command(["run"]).variable("AFTERIMAGE_CONFIG", &stop(&directory));
    let end = stopped.run(PATIENCE).expect(4);
    assert!(end.stderr.contains("does not exist any more") && end.stderr.contains("help:"), "{}", end.stderr);
    assert_eq!(site.watermark().await, watermark);
    assert_eq!(site.query("SELECT count(*) AS n FROM afterimage.gaps"), [json!({ "n": 0 })]);
}

/// Before the source's disk is full the slot goes, and capture goes on with a gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_holds_back_too_much_is_dropped() {
    let server = own_postgres(Release::System);
    let (database, directory) = (Database::create(&server).await, Directory::new());
    database.run(TABLES).await;
    let site = Site::local(&database, &directory);
    site.init();
    // It acknowledges nothing for so long that everything is held back.
    let archiver = site.command(["run", "--flush-interval", "1h", "--max-slot-lag", "4MB"]).start().streaming();
    database.run("INSERT INTO t SELECT i, repeat('x', 1000) || i FROM generate_series(1001, 11000) i").await;
    wait_for("the gap is recorded", PATIENCE, || archiver.stderr().contains("a gap is recorded"));
    assert!(archiver.stderr().contains("it is dropped, so that the source's disk does not fill"));
    let held = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS bytes FROM pg_replication_slots";
    let held = &rows(&database, held).await[0]["bytes"];
    assert!(held.as_i64().unwrap() < 4 << 20, "{held} bytes are held back");
    database.run("DELETE FROM t WHERE id % 2 = 0").await;
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    site.catch_up();
    let now = site.watermark().await.to_string();
    assert_eq!(sorted(&point(&site, "t", &now)), sorted(&exported(&database, "t").await));
    assert_eq!(site.query("SELECT count(*) AS n FROM afterimage.gaps"), [json!({ "n": 1 })]);
    site.command(["verify"]).run(PATIENCE).expect(0);
}

fn stop(directory: &Directory) -> String {
    let file = directory.join("stop.toml");
    std::fs::write(&file, "[capture]\non_lost_slot = \"stop\"\n").unwrap();
    file.to_str().unwrap().to_owned()
}

/// The slot is lost before anything but the beginning is archived.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_at_the_very_beginning_leaves_the_beginning_as_it_was() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    database.run(TABLES).await;
    let site = Site::local(&database, &directory);
    site.init();
    let (from, before) = (site.watermark().await.to_string(), exported(&database, "t").await);
    database.run(&format!("SELECT pg_drop_replication_slot('{}')", site.slot())).await;
    database.run("DELETE FROM t WHERE id < 50; UPDATE bag SET b = 7 WHERE a = 2").await;
    site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
    assert_eq!(sorted(&point(&site, "t", &from)), sorted(&before));
    let now = site.watermark().await.to_string();
    assert_eq!(sorted(&point(&site, "t", &now)), sorted(&exported(&database, "t").await));
    assert_eq!(site.query("SELECT count(*) AS n FROM afterimage.gaps"), [json!({ "n": 1 })]);
    site.command(["verify"]).run(PATIENCE).expect(0);
}

/// Killed anywhere between the loss and the new beginning, and the slot lost again and again: what is asked for over all the
/// gaps is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_resumes_it_begins_again() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    database.run(TABLES).await;
    let site = Site::local(&database, &directory);
    site.init();
    site.catch_up();
    let (from, before) = (site.watermark().await.to_string(), exported(&database, "t").await);
    let mut killed = 0;
    for round in 0..30_u64 {
        let unseen = format!(
            "UPDATE t SET v = 'round {round}' WHERE id % 30 = {round}; DELETE FROM t WHERE id = 100 - {round};
             INSERT INTO t VALUES (1000 + {round}, 'new'); INSERT INTO bag VALUES ({round}, {round}); DELETE FROM bag WHERE a = {round} - 3"
        );
        database
            .run(&format!(
                "SELECT pg_drop_replication_slot('{}') FROM pg_replication_slots WHERE slot_name = '{}'",
                site.slot(),
                site.slot()
            ))
            .await;
        database.run(&unseen).await;
        let mut archiver = site.command(["run", "--until", "now"]).start();
        tokio::time::sleep(std::time::Duration::from_millis(100 + round * 25)).await;
        killed += u32::from(archiver.is_running());
        archiver.kill();
        settled(&site, &database).await;
    }
    assert!(killed > 10, "only {killed} were killed at work");
    site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
    site.command(["verify"]).run(PATIENCE).expect(0);
    let now = site.watermark().await.to_string();
    for table in ["t", "bag"] {
        assert_eq!(sorted(&point(&site, table, &now)), sorted(&exported(&database, table).await), "{table}");
    }
    assert_eq!(sorted(&point(&site, "t", &from)), sorted(&before));
    let archiver = site.command(["run", "--flush-interval", "50ms"]).start();
    site.command(["restore", "t", "--to", &from, "--apply"]).run(PATIENCE).expect(0);
    assert_eq!(sorted(&exported(&database, "t").await), sorted(&before));
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

/// Waits until no process uses the slot any more: the server takes a moment to notice that a client was killed.
async fn settled(site: &Site<'_>, database: &Database) {
    let client = database.connect().await;
    let used = format!("SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name LIKE '{}%'", site.slot());
    for _ in 0..600 {
        if client.query_one(&used, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the slot stays in use");
}
