//! Sources that are not the archive's, or cannot be archived.

use afterimage::scratch::Launch;

use crate::support::{Database, Directory, PATIENCE, Release, Site, postgres};

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
