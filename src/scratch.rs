//! A private, throw-away PostgreSQL: what `demo` shows itself on, what `drill` restores into and what the tests run
//! against.
//!
//! A [`Scratch`] server never outlives its owner. Dropping it stops it and removes its directory; and should our
//! process end in any other way, `kill -9` included, a shell that holds the other end of a pipe notices, stops the
//! server and removes the directory:
//!
//! ```text
//!   our process ──pipe──► sh (watches) ──► postgres          all of it in one fresh directory:
//!                          └─ at end of file: stop, remove     data/   log   .s.PGSQL.<port>
//! ```
//!
//! PostgreSQL refuses to run as root, so for root everything runs as `postgres`, or else `nobody`.
//!
//! All calls block, up to [`PATIENCE`] each; asynchronous callers use `tokio::task::spawn_blocking`.

mod installation;
mod watch;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

pub use self::installation::Installation;
use self::watch::{Account, Watched};
use crate::failure::{Context, Failure, Result};

/// How long a start, with its crash recovery, or a stop may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The superuser of every scratch server.
pub const SUPERUSER: &str = "postgres";

const POLL: Duration = Duration::from_millis(20);

/// How PostgreSQL ends (`pg_ctl stop --mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave.
    Smart,
    /// Disconnects clients, writes a checkpoint.
    Fast,
    /// No checkpoint: the next start recovers, as after a crash.
    Immediate,
}

impl StopMode {
    fn name(self) -> &'static str {
        match self {
            StopMode::Smart => "smart",
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        }
    }
}

/// What to start. Unless set otherwise the server decodes logically, is durable (`fsync` stays on), and listens on its
/// own socket and on a free port of 127.0.0.1.
#[derive(Debug, Clone)]
pub struct Launch {
    installation: Installation,
    parent: PathBuf,
    tcp: bool,
    settings: Vec<(String, String)>,
}

impl Launch {
    pub fn new(installation: Installation) -> Self {
        let defaults = [("wal_level", "logical"), ("max_wal_senders", "20"), ("max_replication_slots", "20")];
        let settings = defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Launch { installation, parent: std::env::temp_dir(), tcp: true, settings }
    }

    /// Sets a server parameter; the last value given for a name counts.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Listens on the socket only.
    pub fn without_tcp(mut self) -> Self {
        self.tcp = false;
        self
    }

    /// Makes the server's directory inside `parent` instead of the system's temporary directory. The path has to be
    /// short, since a socket's may have only 107 bytes, and open to the user that the server runs as.
    pub fn within(mut self, parent: impl Into<PathBuf>) -> Self {
        self.parent = parent.into();
        self
    }

    /// Initialises and starts the server; on return it accepts connections.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where the directory cannot be made, `initdb` fails or the server does not
    /// become ready; the cause ends with the reason that it gave. Nothing is left behind.
    pub fn start(self) -> Result<Scratch> {
        let home = Home::create(&self.parent)?;
        let account = Account::for_owner_of(&home.path)?;
        account.give(&home.path)?;
        let mut scratch = Scratch {
            port: free_port()?,
            password: Uuid::new_v4().simple().to_string(),
            launch: self,
            home,
            account,
            server: None,
        };
        scratch.check_socket_path()?;
        scratch.initialise()?;
        scratch.start_on_a_free_port()?;
        Ok(scratch)
    }
}

/// A running, or deliberately stopped, throw-away server.
#[derive(Debug)]
pub struct Scratch {
    launch: Launch,
    home: Home,
    account: Account,
    port: u16,
    password: String,
    server: Option<Watched>,
}

impl Scratch {
    /// A connection URL over the socket, for libpq and tokio-postgres alike. It needs no password: only the server's
    /// user and root can reach the socket.
    pub fn url(&self, database: &str) -> String {
        let (database, host) = (percent_encode(database), percent_encode(&self.socket_dir().to_string_lossy()));
        format!("postgresql://{SUPERUSER}@/{database}?host={host}&port={}", self.port)
    }

    /// A connection URL over TCP, with its SCRAM password; `None` after [`Launch::without_tcp`].
    pub fn tcp_url(&self, database: &str) -> Option<String> {
        let (password, port, database) = (&self.password, self.port, percent_encode(database));
        self.launch.tcp.then(|| format!("postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/{database}"))
    }

    /// The port, also part of the socket's name; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket_dir(&self) -> &Path {
        &self.home.path
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path.join("data")
    }

    pub fn bin_dir(&self) -> &Path {
        self.launch.installation.bin_dir()
    }

    pub fn installation(&self) -> &Installation {
        &self.launch.installation
    }

    /// The last `lines` lines that the server logged; empty where there is no log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Whether the postmaster lives.
    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(Watched::is_running)
    }

    /// Leaves the directory on disk when this value is dropped or our process ends. The server stops all the same.
    pub fn keep(&mut self) -> Result<&Path> {
        let keep = self.home.path.join("keep");
        fs::write(&keep, "").map_err(|error| Failure::failed(format!("cannot write {}: {error}", keep.display())))?;
        self.home.kept = true;
        Ok(&self.home.path)
    }

    /// Starts the server again after [`Scratch::stop`] or [`Scratch::kill`]; nothing happens if it runs.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() { Ok(()) } else { self.start_once_memory_is_free() }
    }

    /// Stops the server in order and starts it again.
    ///
    /// # Errors
    /// As [`Scratch::stop`] and [`Launch::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Stops the server; nothing happens if it does not run.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where it has not stopped within [`PATIENCE`].
    pub fn stop(&mut self, mode: StopMode) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        let (data, patience) = (self.data_dir(), PATIENCE.as_secs().to_string());
        let mut command = self.command("pg_ctl");
        command.arg("stop").arg("-D").arg(data).args(["--mode", mode.name(), "--timeout", &patience, "--silent"]);
        watch::run(command).context("stopping the scratch server")?;
        self.wait_for_end()
    }

    /// Ends the postmaster with SIGKILL, as a crash of the machine's memory would; its backends notice and follow.
    ///
    /// # Errors
    /// [`crate::failure::Category::Failed`] where the signal could not be sent.
    pub fn kill(&mut self) -> Result<()> {
        let Some(pid) = self.server.as_ref().map(Watched::pid).filter(|_| self.is_running()) else { return Ok(()) };
        let mut command = self.command("pg_ctl");
        command.args(["kill", "KILL", &pid.to_string()]);
        watch::run(command).context("killing the scratch server")?;
        self.wait_for_end()
    }

    fn initialise(&self) -> Result<()> {
        let password_file = self.home.path.join("password");
        fs::write(&password_file, &self.password)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", password_file.display())))?;
        self.account.give(&password_file)?;
        let mut command = self.command("initdb");
        command.arg("-D").arg(self.data_dir()).arg("--pwfile").arg(&password_file).args(["-U", SUPERUSER]);
        command.args(["--encoding=UTF8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]);
        watch::run(command).context("initialising the scratch server")
    }

    /// Another process can take the port between our finding it free and the server's binding it.
    fn start_on_a_free_port(&mut self) -> Result<()> {
        for _ in 0..5 {
            match self.start_server() {
                Err(_) if self.log_tail(10).contains("Address already in use") => self.port = free_port()?,
                outcome => return outcome,
            }
        }
        self.start_server()
    }

    /// A killed postmaster's backends keep its shared memory until they notice; a new one refuses to start before.
    fn start_once_memory_is_free(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.start_server() {
                Err(_) if self.log_tail(3).contains("shared memory block") && Instant::now() < deadline => {
                    thread::sleep(POLL);
                }
                outcome => return outcome,
            }
        }
    }

    fn start_server(&mut self) -> Result<()> {
        let server = Watched::spawn(&self.account, &self.home.path, &self.log_file(), &self.server_arguments())?;
        self.server = Some(server);
        self.wait_until_ready().inspect_err(|_| self.server = None)
    }

    fn server_arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let address = if self.launch.tcp { "127.0.0.1" } else { "" };
        let mut arguments = vec![path(&self.launch.installation.program("postgres"))];
        arguments.extend(["-D".to_owned(), path(&self.data_dir())]);
        let own = [
            ("unix_socket_directories".to_owned(), path(self.socket_dir())),
            ("listen_addresses".to_owned(), address.to_owned()),
            ("port".to_owned(), self.port.to_string()),
        ];
        let settings = self.launch.settings.iter().cloned().chain(own);
        arguments.extend(settings.flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]));
        arguments
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.says_ready() {
            if !self.is_running() {
                return Err(self.failure("the scratch server ended while starting"));
            }
            if Instant::now() > deadline {
                return Err(self.failure("the scratch server is not ready in time"));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The lock file carries the state in its eighth line, as `pg_ctl` reads it; a file of an earlier, killed
    /// postmaster is told by its process id.
    fn says_ready(&self) -> bool {
        let Some(server) = &self.server else { return false };
        let lock = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        let mut lines = lock.lines().map(str::trim);
        lines.next() == Some(server.pid().to_string().as_str()) && lines.nth(6) == Some("ready")
    }

    fn wait_for_end(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            if Instant::now() > deadline {
                return Err(self.failure("the scratch server does not end"));
            }
            thread::sleep(POLL);
        }
        self.server = None;
        Ok(())
    }

    fn failure(&self, what: &str) -> Failure {
        let reason = watch::reason(&self.log_tail(20)).unwrap_or_else(|| "it logged nothing".to_owned());
        Failure::failed(format!("{what}: {reason}"))
            .remedy("see that the temporary directory has space and is open to the user that PostgreSQL runs as")
    }

    fn check_socket_path(&self) -> Result<()> {
        let longest = self.socket_dir().join(".s.PGSQL.65535.lock");
        if longest.as_os_str().len() <= 107 {
            return Ok(());
        }
        Err(Failure::failed(format!("{} is too long a path for a socket", self.socket_dir().display()))
            .remedy("set TMPDIR to a short path, for instance /tmp"))
    }

    fn log_file(&self) -> PathBuf {
        self.home.path.join("log")
    }

    fn command(&self, program: &str) -> std::process::Command {
        self.account.command(&self.launch.installation.program(program), &self.home.path)
    }
}

/// Fast enough not to hold up whoever drops it; a directory that is kept gets its checkpoint.
impl Drop for Scratch {
    fn drop(&mut self) {
        let mode = if self.home.kept { StopMode::Fast } else { StopMode::Immediate };
        // A server that does not stop loses its pipe next, and the watching shell ends it.
        let _ = self.stop(mode);
        self.server = None;
    }
}

/// The server's directory, removed when dropped unless kept. Declared apart so that a start that fails half-way
/// cleans up too.
#[derive(Debug)]
struct Home {
    path: PathBuf,
    kept: bool,
}

impl Home {
    fn create(parent: &Path) -> Result<Home> {
        let name = Uuid::new_v4().simple().to_string();
        let path = parent.join(format!("afterimage-{}", &name[..12]));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::failed(format!("cannot make the directory {}: {error}", path.display())))
            .map_err(|failure| failure.remedy("set TMPDIR to a directory that can be written"))?;
        Ok(Home { path, kept: false })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: what cannot be removed is in the system's temporary directory.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn free_port() -> Result<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::failed(format!("no free port on 127.0.0.1: {error}")))
}

fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_in_a_url() {
        assert_eq!(percent_encode("/tmp/a b"), "%2Ftmp%2Fa%20b");
    }

    #[test]
    fn a_home_that_is_dropped_is_gone() {
        let home = Home::create(&std::env::temp_dir()).unwrap();
        let path = home.path.clone();
        assert!(path.is_dir());
        drop(home);
        assert!(!path.exists());
    }
}
