//! What users write for a connection: a URL, or `key=value` pairs (PostgreSQL manual, "Connection Strings").
//!
//! No message repeats what could be part of a password: a stray `/` or blank in one moves its tail to
//! where a host or a keyword is expected.

use std::collections::BTreeMap;

use crate::failure::{Failure, Result};

/// Connection parameters by libpq's names.
pub(super) type Parameters = BTreeMap<&'static str, String>;

/// The parameters that mean something here, each with the environment variable that libpq reads for it.
pub(super) const PARAMETERS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
];

/// Parameters of libpq that change neither what is connected to nor how safely.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "replication",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
];

/// Reads a URL (`postgres://` or `postgresql://`) or `key=value` pairs.
///
/// # Errors
/// [`Category::Usage`](crate::failure::Category::Usage) for anything else, and for parameters that are unknown.
pub(super) fn parse(text: &str) -> Result<Parameters> {
    let text = text.trim();
    for scheme in ["postgres://", "postgresql://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return parse_url(rest);
        }
    }
    parse_pairs(text)
}

fn wrong(why: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("the source's address: {why}"))
        .remedy("write it as postgres://user@host:5432/database, or as host=… port=… dbname=… user=…")
}

fn set(parameters: &mut Parameters, key: &str, value: String) -> Result<()> {
    // Drivers for Java write ssl=true for what libpq calls sslmode=require.
    let (key, value) = if key == "ssl" && value == "true" { ("sslmode", "require".into()) } else { (key, value) };
    if let Some((known, _)) = PARAMETERS.iter().find(|(known, _)| *known == key) {
        parameters.insert(known, value);
        return Ok(());
    }
    let harmless = WITHOUT_EFFECT.contains(&key) || (key == "gssencmode" && value != "require");
    if harmless {
        return Ok(());
    }
    let printable = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    Err(if printable {
        wrong(format!("parameter {key} is not supported"))
    } else {
        wrong("a parameter's name is not a word")
    })
}

fn parse_url(rest: &str) -> Result<Parameters> {
    let mut parameters = Parameters::new();
    let (credentials, rest) = split_credentials(rest);
    set_credentials(&mut parameters, credentials)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    if place.contains('@') {
        return Err(wrong(
            "it has an @ after the host begins; write @ in a user, password or database as %40, and / as %2F",
        ));
    }
    set_hosts(&mut parameters, hosts)?;
    if !database.is_empty() {
        parameters.insert("dbname", decode(database)?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| wrong("a parameter after ? has no ="))?;
        set(&mut parameters, &decode(key)?, decode(value)?)?;
    }
    Ok(parameters)
}

/// As libpq does: credentials are there if an `@` comes before the first `/`.
fn split_credentials(rest: &str) -> (&str, &str) {
    match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => (&rest[..at], &rest[at + 1..]),
        _ => ("", rest),
    }
}

fn set_credentials(parameters: &mut Parameters, credentials: &str) -> Result<()> {
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    if !user.is_empty() {
        parameters.insert("user", decode(user)?);
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        parameters.insert("password", decode(password)?);
    }
    Ok(())
}

fn set_hosts(parameters: &mut Parameters, text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for endpoint in text.split(',') {
        let (host, port) = split_endpoint(endpoint)?;
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        parameters.insert("host", hosts.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        parameters.insert("port", ports.join(","));
    }
    Ok(())
}

fn split_endpoint(endpoint: &str) -> Result<(&str, &str)> {
    let Some(bracketed) = endpoint.strip_prefix('[') else {
        return Ok(endpoint.split_once(':').unwrap_or((endpoint, "")));
    };
    let (host, rest) = bracketed.split_once(']').ok_or_else(|| wrong("a [ is left open"))?;
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if rest.is_empty() => Ok((host, "")),
        None => Err(wrong("after ] comes a port or nothing")),
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let decoded = tail.split_at_checked(2).and_then(|(digits, tail)| Some((hex_byte(digits)?, tail)));
        let (byte, tail) =
            decoded.ok_or_else(|| wrong("a % is not followed by two hexadecimal digits; write % itself as %25"))?;
        bytes.push(byte);
        rest = tail;
    }
    // A zero byte ends a text in the protocol, so it would silently shorten a name or a password.
    if bytes.contains(&0) {
        return Err(wrong("%00 cannot be part of it"));
    }
    String::from_utf8(bytes).map_err(|_| wrong("its percent-encoding is not UTF-8"))
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(*digits.first()?)? * 16 + digit(*digits.get(1)?)?;
    u8::try_from(value).ok()
}

/// Writes what [`decode`] reads back, for display.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn parse_pairs(text: &str) -> Result<Parameters> {
    let mut parameters = Parameters::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, tail) = rest.split_once('=').ok_or_else(|| wrong("it is neither a URL nor key=value pairs"))?;
        let (value, tail) = take_value(tail.trim_start())?;
        set(&mut parameters, key.trim(), value)?;
        rest = tail.trim_start();
    }
    Ok(parameters)
}

/// Reads a value, quoted or bare, and returns it with what follows.
fn take_value(text: &str) -> Result<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err(wrong("a quote is left open")) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests;
