//! The console of `serve` and `run --http`, with the probes beside it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value as Json;
use tokio_rustls::TlsAcceptor;

use super::context::Context;
use super::incident;
use super::probes::{Counters, Probes};
use super::progress::say;
use crate::archive::Archive;
use crate::config::ServeConfig;
use crate::console::{Console, ConsoleSettings, Surroundings};
use crate::failure::{Failure, Result};
use crate::http::{Answer, Method, Request, Routes, Server};
use crate::model::{Lsn, Point};
use crate::postgres::Source;
use crate::query::Session;
use crate::serve;

/// Where it listens unless it is told otherwise.
pub(super) const USUAL: &str = "127.0.0.1:8432";

/// The probes, and the console where there is one.
struct Answering {
    probes: Arc<Probes>,
    console: Option<Console>,
}

#[async_trait::async_trait]
impl Routes for Answering {
    async fn answer(&self, request: &Request) -> Option<Answer> {
        if request.method != Method::Post
            && let Some(answer) = self.probes.answer(&request.path).await
        {
            return Some(answer);
        }
        match &self.console {
            Some(console) => console.answer(request).await,
            None if request.method == Method::Post => {
                Some(Answer::text("405 Method Not Allowed", "only GET is answered\n"))
            }
            None => None,
        }
    }
}

/// What the console cannot know by the archive alone.
struct Around {
    context: Context,
    archive: Archive,
    source: Option<Source>,
    probes: Arc<Probes>,
}

#[async_trait::async_trait]
impl Surroundings for Around {
    fn has_source(&self) -> bool {
        self.source.is_some()
    }

    async fn health(&self) -> Result<Json> {
        self.probes.health().await
    }

    async fn plan(&self, transaction: Lsn) -> Result<Json> {
        let source = self.source.as_ref().ok_or_else(|| Failure::usage("no source is named"))?;
        incident::told(&self.context, source, &self.archive, &Point::BeforeCommit(transaction)).await
    }
}

/// What becomes of it where others reach the address and nobody would be asked who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Where nobody would be asked who they are, it does not begin.
    Refused,
    /// There only probes are answered, which tell nothing of rows.
    ProbesOnly,
}

/// A listener with its answers.
pub(super) struct Listening {
    server: Server,
    routes: Arc<dyn Routes>,
}

impl Listening {
    /// Listens on an address with the console over an archive. The session has the limits of what is asked.
    ///
    /// # Errors
    /// Failed where the address is taken; usage where others reach it and nobody would be asked who they are.
    pub(super) async fn start(
        context: &Context,
        config: &ServeConfig,
        (archive, session): (Archive, Session),
        address: &str,
        closed: Closed,
        counters: Option<Arc<Counters>>,
    ) -> Result<Listening> {
        let source = context.source_if_named()?;
        let max_lag = context.config.doctor.max_lag();
        let probes = Arc::new(Probes::new(source.as_ref(), archive.store(), max_lag, counters));
        let tls = acceptor(config)?;
        let encrypted = tls.is_some();
        let server = Server::listen(address).await?.with_tls(tls);
        let bound = server.address().ok_or_else(|| Failure::failed(format!("{address} has no address")))?;
        require_encryption(config, bound, encrypted)?;
        let settings = ConsoleSettings {
            admission: config.admission()?,
            address: bound.ip(),
            encrypted,
            statement_timeout: config.statement_timeout(),
            tenant_columns: context.config.restore.tenant_columns(),
        };
        let around = Around { context: context.clone(), archive: archive.clone(), source, probes: Arc::clone(&probes) };
        let console = match Console::new(archive, session, settings, Arc::new(around)) {
            Ok(console) => Some(console),
            Err(refused) if closed == Closed::ProbesOnly => {
                say(&format!("only probes are answered on {bound}: {refused}"));
                None
            }
            Err(refused) => return Err(refused),
        };
        if console.is_some()
            && let Some(url) = server.url()
        {
            say(&format!("the console is at {url}"));
        }
        Ok(Listening { server, routes: Arc::new(Answering { probes, console }) })
    }

    /// Where it listens, as a browser is told.
    pub(super) fn url(&self) -> Option<String> {
        self.server.url()
    }

    /// Answers until it is dropped.
    pub(super) async fn run(self) {
        self.server.run(self.routes).await;
    }
}

/// What encrypts, where a certificate is configured.
pub(super) fn acceptor(config: &ServeConfig) -> Result<Option<TlsAcceptor>> {
    config.tls()?.map(|(chain, key)| serve::acceptor(&chain, &key)).transpose()
}

/// What travels between machines can be read on the way.
fn require_encryption(config: &ServeConfig, address: SocketAddr, encrypted: bool) -> Result<()> {
    if encrypted || address.ip().is_loopback() {
        return Ok(());
    }
    if config.require_tls {
        return Err(Failure::usage("require_tls is set, and there is no certificate")
            .remedy("name tls_certificate and tls_key"));
    }
    say(&format!(
        "what the console shows on {address} is not encrypted: name tls_certificate and tls_key, or put a proxy in front"
    ));
    Ok(())
}
