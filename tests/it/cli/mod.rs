//! What a person sees: every command's results, and what is said of every mistake.

mod archives;
mod chain;
mod configuration;
mod drill;
mod export;
mod forensics;
mod help;
mod limits;
mod partitions;
mod past;
mod points;
mod pruning;
mod questions;
mod shell;
mod sources;
mod verify;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use afterimage::scratch::Scratch;
use serde_json::Value as Json;

use crate::support::{Database, Directory, End, Program, Release, Running, postgres};

/// For one command; long, because several suites share the machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The password of every address in these tests; nobody may ever see it.
const PASSWORD: &str = "sesame4711";

/// A database and where its archive is.
struct Scene {
    database: Database,
    directory: Directory,
}

impl Scene {
    /// A database in which this SQL has run, and no archive yet.
    async fn new(release: Release, sql: &str) -> Scene {
        Scene::on(postgres(release), sql).await
    }

    async fn on(server: &Scratch, sql: &str) -> Scene {
        let database = Database::create(server).await;
        database.run(sql).await;
        Scene { database, directory: Directory::new() }
    }

    /// The same with an archive that has everything so far.
    async fn archived(release: Release, sql: &str) -> Scene {
        let scene = Scene::new(release, sql).await;
        scene.run(["init"]).expect(0);
        scene
    }

    /// Our program, in the scene's own directory.
    fn program<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Program {
        self.offline(arguments).source(&self.database)
    }

    /// Our program without the source.
    fn offline<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Program {
        Program::afterimage(arguments).archive(&self.directory.archive()).working_directory(self.directory.path())
    }

    #[track_caller]
    fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> End {
        self.program(arguments).run(PATIENCE)
    }

    /// Runs a command that works and gives what it printed.
    #[track_caller]
    fn ask<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        self.run(arguments).expect(0).stdout
    }

    /// As [`Scene::ask`], without the source, which an archive can do without.
    #[track_caller]
    fn ask_offline<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        self.offline(arguments).run(PATIENCE).expect(0).stdout
    }

    #[track_caller]
    fn catch_up(&self) {
        self.run(["run", "--until", "now"]).expect(0);
    }

    /// The latest point that the archive has. Unlike `now`, which other tests' databases move on, it needs no archiver.
    #[track_caller]
    fn watermark(&self) -> String {
        json(&self.ask_offline(["status", "--json"]))["watermark"].as_str().unwrap().to_owned()
    }

    /// The data files below a table's directory, by name.
    #[track_caller]
    fn data_files(&self, table: &str) -> Vec<PathBuf> {
        let mut open = vec![self.directory.join("archive").join(table)];
        let mut files = Vec::new();
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
                let path = entry.unwrap().path();
                match path.extension() {
                    _ if path.is_dir() => open.push(path),
                    Some(extension) if extension == "parquet" => files.push(path),
                    _ => {}
                }
            }
        }
        files.sort();
        assert!(!files.is_empty(), "{table}");
        files
    }

    /// An archiver in the background.
    fn archiver(&self) -> Running {
        self.program(["run", "--flush-interval", "50ms"]).start()
    }
}

/// An error as a person sees it.
#[derive(Debug, PartialEq)]
struct Complaint {
    cause: String,
    remedy: String,
}

/// Takes an error apart: nothing on standard output, and at the end one line of cause and one of remedy.
#[track_caller]
fn complaint(end: End, code: i32) -> Complaint {
    let end = end.expect(code);
    assert_eq!(end.stdout, "", "{end:?}");
    let mut lines: Vec<&str> = end.stderr.lines().collect();
    // Between them stands the place in what was written, where the cause has one.
    if let Some(at) = lines.iter().position(|line| line.starts_with("LINE ")) {
        assert_eq!(lines.drain(at..at + 2).next_back().map(str::trim), Some("^"), "{:?}", end.stderr);
    }
    let [.., cause, remedy] = lines[..] else { panic!("not a cause and a remedy: {end:?}") };
    assert_eq!(lines.iter().filter(|line| line.starts_with("error:")).count(), 1, "{end:?}");
    let cause = cause.strip_prefix("error: ").unwrap_or_else(|| panic!("no cause: {end:?}"));
    let remedy = remedy.strip_prefix(" help: ").unwrap_or_else(|| panic!("no remedy: {end:?}"));
    for unseemly in ["panicked", "RUST_BACKTRACE", "stack backtrace", "\x1b", PASSWORD] {
        assert!(!end.stderr.contains(unseemly), "{unseemly:?} in {end:?}");
    }
    Complaint { cause: cause.to_owned(), remedy: remedy.to_owned() }
}

/// The complaint about a command line, which clap prints in its own form.
#[track_caller]
fn misuse(end: End) -> String {
    let end = end.expect(2);
    assert_eq!(end.stdout, "", "{end:?}");
    assert!(end.stderr.starts_with("error: "), "{end:?}");
    assert!(!end.stderr.contains(PASSWORD) && !end.stderr.contains("panicked"), "{end:?}");
    end.stderr
}

/// Whether a text has every one of these.
#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// The JSON values of a text with one per line.
#[track_caller]
fn json_lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[track_caller]
fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The records of a CSV, sorted; a quoted value may have several lines.
fn records(csv: &str) -> Vec<String> {
    let mut records = Vec::new();
    let mut record = String::new();
    for line in csv.split_inclusive('\n') {
        record.push_str(line);
        if record.matches('"').count().is_multiple_of(2) {
            records.push(std::mem::take(&mut record));
        }
    }
    assert_eq!(record, "", "a quote is left open");
    // The header stays where it is.
    if let Some((_, rows)) = records.split_first_mut() {
        rows.sort_unstable();
    }
    records
}
