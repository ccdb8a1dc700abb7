//! One run of a workflow: from its input to its outcome.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::flow::attempts::failure_of_panic;
use crate::flow::context::Context;
use crate::flow::core::{Core, Run};
use crate::flow::drive::{self, Flow};
use crate::flow::execution::{Ended, Execution, Unrecorded};
use crate::flow::history::History;
use crate::flow::registry::{Body, Kind, Registered};
#[cfg(feature = "tokio")]
use crate::flow::task;
use crate::machines::committer::{Caller, CommitError};
use crate::machines::slots::Slot;
use crate::machines::worker;
use crate::pure::codec::{self, Codec};
use crate::pure::due::Due;
use crate::pure::error::{Error, Failure, PARKED, Result, Stop};
use crate::pure::limits::{REFUSED_RETRY_MAX, REFUSED_RETRY_MIN};
use crate::pure::listing::brief;
use crate::pure::observer::Event;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::say;
use crate::sysdb::write::{ClaimedRow, RecoveryAttempt};
use crate::sysdb::{Outcome, Past, StoredInput, Verdict, Write};

/// A workflow that this process owns and is to run.
pub(crate) struct Assignment {
    pub(crate) run: Arc<Run>,
    name: Arc<str>,
    attempt: u32,
    input: Input,
}

/// The source of a run's input and past.
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

impl Assignment {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn execution(&self, core: &Arc<Core>) -> Arc<Execution> {
        Execution::new(core.clone(), self.run.clone(), self.name.clone(), self.attempt)
    }
}

/// How a run ended.
pub(crate) enum Ending {
    /// With an outcome, which is recorded.
    Settled(Outcome),
    /// Without an outcome: the workflow waits and has no thread.
    Suspended,
    /// Without an outcome: the workflow goes on later or elsewhere.
    Left,
}

/// The operation that is tried again, as the log names it.
const FIND_A_THREAD: &str = "find_a_thread_for_a_workflow";

/// Runs a workflow in this slot: on a thread, or as a task. Where there is none, the workflow is given back to wait.
pub(crate) fn dispatch(core: &Arc<Core>, assignment: Assignment, slot: Slot, caller: Caller) {
    let run = assignment.run.clone();
    // A workflow that no function is registered for fails, and needs a thread for that.
    let kind = core.registry.kind_of(&assignment.name).unwrap_or(Kind::Plain);
    let dispatched = match kind {
        Kind::Plain => run_on_a_thread(core, assignment, slot),
        #[cfg(feature = "tokio")]
        Kind::Async => {
            task::run(core, assignment, slot);
            Ok(())
        }
    };
    if let Err(reason) = dispatched {
        if let Some(reason) = reason {
            core.outage.notices.failed(FIND_A_THREAD, &reason.to_string());
        }
        // No part of the run has begun. There may be a thread in a moment.
        let again_in = (!core.is_stopping()).then_some(REFUSED_RETRY_MIN);
        if caller == Caller::Passive {
            release_unheard(core, &run, again_in);
        } else {
            release(core, &run, RecoveryAttempt::GivenBack, again_in, caller);
        }
        core.runs.leave(&run);
        core.expect_backlog();
    } else {
        core.outage.notices.passed(FIND_A_THREAD);
    }
}

fn run_on_a_thread(
    core: &Arc<Core>,
    assignment: Assignment,
    slot: Slot,
) -> std::result::Result<(), Option<io::Error>> {
    let (core, run) = (core.clone(), assignment.run.clone());
    core.clone().workers.run(Box::new(move || {
        let slot = Arc::new(slot);
        worker::holding(&slot, || {
            let flow = Flow::on_a_thread(assignment.execution(&core), slot.clone());
            drive::now(execute(&flow, assignment, None));
        });
        drop(slot);
        core.slot_was_freed(&run, Kind::Plain);
        core.leave_if_last();
    }))
}

/// Runs a child on its parent's thread and in its parent's slot.
pub(crate) fn run_inline(parent: &Context, assignment: Assignment) -> Ending {
    let flow = Flow::on_a_thread(assignment.execution(parent.flow.core()), parent.flow.slot().clone());
    drive::now(execute(&flow, assignment, Some(parent)))
}

/// Runs the workflow from its input to its end.
pub(crate) async fn execute(flow: &Flow, assignment: Assignment, parent: Option<&Context>) -> Ending {
    let (core, run, name) = (flow.core(), &assignment.run, &assignment.name);
    run.was_started();
    core.options.observers.tell(|| Event::WorkflowStarted {
        workflow: run.workflow(),
        name,
        inline_in: parent.map(Context::workflow_id),
        attempt: assignment.attempt,
        recovered: !matches!(assignment.input, Input::Fresh(_)),
    });
    let mut began = false;
    let depth = parent.map_or(0, |parent| parent.depth + 1);
    let outcome = outcome(flow, assignment.input, depth, &mut began).await;
    let ending = match settle(flow, outcome).await {
        Ok(outcome) => {
            let status = outcome.status;
            core.options.observers.tell(|| Event::WorkflowEnded { workflow: run.workflow(), name, status });
            Ending::Settled(outcome)
        }
        Err(reason) => leave(flow, &reason, began).await,
    };
    core.runs.leave(run);
    ending
}

/// The outcome of the run, or the reason why it has none.
async fn outcome(flow: &Flow, input: Input, depth: usize, began: &mut bool) -> Result<Outcome, Stop> {
    let execution = &flow.execution;
    let registered = match flow.core().registry.get(&execution.name) {
        Ok(registered) => registered,
        Err(error) => return Ok(failed(flow, WorkflowStatus::Error, &Failure::of_engine(&error))),
    };
    if let Some(max) = registered.options.recovery_attempts_max
        && execution.attempt > max.saturating_add(1)
    {
        let reason = format!(
            "it was taken up {} times without an end: its executor died, or its writes were refused. The limit is 1 run and \
             {max} recoveries. Engine::resume lets the workflow go on",
            execution.attempt - 1
        );
        let failure = Failure::new(PARKED, reason);
        return Ok(failed(flow, WorkflowStatus::MaxRecoveryAttemptsExceeded, &failure));
    }
    let input = match flow.call(move |execution| load(execution, input)).await {
        Ok(input) => input,
        Err(error) => return Err(Stop::Database(error.to_string().into())),
    };
    *began = true;
    let returned = call(flow, &registered, input, depth).await;
    if returned.is_err() {
        // An error of a function that was told to stop is no outcome: it may come from the stop.
        let _ = execution.refuse_if_ended();
    }
    match execution.ended() {
        Some(Ended::Stopped(reason)) => return Err(reason),
        Some(Ended::Faulty(error)) => {
            let failure = Failure::of_misfit(&error);
            return Ok(failed(flow, WorkflowStatus::Error, &failure));
        }
        None => {}
    }
    Ok(match returned {
        Ok(output) => match steps_not_asked_for(execution) {
            None => succeeded(flow, output),
            Some(error) => failed(flow, WorkflowStatus::Error, &Failure::of_misfit(&error)),
        },
        Err(failure) => failed(flow, WorkflowStatus::Error, &failure),
    })
}

/// Loads the input, and the history for a run that goes on.
fn load(execution: &Execution, input: Input) -> Result<StoredInput> {
    match input {
        Input::Fresh(text) => {
            let serialization = Some(Codec::PortableJson.name().to_owned());
            Ok(StoredInput { text: Some(text), serialization })
        }
        Input::Read(past) => {
            execution.replay(History::of(past.steps));
            Ok(past.input)
        }
        Input::Stored => {
            let (workflow, reader) = (execution.workflow(), execution.core.reader.as_ref());
            execution.replay(History::read(reader, workflow)?);
            Ok(reader.input(workflow)?)
        }
    }
}

/// Calls the user's function. A panic is a failure, also a panic in one of its values.
#[cfg_attr(not(feature = "tokio"), expect(clippy::unused_async, reason = "an async function is awaited"))]
async fn call(
    flow: &Flow,
    registered: &Registered,
    input: StoredInput,
    depth: usize,
) -> Result<String, Failure> {
    match &registered.body {
        Body::Plain(body) => {
            let mut ctx = Context::new(flow.clone(), depth);
            catch_unwind(AssertUnwindSafe(|| body(&mut ctx, &input)))
                .unwrap_or_else(|payload| Err(failure_of_panic(payload)))
        }
        #[cfg(feature = "tokio")]
        Body::Async(body) => task::call(flow, body, input).await,
    }
}

/// The error for a replay that returns before it has asked for all records: it took another way than the first run.
fn steps_not_asked_for(execution: &Execution) -> Option<Error> {
    let (step, recorded) = execution.left_over()?;
    Some(execution.not_deterministic(step, &recorded, "the end of the workflow"))
}

fn succeeded(flow: &Flow, output: String) -> Outcome {
    Outcome {
        workflow: flow.execution.workflow().clone(),
        status: WorkflowStatus::Success,
        output: Some(output),
        error: None,
        serialization: Some(Codec::PortableJson.name().into()),
    }
}

fn failed(flow: &Flow, status: WorkflowStatus, failure: &Failure) -> Outcome {
    let reason = brief(&failure.to_string(), 1000);
    let workflow = brief(flow.execution.workflow().as_str(), 300);
    let name = &flow.execution.name;
    // An error of the work is logged as an info. A workflow that cannot end until an operator acts is logged as a
    // warning.
    if failure.is_about_the_program() || status == WorkflowStatus::MaxRecoveryAttemptsExceeded {
        say!(warn, "workflow {workflow} ({name}): {status}: {reason}");
    } else {
        say!(info, "workflow {workflow} ({name}): {status}: {reason}");
    }
    Outcome {
        output: None,
        error: Some(codec::encode_failure(failure)),
        status,
        ..succeeded(flow, String::new())
    }
}

/// Makes the outcome durable, if this execution still owns the workflow.
async fn settle(flow: &Flow, outcome: Result<Outcome, Stop>) -> Result<Outcome, Stop> {
    let outcome = outcome?;
    let execution = &flow.execution;
    let (owner, at) = (execution.run.owner.clone(), execution.now());
    let error = match flow.commit(Write::Settle { owner, outcome: outcome.clone(), at }).await {
        Ok(Verdict::Done | Verdict::Woke) => return Ok(outcome),
        Ok(Verdict::NotOwner) => flow.explain(Unrecorded::Lost).await,
        Ok(other) => execution.misanswered("settle", &other),
        Err(error) => execution.commit_failed(&error),
    };
    match error {
        Error::Stopped { reason, .. } => Err(reason),
        error => Err(Stop::Database(error.to_string().into())),
    }
}

/// Leaves the workflow in a state from which it goes on.
async fn leave(flow: &Flow, reason: &Stop, began: bool) -> Ending {
    let (execution, workflow) = (&flow.execution, flow.execution.workflow());
    if *reason == Stop::Deleted {
        say!(warn, "workflow {workflow} ({}) stops here: {reason}", execution.name);
    } else {
        say!(debug, "workflow {workflow} ({}) stops here: {reason}", execution.name);
    }
    execution.tell(|| Event::WorkflowLeft { workflow, name: &execution.name, reason });
    let (attempt, again_in) = match reason {
        Stop::Suspended => {
            flow.wake_out_of_a_circle().await;
            return Ending::Suspended;
        }
        Stop::Cancelled | Stop::NotOwner | Stop::Deleted | Stop::Returned => return Ending::Left,
        Stop::ShuttingDown => (RecoveryAttempt::GivenBack, None),
        // Nothing of the run has begun when its past could not be read.
        Stop::Database(_) if !began => {
            (RecoveryAttempt::GivenBack, Some(wait_after_refusal(execution.attempt)))
        }
        Stop::Database(_) => (RecoveryAttempt::Counted, Some(wait_after_refusal(execution.attempt))),
    };
    let write = release_write(flow.core(), &execution.run, attempt, again_in);
    was_released(&execution.run, &flow.commit(write).await);
    Ending::Left
}

/// The wait before a workflow runs again whose write the database refused for good. The database will refuse the write
/// again, so the waits grow: the body runs for nothing less and less often.
fn wait_after_refusal(attempt: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
    REFUSED_RETRY_MIN.saturating_mul(doubled).min(REFUSED_RETRY_MAX)
}

/// Gives the workflow back to wait, at once or after a time. Says whether the workflow was there to give back. If the
/// write fails, the sweep finds the workflow.
pub(crate) fn release(
    core: &Core,
    run: &Run,
    attempt: RecoveryAttempt,
    again_in: Option<Duration>,
    caller: Caller,
) -> bool {
    let write = release_write(core, run, attempt, again_in);
    was_released(run, &core.committer.commit(write, caller))
}

/// Gives the workflow back to wait, for a caller that does not wait for the verdict.
pub(crate) fn release_unheard(core: &Core, run: &Run, again_in: Option<Duration>) {
    core.committer.commit_unheard(release_write(core, run, RecoveryAttempt::GivenBack, again_in));
}

fn release_write(core: &Core, run: &Run, attempt: RecoveryAttempt, again_in: Option<Duration>) -> Write {
    let at = core.options.clock.now();
    let again_at = again_in.and_then(|time| Due::after(&core.options.clock, time));
    if let Some(due) = again_at {
        core.dues.note(run.workflow(), vec![due]);
    }
    let again_at = again_at.map(|due| due.date);
    Write::Release { owner: run.owner.clone(), attempt, again_at, at }
}

/// The committer logs failures.
fn was_released(run: &Run, verdict: &Result<Verdict, CommitError>) -> bool {
    if verdict.is_err() {
        say!(debug, "workflow {} could not be given back; its next executor finds it", run.workflow());
    }
    matches!(verdict, Ok(Verdict::Done))
}
