//! Child workflows: started and awaited, or run on the parent's own thread.
//!
//! The child's row and the parent's record of it are one commit, so there is never one without the other.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[cfg(feature = "tokio")]
use crate::flow::async_context::AsyncContext;
use crate::flow::context::Context;
use crate::flow::core::{Core, Entered, Run};
use crate::flow::drive::{self, Flow, Waited};
use crate::flow::execution::{Ended, Execution};
use crate::flow::operation::{Begun, Entry, Place, Recorded, Recording, Replayed};
#[cfg(feature = "tokio")]
use crate::flow::registry::Kind;
use crate::flow::registry::Workflow;
use crate::flow::workflow::{self, Assignment, Ending};
use crate::machines::slots::Slot;
use crate::machines::waiter::{Subscription, Topic};
use crate::pure::codec::{self, Codec};
use crate::pure::due::Due;
use crate::pure::error::{
    AWAITED_CANCELLED, AWAITED_PARKED, CIRCULAR_WAIT, Error, Failure, NOT_FOUND, Result, Stop,
};
use crate::pure::id::{OwnerToken, WorkflowId, check_name};
use crate::pure::limits::INLINE_DEPTH_MAX;
use crate::pure::queue::{EnqueueOptions, Queue};
use crate::pure::status::WorkflowStatus;
use crate::sysdb::write::{NewWorkflow, Refusal, Wake};
use crate::sysdb::{Outcome, Owner, StepRow, Verdict, Write};

/// The name under which the outcome of a child is recorded in its parent, as DBOS has it.
const GET_RESULT: &str = "DBOS.getResult";

/// A child that was started; [`Child::result`] waits for it.
pub struct Child<O> {
    id: WorkflowId,
    output: PhantomData<fn() -> O>,
}

impl<O> Child<O> {
    pub(crate) fn of(id: WorkflowId) -> Self {
        Self { id, output: PhantomData }
    }
}

/// A child that an async workflow started; [`AsyncChild::result`] waits for it.
#[cfg(feature = "tokio")]
pub struct AsyncChild<O> {
    id: WorkflowId,
    output: PhantomData<fn() -> O>,
}

#[cfg(feature = "tokio")]
impl<O> AsyncChild<O> {
    pub(crate) fn of(id: WorkflowId) -> Self {
        Self { id, output: PhantomData }
    }

    /// The child's workflow id.
    pub fn id(&self) -> &WorkflowId {
        &self.id
    }

    /// Waits for the child and returns what it returned. As [`Child::result`].
    ///
    /// # Errors
    /// As [`Child::result`], and [`Error::Dropped`].
    pub fn result(&self, ctx: &mut AsyncContext) -> impl Future<Output = Result<O>> + use<O>
    where
        O: DeserializeOwned,
    {
        let (flow, before) = ctx.at_the_call();
        ctx.open("result of a child", before, flow.child_result(&self.id, None))
    }
}

#[cfg(feature = "tokio")]
impl<O> fmt::Debug for AsyncChild<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsyncChild({})", self.id)
    }
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
    /// child ended so, [`Error::NotFound`] when its row was deleted, [`Error::CircularWait`] when it waits for this
    /// workflow. All of these are recorded. [`Error::Stopped`] when the engine ends this execution; hand that on.
    pub fn result(&self, ctx: &mut Context) -> Result<O> {
        drive::now(ctx.flow.child_result(&self.id, None))
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
        let is_plain = self.flow.core().registry.get(workflow.name()).is_ok_and(|found| found.is_plain());
        if !is_plain || self.depth >= INLINE_DEPTH_MAX {
            return self.start(workflow, input)?.result(self);
        }
        let mut patience = None;
        let started = drive::now(self.flow.start_child(workflow, None, input, How::Inline))?;
        if let Some(assignment) = started.inline {
            match workflow::run_inline(self, assignment) {
                Ending::Settled(outcome) => {
                    return drive::now(self.flow.record_child_result(&started.id, &outcome));
                }
                // It sleeps long: so does its parent.
                Ending::Suspended => patience = Some(Duration::ZERO),
                Ending::Left => {}
            }
        }
        drive::now(self.flow.child_result(&started.id, patience))
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
        drive::now(self.flow.start_child(workflow, None, input, How::Beside)).map(Started::child)
    }

    /// The same under an id of your choice. If it is taken by a run of the same workflow, that run is the child.
    ///
    /// # Errors
    /// As [`Context::start`], and [`Error::StepFailed`] when the id belongs to another workflow, or to one of those
    /// that this workflow descends from.
    pub fn start_as<I, O>(&mut self, workflow: &Workflow<I, O>, id: &str, input: I) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
    {
        let id = WorkflowId::new(id)?;
        drive::now(self.flow.start_child(workflow, Some(id), input, How::Beside)).map(Started::child)
    }

    /// Starts a child for each input, which all run beside this workflow. Takes one step id for each and one commit, or one
    /// for each 512 of them.
    ///
    /// # Errors
    /// As [`Context::start`].
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result, Workflow};
    /// fn all(ctx: &mut Context, page: &Workflow<u32, u64>) -> Result<u64> {
    ///     let pages = ctx.start_all(page, 0..1_000)?;
    ///     pages.iter().map(|page| page.result(ctx)).sum()
    /// }
    /// ```
    pub fn start_all<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        inputs: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Child<O>>>
    where
        I: Serialize + DeserializeOwned,
    {
        let inputs = inputs.into_iter().collect();
        let ids = drive::now(self.flow.start_children(workflow, inputs))?;
        Ok(ids.into_iter().map(Child::of).collect())
    }

    /// Puts a child for each input into a queue. Takes one step id for each and one commit, or one for each 512 of them.
    ///
    /// # Errors
    /// As [`Context::enqueue`].
    pub fn enqueue_all<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        inputs: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Child<O>>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        let inputs = inputs.into_iter().collect();
        let ids = drive::now(self.flow.enqueue_children(workflow, queue, inputs))?;
        Ok(ids.into_iter().map(Child::of).collect())
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
    /// belongs to another workflow, or to one of those that this workflow descends from.
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
        drive::now(self.flow.enqueue(workflow, queue, options, input)).map(Child::of)
    }
}

/// A child that was started.
pub(crate) struct Started {
    pub(crate) id: WorkflowId,
    /// What is to run in the place of its parent.
    inline: Option<Assignment>,
}

/// A child that is about to be started, and what its parent finds in its place.
struct NewChild {
    id: WorkflowId,
    input: String,
    entry: Entry,
}

impl Started {
    fn beside(id: WorkflowId) -> Self {
        Self { id, inline: None }
    }

    fn child<O>(self) -> Child<O> {
        Child::of(self.id)
    }
}

impl Flow {
    /// Gives the id of the child.
    pub(crate) fn enqueue<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> impl Future<Output = Result<WorkflowId>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        let begun = self.begin_enqueue(workflow, queue, options, input);
        let flow = self.clone();
        async move {
            let (new, entry) = begun?;
            let id = new.id.clone();
            match entry {
                Entry::Replayed(recorded) => began_before(&recorded, &id),
                Entry::Fresh(begun) => flow.record_start(begun, new).await.map(|_| id),
            }
        }
    }

    fn begin_enqueue<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<(NewWorkflow, Entry)>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        // All that can be refused is refused before the place is taken.
        let new = workflow.queued(self.core(), queue, options, input)?;
        let entry = self.begin(workflow.name().to_owned())?;
        let id = self.id_of_child(entry.place(), options.id.map(|_| new.id.clone()))?;
        let (parent, at) = (Some(self.execution.workflow().clone()), self.execution.now());
        Ok((NewWorkflow { id, parent, at, ..new }, entry))
    }

    fn id_of_child(&self, place: &Place, given: Option<WorkflowId>) -> Result<WorkflowId> {
        let id = given.map_or_else(|| WorkflowId::of_child(self.execution.workflow(), place.step_id), Ok)?;
        if id == *self.execution.workflow() {
            let (what, name) = ("id of a child", id.to_string());
            return Err(Error::InvalidName { what, name, reason: "is the workflow's own".to_owned() });
        }
        Ok(id)
    }

    /// Runs a child in the place of this workflow: an async one as a task in its slot, a plain one beside it.
    #[cfg(feature = "tokio")]
    pub(crate) fn run_child<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        input: I,
    ) -> impl Future<Output = Result<O>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        let kind = self.core().registry.kind_of(workflow.name());
        let how = if kind == Some(Kind::Async) { How::Inline } else { How::Beside };
        let begun = self.begin_start(workflow, None, input);
        let (flow, name) = (self.clone(), workflow.shared_name());
        // Its place follows that of the start.
        let result = begun.as_ref().ok().map(|_| self.begin(GET_RESULT));
        async move {
            let started = flow.finish_start(begun?, name, how).await?;
            if let Some(assignment) = started.inline {
                let slot = flow.core().tasks.slots.one_more();
                workflow::dispatch(flow.core(), assignment, slot, flow.caller());
            }
            match result {
                Some(entry) => flow.finish_child_result(entry?, started.id, None).await,
                None => flow.child_result(&started.id, None).await,
            }
        }
    }

    /// Starts a child. Inline, it is given back to be run; beside, it is on its way.
    pub(crate) fn start_child<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        id: Option<WorkflowId>,
        input: I,
        how: How,
    ) -> impl Future<Output = Result<Started>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
    {
        let begun = self.begin_start(workflow, id, input);
        let (flow, name) = (self.clone(), workflow.shared_name());
        async move { flow.finish_start(begun?, name, how).await }
    }

    async fn finish_start(&self, begun: NewChild, name: Arc<str>, how: How) -> Result<Started> {
        let NewChild { id, input, entry } = begun;
        match entry {
            Entry::Replayed(recorded) => began_before(&recorded, &id).map(Started::beside),
            Entry::Fresh(begun) => self.start_fresh(begun, id, (name, input), how).await,
        }
    }

    fn begin_start<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        id: Option<WorkflowId>,
        input: I,
    ) -> Result<NewChild>
    where
        I: Serialize + DeserializeOwned,
    {
        check_name("workflow name", workflow.name())?;
        self.core().registry.get(workflow.name())?;
        let input = codec::encode_input(workflow.name(), input, false)?;
        let entry = self.begin(workflow.name().to_owned())?;
        Ok(NewChild { id: self.id_of_child(entry.place(), id)?, input, entry })
    }

    async fn start_fresh(
        &self,
        begun: Begun,
        id: WorkflowId,
        (name, input): (Arc<str>, String),
        how: How,
    ) -> Result<Started> {
        let mut child = self.new_child(&id, &name, &input, how)?;
        let verdict = self.record_start(begun, child.row.clone()).await;
        child.entered.is_answered();
        Ok(self.send_off(child, (name, input), how, &verdict?))
    }

    /// The row of a child, which this executor is to run if it may.
    fn new_child(&self, id: &WorkflowId, name: &Arc<str>, input: &str, how: How) -> Result<FreshChild<'_>> {
        let core = self.core();
        let identity = core.identity()?;
        let slot = if how == How::Beside { core.slot_of(&identity.executor, name) } else { None };
        let owner = Owner { workflow: id.clone(), token: OwnerToken::generate() };
        let row = NewWorkflow {
            id: id.clone(),
            name: name.clone(),
            input: input.to_owned(),
            parent: Some(self.execution.workflow().clone()),
            app: identity.app.clone(),
            version: Some(identity.version.clone()),
            token: owner.token.clone(),
            claimed_by: (how == How::Inline || slot.is_some()).then(|| identity.executor.clone()),
            queue: None,
            priority: 0,
            at: self.execution.now(),
        };
        Ok(FreshChild { row, slot, entered: core.entered(Run::new(owner)) })
    }

    /// After its start was committed: it runs here, or where somebody takes it up.
    fn send_off(
        &self,
        child: FreshChild<'_>,
        (name, input): (Arc<str>, String),
        how: How,
        verdict: &Verdict,
    ) -> Started {
        let FreshChild { row, slot, entered } = child;
        if *verdict != Verdict::Done {
            return Started::beside(row.id);
        }
        let assignment = |run| Assignment::fresh(run, name, input);
        match (how, slot) {
            (How::Inline, _) => return Started { id: row.id, inline: Some(assignment(entered.keep())) },
            (How::Beside, Some(slot)) => {
                workflow::dispatch(self.core(), assignment(entered.keep()), slot, self.caller());
            }
            (How::Beside, None) => self.core().expect_backlog(),
        }
        Started::beside(row.id)
    }

    /// Starts a child for each input, in one commit where they fit into one.
    pub(crate) fn start_children<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        inputs: Vec<I>,
    ) -> impl Future<Output = Result<Vec<WorkflowId>>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
    {
        let one = |input| self.begin_start(workflow, None, input);
        let begun: Result<Vec<_>> = inputs.into_iter().map(one).collect();
        let (flow, name) = (self.clone(), workflow.shared_name());
        async move {
            let (mut ids, mut recordings) = (Vec::new(), Vec::new());
            let mut fresh: Vec<(FreshChild<'_>, String)> = Vec::new();
            for NewChild { id, input, entry } in begun? {
                match entry {
                    Entry::Replayed(recorded) => drop(began_before(&recorded, &id)?),
                    Entry::Fresh(begun) => {
                        let child = flow.new_child(&id, &name, &input, How::Beside)?;
                        recordings.push(start_of(begun, child.row.clone()));
                        fresh.push((child, input));
                    }
                }
                ids.push(id);
            }
            let recorded = flow.record_all(recordings).await;
            for (child, _) in &mut fresh {
                child.entered.is_answered();
            }
            let mut refused = Ok(());
            for ((child, input), recorded) in fresh.into_iter().zip(recorded) {
                let id = child.row.id.clone();
                match recorded? {
                    Recorded::Done(verdict) => {
                        drop(flow.send_off(child, (name.clone(), input), How::Beside, &verdict));
                    }
                    Recorded::Refused(begun, refusal) => {
                        drop(child);
                        let error = flow.refused_start(begun, id, refusal).await;
                        refused = refused.and(Err(error));
                    }
                }
            }
            refused.map(|()| ids)
        }
    }

    /// Puts a child for each input into a queue, in one commit where they fit into one.
    pub(crate) fn enqueue_children<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        inputs: Vec<I>,
    ) -> impl Future<Output = Result<Vec<WorkflowId>>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        let one = |input| self.begin_enqueue(workflow, queue, &EnqueueOptions::new(), input);
        let begun: Result<Vec<_>> = inputs.into_iter().map(one).collect();
        let flow = self.clone();
        async move {
            let (mut ids, mut recordings) = (Vec::new(), Vec::new());
            for (new, entry) in begun? {
                ids.push(new.id.clone());
                match entry {
                    Entry::Replayed(recorded) => drop(began_before(&recorded, &new.id)?),
                    Entry::Fresh(begun) => recordings.push(start_of(begun, new)),
                }
            }
            let mut refused = Ok(());
            for recorded in flow.record_all(recordings).await {
                if let Recorded::Refused(begun, refusal) = recorded? {
                    let id = WorkflowId::of_child(flow.execution.workflow(), begun.place.step_id)?;
                    let error = flow.refused_start(begun, id, refusal).await;
                    refused = refused.and(Err(error));
                }
            }
            refused.map(|()| ids)
        }
    }

    /// The row of the child and the parent's record of it, in one commit.
    async fn record_start(&self, begun: Begun, child: NewWorkflow) -> Result<Verdict> {
        let id = child.id.clone();
        match self.record(start_of(begun, child)).await? {
            Recorded::Done(verdict) => Ok(verdict),
            Recorded::Refused(begun, refusal) => Err(self.refused_start(begun, id, refusal).await),
        }
    }

    /// Records that there is no such child, and gives the error that says why.
    async fn refused_start(&self, begun: Begun, id: WorkflowId, refusal: Refusal) -> Error {
        let failure = match refusal {
            // The child would be a workflow that this one descends from.
            Refusal::Ancestor => Failure::by_engine(
                CIRCULAR_WAIT,
                format!(
                    "workflow {id} cannot be a child of {}, which descends from it: each would wait for the other; \
                     choose another id",
                    self.execution.workflow()
                ),
            ),
            Refusal::OtherWorkflow { name: recorded } => {
                let asked = begun.place.name.to_string();
                Failure::new("IdInUse", Error::IdInUse { workflow: id, recorded, asked }.to_string())
            }
            other => return self.execution.misanswered("start_child", &Verdict::Refused(other)),
        };
        let (recording, error) = begun.fail(failure);
        match self.record(recording).await {
            Ok(_) => error,
            Err(stopped) => stopped,
        }
    }

    /// What the child returned; waits for it if that is not recorded, in memory for at most `patience`.
    pub(crate) fn child_result<O: DeserializeOwned>(
        &self,
        child: &WorkflowId,
        patience: Option<Duration>,
    ) -> impl Future<Output = Result<O>> + use<O> {
        let entry = self.begin(GET_RESULT);
        let (flow, child) = (self.clone(), child.clone());
        async move { flow.finish_child_result(entry?, child, patience).await }
    }

    async fn finish_child_result<O: DeserializeOwned>(
        &self,
        entry: Entry,
        child: WorkflowId,
        patience: Option<Duration>,
    ) -> Result<O> {
        let begun = match entry {
            Entry::Replayed(recorded) => {
                return result_of(&recorded.row, self.execution.workflow(), &child);
            }
            Entry::Fresh(begun) => begun,
        };
        let patience = patience.unwrap_or(self.core().options.suspend_after);
        let row = match self.await_outcome(&child, patience).await? {
            Ok(outcome) => outcome_row(begun.row(), &outcome),
            Err(failure) => failure_row(begun.row(), &child, &failure),
        };
        self.record_result(begun, row, &child).await
    }

    /// The same for an outcome that is at hand.
    async fn record_child_result<O: DeserializeOwned>(
        &self,
        child: &WorkflowId,
        outcome: &Outcome,
    ) -> Result<O> {
        match self.begin(GET_RESULT)? {
            Entry::Replayed(recorded) => result_of(&recorded.row, self.execution.workflow(), child),
            Entry::Fresh(begun) => {
                let row = outcome_row(begun.row(), outcome);
                self.record_result(begun, row, child).await
            }
        }
    }

    async fn record_result<O: DeserializeOwned>(
        &self,
        begun: Begun,
        row: StepRow,
        child: &WorkflowId,
    ) -> Result<O> {
        let result = result_of(&row, self.execution.workflow(), child);
        self.record(begun.end(row)).await?;
        result
    }

    /// Waits for the end of a workflow: in memory for a while, as a row after that. A failure is that of the wait:
    /// nothing can end it.
    async fn await_outcome(
        &self,
        workflow: &WorkflowId,
        patience: Duration,
    ) -> Result<Result<Outcome, Failure>> {
        let (core, signal) = (self.core(), self.execution.run.signal.clone());
        let subscription = Arc::new(core.hub.subscribe(Topic::Settled(workflow.clone()), signal));
        loop {
            let patience = Due::after(&core.options.clock, patience);
            loop {
                let calls = subscription.calls();
                if let Some(outcome) = subscription.take_success() {
                    return Ok(Ok(outcome));
                }
                let (awaited, subscribed) = (workflow.clone(), subscription.clone());
                match self.call(move |execution| ended(&execution.core, &awaited, &subscribed)).await {
                    Ok(Some(outcome)) => return Ok(Ok(outcome)),
                    Ok(None) => {}
                    Err(error @ Error::NotFound { .. }) => {
                        return Ok(Err(Failure::by_engine(NOT_FOUND, error.to_string())));
                    }
                    // Not the workflow's failure, so not its outcome.
                    Err(error) => {
                        let reason = match error {
                            Error::Database { statement, source } => format!("{statement}: {source}"),
                            other => other.to_string(),
                        };
                        return Err(self.execution.end(Ended::Stopped(Stop::Database(reason.into()))));
                    }
                }
                if let Waited::MayLeave = self.wait_or_leave((&subscription, calls), patience, None).await? {
                    break;
                }
            }
            if let Some(others) = self.circle_through(workflow).await {
                return Ok(Err(self.circular_wait(workflow, others)));
            }
            let left = self.suspend(Wake::WhenSettled(workflow.clone()), None).await;
            if left.is_err() && self.circle_through(workflow).await.is_some() {
                // The others left at the same time. Whoever sees the whole circle looks again.
                self.wake_again().await;
            }
            left?;
        }
    }

    fn circular_wait(&self, awaited: &WorkflowId, others: Vec<WorkflowId>) -> Failure {
        let data: Vec<_> = others.iter().map(WorkflowId::as_str).collect();
        let data = serde_json::json!(data);
        let (workflow, awaited) = (self.execution.workflow().clone(), awaited.clone());
        let error = Error::CircularWait { workflow, awaited, others };
        Failure::by_engine(CIRCULAR_WAIT, error.to_string()).with_data(data)
    }

    /// Those through which `awaited` waits for this workflow, as far as they wait without a thread. A look that fails
    /// has seen nothing; the workflow looks again when it is woken.
    async fn circle_through(&self, awaited: &WorkflowId) -> Option<Vec<WorkflowId>> {
        let awaited = awaited.clone();
        let look = move |execution: &Execution| execution.core.reader.waits_of(&awaited).unwrap_or_default();
        let mut others = self.call(look).await;
        others.truncate(others.iter().position(|id| id == self.execution.workflow())?);
        // The first one is `awaited` itself.
        Some(others.into_iter().skip(1).collect())
    }

    async fn wake_again(&self) {
        let (waiting, now) = (vec![self.execution.workflow().clone()], self.execution.now());
        // Failures are logged by the committer.
        let _ = self.commit(Write::WakeServed { waiting, now }).await;
    }
}

/// A child that is about to be recorded, and what it is to run in.
struct FreshChild<'c> {
    row: NewWorkflow,
    slot: Option<Slot>,
    entered: Entered<'c>,
}

/// The write that starts a child.
fn start_of(begun: Begun, child: NewWorkflow) -> Recording {
    let row = StepRow { child: Some(child.id.clone()), ..begun.row() };
    begun.end_by(row, |parent, step| Write::StartChild { parent, step, child })
}

/// Where a child runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// On its parent's thread, in its parent's slot.
    Inline,
    /// On a thread of its own, or later when there is none.
    Beside,
}

/// The child that an earlier run started in this place.
fn began_before(recorded: &Replayed, asked: &WorkflowId) -> Result<WorkflowId> {
    if let Some(error) = recorded.error() {
        return Err(error);
    }
    match &recorded.row.child {
        Some(child) if child == asked => Ok(child.clone()),
        Some(child) => Err(recorded.misfit(&format!("child {child}"), &format!("child {asked}"))),
        None => Err(recorded.misfit("a step", &format!("child {asked}"))),
    }
}

/// The record of an outcome in the workflow that waited for it.
fn outcome_row(row: StepRow, outcome: &Outcome) -> StepRow {
    let id = &outcome.workflow;
    let failure = match outcome.status {
        WorkflowStatus::Success => {
            let (output, serialization) = (outcome.output.clone(), outcome.serialization.clone());
            return StepRow { output, serialization, child: Some(id.clone()), ..row };
        }
        WorkflowStatus::Cancelled => {
            Failure::by_engine(AWAITED_CANCELLED, format!("workflow {id} was cancelled"))
        }
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            Failure::by_engine(AWAITED_PARKED, outcome.failure().message())
        }
        WorkflowStatus::Error
        | WorkflowStatus::Pending
        | WorkflowStatus::Enqueued
        | WorkflowStatus::Delayed
        | WorkflowStatus::Unknown => outcome.failure().of_the_work(),
    };
    failure_row(row, id, &failure)
}

/// The record of a wait that ended with an error.
fn failure_row(row: StepRow, awaited: &WorkflowId, failure: &Failure) -> StepRow {
    let error = Some(codec::encode_failure(failure));
    let serialization = Some(Codec::PortableJson.name().into());
    StepRow { error, serialization, child: Some(awaited.clone()), ..row }
}

/// What such a record means to the one who waited.
fn result_of<O: DeserializeOwned>(row: &StepRow, waiting: &WorkflowId, awaited: &WorkflowId) -> Result<O> {
    let Some(failure) = row.failure() else {
        return output_of(awaited, row.serialization.as_deref(), row.output.as_deref());
    };
    let workflow = awaited.clone();
    Err(if failure.is(AWAITED_CANCELLED) {
        Error::WorkflowCancelled { workflow }
    } else if failure.is(AWAITED_PARKED) {
        Error::RecoveryAttemptsExceeded { workflow, reason: failure.message().to_owned() }
    } else if failure.is(NOT_FOUND) {
        Error::NotFound { workflow }
    } else if failure.is(CIRCULAR_WAIT) {
        let others = Vec::<String>::deserialize(failure.data_value()).unwrap_or_default();
        let others = others.into_iter().map(WorkflowId::stored).collect();
        Error::CircularWait { workflow: waiting.clone(), awaited: workflow, others }
    } else {
        Error::WorkflowFailed { workflow, failure: failure.of_the_work() }
    })
}

/// What a workflow that has ended means to a handle. Its status decides; its error may have any name.
pub(crate) fn result_of_outcome<O: DeserializeOwned>(outcome: &Outcome) -> Result<O> {
    let workflow = outcome.workflow.clone();
    Err(match outcome.status {
        WorkflowStatus::Success => {
            return output_of(&workflow, outcome.serialization.as_deref(), outcome.output.as_deref());
        }
        WorkflowStatus::Cancelled => Error::WorkflowCancelled { workflow },
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            Error::RecoveryAttemptsExceeded { workflow, reason: outcome.failure().message().to_owned() }
        }
        WorkflowStatus::Error
        | WorkflowStatus::Pending
        | WorkflowStatus::Enqueued
        | WorkflowStatus::Delayed
        | WorkflowStatus::Unknown => {
            Error::WorkflowFailed { workflow, failure: outcome.failure().of_the_work() }
        }
    })
}

fn output_of<O: DeserializeOwned>(
    workflow: &WorkflowId,
    serialization: Option<&str>,
    output: Option<&str>,
) -> Result<O> {
    codec::decode(&format!("output of workflow {workflow}"), serialization, output)
}

/// The outcome of a workflow that has ended: as its waker had it, or as the database has it. A look that fails in a
/// way that may pass has seen nothing; the hub wakes whoever waits for another one.
pub(crate) fn ended(
    core: &Core,
    workflow: &WorkflowId,
    subscription: &Subscription,
) -> Result<Option<Outcome>> {
    if let Some(outcome) = subscription.take_success() {
        return Ok(Some(outcome));
    }
    match core.reader.outcome(workflow) {
        Ok(Some(outcome)) => {
            if outcome.status == WorkflowStatus::Unknown {
                let what = "its status is none that this program knows; it is left alone, and what waits for it waits on";
                core.outage.names_row(workflow, what);
            }
            Ok(outcome.status.is_terminal().then_some(outcome))
        }
        Ok(None) => Err(Error::NotFound { workflow: workflow.clone() }),
        Err(error) if error.may_pass => Ok(None),
        Err(error) => Err(error.into()),
    }
}
