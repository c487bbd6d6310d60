//! How the archive is served to PostgreSQL's clients.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, Span};
use crate::failure::{Failure, Result};
use crate::model::TablePattern;
use crate::query::{Access, Limits};
use crate::serve::{ServeSettings, UserSettings};

/// The endpoint that speaks PostgreSQL's protocol.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Where to listen: "127.0.0.1:5433" by default.
    pub listen: Option<String>,
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
    /// File that has the password and nothing else; a line break at its end does not count.
    pub password_file: PathBuf,
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

    /// The settings of the endpoint, defaults filled in and passwords read.
    ///
    /// # Errors
    /// Usage where a pattern or a file cannot be read.
    pub fn settings(&self, limits: Limits) -> Result<ServeSettings> {
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                return Err(
                    Failure::usage("of tls_certificate and tls_key only one is there").remedy("name both, or none")
                );
            }
        };
        Ok(ServeSettings {
            listen: self.listen.clone().unwrap_or_else(|| "127.0.0.1:5433".to_owned()),
            tls,
            require_tls: self.require_tls,
            statement_timeout: self.statement_timeout.map_or(Duration::from_secs(60), |span| span.0),
            connections: self.connections.unwrap_or(50),
            limits,
            users: self.user.iter().map(ServeUser::settings).collect::<Result<_>>()?,
        })
    }
}

impl ServeUser {
    fn settings(&self) -> Result<UserSettings> {
        let path = self.password_file.display();
        let password = std::fs::read_to_string(&self.password_file).map_err(|error| {
            Failure::usage(format!("serve.user {}: {path}: {error}", self.name))
                .remedy("name a readable file with password_file")
        })?;
        let tables = match self.tables.as_deref() {
            // An empty list of the access means all.
            Some([]) => {
                return Err(Failure::usage(format!("serve.user {} may read no table", self.name))
                    .remedy("name tables, or leave tables out to give all"));
            }
            Some(patterns) => patterns.iter().map(|pattern| TablePattern::parse(pattern)).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        let password = password.strip_suffix('\n').unwrap_or(&password);
        let password = password.strip_suffix('\r').unwrap_or(password).to_owned();
        Ok(UserSettings { name: self.name.clone(), password, access: Access { tables, rows: self.rows.clone() } })
    }
}
