//! The whole story, as a newcomer sees it: archive, lose, find, restore.

use std::time::Duration;

use crate::support::Program;

#[test]
fn the_incident_is_undone_and_everybody_can_log_in() {
    let end = Program::afterimage(["demo", "--rows", "4000"]).run(Duration::from_secs(240)).expect(0);
    let logins = |line: &&str| line.ends_with("users can log in");
    let told: Vec<&str> = end.stdout.lines().map(str::trim).filter(logins).collect();
    assert_eq!(told.len(), 3, "{}", end.stdout);
    assert_eq!(told[0], told[2], "before the incident and after the restore\n{}", end.stdout);
    assert!(told[1].starts_with("0 of "), "in between nobody could\n{}", end.stdout);
    let number_after = |word: &str| {
        let line = end.stdout.lines().map(str::trim).find(|line| line.starts_with(word)).unwrap_or_default();
        let digits = line[word.len()..].trim_start().split(' ').next().unwrap_or_default().replace(',', "");
        digits.parse::<u64>().unwrap_or_else(|error| panic!("{word}: {error}\n{}", end.stdout))
    };
    let alarm = end.stdout.find("which has not committed yet").unwrap_or(usize::MAX);
    let commit = end.stdout.find("nobody looks; the script commits").unwrap_or(0);
    assert!(alarm < commit, "the alarm comes before the commit\n{}", end.stdout);
    let stopped = end.stdout.find("canceling statement due to user request").unwrap_or(0);
    assert!(stopped > commit, "the second run is stopped\n{}", end.stdout);
    assert!(end.stdout.contains("users still log in"), "{}", end.stdout);
    assert!(number_after("DELETE") > 3000, "{}", end.stdout);
    assert_eq!(number_after("DELETE"), number_after("Restored"), "{}", end.stdout);
}
