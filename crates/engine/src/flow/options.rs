//! Options: `const` values with chained setters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::pure::clock::Clock;
use crate::pure::codec::Codec;
use crate::pure::error::{Error, Result};
use crate::pure::id::check_name;
use crate::pure::limits;
use crate::pure::observer::{Observer, Observers};
use crate::pure::retry::RetryPolicy;
use crate::sysdb::testing::Gate;

/// Judges an error of a step's body: `true` when another attempt makes sense.
pub type ShouldRetry = fn(&(dyn std::error::Error + 'static)) -> bool;

/// A [`ShouldRetry`] that may capture values.
type Judge = Arc<dyn Fn(&(dyn std::error::Error + 'static)) -> bool + Send + Sync>;

/// How a step is run. Make it a `const` whose name says why.
///
/// ```
/// use std::time::Duration;
/// use engine::StepOptions;
///
/// /// The payment provider drops about one call in a hundred.
/// const FLAKY_HTTP: StepOptions = StepOptions::retries().attempts_max(5).interval(Duration::from_millis(200));
/// # let _ = FLAKY_HTTP;
/// ```
#[derive(Clone)]
pub struct StepOptions {
    pub(crate) retry: RetryPolicy,
    should_retry: ShouldRetry,
    judge: Option<Judge>,
    pub(crate) codec: Option<Codec>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) total: Option<Duration>,
}

impl StepOptions {
    /// One attempt, without a time limit.
    pub const fn new() -> Self {
        Self {
            retry: RetryPolicy::ONCE,
            should_retry: |_| true,
            judge: None,
            codec: None,
            timeout: None,
            total: None,
        }
    }

    /// Three attempts: the second after one second, the third after two more. Waits double up to one hour.
    pub const fn retries() -> Self {
        Self::new().attempts_max(3)
    }

    /// How often the body is tried, the first attempt included (default 1).
    #[must_use]
    pub const fn attempts_max(mut self, attempts_max: u32) -> Self {
        self.retry.attempts_max = attempts_max;
        self
    }

    /// The wait after the first failed attempt (default 1 s).
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.retry.interval = interval;
        self
    }

    /// The factor from each wait to the next (default 2). Below 1, waits get shorter.
    #[must_use]
    pub const fn rate(mut self, rate: f64) -> Self {
        self.retry.rate = rate;
        self
    }

    /// The longest wait between two attempts (default 1 h).
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.retry.cap = cap;
        self
    }

    /// Judges the errors of the body: an error for which this returns `false` is not tried again. Panics never are.
    #[must_use]
    pub const fn should_retry(mut self, should_retry: ShouldRetry) -> Self {
        self.should_retry = should_retry;
        self
    }

    /// Judges the errors of the body, as [`StepOptions::should_retry`] does, with a closure that may capture values.
    #[must_use]
    pub fn should_retry_if(
        mut self,
        judge: impl Fn(&(dyn std::error::Error + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.judge = Some(Arc::new(judge));
        self
    }

    pub(crate) fn is_worth_a_retry(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        match &self.judge {
            Some(judge) => judge(error),
            None => (self.should_retry)(error),
        }
    }

    /// How long one attempt may take (default: no limit). After that the attempt fails with an error named
    /// `PitonTimeout`, which may be tried again.
    ///
    /// | body | at that moment |
    /// |---|---|
    /// | async | is dropped |
    /// | plain | cannot be interrupted: it sees the time in [`StepInfo::time_left`](crate::StepInfo::time_left); its late result is discarded |
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long all attempts together may take, with the waits between them (default: no limit). An attempt that runs
    /// at that moment is at its end, and no attempt follows. A crash starts the time anew.
    #[must_use]
    pub const fn total(mut self, total: Duration) -> Self {
        self.total = Some(total);
        self
    }

    /// Refuses options without meaning.
    pub(crate) fn check(&self, step: &str) -> Result<()> {
        self.retry.check(step)?;
        for (what, time) in [("timeout", self.timeout), ("total", self.total)] {
            if time.is_some_and(|time| time.is_zero()) {
                let reason = "with a limit of zero no attempt could finish; set more than zero".to_owned();
                return Err(Error::InvalidOption { what: format!("{what} of step {step}"), reason });
            }
        }
        Ok(())
    }

    /// The codec of the step's output (default: the codec of the engine's options).
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }
}

impl Default for StepOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StepOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepOptions")
            .field("retry", &self.retry)
            .field("codec", &self.codec)
            .field("timeout", &self.timeout)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

/// How a workflow is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkflowOptions {
    pub(crate) recovery_attempts_max: Option<u32>,
}

impl WorkflowOptions {
    /// At most 100 recoveries.
    pub const fn new() -> Self {
        Self { recovery_attempts_max: Some(limits::RECOVERY_ATTEMPTS_MAX) }
    }

    /// How often the workflow is taken up again after its executor died (default 100). With the next death the workflow
    /// is parked as `MAX_RECOVERY_ATTEMPTS_EXCEEDED` until an operator resumes it: it may itself kill the executors.
    #[must_use]
    pub const fn recovery_attempts_max(mut self, max: u32) -> Self {
        self.recovery_attempts_max = Some(max);
        self
    }

    /// The workflow is taken up again for ever, however often its executor dies.
    #[must_use]
    pub const fn recovery_attempts_unlimited(mut self) -> Self {
        self.recovery_attempts_max = None;
        self
    }
}

impl Default for WorkflowOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// How an engine is opened: begin with [`Engine::options`](crate::Engine::options), end with [`EngineOptions::open`].
#[derive(Clone)]
pub struct EngineOptions {
    pub(crate) app: String,
    pub(crate) version: String,
    pub(crate) label: Option<String>,
    pub(crate) workers_max: usize,
    #[cfg(feature = "tokio")]
    pub(crate) tasks_max: usize,
    pub(crate) stack_bytes: usize,
    pub(crate) suspend_after: Duration,
    pub(crate) codec: Codec,
    pub(crate) observers: Observers,
    pub(crate) clock: Clock,
    pub(crate) gate: Gate,
    pub(crate) shared_with_application: bool,
    pub(crate) schema: String,
    pub(crate) migrate: bool,
    pub(crate) listen: bool,
    pub(crate) takeover_within: Duration,
    #[cfg(feature = "postgres")]
    pub(crate) answers_within: Option<Duration>,
}

impl EngineOptions {
    pub(crate) fn new() -> Self {
        Self {
            app: "piton".to_owned(),
            version: "1".to_owned(),
            label: None,
            workers_max: limits::WORKERS_MAX,
            #[cfg(feature = "tokio")]
            tasks_max: limits::TASKS_MAX,
            stack_bytes: limits::STACK_BYTES,
            suspend_after: limits::SUSPEND_AFTER,
            codec: Codec::default(),
            observers: Observers::default(),
            clock: Clock::system(),
            gate: Gate::default(),
            shared_with_application: false,
            schema: "dbos".to_owned(),
            migrate: true,
            listen: true,
            takeover_within: limits::TAKEOVER_WITHIN,
            #[cfg(feature = "postgres")]
            answers_within: None,
        }
    }

    /// Name of the application (default `piton`). Applications in one database leave each other's workflows alone.
    #[must_use]
    pub fn app(mut self, app: impl Into<String>) -> Self {
        self.app = app.into();
        self
    }

    /// Version of the program's workflows (default `1`).
    ///
    /// An executor takes up only workflows of its own version. Change the version when old runs must not meet new code.
    /// A rebuilt program with the same version goes on with old runs. If the order of their steps has changed, the
    /// recorded names tell.
    ///
    /// In DBOS a version's name belongs to one application of a database: a Python program beside this one needs
    /// another.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// A label for this process in listings: up to 64 letters, digits, `.`, `_`, `-`. It is no identity: every launch
    /// has an id of its own.
    #[must_use]
    pub fn executor(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// How many plain workflows run at once, each on its own thread (default 256). More workflows wait in the database.
    ///
    /// A workflow that waits (for a child, a message, the next attempt of a step) lets another workflow run, and keeps
    /// its thread. Where it can leave the thread, it does so after [`EngineOptions::suspend_after`].
    /// [`crate::QueueOptions`] has a table of this limit and of those of queues.
    #[must_use]
    pub fn workers_max(mut self, workers_max: usize) -> Self {
        self.workers_max = workers_max;
        self
    }

    /// How many async workflows run at once (default 10,000). More workflows wait in the database.
    ///
    /// A workflow that waits lets another workflow run, and stays in memory. Where it can leave memory, it does so
    /// after [`EngineOptions::suspend_after`].
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn tasks_max(mut self, tasks_max: usize) -> Self {
        self.tasks_max = tasks_max;
        self
    }

    /// Size of the stack of a workflow's thread, in bytes (default 2 MiB).
    #[must_use]
    pub fn stack_bytes(mut self, stack_bytes: usize) -> Self {
        self.stack_bytes = stack_bytes;
        self
    }

    /// How long a workflow may wait on its thread, or in memory (default 5 s). After that it leaves the thread. When
    /// its wait ends, it is replayed from its history.
    #[must_use]
    pub fn suspend_after(mut self, suspend_after: Duration) -> Self {
        self.suspend_after = suspend_after;
        self
    }

    /// The codec of step outputs (default [`Codec::PortableJson`]).
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Adds an observer, which is told of the engine's events. Call it again to add more.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.add(observer);
        self
    }

    /// Allows an SQLite file that holds tables of the application; the engine adds its own. Without this option such a
    /// file is refused, because it is more often a wrong path.
    #[must_use]
    pub fn shared_with_application(mut self) -> Self {
        self.shared_with_application = true;
        self
    }

    /// On PostgreSQL: the schema of the engine's tables (default `dbos`).
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// On PostgreSQL: whether the engine may create the database and its tables (default true). With `false` the
    /// existing tables are checked, and used or refused.
    #[must_use]
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// On PostgreSQL: whether processes tell each other of changes by NOTIFY (default true). With `false` each process
    /// looks once a second. So it does where NOTIFY does not arrive, as behind a pooler in transaction mode.
    #[must_use]
    pub fn listen_notify(mut self, listen: bool) -> Self {
        self.listen = listen;
        self
    }

    /// On PostgreSQL: the time within which another process goes on with the workflows of a dead process (default 5 s,
    /// at least 1 s).
    ///
    /// A process that is stopped for about as long, or cut off from the server, loses its workflows, too. After an
    /// outage of the server a takeover takes up to twice as long, so that no process loses its workflows by the outage.
    /// On SQLite the kernel tells at once which process died.
    #[must_use]
    pub fn takeover_within(mut self, takeover_within: Duration) -> Self {
        self.takeover_within = takeover_within;
        self
    }

    /// Gives the engine a clock that a test moves.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn clock(mut self, clock: crate::sysdb::testing::FakeClock) -> Self {
        self.clock = Clock::new(Arc::new(clock));
        self
    }

    /// On PostgreSQL: how long the server may work at a statement (default 30 s, at a write 20 s). A little later the
    /// server counts as silent.
    #[cfg(all(feature = "testing", feature = "postgres"))]
    #[must_use]
    pub fn answers_within(mut self, time: Duration) -> Self {
        self.answers_within = Some(time);
        self
    }

    /// Sets a hook around every commit.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn commit_hook(mut self, hook: Arc<crate::sysdb::testing::CommitHook>) -> Self {
        self.gate = Gate::new(hook);
        self
    }

    /// Refuses options without meaning.
    pub(crate) fn check(&self) -> Result<()> {
        check_name("application", &self.app)?;
        check_name("application version", &self.version)?;
        let refuse = |what: &str, reason: &str| {
            Err(Error::InvalidOption { what: what.to_owned(), reason: reason.to_owned() })
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match &self.label {
            Some(label) if label.is_empty() || label.len() > 64 || !label.chars().all(fits) => {
                return refuse("executor", "a label has 1 to 64 of the characters a-z A-Z 0-9 . _ -");
            }
            _ => {}
        }
        check_name("schema", &self.schema)?;
        if self.takeover_within < limits::TAKEOVER_WITHIN_MIN {
            return refuse(
                "takeover_within",
                "must be at least 1 s, because an executor renews its lease within this time",
            );
        }
        if self.workers_max == 0 {
            return refuse("workers_max", "must be at least 1, or no workflow could run");
        }
        #[cfg(feature = "tokio")]
        if self.tasks_max == 0 {
            return refuse("tasks_max", "must be at least 1, or no async workflow could run");
        }
        Ok(())
    }
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("app", &self.app)
            .field("version", &self.version)
            .field("workers_max", &self.workers_max)
            .finish_non_exhaustive()
    }
}
