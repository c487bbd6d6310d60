//! `afterimage.toml`: where it is found, what beats it, and what is said of mistakes in it.

use std::fs;

use super::{PASSWORD, PATIENCE, Scene, assert_has, complaint, json};
use crate::support::{Directory, End, Program, Release};

/// Runs in a directory with this `afterimage.toml`.
fn with_file(text: &str, arguments: &[&'static str]) -> End {
    let directory = Directory::new();
    fs::write(directory.join("afterimage.toml"), text).unwrap();
    Program::afterimage(arguments.iter().copied()).working_directory(directory.path()).run(PATIENCE)
}

#[test]
fn a_mistake_is_named_with_its_place() {
    let cases = [
        (
            "archve = 'x'\n",
            "line 1, column 1: ",
            "unknown field `archve`, expected one of `source`, `decode_from`, `archive`",
        ),
        ("archive = 'x'\n[capture]\n  flsh = 1\n", "line 3, column 3: ", "unknown field `flsh`"),
        ("[captur]\n", "line 1, column 2: ", "unknown field `captur`"),
        ("# ä\narchive = 'ä' 'x'\n", "line 2, column 15: ", ""),
        ("archive = 5\n", "line 1, column 11: ", "expected a string"),
        ("[capture]\ntables = 'public.*'\n", "line 2, column 10: ", "expected a sequence"),
        ("[capture]\nflush_interval = 1\n", "line 2, column 18: ", "expected a string"),
        ("[capture]\nflush_interval = '5 parsecs'\n", "line 2, column 18: ", "write 250ms, 1s"),
        ("[capture]\nmemory = '0MB'\n", "line 2, column 10: ", "is not a size"),
        ("[capture]\ncopy_workers = -1\n", "line 2, column 16: ", ""),
        ("[capture]\nset_identity_full = 'yes'\n", "line 2, column 21: ", "expected a boolean"),
        ("archive = 'a'\narchive = 'b'\n", "line 2, column 1: ", "duplicate key"),
        ("archive = \n", "line 1, column 11: ", ""),
    ];
    for (text, place, why) in cases {
        let complaint = complaint(with_file(text, &["status"]), 2);
        let start = format!("configuration afterimage.toml: {place}");
        assert!(complaint.cause.starts_with(&start), "{text:?}: {complaint:?}");
        assert_has(&complaint.cause, &[why]);
        assert_has(&complaint.remedy, &["afterimage.schema.json"]);
    }
    let range = complaint(with_file("archive = 'a'\n[capture]\ncopy_workers = 0\n", &["init"]), 2);
    assert_has(&range.remedy, &["copy_workers is a number from 1 to 64"]);
    let pattern = complaint(with_file("[capture]\ntables = ['a.b.c']\n", &["init"]), 2);
    assert_has(&pattern.cause, &["a.b.c", "more than two parts"]);
    let password = format!("capture = 'postgres://u:{PASSWORD}@h/d'\n");
    assert_has(&complaint(with_file(&password, &["status"]), 2).cause, &["line 1"]);
}

#[test]
fn a_file_that_cannot_be_read() {
    let directory = Directory::new();
    fs::write(directory.join("binary.toml"), [0xff, 0xfe]).unwrap();
    for (file, why) in [("none.toml", "No such file"), (".", "directory"), ("binary.toml", "UTF-8")] {
        let program = Program::afterimage(["status", "--config", file]).working_directory(directory.path());
        let complaint = complaint(program.run(PATIENCE), 2);
        assert_has(&complaint.cause, &["configuration", file, why]);
        assert_has(&complaint.remedy, &["--config"]);
    }
}

#[tokio::test]
async fn the_file_is_found_and_beaten_in_order() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let archive = scene.directory.archive();
    fs::write(scene.directory.join("good.toml"), format!("archive = '{archive}'\n")).unwrap();
    fs::write(scene.directory.join("bad.toml"), "archive = 'file:///nonexistent/in-bad'\n").unwrap();
    let status = |prepare: &dyn Fn(Program) -> Program| {
        let program = Program::afterimage(["status", "--json"]).working_directory(scene.directory.path());
        prepare(program).run(PATIENCE)
    };
    let finds = |prepare: &dyn Fn(Program) -> Program| {
        assert_eq!(json(&status(prepare).expect(0).stdout)["archive"], archive.as_str());
    };
    let misses = |prepare: &dyn Fn(Program) -> Program, where_: &str| {
        assert_has(&complaint(status(prepare), 1).cause, &["there is no archive at", where_]);
    };
    complaint(status(&|program| program), 2);
    finds(&|program| program.arguments(["--config", "good.toml"]));
    finds(&|program| program.variable("AFTERIMAGE_CONFIG", "good.toml"));
    finds(&|program| program.variable("AFTERIMAGE_CONFIG", "bad.toml").arguments(["--config", "good.toml"]));
    misses(&|program| program.variable("AFTERIMAGE_CONFIG", "bad.toml"), "in-bad");
    // The working directory's file counts only where none is named.
    fs::copy(scene.directory.join("good.toml"), scene.directory.join("afterimage.toml")).unwrap();
    finds(&|program| program);
    finds(&|program| program.variable("AFTERIMAGE_CONFIG", ""));
    misses(&|program| program.arguments(["--config", "bad.toml"]), "in-bad");
    // A flag beats the environment, which beats the file.
    misses(&|program| program.archive("/nonexistent/in-variable"), "in-variable");
    misses(&|program| program.archive(&archive).arguments(["--archive", "/nonexistent/in-flag"]), "in-flag");
    finds(&|program| program.archive("/nonexistent/in-variable").arguments(["--archive", &archive]));
}

#[tokio::test]
async fn the_source_is_found_in_order() {
    let scene = Scene::archived(Release::System, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let good = scene.database.url();
    let bad = "postgres://u@127.0.0.1:1/d";
    // Whether the source is asked at all, and answers: an archiver is not running.
    let is_asked = |file: Option<&str>, prepare: &dyn Fn(Program) -> Program, code: i32| {
        let path = scene.directory.join("afterimage.toml");
        fs::write(&path, file.map_or(String::new(), |url| format!("source = '{url}'\n"))).unwrap();
        let end = prepare(scene.offline(["status"])).run(PATIENCE).expect(code);
        let expected = if code == 3 { "no archiver is running" } else { "no server listens there" };
        assert_has(&end.stderr, &[expected]);
    };
    is_asked(Some(good), &|program| program, 3);
    is_asked(Some(bad), &|program| program, 1);
    is_asked(Some(bad), &|program| program.variable("DATABASE_URL", good), 3);
    is_asked(None, &|program| program.variable("DATABASE_URL", bad).variable("AFTERIMAGE_SOURCE", good), 3);
    is_asked(None, &|program| program.variable("AFTERIMAGE_SOURCE", bad).arguments(["--source", good]), 3);
    // libpq's variables beat the file, and what they leave open comes from libpq's defaults.
    is_asked(Some(good), &|program| program.variable("PGHOST", "127.0.0.1").variable("PGPORT", "1"), 1);
    is_asked(Some(good), &|program| program.variable("PGUSER", "somebody"), 3);
}
