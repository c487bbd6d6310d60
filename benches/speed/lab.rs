//! What all parts stand on: a server, the program, and disk space that goes away with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use afterimage::scratch::{Installation, Launch, SUPERUSER, Scratch};

use super::Result;
use super::process::{self, Cost};

/// How a client reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// TCP without encryption, on this machine.
    Tcp,
    /// A Unix-domain socket, which holds so little that whoever writes waits for each pause of whoever reads.
    Socket,
}

/// By turns, so often each.
pub(crate) const ROUNDS: usize = 3;

/// A row of 100 to 200 bytes as an SQL select list over `n`.
pub(crate) const ROW: &str = "n, 'item ' || n || ' ' || md5(n::text),
    jsonb_build_object('sku', md5((n * 7)::text), 'price', n % 1000, 'tags', jsonb '[\"new\", \"sale\"]'),
    timestamptz '2025-01-01 00:00:00+00' + n * interval '1.234567 s'";

/// The table that everything is measured with.
pub(crate) const TABLE: &str = "CREATE TABLE items (
    id bigint PRIMARY KEY, title text NOT NULL, details jsonb NOT NULL, changed_at timestamptz NOT NULL)";

/// See the module's documentation.
pub(crate) struct Lab {
    server: Scratch,
    directory: PathBuf,
    program: PathBuf,
}

impl Lab {
    pub(crate) fn open() -> Result<Lab> {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("speed-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        // A build elsewhere must not exchange the program half-way.
        let program = directory.join("afterimage");
        fs::copy(env!("CARGO_BIN_EXE_afterimage"), &program)?;
        // What is measured is not how the source writes, and nothing of its own accord may come in between.
        let server = Launch::new(Installation::find(None)?)
            .set("shared_buffers", "512MB")
            .set("max_wal_size", "16GB")
            .set("checkpoint_timeout", "1h")
            .set("autovacuum", "off")
            // As ours asks for it.
            .set("logical_decoding_work_mem", "4MB")
            .set("fsync", "off")
            .set("synchronous_commit", "off")
            .start()?;
        Ok(Lab { server, directory, program })
    }

    pub(crate) fn server_version(&self) -> Result<String> {
        self.sql("postgres", "SHOW server_version")
    }

    /// Makes a database with the table, filled with so many rows.
    pub(crate) fn database(&self, name: &str, rows: u64) -> Result<()> {
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"))?;
        self.sql(name, TABLE)?;
        self.sql(name, &format!("INSERT INTO items SELECT {ROW} FROM generate_series(1, {rows}) n"))?;
        self.sql(name, "VACUUM ANALYZE items")?;
        Ok(())
    }

    /// Runs SQL and returns what it printed, unaligned.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let output = self.psql(database, sql).output()?;
        if !output.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// psql about to run SQL.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> Command {
        let mut command = self.client("psql", database);
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        // What never comes must not be waited for.
        command.args(["--command", sql]).env("PGOPTIONS", "-c statement_timeout=600s");
        command
    }

    /// One of PostgreSQL's client programs, told where the server is.
    pub(crate) fn client(&self, program: &str, database: &str) -> Command {
        let mut command = self.program_of_server(program);
        command.args(["--dbname", database]);
        command
    }

    /// The same, over a connection of this kind.
    pub(crate) fn client_over(&self, link: Link, program: &str, database: &str) -> Command {
        match link {
            Link::Socket => self.client(program, database),
            Link::Tcp => {
                let mut command = Command::new(self.server.installation().program(program));
                command.args(["--dbname", &self.tcp_url(database)]);
                command
            }
        }
    }

    fn tcp_url(&self, database: &str) -> String {
        // The laboratory's server always listens.
        self.server.tcp_url(database).unwrap_or_default()
    }

    /// The processor time of the server's processes since it was started, in all their threads.
    pub(crate) fn server_time(&self) -> Result<Duration> {
        let lock = fs::read_to_string(self.server.data_dir().join("postmaster.pid"))?;
        process::family_time(lock.lines().next().unwrap_or_default().parse()?)
    }

    /// Before version 17 it knows `--dbname` not.
    pub(crate) fn pgbench(&self, database: &str) -> Command {
        let mut command = self.program_of_server("pgbench");
        command.env("PGDATABASE", database);
        command
    }

    fn program_of_server(&self, program: &str) -> Command {
        let mut command = Command::new(self.server.installation().program(program));
        command.arg("--host").arg(self.server.socket_dir()).args(["--port", &self.server.port().to_string()]);
        command.args(["--username", SUPERUSER]);
        command
    }

    /// Our program, told of a database and its archive.
    pub(crate) fn afterimage(&self, database: &str, archive: &Path) -> Command {
        self.afterimage_over(Link::Socket, database, archive)
    }

    /// The same, over a connection of this kind.
    pub(crate) fn afterimage_over(&self, link: Link, database: &str, archive: &Path) -> Command {
        let mut command = Command::new(&self.program);
        let source = match link {
            Link::Socket => self.server.url(database),
            Link::Tcp => self.tcp_url(database),
        };
        command.env("AFTERIMAGE_SOURCE", source);
        command.env("AFTERIMAGE_ARCHIVE", format!("file://{}", archive.display()));
        command.env("AFTERIMAGE_LOG", "error").current_dir(&self.directory);
        command
    }

    /// What our program prints.
    pub(crate) fn ask(&self, archive: &Path, sql: &str) -> Result<String> {
        let output = self.afterimage("postgres", archive).args(["query", "--format", "csv", sql]).output()?;
        if !output.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?.lines().last().unwrap_or_default().to_owned())
    }

    /// Prepares a database for capture and gives its archive, with everything up to now.
    pub(crate) fn init(&self, database: &str) -> Result<PathBuf> {
        let archive = self.path(database);
        process::measure(self.afterimage(database, &archive).args(["init"]))?;
        Ok(archive)
    }

    /// Lets the archive catch up.
    pub(crate) fn catch_up(&self, database: &str, archive: &Path) -> Result<()> {
        process::measure(self.afterimage(database, archive).args(["run", "--until", "now"]))?;
        Ok(())
    }

    /// Waits until a running archiver has everything up to now.
    pub(crate) fn wait_until_archived(&self, database: &str) -> Result<()> {
        let wait = wait_for_slot(database, "pg_current_wal_insert_lsn()");
        self.sql(database, &format!("DO $do$ BEGIN {wait} END $do$")).map(drop)
    }

    /// Removes a database with its slots and its archive.
    pub(crate) fn forget(&self, database: &str, archive: &Path) -> Result<()> {
        self.remove(archive)?;
        self.drop_slots(&format!("database = '{database}'"))?;
        self.sql("postgres", &format!("DROP DATABASE {database}")).map(drop)
    }

    /// Drops the slots that meet a condition.
    pub(crate) fn drop_slots(&self, condition: &str) -> Result<()> {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE";
        self.sql("postgres", &format!("{sql} {condition}")).map(drop)
    }

    /// Where the source's log ends.
    pub(crate) fn position(&self, database: &str) -> Result<String> {
        self.sql(database, "SELECT pg_current_wal_insert_lsn()")
    }

    /// A place for files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Replaces a directory by a copy of another.
    pub(crate) fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        self.remove(to)?;
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
        if copied.success() { Ok(()) } else { Err(format!("cannot copy {}", from.display()).into()) }
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        if path.exists() { Ok(fs::remove_dir_all(path)?) } else { Ok(()) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What stays lies in the build directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The name that `init` gives a database's slot.
pub(crate) fn slot_of(database: &str) -> String {
    format!("afterimage_{database}")
}

/// A piece of PL/pgSQL that waits until the archiver has acknowledged a position. The server looks by itself: nothing is
/// asked over a connection again and again.
pub(crate) fn wait_for_slot(database: &str, position: &str) -> String {
    format!(
        "DECLARE reached pg_lsn := {position}; BEGIN
             WHILE NOT (SELECT active AND confirmed_flush_lsn >= reached FROM pg_replication_slots
                        WHERE slot_name = '{}') LOOP
                 PERFORM pg_sleep(0.001);
             END LOOP;
         END;",
        slot_of(database)
    )
}

/// What the yardstick and we cost, round by round.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    pub(crate) yardstick: Vec<Cost>,
    pub(crate) ours: Vec<Cost>,
}

/// Makes a slot at another one's position, in place of the one that has the name.
pub(crate) fn copy_slot(lab: &Lab, from: &str, to: &str) -> Result<()> {
    lab.drop_slots(&format!("slot_name = '{to}'"))?;
    let database =
        lab.sql("postgres", &format!("SELECT database FROM pg_replication_slots WHERE slot_name = '{from}'"))?;
    lab.sql(&database, &format!("SELECT pg_copy_logical_replication_slot('{from}', '{to}')")).map(drop)
}

/// `pg_recvlogical` that throws away what it gets, and asks for it as ours does.
pub(crate) fn receiver(lab: &Lab, link: Link, database: &str, slot: &str) -> Command {
    let mut command = lab.client_over(link, "pg_recvlogical", database);
    command.args(["--slot", slot, "--start", "--file", "/dev/null", "--no-loop"]);
    let options = [
        "publication_names=afterimage",
        "messages=true",
        "proto_version=3",
        "streaming=on",
        "two_phase=on",
        "binary=true",
    ];
    for option in options {
        command.args(["--option", option]);
    }
    command
}

/// Measures both by turns. What earlier runs left to be written to disk is not on a run's bill.
pub(crate) fn compare(
    yardstick: impl FnMut() -> Result<Cost>,
    ours: impl FnMut() -> Result<Cost>,
) -> Result<Comparison> {
    compare_in(ROUNDS, yardstick, ours)
}

/// The same, so often.
pub(crate) fn compare_in(
    rounds: usize,
    mut yardstick: impl FnMut() -> Result<Cost>,
    mut ours: impl FnMut() -> Result<Cost>,
) -> Result<Comparison> {
    let mut comparison = Comparison { yardstick: Vec::new(), ours: Vec::new() };
    for _ in 0..rounds {
        comparison.yardstick.push(yardstick()?);
        comparison.ours.push(ours()?);
    }
    Ok(comparison)
}

/// Has the operating system write what it holds back.
pub(crate) fn settle() -> Result<()> {
    Command::new("sync").status()?;
    Ok(())
}
