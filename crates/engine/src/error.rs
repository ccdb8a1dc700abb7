//! What can go wrong, for callers ([`Error`]) and for the record ([`Failure`]).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{StepId, WorkflowId};

/// What the calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of a user's function: everything that is `Error + Send + Sync` turns into it, so do texts,
/// `anyhow::Error` and a boxed error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a durable operation failed. Each variant is something a caller can act on.
#[derive(Debug, Clone, thiserror::Error)]
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
    #[error("step {step} failed {} times: {}", .attempts.len(), listed(.attempts))]
    RetriesExhausted {
        /// Name of the step.
        step: String,
        /// What the body said at each attempt, first to last.
        attempts: Vec<Failure>,
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
    /// Two functions want the same workflow name, or two queues are to have one name.
    #[error("a {what} named `{name}` is registered already")]
    AlreadyRegistered {
        /// A workflow or a queue.
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
    /// There is no workflow with this id.
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

fn listed(attempts: &[Failure]) -> String {
    let lines = attempts.iter().enumerate().map(|(n, failure)| format!("attempt {}: {failure}", n + 1));
    lines.collect::<Vec<_>>().join("; ")
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
    /// The workflow waits for something far away and gives its thread back; it is replayed when that is due.
    Suspended,
    /// The system database refused a write for good.
    Database(Arc<str>),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("it was cancelled"),
            Self::ShuttingDown => f.write_str("the engine is shutting down"),
            Self::NotOwner => f.write_str("another execution owns it now"),
            Self::Suspended => f.write_str("it waits without a thread"),
            Self::Database(reason) => write!(f, "the system database failed: {reason}"),
        }
    }
}

/// An error as the database holds it: what a first run sees and a replay sees again.
///
/// Every error type is recorded with its type's name and its text. Build one yourself to add a code or data:
///
/// ```
/// use engine::Failure;
/// let declined = Failure::new("CardDeclined", "the bank said no").code(402).data("soft");
/// assert_eq!(declined.to_string(), "CardDeclined: the bank said no");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

impl Failure {
    /// A failure with a name to tell it by and a message for people.
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        let (name, message) = (name.into(), message.into());
        Self(Box::new(Told { name, message, code: Value::Null, data: Value::Null }))
    }

    /// Adds a code: a number or a text.
    #[must_use]
    pub fn code(mut self, code: impl Into<Value>) -> Self {
        self.0.code = code.into();
        self
    }

    /// Adds anything that JSON can hold.
    #[must_use]
    pub fn data(mut self, data: impl Into<Value>) -> Self {
        self.0.data = data.into();
        self
    }

    /// The name: for an error type its last path segment.
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

    /// The data; JSON `null` when there is none.
    pub fn data_value(&self) -> &Value {
        &self.0.data
    }

    /// What is recorded of an error that a user's function returned.
    pub(crate) fn of<E: Into<BoxError>>(error: E) -> Self {
        Self::and_error(error).0
    }

    /// The same, and the error itself for whoever judges it.
    pub(crate) fn and_error<E: Into<BoxError>>(error: E) -> (Self, BoxError) {
        let name = name_of_type(std::any::type_name::<E>());
        let error: BoxError = error.into();
        let failure = match (error.downcast_ref::<Self>(), error.downcast_ref::<Error>()) {
            (Some(failure), _) => failure.clone(),
            (_, Some(error)) => Self::of_engine(error),
            _ => Self::new(name, message_of(error.as_ref())),
        };
        (failure, error)
    }

    /// Keeps what the error of a step or a child said about itself, under the message that says where.
    fn of_engine(error: &Error) -> Self {
        let message = error.to_string();
        match error {
            Error::StepFailed { failure, .. } | Error::WorkflowFailed { failure, .. } => {
                let mut failure = failure.clone();
                failure.0.message = message;
                failure
            }
            Error::RetriesExhausted { step, attempts } => Self::retries_exhausted(step, attempts),
            Error::NonDeterminism { .. } => Self::new(NON_DETERMINISM, message),
            Error::Undecodable { .. } => Self::new(UNDECODABLE, message),
            Error::WorkflowCancelled { .. } => Self::new(AWAITED_CANCELLED, message),
            Error::RecoveryAttemptsExceeded { .. } => Self::new(AWAITED_PARKED, message),
            _ => Self::new("PitonError", message),
        }
    }

    /// The record of a step that failed at every attempt.
    ///
    /// What the attempts said is cut where all of it together would not fit a record.
    pub(crate) fn retries_exhausted(step: &str, attempts: &[Self]) -> Self {
        let chars_max = ATTEMPTS_CHARS_MAX / attempts.len().max(1);
        let attempts: Vec<Self> = attempts.iter().map(|attempt| attempt.cut(chars_max)).collect();
        let data = serde_json::to_value(&attempts).unwrap_or(Value::Null);
        let error = Error::RetriesExhausted { step: step.to_owned(), attempts };
        Self::new(RETRIES_EXHAUSTED, error.to_string()).data(serde_json::json!({ "attempts": data }))
    }

    /// The same if it is short; otherwise the beginning of its message, without the data.
    fn cut(&self, chars_max: usize) -> Self {
        let data_chars = if self.0.data.is_null() { 0 } else { self.0.data.to_string().len() };
        if self.0.message.len() + data_chars <= chars_max {
            return self.clone();
        }
        let message: String = self.0.message.chars().take(chars_max).collect();
        Self::new(self.name(), format!("{message} (cut)")).code(self.0.code.clone())
    }

    /// The record of a panic, whose payload is usually a text.
    pub(crate) fn of_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        Self::new(PANIC, format!("panicked: {}", text.unwrap_or("(no message)")))
    }

    /// The error that a step returns for what is recorded of it.
    pub(crate) fn into_step_error(self, step: &str) -> Error {
        if self.0.name == RETRIES_EXHAUSTED
            && let Some(attempts) = self.0.data.get("attempts")
            && let Ok(attempts) = Vec::<Self>::deserialize(attempts)
        {
            return Error::RetriesExhausted { step: step.to_owned(), attempts };
        }
        Error::StepFailed { step: step.to_owned(), failure: self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A type that is merely called Error, and a list of attempts, say nothing by their name.
        match self.name() {
            "Error" | RETRIES_EXHAUSTED => f.write_str(self.message()),
            name => write!(f, "{name}: {}", self.message()),
        }
    }
}

impl std::error::Error for Failure {}

/// How much of what all attempts of a step said is recorded.
const ATTEMPTS_CHARS_MAX: usize = 1 << 20;

/// Names of the failures that the engine records itself. The first three are those of DBOS.
pub(crate) const RETRIES_EXHAUSTED: &str = "DBOSMaxStepRetriesExceeded";
pub(crate) const AWAITED_CANCELLED: &str = "DBOSAwaitedWorkflowCancelledError";
pub(crate) const AWAITED_PARKED: &str = "DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded";
pub(crate) const PANIC: &str = "PitonPanic";
pub(crate) const UNENCODABLE: &str = "PitonUnencodable";
pub(crate) const UNDECODABLE: &str = "PitonUndecodable";
pub(crate) const NON_DETERMINISM: &str = "PitonNonDeterminism";
pub(crate) const NOT_REGISTERED: &str = "PitonWorkflowNotRegistered";
/// Not resumable: no call can name such a workflow.
#[cfg(feature = "sqlite")]
pub(crate) const UNREADABLE: &str = "PitonUnreadable";
pub(crate) const PARKED: &str = "MaxRecoveryAttemptsExceeded";

/// Failures about the program, not about the work: the right program can go on, so `resume` may.
pub(crate) const RESUMABLE: [&str; 3] = [UNDECODABLE, NON_DETERMINISM, NOT_REGISTERED];

/// `pay::Declined<u8>` is told as `Declined`; a text or a box has no name of its own.
fn name_of_type(path: &str) -> &str {
    let path = path.split('<').next().unwrap_or(path);
    match path.rsplit("::").next() {
        Some("String" | "&str" | "Box") | None => "Error",
        Some(name) => name,
    }
}

/// The text of an error and of what caused it, each said once.
fn message_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("card {card} declined")]
    struct Declined {
        card: u8,
        #[source]
        why: std::num::ParseIntError,
    }

    #[test]
    fn an_error_is_recorded_with_its_types_name_and_its_causes() {
        let failure = Failure::of(Declined { card: 4, why: "x".parse::<u8>().unwrap_err() });
        assert_eq!(failure.to_string(), "Declined: card 4 declined: invalid digit found in string");
    }

    #[test]
    fn texts_and_boxed_errors_are_errors_too() {
        assert_eq!(Failure::of("no luck").to_string(), "no luck");
        assert_eq!(Failure::of("no luck".to_owned()).to_string(), "no luck");
        let boxed: BoxError = "no luck".into();
        assert_eq!(Failure::of(boxed).to_string(), "no luck");
    }

    #[test]
    fn a_built_failure_keeps_its_code_and_data_through_a_step_and_its_workflow() {
        let built = Failure::new("AppErr", "with code").code(42).data(serde_json::json!({"retry": true}));
        let from_step = Failure::of(built.clone()).into_step_error("pay");
        let of_workflow = Failure::of(from_step);
        assert_eq!(of_workflow.name(), "AppErr");
        assert_eq!(of_workflow.message(), "step pay failed: AppErr: with code");
        assert_eq!(
            (of_workflow.code_value(), of_workflow.data_value()),
            (built.code_value(), built.data_value())
        );
    }

    #[test]
    fn exhausted_retries_read_back_with_every_attempt() {
        let attempts = vec![Failure::new("A", "one"), Failure::new("B", "two").code("x")];
        let recorded = Failure::retries_exhausted("pay", &attempts);
        assert_eq!(recorded.message(), "step pay failed 2 times: attempt 1: A: one; attempt 2: B: two");
        let text = serde_json::to_string(&recorded).unwrap();
        let error = serde_json::from_str::<Failure>(&text).unwrap().into_step_error("pay");
        assert!(matches!(error, Error::RetriesExhausted { attempts: read, .. } if read == attempts));
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
