//! One run of a workflow: from its input to its outcome, on one thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::attempts::failure_of_panic;
use crate::clock::Timestamp;
use crate::codec::{self, Codec};
use crate::committer::Caller;
use crate::context::{Context, Ended};
use crate::core::{Core, Run};
use crate::error::{Error, Failure, PARKED, Result, Stop};
use crate::history::History;
use crate::limits::{REFUSED_RETRY_MAX, REFUSED_RETRY_MIN};
use crate::listing::brief;
use crate::observer::Event;
use crate::registry::Registered;
use crate::status::WorkflowStatus;
use crate::sync::say;
use crate::sysdb::write::{Attempt, ClaimedRow};
use crate::sysdb::{Outcome, Past, StoredInput, Verdict, Write};
use crate::worker::Slot;

/// A workflow that this process owns and is to run.
pub(crate) struct Assignment {
    pub(crate) run: Arc<Run>,
    name: Arc<str>,
    attempt: u32,
    input: Input,
}

/// What a run starts from.
enum Input {
    /// The encoded input of a run that was just started: it has no past, so nothing of it is read.
    Fresh(String),
    /// Input and past as they were read with the claim.
    Read(Past),
    /// Input and past are in the database.
    Stored,
}

impl Assignment {
    pub(crate) fn fresh(run: Arc<Run>, name: Arc<str>, input: String) -> Self {
        Self { run, name, attempt: 1, input: Input::Fresh(input) }
    }

    pub(crate) fn claimed(run: Arc<Run>, row: &ClaimedRow, past: Option<Past>) -> Self {
        let input = past.map_or(Input::Stored, Input::Read);
        Self { run, name: row.name.as_str().into(), attempt: row.attempts, input }
    }
}

/// How a run ended.
pub(crate) enum Ending {
    /// With an outcome, which is recorded.
    Settled(Outcome),
    /// Without one: it waits for something and has no thread.
    Suspended,
    /// Without one: it goes on later or elsewhere.
    Left,
}

/// What is tried again, for the log.
const FIND_A_THREAD: &str = "find_a_thread_for_a_workflow";

/// Runs a workflow on a thread of its own. Without a thread it goes back to those that wait.
pub(crate) fn dispatch(core: &Arc<Core>, assignment: Assignment, slot: Slot, caller: Caller) {
    let run = assignment.run.clone();
    let job = {
        let (core, run) = (core.clone(), run.clone());
        Box::new(move || {
            let slot = Arc::new(slot);
            slot.holding(|| execute(&core, assignment, slot.clone(), None));
            drop(slot);
            core.slot_was_freed(&run);
            core.leave_if_last();
        })
    };
    if let Err(reason) = core.workers.run(job) {
        if let Some(reason) = reason {
            core.outage.notices.failed(FIND_A_THREAD, &reason.to_string());
        }
        // Nothing of it has run. Without a thread now there may be one in a moment.
        let again_at = core.options.clock.now().checked_add(REFUSED_RETRY_MIN);
        release(core, &run, Attempt::GivenBack, again_at.filter(|_| !core.is_stopping()), caller);
        core.runs.leave(&run);
        core.expect_backlog();
    } else {
        core.outage.notices.passed(FIND_A_THREAD);
    }
}

/// Runs a child on its parent's thread and in its parent's slot.
pub(crate) fn run_inline(parent: &Context, assignment: Assignment) -> Ending {
    execute(&parent.core.clone(), assignment, parent.slot.clone(), Some(parent))
}

/// The whole run. The slot is given back when it ends.
fn execute(core: &Arc<Core>, assignment: Assignment, slot: Arc<Slot>, parent: Option<&Context>) -> Ending {
    let Assignment { run, name, attempt, input } = assignment;
    core.options.observers.tell(|| Event::WorkflowStarted {
        workflow: run.workflow(),
        name: &name,
        inline_in: parent.map(Context::workflow_id),
        attempt,
        recovered: !matches!(input, Input::Fresh(_)),
    });
    let mut ctx = Context::new(core.clone(), run.clone(), slot, name.clone(), attempt);
    ctx.depth = parent.map_or(0, |parent| parent.depth + 1);

    let outcome = outcome(&mut ctx, input);
    let ending = match settle(&mut ctx, outcome) {
        Ok(outcome) => {
            let status = outcome.status;
            core.options.observers.tell(|| Event::WorkflowEnded {
                workflow: run.workflow(),
                name: &name,
                status,
            });
            Ending::Settled(outcome)
        }
        Err(reason) => leave(&ctx, &reason),
    };
    core.runs.leave(&run);
    if let Ending::Settled(outcome) = &ending {
        core.hub.settled(outcome.clone());
    }
    ending
}

/// What the run came to, or why it came to nothing.
fn outcome(ctx: &mut Context, input: Input) -> Result<Outcome, Stop> {
    let registered = match ctx.core.registry.get(&ctx.name) {
        Ok(registered) => registered,
        Err(error) => return Ok(failed(ctx, WorkflowStatus::Error, &Failure::of(error))),
    };
    if let Some(max) = registered.options.recovery_attempts_max
        && ctx.attempt() > max.saturating_add(1)
    {
        let reason = format!(
            "it was taken up {} times and never came to an end (its executor died, or its writes were refused); at most 1 run and {max} recoveries \
             are allowed. It waits for resume",
            ctx.attempt() - 1
        );
        let failure = Failure::new(PARKED, reason);
        return Ok(failed(ctx, WorkflowStatus::MaxRecoveryAttemptsExceeded, &failure));
    }
    let input = match load(ctx, input) {
        Ok(input) => input,
        Err(error) => return Err(Stop::Database(error.to_string().into())),
    };
    ctx.began = true;
    let returned = call(ctx, &registered, &input);
    if returned.is_err() {
        // An error of a function that was told to stop is no outcome: it may come from being stopped.
        let _ = ctx.refuse_if_ended();
    }
    match ctx.ended() {
        Some(Ended::Stopped(reason)) => return Err(reason.clone()),
        Some(Ended::Faulty(error)) => {
            let failure = Failure::of(error.clone());
            return Ok(failed(ctx, WorkflowStatus::Error, &failure));
        }
        None => {}
    }
    Ok(match returned {
        Ok(output) => match steps_not_asked_for(ctx) {
            None => succeeded(ctx, output),
            Some(error) => failed(ctx, WorkflowStatus::Error, &Failure::of(error)),
        },
        Err(failure) => failed(ctx, WorkflowStatus::Error, &failure),
    })
}

/// The input, and for a run that goes on its history.
fn load(ctx: &mut Context, input: Input) -> Result<StoredInput> {
    match input {
        Input::Fresh(text) => {
            let serialization = Some(Codec::PortableJson.name().to_owned());
            Ok(StoredInput { text: Some(text), serialization })
        }
        Input::Read(past) => {
            ctx.history = History::of(past.steps);
            Ok(past.input)
        }
        Input::Stored => {
            let workflow = ctx.run.workflow();
            ctx.history = History::read(ctx.core.reader.as_ref(), workflow)?;
            Ok(ctx.core.reader.input(workflow)?)
        }
    }
}

/// Calls the user's function. A panic is a failure, wherever in its values it happens.
fn call(ctx: &mut Context, registered: &Registered, input: &StoredInput) -> Result<String, Failure> {
    catch_unwind(AssertUnwindSafe(|| (registered.body)(ctx, input)))
        .unwrap_or_else(|payload| Err(failure_of_panic(payload)))
}

/// A replay that returns before it has asked for all that is recorded took another way than the first run.
fn steps_not_asked_for(ctx: &mut Context) -> Option<Error> {
    let (step, recorded) = ctx.history.left_over().map(|row| (row.step_id, row.name.to_string()))?;
    Some(ctx.not_deterministic(step, &recorded, "the end of the workflow"))
}

fn succeeded(ctx: &Context, output: String) -> Outcome {
    Outcome {
        workflow: ctx.workflow_id().clone(),
        status: WorkflowStatus::Success,
        output: Some(output),
        error: None,
        serialization: Some(Codec::PortableJson.name().into()),
    }
}

fn failed(ctx: &Context, status: WorkflowStatus, failure: &Failure) -> Outcome {
    let reason = brief(&failure.to_string(), 1000);
    let workflow = brief(ctx.workflow_id().as_str(), 300);
    say!(info, "workflow {workflow} ({}): {status}: {reason}", ctx.name);
    Outcome {
        output: None,
        error: Some(codec::encode_failure(failure)),
        status,
        ..succeeded(ctx, String::new())
    }
}

/// Makes the outcome durable, if this execution still owns the workflow.
fn settle(ctx: &mut Context, outcome: Result<Outcome, Stop>) -> Result<Outcome, Stop> {
    let outcome = outcome?;
    let write = Write::Settle { owner: ctx.run.owner.clone(), outcome: outcome.clone(), at: ctx.now() };
    match ctx.commit(write) {
        Ok(Verdict::Done | Verdict::Woke) => Ok(outcome),
        Ok(_) => Err(Stop::NotOwner),
        Err(Error::Stopped { reason, .. }) => Err(reason),
        Err(error) => Err(Stop::Database(error.to_string().into())),
    }
}

/// Leaves the workflow in a state from which it goes on.
fn leave(ctx: &Context, reason: &Stop) -> Ending {
    say!(debug, "workflow {} ({}) stops here: {reason}", ctx.workflow_id(), ctx.name);
    ctx.core.options.observers.tell(|| Event::WorkflowLeft {
        workflow: ctx.workflow_id(),
        name: &ctx.name,
        reason,
    });
    match reason {
        Stop::Suspended => Ending::Suspended,
        Stop::ShuttingDown => {
            release(&ctx.core, &ctx.run, Attempt::GivenBack, None, Caller::Engine);
            Ending::Left
        }
        Stop::Database(_) => {
            let again_at = ctx.now().checked_add(wait_after_refusal(ctx.attempt()));
            // Nothing of it has run when its past could not be read.
            let attempt = if ctx.began { Attempt::Counted } else { Attempt::GivenBack };
            release(&ctx.core, &ctx.run, attempt, again_at, Caller::Engine);
            Ending::Left
        }
        Stop::Cancelled | Stop::NotOwner => Ending::Left,
    }
}

/// A database that refuses a write for good will refuse it again: a body that ran for nothing runs less and less
/// often.
fn wait_after_refusal(attempt: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
    REFUSED_RETRY_MIN.saturating_mul(doubled).min(REFUSED_RETRY_MAX)
}

/// Gives the workflow back to those that wait, at once or from a time on, and says whether it was there to give. If it
/// fails, the sweep finds it.
pub(crate) fn release(
    core: &Core,
    run: &Run,
    attempt: Attempt,
    again_at: Option<Timestamp>,
    caller: Caller,
) -> bool {
    let at = core.options.clock.now();
    let write = Write::Release { owner: run.owner.clone(), attempt, again_at, at };
    // Failures are logged by the committer.
    let verdict = core.committer.commit(write, caller);
    if verdict.is_err() {
        say!(debug, "workflow {} could not be given back; its next executor finds it", run.workflow());
    }
    matches!(verdict, Ok(Verdict::Done))
}
