//! What the slot cannot give any more, and what is not the archive's: refused, never skipped in silence.

use afterimage::scratch::Launch;

use crate::support::{Database, Directory, PATIENCE, Release, Site, own_postgres, postgres};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)";

async fn archived(release: Release) -> (Database, Directory) {
    let (database, directory) = (Database::create(postgres(release)).await, Directory::new());
    database.run(TABLE).await;
    let site = Site::local(&database, &directory);
    site.init();
    database.run("INSERT INTO t VALUES (2)").await;
    site.catch_up();
    (database, directory)
}

#[track_caller]
fn refused(site: &Site<'_>, said: &str) {
    for arguments in [&["run"][..], &["run", "--until", "now"]] {
        let end = site.command(arguments.iter().copied()).run(PATIENCE).expect(4);
        assert!(end.stderr.contains(said) && end.stderr.contains("help:"), "{}", end.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_moved_on_is_refused() {
    for release in Release::ALL {
        let (database, directory) = archived(release).await;
        let site = Site::local(&database, &directory);
        database.run("INSERT INTO t VALUES (3)").await;
        let advance = format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", site.slot());
        database.run(&advance).await;
        let watermark = site.watermark().await;
        refused(&site, "was moved on to");
        assert_eq!(site.watermark().await, watermark);
        // What was archived before can still be read.
        let rows = site.query("SELECT count(*) AS n FROM changes.t");
        assert_eq!(rows[0]["n"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_gone_is_refused() {
    let (database, directory) = archived(Release::System).await;
    let site = Site::local(&database, &directory);
    database.run(&format!("SELECT pg_drop_replication_slot('{}')", site.slot())).await;
    database.run("INSERT INTO t VALUES (3)").await;
    refused(&site, "does not exist any more");
    // A new one under the same name begins after what is missing.
    database.run(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", site.slot())).await;
    refused(&site, "was moved on to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_lost_log_is_refused() {
    let server = own_postgres(Release::System);
    let (database, directory) = (Database::create(&server).await, Directory::new());
    database.run(TABLE).await;
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
        client.batch_execute("INSERT INTO t SELECT max(id) + 1 FROM t").await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
    }
    refused(&site, "lost log that was not archived yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_of_another_database_is_refused() {
    let (database, directory) = archived(Release::System).await;
    let site = Site::local(&database, &directory);
    let watermark = site.watermark().await;
    for release in [Release::System, Release::Sixteen] {
        let stranger = Database::create(postgres(release)).await;
        stranger.run(TABLE).await;
        let wrong = Site::local(&stranger, &directory);
        refused(&wrong, "the archive belongs to the database");
        wrong.command(["init"]).run(PATIENCE).expect(4);
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        assert_eq!(stranger.connect().await.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
    assert_eq!(site.watermark().await, watermark);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_decode_is_named() {
    let server = Launch::new(Release::System.installation()).set("wal_level", "replica").start().unwrap();
    let (database, directory) = (Database::create(&server).await, Directory::new());
    database.run(TABLE).await;
    let site = Site::local(&database, &directory);
    for command in ["init", "run"] {
        let end = site.command([command]).run(PATIENCE).expect(1);
        assert!(end.stderr.contains("ALTER SYSTEM SET wal_level = 'logical'"), "{}", end.stderr);
    }
    let publications = "SELECT count(*) FROM pg_publication";
    assert_eq!(database.connect().await.query_one(publications, &[]).await.unwrap().get::<_, i64>(0), 0);
}
