//! What a workflow's function holds while it runs.

use std::borrow::Cow;
use std::sync::Arc;

use crate::flow::core::Core;
use crate::flow::execution::Execution;
use crate::flow::operation::Entry;
use crate::machines::worker::Slot;
use crate::pure::error::Result;
use crate::pure::id::WorkflowId;

/// A running workflow: every durable operation goes through it.
///
/// Operations take numbers in the order in which the workflow asks for them, and that is how a recovered run
/// finds what is recorded. So between steps a workflow must be deterministic: no clock, no random numbers, no
/// input or output, or else in a step. `&mut` makes a step inside a step a compile error:
///
/// ```compile_fail
/// # fn workflow(ctx: &mut engine::Context) -> engine::Result<()> {
/// ctx.step("outer", |_| ctx.step("inner", |_| Ok::<_, engine::Error>(())))
/// # }
/// ```
pub struct Context {
    pub(crate) execution: Arc<Execution>,
    pub(crate) slot: Arc<Slot>,
    /// Workflows that run inline on this thread below this one's root.
    pub(crate) depth: usize,
}

impl Context {
    pub(crate) fn new(execution: Arc<Execution>, slot: Arc<Slot>, depth: usize) -> Self {
        Self { execution, slot, depth }
    }

    /// The id of this workflow.
    pub fn workflow_id(&self) -> &WorkflowId {
        self.execution.workflow()
    }

    /// Which run of the workflow this is: 1 for the first, one more for each that did not come to an end because its
    /// executor died or its writes were refused.
    pub fn attempt(&self) -> u32 {
        self.execution.attempt
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.execution.core
    }

    /// Begins an operation whose name the engine chose or has checked.
    pub(crate) fn begin(&mut self, name: impl Into<Cow<'static, str>>) -> Result<Entry> {
        self.execution.begin(name)
    }
}
