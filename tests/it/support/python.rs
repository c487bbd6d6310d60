//! Foreign readers and drivers: the Python environment, with a Node in it, that `tests/install test` makes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Program, target_directory};

/// Runs a script (the packages of `tests/requirements.in` are there) and gives what it printed.
///
/// # Panics
/// Where the script fails, with its traceback, or takes more than two minutes.
#[track_caller]
pub(crate) fn python<'a>(script: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    python_program(script, arguments).run(Duration::from_secs(120)).expect(0).stdout
}

/// A script, to be run with more than that.
pub(crate) fn python_program<'a>(script: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> Program {
    Program::new(&executable("python")).arguments(["-c", script]).arguments(arguments)
}

/// The libraries by which Spark reads Delta tables, as Spark wants them listed.
pub(crate) fn delta_jars() -> String {
    let directory = target_directory().join("python/jars");
    let found = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let jars: Vec<String> = found.map(|path| path.display().to_string()).collect();
    assert!(!jars.is_empty(), "nothing in {}; run tests/install test", directory.display());
    jars.join(",")
}

/// Runs a script of Node (the package `pg` is there) and gives what it printed.
///
/// # Panics
/// Where the script fails, with its complaint, or takes more than two minutes.
#[track_caller]
pub(crate) fn node<'a>(script: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let program = Program::new(&executable("node")).arguments(["-e", script]).arguments(arguments);
    // Scripts of the command line look for packages below the working directory.
    let program = program.working_directory(&target_directory().join("python"));
    program.run(Duration::from_secs(120)).expect(0).stdout
}

/// A program of the environment.
pub(crate) fn executable(name: &str) -> PathBuf {
    let path = target_directory().join("python/bin").join(name);
    assert!(path.exists(), "there is no {}; run tests/install test", path.display());
    path
}

/// Where the environment's packages are.
pub(super) fn site_packages() -> PathBuf {
    let lib = target_directory().join("python/lib");
    let mut versions = fs::read_dir(&lib).into_iter().flatten().flatten().map(|entry| entry.path());
    let python = versions.find(|path| path.join("site-packages").is_dir());
    python.unwrap_or_else(|| panic!("nothing in {}; run tests/install test", lib.display())).join("site-packages")
}
