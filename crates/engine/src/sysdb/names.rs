//! Names that the engine writes into rows, the same on every backend.

/// The final states, as a list in SQL. A state that this program does not know is none of them: a newer program may go
/// on from it.
macro_rules! ended {
    () => {
        "('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')"
    };
}
pub(super) use ended;

/// The queue of every workflow that waits for an executor without a queue of its own.
pub(crate) const INTERNAL_QUEUE: &str = "_dbos_internal_queue";

/// The attribute in which a resume leaves its token, to know itself again.
#[cfg(feature = "postgres")]
pub(super) const RESUMED: &str = "piton.resumed";

/// Among the marks of a workflow that is in a race: one of the others is enough for it to go on.
pub(super) const MARK_OF_A_RACE: &str = "any";

/// The mark of a workflow that waits for the end of another.
pub(super) fn mark_of_workflow(id: &str) -> String {
    format!("workflow {id}")
}

/// The mark of a workflow that waits for a message.
pub(super) fn mark_of_message(topic: &str) -> String {
    format!("message {topic}")
}

#[cfg(test)]
mod tests {
    use crate::pure::status::WorkflowStatus;

    #[test]
    fn the_states_that_have_ended_are_the_terminal_ones() {
        let ended = WorkflowStatus::ALL.into_iter().filter(|status| status.is_terminal());
        let listed: Vec<_> = ended.map(|status| format!("'{status}'")).collect();
        assert_eq!(ended!(), format!("({})", listed.join(", ")));
    }
}
