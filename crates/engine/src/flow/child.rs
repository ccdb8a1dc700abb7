//! Child workflows: started and awaited, or run on the parent's own thread.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "tokio")]
use crate::flow::async_context::AsyncContext;
use crate::flow::context::Context;
use crate::flow::drive;
use crate::flow::registry::Workflow;
use crate::flow::start_child::{How, Started};
use crate::flow::workflow::{self, Ending};
use crate::pure::error::Result;
use crate::pure::id::WorkflowId;
use crate::pure::limits::INLINE_DEPTH_MAX;
use crate::pure::queue::{EnqueueOptions, Queue};

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

    /// Waits for the child and returns its output. As [`Child::result`].
    ///
    /// # Errors
    /// As [`Child::result`], and [`Error::Dropped`](crate::Error::Dropped).
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

    /// Waits for the child and returns its output. Takes one step id and one commit. A long wait takes no thread.
    ///
    /// # Errors
    /// [`Error::WorkflowFailed`](crate::Error::WorkflowFailed), [`Error::WorkflowCancelled`](crate::Error::WorkflowCancelled) or [`Error::RecoveryAttemptsExceeded`](crate::Error::RecoveryAttemptsExceeded) when the
    /// child ended so, [`Error::NotFound`](crate::Error::NotFound) when its row was deleted, [`Error::CircularWait`](crate::Error::CircularWait) when it waits for this
    /// workflow. All of these are recorded. [`Error::Stopped`](crate::Error::Stopped) when the engine ends this execution; hand that on.
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
    /// Runs a child on this thread and returns its output. It is a workflow of its own, `PARENT-STEP` by id: recovered,
    /// listed and cancelled like any other. Takes two step ids.
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
    /// [`Error::NotRegistered`](crate::Error::NotRegistered) when this program has no such workflow.
    /// [`Error::Unencodable`](crate::Error::Unencodable) for an input that cannot be recorded.
    /// [`Error::Stopped`](crate::Error::Stopped) when the engine ends this execution; hand that on.
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

    /// Starts a child under an id of your choice. If it is taken by a run of the same workflow, that run is the child.
    ///
    /// # Errors
    /// As [`Context::start`], and [`Error::StepFailed`](crate::Error::StepFailed) when the id belongs to another
    /// workflow, or to an ancestor of this workflow.
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

    /// Puts a child into a queue. Programs that serve the queue run it. Takes one step id and one commit.
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

    /// Puts a child into a queue, as [`Context::enqueue`] does, with options.
    ///
    /// # Errors
    /// As [`Context::enqueue`], [`Error::InvalidName`](crate::Error::InvalidName),
    /// [`Error::InvalidOption`](crate::Error::InvalidOption), and [`Error::StepFailed`](crate::Error::StepFailed) when
    /// the id belongs to another workflow, or to an ancestor of this workflow.
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
