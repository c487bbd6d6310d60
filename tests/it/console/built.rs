//! The pages in the program are those that their sources and the lockfile make.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{Program, target_directory};

/// Installing packages and building take seconds; the registry may be slow.
const PATIENCE: Duration = Duration::from_secs(240);

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console/web")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        match path.is_dir() {
            true if name == "node_modules" || name == "dist" => {}
            true => copy(&path, &to.join(name)),
            false => drop(fs::copy(&path, to.join(name)).unwrap()),
        }
    }
}

fn npm(directory: &Path, arguments: &[&str]) {
    let npm = Program::new(Path::new("npm")).arguments(arguments.iter().copied()).working_directory(directory);
    npm.variable("npm_config_cache", target_directory().join("npm").to_str().unwrap()).run(PATIENCE).expect(0);
}

#[test]
fn the_lockfile_builds_the_pages_byte_for_byte() {
    let directory = target_directory().join("console-web");
    let _ = fs::remove_dir_all(directory.join("src"));
    copy(&sources(), &directory);
    npm(&directory, &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    npm(&directory, &["run", "check"]);
    npm(&directory, &["run", "build"]);
    let names = |directory: &Path| -> BTreeSet<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let (kept, made) = (sources().join("dist"), directory.join("dist"));
    assert_eq!(names(&kept), names(&made));
    for name in names(&kept) {
        let same = fs::read(kept.join(&name)).unwrap() == fs::read(made.join(&name)).unwrap();
        assert!(same, "{name} is not what its sources make: make console");
    }
}

#[test]
fn what_is_built_in_is_permissive_and_names_no_host() {
    for directory in [sources(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console")] {
        let lock: Json = serde_json::from_slice(&fs::read(directory.join("package-lock.json")).unwrap()).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert!(packages.len() > 1, "no packages");
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            assert_eq!(package["resolved"], Json::Null, "{name} names a registry");
            assert!(package["integrity"].is_string(), "{name} has no checksum");
            let licence = package["license"].as_str().unwrap_or_default();
            // The tests' axe is not in the program.
            let fits = ["MIT", "Apache-2.0", "ISC", "BSD-3-Clause"].contains(&licence) || name.ends_with("/axe-core");
            assert!(fits, "{name}: {licence}");
        }
    }
    for entry in fs::read_dir(sources().join("dist")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let hosts = text.match_indices("://").map(|(at, _)| &text[at.saturating_sub(5)..(at + 20).min(text.len())]);
        // Names of XML's dialects are no addresses.
        let hosts: Vec<&str> = hosts.filter(|host| !host.contains("www.w3.org")).collect();
        assert_eq!(hosts, [""; 0]);
    }
}
