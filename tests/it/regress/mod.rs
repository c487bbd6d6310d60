//! PostgreSQL's own regression suites with the archiver attached: whatever their scripts do, the archiver goes on, the
//! archive has every table as it was, and the scripts do not notice.

mod differences;
mod observer;
mod suite;

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use afterimage::scratch::{Launch, Scratch};
use futures::FutureExt;

use self::observer::{Content, Dropped, Observer};
use self::suite::{Group, Run, Suite};
use crate::support::{Database, Directory, PATIENCE, Release, Site, difference, target_directory};

/// Scripts that make, change and drop tables of every kind, and those that they build on.
const PART: &[&str] = &[
    "test_setup",
    "boolean",
    "numeric",
    "enum",
    "rangetypes",
    "timestamp",
    "interval",
    "multirangetypes",
    "insert",
    "insert_conflict",
    "copy",
    "create_misc",
    "create_table",
    "create_type",
    "create_schema",
    "create_index",
    "create_view",
    "constraints",
    "triggers",
    "inherit",
    "typed_table",
    "drop_if_exists",
    "updatable_views",
    "transactions",
    "arrays",
    "update",
    "delete",
    "namespace",
    "prepared_xacts",
    "replica_identity",
    "rowsecurity",
    "identity",
    "generated",
    "create_table_like",
    "merge",
    "publication",
    "foreign_key",
    "cluster",
    "indirect_toast",
    "jsonb",
    "copy2",
    "temp",
    "domain",
    "truncate",
    "alter_table",
    "sequence",
    "rowtypes",
    "largeobject",
    "with",
    "partition_prune",
    "indexing",
    "compression",
    "event_trigger",
    "fast_default",
];

/// Of so many dropped tables the part looks at one, since looking takes most of its time.
const PART_OF_DROPPED: usize = 4;

/// More failures than these say nothing new; all of them are in a file.
const SHOWN: usize = 25;

/// Modules of `contrib` that Debian packages with the server and whose scripts make tables. Not those that connect back
/// to the server where libpq looks for it by default (`dblink`, `postgres_fdw`): ours is elsewhere. Not those that break
/// tables on purpose (`pg_surgery`) or need a configuration of their own.
const MODULES: &[&str] = &[
    "amcheck",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "file_fdw",
    "hstore",
    "intarray",
    "lo",
    "ltree",
    "pageinspect",
    "pg_trgm",
    "pg_visibility",
    "pgcrypto",
    "pgstattuple",
    "seg",
    "tablefunc",
    "tsm_system_rows",
    "tsm_system_time",
    "xml2",
];

/// Those whose types are seen most.
const PART_OF_MODULES: &[&str] = &["hstore", "citext", "cube", "ltree"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_suite_with_an_archiver() {
    let groups = suite::only(Suite::core().schedule(), |script| PART.contains(&script));
    Check { nth_dropped: PART_OF_DROPPED, ..Check::new("part", Suite::core(), groups) }.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make regress runs it"]
async fn the_whole_suite_with_an_archiver() {
    Check::new("whole", Suite::core(), Suite::core().schedule()).check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_contrib_with_an_archiver() {
    check_modules(PART_OF_MODULES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make regress runs it"]
async fn contrib_with_an_archiver() {
    check_modules(MODULES).await;
}

/// The results are another matter: the scripts are of another major version, and so are the functions in C that they
/// want to load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make regress runs it"]
async fn the_suites_statements_on_eighteen() {
    let check = Check::new("eighteen", Suite::core(), Suite::core().schedule());
    let check = Check { release: Release::Eighteen, ..check };
    check.check_archive(|_, _| Vec::new()).await;
}

/// Checks each module on a server of its own, and all of them whatever becomes of one.
async fn check_modules(modules: &[&'static str]) {
    let mut failed = Vec::new();
    for module in modules {
        let suite = Suite::contrib(module);
        let groups = suite.scripts();
        let check = Check { drops: false, ..Check::new(module, suite, groups) };
        if AssertUnwindSafe(check.check()).catch_unwind().await.is_err() {
            failed.push(module);
        }
    }
    assert!(failed.is_empty(), "what failed is said above: {failed:?}");
}

/// A suite, or a part of it, that runs with an archiver.
struct Check {
    name: &'static str,
    suite: Suite,
    groups: Vec<Group>,
    /// One of so many dropped tables is exported.
    nth_dropped: usize,
    /// Whether its scripts drop tables that another transaction made.
    drops: bool,
    release: Release,
    started: Instant,
}

impl Check {
    fn new(name: &'static str, suite: Suite, groups: Vec<Group>) -> Check {
        assert!(!groups.is_empty(), "{name} has no scripts");
        let (release, started) = (Release::System, Instant::now());
        Check { name, suite, groups, nth_dropped: 1, drops: true, release, started }
    }

    /// Also that the scripts show what they show without an archiver.
    async fn check(&self) {
        let baseline = self.baseline().await;
        self.check_archive(|run, directory| self.compare_results(&baseline, run, directory)).await;
    }

    async fn check_archive(&self, compare_results: impl FnOnce(&Run<'_>, &Directory) -> Vec<String>) {
        let directory = Directory::new();
        let server = server(self.release);
        let database = database(&server).await;
        let site = Site::local(&database, &directory);
        let run = Run::prepare(&server, &self.suite, &directory);
        let observer = self.run_with_archiver(&site, &run).await;
        self.say("the suite has run with an archiver");
        let (contents, dropped) = observer.end();
        let dropped: Vec<Dropped> = dropped.into_iter().step_by(self.nth_dropped).collect();
        // The observer's own table is one.
        assert!(contents.len() + dropped.len() > 1, "the suite left nothing to look at");
        assert!(!self.drops || !dropped.is_empty(), "the suite dropped nothing");
        let mut failures = compare_results(&run, &directory);
        failures.extend(in_parallel(&contents, |content| compare_content(&site, content)));
        self.say(&format!("{} contents of tables are compared", contents.len()));
        failures.extend(in_parallel(&dropped, |dropped| export_dropped(&site, dropped)));
        self.say(&format!("{} dropped tables are exported", dropped.len()));
        conclude(&failures, &directory);
    }

    /// On return the archive has everything.
    async fn run_with_archiver<'a>(&self, site: &Site<'a>, run: &Run<'_>) -> Observer<'a> {
        site.command(["init", "--all-tables", "--set-identity-full"]).run(PATIENCE).expect(0);
        let mut archiver = site.stream();
        let mut observer = Observer::start(site.database).await;
        for group in &self.groups {
            run.group(group);
            observer.look().await;
            assert!(archiver.is_running(), "the archiver ended during {:?}\n{}", group.scripts, archiver.stderr());
        }
        archiver.signal("TERM");
        archiver.wait(PATIENCE).expect(0);
        site.catch_up();
        observer
    }

    /// The results without an archiver. They are kept, since nothing of ours changes them.
    async fn baseline(&self) -> PathBuf {
        let kept = target_directory().join("regress/baseline").join(self.name);
        let server = server(self.release);
        let key = format!("{}\n{:?}", suite::version(server.installation()), self.groups);
        if fs::read_to_string(kept.join("key")).is_ok_and(|known| known == key) {
            return kept;
        }
        let directory = Directory::new();
        let _database = database(&server).await;
        let run = Run::prepare(&server, &self.suite, &directory);
        self.groups.iter().for_each(|group| run.group(group));
        let _ = fs::remove_dir_all(&kept);
        fs::create_dir_all(&kept).unwrap();
        for script in self.groups.iter().flat_map(|group| &group.scripts) {
            fs::copy(run.result(script), kept.join(format!("{script}.out"))).unwrap();
        }
        // Last, so that a baseline that was cut short is made anew.
        fs::write(kept.join("key"), key).unwrap();
        self.say("the suite has run without an archiver");
        kept
    }

    fn compare_results(&self, baseline: &Path, run: &Run<'_>, directory: &Directory) -> Vec<String> {
        let mut failures = Vec::new();
        for script in self.groups.iter().flat_map(Group::certain) {
            let known = baseline.join(format!("{script}.out"));
            let expected = self.suite.expected(script);
            let may_be = std::iter::once(known.as_path()).chain(expected.iter().map(PathBuf::as_path));
            let Some(difference) = differences::unexplained(script, may_be, &run.result(script)) else { continue };
            let file = directory.join(&format!("{script}.diff"));
            fs::write(&file, &difference).unwrap();
            let summary = differences::summary(script, &difference);
            failures.push(format!("{script} shows something else, see {}\n{summary}", file.display()));
        }
        if !failures.is_empty() {
            fs::write(directory.join("forced-differences.txt"), differences::reasons()).unwrap();
        }
        failures
    }

    fn say(&self, what: &str) {
        println!("{:>6.1} s  {}: {what}", self.started.elapsed().as_secs_f64(), self.name);
    }
}

/// As `pg_regress` sets up its own, except for what logical decoding needs.
fn server(release: Release) -> Scratch {
    let launch = Launch::new(release.installation()).set("max_prepared_transactions", 2).set("fsync", "off");
    launch.start().unwrap_or_else(|failure| panic!("{failure}"))
}

async fn database(server: &Scratch) -> Database {
    let database = Database::named(server, suite::DATABASE.to_owned()).await;
    database.run(suite::SETTINGS).await;
    observer::install(&database).await;
    database
}

fn compare_content(site: &Site<'_>, content: &Content) -> Option<String> {
    let Content { lsn, table, csv } = content;
    let difference = match export(site, &table.to_sql(), &lsn.to_string()) {
        Ok(exported) => difference(csv, &exported),
        Err(why) => why,
    };
    (!difference.is_empty()).then(|| format!("{table} at {lsn}: {difference}"))
}

fn export_dropped(site: &Site<'_>, dropped: &Dropped) -> Option<String> {
    let Dropped { xid, table } = dropped;
    let exported = export(site, &table.to_sql(), &format!("before:{xid}"));
    exported.err().map(|why| format!("{table} before its drop in {xid}: {why}"))
}

fn export(site: &Site<'_>, table: &str, at: &str) -> Result<String, String> {
    let end = site.command(["export", table, "--at", at]).run(PATIENCE);
    match end.code {
        Some(0) => Ok(end.stdout),
        _ => Err(end.stderr),
    }
}

/// What is not as it should be, of all of `items`; each takes a process, so all processors help.
fn in_parallel<T: Sync>(items: &[T], check: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let (next, failures) = (Mutex::new(items.iter()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let item = next.lock().unwrap().next();
            let Some(item) = item else { break };
            if let Some(failure) = check(item) {
                failures.lock().unwrap().push(failure);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    failures.into_inner().unwrap()
}

#[track_caller]
fn conclude(failures: &[String], directory: &Directory) {
    if failures.is_empty() {
        return;
    }
    let all = directory.join("failures.txt");
    fs::write(&all, failures.join("\n")).unwrap();
    let shown: Vec<&str> = failures.iter().take(SHOWN).map(String::as_str).collect();
    panic!("{} failures, all in {}:\n{}", failures.len(), all.display(), shown.join("\n"));
}
