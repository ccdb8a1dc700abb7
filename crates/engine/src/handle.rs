//! A handle: the way to a workflow from outside.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::child::{outcome_row, result_of};
use crate::clock::Timestamp;
use crate::context::Place;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::id::{StepId, WorkflowId};
use crate::status::WorkflowStatus;
use crate::sync::Signal;
use crate::sysdb::Outcome;
use crate::waiter::{Subscription, Topic};
use crate::worker::lending_the_slot;

/// One workflow, seen from outside. It can be waited for, by as many handles as you like, in any process.
pub struct Handle<O> {
    core: Arc<Core>,
    id: WorkflowId,
    /// The workflow was there before, so it may have ended before this handle looked.
    attached: bool,
    signal: Arc<Signal>,
    subscription: Subscription,
    output: PhantomData<fn() -> O>,
}

impl<O: DeserializeOwned> Handle<O> {
    /// Subscribes before the workflow is started or looked at, so that its end is not missed.
    pub(crate) fn new(core: &Arc<Core>, id: WorkflowId) -> Self {
        let signal = Arc::<Signal>::default();
        let subscription = core.hub.subscribe(Topic::Settled(id.clone()), signal.clone());
        Self { core: core.clone(), id, attached: false, signal, subscription, output: PhantomData }
    }

    pub(crate) fn attached(mut self) -> Self {
        self.attached = true;
        self
    }

    /// The workflow's id.
    pub fn id(&self) -> &WorkflowId {
        &self.id
    }

    /// Whether the workflow was there before: the start that gave this handle started nothing.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Waits until the workflow has ended and returns what it returned.
    ///
    /// # Errors
    /// [`Error::WorkflowFailed`], [`Error::WorkflowCancelled`] or [`Error::RecoveryAttemptsExceeded`] when it
    /// ended so; [`Error::ShuttingDown`] when the engine stops first, and the workflow goes on later;
    /// [`Error::Undecodable`] when the output is no `O`.
    pub fn result(&self) -> Result<O> {
        let outcome = self.wait_until(None)?;
        self.decode(&outcome.ok_or(Error::ShuttingDown)?)
    }

    /// The same, but waits at most this long; `None` when the workflow has not ended by then.
    ///
    /// # Errors
    /// As [`Handle::result`].
    pub fn wait(&self, timeout: Duration) -> Result<Option<O>> {
        let deadline = self.core.options.clock.steady().now().checked_add(timeout);
        self.wait_until(deadline)?.map(|outcome| self.decode(&outcome)).transpose()
    }

    /// Where the workflow stands now.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such workflow, [`Error::Database`].
    pub fn status(&self) -> Result<WorkflowStatus> {
        let outcome = self.core.reader.outcome(&self.id)?;
        outcome.map(|outcome| outcome.status).ok_or_else(|| Error::NotFound { workflow: self.id.clone() })
    }

    fn wait_until(&self, deadline: Option<Timestamp>) -> Result<Option<Outcome>> {
        crate::inside::refuse()?;
        let clock = &self.core.options.clock.steady();
        loop {
            let seen = self.signal.now();
            // Of a workflow that this handle started there is nothing to look up before its signal comes.
            if (self.attached || seen > 0)
                && let Some(outcome) = ended(&self.core, &self.id, &self.subscription)?
            {
                return Ok(Some(outcome));
            }
            if self.core.is_stopping() {
                return Err(Error::ShuttingDown);
            }
            if deadline.is_some_and(|deadline| clock.now() >= deadline) {
                return Ok(None);
            }
            // In a step, it may be this very slot that the awaited workflow needs.
            lending_the_slot(|| self.signal.wait_past(seen, clock, deadline));
        }
    }

    fn decode(&self, outcome: &Outcome) -> Result<O> {
        // One reading of outcomes, for parents and for handles.
        let place = Place { step_id: StepId(0), name: "", started_at: Timestamp::from_millis(0) };
        result_of(&outcome_row(place.row(place.started_at), outcome), &self.id)
    }
}

impl<O> fmt::Debug for Handle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.id)
    }
}

/// The outcome of a workflow that has ended: as its waker had it, or as the database has it. A look that fails in a
/// way that may pass has seen nothing; the hub wakes whoever waits for another one.
pub(crate) fn ended(
    core: &Core,
    workflow: &WorkflowId,
    subscription: &Subscription,
) -> Result<Option<Outcome>> {
    // Only a success is final for good: anything else may have been resumed since, here or elsewhere.
    if let Some(outcome) = subscription.take_outcome().filter(|o| o.status == WorkflowStatus::Success) {
        return Ok(Some(outcome.as_ref().clone()));
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
