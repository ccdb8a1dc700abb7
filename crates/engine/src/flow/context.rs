//! The context of a plain workflow function: the function calls its operations while it runs.

use std::borrow::Cow;

use crate::flow::drive::Flow;
use crate::flow::operation::Entry;
use crate::pure::error::Result;
use crate::pure::id::WorkflowId;

/// A running workflow: every durable operation goes through it.
///
/// Operations take numbers in the order in which the workflow asks for them. By these numbers a recovered run finds its
/// records. So between steps a workflow must be deterministic: no clock, no random numbers, no input or output outside
/// of a step. `&mut` makes a step inside a step a compile error:
///
/// ```compile_fail
/// # fn workflow(ctx: &mut engine::Context) -> engine::Result<()> {
/// ctx.step("outer", |_| ctx.step("inner", |_| Ok::<_, engine::Error>(())))
/// # }
/// ```
pub struct Context {
    pub(crate) flow: Flow,
    /// The number of workflows that run inline on this thread below its root workflow.
    pub(crate) depth: usize,
}

impl Context {
    pub(crate) fn new(flow: Flow, depth: usize) -> Self {
        Self { flow, depth }
    }

    /// The id of this workflow.
    pub fn workflow_id(&self) -> &WorkflowId {
        self.flow.execution.workflow()
    }

    /// The number of this run: 1 for the first run, one more for each run that did not end. A run does not end when its
    /// executor dies or its writes are refused.
    pub fn attempt(&self) -> u32 {
        self.flow.execution.attempt
    }
}

impl Flow {
    /// Begins an operation whose name the engine chose or has checked.
    pub(crate) fn begin(&self, name: impl Into<Cow<'static, str>>) -> Result<Entry> {
        self.execution.begin(name)
    }
}
