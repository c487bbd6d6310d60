//! PostgreSQL's own regression suite: its scripts, its schedule, and the program that runs them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use afterimage::scratch::{Installation, SUPERUSER, Scratch};

use crate::support::{Directory, Program, target_directory};

/// How long one group of scripts may take. A script that waits for a lock that nobody gives back never ends by itself.
const GROUP_PATIENCE: Duration = Duration::from_secs(300);

/// The database's name, which the scripts show.
pub(super) const DATABASE: &str = "regression";

/// What `pg_regress` says to a database that it makes itself.
pub(super) const SETTINGS: &str = "
    ALTER DATABASE regression SET lc_messages TO 'C';
    ALTER DATABASE regression SET lc_monetary TO 'C';
    ALTER DATABASE regression SET lc_numeric TO 'C';
    ALTER DATABASE regression SET lc_time TO 'C';
    ALTER DATABASE regression SET bytea_output TO 'hex';
    ALTER DATABASE regression SET timezone_abbreviations TO 'Default'";

/// Scripts that run at the same time, as a schedule's line names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) scripts: Vec<String>,
    /// May fail anywhere, says PostgreSQL: chance decides.
    ignored: Vec<String>,
}

impl Group {
    /// Scripts whose result is always the same.
    pub(super) fn certain(&self) -> impl Iterator<Item = &String> {
        self.scripts.iter().filter(|script| !self.ignored.contains(script))
    }

    fn schedule(&self) -> String {
        let ignored: String = self.ignored.iter().map(|script| format!("ignore: {script}\n")).collect();
        format!("{ignored}test: {}\n", self.scripts.join(" "))
    }
}

/// The suite as `tests/install` unpacked it.
pub(super) fn source() -> PathBuf {
    let source = target_directory().join("regress");
    assert!(source.join("installed").exists(), "{} is not there; run tests/install regress", source.display());
    source
}

/// The suite's groups in order; with `only`, of each group these scripts, in PostgreSQL's order, not in ours.
pub(super) fn schedule(only: Option<&[&str]>) -> Vec<Group> {
    let text = fs::read_to_string(source().join("src/test/regress/parallel_schedule")).unwrap();
    let mut groups = parse(&text);
    if let Some(only) = only {
        for group in &mut groups {
            group.scripts.retain(|script| only.contains(&script.as_str()));
            group.ignored.retain(|script| only.contains(&script.as_str()));
        }
        groups.retain(|group| !group.scripts.is_empty());
    }
    assert!(!groups.is_empty());
    groups
}

/// Words after `test:` are one group; `ignore:` (until PostgreSQL 15) speaks of scripts in a later one.
fn parse(text: &str) -> Vec<Group> {
    let words = |rest: &str| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (mut groups, mut ignored) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.split_once(':') {
            Some(("test", rest)) => groups.push(Group { scripts: words(rest), ignored: std::mem::take(&mut ignored) }),
            Some(("ignore", rest)) => ignored.extend(words(rest)),
            _ => assert!(line.is_empty() || line.starts_with('#'), "not a schedule's line: {line}"),
        }
    }
    groups
}

/// One run of the suite against one server, in a directory that the server's user can read and write too.
#[derive(Debug)]
pub(super) struct Run<'a> {
    server: &'a Scratch,
    root: PathBuf,
}

impl<'a> Run<'a> {
    /// Copies the suite: it may lie where the server's user cannot look, and some scripts let the server write.
    pub(super) fn prepare(server: &'a Scratch, directory: &Directory) -> Run<'a> {
        let root = directory.join("suite");
        fs::create_dir(&root).unwrap();
        copy(&source().join("src/test/regress"), &root.join("input"));
        copy(&source().join("lib"), &root.join("lib"));
        fs::create_dir_all(root.join("output/results")).unwrap();
        for open in ["output", "output/results"] {
            fs::set_permissions(root.join(open), Permissions::from_mode(0o777)).unwrap();
        }
        for closed in [directory.path(), &root] {
            fs::set_permissions(closed, Permissions::from_mode(0o755)).unwrap();
        }
        Run { server, root }
    }

    /// Runs a group to its end. Whether its results are the expected ones is not decided here.
    #[track_caller]
    pub(super) fn group(&self, group: &Group) {
        let schedule = self.root.join("schedule");
        fs::write(&schedule, group.schedule()).unwrap();
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let arguments = [
            option("bindir", self.server.bin_dir()),
            option("inputdir", &self.root.join("input")),
            option("outputdir", &self.root.join("output")),
            option("dlpath", &self.root.join("lib")),
            option("host", self.server.socket_dir()),
            option("schedule", &schedule),
            format!("--port={}", self.server.port()),
            format!("--user={SUPERUSER}"),
            format!("--dbname={DATABASE}"),
            "--use-existing".to_owned(),
        ];
        let program = Program::new(&self.root.join("lib/pg_regress")).arguments(arguments.iter().map(String::as_str));
        let end = program.working_directory(&self.root).run(GROUP_PATIENCE);
        for script in &group.scripts {
            let result = self.result(script);
            assert!(result.exists(), "{} is missing\n{}{}", result.display(), end.stdout, end.stderr);
        }
    }

    /// What a script showed.
    pub(super) fn result(&self, script: &str) -> PathBuf {
        self.root.join(format!("output/results/{script}.out"))
    }
}

/// What a script may show, according to PostgreSQL: platforms differ, and so does what a build can do.
pub(super) fn expected(script: &str) -> Vec<PathBuf> {
    let directory = source().join("src/test/regress/expected");
    let alternatives = (0..10).map(|number| format!("{script}_{number}.out"));
    let names = std::iter::once(format!("{script}.out")).chain(alternatives);
    names.map(|name| directory.join(name)).filter(|path| path.exists()).collect()
}

/// The version of the suite and of the server, as one text.
pub(super) fn version(installation: &Installation) -> String {
    let installed = fs::read_to_string(source().join("installed")).unwrap();
    format!("{}, suite of {}", installation.bin_dir().display(), installed.trim())
}

pub(super) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cannot copy {} to {}", from.display(), to.display());
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(to).status().unwrap();
    assert!(opened.success(), "cannot open {}", to.display());
}

#[test]
fn a_schedule_is_read_as_pg_regress_reads_it() {
    let groups = parse("# first\ntest: a b\n\nignore: c\ntest: c d\n");
    assert_eq!(groups[0].scripts, ["a", "b"]);
    assert_eq!(groups[1].certain().collect::<Vec<_>>(), ["d"]);
    assert_eq!(groups[1].schedule(), "ignore: c\ntest: c d\n");
}
