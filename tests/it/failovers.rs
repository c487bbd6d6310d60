//! The source goes on elsewhere: on a promoted standby, or on what a backup brought back.

use std::fs;
use std::path::Path;
use std::process::Command;

use afterimage::scratch::{Scratch, StopMode};
use serde_json::json;

use crate::support::{Database, Directory, PATIENCE, Release, Site, own_postgres, wait_for};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'old' FROM generate_series(1, 100) i";

/// More log than the old server wrote behind the place where the two part.
const MUCH: &str = "INSERT INTO t SELECT i, repeat('n', 1000) FROM generate_series(20001, 24000) i";

/// Another server with a copy of a stopped one's data, which waits to be promoted.
fn standby_of(stopped: &Scratch, release: Release, settings: &str) -> Scratch {
    let mut standby = own_postgres(release);
    standby.stop(StopMode::Fast).unwrap();
    let data = standby.data_dir();
    put_back(&stopped.data_dir(), &data);
    fs::write(data.join("standby.signal"), "").unwrap();
    fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
    own_like(&data.join("standby.signal"), &data);
    own_like(&data.join("postgresql.auto.conf"), &data);
    standby
}

/// Makes a directory what another one is.
fn put_back(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    assert!(Command::new("cp").arg("--archive").arg(from).arg(to).status().unwrap().success());
}

fn own_like(file: &Path, other: &Path) {
    let mut command = Command::new("chown");
    assert!(command.arg("--reference").arg(other).arg(file).status().unwrap().success());
}

async fn promote(standby: &Database) {
    let client = standby.connect().await;
    assert!(client.query_one("SELECT pg_promote()", &[]).await.unwrap().get::<_, bool>(0));
}

async fn table(database: &Database) -> String {
    let sql = "SELECT string_agg(id || ',' || v, E'\\n' ORDER BY id) FROM t";
    database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

async fn archived(site: &Site<'_>) -> String {
    let at = site.watermark().await.to_string();
    let rows = site.query(&format!("SELECT id, v FROM as_of('t', '{at}') ORDER BY id"));
    let lines = rows.iter().map(|row| format!("{},{}", row["id"], row["v"].as_str().unwrap()));
    lines.collect::<Vec<_>>().join("\n")
}

/// An archive of a server, a copy of which is a standby; what was archived after the copy is on the old server only.
struct Parted {
    directory: Directory,
    database: Database,
    standby: Scratch,
    copy: Database,
    _server: Scratch,
}

impl Parted {
    async fn new(release: Release, since_the_copy: &str) -> Parted {
        let mut server = own_postgres(release);
        let (database, directory) = (Database::create(&server).await, Directory::new());
        database.run(TABLE).await;
        let site = Site::local(&database, &directory);
        site.init();
        site.catch_up();
        server.stop(StopMode::Fast).unwrap();
        let mut standby = standby_of(&server, release, "");
        server.start().unwrap();
        if !since_the_copy.is_empty() {
            database.run(since_the_copy).await;
            site.catch_up();
        }
        server.stop(StopMode::Fast).unwrap();
        standby.start().unwrap();
        let copy = Database::existing(&standby, database.name());
        promote(&copy).await;
        Parted { directory, database, standby, copy, _server: server }
    }

    fn site(&self) -> Site<'_> {
        Site::local(&self.database, &self.directory).source(self.copy.url())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_has_everything_goes_on_without_a_gap() {
    for release in [Release::System, Release::Eighteen] {
        let parted = Parted::new(release, "").await;
        let site = parted.site();
        parted.copy.run("UPDATE t SET v = 'new' WHERE id < 10; DELETE FROM t WHERE id > 90").await;
        site.catch_up();
        assert_eq!(archived(&site).await, table(&parted.copy).await);
        assert_eq!(site.query("SELECT count(*) AS n FROM afterimage.gaps"), [json!({ "n": 0 })]);
        site.command(["verify"]).run(PATIENCE).expect(0);
    }
}

/// The positions that the archive has hold other transactions now: nothing of them may be taken for archived.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_only_the_old_server_had_are_told_apart_from_those_of_the_new() {
    for release in [Release::System, Release::Eighteen] {
        let parted =
            Parted::new(release, "UPDATE t SET v = 'lost' WHERE id < 20; INSERT INTO t VALUES (500, 'lost')").await;
        let site = parted.site();
        let before = site.watermark().await.to_string();
        parted.copy.run("UPDATE t SET v = 'new' WHERE id IN (15, 16, 30); DELETE FROM t WHERE id = 40").await;
        parted.copy.run(MUCH).await;
        let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
        assert!(
            end.stderr.contains("the source left timeline 1 at") && end.stderr.contains("a gap is recorded"),
            "{}",
            end.stderr
        );
        assert_eq!(archived(&site).await, table(&parted.copy).await);
        let gaps = site.query("SELECT lsn, reason FROM afterimage.gaps");
        assert_eq!((gaps.len(), gaps[0]["lsn"].as_str()), (1, Some(before.as_str())), "{gaps:?}");
        // What the old server had stays in the history, and the gap says that it is no more.
        let lost = site.query(&format!("SELECT count(*) AS n FROM as_of('t', '{before}') WHERE v = 'lost'"));
        assert_eq!(lost, [json!({ "n": 20 })]);
        site.command(["verify"]).run(PATIENCE).expect(0);
        parted.copy.run("UPDATE t SET v = 'newer' WHERE id = 16").await;
        let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
        assert!(!end.stderr.contains("gap"), "{}", end.stderr);
        assert_eq!(archived(&site).await, table(&parted.copy).await);
        drop(parted.standby);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stands_behind_the_archive_is_refused_and_left_as_it_is() {
    let parted = Parted::new(Release::System, MUCH).await;
    let site = parted.site();
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let (before, client) = (site.watermark().await, parted.copy.connect().await);
    let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(4);
    assert!(end.stderr.contains("the archive has history up to") && end.stderr.contains("help:"), "{}", end.stderr);
    assert_eq!(site.watermark().await, before);
    assert_eq!(client.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// A snapshot of the source's disk is put back: the timeline is the same, and nothing but the transactions tells.
#[tokio::test(flavor = "multi_thread")]
async fn another_history_on_the_same_timeline_is_noticed() {
    for release in [Release::System, Release::Eighteen] {
        let mut server = own_postgres(release);
        let (database, directory) = (Database::create(&server).await, Directory::new());
        database.run(TABLE).await;
        let site = Site::local(&database, &directory);
        site.init();
        site.catch_up();
        let snapshot = server.socket_dir().join("snapshot");
        server.stop(StopMode::Fast).unwrap();
        put_back(&server.data_dir(), &snapshot);
        server.start().unwrap();
        database.run("UPDATE t SET v = 'undone' WHERE id < 20; DELETE FROM t WHERE id = 50").await;
        site.catch_up();
        let before = site.watermark().await;
        server.stop(StopMode::Fast).unwrap();
        put_back(&snapshot, &server.data_dir());
        server.start().unwrap();
        database.run("UPDATE t SET v = 'new' WHERE id = 15").await;
        database.run(MUCH).await;
        let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(4);
        assert!(
            end.stderr.contains("was put back to an earlier state") && end.stderr.contains("help:"),
            "{}",
            end.stderr
        );
        assert_eq!(site.watermark().await, before);
        database.run(&format!("SELECT pg_drop_replication_slot('{}')", site.slot())).await;
        let end = site.command(["run", "--until", "now"]).run(PATIENCE).expect(0);
        assert!(end.stderr.contains("a gap is recorded"), "{}", end.stderr);
        assert_eq!(archived(&site).await, table(&database).await);
        site.command(["verify"]).run(PATIENCE).expect(0);
    }
}

/// From version 17 on standbys keep the slot, so a failover loses nothing, whatever the archiver had acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_with_the_slot_on_the_standby_leaves_no_gap() {
    let mut server = own_postgres(Release::Eighteen);
    let (database, directory) = (Database::create(&server).await, Directory::new());
    database.run(TABLE).await;
    let site = Site::local(&database, &directory);
    site.init();
    database.run("SELECT pg_create_physical_replication_slot('standby', true)").await;
    let archiver = site.stream();
    let failover = "SELECT failover FROM pg_replication_slots WHERE slot_type = 'logical'";
    assert!(database.connect().await.query_one(failover, &[]).await.unwrap().get::<_, bool>(0));
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    server.stop(StopMode::Fast).unwrap();
    let host = server.socket_dir().display();
    let settings = format!(
        "primary_conninfo = 'host={host} port={} user=postgres dbname={}'\nprimary_slot_name = 'standby'\nhot_standby_feedback = on\nsync_replication_slots = on\n",
        server.port(),
        database.name()
    );
    let mut standby = standby_of(&server, Release::Eighteen, &settings);
    for slot in fs::read_dir(standby.data_dir().join("pg_replslot")).unwrap() {
        fs::remove_dir_all(slot.unwrap().path()).unwrap();
    }
    server.start().unwrap();
    standby.start().unwrap();
    let copy = Database::existing(&standby, database.name());
    let client = copy.connect().await;
    let archiver = site.stream();
    database.run("UPDATE t SET v = 'before' WHERE id < 50").await;
    let synchronised = "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary";
    let mut rounds = 0;
    loop {
        if client.query_one(synchronised, &[]).await.unwrap().get::<_, i64>(0) == 1 {
            break;
        }
        rounds += 1;
        assert!(rounds < 900, "the slot does not come to the standby");
        // The standby keeps it once the primary's has come as far as the standby began, which it does where the log says what
        // runs: by itself every 15 s.
        database.run("SELECT pg_log_standby_snapshot(); UPDATE t SET v = v WHERE id = 1").await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    database.run("UPDATE t SET v = 'after' WHERE id BETWEEN 40 AND 60; INSERT INTO t VALUES (500, 'late')").await;
    wait_for("everything is archived", PATIENCE, || archiver.stderr().contains("archiving from"));
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    let all = table(&database).await;
    server.stop(StopMode::Fast).unwrap();
    promote(&copy).await;
    assert_eq!(table(&copy).await, all);
    copy.run("DELETE FROM t WHERE id < 5").await;
    let site = Site::local(&database, &directory).source(copy.url());
    site.catch_up();
    assert_eq!(archived(&site).await, table(&copy).await);
    assert_eq!(site.query("SELECT count(*) AS n FROM afterimage.gaps"), [json!({ "n": 0 })]);
    site.command(["verify"]).run(PATIENCE).expect(0);
}
