//! Foreign readers and drivers: the Python environment, with a Node in it, that `tests/install test` makes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Program, target_directory};

/// Runs a script (what tests/requirements.in lists is there) and gives what it printed.
///
/// # Panics
/// Where the script fails, with its traceback, or takes more than two minutes.
#[track_caller]
pub(crate) fn python<'a>(script: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let program = Program::new(&executable("python")).arguments(["-c", script]).arguments(arguments);
    program.run(Duration::from_secs(120)).expect(0).stdout
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
