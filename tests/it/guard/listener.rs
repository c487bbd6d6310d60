//! Somebody who listens for HTTP, or for mail, and keeps what is said.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{CERTIFICATE, KEY, UNTRUSTED_CERTIFICATE, UNTRUSTED_KEY};

/// Whether a listener who speaks TLS has the certificate that the guard trusts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Secret {
    Trusted,
    Untrusted,
}

/// See the module's documentation.
pub(super) struct Listener {
    pub(super) port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// Answers the first so many requests with an error.
    pub(super) fn http(refused: usize) -> Listener {
        Listener::start(move |stream, count| request(stream, count < refused))
    }

    pub(super) fn http_over(secret: Secret) -> Listener {
        let config = config(secret);
        Listener::start(move |stream, _| request(encrypted(&config, stream), false))
    }

    /// As much of a mail server as a client needs.
    pub(super) fn smtp() -> Listener {
        Listener::start(|stream, _| mail(stream))
    }

    pub(super) fn smtp_over(secret: Secret) -> Listener {
        let config = config(secret);
        Listener::start(move |stream, _| mail(encrypted(&config, stream)))
    }

    fn start(serve: impl Fn(TcpStream, usize) -> String + Send + 'static) -> Listener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&heard);
        std::thread::spawn(move || {
            for (count, stream) in listener.incoming().enumerate() {
                let said = serve(stream.unwrap(), count);
                kept.lock().unwrap().push(said);
            }
        });
        Listener { port, heard }
    }

    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn config(secret: Secret) -> Arc<ServerConfig> {
    let (certificate, key) = match secret {
        Secret::Trusted => (CERTIFICATE, KEY),
        Secret::Untrusted => (UNTRUSTED_CERTIFICATE, UNTRUSTED_KEY),
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn encrypted(config: &Arc<ServerConfig>, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

/// Takes one request and answers it.
fn request(mut stream: impl Read + Write, refused: bool) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let length = text
            .to_lowercase()
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.lines().next().and_then(|line| line.trim().parse::<usize>().ok()));
        let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        if read == 0 || length.is_some_and(|length| body >= length) {
            let status = if refused { "503 Service Unavailable" } else { "200 OK" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            return text;
        }
    }
}

/// Takes one message.
fn mail(stream: impl Read + Write) -> String {
    let mut said = String::new();
    let mut in_data = false;
    let mut reader = BufReader::new(stream);
    let _ = write!(reader.get_mut(), "220 test\r\n");
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap_or(0) > 0 {
        said.push_str(&line);
        let word = line.trim_end().to_owned();
        line.clear();
        let answer = match (in_data, word.get(..4).unwrap_or(word.as_str())) {
            (true, _) if word == "." => {
                in_data = false;
                "250 taken"
            }
            (true, _) => continue,
            (false, "EHLO") => "250-test\r\n250 AUTH PLAIN",
            (false, "AUTH") => "235 welcome",
            (false, "DATA") => {
                in_data = true;
                "354 go on"
            }
            (false, "QUIT") => {
                let _ = write!(reader.get_mut(), "221 bye\r\n");
                return said;
            }
            _ => "250 fine",
        };
        let _ = write!(reader.get_mut(), "{answer}\r\n");
        if answer == "250 taken" {
            return said;
        }
    }
    said
}
