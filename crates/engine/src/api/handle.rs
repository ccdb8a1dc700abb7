//! A handle: the way to a workflow from outside.

use std::fmt;
use std::marker::PhantomData;
#[cfg(feature = "tokio")]
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::flow::child_result::{ended, result_of_outcome};
use crate::flow::core::Core;
use crate::machines::waiter::Subscription;
#[cfg(feature = "tokio")]
use crate::machines::worker::held;
use crate::machines::worker::lending_the_slot;
use crate::pure::clock::{Clock, Timestamp};
use crate::pure::error::{Error, Result};
use crate::pure::id::WorkflowId;
#[cfg(feature = "tokio")]
use crate::pure::inside::is_in_a_workflow;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::Signal;
use crate::sysdb::Outcome;
use crate::sysdb::write::Awaited;

/// One workflow, seen from outside. Any number of handles, in any process, can wait for the same workflow.
pub struct Handle<O> {
    core: Arc<Core>,
    id: WorkflowId,
    /// The workflow was there before, so it may have ended before this handle looked.
    attached: bool,
    signal: Arc<Signal>,
    subscription: Arc<Subscription>,
    output: PhantomData<fn() -> O>,
}

impl<O: DeserializeOwned> Handle<O> {
    /// Subscribes before the workflow is started or looked at, so that its end is not missed.
    pub(crate) fn new(core: &Arc<Core>, id: WorkflowId) -> Self {
        let signal = Arc::<Signal>::default();
        let subscription = Arc::new(core.hub.subscribe(Awaited::Settled(id.clone()), signal.clone()));
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

    /// Whether the workflow existed before: the start that gave this handle started nothing.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Waits until the workflow has ended and returns its output.
    ///
    /// # Errors
    /// - [`Error::WorkflowFailed`], [`Error::WorkflowCancelled`] or [`Error::RecoveryAttemptsExceeded`] when the
    ///   workflow ended so.
    /// - [`Error::NotFound`] when its row was deleted.
    /// - [`Error::ShuttingDown`] when the engine stops first; the workflow goes on later.
    /// - [`Error::Undecodable`] when the output is no `O`.
    pub fn result(&self) -> Result<O> {
        let outcome = self.wait_until(None)?;
        result_of_outcome(&outcome.ok_or(Error::ShuttingDown)?)
    }

    /// Waits for the output, as [`Handle::result`] does, but at most for `timeout`. Returns `None` when the workflow
    /// has not ended by then. The timeout is real time, also where a test moves the engine's clock.
    ///
    /// # Errors
    /// As [`Handle::result`].
    pub fn wait(&self, timeout: Duration) -> Result<Option<O>> {
        self.wait_until(Clock::real().now().checked_add(timeout))?
            .map(|outcome| result_of_outcome(&outcome))
            .transpose()
    }

    /// The status of the workflow now.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such workflow, [`Error::Database`].
    pub fn status(&self) -> Result<WorkflowStatus> {
        self.core.enter("Handle::status")?;
        let outcome = self.core.reader.outcome(&self.id)?;
        outcome.map(|outcome| outcome.status).ok_or_else(|| Error::NotFound { workflow: self.id.clone() })
    }

    /// Waits as [`Handle::result`] does, for a task: its thread is not blocked.
    #[cfg(feature = "tokio")]
    async fn wait_as_a_task(&self) -> Result<Outcome> {
        crate::pure::inside::refuse()?;
        self.core.refuse_in_a_fork()?;
        loop {
            let seen = self.signal.now();
            if let Some(outcome) = self.look_as_a_task(seen).await? {
                return Ok(outcome);
            }
            if self.core.is_stopping() {
                return Err(Error::ShuttingDown);
            }
            // In a step, the awaited workflow may need this very slot.
            let slot = held();
            let _lent = slot.as_ref().map(|slot| slot.lend());
            self.core.timer.raised_past(&self.signal, seen, None).await;
        }
    }

    #[cfg(feature = "tokio")]
    async fn look_as_a_task(&self, seen: u64) -> Result<Option<Outcome>> {
        if !self.is_worth_a_look(seen) {
            return Ok(None);
        }
        if let Some(outcome) = self.subscription.take_success() {
            return Ok(Some(outcome));
        }
        let (core, id, subscription) = (self.core.clone(), self.id.clone(), self.subscription.clone());
        self.core.errands.run(move || ended(&core, &id, &subscription)).await
    }

    /// For a workflow that this handle started, there is nothing to look up before its signal comes.
    fn is_worth_a_look(&self, seen: u64) -> bool {
        self.attached || seen > 0
    }

    fn wait_until(&self, deadline: Option<Timestamp>) -> Result<Option<Outcome>> {
        crate::pure::inside::refuse()?;
        self.core.enter("Handle::result")?;
        let clock = &Clock::real();
        loop {
            let seen = self.signal.now();
            if self.is_worth_a_look(seen)
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
            // In a step, the awaited workflow may need this very slot.
            lending_the_slot(|| self.signal.wait_past(seen, clock, deadline));
        }
    }
}

/// Gives another handle to the same workflow.
impl<O: DeserializeOwned> Clone for Handle<O> {
    fn clone(&self) -> Self {
        let clone = Self::new(&self.core, self.id.clone());
        // The workflow may have ended since the original handle was made.
        clone.signal.raise();
        Self { attached: self.attached, ..clone }
    }
}

/// Awaits the end of the workflow, as [`Handle::result`] does, and blocks no thread.
///
/// To limit the wait, put a timeout of the runtime around it: a handle that is dropped changes nothing. In an async
/// workflow, outside of its steps, the await is refused with [`Error::AwaitedInWorkflow`].
#[cfg(feature = "tokio")]
impl<O: DeserializeOwned + 'static> IntoFuture for Handle<O> {
    type Output = Result<O>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<O>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if is_in_a_workflow() {
                return Err(Error::AwaitedInWorkflow { workflow: self.id });
            }
            result_of_outcome(&self.wait_as_a_task().await?)
        })
    }
}

impl<O> fmt::Debug for Handle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.id)
    }
}
