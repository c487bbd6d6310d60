//! Alerts by electronic mail: as much of SMTP (RFC 5321) as handing one message to a server takes.
//!
//! `smtps://` speaks TLS from the first byte. `smtp://` is plain and meant for a relay on the same host, so a password is
//! not sent over it.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::Delivery;
use crate::failure::{Failure, Result};

/// A line of the message is no longer than this, as the protocol asks for.
const LINE: usize = 76;

pub(super) async fn deliver(server: &str, from: &str, to: &[String], delivery: &Delivery) -> Result<()> {
    let url = Url::parse(server).map_err(|error| Failure::usage(format!("the mail server's address: {error}")))?;
    let host = url.host_str().ok_or_else(|| Failure::usage("the mail server's address names no host"))?;
    let encrypted = match url.scheme() {
        "smtps" => true,
        "smtp" => false,
        other => return Err(Failure::usage(format!("a mail server is smtp:// or smtps://, not {other}://"))),
    };
    let message = message(from, to, delivery)?;
    let port = url.port().unwrap_or(if encrypted { 465 } else { 25 });
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    if !encrypted {
        return Conversation(BufStream::new(stream)).hand_over(None, from, to, &message).await;
    }
    let login = url.password().map(|password| (decoded(url.username()), decoded(password)));
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Failure::usage(format!("{host}: {error}")))?;
    let stream = TlsConnector::from(trust()?).connect(name, stream).await.map_err(unreachable)?;
    Conversation(BufStream::new(stream)).hand_over(login, from, to, &message).await
}

fn decoded(text: &str) -> String {
    url::form_urlencoded::parse(format!("={}", text.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn unreachable(error: std::io::Error) -> Failure {
    Failure::transient(format!("the mail server: {error}"))
}

/// The certificates that the system trusts.
fn trust() -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    // Given by hand, since a process with several providers has no default one.
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::failed(format!("TLS cannot be set up: {error}")))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// The message with its headers. Addresses and the subject are one line each, so that nobody can add others.
fn message(from: &str, to: &[String], delivery: &Delivery) -> Result<String> {
    let addresses = to.iter().map(String::as_str).chain([from]);
    for address in addresses {
        if !address.contains('@') || address.contains(['<', '>', '\r', '\n', ' ']) {
            return Err(Failure::usage(format!("{address:?} is no address")).remedy("write name@example.org"));
        }
    }
    let alert = &delivery.alert;
    let subject: String = format!("[{}] {}", alert.severity, alert.message);
    let subject: String = subject.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).take(120).collect();
    let details = serde_json::to_string_pretty(&delivery.json()).unwrap_or_default();
    let body = base64(format!("{}\n\n{details}\n", delivery.text()).as_bytes());
    let lines: Vec<&str> = body.as_bytes().chunks(LINE).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Ok(format!(
        "From: <{from}>\r\nTo: {}\r\nSubject: {subject}\r\nDate: {}\r\nMessage-ID: <{}@afterimage>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n",
        to.iter().map(|address| format!("<{address}>")).collect::<Vec<_>>().join(", "),
        alert.time.to_rfc2822(),
        alert.id,
        lines.join("\r\n")
    ))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { digit.into() } else { '=' });
        }
    }
    text
}

/// A client's side of the protocol.
struct Conversation<S>(BufStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    async fn hand_over(
        mut self,
        login: Option<(String, String)>,
        from: &str,
        to: &[String],
        message: &str,
    ) -> Result<()> {
        self.expect(b'2').await?;
        self.say("EHLO afterimage").await?;
        self.expect(b'2').await?;
        if let Some((user, password)) = login {
            self.say(&format!("AUTH PLAIN {}", base64(format!("\0{user}\0{password}").as_bytes()))).await?;
            self.expect(b'2').await?;
        }
        self.say(&format!("MAIL FROM:<{from}>")).await?;
        self.expect(b'2').await?;
        for address in to {
            self.say(&format!("RCPT TO:<{address}>")).await?;
            self.expect(b'2').await?;
        }
        self.say("DATA").await?;
        self.expect(b'3').await?;
        // No line of it begins with a dot: those of the body are base64.
        self.say(&format!("{message}.")).await?;
        self.expect(b'2').await?;
        self.say("QUIT").await
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.map_err(unreachable)?;
        self.0.flush().await.map_err(unreachable)
    }

    /// Reads an answer, which may have several lines, of a class.
    async fn expect(&mut self, class: u8) -> Result<()> {
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).await.map_err(unreachable)?;
            let bytes = line.as_bytes();
            if read == 0 || bytes.first() != Some(&class) {
                return Err(Failure::transient(format!("the mail server says {:?}", line.trim_end())));
            }
            if bytes.get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_its_standard() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (text, wanted) in pairs {
            assert_eq!(base64(text.as_bytes()), wanted);
        }
    }
}
