//! From an open socket to a client that is logged in.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use super::error::SqlError;
use super::frame::{Fields, Wire, malformed, put_text};
use super::scram::{Challenged, MECHANISM, Verifier, random};
use super::{Endpoint, SERVER_VERSION, User};

const PROTOCOL_3: i32 = 3;
const CANCEL: i32 = 80_877_102;
const TLS: i32 = 80_877_103;
const GSS: i32 = 80_877_104;

/// What a connection turned out to be.
pub(super) enum Arrival {
    Client {
        wire: Wire,
        user: Arc<User>,
    },
    /// It wants the statement of another connection to end.
    Cancel {
        pid: i32,
        key: i32,
    },
    /// It has gone, or only looked.
    Nobody,
}

/// Answers until the client is logged in.
///
/// # Errors
/// The fatal error that it was told.
pub(super) async fn receive(mut wire: Wire, endpoint: &Endpoint) -> Result<Arrival, SqlError> {
    let mut encrypted = false;
    loop {
        let Some(mut message) = wire.startup().await? else { return Ok(Arrival::Nobody) };
        if message.len() < 4 {
            return Err(malformed());
        }
        match message.get_i32() {
            CANCEL if message.len() >= 8 => {
                return Ok(Arrival::Cancel { pid: message.get_i32(), key: message.get_i32() });
            }
            TLS if !encrypted => match &endpoint.tls {
                Some(acceptor) => {
                    wire.put_byte(b'S');
                    wire.flush().await?;
                    // What came before the handshake was not encrypted, and nobody knows whose it is.
                    let stream = wire.into_stream().ok_or_else(malformed)?;
                    let Ok(stream) = acceptor.accept(stream).await else { return Ok(Arrival::Nobody) };
                    wire = Wire::new(Box::new(stream));
                    encrypted = true;
                }
                None => refuse_encryption(&mut wire).await?,
            },
            GSS => refuse_encryption(&mut wire).await?,
            version if version >> 16 == PROTOCOL_3 => {
                let asked = parameters(message)?;
                if version & 0xffff > 0 || asked.iter().any(|(name, _)| name.starts_with("_pq_.")) {
                    negotiate(&mut wire, &asked);
                }
                return match log_in(&mut wire, endpoint, &asked, encrypted).await {
                    Ok(user) => Ok(Arrival::Client { wire, user }),
                    Err(error) => {
                        tell(&mut wire, &error).await;
                        Err(error)
                    }
                };
            }
            _ => {
                let error = SqlError::fatal("0A000", "unsupported frontend protocol: this server speaks 3.0");
                tell(&mut wire, &error).await;
                return Err(error);
            }
        }
    }
}

/// Tells a client an error, as far as it still listens.
pub(super) async fn tell(wire: &mut Wire, error: &SqlError) {
    wire.put(b'E', |out| error.write(out));
    let _ = wire.flush().await;
}

async fn refuse_encryption(wire: &mut Wire) -> Result<(), SqlError> {
    wire.put_byte(b'N');
    wire.flush().await
}

fn parameters(message: Bytes) -> Result<Vec<(String, String)>, SqlError> {
    let mut fields = Fields(message);
    let mut found = Vec::new();
    loop {
        let name = fields.text()?;
        if name.is_empty() {
            return Ok(found);
        }
        found.push((name, fields.text()?));
    }
}

/// Says that this is version 3.0 and which options it does not know.
fn negotiate(wire: &mut Wire, asked: &[(String, String)]) {
    let unknown: Vec<&String> = asked.iter().map(|(name, _)| name).filter(|name| name.starts_with("_pq_.")).collect();
    wire.put(b'v', |out| {
        out.put_i32(PROTOCOL_3 << 16);
        out.put_i32(i32::try_from(unknown.len()).unwrap_or(i32::MAX));
        unknown.iter().for_each(|name| put_text(out, name));
    });
}

async fn log_in(
    wire: &mut Wire,
    endpoint: &Endpoint,
    asked: &[(String, String)],
    encrypted: bool,
) -> Result<Arc<User>, SqlError> {
    let value = |wanted: &str| asked.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let name =
        value("user").ok_or_else(|| SqlError::fatal("28000", "no PostgreSQL user name specified in startup packet"))?;
    if value("replication").is_some_and(|value| !["false", "off", "0", "no"].contains(&value)) {
        return Err(SqlError::fatal("0A000", "an archive cannot be replicated from"));
    }
    if endpoint.settings.require_tls && !encrypted {
        return Err(SqlError::fatal("28000", "this server takes encrypted connections only"));
    }
    let user = authenticate(wire, endpoint, name).await?;
    wire.put(b'R', |out| out.put_i32(0));
    let application = value("application_name").unwrap_or_default();
    let told = [
        ("server_version", SERVER_VERSION),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("application_name", application),
        ("default_transaction_read_only", "on"),
        ("in_hot_standby", "off"),
        ("is_superuser", "off"),
        ("session_authorization", name),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ];
    for (name, value) in told {
        wire.put(b'S', |out| {
            put_text(out, name);
            put_text(out, value);
        });
    }
    Ok(user)
}

/// SCRAM-SHA-256, whoever it is: an unknown user must not be told from a wrong password.
async fn authenticate(wire: &mut Wire, endpoint: &Endpoint, name: &str) -> Result<Arc<User>, SqlError> {
    let user = endpoint.users.get(name);
    let verifier = match user {
        Some(user) => user.verifier.clone(),
        None => Verifier::of_nobody(name, &endpoint.secret)?,
    };
    wire.put(b'R', |out| {
        out.put_i32(10);
        put_text(out, MECHANISM);
        out.put_u8(0);
    });
    wire.flush().await?;
    let mut first = Fields(password(wire).await?);
    if first.text()? != MECHANISM {
        return Err(SqlError::fatal("08P01", "client selected an invalid SASL authentication mechanism"));
    }
    let first = first.value()?.ok_or_else(malformed)?;
    let challenged = Challenged::begin(verifier, &first)?;
    wire.put(b'R', |out| {
        out.put_i32(11);
        out.put_slice(challenged.message().as_bytes());
    });
    wire.flush().await?;
    match (challenged.finish(&password(wire).await?)?, user) {
        (Some(last), Some(user)) => {
            wire.put(b'R', |out| {
                out.put_i32(12);
                out.put_slice(last.as_bytes());
            });
            Ok(Arc::clone(user))
        }
        _ => Err(SqlError::fatal("28P01", format!("password authentication failed for user \"{name}\""))),
    }
}

async fn password(wire: &mut Wire) -> Result<Bytes, SqlError> {
    match wire.receive().await? {
        Some(message) if message.tag == b'p' => Ok(message.body),
        Some(_) => Err(SqlError::fatal("08P01", "expected a SASL response")),
        None => Err(SqlError::fatal("08006", "the client has gone")),
    }
}

/// A number for a connection, and the key with which its statements can be cancelled.
pub(super) fn numbers() -> Result<(i32, i32), SqlError> {
    let mut bytes = [0; 8];
    random(&mut bytes)?;
    let pid = i32::from_be_bytes([bytes[0] & 0x7f, bytes[1], bytes[2], bytes[3]]);
    Ok((pid, i32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])))
}
