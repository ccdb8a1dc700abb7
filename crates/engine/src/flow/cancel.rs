//! How a workflow cancels another one.
//!
//! Does not know: SQL, threads, waits.

use crate::flow::core::tell_to_stop;
use crate::flow::drive::Flow;
use crate::flow::operation::Entry;
use crate::pure::codec::Codec;
use crate::pure::error::{Result, Stop};
use crate::pure::id::WorkflowId;
use crate::sysdb::write::Refusal;
use crate::sysdb::{Verdict, Write};

/// The name under which a cancel is recorded, as DBOS has it.
const NAME: &str = "DBOS.cancelWorkflow";

impl Flow {
    /// Cancels a workflow and all workflows below it: one step id, two commits. Nothing happens to a workflow that has
    /// ended or was deleted.
    ///
    /// A crash between the commits cancels once more, which changes nothing.
    pub(crate) fn cancel(&self, workflow: WorkflowId) -> impl Future<Output = Result<()>> + use<> {
        let entry = self.begin(NAME);
        let flow = self.clone();
        async move {
            let begun = match entry? {
                Entry::Replayed(recorded) => return recorded.outcome(),
                Entry::Fresh(begun) => begun,
            };
            flow.refuse_if_over()?;
            let running = flow.core().runs.all();
            let write = Write::Cancel { workflow, children: true, at: flow.execution.now() };
            match flow.commit(write).await {
                Ok(Verdict::Changed(cancelled)) => tell_to_stop(&running, &cancelled, &Stop::Cancelled),
                Ok(Verdict::Refused(Refusal::Stands(_) | Refusal::NoSuchWorkflow)) => {}
                Ok(verdict) => return Err(flow.execution.misanswered("cancel", &verdict)),
                Err(error) => return Err(flow.execution.commit_failed(&error)),
            }
            let row = begun.success("null".to_owned(), Codec::PortableJson.name());
            flow.record_alone(begun.end(row)).await.map(drop)
        }
    }
}
