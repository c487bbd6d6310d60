//! How long changes take into the archive is measured while it runs, and shown.

use serde_json::Value as Json;

use crate::support::{Database, Directory, PATIENCE, Release, Site, postgres};

fn status(site: &Site<'_>) -> Json {
    serde_json::from_str(&site.command(["status", "--json"]).run(PATIENCE).stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn freshness_is_in_the_status_and_in_the_events() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    database.run("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)").await;
    let site = Site::local(&database, &directory);
    site.init();
    assert_eq!(status(&site)["freshness"], Json::Null);
    let archiver = site.command(["run", "--json", "--flush-interval", "50ms"]).start();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // What was measured of one publication goes into the archive with the next.
    let freshness = loop {
        database.run("INSERT INTO t DEFAULT VALUES").await;
        match status(&site)["freshness"].take() {
            Json::Null => assert!(tokio::time::Instant::now() < deadline, "{}", archiver.stderr()),
            freshness => break freshness,
        }
    };
    assert!(freshness["transactions"].as_u64() > Some(0), "{freshness}");
    assert!(freshness["p50_ms"].as_f64() <= freshness["p99_ms"].as_f64(), "{freshness}");
    let shown = site.command(["status"]).run(PATIENCE).stdout;
    assert!(shown.contains("from commit to durable"), "{shown}");
    archiver.signal("TERM");
    let end = archiver.wait(PATIENCE).expect(0);
    let event: Json = serde_json::from_str(end.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(event["event"], "freshness");
    assert!(event["transactions"].as_u64() > Some(0), "{event}");
    assert!(end.stderr.contains("fresh within"), "{}", end.stderr);
}
