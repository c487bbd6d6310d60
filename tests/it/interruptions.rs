//! The source, the network and the store go and come back: the archiver goes on by itself.

use std::path::Path;

use afterimage::model::{Lsn, TableName};
use afterimage::scratch::StopMode;

use crate::support::{
    Bucket, Database, Directory, Load, PATIENCE, Proxy, Release, Running, Site, State, Watcher, connect, own_postgres,
    postgres, s3, wait_for,
};

fn interruptions(archiver: &Running) -> (usize, usize) {
    let stderr = archiver.stderr();
    (stderr.matches("interrupted, trying again").count(), stderr.matches("archiving again").count())
}

#[track_caller]
fn wait_for_resumption(archiver: &Running, times: usize) {
    wait_for("it says that it archives again", PATIENCE, || interruptions(archiver).1 >= times);
    assert_eq!(interruptions(archiver), (times, times), "each is said once\n{}", archiver.stderr());
}

#[track_caller]
fn end(archiver: Running) {
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_source_is_restarted() {
    for release in [Release::System, Release::Eighteen] {
        let directory = Directory::new();
        let mut server = release.launch().set("fsync", "on").start().unwrap();
        let database = Database::create(&server).await;
        Load::prepare(&database).await;
        let site = Site::local(&database, &directory);
        site.init();
        let load = Load::start(&database, 6, 3);
        let watcher = Watcher::start(&site);
        let archiver = site.stream();
        let mut states = Vec::new();
        for (round, mode) in [Some(StopMode::Fast), Some(StopMode::Immediate), None].into_iter().enumerate() {
            load.wait_for_more(20);
            states.push(State::of(&database).await);
            match mode {
                Some(mode) => server.stop(mode).unwrap(),
                None => server.kill().unwrap(),
            }
            wait_for("it notices", PATIENCE, || interruptions(&archiver).0 > round);
            server.start().unwrap();
            wait_for_resumption(&archiver, round + 1);
        }
        load.wait_for_more(5);
        load.stop().await;
        states.push(State::of(&database).await);
        for state in &states {
            site.expect_equal(state);
        }
        watcher.stop().await;
        end(archiver);
        site.expect_each_once(states[0].tables.keys());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_network_to_the_source_breaks_and_stalls() {
    let directory = Directory::new();
    let server = own_postgres(Release::System);
    let administrator = connect(&server.url("postgres")).await;
    administrator.batch_execute("ALTER SYSTEM SET wal_sender_timeout = '2s'").await.unwrap();
    administrator.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let database = Database::create(&server).await;
    Load::prepare(&database).await;
    let proxy = Proxy::to(server.port());
    let through_proxy = server
        .tcp_url(database.name())
        .unwrap()
        .replace(&format!("127.0.0.1:{}/", server.port()), &format!("127.0.0.1:{}/", proxy.port()));
    let site = Site::local(&database, &directory).source(&through_proxy);
    site.init();
    let load = Load::start(&database, 7, 3);
    let watcher = Watcher::start(&site);
    let archiver = site.stream();
    load.wait_for_more(10);
    proxy.cut();
    wait_for("it notices", PATIENCE, || interruptions(&archiver).0 == 1);
    load.wait_for_more(10);
    proxy.heal();
    wait_for_resumption(&archiver, 1);

    load.wait_for_more(10);
    proxy.stall();
    let client = database.connect().await;
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    while client.query_one(active, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    load.wait_for_more(10);
    proxy.heal();
    wait_for_resumption(&archiver, 2);

    load.stop().await;
    let state = State::of(&database).await;
    site.expect_equal(&state);
    watcher.stop().await;
    end(archiver);
    site.expect_each_once(state.tables.keys());
}

/// A bucket behind a proxy.
fn behind_proxy<'a>(database: &'a Database, bucket: &Bucket) -> (Site<'a>, Proxy) {
    let proxy = Proxy::to(s3().port());
    let site = Site::bucket(database, bucket).variable("AWS_ENDPOINT", &format!("http://127.0.0.1:{}", proxy.port()));
    (site, proxy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_goes_away_and_comes_back() {
    let database = Database::create(postgres(Release::System)).await;
    Load::prepare(&database).await;
    let bucket = s3().bucket();
    let (site, proxy) = behind_proxy(&database, &bucket);
    site.init();
    let load = Load::start(&database, 8, 2);
    let archiver = site.stream();
    load.wait_for_more(10);
    proxy.cut();
    wait_for("it says that the store is away", PATIENCE, || interruptions(&archiver).0 == 1);
    // The source's sessions do not wait for the store.
    load.wait_for_more(20);
    proxy.heal();
    wait_for_resumption(&archiver, 1);
    load.stop().await;
    let state = State::of(&database).await;
    site.expect_equal(&state);
    end(archiver);
    site.expect_each_once(state.tables.keys());
}

/// What has arrived is published before the archiver ends, however long it would have waited otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_signal_to_end_publishes_what_has_arrived() {
    for signal in ["TERM", "INT"] {
        let directory = Directory::new();
        let database = Database::create(postgres(Release::Sixteen)).await;
        Load::prepare(&database).await;
        let site = Site::local(&database, &directory);
        site.init();
        let archiver = site.command(["run", "--flush-interval", "1h"]).start().streaming();
        let load = Load::start(&database, 9, 2);
        load.wait_for_more(20);
        load.stop().await;
        let state = State::of(&database).await;
        received(&database, state.lsn).await;
        assert!(site.watermark().await < state.lsn, "it published before it was asked to end");
        archiver.signal(signal);
        archiver.wait(PATIENCE).expect(0);
        assert!(site.watermark().await >= state.lsn);
        let confirmed: String = database
            .connect()
            .await
            .query_one(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1",
                &[&site.slot()],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(confirmed.parse::<Lsn>().unwrap(), site.watermark().await, "the end is acknowledged");
        site.expect_equal(&state);
    }
}

/// Waits until the archiver has received everything up to a position.
async fn received(database: &Database, position: Lsn) {
    let client = database.connect().await;
    let sql = "SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
               WHERE s.database = current_database() AND NOT s.temporary AND r.write_lsn >= $1::text::pg_lsn";
    while client.query_one(sql, &[&position.to_string()]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// The commonest outage of logical replication: nothing happens in the database, and its slot keeps the whole log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_databases_slot_moves_on() {
    let directory = Directory::new();
    let server = own_postgres(Release::System);
    let (database, busy) = (Database::create(&server).await, Database::create(&server).await);
    database.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let site = Site::local(&database, &directory);
    site.init();
    let archiver = site.stream();
    let client = busy.connect().await;
    client.batch_execute("CREATE TABLE noise AS SELECT g FROM generate_series(1, 50000) g").await.unwrap();
    let position: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let sql = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
    while !client.query_one(sql, &[&position, &site.slot()]).await.unwrap().get::<_, bool>(0) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    end(archiver);
    // Nothing has happened since, or only elsewhere.
    site.catch_up();
    client.batch_execute("INSERT INTO noise SELECT g FROM generate_series(1, 50000) g").await.unwrap();
    site.catch_up();
    assert_eq!(site.present(&TableName::new("public", "t")).await, "id\n");
}

/// An unwritable archive is said at once, by its reason, not retried for ever in silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_refuses_is_not_waited_for() {
    let database = Database::create(postgres(Release::System)).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let directory = Directory::new();
    let file = directory.join("file");
    std::fs::write(&file, "").unwrap();
    let inside = format!("file://{}/archive", Path::new(&file).display());
    let site = Site::local(&database, &directory).archive(&inside);
    for command in ["init", "run"] {
        let end = site.command([command]).run(PATIENCE).expect(1);
        assert!(end.stderr.contains("file/archive") && end.stderr.contains("help:"), "{}", end.stderr);
    }
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(database.connect().await.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
}
