//! What the pages have somebody type in the middle of the night.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use regex::Regex;
use tokio_postgres::SimpleQueryMessage;

use super::{PATIENCE, files, found, read, root};
use crate::support::{Program, Release, connect, postgres};

/// The runbooks, and how to deploy.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = files("runbooks");
    paths.push(root().join("docs/deploy.md"));
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The fenced blocks of a language.
fn blocks(language: &str, page: &str) -> Vec<String> {
    let block = Regex::new(&format!(r"(?s)```{language}\n(.*?)```")).unwrap();
    block.captures_iter(page).map(|found| found[1].to_owned()).collect()
}

/// Commands of the program: a line of a block, or a whole span.
fn commands(page: &str) -> BTreeSet<String> {
    let lines = blocks("sh", page).join("\n");
    let lines = lines.lines().filter(|line| line.starts_with("afterimage ")).map(str::to_owned);
    let spans = found(r"`(afterimage [^`]+)`", &page.replace('\n', " "));
    lines.chain(spans).map(|command| command.split(" #").next().unwrap().trim_end().to_owned()).collect()
}

/// The subcommands that a command names, and the flags that it gives.
fn parts(command: &str) -> (Vec<String>, BTreeSet<String>) {
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    let depth = if words.first() == Some(&"guard") { 2 } else { 1 };
    let names = words.iter().take(depth).map(|word| (*word).to_owned()).collect();
    (names, found(r"(?:^|\s)(--[a-z-]+)", command))
}

#[test]
fn the_pages_have_their_four_sections() {
    for path in files("runbooks") {
        let (page, name) = (read(&path), path.file_stem().unwrap().to_string_lossy().into_owned());
        let headings: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
        let wanted = [
            format!("# {name}"),
            "## What it means".into(),
            "## What to look at".into(),
            "## What to do".into(),
            "## When it is over".into(),
        ];
        assert_eq!(headings, wanted, "{name}");
        for link in found(r"\]\(([^)]+\.md)[^)]*\)", &page) {
            assert!(path.parent().unwrap().join(&link).exists(), "{name} links to {link}");
        }
    }
}

#[test]
fn the_pages_commands_exist() {
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut asked = 0;
    for (path, page) in pages() {
        for command in commands(&page) {
            let (names, flags) = parts(&command);
            let help = helps.entry(names.clone()).or_insert_with(|| {
                let arguments = names.iter().map(String::as_str).chain(["--help"]);
                let end = Program::afterimage(arguments).run(PATIENCE);
                assert_eq!(end.code, Some(0), "{}: {command}\n{}", path.display(), end.stderr);
                end.stdout
            });
            for flag in flags {
                assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{command}: {flag}");
            }
            asked += 1;
        }
    }
    assert!(asked > 30, "only {asked} commands were found");
    assert_eq!(parts("afterimage guard ack 3f --note 'x'").0, ["guard", "ack"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_questions_are_answered_by_a_postgresql() {
    let client = connect(&postgres(Release::System).url("postgres")).await;
    let mut asked = 0;
    for (path, page) in pages() {
        for block in blocks("sql", &page).iter().filter(|block| block.contains("SELECT")) {
            // Roles are the deployment's; they are tried where they are made.
            if block.contains("CREATE ROLE") {
                continue;
            }
            let answer = client.simple_query(block).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            asked += answer.iter().filter(|one| matches!(one, SimpleQueryMessage::CommandComplete(_))).count();
        }
    }
    assert!(asked > 8, "only {asked} questions were found");
}
