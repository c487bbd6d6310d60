//! A query may take so much memory and no more.

use super::{PATIENCE, Scene, assert_has, complaint};
use crate::support::Release;

#[tokio::test]
async fn a_query_that_outgrows_its_memory_spills_and_then_stops_with_the_limit() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let within = |sql: &str| scene.offline(["query", "--memory", "32MB", "--format", "csv", sql]).run(PATIENCE);
    // Sorting sixty megabytes needs the disk.
    let sorted = "SELECT right(v, 6) AS v FROM (SELECT v, row_number() OVER (ORDER BY v DESC) AS n FROM
        (SELECT repeat('x', 200) || value AS v FROM generate_series(100000, 399999)) AS texts) AS numbered
        WHERE n IN (1, 150000, 300000) ORDER BY n";
    assert_eq!(within(sorted).expect(0).stdout, "v\n399999\n250000\n100000\n");
    // One text of fifty megabytes has nowhere else to be.
    let one = "SELECT length(string_agg(repeat('x', 100) || value, ',')) FROM generate_series(1, 500000)";
    let one = complaint(within(one), 1);
    assert_has(&one.cause, &["needs more memory", "32.0 MB"]);
    assert_has(&one.remedy, &["raise the limit"]);
}
