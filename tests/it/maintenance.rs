//! Maintenance changes what lies where, and nothing that anybody reads.

use std::fs;
use std::time::Duration;

use rand::Rng as _;
use serde_json::Value as Json;

use crate::support::{Database, Directory, Load, PATIENCE, Release, Site, State, postgres, python, wait_for};

/// How often maintenance is killed.
const KILLS: usize = 8;

fn maintain(site: &Site<'_>, arguments: &[&str]) -> Vec<Json> {
    let arguments = ["maintain", "--json"].into_iter().chain(arguments.iter().copied());
    let end = site.command(arguments).run(PATIENCE).expect(0);
    let report: Json = serde_json::from_str(&end.stdout).unwrap();
    report["tables"].as_array().unwrap().clone()
}

/// How many files a table has.
fn files(site: &Site<'_>, table: &str) -> u64 {
    let reports = maintain(site, &[]);
    reports.iter().find(|report| report["table"] == table).unwrap()["files_after"].as_u64().unwrap()
}

/// An archiver that maintains in the background, maintainers beside it, some of them killed: every state is what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn states_stay_while_everybody_maintains_and_is_killed() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory).maintained_eagerly(&directory);
    let load = Load::start(&database, 17, 3);
    site.init();
    let mut states = vec![State::of(&database).await];
    let mut archiver = site.stream();
    for round in 0..KILLS {
        load.wait_for_more(10);
        let beside = site.command(["maintain", "--retention", "1m"]).start();
        let killed = site.command(["maintain", "--retention", "1m"]).start();
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(10..400))).await;
        killed.kill();
        beside.wait(PATIENCE).expect(0);
        if round % 3 == 0 {
            states.push(State::of(&database).await);
            archiver.kill();
            archiver = site.stream();
        }
    }
    load.stop().await;
    states.push(State::of(&database).await);
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    site.catch_up();
    for state in &states {
        site.expect_equal(state);
    }
    site.expect_each_once(states[0].tables.keys());
    maintain(&site, &["--retention", "0s"]);
    for state in &states {
        site.expect_equal(state);
    }
    site.expect_each_once(states[0].tables.keys());
}

/// What `run` does in the background, seen by its effect; without it, files gather.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_archiver_maintains_unless_told_otherwise() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let site = Site::local(&database, &directory).maintained_eagerly(&directory);
    site.init();
    let logged = |site: &Site<'_>| fs::read_dir(data(site, "log/transactions")).unwrap().count();
    let archiver = site.command(["run", "--flush-interval", "10ms", "--no-maintenance"]).start();
    for id in 0..20 {
        database.run(&format!("INSERT INTO t VALUES ({id}, 'x')")).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    let files_then = logged(&site);
    assert!(files_then > 8, "publications were merged");
    let planned = site.command(["maintain", "--dry-run"]).run(PATIENCE).expect(0).stdout;
    let line = planned.lines().find(|line| line.starts_with("log/transactions ")).unwrap_or_default();
    assert!(line.contains("merge "), "{planned}");
    assert_eq!(logged(&site), files_then, "a dry run changes nothing");
    let archiver = site.stream();
    database.run("UPDATE t SET v = 'y'").await;
    wait_for("the background maintenance writes an image", PATIENCE, || {
        // That of init has no rows.
        images(&site) > 0
    });
    wait_for("the background maintenance merges", PATIENCE, || {
        let log = fs::read_dir(data(&site, "log/transactions/_delta_log")).unwrap();
        let mut commits = log.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
        commits.any(|commit| commit.contains("\"remove\""))
    });
    let before = images(&site);
    database.run("UPDATE t SET v = 'z'").await;
    wait_for("the background maintenance hears of what changed since it began", PATIENCE, || images(&site) > before);
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    assert!(files(&site, "log/transactions") < 20);
}

/// How many base images with rows there are.
fn images(site: &Site<'_>) -> i64 {
    site.query("SELECT count(DISTINCT _image_lsn) AS n FROM images.t")[0]["n"].as_i64().unwrap()
}

fn data(site: &Site<'_>, table: &str) -> std::path::PathBuf {
    std::path::Path::new(site.archive_url().trim_start_matches("file://")).join(table)
}

/// Every row of a table of changes, with delta-rs and with DuckDB.
const READ: &str = r#"
import sys, json
import deltalake, duckdb
root, table = sys.argv[1:]
delta = deltalake.DeltaTable(f"{root}/changes/public/{table}")
files = delta.file_uris()
rows = delta.to_pyarrow_table().sort_by([("_lsn", "ascending"), ("_seq", "ascending")])
shown = [str(row) for row in rows.to_pylist()]
duck = duckdb.sql(f"SELECT _lsn, _seq, _op FROM read_parquet({files!r}, union_by_name=true) ORDER BY _lsn, _seq").fetchall()
assert duck == list(zip(*(rows[c].to_pylist() for c in ["_lsn", "_seq", "_op"])))
print(json.dumps({"files": len(files), "rows": shown}))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn foreign_readers_find_the_same_after_maintenance() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory).maintained_eagerly(&directory);
    site.init();
    let archiver = site.command(["run", "--flush-interval", "50ms", "--no-maintenance"]).start();
    let load = Load::start(&database, 23, 3);
    let tables = ["nasty", "heap", "journal"];
    wait_for("every table has many files", PATIENCE, || {
        let files = |table| fs::read_dir(data(&site, &format!("changes/public/{table}"))).map_or(0, Iterator::count);
        tables.iter().all(|table| files(table) > 20)
    });
    load.stop().await;
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    site.catch_up();
    let root = directory.path().join("archive");
    let read = || {
        tables.map(|table| -> Json { serde_json::from_str(&python(READ, [root.to_str().unwrap(), table])).unwrap() })
    };
    let before = read();
    maintain(&site, &["--retention", "0s"]);
    let after = read();
    for (table, (before, after)) in tables.iter().zip(before.iter().zip(&after)) {
        assert_eq!(before["rows"], after["rows"], "{table}");
    }
    let counts = |read: &[Json; 3]| read.iter().map(|table| table["files"].as_u64().unwrap()).sum::<u64>();
    assert!(counts(&after) < counts(&before));
}
