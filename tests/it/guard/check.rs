//! Proposed constraints.

use super::Watch;
use crate::support::Release;

#[tokio::test(flavor = "multi_thread")]
async fn smart_code_constraint_validator_says_what_it_would_refuse_before_it_is_made() {
    let configuration = "[check]\ncritical = [\"relationship_type = 'USER_MEMBER_OF_ORG'\"]\n";
    for release in Release::ALL {
        let watch = Watch::begin(release, configuration).await;
        let check = |arguments: &[&str]| watch.afterimage(&[&["check", "core_relationships"], arguments].concat());
        check(&["organization_id >= 0"]).expect(0);
        let some = check(&["from_entity_id <> 'user 77'"]).expect(3).stdout;
        assert!(
            some.contains("impact         LOW") && some.contains("2 of 20,000 violate it, 0 of them critical"),
            "{some}"
        );
        assert!(some.contains("pattern      from_entity_id like \"a 9\": 2"), "{some}");
        let worse = check(&["from_entity_id <> 'user 50'"]).expect(3).stdout;
        assert!(worse.contains("impact         CATASTROPHIC"), "{worse}");
        // What was deleted can be brought back, and would be refused then.
        let client = watch.database.connect().await;
        client.batch_execute("DELETE FROM core_relationships WHERE from_entity_id = 'user 77'").await.unwrap();
        client.batch_execute("UPDATE core_relationships SET relationship_type = 'NEW' WHERE id = 3").await.unwrap();
        watch.settle().await;
        let gone = check(&["from_entity_id <> 'user 77'", "--json"]).expect(3).stdout;
        let gone: serde_json::Value = serde_json::from_str(&gone).unwrap();
        assert_eq!((&gone["live"]["violating"], &gone["archived"]["violating"]), (&0.into(), &2.into()), "{gone}");
        assert_eq!(gone["archived"]["tenants"].as_array().unwrap().len(), 2, "{gone}");
        check(&["from_entity_id <> 'user 77'", "--live-only"]).expect(0);
        let former = check(&["UNIQUE (id)", "--live-only"]).expect(0).stdout;
        assert!(former.contains("SAFE"), "{former}");
        check(&["UNIQUE (relationship_type)", "--live-only"]).expect(3);
        check(&["nothing = 1"]).expect(2);
        check(&["NOT NULL relationship_data"]).expect(0);
        assert_eq!(watch.count("core_relationships").await, 19_998, "nothing was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_run_in_a_copy_and_what_it_would_do_is_told() {
    for release in [Release::System, Release::Eighteen] {
        let watch = Watch::begin(release, "").await;
        let file = watch.directory.join("migration.sql");
        let run = |sql: &str, code| {
            std::fs::write(&file, sql).unwrap();
            let end = watch.afterimage(&["check", "--file", file.to_str().unwrap(), "--json"]).expect(code);
            serde_json::from_str::<serde_json::Value>(&end.stdout).unwrap()
        };
        let harmless = "ALTER TABLE core_relationships ADD strength int DEFAULT 1;
            UPDATE core_relationships SET relationship_type = 'IS_A' WHERE id <= 10;
            INSERT INTO core_relationships VALUES (90000, 1, 'user x', 'NEW')";
        let found = run(harmless, 0);
        let table = &found["tables"][0];
        assert_eq!(
            (&table["inserted"], &table["updated"], &table["deleted"]),
            (&1.into(), &10.into(), &0.into()),
            "{found}"
        );
        let found = run("DELETE FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'", 3);
        assert_eq!(found["tables"][0]["deleted"], 400, "{found}");
        let strict = "ALTER TABLE core_relationships ADD CONSTRAINT strict CHECK (relationship_type <> 'HAS_STATUS')";
        let found = run(strict, 3);
        assert!(found["rejected"].as_str().unwrap().contains("strict"), "{found}");
        let found = run("DROP TABLE core_relationships", 3);
        assert_eq!(found["tables"][0]["dropped"], true, "{found}");
        assert_eq!(watch.count("core_relationships").await, 20_000, "the source is as it was");
    }
}
