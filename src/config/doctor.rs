//! What the configuration says of `doctor`.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gate::VersionConfig;
use super::{Config, Span};
use crate::failure::{Failure, Result};
use crate::guard::HealthCheck;
use crate::model::{Severity, TableName};

/// What a source must have besides what the archive needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DoctorConfig {
    /// How far behind the archive may be, for `doctor` and `/readyz`: "5m" by default.
    pub max_lag: Option<Span>,
    /// The definitions that the source must have: a dump, or a point of the archive.
    pub schema: Option<String>,
    /// The version that the schema must have.
    pub version: Option<VersionConfig>,
    /// Tables without whose rows the application does not start, and how many each must have: { tenants = 1 }.
    pub bootstrap: BTreeMap<String, u32>,
}

/// The same, read.
#[derive(Debug, Clone)]
pub struct DoctorSettings {
    pub max_lag: Duration,
    pub schema: Option<String>,
    /// A query for the version of the schema, and its answer.
    pub version: Option<(String, String)>,
    pub bootstrap: Vec<HealthCheck>,
    pub health: Vec<HealthCheck>,
}

impl Config {
    /// What `doctor` asks.
    ///
    /// # Errors
    /// Usage where a pack, or a table's name, is wrong.
    pub fn doctor(&self) -> Result<DoctorSettings> {
        Ok(DoctorSettings {
            max_lag: self.doctor.max_lag(),
            schema: self.doctor.schema.clone(),
            version: self.doctor.version.clone().map(|version| (version.sql, version.is)),
            bootstrap: self.doctor.bootstrap.iter().map(rows_are_there).collect::<Result<_>>()?,
            health: self.guard()?.health,
        })
    }
}

impl DoctorConfig {
    /// How far behind the archive may be, the default filled in.
    pub fn max_lag(&self) -> Duration {
        self.max_lag.map_or(Duration::from_secs(300), |lag| lag.0)
    }
}

/// Counts how many of the rows that must be there are missing, without reading more than those.
fn rows_are_there((table, least): (&String, &u32)) -> Result<HealthCheck> {
    let named = TableName::written(table);
    let named = named.ok_or_else(|| Failure::usage(format!("doctor.bootstrap: {table:?} names no table")))?;
    Ok(HealthCheck {
        name: format!("rows missing of the {least} that {named} must have"),
        sql: format!("SELECT {least} - count(*) FROM (SELECT FROM {} LIMIT {least}) found", named.to_sql()),
        limit: 0,
        severity: Severity::Critical,
        interval: Duration::MAX,
        resolution: Some(format!("load what the application cannot start without into {named}")),
    })
}
