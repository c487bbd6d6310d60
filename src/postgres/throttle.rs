//! A limit on how fast tables are read, over all connections together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What was not used so long ago is lost: a pause must not be followed by a flood.
const BURST: Duration = Duration::from_millis(100);

/// Lets so many bytes pass in a second and no more; its clones share the limit.
///
/// Whoever reads waits here after each piece. The server then waits for its client, which costs it nothing.
#[derive(Debug, Clone)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When everything that has passed so far will have been due.
    due: Arc<Mutex<Instant>>,
}

impl Throttle {
    pub fn new(bytes_per_second: u64) -> Throttle {
        Throttle { bytes_per_second: bytes_per_second.max(1), due: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Waits until so many further bytes are due.
    pub async fn pass(&self, bytes: u64) {
        sleep_until(self.due_after(bytes, Instant::now())).await;
    }

    fn due_after(&self, bytes: u64, now: Instant) -> Instant {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *due = (*due).max(earliest) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_share_a_limit_wait_for_each_other() {
        let throttle = Throttle::new(1000);
        let start = *throttle.due.lock().unwrap();
        let other = throttle.clone();
        assert_eq!(throttle.due_after(500, start) - start, Duration::from_millis(500));
        assert_eq!(other.due_after(500, start) - start, Duration::from_secs(1));
        // A minute of silence earns no more than the burst.
        let later = start + Duration::from_secs(60);
        assert_eq!(throttle.due_after(1000, later) - later, Duration::from_secs(1) - BURST);
    }
}
