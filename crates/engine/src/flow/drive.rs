//! The driver of plain functions: it commits and waits on the thread of the workflow.
//!
//! Does not know: SQL, codecs, step ids.

use std::time::Duration;

use crate::flow::attempts::{Attempts, Next, StepInfo, Tried};
use crate::flow::context::Context;
use crate::flow::execution::{Ended, Unrecorded};
use crate::flow::operation::{Begun, Recorded, Recording};
use crate::flow::options::StepOptions;
use crate::machines::committer::{Caller, CommitError};
use crate::pure::clock::Stopwatch;
use crate::pure::due::Due;
use crate::pure::error::{Failure, Result, Stop};
use crate::pure::limits::{COMMIT_RETRY_MAX, COMMIT_RETRY_MIN};
use crate::pure::observer::Event;
use crate::sysdb::write::{Refusal, Wake};
use crate::sysdb::{Verdict, Write};

impl Context {
    /// Makes the end of an operation durable.
    pub(crate) fn record(&mut self, recording: Recording) -> Result<Recorded> {
        let (write, pending) = recording.into_parts();
        let answer = self.commit(write);
        pending.conclude(answer).map_err(|unrecorded| self.execution.explain(unrecorded))
    }

    /// Makes a write of this workflow durable, and tells how long that took.
    pub(crate) fn commit(&mut self, write: Write) -> Result<Verdict, CommitError> {
        let kind = write.kind();
        let watch = Stopwatch::start();
        let answer = self.core().committer.commit(write, Caller::Engine);
        let (workflow, took) = (self.workflow_id(), watch.elapsed());
        self.execution.tell(|| Event::Recorded { workflow, kind, took });
        answer
    }

    /// Runs the attempts of a step until there is a value, or a failure to record.
    pub(crate) fn run_attempts<T>(
        &mut self,
        begun: &Begun,
        options: &StepOptions,
        mut try_once: impl FnMut(&mut Self, &StepInfo) -> Result<T, Tried>,
    ) -> Result<Result<T, Failure>> {
        let mut attempts = Attempts::new(begun, options);
        loop {
            self.refuse_if_superseded()?;
            let info = attempts.info();
            let watch = Stopwatch::start();
            let tried = try_once(self, &info);
            let took = watch.elapsed();
            let tried = match tried {
                Ok(value) => {
                    attempts.succeeded(took);
                    return Ok(Ok(value));
                }
                Err(tried) => tried,
            };
            if !matches!(tried, Tried::Stopped(_)) {
                // An error of a body that was told to stop is no outcome: it may come from being stopped.
                self.execution.refuse_if_ended()?;
            }
            match attempts.next(tried, took) {
                Next::Wait(time) => self.pause(time)?,
                Next::Record(failure) => return Ok(Err(failure)),
                Next::Stop(error) => return Err(error),
            }
        }
    }

    /// Waits this long, whatever happens to the wall clock; ends early when the execution does.
    pub(crate) fn pause(&mut self, time: Duration) -> Result<()> {
        self.wait_at_most(time, || false).map(drop)
    }

    /// Waits before the next try, and longer before the one after it.
    pub(crate) fn pause_longer(&mut self, pause: &mut Duration) -> Result<()> {
        self.pause(*pause)?;
        *pause = (*pause * 2).min(COMMIT_RETRY_MAX);
        Ok(())
    }

    /// Waits until `done`, or for `time`, and says which. No clock that is set makes that shorter or longer. The slot is
    /// free meanwhile. Whoever makes `done` true raises the signal of this run.
    pub(crate) fn wait_at_most(&mut self, time: Duration, mut done: impl FnMut() -> bool) -> Result<bool> {
        let clock = self.core().options.clock.steady();
        // Beyond the calendar: it ends only by `done`.
        let deadline = clock.now().checked_add(time);
        let watch = Stopwatch::start();
        let run = &self.execution.run;
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
        let (workflow, took) = (self.workflow_id(), watch.elapsed());
        self.execution.tell(|| Event::Waited { workflow, took });
        self.execution.refuse_if_ended()?;
        Ok(is_done)
    }

    /// Leaves the thread: the rest of the run happens when `until` has come, by `due` at the latest. Returns only if it
    /// has come already.
    pub(crate) fn suspend(&mut self, until: Wake, due: Option<Due>) -> Result<()> {
        if let Some(due) = due {
            self.core().dues.note(self.workflow_id(), due);
        }
        let (owner, at) = (self.execution.run.owner.clone(), self.execution.now());
        match self.commit(Write::Suspend { owner, until, at }) {
            Ok(Verdict::Refused(Refusal::NoNeedToWait)) => Ok(()),
            Ok(Verdict::NotOwner) => Err(self.execution.explain(Unrecorded::Lost)),
            Ok(_) => Err(self.execution.end(Ended::Stopped(Stop::Suspended))),
            Err(error) => Err(self.execution.commit_failed(&error)),
        }
    }

    /// To be called before a body runs. An executor that others may have taken for dead, because it stood still or the
    /// database was away, asks whether the workflow is still its own.
    fn refuse_if_superseded(&mut self) -> Result<()> {
        let execution = self.execution.clone();
        let (core, run) = (&execution.core, &execution.run);
        let executor = core.identity()?.executor.clone();
        let mut pause = COMMIT_RETRY_MIN;
        while !core.liveness.covers(&executor, run.sure_at()) {
            let looked = Stopwatch::start();
            match core.reader.lost_among(std::slice::from_ref(&run.owner)) {
                Ok(lost) if lost.is_empty() => {
                    run.is_sure_since(looked);
                    break;
                }
                Ok(_) => return Err(execution.lost()),
                Err(error) if error.may_pass => self.pause_longer(&mut pause)?,
                Err(error) => {
                    return Err(execution.end(Ended::Stopped(Stop::Database(error.to_string().into()))));
                }
            }
        }
        execution.refuse_if_ended()
    }
}
