//! How the operations of one run commit and wait: on the thread of a plain function, or as a task that holds none.
//!
//! Each operation is written once, as a future. For a plain function nothing in it is ever pending: its driver blocks
//! where that of a task waits. So one poll runs it to its end.
//!
//! Does not know: SQL, codecs, step ids.

#![cfg_attr(
    not(feature = "tokio"),
    expect(
        clippy::unused_async,
        reason = "the driver of a plain function blocks where that of a task waits"
    )
)]

use std::pin::pin;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use crate::flow::attempts::{Attempts, Next, Tried};
use crate::flow::core::Core;
use crate::flow::execution::{Ended, Execution, Unrecorded};
use crate::flow::operation::{Pending, Recorded, Recording};
use crate::flow::race::{self, Branch};
use crate::flow::waits::{self, Departure, Wait};
use crate::machines::committer::{Caller, CommitError};
use crate::machines::slots::Slot;
use crate::machines::waiter::Subscription;
use crate::pure::clock::{Stopwatch, Timestamp};
use crate::pure::due::Due;
use crate::pure::error::{Error, Failure, Result, Stop};
use crate::pure::id::WorkflowId;
use crate::pure::limits::{COMMIT_RETRY_MAX, COMMIT_RETRY_MIN};
use crate::pure::observer::Event;
use crate::sysdb::write::Refusal;
use crate::sysdb::{Verdict, Write};

/// The base of the operations of one run: the execution, and its driver.
#[derive(Clone)]
pub(crate) struct Flow {
    pub(crate) execution: Arc<Execution>,
    driver: Driver,
    /// Where it is a branch of a race.
    branch: Option<Branch>,
}

/// Who waits, in whose slot.
#[derive(Clone)]
enum Driver {
    /// The thread of a plain function, which blocks.
    Thread(Arc<Slot>),
    /// A task, which holds no thread while it waits.
    #[cfg(feature = "tokio")]
    Task(Arc<Slot>),
}

/// The result of a wait.
pub(crate) enum Waited {
    /// The awaited end or message may be there.
    LookAgain,
    /// The awaited workflow waits for this one, through these others.
    InACircle(Vec<WorkflowId>),
}

/// Runs a future of a plain function.
pub(crate) fn now<T>(work: impl Future<Output = T>) -> T {
    let mut context = task::Context::from_waker(Waker::noop());
    match pin!(work).poll(&mut context) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("the driver of a plain function blocks"),
    }
}

impl Flow {
    /// Of a plain function, whose thread holds this slot.
    pub(crate) fn on_a_thread(execution: Arc<Execution>, slot: Arc<Slot>) -> Self {
        Self { execution, driver: Driver::Thread(slot), branch: None }
    }

    /// Of an async function.
    #[cfg(feature = "tokio")]
    pub(crate) fn of_a_task(execution: Arc<Execution>, slot: Arc<Slot>) -> Self {
        Self { execution, driver: Driver::Task(slot), branch: None }
    }

    /// This run, for one branch of a race.
    pub(crate) fn in_branch(&self, branch: Branch) -> Self {
        Self { branch: Some(branch), ..self.clone() }
    }

    pub(crate) fn branch(&self) -> Option<&Branch> {
        self.branch.as_ref()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.execution.core
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        match &self.driver {
            Driver::Thread(slot) => slot,
            #[cfg(feature = "tokio")]
            Driver::Task(slot) => slot,
        }
    }

    /// Who asks for its commits.
    pub(crate) fn caller(&self) -> Caller {
        match &self.driver {
            Driver::Thread(_) => Caller::Engine,
            #[cfg(feature = "tokio")]
            Driver::Task(_) => Caller::Passive,
        }
    }

    /// Makes the end of an operation durable. It decides the race whose branch this is.
    pub(crate) async fn record(&self, recording: Recording) -> Result<Recorded> {
        match &self.branch {
            None => self.record_alone(recording).await,
            Some(branch) => {
                let recorded = self.record_alone(branch.decides(recording)).await?;
                branch.was_recorded(self, recorded, true)
            }
        }
    }

    /// Makes a part of an operation durable that does not end it.
    pub(crate) async fn record_alone(&self, recording: Recording) -> Result<Recorded> {
        let (write, pending) = recording.into_parts();
        let answer = self.commit(write).await;
        self.conclude(pending, answer).await
    }

    /// Nothing more happens after the end of the execution, nor in a branch of a race that another one has won.
    pub(crate) fn refuse_if_over(&self) -> Result<()> {
        self.execution.refuse_if_ended()?;
        if self.has_lost() { Err(race::lost(self)) } else { Ok(()) }
    }

    /// Whether this is a branch of a race that another branch has won.
    fn has_lost(&self) -> bool {
        self.branch().is_some_and(Branch::has_lost)
    }

    /// Makes the ends of several operations durable, in as few commits as can be.
    pub(crate) async fn record_all(&self, recordings: Vec<Recording>) -> Vec<Result<Recorded>> {
        let (writes, pending): (Vec<_>, Vec<_>) = recordings.into_iter().map(Recording::into_parts).unzip();
        let mut recorded = Vec::with_capacity(pending.len());
        for (pending, answer) in pending.into_iter().zip(self.commit_all(writes).await) {
            recorded.push(self.conclude(pending, answer).await);
        }
        recorded
    }

    async fn conclude(&self, pending: Pending, answer: Result<Verdict, CommitError>) -> Result<Recorded> {
        match pending.conclude(answer) {
            Ok(recorded) => Ok(recorded),
            Err(unrecorded) => Err(self.explain(unrecorded).await),
        }
    }

    /// Makes writes of this workflow durable, all of one kind, and tells how long that took.
    async fn commit_all(&self, writes: Vec<Write>) -> Vec<Result<Verdict, CommitError>> {
        let Some(kind) = writes.first().map(Write::kind) else { return Vec::new() };
        let watch = Stopwatch::start();
        let committer = &self.core().committer;
        let answers = match &self.driver {
            Driver::Thread(_) => committer.commit_all(writes),
            #[cfg(feature = "tokio")]
            Driver::Task(_) => committer.commit_all_for_a_task(writes).await,
        };
        self.tell_committed(kind, watch);
        answers
    }

    /// Makes a write of this workflow durable, and tells how long that took.
    pub(crate) async fn commit(&self, write: Write) -> Result<Verdict, CommitError> {
        let kind = write.kind();
        let watch = Stopwatch::start();
        let committer = &self.core().committer;
        let answer = match &self.driver {
            Driver::Thread(_) => committer.commit(write, Caller::Engine),
            #[cfg(feature = "tokio")]
            Driver::Task(_) => committer.commit_for_a_task(write).await,
        };
        self.tell_committed(kind, watch);
        answer
    }

    fn tell_committed(&self, kind: &'static str, watch: Stopwatch) {
        let (workflow, took) = (self.execution.workflow(), watch.elapsed());
        self.execution.tell(|| Event::Recorded { workflow, kind, took });
    }

    /// A call that blocks, such as a look into the database.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Execution) -> T + Send + 'static,
    ) -> T {
        match &self.driver {
            Driver::Thread(_) => call(&self.execution),
            #[cfg(feature = "tokio")]
            Driver::Task(_) => {
                let execution = self.execution.clone();
                self.core().errands.run(move || call(&execution)).await
            }
        }
    }

    /// The error of an operation that was not recorded.
    pub(crate) async fn explain(&self, unrecorded: Unrecorded) -> Error {
        match unrecorded {
            Unrecorded::Lost => self.call(Execution::lost).await,
            Unrecorded::Ended(error) => error,
        }
    }

    /// The action after an attempt of a step: `None` for another attempt, else the outcome of the step.
    pub(crate) async fn after_attempt<T>(
        &self,
        attempts: &mut Attempts<'_>,
        tried: Result<T, Tried>,
        took: Duration,
    ) -> Result<Option<Result<T, Failure>>> {
        let tried = match tried {
            Ok(value) => {
                attempts.succeeded(took);
                return Ok(Some(Ok(value)));
            }
            Err(tried) => tried,
        };
        if !matches!(tried, Tried::Stopped(_)) {
            // An error of a body that was told to stop is no outcome: it may come from being stopped.
            self.refuse_if_over()?;
        }
        match attempts.next(tried, took) {
            Next::Wait(time) => {
                self.pause(time).await?;
                Ok(None)
            }
            Next::Record(failure) => Ok(Some(Err(failure))),
            Next::Stop(error) => Err(error),
        }
    }

    /// Waits this long by the steady clock; ends early when the execution does.
    pub(crate) async fn pause(&self, time: Duration) -> Result<()> {
        let clock = self.core().options.clock.steady();
        // Beyond the calendar: it ends only with the execution.
        let deadline = clock.now().checked_add(time);
        loop {
            let seen = self.execution.run.signal.now();
            if deadline.is_some_and(|deadline| deadline <= clock.now()) {
                return self.refuse_if_over();
            }
            self.wait_past(seen, deadline).await?;
        }
    }

    /// Waits before the next try, and longer before the one after it.
    pub(crate) async fn pause_longer(&self, pause: &mut Duration) -> Result<()> {
        self.pause(*pause).await?;
        *pause = (*pause * 2).min(COMMIT_RETRY_MAX);
        Ok(())
    }

    /// Waits until the signal of this run was raised since `seen`, or until the deadline on the steady clock. The slot is
    /// lent meanwhile. A time to wait would begin anew here: it ends later if its clock moves between the look and the wait.
    async fn wait_past(&self, seen: u64, deadline: Option<Timestamp>) -> Result<()> {
        let clock = self.core().options.clock.steady();
        let watch = Stopwatch::start();
        let run = &self.execution.run;
        // What ended before `seen` does not wait.
        if run.stop().is_none() && !self.has_lost() {
            let _lent = self.slot().lend();
            match &self.driver {
                Driver::Thread(_) => run.signal.wait_past(seen, &clock, deadline),
                #[cfg(feature = "tokio")]
                Driver::Task(_) => self.core().timer.raised_past(&run.signal, seen, deadline).await,
            }
        }
        let (workflow, took) = (self.execution.workflow(), watch.elapsed());
        self.execution.tell(|| Event::Waited { workflow, took });
        self.refuse_if_over()
    }

    /// The one policy of all waits: in memory until `patience` is over, and without anything after that, when each open
    /// operation of the workflow waits like this. It ends when `calls` tells of more calls than so many: the signal of the
    /// run is raised for its other operations as well.
    pub(crate) async fn wait(
        &self,
        wait: Wait,
        calls: Option<(&Subscription, u64)>,
        patience: Option<Due>,
    ) -> Result<Waited> {
        let (clock, waits) = (&self.core().options.clock, &self.execution.waits);
        let refused = waits.refused();
        let mut leaving = None;
        loop {
            let seen = self.execution.run.signal.now();
            let is_over = |due: Due| due.left(clock).is_zero();
            let was_called = calls.is_some_and(|(awaited, calls)| awaited.calls() != calls);
            if waits.refused() != refused {
                return Ok(Waited::LookAgain);
            }
            if wait.due.is_some_and(is_over) || was_called {
                if leaving.is_none() || !waits.is_leaving() {
                    return Ok(Waited::LookAgain);
                }
                // A suspension with this wait is on its way. It is made, or refused because what is awaited is there.
                match &self.driver {
                    Driver::Thread(_) => self.wait_past(seen, None).await?,
                    // The future that makes it may not be polled any more. So this does not wait for that future.
                    #[cfg(feature = "tokio")]
                    Driver::Task(_) => {
                        self.refuse_if_superseded().await?;
                        return Ok(Waited::LookAgain);
                    }
                }
                continue;
            }
            if !patience.is_some_and(is_over) {
                let first = wait.due.into_iter().chain(patience).map(|due| due.steady).min();
                self.wait_past(seen, first).await?;
                continue;
            }
            if leaving.is_none() {
                if let Some(others) = self.circle_of(&wait).await {
                    return Ok(Waited::InACircle(others));
                }
                leaving = Some(waits.may_leave(wait.clone()));
            }
            match waits.all_leave(&self.execution.run.signal) {
                Some(departure) => {
                    // A branch of a race that has just won is not open any more.
                    self.refuse_if_over()?;
                    self.leave(departure).await?;
                }
                // The signal is raised when another operation ends.
                None => self.wait_past(seen, wait.due.map(|due| due.steady)).await?,
            }
        }
    }

    /// Leaves: the rest of the run happens when the first of these waits is over. Returns only if that is so already.
    async fn leave(&self, mut departure: Departure<'_>) -> Result<()> {
        let execution = &self.execution;
        let waits = &departure.waits;
        let dues = waits.iter().filter_map(|wait| wait.due).collect();
        self.core().dues.note(execution.workflow(), dues);
        let (owner, at, until) = (execution.run.owner.clone(), execution.now(), waits::first_of(waits));
        let answer = self.commit(Write::Suspend { owner, until, at }).await;
        match answer {
            Ok(Verdict::Refused(Refusal::NoNeedToWait)) => {
                departure.was_refused();
                Ok(())
            }
            Ok(Verdict::NotOwner) => Err(self.explain(Unrecorded::Lost).await),
            Ok(_) => {
                departure.was_made();
                Err(execution.end(Ended::Stopped(Stop::Suspended)))
            }
            Err(error) => Err(execution.commit_failed(&error)),
        }
    }

    /// To be called before a body runs. Asks whether the workflow is still this executor's, if others may have taken
    /// the executor for dead. It may have stood still, or the database was away. Asks as well if the workflow is about to
    /// leave: a wait of it has just ended, and the suspension that comes with it is on its way.
    pub(crate) async fn refuse_if_superseded(&self) -> Result<()> {
        let execution = &self.execution;
        let (core, run) = (&execution.core, &execution.run);
        let executor = core.identity()?.executor.clone();
        let mut pause = COMMIT_RETRY_MIN;
        let may_have_left = execution.waits.is_leaving();
        if may_have_left {
            // Writes are made in the order in which they came, so the suspension is made or refused when this is answered.
            let nothing = Write::WakeFulfilled { waiting: Vec::new(), now: execution.now() };
            self.commit(nothing).await.map_err(|error| execution.commit_failed(&error))?;
        }
        while may_have_left || !core.liveness.covers(&executor, run.sure_at()) {
            let looked = Stopwatch::start();
            let look = |execution: &Execution| {
                execution.core.reader.lost_among(std::slice::from_ref(&execution.run.owner))
            };
            match self.call(look).await {
                Ok(lost) if lost.is_empty() => {
                    run.is_sure_since(looked);
                    break;
                }
                Ok(_) => return Err(self.explain(Unrecorded::Lost).await),
                Err(error) if error.may_pass => self.pause_longer(&mut pause).await?,
                Err(error) => {
                    return Err(execution.end(Ended::Stopped(Stop::Database(error.to_string().into()))));
                }
            }
        }
        self.refuse_if_over()
    }
}
