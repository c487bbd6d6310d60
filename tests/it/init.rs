//! `init` does all or nothing, and says what is in its way.

use std::time::Duration;

use afterimage::model::TableName;

use crate::support::{
    Database, Directory, Load, PATIENCE, Release, Running, Site, State, own_postgres, postgres, wait_for,
};

async fn count(database: &Database, sql: &str) -> i64 {
    database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// Slots of the database, the oracle's aside.
async fn slots(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_replication_slots
               WHERE database = current_database() AND slot_name NOT LIKE 'oracle%'";
    count(database, sql).await
}

async fn wait_for_slots(database: &Database, wanted: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = slots(database).await;
        if found == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found} slots, not {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the server has noticed that our programs are gone.
async fn wait_until_left(database: &Database) {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'afterimage%'";
    while count(database, sql).await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn small_database(release: Release) -> Database {
    let database = Database::create(postgres(release)).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, 'one')").await;
    database
}

/// Starts `init` while a transaction is open, which the creation of the slot has to wait for.
#[track_caller]
fn start_and_wait(site: &Site<'_>) -> Running {
    let init = site.command(["init"]).start();
    wait_for("init waits for the open transaction", PATIENCE, || init.stderr().contains("waiting for transactions"));
    init
}

const OPEN_TRANSACTION: &str = "BEGIN; CREATE TABLE in_the_way ()";

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_waits_can_be_ended_in_every_way() {
    for release in [Release::System, Release::Eighteen] {
        let (server, directory) = (own_postgres(release), Directory::new());
        let database = Database::create(&server).await;
        database.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
        let site = Site::local(&database, &directory);
        let other = database.connect().await;
        other.batch_execute(OPEN_TRANSACTION).await.unwrap();
        for signal in ["TERM", "INT", "KILL"] {
            let init = start_and_wait(&site);
            assert_eq!(slots(&database).await, 1);
            init.signal(signal);
            let end = init.wait(PATIENCE);
            assert_eq!(end.code, if signal == "KILL" { None } else { Some(1) }, "{}", end.stderr);
            assert_eq!(end.stderr.contains("interrupted; no slot is left"), signal != "KILL", "{}", end.stderr);
            // Though the transaction that it waited for is still open.
            wait_for_slots(&database, 0).await;
            wait_until_left(&database).await;
        }
        let init = start_and_wait(&site);
        other.batch_execute("COMMIT").await.unwrap();
        init.wait(PATIENCE).expect(0);
        assert_eq!(slots(&database).await, 1);
        assert_eq!(site.present(&TableName::new("public", "t")).await, "id\n1\n");
    }
}

/// Interrupted ever later, until it is through.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_init_that_is_interrupted_anywhere_can_be_run_again() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::System)).await;
    Load::prepare(&database).await;
    for signal in ["KILL", "TERM"] {
        database.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()").await;
        let archive = format!("{}-{signal}", directory.archive());
        let site = Site::local(&database, &directory).archive(&archive);
        let mut interrupted = 0;
        for patience in (0..).map(|round| Duration::from_millis(round * 30)) {
            let mut init = site.command(["init"]).start();
            tokio::time::sleep(patience).await;
            init.signal_if_running(signal);
            let end = init.wait(PATIENCE);
            if end.code == Some(0) {
                break;
            }
            interrupted += 1;
            wait_until_left(&database).await;
            match (signal, end.code) {
                ("TERM", Some(1)) => {
                    assert!(end.stderr.contains("interrupted; no slot is left"), "{}", end.stderr);
                    wait_for_slots(&database, 0).await;
                }
                // Before the handler of the signal is there; nothing has been done then.
                ("TERM", None) => assert_eq!(slots(&database).await, 0),
                ("KILL", None) => {}
                _ => panic!("{signal} ended it with {:?}\n{}", end.code, end.stderr),
            }
        }
        assert!(interrupted > 2, "it was interrupted {interrupted} times only");
        assert_eq!(slots(&database).await, 1);
        database
            .run("UPDATE journal SET step = step + 100; INSERT INTO journal SELECT 99, g FROM generate_series(1, 9) g")
            .await;
        let state = State::of(&database).await;
        site.catch_up();
        site.expect_equal(&state);
        site.expect_each_once(state.tables.keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_inits_at_once_one_is_refused_and_the_other_unharmed() {
    let server = own_postgres(Release::System);
    let database = Database::create(&server).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await;
    let (directory, elsewhere) = (Directory::new(), Directory::new());
    let site = Site::local(&database, &directory);
    let other = database.connect().await;
    other.batch_execute(OPEN_TRANSACTION).await.unwrap();
    let first = start_and_wait(&site);
    for second in [&site, &Site::local(&database, &elsewhere)] {
        for command in [["init", "--tables", "t"], ["run", "--tables", "t"]] {
            let refused = second.command(command).run(PATIENCE).expect(4);
            assert!(refused.stderr.contains("another init for the slot"), "{}", refused.stderr);
        }
    }
    other.batch_execute("COMMIT").await.unwrap();
    first.wait(PATIENCE).expect(0);
    database.run("INSERT INTO t VALUES (1); INSERT INTO u VALUES (2)").await;
    assert_eq!(site.present(&TableName::new("public", "u")).await, "id\n2\n");
}

/// It would rob the archive that the slot serves, though nobody uses it at the moment.
#[tokio::test(flavor = "multi_thread")]
async fn the_idle_slot_of_another_archive_is_left_alone() {
    let (directory, elsewhere) = (Directory::new(), Directory::new());
    let database = small_database(Release::System).await;
    let site = Site::local(&database, &directory);
    site.init();
    for ran in [false, true] {
        if ran {
            site.catch_up();
        }
        let wrong = Site::local(&database, &elsewhere).command(["init"]).run(PATIENCE).expect(4);
        assert!(wrong.stderr.contains("belongs to another archive"), "{}", wrong.stderr);
    }
    database.run("INSERT INTO t VALUES (2, 'two')").await;
    assert_eq!(site.present(&TableName::new("public", "t")).await.lines().count(), 3);
}

/// Killed between making the slot and naming the archive: the archive's beginning and the slot stand at the same LSN.
#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_an_init_killed_at_its_very_end_is_replaced() {
    let directory = Directory::new();
    let database = small_database(Release::System).await;
    let site = Site::local(&database, &directory);
    site.init();
    std::fs::remove_file(directory.join("archive/archive.json")).unwrap();
    database.run("INSERT INTO t VALUES (2, 'two')").await;
    site.init();
    assert_eq!(slots(&database).await, 1);
    assert_eq!(site.present(&TableName::new("public", "t")).await.lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_init_changes_nothing() {
    let directory = Directory::new();
    let database = small_database(Release::System).await;
    let site = Site::local(&database, &directory);
    site.init();
    let before = site.watermark().await;
    let again = site.command(["init"]).run(PATIENCE).expect(0);
    assert!(again.stdout.contains("nothing was changed"), "{}", again.stdout);
    assert_eq!((slots(&database).await, site.watermark().await), (1, before));
}

/// A URL of the same database for another role.
fn url_for(database: &Database, role: &str) -> String {
    database.url().replacen("//postgres@", &format!("//{role}@"), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_privilege_is_named_and_nothing_is_changed() {
    let (server, directory) = (own_postgres(Release::System), Directory::new());
    let database = Database::create(&server).await;
    database.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7); CREATE ROLE plain LOGIN").await;
    let site = Site::local(&database, &directory).source(&url_for(&database, "plain"));
    let grants = [
        ("may not replicate", "ALTER ROLE plain REPLICATION".to_owned()),
        ("may not create a publication", format!("GRANT CREATE ON DATABASE {} TO plain", database.name())),
        ("may not read public.t", "GRANT SELECT ON t TO plain".to_owned()),
        ("may not publish public.t", "ALTER TABLE t OWNER TO plain".to_owned()),
    ];
    for (said, grant) in grants {
        let end = site.command(["init"]).run(PATIENCE).expect(1);
        assert!(end.stderr.contains(said) && end.stderr.contains("help:"), "{said}: {}", end.stderr);
        assert_eq!(count(&database, "SELECT count(*) FROM pg_publication").await + slots(&database).await, 0);
        database.run(&grant).await;
    }
    site.init();
    assert_eq!(site.present(&TableName::new("public", "t")).await, "id\n7\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_security_makes_init_fail_and_hides_nothing() {
    let (server, directory) = (own_postgres(Release::System), Directory::new());
    let database = Database::create(&server).await;
    database
        .run(&format!(
            "CREATE ROLE owner LOGIN REPLICATION; GRANT CREATE ON DATABASE {} TO owner;
             CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); ALTER TABLE t OWNER TO owner;
             ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
             CREATE POLICY p ON t USING (id = 1)",
            database.name()
        ))
        .await;
    let site = Site::local(&database, &directory).source(&url_for(&database, "owner"));
    let end = site.command(["init"]).run(PATIENCE).expect(1);
    assert!(end.stderr.contains("row-level security"), "{}", end.stderr);
    wait_for_slots(&database, 0).await;
    Site::local(&database, &directory).init();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_chosen_tables_are_archived() {
    let directory = Directory::new();
    let database = small_database(Release::Sixteen).await;
    database.run("CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY); CREATE TABLE sales.\"Lines\" (id int PRIMARY KEY)").await;
    let site = Site::local(&database, &directory);
    let wrong = site.command(["init", "--tables", "sales.*,nothing_like_it"]).run(PATIENCE).expect(2);
    assert!(wrong.stderr.contains("no table of the source matches nothing_like_it"), "{}", wrong.stderr);
    assert_eq!(count(&database, "SELECT count(*) FROM pg_publication").await + slots(&database).await, 0);
    let names = ["init", "--tables", "sales.*", "--slot", "my_slot", "--publication", "My \"own\""];
    site.command(names).run(PATIENCE).expect(0);
    let published = "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'My \"own\"' AND schemaname = 'sales'";
    assert_eq!(count(&database, published).await, 2);
    assert_eq!(count(&database, "SELECT count(*) FROM pg_publication_tables").await, 2);
    assert_eq!(count(&database, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'my_slot'").await, 1);
    database
        .run("INSERT INTO sales.orders VALUES (1); INSERT INTO sales.\"Lines\" VALUES (2); INSERT INTO t VALUES (3)")
        .await;
    assert_eq!(site.present(&TableName::new("sales", "Lines")).await, "id\n2\n");
    let now = site.watermark().await.to_string();
    let unknown = site.command(["export", "t", "--at", &now]).run(PATIENCE).expect(2);
    assert!(unknown.stderr.contains("no archived table is named t"), "{}", unknown.stderr);
}

/// Publishing a table without identity would make the application's own UPDATE fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_identity_is_left_out_or_set_to_full() {
    let (directory, elsewhere) = (Directory::new(), Directory::new());
    let database = small_database(Release::System).await;
    database.run("CREATE TABLE bare (a int, b text); INSERT INTO bare VALUES (1, 'x'), (1, 'x')").await;
    database.run("CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)").await;
    let site = Site::local(&database, &directory);
    let end = site.command(["init"]).run(PATIENCE).expect(0);
    assert!(end.stderr.contains("left out: public.bare") && end.stderr.contains("UNLOGGED"), "{}", end.stderr);
    database.run("UPDATE bare SET b = 'y'").await;
    site.catch_up();
    let now = site.watermark().await.to_string();
    site.command(["export", "bare", "--at", &now]).run(PATIENCE).expect(2);

    let full = Site::local(&database, &elsewhere);
    let names = ["init", "--set-identity-full", "--slot", "full", "--publication", "full"];
    full.command(names).run(PATIENCE).expect(0);
    assert_eq!(
        count(&database, "SELECT count(*) FROM pg_class WHERE relname = 'bare' AND relreplident = 'f'").await,
        1
    );
    database.run("UPDATE bare SET b = 'z' WHERE ctid = (SELECT min(ctid) FROM bare)").await;
    let mut exported: Vec<String> =
        full.present(&TableName::new("public", "bare")).await.lines().map(str::to_owned).collect();
    exported.sort();
    assert_eq!(exported, ["1,y", "1,z", "a,b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tables_is_not_archived() {
    let directory = Directory::new();
    let database = Database::create(postgres(Release::Eighteen)).await;
    let site = Site::local(&database, &directory);
    let end = site.command(["init"]).run(PATIENCE).expect(1);
    assert!(end.stderr.contains("has no tables to archive"), "{}", end.stderr);
    assert_eq!(slots(&database).await, 0);
}

/// So large that four connections share it: 40 MB in pages, and more in TOASTed values.
const LARGE: &str = "CREATE TABLE large (id int PRIMARY KEY, note text, long text, at timestamptz, n numeric, odd date);
    ALTER TABLE large ALTER long SET STORAGE EXTERNAL;
    INSERT INTO large SELECT g, repeat(md5(g::text), 16), CASE WHEN g % 10 = 0 THEN repeat(md5(g::text), 100) END,
        CASE g % 3 WHEN 0 THEN timestamptz 'infinity' WHEN 1 THEN '20000-01-01' ELSE '2025-01-01'::timestamptz + g * '1 s'::interval END,
        g / 7.0, CASE WHEN g % 5 > 0 THEN date '0044-03-15 BC' + g END
    FROM generate_series(1, 60000) g;
    CREATE TABLE heir () INHERITS (large); INSERT INTO heir SELECT * FROM ONLY large WHERE id <= 7; CREATE TABLE empty (id int PRIMARY KEY);
    DELETE FROM ONLY large WHERE id % 100 = 3";

async fn large_database(release: Release) -> Database {
    let database = Database::create(postgres(release)).await;
    database.run(LARGE).await;
    database
}

/// Every row of the image once: in no range is none that another has.
#[track_caller]
fn expect_image(site: &Site<'_>, rows: i64, in_table: &str) {
    let sql = format!("SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM images.{in_table}");
    assert_eq!(site.query(&sql)[0], serde_json::json!({ "rows": rows, "ids": rows }), "{in_table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_several_connections_share_comes_whole_and_once() {
    for (release, workers) in [(Release::System, "4"), (Release::Eighteen, "3"), (Release::System, "1")] {
        let directory = Directory::new();
        let database = large_database(release).await;
        let site = Site::local(&database, &directory);
        let full = ["init", "--set-identity-full", "--copy-workers", workers];
        site.command(full).run(PATIENCE).expect(0);
        expect_image(&site, 59_400, "large");
        expect_image(&site, 7, "heir");
        let state = State::of(&database).await;
        site.catch_up();
        site.expect_equal(&state);
    }
}

/// The table grows, shrinks and is to be written anew while it is copied, which would move rows between ranges.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_while_it_is_copied_comes_as_the_snapshot_shows_it() {
    let directory = Directory::new();
    let database = large_database(Release::System).await;
    let site = Site::local(&database, &directory);
    let init = site.command(["init", "--set-identity-full", "--copy-workers", "3", "--throttle", "20MB/s"]).start();
    let held = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                WHERE l.relation = 'large'::regclass AND a.application_name = 'afterimage init' AND a.query LIKE 'COPY%'";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while count(&database, held).await == 0 {
        assert!(tokio::time::Instant::now() < deadline, "nothing is copied\n{}", init.stderr());
    }
    database
        .run("INSERT INTO large SELECT g + 100000, note, long, at, n, odd FROM ONLY large, generate_series(id, id) g WHERE id < 20000;
              DELETE FROM large WHERE id % 2 = 0")
        .await;
    let anew = database.connect().await;
    let anew = tokio::spawn(async move { anew.batch_execute("VACUUM FULL large").await.unwrap() });
    init.wait(PATIENCE).expect(0);
    anew.await.unwrap();
    expect_image(&site, 59_400, "large");
    let state = State::of(&database).await;
    site.catch_up();
    site.expect_equal(&state);
}
