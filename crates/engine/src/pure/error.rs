//! What can go wrong, for callers ([`Error`]) and for the record ([`Failure`]).

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pure::codec;
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::tally::FailedAttempts;

/// What the calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of a user's function: everything that is `Error + Send + Sync` turns into it, so do texts,
/// `anyhow::Error` and a boxed error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a durable operation failed. Each variant is something a caller can act on.
///
/// Its `Debug` is its text, so that a `main` that returns one says what happened; `{:#?}` shows the parts of a recorded
/// failure.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The body failed. Recorded: a replay returns the same error.
    #[error("step {step} failed: {failure}")]
    StepFailed {
        /// Name of the step.
        step: String,
        /// What the body said.
        failure: Failure,
    },
    /// The body failed on its last permitted attempt. Recorded: a replay returns the same error.
    #[error("step {step} failed {} times: {attempts}", .attempts.count())]
    RetriesExhausted {
        /// Name of the step.
        step: String,
        /// What the body said, and how often.
        attempts: FailedAttempts,
    },
    /// The awaited workflow ended with an error.
    #[error("workflow {workflow} failed: {failure}")]
    WorkflowFailed {
        /// Which one.
        workflow: WorkflowId,
        /// What it ended with.
        failure: Failure,
    },
    /// The awaited workflow was cancelled.
    #[error("workflow {workflow} was cancelled")]
    WorkflowCancelled {
        /// Which one.
        workflow: WorkflowId,
    },
    /// The workflow waits for itself, through one other or several. Recorded: a replay returns the same error.
    #[error("workflow {workflow} cannot wait for {awaited}, which waits for {workflow}{}: none of them would end", through(.others))]
    CircularWait {
        /// Which one refused to wait.
        workflow: WorkflowId,
        /// What it would have waited for.
        awaited: WorkflowId,
        /// Those between the two, in the order of their waits.
        others: Vec<WorkflowId>,
    },
    /// The workflow ended with an error of its own work, and such an end is final: what is recorded would lead to the
    /// same error again.
    #[error(
        "workflow {workflow} cannot be resumed: it ended with an error of its own work, which is final ({failure}); \
         start a run under another id, or return no error where the work may yet succeed"
    )]
    Final {
        /// Which one.
        workflow: WorkflowId,
        /// What it ended with.
        failure: Failure,
    },
    /// The awaited workflow was recovered more often than its limit allows. It waits for
    /// [`crate::Engine::resume`].
    #[error("workflow {workflow} is parked: {reason}")]
    RecoveryAttemptsExceeded {
        /// Which one.
        workflow: WorkflowId,
        /// How often it was tried.
        reason: String,
    },
    /// The engine ends this execution. Nothing more is recorded for it; hand the error on with `?`.
    #[error("workflow {workflow} stops here: {reason}")]
    Stopped {
        /// Which one.
        workflow: WorkflowId,
        /// Why.
        reason: Stop,
    },
    /// The workflow asked for another step than the one it recorded in this place. Nothing was written. The
    /// workflow ends with this error; put the old order back and resume it.
    #[error(
        "workflow {workflow} is not deterministic: step {step} is recorded as `{recorded}`, but the code now asks for `{asked}`"
    )]
    NonDeterminism {
        /// Which workflow.
        workflow: WorkflowId,
        /// In which place.
        step: StepId,
        /// What an earlier run did there.
        recorded: String,
        /// What this run wants to do there.
        asked: String,
    },
    /// An async workflow dropped the future of an operation before that had come to its end, as `select!`, a timeout around
    /// it or an early return from `try_join!` does. A replay could not know, so no further operation happens and the
    /// workflow ends with this error; mend the program and resume it.
    #[error(
        "workflow {workflow} dropped step {step} ({name}) before its end, so a replay could take another way; await each \
         operation to its end, and limit a step by the timeout of its options"
    )]
    Dropped {
        /// Which workflow.
        workflow: WorkflowId,
        /// Which operation.
        step: StepId,
        /// Its name.
        name: String,
    },
    /// An async workflow awaited the handle of another one outside of its steps, where nothing records the outcome.
    #[error(
        "workflow {workflow} was awaited by its handle inside an async workflow, where a replay could see another \
         outcome; start it by `ctx.start` and await the child, or await the handle in a step"
    )]
    AwaitedInWorkflow {
        /// The awaited one.
        workflow: WorkflowId,
    },
    /// A recorded value does not fit the type that the program asks for. The record is left as it is.
    #[error("{what} cannot be decoded: {reason}")]
    Undecodable {
        /// Which value.
        what: String,
        /// What the codec says.
        reason: String,
    },
    /// A value cannot be recorded.
    #[error("{what} cannot be encoded: {reason}")]
    Unencodable {
        /// Which value.
        what: String,
        /// What the codec says.
        reason: String,
    },
    /// An id or a name that no database key can carry.
    #[error("{what} `{name}` {reason}")]
    InvalidName {
        /// Which name.
        what: &'static str,
        /// The name, shortened.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option without meaning.
    #[error("{what}: {reason}")]
    InvalidOption {
        /// Which option.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A database URL that cannot be used.
    #[error("database URL {url}: {reason}")]
    InvalidUrl {
        /// The URL without its password.
        url: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// The system database cannot be opened. It was not changed.
    #[error("cannot open the system database {database}: {reason}")]
    Open {
        /// Which one: its file, or its URL without the password.
        database: String,
        /// Why, and what to do.
        reason: String,
    },
    /// No workflow of this name is registered in this program.
    #[error("workflow `{name}` is not registered in this program; registered are: {registered}")]
    NotRegistered {
        /// The name asked for.
        name: String,
        /// The names there are.
        registered: String,
    },
    /// Two functions want the same workflow name, two queues are to have one name, or an error type has one.
    #[error("a {what} named `{name}` is registered already")]
    AlreadyRegistered {
        /// A workflow, a queue or a kind of error.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The name of a queue belongs to another application in the same database.
    #[error("queue `{name}` belongs to application `{application}` in this database; choose another name")]
    QueueInUse {
        /// The name.
        name: String,
        /// Whose it is.
        application: String,
    },
    /// The id belongs to another workflow.
    #[error("workflow id {workflow} belongs to a run of `{recorded}`, so it cannot name one of `{asked}`")]
    IdInUse {
        /// The id.
        workflow: WorkflowId,
        /// Whose it is.
        recorded: String,
        /// Who asked for it.
        asked: String,
    },
    /// There is no workflow with this id: it was never started, or its row was deleted.
    #[error("there is no workflow {workflow}")]
    NotFound {
        /// The id.
        workflow: WorkflowId,
    },
    /// The engine does not run yet; [`crate::Engine::launch`] starts it.
    #[error("the engine is not launched; call launch() first")]
    NotLaunched,
    /// Workflows and queues are registered before the launch, so that recovery finds them.
    #[error("the engine is launched already; register workflows and queues before launch()")]
    AlreadyLaunched,
    /// The engine was opened in another process, of which this one is a fork. Its threads, connections and locks
    /// belong to that one.
    #[error(
        "the engine was opened in process {opened_in}, and this is process {this}, a fork of it; open an engine after \
         the fork"
    )]
    Forked {
        /// The process that opened the engine.
        opened_in: u32,
        /// The process that called it.
        this: u32,
    },
    /// The engine takes no more work.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The body of a transaction step, or an observer, called the engine. A commit waits for it to return, so the
    /// call could not end.
    #[error(
        "{callback} cannot call the engine, because a commit waits for it to return; make the call afterwards"
    )]
    InsideCallback {
        /// Who called.
        callback: &'static str,
    },
    /// The system database does not answer, and the call waited for it long enough (30 s).
    #[error(
        "the system database does not answer ({reason}); {}",
        if *.begun { "the call may take effect yet, so make it again under the same id" } else { "nothing was written" }
    )]
    Unanswered {
        /// The write was handed to the database: it may be made when that answers again.
        begun: bool,
        /// What the last try ended with.
        reason: String,
    },
    /// The system database failed.
    #[error("system database: {statement}: {source}")]
    Database {
        /// Name of the statement.
        statement: &'static str,
        /// What the driver says.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

fn through(others: &[WorkflowId]) -> String {
    const SHOWN: usize = 3;
    let mut names: Vec<_> = others.iter().take(SHOWN).map(ToString::to_string).collect();
    match others.len() {
        0 => return String::new(),
        count if count > SHOWN => names.push(format!("{} more", count - SHOWN)),
        _ => {}
    }
    format!(" (through {})", names.join(", "))
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StepFailed { step, failure } if f.alternate() => {
                f.debug_struct("StepFailed").field("step", step).field("failure", failure).finish()
            }
            Self::RetriesExhausted { step, attempts } if f.alternate() => {
                f.debug_struct("RetriesExhausted").field("step", step).field("attempts", attempts).finish()
            }
            Self::WorkflowFailed { workflow, failure } if f.alternate() => f
                .debug_struct("WorkflowFailed")
                .field("workflow", workflow)
                .field("failure", failure)
                .finish(),
            // The text of the others holds all that they know.
            _ => fmt::Display::fmt(self, f),
        }
    }
}

/// Why the engine ends an execution before the workflow does. Never recorded as an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// An operator cancelled the workflow.
    Cancelled,
    /// The engine shuts down; another executor, or the next start, goes on from the last recorded step.
    ShuttingDown,
    /// Another execution has claimed the workflow. This one wrote nothing since.
    NotOwner,
    /// Somebody deleted the workflow's row from the system database. Nothing of it goes on.
    Deleted,
    /// The workflow waits for something far away and gives its thread back; it is replayed when that is due.
    Suspended,
    /// The workflow's function has returned. A context that was moved elsewhere is of no use any more.
    Returned,
    /// The system database refused a write for good.
    Database(Arc<str>),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("it was cancelled"),
            Self::ShuttingDown => f.write_str("the engine is shutting down"),
            Self::NotOwner => f.write_str("another execution owns it now"),
            Self::Deleted => f.write_str("its row was deleted from the system database"),
            Self::Suspended => f.write_str("it waits without a thread"),
            Self::Returned => f.write_str("its function has returned"),
            Self::Database(reason) => write!(f, "the system database failed: {reason}"),
        }
    }
}

/// An error as the database holds it: what a first run sees and a replay sees again.
///
/// Every error is recorded with a name and its text, which ends with the texts of its causes. The name is:
/// - the one that the program registered for its type, or for the type of one of its causes
///   ([`crate::Engine::register_error`]); then its fields are recorded as data, too;
/// - otherwise the type's own, without its path. A text, a box and an `anyhow::Error` have none and are named `Error`,
///   unless a failure or an error of a step is among their causes, which keeps its name.
///
/// Build one yourself to add a code or data:
///
/// ```
/// use engine::Failure;
/// let declined = Failure::new("CardDeclined", "the bank said no").with_code(402).with_data("soft");
/// assert_eq!(declined.to_string(), "CardDeclined: the bank said no");
/// assert_eq!(declined.data::<String>()?, "soft");
/// # Ok::<_, engine::Error>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Failure(Box<Told>);

/// The portable form of an error in all DBOS SDKs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Told {
    name: String,
    message: String,
    #[serde(default)]
    code: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    data: Value,
    #[serde(skip)]
    by_engine: ByEngine,
}

/// Whether the engine itself decided that the failure happened. An error of the work may have any name, and nothing
/// follows from it.
#[derive(Debug, Clone, Copy, Default)]
struct ByEngine(bool);

/// Failures that say the same are the same.
impl PartialEq for ByEngine {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// How the record of a failure of the work begins whose name is one of [`DECISIVE`]. To every reader of JSON it is the
/// portable form, which has no room for a mark; but no text that begins with a name of the engine's own begins so.
const OF_THE_WORK: &str = "{ ";

impl Failure {
    /// A failure with a name to tell it by and a message for people.
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        let (name, message) = (name.into(), message.into());
        let (code, data, by_engine) = (Value::Null, Value::Null, ByEngine(false));
        Self(Box::new(Told { name, message, code, data, by_engine }))
    }

    /// One that the engine decided on, under a name that it keeps for itself ([`DECISIVE`]).
    pub(crate) fn by_engine(name: &'static str, message: impl Into<String>) -> Self {
        let mut failure = Self::new(name, message);
        failure.0.by_engine = ByEngine(true);
        failure
    }

    /// Whether the engine decided on a failure of this name. That somebody's error has the name says nothing.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.0.by_engine.0 && self.0.name == name
    }

    /// Whether the right program could go on where this one failed.
    pub(crate) fn is_about_the_program(&self) -> bool {
        RESUMABLE.iter().any(|name| self.is(name))
    }

    /// The same as an outcome of the work: nothing follows from its name.
    pub(crate) fn of_the_work(mut self) -> Self {
        self.0.by_engine = ByEngine(false);
        self
    }

    /// The text for an `error` column, of the portable form.
    pub(crate) fn marked(&self, mut portable: String) -> String {
        if !self.0.by_engine.0 && DECISIVE.contains(&self.name()) {
            portable.replace_range(..1, OF_THE_WORK);
        }
        portable
    }

    /// What a portable form says that was read from this text. A failure of a decisive name is the engine's own unless it
    /// is marked.
    pub(crate) fn marked_in(mut self, text: &str) -> Self {
        self.0.by_engine = ByEngine(DECISIVE.contains(&self.name()) && !text.starts_with(OF_THE_WORK));
        self
    }

    /// Adds a code: a number or a text.
    #[must_use]
    pub fn with_code(mut self, code: impl Serialize) -> Self {
        self.0.code = tree_or_reason("code", code);
        self
    }

    /// Adds anything that JSON can hold. Of data that it cannot hold, the reason is recorded instead.
    #[must_use]
    pub fn with_data(mut self, data: impl Serialize) -> Self {
        self.0.data = tree_or_reason("data", data);
        self
    }

    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// The name to tell it by.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The code; JSON `null` when there is none.
    pub fn code_value(&self) -> &Value {
        &self.0.code
    }

    /// The data as the type that it was made of: for an error of a registered type, that type.
    ///
    /// # Errors
    /// [`Error::Undecodable`] when there is none, or it is no `T`.
    ///
    /// # Example
    /// ```
    /// # use engine::{Error, Handle};
    /// #[derive(Debug, serde::Serialize, serde::Deserialize, thiserror::Error)]
    /// #[error("card {card} was declined")]
    /// struct Declined { card: u8 }
    ///
    /// fn declined_card(order: &Handle<u32>) -> Option<u8> {
    ///     match order.result() {
    ///         Err(Error::WorkflowFailed { failure, .. }) if failure.name() == "card_declined" => {
    ///             failure.data::<Declined>().ok().map(|declined| declined.card)
    ///         }
    ///         _ => None,
    ///     }
    /// }
    /// ```
    pub fn data<T: DeserializeOwned>(&self) -> Result<T> {
        codec::of_tree(&self.0.data).map_err(|reason| {
            let what = format!("data of error {}", self.name());
            Error::Undecodable { what, reason }
        })
    }

    /// The data; JSON `null` when there is none.
    pub fn data_value(&self) -> &Value {
        &self.0.data
    }

    /// Keeps what the error of a step or a child said about itself, under the message that says where. It is the
    /// outcome of the work that returned it, but for a value that this program could not read.
    pub(crate) fn of_engine(error: &Error) -> Self {
        let message = error.to_string();
        match error {
            Error::StepFailed { failure, .. } => failure.under(message),
            Error::WorkflowFailed { workflow, failure } => failure.below(workflow),
            Error::RetriesExhausted { step, attempts } => {
                Self::retries_exhausted(step, attempts.clone()).of_the_work()
            }
            Error::Undecodable { .. } => Self::by_engine(UNDECODABLE, message),
            Error::NonDeterminism { .. } => Self::new(NON_DETERMINISM, message),
            Error::WorkflowCancelled { .. } => Self::new(AWAITED_CANCELLED, message),
            Error::RecoveryAttemptsExceeded { .. } => Self::new(AWAITED_PARKED, message),
            Error::CircularWait { .. } => Self::new(CIRCULAR_WAIT, message),
            _ => Self::new("PitonError", message),
        }
    }

    /// What a run ends with whose record does not fit the program, because of this error.
    pub(crate) fn of_misfit(error: &Error) -> Self {
        match error {
            Error::NonDeterminism { .. } | Error::Dropped { .. } => {
                Self::by_engine(NON_DETERMINISM, error.to_string())
            }
            _ => Self::of_engine(error),
        }
    }

    /// The same as an outcome of the work, under another message.
    fn under(&self, message: String) -> Self {
        let mut failure = self.clone().of_the_work();
        failure.0.message = message;
        failure
    }

    /// The failure of a workflow that failed of this one of `workflow`. It tells the nearest workflow and the one in which
    /// it began; those between have rows of their own.
    fn below(&self, workflow: &WorkflowId) -> Self {
        let retold = match self.began_below() {
            Some((between, first)) => {
                let plural = if between == 0 { "" } else { "s" };
                Some(format!("({} workflow{plural} between) {first}", between + 1))
            }
            None => in_short(self.message(), workflow),
        };
        let failure = retold.map_or_else(|| self.clone(), |message| self.under(message));
        let error = Error::WorkflowFailed { workflow: workflow.clone(), failure };
        self.under(error.to_string())
    }

    /// Where it began, and how many workflows are left out between there and the nearest one, when the message tells of
    /// two. A user's message that reads like this is cut like this.
    fn began_below(&self) -> Option<(u32, &str)> {
        let (_, told) = self.message().strip_prefix("workflow ")?.split_once(" failed: ")?;
        let told = told.strip_prefix(self.name()).and_then(|told| told.strip_prefix(": ")).unwrap_or(told);
        let between = told.strip_prefix('(').and_then(|told| told.split_once(" between) "));
        let counted = between.and_then(|(count, first)| {
            let count = count.strip_suffix(" workflows").or_else(|| count.strip_suffix(" workflow"))?;
            Some((count.parse().ok()?, first))
        });
        counted.or_else(|| (told.starts_with("workflow ") && told.contains(" failed: ")).then_some((0, told)))
    }

    /// The record of a step that failed at every attempt.
    pub(crate) fn retries_exhausted(step: &str, attempts: FailedAttempts) -> Self {
        let data = codec::tree(&attempts).unwrap_or(Value::Null);
        let error = Error::RetriesExhausted { step: step.to_owned(), attempts };
        let mut failure = Self::by_engine(RETRIES_EXHAUSTED, error.to_string());
        failure.0.data = data;
        failure
    }

    /// Whether it says the same; the data may differ.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (one, other) = (&self.0, &other.0);
        one.name == other.name && one.message == other.message && one.code == other.code
    }

    /// The same if it is short; otherwise the beginning of its message, without the data.
    pub(crate) fn cut(&self, chars_max: usize) -> Self {
        let data_chars = if self.0.data.is_null() { 0 } else { self.0.data.to_string().len() };
        if self.0.message.len() + data_chars <= chars_max {
            return self.clone();
        }
        let short = |text: &str| text.chars().take(chars_max).collect::<String>();
        let code = if self.0.code.to_string().len() > chars_max { Value::Null } else { self.0.code.clone() };
        let message = format!("{} (cut)", short(self.message()));
        let mut failure = Self::new(short(self.name()), message).with_code(code);
        failure.0.by_engine = self.0.by_engine;
        failure
    }

    /// One of the same name with another message, and nothing else.
    pub(crate) fn retold(&self, message: String) -> Self {
        let mut failure = Self::new(self.name(), message);
        failure.0.by_engine = self.0.by_engine;
        failure
    }

    /// The record of a panic, whose payload is usually a text.
    pub(crate) fn of_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        Self::new(PANIC, format!("panicked: {}", text.unwrap_or("(no message)")))
    }

    /// The error that a step returns for what is recorded of it.
    pub(crate) fn into_step_error(self, step: &str) -> Error {
        if self.is(RETRIES_EXHAUSTED)
            && let Some(attempts) = self.data().ok().or_else(|| self.attempts_listed())
        {
            return Error::RetriesExhausted { step: step.to_owned(), attempts };
        }
        Error::StepFailed { step: step.to_owned(), failure: self.of_the_work() }
    }

    /// An older form of the record, in which each attempt is listed.
    fn attempts_listed(&self) -> Option<FailedAttempts> {
        #[derive(Deserialize)]
        struct Listed {
            attempts: Vec<Failure>,
        }
        let mut attempts = FailedAttempts::none();
        self.data::<Listed>().ok()?.attempts.iter().for_each(|failure| attempts.add(failure));
        Some(attempts)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A type that is merely called Error, and a list of attempts, say nothing by their name.
        match self.name() {
            UNNAMED | RETRIES_EXHAUSTED => f.write_str(self.message()),
            name => write!(f, "{name}: {}", self.message()),
        }
    }
}

/// Its text; with `{:#?}` its parts.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { fmt::Debug::fmt(&self.0, f) } else { fmt::Display::fmt(self, f) }
    }
}

impl std::error::Error for Failure {}

/// How long a message may be that a parent tells again whole.
const RETOLD_BYTES_MAX: usize = 8192;

/// The name of a failure of which none is known.
pub(crate) const UNNAMED: &str = "Error";

/// Names of the failures that the engine records itself. The first three are those of DBOS.
pub(crate) const RETRIES_EXHAUSTED: &str = "DBOSMaxStepRetriesExceeded";
pub(crate) const AWAITED_CANCELLED: &str = "DBOSAwaitedWorkflowCancelledError";
pub(crate) const AWAITED_PARKED: &str = "DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded";
pub(crate) const PANIC: &str = "PitonPanic";
pub(crate) const UNENCODABLE: &str = "PitonUnencodable";
pub(crate) const UNDECODABLE: &str = "PitonUndecodable";
/// Of an attempt of a step that took longer than its options allow.
pub(crate) const TIMED_OUT: &str = "PitonTimeout";
pub(crate) const NON_DETERMINISM: &str = "PitonNonDeterminism";
pub(crate) const NOT_REGISTERED: &str = "PitonWorkflowNotRegistered";
pub(crate) const NOT_FOUND: &str = "PitonWorkflowNotFound";
pub(crate) const CIRCULAR_WAIT: &str = "PitonCircularWait";
/// Not resumable: no call can name such a workflow.
#[cfg(feature = "sqlite")]
pub(crate) const UNREADABLE: &str = "PitonUnreadable";
pub(crate) const PARKED: &str = "MaxRecoveryAttemptsExceeded";

/// Names from which something follows. A failure of the work that has one of them is marked in its record, so that
/// nothing follows from it.
pub(crate) const DECISIVE: [&str; 8] = [
    RETRIES_EXHAUSTED,
    AWAITED_CANCELLED,
    AWAITED_PARKED,
    NOT_FOUND,
    CIRCULAR_WAIT,
    UNDECODABLE,
    NON_DETERMINISM,
    NOT_REGISTERED,
];

/// Failures about the program, not about the work: the right program can go on, so `resume` may.
pub(crate) const RESUMABLE: [&str; 3] = [UNDECODABLE, NON_DETERMINISM, NOT_REGISTERED];

/// A very long message of a workflow without its middle, which the workflow's own row keeps.
fn in_short(message: &str, workflow: &WorkflowId) -> Option<String> {
    if message.len() <= RETOLD_BYTES_MAX {
        return None;
    }
    // A cut in the middle of a character would not be a text.
    let at_most = |at: usize| (0..=at).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    let start = &message[..at_most(RETOLD_BYTES_MAX / 4)];
    let end = &message[at_most(message.len() - RETOLD_BYTES_MAX / 2)..];
    let left_out = message.len() - start.len() - end.len();
    Some(format!("{start} ({left_out} bytes are left out here; workflow {workflow} has them) {end}"))
}

/// Whether a failure of this name is one of the engine, or of a DBOS SDK.
pub(crate) fn is_own_name(name: &str) -> bool {
    name.starts_with("Piton") || name.starts_with("DBOS") || name == PARKED
}

fn tree_or_reason(what: &str, value: impl Serialize) -> Value {
    let tree = codec::tree_of(value);
    tree.unwrap_or_else(|reason| format!("(this {what} cannot be recorded: {reason})").into())
}

/// `pay::Declined<u8>` is told as `Declined`; a text or a box has no name of its own.
pub(crate) fn name_of_type(path: &str) -> &str {
    let path = path.split('<').next().unwrap_or(path);
    match path.rsplit("::").next() {
        Some("String" | "&str" | "Box") | None => UNNAMED,
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(record: &str) -> Failure {
        codec::decode_failure(Some(codec::Codec::PortableJson.name()), record)
    }

    #[test]
    fn a_built_failure_keeps_its_code_and_data_through_a_step_and_its_workflow() {
        let built =
            Failure::new("AppErr", "with code").with_code(42).with_data(serde_json::json!({"retry": true}));
        let from_step = built.clone().into_step_error("pay");
        let of_workflow = Failure::of_engine(&from_step);
        assert_eq!(of_workflow.name(), "AppErr");
        assert_eq!(of_workflow.message(), "step pay failed: AppErr: with code");
        assert_eq!(
            (of_workflow.code_value(), of_workflow.data_value()),
            (built.code_value(), built.data_value())
        );
    }

    #[test]
    fn exhausted_retries_read_back_with_every_attempt() {
        let mut attempts = FailedAttempts::none();
        attempts.add(&Failure::new("A", "one"));
        attempts.add(&Failure::new("B", "two").with_code("x"));
        let recorded = Failure::retries_exhausted("pay", attempts.clone());
        assert_eq!(recorded.message(), "step pay failed 2 times: attempt 1: A: one; attempt 2: B: two");
        let text = codec::encode_failure(&recorded);
        let error = read(&text).into_step_error("pay");
        assert!(matches!(error, Error::RetriesExhausted { attempts: read, .. } if read == attempts));
    }

    #[test]
    fn attempts_that_were_recorded_one_by_one_are_read() {
        let text = r#"{"name":"DBOSMaxStepRetriesExceeded","message":"step pay failed 2 times","code":null,
            "data":{"attempts":[{"name":"A","message":"one"},{"name":"A","message":"one"}]}}"#;
        let error = read(text).into_step_error("pay");
        let Error::RetriesExhausted { attempts, .. } = error else { panic!("{error}") };
        assert_eq!((attempts.count(), attempts.alike().len()), (2, 1));
        assert_eq!(attempts.first().map(Failure::name), Some("A"));
    }

    /// What a parent's parent's ... parent is told of this.
    fn seen_from(levels: u32, root: Failure) -> (Failure, String) {
        let mut failure = root;
        for level in 0..levels {
            let workflow = WorkflowId::new(format!("w{}", levels - level)).unwrap();
            let error = Error::WorkflowFailed { workflow, failure };
            failure = read(&codec::encode_failure(&Failure::of_engine(&error)));
        }
        (failure.clone(), failure.message().to_owned())
    }

    #[test]
    fn an_error_from_far_below_tells_the_nearest_workflow_and_the_first() {
        let root = || Failure::new("Boom", "no luck").with_code(7);
        assert_eq!(seen_from(1, root()).1, "workflow w1 failed: Boom: no luck");
        assert_eq!(seen_from(2, root()).1, "workflow w1 failed: Boom: workflow w2 failed: Boom: no luck");
        let one = "workflow w1 failed: Boom: (1 workflow between) workflow w3 failed: Boom: no luck";
        assert_eq!(seen_from(3, root()).1, one);
        let (failure, message) = seen_from(500, root());
        assert_eq!(
            message,
            "workflow w1 failed: Boom: (498 workflows between) workflow w500 failed: Boom: no luck"
        );
        assert_eq!((failure.name(), failure.code_value()), ("Boom", &Value::from(7)));
    }

    #[test]
    fn a_long_message_that_each_level_wraps_stays_bounded() {
        let mut failure = Failure::new("Boom", "no luck");
        for level in 0..300 {
            let workflow = WorkflowId::new(format!("{level}-{}", "x".repeat(200))).unwrap();
            let text = Error::WorkflowFailed { workflow, failure: failure.clone() }.to_string();
            failure = Failure::of_engine(&Error::WorkflowFailed {
                workflow: WorkflowId::new("w").unwrap(),
                failure: Failure::new(UNNAMED, text),
            });
        }
        assert!(failure.message().len() < 2 * RETOLD_BYTES_MAX, "{}", failure.message().len());
        assert!(failure.message().ends_with("no luck"));
    }

    #[test]
    fn the_name_of_a_users_error_decides_nothing() {
        for name in DECISIVE {
            let users = Failure::new(name, "m").with_data(serde_json::json!({ "count": 0, "alike": [] }));
            let text = codec::encode_failure(&users);
            assert!(!read(&text).is(name), "{text}");
            assert!(!text.starts_with(&format!("{{\"name\":\"{name}")), "{text}");
            assert!(matches!(read(&text).into_step_error("s"), Error::StepFailed { .. }), "{text}");
            let engines = codec::encode_failure(&Failure::by_engine(name, "m"));
            assert!(read(&engines).is(name), "{engines}");
            assert_eq!(engines, format!(r#"{{"name":"{name}","message":"m","code":null}}"#));
        }
    }

    #[test]
    fn the_debug_text_of_an_error_is_what_a_main_shall_print() {
        let error = Failure::new("Declined", "no").into_step_error("pay");
        assert_eq!(format!("{error:?}"), "step pay failed: Declined: no");
        assert!(format!("{error:#?}").starts_with("StepFailed {\n    step: \"pay\""));
        let failure = Failure::new("Declined", "no");
        assert_eq!(format!("{failure:?}"), "Declined: no");
        assert!(format!("{failure:#?}").contains("code: Null"));
    }

    #[test]
    fn data_too_deep_for_its_record_is_told_and_not_kept() {
        let deep = (0..100_000).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        let failure = Failure::new("E", "m").with_data(deep);
        let told = failure.data::<String>().unwrap();
        assert!(
            told.starts_with("(this data cannot be recorded: it is nested more than 256 levels"),
            "{told}"
        );
    }

    #[test]
    fn a_failure_has_the_portable_shape() {
        let text = serde_json::to_string(&Failure::new("ValueError", "portable boom")).unwrap();
        assert_eq!(text, r#"{"name":"ValueError","message":"portable boom","code":null}"#);
    }

    #[test]
    fn a_panic_without_a_text_is_still_told() {
        assert_eq!(Failure::of_panic(&"boom").to_string(), "PitonPanic: panicked: boom");
        assert_eq!(Failure::of_panic(&7_u8).to_string(), "PitonPanic: panicked: (no message)");
    }
}
