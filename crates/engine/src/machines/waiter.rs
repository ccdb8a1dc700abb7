//! Waiting without polling: one hub per process wakes whoever waits for a workflow or a message.
//!
//! What this process commits wakes its waiters at once. What others commit is noticed by the fleet, which asks
//! the database one question for all waiters together. A waiter subscribes first and looks second, so nothing
//! falls in between.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::pure::id::WorkflowId;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::{Signal, lock};
use crate::sysdb::{DbResult, Outcome, Reader};

/// What can be waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// The end of this workflow.
    Settled(WorkflowId),
    /// A message of this topic to this workflow.
    Message(WorkflowId, String),
}

#[derive(Default)]
pub(crate) struct Hub {
    waiters: Mutex<HashMap<Topic, Vec<Arc<Waiter>>>>,
}

/// One who waits.
struct Waiter {
    signal: Arc<Signal>,
    /// How often it was called to look: its signal may be that of others, too.
    calls: AtomicU64,
    /// The outcome, when this process made it.
    outcome: Mutex<Option<Arc<Outcome>>>,
}

impl Waiter {
    fn call(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.signal.raise();
    }
}

/// A place in the hub, given up when dropped.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    topic: Topic,
    waiter: Arc<Waiter>,
}

impl Hub {
    pub(crate) fn subscribe(self: &Arc<Self>, topic: Topic, signal: Arc<Signal>) -> Subscription {
        let waiter = Arc::new(Waiter { signal, calls: AtomicU64::new(0), outcome: Mutex::default() });
        lock(&self.waiters).entry(topic.clone()).or_default().push(waiter.clone());
        Subscription { hub: self.clone(), topic, waiter }
    }

    /// A workflow has ended in this process.
    pub(crate) fn settled(&self, outcome: Outcome) {
        let waiters = self.waiting_for(&Topic::Settled(outcome.workflow.clone()));
        if waiters.is_empty() {
            return;
        }
        let outcome = Arc::new(outcome);
        for waiter in waiters {
            *lock(&waiter.outcome) = Some(outcome.clone());
            waiter.call();
        }
    }

    /// A workflow goes on: what it had ended with is over.
    pub(crate) fn resumed(&self, workflow: &WorkflowId) {
        for waiter in self.waiting_for(&Topic::Settled(workflow.clone())) {
            *lock(&waiter.outcome) = None;
        }
    }

    /// Those who wait should look again.
    pub(crate) fn wake(&self, topic: &Topic) {
        for waiter in self.waiting_for(topic) {
            waiter.call();
        }
    }

    /// Wakes everyone, for the end of the engine.
    pub(crate) fn wake_all(&self) {
        let all: Vec<_> = lock(&self.waiters).values().flatten().cloned().collect();
        for waiter in all {
            waiter.signal.raise();
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.waiters).is_empty()
    }

    fn waiting_for(&self, topic: &Topic) -> Vec<Arc<Waiter>> {
        lock(&self.waiters).get(topic).cloned().unwrap_or_default()
    }

    /// Looks, once for all, whether something came that this process did not commit.
    pub(crate) fn look(&self, reader: &dyn Reader) -> DbResult<()> {
        let (mut settled, mut messages) = (Vec::new(), Vec::new());
        for topic in lock(&self.waiters).keys() {
            match topic {
                Topic::Settled(workflow) => settled.push(workflow.clone()),
                Topic::Message(workflow, topic) => messages.push((workflow.clone(), topic.clone())),
            }
        }
        if !settled.is_empty() {
            reader.not_open_among(&settled)?.into_iter().for_each(|id| self.wake(&Topic::Settled(id)));
        }
        if !messages.is_empty() {
            let there = reader.with_messages_among(&messages)?;
            for (id, topic) in there {
                self.wake(&Topic::Message(id, topic));
            }
        }
        Ok(())
    }
}

impl Subscription {
    /// The count to hand to a wait later: a call from here on ends that wait.
    pub(crate) fn calls(&self) -> u64 {
        self.waiter.calls.load(Ordering::SeqCst)
    }

    /// The outcome, once, if this process made it. Only a success is final for good: anything else may have been resumed
    /// since, here or elsewhere.
    pub(crate) fn take_success(&self) -> Option<Outcome> {
        let outcome = lock(&self.waiter.outcome).take()?;
        (outcome.status == WorkflowStatus::Success).then(|| outcome.as_ref().clone())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiters = lock(&self.hub.waiters);
        if let Some(list) = waiters.get_mut(&self.topic) {
            list.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
            if list.is_empty() {
                waiters.remove(&self.topic);
            }
        }
    }
}
