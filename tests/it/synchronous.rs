//! Commits that wait until they are durable in the archive.

use afterimage::model::TableName;
use afterimage::scratch::Scratch;
use tokio::task::JoinHandle;

use crate::support::{Database, Directory, PATIENCE, Release, Site, connect, own_postgres};

/// Makes every commit of the server wait for the archiver, from the next start on: a reload takes effect at a moment
/// that nobody sees.
async fn wait_for_the_archiver(server: &mut Scratch) {
    let administrator = connect(&server.url("postgres")).await;
    administrator.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'afterimage'").await.unwrap();
    tokio::task::block_in_place(|| server.restart()).unwrap();
}

async fn is_so(database: &Database, condition: &str) -> bool {
    database.connect().await.query_one(&format!("SELECT {condition}"), &[]).await.unwrap().get(0)
}

async fn until(database: &Database, condition: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so(database, condition).await {
        assert!(tokio::time::Instant::now() < deadline, "{condition}: not within {PATIENCE:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

const STREAMS: &str = "EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')";
const COMMIT_WAITS: &str = "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";

async fn insert(database: &Database, id: i32) {
    database.run(&format!("INSERT INTO t VALUES ({id})")).await;
}

/// A commit that has not returned, and is seen to wait.
async fn waiting_insert(database: &Database, id: i32) -> JoinHandle<()> {
    let client = database.connect().await;
    let inserting = tokio::spawn(async move {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
    });
    until(database, COMMIT_WAITS).await;
    assert!(!inserting.is_finished());
    inserting
}

async fn returns(inserting: JoinHandle<()>) {
    tokio::time::timeout(PATIENCE, inserting).await.expect("the commit returns").unwrap();
}

async fn archived(site: &Site<'_>) -> String {
    let now = site.watermark().await.to_string();
    let mut lines: Vec<String> =
        site.export(&TableName::new("public", "t"), &now).lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    lines.join(" ")
}

async fn commits_wait_for_the_archive(release: Release) {
    let (mut server, directory) = (own_postgres(release), Directory::new());
    let database = Database::create(&server).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let site = Site::local(&database, &directory);
    site.init();
    wait_for_the_archiver(&mut server).await;

    // Nobody archives: a commit waits, and returns as soon as somebody does.
    let inserting = waiting_insert(&database, 1).await;
    let archiver = site.stream();
    returns(inserting).await;
    assert_eq!(archived(&site).await, "1");

    until(&database, STREAMS).await;
    archiver.signal("STOP");
    let inserting = waiting_insert(&database, 2).await;
    archiver.signal("CONT");
    returns(inserting).await;

    // What has returned is in the archive, whatever becomes of the archiver then.
    insert(&database, 3).await;
    archiver.kill();
    assert_eq!(archived(&site).await, "1 2 3");

    // A long flush interval does not count while somebody waits.
    let patient = site.command(["run", "--flush-interval", "1d"]).start();
    until(&database, STREAMS).await;
    for id in 4..8 {
        insert(&database, id).await;
    }
    // Of a database that is not archived too.
    connect(&server.url("postgres")).await.batch_execute("CREATE TABLE elsewhere (id int)").await.unwrap();
    patient.kill();
    assert_eq!(archived(&site).await, "1 2 3 4 5 6 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_until_they_are_durable_in_the_archive() {
    commits_wait_for_the_archive(Release::System).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_18_wait_until_they_are_durable_in_the_archive() {
    commits_wait_for_the_archive(Release::Eighteen).await;
}

/// While no archiver runs, what prepares and helps archiving must not wait for one.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_commands_do_not_wait_for_the_archiver() {
    let (mut server, directory) = (own_postgres(Release::System), Directory::new());
    let database = Database::create(&server).await;
    wait_for_the_archiver(&mut server).await;
    database.run("SET synchronous_commit = local; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int)").await;
    let site = Site::local(&database, &directory);
    site.command(["init", "--set-identity-full", "--tables", "t"]).run(PATIENCE).expect(0);
    site.command(["init", "--add", "u", "--set-identity-full", "--wait", "1ms"]).run(PATIENCE).expect(0);
    let mark = site.command(["mark", "here", "--wait", "1ms"]).run(PATIENCE).expect(0);
    assert!(mark.stderr.contains("not yet in the archive"), "{}", mark.stderr);
    // With everything that an archiver writes into the source: the image's place, samples of sequences.
    let archiver = site.stream();
    let marked = site.command(["export", "t", "--at", "mark:here"]).run(PATIENCE).expect(0);
    assert_eq!(marked.stdout, "id\n");
    until(&database, STREAMS).await;
    insert(&database, 1).await;
    let shown = site.command(["status"]).run(PATIENCE);
    assert!(shown.stdout.contains("commits wait for it"), "{}{}", shown.stdout, shown.stderr);
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    assert_eq!(archived(&site).await, "1");
}
