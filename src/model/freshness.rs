//! How far an archive is behind its source, in time.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// How long transactions took from their commit in the source to being durable in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// How many were measured.
    pub transactions: u64,
    /// Half of them took no longer.
    #[serde(rename = "p50_ms", serialize_with = "milliseconds")]
    pub p50: Duration,
    /// Of a hundred of them, one took longer.
    #[serde(rename = "p99_ms", serialize_with = "milliseconds")]
    pub p99: Duration,
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_micros() as f64 / 1000.0)
}
