//! Transactions that are sent before they have ended, or that end in two phases.

use afterimage::model::{Lsn, TableName};
use afterimage::scratch::Scratch;

use crate::support::{Database, Directory, PATIENCE, Release, Site, State, copy_query, own_postgres, wait_for};

fn table(name: &str) -> TableName {
    TableName::new("public", name)
}

/// The present where nobody commits meanwhile. The oracle's snapshots would wait for what is in progress.
async fn quiet_state(database: &Database) -> State {
    let client = database.connect().await;
    let mut state = State { lsn: Lsn::ZERO, tables: Default::default() };
    for name in ["a", "b"] {
        let csv = copy_query(&client, &format!("SELECT * FROM {name}")).await;
        state.tables.insert(table(name), csv);
    }
    let lsn: String = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    State { lsn: lsn.parse().unwrap(), ..state }
}

/// More than the source keeps in memory of a transaction.
const MANY: &str = "SELECT g, repeat(md5(g::text), 4) FROM generate_series";

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT g, g FROM generate_series(1, 1000) g";

/// A server of its own, since others' snapshots would wait for what is in progress, with the two tables.
async fn source(release: Release) -> (Scratch, Database) {
    let server = own_postgres(release);
    let database = Database::create(&server).await;
    database.run(TABLES).await;
    (server, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_inside_a_large_transaction_never_was() {
    for release in Release::ALL {
        let (_server, database) = source(release).await;
        let directory = Directory::new();
        let site = Site::local(&database, &directory);
        site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
        let archiver = site.command(["run", "--flush-interval", "50ms", "--memory", "8MB"]).start();
        let (large, other) = (database.connect().await, database.connect().await);
        large
            .batch_execute(&format!(
                "BEGIN; INSERT INTO a {MANY}(2001, 90000) g;
                 SAVEPOINT one; DELETE FROM a WHERE id <= 500; ALTER TABLE a ADD gone int DEFAULT 7;
                 INSERT INTO b {MANY}(1, 40000) g; SAVEPOINT two; UPDATE a SET gone = 8 WHERE id > 2000; ROLLBACK TO one;
                 SAVEPOINT three; UPDATE a SET v = 'x' WHERE id % 2 = 0; RELEASE three"
            ))
            .await
            .unwrap();
        other.batch_execute("INSERT INTO a VALUES (-1, 'other')").await.unwrap();
        let during = quiet_state(&database).await;
        wait_for("the transaction is seen while it runs", PATIENCE, || archiver.stderr().contains("is in progress"));
        assert!(archiver.stderr().contains("of them in public.a"), "{}", archiver.stderr());
        large
            .batch_execute(
                "ALTER TABLE b ADD kept int; INSERT INTO b SELECT g, g, g FROM generate_series(1, 20000) g;
                 DELETE FROM a WHERE id BETWEEN 100 AND 200; COMMIT",
            )
            .await
            .unwrap();
        let after = State::of(&database).await;
        // One that ends in nothing.
        large
            .batch_execute(&format!("BEGIN; DELETE FROM b; INSERT INTO a {MANY}(150001, 190000) g; ROLLBACK"))
            .await
            .unwrap();
        other.batch_execute("UPDATE b SET kept = 1 WHERE id < 10").await.unwrap();
        let last = State::of(&database).await;
        archiver.kill();
        site.catch_up();
        for state in [&during, &after, &last] {
            site.expect_equal(state);
        }
        site.expect_each_once([&table("a"), &table("b")]);
        let shapes = site.query("SELECT count(*) AS n FROM afterimage.relations WHERE definition LIKE '%gone%'");
        assert_eq!(shapes[0]["n"], 0, "a definition that was rolled back is in the history");
    }
}

/// What commits as it came was encoded while it ran, also by parts that had to go to files.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_encoded_while_it_runs() {
    for release in Release::ALL {
        let (_server, database) = source(release).await;
        let directory = Directory::new();
        let site = Site::local(&database, &directory);
        site.init();
        let run =
            site.command(["run", "--flush-interval", "50ms", "--memory", "4MB"]).variable("AFTERIMAGE_LOG", "debug");
        let archiver = run.start();
        // A table that is new to the archiver is known as soon as rows of it came.
        database.run("CREATE TABLE c (id int, v text COLLATE \"C\", w numeric, PRIMARY KEY (id, v))").await;
        database.run("INSERT INTO c VALUES (0, 'first', 1.50)").await;
        let (large, other) = (database.connect().await, database.connect().await);
        large
            .batch_execute(&format!(
                "BEGIN; INSERT INTO a {MANY}(2001, 90000) g; SAVEPOINT one; INSERT INTO b {MANY}(1, 40000) g;
                 SELECT pg_logical_emit_message(true, 'mine', 'valid'); RELEASE one;
                 INSERT INTO c SELECT g, md5(g::text), g / 7.0 FROM generate_series(1, 30000) g"
            ))
            .await
            .unwrap();
        other.batch_execute("INSERT INTO a VALUES (-1, 'other'); UPDATE c SET w = 'NaN'").await.unwrap();
        wait_for("the status shows what is in progress", PATIENCE, || {
            let shown = site.command(["status"]).run(PATIENCE).expect(0).stdout;
            shown.contains("in progress 1 transaction") && shown.contains("free there") && shown.contains(", decoded ")
        });
        large
            .batch_execute(
                "UPDATE b SET v = v || 'x' WHERE id % 2 = 0; DELETE FROM a WHERE id % 3 = 0;
                 UPDATE c SET v = v || 'y' WHERE id BETWEEN 1 AND 2000; TRUNCATE b; INSERT INTO b VALUES (7, 'last'); COMMIT",
            )
            .await
            .unwrap();
        let after = State::of(&database).await;
        database.run("INSERT INTO b VALUES (8, 'next')").await;
        let last = State::of(&database).await;
        wait_for("the files are used", PATIENCE, || archiver.stderr().contains("was encoded while it ran"));
        archiver.kill();
        site.catch_up();
        site.expect_equal(&after);
        site.expect_equal(&last);
        site.expect_each_once([&table("a"), &table("b"), &table("c")]);
        let messages = site.query("SELECT count(*) AS n FROM afterimage.messages WHERE prefix = 'mine'");
        assert_eq!(messages[0]["n"], 1);
    }
}

/// Logical messages do not say which subtransaction wrote them, and what DDL capture told of one that was rolled back
/// must not become history.
#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_are_rolled_back_inside_a_large_transaction_never_were() {
    for release in Release::ALL {
        let (_server, database) = source(release).await;
        let directory = Directory::new();
        let site = Site::local(&database, &directory);
        site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
        let archiver = site.stream();
        let client = database.connect().await;
        client
            .batch_execute(&format!(
                "BEGIN; ALTER TABLE a ADD kept int DEFAULT 1; INSERT INTO a {MANY}(2001, 60000) g;
                 SAVEPOINT s; ALTER TABLE a ADD gone uuid DEFAULT gen_random_uuid(); CREATE TABLE never (id int);
                 SELECT pg_logical_emit_message(true, 'mine', 'void'); ALTER TABLE a DROP COLUMN v;
                 INSERT INTO a SELECT g FROM generate_series(100001, 160000) g; ROLLBACK TO s;
                 INSERT INTO a {MANY}(60001, 90000) g; SELECT pg_logical_emit_message(true, 'mine', 'valid'); COMMIT;
                 INSERT INTO b {MANY}(1, 60000) g; INSERT INTO b VALUES (-1, 'last')"
            ))
            .await
            .unwrap();
        let state = State::of(&database).await;
        archiver.kill();
        site.catch_up();
        site.expect_equal(&state);
        site.expect_each_once([&table("a"), &table("b")]);
        let said =
            site.query("SELECT arrow_cast(content, 'Utf8') AS said FROM afterimage.messages WHERE prefix = 'mine'");
        assert_eq!(said.len(), 1, "{release:?}: {said:?}");
        let shapes = site.query("SELECT count(*) AS n FROM afterimage.relations WHERE definition LIKE '%gone%'");
        assert_eq!(shapes[0]["n"], 0, "{release:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_survive_every_restart_and_are_there_when_they_commit() {
    for release in Release::ALL {
        let (_server, database) = source(release).await;
        let directory = Directory::new();
        let site = Site::local(&database, &directory);
        site.init();
        let archiver = site.stream();
        let client = database.connect().await;
        let run = async |sql: &str| client.batch_execute(sql).await.unwrap();
        run("BEGIN; INSERT INTO a VALUES (5001, 'small'); DELETE FROM a WHERE id = 1; PREPARE TRANSACTION 'small'")
            .await;
        run(&format!("BEGIN; INSERT INTO a {MANY}(10001, 50000) g; PREPARE TRANSACTION 'large'")).await;
        run("BEGIN; DELETE FROM a WHERE id BETWEEN 5 AND 900; PREPARE TRANSACTION 'undone'").await;
        run("INSERT INTO b VALUES (1, 'meanwhile')").await;
        let open = quiet_state(&database).await;
        wait_for("the other transaction is archived", PATIENCE, || {
            site.command(["export", "b", "--at", &open.lsn.to_string()]).run(PATIENCE).code == Some(0)
        });
        archiver.kill();
        let archiver = site.stream();
        run("INSERT INTO b VALUES (2, 'after a restart')").await;
        run("COMMIT PREPARED 'large'").await;
        let large = quiet_state(&database).await;
        wait_for("the large one is archived", PATIENCE, || {
            site.command(["export", "a", "--at", &large.lsn.to_string()]).run(PATIENCE).code == Some(0)
        });
        archiver.kill();
        run("ROLLBACK PREPARED 'undone'; ").await;
        run("COMMIT PREPARED 'small'").await;
        let both = State::of(&database).await;
        site.catch_up();
        for state in [&open, &large, &both] {
            site.expect_equal(state);
        }
        site.expect_each_once([&table("a"), &table("b")]);
        // Nothing is held back any more.
        run("INSERT INTO b VALUES (3, 'last')").await;
        site.catch_up();
        let sql =
            format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'", site.slot());
        let confirmed: String = client.query_one(&sql, &[]).await.unwrap().get(0);
        assert!(confirmed.parse::<Lsn>().unwrap() > both.lsn, "{release:?}: {confirmed} is not behind {}", both.lsn);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_large_transactions_nothing_is_lost_or_doubled() {
    let (_server, database) = source(Release::System).await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.init();
    let client = database.connect().await;
    let mut states = Vec::new();
    for round in 1..=4 {
        let archiver = site.stream();
        let (from, to) = (round * 100_000, round * 100_000 + 40_000);
        client
            .batch_execute(&format!(
                "BEGIN; INSERT INTO a {MANY}({from}, {to}) g; SAVEPOINT s; DELETE FROM a; ROLLBACK TO s; UPDATE a SET v = '{round}'"
            ))
            .await
            .unwrap();
        archiver.kill();
        let archiver = site.stream();
        client.batch_execute(&format!("INSERT INTO b VALUES ({round}); COMMIT")).await.unwrap();
        states.push(State::of(&database).await);
        tokio::time::sleep(std::time::Duration::from_millis(150 * round)).await;
        archiver.kill();
    }
    site.catch_up();
    states.iter().for_each(|state| site.expect_equal(state));
    site.expect_each_once([&table("a"), &table("b")]);
}

/// A directory that cannot take what does not fit into memory stops nothing for good.
#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_spill_directory_is_said_and_tried_again() {
    let (_server, database) = source(Release::System).await;
    let directory = Directory::new();
    let site = Site::local(&database, &directory);
    site.init();
    let spill = directory.join("later");
    let path = spill.to_str().unwrap().to_owned();
    let mut archiver = site.command(["run", "--memory", "4MB", "--spill-directory", &path]).start();
    database.run(&format!("INSERT INTO a {MANY}(2001, 60000) g")).await;
    let state = State::of(&database).await;
    wait_for("it is said", PATIENCE, || archiver.stderr().contains("do not fit into"));
    assert!(archiver.is_running());
    std::fs::create_dir(&spill).unwrap();
    wait_for("it goes on", PATIENCE, || {
        site.command(["export", "a", "--at", &state.lsn.to_string()]).run(PATIENCE).code == Some(0)
    });
    site.expect_equal(&state);
    archiver.kill();
}
