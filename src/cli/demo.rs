//! `afterimage demo`: the incident of `schemas/README.md`, on a private PostgreSQL, with the built program.
//!
//! Every step that a person would take runs as the command that they would type.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::output::human;
use crate::failure::{Context as _, Failure, Result};
use crate::model::Xid;
use crate::postgres::{Session, Source};
use crate::scratch::{Installation, Launch, Scratch};

const DATABASE: &str = "erp";
const ERP: &str = include_str!("../../schemas/erp.sql");
const ERP_DATA: &str = include_str!("../../schemas/erp-data.sql");
const ERP_HEALTH: &str = include_str!("../../schemas/erp-health.sql");
const ERP_TRAFFIC: &str = include_str!("../../schemas/erp-traffic.sql");
const INCIDENT: &str = include_str!("../../schemas/erp-incident.sql");
const DEPLOYMENT: &str = include_str!("../../schemas/erp-deployment.sql");

/// What the incident's team did by hand to the smart codes of before. Made NOT VALID, the check would still refuse every update
/// of an old row, and nobody could go on working.
const ADMITTED: &str = r"smart_code = regexp_replace(smart_code, '\.V([12])$', '.v\1')";

/// What is guarded. At first it is only told.
const WATCHED: &str = "packs = [\"erp\"]\n";

/// The same, and whoever deletes relationships by the thousand is stopped.
const STOPPED: &str = "packs = [\"erp\"]\n
[[rule]]
name = \"mass-relationship-deletion\"
tables = [\"public.core_relationships\"]
operations = [\"delete\"]
rows = 1000
severity = \"EMERGENCY\"
action = \"cancel\"
";

/// The rule that the cleanup meets.
const MASS_DELETION: &str = "mass-relationship-deletion";

/// Sessions that go on working while all this happens.
const WORKERS: i32 = 3;

#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    /// Leave everything running afterwards, to play with; Ctrl-C ends it
    #[arg(long)]
    keep: bool,
    /// Rows of core_relationships, and as many of core_dynamic_data
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(i32).range(2000..=5_000_000))]
    rows: i32,
}

pub(super) async fn run(args: DemoArgs) -> Result<()> {
    tokio::select! {
        told = tell(args) => told,
        () = super::run::stop_requested() => Ok(()),
    }
}

async fn tell(args: DemoArgs) -> Result<()> {
    let mut story = Story::begin(args.rows).await?;
    story.load_the_erp().await?;
    story.begin_archiving().await?;
    let traffic = Traffic::start(&story.source);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = story.have_the_incident(&traffic).await?;
    let xid = story.find_the_transaction().await?;
    story.show_the_incident(xid).await?;
    story.restore(xid, lost).await?;
    story.check_everybody_in(lost, &traffic).await?;
    story.have_it_stopped().await?;
    story.tell_the_times();
    if args.keep {
        story.stay().await;
    }
    traffic.stop().await?;
    story.end().await
}

/// What the demo stands on, and how long its steps took.
struct Story {
    rows: i32,
    // Dropped in this order: first who uses the server, then the server, then what is on disk.
    archiver: Option<Child>,
    session: Session,
    scratch: Scratch,
    directory: Directory,
    source: Source,
    program: PathBuf,
    times: Vec<(&'static str, Duration)>,
    deleted_before: i64,
}

fn heading(text: &str) {
    tell_line(&format!("\n\x1b[1m{text}\x1b[0m"));
}

fn tell_line(text: &str) {
    use std::io::Write as _;
    // Whoever stops reading has heard enough.
    let _ = writeln!(anstream::stdout(), "{text}");
}

impl Story {
    async fn begin(rows: i32) -> Result<Story> {
        heading("1. A private PostgreSQL and an empty archive");
        let started = Instant::now();
        let scratch = blocking(|| Launch::new(Installation::find(None)?).without_tcp().start()).await?;
        let maintenance = Source::resolve(Some(&scratch.url("postgres")))?;
        maintenance.connect("afterimage demo").await?.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let source = Source::resolve(Some(&scratch.url(DATABASE)))?;
        let session = source.connect("afterimage demo").await?;
        session.batch_execute("SET search_path = \"$user\", public").await?;
        let program =
            std::env::current_exe().map_err(|error| Failure::failed(format!("finding this program: {error}")))?;
        let directory = Directory(std::env::temp_dir().join(format!("afterimage-demo-{}", std::process::id())));
        tell_line(&format!("   PostgreSQL {} in {}", scratch.installation().major(), scratch.socket_dir().display()));
        tell_line(&format!("   the archive will be in {}", directory.archive().display()));
        let times = vec![("start PostgreSQL", started.elapsed())];
        Ok(Story { rows, archiver: None, session, scratch, directory, source, program, times, deleted_before: 0 })
    }

    fn note(&mut self, what: &'static str, started: Instant) {
        self.times.push((what, started.elapsed()));
    }

    async fn load_the_erp(&mut self) -> Result<()> {
        heading("2. An ERP whose logins, workflows and accounts live in core_relationships");
        let started = Instant::now();
        for sql in [ERP, ERP_DATA, ERP_HEALTH, ERP_TRAFFIC] {
            self.session.batch_execute(sql).await.context("loading the ERP")?;
        }
        let fill = format!("SELECT table_name::text, row_count::bigint FROM demo_fill(8, {0}, {0})", self.rows);
        for row in self.session.query(&fill, &[]).await.context("filling the ERP")? {
            tell_line(&format!(
                "   {:<22} {:>9} rows",
                row.get::<_, &str>(0),
                human::count(row.get::<_, i64>(1) as u64)
            ));
        }
        self.session.batch_execute("ANALYZE").await?;
        self.note("load the ERP", started);
        let (can, all) = self.logins().await?;
        tell_line(&format!("   {can} of {all} users can log in"));
        Ok(())
    }

    async fn logins(&self) -> Result<(i64, i64)> {
        let sql = "SELECT count(*) FILTER (WHERE can_log_in), count(*) FROM demo_logins";
        let row = self.session.query_one(sql, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }

    async fn relationships(&self) -> Result<i64> {
        Ok(self.session.query_one("SELECT count(*) FROM core_relationships", &[]).await?.get(0))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("AFTERIMAGE_SOURCE", self.scratch.url(DATABASE))
            .env("AFTERIMAGE_ARCHIVE", self.directory.archive())
            .env("XDG_STATE_HOME", self.directory.0.join("state"))
            .env("AFTERIMAGE_CONFIG", self.directory.configuration())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command as a person would, and shows what it says.
    async fn show(&self, arguments: &[&str]) -> Result<()> {
        self.show_ending(arguments, 0).await
    }

    /// The same for a command that ends with this exit code.
    async fn show_ending(&self, arguments: &[&str], code: i32) -> Result<()> {
        tell_line(&format!("   \x1b[36m$ afterimage {}\x1b[0m", arguments.join(" ")));
        let fail = |error: std::io::Error| Failure::failed(format!("running a command: {error}"));
        let (told, teller) = std::io::pipe().map_err(fail)?;
        let mut command = self.command(arguments);
        command.stdout(teller.try_clone().map_err(fail)?).stderr(teller);
        let mut running = command.spawn().map_err(fail)?;
        // The command holds the pipe's other end too; its lines end when the child's copies are the last ones.
        drop(command);
        blocking(move || {
            let lines = std::io::BufReader::new(told).lines();
            lines.for_each(|line| tell_line(&format!("   {}", line.unwrap_or_default())));
            Ok(())
        })
        .await?;
        let status = running.wait().await.map_err(fail)?;
        match status.code() == Some(code) {
            true => Ok(()),
            false => Err(Failure::failed(format!("afterimage {} ended with {status}", arguments.join(" ")))),
        }
    }

    async fn json(&self, arguments: &[&str]) -> Result<Vec<serde_json::Value>> {
        let output = self
            .command(arguments)
            .output()
            .await
            .map_err(|error| Failure::failed(format!("running a command: {error}")))?;
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        values
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Failure::failed(format!("reading a command's JSON: {error}")))
    }

    async fn begin_archiving(&mut self) -> Result<()> {
        heading("3. Afterimage takes a base image and archives from then on");
        self.guard_with(WATCHED)?;
        let started = Instant::now();
        self.show(&["init"]).await?;
        self.note("first base image", started);
        tell_line("   \x1b[36m$ afterimage run &\x1b[0m");
        let archiver = self.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.archiver = Some(archiver.map_err(|error| Failure::failed(format!("starting the archiver: {error}")))?);
        Ok(())
    }

    async fn have_the_incident(&mut self, traffic: &Traffic) -> Result<u64> {
        heading("4. The cleanup script of the incident runs, while everybody works");
        let script = self.source.connect("93-comprehensive-cascade-cleanup.sql").await?;
        script.batch_execute("SET search_path = \"$user\", public").await?;
        // Bookings made before are not cancelled afterwards, so that what was lost can be counted.
        traffic.cancel_nothing(true).await;
        let started = Instant::now();
        script.batch_execute("BEGIN").await?;
        let lost = script
            .execute(INCIDENT.trim_end().trim_end_matches(';'), &[])
            .await
            .context("running the cleanup script")?;
        self.show_the_alarm(started).await?;
        script.batch_execute("COMMIT").await.context("committing the cleanup")?;
        self.note("the cleanup script", started);
        script.batch_execute(DEPLOYMENT).await.context("adding the too strict check")?;
        traffic.next_generation();
        traffic.cancel_nothing(false).await;
        let (can, all) = self.logins().await?;
        tell_line(&format!("   DELETE {lost}"));
        tell_line(&format!("   {} relationships are left", human::count(self.relationships().await? as u64)));
        tell_line(&format!("   \x1b[31m{can} of {all} users can log in\x1b[0m"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        tell_line(&format!(
            "   {} transactions of other sessions so far, and they go on",
            human::count(traffic.done())
        ));
        Ok(lost)
    }

    async fn find_the_transaction(&mut self) -> Result<Xid> {
        heading("5. Who deleted what?");
        let started = Instant::now();
        let filter = ["log", "--table", "core_relationships", "--op", "delete", "--to", "now"];
        let found = self.json(&[&filter[..], &["--json"]].concat()).await?;
        let deleted = |transaction: &serde_json::Value| -> u64 {
            let tables = transaction["tables"].as_array().into_iter().flatten();
            tables
                .filter(|table| table["table"] == "core_relationships")
                .filter_map(|table| table["delete"].as_u64())
                .sum()
        };
        let worst = found.iter().max_by_key(|transaction| deleted(transaction));
        let xid = worst.and_then(|transaction| transaction["xid"].as_u64()).and_then(|xid| Xid::try_from(xid).ok());
        let xid = xid.ok_or_else(|| Failure::failed("the archive does not know the deletion"))?;
        self.note("find the transaction", started);
        self.show(&[
            "log",
            "--table",
            "core_relationships",
            "--op",
            "delete",
            "--to",
            &format!("after:{xid}"),
            "-n",
            "3",
        ])
        .await?;
        tell_line(&format!("   transaction {xid} deleted {} relationships", human::count(worst.map_or(0, deleted))));
        Ok(xid)
    }

    async fn show_the_incident(&mut self, xid: Xid) -> Result<()> {
        heading("6. What happened, and what would bring it back?");
        let started = Instant::now();
        self.show(&["incident", &xid.to_string()]).await?;
        self.note("the incident's page", started);
        Ok(())
    }

    async fn restore(&mut self, xid: Xid, lost: u64) -> Result<()> {
        let xid = xid.to_string();
        heading("7. The check stands in the way: nothing is written");
        let started = Instant::now();
        self.show_ending(&["restore", "--undo", &xid, "--apply"], 4).await?;
        self.note("refuse the restore", started);
        heading("8. Bring them back past it, with smart codes that it admits");
        self.deleted_before = self.relationships().await?;
        let started = Instant::now();
        self.show(&["restore", "--undo", &xid, "--map", ADMITTED, "--apply"]).await?;
        self.note("restore", started);
        tell_line(&format!("   {} rows had been lost", human::count(lost)));
        Ok(())
    }

    async fn check_everybody_in(&mut self, lost: u64, traffic: &Traffic) -> Result<()> {
        heading("9. Can everybody log in?");
        let (can, all) = self.logins().await?;
        tell_line(&format!("   \x1b[32m{can} of {all} users can log in\x1b[0m"));
        let now = self.relationships().await?;
        tell_line(&format!(
            "   {} relationships: the restored ones and what other sessions have made since ({} transactions)",
            human::count(now as u64),
            human::count(traffic.done())
        ));
        let valid = "SELECT convalidated FROM pg_constraint WHERE conname = 'core_relationships_smart_code_ck'";
        let valid: bool = self.session.query_one(valid, &[]).await?.get(0);
        tell_line(&format!(
            "   the check is there{}",
            if valid { ", and valid for every row" } else { ", NOT VALID for the rows of before" }
        ));
        if can != all || now < self.deleted_before + lost as i64 {
            return Err(Failure::failed(format!("{lost} rows were lost, and not all of them are back")));
        }
        Ok(())
    }

    fn guard_with(&self, configuration: &str) -> Result<()> {
        std::fs::create_dir_all(&self.directory.0)
            .and_then(|()| std::fs::write(self.directory.configuration(), configuration))
            .map_err(|error| Failure::failed(format!("writing the guard's configuration: {error}")))
    }

    /// Alerts of the cleanup's rule.
    async fn alarms(&self) -> Result<Vec<serde_json::Value>> {
        let alerts = self.json(&["guard", "alerts", "--json"]).await?;
        let alerts = alerts.into_iter().flat_map(|alerts| match alerts {
            serde_json::Value::Array(alerts) => alerts,
            one => vec![one],
        });
        Ok(alerts.filter(|alert| alert["rule"] == MASS_DELETION).collect())
    }

    /// Waits for the guard's alert, while the cleanup has not committed.
    async fn show_the_alarm(&mut self, started: Instant) -> Result<()> {
        let deadline = started + Duration::from_secs(60);
        while self.alarms().await?.is_empty() {
            if Instant::now() > deadline {
                return Err(Failure::failed("the guard did not notice the cleanup"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tell_line("   the script has not committed yet, and the guard has raised an alarm:");
        self.show_ending(&["guard", "alerts"], 3).await?;
        self.note("alarm, from the start", started);
        tell_line("   nobody looks; the script commits");
        Ok(())
    }

    async fn have_it_stopped(&mut self) -> Result<()> {
        heading("10. The same script once more, and the guard may stop it");
        let before = self.relationships().await?;
        let alarms = self.alarms().await?.len();
        self.guard_with(STOPPED)?;
        tell_line("   in afterimage.toml, read again while it runs:  action = \"cancel\"");
        tokio::time::sleep(Duration::from_secs(3)).await;
        let script = self.source.connect("93-comprehensive-cascade-cleanup.sql").await?;
        script.batch_execute("SET search_path = \"$user\", public").await?;
        let started = Instant::now();
        // It goes on for a while before it commits, as the first time.
        let cleanup = format!("BEGIN; {INCIDENT}; SELECT pg_sleep(60); COMMIT");
        let Err(stopped) = script.batch_execute(&cleanup).await else {
            return Err(Failure::failed("the guard did not stop the cleanup"));
        };
        let said = stopped.as_db_error().map_or_else(|| stopped.to_string(), |error| error.message().to_owned());
        tell_line(&format!("   ERROR:  {said}"));
        // An error means that the session is gone, and its transaction with it.
        let _ = script.batch_execute("ROLLBACK").await;
        self.note("stopped by the guard", started);
        while self.alarms().await?.len() == alarms && started.elapsed() < Duration::from_secs(120) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.show_ending(&["guard", "alerts"], 3).await?;
        let (can, all) = self.logins().await?;
        tell_line(&format!("   {} relationships are there", human::count(self.relationships().await? as u64)));
        tell_line(&format!("   \x1b[32m{can} of {all} users still log in\x1b[0m"));
        // The application itself cancels a booking now and then.
        if can != all || self.relationships().await? * 100 < before * 99 {
            return Err(Failure::failed("rows are gone although the cleanup was stopped"));
        }
        Ok(())
    }

    fn tell_the_times(&self) {
        heading("How long it took");
        for (what, time) in &self.times {
            tell_line(&format!("   {what:<22} {:>7.1} s", time.as_secs_f64()));
        }
    }

    fn invitation(&self) -> String {
        let exports = format!(
            "   export AFTERIMAGE_SOURCE='{}'\n   export AFTERIMAGE_ARCHIVE='{}'\n   PATH=\"{}:$PATH\"",
            self.scratch.url(DATABASE),
            self.directory.archive().display(),
            self.program.parent().unwrap_or(Path::new(".")).display()
        );
        let tries = [
            "afterimage status",
            "afterimage log -n 10",
            "afterimage query \"SELECT _op, count(*) FROM changes.core_relationships GROUP BY _op\"",
            "afterimage mark before-my-experiment",
            "psql \"$AFTERIMAGE_SOURCE\" -c \"UPDATE public.core_dynamic_data SET field_value_text = 'oops'\"",
            "afterimage restore core_dynamic_data --to mark:before-my-experiment",
            "afterimage restore core_dynamic_data --to mark:before-my-experiment --apply",
            "afterimage export core_dynamic_data --at mark:before-my-experiment --output then.csv",
        ];
        format!("{exports}\n\n   {}", tries.join("\n   "))
    }

    async fn stay(&mut self) {
        heading("Now you");
        tell_line(&self.invitation());
        tell_line("\n   Everything goes on until you press Ctrl-C, and is removed then.");
        // Ctrl-C drops the whole story, and with it the server, the archiver and the archive.
        std::future::pending::<()>().await;
    }

    async fn end(mut self) -> Result<()> {
        heading("Try it yourself");
        tell_line("   afterimage demo --keep        leaves all this running to play with");
        tell_line("   afterimage init --source postgres://user@host/database --archive file:///var/lib/afterimage");
        tell_line("   afterimage run  --source postgres://user@host/database --archive file:///var/lib/afterimage");
        if let Some(archiver) = &mut self.archiver {
            // It is thrown away with its archive.
            let _ = archiver.kill().await;
        }
        Ok(())
    }
}

/// What the demo leaves on disk, for as long as it runs.
struct Directory(PathBuf);

impl Directory {
    fn archive(&self) -> PathBuf {
        self.0.join("archive")
    }

    fn configuration(&self) -> PathBuf {
        self.0.join("afterimage.toml")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It is in the temporary directory; what cannot be removed goes with that.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::failed(format!("a worker stopped: {error}")))?
}

/// Sessions that book, change and cancel appointments all the time.
struct Traffic {
    sessions: JoinSet<Result<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    cancel_nothing: AtomicBool,
    /// Later generations are other workers to the ERP: they touch nothing that earlier ones booked.
    generation: AtomicI32,
    done: AtomicU64,
    /// Held while a step runs, so that a change of the rules can wait for steps under the old ones.
    steps: tokio::sync::RwLock<()>,
}

impl Traffic {
    fn start(source: &Source) -> Traffic {
        let shared = Arc::new(Shared::default());
        let mut sessions = JoinSet::new();
        for worker in 0..WORKERS {
            sessions.spawn(work(source.clone(), worker, Arc::clone(&shared)));
        }
        Traffic { sessions, shared }
    }

    async fn cancel_nothing(&self, nothing: bool) {
        self.shared.cancel_nothing.store(nothing, Ordering::SeqCst);
        drop(self.shared.steps.write().await);
    }

    fn next_generation(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    async fn stop(mut self) -> Result<()> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        while let Some(ended) = self.sessions.join_next().await {
            ended
                .map_err(|error| Failure::failed(format!("a session of the ERP stopped: {error}")))?
                .context("the ERP's traffic")?;
        }
        Ok(())
    }
}

async fn work(source: Source, worker: i32, shared: Arc<Shared>) -> Result<()> {
    let session = source.connect("erp").await?;
    session.batch_execute("SET search_path = \"$user\", public").await?;
    let (mut generation, mut step) = (0, 0);
    while !shared.stopped.load(Ordering::SeqCst) {
        {
            let _running = shared.steps.read().await;
            let now = shared.generation.load(Ordering::SeqCst);
            if now != generation {
                (generation, step) = (now, 0);
            }
            // Steps that end in 9 cancel an earlier booking.
            if !(step % 10 == 9 && shared.cancel_nothing.load(Ordering::SeqCst)) {
                let number = worker + WORKERS * generation;
                session.execute("SELECT demo_traffic($1, $2)", &[&number, &step]).await?;
                shared.done.fetch_add(1, Ordering::Relaxed);
            }
        }
        step += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
