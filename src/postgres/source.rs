//! Whom to connect to: hosts, user, database, password and TLS rules.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Failure, Result};

use super::conninfo::{self, PARAMETERS, Parameters};
use super::passfile::PasswordFile;
use super::settings::startup_options;
use super::tls::{Mode, TlsRules};
#[cfg(test)]
use super::transport::Dialer;

/// Where PostgreSQL's packages put a server's socket: Debian's and Red Hat's place, then the original one.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One PostgreSQL database and how to reach it: what libpq would make of the same address and environment.
///
/// Neither `Display` nor `Debug` shows the password.
#[derive(Clone)]
pub struct Source {
    pub(super) hosts: Vec<Host>,
    user: String,
    database: String,
    password: Option<Secret>,
    password_file: PasswordFile,
    options: Option<String>,
    extra_settings: Vec<(String, String)>,
    pub(super) application_name: Option<String>,
    pub(super) tls: TlsRules,
    pub(super) channel_binding: ChannelBinding,
    pub(super) session_kind: SessionKind,
    /// For one address: look-up, socket, TLS and authentication together. `None` waits for ever.
    pub(super) connect_timeout: Option<Duration>,
    /// Who decodes the log in its place.
    standby: Option<Box<Source>>,
}

/// A place where the source may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) place: Place,
    pub(super) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The directory of a Unix socket.
    Directory(PathBuf),
    /// A host name or numeric address, and the name that its certificate should carry.
    Network { lookup: String, name: String },
    #[cfg(test)]
    Simulated(Dialer),
}

impl Place {
    /// As the password file names it.
    fn in_password_file(&self) -> &str {
        match self {
            Place::Directory(path) if SOCKET_DIRECTORIES.iter().any(|default| Path::new(default) == path) => {
                "localhost"
            }
            Place::Directory(path) => path.to_str().unwrap_or_default(),
            Place::Network { name, .. } => name,
            #[cfg(test)]
            Place::Simulated(_) => "simulated",
        }
    }
}

/// A password. It has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Whether authentication must be bound to the TLS connection, so that nobody in between can relay it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// Which of several hosts will do (libpq's `target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionKind {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
}

/// What is read from the process's surroundings, so that tests can give their own.
struct Surroundings<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    user: &'a dyn Fn() -> Option<String>,
}

impl Source {
    /// Makes out the source from a URL or `key=value` pairs; what they leave open comes from libpq's
    /// environment variables, and then from libpq's defaults: the local socket, the operating
    /// system's user, the database of the user's name, `sslmode=prefer`. The connect timeout is 10 s.
    ///
    /// Reads the password file, and connects to nothing.
    ///
    /// # Errors
    /// [`Category::Usage`](crate::failure::Category::Usage) where the address cannot be read or asks for what is not supported.
    pub fn resolve(url: Option<&str>) -> Result<Source> {
        let variable = |name: &str| std::env::var(name).ok();
        let user = || whoami::username().ok();
        Source::resolve_in(url, &Surroundings { variable: &variable, user: &user })
    }

    fn resolve_in(url: Option<&str>, surroundings: &Surroundings<'_>) -> Result<Source> {
        let given = url.map_or_else(|| Ok(Parameters::new()), conninfo::parse)?;
        Source::from_parameters(&Given { parameters: with_environment(given, surroundings.variable) }, surroundings)
    }

    fn from_parameters(given: &Given, surroundings: &Surroundings<'_>) -> Result<Source> {
        let user = given.get("user").map(str::to_owned).or_else(|| (surroundings.user)()).ok_or_else(|| {
            wrong("the operating system does not name the current user")
                .remedy("name the user: postgres://user@host/database, or PGUSER")
        })?;
        let home = (surroundings.variable)("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let password_file =
            given.get("passfile").map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".pgpass")));
        let source = Source {
            hosts: hosts(given)?,
            database: given.get("dbname").unwrap_or(&user).to_owned(),
            user,
            password: given.get("password").map(|password| Secret(password.to_owned())),
            password_file: password_file.map(|path| PasswordFile::load(&path)).unwrap_or_default(),
            options: given.get("options").map(str::to_owned),
            extra_settings: Vec::new(),
            application_name: given.get("application_name").map(str::to_owned),
            tls: tls_rules(given, home.as_deref())?,
            channel_binding: given.choice("channel_binding", CHANNEL_BINDINGS)?.unwrap_or(ChannelBinding::Prefer),
            session_kind: given.choice("target_session_attrs", SESSION_KINDS)?.unwrap_or(SessionKind::Any),
            connect_timeout: connect_timeout(given)?,
            standby: None,
        };
        source.check_texts()
    }

    /// A database that a simulation plays, on whatever the dialer connects to.
    #[cfg(test)]
    pub(crate) fn simulated(dialer: Dialer, database: &str) -> Source {
        let surroundings = Surroundings { variable: &|_| None, user: &|| None };
        let url = format!("postgres://archiver@simulated/{database}?sslmode=disable");
        let source = Source::resolve_in(Some(&url), &surroundings).unwrap();
        Source { hosts: vec![Host { place: Place::Simulated(dialer), port: DEFAULT_PORT }], ..source }
    }

    /// A zero byte would end a text of the start-up message early.
    fn check_texts(self) -> Result<Source> {
        let texts = [Some(&self.user), Some(&self.database), self.options.as_ref(), self.application_name.as_ref()];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(wrong("it holds a zero byte"));
        }
        Ok(self)
    }

    /// The address without the password, in a form that [`Source::resolve`] reads.
    pub fn redacted(&self) -> String {
        let list = |part: fn(&Host) -> String| self.hosts.iter().map(part).collect::<Vec<_>>().join(",");
        let user = conninfo::encode(&self.user);
        let database = conninfo::encode(&self.database);
        let mode = self.tls.mode.as_str();
        if self.hosts.iter().all(|host| matches!(host.place, Place::Network { .. })) {
            return format!("postgres://{user}@{}/{database}?sslmode={mode}", list(Host::in_authority));
        }
        let (hosts, ports) = (list(Host::in_query), list(|host| host.port.to_string()));
        format!("postgres://{user}@/{database}?host={hosts}&port={ports}")
    }

    /// The same server, user and rules, and another database.
    pub fn with_database(&self, database: impl Into<String>) -> Source {
        Source { database: database.into(), ..self.clone() }
    }

    /// The same source, with a server setting that its connections ask for when they start, such as
    /// `wal_sender_timeout`. [`PINNED_SETTINGS`](super::PINNED_SETTINGS) win over it.
    pub fn with_setting(&self, name: impl Into<String>, value: impl Into<String>) -> Source {
        let mut source = self.clone();
        source.extra_settings.push((name.into(), value.into()));
        source
    }

    /// The same source, whose commits wait for the server's own disk and for no standby: for sessions that a standby could
    /// itself be waiting for.
    pub fn without_waiting(&self) -> Source {
        self.with_setting("synchronous_commit", "local")
    }

    /// The same source, whose log one of its standbys decodes.
    pub fn decoded_by(self, standby: Source) -> Source {
        Source { standby: Some(Box::new(standby)), ..self }
    }

    /// The standby that decodes the source's log, where the source itself does not.
    pub fn standby(&self) -> Option<&Source> {
        self.standby.as_deref()
    }

    /// Who decodes the source's log, and copies base images.
    pub fn decoder(&self) -> &Source {
        self.standby().unwrap_or(self)
    }

    /// The role that connections log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The password for one host: the given one, else the password file's.
    pub(super) fn password(&self, host: &Host) -> Option<Secret> {
        let from_file =
            || self.password_file.password(host.place.in_password_file(), host.port, &self.database, &self.user);
        self.password.clone().or_else(|| from_file().map(|password| Secret(password.to_owned())))
    }

    /// The start-up message's `options`, with the pinned settings.
    pub(super) fn startup_options(&self) -> String {
        startup_options(self.options.as_deref(), &self.extra_settings)
    }
}

impl Host {
    fn in_authority(&self) -> String {
        match &self.place {
            Place::Network { name, .. } if name.contains(':') => format!("[{name}]:{}", self.port),
            Place::Network { name, .. } => format!("{}:{}", conninfo::encode(name), self.port),
            Place::Directory(path) => format!("{}:{}", conninfo::encode(&path.to_string_lossy()), self.port),
            #[cfg(test)]
            Place::Simulated(_) => "simulated".to_owned(),
        }
    }

    fn in_query(&self) -> String {
        match &self.place {
            Place::Network { name, .. } => name.clone(),
            Place::Directory(path) => path.to_string_lossy().into_owned(),
            #[cfg(test)]
            Place::Simulated(_) => "simulated".to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.redacted())
    }
}

/// Parameters after the environment had its say. An empty value is none, as for libpq.
struct Given {
    parameters: Parameters,
}

impl Given {
    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let chosen = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
        chosen.map(Some).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            wrong(format!("{key} has a value that is not supported"))
                .remedy(format!("{key} is one of {}", names.join(", ")))
        })
    }
}

fn with_environment(mut parameters: Parameters, variable: &dyn Fn(&str) -> Option<String>) -> Parameters {
    for (key, name) in PARAMETERS {
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            parameters.entry(key).or_insert(value);
        }
    }
    parameters
}

const CHANNEL_BINDINGS: &[(&str, ChannelBinding)] =
    &[("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];

const SESSION_KINDS: &[(&str, SessionKind)] = &[
    ("any", SessionKind::Any),
    ("read-write", SessionKind::ReadWrite),
    ("read-only", SessionKind::ReadOnly),
    ("primary", SessionKind::Primary),
    ("standby", SessionKind::Standby),
];

fn wrong(why: impl fmt::Display) -> Failure {
    Failure::usage(format!("the source's address: {why}"))
}

fn hosts(given: &Given) -> Result<Vec<Host>> {
    let split = |key| given.get(key).map(|list| list.split(',').map(str::trim).collect::<Vec<_>>()).unwrap_or_default();
    let (names, addresses, ports) = (split("host"), split("hostaddr"), split("port"));
    let count = names.len().max(addresses.len());
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(wrong("host and hostaddr name different numbers of hosts"));
    }
    if count == 0 {
        let port = port(&ports, 0)?;
        return Ok(SOCKET_DIRECTORIES
            .map(|directory| Host { place: Place::Directory(directory.into()), port })
            .to_vec());
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(wrong("there are neither as many ports as hosts, nor one for all"));
    }
    (0..count).map(|at| Ok(Host { place: place(names.get(at), addresses.get(at)), port: port(&ports, at)? })).collect()
}

fn place(name: Option<&&str>, address: Option<&&str>) -> Place {
    let name = name.copied().unwrap_or_default();
    let address = address.copied().filter(|address| !address.is_empty());
    match address {
        Some(address) => {
            let name = if name.is_empty() { address } else { name };
            Place::Network { lookup: address.to_owned(), name: name.to_owned() }
        }
        None if name.is_empty() => Place::Directory(SOCKET_DIRECTORIES[0].into()),
        None if name.starts_with('/') => Place::Directory(name.into()),
        None => Place::Network { lookup: name.to_owned(), name: name.to_owned() },
    }
}

fn port(ports: &[&str], at: usize) -> Result<u16> {
    let text = ports.get(at).or(ports.first()).copied().unwrap_or_default();
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    // The text stays out of the message: it is where the tail of a password with a stray / or : ends up.
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        wrong("a port is not a number from 1 to 65535").remedy(
            "write the port after the host's colon; in a user or password write / as %2F, : as %3A and @ as %40",
        )
    })
}

fn connect_timeout(given: &Given) -> Result<Option<Duration>> {
    let Some(text) = given.get("connect_timeout") else { return Ok(Some(DEFAULT_CONNECT_TIMEOUT)) };
    let seconds: i32 = text.trim().parse().map_err(|_| wrong("connect_timeout is not a whole number of seconds"))?;
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
}

fn tls_rules(given: &Given, home: Option<&Path>) -> Result<TlsRules> {
    let modes = Mode::ALL.map(|mode| (mode.as_str(), mode));
    let system_roots = given.get("sslrootcert") == Some("system");
    let default_mode = if system_roots { Mode::VerifyFull } else { Mode::Prefer };
    let mode = given.choice("sslmode", &modes)?.unwrap_or(default_mode);
    if system_roots && mode != Mode::VerifyFull {
        return Err(wrong(
            "sslrootcert=system needs sslmode=verify-full: anybody can get a certificate from a public authority",
        ));
    }
    let in_home = |name: &str| home.map(|home| home.join(".postgresql").join(name)).filter(|path| path.is_file());
    let file = |key, name| given.get(key).map(PathBuf::from).or_else(|| in_home(name));
    let roots = if system_roots { None } else { file("sslrootcert", "root.crt") };
    let direct = given.choice("sslnegotiation", &[("postgres", false), ("direct", true)])?.unwrap_or(false);
    if direct && mode < Mode::Require {
        return Err(wrong("sslnegotiation=direct needs sslmode=require or stronger"));
    }
    let client = file("sslcert", "postgresql.crt").zip(file("sslkey", "postgresql.key"));
    Ok(TlsRules { mode, roots, client, direct })
}

#[cfg(test)]
mod tests;
