//! Names that the engine writes into rows, the same on every backend.

/// The queue of everything that waits for an executor without a queue of its own.
pub(crate) const INTERNAL_QUEUE: &str = "_dbos_internal_queue";

/// The attribute in which a resume leaves its token, to know itself again.
#[cfg(feature = "postgres")]
pub(super) const RESUMED: &str = "piton.resumed";

/// The mark of one that waits for the end of a workflow.
pub(super) fn mark_of_workflow(id: &str) -> String {
    format!("workflow {id}")
}

/// The mark of one that waits for a message.
pub(super) fn mark_of_message(topic: &str) -> String {
    format!("message {topic}")
}
