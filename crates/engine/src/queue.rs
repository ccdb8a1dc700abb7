//! Queues: where workflows wait for an executor that serves them, and how many may run at once.

use std::fmt;
use std::sync::Arc;

/// A queue, by its name: what [`crate::Workflow::enqueue`] puts workflows into.
///
/// It is served by the executors that registered it ([`crate::Engine::register_queue`]), here or in other processes.
#[derive(Clone, PartialEq, Eq)]
pub struct Queue {
    name: Arc<str>,
}

impl Queue {
    /// The queue that other programs serve under this name: of another application, or written in another language.
    pub fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({})", self.name)
    }
}

/// The limits of a queue. They are written into the system database, where all executors read them with every claim: those
/// of the newest version of the application hold.
///
/// ```
/// use engine::QueueOptions;
///
/// /// The provider of mails allows ten connections, and one machine should not take them all.
/// const MAIL: QueueOptions = QueueOptions::new().concurrency(10).worker_concurrency(4);
/// # let _ = MAIL;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueOptions {
    pub(crate) concurrency: Option<u32>,
    pub(crate) worker_concurrency: Option<u32>,
}

impl QueueOptions {
    /// As many at once as there are workers.
    pub const fn new() -> Self {
        Self { concurrency: None, worker_concurrency: None }
    }

    /// How many of its workflows may run at once in all executors together. One that waits without a thread does not
    /// count.
    #[must_use]
    pub const fn concurrency(mut self, max: u32) -> Self {
        self.concurrency = Some(max);
        self
    }

    /// How many of them may run at once in one executor.
    #[must_use]
    pub const fn worker_concurrency(mut self, max: u32) -> Self {
        self.worker_concurrency = Some(max);
        self
    }

    /// Why these limits make no sense, if they do not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match (self.concurrency, self.worker_concurrency) {
            (Some(0), _) | (_, Some(0)) => Err("with a limit of 0 nothing would ever run"),
            (Some(all), Some(one)) if one > all => Err("worker_concurrency is more than concurrency"),
            (Some(n), _) | (_, Some(n)) if i32::try_from(n).is_err() => {
                Err("at most 2,147,483,647 can be said")
            }
            _ => Ok(()),
        }
    }
}

/// How a workflow is enqueued, if not in the plainest way.
///
/// A program may enqueue for one that is written in another language and shares the database; this is for the function
/// `add(x, y)` of the application `sums`:
/// ```no_run
/// # use engine::{Engine, EnqueueOptions, Queue, Result, Workflow};
/// # fn ask(engine: &Engine) -> Result<()> {
/// let add = Workflow::<(i64, i64), i64>::named("add");
/// let there = EnqueueOptions::new().application("sums").spread_arguments();
/// let sum = add.enqueue_with(engine, &Queue::named("work"), &there, (2, 3))?;
/// assert_eq!(sum.result()?, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct EnqueueOptions<'o> {
    pub(crate) id: Option<&'o str>,
    pub(crate) priority: u32,
    pub(crate) application: Option<&'o str>,
    pub(crate) version: Option<&'o str>,
    pub(crate) spread: bool,
}

impl<'o> EnqueueOptions<'o> {
    /// Under a new id, first come, first served, for this application.
    pub const fn new() -> Self {
        Self { id: None, priority: 0, application: None, version: None, spread: false }
    }

    /// Under this id. If a run of the same workflow has it already, that one is meant.
    #[must_use]
    pub const fn id(mut self, id: &'o str) -> Self {
        self.id = Some(id);
        self
    }

    /// Lower goes first; 0, the default, before all. At most 2,147,483,647.
    #[must_use]
    pub const fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// For the programs of another application in the same database.
    #[must_use]
    pub const fn application(mut self, application: &'o str) -> Self {
        self.application = Some(application);
        self
    }

    /// For programs of this version alone. Default: this program's own version, and for another application its newest.
    #[must_use]
    pub const fn version(mut self, version: &'o str) -> Self {
        self.version = Some(version);
        self
    }

    /// The fields of a struct become named arguments, the parts of a tuple positional ones: for functions of several
    /// arguments in other languages. Without this the input is one argument.
    #[must_use]
    pub const fn spread_arguments(mut self) -> Self {
        self.spread = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_let_nothing_run_or_contradict_each_other_are_refused() {
        let limits = QueueOptions::new();
        assert!(limits.check().is_ok());
        assert!(limits.concurrency(3).worker_concurrency(3).check().is_ok());
        assert!(limits.concurrency(0).check().is_err());
        assert!(limits.worker_concurrency(0).check().is_err());
        assert!(limits.concurrency(2).worker_concurrency(3).check().is_err());
        assert!(limits.concurrency(u32::MAX).check().is_err());
    }
}
