//! The attempts of one step: what its body may know, and what follows when it fails.
//!
//! Does not know: threads, waits, commits.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::flow::core::Run;
use crate::flow::known_errors::KnownErrors;
use crate::flow::operation::Begun;
use crate::flow::options::StepOptions;
use crate::pure::error::{BoxError, Error, Failure, Result, UNENCODABLE};
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::observer::Event;
use crate::pure::sync::contained;
use crate::pure::tally::FailedAttempts;

/// What the body of a step may know about itself.
#[derive(Clone)]
pub struct StepInfo {
    run: Arc<Run>,
    step_id: StepId,
    attempt: u32,
    attempts_max: u32,
}

impl StepInfo {
    /// The workflow that the step belongs to.
    pub fn workflow_id(&self) -> &WorkflowId {
        self.run.workflow()
    }

    /// The place of the step in its workflow. Together with the workflow id it names the step for good, as an
    /// idempotency key for outside systems does.
    pub fn step_id(&self) -> StepId {
        self.step_id
    }

    /// 1 for the first attempt. A crash starts the attempts anew.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How many attempts there may be.
    pub fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    /// Whether the workflow was told to stop: cancelled, taken over, or the engine is shutting down. A long body
    /// may look now and then and return early, with an error: from here on none is recorded, and the body runs again
    /// when the workflow goes on.
    pub fn cancelled(&self) -> bool {
        self.run.stop().is_some()
    }
}

impl std::fmt::Debug for StepInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepInfo")
            .field("workflow_id", self.workflow_id())
            .field("step_id", &self.step_id)
            .field("attempt", &self.attempt)
            .field("attempts_max", &self.attempts_max)
            .finish_non_exhaustive()
    }
}

/// Why a try of a step gave no value.
pub(crate) enum Tried {
    /// The body returned an error; whether it may be tried again is for the options to say.
    Failed { failure: Failure, error: BoxError },
    /// Trying again cannot help: a panic, an output that cannot be recorded.
    FailedForGood(Failure),
    /// The execution ends; the step has no outcome.
    Stopped(Error),
}

impl Tried {
    pub(crate) fn unencodable(error: &Error) -> Self {
        Self::FailedForGood(Failure::new(UNENCODABLE, error.to_string()))
    }
}

/// Runs a body of user code. A panic is a failure.
pub(crate) fn caught<T, E>(known: &KnownErrors, body: impl FnOnce() -> Result<T, E>) -> Result<T, Tried>
where
    E: Into<BoxError> + 'static,
{
    // The error's own conversion may panic as well.
    match catch_unwind(AssertUnwindSafe(|| body().map_err(|error| known.failure_of(error)))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err((failure, error))) => Err(Tried::Failed { failure, error }),
        Err(payload) => Err(Tried::FailedForGood(failure_of_panic(payload))),
    }
}

/// The failure of a panic. The payload may itself panic when it is dropped, with one that does too.
pub(crate) fn failure_of_panic(payload: Box<dyn Any + Send>) -> Failure {
    let failure = Failure::of_panic(payload.as_ref());
    contained(|| drop(payload));
    failure
}

/// The attempts of one step: what follows each of them. It neither runs nor waits.
pub(crate) struct Attempts<'s> {
    begun: &'s Begun,
    options: &'s StepOptions,
    /// From 1 on.
    attempt: u32,
    failed: FailedAttempts,
}

/// What follows an attempt that gave no value.
pub(crate) enum Next {
    /// Another one, after a while.
    Wait(Duration),
    /// None: this is what is recorded.
    Record(Failure),
    /// None: the execution ends, and nothing is recorded.
    Stop(Error),
}

impl<'s> Attempts<'s> {
    pub(crate) fn new(begun: &'s Begun, options: &'s StepOptions) -> Self {
        Self { begun, options, attempt: 1, failed: FailedAttempts::none() }
    }

    /// What the body may know about the attempt that comes now.
    pub(crate) fn info(&self) -> StepInfo {
        StepInfo {
            run: self.begun.execution.run.clone(),
            step_id: self.begun.place.step_id,
            attempt: self.attempt,
            attempts_max: self.options.retry.attempts_max,
        }
    }

    /// After an attempt that gave a value.
    pub(crate) fn succeeded(&self, took: Duration) {
        self.tell(None, None, took);
    }

    /// After an attempt that gave none.
    pub(crate) fn next(&mut self, tried: Tried, took: Duration) -> Next {
        let (failure, again) = match tried {
            Tried::Stopped(error) => return Next::Stop(error),
            Tried::FailedForGood(failure) => (failure, Again::Never),
            Tried::Failed { failure, error } => {
                let again = judge(self.options, self.attempt, error.as_ref());
                contained(|| drop(error));
                (failure, again)
            }
        };
        let retry_in = if let Again::After(wait) = again { Some(wait) } else { None };
        self.tell(Some(&failure), retry_in, took);
        self.failed.add(&failure);
        match again {
            Again::After(wait) => {
                self.attempt = self.attempt.saturating_add(1);
                Next::Wait(wait)
            }
            Again::UsedUp if self.options.retry.attempts_max > 1 => {
                Next::Record(Failure::retries_exhausted(&self.begun.place.name, self.failed.clone()))
            }
            Again::UsedUp | Again::Never => Next::Record(failure),
        }
    }

    fn tell(&self, failure: Option<&Failure>, retry_in: Option<Duration>, took: Duration) {
        let Begun { place, execution } = self.begun;
        let attempt = self.attempt;
        execution.tell(|| Event::StepRan {
            workflow: execution.workflow(),
            step_id: place.step_id,
            name: &place.name,
            attempt,
            failure,
            retry_in,
            took,
        });
    }
}

/// Whether a failed body is tried again.
enum Again {
    After(Duration),
    UsedUp,
    Never,
}

fn judge(options: &StepOptions, attempt: u32, error: &(dyn std::error::Error + 'static)) -> Again {
    let wanted = catch_unwind(AssertUnwindSafe(|| (options.should_retry)(error))).unwrap_or(false);
    if !wanted {
        Again::Never
    } else if attempt >= options.retry.attempts_max {
        Again::UsedUp
    } else {
        Again::After(options.retry.wait_after(attempt))
    }
}
