//! How children are started, one or many. The child's row and the parent's record of it are one commit, so neither is
//! ever there without the other.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::child::Child;
#[cfg(feature = "tokio")]
use crate::flow::child_result::GET_RESULT;
use crate::flow::core::{Entered, Run};
use crate::flow::drive::Flow;
use crate::flow::operation::{Begun, Entry, Place, Recorded, Recording, Replayed};
#[cfg(feature = "tokio")]
use crate::flow::registry::Kind;
use crate::flow::registry::Workflow;
use crate::flow::workflow::{self, Assignment};
use crate::machines::slots::Slot;
use crate::pure::codec;
use crate::pure::error::{CIRCULAR_WAIT, Error, Failure, Result};
use crate::pure::id::{OwnerToken, WorkflowId, check_name};
use crate::pure::queue::{EnqueueOptions, Queue};
use crate::sysdb::write::{NewWorkflow, Refusal};
use crate::sysdb::{Owner, StepRow, Verdict, Write};
/// A child that was started.
pub(crate) struct Started {
    pub(crate) id: WorkflowId,
    /// The child's run, if it is to run in the place of its parent.
    pub(super) inline: Option<Assignment>,
}

/// A child that is about to be started, and the entry of its parent for it.
struct NewChild {
    id: WorkflowId,
    input: String,
    entry: Entry,
}

impl Started {
    fn beside(id: WorkflowId) -> Self {
        Self { id, inline: None }
    }

    pub(super) fn child<O>(self) -> Child<O> {
        Child::of(self.id)
    }
}

impl Flow {
    /// Puts a child into a queue and gives its id.
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
        // Every refusal comes before the place is taken.
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
            return Err(Error::InvalidName {
                what,
                name,
                reason: "is the id of the parent itself; choose another id".to_owned(),
            });
        }
        Ok(id)
    }

    /// Runs a child in the place of this workflow: an async child as a task in its slot, a plain child beside it.
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
        // The place of the result follows the place of the start.
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

    /// Starts a child. A child that runs inline is given back to be run. A child beside its parent is on its way.
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

    /// The row of a child. This executor is to run the child if it may.
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

    /// Sends off a child whose start was committed: it runs here, or where an executor takes it up.
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
            let (mut first_error, mut refused) = (Ok(()), Vec::new());
            // This comes first and goes to the last child: each recorded child is to run, also if another child or this
            // run fails.
            for ((child, input), recorded) in fresh.into_iter().zip(recorded) {
                let id = child.row.id.clone();
                match recorded {
                    Ok(Recorded::Done(verdict)) => {
                        drop(flow.send_off(child, (name.clone(), input), How::Beside, &verdict));
                    }
                    Ok(Recorded::Refused(begun, refusal)) => refused.push((begun, id, refusal)),
                    Err(error) => first_error = first_error.and(Err(error)),
                }
            }
            for (begun, id, refusal) in refused {
                first_error = first_error.and(Err(flow.refused_start(begun, id, refusal).await));
            }
            first_error.map(|()| ids)
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

    /// Records the row of the child and the parent's record of it, in one commit.
    async fn record_start(&self, begun: Begun, child: NewWorkflow) -> Result<Verdict> {
        let id = child.id.clone();
        match self.record(start_of(begun, child)).await? {
            Recorded::Done(verdict) => Ok(verdict),
            Recorded::Refused(begun, refusal) => Err(self.refused_start(begun, id, refusal).await),
        }
    }

    /// Records that there is no such child, and gives the error with the reason.
    async fn refused_start(&self, begun: Begun, id: WorkflowId, refusal: Refusal) -> Error {
        let failure = match refusal {
            // The child would be a workflow from which this workflow descends.
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
}

/// A child that is about to be recorded, and the run and slot for it.
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
