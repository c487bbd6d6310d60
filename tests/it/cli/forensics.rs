//! `log`, `status`, `mark` and `query`: for people, and as JSON for programs.

use serde_json::Value as Json;

use super::{PATIENCE, Scene, assert_has, complaint, json, json_lines, misuse};
use crate::support::{Release, wait_for};

/// Two tables of one name and four transactions, the last without a row.
async fn scene() -> Scene {
    let tables =
        "CREATE TABLE t (id int PRIMARY KEY, name text); CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY);
        CREATE TABLE quiet (id int PRIMARY KEY)";
    let scene = Scene::archived(Release::System, tables).await;
    scene.database.run("BEGIN; INSERT INTO t VALUES (1, 'a'), (2, NULL); INSERT INTO s.t VALUES (1); COMMIT").await;
    scene.database.run("UPDATE t SET name = 'b' WHERE id = 1").await;
    scene.database.run("DELETE FROM t").await;
    scene.run(["mark", "after the deletion", "--wait", "0s"]).expect(0);
    scene.catch_up();
    scene
}

fn changes(line: &Json) -> u64 {
    line["changes"].as_u64().unwrap()
}

#[tokio::test]
async fn log_lists_and_filters() {
    let scene = scene().await;
    let log = |more: &[&'static str]| {
        let arguments = ["log", "--json"].into_iter().chain(more.iter().copied());
        json_lines(&scene.ask_offline(arguments.collect::<Vec<_>>()))
    };
    let all = log(&[]);
    assert_eq!(all.iter().map(changes).collect::<Vec<_>>(), [0, 2, 1, 3], "the newest first");
    let first = &all[3];
    assert_eq!(first["tables"][0]["table"], "t");
    assert_eq!((&first["tables"][0]["schema"], &first["tables"][0]["insert"]), (&Json::from("public"), &Json::from(2)));
    assert!(first["xid"].is_u64() && first["time"].as_str().unwrap().ends_with('Z'), "{first}");

    let wanted = |more: &[&'static str]| log(more).iter().map(changes).collect::<Vec<_>>();
    assert_eq!(wanted(&["--limit", "2"]), [0, 2]);
    assert_eq!(wanted(&["-n", "0"]), [] as [u64; 0]);
    assert_eq!(wanted(&["--table", "t"]), [2, 1, 3]);
    assert_eq!(wanted(&["--table", "s.*"]), [3]);
    assert_eq!(wanted(&["--table", "s.t", "--table", "t", "--op", "delete"]), [2]);
    assert_eq!(wanted(&["--op", "update", "--op", "insert"]), [1, 3]);
    assert_eq!(wanted(&["--table", "s.t", "--op", "delete"]), [] as [u64; 0]);
    assert_eq!(wanted(&["--table", "quiet"]), [] as [u64; 0]);
    assert_eq!(wanted(&["--from", "mark:after the deletion"]), [] as [u64; 0]);
    assert_eq!(wanted(&["--to", "mark:after the deletion", "-n", "1"]), [0]);
}

#[tokio::test]
async fn a_range_of_the_log_is_one_of_points() {
    let scene = scene().await;
    let all = json_lines(&scene.ask_offline(["log", "--json"]));
    let (update, deletion) = (all[2]["xid"].to_string(), all[1]["lsn"].as_str().unwrap());
    let (after_update, before_update) = (format!("after:{update}"), format!("before:{update}"));
    let (before_deletion, after_deletion) = (format!("before:{deletion}"), format!("after:{deletion}"));
    let range = |from: &str, to: &str| {
        let lines = json_lines(&scene.ask_offline(["log", "--json", "--from", from, "--to", to]));
        lines.iter().map(changes).collect::<Vec<_>>()
    };
    assert_eq!(range(&before_update, &after_deletion), [2, 1]);
    assert_eq!(range(&after_update, &after_deletion), [2]);
    assert_eq!(range(&after_update, &before_deletion), [] as [u64; 0]);
    let exchanged = ["log", "--from", &after_deletion, "--to", &before_update];
    let exchanged = complaint(scene.offline(exchanged).run(PATIENCE), 2);
    assert_has(&exchanged.cause, &["--from", "comes after --to", &after_deletion]);
    let unknown = complaint(scene.offline(["log", "--from", "before:1"]).run(PATIENCE), 4);
    assert_has(&unknown.cause, &["no transaction 1"]);
}

#[tokio::test]
async fn log_for_people() {
    let scene = scene().await;
    let text = scene.ask_offline(["log"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_has(lines[3], &["xid ", "public.t +2", "s.t +1"]);
    assert_has(lines[2], &["public.t ~1"]);
    assert_has(lines[1], &["public.t -2"]);
    assert_has(lines[0], &["no rows"]);
    assert!(!text.contains('\x1b'), "no colours where no terminal is");
    // A mistyped table is not one that nobody touched.
    let typo = complaint(scene.offline(["log", "--table", "orders"]).run(PATIENCE), 2);
    assert_eq!(typo.cause, "no archived table is named orders");
    assert_has(&misuse(scene.run(["log", "--op", "upsert"])), &["insert, update, delete, truncate"]);
    assert_has(&misuse(scene.run(["log", "--limit", "many"])), &["--limit"]);
    let none = scene.offline(["log", "--table", "quiet"]).run(PATIENCE).expect(0);
    assert_eq!((none.stdout.as_str(), none.stderr.as_str()), ("", "no such transactions\n"));
}

#[tokio::test]
async fn log_in_other_lengths_and_by_rows() {
    let scene = scene().await;
    let short = scene.ask_offline(["log", "--oneline", "--no-pager"]);
    let lines: Vec<&str> = short.lines().collect();
    let lsns: Vec<String> = json_lines(&scene.ask_offline(["log", "--json"]))
        .iter()
        .map(|line| line["lsn"].as_str().unwrap().to_owned())
        .collect();
    let mut expected: Vec<String> = lsns.clone();
    for (line, what) in expected.iter_mut().zip([" no rows", " public.t -2", " public.t ~1", " public.t +2 s.t +1"]) {
        line.push_str(what);
    }
    expected[3] = format!("{} public.t +2 s.t +1", lsns[3]);
    assert_eq!(lines, expected);
    let stat = scene.ask_offline(["log", "--stat", "-n", "2", "--table", "t"]);
    assert_has(&stat, &[&format!("transaction {}  xid ", lsns[1]), "Date:   20", "\n    public.t -2\n\ntransaction"]);
    assert_has(&misuse(scene.run(["log", "--stat", "--oneline"])), &["cannot be used with"]);

    let whose = |arguments: &[&str]| -> Vec<String> {
        let arguments = ["log", "--json", "--table", "t"].iter().chain(arguments);
        let lines = json_lines(&scene.ask_offline(arguments.copied()));
        lines.iter().map(|line| line["lsn"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(whose(&["--where", "id = 2"]), [&lsns[1], &lsns[3]].map(Clone::clone), "whatever happened to that row");
    assert_eq!(whose(&["--where", "id = 2", "-n", "1"]), lsns[1..2]);
    assert_eq!(whose(&["--where", "name = 'a'", "--op", "insert"]), lsns[3..4]);
    assert_eq!(whose(&["--where", "name = 'b'", "--op", "delete"]), lsns[1..2]);
    assert_eq!(whose(&["--where", "old.name IS DISTINCT FROM new.name -- of updates", "--op", "update"]), lsns[2..3]);
    assert_eq!(whose(&["--where", "id > 100"]), [] as [&str; 0]);
    let none = scene.offline(["log", "--table", "t", "--where", "id > 100"]).run(PATIENCE).expect(0);
    assert_eq!(none.stderr, "no such transactions\n");
    assert_has(&misuse(scene.run(["log", "--where", "id = 1"])), &["--table"]);
    let wrong = complaint(scene.offline(["log", "--table", "t", "--where", "idd = 1"]).run(PATIENCE), 2);
    assert_has(&wrong.cause, &["idd"]);
    let two = ["log", "--table", "t", "--table", "s.t", "--where", "id = 1"];
    assert_has(&complaint(scene.offline(two).run(PATIENCE), 2).cause, &["one table"]);
}

#[tokio::test]
async fn an_archive_without_transactions_yet() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let log = scene.offline(["log"]).run(PATIENCE).expect(0);
    assert_eq!((log.stdout.as_str(), log.stderr.as_str()), ("", "no transactions yet\n"));
    let log = scene.offline(["log", "--json"]).run(PATIENCE).expect(0);
    assert_eq!((log.stdout.as_str(), log.stderr.as_str()), ("", ""));
    let status = json(&scene.ask_offline(["status", "--json"]));
    assert_eq!(status["transactions"], 0);
    assert_eq!(scene.ask_offline(["export", "t", "--at", status["start_lsn"].as_str().unwrap()]), "id\n1\n");
    for table in ["afterimage.transactions", "afterimage.marks", "afterimage.restores", "changes.t", "changes.public.t"]
    {
        let rows = scene.ask_offline(["query", "--format", "csv", &format!("SELECT count(*) AS n FROM {table}")]);
        assert_eq!(rows, "n\n0\n", "{table}");
    }
    assert_eq!(json_lines(&scene.ask_offline(["query", "--json", "SELECT id FROM images.t"]))[0]["id"], 1);
    let point = complaint(scene.offline(["export", "t", "--at", "after:0/1"]).run(PATIENCE), 4);
    assert_has(&point.remedy, &["no transactions yet"]);
}

#[tokio::test]
async fn status_tells_how_far_and_how_well() {
    let scene = scene().await;
    let offline = json(&scene.ask_offline(["status", "--json"]));
    assert_eq!((&offline["transactions"], &offline["marks"]), (&Json::from(4), &Json::from(1)));
    assert_eq!(offline["source"], Json::Null);
    assert_eq!(offline["tables"].as_array().unwrap().len(), 3);
    assert_has(&scene.ask_offline(["status"]), &["4 transactions, 1 mark, 0 restores", "not asked", "1 file,"]);

    let stopped = scene.run(["status", "--json"]).expect(3);
    assert_has(&stopped.stderr, &["no archiver is running", "afterimage run"]);
    assert_eq!(json(&stopped.stdout)["source"]["slot"]["active_pid"], Json::Null);

    let archiver = scene.archiver();
    wait_for("the archiver streams", PATIENCE, || scene.run(["status"]).code == Some(0));
    let running = json(&scene.ask(["status", "--json"]));
    assert!(running["source"]["slot"]["active_pid"].is_i64(), "{running}");
    assert!(running["source"]["lag_bytes"].is_u64() && running["source"]["lag_seconds"].is_f64(), "{running}");
    assert_has(&scene.ask(["status"]), &["in use by the server process", "public.t"]);
    drop(archiver);

    // While the source is down, the archive is all the more asked for.
    let down = scene.offline(["status", "--json", "--source", "postgres://u@127.0.0.1:1/d"]).run(PATIENCE).expect(1);
    assert_eq!(json(&down.stdout)["start_lsn"], running["start_lsn"]);
    assert_has(json(&down.stdout)["source_error"].as_str().unwrap(), &["no server listens there"]);
    assert_has(&down.stderr, &["no server listens there"]);
    let down = scene.offline(["status", "--source", "postgres://u@127.0.0.1:1/d"]).run(PATIENCE).expect(1);
    assert_has(&down.stdout, &["public.t", "cannot be looked at"]);

    let client = scene.database.connect().await;
    wait_for_free_slot(&client).await;
    client
        .batch_execute(&format!("SELECT pg_drop_replication_slot('afterimage_{}')", scene.database.name()))
        .await
        .unwrap();
    let lost = scene.run(["status"]).expect(3);
    assert_has(&lost.stderr, &["slot does not exist"]);
}

async fn wait_for_free_slot(client: &tokio_postgres::Client) {
    let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
               WHERE database = current_database() AND active_pid IS NOT NULL";
    while !client.query(sql, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn marks_are_named_and_shown() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let late = scene.run(["mark", "one", "--wait", "0s", "--json"]).expect(0);
    assert_eq!(
        (&json(&late.stdout)["name"], &json(&late.stdout)["archived"]),
        (&Json::from("one"), &Json::from(false))
    );
    scene.catch_up();
    let archiver = scene.archiver();
    let made = json(&scene.ask(["mark", "two", "--json", "--wait", "60s"]));
    assert_eq!(made["archived"], true);
    drop(archiver);
    let listed = json_lines(&scene.ask_offline([
        "query",
        "--json",
        "SELECT name, lsn, \"user\" FROM afterimage.marks ORDER BY lsn",
    ]));
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[1]["name"], &listed[1]["user"]), (&made["name"], &Json::from("postgres")));
    for name in ["", "  ", " padded", "two\nlines"] {
        misuse(scene.run(["mark", name]));
    }
    let again = complaint(scene.run(["mark", "two"]), 4);
    assert_has(&again.cause, &["there is a mark \"two\""]);
    assert_has(&complaint(scene.offline(["mark", "x"]).run(PATIENCE), 2).cause, &["no source is named"]);
}

#[tokio::test]
async fn queries_over_changes_images_and_log() {
    let scene = scene().await;
    let query = |sql: &str| json_lines(&scene.ask_offline(["query", "--json", sql]));
    let deleted = query("SELECT _op, _old, _xid FROM changes.t WHERE _op = 'delete' ORDER BY _lsn, _seq");
    let mut ids: Vec<_> = deleted.iter().map(|row| row["_old"]["id"].as_i64()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [Some(1), Some(2)]);
    assert_eq!(query("SELECT count(*) AS n FROM images.t")[0]["n"], 0);
    assert_eq!(query("SELECT count(*) AS n FROM afterimage.transactions WHERE changes > 0")[0]["n"], 3);
    assert_eq!(query("SELECT count(*) AS n FROM changes.s.t")[0]["n"], 1);
    let table = scene.ask_offline(["query", "SELECT id, name FROM changes.t WHERE _op = 'insert' ORDER BY id"]);
    assert_eq!(table, " id | name\n----+------\n  1 | a\n  2 |\n(2 rows)\n");
    let csv = scene.ask_offline([
        "query",
        "--format",
        "csv",
        "SELECT id, name FROM changes.t WHERE _op = 'insert' ORDER BY id",
    ]);
    assert_eq!(csv, "id,name\n1,a\n2,\n");
    let tables: Vec<String> =
        query("SHOW TABLES").iter().map(|row| row["table"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        tables.iter().filter(|name| name.starts_with("changes.")).collect::<Vec<_>>(),
        ["changes.quiet", "changes.s.t", "changes.t"]
    );
    for table in tables {
        query(&format!("SELECT * FROM {table}"));
    }
    let left: Vec<_> =
        std::fs::read_dir(scene.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["archive"]);
}

#[tokio::test]
async fn a_query_that_is_wrong() {
    let scene = scene().await;
    let wrong = |sql: &str| complaint(scene.offline(["query", sql]).run(PATIENCE), 2);
    assert_has(&wrong("SELECT '").cause, &["Unterminated string literal at Line: 1, Column: 8"]);
    assert!(!wrong("SELECT '").cause.contains("Error"), "the names of types mean nothing to a reader");
    assert_has(&wrong("SELEC 1").remedy, &["PostgreSQL"]);
    assert_has(&wrong("SELECT * FROM changes.tt").cause, &["there is no table changes.tt"]);
    assert_has(&wrong("SELECT * FROM changes.tt").remedy, &["did you mean", "changes.t"]);
    assert_has(&wrong("SELECT * FROM tt").remedy, &["did you mean t?"]);
    assert_has(&wrong("SELECT nmae FROM changes.t").cause, &["nmae"]);
    assert_has(&wrong("DELETE FROM changes.t").cause, &["only read"]);
    assert_has(&wrong("SELECT 1; SELECT 2").remedy, &["one at a time"]);
    for nothing in ["", "  ", ";", "/* only a comment */"] {
        assert_has(&wrong(nothing).cause, &["no statement was given"]);
    }
    // Standard input is empty here.
    assert_has(
        &complaint(scene.offline(["query"]).run(PATIENCE), 2).remedy,
        &["afterimage query 'SELECT", "SHOW TABLES"],
    );
    assert_has(&misuse(scene.offline(["query", "SELECT 1", "--memory", "lots"]).run(PATIENCE)), &["is not a size"]);
    let both = complaint(scene.offline(["query", "SELECT 1", "--json", "--format", "csv"]).run(PATIENCE), 2);
    assert_has(&both.cause, &["--json and --format"]);
}

/// `| head` is no error, and says nothing.
#[tokio::test]
async fn a_reader_who_leaves_is_no_error() {
    let scene = scene().await;
    let commands: [&[&str]; 10] = [
        &["log"],
        &["log", "--json"],
        &["status"],
        &["status", "--json"],
        &["export", "t", "--at", "mark:after the deletion"],
        &["export", "t", "--at", "mark:after the deletion", "--format", "parquet"],
        &["query", "SELECT * FROM afterimage.transactions"],
        &["query", "--json", "SELECT * FROM afterimage.transactions"],
        &["--help"],
        &["--version"],
    ];
    for arguments in commands {
        let end = scene.offline(arguments.iter().copied()).run_without_reader(PATIENCE).expect(0);
        assert_eq!(end.stderr, "", "{arguments:?}");
    }
}
