//! How the memory of a session is shared.
//!
//! Operators that can spill share three quarters of what the others leave, evenly. DataFusion's fair
//! pool lets them take everything, and the merge of what they spilled, which cannot spill, then fails.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
};

/// A memory pool in which a quarter is always left to operators that cannot spill.
#[derive(Debug)]
pub(super) struct SharedMemory {
    limit: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    spilling_consumers: usize,
    by_spilling: usize,
    by_others: usize,
}

impl SharedMemory {
    /// A pool of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        SharedMemory { limit, used: Mutex::default() }
    }

    /// The counters are whole after every statement, so a panic elsewhere does not spoil them.
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes more the reservation may take.
    fn room(&self, used: &Used, reservation: &MemoryReservation) -> usize {
        if reservation.consumer().can_spill() {
            let for_all = (self.limit / 4 * 3).saturating_sub(used.by_others);
            (for_all / used.spilling_consumers.max(1)).saturating_sub(reservation.size())
        } else {
            self.limit.saturating_sub(used.by_spilling + used.by_others)
        }
    }
}

impl Used {
    fn counter(&mut self, consumer: &MemoryConsumer) -> &mut usize {
        if consumer.can_spill() { &mut self.by_spilling } else { &mut self.by_others }
    }
}

impl MemoryPool for SharedMemory {
    fn name(&self) -> &str {
        "session"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.used().spilling_consumers += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        let mut used = self.used();
        used.spilling_consumers = used.spilling_consumers.saturating_sub(usize::from(consumer.can_spill()));
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *self.used().counter(reservation.consumer()) += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, less: usize) {
        let mut used = self.used();
        let counter = used.counter(reservation.consumer());
        *counter = counter.saturating_sub(less);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut used = self.used();
        let room = self.room(&used, reservation);
        if additional > room {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} wants {} more memory and may have {} of the session's {}",
                reservation.consumer().name(),
                human_readable_size(additional),
                human_readable_size(room),
                human_readable_size(self.limit),
            )));
        }
        *used.counter(reservation.consumer()) += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        let used = self.used();
        used.by_spilling + used.by_others
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

impl fmt::Display for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session memory of {}", human_readable_size(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn spilling_operators_leave_a_quarter() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedMemory::new(400));
        let [one, two] = ["one", "two"].map(|name| MemoryConsumer::new(name).with_can_spill(true).register(&pool));
        let merge = MemoryConsumer::new("merge").register(&pool);
        one.try_grow(150).unwrap();
        assert!(one.try_grow(1).is_err());
        two.try_grow(150).unwrap();
        merge.try_grow(100).unwrap();
        assert!(merge.try_grow(1).is_err());
        drop(one);
        merge.try_grow(150).unwrap();
        assert_eq!(pool.reserved(), 400);
        drop((two, merge));
        assert_eq!(pool.reserved(), 0);
    }
}
