//! Calls that block a thread on which tasks run. The log warns of them once for each engine.
//!
//! A runtime is known only with the feature `tokio`, or with `postgres`, whose driver brings one. Otherwise the log
//! says nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::pure::sync::say;

/// Whether the log has said it.
#[derive(Debug, Default)]
pub(crate) struct Blocking(AtomicBool);

impl Blocking {
    /// Call this at the beginning of a call that blocks.
    pub(crate) fn begins(&self, call: &'static str) {
        if self.0.load(Ordering::Relaxed) || !is_in_an_async_task() || self.0.swap(true, Ordering::Relaxed) {
            return;
        }
        say!(
            warn,
            "{call} blocks a thread of an async runtime, whose other tasks stand still meanwhile; make the calls of \
             this engine in tokio::task::spawn_blocking, or on a thread of your own (said once)"
        );
    }
}

/// Whether this thread is in the middle of polling a task. A thread that a runtime has for blocking calls is not,
/// though it knows its runtime as well.
///
/// Only tasks have a budget of polls, after which they let other tasks run. The budget is spent here and given back.
#[cfg(any(feature = "postgres", feature = "tokio"))]
pub(crate) fn is_in_an_async_task() -> bool {
    const MORE_THAN_A_BUDGET: usize = 1024;
    if tokio::runtime::Handle::try_current().is_err() {
        return false;
    }
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut spent = Vec::new();
    while spent.len() < MORE_THAN_A_BUDGET {
        match tokio::task::coop::poll_proceed(&mut context) {
            std::task::Poll::Ready(part) => spent.push(part),
            std::task::Poll::Pending => break,
        }
    }
    let has_an_end = spent.len() < MORE_THAN_A_BUDGET;
    // Each unit gives back the budget of the moment before it was spent, so the first unit is given back last.
    while spent.pop().is_some() {}
    has_an_end
}

#[cfg(not(any(feature = "postgres", feature = "tokio")))]
pub(crate) fn is_in_an_async_task() -> bool {
    false
}

#[cfg(all(test, any(feature = "postgres", feature = "tokio")))]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_told_from_a_thread_for_blocking_calls() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        assert!(!is_in_an_async_task());
        let _entered = runtime.enter();
        assert!(!is_in_an_async_task(), "a thread that may start tasks is none");
        let seen = runtime.block_on(async {
            let here = is_in_an_async_task();
            let again = is_in_an_async_task();
            let task = tokio::spawn(async { is_in_an_async_task() }).await.unwrap();
            let blocking = tokio::task::spawn_blocking(is_in_an_async_task).await.unwrap();
            let in_place = tokio::spawn(async { tokio::task::block_in_place(is_in_an_async_task) });
            [here, again, task, blocking, in_place.await.unwrap()]
        });
        assert_eq!(seen, [true, true, true, false, false]);
    }
}
