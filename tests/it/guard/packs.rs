//! The packs over the incidents' databases.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Watch;
use crate::support::{Release, wait_for};

const CRM: &str = include_str!("../../../schemas/crm.sql");
const HRMS: &str = include_str!("../../../schemas/hrms.sql");

impl Watch {
    /// What each health check found last, as soon as all of them have found something.
    fn health(&self, checks: usize) -> BTreeMap<String, i64> {
        let mut found = BTreeMap::new();
        wait_for("every check has run", Duration::from_secs(60), || {
            let sql = "SELECT \"check\", value FROM afterimage.health ORDER BY ts";
            let lines = self.afterimage(&["query", "--json", sql]).expect(0).stdout;
            let rows = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            found =
                rows.map(|row| (row["check"].as_str().unwrap().to_owned(), row["value"].as_i64().unwrap())).collect();
            found.len() >= checks
        });
        found
    }
}

fn expected(checks: &[(&str, i64)]) -> BTreeMap<String, i64> {
    checks.iter().map(|(check, value)| ((*check).to_owned(), *value)).collect()
}

/// The data of crm.sql has one case of everything that the review warns of.
#[tokio::test(flavor = "multi_thread")]
async fn crm_integrity_queries_find_what_the_review_found() {
    let watch = Watch::over(Release::System, CRM, "packs = [\"crm\"]\n").await;
    let wanted = [
        ("tenants_without_owner", 1),
        ("deals_without_stage", 5),
        ("contacts_of_deleted_companies", 30),
        ("duplicate_contact_emails", 0),
    ];
    assert_eq!(watch.health(4), expected(&wanted));
    let client = watch.database.connect().await;
    // One after the other within five minutes, as somebody clicks.
    for company in 0..12 {
        let sql = format!("UPDATE companies SET deleted_at = now() WHERE id = crm_id('company', {company})");
        client.batch_execute(&sql).await.unwrap();
    }
    let alert = watch.alert_of("soft-delete-of-parents");
    assert!(alert["rows"].as_u64().unwrap() >= 10 && alert["table"] == "public.companies", "{alert}");
    client.batch_execute("DELETE FROM tenants WHERE slug = 'half-registered'").await.unwrap();
    let alert = watch.alert_of("hard-delete");
    let command = alert["command"].as_str().unwrap().strip_prefix("afterimage ").unwrap();
    watch.afterimage(&command.split(' ').collect::<Vec<_>>()).expect(0);
    assert_eq!(watch.count("tenants").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn hrms_bootstrap_rows_and_migrations_are_watched() {
    let watch = Watch::over(Release::System, HRMS, "packs = [\"hrms\"]\n").await;
    let well = [
        ("public_tenant_missing", 0),
        ("tenants_without_domain", 0),
        ("tenants_without_migrations", 0),
        ("public_migrations_missing", 0),
    ];
    assert_eq!(watch.health(4), expected(&well));
    let client = watch.database.connect().await;
    client.batch_execute("DELETE FROM tenant_demo.django_migrations WHERE app = 'abac'").await.unwrap();
    assert_eq!(watch.alert_of("migrations-deleted")["rows"], 2);
    client.batch_execute("DELETE FROM tenants_domain WHERE domain = 'localhost'").await.unwrap();
    assert_eq!(watch.alert_of("tenant-deleted")["table"], "public.tenants_domain");
    client.batch_execute("DROP SCHEMA tenant_umbrella CASCADE").await.unwrap();
    let ill = watch.afterimage(&["doctor"]).expect(3).stdout;
    for part in ["public_tenant_missing is 1", "tenants_without_domain is 1", "tenants_without_migrations is 1"] {
        assert!(ill.contains(part), "{part}\n{ill}");
    }
}
