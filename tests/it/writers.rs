//! One writer: a second archiver is refused, and one that was given up for dead does no harm when it wakes.

use std::time::Duration;

use afterimage::scratch::Scratch;

use crate::support::{
    Database, Directory, Load, PATIENCE, Release, Running, Site, State, connect, own_postgres, postgres, wait_for,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_archiver_is_refused_and_the_first_goes_on() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory);
    site.init();
    let load = Load::start(&database, 3, 2);
    let mut first = site.stream();
    let refused = site.command(["run"]).run(PATIENCE).expect(4);
    assert!(refused.stderr.contains("is in use by the server process"), "{}", refused.stderr);
    // A place that the first one cannot have reached meanwhile.
    let refused = site.command(["run", "--until", "FFFF/0"]).run(PATIENCE).expect(4);
    assert!(refused.stderr.contains("is in use by the server process"), "{}", refused.stderr);
    load.wait_for_more(20);
    assert!(first.is_running());
    load.stop().await;
    let state = State::of(&database).await;
    // Without another archiver's help: the first one reaches it.
    site.expect_equal(&state);
    first.signal("TERM");
    first.wait(PATIENCE).expect(0);
    site.expect_each_once(state.tables.keys());
}

/// Drops a connection that has said nothing for a second.
async fn make_impatient(server: &Scratch) {
    let administrator = connect(&server.url("postgres")).await;
    administrator.batch_execute("ALTER SYSTEM SET wal_sender_timeout = '1s'").await.unwrap();
    administrator.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

async fn wait_until_unused(database: &Database) {
    let client = database.connect().await;
    loop {
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE active AND NOT temporary";
        if client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_archiver_that_sleeps_and_wakes_is_fenced_off() {
    let directory = Directory::new();
    let server = own_postgres(Release::System);
    make_impatient(&server).await;
    let database = Database::create(&server).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory);
    site.init();
    let load = Load::start(&database, 4, 4);
    let mut states = Vec::new();
    let mut archiver = site.stream();
    for _ in 0..4 {
        load.wait_for_more(20);
        archiver = replaced_in_its_sleep(&site, archiver, &load).await;
        states.push(State::of(&database).await);
    }
    load.stop().await;
    states.push(State::of(&database).await);
    for state in &states {
        site.expect_equal(state);
    }
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    site.expect_each_once(states[0].tables.keys());
}

/// Puts an archiver to sleep until another one has its place, wakes it, and gives the one that goes on.
async fn replaced_in_its_sleep(site: &Site<'_>, sleeper: Running, load: &Load) -> Running {
    sleeper.signal("STOP");
    wait_until_unused(site.database).await;
    let mut both = [sleeper, site.stream()];
    load.wait_for_more(5);
    both[0].signal("CONT");
    wait_for("one of the two ends", PATIENCE, || both.iter_mut().any(|archiver| !archiver.is_running()));
    // The later claim counts: the other one's, unless the sleep fell into a claim of the sleeper's own.
    if both[0].is_running() {
        both.reverse();
    }
    let [ended, mut goes_on] = both;
    let fenced = ended.wait(PATIENCE).expect(4);
    assert!(fenced.stderr.contains("another archiver has taken it over"), "{}", fenced.stderr);
    load.wait_for_more(5);
    assert!(goes_on.is_running(), "{}", goes_on.stderr());
    goes_on
}

/// It sleeps, and nobody takes its place: then it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_archiver_that_was_not_replaced_goes_on_when_it_wakes() {
    let directory = Directory::new();
    let server = own_postgres(Release::System);
    make_impatient(&server).await;
    let database = Database::create(&server).await;
    Load::prepare(&database).await;
    let site = Site::local(&database, &directory);
    site.init();
    let load = Load::start(&database, 5, 2);
    let archiver = site.stream();
    archiver.signal("STOP");
    wait_until_unused(&database).await;
    load.wait_for_more(5);
    archiver.signal("CONT");
    load.stop().await;
    let state = State::of(&database).await;
    site.expect_equal(&state);
    wait_for("it says so", PATIENCE, || archiver.stderr().contains("archiving again"));
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    site.expect_each_once(state.tables.keys());
}
