//! What `deploy/` offers, held against the tools and schemas of those who will read it. Nothing is started: that needs daemons
//! and clusters, and docs/deploy.md says so.

mod image;
mod manifests;
mod pages;
mod terraform;
mod units;
mod watching;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

use crate::support::{Directory, End, Program, executable};

const PATIENCE: Duration = Duration::from_secs(120);

/// The project's directory.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file or directory of `deploy/`.
fn deployed(path: &str) -> PathBuf {
    root().join("deploy").join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a directory of `deploy/`, by name.
fn files(directory: &str) -> Vec<PathBuf> {
    let directory = deployed(directory);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files
}

/// What a pattern's first group finds in a text.
fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// Runs a tool of the Python environment in a directory.
fn tool(name: &str, arguments: &[&str], directory: &Path) -> End {
    Program::new(&executable(name)).arguments(arguments.iter().copied()).working_directory(directory).run(PATIENCE)
}

/// A copy of a file of `deploy/` in a directory of its own, with something else in the place of what a pattern finds.
#[track_caller]
fn spoilt(path: &str, pattern: &str, replacement: &str) -> (Directory, PathBuf) {
    let (directory, text) = (Directory::new(), read(&deployed(path)));
    let changed = Regex::new(pattern).unwrap().replace(&text, replacement).into_owned();
    assert_ne!(changed, text, "{path} has no {pattern}");
    let copy = directory.join(Path::new(path).file_name().unwrap().to_str().unwrap());
    fs::write(&copy, changed).unwrap();
    (directory, copy)
}

/// YAML as people write it by hand here: flow mappings for short things, and no ruler below the width of a URL.
const YAMLLINT: &str = "{extends: default, rules: {line-length: {max: 200}, document-start: disable, \
    braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}}}";

#[test]
fn yaml_is_well_formed() {
    let directories = ["compose", "kubernetes", "prometheus"];
    for directory in directories {
        let yaml = |path: &Path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        assert!(files(directory).iter().any(|path| yaml(path)), "no YAML in {directory}");
    }
    let arguments = [["--strict", "-d", YAMLLINT].as_slice(), &directories].concat();
    tool("yamllint", &arguments, &deployed("")).expect(0);
}

#[test]
fn configurations_are_the_programs() {
    for path in ["compose/config", "kubernetes/archiver", "kubernetes/serve"] {
        let file = deployed(path).join("afterimage.toml");
        let program = Program::afterimage(["--config", file.to_str().unwrap(), "guard", "rules"]);
        program.run(PATIENCE).expect(0);
        assert!(read(&file).starts_with("#:schema ../../../schemas/afterimage.schema.json\n"), "{path}");
    }
}
