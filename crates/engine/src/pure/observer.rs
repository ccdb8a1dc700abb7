//! What happens, told while it happens: for progress bars, profiles, metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::pure::error::{Failure, Stop};
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::inside::Inside;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::contained;

/// Something the engine did. Durations are measured, not read from the wall clock.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'e> {
    /// A run begins: the first, or one that goes on from what earlier ones recorded.
    WorkflowStarted {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// Its registered name.
        name: &'e str,
        /// The workflow that runs it inline, on the same thread.
        inline_in: Option<&'e WorkflowId>,
        /// 1 for the first run; more after crashes.
        attempt: u32,
        /// Whether its history was read from the database.
        recovered: bool,
    },
    /// A run ended and its outcome is recorded.
    WorkflowEnded {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// Its registered name.
        name: &'e str,
        /// What it ended as.
        status: WorkflowStatus,
    },
    /// A run ended without an outcome; it goes on later or elsewhere.
    WorkflowLeft {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// Its registered name.
        name: &'e str,
        /// Why.
        reason: &'e Stop,
    },
    /// The body of a step ran once.
    StepRan {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// Place of the step.
        step_id: StepId,
        /// Name of the step.
        name: &'e str,
        /// 1 for the first attempt.
        attempt: u32,
        /// What it failed with, if it did.
        failure: Option<&'e Failure>,
        /// How long the next attempt waits, if there is one.
        retry_in: Option<Duration>,
        /// Time in the body and in encoding its value; for a transaction step in the whole transaction.
        took: Duration,
    },
    /// The outcome of a step is durable.
    StepRecorded {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// Place of the step.
        step_id: StepId,
        /// Name of the step.
        name: &'e str,
        /// Whether it succeeded.
        success: bool,
    },
    /// A step was found recorded, so its body did not run.
    StepReplayed {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// Place of the step.
        step_id: StepId,
        /// Name of the step.
        name: &'e str,
    },
    /// A workflow waited for a write of its own to become durable. A transaction step commits by itself, so it has none.
    Recorded {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// Kind of the write: `record_step`, `settle`, `start_child`, ...
        kind: &'static str,
        /// From handing it over to the verdict.
        took: Duration,
    },
    /// A workflow waited for something else: a time, a child, the next attempt.
    Waited {
        /// Which workflow.
        workflow: &'e WorkflowId,
        /// How long.
        took: Duration,
    },
    /// A batch of writes was committed. Transaction steps commit by themselves, outside of batches.
    Committed {
        /// How many writes were in it.
        writes: usize,
        /// From its begin to its end.
        took: Duration,
    },
    /// The workflows of an executor that died wait for a new one.
    Recovered {
        /// How many.
        workflows: usize,
    },
}

/// Sees every [`Event`], on the thread where it happens. It should be quick; a panic in it is ignored.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// #[derive(Default)]
/// struct Replays(AtomicU64);
/// impl engine::Observer for Replays {
///     fn observe(&self, event: &engine::Event<'_>) {
///         if let engine::Event::StepReplayed { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub trait Observer: Send + Sync {
    /// Called once for each event.
    fn observe(&self, event: &Event<'_>);
}

/// Those who are told.
#[derive(Clone, Default)]
pub(crate) struct Observers(Vec<Arc<dyn Observer>>);

impl Observers {
    pub(crate) fn add(&mut self, observer: Arc<dyn Observer>) {
        self.0.push(observer);
    }

    /// Builds the event only if somebody listens.
    pub(crate) fn tell<'e>(&self, event: impl FnOnce() -> Event<'e>) {
        if self.0.is_empty() {
            return;
        }
        let event = event();
        let _inside = Inside::enter("an observer");
        for observer in &self.0 {
            // The engine's threads hold leads and slots: a panic of a guest must not take them along.
            contained(|| observer.observe(&event));
        }
    }
}
