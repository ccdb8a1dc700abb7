//! One run of a workflow: from its input to its outcome, on one thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::flow::attempts::failure_of_panic;
use crate::flow::context::Context;
use crate::flow::core::{Core, Run};
use crate::flow::execution::{Ended, Execution};
use crate::flow::history::History;
use crate::flow::registry::Registered;
use crate::machines::committer::Caller;
use crate::machines::worker::Slot;
use crate::pure::codec::{self, Codec};
use crate::pure::due::Due;
use crate::pure::error::{Error, Failure, PARKED, Result, Stop};
use crate::pure::limits::{REFUSED_RETRY_MAX, REFUSED_RETRY_MIN};
use crate::pure::listing::brief;
use crate::pure::observer::Event;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::say;
use crate::sysdb::write::{Attempt, ClaimedRow};
use crate::sysdb::{Outcome, Past, StoredInput, Verdict, Write};

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
        let again_in = (!core.is_stopping()).then_some(REFUSED_RETRY_MIN);
        release(core, &run, Attempt::GivenBack, again_in, caller);
        core.runs.leave(&run);
        core.expect_backlog();
    } else {
        core.outage.notices.passed(FIND_A_THREAD);
    }
}

/// Runs a child on its parent's thread and in its parent's slot.
pub(crate) fn run_inline(parent: &Context, assignment: Assignment) -> Ending {
    execute(&parent.core().clone(), assignment, parent.slot.clone(), Some(parent))
}

/// The whole run. The slot is given back when it ends.
fn execute(core: &Arc<Core>, assignment: Assignment, slot: Arc<Slot>, parent: Option<&Context>) -> Ending {
    let Assignment { run, name, attempt, input } = assignment;
    run.was_started();
    core.options.observers.tell(|| Event::WorkflowStarted {
        workflow: run.workflow(),
        name: &name,
        inline_in: parent.map(Context::workflow_id),
        attempt,
        recovered: !matches!(input, Input::Fresh(_)),
    });
    let execution = Execution::new(core.clone(), run.clone(), name.clone(), attempt);
    let mut ctx = Context::new(execution, slot, parent.map_or(0, |parent| parent.depth + 1));
    let mut began = false;
    let outcome = outcome(&mut ctx, input, &mut began);
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
        Err(reason) => leave(&ctx, &reason, began),
    };
    core.runs.leave(&run);
    if let Ending::Settled(outcome) = &ending {
        core.hub.settled(outcome.clone());
    }
    ending
}

/// What the run came to, or why it came to nothing.
fn outcome(ctx: &mut Context, input: Input, began: &mut bool) -> Result<Outcome, Stop> {
    let execution = ctx.execution.clone();
    let registered = match ctx.core().registry.get(&execution.name) {
        Ok(registered) => registered,
        Err(error) => return Ok(failed(ctx, WorkflowStatus::Error, &Failure::of_engine(&error))),
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
    *began = true;
    let returned = call(ctx, &registered, &input);
    if returned.is_err() {
        // An error of a function that was told to stop is no outcome: it may come from being stopped.
        let _ = execution.refuse_if_ended();
    }
    match execution.ended() {
        Some(Ended::Stopped(reason)) => return Err(reason),
        Some(Ended::Faulty(error)) => {
            let failure = Failure::of_misfit(&error);
            return Ok(failed(ctx, WorkflowStatus::Error, &failure));
        }
        None => {}
    }
    Ok(match returned {
        Ok(output) => match steps_not_asked_for(&execution) {
            None => succeeded(ctx, output),
            Some(error) => failed(ctx, WorkflowStatus::Error, &Failure::of_misfit(&error)),
        },
        Err(failure) => failed(ctx, WorkflowStatus::Error, &failure),
    })
}

/// The input, and for a run that goes on its history.
fn load(ctx: &Context, input: Input) -> Result<StoredInput> {
    match input {
        Input::Fresh(text) => {
            let serialization = Some(Codec::PortableJson.name().to_owned());
            Ok(StoredInput { text: Some(text), serialization })
        }
        Input::Read(past) => {
            ctx.execution.replay(History::of(past.steps));
            Ok(past.input)
        }
        Input::Stored => {
            let (workflow, reader) = (ctx.workflow_id(), ctx.core().reader.as_ref());
            ctx.execution.replay(History::read(reader, workflow)?);
            Ok(reader.input(workflow)?)
        }
    }
}

/// Calls the user's function. A panic is a failure, wherever in its values it happens.
fn call(ctx: &mut Context, registered: &Registered, input: &StoredInput) -> Result<String, Failure> {
    catch_unwind(AssertUnwindSafe(|| (registered.body)(ctx, input)))
        .unwrap_or_else(|payload| Err(failure_of_panic(payload)))
}

/// A replay that returns before it has asked for all that is recorded took another way than the first run.
fn steps_not_asked_for(execution: &Execution) -> Option<Error> {
    let (step, recorded) = execution.left_over()?;
    Some(execution.not_deterministic(step, &recorded, "the end of the workflow"))
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
    let name = &ctx.execution.name;
    // What the work said is its own affair. That it can never end is not, until somebody changes the program or resumes.
    if failure.is_about_the_program() || status == WorkflowStatus::MaxRecoveryAttemptsExceeded {
        say!(warn, "workflow {workflow} ({name}): {status}: {reason}");
    } else {
        say!(info, "workflow {workflow} ({name}): {status}: {reason}");
    }
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
    let (owner, at) = (ctx.execution.run.owner.clone(), ctx.execution.now());
    let error = match ctx.commit(Write::Settle { owner, outcome: outcome.clone(), at }) {
        Ok(Verdict::Done | Verdict::Woke) => return Ok(outcome),
        Ok(Verdict::NotOwner) => ctx.execution.lost(),
        Ok(other) => ctx.execution.misanswered("settle", &other),
        Err(error) => ctx.execution.commit_failed(&error),
    };
    match error {
        Error::Stopped { reason, .. } => Err(reason),
        error => Err(Stop::Database(error.to_string().into())),
    }
}

/// Leaves the workflow in a state from which it goes on.
fn leave(ctx: &Context, reason: &Stop, began: bool) -> Ending {
    let (core, run) = (ctx.core(), &ctx.execution.run);
    if *reason == Stop::Deleted {
        say!(warn, "workflow {} ({}) stops here: {reason}", ctx.workflow_id(), ctx.execution.name);
    } else {
        say!(debug, "workflow {} ({}) stops here: {reason}", ctx.workflow_id(), ctx.execution.name);
    }
    ctx.execution.tell(|| Event::WorkflowLeft {
        workflow: ctx.workflow_id(),
        name: &ctx.execution.name,
        reason,
    });
    match reason {
        Stop::Suspended => Ending::Suspended,
        Stop::ShuttingDown => {
            release(core, run, Attempt::GivenBack, None, Caller::Engine);
            Ending::Left
        }
        Stop::Database(_) => {
            let again_in = Some(wait_after_refusal(ctx.attempt()));
            // Nothing of it has run when its past could not be read.
            let attempt = if began { Attempt::Counted } else { Attempt::GivenBack };
            release(core, run, attempt, again_in, Caller::Engine);
            Ending::Left
        }
        Stop::Cancelled | Stop::NotOwner | Stop::Deleted => Ending::Left,
    }
}

/// A database that refuses a write for good will refuse it again: a body that ran for nothing runs less and less
/// often.
fn wait_after_refusal(attempt: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
    REFUSED_RETRY_MIN.saturating_mul(doubled).min(REFUSED_RETRY_MAX)
}

/// Gives the workflow back to those that wait, at once or after a time, and says whether it was there to give. If it
/// fails, the sweep finds it.
pub(crate) fn release(
    core: &Core,
    run: &Run,
    attempt: Attempt,
    again_in: Option<Duration>,
    caller: Caller,
) -> bool {
    let at = core.options.clock.now();
    let again_at = again_in.and_then(|time| Due::after(&core.options.clock, time));
    if let Some(due) = again_at {
        core.dues.note(run.workflow(), due);
    }
    let again_at = again_at.map(|due| due.date);
    let write = Write::Release { owner: run.owner.clone(), attempt, again_at, at };
    // Failures are logged by the committer.
    let verdict = core.committer.commit(write, caller);
    if verdict.is_err() {
        say!(debug, "workflow {} could not be given back; its next executor finds it", run.workflow());
    }
    matches!(verdict, Ok(Verdict::Done))
}
