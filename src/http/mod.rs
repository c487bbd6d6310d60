//! As much of HTTP/1.1 (RFC 9112) as probes and scrapers need: GET, one answer per connection.
//!
//! Nothing that comes over it changes anything, and nobody logs in, so it listens where it is told to and nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::failure::{Failure, Result};

/// Connections at a time; others wait.
const CONNECTIONS: usize = 32;
/// Bytes of a request, at most.
const REQUEST: usize = 8 << 10;
/// How long a request may take to come and an answer to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code and reason: `200 OK`.
    pub status: &'static str,
    pub content_type: &'static str,
    pub body: String,
}

impl Answer {
    pub fn text(status: &'static str, body: impl Into<String>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Who answers.
#[async_trait::async_trait]
pub trait Routes: Send + Sync + 'static {
    /// The answer to a GET of a path; `None` where there is nothing.
    async fn get(&self, path: &str) -> Option<Answer>;
}

/// A server that listens.
#[derive(Debug)]
pub struct Server(TcpListener);

impl Server {
    /// Listens; nobody is answered before [`Server::run`].
    ///
    /// # Errors
    /// Failed where the address is taken, or is none.
    pub async fn listen(address: &str) -> Result<Server> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::failed(format!("cannot listen on {address}: {error}")).remedy("choose another address with --http")
        })?;
        Ok(Server(listener))
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }

    /// Answers until it is dropped.
    pub async fn run(self, routes: Arc<dyn Routes>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // It is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.0.accept().await {
                Ok((stream, _)) => {
                    let routes = Arc::clone(&routes);
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(PATIENCE, serve(stream, routes.as_ref())).await;
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

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, routes: &dyn Routes) -> std::io::Result<()> {
    let request = read(&mut stream).await?;
    let answer = answer(&request, routes).await;
    // HEAD has the headers alone.
    let body = if request.starts_with(b"HEAD ") { "" } else { answer.body.as_str() };
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: {}\r\ncontent-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
        answer.status,
        answer.content_type,
        answer.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The request up to the end of its headers, or as much of it as comes.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while request.len() < REQUEST && !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(request)
}

async fn answer(request: &[u8], routes: &dyn Routes) -> Answer {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    match (method, target, version) {
        (Some("GET" | "HEAD"), Some(target), Some(version)) if version.starts_with("HTTP/1.") => {
            let path = target.split(['?', '#']).next().unwrap_or_default();
            routes.get(path).await.unwrap_or_else(|| Answer::text("404 Not Found", "there is nothing here\n"))
        }
        (Some(_), Some(_), Some(version)) if version.starts_with("HTTP/1.") => {
            Answer::text("405 Method Not Allowed", "only GET is answered\n")
        }
        _ => Answer::text("400 Bad Request", "this is no HTTP/1.1 request\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hello;

    #[async_trait::async_trait]
    impl Routes for Hello {
        async fn get(&self, path: &str) -> Option<Answer> {
            (path == "/hello").then(|| Answer::text("200 OK", "hello\n"))
        }
    }

    async fn asked(request: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let served = tokio::spawn(async move { serve(server, &Hello).await });
        client.write_all(request).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        served.await.unwrap().unwrap();
        said
    }

    #[tokio::test]
    async fn what_is_asked_is_answered_and_noise_is_refused() {
        let said = asked(b"GET /hello?a=b HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\nhello\n"), "{said}");
        let said = asked(b"HEAD /hello HTTP/1.0\r\n\r\n").await;
        assert!(said.contains("content-length: 6") && said.ends_with("\r\n\r\n"), "{said}");
        assert!(asked(b"GET /nothing HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(asked(b"POST /hello HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        let long = vec![b'a'; 3 * REQUEST];
        for noise in [&b""[..], b"\r\n\r\n", b"\0\xff\xff", b"GET /hello SMTP\r\n\r\n", &long] {
            assert!(asked(noise).await.starts_with("HTTP/1.1 400 "), "{noise:?}");
        }
    }
}
