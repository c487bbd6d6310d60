//! Changes of definitions while the archiver runs: what people do to a schema, and what must not be lost by it.

use afterimage::model::TableName;

use crate::support::{Database, Directory, PATIENCE, Release, Site, State, postgres, wait_for};

fn table(name: &str) -> TableName {
    TableName::new("public", name)
}

async fn database(sql: &str) -> Database {
    let database = Database::create(postgres(Release::System)).await;
    database.run(sql).await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_columns_default_shows_in_rows_of_before_and_not_earlier() {
    let database =
        database("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.init();
    let before = State::of(&database).await;
    database
        .run("INSERT INTO t VALUES (3, 'c'); ALTER TABLE t ADD n int DEFAULT 5 NOT NULL, ADD m text DEFAULT 'x,\"y'")
        .await;
    let added = State::of(&database).await;
    database
        .run("ALTER TABLE t ALTER n SET DEFAULT 6; INSERT INTO t VALUES (4, 'd'); UPDATE t SET m = NULL WHERE id = 1")
        .await;
    let after = State::of(&database).await;
    site.catch_up();
    for state in [&before, &added, &after] {
        site.expect_equal(state);
    }
    assert!(added.tables[&table("t")].contains("1,a,5,\"x,\"\"y\""), "{:?}", added.tables);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_is_there_before_its_drop_and_its_successor_after() {
    let database = database("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--set-identity-full"]).run(PATIENCE).expect(0);
    database.run("INSERT INTO t VALUES (2)").await;
    let first = State::of(&database).await;
    database.run("DROP TABLE t").await;
    let gone = State::of(&database).await;
    database.run("CREATE TABLE t (other text); INSERT INTO t VALUES ('x'), ('x')").await;
    let second = State::of(&database).await;
    site.catch_up();
    site.expect_equal(&first);
    site.expect_equal(&second);
    let end = site.command(["export", "t", "--at", &gone.lsn.to_string()]).run(PATIENCE).expect(4);
    assert!(end.stderr.contains("dropped it") && end.stderr.contains("--at before:"), "{}", end.stderr);
    let log = site.command(["log", "--table", "t"]).run(PATIENCE).expect(0).stdout;
    assert!(log.contains("DROP TABLE public.t") && log.contains("CREATE TABLE public.t"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tables_updates_do_not_fail_and_are_archived() {
    let database = database("CREATE TABLE t (id int PRIMARY KEY)").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
    database
        .run(
            "CREATE TABLE keyless (a int, b text); INSERT INTO keyless SELECT g, g FROM generate_series(1, 9) g;
             UPDATE keyless SET b = 'x' WHERE a < 5; DELETE FROM keyless WHERE a = 5;
             ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (1), (1); UPDATE t SET id = 2;
             CREATE TABLE made AS SELECT * FROM keyless; DELETE FROM made WHERE a = 1;
             CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1), (2);
             UPDATE late SET id = 3 - id",
        )
        .await;
    let state = State::of(&database).await;
    site.catch_up();
    assert_eq!(state.tables.len(), 4);
    site.expect_equal(&state);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_wanted_new_tables_are_archived_and_none_that_cannot_be() {
    let database =
        database("CREATE TABLE wanted_a (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--tables", "wanted_*"]).run(PATIENCE).expect(0);
    database
        .run(
            "CREATE TABLE wanted_b (id int PRIMARY KEY); INSERT INTO wanted_b VALUES (1);
             CREATE TABLE wanted_c AS SELECT 1 AS id; UPDATE wanted_c SET id = 2;
             CREATE TABLE unwanted (id int PRIMARY KEY); INSERT INTO unwanted VALUES (1); UPDATE other SET id = 1",
        )
        .await;
    site.catch_up();
    assert_eq!(site.present(&table("wanted_b")).await, "id\n1\n");
    // Without an identity it is not published until it has one; then its rows so far are told.
    site.command(["export", "wanted_c", "--at", "now"]).run(PATIENCE).expect(4);
    // What was never archived is not lost.
    let status = site.command(["status"]).run(PATIENCE);
    assert!(status.stdout.contains("not covered public.other, public.unwanted, public.wanted_c"), "{}", status.stdout);
    assert!(!status.stderr.contains("not archived any more"), "{}", status.stderr);
    site.command(["export", "unwanted", "--at", "now"]).run(PATIENCE).expect(4);
    database.run("ALTER TABLE wanted_c ADD PRIMARY KEY (id); INSERT INTO wanted_c VALUES (7)").await;
    assert_eq!(site.present(&table("wanted_c")).await, "id\n2\n7\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_its_leaves_through_attach_and_detach() {
    let database = database(
        "CREATE TABLE p (id int, v text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1, 'one')",
    )
    .await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--set-identity-full"]).run(PATIENCE).expect(0);
    let archiver = site.stream();
    database
        .run(
            "CREATE TABLE p2 (v text, id int); INSERT INTO p2 VALUES ('eleven', 11);
             ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20); UPDATE p SET id = 12 WHERE id = 1",
        )
        .await;
    let sorted = |csv: String| {
        let mut lines: Vec<String> = csv.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let now = |site: &Site<'_>| sorted(site.export(&table("p"), "now"));
    assert_eq!(now(&site), ["11,eleven", "12,one", "id,v"]);
    database.run("ALTER TABLE p DETACH PARTITION p2").await;
    assert_eq!(now(&site), ["id,v"]);
    archiver.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_table_is_added_to_an_archive_that_runs() {
    let database =
        database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE later (id int PRIMARY KEY, v text)").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--tables", "t"]).run(PATIENCE).expect(0);
    let archiver = site.stream();
    database.run("INSERT INTO later SELECT g, g FROM generate_series(1, 1000) g").await;
    let early = State::of(&database).await;
    let end = site.command(["init", "--add", "later", "--wait", "60s"]).run(PATIENCE).expect(0);
    assert!(end.stdout.contains("the history of public.later begins at"), "{}", end.stdout);
    database.run("UPDATE later SET v = 'x' WHERE id < 10; DELETE FROM later WHERE id > 990").await;
    let late = State::of(&database).await;
    wait_for("the archive has it", PATIENCE, || {
        site.command(["export", "later", "--at", "now"]).run(PATIENCE).code == Some(0)
    });
    site.expect_equal(&late);
    let refused = site.command(["export", "later", "--at", &early.lsn.to_string()]).run(PATIENCE).expect(4);
    assert!(refused.stderr.contains("did not exist") || refused.stderr.contains("not known"), "{}", refused.stderr);
    archiver.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_event_triggers_the_catalogue_is_looked_at() {
    let database = database("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--no-ddl-capture"]).run(PATIENCE).expect(0);
    let archiver = site.stream();
    database
        .run(
            "ALTER TABLE t ADD n int DEFAULT 5; ALTER TABLE t RENAME v TO w; INSERT INTO t VALUES (2, 'b', 6);
             CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1), (2)",
        )
        .await;
    wait_for("the new table is archived", PATIENCE, || {
        site.command(["export", "fresh", "--at", "now"]).run(PATIENCE).code == Some(0)
    });
    database.run("INSERT INTO fresh VALUES (3)").await;
    let state = State::of(&database).await;
    site.command(["export", "fresh", "--at", "now"]).run(PATIENCE).expect(0);
    site.expect_equal(&state);
    let status = site.command(["status"]).run(PATIENCE).expect(0).stdout;
    assert!(status.contains("looked for in the catalogue"), "{status}");
    archiver.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_keeps_statements_messages_and_sequences_but_no_secrets() {
    let database = database("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.init();
    database
        .run(
            "BEGIN; SELECT pg_logical_emit_message(true, 'app', '\\x00ff'::bytea); ALTER TABLE t ADD n int; COMMIT;
             SELECT pg_logical_emit_message(false, 'app', 'at once');
             SELECT pg_logical_emit_message(true, 'afterimage.ddl', 'anybody can write this');
             CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (password 'hunter2');
             CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (password 'hunter2')",
        )
        .await;
    database.run("BEGIN; SELECT pg_logical_emit_message(true, 'app', 'rolled back'); ROLLBACK").await;
    site.command(["mark", "m", "--wait", "0s"]).run(PATIENCE).expect(0);
    site.catch_up();
    let messages = site.query(
        "SELECT prefix, xid IS NULL AS at_once, encode(content, 'hex') AS content FROM afterimage.messages ORDER BY lsn",
    );
    let contents: Vec<&str> = messages.iter().map(|row| row["content"].as_str().unwrap()).collect();
    assert_eq!(contents, ["00ff", "6174206f6e6365", "616e79626f64792063616e2077726974652074686973"], "{messages:?}");
    assert_eq!(messages[1]["at_once"], true);
    let ddl = site.query("SELECT tag, statement, objects FROM afterimage.ddl WHERE tag <> 'INIT' ORDER BY lsn, seq");
    assert!(ddl.iter().any(|row| row["tag"] == "ALTER TABLE"), "{ddl:?}");
    assert!(ddl.iter().any(|row| row["tag"] == "CREATE USER MAPPING"), "{ddl:?}");
    assert!(!format!("{ddl:?}").contains("hunter2"), "{ddl:?}");
    let sequences = site.query("SELECT sequence, value, called FROM afterimage.sequences ORDER BY lsn");
    let last = sequences.last().expect("sequences are sampled at a mark");
    assert_eq!(
        (last["sequence"].as_str(), last["value"].as_i64(), last["called"].as_bool()),
        (Some("t_id_seq"), Some(1), Some(true))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_trigger_that_fails_fails_no_statement() {
    let database = database("CREATE TABLE t (id int PRIMARY KEY)").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.init();
    database.run("CREATE OR REPLACE FUNCTION afterimage.describe(oid) RETURNS jsonb LANGUAGE sql AS 'SELECT (1 / 0)::text::jsonb'").await;
    database.run("ALTER TABLE t ADD n int; INSERT INTO t VALUES (1, 2)").await;
    assert_eq!(site.present(&table("t")).await, "id,n\n1,2\n");
    let failed = site.query("SELECT failed FROM afterimage.ddl WHERE failed IS NOT NULL");
    assert!(failed[0]["failed"].as_str().unwrap().contains("division by zero"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn truncations_count_when_they_are_committed_and_only_then() {
    let database = database(
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a);
         CREATE TABLE c (id int PRIMARY KEY); INSERT INTO a SELECT FROM generate_series(1, 5);
         INSERT INTO b SELECT g FROM generate_series(1, 3) g; INSERT INTO c VALUES (1)",
    )
    .await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.init();
    let mut states = vec![State::of(&database).await];
    for sql in [
        "BEGIN; TRUNCATE a, c CASCADE; ROLLBACK; INSERT INTO c VALUES (2)",
        "BEGIN; SAVEPOINT s; TRUNCATE c; INSERT INTO c VALUES (9); ROLLBACK TO s; INSERT INTO c VALUES (3); COMMIT",
        "BEGIN; INSERT INTO a DEFAULT VALUES; TRUNCATE a, c RESTART IDENTITY CASCADE; INSERT INTO a DEFAULT VALUES; COMMIT",
    ] {
        database.run(sql).await;
        states.push(State::of(&database).await);
    }
    site.catch_up();
    assert_eq!(states[3].tables[&table("a")], "id\n1\n");
    for state in &states {
        site.expect_equal(state);
    }
    let truncated = site.query("SELECT count(*) AS n FROM changes.b WHERE _op = 'truncate'");
    assert_eq!(truncated[0]["n"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_leaves_the_publication_keeps_its_history_and_no_longer_pretends() {
    let database = database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.init();
    database.run("INSERT INTO t VALUES (1)").await;
    let before = State::of(&database).await;
    database.run("ALTER PUBLICATION afterimage DROP TABLE t; INSERT INTO t VALUES (2)").await;
    let after = State::of(&database).await;
    site.catch_up();
    site.expect_equal(&before);
    let end = site.command(["export", "t", "--at", &after.lsn.to_string()]).run(PATIENCE).expect(4);
    assert!(end.stderr.contains("not known from"), "{}", end.stderr);
    // SQL knows the gap, and refuses a point in it as everything else does.
    let gaps = site.query("SELECT \"table\", lsn, end_lsn FROM afterimage.gaps");
    assert_eq!((gaps.len(), gaps[0]["table"].as_str()), (1, Some("t")), "{gaps:?}");
    assert!(gaps[0]["end_lsn"].is_null() && gaps[0]["lsn"].as_str().unwrap().contains('/'), "{gaps:?}");
    let before_it = format!("SELECT count(*) AS n FROM as_of('t', 'before:{}')", gaps[0]["lsn"].as_str().unwrap());
    assert_eq!(site.query(&before_it)[0]["n"], 1);
    for sql in ["SELECT * FROM t".to_owned(), format!("SELECT * FROM as_of('t', '{}')", after.lsn)] {
        let end = site.command(["query", &sql]).run(PATIENCE).expect(4);
        assert!(end.stderr.contains("not known from"), "{}", end.stderr);
    }
    assert_eq!(site.query("SELECT count(*) AS n FROM u")[0]["n"], 0, "another table is none the worse");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_tables_come_back() {
    let columns: Vec<String> = (0..1600).map(|at| format!("c{at} int")).collect();
    let database = database(&format!(
        "CREATE TABLE none (); INSERT INTO none DEFAULT VALUES; INSERT INTO none DEFAULT VALUES;
         CREATE TABLE generated (g int GENERATED ALWAYS AS (1 + 1) STORED); INSERT INTO generated DEFAULT VALUES;
         CREATE TABLE wide ({}); INSERT INTO wide (c0, c1599) VALUES (1, 2);
         CREATE TABLE large (id int PRIMARY KEY, v text, w text)",
        columns.join(", ")
    ))
    .await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
    database
        .run(
            "INSERT INTO none DEFAULT VALUES; DELETE FROM none WHERE ctid = '(0,1)';
             INSERT INTO generated DEFAULT VALUES; UPDATE wide SET c5 = 9;
             INSERT INTO large VALUES (1, repeat('0123456789', 10000000), 'w'); UPDATE large SET w = 'x'",
        )
        .await;
    let mut state = State::of(&database).await;
    // Its only column is not published.
    state.tables.remove(&table("generated")).unwrap();
    site.catch_up();
    site.expect_equal(&state);
    let end = site.command(["export", "generated", "--at", &state.lsn.to_string()]).run(PATIENCE).expect(0);
    assert!(end.stderr.contains("generated column"), "{}", end.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_are_covered_on_eighteen_and_break_no_update() {
    let database = Database::create(postgres(Release::Eighteen)).await;
    database
        .run(
            "CREATE TABLE stored (x int, s int GENERATED ALWAYS AS (x * 2) STORED);
             CREATE TABLE virtual (x int, v int GENERATED ALWAYS AS (x * 2) VIRTUAL);
             CREATE TABLE keyed (id int PRIMARY KEY, x int, v int GENERATED ALWAYS AS (x * 2) VIRTUAL);
             ALTER TABLE keyed REPLICA IDENTITY FULL;
             INSERT INTO stored VALUES (1); INSERT INTO virtual VALUES (1); INSERT INTO keyed VALUES (1, 1)",
        )
        .await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    let told = site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
    assert!(told.stderr.contains("set REPLICA IDENTITY DEFAULT on public.keyed"), "{}", told.stderr);
    assert!(told.stderr.contains("left out: public.virtual"), "{}", told.stderr);
    let changes = "UPDATE stored SET x = 5; UPDATE virtual SET x = 5; UPDATE keyed SET x = 5";
    database.run(changes).await;
    let now = "ALTER TABLE stored ADD t text GENERATED ALWAYS AS (x || '!') STORED; INSERT INTO stored VALUES (7);
               CREATE TABLE later (x int, v int GENERATED ALWAYS AS (x * 2) VIRTUAL); INSERT INTO later VALUES (1);
               UPDATE later SET x = 2; ALTER TABLE stored ALTER t DROP EXPRESSION; UPDATE stored SET t = 'own' WHERE x = 7";
    database.run(now).await;
    site.catch_up();
    assert_eq!(site.present(&table("stored")).await, "x,s,t\n5,10,5!\n7,14,own\n");
    assert_eq!(site.present(&table("keyed")).await, "id,x\n1,5\n");
    site.command(["export", "virtual", "--at", "now"]).run(PATIENCE).expect(2);
    let before = State::of(&database).await;
    let archiver = site.stream();
    database.run("DELETE FROM stored").await;
    site.command(["restore", "stored", "--to", &before.lsn.to_string(), "--apply"]).run(PATIENCE).expect(0);
    archiver.kill();
    assert_eq!(State::of(&database).await.tables[&table("stored")], before.tables[&table("stored")]);
}

/// A publication of all tables can have no exception; it must become one of the others before an UPDATE fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_published_leaves_a_publication_of_all() {
    let database = Database::create(postgres(Release::Eighteen)).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (x int)").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    let told = site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
    assert!(told.stderr.contains("for all tables"), "{}", told.stderr);
    database
        .run(
            "INSERT INTO u VALUES (1); CREATE TABLE virtual (x int, v int GENERATED ALWAYS AS (x * 2) VIRTUAL);
             INSERT INTO virtual VALUES (1); UPDATE virtual SET x = 2; DELETE FROM virtual;
             UPDATE u SET x = 2; INSERT INTO t VALUES (1, 'a');
             CREATE TABLE w (x int); INSERT INTO w VALUES (1); UPDATE w SET x = 2;
             ALTER TABLE u ADD v int GENERATED ALWAYS AS (x + 1) VIRTUAL",
        )
        .await;
    database.run("UPDATE u SET x = 3; UPDATE t SET v = 'b'").await;
    site.catch_up();
    assert_eq!(site.present(&table("t")).await, "id,v\n1,b\n");
    assert_eq!(site.present(&table("w")).await, "x\n2\n");
    let end = site.command(["export", "u", "--at", "now"]).run(PATIENCE).expect(4);
    assert!(end.stderr.contains("not known from"), "{}", end.stderr);
}

/// A session can keep the event triggers quiet; the catalogue cannot be silenced.
#[tokio::test(flavor = "multi_thread")]
async fn what_ddl_capture_misses_is_found_in_the_catalogue() {
    let database = database("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')").await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.command(["init", "--all-tables"]).run(PATIENCE).expect(0);
    database
        .run(
            "SET afterimage.busy = 'on'; ALTER TABLE t RENAME v TO w; ALTER TABLE t ADD n int;
             CREATE TABLE quiet (id int PRIMARY KEY); INSERT INTO quiet VALUES (1); DROP TABLE IF EXISTS gone",
        )
        .await;
    let archiver = site.stream();
    wait_for("the silent table is archived", PATIENCE, || {
        site.command(["export", "quiet", "--at", "now"]).run(PATIENCE).code == Some(0)
    });
    database.run("INSERT INTO quiet VALUES (2)").await;
    let state = State::of(&database).await;
    site.command(["export", "quiet", "--at", "now"]).run(PATIENCE).expect(0);
    site.expect_equal(&state);
    archiver.kill();
}
