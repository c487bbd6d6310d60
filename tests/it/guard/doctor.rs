//! `doctor`: level by level.

use std::fs;

use super::Watch;
use crate::support::{PATIENCE, Program, Release};

const TABLES: &str = include_str!("../../../schemas/missing-tables.sql");

const ASKED: &str = "[doctor]
version = { sql = \"SELECT version_num FROM alembic_version\", is = \"80105006e3d3\" }
bootstrap = { organisations = 3, users = 1 }
";

/// What the incident had: three tables, two types and the version that goes with them.
const INCIDENT: &str = "
DROP TABLE hierarchy_permission_overrides, user_hierarchy_assignments, organization_hierarchy CASCADE;
DROP TYPE hierarchylevel, enhanceduserrole;
UPDATE alembic_version SET version_num = '010'";

const MISSING: [&str; 8] = [
    "table public.user_hierarchy_assignments: missing",
    "table public.organization_hierarchy: missing",
    "table public.hierarchy_permission_overrides: missing",
    "enum public.enhanceduserrole: missing, expected super_admin, org_admin, location_manager",
    "enum public.hierarchylevel: missing",
    "index public.idx_permission_overrides_lower: missing",
    "constraint public.organization_hierarchy.organization_hierarchy_root_ck: missing",
    "column public.user_hierarchy_assignments.role: missing",
];

#[tokio::test(flavor = "multi_thread")]
async fn missing_tables_are_named_against_a_point_and_against_a_dump() {
    for release in Release::ALL {
        let watch = Watch::over(release, TABLES, ASKED).await;
        watch.afterimage(&["mark", "good"]).expect(0);
        let dump = watch.directory.join("schema.sql");
        let dump = dump.to_str().unwrap();
        let pg_dump = Release::System.installation().program("pg_dump");
        if release == Release::System {
            let arguments = ["--schema-only", "--dbname", watch.database.url()];
            let dumped = Program::new(&pg_dump).arguments(arguments).run(PATIENCE).expect(0).stdout;
            fs::write(dump, dumped).unwrap();
            let well = watch.afterimage(&["doctor", "--schema", dump]).expect(0).stdout;
            assert!(well.contains("the definitions are those of"), "{well}");
        }
        let well = watch.afterimage(&["doctor", "--schema", "mark:good"]).expect(0).stdout;
        for part in
            ["connection  ok", "slot        ok", "archive     ok", "schema      ok", "version     ok", "bootstrap   ok"]
        {
            assert!(well.contains(part), "{part}\n{well}");
        }
        watch.database.run(INCIDENT).await;
        watch.settle().await;
        let mut expected = vec!["mark:good"];
        expected.extend((release == Release::System).then_some(dump));
        for schema in expected {
            let ill = watch.afterimage(&["doctor", "--schema", schema]).expect(3);
            for part in MISSING {
                assert!(ill.stdout.contains(part), "{part}\n{}", ill.stdout);
            }
            assert!(ill.stdout.contains("version     FAILED   the schema's version is \"010\""), "{}", ill.stdout);
            assert!(ill.stderr.contains("not all is well: schema, version"), "{}", ill.stderr);
        }
        let json = watch.afterimage(&["doctor", "--schema", "mark:good", "--json"]).expect(3).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["healthy"], false);
        assert!(json["drift"].as_array().unwrap().iter().all(|drift| drift["found"].is_null()), "{json}");
        assert!(json["drift"].as_array().unwrap().len() > 30, "{json}");
        watch.afterimage(&["doctor", "--schema", "no-such-file"]).expect(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_level_that_is_not_well_is_told_with_what_to_do() {
    let watch = Watch::over(Release::System, TABLES, ASKED).await;
    let client = watch.database.connect().await;
    client
        .batch_execute("DELETE FROM hierarchy_permission_overrides; DELETE FROM user_hierarchy_assignments")
        .await
        .unwrap();
    client.batch_execute("DELETE FROM users").await.unwrap();
    let ill = watch.afterimage(&["doctor"]).expect(3).stdout;
    assert!(ill.contains("bootstrap   FAILED") && ill.contains("public.users"), "{ill}");
    assert!(ill.contains("do: load what the application cannot start without into public.users"), "{ill}");
    // The server's disk has no limit for the slot.
    assert!(ill.contains("source      warning  max_slot_wal_keep_size is unlimited"), "{ill}");
    let Watch { archiver, database, _server: server, directory } = watch;
    archiver.kill();
    let doctor = |arguments: &[&str]| super::program(&database, &directory, arguments).run(PATIENCE);
    let ill = doctor(&["doctor"]).expect(3).stdout;
    assert!(ill.contains("slot        FAILED   no archiver is running"), "{ill}");
    assert!(ill.contains("do: start one: afterimage run"), "{ill}");
    let ill = doctor(&["doctor", "--source", "postgres://postgres@127.0.0.1:1/nowhere"]).expect(3).stdout;
    assert!(ill.contains("connection  FAILED"), "{ill}");
    drop(server);
}
