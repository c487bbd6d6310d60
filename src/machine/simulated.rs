//! The machine of tests: as it is, or, on a thread that has a [`Timeline`], simulated.
//!
//! Simulated time stands still while anything can be done, and jumps to the next timer when nothing can. Work for other
//! threads is done in place: how threads interleave is then no part of a history.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

/// When simulated histories begin, seconds since 1970: one moment for all of them.
const EPOCH: i64 = 1_700_000_000;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Timeline>>> = const { RefCell::new(None) };
    /// What the work that is being done in place has to wait for afterwards; `None` where none is being done.
    static OWED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Simulated time and chance, of one thread.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    elapsed: Duration,
    timers: BTreeMap<(Duration, u64), Waker>,
    numbered: u64,
    chance: StdRng,
}

impl Timeline {
    /// Makes a timeline this thread's, until what is returned is dropped.
    pub(crate) fn begin(seed: u64) -> Entered {
        let state = State {
            elapsed: Duration::ZERO,
            timers: BTreeMap::new(),
            numbered: 0,
            chance: StdRng::seed_from_u64(seed),
        };
        let timeline = Arc::new(Timeline { began: Instant::now(), state: Mutex::new(state) });
        CURRENT.with(|current| *current.borrow_mut() = Some(timeline));
        Entered
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jumps to the next timer; false where there is none.
    pub(crate) fn advance(&self) -> bool {
        let mut due = Vec::new();
        {
            let mut state = self.state();
            let Some((&(next, _), _)) = state.timers.first_key_value() else { return false };
            state.elapsed = state.elapsed.max(next);
            while let Some(timer) = state.timers.first_entry().filter(|timer| timer.key().0 <= next) {
                due.push(timer.remove());
            }
        }
        due.into_iter().for_each(Waker::wake);
        true
    }

    /// How much of it has passed.
    pub(crate) fn elapsed(&self) -> Duration {
        self.state().elapsed
    }

    fn until(&self, deadline: Instant) -> Duration {
        deadline.saturating_duration_since(self.began)
    }
}

/// See [`Timeline::begin`].
#[derive(Debug)]
pub(crate) struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = None);
    }
}

fn current() -> Option<Arc<Timeline>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Whether this thread's machine is simulated.
pub(crate) fn is_simulated() -> bool {
    CURRENT.with(|current| current.borrow().is_some())
}

/// For the runtime's hook before its thread rests: nothing can be done now.
pub(crate) fn nothing_to_do() {
    if let Some(timeline) = current() {
        timeline.advance();
    }
}

pub(crate) fn now() -> DateTime<Utc> {
    let simulated = current().and_then(|timeline| DateTime::from_timestamp(EPOCH, 0).map(|t| t + timeline.elapsed()));
    simulated.unwrap_or_else(Utc::now)
}

pub(crate) fn instant() -> Instant {
    current().map_or_else(Instant::now, |timeline| timeline.began + timeline.elapsed())
}

pub(crate) fn unique() -> Uuid {
    let Some(timeline) = current() else { return Uuid::new_v4() };
    let mut bytes = [0; 16];
    timeline.state().chance.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

pub(crate) fn jitter() -> f64 {
    match current() {
        Some(timeline) => timeline.state().chance.random_range(0.75..1.25),
        None => rand::random_range(0.75..1.25),
    }
}

pub(crate) fn spawn_blocking<F, R>(work: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    if !is_simulated() {
        return tokio::task::spawn_blocking(work);
    }
    tokio::spawn(async move {
        let before = OWED.replace(Some(Duration::ZERO));
        let done = work();
        let owed = OWED.replace(before);
        sleep(owed.unwrap_or_default()).await;
        done
    })
}

/// Whether this is work that is done in place, and so cannot wait.
pub(crate) fn is_in_place() -> bool {
    OWED.get().is_some()
}

/// Waits as long as a simulated request takes; work that is done in place waits afterwards.
pub(crate) async fn spend(time: Duration) {
    match OWED.get() {
        Some(owed) => OWED.set(Some(owed + time)),
        None => sleep(time).await,
    }
}

pub(crate) async fn sleep(duration: Duration) {
    sleep_until(instant() + duration).await;
}

pub(crate) async fn sleep_until(deadline: Instant) {
    match current() {
        None => tokio::time::sleep_until(deadline).await,
        Some(timeline) => Timer { deadline: timeline.until(deadline), timeline, number: None }.await,
    }
}

/// A wait for a moment of a timeline.
struct Timer {
    timeline: Arc<Timeline>,
    deadline: Duration,
    number: Option<u64>,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let timeline = Arc::clone(&self.timeline);
        let mut state = timeline.state();
        if state.elapsed >= self.deadline {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            state.numbered += 1;
            state.numbered
        });
        state.timers.insert((self.deadline, number), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.timeline.state().timers.remove(&(self.deadline, number));
        }
    }
}

/// The time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

pub(crate) async fn timeout<F: Future>(duration: Duration, work: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = sleep(duration) => Err(Elapsed),
    }
}

pub(crate) fn interval(period: Duration) -> Interval {
    Interval { period, next: instant() }
}

/// As tokio's.
#[derive(Debug)]
pub(crate) struct Interval {
    period: Duration,
    next: Instant,
}

impl Interval {
    /// What tokio calls `Delay` is the only one that there is.
    pub(crate) fn set_missed_tick_behavior(&mut self, behaviour: MissedTickBehavior) {
        assert_eq!(behaviour, MissedTickBehavior::Delay);
    }

    pub(crate) async fn tick(&mut self) -> Instant {
        sleep_until(self.next).await;
        let now = instant();
        self.next = now + self.period;
        now
    }
}
