//! Rules over what has committed, and what is done with their alerts.

use std::fs;
use std::time::Duration;

use super::Watch;
use crate::support::{Release, wait_for};

const MEMBERSHIPS: &str = "[[rule]]
name = \"memberships\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
where = \"old.relationship_type = 'USER_MEMBER_OF_ORG'\"
rows = 10
window = \"5m\"
severity = \"EMERGENCY\"
";

#[tokio::test(flavor = "multi_thread")]
async fn mass_relationship_deletion_is_detected_over_many_transactions() {
    for release in Release::ALL {
        let watch = Watch::begin(release, MEMBERSHIPS).await;
        let client = watch.database.connect().await;
        for id in 2..60 {
            client.batch_execute(&format!("DELETE FROM core_relationships WHERE id = {id}")).await.unwrap();
        }
        watch.settle().await;
        assert_eq!(watch.alerts().len(), 0, "no memberships were among them");
        for group in 1..=12 {
            client.batch_execute(&format!("DELETE FROM core_relationships WHERE id = {}00", group)).await.unwrap();
        }
        let alert = watch.alert_of("memberships");
        assert!(alert["rows"].as_u64().unwrap() >= 10, "{alert}");
        assert_eq!(alert["severity"], "EMERGENCY");
        assert!(alert["message"].as_str().unwrap().contains("transactions"), "{alert}");
        watch.settle().await;
        assert_eq!(watch.alerts().len(), 1, "one alert within the window");
        // SQL sees it too, though it is above no watermark.
        let sql = "SELECT count(*) AS n FROM afterimage.alerts WHERE event = 'raised' AND severity = 'EMERGENCY'";
        let shown = watch.afterimage(&["query", "--json", sql]).expect(0).stdout;
        assert!(shown.contains("\"n\":1") || shown.contains("\"n\": 1"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_user_orphaning_is_told_of_the_last_membership_only() {
    let rule = "[[rule]]
name = \"orphaned\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
where = \"old.relationship_type = 'USER_MEMBER_OF_ORG'\"
last_of = [\"from_entity_id\"]
severity = \"CRITICAL\"
";
    let watch = Watch::begin(Release::System, rule).await;
    let client = watch.database.connect().await;
    // User 50 has the memberships 100 and 101.
    client.batch_execute("DELETE FROM core_relationships WHERE id = 100").await.unwrap();
    watch.settle().await;
    assert_eq!(watch.alerts().len(), 0, "the other membership is left");
    client.batch_execute("DELETE FROM core_relationships WHERE id = 101").await.unwrap();
    let alert = watch.alert_of("orphaned");
    assert_eq!(alert["samples"][0]["from_entity_id"], "user 50", "{alert}");
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_drops_and_changed_definitions_are_told() {
    for release in Release::ALL {
        let watch = Watch::begin(release, "packs = [\"truncate\", \"ddl\"]\n").await;
        let client = watch.database.connect().await;
        client.batch_execute("ALTER TABLE core_relationships ADD CONSTRAINT strict CHECK (id > 0)").await.unwrap();
        let alert = watch.alert_of("ddl");
        assert!(alert["message"].as_str().unwrap().contains("ADD CONSTRAINT strict"), "{alert}");
        client.batch_execute("TRUNCATE core_relationships").await.unwrap();
        let alert = watch.alert_of("truncate");
        assert!(alert["command"].as_str().unwrap().starts_with("afterimage restore --undo "), "{alert}");
        client.batch_execute("DROP TABLE core_relationships").await.unwrap();
        assert_eq!(watch.alert_of("drop")["table"], "public.core_relationships");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_alerts_are_listed_no_more_and_rules_are_tried_over_history() {
    let watch = Watch::begin(Release::System, MEMBERSHIPS).await;
    watch.afterimage(&["guard", "alerts"]).expect(0);
    let client = watch.database.connect().await;
    client.batch_execute("DELETE FROM core_relationships WHERE id <= 1500").await.unwrap();
    let alert = watch.alert_of("memberships");
    let listed = watch.afterimage(&["guard", "alerts"]).expect(3);
    assert!(listed.stdout.contains("to take it back: afterimage restore --undo "), "{}", listed.stdout);
    let id = alert["id"].as_str().unwrap();
    watch.afterimage(&["guard", "ack", &id[..8], "--note", "a drill"]).expect(0);
    watch.afterimage(&["guard", "alerts"]).expect(0);
    assert_eq!(watch.event_of("memberships", "acknowledged")["message"], "a drill");
    watch.afterimage(&["guard", "ack", "nothing"]).expect(2);
    let trial = watch.afterimage(&["guard", "test", "memberships", "--json"]).expect(0).stdout;
    let trial: serde_json::Value = serde_json::from_str(&trial).unwrap();
    assert_eq!(trial["alerts"].as_array().unwrap().len(), 1, "{trial}");
    assert_eq!(trial["alerts"][0]["rows"], 30, "the memberships among them: {trial}");
    let rules = watch.afterimage(&["guard", "rules"]).expect(0).stdout;
    assert!(rules.contains("memberships") && rules.contains("EMERGENCY"), "{rules}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_is_in_force_without_a_restart() {
    let watch = Watch::begin(Release::System, MEMBERSHIPS).await;
    let changed = "[[rule]]\nname = \"updates\"\ntables = [\"core_relationships\"]\noperations = [\"update\"]\n\
                   where = \"new.organization_id <> old.organization_id\"\n";
    fs::write(watch.configuration(), "[[rule]]\nname = \"broken\"\n").unwrap();
    wait_for("a wrong file is told", Duration::from_secs(30), || watch.archiver.stderr().contains("is not in force"));
    fs::write(watch.configuration(), changed).unwrap();
    wait_for("the change is seen", Duration::from_secs(30), || {
        watch.archiver.stderr().contains("the configuration has changed")
    });
    let client = watch.database.connect().await;
    client.batch_execute("UPDATE core_relationships SET from_entity_id = 'x' WHERE id = 1").await.unwrap();
    client.batch_execute("UPDATE core_relationships SET organization_id = 99 WHERE id = 2").await.unwrap();
    let alert = watch.alert_of("updates");
    assert_eq!(alert["rows"], 1, "{alert}");
}

/// What is committed while no guard is there is judged by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_committed_escapes_a_restart() {
    let mut watch = Watch::begin(Release::System, &MEMBERSHIPS.replace("window = \"5m\"\n", "")).await;
    // The first guard has seen nothing when it ends, the second one something.
    for (count, ids) in [(1, "id <= 1500"), (2, "id BETWEEN 2000 AND 4000")] {
        let Watch { archiver, database, _server: server, directory } = watch;
        archiver.kill();
        database.run(&format!("DELETE FROM core_relationships WHERE {ids}")).await;
        let plain = super::program(&database, &directory, &["run", "--until", "now"]);
        plain.variable("AFTERIMAGE_CONFIG", "/dev/null").run(crate::support::PATIENCE).expect(0);
        let archiver = super::program(&database, &directory, &["run", "--flush-interval", "50ms"]).start();
        watch = Watch { archiver, database, _server: server, directory };
        wait_for("the alert", Duration::from_secs(60), || watch.alerts().len() == count);
        watch.alert_of("memberships");
    }
}
