//! Only a part comes back: a tenant's rows, one entity with all below it, rows with what they refer to.

use super::{Scene, assert_has, on_both};
use crate::support::Release;

/// Products are shared by all tenants; lines belong to one only through their orders.
const TENANTS: &str = "
CREATE TABLE organizations (id int PRIMARY KEY, name text);
CREATE TABLE products (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, organization_id int NOT NULL REFERENCES organizations ON DELETE CASCADE);
CREATE TABLE lines (id int PRIMARY KEY, \"order\" int NOT NULL REFERENCES orders ON DELETE CASCADE,
  product int NOT NULL REFERENCES products);
CREATE TABLE links (a int REFERENCES orders ON DELETE CASCADE, b int REFERENCES orders ON DELETE CASCADE, PRIMARY KEY (a, b));
INSERT INTO organizations SELECT g, 'org ' || g FROM generate_series(1, 4) g;
INSERT INTO products SELECT g, 'product ' || g FROM generate_series(1, 10) g;
INSERT INTO orders SELECT g, 1 + g % 4 FROM generate_series(1, 40) g;
INSERT INTO lines SELECT g, 1 + g % 40, 1 + g % 10 FROM generate_series(1, 200) g;
INSERT INTO links VALUES (1, 5), (1, 2), (2, 3)";

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_of_four_comes_back_through_foreign_keys_and_shared_rows_are_flagged() {
    on_both(async |release| {
        let scene = Scene::begin(release, TENANTS).await;
        let of_two = "SELECT l.* FROM lines l JOIN orders o ON o.id = l.\"order\" WHERE organization_id = 2
                      UNION ALL SELECT a, b, 0 FROM links WHERE a = 1";
        let before = scene.rows(of_two).await;
        let lost = scene.transaction("DELETE FROM links; DELETE FROM lines; DELETE FROM orders").await;
        let to = format!("before:{lost}");
        let plan = scene.restore(&["--to", &to, "--tenant", "2"]).expect(0).stdout;
        assert_has(&plan, &["public.products", "1 rows of the plan refer to rows of other tenants as well"]);
        // The order of another tenant that a link refers to is not there.
        let end = scene.restore(&["--to", &to, "--tenant", "2", "--apply", "--on-reject", "quarantine"]).expect(4);
        assert_has(&end.stdout, &["FOREIGN KEY links_b_fkey"]);
        assert_eq!(scene.rows("SELECT DISTINCT organization_id FROM orders").await, ["2"]);
        assert_eq!(scene.value("SELECT count(*) FROM orders").await, "10");
        assert_eq!(scene.value("SELECT count(*) FROM lines").await, "50");
        scene.restore(&["links", "--to", &to, "--tenant", "2", "--with-parents", "--apply"]).expect(0);
        assert_eq!(scene.rows(of_two).await, before);
        assert_eq!(scene.rows("SELECT id FROM orders WHERE organization_id <> 2").await, ["2"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_entity_comes_back_with_everything_below_it() {
    on_both(async |release| {
        let scene = Scene::begin(release, TENANTS).await;
        let lost = scene.transaction("DELETE FROM organizations").await;
        assert_eq!(scene.value("SELECT count(*) FROM lines").await, "0");
        let to = format!("before:{lost}");
        scene
            .restore(&["--entity", "organizations", "3", "--to", &to, "--apply", "--on-reject", "quarantine"])
            .expect(4);
        assert_eq!(scene.rows("SELECT id FROM organizations").await, ["3"]);
        assert_eq!(scene.value("SELECT count(*), max(organization_id) FROM orders").await, "10|3");
        assert_eq!(scene.value("SELECT count(*) FROM lines").await, "50");
        scene.restore(&["--entity", "orders", "1", "--to", &to, "--with-parents", "--apply"]).expect(0);
        assert_eq!(scene.rows("SELECT id FROM organizations").await, ["2", "3"]);
        assert_eq!(scene.value("SELECT count(*) FROM lines WHERE \"order\" = 1").await, "5");
        assert_eq!(scene.rows("SELECT * FROM links WHERE a = 1").await, ["1|2", "1|5"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_orphans_get_their_parents_back() {
    on_both(async |release| {
        let schema = "CREATE TABLE owners (id int PRIMARY KEY, boss int REFERENCES owners, name text);
            CREATE TABLE things (id int PRIMARY KEY, owner int REFERENCES owners);
            INSERT INTO owners SELECT g, NULLIF(g / 10, 0), 'owner ' || g FROM generate_series(1, 1000) g;
            INSERT INTO things SELECT g, 1 + g % 1000 FROM generate_series(1, 10000) g";
        let scene = Scene::begin(release, schema).await;
        let all = "SELECT 'o', * FROM owners UNION ALL SELECT 't', id, owner, NULL FROM things";
        let before = scene.rows(all).await;
        let lost = scene.transaction("TRUNCATE things; DELETE FROM owners WHERE id > 1").await;
        let to = format!("before:{lost}");
        let end = scene.restore(&["things", "--to", &to, "--apply"]).expect(4);
        assert_has(&end.stdout, &["9990 rows by FOREIGN KEY things_owner_fkey"]);
        assert_eq!(scene.value("SELECT count(*) FROM things").await, "0");
        let end = scene.restore(&["things", "--to", &to, "--with-parents", "--apply"]).expect(0);
        assert_has(&end.stdout, &["Restored 10999 rows"]);
        assert_eq!(scene.rows(all).await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cascade_and_set_null_took_along_comes_back_though_nobody_named_it() {
    on_both(async |release| {
        let schema = "
            CREATE TABLE companies (id int PRIMARY KEY, name text);
            CREATE TABLE contacts (id int PRIMARY KEY, company int REFERENCES companies ON DELETE SET NULL, name text);
            CREATE TABLE deals (id int PRIMARY KEY, contact int DEFAULT 1 REFERENCES contacts ON DELETE SET DEFAULT,
              company int REFERENCES companies ON DELETE CASCADE);
            CREATE TABLE notes (id int PRIMARY KEY, deal int NOT NULL REFERENCES deals ON DELETE CASCADE, text text);
            INSERT INTO companies SELECT g, 'company ' || g FROM generate_series(1, 10) g;
            INSERT INTO contacts SELECT g, 1 + g % 10, 'contact ' || g FROM generate_series(1, 100) g;
            INSERT INTO deals SELECT g, 1 + g % 100, 1 + g % 10 FROM generate_series(1, 200) g;
            INSERT INTO notes SELECT g, 1 + g % 200, 'note' FROM generate_series(1, 600) g";
        let scene = Scene::begin(release, schema).await;
        let all = "SELECT 'c', id, name, NULL, NULL FROM companies UNION ALL SELECT 't', id, name, company::text, NULL FROM contacts
                   UNION ALL SELECT 'd', id, NULL, contact::text, company::text FROM deals
                   UNION ALL SELECT 'n', id, text, deal::text, NULL FROM notes";
        let before = scene.rows(all).await;
        let lost = scene.transaction("DELETE FROM companies WHERE id <= 3").await;
        // Good work since, on rows that were taken along and on others.
        scene.database.run("UPDATE contacts SET name = 'renamed' WHERE id = 1; DELETE FROM notes WHERE id = 5").await;
        let to = format!("before:{lost}");
        let end = scene.restore(&["companies", "--to", &to, "--apply"]).expect(0);
        assert_has(&end.stdout, &["foreign keys took these along", "public.notes"]);
        let expected = before
            .iter()
            .filter(|row| !row.starts_with("n|5|"))
            .map(|row| if row.starts_with("t|1|") { row.replace("contact 1|", "renamed|") } else { row.clone() });
        let mut expected: Vec<String> = expected.collect();
        expected.sort();
        assert_eq!(scene.rows(all).await, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_larger_than_was_agreed_is_refused() {
    on_both(async |release| {
        let scene =
            Scene::begin(release, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50)")
                .await;
        let lost = scene.transaction("DELETE FROM t").await;
        let end = scene.restore(&["--undo", &lost, "--apply", "--max-rows", "49"]).expect(4);
        assert_has(&end.stderr, &["would touch 50 rows, more than 49", "--max-rows"]);
        assert_eq!(scene.value("SELECT count(*) FROM t").await, "0");
        scene.restore(&["--undo", &lost, "--apply", "--max-rows", "50"]).expect(0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_plan_is_performed_exactly_or_not_at_all() {
    on_both(async |release| {
        let scene = Scene::begin(release, TENANTS).await;
        let lost = scene.transaction("DELETE FROM lines; DELETE FROM products WHERE id > 5").await;
        let file = scene.directory.join("plan.json");
        let file = file.to_str().unwrap();
        scene.restore(&["--undo", &lost, "--save", file]).expect(0);
        scene.database.run("INSERT INTO products VALUES (7, 'again')").await;
        let end = scene.restore(&["--plan", file, "--apply"]).expect(4);
        assert_has(&end.stderr, &["public.products"]);
        assert_eq!(scene.value("SELECT count(*) FROM lines").await, "0");
        scene.database.run("DELETE FROM products WHERE id = 7").await;
        scene.restore(&["--undo", &lost, "--on-conflict", "cascade", "--save", file]).expect(0);
        scene.restore(&["--plan", file, "--apply"]).expect(0);
        assert_eq!(scene.value("SELECT count(*) FROM lines").await, "200");
        // A rule that was made in between makes it another plan.
        let lost = scene.transaction("DELETE FROM lines").await;
        scene.restore(&["--undo", &lost, "--save", file, "--on-reject", "quarantine"]).expect(0);
        scene.database.run("ALTER TABLE lines ADD CHECK (id < 100)").await;
        let end = scene.restore(&["--plan", file, "--apply"]).expect(4);
        assert_has(&end.stderr, &["the plan does not hold any more", "public.lines"]);
        assert_eq!(scene.value("SELECT count(*) FROM lines").await, "0");
    })
    .await;
}

/// PostgreSQL's plan for joining such a table would read all of it for each row.
#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_although_statistics_say_that_the_table_is_empty() {
    let table = "CREATE TABLE events (id int PRIMARY KEY, note text);
        INSERT INTO events SELECT i, 'note ' || i FROM generate_series(1, 100000) i";
    let scene = Scene::begin(Release::System, table).await;
    let lost = scene.transaction("DELETE FROM events").await;
    scene.database.run("VACUUM (ANALYZE, TRUNCATE off) events").await;
    assert_eq!(scene.value("SELECT reltuples FROM pg_class WHERE relname = 'events'").await, "0");
    scene.restore(&["--undo", &lost, "--apply"]).expect(0);
    assert_eq!(scene.value("SELECT count(*), count(DISTINCT note) FROM events").await, "100000|100000");
    // And a few of many.
    scene.database.run("ANALYZE events").await;
    let lost = scene.transaction("DELETE FROM events WHERE id % 1000 = 7").await;
    let end = scene.restore(&["--undo", &lost, "--apply"]).expect(0);
    assert_eq!(scene.value("SELECT count(*) FROM events").await, "100000", "{}{}", end.stdout, end.stderr);
}
