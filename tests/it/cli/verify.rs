//! `verify`: what is whole passes, and every kind of damage is named.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{PATIENCE, Scene, assert_has, json};
use crate::support::Release;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE bag (v numeric, note text); ALTER TABLE bag REPLICA IDENTITY FULL;
    CREATE TABLE parted (id int, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parted_old PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('2025-01-01');
    CREATE TABLE parted_new PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO (MAXVALUE);
    INSERT INTO t SELECT n, repeat('long ', n) FROM generate_series(1, 500) n;
    INSERT INTO bag VALUES ('1.50', 'twice'), ('1.50', 'twice'), ('NaN', NULL), (NULL, '')";

const TRAFFIC: [&str; 7] = [
    "UPDATE t SET v = v || 'x' WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0",
    "UPDATE t SET id = id + 1000 WHERE id < 10",
    "INSERT INTO bag SELECT * FROM bag; DELETE FROM bag WHERE v = 'NaN'",
    "INSERT INTO parted VALUES (1, '2024-05-05'), (2, '2025-05-05'), (3, '2025-06-06'); UPDATE parted SET at = '2024-01-01' WHERE id = 2",
    "ALTER TABLE t ADD added jsonb DEFAULT '{\"a\": 1}'; UPDATE t SET added = NULL WHERE id % 5 = 0",
    "CREATE TABLE late (a text PRIMARY KEY); INSERT INTO late VALUES (E'tab\\there\\nand \\\\'); TRUNCATE late; INSERT INTO late VALUES ('')",
    "ALTER TABLE t ALTER id TYPE bigint",
];

async fn scene(release: Release) -> Scene {
    let scene = Scene::archived(release, TABLES).await;
    for sql in TRAFFIC {
        scene.database.run(sql).await;
        scene.catch_up();
    }
    scene
}

fn verify(scene: &Scene, code: i32) -> Json {
    json(&scene.offline(["verify", "--json"]).run(PATIENCE).expect(code).stdout)
}

/// What is told of an archive that is not whole.
fn findings(scene: &Scene) -> String {
    let report = verify(scene, 3);
    assert_ne!(report["findings"], 0, "{report}");
    report["told"].to_string()
}

/// Does something to a file, sees what is said, and undoes it.
fn damaged(scene: &Scene, file: &Path, damage: impl FnOnce(&Path)) -> String {
    let content = fs::read(file).unwrap();
    damage(file);
    let told = findings(scene);
    fs::write(file, content).unwrap();
    told
}

#[tokio::test]
async fn what_is_whole_passes_and_each_damage_is_named() {
    let scene = scene(Release::System).await;
    let report = verify(&scene, 0);
    assert_eq!(report["findings"], 0, "{report}");
    assert_eq!(report["files"], report["proven"], "{report}");
    let listed =
        scene.ask_offline(["query", "SELECT count(*) AS n, sum(changes) AS c FROM afterimage.transactions", "--json"]);
    let listed = json(listed.lines().next().unwrap());
    assert_eq!(report["transactions"], listed["n"]);
    assert_eq!(report["changes"], listed["c"]);

    let file = scene.data_files("changes/public/t").remove(0);
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let told = damaged(&scene, &file, |file| fs::remove_file(file).unwrap());
    assert_has(&told, &[&name, "the file is missing"]);
    let told = damaged(&scene, &file, |file| {
        let mut content = fs::read(file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(file, content).unwrap();
    });
    assert_has(&told, &[&name, "its checksum differs"]);
    let told = damaged(&scene, &file, |file| {
        let content = fs::read(file).unwrap();
        fs::write(file, &content[..content.len() - 1]).unwrap();
    });
    assert_has(&told, &[&name, "bytes instead of"]);

    // A file that the table no longer names leaves a hole that only the list of transactions shows.
    let log = scene.directory.join("archive/changes/public/t/_delta_log");
    let mut commits: Vec<PathBuf> = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
    commits.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    commits.retain(|path| fs::read_to_string(path).unwrap().contains("\"add\""));
    commits.sort();
    let told = damaged(&scene, &commits[0], |commit| {
        let text = fs::read_to_string(commit).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("{\"add\"")).collect();
        fs::write(commit, kept.join("\n")).unwrap();
    });
    assert_has(&told, &["public.t has 0 changes of this transaction, and the list of transactions says"]);

    assert_eq!(verify(&scene, 0), report, "all damage was undone");
    scene.run(["maintain", "--retention", "0s"]).expect(0);
    assert_eq!(verify(&scene, 0)["changes"], report["changes"]);
}

#[tokio::test]
async fn an_archive_that_is_not_there_does_not_pass() {
    let scene = Scene::new(Release::System, "").await;
    assert_ne!(scene.offline(["verify"]).run(PATIENCE).code, Some(0));
}

async fn deep(release: Release) {
    let scene = scene(release).await;
    let archiver = scene.archiver();
    scene.database.run("INSERT INTO t VALUES (5000, NULL), (5001, '')").await;
    let report = json(&scene.ask(["verify", "--deep", "--throttle", "50MB/s", "--json"]));
    let live = report["live"].as_array().unwrap();
    let tables: Vec<&str> = live.iter().map(|table| table["table"]["table"].as_str().unwrap()).collect();
    assert_eq!(tables, ["bag", "late", "parted_new", "parted_old", "t"], "{report}");
    for table in live {
        assert_eq!(table["equal"], true, "{report}");
    }
    assert_eq!(
        scene.ask_offline(["verify"]).lines().last().unwrap(),
        "verified: the archive is whole; --deep compares it with the live tables"
    );

    // Changes that the publication left out are what only a look at the live rows can find.
    let client = scene.database.connect().await;
    let publication: String = client.query_one("SELECT pubname::text FROM pg_publication", &[]).await.unwrap().get(0);
    scene.database.run(&format!("ALTER PUBLICATION \"{publication}\" SET (publish = 'insert')")).await;
    scene.database.run("UPDATE t SET v = 'unseen' WHERE id = 5000; DELETE FROM t WHERE id = 5001; DELETE FROM bag WHERE note = 'twice'").await;
    let end = scene.run(["verify", "--deep", "--record"]);
    let told = end.expect(3).stdout;
    assert_has(
        &told,
        &[
            "live      public.t: ",
            "1 differ, 0 are not archived, 1 are archived only",
            "5000: differs",
            "5001: is archived only",
            "live      public.bag: ",
            "0 differ, 0 are not archived, 4 are archived only",
            "NOT verified: 2 objections",
        ],
    );
    let noted = scene.ask_offline([
        "query",
        "SELECT status, value FROM afterimage.health WHERE check = 'verify --deep'",
        "--json",
    ]);
    let noted = json(noted.lines().next().unwrap());
    assert_eq!((&noted["status"], &noted["value"]), (&Json::from("UNHEALTHY"), &Json::from(2)), "{noted}");
    archiver.signal("TERM");
    archiver.wait(PATIENCE).expect(0);
}

#[tokio::test]
async fn deep_compares_every_live_row_on_the_systems_release() {
    deep(Release::System).await;
}

#[tokio::test]
async fn deep_compares_every_live_row_on_18() {
    deep(Release::Eighteen).await;
}
