//! From when on a rule is met.

use super::Watch;
use crate::support::Release;

const SHARE: &str = "[[rule]]
name = \"share\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
rows = 100
share = 0.2
";

/// The table has 20,000 rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_table_is_asked_before_the_commit_and_after_it() {
    for release in Release::ALL {
        let watch = Watch::begin(release, SHARE).await;
        let client = watch.database.connect().await;
        client.batch_execute("BEGIN; DELETE FROM core_relationships WHERE id <= 1500").await.unwrap();
        watch.settle().await;
        client.batch_execute("COMMIT").await.unwrap();
        watch.settle().await;
        assert_eq!(watch.alerts().len(), 0, "a thirteenth is not a fifth");
        client.batch_execute("BEGIN; DELETE FROM core_relationships WHERE id <= 8000").await.unwrap();
        let alert = watch.alert_of("share");
        assert_eq!(alert["lsn"], serde_json::Value::Null, "{alert}");
        assert!(alert["rows"].as_u64().unwrap() >= 4000, "{alert}");
        client.batch_execute("COMMIT").await.unwrap();
        watch.event_of("share", "committed");
        assert_eq!(watch.alerts().len(), 1);
    }
}

/// What share its matching rows are, is known of a whole transaction only.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_rows_with_a_condition_is_judged_at_the_commit() {
    let rule = format!("{SHARE}where = \"old.organization_id < 2\"\n");
    let watch = Watch::begin(Release::System, &rule).await;
    let client = watch.database.connect().await;
    client.batch_execute("DELETE FROM core_relationships WHERE organization_id > 3").await.unwrap();
    watch.settle().await;
    assert_eq!(watch.alerts().len(), 0, "three sevenths, none of which count");
    client.batch_execute("DELETE FROM core_relationships WHERE organization_id < 3").await.unwrap();
    let alert = watch.alert_of("share");
    let wanted = watch.count("generate_series(1, 20000) g WHERE g % 7 < 2").await;
    assert_eq!(alert["rows"], wanted, "{alert}");
    assert!(alert["lsn"].is_string(), "{alert}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_few_tenants_are_not_those_of_many() {
    let rule = "[[rule]]
name = \"tenants\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
rows = 20
tenants = 3
";
    for release in Release::ALL {
        let watch = Watch::begin(release, rule).await;
        let client = watch.database.connect().await;
        let sql = "DELETE FROM core_relationships WHERE organization_id < 2 AND id <= 10000";
        client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
        watch.settle().await;
        client.batch_execute("COMMIT").await.unwrap();
        watch.settle().await;
        assert_eq!(watch.alerts().len(), 0, "they are of two tenants");
        // One that is judged at its commit, since the source does not send so little before.
        client.batch_execute("DELETE FROM core_relationships WHERE id BETWEEN 10001 AND 10060").await.unwrap();
        let alert = watch.alert_of("tenants");
        assert_eq!((&alert["rows"], alert["tenants"].as_object().unwrap().len()), (&60.into(), 7), "{alert}");
        let message = alert["message"].as_str().unwrap();
        assert!(message.contains("of 7 tenants"), "{message}");
        // And one while it runs.
        client.batch_execute("BEGIN; DELETE FROM core_relationships WHERE id > 12000").await.unwrap();
        let alert = watch.alert_of_another("tenants", &alert);
        assert_eq!(alert["lsn"], serde_json::Value::Null, "{alert}");
        client.batch_execute("ROLLBACK").await.unwrap();
        watch.event_of("tenants", "rolled_back");
        assert_eq!(watch.alerts().len(), 2);
    }
}

/// Nobody is told twice of what goes on within one window, and what goes on after it is told again.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_forgets_what_is_older() {
    let rule = "[[rule]]
name = \"window\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
rows = 10
window = \"4s\"
";
    let watch = Watch::begin(Release::System, rule).await;
    let client = watch.database.connect().await;
    for at in 0..3 {
        client
            .batch_execute(&format!("DELETE FROM core_relationships WHERE id % 1000 = {at} AND id < 5000"))
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    }
    watch.settle().await;
    assert_eq!(watch.alerts().len(), 0, "five within each window");
    for at in 10..13 {
        client
            .batch_execute(&format!("DELETE FROM core_relationships WHERE id % 1000 = {at} AND id < 5000"))
            .await
            .unwrap();
    }
    let alert = watch.alert_of("window");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    client.batch_execute("DELETE FROM core_relationships WHERE id > 19000").await.unwrap();
    watch.alert_of_another("window", &alert);
}
