//! A standby decodes the log in the source's place.

use std::fs;
use std::process::Command;

use afterimage::scratch::Scratch;

use crate::support::{Database, Directory, Load, PATIENCE, Release, Running, Site, State, own_postgres, wait_for};

/// A standby that follows its source over the network; with slots of its own.
fn following(source: &Scratch, release: Release) -> Scratch {
    let mut standby = own_postgres(release);
    standby.stop(afterimage::scratch::StopMode::Fast).unwrap();
    let data = standby.data_dir();
    fs::remove_dir_all(&data).unwrap();
    let url = source.tcp_url("postgres").unwrap();
    let copied = Command::new(source.bin_dir().join("pg_basebackup"))
        .args(["--checkpoint=fast", "--wal-method=stream", "--dbname", &url, "--pgdata"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    fs::write(data.join("standby.signal"), "").unwrap();
    let settings = format!("primary_conninfo = '{url}'\nhot_standby_feedback = on\nwal_receiver_status_interval = 1\n");
    fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
    let owner = Command::new("chown").args(["--recursive", "--reference"]).arg(source.data_dir()).arg(&data).status();
    assert!(owner.unwrap().success());
    let private = Command::new("chmod").args(["--recursive", "go-rwx"]).arg(&data).status();
    assert!(private.unwrap().success());
    standby.start().unwrap();
    standby
}

fn end(archiver: Running) {
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

async fn slots(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'";
    database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_decodes_and_the_source_has_no_slot() {
    for release in [Release::Sixteen, Release::Eighteen] {
        let source = own_postgres(release);
        let (database, directory) = (Database::create(&source).await, Directory::new());
        Load::prepare(&database).await;
        let standby = following(&source, release);
        let copy = Database::existing(&standby, database.name());
        let site = Site::local(&database, &directory).variable("AFTERIMAGE_DECODE_FROM", copy.url());
        let load = Load::start(&database, 31, 2);
        site.init();
        assert_eq!((slots(&database).await, slots(&copy).await), (0, 1));
        let archiver = site.stream();
        load.wait_for_more(20);
        // A table that is new is covered too.
        database.run("CREATE TABLE late (id int PRIMARY KEY, v text)").await;
        database.run("INSERT INTO late SELECT g, 'late' FROM generate_series(1, 50) g").await;
        archiver.kill();
        let archiver = site.stream();
        load.wait_for_more(20);
        site.command(["mark", "here"]).run(PATIENCE).expect(0);
        let status = site.command(["status", "--json"]).run(PATIENCE).expect(0).stdout;
        assert!(status.contains(&format!("\"name\": \"{}\"", site.slot())), "{status}");
        load.stop().await;
        let state = State::of(&database).await;
        site.expect_equal(&state);
        end(archiver);
        site.catch_up();
        site.expect_each_once(state.tables.keys());
        assert_eq!(slots(&database).await, 0, "nothing but the standby has had a slot");

        // Promoted, the standby is the source, and has the slot already.
        drop(source);
        let promoted = copy.connect().await.query_one("SELECT pg_promote()", &[]).await.unwrap();
        assert!(promoted.get::<_, bool>(0));
        let site = Site::local(&copy, &directory);
        let archiver = site.stream();
        copy.run("INSERT INTO late VALUES (51, 'new')").await;
        let state = State::of(&copy).await;
        wait_for("what the new source does is archived", PATIENCE, || {
            site.command(["export", "late", "--at", &state.lsn.to_string()]).run(PATIENCE).code == Some(0)
        });
        site.expect_equal(&state);
        end(archiver);
        assert_eq!(site.query("SELECT count(*) AS n FROM afterimage.gaps")[0]["n"], 0);
        site.offline(["verify", "--chain"]).run(PATIENCE).expect(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_decode_is_refused_with_what_to_do() {
    let (source, other) = (own_postgres(Release::Eighteen), own_postgres(Release::Eighteen));
    let (database, directory) = (Database::create(&source).await, Directory::new());
    database.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let site = Site::local(&database, &directory).variable("AFTERIMAGE_DECODE_FROM", &other.url("postgres"));
    let said = site.command(["init"]).run(PATIENCE).expect(1).stderr;
    assert!(said.contains("is no standby") && said.contains("help:"), "{said}");
    let standby = following(&source, Release::Eighteen);
    let copy = Database::existing(&standby, database.name());
    let site = Site::local(&copy, &directory);
    let said = site.command(["init"]).run(PATIENCE).expect(1).stderr;
    assert!(said.contains("--decode-from"), "{said}");
}
