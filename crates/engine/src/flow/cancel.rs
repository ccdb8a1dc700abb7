//! How a workflow cancels another one.
//!
//! Does not know: SQL, threads, waits.

use crate::flow::core::tell_to_stop;
use crate::flow::drive::Flow;
use crate::flow::operation::{Entry, Recorded};
use crate::pure::codec::Codec;
use crate::pure::error::{Result, Stop};
use crate::pure::id::WorkflowId;
use crate::sysdb::{StepRow, Verdict, Write};

/// The name under which a cancel is recorded, as DBOS has it.
const NAME: &str = "DBOS.cancelWorkflow";

impl Flow {
    /// Cancels a workflow and all workflows below it, as `Engine::cancel_with_children`: one step id, one commit. A
    /// workflow that was deleted is left out.
    pub(crate) fn cancel(&self, workflow: WorkflowId) -> impl Future<Output = Result<()>> + use<> {
        let entry = self.begin(NAME);
        let flow = self.clone();
        async move {
            let begun = match entry? {
                Entry::Replayed(recorded) => {
                    recorded.is_about(&workflow)?;
                    return recorded.outcome();
                }
                Entry::Fresh(begun) => begun,
            };
            flow.refuse_if_over()?;
            let (running, at) = (flow.core().runs.all(), flow.execution.now());
            let row = begun.success("null".to_owned(), Codec::PortableJson.name());
            let row = StepRow { child: Some(workflow.clone()), ..row };
            let recording =
                begun.end_by(row, |owner, step| Write::CancelChild { owner, step, child: workflow, at });
            match flow.record_alone(recording).await? {
                Recorded::Done(Verdict::Changed(cancelled)) => {
                    tell_to_stop(&running, &cancelled, &Stop::Cancelled);
                    Ok(())
                }
                Recorded::Done(verdict) => Err(flow.execution.misanswered("cancel_child", &verdict)),
                Recorded::Refused(_, refusal) => {
                    Err(flow.execution.misanswered("cancel_child", &Verdict::Refused(refusal)))
                }
            }
        }
    }
}
