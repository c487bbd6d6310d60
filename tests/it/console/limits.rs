//! A user's tables and row filter hold in whatever the console shows, as they do in the wire endpoint.

use serde_json::{Value as Json, json};

use super::{Answer, CLERK_TOKEN, Scene, TENANT_TOKEN, TOKEN, encoded};

/// Everything that a visitor can ask, of a table and a transaction.
fn everything(scene: &Scene, token: &str, table: &str, lsn: &str) -> Vec<(String, Answer)> {
    let (table, txn, before) = (encoded(table), encoded(lsn), encoded(&format!("before:{lsn}")));
    let mut all: Vec<(String, Answer)> = [
        "me".to_owned(),
        "tables".to_owned(),
        "timeline".to_owned(),
        format!("timeline?table={table}"),
        "timeline?tenant=2".to_owned(),
        "events".to_owned(),
        "transactions".to_owned(),
        "transactions?tenant=2".to_owned(),
        format!("transaction?txn={txn}"),
        format!("changes?txn={txn}&name={table}"),
        format!("row?name={table}&key=7"),
        format!("row?name={table}&key=8"),
        format!("state?name={table}&at={before}"),
        format!("state?name={table}&where=true%20OR%20true"),
        format!("differences?name={table}&from={before}"),
        "health".to_owned(),
    ]
    .into_iter()
    .map(|path| (path.clone(), scene.web.get_as(token, &format!("/api/{path}"))))
    .collect();
    let statements = [
        "SELECT * FROM orders",
        "SELECT * FROM changes('orders')",
        "SELECT * FROM changes.orders",
        "SELECT * FROM images.orders",
        "SELECT * FROM versions('orders')",
        "SELECT * FROM afterimage.transactions",
        "SELECT * FROM colours",
        "SHOW TABLES",
        "EXPLAIN SELECT * FROM orders",
        "/* so */ EXPLAIN ANALYZE SELECT * FROM orders",
        "SELECT * FROM orders WHERE 1 / (id - 8) = 1",
    ];
    for sql in statements {
        all.push((sql.to_owned(), scene.web.post_as(token, "/api/sql", &json!({ "sql": sql }))));
    }
    all.push(("plan".to_owned(), scene.web.post_as(token, "/api/plan", &json!({ "txn": lsn }))));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_rows_and_counts_of_those_alone() {
    let scene = Scene::closed().await;
    let found = scene.web.get_as(TOKEN, "/api/transactions?op=delete").json();
    let lsn = found["transactions"][0]["lsn"].as_str().unwrap().to_owned();
    let mut seen = 0;
    for (what, answer) in everything(&scene, TENANT_TOKEN, "orders", &lsn) {
        assert_ne!(answer.status, 500, "{what}: {}", answer.body);
        assert!(!answer.body.contains("secret of 2"), "{what}: {}", answer.body);
        // What was asked for comes back in the refusal.
        let told = answer.body.replace(&what.replace("SELECT * FROM ", ""), "");
        assert!(!told.contains("colours"), "{what}: {}", answer.body);
        seen += usize::from(answer.body.contains("secret of 1"));
    }
    assert!(seen >= 8, "its own rows are there: {seen}");
    // Of both rows that one transaction deleted, one is the tenant's.
    let changes = scene.web.get_as(TENANT_TOKEN, &format!("/api/changes?txn={}&name=orders", encoded(&lsn))).json();
    assert_eq!(changes["rows"].as_array().unwrap().len(), 1, "{changes}");
    let sum = |drawn: &Json, at: usize| {
        drawn["bars"].as_array().unwrap().iter().map(|bar| bar[at].as_u64().unwrap()).sum::<u64>()
    };
    let drawn = scene.web.get_as(TENANT_TOKEN, "/api/timeline").json();
    assert_eq!((sum(&drawn, 1), sum(&drawn, 2), sum(&drawn, 3), sum(&drawn, 4)), (0, 1, 1, 0), "{drawn}");
    assert_eq!(drawn["how"], "rows");
    let listed = scene.web.get_as(TENANT_TOKEN, "/api/transactions").json();
    assert_eq!(listed["seen"], 2, "{listed}");
    assert_eq!(listed["transactions"][0]["who"], json!(null));
    let header = scene.web.get_as(TENANT_TOKEN, &format!("/api/transaction?txn={}", encoded(&lsn))).json();
    assert_eq!((&header["limited"], &header["counts"]), (&json!(true), &json!(null)));
    scene.web.get_as(TENANT_TOKEN, "/api/health").refused(403);
    scene.web.post_as(TENANT_TOKEN, "/api/plan", &json!({ "txn": lsn })).refused(403);
    scene.web.post_as(TENANT_TOKEN, "/api/sql", &json!({ "sql": "EXPLAIN SELECT 1" })).refused(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_a_users_is_not_there() {
    let scene = Scene::closed().await;
    let found = scene.web.get_as(TOKEN, "/api/transactions?op=delete").json();
    let lsn = found["transactions"][0]["lsn"].as_str().unwrap().to_owned();
    for (what, answer) in everything(&scene, CLERK_TOKEN, "orders", &lsn) {
        assert!(!answer.body.contains("secret of"), "{what}: {}", answer.body);
        assert_ne!(answer.status, 500, "{what}: {}", answer.body);
    }
    for path in ["row?name=orders&key=1", "state?name=orders", "differences?name=orders&from=1h%20ago"] {
        let absent = scene.web.get_as(CLERK_TOKEN, &format!("/api/{path}")).refused(404);
        let other = scene.web.get_as(CLERK_TOKEN, &format!("/api/{}", path.replace("orders", "nothing"))).refused(404);
        assert_eq!(absent.replace("orders", "nothing"), other, "as if it did not exist");
    }
    let tables = scene.web.get_as(CLERK_TOKEN, "/api/tables").json();
    let names: Vec<&str> =
        tables["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["public.colours"]);
    let drawn = scene.web.get_as(CLERK_TOKEN, "/api/timeline").json();
    let inserted: u64 = drawn["bars"].as_array().unwrap().iter().map(|bar| bar[1].as_u64().unwrap()).sum();
    assert_eq!(inserted, 2, "{drawn}");
}
