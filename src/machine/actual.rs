//! The machine as it is.

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) use tokio::task::spawn_blocking;
pub(crate) use tokio::time::{Interval, interval, sleep, sleep_until, timeout};

/// The time of day.
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}

/// The time that passes.
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// A number that nothing else has.
pub(crate) fn unique() -> Uuid {
    Uuid::new_v4()
}

/// A factor around one, so that those who wait for the same do not all come at once.
pub(crate) fn jitter() -> f64 {
    rand::random_range(0.75..1.25)
}
