//! Waiting without polling: one hub per process wakes the waiters for a workflow or a message.
//!
//! A commit of this process wakes its waiters at once. Commits of other processes are noticed by the fleet, which asks
//! the database one question for all waiters together. A waiter subscribes first and looks second, so no event is
//! missed in between.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::pure::id::WorkflowId;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::{Signal, lock};
use crate::sysdb::write::Awaited;
use crate::sysdb::{DbResult, Outcome, Reader};

#[derive(Default)]
pub(crate) struct Hub {
    waiters: Mutex<HashMap<Awaited, Vec<Arc<Waiter>>>>,
}

/// One waiter.
struct Waiter {
    signal: Arc<Signal>,
    /// How often the waiter was called to look: its signal may be shared.
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
    awaited: Awaited,
    waiter: Arc<Waiter>,
}

impl Hub {
    pub(crate) fn subscribe(self: &Arc<Self>, awaited: Awaited, signal: Arc<Signal>) -> Subscription {
        let waiter = Arc::new(Waiter { signal, calls: AtomicU64::new(0), outcome: Mutex::default() });
        lock(&self.waiters).entry(awaited.clone()).or_default().push(waiter.clone());
        Subscription { hub: self.clone(), awaited, waiter }
    }

    /// Makes the waiters for this look again. If this process made the outcome, they find it without a look.
    pub(crate) fn came_true(&self, awaited: &Awaited, outcome: Option<&Outcome>) {
        let waiters = self.waiting_for(awaited);
        if waiters.is_empty() {
            return;
        }
        let outcome = outcome.cloned().map(Arc::new);
        for waiter in waiters {
            if outcome.is_some() {
                lock(&waiter.outcome).clone_from(&outcome);
            }
            waiter.call();
        }
    }

    /// Notes that a workflow goes on: its outcome does not hold any more.
    pub(crate) fn resumed(&self, workflow: &WorkflowId) {
        for waiter in self.waiting_for(&Awaited::Settled(workflow.clone())) {
            *lock(&waiter.outcome) = None;
        }
    }

    /// Wakes everyone, for the end of the engine.
    pub(crate) fn wake_all(&self) {
        let all: Vec<_> = lock(&self.waiters).values().flatten().cloned().collect();
        for waiter in all {
            waiter.signal.raise();
        }
    }

    /// Whether there is no waiter.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.waiters).is_empty()
    }

    fn waiting_for(&self, awaited: &Awaited) -> Vec<Arc<Waiter>> {
        lock(&self.waiters).get(awaited).cloned().unwrap_or_default()
    }

    /// Looks once for all waiters for ends and messages that another process committed.
    pub(crate) fn look(&self, reader: &dyn Reader) -> DbResult<()> {
        let (mut settled, mut messages) = (Vec::new(), Vec::new());
        for awaited in lock(&self.waiters).keys() {
            match awaited {
                Awaited::Settled(workflow) => settled.push(workflow.clone()),
                Awaited::Message(workflow, topic) => messages.push((workflow.clone(), topic.clone())),
            }
        }
        if !settled.is_empty() {
            for id in reader.not_open_among(&settled)? {
                self.came_true(&Awaited::Settled(id), None);
            }
        }
        if !messages.is_empty() {
            let there = reader.with_messages_among(&messages)?;
            for (id, topic) in there {
                self.came_true(&Awaited::Message(id, topic), None);
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

    /// The outcome, once, if this process made it. Only a success is final for good: a workflow with any other outcome
    /// may have been resumed since, here or elsewhere.
    pub(crate) fn take_success(&self) -> Option<Outcome> {
        let outcome = lock(&self.waiter.outcome).take()?;
        (outcome.status == WorkflowStatus::Success).then(|| outcome.as_ref().clone())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiters = lock(&self.hub.waiters);
        if let Some(list) = waiters.get_mut(&self.awaited) {
            list.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
            if list.is_empty() {
                waiters.remove(&self.awaited);
            }
        }
    }
}
