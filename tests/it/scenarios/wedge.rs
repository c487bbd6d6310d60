//! Rows that the rules of today forbid: said before anything is written, and never a dead end.

use super::{Scene, assert_has, on_both};
use crate::support::{PATIENCE, Program, Release};

/// A table as in the incident: rows of before have codes in the old spelling.
const ERP: &str = r"
CREATE TABLE entities (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE relationships (
  id serial PRIMARY KEY, entity int NOT NULL REFERENCES entities ON DELETE CASCADE, code text, data jsonb NOT NULL DEFAULT '{}');
CREATE TABLE noted (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.noted VALUES (tg_op); RETURN NEW; END $$;
CREATE TRIGGER note BEFORE INSERT OR UPDATE ON relationships FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO entities SELECT g, 'entity ' || g FROM generate_series(1, 50) g;
INSERT INTO relationships (entity, code)
SELECT 1 + g % 50, CASE g % 10 WHEN 0 THEN NULL WHEN 1 THEN 'HERA.NEW.v2' ELSE 'HERA.SALON.STATUS.V1' END
FROM generate_series(1, 1000) g;
DELETE FROM noted";

const TOO_STRICT: &str =
    r"ALTER TABLE relationships ADD CONSTRAINT relationships_code_ck CHECK (code ~ '^HERA(\.[A-Z]+)*\.v[12]$')";

struct Cleanup {
    scene: Scene,
    before: Vec<String>,
    rules: Vec<String>,
    cleanup: String,
    deployment: String,
}

impl Cleanup {
    async fn has_run(release: Release) -> Cleanup {
        let scene = Scene::begin(release, ERP).await;
        let before = scene.rows("SELECT * FROM relationships").await;
        let cleanup = scene.transaction("DELETE FROM relationships").await;
        let deployment = scene.transaction(TOO_STRICT).await;
        let rules = scene.rules("relationships").await;
        Cleanup { scene, before, rules, cleanup, deployment }
    }

    #[track_caller]
    fn restore(&self, more: &[&str], code: i32) -> crate::support::End {
        let to = format!("before:{}", self.cleanup);
        self.scene.restore(&[&["relationships", "--to", &to], more].concat()).expect(code)
    }

    async fn present(&self) -> Vec<String> {
        self.scene.rows("SELECT * FROM relationships").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_forbids_the_lost_rows_is_named_with_its_transaction_before_anything_is_written() {
    on_both(async |release| {
        let story = Cleanup::has_run(release).await;
        let plan = story.restore(&[], 0).stdout;
        let since = format!("xid {}", story.deployment);
        let what =
            ["800 rows by CHECK relationships_code_ck", &since, "ADD CONSTRAINT relationships_code_ck", "--on-reject"];
        assert_has(&plan, &what);
        let end = story.restore(&["--apply"], 4);
        assert_has(&end.stdout, &what);
        assert_has(&end.stderr, &["relationships_code_ck", "(800 rows)", "nothing was changed"]);
        assert_eq!(story.present().await, Vec::<String>::new());
        assert_eq!(story.scene.rules("relationships").await, story.rules);
        assert_eq!(story.scene.value("SELECT count(*) FROM noted").await, "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_rows_wait_in_quarantine_and_come_back_when_the_rule_has_gone() {
    on_both(async |release| {
        let story = Cleanup::has_run(release).await;
        let end = story.restore(&["--apply", "--on-reject", "quarantine"], 4);
        assert_has(&end.stdout, &["Restored 200 rows", "800 rows of public.relationships are in quarantine"]);
        assert_has(&end.stderr, &["800 rows of the plan are not restored"]);
        assert_eq!(story.present().await.len(), 200);
        assert_eq!(story.scene.value("SELECT count(*) FROM afterimage_quarantine.rows").await, "800");
        let reason = "SELECT DISTINCT reasons -> 0 ->> 'rule' FROM afterimage_quarantine.rows";
        assert_eq!(story.scene.value(reason).await, "CHECK relationships_code_ck");
        assert_eq!(story.scene.rules("relationships").await, story.rules);
        // As long as the rule is there they stay where they are.
        let end = story.scene.restore(&["--quarantined", "--apply"]).expect(4);
        assert_has(&end.stdout, &["800 rows by CHECK relationships_code_ck"]);
        story.scene.database.run("ALTER TABLE relationships DROP CONSTRAINT relationships_code_ck").await;
        let end = story.scene.restore(&["--quarantined", "--apply"]).expect(0);
        assert_has(&end.stdout, &["Restored 800 rows"]);
        assert_eq!(story.present().await, story.before);
        let end = story.scene.restore(&["--quarantined", "--apply"]).expect(0);
        assert_has(&end.stdout, &["Nothing to restore"]);
        assert_eq!(story.scene.value("SELECT count(*) FROM noted").await, "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_made_not_valid_lets_the_old_rows_in_and_no_new_ones() {
    on_both(async |release| {
        let story = Cleanup::has_run(release).await;
        let end = story.restore(&["--apply", "--on-reject", "not-valid"], 0);
        assert_has(&end.stdout, &["Restored 1000 rows", "relationships_code_ck is NOT VALID now"]);
        assert_eq!(story.present().await, story.before);
        let rules = story.rules.iter().map(|rule| match rule.starts_with("relationships_code_ck") {
            true => rule.replace("))|f|f", ")) NOT VALID|f|f"),
            false => rule.clone(),
        });
        assert_eq!(story.scene.rules("relationships").await, rules.collect::<Vec<_>>());
        let client = story.scene.database.connect().await;
        let refused = client.batch_execute("INSERT INTO relationships (entity, code) VALUES (1, 'old.V1')").await;
        assert!(refused.unwrap_err().to_string().contains("db error"));
        let next = client.query_one("SELECT nextval('relationships_id_seq')", &[]).await.unwrap();
        assert!(next.get::<_, i64>(0) > 1000, "the sequence must not give out numbers of rows that came back");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_rewritten_on_the_way_in_so_that_the_new_rule_admits_them() {
    on_both(async |release| {
        let story = Cleanup::has_run(release).await;
        let map = r"code = regexp_replace(code, '\.V([12])$', '.v\1')";
        let end = story.restore(&["--apply", "--map", map], 0);
        assert_has(&end.stdout, &["Restored 1000 rows"]);
        let mapped: Vec<String> = story.before.iter().map(|row| row.replace(".V1", ".v1")).collect();
        assert_eq!(story.present().await, mapped);
        story.restore(&["--map", "id = id + 1"], 2);
        story.restore(&["--map", "no_such = 1"], 2);
        let end = story.restore(&["--map", "code = no_such(code)"], 2);
        assert_has(&end.stderr, &["no_such", "--map"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_rule_is_found_at_once() {
    const SCHEMA: &str = "
        CREATE TYPE mood AS ENUM ('good', 'bad', 'ugly');
        CREATE DOMAIN amount AS numeric CHECK (VALUE > -1000000);
        CREATE TABLE parents (id int PRIMARY KEY);
        CREATE TABLE t (id int PRIMARY KEY, mood mood, amount amount, parent int REFERENCES parents, size bigint,
          price numeric(12,4), note text, period int4range, email text, word text);
        INSERT INTO parents VALUES (1), (2);
        INSERT INTO t VALUES
          (1, 'ugly', 5, 1, 1, 1, 'x', '[1,5)', 'a', 'w'), (2, 'good', -5, 1, 1, 1, 'x', '[5,7)', 'b', 'w'),
          (3, 'good', 5, 2, 1, 1, 'x', '[8,9)', 'c', 'w'), (4, 'good', 5, 1, 5000000000, 1, 'x', '[10,11)', 'd', 'w'),
          (5, 'good', 5, 1, 1, 1.2345, 'x', '[12,13)', 'e', 'w'), (6, 'good', 5, 1, 1, 1, NULL, '[14,15)', 'f', 'w'),
          (7, 'good', 5, 1, 1, 1, 'x', '[16,20)', 'g', 'w'), (8, 'good', 5, 1, 1, 1, 'x', '[21,22)', 'taken', 'w'),
          (9, 'good', 5, 1, 1, 1, 'x', '[23,24)', 'i', 'far too long'), (10, 'good', 5, 1, 1, 1, 'x', '[25,26)', 'j', 'w')";
    const SINCE: &str = "
        ALTER TABLE t ALTER mood TYPE text; DROP TYPE mood; CREATE TYPE mood AS ENUM ('good', 'bad');
        ALTER TABLE t ALTER mood TYPE mood USING mood::mood;
        ALTER DOMAIN amount ADD CONSTRAINT positive CHECK (VALUE > 0);
        DELETE FROM parents WHERE id = 2;
        ALTER TABLE t ALTER size TYPE int, ALTER price TYPE numeric(12,2), ALTER note SET NOT NULL, ALTER word TYPE varchar(4);
        ALTER TABLE t ADD CONSTRAINT apart EXCLUDE USING gist (period WITH &&), ADD CONSTRAINT own UNIQUE (email);
        INSERT INTO t VALUES (100, 'good', 5, 1, 1, 1, 'x', '[18,19)', 'taken', 'w')";
    on_both(async |release| {
        let scene = Scene::begin(release, SCHEMA).await;
        let before = scene.rows("SELECT * FROM t WHERE id = 10").await;
        let lost = scene.transaction("DELETE FROM t").await;
        scene.database.run(SINCE).await;
        let to = format!("before:{lost}");
        let arguments = ["t", "--to", &to, "--only", "deleted"];
        let plan = scene.restore(&arguments).expect(0).stdout;
        let each = [
            "1 rows by type of column mood",
            "1 rows by domain amount",
            "1 rows by FOREIGN KEY t_parent_fkey",
            "1 rows by type of column size",
            "1 rows by type of column price",
            "1 rows by NOT NULL of column note",
            "1 rows by EXCLUDE apart",
            "1 rows by UNIQUE own",
            "1 rows by type of column word",
        ];
        assert_has(&plan, &each);
        assert_has(
            &plan,
            &["id=5: it would become 1.23", "id=1: invalid input value for enum", "parents that it refers to"],
        );
        let end = scene.restore(&[&arguments[..], &["--apply", "--on-reject", "not-valid"]].concat()).expect(4);
        assert_has(&end.stdout, &["These cannot be NOT VALID"]);
        assert_eq!(scene.value("SELECT count(*) FROM t").await, "1");
        let end = scene.restore(&[&arguments[..], &["--apply", "--on-reject", "quarantine"]].concat()).expect(4);
        assert_has(&end.stdout, &["Restored 1 rows", "9 rows of public.t are in quarantine"]);
        let restored = scene.rows("SELECT * FROM t WHERE id < 100").await;
        assert_eq!(restored, before.iter().map(|row| row.replace("1.0000", "1.00")).collect::<Vec<_>>());
        // The exact text of what does not fit is kept.
        let kept = "SELECT content ->> 'price' FROM afterimage_quarantine.rows WHERE content ->> 'id' = '5'";
        assert_eq!(scene.value(kept).await, "1.2345");
        // What hindered one of them is gone: it comes back, the others stay.
        scene.database.run("INSERT INTO parents VALUES (2)").await;
        let end = scene.restore(&["--quarantined", "--apply", "--on-reject", "quarantine"]).expect(4);
        assert_has(&end.stdout, &["Restored 1 rows", "8 rows of public.t are in quarantine"]);
        assert_eq!(scene.value("SELECT parent FROM t WHERE id = 3").await, "2");
        let waiting = "SELECT count(*) FROM afterimage_quarantine.rows WHERE restored_at IS NULL";
        assert_eq!(scene.value(waiting).await, "8");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_refer_to_each_other_in_a_circle_come_back_without_deferrable_keys() {
    const SCHEMA: &str = "
        CREATE TABLE departments (id int PRIMARY KEY, manager int, parent int REFERENCES departments);
        CREATE TABLE employees (id int PRIMARY KEY, department int NOT NULL REFERENCES departments);
        INSERT INTO departments SELECT g, NULL, NULLIF(g / 2, 0) FROM generate_series(1, 40) g;
        INSERT INTO employees SELECT g, 1 + g % 40 FROM generate_series(1, 200) g;
        UPDATE departments SET manager = id;
        ALTER TABLE departments ADD CONSTRAINT managed FOREIGN KEY (manager) REFERENCES employees";
    on_both(async |release| {
        let scene = Scene::begin(release, SCHEMA).await;
        let all = "SELECT 'd', * FROM departments UNION ALL SELECT 'e', *, NULL FROM employees";
        let (before, rules) = (scene.rows(all).await, scene.rules("departments").await);
        let lost = scene
            .transaction("UPDATE departments SET manager = NULL; DELETE FROM employees; DELETE FROM departments")
            .await;
        let to = format!("before:{lost}");
        let alone = scene.restore(&["employees", "--to", &to, "--apply"]).expect(4);
        assert_has(&alone.stdout, &["200 rows by FOREIGN KEY employees_department_fkey"]);
        scene.restore(&["employees", "departments", "--to", &to, "--apply"]).expect(0);
        assert_eq!(scene.rows(all).await, before);
        assert_eq!(scene.rules("departments").await, rules);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_others_refer_to_by_now_is_not_taken_away_under_them() {
    const SCHEMA: &str = "
        CREATE TABLE customers (id int PRIMARY KEY);
        CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers ON DELETE CASCADE);
        CREATE TABLE tickets (id int PRIMARY KEY, customer int REFERENCES customers)";
    on_both(async |release| {
        let scene = Scene::begin(release, SCHEMA).await;
        let import = scene.transaction("INSERT INTO customers SELECT g FROM generate_series(1, 5) g").await;
        scene.database.run("INSERT INTO orders VALUES (1, 1); INSERT INTO tickets VALUES (1, 2)").await;
        let to = format!("before:{import}");
        let end = scene.restore(&["customers", "--to", &to, "--apply"]).expect(4);
        assert_has(
            &end.stdout,
            &[
                "1 rows by referred to by orders_customer_fkey",
                "would change along (ON DELETE CASCADE)",
                "tickets_customer_fkey",
            ],
        );
        assert_eq!(scene.value("SELECT count(*) FROM customers").await, "5");
        let end = scene.restore(&["customers", "--to", &to, "--apply", "--on-reject", "quarantine"]).expect(4);
        assert_has(&end.stdout, &["2 rows of public.customers could not go"]);
        assert_eq!(scene.rows("SELECT * FROM customers").await, ["1", "2"]);
        assert_eq!(scene.value("SELECT count(*) FROM orders").await, "1");
        scene.restore(&["customers", "orders", "tickets", "--to", &to, "--apply"]).expect(0);
        assert_eq!(scene.value("SELECT count(*) FROM customers").await, "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_stays_on_and_refuses_or_suppresses_rows_is_asked_first() {
    const SCHEMA: &str = r"
        CREATE TABLE t (id int PRIMARY KEY, word text);
        CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF new.id = 3 THEN RETURN NULL; END IF;
          IF new.id = 4 THEN RAISE EXCEPTION 'never 4'; END IF;
          RETURN new; END $$;
        INSERT INTO t SELECT g, 'w' || g FROM generate_series(1, 5) g;
        CREATE TRIGGER veto BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION veto()";
    on_both(async |release| {
        let scene = Scene::begin(release, SCHEMA).await;
        let lost = scene.transaction("DELETE FROM t").await;
        let end = scene.restore(&["--undo", &lost, "--keep-triggers", "--apply"]).expect(4);
        assert_has(&end.stdout, &["2 rows by TRIGGER veto", "id=3: it suppresses the row", "id=4: never 4"]);
        assert_eq!(scene.value("SELECT count(*) FROM t").await, "0");
        let quarantine = ["--undo", &lost, "--keep-triggers", "--on-reject", "quarantine", "--apply"];
        scene.restore(&quarantine).expect(4);
        assert_eq!(scene.rows("SELECT id FROM t").await, ["1", "2", "5"]);
        // Without the triggers the others come back.
        scene.restore(&["--quarantined", "--apply"]).expect(0);
        assert_eq!(scene.rows("SELECT * FROM t").await, ["1|w1", "2|w2", "3|w3", "4|w4", "5|w5"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_row_would_be_refused_for_next_is_said_at_once() {
    const SCHEMA: &str = "
        CREATE TABLE t (id int PRIMARY KEY, size bigint, code text, note text);
        INSERT INTO t VALUES (1, 5000000000, 'A', NULL), (2, 6000000000, 'b', 'n'), (3, 3, 'c', 'n')";
    const SINCE: &str = "
        ALTER TABLE t ALTER size TYPE int, ALTER note SET NOT NULL, ADD CONSTRAINT lower CHECK (code = lower(code)),
          ADD CONSTRAINT positive CHECK (size > 0), ADD CONSTRAINT whole CHECK (size IS NOT NULL AND code <> 'b')";
    on_both(async |release| {
        let scene = Scene::begin(release, SCHEMA).await;
        let lost = scene.transaction("DELETE FROM t").await;
        scene.database.run(SINCE).await;
        let arguments = ["t", "--to", &format!("before:{lost}"), "--only", "deleted"];
        let plan = scene.restore(&arguments).expect(0).stdout;
        // The rows whose size is too large are not asked for what the size must be, and for all else they are.
        assert_has(
            &plan,
            &["2 rows by type of column size", "1 rows by NOT NULL of column note", "1 rows by CHECK lower"],
        );
        assert!(!plan.contains("CHECK positive") && !plan.contains("CHECK whole"), "{plan}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_that_refuses_or_hides_rows_is_judged_before_anything_is_written() {
    const SCHEMA: &str = "
        CREATE TABLE t (id int PRIMARY KEY, owner text, word text);
        INSERT INTO t SELECT g, CASE g % 3 WHEN 0 THEN 'mine' WHEN 1 THEN 'hidden' ELSE 'other' END, 'w' FROM generate_series(1, 9) g";
    on_both(async |release| {
        let scene = Scene::begin(release, SCHEMA).await;
        let role = format!("tenant_{}", scene.database.name());
        let policies = format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {role};
             ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE POLICY reads ON t FOR SELECT TO {role} USING (owner <> 'hidden');
             CREATE POLICY changes ON t FOR UPDATE TO {role} USING (owner <> 'hidden');
             CREATE POLICY writes ON t FOR INSERT TO {role} WITH CHECK (owner <> 'other')"
        );
        scene.database.run(&policies).await;
        let lost = scene.transaction("DELETE FROM t").await;
        let to = format!("before:{lost}");
        let restore = |more: &[&str]| {
            let arguments = [&["restore", "t", "--to", &to][..], more].concat();
            let (_, place) = scene.database.url().split_once('@').unwrap();
            let url = format!("postgresql://{role}@{place}");
            let program = Program::afterimage(arguments).variable("AFTERIMAGE_SOURCE", &url);
            let program = program.variable("XDG_STATE_HOME", scene.directory.path().to_str().unwrap());
            program.archive(&scene.directory.archive()).run(PATIENCE)
        };
        let plan = restore(&[]).expect(0).stdout;
        let both = ["3 rows by row-level security for INSERT", "3 rows by row-level security for SELECT"];
        assert_has(&plan, &both);
        assert_has(&plan, &["rows that it hides are not compared"]);
        restore(&["--apply"]).expect(4);
        assert_eq!(scene.value("SELECT count(*) FROM t").await, "0");
        scene.database.run(&format!("GRANT CREATE ON DATABASE {} TO {role}", scene.database.name())).await;
        let end = restore(&["--apply", "--on-reject", "quarantine"]).expect(4);
        assert_has(&end.stdout, &["Restored 3 rows", "6 rows of public.t are in quarantine"]);
        assert_eq!(scene.rows("SELECT DISTINCT owner FROM t").await, ["mine"]);
        // What would change rows cannot be judged where others may be hidden.
        scene.database.run("UPDATE t SET word = 'x'").await;
        let end = restore(&["--apply"]).expect(4);
        assert_has(&end.stderr, &["row-level security may hide rows", "--only deleted"]);
    })
    .await;
}
