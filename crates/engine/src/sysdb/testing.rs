//! Seams for tests: a clock that they move, and a hook before and after every commit.
//!
//! With the feature `testing` the hooks are public. Without it they are empty and cost nothing.

use std::sync::Arc;

use crate::sysdb::{DbError, DbResult};

/// The commit that a hook sees: its number in this process, from 1, and the kinds of its writes. Kinds are
/// `record_step`, `settle`, `start_child`, `transaction_step`, and so on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CommitPoint<'a> {
    /// Commits are counted from 1.
    pub number: u64,
    /// Whether the commit is done or yet to come.
    pub moment: Moment,
    /// Kinds of the writes in it.
    pub kinds: &'a [&'static str],
}

/// Where a hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the commit: failing here means that nothing is written.
    Before,
    /// After it: failing here is a commit whose answer is lost.
    After,
}

/// The result that a hook makes the engine see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All is well.
    Go,
    /// The database failed in a way that may pass; the engine tries again.
    FailForNow,
    /// The database refused for good.
    FailForGood,
}

/// Called around every commit, on the thread that commits. It may kill the process.
pub type CommitHook = dyn Fn(&CommitPoint<'_>) -> Fate + Send + Sync;

/// Around every commit: the hook of a test, or nothing.
#[derive(Clone, Default)]
pub(crate) struct Gate(Option<Arc<Hooked>>);

struct Hooked {
    hook: Arc<CommitHook>,
    count: std::sync::atomic::AtomicU64,
}

impl Gate {
    #[cfg(feature = "testing")]
    pub(crate) fn new(hook: Arc<CommitHook>) -> Self {
        Self(Some(Arc::new(Hooked { hook, count: 0.into() })))
    }

    /// Commits, unless the hook says that it fails.
    pub(crate) fn around<T>(
        &self,
        kinds: impl FnOnce() -> Vec<&'static str>,
        commit: impl FnOnce() -> DbResult<T>,
    ) -> DbResult<T> {
        let Some(hooked) = &self.0 else { return commit() };
        let kinds = &kinds()[..];
        let number = hooked.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let ask = |moment| match (hooked.hook)(&CommitPoint { number, moment, kinds }) {
            Fate::Go => Ok(()),
            fate @ (Fate::FailForNow | Fate::FailForGood) => Err(DbError {
                may_pass: fate == Fate::FailForNow,
                ..DbError::lasting("commit", "failed by a test")
            }),
        };
        ask(Moment::Before)?;
        let result = commit()?;
        ask(Moment::After)?;
        Ok(result)
    }
}

/// The kinds of writes that an execution makes: each is bound to its token. A transaction step is another.
#[cfg(feature = "testing")]
pub fn fenced_writes() -> impl Iterator<Item = &'static str> {
    crate::sysdb::write::fenced()
}

#[cfg(feature = "testing")]
pub use fake_clock::FakeClock;

#[cfg(feature = "testing")]
mod fake_clock {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use crate::pure::clock::{TimeSource, Timestamp};

    /// A clock that stands until a test moves it. Clones show the same time.
    #[derive(Debug, Clone)]
    pub struct FakeClock(Arc<Times>);

    #[derive(Debug, Default)]
    struct Times {
        wall: AtomicI64,
        steady: AtomicI64,
    }

    impl FakeClock {
        /// Stands at this time.
        pub fn at(time: Timestamp) -> Self {
            Self(Arc::new(Times { wall: time.as_millis().into(), steady: 0.into() }))
        }

        /// Sets the clock, forward or back, as an operator sets a wall clock: no time passes.
        pub fn set(&self, time: Timestamp) {
            self.0.wall.store(time.as_millis(), Ordering::SeqCst);
        }

        /// Sets it by this many milliseconds forward, or back if they are negative, as an operator sets a wall clock:
        /// no time passes. Waits of a running process do not notice; a process that starts later goes by the new date.
        pub fn step(&self, millis: i64) {
            self.0.wall.fetch_add(millis, Ordering::SeqCst);
        }

        /// Moves the clock forward; waits that are due end.
        ///
        /// # Panics
        /// When the duration has more milliseconds than an `i64`.
        pub fn advance(&self, by: Duration) {
            let millis =
                i64::try_from(by.as_millis()).expect("a test moves the clock by less than 292 million years");
            self.0.wall.fetch_add(millis, Ordering::SeqCst);
            self.0.steady.fetch_add(millis, Ordering::SeqCst);
        }
    }

    impl TimeSource for FakeClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.wall.load(Ordering::SeqCst))
        }

        fn steady_now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.steady.load(Ordering::SeqCst))
        }

        /// A thread that waits for this clock looks at it every real millisecond.
        fn nap(&self, remaining: Duration) -> Duration {
            remaining.min(Duration::from_millis(1))
        }
    }
}
