//! Whoever names a partitioned table means the rows of its partitions.

use serde_json::{Value as Json, json};

use super::{PATIENCE, Scene, assert_has, json_lines};
use crate::support::Release;

const TABLES: &str = "CREATE TABLE events (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_25 (note text, at date NOT NULL, extra int, id int NOT NULL);
ALTER TABLE events_25 DROP COLUMN extra;
ALTER TABLE events ATTACH PARTITION events_25 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO events SELECT i, CASE WHEN i % 2 = 0 THEN date '2024-06-01' ELSE '2025-06-01' END, 'note ' || i FROM generate_series(1, 10) i";

fn rows(scene: &Scene, sql: &str) -> Vec<Json> {
    json_lines(&scene.ask(["query", "--json", sql]))
}

#[tokio::test]
async fn a_partitioned_table_answers_for_its_partitions() {
    let scene = Scene::archived(Release::System, TABLES).await;
    scene.database.run("INSERT INTO other VALUES (1)").await;
    scene.catch_up();
    let before = scene.watermark();
    scene.database.run("UPDATE events SET note = 'changed' WHERE id IN (2, 3)").await;
    scene.database.run("UPDATE events SET at = '2025-07-01' WHERE id = 4").await;
    scene.database.run("DELETE FROM events WHERE id IN (5, 6)").await;
    scene.database.run("ALTER TABLE events ADD COLUMN level int; UPDATE events SET level = 1 WHERE id = 7").await;
    scene.database.run("TRUNCATE events_24").await;
    scene.catch_up();

    let told = rows(
        &scene,
        &format!("SELECT _op, new.id AS id, new.note AS note, old.id AS was FROM changes('events', '{before}')"),
    );
    let ops: Vec<(&str, &Json, &Json)> =
        told.iter().map(|row| (row["_op"].as_str().unwrap(), &row["id"], &row["was"])).collect();
    let mut sorted: Vec<String> = ops.iter().map(|(op, id, was)| format!("{op} {was} {id}")).collect();
    sorted.sort();
    let expected = [
        "delete 4 null",
        "delete 5 null",
        "delete 6 null",
        "insert null 4",
        "truncate null null",
        "update 2 2",
        "update 3 3",
        "update 7 7",
    ];
    assert_eq!(sorted, expected);

    // Each row's life, whichever partition it was in; what was truncated with one partition is gone with it alone.
    let lives = rows(&scene, "SELECT count(*) AS n FROM versions('events') WHERE _to_lsn IS NULL");
    assert_eq!(lives[0], json!({ "n": 3 }), "3, 4 and 7 changed and are there");
    let differs =
        rows(&scene, &format!("SELECT _change, count(*) AS n FROM diff('events', '{before}') GROUP BY 1 ORDER BY 1"));
    assert_eq!(
        differs,
        [
            json!({ "_change": "delete", "n": 6 }),
            json!({ "_change": "insert", "n": 1 }),
            json!({ "_change": "update", "n": 2 })
        ]
    );

    let past = scene.ask(["history", "events", "4", "2025-07-01", "--no-pager"]);
    assert_has(&past, &["insert", "2025-07-01"]);
    assert!(!past.contains("note 6"), "{past}");
    let stat = scene.ask(["diff", "events", "--from", &before, "--stat", "--no-pager"]);
    assert_has(&stat, &["public.events_24", "public.events_25"]);
    let log = scene.ask(["log", "--table", "events", "--oneline", "--no-pager"]);
    assert_has(&log, &["events_24", "events_25"]);
    assert!(!log.contains("other"), "{log}");
    let with_condition = scene.ask(["log", "--table", "events", "--where", "id = 7", "--oneline", "--no-pager"]);
    assert_eq!(with_condition.lines().count(), 1, "{with_condition}");

    let archiver = scene.archiver();
    scene.run(["restore", "events", "--to", &before, "--apply"]).expect(0);
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
    let client = scene.database.connect().await;
    let count = "SELECT count(*) FROM events WHERE note = 'note ' || id";
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 10);
}
