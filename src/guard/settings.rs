//! What a guard is told to do.

use std::time::Duration;

use super::health::HealthCheck;
use super::rule::Rule;
use super::sinks::SinkSettings;

/// The least that is taken for a purpose, so that a piece of a transaction fits.
const LEAST_MEMORY: usize = 1 << 20;

/// Bytes that a guard may take, by purpose.
#[derive(Debug, Clone, Copy)]
pub struct GuardMemory {
    /// For pieces of transactions in progress that wait to be looked at.
    pub waiting: usize,
    /// For rows of transactions in progress that wait to be judged.
    pub in_flight: usize,
    /// For rows that are judged at a time.
    pub judged: usize,
}

impl GuardMemory {
    /// Its part of all that changes may take in memory.
    pub fn of(memory: usize) -> GuardMemory {
        let part = |of: usize| (memory / of).max(LEAST_MEMORY);
        GuardMemory { waiting: part(32), in_flight: part(32), judged: part(16) }
    }
}

/// All that is configured of a guard; its defaults watch nothing.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rules: Vec<Rule>,
    pub sinks: Vec<SinkSettings>,
    pub health: Vec<HealthCheck>,
    /// Columns that name the tenant whose a row is.
    pub tenant_columns: Vec<String>,
    /// Alerts of CRITICAL and above that nobody acknowledged for so long are told again.
    pub escalate_after: Option<Duration>,
    /// Alerts of one rule that are told within an hour, at most. The others are in the archive only.
    pub alerts_per_hour: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            rules: Vec::new(),
            sinks: Vec::new(),
            health: Vec::new(),
            tenant_columns: Vec::new(),
            escalate_after: None,
            alerts_per_hour: 60,
        }
    }
}

impl Settings {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.rules.is_empty() && self.health.is_empty()
    }
}
