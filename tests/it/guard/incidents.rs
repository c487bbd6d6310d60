//! docs/incidents.md: its scenes are played, and what the page shows of each command is what the command says, numbers,
//! times and names of the moment aside. With `AFTERIMAGE_BLESS` set, what was said goes into the page.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use regex::Regex;

use super::Watch;
use crate::support::{Release, wait_for};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/incidents.md");

/// A block of the page: what is to be done with it, and where its text is.
#[derive(Debug)]
struct Block {
    kind: Kind,
    text: Range<usize>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// The guard's configuration from here on.
    Configuration,
    /// What somebody does to the source. A last line `-- ERROR: …` is what becomes of it.
    Sql,
    /// Commands of ours and what they say.
    Console,
}

/// The blocks under a heading. What looks like a heading inside a block is none, and a block ends with as many backticks as
/// it began with.
fn blocks(page: &str, heading: &str) -> Vec<Block> {
    let (mut found, mut open, mut under, mut at) = (Vec::new(), None, false, 0);
    for line in page.split_inclusive('\n') {
        let text = line.trim_end();
        let (next, ticks) = (at + line.len(), text.bytes().take_while(|byte| *byte == b'`').count());
        match open.take() {
            Some((fence, kind, start)) if ticks == fence && text.len() == fence => {
                found.extend(under.then_some(Block { kind, text: start..at }));
            }
            Some(block) => open = Some(block),
            None if ticks >= 3 => {
                let kind = match &text[ticks..] {
                    "toml" => Kind::Configuration,
                    "sql" => Kind::Sql,
                    "console" => Kind::Console,
                    other => panic!("nobody knows what to do with a block of {other:?}"),
                };
                open = Some((ticks, kind, next));
            }
            None => under = text.strip_prefix("## ").map_or(under, |found| found.starts_with(heading)),
        }
        at = next;
    }
    assert!(!found.is_empty(), "no blocks under {heading}");
    found
}

/// Text without what differs from run to run: numbers, times, identities; and columns are as wide as those.
fn masked(text: &str) -> String {
    let identity =
        Regex::new(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{8}\b|\b[0-9A-F]+/[0-9A-F]+\b").unwrap();
    let number = Regex::new(r"[0-9][0-9.,:TZ-]*").unwrap();
    let unit = Regex::new(r"# (ms|s|min|B|bytes|KiB|MiB)\b").unwrap();
    let alerts = Regex::new(r"# (alert is|alert|alerts are|alerts) not acknowledged").unwrap();
    let rules = Regex::new(r"-{2,}").unwrap();
    let text = identity.replace_all(text, "#");
    let text = number.replace_all(&text, "#");
    let text = unit.replace_all(&text, "# unit");
    let text = alerts.replace_all(&text, "# alerts not acknowledged");
    let text = rules.replace_all(&text, "--");
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The commands of a block, each with what it says.
fn commands(block: &str) -> impl Iterator<Item = &str> {
    block.strip_prefix("$ ").unwrap_or(block).split("\n$ ")
}

/// A block of commands, masked. Which alert comes first, and what was known of it when it was told, is a race: of alerts,
/// which rules raised them.
fn comparable(block: &str) -> String {
    let alert = Regex::new(r"^# ([A-Z]+) # ([^:]+):").unwrap();
    let waiting = Regex::new(r"(alerts not acknowledged).*").unwrap();
    let mut out = String::new();
    for command in commands(block) {
        let (asked, said) = command.split_once('\n').unwrap_or((command, ""));
        let said = masked(said);
        let mut rules: Vec<String> = said
            .lines()
            .filter_map(|line| alert.captures(line))
            .map(|rule| format!("{} {}", &rule[1], &rule[2]))
            .collect();
        rules.sort();
        let said = if rules.is_empty() { waiting.replace_all(&said, "$1").into_owned() } else { rules.join("\n") };
        let _ = writeln!(out, "{asked}\n{said}");
    }
    out
}

impl Watch {
    /// Plays what is under a heading, and gives what each block of commands should be.
    async fn play(&self, page: &str, heading: &str, blessed: bool) -> Vec<(Range<usize>, String)> {
        self.workshop("");
        let mut told = Vec::new();
        for block in blocks(page, heading) {
            let text = &page[block.text.clone()];
            match block.kind {
                Kind::Configuration => self.configure(text),
                Kind::Sql => self.perform(text).await,
                Kind::Console => {
                    self.settle().await;
                    told.push((block.text, self.said(text, blessed)));
                }
            }
        }
        told
    }

    fn configure(&self, text: &str) {
        let said = |watch: &Watch| watch.archiver.stderr().matches("the configuration has changed").count();
        let before = said(self);
        fs::write(self.configuration(), text).unwrap();
        wait_for("the configuration is in force", Duration::from_secs(30), || said(self) > before);
    }

    async fn perform(&self, sql: &str) {
        let expected = sql.trim_end().lines().last().and_then(|line| line.strip_prefix("-- ERROR:")).map(str::trim);
        let outcome = self.database.connect().await.batch_execute(sql).await;
        match (outcome, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(expected)) => {
                let said = error.as_db_error().map(|error| error.message().to_owned());
                assert_eq!(said.as_deref(), Some(expected));
            }
            (outcome, _) => panic!("{sql}: {outcome:?}"),
        }
    }

    /// Runs the commands of a block, and gives it with what they say. One that only asks is asked until it says what the
    /// page says: the archiver tells of things in its own time.
    fn said(&self, block: &str, blessed: bool) -> String {
        let mut out = String::new();
        for expected in commands(block) {
            let command = expected.lines().next().unwrap();
            let asks = !["--apply", " mark ", " gate before "].iter().any(|acts| command.contains(acts));
            let until = Instant::now() + Duration::from_secs(60);
            loop {
                let end = self.step(&format!("{command} 2>&1"), &[("AFTERIMAGE_LOG", "error")]);
                let lines = end.stdout.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
                let said = format!("{command}\n{}\n", lines.trim_end());
                let agrees = blessed || comparable(expected) == comparable(&said);
                if agrees || !asks || Instant::now() > until {
                    let _ = write!(out, "$ {said}");
                    break;
                }
            }
        }
        out
    }
}

/// Where two texts begin to differ.
fn difference(expected: &str, found: &str) -> String {
    let pair = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    pair.map_or_else(
        || "one is longer".to_owned(),
        |(expected, found)| format!("the page: {expected}\n   found: {found}"),
    )
}

/// Compares a scene with the page, or writes it there.
async fn scene(heading: &str, sql: &str, configuration: &str, checks: usize) {
    let watch = Watch::over(Release::System, sql, configuration).await;
    let asked = || {
        let sql = "SELECT count(*) FROM afterimage.health";
        let said = watch.afterimage(&["query", "--format", "csv", sql]).expect(0).stdout;
        said.lines().last().unwrap_or_default().parse::<usize>().unwrap()
    };
    wait_for("every check was asked", Duration::from_secs(60), || asked() >= checks);
    let page = fs::read_to_string(PAGE).unwrap();
    let blessed = std::env::var_os("AFTERIMAGE_BLESS").is_some();
    let told = watch.play(&page, heading, blessed).await;
    assert!(!told.is_empty(), "{heading} shows no command");
    if blessed {
        let mut page = page;
        for (place, said) in told.into_iter().rev() {
            page.replace_range(place, &said);
        }
        fs::write(PAGE, page).unwrap();
        return;
    }
    for (place, said) in told {
        let (expected, found) = (comparable(&page[place]), comparable(&said));
        let difference = difference(&expected, &found);
        assert!(expected == found, "write it anew with AFTERIMAGE_BLESS=1\n{difference}\n{said}");
    }
}

macro_rules! schema {
    ($name:literal) => {
        include_str!(concat!("../../../schemas/", $name, ".sql"))
    };
}

// One after the other: with AFTERIMAGE_BLESS each writes the page.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_of_incidents_shows_is_what_the_commands_say() {
    let erp = [schema!("erp"), schema!("erp-data"), "SELECT demo_fill(4, 4000, 4000); ANALYZE"].concat();
    scene("The ERP", &erp, "packs = [\"erp\"]\n", 4).await;
    scene("The CRM", schema!("crm"), "packs = [\"crm\"]\n", 4).await;
    scene("Missing tables", schema!("missing-tables"), "packs = [\"truncate\"]\n", 0).await;
    scene("A start without", schema!("hrms"), "packs = [\"hrms\"]\n", 4).await;
}

#[test]
fn blocks_are_found_and_moments_are_masked() {
    let page =
        "# x\n\n## A\n\n```sql\nSELECT 1\n```\n\n````console\n$ a\n## B\n```b\n```\n````\n\n## B\n\n```sql\n2\n```\n";
    let found = blocks(page, "A");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((&found[0].kind, &page[found[1].text.clone()]), (&Kind::Sql, "$ a\n## B\n```b\n```\n"));
    assert_eq!(masked("a1b2c3d4  at 0/1A2B, 1,234 rows in 5 ms"), masked("ffffffff at 16/FF00, 7 rows in 17.5 s"));
    assert_ne!(masked("7 rows"), masked("7 tables"));
    let alert =
        |id: &str, rule: &str| format!("{id}  CRITICAL  2026-01-01T00:00:00Z  {rule}: 1 change\n          user a\n");
    let block = |alerts: [String; 2]| format!("$ afterimage guard alerts\n{}", alerts.concat());
    let one = comparable(&block([alert("0a1b2c3d", "a"), alert("1a1b2c3d", "b")]));
    assert_eq!(one, comparable(&block([alert("2a1b2c3d", "b"), alert("3a1b2c3d", "a")])));
    assert_ne!(one, comparable(&block([alert("2a1b2c3d", "b"), alert("3a1b2c3d", "c")])));
}
