//! Errors: for callers ([`Error`]) and for the record ([`Failure`]).

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pure::codec;
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::tally::FailedAttempts;

/// The result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of a user's function. Every type that is `Error + Send + Sync` turns into it. So do texts, `anyhow::Error`
/// and boxed errors.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a durable operation failed. Each variant is a case on which a caller can act.
///
/// `Debug` writes the same text as `Display`, so a `main` that returns this error prints it readably. `{:#?}` shows the
/// parts of a recorded failure.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The body failed. Recorded: a replay returns the same error.
    #[error("step {step} failed: {failure}")]
    StepFailed {
        /// Name of the step.
        step: String,
        /// The error of the body.
        failure: Failure,
    },
    /// The body failed on its last permitted attempt. Recorded: a replay returns the same error.
    #[error("step {step} failed {} times: {attempts}", .attempts.count())]
    RetriesExhausted {
        /// Name of the step.
        step: String,
        /// The errors of all attempts, and how often each came.
        attempts: FailedAttempts,
    },
    /// The awaited workflow ended with an error.
    #[error("workflow {workflow} failed: {failure}")]
    WorkflowFailed {
        /// The awaited workflow.
        workflow: WorkflowId,
        /// The error with which it ended.
        failure: Failure,
    },
    /// The awaited workflow was cancelled.
    #[error("workflow {workflow} was cancelled")]
    WorkflowCancelled {
        /// The awaited workflow.
        workflow: WorkflowId,
    },
    /// The workflow waits for itself, through one or more other workflows. Recorded: a replay returns the same error.
    #[error("workflow {workflow} cannot wait for {awaited}, which waits for {workflow}{}: none of them would end", through(.others))]
    CircularWait {
        /// The workflow that refused to wait.
        workflow: WorkflowId,
        /// The workflow for which it would have waited.
        awaited: WorkflowId,
        /// The workflows between the two, in the order of their waits.
        others: Vec<WorkflowId>,
    },
    /// The workflow ended with an error of its own code. Such an end is final: its records would lead to the same error
    /// again. Where the work may yet succeed, let the step try again, and return no error.
    #[error(
        "workflow {workflow} cannot be resumed: its own code failed, which is final ({failure}); start a new run under \
         another id"
    )]
    Final {
        /// The workflow.
        workflow: WorkflowId,
        /// The error with which it ended.
        failure: Failure,
    },
    /// The awaited workflow was recovered more often than its limit allows. It is parked until
    /// [`crate::Engine::resume`].
    #[error("workflow {workflow} is parked: {reason}")]
    RecoveryAttemptsExceeded {
        /// The awaited workflow.
        workflow: WorkflowId,
        /// The reason, with the number of attempts.
        reason: String,
    },
    /// The engine ends this execution. Nothing more is recorded for it; hand the error on with `?`.
    #[error("workflow {workflow} stops here: {reason}")]
    Stopped {
        /// The workflow.
        workflow: WorkflowId,
        /// The reason.
        reason: Stop,
    },
    /// The workflow asked for another step than the step that it recorded in this place. Nothing was written. The
    /// workflow ends with this error. Put the old order back and resume it.
    #[error(
        "workflow {workflow} is not deterministic: step {step} is recorded as `{recorded}`, but the code now asks \
         for `{asked}`; put the old order of operations back, then resume the workflow"
    )]
    NonDeterminism {
        /// The workflow.
        workflow: WorkflowId,
        /// The place.
        step: StepId,
        /// The operation that an earlier run recorded there.
        recorded: String,
        /// The operation that this run asked for.
        asked: String,
    },
    /// An async workflow dropped the future of an operation before its end. `select!`, a timeout around the future, and
    /// an early return from `try_join!` do that.
    ///
    /// A replay could not know of the drop. So no further operation happens, and the workflow ends with this error.
    /// Mend the program and resume it.
    #[error(
        "workflow {workflow} dropped step {step} ({name}) before its end, so a replay could take another way. Await each \
         operation to its end. To limit a step, use the timeout of its options"
    )]
    Dropped {
        /// The workflow.
        workflow: WorkflowId,
        /// The operation.
        step: StepId,
        /// Its name.
        name: String,
    },
    /// An async workflow awaited a handle outside of its steps, where the outcome would not be recorded.
    #[error(
        "workflow {workflow} was awaited by its handle inside an async workflow. A replay could see another outcome. Start \
         the workflow with `ctx.start` and await that child, or await the handle in a step"
    )]
    AwaitedInWorkflow {
        /// The awaited workflow.
        workflow: WorkflowId,
    },
    /// A recorded value does not fit the type that the program asks for. The record is left as it is.
    #[error("{what} cannot be decoded: {reason}")]
    Undecodable {
        /// The value, in words.
        what: String,
        /// The reason, from the codec.
        reason: String,
    },
    /// A value cannot be recorded.
    #[error("{what} cannot be encoded: {reason}")]
    Unencodable {
        /// The value, in words.
        what: String,
        /// The reason, from the codec.
        reason: String,
    },
    /// An id or a name that no database key can carry.
    #[error("{what} `{name}` {reason}")]
    InvalidName {
        /// The kind of name.
        what: &'static str,
        /// The name, shortened.
        name: String,
        /// The reason for the refusal.
        reason: String,
    },
    /// An option without meaning.
    #[error("{what}: {reason}")]
    InvalidOption {
        /// The option.
        what: String,
        /// The reason for the refusal.
        reason: String,
    },
    /// A database URL that cannot be used.
    #[error("database URL {url}: {reason}")]
    InvalidUrl {
        /// The URL without its password.
        url: String,
        /// The reason, and a URL to use instead.
        reason: String,
    },
    /// The system database cannot be opened. It was not changed.
    #[error("cannot open the system database {database}: {reason}")]
    Open {
        /// The database: its file, or its URL without the password.
        database: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// No workflow of this name is registered in this program.
    #[error("workflow `{name}` is not registered in this program; registered workflows: {registered}")]
    NotRegistered {
        /// The name that the call asked for.
        name: String,
        /// The names that are registered.
        registered: String,
    },
    /// The name of a workflow or of a queue is taken, or the name or type of an error.
    #[error("a {what} named `{name}` is registered already")]
    AlreadyRegistered {
        /// The kind of name: a workflow, a queue or a kind of error.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The name of a queue belongs to another application in the same database.
    #[error("queue `{name}` belongs to application `{application}` in this database; choose another name")]
    QueueInUse {
        /// The name.
        name: String,
        /// The application that has the queue.
        application: String,
    },
    /// The id belongs to another workflow.
    #[error(
        "workflow id {workflow} belongs to a run of `{recorded}`; choose another id for the run of `{asked}`"
    )]
    IdInUse {
        /// The id.
        workflow: WorkflowId,
        /// The workflow to which the id belongs.
        recorded: String,
        /// The workflow for which the id was asked.
        asked: String,
    },
    /// There is no workflow with this id: it was never started, or its row was deleted.
    #[error("there is no workflow {workflow}")]
    NotFound {
        /// The id.
        workflow: WorkflowId,
    },
    /// The engine is not launched yet; [`crate::Engine::launch`] launches it.
    #[error("the engine is not launched; call launch() first")]
    NotLaunched,
    /// The engine is launched already. Workflows and queues are registered before the launch, so that recovery finds
    /// them.
    #[error("the engine is launched already; register workflows and queues before launch()")]
    AlreadyLaunched,
    /// The engine was opened in another process, and this process is a fork of it. The engine's threads, connections
    /// and locks belong to the other process.
    #[error(
        "the engine was opened in process {opened_in}, and this is process {this}, a fork of it; open an engine after \
         the fork"
    )]
    Forked {
        /// The id of the process that opened the engine.
        opened_in: u32,
        /// The id of the process that made the call.
        this: u32,
    },
    /// The engine takes no more work.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The body of a transaction step, or an observer, called the engine. A commit waits for that code to return, so
    /// the call could not end.
    #[error(
        "{callback} cannot call the engine, because a commit waits for it to return; make the call afterwards"
    )]
    InsideCallback {
        /// The code that called: a transaction step or an observer.
        callback: &'static str,
    },
    /// The system database does not answer, and the call has waited for 30 s.
    #[error(
        "the system database does not answer ({reason}); {}",
        if *.begun { "the call may still take effect; repeat it with the same id" } else { "nothing was written" }
    )]
    Unanswered {
        /// Whether the write was handed to the database. If so, it may still be made when the database answers again.
        begun: bool,
        /// The error of the last try.
        reason: String,
    },
    /// The system database failed.
    #[error("system database: {statement}: {source}")]
    Database {
        /// Name of the statement.
        statement: &'static str,
        /// The driver's error.
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
            // The text of every other variant holds all its parts.
            _ => fmt::Display::fmt(self, f),
        }
    }
}

/// The reason why the engine ends an execution before the workflow ends. It is never recorded as an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// An operator cancelled the workflow.
    Cancelled,
    /// The engine shuts down. Another executor, or the next start, goes on from the last recorded step.
    ShuttingDown,
    /// Another execution has claimed the workflow. This execution wrote nothing since.
    NotOwner,
    /// The workflow's row was deleted from the system database. No execution of it goes on.
    Deleted,
    /// The workflow waits for a long time and gives its thread back. It is replayed when its wait ends.
    Suspended,
    /// The workflow's function has returned. A context that was moved out of it is of no use any more.
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
            Self::Suspended => {
                f.write_str("it gave its thread back for a long wait; it is replayed when the wait ends")
            }
            Self::Returned => f.write_str("its function has returned"),
            Self::Database(reason) => write!(f, "the system database failed: {reason}"),
        }
    }
}

/// An error as the database holds it. A first run and every replay see the same failure.
///
/// Every error is recorded with a name and its text, which ends with the texts of its causes.
///
/// | the error | its name |
/// |---|---|
/// | its type, or the type of a cause, is registered ([`crate::Engine::register_error`]) | the registered name; its fields are recorded as data, too |
/// | has a type with a name | the type's name, without its path |
/// | a text, a box or an `anyhow::Error` | the name of a failure or step error among its causes, or `Error` |
///
/// Build a failure yourself to add a code or data:
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
pub struct Failure(Box<Portable>);

/// The portable form of an error in all DBOS SDKs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Portable {
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

/// The mark does not count when two failures are compared.
impl PartialEq for ByEngine {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The beginning of the record of a failure of the work whose name is one of [`DECISIVE`]. Every reader of JSON sees
/// the portable form, which has no room for a mark. No unmarked record begins like this.
const OF_THE_WORK: &str = "{ ";

impl Failure {
    /// Makes a failure with a name for programs and a message for people.
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        let (name, message) = (name.into(), message.into());
        let (code, data, by_engine) = (Value::Null, Value::Null, ByEngine(false));
        Self(Box::new(Portable { name, message, code, data, by_engine }))
    }

    /// Makes a failure that the engine decided on, under a name that it keeps for itself ([`DECISIVE`]).
    pub(crate) fn by_engine(name: &'static str, message: impl Into<String>) -> Self {
        let mut failure = Self::new(name, message);
        failure.0.by_engine = ByEngine(true);
        failure
    }

    /// Whether the engine decided on a failure of this name. A user's error of that name does not count.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.0.by_engine.0 && self.0.name == name
    }

    /// Whether the right program could go on where this run failed.
    pub(crate) fn is_about_the_program(&self) -> bool {
        RESUMABLE.iter().any(|name| self.is(name))
    }

    /// This failure as an outcome of the work: nothing follows from its name.
    pub(crate) fn of_the_work(mut self) -> Self {
        self.0.by_engine = ByEngine(false);
        self
    }

    /// The text for an `error` column: the portable form, marked if this is a failure of the work.
    pub(crate) fn marked(&self, mut portable: String) -> String {
        if !self.0.by_engine.0 && DECISIVE.contains(&self.name()) {
            portable.replace_range(..1, OF_THE_WORK);
        }
        portable
    }

    /// This failure as it was read from `text`. A failure of a decisive name is the engine's own, unless its text is
    /// marked.
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

    /// Adds data: any value that JSON can hold. If JSON cannot hold it, the reason is recorded instead.
    #[must_use]
    pub fn with_data(mut self, data: impl Serialize) -> Self {
        self.0.data = tree_or_reason("data", data);
        self
    }

    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// The name, by which programs tell failures apart.
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

    /// The data, decoded as a `T`. For an error of a registered type, that is the type.
    ///
    /// # Errors
    /// [`Error::Undecodable`] when there is no data, or it is no `T`.
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

    /// The failure in an error of the engine. It keeps the name, code and data of a step's or a child's failure, under
    /// a message that says where. It counts as an outcome of the work, unless this program could not read a value.
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

    /// The failure of a run whose record does not fit the program, because of this error.
    pub(crate) fn of_misfit(error: &Error) -> Self {
        match error {
            Error::NonDeterminism { .. } | Error::Dropped { .. } => {
                Self::by_engine(NON_DETERMINISM, error.to_string())
            }
            _ => Self::of_engine(error),
        }
    }

    /// This failure as an outcome of the work, under another message.
    fn under(&self, message: String) -> Self {
        let mut failure = self.clone().of_the_work();
        failure.0.message = message;
        failure
    }

    /// The failure of a workflow that hands on this failure of its child `workflow`. It tells the nearest workflow, and
    /// the workflow in which the failure began; the workflows between have rows of their own.
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

    /// Where the failure began, when the message tells of two workflows. Also how many workflows are left out between
    /// them. A user's message that reads like this is cut like this.
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

    /// The failure of a step that failed at every attempt.
    pub(crate) fn retries_exhausted(step: &str, attempts: FailedAttempts) -> Self {
        let data = codec::tree(&attempts).unwrap_or(Value::Null);
        let error = Error::RetriesExhausted { step: step.to_owned(), attempts };
        let mut failure = Self::by_engine(RETRIES_EXHAUSTED, error.to_string());
        failure.0.data = data;
        failure
    }

    /// Whether two failures have the same name, message and code. The data may differ.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (one, other) = (&self.0, &other.0);
        one.name == other.name && one.message == other.message && one.code == other.code
    }

    /// This failure if it is short. Otherwise the beginning of its message, without the data.
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

    /// A failure of the same name with another message, and nothing else.
    pub(crate) fn retold(&self, message: String) -> Self {
        let mut failure = Self::new(self.name(), message);
        failure.0.by_engine = self.0.by_engine;
        failure
    }

    /// The failure of a panic, whose payload is usually a text.
    pub(crate) fn of_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        Self::new(PANIC, format!("panicked: {}", text.unwrap_or("(no message)")))
    }

    /// The error that a step returns for this recorded failure.
    pub(crate) fn into_step_error(self, step: &str) -> Error {
        if self.is(RETRIES_EXHAUSTED)
            && let Some(attempts) = self.data().ok().or_else(|| self.attempts_listed())
        {
            return Error::RetriesExhausted { step: step.to_owned(), attempts };
        }
        Error::StepFailed { step: step.to_owned(), failure: self.of_the_work() }
    }

    /// Reads an older form of the record, in which each attempt is listed.
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
        // A type that is merely called Error tells nothing by its name. Neither does a list of attempts.
        match self.name() {
            UNNAMED | RETRIES_EXHAUSTED => f.write_str(self.message()),
            name => write!(f, "{name}: {}", self.message()),
        }
    }
}

/// Writes the text; with `{:#?}` the parts.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { fmt::Debug::fmt(&self.0, f) } else { fmt::Display::fmt(self, f) }
    }
}

impl std::error::Error for Failure {}

/// The longest message that a parent repeats whole, in bytes.
const RETOLD_BYTES_MAX: usize = 8192;

/// The name of a failure that has no known name.
pub(crate) const UNNAMED: &str = "Error";

/// The names of the failures that the engine records itself. The first three are names of DBOS.
pub(crate) const RETRIES_EXHAUSTED: &str = "DBOSMaxStepRetriesExceeded";
pub(crate) const AWAITED_CANCELLED: &str = "DBOSAwaitedWorkflowCancelledError";
pub(crate) const AWAITED_PARKED: &str = "DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded";
pub(crate) const PANIC: &str = "PitonPanic";
pub(crate) const UNENCODABLE: &str = "PitonUnencodable";
pub(crate) const UNDECODABLE: &str = "PitonUndecodable";
/// An attempt of a step took longer than its options allow.
pub(crate) const TIMED_OUT: &str = "PitonTimeout";
pub(crate) const NON_DETERMINISM: &str = "PitonNonDeterminism";
pub(crate) const NOT_REGISTERED: &str = "PitonWorkflowNotRegistered";
pub(crate) const NOT_FOUND: &str = "PitonWorkflowNotFound";
pub(crate) const CIRCULAR_WAIT: &str = "PitonCircularWait";
/// Not resumable: no call can name such a workflow.
#[cfg(feature = "sqlite")]
pub(crate) const UNREADABLE: &str = "PitonUnreadable";
pub(crate) const PARKED: &str = "MaxRecoveryAttemptsExceeded";

/// Names from which something follows. A failure of the work that has such a name is marked in its record, so that
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

/// Failures about the program, not about the work. The right program can go on, so `resume` lets it.
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

/// Whether the name belongs to a failure of the engine, or of a DBOS SDK.
pub(crate) fn is_own_name(name: &str) -> bool {
    name.starts_with("Piton") || name.starts_with("DBOS") || name == PARKED
}

fn tree_or_reason(what: &str, value: impl Serialize) -> Value {
    let tree = codec::tree_of(value);
    tree.unwrap_or_else(|reason| format!("(this {what} cannot be recorded: {reason})").into())
}

/// The name of a type without path and parameters: `Declined` for `pay::Declined<u8>`. A text or a box has none.
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

    /// The failure as an ancestor sees it, this many levels up.
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
