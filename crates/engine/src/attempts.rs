//! The attempts of one step: run the body, and on failure wait and run it again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::context::{Context, Place};
use crate::core::Run;
use crate::error::{BoxError, Error, Failure, Result, UNENCODABLE};
use crate::id::{StepId, WorkflowId};
use crate::known_errors::KnownErrors;
use crate::observer::Event;
use crate::options::StepOptions;
use crate::sync::contained;
use crate::tally::Attempts;

/// What the body of a step may know about itself.
#[derive(Clone, Copy)]
pub struct StepInfo<'r> {
    run: &'r Run,
    step_id: StepId,
    attempt: u32,
    attempts_max: u32,
}

impl StepInfo<'_> {
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

impl std::fmt::Debug for StepInfo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepInfo")
            .field("workflow_id", self.workflow_id())
            .field("step_id", &self.step_id)
            .field("attempt", &self.attempt)
            .field("attempts_max", &self.attempts_max)
            .finish()
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

/// Tries until there is a value, a failure to record, or a reason to stop.
pub(crate) fn run<T>(
    ctx: &mut Context,
    place: &Place<'_>,
    options: &StepOptions,
    mut try_once: impl FnMut(&mut Context, &StepInfo<'_>) -> Result<T, Tried>,
) -> Result<Result<T, Failure>> {
    let attempts_max = options.retry.attempts_max;
    let mut failures = Attempts::none();
    let mut attempt = 0_u32;
    loop {
        attempt = attempt.saturating_add(1);
        ctx.refuse_if_superseded()?;
        let run = ctx.run.clone();
        let info = StepInfo { run: &run, step_id: place.step_id, attempt, attempts_max };
        let watch = Stopwatch::start();
        let tried = try_once(ctx, &info);
        let took = watch.elapsed();
        if matches!(tried, Err(Tried::Failed { .. } | Tried::FailedForGood(_))) {
            // An error of a body that was told to stop is no outcome: it may come from being stopped.
            ctx.refuse_if_ended()?;
        }
        let tell = |failure: Option<&Failure>, retry_in| {
            ctx.core.options.observers.tell(|| Event::StepRan {
                workflow: run.workflow(),
                step_id: place.step_id,
                name: place.name,
                attempt,
                failure,
                retry_in,
                took,
            });
        };
        let (failure, again) = match tried {
            Ok(value) => {
                tell(None, None);
                return Ok(Ok(value));
            }
            Err(Tried::Stopped(error)) => return Err(error),
            Err(Tried::FailedForGood(failure)) => (failure, Again::Never),
            Err(Tried::Failed { failure, error }) => {
                let again = judge(options, attempt, error.as_ref());
                contained(|| drop(error));
                (failure, again)
            }
        };
        let retry_in = if let Again::After(wait) = again { Some(wait) } else { None };
        tell(Some(&failure), retry_in);
        failures.add(&failure);
        match again {
            Again::After(wait) => ctx.pause(wait)?,
            Again::UsedUp if attempts_max > 1 => {
                return Ok(Err(Failure::retries_exhausted(place.name, failures)));
            }
            Again::UsedUp | Again::Never => return Ok(Err(failure)),
        }
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
