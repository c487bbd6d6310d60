//! The page for 3 a.m., and the command that it ends with.

use super::{Scene, assert_has, on_both};

const SHOP: &str = "
CREATE TABLE tenants (id int PRIMARY KEY, name text);
CREATE TABLE users (id int PRIMARY KEY, tenant_id int REFERENCES tenants ON DELETE CASCADE, email text);
INSERT INTO tenants VALUES (1, 'one'), (2, 'two'), (3, 'three');
INSERT INTO users SELECT g, 1 + g % 3, 'user ' || g FROM generate_series(1, 90) g";

#[tokio::test(flavor = "multi_thread")]
async fn one_page_says_what_was_hit_what_depends_on_it_and_the_command_that_works_as_it_stands() {
    on_both(async |release| {
        let scene = Scene::begin(release, SHOP).await;
        let before = scene.rows("SELECT * FROM users").await;
        let said = r#"{"user": "clerk", "statement": "DELETE FROM tenants"}"#;
        let sql = format!(
            "SELECT pg_logical_emit_message(true, 'afterimage.statement', '{said}'); DELETE FROM tenants WHERE id < 3"
        );
        let incident = scene.transaction(&sql).await;
        let later = scene.transaction("INSERT INTO users VALUES (1, 3, 'somebody else')").await;
        let rule = scene.transaction("ALTER TABLE users ADD CONSTRAINT no_four CHECK (email <> 'user 4')").await;
        let page = scene.afterimage(["incident", &incident]).expect(0).stdout;
        let wanted = [
            &format!("INCIDENT  transaction {incident}"),
            "who       clerk",
            "how       DELETE FROM tenants",
            "public.tenants 2 deleted",
            "public.users 60 deleted",
            "tenant_id=1: 30 rows of public.users",
            &format!("(xid {later}) wrote the same rows: 1 of public.users"),
            &format!("1 rows of public.users by CHECK no_four, since transaction {rule}"),
            "It will take about",
        ];
        assert_has(&page, &wanted);
        let command = page.lines().find_map(|line| line.trim().strip_prefix("afterimage ")).unwrap();
        let end = scene.afterimage(command.split(' ')).expect(4);
        assert_has(&end.stdout, &["Restored 61 rows", "1 rows of public.users stay as later transactions left them"]);
        let present = scene.rows("SELECT * FROM users").await;
        let expected =
            before.iter().map(|row| if row == "1|2|user 1" { "1|3|somebody else".to_owned() } else { row.clone() });
        assert_eq!(present, expected.collect::<Vec<_>>());
        let json = scene.afterimage(["incident", &incident, "--json"]).expect(0).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["who"], "clerk");
        scene.afterimage(["incident", "4000000000"]).expect(4);
    })
    .await;
}
