//! A transaction is undone, and nothing else: what came after it stays, or is named.

use super::{Scene, assert_has, on_both};

const SHOP: &str = "
CREATE TABLE products (id int PRIMARY KEY, name text, price numeric(10,2) NOT NULL, stock int NOT NULL DEFAULT 0);
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (id serial PRIMARY KEY, customer int REFERENCES customers ON DELETE CASCADE,
  product int REFERENCES products ON DELETE SET NULL, note text);
INSERT INTO products SELECT g, 'product ' || g, g, 10 FROM generate_series(1, 100) g;
INSERT INTO customers SELECT g, 'customer ' || g FROM generate_series(1, 20) g;
INSERT INTO orders (customer, product) SELECT 1 + g % 20, 1 + g % 90 FROM generate_series(1, 400) g";

const ALL: &str = "SELECT 'p', id, name, price::text, stock::text FROM products
  UNION ALL SELECT 'c', id, name, NULL, NULL FROM customers UNION ALL SELECT 'o', id, note, customer::text, product::text FROM orders";

#[tokio::test(flavor = "multi_thread")]
async fn an_update_without_a_where_is_undone_around_an_hour_of_good_traffic() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let bad = scene.transaction("UPDATE products SET price = 0").await;
        let later = scene.transaction("UPDATE products SET stock = stock - 1 WHERE id <= 5").await;
        scene.transaction("INSERT INTO products VALUES (101, 'new', 7, 1); INSERT INTO orders (customer, product) VALUES (1, 101)").await;
        let plan = scene.restore(&["--undo", &bad]).expect(0).stdout;
        assert_has(&plan, &[&format!("xid {later}"), "wrote the same rows, 5 of public.products", "--on-conflict skip"]);
        let end = scene.restore(&["--undo", &bad, "--apply"]).expect(4);
        assert_has(&end.stderr, &["1 later transactions depend on it", "nothing was changed"]);
        assert_eq!(scene.value("SELECT sum(price) FROM products").await, "7.00");
        let end = scene.restore(&["--undo", &bad, "--apply", "--on-conflict", "skip"]).expect(4);
        assert_has(&end.stdout, &["Restored 95 rows by undoing 1 transaction", "5 rows of public.products stay"]);
        assert_eq!(scene.value("SELECT count(*) FROM products WHERE price = id AND stock = 10").await, "95");
        assert_eq!(scene.value("SELECT count(*) FROM products WHERE price = 0 AND stock = 9").await, "5");
        // The rest together with what came later.
        scene.restore(&["--undo", &bad, "--apply", "--on-conflict", "cascade"]).expect(0);
        assert_eq!(scene.value("SELECT count(*) FROM products WHERE price = id AND stock = 10").await, "100");
        assert_eq!(scene.value("SELECT count(*) FROM products").await, "101");
        assert_eq!(scene.value("SELECT count(*) FROM orders").await, "401");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_deleted_through_cascade_and_set_null_comes_back_whole_and_the_undo_can_be_undone() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let before = scene.rows(ALL).await;
        let lost = scene.transaction("DELETE FROM customers WHERE id <= 3; DELETE FROM products WHERE id > 80").await;
        let damaged = scene.rows(ALL).await;
        scene.transaction("INSERT INTO customers VALUES (1000, 'new')").await;
        let report = scene.afterimage(["restore", "--undo", &lost, "--apply", "--json"]).expect(0).stdout;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        scene.database.run("DELETE FROM customers WHERE id = 1000").await;
        assert_eq!(scene.rows(ALL).await, before);
        // Again: nothing is left to do.
        let end = scene.restore(&["--undo", &lost, "--apply"]).expect(0);
        assert_has(&end.stdout, &["Nothing to restore"]);
        scene.restore(&["--undo", &report["xid"].to_string(), "--apply"]).expect(0);
        assert_eq!(scene.rows(ALL).await, damaged);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_used_again_since_are_a_conflict_with_who_used_them() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let lost = scene.transaction("DELETE FROM customers WHERE id IN (7, 8)").await;
        let reuse = scene.transaction("INSERT INTO customers VALUES (7, 'somebody else')").await;
        let end = scene.restore(&["--undo", &lost, "--apply"]).expect(4);
        assert_has(&end.stdout, &[&format!("xid {reuse}"), "1 of public.customers"]);
        scene.restore(&["--undo", &lost, "--apply", "--on-conflict", "skip"]).expect(4);
        assert_eq!(scene.rows("SELECT name FROM customers WHERE id IN (7, 8)").await, ["customer 8", "somebody else"]);
        let orders = "SELECT count(*) FROM orders WHERE customer = ";
        // The orders of 7 would come back to somebody else; they do, for the key is what they refer to.
        assert_eq!(scene.value(&format!("{orders}8")).await, "20");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_hang_on_an_undone_import_by_foreign_keys_name_their_transactions() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let before = scene.rows(ALL).await;
        let import = scene.transaction("INSERT INTO customers VALUES (30, 'import'), (31, 'import')").await;
        let order = scene.transaction("INSERT INTO orders (customer, product) VALUES (30, 1)").await;
        let noted = scene.transaction("UPDATE orders SET note = 'urgent' WHERE customer = 30").await;
        let end = scene.restore(&["--undo", &import, "--apply"]).expect(4);
        assert_has(&end.stdout, &[&format!("xid {order}"), &format!("xid {noted}"), "depends by foreign keys"]);
        let end = scene.restore(&["--undo", &import, "--apply", "--on-conflict", "skip"]).expect(4);
        assert_has(&end.stdout, &["Restored 1 rows", "1 rows of public.customers stay"]);
        assert_eq!(scene.rows("SELECT id FROM customers WHERE id >= 30").await, ["30"]);
        scene.restore(&["--undo", &import, "--apply", "--on-conflict", "cascade"]).expect(0);
        assert_eq!(scene.rows(ALL).await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_comes_back_with_what_hangs_on_it() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let before = scene.rows(ALL).await;
        let lost = scene.transaction("TRUNCATE customers CASCADE").await;
        assert_eq!(scene.value("SELECT count(*) FROM orders").await, "0");
        scene
            .database
            .run("INSERT INTO customers VALUES (1000, 'new'); INSERT INTO orders (customer) VALUES (1000)")
            .await;
        scene.restore(&["--undo", &lost, "--apply"]).expect(0);
        assert_eq!(scene.value("SELECT count(*) FROM orders").await, "401");
        scene.database.run("DELETE FROM customers WHERE id = 1000").await;
        assert_eq!(scene.rows(ALL).await, before);
        assert_eq!(scene.value("SELECT nextval('orders_id_seq') > 401").await, "t");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_transactions_are_undone_together_and_keys_that_moved_are_one_row() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let before = scene.rows(ALL).await;
        let first =
            scene.transaction("UPDATE customers SET name = 'x' WHERE id < 4; DELETE FROM orders WHERE id = 1").await;
        let second = scene
            .transaction("UPDATE customers SET name = 'y' WHERE id < 3; UPDATE products SET id = 500 WHERE id = 95")
            .await;
        let end = scene.restore(&["--undo", &first, "--apply"]).expect(4);
        assert_has(&end.stdout, &[&format!("xid {second}"), "2 of public.customers"]);
        scene.restore(&["--undo", &format!("{first},{second}"), "--apply"]).expect(0);
        assert_eq!(scene.rows(ALL).await, before);
        // The row that moved was written since: neither of its keys is touched.
        let moved = scene.transaction("UPDATE products SET id = 600 WHERE id = 96").await;
        scene.transaction("UPDATE products SET stock = 77 WHERE id = 600").await;
        scene.restore(&["products", "--undo", &moved, "--apply", "--on-conflict", "skip"]).expect(4);
        assert_eq!(scene.rows("SELECT id, stock FROM products WHERE id IN (96, 600)").await, ["600|77"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_loses_one_of_three_equal_rows_and_gets_it_back() {
    on_both(async |release| {
        let schema =
            "CREATE TABLE log (at int, what text); INSERT INTO log VALUES (1, 'a'), (1, 'a'), (1, 'a'), (2, NULL)";
        let scene = Scene::begin(release, schema).await;
        let before = scene.rows("SELECT * FROM log").await;
        let sql = "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log); UPDATE log SET what = 'b' WHERE at = 2";
        let lost = scene.transaction(sql).await;
        scene.database.run("INSERT INTO log VALUES (3, 'later')").await;
        scene.restore(&["--undo", &lost, "--apply"]).expect(0);
        scene.database.run("DELETE FROM log WHERE at = 3").await;
        assert_eq!(scene.rows("SELECT * FROM log").await, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_job_that_ran_again_is_named_with_what_to_do_about_it() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let job = |rows: &str| {
            let said = r#"{"statement": "DELETE FROM customers WHERE unused"}"#;
            format!("SELECT pg_logical_emit_message(true, 'afterimage.statement', '{said}'); DELETE FROM customers WHERE {rows}")
        };
        let first = scene.transaction(&job("id < 3")).await;
        let alone = scene.restore(&["--undo", &first]).expect(0).stdout;
        assert!(!alone.contains("ran the same statement again"), "{alone}");
        let again = scene.transaction(&job("id = 5")).await;
        let plan = scene.restore(&["--undo", &first]).expect(0).stdout;
        assert_has(&plan, &[&format!("(xid {again}) ran the same statement again: stop what runs it"), "caches"]);
        let end = scene.restore(&["--undo", &first, "--apply"]).expect(0);
        assert_has(&end.stdout, &["ran the same statement again"]);
    })
    .await;
}
