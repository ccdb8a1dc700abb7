//! The states of a workflow and the arrows between them. The conditions of the SQL statements decide; what they amount
//! to is said here, and the audit of the torture holds every change against it.

use std::fmt;

/// Where a workflow stands. The names are those of the DBOS system tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkflowStatus {
    /// Leaves its place until a time or an event, then becomes `ENQUEUED`: a long sleep, for example.
    Delayed,
    /// Waits for an executor with a free worker.
    Enqueued,
    /// An executor runs it, or did when it died.
    Pending,
    /// Returned a value.
    Success,
    /// Returned an error, or can never run to its end; the recorded error says which.
    Error,
    /// Stopped by an operator.
    Cancelled,
    /// Was recovered more often than its limit allows.
    MaxRecoveryAttemptsExceeded,
    /// The row holds something that this program does not know as a status; [`crate::WorkflowInfo::unreadable`] says
    /// what. Nobody runs such a workflow. It can be cancelled and resumed.
    Unknown,
}

impl WorkflowStatus {
    /// All states that are known, in the order in which a workflow may meet them.
    pub const ALL: [Self; 7] = [
        Self::Delayed,
        Self::Enqueued,
        Self::Pending,
        Self::Success,
        Self::Error,
        Self::Cancelled,
        Self::MaxRecoveryAttemptsExceeded,
    ];

    /// The text in the database; of one that is not known, `UNKNOWN`.
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

    /// The state behind the text, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing more happens by itself. Of a state that is not known this cannot be said, so it is not.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Delayed | Self::Enqueued | Self::Pending | Self::Unknown => false,
            Self::Success | Self::Error | Self::Cancelled | Self::MaxRecoveryAttemptsExceeded => true,
        }
    }

    /// Whether a workflow may move from here to `next`.
    ///
    /// `ERROR` may become `ENQUEUED` only when the error is the engine's own and about the program, not about
    /// the work (see [`crate::Engine::resume`]).
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
