//! Transactions that have not ended.

use std::time::{Duration, Instant};

use super::Watch;
use crate::support::{PATIENCE, Release, wait_for};

const MASS: &str = "[[rule]]
name = \"mass\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
rows = 1000
severity = \"EMERGENCY\"
";

#[tokio::test(flavor = "multi_thread")]
async fn relationship_deletion_guardian_raises_the_alarm_before_the_commit() {
    for release in Release::ALL {
        let watch = Watch::begin(release, MASS).await;
        let client = watch.database.connect().await;
        client.batch_execute("BEGIN; DELETE FROM core_relationships").await.unwrap();
        let alert = watch.alert_of("mass");
        assert_eq!(alert["lsn"], serde_json::Value::Null, "{alert}");
        assert!(alert["rows"].as_u64().unwrap() >= 1000, "{alert}");
        assert!(alert["message"].as_str().unwrap().contains("has not committed yet"), "{alert}");
        assert!(alert["tenants"].as_object().unwrap().len() >= 7, "what the rows were is known: {alert}");
        assert!(alert["samples"][0]["relationship_type"].is_string(), "{alert}");
        assert!(alert["context"]["statement"].as_str().unwrap().contains("DELETE FROM core_relationships"), "{alert}");
        assert_eq!(alert["context"]["user"], "postgres");
        assert_eq!(watch.count("core_relationships").await, 20_000, "nothing has committed");
        client.batch_execute("COMMIT").await.unwrap();
        let committed = watch.event_of("mass", "committed");
        assert!(committed["message"].as_str().unwrap().contains("20000 changes"), "{committed}");
        let alerts = watch.alerts();
        assert_eq!(alerts.len(), 1, "one alert for the transaction and the rule: {alerts:?}");
        // The alert's own command takes it back.
        let command = alerts[0]["command"].as_str().unwrap().strip_prefix("afterimage ").unwrap().to_owned();
        watch.afterimage(&command.split(' ').collect::<Vec<_>>()).expect(0);
        assert_eq!(watch.count("core_relationships").await, 20_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_keeps_every_row() {
    for release in Release::ALL {
        let watch = Watch::begin(release, &format!("{MASS}action = \"cancel\"\n")).await;
        let client = watch.database.connect().await;
        // A script that takes its time between the deletion and the commit.
        let script = "BEGIN; DELETE FROM core_relationships; SELECT pg_sleep(30); COMMIT";
        let started = Instant::now();
        let error = client.batch_execute(script).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(watch.count("core_relationships").await, 20_000);
        let stopped = watch.event_of("mass", "stopped");
        assert!(stopped["message"].as_str().unwrap().contains("was told to cancel"), "{stopped}");
        watch.event_of("mass", "rolled_back");
        // The session itself goes on.
        client.batch_execute("DELETE FROM core_relationships WHERE id = 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_idles_inside_its_transaction_can_be_terminated() {
    let watch = Watch::begin(Release::System, &format!("{MASS}action = \"terminate\"\n")).await;
    let client = watch.database.connect().await;
    client.batch_execute("BEGIN; DELETE FROM core_relationships").await.unwrap();
    wait_for("the session is gone", PATIENCE, || client.is_closed());
    assert_eq!(watch.count("core_relationships").await, 20_000);
    watch.event_of("mass", "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_excepted_is_never_stopped() {
    let rule = format!("{MASS}action = \"terminate\"\nexcept_applications = [\"nightly cleanup\"]\n");
    let watch = Watch::begin(Release::System, &rule).await;
    let client = watch.database.connect().await;
    client.batch_execute("SET application_name = 'nightly cleanup'").await.unwrap();
    client.batch_execute("BEGIN; DELETE FROM core_relationships").await.unwrap();
    let event = watch.event_of("mass", "not_stopped");
    assert!(event["message"].as_str().unwrap().contains("never stopped by this rule"), "{event}");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(watch.count("core_relationships").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_on_deleted_rows_is_judged_before_the_commit() {
    let rule = "[[rule]]
name = \"memberships\"
tables = [\"core_relationships\"]
operations = [\"delete\"]
where = \"old.relationship_type = 'USER_MEMBER_OF_ORG'\"
rows = 100
action = \"cancel\"
";
    for release in Release::ALL {
        let watch = Watch::begin(release, rule).await;
        let client = watch.database.connect().await;
        // As many rows, of another kind.
        client
            .batch_execute("DELETE FROM core_relationships WHERE relationship_type = 'HAS_STATUS' AND id < 9000")
            .await
            .unwrap();
        let script = "BEGIN; DELETE FROM core_relationships; SELECT pg_sleep(60); COMMIT";
        let Err(error) = client.batch_execute(script).await else {
            panic!("{release:?}: it was not stopped\n{}", watch.archiver.stderr());
        };
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
        watch.event_of("memberships", "stopped");
        let alerts = watch.alerts();
        assert_eq!(alerts.len(), 1, "{alerts:?}");
        let rows = alerts[0]["rows"].as_u64().unwrap();
        assert!((100..=400).contains(&rows), "memberships alone count: {rows}");
        assert_eq!(alerts[0]["samples"][0]["relationship_type"], "USER_MEMBER_OF_ORG");
    }
}

/// It ends before anybody can act: the alert still carries what takes it back.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_before_the_guard_can_act_is_told_with_the_command_that_undoes_it() {
    let watch = Watch::begin(Release::System, &MASS.replace("rows = 1000", "rows = 100\naction = \"cancel\"")).await;
    let client = watch.database.connect().await;
    client.batch_execute("DELETE FROM core_relationships WHERE id <= 150").await.unwrap();
    let alert = watch.alert_of("mass");
    assert!(alert["lsn"].is_string(), "{alert}");
    let command = alert["command"].as_str().unwrap().strip_prefix("afterimage ").unwrap().to_owned();
    watch.afterimage(&command.split(' ').collect::<Vec<_>>()).expect(0);
    assert_eq!(watch.count("core_relationships").await, 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_outlives_the_guard_is_told_once() {
    let watch = Watch::begin(Release::System, MASS).await;
    let client = watch.database.connect().await;
    client.batch_execute("BEGIN; DELETE FROM core_relationships WHERE id <= 15000").await.unwrap();
    let first = watch.alert_of("mass");
    let Watch { archiver, database, _server: server, directory } = watch;
    archiver.kill();
    let archiver = super::program(&database, &directory, &["run", "--flush-interval", "50ms"]).start().streaming();
    let watch = Watch { archiver, database, _server: server, directory };
    client.batch_execute("DELETE FROM core_relationships").await.unwrap();
    watch.settle().await;
    client.batch_execute("COMMIT").await.unwrap();
    let committed = watch.event_of("mass", "committed");
    assert!(committed["message"].as_str().unwrap().contains("20000 changes"), "{committed}");
    let alerts = watch.alerts();
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0]["id"], first["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_over_a_partitioned_table_watches_every_partition_that_it_gets() {
    let rules = "[[rule]]
name = \"running\"
tables = [\"events\"]
operations = [\"delete\"]
rows = 1000
[[rule]]
name = \"committed\"
tables = [\"events\"]
except_tables = [\"events_old\"]
operations = [\"update\"]
";
    let tables = "CREATE TABLE events (id int, year int, PRIMARY KEY (id, year)) PARTITION BY LIST (year);
        CREATE TABLE events_old PARTITION OF events FOR VALUES IN (2020);
        INSERT INTO events SELECT i, 2020 FROM generate_series(1, 20000) i";
    let watch = Watch::over(Release::System, tables, rules).await;
    let client = watch.database.connect().await;
    client.batch_execute("BEGIN; DELETE FROM events").await.unwrap();
    let alert = watch.alert_of("running");
    assert_eq!((&alert["lsn"], alert["table"].as_str()), (&serde_json::Value::Null, Some("public.events_old")));
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("CREATE TABLE events_new PARTITION OF events FOR VALUES IN (2021)").await.unwrap();
    client
        .batch_execute("INSERT INTO events VALUES (1, 2021); UPDATE events SET id = 2 WHERE year = 2021")
        .await
        .unwrap();
    client.batch_execute("UPDATE events SET id = -id WHERE id = 1").await.unwrap();
    assert_eq!(watch.alert_of("committed")["table"], "public.events_new");
    watch.settle().await;
    let alerts = watch.alerts();
    assert_eq!(alerts.len(), 2, "{alerts:?}");
}
