//! Queues: where workflows wait for an executor that serves the queue, and how many workflows may run at once.

use std::fmt;
use std::sync::Arc;

/// A queue, by its name. [`crate::Workflow::enqueue`] puts workflows into it.
///
/// A queue is served by the executors that registered it ([`crate::Engine::register_queue`]), in any process.
#[derive(Clone, PartialEq, Eq)]
pub struct Queue {
    name: Arc<str>,
}

impl Queue {
    /// A queue that other programs serve: programs of another application, or in another language.
    pub fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// The name of the queue.
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

/// The limits of a queue, written into the system database. All executors read them with every claim. The limits of the
/// application's newest version hold.
///
/// | limit | of | counts | does not count |
/// |---|---|---|---|
/// | [`QueueOptions::concurrency`] | all executors together | workflows of the queue that are on a thread (`PENDING`) | workflows that wait without a thread, as in a long sleep |
/// | [`QueueOptions::in_flight`] | all executors together | workflows of the queue that have begun and not ended, waiting or not | workflows that wait for their first claim |
/// | [`QueueOptions::worker_concurrency`] | one executor | workflows of the queue that are on a thread of this executor | workflows that wait without a thread |
/// | [`EngineOptions::workers_max`](crate::EngineOptions::workers_max) | one executor | all workflows on a thread, whatever their queue | workflows that wait, with or without a thread |
///
/// `concurrency` protects the resources of a running body, such as connections to a provider. `in_flight` protects the
/// things that a workflow holds from its beginning to its end: a seat, a machine, or its turn.
///
/// ```
/// use engine::QueueOptions;
///
/// /// The provider of mails allows ten connections, and one machine should not take them all.
/// const MAIL: QueueOptions = QueueOptions::new().concurrency(10).worker_concurrency(4);
/// /// The hall has three stages. A show has its stage until it ends, also while it waits for the audience.
/// const SHOWS: QueueOptions = QueueOptions::new().in_flight(3);
/// # let _ = (MAIL, SHOWS);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueOptions {
    pub(crate) concurrency: Option<u32>,
    pub(crate) worker_concurrency: Option<u32>,
    pub(crate) in_flight: Option<u32>,
}

impl QueueOptions {
    /// No limits: as many workflows at once as there are workers.
    pub const fn new() -> Self {
        Self { concurrency: None, worker_concurrency: None, in_flight: None }
    }

    /// How many workflows of the queue may be on a thread at once, in all executors together (1 to 2,147,483,647).
    ///
    /// A workflow that waits without a thread does not count. It has to find room again when it goes on. So with
    /// `concurrency(1)` two workflows may have begun and not ended, while one of them sleeps.
    /// [`QueueOptions::in_flight`] counts both.
    #[must_use]
    pub const fn concurrency(mut self, max: u32) -> Self {
        self.concurrency = Some(max);
        self
    }

    /// How many workflows of the queue may have begun and not ended, in all executors together (1 to 2,147,483,647).
    ///
    /// A workflow that waits counts, with a thread or without. A workflow whose executor died counts until another
    /// executor has ended it. Workflows that have begun go on before any other begins, also before one of a lower
    /// priority number.
    ///
    /// A workflow that waits for a child in its own queue holds a place that the child may need. When all places are
    /// held like that, no workflow of the queue goes on, and the log names them. Put such children into another queue.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use engine::{Context, Engine, QueueOptions, Result};
    /// # fn main() -> Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = Engine::options().open_file(dir.path().join("x.db"))?;
    /// let show = engine.register("show", |ctx: &mut Context, n: u32| {
    ///     ctx.sleep(Duration::from_millis(20))?; // the stage is its own meanwhile
    ///     Ok::<_, engine::Error>(n)
    /// })?;
    /// let stage = engine.register_queue("stage", QueueOptions::new().in_flight(1))?;
    /// engine.launch()?;
    /// let shows = [show.enqueue(&engine, &stage, 1)?, show.enqueue(&engine, &stage, 2)?];
    /// for (handle, n) in shows.iter().zip(1..) {
    ///     assert_eq!(handle.result()?, n); // one after the other
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn in_flight(mut self, max: u32) -> Self {
        self.in_flight = Some(max);
        self
    }

    /// How many workflows of the queue may be on a thread at once in one executor (1 to 2,147,483,647).
    #[must_use]
    pub const fn worker_concurrency(mut self, max: u32) -> Self {
        self.worker_concurrency = Some(max);
        self
    }

    /// The reason why these limits make no sense, if they do not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let limits = [self.worker_concurrency, self.concurrency, self.in_flight];
        if limits.contains(&Some(0)) {
            return Err("with a limit of 0 no workflow would ever run; set at least 1");
        }
        if limits.iter().flatten().any(|max| i32::try_from(*max).is_err()) {
            return Err("a limit must be at most 2,147,483,647");
        }
        let exceeds =
            |one: Option<u32>, other: Option<u32>| one.zip(other).is_some_and(|(one, other)| one > other);
        if exceeds(self.worker_concurrency, self.concurrency) {
            return Err("worker_concurrency is more than concurrency");
        }
        if exceeds(self.concurrency, self.in_flight) {
            return Err("concurrency is more than in_flight, so it would never be reached");
        }
        if exceeds(self.worker_concurrency, self.in_flight) {
            return Err("worker_concurrency is more than in_flight, so it would never be reached");
        }
        Ok(())
    }
}

/// How a workflow is enqueued.
///
/// A program may enqueue for a program in another language that shares the database. This is for the function `add(x,
/// y)` of the application `sums`:
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
    /// A new id, first come, first served, for this application.
    pub const fn new() -> Self {
        Self { id: None, priority: 0, application: None, version: None, spread: false }
    }

    /// The workflow's id (default: a new id). If a run of the same workflow has the id, the caller gets that run.
    #[must_use]
    pub const fn id(mut self, id: &'o str) -> Self {
        self.id = Some(id);
        self
    }

    /// The workflow's priority, 0 to 2,147,483,647 (default 0). The lowest number goes first. Within a priority the
    /// workflow that was enqueued first goes first: workflows that one caller enqueues in order begin in order.
    #[must_use]
    pub const fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// The application whose programs run the workflow (default: this application). It shares the database.
    #[must_use]
    pub const fn application(mut self, application: &'o str) -> Self {
        self.application = Some(application);
        self
    }

    /// The version whose programs run the workflow. Default: this program's version; for another application, its
    /// newest.
    #[must_use]
    pub const fn version(mut self, version: &'o str) -> Self {
        self.version = Some(version);
        self
    }

    /// Makes each field of a struct a named argument, and each part of a tuple a positional one. Functions of several
    /// arguments in other languages need this. Without it the input is one argument.
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
        assert!(limits.in_flight(3).concurrency(3).worker_concurrency(1).check().is_ok());
        assert!(limits.in_flight(0).check().is_err());
        assert!(limits.in_flight(2).concurrency(3).check().is_err());
        assert!(limits.in_flight(2).worker_concurrency(3).check().is_err());
        assert!(limits.in_flight(u32::MAX).check().is_err());
    }
}
