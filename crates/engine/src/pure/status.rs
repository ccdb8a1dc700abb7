//! The states of a workflow and the changes between them. The conditions of the SQL statements decide on a change. This
//! file says the same in Rust, and the audit of the torture holds every change against it.

use std::fmt;

/// The status of a workflow. The names are those of the DBOS system tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkflowStatus {
    /// Waits without a place until a time or an event, as in a long sleep; then becomes `ENQUEUED`.
    Delayed,
    /// Waits for an executor with a free worker.
    Enqueued,
    /// An executor runs it, or ran it when the executor died.
    Pending,
    /// Ended with an output.
    Success,
    /// Ended with an error, of its function or of the engine. The recorded error says which.
    Error,
    /// Cancelled by an operator.
    Cancelled,
    /// Was recovered more often than its limit allows, and is parked.
    MaxRecoveryAttemptsExceeded,
    /// The row holds a text that this program does not know as a status; [`crate::WorkflowInfo::unreadable`] shows it.
    /// No executor runs such a workflow. It can be cancelled and resumed.
    Unknown,
}

impl WorkflowStatus {
    /// All known states, in the order in which a workflow may meet them.
    pub const ALL: [Self; 7] = [
        Self::Delayed,
        Self::Enqueued,
        Self::Pending,
        Self::Success,
        Self::Error,
        Self::Cancelled,
        Self::MaxRecoveryAttemptsExceeded,
    ];

    /// The text in the database; `UNKNOWN` for a status that is not known.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "DELAYED",
            Self::Enqueued => "ENQUEUED",
            Self::Pending => "PENDING",
            Self::Success => "SUCCESS",
            Self::Error => "ERROR",
            Self::Cancelled => "CANCELLED",
            Self::MaxRecoveryAttemptsExceeded => "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The status with this text, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether the workflow has ended or is parked. `false` for a status that is not known.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Delayed | Self::Enqueued | Self::Pending | Self::Unknown => false,
            Self::Success | Self::Error | Self::Cancelled | Self::MaxRecoveryAttemptsExceeded => true,
        }
    }

    /// Whether the status of a workflow may change from `self` to `next`.
    ///
    /// `ERROR` may become `ENQUEUED` only when the error is the engine's own and about the program, not about the work
    /// (see [`crate::Engine::resume`]).
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Delayed => matches!(next, Self::Enqueued | Self::Cancelled),
            Self::Enqueued => matches!(next, Self::Pending | Self::Error | Self::Cancelled),
            Self::Pending => !matches!(next, Self::Pending),
            Self::Cancelled | Self::Error => matches!(next, Self::Enqueued),
            Self::MaxRecoveryAttemptsExceeded | Self::Unknown => {
                matches!(next, Self::Enqueued | Self::Cancelled)
            }
            Self::Success => false,
        }
    }
}

impl fmt::Display for WorkflowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back_from_its_text() {
        for status in WorkflowStatus::ALL {
            assert_eq!(WorkflowStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(WorkflowStatus::parse("pending"), None);
        assert_eq!(WorkflowStatus::parse(WorkflowStatus::Unknown.as_str()), None);
    }

    #[test]
    fn a_success_never_changes() {
        assert!(WorkflowStatus::ALL.into_iter().all(|next| !WorkflowStatus::Success.may_become(next)));
    }

    #[test]
    fn only_enqueued_becomes_pending() {
        for status in WorkflowStatus::ALL {
            let may = status.may_become(WorkflowStatus::Pending);
            assert_eq!(may, status == WorkflowStatus::Enqueued, "{status}");
        }
    }
}
