//! The order of a workflow's operations: their ids, and the records of earlier runs in their places.
//!
//! Does not know: the database, threads.

use crate::flow::history::History;
use crate::pure::id::StepId;
use crate::sysdb::StepRow;

/// The next step id and the recorded past. The only place where step ids are made.
#[derive(Debug)]
pub(crate) struct Sequence {
    last: StepId,
    history: History,
}

impl Sequence {
    /// A fresh run has no past, and never asks for one.
    pub(crate) fn fresh() -> Self {
        Self::replaying(History::none())
    }

    /// Goes on after the records of earlier runs.
    pub(crate) fn replaying(history: History) -> Self {
        Self { last: StepId(0), history }
    }

    /// Takes the next place, with the record there.
    pub(crate) fn next(&mut self) -> (StepId, Option<StepRow>) {
        self.last = StepId(self.last.0 + 1);
        (self.last, self.history.take(self.last))
    }

    /// The place that was taken last.
    #[cfg(feature = "tokio")]
    pub(crate) fn last(&self) -> StepId {
        self.last
    }

    /// The first recorded operation that this run has not asked for.
    pub(crate) fn left_over(&self) -> Option<&StepRow> {
        self.history.left_over()
    }
}
