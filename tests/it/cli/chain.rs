//! `verify --chain`: whoever changes what was published, with all that the archive itself can be made to say, is found out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::{PATIENCE, Scene, assert_has, json};
use crate::support::{Directory, Release, python};

/// Writes the files of a table anew where a change to their rows `t` changes anything, each under the checksum of its new
/// content, and has the table's Delta log name them.
const FORGE: &str = r#"
import glob, hashlib, json, os, sys, pyarrow.compute as pc, pyarrow.parquet
directory, change = sys.argv[1:]
count = 0
for path in glob.glob(directory + "/*.parquet"):
    t = pyarrow.parquet.read_table(path, partitioning=None)
    forged = eval("(" + change + ")")
    if forged.equals(t):
        continue
    pyarrow.parquet.write_table(forged, path, compression="zstd")
    content = open(path, "rb").read()
    old = os.path.basename(path)
    new = old[:36] + "-" + hashlib.sha256(content).hexdigest() + ".zstd.parquet"
    os.rename(path, os.path.join(directory, new))
    for log in glob.glob(directory + "/_delta_log/*.json"):
        lines = [json.loads(line) for line in open(log)]
        for line in lines:
            if line.get("add", {}).get("path") == old:
                line["add"].update(path=new, size=len(content))
        open(log, "w").write("\n".join(map(json.dumps, lines)) + "\n")
    count += 1
print(count)
"#;

const SQL: [&str; 4] = [
    "INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 300) i",
    "UPDATE t SET v = v || '!' WHERE id % 3 = 0; DELETE FROM t WHERE id = 7",
    "ALTER TABLE t ADD w int; UPDATE t SET w = id WHERE id < 10; UPDATE t SET id = 1000 WHERE id = 1",
    "DELETE FROM t WHERE id % 2 = 0",
];

async fn scene(release: Release) -> Scene {
    let scene = Scene::archived(release, "CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    for sql in SQL {
        scene.database.run(sql).await;
        scene.catch_up();
    }
    scene
}

fn chain(scene: &Scene, arguments: &[&str], code: i32) -> Json {
    let arguments = ["verify", "--chain", "--json"].iter().chain(arguments).copied();
    json(&scene.offline(arguments).run(PATIENCE).expect(code).stdout)
}

/// What is told of the chain alone: the archive itself is whole, as forged as it is.
fn found(scene: &Scene, arguments: &[&str]) -> String {
    let report = chain(scene, arguments, 3);
    assert_eq!(report["findings"], 0, "{report}");
    report["chain"]["told"].to_string()
}

fn heads_below(root: &Path) -> usize {
    let entries = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    // One that is being written has another ending.
    let is_kept = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    entries(root).iter().flat_map(|directory| entries(directory)).filter(is_kept).count()
}

fn forge(scene: &Scene, table: &str, change: &str) {
    let directory = scene.directory.join(&format!("archive/{table}"));
    assert_ne!(python(FORGE, [directory.to_str().unwrap(), change]), "0\n", "{change}");
}

/// Does something to the archive, sees what is said, and undoes it.
fn damaged(scene: &Scene, damage: impl FnOnce()) -> String {
    let (archive, kept) = (scene.directory.join("archive"), scene.directory.join("kept"));
    let copy = |from: &Path, to: &Path| {
        let status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
        assert!(status.success());
    };
    copy(&archive, &kept);
    damage();
    let told = found(scene, &[]);
    fs::remove_dir_all(&archive).unwrap();
    fs::rename(&kept, &archive).unwrap();
    told
}

async fn forged(release: Release) {
    let scene = scene(release).await;
    let report = chain(&scene, &[], 0);
    let (links, changes) = (report["chain"]["links"].clone(), report["chain"]["changes"].clone());
    assert!(links.as_i64() >= Some(4), "{report}");
    assert_eq!((&report["chain"]["unchained"], &changes), (&0.into(), &report["changes"]), "{report}");

    let told = damaged(&scene, || {
        let change =
            "t.set_column(t.schema.get_field_index('v'), 'v', pc.replace_substring(t['v'], 'value 42', 'value 24'))
            if 'w' not in t.schema.names and 'delete' not in t['_op'].to_pylist() else t";
        forge(&scene, "changes/public/t", change);
    });
    assert_has(&told, &["public.t, ", "these changes are not what was published"]);
    // Not a trace of the second transaction, neither in the list nor among the changes.
    let told = damaged(&scene, || {
        forge(&scene, "changes/public/t", "t.slice(0, 0) if t.num_rows == 101 else t");
        forge(&scene, "log/transactions", "t.filter(pc.not_equal(t['changes'], 101))");
    });
    assert_has(&told, &["the link does not follow that of"]);
    let told = damaged(&scene, || {
        let change = "t.set_column(t.schema.get_field_index('context'), t.schema.field('context'),
            pyarrow.array(['[\"nobody\"]'] * t.num_rows, pyarrow.string())) if t['changes'][0].as_py() == 300 else t";
        forge(&scene, "log/transactions", change);
    });
    assert_has(&told, &["the list has other transactions since"]);

    // The same rows in other files are the same rows.
    scene.run(["maintain", "--retention", "0s"]).expect(0);
    let report = chain(&scene, &[], 0);
    assert_eq!((&report["chain"]["links"], &report["chain"]["changes"]), (&links, &changes));
    let told = damaged(&scene, || {
        let change =
            "t.set_column(t.schema.get_field_index('v'), 'v', pc.replace_substring(t['v'], 'value 42', 'value 24'))";
        forge(&scene, "changes/public/t", change);
    });
    assert_has(&told, &["these changes are not what was published"]);
}

#[tokio::test]
async fn what_was_published_cannot_be_changed_unseen() {
    forged(Release::System).await;
}

#[tokio::test]
async fn what_was_published_cannot_be_changed_unseen_on_eighteen() {
    forged(Release::Eighteen).await;
}

#[tokio::test]
async fn a_head_that_was_kept_elsewhere_is_asked_for() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let elsewhere = Directory::new();
    let anchor = format!("file://{}", elsewhere.join("heads").display());
    fs::write(scene.directory.join("chain.toml"), format!("[chain]\nanchors = [{anchor:?}]\nevery = \"200ms\"\n"))
        .unwrap();
    let file = scene.directory.join("chain.toml");
    let end = scene.offline(["verify", "--chain"]).run(PATIENCE).expect(1);
    assert_has(&end.stderr, &["has no hash chain"]);
    scene.database.run(SQL[0]).await;
    scene.catch_up();
    let end = scene.offline(["verify", "--chain", "--anchor", &anchor]).run(PATIENCE).expect(1);
    assert_has(&end.stderr, &["has no head of this archive's chain"]);

    let archiver = scene.program(["run", "--flush-interval", "50ms", "--config", file.to_str().unwrap()]).start();
    for (at, sql) in SQL.iter().enumerate().skip(1) {
        scene.database.run(sql).await;
        let begun = Instant::now();
        while heads_below(&elsewhere.join("heads")) < at {
            assert!(begun.elapsed() < PATIENCE, "no head is kept");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    drop(archiver);
    let report = chain(&scene, &["--anchor", &anchor], 0);
    let anchors = report["chain"]["anchors"].as_i64().unwrap();
    assert!(anchors >= 3, "{report}");
    let head = &report["chain"]["head"];
    let written = format!("{}:{}", head["lsn"].as_str().unwrap(), head["hash"].as_str().unwrap());
    assert_eq!(chain(&scene, &["--head", &written], 0)["chain"]["anchors"], 1);
    let end = scene.offline(["verify", "--chain"]).run(PATIENCE).expect(0);
    assert_has(&end.stdout, &["held against no head from elsewhere", &format!("head      {written}")]);

    // Of a chain that was made anew nothing is the same.
    let other = format!("{}:{}", head["lsn"].as_str().unwrap(), "0".repeat(64));
    assert_has(&found(&scene, &["--head", &other]), &["the chain is another one than when this head was kept"]);
    assert_has(&found(&scene, &["--head", &format!("0/1:{}", "0".repeat(64))]), &["no link that ends with this head"]);
    scene.offline(["verify", "--chain", "--head", "0/1"]).run(PATIENCE).expect(2);
    // An archive that was taken back to an older copy has lost what its heads say.
    let log = scene.directory.join("archive/log/transactions/_delta_log");
    let mut commits: Vec<_> = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
    commits.sort();
    let adds: Vec<_> =
        commits.into_iter().filter(|path| fs::read_to_string(path).is_ok_and(|it| it.contains("\"add\""))).collect();
    let last = adds.last().unwrap();
    let text = fs::read_to_string(last).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("{\"add\"")).collect();
    fs::write(last, kept.join("\n")).unwrap();
    let report = chain(&scene, &["--anchor", &anchor], 3);
    assert_has(&report["chain"]["told"].to_string(), &["no link that ends with this head"]);
}
