//! Child workflows: started and awaited, or run on the parent's own thread.
//!
//! The child's row and the parent's record of it are one commit, so there is never one without the other.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, Codec};
use crate::committer::Caller;
use crate::context::{Context, Ended, Place};
use crate::core::Run;
use crate::error::{AWAITED_CANCELLED, AWAITED_PARKED, Error, Failure, Result, Stop};
use crate::handle;
use crate::id::{OwnerToken, WorkflowId, check_name};
use crate::queue::{EnqueueOptions, Queue};
use crate::registry::Workflow;
use crate::status::WorkflowStatus;
use crate::sysdb::write::{NewWorkflow, Refusal, Wake};
use crate::sysdb::{Outcome, Owner, StepRow, Verdict, Write};
use crate::waiter::Topic;
use crate::workflow::{self, Assignment, Ending};

/// The name under which the outcome of a child is recorded in its parent, as DBOS has it.
const GET_RESULT: &str = "DBOS.getResult";

/// A child that was started; [`Child::result`] waits for it.
pub struct Child<O> {
    id: WorkflowId,
    output: PhantomData<fn() -> O>,
}

impl<O: DeserializeOwned> Child<O> {
    /// The child's workflow id.
    pub fn id(&self) -> &WorkflowId {
        &self.id
    }

    /// Waits for the child and returns what it returned. Takes one step id and one commit. A long wait takes no
    /// thread.
    ///
    /// # Errors
    /// [`Error::WorkflowFailed`], [`Error::WorkflowCancelled`] or [`Error::RecoveryAttemptsExceeded`] when the
    /// child ended so, [`Error::Stopped`] when the engine ends this execution; hand that on.
    pub fn result(&self, ctx: &mut Context) -> Result<O> {
        let patience = ctx.core.options.suspend_after;
        ctx.child_result(&self.id, patience)
    }
}

impl<O> fmt::Debug for Child<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Child({})", self.id)
    }
}

impl Context {
    /// Runs a child on this thread and returns what it returned. It is a workflow of its own, `PARENT-STEP` by
    /// id: recovered, listed and cancelled like any other. Takes two step ids.
    ///
    /// # Errors
    /// As [`Context::start`] and [`Child::result`].
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result, Workflow};
    /// fn nightly(ctx: &mut Context, batch: &Workflow<u32, u64>) -> Result<u64> {
    ///     let mut total = 0;
    ///     for number in 0..10 {
    ///         total += ctx.run(batch, number)?;
    ///     }
    ///     Ok(total)
    /// }
    /// ```
    pub fn run<I, O>(&mut self, workflow: &Workflow<I, O>, input: I) -> Result<O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        if self.depth >= crate::limits::INLINE_DEPTH_MAX {
            return self.start(workflow, input)?.result(self);
        }
        let mut patience = self.core.options.suspend_after;
        let (id, assignment) = self.begin(workflow, None, input, How::Inline)?;
        if let Some(assignment) = assignment {
            match workflow::run_inline(self, assignment) {
                Ending::Settled(outcome) => return self.record_child_result(&id, &outcome),
                // It sleeps long: so does its parent.
                Ending::Suspended => patience = Duration::ZERO,
                Ending::Left => {}
            }
        }
        self.child_result(&id, patience)
    }

    /// Starts a child, which runs beside this workflow. Takes one step id and one commit.
    ///
    /// # Errors
    /// [`Error::NotRegistered`] when this program has no such workflow, [`Error::Unencodable`] for an input that
    /// cannot be recorded, [`Error::Stopped`] when the engine ends this execution; hand that on.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result, Workflow};
    /// fn all(ctx: &mut Context, page: &Workflow<u32, u64>) -> Result<u64> {
    ///     let children = (0..10).map(|number| ctx.start(page, number)).collect::<Result<Vec<_>>>()?;
    ///     children.iter().map(|child| child.result(ctx)).sum()
    /// }
    /// ```
    pub fn start<I, O>(&mut self, workflow: &Workflow<I, O>, input: I) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
    {
        let (id, _) = self.begin(workflow, None, input, How::Beside)?;
        Ok(Child { id, output: PhantomData })
    }

    /// The same under an id of your choice. If it is taken by a run of the same workflow, that run is the child.
    ///
    /// # Errors
    /// As [`Context::start`], and [`Error::StepFailed`] when the id belongs to another workflow.
    pub fn start_as<I, O>(&mut self, workflow: &Workflow<I, O>, id: &str, input: I) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
    {
        let id = WorkflowId::new(id)?;
        let (id, _) = self.begin(workflow, Some(id), input, How::Beside)?;
        Ok(Child { id, output: PhantomData })
    }

    /// Puts a child into a queue, for whoever serves that. Takes one step id and one commit.
    ///
    /// # Errors
    /// As [`Context::start`], but the workflow need not be registered in this program.
    pub fn enqueue<I, O>(&mut self, workflow: &Workflow<I, O>, queue: &Queue, input: I) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        self.enqueue_with(workflow, queue, &EnqueueOptions::new(), input)
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Context::enqueue`], [`Error::InvalidName`], [`Error::InvalidOption`], and [`Error::StepFailed`] when the id
    /// belongs to another workflow.
    pub fn enqueue_with<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        // All that can be refused is refused before the place is taken.
        let new = workflow.queued(&self.core, queue, options, input)?;
        let place = self.place_unchecked(workflow.name())?;
        let id = self.id_of_child(&place, options.id.map(|_| new.id.clone()))?;
        if let Some(recorded) = self.replayed(&place)? {
            let id = self.began_before(&place, &id, &recorded)?;
            return Ok(Child { id, output: PhantomData });
        }
        let parent = Some(self.workflow_id().clone());
        self.commit_child(&place, NewWorkflow { id: id.clone(), parent, at: self.now(), ..new })?;
        Ok(Child { id, output: PhantomData })
    }

    fn id_of_child(&self, place: &Place<'_>, given: Option<WorkflowId>) -> Result<WorkflowId> {
        let id = given.map_or_else(|| WorkflowId::of_child(self.workflow_id(), place.step_id), Ok)?;
        if id == *self.workflow_id() {
            let (what, name) = ("id of a child", id.to_string());
            return Err(Error::InvalidName { what, name, reason: "is the workflow's own".to_owned() });
        }
        Ok(id)
    }

    /// Records the start of a child. Inline, it gives back what to run; beside, it is on its way.
    fn begin<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        id: Option<WorkflowId>,
        input: I,
        how: How,
    ) -> Result<(WorkflowId, Option<Assignment>)>
    where
        I: Serialize + DeserializeOwned,
    {
        check_name("workflow name", workflow.name())?;
        self.core.registry.get(workflow.name())?;
        let input = codec::encode_input(workflow.name(), input, false)?;
        let place = self.place_unchecked(workflow.name())?;
        let id = self.id_of_child(&place, id)?;
        if let Some(recorded) = self.replayed(&place)? {
            return self.began_before(&place, &id, &recorded).map(|id| (id, None));
        }
        let identity = self.core.identity()?.clone();
        let slot = if how == How::Beside { self.core.slot_of(&identity.executor) } else { None };
        let owner = Owner { workflow: id.clone(), token: OwnerToken::generate() };
        let child = NewWorkflow {
            id: id.clone(),
            name: workflow.shared_name(),
            input: input.clone(),
            parent: Some(self.workflow_id().clone()),
            app: identity.app.clone(),
            version: Some(identity.version.clone()),
            token: owner.token.clone(),
            claimed_by: (how == How::Inline || slot.is_some()).then(|| identity.executor.clone()),
            queue: None,
            priority: 0,
            at: self.now(),
        };
        let assignment = Assignment::fresh(Run::new(owner), workflow.shared_name(), input);
        self.core.runs.enter(&assignment.run);
        let started = self.commit_child(&place, child);
        if !matches!(started, Ok(Verdict::Done)) {
            self.core.runs.leave(&assignment.run);
            return started.map(|_| (id, None));
        }
        match (how, slot) {
            (How::Inline, _) => return Ok((id, Some(assignment))),
            (How::Beside, Some(slot)) => workflow::dispatch(&self.core, assignment, slot, Caller::Engine),
            (How::Beside, None) => {
                self.core.runs.leave(&assignment.run);
                self.core.expect_backlog();
            }
        }
        Ok((id, None))
    }

    fn commit_child(&mut self, place: &Place<'_>, child: NewWorkflow) -> Result<Verdict> {
        let id = child.id.clone();
        let step = StepRow { child: Some(id.clone()), ..place.row(self.now()) };
        let verdict = self.commit(Write::StartChild { parent: self.run.owner.clone(), step, child })?;
        if let Verdict::Refused(refusal) = &verdict {
            let recorded = match refusal {
                Refusal::OtherWorkflow { name } => name.clone(),
                Refusal::OtherStep { recorded } => {
                    return Err(self.not_deterministic(place.step_id, recorded, place.name));
                }
                other => format!("{other:?}"),
            };
            let error = Error::IdInUse { workflow: id, recorded, asked: place.name.to_owned() };
            let (row, error) = self.failure(place, Failure::new("IdInUse", error.to_string()));
            self.record(row)?;
            return Err(error);
        }
        self.tell_recorded(place.step_id, place.name, true);
        Ok(verdict)
    }

    /// The child that an earlier run started in this place.
    fn began_before(
        &mut self,
        place: &Place<'_>,
        asked: &WorkflowId,
        recorded: &StepRow,
    ) -> Result<WorkflowId> {
        if let Some(failure) = recorded.failure() {
            return Err(failure.into_step_error(place.name));
        }
        match &recorded.child {
            Some(child) if child == asked => Ok(child.clone()),
            Some(child) => {
                let (recorded, asked) = (format!("child {child}"), format!("child {asked}"));
                Err(self.not_deterministic(place.step_id, &recorded, &asked))
            }
            None => Err(self.not_deterministic(place.step_id, "a step", &format!("child {asked}"))),
        }
    }

    /// What the child returned; waits for it if that is not recorded.
    fn child_result<O: DeserializeOwned>(&mut self, child: &WorkflowId, patience: Duration) -> Result<O> {
        let place = self.place_unchecked(GET_RESULT)?;
        if let Some(recorded) = self.replayed(&place)? {
            return result_of(&recorded, child);
        }
        let outcome = self.await_outcome(child, patience)?;
        self.record_result(&place, child, &outcome)
    }

    /// The same for an outcome that is at hand.
    fn record_child_result<O: DeserializeOwned>(
        &mut self,
        child: &WorkflowId,
        outcome: &Outcome,
    ) -> Result<O> {
        let place = self.place_unchecked(GET_RESULT)?;
        if let Some(recorded) = self.replayed(&place)? {
            return result_of(&recorded, child);
        }
        self.record_result(&place, child, outcome)
    }

    fn record_result<O: DeserializeOwned>(
        &mut self,
        place: &Place<'_>,
        child: &WorkflowId,
        outcome: &Outcome,
    ) -> Result<O> {
        let row = outcome_row(place.row(self.now()), outcome);
        let result = result_of(&row, child);
        self.record(row)?;
        result
    }

    /// Waits for the end of a workflow: on the thread for a while, without one after that.
    fn await_outcome(&mut self, workflow: &WorkflowId, patience: Duration) -> Result<Outcome> {
        let hub = self.core.hub.clone();
        let subscription = hub.subscribe(Topic::Settled(workflow.clone()), self.run.signal.clone());
        loop {
            let deadline = self.now().checked_add(patience);
            let core = self.core.clone();
            let mut found = Ok(None);
            self.wait_until(deadline, || {
                found = handle::ended(&core, workflow, &subscription);
                !matches!(found, Ok(None))
            })?;
            match found {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                // Not the workflow's failure, so not its outcome.
                Err(Error::Database { statement, source }) => {
                    let reason = format!("{statement}: {source}");
                    return Err(self.end(Ended::Stopped(Stop::Database(reason.into()))));
                }
                Err(error) => return Err(error),
            }
            self.suspend(Wake::WhenSettled(workflow.clone()))?;
        }
    }
}

/// Where a child runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// On its parent's thread, in its parent's slot.
    Inline,
    /// On a thread of its own, or later when there is none.
    Beside,
}

/// The record of an outcome in the workflow that waited for it.
pub(crate) fn outcome_row(row: StepRow, outcome: &Outcome) -> StepRow {
    let failure = |name, message: String| Some(codec::encode_failure(&Failure::new(name, message)));
    let id = &outcome.workflow;
    let (output, error) = match outcome.status {
        WorkflowStatus::Success => (outcome.output.clone(), None),
        WorkflowStatus::Cancelled => {
            (None, failure(AWAITED_CANCELLED, format!("workflow {id} was cancelled")))
        }
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            (None, failure(AWAITED_PARKED, outcome.failure().message().to_owned()))
        }
        WorkflowStatus::Error
        | WorkflowStatus::Pending
        | WorkflowStatus::Enqueued
        | WorkflowStatus::Delayed
        | WorkflowStatus::Unknown => (None, Some(codec::encode_failure(&outcome.failure()))),
    };
    let serialization = match outcome.status {
        WorkflowStatus::Success => outcome.serialization.clone(),
        _ => Some(Codec::PortableJson.name().into()),
    };
    StepRow { output, error, serialization, child: Some(id.clone()), ..row }
}

/// What such a record means to the one who waited.
pub(crate) fn result_of<O: DeserializeOwned>(row: &StepRow, workflow: &WorkflowId) -> Result<O> {
    let Some(failure) = row.failure() else {
        let what = format!("output of workflow {workflow}");
        return codec::decode(&what, row.serialization.as_deref(), row.output.as_deref());
    };
    let workflow = workflow.clone();
    Err(match failure.name() {
        AWAITED_CANCELLED => Error::WorkflowCancelled { workflow },
        AWAITED_PARKED => Error::RecoveryAttemptsExceeded { workflow, reason: failure.message().to_owned() },
        _ => Error::WorkflowFailed { workflow, failure },
    })
}
