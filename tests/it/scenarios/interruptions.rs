//! Nothing is half done, whatever happens to a restore.

use std::time::Duration;

use super::{Scene, assert_has, on_both};
use crate::support::{Loss, PATIENCE, Program, Proxy, postgres};

const TABLES: &str = "
CREATE TABLE parents (id int PRIMARY KEY, name text);
CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES parents ON DELETE CASCADE, text text);
CREATE INDEX ON children (parent);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER note BEFORE INSERT ON children FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO parents SELECT g, 'parent ' || g FROM generate_series(1, 2000) g;
INSERT INTO children SELECT g, 1 + g % 2000, repeat('x', 100) FROM generate_series(1, 30000) g";

const ALL: &str = "SELECT (SELECT count(*) FROM parents), (SELECT count(*) FROM children)";

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_at_random_moments_has_done_all_or_nothing() {
    on_both(async |release| {
        let scene = Scene::begin(release, TABLES).await;
        let rules = scene.rules("children").await;
        let lost = scene.transaction("DELETE FROM parents").await;
        for round in 0..12u64 {
            let program = Program::afterimage(["restore", "--undo", &lost, "--apply"]).source(&scene.database);
            let mut running = program.archive(&scene.directory.archive()).start();
            std::thread::sleep(Duration::from_millis(100 + round * 97 % 1100));
            running.signal_if_running(["KILL", "INT", "TERM"][round as usize % 3]);
            drop(running.wait(PATIENCE));
            // A session whose client is gone ends soon after.
            let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'afterimage restore'
                          AND datname = current_database()";
            while scene.value(others).await != "0" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let found = scene.value(ALL).await;
            assert!(found == "0|0" || found == "2000|30000", "{found}");
            assert_eq!(scene.rules("children").await, rules);
            if found != "0|0" {
                scene.database.run("DELETE FROM parents").await;
                return;
            }
        }
        scene.restore(&["--undo", &lost, "--apply"]).expect(0);
        assert_eq!(scene.value(ALL).await, "2000|30000");
        assert_eq!(scene.rules("children").await, rules);
    })
    .await;
}

/// Foreign keys are asked for all rows at once: after the rows that they refer to are locked.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_goes_while_its_children_come_back_leaves_no_orphans() {
    on_both(async |release| {
        let tables = "CREATE TABLE shelves (id int PRIMARY KEY); INSERT INTO shelves SELECT generate_series(1, 100);
            CREATE TABLE books (id int PRIMARY KEY, shelf int REFERENCES shelves);
            INSERT INTO books SELECT g, 1 + g % 100 FROM generate_series(1, 3000) g";
        let scene = Scene::begin(release, tables).await;
        let all = "SELECT (SELECT count(*) FROM shelves), (SELECT count(*) FROM books)";
        let lost = scene.transaction("DELETE FROM books WHERE shelf <= 50").await;
        let deleter = scene.database.connect().await;
        deleter.batch_execute("BEGIN; DELETE FROM shelves WHERE id = 7").await.unwrap();
        let restore = ["restore", "--undo", &lost, "--apply", "--lock-timeout", "60s"];
        let program = Program::afterimage(restore).source(&scene.database);
        let running = program.archive(&scene.directory.archive()).start();
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'afterimage restore'
                       AND datname = current_database() AND wait_event_type = 'Lock'";
        while scene.value(waiting).await == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        deleter.batch_execute("COMMIT").await.unwrap();
        let end = running.wait(PATIENCE).expect(4);
        assert_has(
            &end.stderr,
            &["30 rows of public.books", "books_shelf_fkey", "gone meanwhile", "nothing was changed"],
        );
        assert_eq!(scene.value(all).await, "99|1500");
        scene.database.run("INSERT INTO shelves VALUES (7)").await;
        scene.restore(&["--undo", &lost, "--apply"]).expect(0);
        assert_eq!(scene.value(all).await, "100|3000");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_to_be_had_ends_the_restore_and_says_what_to_do() {
    on_both(async |release| {
        let scene = Scene::begin(release, TABLES).await;
        let lost = scene.transaction("UPDATE parents SET name = 'x' WHERE id <= 10").await;
        let holder = scene.database.connect().await;
        holder.batch_execute("BEGIN; SELECT FROM parents WHERE id = 5 FOR UPDATE").await.unwrap();
        let end = scene.restore(&["--undo", &lost, "--apply", "--lock-timeout", "300ms"]).expect(4);
        assert_has(&end.stderr, &["holds a lock", "--lock-timeout", "nothing was changed"]);
        holder.batch_execute("COMMIT").await.unwrap();
        scene.restore(&["--undo", &lost, "--apply"]).expect(0);
        assert_eq!(scene.value("SELECT count(*) FROM parents WHERE name = 'x'").await, "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_owner_restores_and_a_stranger_is_told_which_grants_he_needs() {
    on_both(async |release| {
        let scene = Scene::begin(release, TABLES).await;
        let (owner, stranger) =
            (format!("owner_{}", scene.database.name()), format!("stranger_{}", scene.database.name()));
        scene
            .database
            .run(&format!(
                "CREATE ROLE {owner} LOGIN; CREATE ROLE {stranger} LOGIN; ALTER TABLE parents OWNER TO {owner};
                 ALTER TABLE children OWNER TO {owner}"
            ))
            .await;
        let lost = scene.transaction("DELETE FROM parents WHERE id <= 100").await;
        let as_role = |role: &str| {
            let program = Program::afterimage(["restore", "--undo", &lost, "--apply"]);
            let (_, place) = scene.database.url().split_once('@').unwrap();
            let url = format!("postgresql://{role}@{place}");
            program.variable("AFTERIMAGE_SOURCE", &url).archive(&scene.directory.archive()).run(PATIENCE)
        };
        let end = as_role(&stranger).expect(1);
        assert_has(&end.stderr, &["GRANT SELECT, INSERT, UPDATE, DELETE ON"]);
        as_role(&owner).expect(0);
        assert_eq!(scene.value(ALL).await, "2000|30000");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_writers_of_the_same_rows_neither_fail_nor_spoil_an_undo() {
    on_both(async |release| {
        let scene = Scene::begin(release, TABLES).await;
        let url = scene.database.url().to_owned();
        let lost = scene.transaction("UPDATE children SET text = 'lost'").await;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut writers = Vec::new();
        for writer in 0..3 {
            let (url, stop) = (url.clone(), std::sync::Arc::clone(&stop));
            writers.push(tokio::spawn(async move {
                let client = crate::support::connect(&url).await;
                let mut id = writer;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    id = (id + 997) % 30000;
                    let sql = format!("UPDATE children SET text = 'busy' WHERE id = {}", 1 + id);
                    client.batch_execute(&sql).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let end = scene.restore(&["--undo", &lost, "--on-conflict", "skip", "--apply"]).expect(4);
        assert_has(&end.stdout, &["rows of public.children stay"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        let counts = "SELECT count(*) FILTER (WHERE text NOT IN ('busy', repeat('x', 100))), count(*) FROM children";
        assert_eq!(scene.value(counts).await, "0|30000");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_damage_comes_back_in_batches_and_goes_on_where_it_was_stopped() {
    on_both(async |release| {
        let scene = Scene::begin(release, TABLES).await;
        let rows = "SELECT count(*), sum(parent), min(text) = max(text) FROM children";
        let before = scene.value(rows).await;
        let lost = scene.transaction("DELETE FROM parents").await;
        let program = Program::afterimage(["restore", "--undo", &lost, "--apply", "--batch-rows", "5000"]);
        let mut running = program.source(&scene.database).archive(&scene.directory.archive()).start();
        while scene.value("SELECT count(*) FROM children").await == "0" && running.is_running() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.signal_if_running("KILL");
        drop(running.wait(PATIENCE));
        let orphans = "SELECT count(*) FROM children WHERE parent NOT IN (SELECT id FROM parents)";
        assert_eq!(scene.value(orphans).await, "0");
        let end = scene.restore(&["--undo", &lost, "--apply", "--batch-rows", "5000"]).expect(0);
        assert_has(&end.stdout, &["public.children", "Every row was compared"]);
        assert_eq!(scene.value(rows).await, before);
        assert_eq!(scene.value(ALL).await, "2000|30000");
        let again = scene.restore(&["--undo", &lost, "--apply", "--batch-rows", "5000"]).expect(0);
        assert_has(&again.stdout, &["Nothing to restore"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_and_circles_come_back_in_batches_parents_first() {
    const TREE: &str = "
        CREATE TABLE people (id int PRIMARY KEY, boss int REFERENCES people, team int);
        CREATE TABLE a_teams (id int PRIMARY KEY, lead int REFERENCES people);
        ALTER TABLE people ADD FOREIGN KEY (team) REFERENCES a_teams;
        CREATE TABLE a_badges (id int PRIMARY KEY, person int NOT NULL REFERENCES people);
        CREATE TABLE folders (id int PRIMARY KEY, inside int REFERENCES folders);
        INSERT INTO people SELECT g, NULL, NULL FROM generate_series(1, 40) g;
        INSERT INTO a_teams SELECT g, g FROM generate_series(1, 40) g;
        UPDATE people SET team = id, boss = 41 - id;
        INSERT INTO a_badges SELECT g, g FROM generate_series(1, 40) g;
        INSERT INTO folders SELECT g, NULLIF(g + 1, 301) FROM generate_series(300, 1, -1) g;
        INSERT INTO folders SELECT g, 1 + g % 200 FROM generate_series(1000, 1299) g;
        INSERT INTO folders VALUES (5000, NULL), (5001, 5000); UPDATE folders SET inside = 5001 WHERE id = 5000";
    const EVERYTHING: &str = "SELECT 'p', id, boss, team FROM people UNION ALL SELECT 't', id, lead, NULL FROM a_teams
        UNION ALL SELECT 'b', id, person, NULL FROM a_badges UNION ALL SELECT 'f', id, inside, NULL FROM folders";
    on_both(async |release| {
        let scene = Scene::begin(release, TREE).await;
        let before = scene.rows(EVERYTHING).await;
        let lost = scene
            .transaction(
                "SET LOCAL session_replication_role = replica;
                 DELETE FROM a_badges; DELETE FROM people; DELETE FROM a_teams; DELETE FROM folders",
            )
            .await;
        let begun = std::time::Instant::now();
        let batches = ["--undo", &lost, "--apply", "--batch-rows", "100", "--throttle", "100/s"];
        let end = scene.restore(&batches).expect(0);
        assert!(begun.elapsed() > Duration::from_secs(6), "more than 700 rows, 100 a second, without the last batch");
        assert_has(&end.stderr, &["restore: ", " of 722 rows restored, about ", " left"]);
        assert_eq!(scene.rows(EVERYTHING).await, before);
        // And they go in batches, children first.
        let to = format!("before:{lost}");
        scene
            .transaction(
                "INSERT INTO folders SELECT g, CASE WHEN g > 6000 THEN g - 1 END FROM generate_series(6000, 6250) g",
            )
            .await;
        assert_ne!(scene.rows(EVERYTHING).await, before);
        scene.restore(&["folders", "--to", &to, "--apply", "--batch-rows", "60"]).expect(0);
        assert_eq!(scene.rows(EVERYTHING).await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_commit_is_asked_for_and_an_attempt_that_never_came_through_has_changed_nothing() {
    on_both(async |release| {
        let scene = Scene::begin(release, TABLES).await;
        let lost = scene.transaction("DELETE FROM parents WHERE id <= 10").await;
        let (server, database) = (postgres(release), scene.database.name());
        let port = server.port();
        let through = |proxy: &Proxy| {
            let url = server.tcp_url(database).unwrap();
            let url = url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
            let program = Program::afterimage(["restore", "--undo", &lost, "--apply"]);
            program.variable("AFTERIMAGE_SOURCE", &url).archive(&scene.directory.archive()).run(PATIENCE)
        };
        // The connection breaks before the statement has arrived.
        let proxy = Proxy::to(port);
        proxy.lose(Loss { statement: "COMMIT\0", executed: false });
        let end = through(&proxy).expect(1);
        assert_has(&end.stderr, &["lost at the commit; nothing was changed"]);
        assert_eq!(scene.value("SELECT count(*) FROM parents").await, "1990");
        // It is executed, and the answer never arrives.
        let proxy = Proxy::to(port);
        proxy.lose(Loss { statement: "COMMIT\0", executed: true });
        let end = through(&proxy).expect(0);
        assert_has(&end.stdout, &["Restored 160 rows"]);
        assert_eq!(scene.value(ALL).await, "2000|30000");
    })
    .await;
}
