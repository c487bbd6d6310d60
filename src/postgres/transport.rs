//! One way to open a socket to the source, for SQL and replication alike.
//!
//! Hosts are tried in the order given, each address of a host in turn, and each in the encryptions that
//! `sslmode` allows. What ends the search early is an answer that the next address would repeat, such
//! as a wrong password.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::failure::{Category, Failure, Result};
use crate::machine;

use super::diagnosis::{ServerReport, diagnose_io, diagnose_lookup};
use super::source::{Host, Place, Secret, SessionKind, Source};
use super::tls::{Mode, end_point_binding};

/// A dead network is noticed after a minute of silence and six unanswered probes, not after hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;
/// Probes are not sent while sent data is unanswered, so that needs a limit of its own.
#[cfg(target_os = "linux")]
const UNANSWERED_LIMIT: Duration = Duration::from_secs(120);

/// An open connection to the server, before or after authentication.
#[derive(Debug)]
pub(super) enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(test)]
    Simulated(Box<dyn Pipe>),
}

/// What a simulation has in place of a socket.
#[cfg(test)]
pub(crate) trait Pipe: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

/// Who connects to a simulated server.
#[cfg(test)]
pub(crate) trait Dial: Send + Sync {
    fn dial(&self) -> futures::future::BoxFuture<'_, io::Result<Box<dyn Pipe>>>;
}

/// A handle of it, which is a place like others.
#[cfg(test)]
#[derive(Clone)]
pub(crate) struct Dialer(pub(crate) Arc<dyn Dial>);

#[cfg(test)]
impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

#[cfg(test)]
impl PartialEq for Dialer {
    fn eq(&self, other: &Dialer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
impl Eq for Dialer {}

impl Transport {
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// What SCRAM can bind itself to.
    pub(super) fn end_point_binding(&self) -> Option<Vec<u8>> {
        let Transport::Tls(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        session.peer_certificates()?.first().and_then(|certificate| end_point_binding(certificate))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(test)]
            Transport::Simulated(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(test)]
            Transport::Simulated(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Unix(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(test)]
            Transport::Simulated(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(test)]
            Transport::Simulated(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// One address of one host.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Unix(PathBuf),
    /// With the name that the certificate should carry.
    Tcp(SocketAddr, String),
    #[cfg(test)]
    Simulated(Dialer),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(f),
            #[cfg(test)]
            Address::Simulated(_) => f.write_str("simulated"),
            Address::Tcp(address, name) if address.ip().to_string() == *name => address.fmt(f),
            Address::Tcp(address, name) => write!(f, "{name} ({address})"),
        }
    }
}

/// How one attempt encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Plain,
    /// Plain if the server has no TLS.
    IfOffered,
    Tls,
}

fn encryptions(mode: Mode, address: &Address) -> &'static [Encryption] {
    match (address, mode) {
        // As for libpq, a Unix socket is safe as it is.
        (Address::Unix(_), _) | (_, Mode::Disable) => &[Encryption::Plain],
        (_, Mode::Allow) => &[Encryption::Plain, Encryption::Tls],
        (_, Mode::Prefer) => &[Encryption::IfOffered, Encryption::Plain],
        _ => &[Encryption::Tls],
    }
}

/// Where to go on after an attempt that led to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    OtherEncryption,
    OtherAddress,
    Nowhere,
}

/// An attempt that led to nothing.
#[derive(Debug)]
pub(super) struct Setback {
    failure: Failure,
    next: Next,
}

impl Setback {
    pub(super) fn into_failure(self) -> Failure {
        self.failure
    }
}

impl From<Failure> for Setback {
    fn from(failure: Failure) -> Setback {
        let next = if failure.is_transient() { Next::OtherAddress } else { Next::Nowhere };
        Setback { failure, next }
    }
}

impl From<ServerReport> for Setback {
    fn from(report: ServerReport) -> Setback {
        // pg_hba.conf may have a line for the other kind of connection only.
        let other_encryption = report.code == "28000";
        let setback = Setback::from(Failure::from(report));
        if other_encryption { Setback { next: Next::OtherEncryption, ..setback } } else { setback }
    }
}

impl From<tokio_postgres::Error> for Setback {
    fn from(error: tokio_postgres::Error) -> Setback {
        match error.as_db_error() {
            Some(reported) => ServerReport::from(reported).into(),
            None => Failure::from(error).into(),
        }
    }
}

/// What is done with an open socket until it is a connection: start-up message and authentication.
pub(super) trait Greeting: Sync {
    type Outcome: Send;

    fn greet(
        &self,
        transport: Transport,
        address: &Address,
        password: Option<Secret>,
    ) -> impl Future<Output = Result<Self::Outcome, Setback>> + Send;
}

/// Connects to the first address of the source that answers.
///
/// # Errors
/// [`Category::Transient`] if any address may answer later, else the last answer's category; the cause names every address tried.
pub(super) async fn reach<G: Greeting>(source: &Source, greeting: &G) -> Result<G::Outcome> {
    let mut search = Search { source, greeting, tls: None, failures: Vec::new() };
    for host in &source.hosts {
        if let Some(outcome) = search.host(host).await? {
            return Ok(outcome);
        }
    }
    Err(joined(search.failures))
}

struct Search<'a, G> {
    source: &'a Source,
    greeting: &'a G,
    /// Made once, at the first attempt that needs it.
    tls: Option<Arc<ClientConfig>>,
    failures: Vec<Failure>,
}

impl<G: Greeting> Search<'_, G> {
    /// `None`: go on with the next host; an error: the search is over.
    async fn host(&mut self, host: &Host) -> Result<Option<G::Outcome>> {
        let addresses = match within(self.source.connect_timeout, addresses(host)).await {
            Ok(addresses) => addresses,
            Err(failure) => {
                self.failures.push(failure);
                return Ok(None);
            }
        };
        for address in addresses {
            if let Some(outcome) = self.address(host, &address).await? {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    async fn address(&mut self, host: &Host, address: &Address) -> Result<Option<G::Outcome>> {
        let encryptions = encryptions(self.source.tls.mode, address);
        for (at, encryption) in encryptions.iter().enumerate() {
            let setback = match self.attempt(host, address, *encryption).await {
                Ok(outcome) => return Ok(Some(outcome)),
                Err(setback) => setback,
            };
            let another_way = at + 1 < encryptions.len() && setback.next == Next::OtherEncryption;
            self.failures.push(setback.failure.context(format_args!("cannot connect to {address}")));
            if another_way {
                continue;
            }
            if setback.next == Next::OtherAddress {
                return Ok(None);
            }
            return Err(joined(std::mem::take(&mut self.failures)));
        }
        Ok(None)
    }

    async fn attempt(&mut self, host: &Host, address: &Address, encryption: Encryption) -> Result<G::Outcome, Setback> {
        let tls = match encryption {
            Encryption::Plain => None,
            Encryption::IfOffered | Encryption::Tls => Some(self.tls_config()?),
        };
        let password = self.source.password(host);
        let direct = self.source.tls.direct;
        within(self.source.connect_timeout, async {
            let transport = open(address, encryption, tls, direct).await?;
            self.greeting.greet(transport, address, password).await
        })
        .await
    }

    fn tls_config(&mut self) -> Result<Arc<ClientConfig>> {
        if let Some(config) = &self.tls {
            return Ok(config.clone());
        }
        let config = self.source.tls.client_config()?;
        Ok(self.tls.insert(config).clone())
    }
}

async fn within<T, E: From<Failure>>(
    limit: Option<Duration>,
    attempt: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(limit) = limit else { return attempt.await };
    machine::timeout(limit, attempt).await.unwrap_or_else(|_| {
        let failure = Failure::transient(format!("no answer within {} s", limit.as_secs()));
        Err(failure.remedy("check host, port, network and firewall, or raise connect_timeout").into())
    })
}

fn joined(failures: Vec<Failure>) -> Failure {
    let transient = failures.iter().any(Failure::is_transient);
    let category =
        if transient { Category::Transient } else { failures.last().map_or(Category::Failed, Failure::category) };
    let remedy = failures.iter().rev().find_map(Failure::remedy_text).map(str::to_owned);
    let mut causes: Vec<&str> = failures.iter().map(Failure::cause).collect();
    causes.dedup();
    let failure = Failure::new(category, causes.join("; "));
    match remedy {
        Some(remedy) => failure.remedy(remedy),
        None => failure,
    }
}

async fn addresses(host: &Host) -> Result<Vec<Address>> {
    let port = host.port;
    match &host.place {
        Place::Directory(path) => Ok(vec![Address::Unix(path.join(format!(".s.PGSQL.{port}")))]),
        Place::Network { lookup, name } => {
            let found = tokio::net::lookup_host((lookup.as_str(), port))
                .await
                .map_err(|error| diagnose_lookup(lookup, &error))?;
            Ok(found.map(|address| Address::Tcp(address, name.clone())).collect())
        }
        #[cfg(test)]
        Place::Simulated(dialer) => Ok(vec![Address::Simulated(dialer.clone())]),
    }
}

/// Opens a socket and encrypts it.
pub(super) async fn open(
    address: &Address,
    encryption: Encryption,
    tls: Option<Arc<ClientConfig>>,
    direct: bool,
) -> Result<Transport, Setback> {
    let unreachable = |error: io::Error| Setback { failure: diagnose_io(&error), next: Next::OtherAddress };
    let (stream, name) = match address {
        Address::Unix(path) => return UnixStream::connect(path).await.map(Transport::Unix).map_err(unreachable),
        Address::Tcp(address, name) => (connect_tcp(*address).await.map_err(unreachable)?, name),
        #[cfg(test)]
        Address::Simulated(dialer) => {
            return dialer.0.dial().await.map(Transport::Simulated).map_err(unreachable);
        }
    };
    match tls {
        Some(tls) => encrypt(stream, name, encryption, tls, direct).await,
        None => Ok(Transport::Tcp(stream)),
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNANSWERED_LIMIT))?;
    Ok(stream)
}

async fn encrypt(
    mut stream: TcpStream,
    name: &str,
    encryption: Encryption,
    tls: Arc<ClientConfig>,
    direct: bool,
) -> Result<Transport, Setback> {
    let offered = direct || ask_for_tls(&mut stream).await.map_err(|error| Setback::from(diagnose_io(&error)))?;
    if !offered && encryption == Encryption::IfOffered {
        return Ok(Transport::Tcp(stream));
    }
    let without_tls = |failure| Setback { failure, next: Next::OtherEncryption };
    if !offered {
        let failure = Failure::failed("the server does not offer TLS, which sslmode demands");
        return Err(without_tls(
            failure.remedy("set ssl = on at the server, or sslmode=prefer where the network is trusted"),
        ));
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|_| {
        without_tls(
            Failure::failed(format!("TLS: {name:?} is no name that a certificate can carry"))
                .remedy("connect by the server's DNS name"),
        )
    })?;
    let stream =
        TlsConnector::from(tls).connect(name, stream).await.map_err(|error| without_tls(diagnose_io(&error)))?;
    Ok(Transport::Tls(Box::new(stream)))
}

/// Sends an `SSLRequest`. Reads exactly the one byte of the answer: whatever an attacker puts behind it
/// in plain text must reach the TLS layer, which refuses it.
async fn ask_for_tls(stream: &mut TcpStream) -> io::Result<bool> {
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to a request for TLS is not PostgreSQL's")),
    }
}

/// Whether a session is of the kind that the source asks for, by what every server since version 14
/// reports at start-up.
///
/// # Errors
/// A failure after which the next address is tried.
pub(super) fn check_session_kind<'a>(
    kind: SessionKind,
    parameter: impl Fn(&str) -> Option<&'a str>,
) -> Result<(), Setback> {
    let is_on = |name| parameter(name) == Some("on");
    let standby = is_on("in_hot_standby");
    let read_only = standby || is_on("default_transaction_read_only");
    let (fits, wanted) = match kind {
        SessionKind::Any => (true, ""),
        SessionKind::ReadWrite => (!read_only, "read-write"),
        SessionKind::ReadOnly => (read_only, "read-only"),
        SessionKind::Primary => (!standby, "a primary"),
        SessionKind::Standby => (standby, "a standby"),
    };
    if fits {
        return Ok(());
    }
    let failure = Failure::transient(format!("the server is not {wanted}, as target_session_attrs demands"));
    Err(Setback {
        failure: failure.remedy("name the other servers too, or drop target_session_attrs"),
        next: Next::OtherAddress,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_has_its_encryptions() {
        let tcp = Address::Tcp(([127, 0, 0, 1], 5432).into(), "localhost".into());
        assert_eq!(encryptions(Mode::Prefer, &tcp), [Encryption::IfOffered, Encryption::Plain]);
        assert_eq!(encryptions(Mode::Allow, &tcp), [Encryption::Plain, Encryption::Tls]);
        for mode in [Mode::Require, Mode::VerifyCa, Mode::VerifyFull] {
            assert_eq!(encryptions(mode, &tcp), [Encryption::Tls], "{mode:?}");
        }
        for mode in Mode::ALL {
            assert_eq!(encryptions(mode, &Address::Unix("/s".into())), [Encryption::Plain], "{mode:?}");
        }
    }

    #[test]
    fn kinds_of_session_are_told_apart() {
        let check = |kind, standby: &'static str, read_only: &'static str| {
            check_session_kind(kind, |name| Some(if name == "in_hot_standby" { standby } else { read_only })).is_ok()
        };
        assert!(check(SessionKind::Any, "on", "on"));
        assert!(check(SessionKind::ReadWrite, "off", "off") && !check(SessionKind::ReadWrite, "off", "on"));
        assert!(check(SessionKind::Primary, "off", "on") && !check(SessionKind::Primary, "on", "off"));
        assert!(check(SessionKind::Standby, "on", "off") && !check(SessionKind::Standby, "off", "off"));
        assert!(check(SessionKind::ReadOnly, "on", "off") && !check(SessionKind::ReadOnly, "off", "off"));
    }

    #[test]
    fn several_failures_become_one_that_names_them_all() {
        let failure = joined(vec![
            Failure::transient("a: refused").remedy("start it"),
            Failure::transient("a: refused").remedy("start it"),
            Failure::failed("b: no such name"),
        ]);
        assert_eq!(failure.cause(), "a: refused; b: no such name");
        assert_eq!(failure.category(), Category::Transient);
        assert_eq!(failure.remedy_text(), Some("start it"));
    }
}
