//! The attempts of one step: the information for its body, and the action after a failure.
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
use crate::flow::race::Branch;
use crate::pure::clock::{Clock, Timestamp};
use crate::pure::error::{BoxError, Error, Failure, Result, TIMED_OUT, UNENCODABLE};
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::observer::Event;
use crate::pure::sync::contained;
use crate::pure::tally::FailedAttempts;

/// Information for the body of a step about itself.
#[derive(Clone)]
pub struct StepInfo {
    run: Arc<Run>,
    branch: Option<Branch>,
    step_id: StepId,
    attempt: u32,
    attempts_max: u32,
    limit: Option<Limit>,
}

/// How long an attempt may take, and until when on the engine's steady clock.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    pub(crate) time: Duration,
    pub(crate) until: Timestamp,
    clock: Clock,
}

impl Limit {
    fn left(&self) -> Duration {
        self.until.since(self.clock.now())
    }
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

    /// An idempotency key for outside systems. It is equal for each attempt of this step of this workflow, also after a
    /// crash, and differs for every other step. `WORKFLOW:STEP`.
    ///
    /// ```
    /// # use engine::{Context, Result};
    /// fn pay(ctx: &mut Context, cents: u64) -> Result<u64> {
    ///     ctx.step("charge", |step| bank::charge(cents, &step.key()))
    /// }
    /// # mod bank { pub fn charge(n: u64, _: &str) -> Result<u64, std::fmt::Error> { Ok(n) } }
    /// ```
    pub fn key(&self) -> String {
        format!("{}:{}", self.run.workflow(), self.step_id)
    }

    /// How long this attempt may still take, where the step's options limit it: zero when its result comes too late.
    pub fn time_left(&self) -> Option<Duration> {
        self.limit.as_ref().map(Limit::left)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn limit(&self) -> Option<Limit> {
        self.limit.clone()
    }

    /// The value of an attempt, if it is not too late.
    pub(crate) fn in_time<T>(&self, value: T) -> Result<T, Tried> {
        in_time(self.limit.as_ref(), value)
    }

    /// How many attempts there may be.
    pub fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    /// Whether the outcome of this step is not wanted any more. The workflow was cancelled or taken over, the engine is
    /// shutting down, or another operation has won the race of the step.
    ///
    /// A long body may look now and then and return early, with an error. No error is recorded from here on. When the
    /// workflow goes on, the body runs again, unless it has lost a race.
    pub fn cancelled(&self) -> bool {
        self.run.stop().is_some() || self.branch.as_ref().is_some_and(Branch::has_lost)
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

fn in_time<T>(limit: Option<&Limit>, value: T) -> Result<T, Tried> {
    match limit {
        Some(limit) if limit.left().is_zero() => Err(Tried::timed_out(limit.time)),
        _ => Ok(value),
    }
}

/// The reason why a try of a step gave no value.
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

    pub(crate) fn failed(failure: Failure) -> Self {
        Self::Failed { error: failure.clone().into(), failure }
    }

    /// Of a step that takes its body once, if it asked for it twice.
    pub(crate) fn without_a_body() -> Self {
        Self::FailedForGood(Failure::new("Error", "a step without retries runs its body once"))
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::failed(Failure::new(TIMED_OUT, format!("the attempt took longer than {limit:?}")))
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

/// The failure of a panic. The payload may panic when it is dropped, with a payload that does so again.
pub(crate) fn failure_of_panic(payload: Box<dyn Any + Send>) -> Failure {
    let failure = Failure::of_panic(payload.as_ref());
    contained(|| drop(payload));
    failure
}

/// The attempts of one step: the action after each. It neither runs nor waits.
pub(crate) struct Attempts<'s> {
    begun: &'s Begun,
    branch: Option<&'s Branch>,
    options: &'s StepOptions,
    /// From 1 on.
    attempt: u32,
    failed: FailedAttempts,
    /// Of the attempt that runs.
    limit: Option<Limit>,
    /// When the time of all attempts is over.
    over: Option<Timestamp>,
}

/// The action after an attempt without a value.
pub(crate) enum Next {
    /// Another attempt, after a while.
    Wait(Duration),
    /// No other attempt: this failure is recorded.
    Record(Failure),
    /// No other attempt: the execution ends, and nothing is recorded.
    Stop(Error),
}

impl<'s> Attempts<'s> {
    pub(crate) fn new(begun: &'s Begun, branch: Option<&'s Branch>, options: &'s StepOptions) -> Self {
        let clock = begun.execution.core.options.clock.steady();
        let over = options.total.and_then(|total| clock.now().checked_add(total));
        Self { begun, branch, options, attempt: 1, failed: FailedAttempts::none(), limit: None, over }
    }

    /// Begins an attempt, and returns the information for its body.
    pub(crate) fn begin(&mut self) -> StepInfo {
        self.limit = self.limit_of_one();
        StepInfo {
            limit: self.limit.clone(),
            branch: self.branch.cloned(),
            run: self.begun.execution.run.clone(),
            step_id: self.begun.place.step_id,
            attempt: self.attempt,
            attempts_max: self.options.retry.attempts_max,
        }
    }

    fn limit_of_one(&self) -> Option<Limit> {
        if self.options.timeout.is_none() && self.over.is_none() {
            return None;
        }
        let clock = self.begun.execution.core.options.clock.steady();
        let now = clock.now();
        let of_this = self.options.timeout.and_then(|timeout| now.checked_add(timeout));
        let until = of_this.into_iter().chain(self.over).min()?;
        Some(Limit { time: until.since(now), until, clock })
    }

    /// The value of the attempt, if it is not too late.
    pub(crate) fn in_time<T>(&self, value: T) -> Result<T, Tried> {
        in_time(self.limit.as_ref(), value)
    }

    /// Whether the time of all attempts is over before another one, after such a wait, could begin.
    fn is_over_after(&self, wait: Duration) -> bool {
        let now = self.begun.execution.core.options.clock.steady().now();
        self.over.is_some_and(|over| now.checked_add(wait).is_none_or(|next| next >= over))
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
                let again = match judge(self.options, self.attempt, error.as_ref()) {
                    Again::After(wait) if self.is_over_after(wait) => Again::UsedUp,
                    again => again,
                };
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
    let wanted = catch_unwind(AssertUnwindSafe(|| options.is_worth_a_retry(error))).unwrap_or(false);
    if !wanted {
        Again::Never
    } else if attempt >= options.retry.attempts_max {
        Again::UsedUp
    } else {
        Again::After(options.retry.wait_after(attempt))
    }
}
