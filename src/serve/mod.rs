//! A read-only endpoint that speaks PostgreSQL's protocol, over an archive.
//!
//! ```text
//!   socket ── login ── connection ── statement ─┬─ query::Session over the user's view of the archive
//!              (TLS, SCRAM)                     └─ catalogue: pg_catalog, made of the same view
//! ```
//!
//! Nothing that comes over it can write: statements that would are refused by their first word, by the session that plans
//! them, and because there is nothing to write with. A user sees the tables that it was given and of them the rows that its
//! condition holds for, in whatever way it asks ([`crate::query::RestrictedTables`]). Each statement sees one watermark, and
//! so does each transaction from its first statement on.

mod answer;
mod catalogue;
mod connection;
mod error;
mod frame;
mod login;
mod parameter;
mod prepared;
mod scram;
mod statement;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BufMut as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::query::{Access, ArchivedTables, Limits, Session};
pub use answer::{texts, type_name};
use connection::Connection;
use error::SqlError;
use frame::Wire;
use login::Arrival;
use scram::Verifier;
pub use statement::explains;
pub use tls::acceptor;

/// The release whose catalogue clients expect, and who really answers.
const SERVER_VERSION: &str = concat!("15.0 (Afterimage ", env!("CARGO_PKG_VERSION"), ")");

/// How long somebody may take to log in.
const LOGIN_TIME: Duration = Duration::from_secs(30);

/// How the endpoint is to be.
#[derive(Clone)]
pub struct ServeSettings {
    /// Where to listen.
    pub listen: String,
    /// PEM files with the certificate chain and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Refuse connections that are not encrypted.
    pub require_tls: bool,
    /// The longest that a statement may take, all of its rows sent.
    pub statement_timeout: Duration,
    /// Connections at a time.
    pub connections: usize,
    pub users: Vec<UserSettings>,
}

/// Somebody who may log in.
#[derive(Clone)]
pub struct UserSettings {
    pub name: String,
    /// `None` for those who only come to the console.
    pub password: Option<String>,
    pub access: Access,
}

/// Somebody who may log in, with what the server keeps of the password.
#[derive(Debug)]
struct User {
    name: String,
    verifier: Verifier,
    access: Access,
}

/// The endpoint, shared by its connections.
struct Endpoint {
    archive: Archive,
    session: Session,
    settings: ServeSettings,
    users: HashMap<String, Arc<User>>,
    tls: Option<TlsAcceptor>,
    /// Makes what an unknown user is told the same each time.
    secret: [u8; 32],
    /// Of each connection: its key, and how its statement is cancelled.
    live: Mutex<HashMap<i32, (i32, watch::Sender<u64>)>>,
}

/// An endpoint that listens.
pub struct Server {
    listener: TcpListener,
    endpoint: Arc<Endpoint>,
}

impl Server {
    /// Prepares everything and listens; nobody is answered before [`Server::run`].
    ///
    /// # Errors
    /// Usage where a user or a file cannot be used; failed where the address is taken.
    pub async fn start(archive: Archive, session: Session, settings: ServeSettings) -> Result<Server> {
        let with_password = settings.users.iter().filter_map(|user| Some((user, user.password.as_deref()?)));
        let with_password: Vec<_> = with_password.collect();
        if with_password.is_empty() {
            return Err(Failure::usage("nobody may log in: no [[serve.user]] is configured")
                .remedy("add one to afterimage.toml, with name and password_file"));
        }
        let users =
            with_password.iter().map(|(one, password)| user(one, password)).collect::<Result<HashMap<_, _>>>()?;
        if users.len() < with_password.len() {
            return Err(Failure::usage("two [[serve.user]] have the same name").remedy("give each its own"));
        }
        let tls = settings.tls.as_ref().map(|(chain, key)| acceptor(chain, key)).transpose()?;
        if settings.require_tls && tls.is_none() {
            return Err(Failure::usage("require_tls is set, and there is no certificate")
                .remedy("name tls_certificate and tls_key"));
        }
        let mut secret = [0; 32];
        scram::random(&mut secret).map_err(|_| Failure::failed("the system gives no random numbers"))?;
        let listener = TcpListener::bind(&settings.listen).await.map_err(|error| {
            Failure::failed(format!("cannot listen on {}: {error}", settings.listen))
                .remedy("choose another address with --listen")
        })?;
        let live = Mutex::default();
        let endpoint = Arc::new(Endpoint { archive, session, settings, users, tls, secret, live });
        Ok(Server { listener, endpoint })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `stop` ends; connections that are open then are cut.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(self.endpoint.settings.connections));
        let mut connections = tokio::task::JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let endpoint = Arc::clone(&self.endpoint);
                        let place = Arc::clone(&places).try_acquire_owned().ok();
                        connections.spawn(async move {
                            let occupied = place.is_some();
                            if let Err(error) = serve(stream, endpoint, occupied).await {
                                tracing::debug!("the connection of {from} ended: {error:?}");
                            }
                            drop(place);
                        });
                    }
                    // Out of file descriptors, most likely: it passes, and trying at once would only heat the processor.
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }
}

/// A session over the archive, for all who are served: they share its limits.
///
/// # Errors
/// Failed where the spill directory cannot be used.
pub async fn session(archive: &Archive, limits: Limits) -> Result<Session> {
    let store = archive.store();
    let tables = Arc::new(ArchivedTables::now(archive).await?);
    Session::new(tables, Arc::clone(store.objects()), store.root().clone(), limits)
}

fn user(settings: &UserSettings, password: &str) -> Result<(String, Arc<User>)> {
    let UserSettings { name, access, .. } = settings.clone();
    let wrong = |why: &str| Failure::usage(format!("serve.user {name}: {why}")).remedy("choose another password");
    if password.is_empty() || !password.is_ascii() {
        return Err(wrong("the password is empty or has characters outside of ASCII"));
    }
    let verifier = Verifier::of(password).map_err(|_| wrong("the system gives no random numbers"))?;
    Ok((name.clone(), Arc::new(User { name, verifier, access })))
}

impl Endpoint {
    fn database(&self) -> &str {
        &self.archive.identity().database
    }

    /// The counters are whole after every statement, so a panic elsewhere does not spoil them.
    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<i32, (i32, watch::Sender<u64>)>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection from beginning to end; `admitted` unless there are too many.
async fn serve(stream: TcpStream, endpoint: Arc<Endpoint>, admitted: bool) -> Result<(), SqlError> {
    let _ = stream.set_nodelay(true);
    let wire = Wire::new(Box::new(stream));
    let arrival = tokio::time::timeout(LOGIN_TIME, login::receive(wire, &endpoint));
    let arrival = arrival.await.map_err(|_| SqlError::fatal("57014", "logging in took too long"))??;
    match arrival {
        Arrival::Nobody => Ok(()),
        Arrival::Cancel { pid, key } => {
            if let Some((_, cancel)) = endpoint.live().get(&pid).filter(|(known, _)| *known == key) {
                cancel.send_modify(|times| *times += 1);
            }
            Ok(())
        }
        Arrival::Client { mut wire, .. } if !admitted => {
            login::tell(&mut wire, &SqlError::fatal("53300", "sorry, too many clients already")).await;
            Ok(())
        }
        Arrival::Client { mut wire, user } => {
            wire.trust();
            let (pid, key) = login::numbers()?;
            wire.put(b'K', |out| {
                out.put_i32(pid);
                out.put_i32(key);
            });
            let (cancel, cancelled) = watch::channel(0);
            endpoint.live().insert(pid, (key, cancel));
            let _left = Leaving { endpoint: Arc::clone(&endpoint), pid };
            Connection::new(wire, Arc::clone(&endpoint), user, cancelled).serve().await
        }
    }
}

/// Forgets a connection, however it ends.
struct Leaving {
    endpoint: Arc<Endpoint>,
    pid: i32,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.endpoint.live().remove(&self.pid);
    }
}
