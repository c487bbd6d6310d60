//! PostgreSQL's own regression suites: their scripts, their schedules, and the program that runs them.

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

/// Scripts with what they read and what they should show.
#[derive(Debug)]
pub(super) struct Suite {
    directory: PathBuf,
}

impl Suite {
    /// PostgreSQL's own.
    pub(super) fn core() -> Suite {
        Suite { directory: unpacked().join("src/test/regress") }
    }

    /// That of one of the modules in `contrib`.
    pub(super) fn contrib(module: &str) -> Suite {
        Suite { directory: unpacked().join("contrib").join(module) }
    }

    /// The groups of the core suite in order.
    pub(super) fn schedule(&self) -> Vec<Group> {
        parse(&self.read("parallel_schedule"))
    }

    /// The scripts that a module's Makefile names, one after the other.
    pub(super) fn scripts(&self) -> Vec<Group> {
        named(&self.read("Makefile"))
    }

    /// What a script may show, according to PostgreSQL: platforms differ, and so does what a build can do.
    pub(super) fn expected(&self, script: &str) -> Vec<PathBuf> {
        let directory = self.directory.join("expected");
        let alternatives = (0..10).map(|number| format!("{script}_{number}.out"));
        let names = std::iter::once(format!("{script}.out")).chain(alternatives);
        names.map(|name| directory.join(name)).filter(|path| path.exists()).collect()
    }

    fn read(&self, name: &str) -> String {
        let path = self.directory.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// What `tests/install` unpacked.
fn unpacked() -> PathBuf {
    let source = target_directory().join("regress");
    assert!(source.join("installed").exists(), "{} is not there; run tests/install regress", source.display());
    source
}

/// Of each group the scripts that are wanted, in PostgreSQL's order, not in ours.
pub(super) fn only(mut groups: Vec<Group>, is_wanted: impl Fn(&str) -> bool) -> Vec<Group> {
    for group in &mut groups {
        group.scripts.retain(|script| is_wanted(script));
        group.ignored.retain(|script| is_wanted(script));
    }
    groups.retain(|group| !group.scripts.is_empty());
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

/// Reads `REGRESS = …` in a module's Makefile. A variable there stands for a script that depends on the build.
fn named(makefile: &str) -> Vec<Group> {
    let makefile = makefile.replace("\\\n", " ");
    let lines = makefile.lines().filter_map(|line| line.strip_prefix("REGRESS")?.trim_start().strip_prefix('='));
    let scripts = lines.flat_map(str::split_whitespace).filter(|word| !word.starts_with('$'));
    scripts.map(|script| Group { scripts: vec![script.to_owned()], ignored: Vec::new() }).collect()
}

/// One run of the suite against one server, in a directory that the server's user can read and write too.
#[derive(Debug)]
pub(super) struct Run<'a> {
    server: &'a Scratch,
    root: PathBuf,
}

impl<'a> Run<'a> {
    /// Copies the suite: it may lie where the server's user cannot look, and some scripts let the server write.
    pub(super) fn prepare(server: &'a Scratch, suite: &Suite, directory: &Directory) -> Run<'a> {
        let root = directory.join("suite");
        fs::create_dir(&root).unwrap();
        copy(&suite.directory, &root.join("input"));
        copy(&unpacked().join("lib"), &root.join("lib"));
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
        // Scripts of contrib look for their data from here.
        let end = program.working_directory(&self.root.join("input")).run(GROUP_PATIENCE);
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

/// The version of the suite and of the server, as one text.
pub(super) fn version(installation: &Installation) -> String {
    let installed = fs::read_to_string(unpacked().join("installed")).unwrap();
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

#[test]
fn a_makefile_names_its_scripts() {
    let groups = named("A = b\nREGRESS = init a \\\n\tb $(MORE) \\\n\tc\nREGRESS_OPTS = --no\n");
    let scripts: Vec<_> = groups.iter().flat_map(Group::certain).collect();
    assert_eq!(scripts, ["init", "a", "b", "c"]);
}
