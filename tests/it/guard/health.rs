//! The source's health.

use std::time::Duration;

use super::Watch;
use crate::support::{Release, wait_for};

const ERP: &str = include_str!("../../../schemas/erp.sql");
const ERP_DATA: &str = include_str!("../../../schemas/erp-data.sql");

#[tokio::test(flavor = "multi_thread")]
async fn authentication_health_monitor_finds_what_the_plans_own_function_finds() {
    let erp = format!("{ERP}\n{ERP_DATA}\nSELECT demo_fill(4, 4000, 4000);");
    let watch = Watch::over(Release::System, &erp, "packs = [\"erp\"]\n").await;
    let latest = |check: &str| {
        let sql =
            format!("SELECT status, value FROM afterimage.health WHERE \"check\" = '{check}' ORDER BY ts DESC LIMIT 1");
        let end = watch.afterimage(&["query", "--json", &sql]).expect(0);
        end.stdout.lines().next().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
    };
    for check in ["missing_org_memberships", "inactive_auth_relationships", "invalid_smart_codes", "missing_user_roles"]
    {
        wait_for(&format!("{check} is in the archive"), Duration::from_secs(60), || latest(check).is_some());
    }
    let client = watch.database.connect().await;
    let missing = "SELECT count(*) FROM auth.users u WHERE NOT EXISTS (SELECT FROM core_relationships r
        WHERE r.from_entity_id = u.id::text AND r.relationship_type = 'USER_MEMBER_OF_ORG' AND r.is_active)";
    let missing: i64 = client.query_one(missing, &[]).await.unwrap().get(0);
    assert_eq!(latest("missing_org_memberships").unwrap()["value"], missing);
    let status = watch.afterimage(&["status"]).stdout;
    assert!(status.contains("health      ") && status.contains("invalid_smart_codes is "), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_falls_ill_or_cannot_be_asked_raises_an_alert() {
    let configuration = "[[health]]
name = \"members\"
sql = \"SELECT 400 - count(*) FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'\"
interval = \"500ms\"
severity = \"CRITICAL\"
resolution = \"restore them\"
[[health]]
name = \"broken\"
sql = \"SELECT nothing\"
[[health]]
name = \"writes\"
sql = \"DELETE FROM core_relationships\"
";
    let watch = Watch::begin(Release::System, configuration).await;
    let broken = watch.alert_of("health:broken");
    assert!(broken["message"].as_str().unwrap().contains("nothing"), "{broken}");
    let writes = watch.alert_of("health:writes");
    assert!(writes["message"].as_str().unwrap().contains("read-only"), "{writes}");
    assert_eq!(watch.count("core_relationships").await, 20_000);
    let sql = "DELETE FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG' AND id < 300";
    watch.database.run(sql).await;
    let ill = watch.alert_of("health:members");
    assert!(ill["message"].as_str().unwrap().contains("restore them"), "{ill}");
    assert_eq!(ill["severity"], "CRITICAL");
}
