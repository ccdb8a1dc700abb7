//! Events, told while they happen: for progress bars, profiles, metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::pure::error::{Failure, Stop};
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::inside::Inside;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::contained;

/// An event of the engine. Durations are measured, not read from the wall clock.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'e> {
    /// A run begins: the first run, or a run that goes on from the records of earlier ones.
    WorkflowStarted {
        /// The workflow.
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
    /// A run ended and its outcome is recorded. Who waits for the outcome may hear it before this event is told.
    WorkflowEnded {
        /// The workflow.
        workflow: &'e WorkflowId,
        /// Its registered name.
        name: &'e str,
        /// The status with which it ended.
        status: WorkflowStatus,
    },
    /// A run ended without an outcome; the workflow goes on later or elsewhere.
    WorkflowLeft {
        /// The workflow.
        workflow: &'e WorkflowId,
        /// Its registered name.
        name: &'e str,
        /// The reason.
        reason: &'e Stop,
    },
    /// The body of a step ran once.
    StepRan {
        /// The workflow.
        workflow: &'e WorkflowId,
        /// Place of the step.
        step_id: StepId,
        /// Name of the step.
        name: &'e str,
        /// 1 for the first attempt.
        attempt: u32,
        /// The error of the attempt, if it failed.
        failure: Option<&'e Failure>,
        /// The wait before the next attempt, if there is one.
        retry_in: Option<Duration>,
        /// The time in the body and in encoding its value; for a transaction step, in the whole transaction.
        took: Duration,
    },
    /// The outcome of a step is durable.
    StepRecorded {
        /// The workflow.
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
        /// The workflow.
        workflow: &'e WorkflowId,
        /// Place of the step.
        step_id: StepId,
        /// Name of the step.
        name: &'e str,
    },
    /// A workflow waited for a write of its own to become durable. A transaction step commits by itself, so it has none.
    Recorded {
        /// The workflow.
        workflow: &'e WorkflowId,
        /// Kind of the write: `record_step`, `settle`, `start_child`, ...
        kind: &'static str,
        /// The time from handing over the write to its verdict.
        took: Duration,
    },
    /// A workflow waited for anything else: a time, a child, the next attempt.
    Waited {
        /// The workflow.
        workflow: &'e WorkflowId,
        /// The length of the wait.
        took: Duration,
    },
    /// A batch of writes was committed. Transaction steps commit by themselves, outside of batches.
    Committed {
        /// How many writes were in it.
        writes: usize,
        /// The time from the begin of the transaction to its end.
        took: Duration,
    },
    /// The workflows of a dead executor were made ready for other executors.
    Recovered {
        /// How many workflows.
        workflows: usize,
    },
}

/// Sees every [`Event`], on the thread where it happens. It should be quick. A panic in it is ignored.
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

/// The observers of an engine.
#[derive(Clone, Default)]
pub(crate) struct Observers(Vec<Arc<dyn Observer>>);

impl Observers {
    pub(crate) fn add(&mut self, observer: Arc<dyn Observer>) {
        self.0.push(observer);
    }

    /// Builds the event only if there is an observer.
    pub(crate) fn tell<'e>(&self, event: impl FnOnce() -> Event<'e>) {
        if self.0.is_empty() {
            return;
        }
        let event = event();
        let _inside = Inside::enter("an observer");
        for observer in &self.0 {
            // The engine's threads hold leads and slots: a panic of a guest must not end them.
            contained(|| observer.observe(&event));
        }
    }
}
