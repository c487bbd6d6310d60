//! The tree stays a tree: imports between top-level modules go down or sideways, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// From the bottom up. A new module needs its place here.
const LAYERS: [&[&str]; 5] = [
    &["failure", "model", "machine", "invariant"],
    &["postgres", "pgoutput", "copy_format", "columnar", "transaction", "archive", "scratch"],
    &["capture", "history", "foreign", "maintenance", "restore", "query", "guard", "verification", "recovery"],
    &["config", "telemetry", "http", "serve", "console", "cli"],
    &["simulation"],
];

/// Neighbours that must not know each other: user, used, why.
const FORBIDDEN: [(&str, &str, &str); 5] = [
    ("archive", "postgres", "the archive takes Arrow batches and knows no PostgreSQL"),
    ("archive", "pgoutput", "the archive takes Arrow batches and knows no PostgreSQL"),
    ("pgoutput", "postgres", "decoding is without I/O"),
    ("capture", "guard", "they meet only over a channel"),
    ("guard", "capture", "they meet only over a channel"),
];

/// Which top-level module uses which, with one file that does.
type Uses = BTreeMap<(String, String), PathBuf>;

/// A source file: its path, the path of its module (`["cli", "log"]`), and its text without comments.
struct Source {
    file: PathBuf,
    module: Vec<String>,
    text: String,
}

#[test]
fn no_import_goes_up() {
    let breaches = breaches(&uses(&sources()));
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn no_circle_of_imports() {
    let uses = uses(&sources());
    let circle = circle(&uses);
    assert!(circle.is_empty(), "modules that use each other in a circle, and whoever uses those: {circle:?}");
}

#[test]
fn every_module_has_a_layer() {
    let modules: BTreeSet<String> = sources().iter().map(|source| source.module[0].clone()).collect();
    assert!(modules.contains("failure"), "the sources were not found: {modules:?}");
    let homeless: Vec<&String> = modules.iter().filter(|module| layer(module).is_none()).collect();
    assert!(homeless.is_empty(), "give {homeless:?} a place in LAYERS");
}

#[test]
fn breaches_and_circles_are_seen() {
    let source = |module: &[&str], text: &str| Source {
        file: module.join("/").into(),
        module: module.iter().map(|&part| part.to_owned()).collect(),
        text: text.to_owned(),
    };
    let sources = [
        source(&["model"], "use crate::{failure::Result, cli::{self, Log}};"),
        source(&["archive", "layout"], "fn f() { super::super::pgoutput::decode() }"),
        source(&["failure"], "use super::model;"),
        source(&["cli", "log"], "use super::archive; use crate::query;"),
    ];
    let uses = uses(&sources);
    let pairs: Vec<(&str, &str)> = uses.keys().map(|(user, used)| (user.as_str(), used.as_str())).collect();
    let expected =
        [("archive", "pgoutput"), ("cli", "query"), ("failure", "model"), ("model", "cli"), ("model", "failure")];
    assert_eq!(pairs, expected);
    let breaches = breaches(&uses);
    assert_eq!(breaches.len(), 2, "{breaches:?}");
    assert!(breaches[0].contains("archive must not use pgoutput"), "{breaches:?}");
    assert!(breaches[1].contains("model must not use cli"), "{breaches:?}");
    assert_eq!(circle(&uses), BTreeSet::from(["failure", "model"]));
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn breaches(uses: &Uses) -> Vec<String> {
    let breach = |((user, used), file): (&(String, String), &PathBuf)| {
        why_not(user, used).map(|why| format!("{}: {user} must not use {used}: {why}", file.display()))
    };
    uses.iter().filter_map(breach).collect()
}

fn why_not(user: &str, used: &str) -> Option<&'static str> {
    if layer(used) > layer(user) {
        return Some("it is in a higher layer");
    }
    FORBIDDEN.iter().find(|(a, b, _)| (*a, *b) == (user, used)).map(|(_, _, why)| *why)
}

/// What remains when every module that uses none of the others is taken away, again and again: nothing, in a tree.
fn circle(uses: &Uses) -> BTreeSet<&str> {
    let mut remaining: BTreeSet<&str> = uses.keys().flat_map(|(user, used)| [user.as_str(), used.as_str()]).collect();
    loop {
        let uses_others =
            |module: &str| uses.keys().any(|(user, used)| user == module && remaining.contains(used.as_str()));
        let next: BTreeSet<&str> = remaining.iter().copied().filter(|module| uses_others(module)).collect();
        if next == remaining {
            return next;
        }
        remaining = next;
    }
}

fn uses(sources: &[Source]) -> Uses {
    let modules: BTreeSet<&str> = LAYERS.iter().flat_map(|layer| layer.iter().copied()).collect();
    let mut uses = Uses::new();
    for source in sources {
        let user = &source.module[0];
        let used = paths_from_root(source).into_iter().filter(|used| modules.contains(used.as_str()) && used != user);
        for used in used {
            uses.entry((user.clone(), used)).or_insert_with(|| source.file.clone());
        }
    }
    uses
}

/// The first names of all paths that start at the crate's root, by `crate::` or by enough `super::`, alone or in
/// braces.
fn paths_from_root(source: &Source) -> Vec<String> {
    let start = Regex::new(r"\b(?:crate|(?:super::)*super)::(?:[a-zA-Z_]+|\{)").unwrap();
    let mut names = Vec::new();
    for found in start.find_iter(&source.text) {
        let supers = found.as_str().matches("super").count();
        let reaches_root = supers == 0 || supers >= source.module.len();
        match found.as_str().rsplit("::").next() {
            Some("{") if reaches_root => names.extend(heads_in_braces(&source.text[found.end()..])),
            Some(name) if reaches_root => names.push(name.to_owned()),
            _ => {}
        }
    }
    names
}

/// The first names of the paths in `a::b, c::{d, e}} …`, up to the brace that closes the list.
fn heads_in_braces(text: &str) -> Vec<String> {
    let mut depth = 1;
    let mut list = String::new();
    for c in text.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            break;
        }
        if depth == 1 {
            list.push(c);
        }
    }
    let head = |path: &str| {
        path.split("::").next().unwrap_or_default().split(" as ").next().unwrap_or_default().trim().to_owned()
    };
    list.split(',').map(head).collect()
}

/// All files of the library; the crate's own root and the program may see everything.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    sources.retain(|source| !matches!(source.module[0].as_str(), "lib" | "main"));
    sources
}

fn collect(root: &Path, directory: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        if file.is_dir() {
            collect(root, &file, sources);
        } else if file.extension().is_some_and(|extension| extension == "rs") {
            let module = module_path(file.strip_prefix(root).unwrap());
            sources.push(Source { module, text: without_comments(&fs::read_to_string(&file).unwrap()), file });
        }
    }
}

fn module_path(file: &Path) -> Vec<String> {
    let path = file.with_extension("");
    let mut parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.len() > 1 && parts.last().is_some_and(|name| name == "mod") {
        parts.pop();
    }
    parts
}

fn without_comments(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}
