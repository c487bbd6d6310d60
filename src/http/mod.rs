//! As much of HTTP/1.1 (RFC 9112) as probes, scrapers and the console need: one request per connection, read strictly, with
//! limits on its size and on the time that it may take.
//!
//! Every answer forbids a browser whatever the console does not need: scripts, styles and requests of other origins, frames,
//! and guessing at content.

mod request;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::failure::{Failure, Result};
use request::{HEAD, Head, Refused};
pub use request::{Method, Request};

/// Connections at a time; others wait.
const CONNECTIONS: usize = 64;
/// How long a request may take to come, and an answer to go once it is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take to be made, whatever limits its maker has.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);

/// What a browser may do with an answer: run our own scripts and styles, ask our own server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code and reason: `200 OK`.
    pub status: &'static str,
    pub content_type: &'static str,
    /// Further headers. Values must not have line breaks.
    pub headers: Vec<(&'static str, String)>,
    pub body: Cow<'static, [u8]>,
}

impl Answer {
    pub fn new(status: &'static str, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Answer {
        Answer { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub fn text(status: &'static str, body: impl Into<String>) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", body.into().into_bytes())
    }

    pub fn json(status: &'static str, body: impl Into<String>) -> Answer {
        Answer::new(status, "application/json", body.into().into_bytes())
    }
}

/// Who answers.
#[async_trait::async_trait]
pub trait Routes: Send + Sync + 'static {
    /// The answer to a request; `None` where there is nothing. It is dropped when the client goes away.
    async fn answer(&self, request: &Request) -> Option<Answer>;
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens; nobody is answered before [`Server::run`].
    ///
    /// # Errors
    /// Failed where the address is taken, or is none.
    pub async fn listen(address: &str) -> Result<Server> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::failed(format!("cannot listen on {address}: {error}")).remedy("choose another address with --http")
        })?;
        Ok(Server { listener, tls: None })
    }

    /// The same for clients that encrypt.
    pub fn with_tls(self, tls: Option<TlsAcceptor>) -> Server {
        Server { tls, ..self }
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Where it listens, as a browser is told.
    pub fn url(&self) -> Option<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.address().map(|address| format!("{scheme}://{address}"))
    }

    /// Answers until it is dropped; connections that are open then are cut.
    pub async fn run(self, routes: Arc<dyn Routes>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            // It is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let (routes, tls) = (Arc::clone(&routes), self.tls.clone());
                    connections.spawn(async move {
                        let _ = admit(stream, tls, from, routes.as_ref()).await;
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

async fn admit(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    from: SocketAddr,
    routes: &dyn Routes,
) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve(stream, Some(from), routes).await,
        Some(tls) => serve(timely(tls.accept(stream)).await?, Some(from), routes).await,
    }
}

async fn timely<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

/// One request and its answer.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    from: Option<SocketAddr>,
    routes: &dyn Routes,
) -> std::io::Result<()> {
    let (answer, is_head) = match timely(read(&mut stream)).await? {
        None => return Ok(()),
        Some(Err(Refused(status, why))) => (Answer::text(status, format!("{why}\n")), false),
        Some(Ok(mut request)) => {
            request.peer = from.map(|from| from.ip());
            let asked = async { routes.answer(&request).await };
            let made = tokio::select! {
                made = tokio::time::timeout(LONGEST_ANSWER, asked) => made,
                // Whoever went away wants no answer any more, and what makes it may be expensive.
                () = gone(&mut stream) => return Ok(()),
            };
            let answer = match made {
                Ok(Some(answer)) => answer,
                Ok(None) => Answer::text("404 Not Found", "there is nothing here\n"),
                Err(_) => Answer::text("504 Gateway Timeout", "it took too long\n"),
            };
            (answer, request.method == Method::Head)
        }
    };
    timely(write(&mut stream, &answer, is_head)).await
}

/// Ends when the client has closed its side, or sends what nobody asked for.
async fn gone(stream: &mut (impl AsyncRead + Unpin)) {
    let _ = stream.read(&mut [0; 1]).await;
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), answer: &Answer, is_head: bool) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {}\r\ncontent-type: {}\r\ncontent-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\
         content-security-policy: {POLICY}\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
         x-frame-options: DENY\r\ncross-origin-opener-policy: same-origin\r\ncross-origin-resource-policy: same-origin\r\n",
        answer.status,
        answer.content_type,
        answer.body.len()
    );
    for (name, value) in answer.headers.iter().filter(|(_, value)| !value.contains(['\r', '\n'])) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    // HEAD has the headers alone.
    if !is_head {
        stream.write_all(&answer.body).await?;
    }
    stream.shutdown().await
}

/// Reads one request; `None` where nothing comes at all.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Result<Request, Refused>>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() >= HEAD {
            return Ok(Some(Err(Refused("431 Request Header Fields Too Large", "the request is too long"))));
        }
        if !more(stream, &mut bytes).await? {
            let refused = request::head(&bytes).map(|head| head.request);
            return Ok((!bytes.is_empty()).then_some(refused));
        }
    };
    let Head { mut request, body } = match request::head(&bytes[..end]) {
        Ok(head) => head,
        Err(refused) => return Ok(Some(Err(refused))),
    };
    let mut rest = bytes.split_off(end);
    while rest.len() < body {
        if !more(stream, &mut rest).await? {
            return Ok(Some(Err(Refused("400 Bad Request", "the body is shorter than it should be"))));
        }
    }
    if rest.len() > body {
        return Ok(Some(Err(Refused("400 Bad Request", "there is more than one request"))));
    }
    request.body = rest;
    Ok(Some(Ok(request)))
}

/// Reads what is there; whether there can be more.
async fn more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await?;
    bytes.extend_from_slice(&buffer[..read]);
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hello;

    #[async_trait::async_trait]
    impl Routes for Hello {
        async fn answer(&self, request: &Request) -> Option<Answer> {
            match request.path.as_str() {
                "/hello" => Some(Answer::text("200 OK", "hello\n")),
                "/echo" => Some(Answer::text("200 OK", String::from_utf8_lossy(&request.body))),
                "/never" => std::future::pending().await,
                _ => None,
            }
        }
    }

    async fn asked(request: &[u8], then_closed: bool) -> String {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let served = tokio::spawn(async move { serve(server, None, &Hello).await });
        client.write_all(request).await.unwrap();
        if then_closed {
            client.shutdown().await.unwrap();
        }
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        served.await.unwrap().unwrap();
        said
    }

    #[tokio::test]
    async fn what_is_asked_is_answered_and_noise_is_refused() {
        let said = asked(b"GET /hello?a=b HTTP/1.1\r\nhost: x\r\n\r\n", false).await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\nhello\n"), "{said}");
        assert!(said.contains("\r\ncontent-security-policy: default-src 'none'; "), "{said}");
        let said = asked(b"HEAD /hello HTTP/1.0\r\n\r\n", false).await;
        assert!(said.contains("content-length: 6") && said.ends_with("\r\n\r\n"), "{said}");
        let said = asked(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab", false).await;
        assert!(said.ends_with("\r\n\r\nab"), "{said}");
        assert!(asked(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", false).await.starts_with("HTTP/1.1 404 "));
        assert!(asked(b"PUT /hello HTTP/1.1\r\nhost: x\r\n\r\n", false).await.starts_with("HTTP/1.1 405 "));
        for noise in [&b"\r\n\r\n"[..], b"\0\xff\xff\r\n\r\n", b"GET /hello SMTP\r\n\r\n"] {
            assert!(asked(noise, false).await.starts_with("HTTP/1.1 400 "), "{noise:?}");
        }
        for cut in
            [&b"GET"[..], b"GET /hello HTTP/1.1\r\n", b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\na"]
        {
            assert!(asked(cut, true).await.starts_with("HTTP/1.1 400 "), "{cut:?}");
        }
        assert_eq!(asked(b"", true).await, "");
        assert!(asked(&vec![b'a'; HEAD + 4096], false).await.starts_with("HTTP/1.1 431 "));
        let two = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
        assert!(asked(two, false).await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn nobody_works_for_those_who_went_away() {
        assert_eq!(asked(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n", true).await, "");
    }
}
