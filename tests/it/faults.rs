//! Real faults of real parts: what a disk, a store, a clock and a server do on their worst days. Sources that restart and
//! networks that break are in [`crate::interruptions`], archivers that are killed in [`crate::kill`], those that sleep in
//! [`crate::writers`].

use std::fs;
use std::path::Path;
use std::process::Command;

use afterimage::scratch::StopMode;

use crate::support::{
    Database, Directory, FaultyStore, Load, PATIENCE, Release, Running, Site, SmallDisk, State, own_postgres, postgres,
    s3, wait_for,
};

/// The archive has everything once, as the source has it. No archiver may run, since this is one.
async fn nothing_is_lost(site: &Site<'_>) {
    let state = State::of(site.database).await;
    site.catch_up();
    site.expect_equal(&state);
    site.expect_each_once(state.tables.keys());
    site.offline(["verify", "--chain"]).run(PATIENCE).expect(0);
}

async fn loaded(release: Release) -> Database {
    let database = Database::create(postgres(release)).await;
    Load::prepare(&database).await;
    database
}

fn end(archiver: Running) {
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_fails_refuses_and_forgets_to_answer() {
    let database = loaded(Release::System).await;
    let (bucket, store) = (s3().bucket(), FaultyStore::start(1));
    let site = Site::bucket(&database, &bucket).variable("AWS_ENDPOINT", &store.endpoint());
    site.init();
    store.fail(25);
    let load = Load::start(&database, 21, 2);
    for _ in 0..3 {
        let archiver = site.start();
        let before = store.faults();
        load.wait_for_more(15);
        wait_for("requests go wrong", PATIENCE, || store.faults() > before + 20);
        archiver.kill();
    }
    load.stop().await;
    // Until it has caught up beside all that.
    site.catch_up();
    store.fail(0);
    println!("{} requests went wrong", store.faults());
    nothing_is_lost(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn credentials_that_are_too_old_are_said_and_waited_for() {
    let database = loaded(Release::System).await;
    let (bucket, store) = (s3().bucket(), FaultyStore::start(2));
    let site = Site::bucket(&database, &bucket).variable("AWS_ENDPOINT", &store.endpoint());
    site.init();
    let load = Load::start(&database, 22, 2);
    let archiver = site.stream();
    load.wait_for_more(5);
    store.expire(true);
    wait_for("it is said", PATIENCE, || archiver.stderr().contains("ExpiredToken"));
    load.wait_for_more(5);
    store.expire(false);
    wait_for("it goes on", PATIENCE, || archiver.stderr().contains("archiving again"));
    load.stop().await;
    end(archiver);
    nothing_is_lost(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_archive_without_room_goes_on_where_it_gets_some() {
    let (database, directory) = (loaded(Release::System).await, Directory::new());
    let Some(disk) = SmallDisk::mount(&directory.join("disk"), "200m") else { return };
    let site =
        Site::local(&database, &directory).archive(&format!("file://{}/disk/archive", directory.path().display()));
    site.init();
    let load = Load::start(&database, 23, 2);
    let mut archiver = site.stream();
    disk.resize(&format!("{}k", used(&directory.join("disk")) + 200));
    wait_for("it says that there is no room", PATIENCE, || archiver.stderr().contains("no space left"));
    load.wait_for_more(20);
    assert!(archiver.is_running(), "{}", archiver.stderr());
    disk.resize("400m");
    load.stop().await;
    wait_for("it goes on", PATIENCE, || archiver.stderr().contains("archiving again"));
    end(archiver);
    nothing_is_lost(&site).await;
    drop(disk);
}

/// In kB.
fn used(path: &Path) -> u64 {
    let output = Command::new("df").args(["--output=used", "--block-size=1K"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_spill_directory_without_room_goes_on_where_it_gets_some() {
    let (database, directory) = (loaded(Release::System).await, Directory::new());
    let Some(disk) = SmallDisk::mount(&directory.join("spill"), "1m") else { return };
    let site = Site::local(&database, &directory);
    site.init();
    let spill = directory.join("spill");
    let mut archiver = site.command(["run", "--memory", "4MB", "--spill-directory", spill.to_str().unwrap()]).start();
    database
        .run(
            "INSERT INTO heap SELECT 1, md5(g::text) || md5((g + 1)::text), random() FROM generate_series(1, 100000) g",
        )
        .await;
    wait_for("it is said", PATIENCE, || archiver.stderr().contains("o space left"));
    assert!(archiver.is_running(), "{}", archiver.stderr());
    disk.resize("400m");
    wait_for("it goes on", PATIENCE, || archiver.stderr().contains("archiving again"));
    end(archiver);
    nothing_is_lost(&site).await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_without_room_is_waited_for() {
    let directory = Directory::new();
    let Some(disk) = SmallDisk::mount(&directory.join("disk"), "400m") else { return };
    let launch = Release::Eighteen.launch().set("fsync", "on").set("max_wal_size", "64MB").set("min_wal_size", "32MB");
    let mut server = launch.within(directory.join("disk")).start().unwrap();
    let database = Database::create(&server).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory);
    site.init();
    let mut archiver = site.stream();
    let client = database.connect().await;
    let fill = "INSERT INTO heap SELECT 9, md5(g::text), g FROM generate_series(1, 200000) g";
    let mut filled = 0;
    while client.batch_execute(fill).await.is_ok() {
        filled += 1;
        assert!(filled < 100, "the disk does not get full");
    }
    assert!(archiver.is_running(), "{}", archiver.stderr());
    disk.resize("2g");
    // Without room for its log PostgreSQL ends its sessions, or itself.
    let _ = server.stop(StopMode::Immediate);
    wait_for("it starts again", PATIENCE, || server.start().is_ok());
    wait_for("it archives again", PATIENCE, || archiver.stderr().contains("archiving again"));
    end(archiver);
    nothing_is_lost(&site).await;
    drop((server, disk));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_that_jumps_changes_nothing() {
    let (database, directory) = (loaded(Release::Sixteen).await, Directory::new());
    let clock = directory.join("clock");
    fs::write(&clock, "+0").unwrap();
    let site = Site::local(&database, &directory)
        .maintained_eagerly(&directory)
        .variable("LD_PRELOAD", FAKETIME)
        .variable("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let told =
        Command::new("date").arg("+%Y").env("LD_PRELOAD", FAKETIME).env("FAKETIME", "2001-01-01 00:00:00").output();
    assert_eq!(told.unwrap().stdout, b"2001\n", "tests/install brings libfaketime");
    site.init();
    let load = Load::start(&database, 24, 2);
    let archiver = site.stream();
    for jump in ["+3d", "-40d", "-1h", "+400d", "+0"] {
        load.wait_for_more(15);
        fs::write(&clock, jump).unwrap();
    }
    load.wait_for_more(15);
    load.stop().await;
    assert!(!archiver.stderr().contains("WARN"), "{}", archiver.stderr());
    end(archiver);
    nothing_is_lost(&Site::local(&database, &directory)).await;
}

/// The loader finds it by itself where Debian puts it.
const FAKETIME: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_that_somebody_ends_are_opened_again() {
    let (server, directory) = (own_postgres(Release::Eighteen), Directory::new());
    let database = Database::create(&server).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory);
    site.init();
    let load = Load::start(&database, 25, 2);
    let archiver = site.stream();
    let client = database.connect().await;
    let sql = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE active";
    for round in 1..=5 {
        load.wait_for_more(5);
        assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1, "round {round}");
        wait_for("it goes on", PATIENCE, || archiver.stderr().matches("archiving again").count() == round);
    }
    load.stop().await;
    end(archiver);
    nothing_is_lost(&site).await;
}

/// The slot has moved on since: what lies between is gone, and said to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_copy_of_the_archive_has_a_gap_and_no_hole() {
    let (database, directory) = (loaded(Release::System).await, Directory::new());
    let site = Site::local(&database, &directory);
    site.init();
    database.run("INSERT INTO journal VALUES (100, 1)").await;
    site.catch_up();
    let copy = |from: &str, to: &str| {
        let copied = Command::new("cp").arg("-a").args([directory.join(from), directory.join(to)]).status().unwrap();
        assert!(copied.success());
    };
    copy("archive", "copy");
    let old = site.watermark().await;
    database.run("INSERT INTO journal VALUES (100, 2); DELETE FROM journal WHERE step = 1").await;
    site.catch_up();
    fs::remove_dir_all(directory.join("archive")).unwrap();
    copy("copy", "archive");
    database.run("INSERT INTO journal VALUES (100, 3)").await;
    site.catch_up();
    let gaps = site.query("SELECT lsn FROM afterimage.gaps");
    assert_eq!((gaps.len(), gaps[0]["lsn"].as_str()), (1, Some(old.to_string().as_str())), "{gaps:?}");
    let state = State::of(&database).await;
    site.catch_up();
    site.expect_equal(&state);
    site.offline(["verify", "--chain"]).run(PATIENCE).expect(0);
}
