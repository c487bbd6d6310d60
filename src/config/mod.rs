//! `afterimage.toml`: found, read, checked. A flag beats the environment, which beats the file.

mod doctor;
mod gate;
mod guard;
mod quantity;
mod serve;
mod trust;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use doctor::{DoctorConfig, DoctorSettings};
pub use gate::GateConfig;
pub use guard::{CheckConfig, GuardConfig, HealthConfig, Pack, RuleConfig, SinkConfig};
pub use quantity::{ByteRate, ByteSize, Span};
pub use serve::{ServeConfig, ServeUser};
pub use trust::{ChainConfig, DrillConfig, VerifyConfig};

use crate::capture::{CaptureSettings, ContextWish, OnLostSlot};
use crate::failure::{Failure, Result};
use crate::maintenance::Policy;
use crate::model::TablePattern;

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "afterimage.toml";

/// How many connections may copy base images.
const COPY_WORKERS: std::ops::RangeInclusive<usize> = 1..=64;

/// The configuration file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Connection URL of the source database.
    pub source: Option<String>,
    /// Connection URL of a standby of the source that decodes the log in its place: PostgreSQL 16 on.
    pub decode_from: Option<String>,
    /// Root of the archive: `file:///directory` or `s3://bucket/prefix`.
    pub archive: Option<String>,
    pub capture: CaptureConfig,
    pub restore: RestoreConfig,
    pub maintenance: MaintenanceConfig,
    pub guard: GuardConfig,
    pub check: CheckConfig,
    pub gate: GateConfig,
    pub doctor: DoctorConfig,
    pub verify: VerifyConfig,
    pub chain: ChainConfig,
    pub drill: DrillConfig,
    /// Rules and checks that come together: mass-change, truncate, ddl, erp, crm, hrms, or a file.
    pub packs: Vec<String>,
    /// What the guard looks for.
    pub rule: Vec<RuleConfig>,
    /// Where alerts are told.
    pub sink: Vec<SinkConfig>,
    /// Questions to the source about its health.
    pub health: Vec<HealthConfig>,
    pub serve: ServeConfig,
}

/// How the source is read into the archive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureConfig {
    /// Tables to archive, as patterns; all ordinary ones where it is empty.
    pub tables: Vec<String>,
    /// Name of the replication slot; by default `afterimage_` and the database's name.
    pub slot: Option<String>,
    /// Name of the publication; by default `afterimage`.
    pub publication: Option<String>,
    /// Set tables without a usable replica identity to FULL instead of leaving them out.
    pub set_identity_full: bool,
    /// Install no event triggers in the source; changes of definitions are then looked for in its catalogue.
    pub no_ddl_capture: bool,
    /// Tables, as patterns, on which `init` puts triggers that tell who wrote and with which statement; none by default.
    pub context: Vec<String>,
    /// What of a statement's text is masked before it leaves the source: regular expressions of PostgreSQL, and `literals`
    /// for all literals and comments.
    pub context_redact: Vec<String>,
    /// The longest time that a committed transaction waits to be published: "1s" by default.
    pub flush_interval: Option<Span>,
    /// Memory that changes may take before they are written: "256MB" by default.
    pub memory: Option<ByteSize>,
    /// Where unfinished transactions go that do not fit into it: the system's temporary directory by default.
    pub spill_directory: Option<PathBuf>,
    /// Connections that copy base images: 4 by default.
    pub copy_workers: Option<usize>,
    /// How fast base images are read at most, over all connections: "50MB/s"; as fast as possible by default.
    pub throttle: Option<ByteRate>,
    /// What `run` does where the slot is gone or has lost log: "resume" records the gap, reads every table anew and goes on;
    /// "stop" ends. "resume" by default.
    pub on_lost_slot: OnLostSlot,
    /// When the slot holds back more of the source's log than this, `run` drops it rather than let the source's disk fill: a
    /// gap is recorded; never by default.
    pub max_slot_lag: Option<ByteSize>,
}

/// How rows are restored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreConfig {
    /// How long a restore waits for a lock: "5s" by default.
    pub lock_timeout: Option<Span>,
    /// Columns that name the tenant whose a row is: "tenant_id", "organization_id" and "org_id" by default.
    pub tenant_columns: Option<Vec<String>>,
}

impl RestoreConfig {
    /// The columns that name a tenant, the default filled in.
    pub fn tenant_columns(&self) -> Vec<String> {
        let default = || ["tenant_id", "organization_id", "org_id"].map(str::to_owned).to_vec();
        self.tenant_columns.clone().unwrap_or_else(default)
    }
}

/// How the archive is kept fast to read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceConfig {
    /// Leave it to `afterimage maintain`: `run` does none.
    pub off: bool,
    /// How long `run` rests between two turns: "1m" by default.
    pub interval: Option<Span>,
    /// How long a file stays after it was replaced, for readers of older versions of its table: "24h" by default.
    pub retention: Option<Span>,
    /// A table gets another base image when its changes since the newest one are as large as that, and at least this
    /// large: "16MB" by default.
    pub image_floor: Option<ByteSize>,
    /// A table that has changed gets another base image when the newest one is this old, however few its changes: "7d";
    /// never by default.
    pub image_age: Option<Span>,
}

impl MaintenanceConfig {
    /// The policy of maintenance, defaults filled in.
    pub fn policy(&self) -> Policy {
        let default = Policy::default();
        Policy {
            interval: self.interval.map_or(default.interval, |span| span.0),
            retention: self.retention.map_or(default.retention, |span| span.0),
            image_floor_bytes: self.image_floor.map_or(default.image_floor_bytes, |size| size.0),
            image_age: self.image_age.map(|span| span.0),
            ..default
        }
    }
}

impl Config {
    /// The file that is read: the named one, or the default one where it exists.
    pub fn file(named: Option<&Path>) -> Option<PathBuf> {
        let default = || Path::new(DEFAULT_FILE).exists().then(|| PathBuf::from(DEFAULT_FILE));
        named.map(Path::to_owned).or_else(default)
    }

    /// Reads a named file, or the default one where it exists.
    ///
    /// # Errors
    /// Usage, with the position, where the file is not a configuration.
    pub fn load(named: Option<&Path>) -> Result<Config> {
        let Some(path) = Config::file(named) else { return Ok(Config::default()) };
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::usage(format!("configuration {shown}: {error}"))
                .remedy("name a file that can be read with --config")
        })?;
        Config::parse(&text).map_err(|failure| failure.context(format_args!("configuration {shown}")))
    }

    /// Reads a configuration.
    pub fn parse(text: &str) -> Result<Config> {
        parse_toml(text)
    }

    /// The schema of the file, as `schemas/afterimage.schema.json` has it.
    pub fn json_schema() -> String {
        let mut text = serde_json::to_string_pretty(&schemars::schema_for!(Config)).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Reads TOML. An error names its place.
fn parse_toml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map(|span| {
            let before = &text[..span.start.min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
            format!("line {line}, column {column}: ")
        });
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        Failure::usage(format!("{}{message}", place.unwrap_or_default()))
            .remedy("schemas/afterimage.schema.json describes every key")
    })
}

impl CaptureConfig {
    /// The settings of capture, defaults filled in.
    ///
    /// # Errors
    /// Usage where a table pattern cannot be read or a number is out of its range.
    pub fn settings(&self) -> Result<CaptureSettings> {
        let default = CaptureSettings::default();
        let copy_workers = self.copy_workers.unwrap_or(default.copy_workers);
        if !COPY_WORKERS.contains(&copy_workers) {
            let (least, most) = (COPY_WORKERS.start(), COPY_WORKERS.end());
            return Err(Failure::usage(format!("{copy_workers} connections cannot copy the base image"))
                .remedy(format!("copy_workers is a number from {least} to {most}")));
        }
        Ok(CaptureSettings {
            slot: self.slot.clone(),
            publication: self.publication.clone().unwrap_or(default.publication),
            tables: self.tables.iter().map(|pattern| TablePattern::parse(pattern)).collect::<Result<_>>()?,
            set_identity_full: self.set_identity_full,
            capture_ddl: !self.no_ddl_capture,
            context: match self.context.as_slice() {
                [] => ContextWish::AsItIs,
                patterns => {
                    ContextWish::Of(patterns.iter().map(|pattern| TablePattern::parse(pattern)).collect::<Result<_>>()?)
                }
            },
            context_redact: self.context_redact.clone(),
            flush_interval: self.flush_interval.map_or(default.flush_interval, |span| span.0),
            memory: self.memory.map_or(default.memory, |size| size.0 as usize),
            spill_directory: self.spill_directory.clone().unwrap_or(default.spill_directory),
            copy_workers,
            throttle: self.throttle.map(|rate| rate.0),
            on_lost_slot: self.on_lost_slot,
            max_slot_lag: self.max_slot_lag.map(|size| size.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let failure = Config::parse("archive = \"file:///a\"\n[capture]\nflush_intervall = \"1s\"\n").unwrap_err();
        assert!(failure.cause().starts_with("line 3, column 1: "), "{failure}");
        assert!(failure.cause().contains("flush_intervall"), "{failure}");
    }

    #[test]
    fn quantities_are_read() {
        let config = Config::parse("[capture]\nflush_interval = \"250ms\"\nmemory = \"8MB\"\n").unwrap();
        let settings = config.capture.settings().unwrap();
        assert_eq!(settings.flush_interval, std::time::Duration::from_millis(250));
        assert_eq!(settings.memory, 8 << 20);
    }

    #[test]
    fn the_published_schema_is_the_codes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/afterimage.schema.json");
        if std::env::var_os("AFTERIMAGE_BLESS").is_some() {
            std::fs::write(path, Config::json_schema()).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap();
        assert_eq!(published, Config::json_schema(), "write it anew by running this test with AFTERIMAGE_BLESS=1");
    }
}
