//! Locks and signals. A poisoned lock is opened, and the panic is not passed on. Each critical section is a few
//! assignments, so a panic in it leaves whole data.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "tokio")]
use std::task::Waker;
use std::time::Duration;

use crate::pure::clock::{Clock, Stopwatch, Timestamp};

/// Runs a guest's code (a logger, an observer) on a thread for which other code waits. A panic of the guest ends here.
/// Its payload is leaked, because dropping it would run the guest's code, too.
pub(crate) fn contained(guest: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(guest)) {
        std::mem::forget(payload);
    }
}

/// Wakes a task. The waker is code of the program's runtime.
#[cfg(feature = "tokio")]
pub(crate) fn wake(waker: Waker) {
    contained(|| waker.wake());
}

/// Logs, also through a logger that panics, as a logger does that prints to a closed pipe.
macro_rules! say {
    ($level:ident, $($message:tt)+) => {
        $crate::pure::sync::contained(|| log::$level!($($message)+))
    };
}
pub(crate) use say;

/// Locks a mutex, poisoned or not.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on a condition, poisoned or not.
pub(crate) fn wait<'m, T>(condvar: &Condvar, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn wait_for<'m, T>(
    condvar: &Condvar,
    guard: MutexGuard<'m, T>,
    time: Duration,
) -> MutexGuard<'m, T> {
    condvar.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
}

/// How many calls or writes are under way, for a thread that waits until none is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inflight(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    inside: Mutex<usize>,
    left: Condvar,
}

/// A call or a write that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct InflightGuard(Inflight);

impl Inflight {
    pub(crate) fn enter(&self) -> InflightGuard {
        *lock(&self.0.inside) += 1;
        InflightGuard(self.clone())
    }

    /// Waits until none is under way, at most this long by the real clock.
    pub(crate) fn wait_until_none(&self, time: Duration) {
        let watch = Stopwatch::start();
        let mut inside = lock(&self.0.inside);
        while *inside > 0
            && let Some(rest) = time.checked_sub(watch.elapsed())
        {
            inside = wait_for(&self.0.left, inside, rest);
        }
    }
}

impl Drop for InflightGuard {
    fn drop(&mut self) {
        *lock(&self.0.0.inside) -= 1;
        self.0.0.left.notify_all();
    }
}

/// A signal: a count that only rises, so that no event is missed between looking and waiting.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<Raised>,
    raised: Condvar,
}

#[derive(Debug, Default)]
struct Raised {
    count: u64,
    /// The wakers of tasks that wait for the signal.
    #[cfg(feature = "tokio")]
    wakers: Vec<Waker>,
}

impl Signal {
    /// Raises the count and wakes every waiting thread and task.
    pub(crate) fn raise(&self) {
        let mut state = lock(&self.state);
        state.count += 1;
        #[cfg(feature = "tokio")]
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.raised.notify_all();
        #[cfg(feature = "tokio")]
        wakers.into_iter().for_each(wake);
    }

    /// Whether the signal was raised since `seen`. If not, the task is woken when it is.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_past(&self, seen: u64, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        if state.count != seen {
            return true;
        }
        if !state.wakers.iter().any(|other| other.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        false
    }

    /// The count, to be handed to a later wait: every raise from here on ends that wait.
    pub(crate) fn now(&self) -> u64 {
        lock(&self.state).count
    }

    /// Waits until the signal was raised since `seen`, or the clock has come to `deadline`.
    pub(crate) fn wait_past(&self, seen: u64, clock: &Clock, deadline: Option<Timestamp>) {
        let mut state = lock(&self.state);
        while state.count == seen {
            state = match deadline {
                None => wait(&self.raised, state),
                Some(deadline) => match clock.nap_until(deadline) {
                    Some(nap) => wait_for(&self.raised, state, nap),
                    None => return,
                },
            };
        }
    }

    /// Waits at most this long by the real clock.
    pub(crate) fn wait_at_most(&self, seen: u64, time: Duration) {
        let state = lock(&self.state);
        if state.count == seen {
            drop(wait_for(&self.raised, state, time));
        }
    }
}
