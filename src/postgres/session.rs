//! An SQL session: tokio-postgres over our transport.

use std::future::{Ready, ready};
use std::io;
use std::ops::{Deref, DerefMut};

use futures::StreamExt;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding as OfferedBinding, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Connection};

use crate::failure::{Context, Failure, Result};

use super::settings::{late_settings, major_version};
use super::source::{ChannelBinding, Secret, Source};
use super::transport::{Address, Encryption, Greeting, Setback, Transport, check_session_kind, open, reach};

/// A connection for SQL with every one of [`PINNED_SETTINGS`](super::PINNED_SETTINGS) in force; otherwise a
/// [`tokio_postgres::Client`]. Dropping it ends the session.
///
/// The search path is empty, so SQL sent here writes `schema.table`. Errors of the client become a
/// [`Failure`] by `?`, or with `.context(…)`.
pub struct Session {
    client: Client,
    address: Address,
    source: Source,
    encrypted: bool,
    server_major: u32,
}

impl Source {
    /// Opens an SQL session, which `pg_stat_activity` shows under `application_name` unless the source
    /// names another.
    ///
    /// Must be called in a tokio runtime: the socket is served by a task of its own.
    ///
    /// # Errors
    /// As [`diagnose`](super::diagnose) says. [`Category::Transient`](crate::failure::Category::Transient) where no server answers.
    pub async fn connect(&self, application_name: &str) -> Result<Session> {
        let session = reach(self, &SqlGreeting { source: self, application_name }).await?;
        if let Some(statement) = late_settings(session.server_major) {
            session.client.batch_execute(statement).await.context("cannot set up the session")?;
        }
        Ok(session)
    }
}

impl Session {
    /// The server's major version, such as 16.
    pub fn server_major(&self) -> u32 {
        self.server_major
    }

    /// Whether the connection is under TLS.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// A handle that interrupts what this session does, from elsewhere.
    pub fn canceller(&self) -> Canceller {
        Canceller {
            token: self.client.cancel_token(),
            address: self.address.clone(),
            source: self.source.clone(),
            encrypted: self.encrypted,
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Interrupts the statement that a [`Session`] runs.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    address: Address,
    source: Source,
    encrypted: bool,
}

impl Canceller {
    /// Asks the server to cancel. The statement, if one still runs, fails with SQLSTATE 57014 soon after;
    /// that the request arrived does not mean that it did.
    ///
    /// # Errors
    /// Where the server cannot be reached.
    pub async fn cancel(&self) -> Result<()> {
        let tls = if self.encrypted { Some(self.source.tls.client_config()?) } else { None };
        let encryption = if self.encrypted { Encryption::Tls } else { Encryption::Plain };
        let transport =
            open(&self.address, encryption, tls, self.source.tls.direct).await.map_err(Setback::into_failure)?;
        self.token.cancel_query_raw(transport, AlreadyOpen).await.context("cannot cancel")
    }
}

struct SqlGreeting<'a> {
    source: &'a Source,
    application_name: &'a str,
}

impl SqlGreeting<'_> {
    fn config(&self, transport: &Transport, password: Option<Secret>) -> Config {
        let mut config = Config::new();
        config
            .user(self.source.user())
            .dbname(self.source.database())
            .application_name(self.source.application_name.as_deref().unwrap_or(self.application_name))
            .options(self.source.startup_options())
            .channel_binding(match self.source.channel_binding {
                ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
                ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
                ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
            });
        // The transport is encrypted already, or never will be: in neither case may the client ask for it.
        if transport.is_encrypted() {
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        } else {
            config.ssl_mode(SslMode::Disable);
        }
        if let Some(password) = password {
            config.password(password.expose());
        }
        config
    }
}

impl Greeting for SqlGreeting<'_> {
    type Outcome = Session;

    async fn greet(
        &self,
        transport: Transport,
        address: &Address,
        password: Option<Secret>,
    ) -> Result<Session, Setback> {
        let encrypted = transport.is_encrypted();
        let config = self.config(&transport, password);
        let (client, connection) = config.connect_raw(transport, AlreadyOpen).await?;
        check_session_kind(self.source.session_kind, |name| connection.parameter(name))?;
        let version = connection.parameter("server_version").unwrap_or_default();
        let server_major = major_version(version).ok_or_else(|| unknown_version(version))?;
        tokio::spawn(serve(connection));
        Ok(Session { client, address: address.clone(), source: self.source.clone(), encrypted, server_major })
    }
}

pub(super) fn unknown_version(version: &str) -> Failure {
    Failure::failed(format!("the server reports version {version:?}")).remedy("connect to PostgreSQL 14 to 18")
}

/// Moves bytes between client and server until either is gone.
async fn serve(mut connection: Connection<Transport, Transport>) {
    let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                tracing::debug!(severity = notice.severity(), sqlstate = notice.code().code(), "{}", notice.message());
            }
            Ok(_) => {}
            // The client's calls fail with "closed" only, so the reason is said here.
            Err(error) => {
                tracing::warn!("an SQL session ended: {}", Failure::from(error));
                return;
            }
        }
    }
}

/// Hands tokio-postgres a transport on which TLS has been settled.
struct AlreadyOpen;

impl TlsConnect<Transport> for AlreadyOpen {
    type Stream = Transport;
    type Error = io::Error;
    type Future = Ready<io::Result<Transport>>;

    fn connect(self, transport: Transport) -> Self::Future {
        ready(Ok(transport))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> OfferedBinding {
        self.end_point_binding().map_or_else(OfferedBinding::none, OfferedBinding::tls_server_end_point)
    }
}
