//! What a guard raises, and what it finds of the source's health.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lsn, Xid};

/// How bad it is, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    Info,
    #[default]
    Warning,
    Critical,
    Emergency,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "INFO",
            Severity::Warning => "WARNING",
            Severity::Critical => "CRITICAL",
            Severity::Emergency => "EMERGENCY",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What happened to an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertEvent {
    Raised,
    /// The backend was told to cancel its statement, or to end.
    Stopped,
    /// It was to be stopped, and could not be.
    NotStopped,
    /// Its transaction has committed.
    Committed,
    /// Its transaction was rolled back.
    RolledBack,
    Acknowledged,
    /// Nobody acknowledged it in time.
    Escalated,
}

impl AlertEvent {
    pub fn as_str(self) -> &'static str {
        match self {
            AlertEvent::Raised => "raised",
            AlertEvent::Stopped => "stopped",
            AlertEvent::NotStopped => "not_stopped",
            AlertEvent::Committed => "committed",
            AlertEvent::RolledBack => "rolled_back",
            AlertEvent::Acknowledged => "acknowledged",
            AlertEvent::Escalated => "escalated",
        }
    }
}

/// One event of an alert's life: a row of `log/alerts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRecord {
    /// Of all events of one alert.
    pub id: String,
    /// By the guard's clock.
    pub time: DateTime<Utc>,
    pub event: AlertEvent,
    pub rule: String,
    pub severity: Severity,
    /// Commit LSN of the transaction; `None` while it has not committed.
    pub lsn: Option<Lsn>,
    pub xid: Option<Xid>,
    pub table: String,
    /// Changes that the rule counted.
    pub rows: u64,
    /// Rows by tenant, as far as they were looked at: a JSON object.
    pub tenants: String,
    /// Some of the rows: a JSON array.
    pub samples: String,
    /// What the transaction said of itself, and what its backend is; `None` where nothing is known.
    pub context: Option<String>,
    pub message: String,
    /// The command that takes it back.
    pub command: Option<String>,
    /// Who acknowledged it.
    pub user: Option<String>,
}

/// The outcome of one health check: a row of `log/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthRecord {
    pub time: DateTime<Utc>,
    pub check: String,
    pub status: HealthStatus,
    /// Of the check where it is not healthy.
    pub severity: Severity,
    /// The number that was found; `None` where the check could not run.
    pub value: Option<i64>,
    /// The greatest number that is healthy.
    pub limit: i64,
    pub details: String,
    pub resolution: Option<String>,
}

/// What a health check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HealthStatus {
    Healthy,
    Unhealthy,
    /// It could not run, which is no better.
    Failed,
}

impl HealthStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Healthy => "HEALTHY",
            HealthStatus::Unhealthy => "UNHEALTHY",
            HealthStatus::Failed => "FAILED",
        }
    }
}

impl HealthRecord {
    /// The outcome of a proof of the archive, which is healthy without objections.
    pub fn of_proof(check: &str, objections: usize, details: String, resolution: String) -> HealthRecord {
        HealthRecord {
            time: Utc::now(),
            check: check.to_owned(),
            status: if objections == 0 { HealthStatus::Healthy } else { HealthStatus::Unhealthy },
            severity: Severity::Critical,
            value: Some(objections as i64),
            limit: 0,
            details,
            resolution: Some(resolution),
        }
    }
}
