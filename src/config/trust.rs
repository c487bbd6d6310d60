//! What the configuration says of proving the archive again and again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteRate, Span};

/// How often `run` verifies the archive, in the background.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// How often: "1d"; never by default.
    pub every: Option<Span>,
    /// Compare the archived rows with the live ones too.
    pub deep: bool,
    /// How fast live tables are read at most: "20MB/s"; as fast as possible by default.
    pub throttle: Option<ByteRate>,
}

/// Where the newest hash of the archive's chain is kept, out of reach of whoever can write to the archive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChainConfig {
    /// Roots, such as `file:///directory` or a bucket with Object Lock, `s3://bucket/prefix`; and addresses that are sent it,
    /// `https://…`.
    pub anchors: Vec<String>,
    /// How often `run` sends it there: "10m" by default.
    pub every: Option<Span>,
}

/// How often `run` restores the archive for practice.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrillConfig {
    /// How often: "7d"; never by default.
    pub every: Option<Span>,
    /// Tables to restore, as patterns; all where it is empty.
    pub tables: Vec<String>,
    /// A server on which to make a database for it, which is dropped afterwards; a throw-away PostgreSQL on this machine by
    /// default.
    pub scratch: Option<String>,
}
