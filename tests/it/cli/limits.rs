//! A query may take so much memory and no more.

use super::{PATIENCE, Scene, assert_has};
use crate::support::Release;

#[tokio::test]
async fn a_query_that_outgrows_its_memory_spills_and_then_stops_with_the_limit() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let within = |sql: &str| scene.offline(["query", "--memory", "256MB", "--format", "csv", sql]).run(PATIENCE);
    // Sorting four hundred megabytes needs the disk.
    let sorted = "SELECT right(v, 7) AS v FROM (SELECT v, row_number() OVER (ORDER BY v DESC) AS n FROM
        (SELECT repeat('x', 200) || value AS v FROM generate_series(1000000, 2999999)) AS texts) AS numbered
        WHERE n IN (1, 1000000, 2000000) ORDER BY n";
    assert_eq!(within(sorted).expect(0).stdout, "v\n2999999\n2000000\n1000000\n");
    // One text as long has nowhere else to be.
    let one = "SELECT length(string_agg(repeat('x', 400) || value, ',')) AS n FROM generate_series(1, 1000000)";
    let one = within(one).expect(1).stderr;
    assert_has(&one, &["error: the query needs more memory", "of the session's 256.0 MB", "raise the limit"]);
}
