//! The console in Chromium: the incident found and undone, every page looked at, keys alone, tokens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Scene, TENANT_TOKEN};
use crate::support::{Database, Directory, PATIENCE, Program, Release, Site, postgres, target_directory, wait_for};

macro_rules! schema {
    ($name:literal) => {
        include_str!(concat!("../../../schemas/", $name, ".sql"))
    };
}

/// Many pages, each looked at twice over, on a busy machine.
const LOOKING: Duration = Duration::from_secs(400);

/// Runs a script of `tests/console` and gives what it printed.
#[track_caller]
fn chromium(script: &str, arguments: &[&str]) -> String {
    let installed = target_directory().join("console");
    assert!(installed.join("node_modules").exists(), "there is no {}; run tests/install test", installed.display());
    // Scripts look for packages beside themselves.
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console");
    for name in ["page.mjs", "incident.mjs", "pages.mjs", "login.mjs"] {
        std::fs::copy(sources.join(name), installed.join(name)).unwrap();
    }
    let program = Program::new(Path::new("node")).arguments([script]).arguments(arguments.iter().copied());
    program.working_directory(&installed).run(LOOKING).expect(0).stdout
}

/// Where pictures go, to be looked at.
fn pictures() -> PathBuf {
    target_directory().join("console-pictures")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_incident_is_found_from_the_spike_and_the_copied_command_restores() {
    let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
    for sql in [schema!("erp"), schema!("erp-data"), schema!("erp-traffic"), "SELECT demo_fill(2, 2000, 2000); ANALYZE"]
    {
        database.run(sql).await;
    }
    let site = Site::local(&database, &directory);
    site.command(["init", "--context"]).run(PATIENCE).expect(0);
    let archiver = site.stream();
    let count = async |condition: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM core_relationships WHERE {condition}");
        database.connect().await.query_one(&sql, &[]).await.unwrap().get(0)
    };
    let traffic = async |steps: std::ops::Range<u32>| {
        for step in steps {
            database.run(&format!("SET application_name = 'erp-web'; SELECT demo_traffic(1, {step})")).await;
        }
    };
    traffic(1..120).await;
    let (before, members) = (count("true").await, count("relationship_type = 'USER_MEMBER_OF_ORG'").await);
    database.run(&format!("SET application_name = 'cleanup.sql'; {}", schema!("erp-incident"))).await;
    let lost = before - count("true").await;
    assert!(lost > 1000, "{lost} rows are lost");
    database.run(schema!("erp-deployment")).await;
    traffic(120..240).await;
    let scene = Scene::serve(database, directory, "", &[]);
    let site = scene.site();
    wait_for("all is archived", PATIENCE, || {
        scene.web.get("/api/timeline").json()["progress"]["whole"] == true
            && scene.web.get("/api/transactions?op=delete").json()["transactions"][0]["counts"][2] == lost
    });
    let told: Json = serde_json::from_str(&chromium("incident.mjs", &[&scene.web.url()])).unwrap();
    assert_eq!(told["mouse"]["clicks"], 4, "{told}");
    let command = told["mouse"]["command"].as_str().unwrap();
    assert_eq!(told["keys"]["command"], command, "keys lead to the same");
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!((words[0], words[1], words.last()), ("afterimage", "restore", Some(&"--apply")), "{command}");
    let still = scene.database.connect().await;
    let gone = "SELECT count(*) FROM core_relationships WHERE relationship_type = 'USER_MEMBER_OF_ORG'";
    assert!(still.query_one(gone, &[]).await.unwrap().get::<_, i64>(0) < members, "looking has restored nothing");
    site.command(words[1..].iter().copied()).run(PATIENCE).expect(0);
    assert!(still.query_one(gone, &[]).await.unwrap().get::<_, i64>(0) >= members, "the members are back");
    drop(archiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_sound_in_every_form() {
    const MARKUP: &str =
        "<script>alert(1)</script><img src=x onerror=alert(2)>\u{202e}\u{1f600}' \" &amp; </td></table>";
    let scene = {
        let (database, directory) = (Database::create(postgres(Release::System)).await, Directory::new());
        database.run("CREATE TABLE notes (id text PRIMARY KEY, tenant_id int, note text, \"<i>odd</i>\" jsonb)").await;
        database.run("INSERT INTO notes SELECT 'n' || g, g % 3, 'note ' || g, '{\"a\": [1, 2]}' FROM generate_series(1, 200) g").await;
        let site = Site::local(&database, &directory);
        site.command(["init", "--context"]).run(PATIENCE).expect(0);
        let archiver = site.stream();
        site.command(["mark", "before"]).run(PATIENCE).expect(0);
        let client = database.connect().await;
        for step in 0..20 {
            database.run(&format!("UPDATE notes SET note = note || '.' WHERE id = 'n{step}'")).await;
        }
        client.execute("INSERT INTO notes VALUES ('scripted', 1, 'plain')", &[]).await.unwrap();
        client.execute("UPDATE notes SET note = $1 WHERE id = 'scripted'", &[&MARKUP]).await.unwrap();
        database.run("SET application_name = '<b>nobody</b>'; DELETE FROM notes WHERE tenant_id = 2").await;
        site.command(["gate", "before", "after"]).run(PATIENCE).expect(0);
        let scene = Scene::serve(database, directory, "", &[]);
        (scene, archiver)
    };
    let (scene, archiver) = scene;
    wait_for("the log is read", PATIENCE, || scene.web.get("/api/timeline").json()["progress"]["whole"] == true);
    let found = scene.web.get("/api/transactions?op=delete").json();
    let given = json!({
        "transaction": found["transactions"][0]["lsn"], "table": "public.notes", "key": "scripted", "text": MARKUP,
        "wrong": "4000000000",
    });
    let directory = pictures();
    let told = chromium("pages.mjs", &[&scene.web.url(), directory.to_str().unwrap(), &given.to_string()]);
    assert_eq!(told, "every page\n");
    drop(archiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_forgotten() {
    let scene = Scene::closed().await;
    let told = chromium("login.mjs", &[&scene.web.url(), pictures().to_str().unwrap(), TENANT_TOKEN]);
    assert_eq!(told, "logged in\n");
}
