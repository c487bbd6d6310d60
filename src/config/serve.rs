//! How the archive is served to PostgreSQL's clients.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, Span};
use crate::console::{AdmissionSettings, ConsoleUser};
use crate::failure::{Failure, Result};
use crate::model::TablePattern;
use crate::query::Access;
use crate::serve::{ServeSettings, UserSettings};

/// The endpoint that speaks PostgreSQL's protocol.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Where to listen: "127.0.0.1:5433" by default.
    pub listen: Option<String>,
    /// Where the console, metrics and probes listen: "127.0.0.1:8432" by default.
    pub http: Option<String>,
    /// The header in which a proxy names the user of the console, who is one of [[serve.user]].
    pub http_user_header: Option<String>,
    /// Addresses of proxies whose header is believed: this machine's by default.
    pub http_proxies: Vec<IpAddr>,
    /// PEM file with the server's certificate and those that it follows from; without one nothing is encrypted.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the certificate's key.
    pub tls_key: Option<PathBuf>,
    /// Refuse connections that are not encrypted.
    pub require_tls: bool,
    /// The longest that a statement may take: "1m" by default.
    pub statement_timeout: Option<Span>,
    /// Memory of all statements together, beyond which they spill to disk: "512MB" by default.
    pub memory: Option<ByteSize>,
    /// Connections at a time: 50 by default.
    pub connections: Option<usize>,
    /// Who may log in.
    pub user: Vec<ServeUser>,
}

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeUser {
    /// The name to log in with.
    pub name: String,
    /// File that has the password and nothing else; a line break at its end does not count. Without one the user has only
    /// the console.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// File that has the token for the console and nothing else: at least 16 letters and digits.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Tables of the source, as patterns; all where it is left out.
    #[serde(default)]
    pub tables: Option<Vec<String>>,
    /// Condition in SQL on a table's columns; only rows for which it is true are there, in states, changes and images.
    #[serde(default, rename = "where")]
    pub rows: Option<String>,
}

impl ServeConfig {
    /// The memory of all statements together.
    pub fn memory_bytes(&self) -> usize {
        self.memory.map_or(512 << 20, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
    }

    /// The longest that a statement may take.
    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout.map_or(Duration::from_secs(60), |span| span.0)
    }

    /// The files with the certificate chain and its key.
    ///
    /// # Errors
    /// Usage where only one of them is named.
    pub fn tls(&self) -> Result<Option<(PathBuf, PathBuf)>> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate.clone(), key.clone()))),
            (None, None) => Ok(None),
            _ => Err(Failure::usage("of tls_certificate and tls_key only one is there").remedy("name both, or none")),
        }
    }

    /// The settings of the endpoint, defaults filled in and passwords read.
    ///
    /// # Errors
    /// Usage where a pattern or a file cannot be read.
    pub fn settings(&self) -> Result<ServeSettings> {
        Ok(ServeSettings {
            listen: self.listen.clone().unwrap_or_else(|| "127.0.0.1:5433".to_owned()),
            tls: self.tls()?,
            require_tls: self.require_tls,
            statement_timeout: self.statement_timeout(),
            connections: self.connections.unwrap_or(50),
            users: self.user.iter().map(ServeUser::settings).collect::<Result<_>>()?,
        })
    }

    /// Who is let into the console, tokens read.
    ///
    /// # Errors
    /// As [`ServeConfig::settings`].
    pub fn admission(&self) -> Result<AdmissionSettings> {
        Ok(AdmissionSettings {
            users: self.user.iter().map(ServeUser::visitor).collect::<Result<_>>()?,
            user_header: self.http_user_header.as_ref().map(|name| name.to_ascii_lowercase()),
            proxies: self.http_proxies.iter().map(|address| address.to_canonical()).collect(),
        })
    }
}

impl ServeUser {
    fn settings(&self) -> Result<UserSettings> {
        let password = self.secret("password_file", self.password_file.as_deref())?;
        Ok(UserSettings { name: self.name.clone(), password, access: self.access()? })
    }

    fn visitor(&self) -> Result<ConsoleUser> {
        let token = self.secret("token_file", self.token_file.as_deref())?;
        Ok(ConsoleUser { name: self.name.clone(), token, access: self.access()? })
    }

    fn access(&self) -> Result<Access> {
        let tables = match self.tables.as_deref() {
            // An empty list of the access means all.
            Some([]) => {
                return Err(Failure::usage(format!("serve.user {} may read no table", self.name))
                    .remedy("name tables, or leave tables out to give all"));
            }
            Some(patterns) => patterns.iter().map(|pattern| TablePattern::parse(pattern)).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        Ok(Access { tables, rows: self.rows.clone() })
    }

    /// What a file has, without the line break at its end.
    fn secret(&self, key: &str, path: Option<&Path>) -> Result<Option<String>> {
        let Some(path) = path else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("serve.user {}: {}: {error}", self.name, path.display()))
                .remedy(format!("name a readable file with {key}"))
        })?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }
}
