//! The same archive in a bucket.

use crate::support::{Database, Load, PATIENCE, Program, Release, Site, State, postgres, s3};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_archive_in_a_bucket_equals_the_source() {
    let database = Database::create(postgres(Release::Eighteen)).await;
    Load::prepare(&database).await;
    let bucket = s3().bucket();
    let site = Site::bucket(&database, &bucket);
    let load = Load::start(&database, 10, 3);
    site.init();
    let first = State::of(&database).await;
    let archiver = site.stream();
    load.wait_for_more(30);
    archiver.kill();
    let archiver = site.stream();
    load.wait_for_more(30);
    load.stop().await;
    let last = State::of(&database).await;
    site.expect_equal(&last);
    site.expect_equal(&first);
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    site.expect_each_once(last.tables.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_exist_is_named_before_the_source_is_touched() {
    let database = Database::create(postgres(Release::System)).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let bucket = s3().bucket();
    let site = Site::bucket(&database, &bucket).archive("s3://no-such-bucket/archive");
    let init: Program = site.command(["init"]);
    let end = init.run(PATIENCE).expect(1);
    assert!(end.stderr.contains("no-such-bucket") && end.stderr.contains("help:"), "{}", end.stderr);
    let publications = "SELECT count(*) FROM pg_publication";
    assert_eq!(database.connect().await.query_one(publications, &[]).await.unwrap().get::<_, i64>(0), 0);
}
