//! Where the suite's results differ from those without an archiver, and whether they have to.

use std::path::Path;
use std::process::Command;

/// A difference that an attached archiver forces.
struct Forced {
    /// The script; `*` is any.
    script: &'static str,
    /// The line, its blanks at both ends aside; `*` stands for anything.
    line: &'static str,
    why: &'static str,
}

const fn forced(script: &'static str, line: &'static str, why: &'static str) -> Forced {
    Forced { script, line, why }
}

const PUBLISHED: &str = "a table that is archived is in the publication, and psql says so";
const FULL: &str = "a new table is set to REPLICA IDENTITY FULL, and psql says so";
const LISTED: &str = "the script lists every publication there is, with its tables; so ours is in it, and is counted";
const IDENTITY: &str = "with an identity the UPDATE goes through, which the script expects to be refused without one";

const SAFE: &str = "a table that is published gets an identity by which its UPDATEs do not fail";
const OUR_ALTER: &str =
    "the event triggers that set the identity do so by ALTER TABLE, which the script's triggers see";

const DEFINER: &str = "the script lists functions that run as their owner, and event triggers' functions have to";
const OUR_TRIGGERS: &str = "the script lists every event trigger there is, so ours too, and they are counted";

const VISIBLE: &str = "VACUUM marks a page as visible to all only where no session has an older snapshot; the archiver's have some at times, and then \
    an index alone does not tell what a row is";

/// All of them. A difference that no line here explains is a defect of ours.
const FORCED: &[Forced] = &[
    forced("*", "Publications:", PUBLISHED),
    forced("*", "\"afterimage\"", PUBLISHED),
    forced("*", "Replica Identity: FULL", FULL),
    forced("publication", "afterimage *|*", LISTED),
    // Its comment, which is NULL.
    forced("publication", "", LISTED),
    forced("publication", "(1 row)", LISTED),
    forced("publication", "(* rows)", LISTED),
    // Our name is longer than its, so the rule below the head is.
    forced("publication", "---*-+-*", LISTED),
    forced("publication", "ERROR:  cannot update table \"*\" because it does not have a replica identity*", IDENTITY),
    forced("publication", "ERROR:  cannot update table \"*\"", IDENTITY),
    forced(
        "publication",
        "DETAIL:  Column used in the publication WHERE expression is not part of the replica identity.",
        IDENTITY,
    ),
    forced(
        "publication",
        "DETAIL:  Column list used by the publication does not cover the replica identity.",
        IDENTITY,
    ),
    forced("replica_identity", "n", SAFE),
    forced("replica_identity", "f", SAFE),
    forced("event_trigger", "NOTICE:  test_event_trigger: ddl_command_start ALTER TABLE", OUR_ALTER),
    forced("event_trigger", "NOTICE:  test_event_trigger: ddl_command_end ALTER TABLE", OUR_ALTER),
    forced(
        "publication",
        "ERROR:  cannot delete from table \"*\" because it does not have a replica identity*",
        IDENTITY,
    ),
    forced(
        "publication",
        "HINT:  To enable deleting from the table, set REPLICA IDENTITY using ALTER TABLE.",
        IDENTITY,
    ),
    forced("opr_sanity", "* | on_*", DEFINER),
    // The counts and rules below the heads of what is listed.
    forced("opr_sanity", "(* rows)", DEFINER),
    forced("opr_sanity", "---*-+-*", DEFINER),
    forced("event_trigger", "NOTICE:  END: command_tag=ALTER TABLE type=table identity=evttrig.*", OUR_ALTER),
    forced("event_trigger", "afterimage_*", OUR_TRIGGERS),
    forced("event_trigger", "(* rows)", OUR_TRIGGERS),
    forced("event_trigger", "---*-+-*", OUR_TRIGGERS),
    forced("create_index", "Index Only Scan using tenk1_unique1 on tenk1", VISIBLE),
    forced("create_index", "---*", VISIBLE),
    forced("create_index", "Sort", VISIBLE),
    forced("create_index", "Sort Key: unique1", VISIBLE),
    forced("create_index", "Sort Key: thousand", VISIBLE),
    forced("create_index", "*Index Only Scan using tenk1_thous_tenthous on tenk1", VISIBLE),
    forced("create_index", "Index Cond: *(thousand < 2)*", VISIBLE),
    forced("create_index", "Filter: (tenthous = ANY ('{1001,3000}'::integer[]))", VISIBLE),
    forced("create_index", "->  Bitmap * on tenk1*", VISIBLE),
    forced("create_index", "Index Cond: (unique1 = ANY ('{1,42,7}'::integer[]))", VISIBLE),
    forced("create_index", "Recheck Cond: (unique1 = ANY ('{1,42,7}'::integer[]))", VISIBLE),
    forced("create_index", "(* rows)", VISIBLE),
    forced("publication", "HINT:  To enable updating the table, set REPLICA IDENTITY using ALTER TABLE.", IDENTITY),
];

/// Lines of a difference that name the files.
const HEAD: usize = 2;

/// Compares a result with what it may be; `None` where it is one of these, forced differences aside. Otherwise the
/// differences from the first.
pub(super) fn unexplained<'a>(
    script: &str,
    may_be: impl IntoIterator<Item = &'a Path>,
    result: &Path,
) -> Option<String> {
    let mut first = None;
    for other in may_be {
        let difference = diff(other, result);
        if changed(&difference).all(|line| is_forced(script, line)) {
            return None;
        }
        first.get_or_insert(difference);
    }
    Some(first.expect("there is a baseline"))
}

/// A difference's first lines that nothing explains.
pub(super) fn summary(script: &str, difference: &str) -> String {
    let lines = difference.lines().skip(HEAD).filter(|line| is_changed(line) && !is_forced(script, &line[1..]));
    lines.take(6).map(|line| format!("    {}\n", line.chars().take(160).collect::<String>())).collect()
}

/// Why results may differ, for whoever reads a failure.
pub(super) fn reasons() -> String {
    let reasons = FORCED.iter().map(|Forced { script, line, why }| format!("{script}: {line}: {why}\n"));
    reasons.collect()
}

/// As `pg_regress` compares: blanks aside, since psql aligns a column by its longest value.
fn diff(one: &Path, other: &Path) -> String {
    let output = Command::new("diff").args(["-w", "-U", "3"]).args([one, other]).output().unwrap();
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn changed(difference: &str) -> impl Iterator<Item = &str> {
    difference.lines().skip(HEAD).filter(|line| is_changed(line)).map(|line| &line[1..])
}

fn is_changed(line: &str) -> bool {
    line.starts_with(['+', '-'])
}

fn is_forced(script: &str, line: &str) -> bool {
    FORCED.iter().any(|forced| (forced.script == "*" || forced.script == script) && matches(forced.line, line.trim()))
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| &rest[at..]).chain([""]).any(|rest| matches(after, rest))
        }),
    }
}

#[test]
fn only_a_listed_line_is_forced() {
    assert!(is_forced("inherit", "    \"afterimage\""));
    assert!(is_forced(
        "publication",
        "ERROR:  cannot update table \"t\" because it does not have a replica identity and"
    ));
    assert!(!is_forced("inherit", "ERROR:  cannot update table \"t\" because it does not have a replica identity and"));
    assert!(!is_forced("inherit", "(1 row)"));
}
