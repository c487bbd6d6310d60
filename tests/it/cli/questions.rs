//! The questions of the incidents, as docs/asking.md writes them, over the databases of the incidents. What is right the
//! source itself has said, before and after.

use std::fs;

use serde_json::{Value as Json, json};
use tokio_postgres::Client;

use super::{Scene, assert_has, json_lines};
use crate::support::{Database, Directory, Release, postgres};

const ERP: &str = include_str!("../../../schemas/erp.sql");
const ERP_DATA: &str = include_str!("../../../schemas/erp-data.sql");
const ERP_INCIDENT: &str = include_str!("../../../schemas/erp-incident.sql");
const CRM: &str = include_str!("../../../schemas/crm.sql");

/// The statement below a question in the documentation.
#[track_caller]
fn documented(question: &str) -> String {
    let asking = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/asking.md")).unwrap();
    let (_, below) =
        asking.split_once(&format!("**{question}**")).unwrap_or_else(|| panic!("nobody asks {question:?}"));
    let (before, block) = below.split_once("```sql\n").unwrap();
    assert_eq!(before.trim(), "", "something stands between the question and its statement");
    block.split_once("```").unwrap().0.to_owned()
}

impl Scene {
    /// Asks a documented question, with what stands in the documentation replaced by what is so here. The values of each
    /// row.
    #[track_caller]
    fn answer(&self, question: &str, replaced: &[(&str, &str)]) -> Vec<Json> {
        let mut sql = documented(question);
        for (documented, here) in replaced {
            assert!(sql.contains(documented), "{documented} is not in {sql}");
            sql = sql.replace(documented, here);
        }
        let rows = json_lines(&self.ask_offline(["query", "--json", &sql]));
        rows.into_iter().map(|row| row.as_object().unwrap().values().cloned().collect()).collect()
    }
}

/// What the source says, as rows of texts.
async fn source_says(client: &Client, sql: &str) -> Vec<Json> {
    let rows = client.query(sql, &[]).await.unwrap();
    let text = |row: &tokio_postgres::Row, at: usize| row.get::<_, Option<String>>(at).map_or(Json::Null, Json::from);
    rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect()
}

#[tokio::test]
async fn of_the_erp() {
    let database = Database::create(postgres(Release::System)).await;
    for sql in [ERP, ERP_DATA, "SELECT demo_fill(3, 400, 200)"] {
        database.run(sql).await;
    }
    let scene = Scene { database, directory: Directory::new() };
    scene.run(["init", "--all-tables", "--context"]).expect(0);
    let client = scene.database.connect().await;
    let memberships = "SELECT id::text, from_entity_id FROM core_relationships
        WHERE relationship_type = 'USER_MEMBER_OF_ORG' ORDER BY id::text";
    scene.run(["mark", "noon", "--wait", "0s"]).expect(0);
    let noon = source_says(&client, memberships).await;
    assert!(noon.len() > 10, "{}", noon.len());
    scene.database.run(ERP_INCIDENT).await;
    let day = source_says(
        &client,
        "SELECT d::text FROM generate_series(now() AT TIME ZONE 'UTC',
        now() AT TIME ZONE 'UTC' + interval '1 day', '1 day') day, LATERAL CAST(day AS date) d",
    )
    .await;
    let (today, tomorrow) = (day[0][0].as_str().unwrap(), day[1][0].as_str().unwrap());
    // As in the report, the first user is let in again.
    let let_in = noon[0][1].as_str().unwrap().to_owned();
    scene
        .database
        .run(&format!(
            "INSERT INTO core_relationships (organization_id, from_entity_id, to_entity_id, relationship_type, smart_code)
             SELECT organization_id, id, organization_id::text, 'USER_MEMBER_OF_ORG', 'HERA.ACCOUNTING.USER.MEMBERSHIP.v2'
             FROM core_entities WHERE id = '{let_in}'"
        ))
        .await;
    let after = source_says(&client, memberships).await;
    assert_eq!(after.len(), 1, "the statement left none");
    scene.catch_up();

    let dates = [("2025-10-09", today), ("2025-10-10", tomorrow)];
    let deleted = scene.answer("Which memberships were deleted on 9 October, by whom and by what statement?", &dates);
    let expected: Vec<Json> = noon.iter().map(|row| json!([row[0], row[1], "postgres"])).collect();
    assert_eq!(deleted.iter().map(|row| json!([row[0], row[1], row[3]])).collect::<Vec<_>>(), expected);
    for row in &deleted {
        assert_has(row[4].as_str().unwrap(), &["DELETE FROM core_relationships\nWHERE from_entity_id IN ("]);
    }

    let mut users: Vec<&str> = noon.iter().map(|row| row[1].as_str().unwrap()).collect();
    users.sort_unstable();
    users.dedup();
    users.retain(|user| *user != let_in);
    let locked_out = scene.answer("Which users lost their last membership since noon?", &[]);
    assert_eq!(locked_out.iter().map(|row| row[0].as_str().unwrap()).collect::<Vec<_>>(), users);
    assert!(locked_out.iter().all(|row| !row[1].is_null()), "with their names: {locked_out:?}");
}

#[tokio::test]
async fn of_the_crm() {
    let scene = Scene::archived(Release::System, CRM).await;
    let client = scene.database.connect().await;
    let run = async |sql: &str| scene.database.run(sql).await;
    let says = async |sql: &str| source_says(&client, sql).await;
    let user = says("SELECT crm_id('user', 4)::text").await[0][0].as_str().unwrap().to_owned();
    run("UPDATE contacts SET email = 'Twice@mail.example' WHERE id IN (crm_id('contact', 3), crm_id('contact', 6));
         UPDATE contacts SET email = 'twice@mail.example' WHERE id = crm_id('contact', 9);
         UPDATE contacts SET email = 'twice@mail.example' WHERE id = crm_id('contact', 1)")
    .await;
    run("UPDATE users SET role = 'admin' WHERE id = crm_id('user', 4)").await;
    scene.run(["mark", "noon", "--wait", "0s"]).expect(0);
    let duplicates = says(
        "SELECT tenant_id::text, lower(email), count(*)::text FROM contacts WHERE email IS NOT NULL AND deleted_at IS NULL
         GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2",
    )
    .await;
    assert_eq!(duplicates.len(), 1, "the two tenants' are not the same: {duplicates:?}");
    let orphans = says(
        "SELECT c.id::text, c.last_name, o.name FROM contacts c JOIN companies o ON o.id = c.company_id
         WHERE o.id IN (crm_id('company', 1), crm_id('company', 2)) ORDER BY c.last_name",
    )
    .await;
    let deals = says(
        "SELECT d.id::text, d.title, s.name FROM deals d JOIN pipeline_stages s ON s.id = d.stage_id
         WHERE s.id = crm_id('stage', 7) ORDER BY d.title",
    )
    .await;
    assert!(orphans.len() > 5 && deals.len() > 5);
    // One company is deleted, one only marked so; a company that was marked before noon is no news.
    run("DELETE FROM companies WHERE id = crm_id('company', 1)").await;
    run("UPDATE companies SET deleted_at = now() WHERE id = crm_id('company', 2)").await;
    run("DELETE FROM pipeline_stages WHERE id = crm_id('stage', 7)").await;
    run("UPDATE users SET role = 'owner', name = 'Eve' WHERE id = crm_id('user', 4);
         UPDATE users SET role = 'viewer' WHERE id = crm_id('user', 5)")
    .await;
    run("UPDATE users SET name = 'Eva' WHERE id = crm_id('user', 4)").await;
    run("DELETE FROM users WHERE id = crm_id('user', 4)").await;
    run("UPDATE contacts SET email = NULL").await;
    scene.run(["mark", "before-migration", "--wait", "0s"]).expect(0);
    let tables = "SELECT schemaname::text, tablename::text FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'afterimage') ORDER BY 1, 2";
    let before = says(tables).await;
    run("DROP TABLE import_jobs; DROP TABLE api_keys; DROP TABLE audit_logs; DROP TABLE tags;
         CREATE TABLE audit_logs (id int PRIMARY KEY); CREATE TABLE brand_new (id int PRIMARY KEY);
         ALTER TABLE activities RENAME TO events")
    .await;
    let after = says(tables).await;
    scene.run(["mark", "after-migration", "--wait", "0s"]).expect(0);
    run("DROP TABLE deals CASCADE").await;
    scene.catch_up();

    let gone: Vec<Json> = before.iter().filter(|name| !after.contains(name)).cloned().collect();
    assert_eq!(gone.len(), 4, "{gone:?}");
    assert_eq!(scene.answer("Which tables were there before a migration and not after it?", &[]), gone);
    assert_eq!(scene.answer("Which contacts point at a company that was deleted since noon?", &[]), orphans);
    assert_eq!(scene.answer("Which deals were in a stage that was deleted since noon?", &[]), deals);
    let asked = scene.answer("Which e-mail addresses did a tenant have twice at noon?", &[]);
    let asked: Vec<Json> = asked.iter().map(|row| json!([row[0], row[1], row[2].to_string()])).collect();
    assert_eq!(asked, duplicates);
    let id = [("0c2a4b1e-5d59-4f5e-8b7e-3a1f6a0d9c11", user.as_str())];
    let roles = scene.answer("Every change of one user's role?", &id);
    let roles: Vec<Json> = roles.iter().map(|row| json!([row[2], row[3]])).collect();
    assert_eq!(roles, [json!(["member", "admin"]), json!(["admin", "owner"]), json!(["owner", null])]);
}
