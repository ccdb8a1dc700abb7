//! What a workflow holds while it runs. The only place where step ids are made.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Stopwatch, Timestamp};
use crate::committer::{Caller, CommitError};
use crate::core::{Core, Run};
use crate::due::Due;
use crate::error::{Error, Result, Stop};
use crate::history::History;
use crate::id::{StepId, WorkflowId, check_name};
use crate::limits::{COMMIT_RETRY_MAX, COMMIT_RETRY_MIN};
use crate::observer::Event;
use crate::status::WorkflowStatus;
use crate::sysdb::write::{Refusal, Wake};
use crate::sysdb::{StepRow, Verdict, Write};
use crate::worker::Slot;

/// A running workflow: every durable operation goes through it.
///
/// Operations take numbers in the order in which the workflow asks for them, and that is how a recovered run
/// finds what is recorded. So between steps a workflow must be deterministic: no clock, no random numbers, no
/// input or output, or else in a step. `&mut` makes a step inside a step a compile error:
///
/// ```compile_fail
/// # fn workflow(ctx: &mut engine::Context) -> engine::Result<()> {
/// ctx.step("outer", |_| ctx.step("inner", |_| Ok::<_, engine::Error>(())))
/// # }
/// ```
pub struct Context {
    pub(crate) core: Arc<Core>,
    pub(crate) run: Arc<Run>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) name: Arc<str>,
    pub(crate) history: History,
    /// Workflows that run inline on this thread below this one's root.
    pub(crate) depth: usize,
    /// The function was called.
    pub(crate) began: bool,
    attempt: u32,
    last_step: StepId,
    ended: Option<Ended>,
}

/// Why no further operation happens in this execution. Once set it stays, whatever the function does with the
/// error it got.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// Not an outcome: the execution leaves, the workflow goes on later or elsewhere.
    Stopped(Stop),
    /// The program does not fit the record: the workflow ends with this error.
    Faulty(Error),
}

/// One durable operation of a workflow: its number, its name, and when it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'n> {
    pub(crate) step_id: StepId,
    pub(crate) name: &'n str,
    pub(crate) started_at: Timestamp,
}

impl Place<'_> {
    /// The record of this operation, as yet without an outcome.
    pub(crate) fn row(&self, completed_at: Timestamp) -> StepRow {
        StepRow {
            step_id: self.step_id,
            name: self.name.to_owned().into(),
            output: None,
            error: None,
            child: None,
            started_at: Some(self.started_at),
            completed_at: Some(completed_at),
            serialization: None,
        }
    }
}

impl Context {
    pub(crate) fn new(core: Arc<Core>, run: Arc<Run>, slot: Arc<Slot>, name: Arc<str>, attempt: u32) -> Self {
        Self {
            core,
            run,
            slot,
            name,
            history: History::none(),
            depth: 0,
            began: false,
            attempt,
            last_step: StepId(0),
            ended: None,
        }
    }

    /// The id of this workflow.
    pub fn workflow_id(&self) -> &WorkflowId {
        self.run.workflow()
    }

    /// Which run of the workflow this is: 1 for the first, one more for each that did not come to an end because its
    /// executor died or its writes were refused.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Takes the next number for an operation of this name.
    pub(crate) fn place<'n>(&mut self, name: &'n str) -> Result<Place<'n>> {
        check_name("step name", name)?;
        self.place_unchecked(name)
    }

    /// The same for names that the engine chose or has checked.
    pub(crate) fn place_unchecked<'n>(&mut self, name: &'n str) -> Result<Place<'n>> {
        self.refuse_if_ended()?;
        self.last_step = StepId(self.last_step.0 + 1);
        Ok(Place { step_id: self.last_step, name, started_at: self.now() })
    }

    /// What is recorded in this place, if anything, and only if it is of this name.
    pub(crate) fn replayed(&mut self, place: &Place<'_>) -> Result<Option<StepRow>> {
        let Some(row) = self.history.take(place.step_id) else { return Ok(None) };
        if row.name != place.name {
            return Err(self.not_deterministic(place.step_id, &row.name, place.name));
        }
        self.core.options.observers.tell(|| Event::StepReplayed {
            workflow: self.run.workflow(),
            step_id: place.step_id,
            name: place.name,
        });
        Ok(Some(row))
    }

    /// Makes a write of this workflow durable. Being no longer its owner ends the execution.
    pub(crate) fn commit(&mut self, write: Write) -> Result<Verdict> {
        let kind = write.kind();
        let watch = Stopwatch::start();
        let verdict = self.core.committer.commit(write, Caller::Engine);
        self.core.options.observers.tell(|| Event::Recorded {
            workflow: self.run.workflow(),
            kind,
            took: watch.elapsed(),
        });
        match verdict {
            Ok(Verdict::NotOwner) => Err(self.lost()),
            Ok(verdict) => Ok(verdict),
            Err(error) => Err(self.commit_failed(&error)),
        }
    }

    /// Records the outcome of a step.
    pub(crate) fn record(&mut self, row: StepRow) -> Result<()> {
        let (step_id, name, success) = (row.step_id, row.name.clone(), row.error.is_none());
        let write = Write::RecordStep { owner: self.run.owner.clone(), step: row };
        if let Verdict::Refused(Refusal::OtherStep { recorded }) = self.commit(write)? {
            return Err(self.not_deterministic(step_id, &recorded, &name));
        }
        self.tell_recorded(step_id, &name, success);
        Ok(())
    }

    pub(crate) fn tell_recorded(&self, step_id: StepId, name: &str, success: bool) {
        let workflow = self.run.workflow();
        self.core.options.observers.tell(|| Event::StepRecorded { workflow, step_id, name, success });
    }

    /// Waits this long, whatever happens to the wall clock; ends early when the execution does.
    pub(crate) fn pause(&mut self, time: Duration) -> Result<()> {
        self.wait_at_most(time, || false).map(drop)
    }

    /// Waits until `done`, or for `time`, and says which. No clock that is set makes that shorter or longer. The slot is
    /// free meanwhile. Whoever makes `done` true raises the signal of this run.
    pub(crate) fn wait_at_most(&mut self, time: Duration, mut done: impl FnMut() -> bool) -> Result<bool> {
        let clock = self.core.options.clock.steady();
        // Beyond the calendar: it ends only by `done`.
        let deadline = clock.now().checked_add(time);
        let watch = Stopwatch::start();
        let run = &self.run;
        let is_done = self.slot.without(|| {
            loop {
                let seen = run.signal.now();
                if run.stop().is_some() {
                    return false;
                }
                if done() {
                    return true;
                }
                if deadline.is_some_and(|deadline| clock.now() >= deadline) {
                    return false;
                }
                run.signal.wait_past(seen, &clock, deadline);
            }
        });
        self.core
            .options
            .observers
            .tell(|| Event::Waited { workflow: self.run.workflow(), took: watch.elapsed() });
        self.refuse_if_ended()?;
        Ok(is_done)
    }

    /// Leaves the thread: the rest of the run happens when `until` has come, by `due` at the latest. Returns only if it
    /// has come already.
    pub(crate) fn suspend(&mut self, until: Wake, due: Option<Due>) -> Result<()> {
        if let Some(due) = due {
            self.core.dues.note(self.workflow_id(), due);
        }
        let write = Write::Suspend { owner: self.run.owner.clone(), until, at: self.now() };
        match self.commit(write)? {
            Verdict::Refused(Refusal::NoNeedToWait) => Ok(()),
            _ => Err(self.end(Ended::Stopped(Stop::Suspended))),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.core.options.clock.now()
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Ends the execution, and gives the error to return.
    pub(crate) fn end(&mut self, ended: Ended) -> Error {
        let ended = self.ended.get_or_insert(ended).clone();
        match ended {
            Ended::Stopped(reason) => Error::Stopped { workflow: self.run.workflow().clone(), reason },
            Ended::Faulty(error) => error,
        }
    }

    pub(crate) fn not_deterministic(&mut self, step: StepId, recorded: &str, asked: &str) -> Error {
        let error = Error::NonDeterminism {
            workflow: self.run.workflow().clone(),
            step,
            recorded: recorded.to_owned(),
            asked: asked.to_owned(),
        };
        self.end(Ended::Faulty(error))
    }

    /// Nothing more happens after the end, and an execution that was told to stop does.
    pub(crate) fn refuse_if_ended(&mut self) -> Result<()> {
        if let Some(ended) = self.ended.clone() {
            return Err(self.end(ended));
        }
        let shutting_down = || self.core.is_stopping().then_some(Stop::ShuttingDown);
        match self.run.stop().or_else(shutting_down) {
            Some(reason) => Err(self.end(Ended::Stopped(reason))),
            None => Ok(()),
        }
    }

    /// To be called before a body runs. An executor that others may have taken for dead, because it stood still or the
    /// database was away, asks whether the workflow is still its own.
    pub(crate) fn refuse_if_superseded(&mut self) -> Result<()> {
        let executor = self.core.identity()?.executor.clone();
        let mut pause = COMMIT_RETRY_MIN;
        while !self.core.liveness.covers(&executor, self.run.sure_at()) {
            let looked = Stopwatch::start();
            match self.core.reader.lost_among(std::slice::from_ref(&self.run.owner)) {
                Ok(lost) if lost.is_empty() => {
                    self.run.is_sure_since(looked);
                    break;
                }
                Ok(_) => return Err(self.lost()),
                Err(error) if error.may_pass => self.pause_longer(&mut pause)?,
                Err(error) => return Err(self.end(Ended::Stopped(Stop::Database(error.to_string().into())))),
            }
        }
        self.refuse_if_ended()
    }

    /// Waits before the next try, and longer before the one after it.
    pub(crate) fn pause_longer(&mut self, pause: &mut Duration) -> Result<()> {
        self.pause(*pause)?;
        *pause = (*pause * 2).min(COMMIT_RETRY_MAX);
        Ok(())
    }

    /// Why this execution lost its workflow: it was cancelled, somebody else has it, or nobody any more.
    pub(crate) fn lost(&mut self) -> Error {
        let reason = match self.core.reader.outcome(self.run.workflow()) {
            Ok(None) => Stop::Deleted,
            Ok(Some(found)) if found.status == WorkflowStatus::Cancelled => Stop::Cancelled,
            Ok(Some(_)) | Err(_) => Stop::NotOwner,
        };
        self.end(Ended::Stopped(reason))
    }

    pub(crate) fn commit_failed(&mut self, error: &CommitError) -> Error {
        let reason = match error {
            CommitError::Closed => Stop::ShuttingDown,
            CommitError::Refused(error) => Stop::Database(error.to_string().into()),
            CommitError::Unanswered { reason, .. } => Stop::Database(reason.as_str().into()),
        };
        self.end(Ended::Stopped(reason))
    }
}
