//! Who performs the Delta library's requests, which it waits for.

use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use tokio::runtime::Handle;

#[cfg(not(test))]
pub(super) type Executor = TokioMultiThreadExecutor;
#[cfg(test)]
pub(super) use in_place::Executor;

/// That of the runtime that this is called in.
pub(super) fn of_this_runtime() -> Executor {
    #[cfg(test)]
    return Executor::of_this_runtime();
    #[cfg(not(test))]
    threads()
}

fn threads() -> TokioMultiThreadExecutor {
    TokioMultiThreadExecutor::new(Handle::current())
}

/// As the library's; in a simulation, where a request is answered at once, on the thread that waits for it.
#[cfg(test)]
mod in_place {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use delta_kernel::KernelResult;
    use delta_kernel_default_engine::executor::TaskExecutor;
    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use tokio::runtime::EnterGuard;

    use super::TokioMultiThreadExecutor;
    use crate::machine;

    pub(crate) enum Executor {
        Threads(TokioMultiThreadExecutor),
        InPlace,
    }

    impl Executor {
        pub(super) fn of_this_runtime() -> Executor {
            if machine::is_simulated() { Executor::InPlace } else { Executor::Threads(super::threads()) }
        }
    }

    impl TaskExecutor for Executor {
        type Guard<'a> = Option<EnterGuard<'a>>;

        fn block_on<T>(&self, task: T) -> T::Output
        where
            T: Future + Send + 'static,
            T::Output: Send + 'static,
        {
            match self {
                Executor::Threads(threads) => threads.block_on(task),
                Executor::InPlace => done_at_once(task),
            }
        }

        fn spawn<F>(&self, task: F)
        where
            F: Future<Output = ()> + Send + 'static,
        {
            match self {
                Executor::Threads(threads) => threads.spawn(task),
                Executor::InPlace => done_at_once(task),
            }
        }

        fn spawn_blocking<T, R>(&self, task: T) -> BoxFuture<'_, KernelResult<R>>
        where
            T: FnOnce() -> R + Send + 'static,
            R: Send + 'static,
        {
            match self {
                Executor::Threads(threads) => threads.spawn_blocking(task),
                Executor::InPlace => std::future::ready(Ok(task())).boxed(),
            }
        }

        fn enter(&self) -> Self::Guard<'_> {
            match self {
                Executor::Threads(threads) => Some(threads.enter()),
                Executor::InPlace => None,
            }
        }
    }

    /// What waits for nothing but what wakes it in the same moment.
    fn done_at_once<F: Future>(task: F) -> F::Output {
        let mut task = pin!(task);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1_000_000 {
            if let Poll::Ready(done) = task.as_mut().poll(&mut context) {
                return done;
            }
        }
        panic!("a simulated request waits for something");
    }
}
