//! What somebody sees who does not know the program yet.

use super::{PATIENCE, assert_has, misuse};
use crate::support::{Directory, Program};

const COMMANDS: [&str; 23] = [
    "init", "run", "status", "log", "show", "history", "diff", "blame", "mark", "export", "query", "sql", "serve",
    "restore", "demo", "guard", "check", "gate", "doctor", "incident", "verify", "drill", "maintain",
];

fn ask(arguments: &[&str]) -> String {
    Program::afterimage(arguments.iter().copied()).run(PATIENCE).expect(0).stdout
}

#[test]
fn without_a_command_there_is_help() {
    let end = Program::afterimage([]).run(PATIENCE).expect(2);
    assert_eq!(end.stdout, "");
    assert_has(&end.stderr, &["Usage: afterimage", "Start with: afterimage demo", "Exit codes:", "A point (POINT)"]);
    for command in COMMANDS {
        assert_has(&end.stderr, &[&format!("\n  {command}")]);
    }
}

#[test]
fn every_command_explains_itself() {
    for command in COMMANDS {
        for flag in ["--help", "-h"] {
            let help = ask(&[command, flag]);
            assert_has(
                &help,
                &[&format!("Usage: afterimage {command}"), "Options of every command:", "--archive <URL>"],
            );
            let (own, common) = help.split_once("Options of every command:").unwrap();
            assert!(!own.contains("--wait"), "{own}");
            assert!(!common.contains("--at <"), "{common}");
            for line in help.lines() {
                // Example commands are not wrapped, so that they can be copied.
                assert!(line.chars().count() <= 120, "{command} {flag}: {line}");
            }
        }
        assert_eq!(ask(&["help", command]), ask(&[command, "--help"]));
    }
    assert_has(&ask(&["--version"]), &["afterimage 0."]);
}

#[test]
fn a_slip_is_met_with_a_suggestion() {
    let said = |arguments: &[&str]| misuse(Program::afterimage(arguments.iter().copied()).run(PATIENCE));
    assert_has(&said(&["exprot"]), &["unrecognized subcommand 'exprot'", "'export'"]);
    assert_has(&said(&["log", "--tabel", "t"]), &["--tabel", "--table"]);
    assert_has(&said(&["status", "--wait", "5"]), &["is not a duration"]);
    assert_has(&said(&["run", "--flush-interval", "soon"]), &["write 250ms, 1s"]);
    assert_has(&said(&["init", "--tables", "a", "--all-tables"]), &["cannot be used with"]);
    assert_has(&said(&["mark"]), &["<NAME>"]);
}

#[test]
fn a_wrong_log_filter_is_said_and_ignored() {
    let directory = Directory::new();
    let program = Program::afterimage(["status"]).archive(&directory.archive()).variable("AFTERIMAGE_LOG", "a=b=c");
    let end = program.run(PATIENCE).expect(1);
    assert_has(&end.stderr, &["AFTERIMAGE_LOG is ignored", "there is no archive"]);
}
