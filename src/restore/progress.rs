//! How far a restore is, for whoever watches.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Rows of the archive go into temporary tables.
    Reading,
    /// They are compared with the live rows.
    Comparing,
    /// The constraints of today are asked about them.
    Judging,
    Writing,
    /// The outcome is compared with the archive.
    Verifying,
}

impl Step {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Reading => "reading the archive",
            Step::Comparing => "comparing",
            Step::Judging => "asking the constraints",
            Step::Writing => "writing",
            Step::Verifying => "verifying",
        }
    }

    /// The share of a restore's time, in percent, that lies before it, and that it takes itself: of deleted rows with a
    /// foreign key and two indexes. A foretelling, no promise.
    fn shares(self) -> (f64, f64) {
        match self {
            Step::Reading => (0.0, 25.0),
            Step::Comparing => (25.0, 10.0),
            Step::Judging => (35.0, 5.0),
            Step::Writing => (40.0, 50.0),
            Step::Verifying => (90.0, 10.0),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    step: Option<Step>,
    /// Of the step.
    done: u64,
    all: u64,
    /// Rows that earlier batches have restored, and rows in all.
    restored: u64,
    planned: u64,
    /// Rows of the present batch.
    batch: u64,
}

/// How far it is at some moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    pub step: Step,
    /// Rows of the step, where they are counted.
    pub rows: Option<(u64, u64)>,
    /// Rows of several batches: restored, and in all.
    pub batches: Option<(u64, u64)>,
    /// From 0 to 1.
    pub share: f64,
    /// What the rest takes at the pace so far.
    pub left: Option<Duration>,
}

impl Progress {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Begins a step over so many rows, or one whose rows are not counted.
    pub(super) fn enter(&self, step: Step, rows: u64) {
        self.change(|state| {
            state.began.get_or_insert_with(Instant::now);
            (state.step, state.done, state.all) = (Some(step), 0, rows);
        });
    }

    /// More rows of the step are done.
    pub(super) fn advance(&self, rows: u64) {
        self.change(|state| state.done += rows);
    }

    /// A batch of so many rows begins, of so many in all that are not restored yet.
    pub(super) fn batch(&self, rows: u64, waiting: u64) {
        self.change(|state| {
            state.batch = rows;
            state.planned = state.planned.max(state.restored + waiting);
        });
    }

    /// The batch has ended.
    pub(super) fn batch_done(&self) {
        self.change(|state| state.restored += std::mem::take(&mut state.batch));
    }

    /// How far it is; `None` before it begins.
    pub fn look(&self) -> Option<Look> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.look(state.began?.elapsed())
    }
}

impl State {
    fn look(&self, elapsed: Duration) -> Option<Look> {
        let step = self.step?;
        let (before, own) = step.shares();
        let within = if self.all == 0 { 0.0 } else { (self.done as f64 / self.all as f64).min(1.0) };
        let share = (before + own * within) / 100.0;
        let several = self.restored > 0 || self.batch < self.planned;
        let share = match several {
            true => (self.restored as f64 + share * self.batch as f64) / self.planned.max(1) as f64,
            false => share,
        };
        let left = (share > 0.0).then(|| elapsed.mul_f64((1.0 - share).max(0.0) / share));
        Some(Look {
            step,
            rows: (self.all > 0).then_some((self.done, self.all)),
            batches: several.then_some((self.restored, self.planned)),
            share,
            left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_step_and_the_batches() {
        let ten = Duration::from_secs(10);
        assert_eq!(State::default().look(ten), None);
        let mut state = State { step: Some(Step::Reading), done: 40, all: 100, ..State::default() };
        let look = state.look(ten).unwrap();
        assert_eq!((look.share, look.left, look.rows, look.batches), (0.1, Some(ten * 9), Some((40, 100)), None));
        (state.step, state.all) = (Some(Step::Writing), 0);
        assert_eq!(state.look(ten).unwrap().left, Some(ten.mul_f64(1.5)));
        // The second batch of four has just begun to be read: a quarter is done.
        state = State { step: Some(Step::Reading), restored: 25, planned: 100, batch: 25, ..State::default() };
        let look = state.look(ten).unwrap();
        assert_eq!((look.share, look.left, look.batches), (0.25, Some(ten * 3), Some((25, 100))));
    }

    #[test]
    fn what_no_one_waits_for_takes_no_time() {
        let progress = Progress::default();
        assert_eq!(progress.look(), None);
        progress.enter(Step::Reading, 10);
        progress.advance(4);
        assert_eq!(progress.look().unwrap().rows, Some((4, 10)));
        progress.batch(5, 20);
        progress.batch_done();
        assert_eq!(progress.look().unwrap().batches, Some((5, 20)));
    }
}
