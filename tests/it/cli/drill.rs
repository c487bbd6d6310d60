//! Restores for practice, and proofs that `run` makes by itself.

use std::fs;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{PATIENCE, Scene, assert_has, json, json_lines};
use crate::support::{Release, wait_for};

const TABLES: &str = "CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant int NOT NULL REFERENCES tenants, mood mood,
    amount numeric CHECK (amount IS NULL OR amount >= 0), double_amount numeric GENERATED ALWAYS AS (amount * 2) STORED);
CREATE TABLE notes (at timestamptz, n float8); ALTER TABLE notes REPLICA IDENTITY FULL;
INSERT INTO tenants SELECT i, 't' || i FROM generate_series(1, 10) i;
INSERT INTO orders (tenant, mood, amount) SELECT i % 10 + 1, 'low', i FROM generate_series(1, 3000) i;
INSERT INTO notes VALUES ('infinity', 'NaN'), (NULL, 0.1), (NULL, 0.1)";

/// The first file of a table's images.
fn image(scene: &Scene, table: &str) -> std::path::PathBuf {
    let found = scene.data_files(&format!("images/public/{table}"));
    found.into_iter().next().unwrap()
}

fn health(scene: &Scene, check: &str) -> Vec<Json> {
    let sql = format!("SELECT status, value, details FROM afterimage.health WHERE \"check\" = '{check}' ORDER BY ts");
    json_lines(&scene.ask_offline(["query", "--json", &sql]))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_and_how_long_it_took_is_kept() {
    for release in Release::ALL {
        let scene = Scene::archived(release, TABLES).await;
        scene
            .database
            .run("UPDATE orders SET mood = 'high' WHERE id % 3 = 0; DELETE FROM orders WHERE id % 7 = 0")
            .await;
        scene.catch_up();
        let end = scene.offline(["drill"]).run(PATIENCE).expect(0);
        assert_has(&end.stdout, &["restored 3 tables", "every row is the archived one"]);
        let report = json(&scene.offline(["drill", "orders", "tenants", "--json"]).run(PATIENCE).expect(0).stdout);
        assert_eq!((&report["tables"], &report["rows"]), (&json!(2), &json!(10 + 3000 - 428)), "{report}");
        assert!(report["recovery_seconds"].as_f64().unwrap() > 0.0, "{report}");
        let noted = health(&scene, "drill");
        assert_eq!(noted.len(), 2, "{noted:?}");
        assert_eq!((&noted[0]["status"], &noted[0]["value"]), (&json!("HEALTHY"), &json!(0)), "{noted:?}");
        let status = scene.offline(["status"]).run(PATIENCE).expect(0).stdout;
        assert_has(&status, &["HEALTHY restored 2 tables"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_back_fails_loudly() {
    let scene = Scene::archived(Release::System, TABLES).await;
    let file = image(&scene, "orders");
    let content = fs::read(&file).unwrap();
    fs::write(&file, &content[..content.len() / 2]).unwrap();
    let end = scene.offline(["drill"]).run(PATIENCE);
    assert_ne!(end.code, Some(0), "{}", end.stdout);
    assert_has(&end.stderr, &["error:", "orders"]);
    let noted = health(&scene, "drill");
    assert_eq!(noted[0]["status"], "UNHEALTHY", "{noted:?}");
    fs::write(&file, content).unwrap();
    // On a server that is there already it leaves nothing behind.
    for _ in 0..2 {
        scene.offline(["drill", "--scratch", scene.database.url()]).run(PATIENCE).expect(0);
    }
    let client = scene.database.connect().await;
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'afterimage_drill%'";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archiver_proves_the_archive_by_itself() {
    let scene = Scene::archived(Release::System, TABLES).await;
    let configuration = scene.directory.join("prove.toml");
    fs::write(&configuration, "[verify]\nevery = \"1s\"\ndeep = true\n[drill]\nevery = \"1h\"\n").unwrap();
    let arguments = ["run", "--flush-interval", "50ms", "--config", configuration.to_str().unwrap()];
    let archiver = scene.program(arguments).start();
    let proven = |check: &str, status: &str| health(&scene, check).iter().any(|record| record["status"] == status);
    wait_for("both are done", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(500));
        proven("verify --deep", "HEALTHY") && proven("drill", "HEALTHY")
    });
    let file = image(&scene, "orders");
    let content = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    wait_for("it is noticed", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(500));
        proven("verify --deep", "UNHEALTHY")
    });
    fs::write(&file, content).unwrap();
    // The alert follows what is noted.
    let alerts = || scene.offline(["guard", "alerts"]).run(PATIENCE).stdout;
    wait_for("the alert is raised", PATIENCE, || alerts().contains("verify --deep has failed"));
    assert_has(&alerts(), &["afterimage verify --deep"]);
    assert_eq!(health(&scene, "drill").len(), 1, "once an hour");
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}
