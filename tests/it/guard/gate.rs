//! The gate before and after a deployment.

use std::fs;

use super::Watch;
use crate::support::Release;

const GATE: &str = "[[health]]
name = \"memberships\"
sql = \"SELECT 400 - count(*) FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'\"
severity = \"CRITICAL\"
resolution = \"restore them\"
";

#[tokio::test(flavor = "multi_thread")]
async fn pre_and_post_deployment_validation_closes_the_gate_where_it_must() {
    for release in [Release::System, Release::Eighteen] {
        let watch = Watch::begin(release, GATE).await;
        let client = watch.database.connect().await;
        let file = watch.directory.join("gate.toml");
        let path = file.to_str().unwrap();
        fs::write(&file, "[[check]]\ntable = \"core_relationships\"\nconstraint = \"organization_id < 3\"\n").unwrap();
        let closed = watch.afterimage(&["gate", "before", "release-7", "--file", path]).expect(3);
        assert!(closed.stdout.contains("| **no** | constraint |"), "{}", closed.stdout);
        fs::write(&file, "[[expect]]\ntable = \"core_relationships\"\nupdate = \"1..10\"\n").unwrap();
        let open = watch.afterimage(&["gate", "before", "release-7", "--file", path]).expect(0);
        assert!(open.stdout.contains("## Gate before `release-7`: passed"), "{}", open.stdout);
        let marks = ["query", "--format", "csv", "SELECT name, kind FROM afterimage.marks"];
        assert_eq!(watch.afterimage(&marks).expect(0).stdout, "name,kind\nrelease-7,deployment\n");
        client.batch_execute("UPDATE core_relationships SET organization_id = 1 WHERE id < 5").await.unwrap();
        watch.afterimage(&["gate", "after", "release-7", "--file", path]).expect(0);
        // The deployment's last step deletes what it should not.
        let sql = "DELETE FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'";
        client.batch_execute(sql).await.unwrap();
        let report = watch.directory.join("report.md");
        let arguments = ["gate", "after", "release-7", "--file", path, "--report", report.to_str().unwrap()];
        let closed = watch.afterimage(&arguments).expect(3);
        for part in [
            "| **no** | delete of public.core_relationships | 400 rows",
            "| **no** | health: memberships |",
            "restore them",
        ] {
            assert!(closed.stdout.contains(part), "{part}\n{}", closed.stdout);
        }
        let written = fs::read_to_string(&report).unwrap();
        let command = written.lines().find(|line| line.ends_with("--apply")).unwrap();
        let command = command.strip_prefix("afterimage ").unwrap().replace('\'', "");
        watch.afterimage(&command.split(' ').collect::<Vec<_>>()).expect(0);
        assert_eq!(watch.count("core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'").await, 400);
        watch.afterimage(&["gate", "after", "no-such-release"]).expect(4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_tables_enums_indexes_and_constraints_are_named() {
    let watch = Watch::begin(Release::System, "").await;
    let expected = "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE hierarchy (id int PRIMARY KEY, k kind);
        CREATE TABLE core_relationships (id int PRIMARY KEY, organization_id int NOT NULL, from_entity_id text NOT NULL,
        relationship_type text NOT NULL, relationship_data jsonb, CONSTRAINT typed CHECK (relationship_type <> ''));
        CREATE INDEX by_type ON core_relationships (relationship_type);";
    let file = watch.directory.join("schema.sql");
    fs::write(&file, expected).unwrap();
    let closed = watch.afterimage(&["gate", "before", "release-8", "--schema", file.to_str().unwrap()]).expect(3);
    for part in [
        "table public.hierarchy | table | missing",
        "enum public.kind | a, b | missing",
        "index public.by_type",
        "constraint public.core_relationships.typed",
        "table public.critical_system_alerts | missing | table",
    ] {
        assert!(closed.stdout.contains(part), "{part}\n{}", closed.stdout);
    }
}
