//! An archive that is not there, is something else, is another's, or cannot be written.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{Complaint, PASSWORD, PATIENCE, Scene, assert_has, complaint, json, misuse};
use crate::support::{Database, Directory, Program, Release, postgres, s3};

const READING: [&[&str]; 4] =
    [&["status"], &["log"], &["export", "t", "--at", "before:1"], &["query", "SELECT * FROM afterimage.transactions"]];

fn read(arguments: &[&'static str], archive: &str, code: i32) -> Complaint {
    complaint(Program::afterimage(arguments.iter().copied()).archive(archive).run(PATIENCE), code)
}

/// A mistyped root must not become a directory.
#[test]
fn reading_makes_no_archive() {
    let directory = Directory::new();
    for arguments in READING {
        let complaint = read(arguments, &directory.archive(), 1);
        assert_eq!(complaint.cause, format!("there is no archive at {}", directory.archive()));
        assert_has(&complaint.remedy, &["afterimage init", "--archive"]);
        assert!(!directory.join("archive").exists(), "{arguments:?} made the directory");
    }
}

#[test]
fn a_directory_that_is_no_archive() {
    let directory = Directory::new();
    fs::create_dir(directory.join("archive")).unwrap();
    fs::write(directory.join("archive/photo.jpg"), "x").unwrap();
    for arguments in READING {
        assert_has(&read(arguments, &directory.archive(), 1).cause, &["there is no archive at"]);
    }
    fs::write(directory.join("file"), "x").unwrap();
    assert_has(&read(&["status"], directory.join("file").to_str().unwrap(), 1).cause, &["there is no archive at"]);
}

#[tokio::test]
async fn an_identity_that_cannot_be_used() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let path = scene.directory.join("archive/archive.json");
    let whole = fs::read_to_string(&path).unwrap();
    let with = |text: &str, code| {
        fs::write(&path, text).unwrap();
        let status = complaint(scene.offline(["status"]).run(PATIENCE), code);
        assert_eq!(
            complaint(scene.run(["run", "--until", "now"]), code).cause,
            status.cause,
            "the archiver says it too"
        );
        status
    };
    let newer = with(&whole.replacen("\"format\": 1", "\"format\": 2", 1), 4);
    assert_has(&newer.cause, &["has format 2, this program knows 1"]);
    assert_has(&newer.remedy, &["version of Afterimage"]);
    for (text, why) in [
        ("", "is not JSON"),
        (&whole[..whole.len() / 2], "is not JSON"),
        ("{}", "has no format number"),
        ("[1]", "has no format number"),
        (&whole.replacen("slot", "sloth", 1), "missing field `slot`"),
        (&whole.replacen("\"start_lsn\": \"", "\"start_lsn\": \"x", 1), "archive.json"),
    ] {
        assert_has(&with(text, 1).cause, &["archive.json", why]);
    }
}

#[test]
fn an_address_that_is_none() {
    let directory = Directory::new();
    let cases = [
        ("ftp://h/x".to_owned(), "is not a known kind of store"),
        ("file://relative/path".to_owned(), "three slashes"),
        ("s3://".to_owned(), "names no bucket"),
        (format!("s3://key:{PASSWORD}@bucket/x"), "holds credentials"),
        // Two arguments mixed up.
        (format!("postgres://u:{PASSWORD}@h/d"), "is not a known kind of store"),
    ];
    for (archive, why) in cases {
        let program = Program::afterimage(["status"]).archive(&archive).working_directory(directory.path());
        assert_has(&complaint(program.run(PATIENCE), 2).cause, &[why]);
    }
    let positional = Program::afterimage(["init", &format!("postgres://u:{PASSWORD}@h/d")]).run(PATIENCE);
    assert_has(&misuse(positional), &["unexpected argument"]);
}

#[tokio::test]
async fn a_root_that_cannot_be_made_leaves_the_source_alone() {
    let scene = Scene::new(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    fs::write(scene.directory.join("file"), "x").unwrap();
    let below_a_file = scene.directory.join("file/archive");
    let end = scene.program(["init", "--archive", below_a_file.to_str().unwrap()]).run(PATIENCE);
    let complaint = complaint(end, 1);
    assert_has(&complaint.cause, &["file/archive"]);
    assert_has(&complaint.remedy, &["a directory that this user may create and write"]);
    assert!(untouched(&scene.database).await);
}

async fn untouched(database: &Database) -> bool {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database())
               AND NOT EXISTS (SELECT FROM pg_publication)";
    database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_bucket_that_is_not_reached_or_not_there() {
    let scene = Scene::new(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let bucket = s3().bucket();
    let with_bucket = |arguments: &[&'static str], archive: &str, endpoint: Option<&str>| {
        let mut program = Program::afterimage(arguments.iter().copied()).source(&scene.database).archive(archive);
        for (name, value) in bucket.variables() {
            program = program.variable(name, value);
        }
        if let Some(endpoint) = endpoint {
            program = program.variable("AWS_ENDPOINT", endpoint);
        }
        program.working_directory(scene.directory.path()).run(PATIENCE)
    };
    let missing = complaint(with_bucket(&["init"], "s3://no-such-bucket/x", None), 1);
    assert_has(&missing.cause, &["s3://no-such-bucket/x"]);
    assert_has(&missing.remedy, &["bucket"]);
    let unreachable = complaint(with_bucket(&["init"], &bucket.archive(), Some("http://127.0.0.1:1")), 1);
    assert_has(&unreachable.remedy, &["reachable", "endpoint"]);
    assert!(untouched(&scene.database).await);
    // With the right ones it works, so they were what was wrong.
    with_bucket(&["init"], &bucket.archive(), None).expect(0);
    let status = with_bucket(&["status", "--json"], &bucket.archive(), None).expect(3);
    assert_eq!(json(&status.stdout)["archive"], bucket.archive());
}

/// Positions of another database would be taken for places in this history.
#[tokio::test]
async fn the_archive_of_another_database_is_refused() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let other = Database::create(postgres(Release::System)).await;
    other.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let commands: [&[&str]; 7] = [
        &["init"],
        &["run", "--until", "now"],
        &["mark", "m"],
        &["export", "t", "--at", "now"],
        &["export", "t", "--at", "0s ago"],
        &["export", "t", "--at", "before:1"],
        &["restore", "t", "--to", "now"],
    ];
    for arguments in commands {
        let program = scene.offline(arguments.iter().copied()).source(&other);
        let complaint = complaint(program.run(PATIENCE), 4);
        assert_has(&complaint.cause, &["the archive belongs to the database", scene.database.name(), other.name()]);
    }
    let status = scene.offline(["status"]).source(&other).run(PATIENCE).expect(4);
    assert_has(&status.stderr, &["the archive belongs to the database"]);
    let marks: i64 = other.connect().await.query_one(SLOTS, &[]).await.unwrap().get(0);
    assert_eq!(marks, 0);
}

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";

/// In a mount namespace of its own, where this user may have one.
#[tokio::test]
async fn a_full_disk_is_named_and_leaves_no_slot() {
    let scene = Scene::new(
        Release::System,
        "CREATE TABLE t (id int PRIMARY KEY, filler text);
         INSERT INTO t SELECT i, string_agg(md5(i::text || j::text), '') FROM generate_series(1, 2000) i,
         generate_series(1, 60) j GROUP BY i",
    )
    .await;
    let root = scene.directory.join("archive");
    fs::create_dir(&root).unwrap();
    let root = root.to_str().unwrap();
    let script = "mount -t tmpfs -o size=1m afterimage \"$0\" && exec \"$@\"";
    let words = Program::afterimage(["init"]).words();
    let shell = |script: &str| {
        // Root needs no user namespace, in which he could not reach the socket of the server's user.
        let user: &[&str] = if we_are_root() { &[] } else { &["--user", "--map-root-user"] };
        let mut arguments = [user, &["--mount", "sh", "-c", script, root]].concat();
        arguments.extend(words.iter().map(String::as_str));
        let program = Program::new(std::path::Path::new("/usr/bin/unshare")).arguments(arguments);
        program.source(&scene.database).archive(root).working_directory(scene.directory.path())
    };
    if shell("mount -t tmpfs -o size=1m afterimage \"$0\"").run(PATIENCE).code != Some(0) {
        println!("skipped: this user may not mount a file system, not even in a namespace of its own");
        return;
    }
    let complaint = complaint(shell(script).run(PATIENCE), 1);
    assert_has(&complaint.cause, &["no space left"]);
    assert_has(&complaint.remedy, &["free space"]);
    let slots: i64 = scene.database.connect().await.query_one(SLOTS, &[]).await.unwrap().get(0);
    assert_eq!(slots, 0);
}

fn we_are_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}
