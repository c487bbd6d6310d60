//! What was, asked in SQL and with git's habits: states, changes with old and new rows, versions, differences.

use serde_json::{Value as Json, json};

use super::{PATIENCE, Scene, assert_has, complaint, json_lines};
use crate::support::Release;

/// Rows that were updated, moved to other keys, deleted, truncated, told apart by nothing, and changed in shape.
async fn scene(release: Release) -> Scene {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, name text, body text, at timestamptz);
        ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
        CREATE TABLE bag (x int, y text); ALTER TABLE bag REPLICA IDENTITY FULL;
        CREATE TABLE short (id int PRIMARY KEY, v numeric);
        INSERT INTO t SELECT i, 'name ' || i, repeat('x', 5000) || i, 'infinity' FROM generate_series(1, 3) i;
        INSERT INTO bag VALUES (1, 'a'), (1, 'a'), (2, 'b');
        INSERT INTO short VALUES (1, 'NaN')";
    let scene = Scene::archived(release, tables).await;
    let run = async |sql: &str| scene.database.run(sql).await;
    run("UPDATE t SET name = 'second' WHERE id = 1").await;
    run("UPDATE t SET id = 10 WHERE id = 1").await;
    run("UPDATE t SET name = 'third', at = '2025-01-01Z' WHERE id = 10").await;
    run("DELETE FROM t WHERE id = 2").await;
    run("INSERT INTO t VALUES (1, 'another', 'short', NULL)").await;
    run("DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE x = 1)").await;
    run("UPDATE bag SET y = 'c' WHERE x = 2").await;
    run("INSERT INTO bag VALUES (3, 'd'), (4, 'e'); DELETE FROM bag WHERE x = 3; DELETE FROM bag WHERE x = 4").await;
    run("ALTER TABLE short RENAME v TO w; ALTER TABLE short ADD z text DEFAULT 'old'").await;
    run("UPDATE short SET w = 2").await;
    run("TRUNCATE short").await;
    run("INSERT INTO short VALUES (1, 3, 'new')").await;
    scene.catch_up();
    scene
}

fn rows(scene: &Scene, sql: &str) -> Vec<Json> {
    json_lines(&scene.ask_offline(["query", "--json", sql]))
}

fn values(scene: &Scene, sql: &str) -> Vec<Json> {
    rows(scene, sql).into_iter().map(|row| row.as_object().unwrap().values().cloned().collect::<Json>()).collect()
}

/// The commit LSNs of the transactions, oldest first.
fn transactions(scene: &Scene) -> Vec<String> {
    let mut all: Vec<String> = json_lines(&scene.ask_offline(["log", "--json"]))
        .iter()
        .map(|line| line["lsn"].as_str().unwrap().to_owned())
        .collect();
    all.reverse();
    all
}

async fn sql_asks(release: Release) {
    let scene = scene(release).await;
    let lsns = transactions(&scene);
    // States.
    let state = values(&scene, "SELECT id, name, length(body) AS n FROM t ORDER BY id");
    assert_eq!(state, [json!([1, "another", 5]), json!([3, "name 3", 5001]), json!([10, "third", 5001])]);
    let (first, start) = (&lsns[0], format!("before:{}", lsns[0]));
    let before = |table: &str| format!("SELECT id, name FROM {table} ORDER BY id");
    let three = [json!([1, "name 1"]), json!([2, "name 2"]), json!([3, "name 3"])];
    assert_eq!(values(&scene, &before(&format!("t FOR SYSTEM_TIME AS OF '{start}'"))), three);
    assert_eq!(values(&scene, &before(&format!("public.t FOR SYSTEM_TIME AS OF '{start}' AS old"))), three);
    assert_eq!(values(&scene, &before(&format!("as_of('t', '{start}')"))), three);
    let at = scene.ask_offline(["query", "--format", "csv", "SELECT count(*) AS n FROM public.t", "--at", &start]);
    assert_eq!(at, "n\n3\n");
    assert_eq!(values(&scene, "SELECT count(*) FROM t WHERE id = 10"), [json!([1])]);
    assert_eq!(values(&scene, "SELECT name FROM t WHERE id IN (3, 10) AND name LIKE '%3'"), [json!(["name 3"])]);
    // Two points in one statement.
    let joined = format!(
        "SELECT now.id FROM t AS now LEFT JOIN as_of('t', '{start}') AS past ON past.id = now.id WHERE past.id IS NULL"
    );
    assert_eq!(values(&scene, &joined), [json!([10])]);
    assert_eq!(values(&scene, "SELECT x, y FROM bag ORDER BY x"), [json!([1, "a"]), json!([2, "c"])]);

    // Changes know the whole row before and after, whatever the source left out.
    let changes = values(
        &scene,
        "SELECT _op, old.id, new.id, old.name, new.name, length(old.body), length(new.body) FROM changes('t') ORDER BY _lsn, _seq",
    );
    assert_eq!(
        changes,
        [
            json!(["update", 1, 1, "name 1", "second", 5001, 5001]),
            json!(["update", 1, 10, "second", "second", 5001, 5001]),
            json!(["update", 10, 10, "second", "third", 5001, 5001]),
            json!(["delete", 2, null, "name 2", null, 5001, null]),
            json!(["insert", null, 1, null, "another", null, 5]),
        ]
    );
    let later = format!("SELECT old.name FROM changes('t', 'after:{}', 'before:{}')", lsns[1], lsns[3]);
    assert_eq!(values(&scene, &later), [json!(["second"])]);
    assert_eq!(
        values(&scene, "SELECT old.name FROM changes('t') WHERE new.id = 10 ORDER BY _lsn"),
        [json!(["second"]), json!(["second"])]
    );
    let bag = "SELECT _op, old.x, old.y, new.y FROM changes('bag') ORDER BY _lsn, _seq";
    let expected = [
        json!(["delete", 1, "a", null]),
        json!(["update", 2, "b", "c"]),
        json!(["insert", null, null, "d"]),
        json!(["insert", null, null, "e"]),
        json!(["delete", 3, "d", null]),
        json!(["delete", 4, "e", null]),
    ];
    assert_eq!(values(&scene, bag), expected);

    // Versions hold from one change to the next.
    let versions = values(
        &scene,
        "SELECT id, name, _from_lsn IS NULL AS before, _to_lsn IS NULL AS still, _to_op FROM versions('t')
         WHERE id IN (1, 10) ORDER BY _from_lsn NULLS FIRST",
    );
    assert_eq!(
        versions,
        [
            json!([1, "name 1", true, false, "update"]),
            json!([1, "second", false, false, "update"]),
            json!([10, "second", false, false, "update"]),
            json!([10, "third", false, true, null]),
            json!([1, "another", false, true, null]),
        ]
    );
    let equal = "SELECT x, y, _to_lsn IS NULL AS still FROM versions('bag') ORDER BY x, y, still";
    assert_eq!(
        values(&scene, equal),
        [
            json!([1, "a", false]),
            json!([1, "a", true]),
            json!([2, "b", false]),
            json!([2, "c", true]),
            json!([3, "d", false]),
            json!([4, "e", false])
        ]
    );
    // A truncation ends them all; a renamed column is the same column, an added one shows what it showed.
    let short =
        "SELECT id, w, z, _to_op, _to_xid IS NOT NULL AS by FROM versions('short') ORDER BY _from_lsn NULLS FIRST";
    assert_eq!(
        values(&scene, short),
        [
            json!([1, "NaN", "old", "update", true]),
            json!([1, "2", "old", "truncate", true]),
            json!([1, "3", "new", null, false])
        ]
    );

    // Differences leave out what came back.
    let diff = format!("SELECT _change, old.id, new.id, new.name FROM diff('t', '{start}') ORDER BY _change");
    let expected =
        [json!(["delete", 2, null, null]), json!(["insert", null, 1, "another"]), json!(["update", 1, 10, "third"])];
    assert_eq!(values(&scene, &diff), expected);
    let diff =
        format!("SELECT _change, old.x, old.y, new.y FROM diff('bag', '{first}') ORDER BY _change, old.y, new.y");
    assert_eq!(
        values(&scene, &diff),
        [json!(["delete", 1, "a", null]), json!(["delete", 2, "b", null]), json!(["insert", null, null, "c"])]
    );
}

#[tokio::test]
async fn sql_asks_what_was() {
    sql_asks(Release::System).await;
}

#[tokio::test]
async fn sql_asks_what_was_on_eighteen() {
    sql_asks(Release::Eighteen).await;
}

/// The identity says what of a row its changes have; a person names the row by the primary key all the same.
#[tokio::test]
async fn a_row_has_a_past_where_the_identity_is_the_whole_row() {
    let sql = "CREATE TABLE t (at date, \"the id\" int, v text, PRIMARY KEY (\"the id\", at)); ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t VALUES ('2025-01-01', 1, 'a'), ('2025-01-02', 1, 'a'), ('2025-01-01', 2, 'a')";
    let scene = Scene::archived(Release::System, sql).await;
    for sql in [
        "UPDATE t SET v = 'b' WHERE \"the id\" = 1",
        "DELETE FROM t WHERE at = '2025-01-01'",
        "INSERT INTO t VALUES ('2025-01-01', 1, 'c')",
        "TRUNCATE t",
    ] {
        scene.database.run(sql).await;
    }
    scene.catch_up();
    let history = |key: [&str; 2]| {
        let rows = json_lines(&scene.ask_offline(["history", "t", key[0], key[1], "--json"]));
        let told = |row: &Json| json!([row["op"], row["old"]["v"], row["new"]["v"]]);
        rows.iter().map(told).collect::<Vec<Json>>()
    };
    let truncated = json!(["truncate", null, null]);
    let wanted =
        [truncated.clone(), json!(["insert", null, "c"]), json!(["delete", "b", null]), json!(["update", "a", "b"])];
    assert_eq!(history(["2025-01-01", "1"]), wanted);
    assert_eq!(history(["2025-01-02", "1"]), [truncated, json!(["update", "a", "b"])]);
    assert_eq!(history(["2025-01-01", "2"]), [json!(["delete", "a", null])], "it was gone before");
    let one = complaint(scene.offline(["history", "t", "1"]).run(PATIENCE), 2);
    assert_has(&one.cause, &["the key of public.t is at, the id"]);
    let blame = json_lines(&scene.ask_offline(["blame", "t", "2025-01-01", "2", "--json"]));
    assert_eq!((&blame[2]["column"], &blame[2]["value"]), (&json!("v"), &json!("a")), "{blame:?}");
}

#[tokio::test]
async fn gits_habits() {
    let scene = scene(Release::System).await;
    let lsns = transactions(&scene);
    let text = scene.ask_offline(["show", &lsns[3]]);
    assert_has(&text, &[&format!("transaction {}", lsns[3]), "public.t -1", "- id=2  name='name 2'  body=xxxx"]);
    let shown = json_lines(&scene.ask_offline(["show", "--json", &lsns[2]]));
    assert_eq!((&shown[0]["old"]["name"], &shown[0]["new"]["name"]), (&json!("second"), &json!("third")));
    assert_eq!(shown[0]["old"]["at"], "infinity", "what no timestamp can hold is shown too");
    assert_eq!(shown[0]["old"]["body"].as_str().unwrap().len(), 5001);
    let xid = shown[0]["xid"].to_string();
    let by_xid = scene.ask_offline(["show", &xid, "--stat"]);
    assert_has(&by_xid, &["xid", &xid, "public.t ~1"]);
    assert!(!by_xid.contains("third"), "{by_xid}");

    let history = scene.ask_offline(["history", "t", "10"]);
    let wanted = ["update", "name: second → third", "id: 1 → 10", "name: 'name 1' → second"];
    let places: Vec<usize> =
        wanted.iter().map(|part| history.find(part).unwrap_or_else(|| panic!("{history}"))).collect();
    assert!(places.is_sorted(), "the newest first: {history}");
    assert!(!history.contains("another"), "that row only has a key that this one had: {history}");
    assert_eq!(json_lines(&scene.ask_offline(["history", "t", "2", "--json"]))[0]["op"], "delete");
    let never = complaint(scene.offline(["history", "t", "3"]).run(PATIENCE), 4);
    assert_has(&never.cause, &["no change of public.t 3"]);
    let keyless = complaint(scene.offline(["history", "bag", "1"]).run(PATIENCE), 2);
    assert_has(&keyless.cause, &["public.bag has no key"]);
    let two = complaint(scene.offline(["history", "t", "1", "2"]).run(PATIENCE), 2);
    assert_has(&two.cause, &["the key of public.t is id"]);

    let blame = json_lines(&scene.ask_offline(["blame", "t", "10", "--json"]));
    let by = |column: &str| blame.iter().find(|line| line["column"] == column).unwrap()["set_by"]["lsn"].clone();
    assert_eq!(by("id"), lsns[1].as_str());
    assert_eq!(by("name"), lsns[2].as_str());
    assert_eq!(by("body"), Json::Null, "it was so before the archive began");
    let blame = scene.ask_offline(["blame", "t", "2"]);
    assert_has(&blame, &["before the archive", "deleted by transaction"]);

    let from = format!("before:{}", lsns[0]);
    let stat = scene.ask_offline(["diff", "--from", &from, "--stat"]);
    assert_has(&stat, &["public.bag +1 -2", "public.short ~1", "public.t +1 ~1 -1"]);
    let rows = scene.ask_offline(["diff", "--from", &from, "short"]);
    assert_has(&rows, &["public.short", "w: NaN → 3", "z: old → new"]);
    let same = scene.offline(["diff", "--from", &lsns[0], "--to", &lsns[0]]).run(PATIENCE).expect(0);
    assert_eq!((same.stdout.as_str(), same.stderr.as_str()), ("", "nothing differs\n"));
}

#[tokio::test]
async fn mistakes_are_explained() {
    let scene = scene(Release::System).await;
    let ask = |sql: &str| complaint(scene.offline(["query", sql]).run(PATIENCE), 2);
    assert_has(&ask("SELECT * FROM shor").remedy, &["did you mean short"]);
    assert_has(&ask("SELECT * FROM changes('shor')").remedy, &["did you mean short"]);
    assert_has(&ask("SELECT * FROM as_of('t')").remedy, &["as_of('table', 'point')"]);
    assert_has(&ask("SELECT * FROM changes('t', 'noon')").cause, &["noon"]);
    assert_has(&ask("SELECT * FROM changes(t)").cause, &["in quotes"]);
    scene.database.run("CREATE TABLE late (id int PRIMARY KEY)").await;
    scene.database.run("INSERT INTO late VALUES (1)").await;
    scene.catch_up();
    let early = format!("SELECT * FROM late FOR SYSTEM_TIME AS OF 'before:{}'", transactions(&scene)[0]);
    let early = complaint(scene.offline(["query", &early]).run(PATIENCE), 4);
    assert_has(&early.cause, &["public.late did not exist at"]);
    assert_has(&early.remedy, &["it was there from transaction "]);
    assert_eq!(values(&scene, "SELECT id FROM late"), [json!([1])]);
    let future = complaint(scene.offline(["query", "SELECT * FROM as_of('t', 'FFFFFFF/0')"]).run(PATIENCE), 4);
    assert_has(&future.cause, &["above the archive's watermark"]);
}

#[tokio::test]
async fn json_answers_as_in_postgresql() {
    let scene = Scene::archived(Release::System, "CREATE TABLE d (id int PRIMARY KEY, j jsonb, k json)").await;
    let documents = [r#"{"a": {"b": [1, {"c": "x"}]}, "tags": ["red", "blue"], "n": 1.50, "z": null}"#, "[1, \"two\"]"];
    for (id, document) in documents.iter().enumerate() {
        scene.database.run(&format!("INSERT INTO d VALUES ({id}, '{document}', '{document}')")).await;
    }
    scene.catch_up();
    for expression in [
        "j -> 'a' -> 'b' ->> 0",
        "j -> 'a' #>> '{b,1,c}'",
        "j #>> '{a,b,-1,c}'",
        "j ->> 'n'",
        "j ->> 'z'",
        "j -> 'z' IS NULL",
        "j ->> 1",
        "j -> -1",
        "j ->> 'tags' IS NOT NULL",
        r#"j @> '{"tags": ["red"]}'"#,
        r#"'{"tags": ["red"]}' <@ j"#,
        r#"j @> '"two"'"#,
        "j @> '3'",
        "j -> 'tags' @> '[\"green\"]'",
        "(j ->> 'n')::numeric > 1",
        "k -> 'a' ->> 'b' IS NULL",
    ] {
        // PostgreSQL itself is the oracle; its documents are printed with blanks.
        let real = format!(
            "SELECT string_agg(replace(coalesce(({expression})::text, 'NULL'), ' ', ''), ';' ORDER BY id) FROM d"
        );
        let expected: String = scene.database.connect().await.query_one(&real, &[]).await.unwrap().get(0);
        let asked = values(&scene, &format!("SELECT CAST(({expression}) AS text) AS v FROM d ORDER BY id"));
        let shown = |row: &Json| row[0].as_str().map_or("NULL".to_owned(), |text| text.replace(' ', ""));
        let shown: Vec<String> = asked.iter().map(shown).collect();
        assert_eq!(shown.join(";"), expected, "{expression}");
    }
}

#[tokio::test]
async fn what_was_truncated_differs_though_no_change_names_it() {
    for identity in ["DEFAULT", "FULL"] {
        let table = format!(
            "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};
             INSERT INTO t SELECT i, 'v' FROM generate_series(1, 5) i"
        );
        let scene = Scene::archived(Release::System, &table).await;
        let before = scene.watermark();
        scene
            .database
            .run("UPDATE t SET v = 'w' WHERE id = 1; TRUNCATE t; INSERT INTO t VALUES (2, 'v'), (9, 'new')")
            .await;
        scene.catch_up();
        let diff = format!("SELECT _change, old.id, new.id FROM diff('t', '{before}') ORDER BY 2, 3");
        let gone = |id: i32| json!(["delete", id, null]);
        let expected = vec![gone(1), gone(3), gone(4), gone(5), json!(["insert", null, 9])];
        assert_eq!(values(&scene, &diff), expected, "{identity}");
        let ended = "SELECT id, _to_op FROM versions('t') WHERE _to_op = 'truncate' ORDER BY id, v";
        assert_eq!(values(&scene, ended).len(), 5, "{identity}");
    }
}
