//! Starting a workflow from outside: one commit, then the workflow runs, here or where its queue is served.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::engine::Engine;
use crate::api::handle::Handle;
use crate::flow::core::{Core, Entered, Run};
use crate::flow::registry::Workflow;
use crate::flow::workflow::{self, Assignment};
use crate::machines::committer::Caller;
use crate::machines::slots::Slot;
use crate::pure::error::{Error, Result};
use crate::pure::id::{OwnerToken, WorkflowId, check_name};
use crate::pure::queue::{EnqueueOptions, Queue};
use crate::pure::sync::say;
use crate::sysdb::write::{NewWorkflow, Refusal};
use crate::sysdb::{Owner, Verdict, Write};
use crate::{pure::codec, pure::inside};

/// A start on its way into the database.
struct Start<'c, O> {
    entered: Entered<'c>,
    input: String,
    slot: Option<Slot>,
    handle: Handle<O>,
}

impl<I, O> Workflow<I, O>
where
    I: Serialize + DeserializeOwned,
    O: DeserializeOwned,
{
    /// Starts a run of the workflow under a new id. When this returns, the run is recorded: it ends, even if this
    /// process dies. One commit.
    ///
    /// # Errors
    /// [`Error::NotLaunched`], [`Error::NotRegistered`], [`Error::Unencodable`] for an input that cannot be recorded,
    /// [`Error::ShuttingDown`], [`Error::Unanswered`], [`Error::Database`].
    pub fn start(&self, engine: &Engine, input: I) -> Result<Handle<O>> {
        self.start_with_id(engine, &WorkflowId::generate(), input)
    }

    /// Starts the run of this id, or attaches to the run that has the id. An attached run keeps its first input. So a
    /// caller may repeat a start whose answer it did not get.
    ///
    /// # Errors
    /// As [`Workflow::start`], [`Error::InvalidName`], and [`Error::IdInUse`] when the id belongs to a run of
    /// another workflow.
    pub fn start_as(&self, engine: &Engine, id: &str, input: I) -> Result<Handle<O>> {
        self.start_with_id(engine, &WorkflowId::new(id)?, input)
    }

    /// Puts a run of the workflow into a queue. Programs of this application that serve the queue run it, in this
    /// process or in others. When this returns, the run is recorded. One commit.
    ///
    /// # Errors
    /// As [`Workflow::start`], but the engine need not be launched, and the workflow need not be registered here.
    pub fn enqueue(&self, engine: &Engine, queue: &Queue, input: I) -> Result<Handle<O>> {
        self.enqueue_with(engine, queue, &EnqueueOptions::new(), input)
    }

    /// Puts a run of the workflow into a queue, as [`Workflow::enqueue`] does, with options.
    ///
    /// # Errors
    /// As [`Workflow::enqueue`], [`Error::InvalidName`], [`Error::InvalidOption`], and [`Error::IdInUse`] when the id
    /// belongs to a run of another workflow.
    pub fn enqueue_with(
        &self,
        engine: &Engine,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<Handle<O>> {
        let core = engine.core();
        inside::refuse()?;
        core.refuse_in_a_fork()?;
        let _under_way = core.starts.enter();
        let (new, handle) = self.begin_enqueue(core, queue, options, input)?;
        self.enqueued(handle, core.commit_from_outside(Write::StartWorkflow(new))?)
    }

    /// Puts a run of the workflow into a queue, for a task.
    #[cfg(feature = "tokio")]
    pub(crate) async fn enqueue_as_a_task(
        &self,
        core: &Arc<Core>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<Handle<O>> {
        let _under_way = core.starts.enter();
        let (new, handle) = self.begin_enqueue(core, queue, options, input)?;
        self.enqueued(handle, core.commit_from_a_task(Write::StartWorkflow(new)).await?)
    }

    fn begin_enqueue(
        &self,
        core: &Arc<Core>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<(NewWorkflow, Handle<O>)> {
        if core.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        let new = self.queued(core, queue, options, input)?;
        let handle = Handle::new(core, new.id.clone());
        Ok((new, handle))
    }

    fn enqueued(&self, handle: Handle<O>, verdict: Verdict) -> Result<Handle<O>> {
        match verdict {
            Verdict::Done => Ok(handle),
            verdict => self.attach(handle, verdict),
        }
    }

    /// The row of a run that waits in a queue, under the given id or a new id.
    pub(crate) fn queued(
        &self,
        core: &Core,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<NewWorkflow> {
        let id = options.id.map_or_else(|| Ok(WorkflowId::generate()), WorkflowId::new)?;
        check_name("workflow name", self.name())?;
        check_name("queue name", queue.name())?;
        if i32::try_from(options.priority).is_err() {
            let reason = format!("{} is more than 2,147,483,647", options.priority);
            return Err(Error::InvalidOption { what: "priority".to_owned(), reason });
        }
        let own = (core.options.app.as_str(), Some(core.options.version.as_str()));
        let (app, version) = options.application.map_or(own, |app| (app, None));
        let version = options.version.or(version);
        check_name("application", app)?;
        version.map_or(Ok(()), |version| check_name("application version", version))?;
        Ok(NewWorkflow {
            id,
            name: self.shared_name(),
            input: codec::encode_input(self.name(), input, options.spread)?,
            parent: None,
            app: app.into(),
            version: version.map(Into::into),
            token: OwnerToken::generate(),
            claimed_by: None,
            queue: Some(queue.shared_name()),
            priority: options.priority,
            at: core.options.clock.now(),
        })
    }

    fn start_with_id(&self, engine: &Engine, id: &WorkflowId, input: I) -> Result<Handle<O>> {
        let core = engine.core();
        inside::refuse()?;
        core.refuse_in_a_fork()?;
        let _under_way = core.starts.enter();
        let (new, start) = self.begin_start(core, id, input)?;
        let verdict = core.commit_from_outside(Write::StartWorkflow(new));
        self.started(core, start, verdict, Caller::Outside)
    }

    /// Starts the run of this id, for a task.
    #[cfg(feature = "tokio")]
    pub(crate) async fn start_as_a_task(
        &self,
        core: &Arc<Core>,
        id: &WorkflowId,
        input: I,
    ) -> Result<Handle<O>> {
        let _under_way = core.starts.enter();
        let (new, start) = self.begin_start(core, id, input)?;
        let verdict = core.commit_from_a_task(Write::StartWorkflow(new)).await;
        self.started(core, start, verdict, Caller::Passive)
    }

    fn begin_start<'c>(
        &self,
        core: &'c Arc<Core>,
        id: &WorkflowId,
        input: I,
    ) -> Result<(NewWorkflow, Start<'c, O>)> {
        check_name("workflow name", self.name())?;
        core.registry.get(self.name())?;
        let identity = core.identity()?.clone();
        let input = codec::encode_input(self.name(), input, false)?;
        if core.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        let handle = Handle::new(core, id.clone());
        let slot = core.slot_of(&identity.executor, self.name());
        let owner = Owner { workflow: id.clone(), token: OwnerToken::generate() };
        let new = NewWorkflow {
            id: id.clone(),
            name: self.shared_name(),
            input: input.clone(),
            parent: None,
            app: identity.app.clone(),
            version: Some(identity.version.clone()),
            token: owner.token.clone(),
            claimed_by: slot.as_ref().map(|_| identity.executor.clone()),
            queue: None,
            priority: 0,
            at: core.options.clock.now(),
        };
        Ok((new, Start { entered: core.entered(Run::new(owner)), input, slot, handle }))
    }

    fn started(
        &self,
        core: &Arc<Core>,
        start: Start<'_, O>,
        verdict: Result<Verdict>,
        caller: Caller,
    ) -> Result<Handle<O>> {
        let Start { mut entered, input, slot, handle } = start;
        if !matches!(verdict, Err(Error::Unanswered { begun: true, .. })) {
            entered.is_answered();
        }
        match (verdict?, slot) {
            (Verdict::Done, Some(slot)) => {
                let assignment = Assignment::fresh(entered.keep(), self.shared_name(), input);
                workflow::dispatch(core, assignment, slot, caller);
                Ok(handle)
            }
            (Verdict::Done, None) => {
                core.expect_backlog();
                Ok(handle)
            }
            (verdict, _) => self.attach(handle, verdict),
        }
    }

    /// Makes a handle of a start whose id was taken before.
    fn attach(&self, handle: Handle<O>, verdict: Verdict) -> Result<Handle<O>> {
        match verdict {
            Verdict::AlreadyThere(existing) => {
                if !existing.same_input {
                    say!(
                        warn,
                        "workflow {} was started before with another input; the first input stays, and the \
                         new input is ignored",
                        handle.id()
                    );
                }
                Ok(handle.attached())
            }
            Verdict::Refused(Refusal::OtherWorkflow { name }) => Err(Error::IdInUse {
                workflow: handle.id().clone(),
                recorded: name,
                asked: self.name().to_owned(),
            }),
            _ => Err(Error::NotFound { workflow: handle.id().clone() }),
        }
    }
}
