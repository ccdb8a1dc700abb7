//! The recorded past of one workflow: read once when a run is recovered, replayed from memory.

use std::collections::BTreeMap;

use crate::pure::id::{StepId, WorkflowId};
use crate::pure::limits::HISTORY_PAGE_ROWS;
use crate::sysdb::write::BEFORE_FIRST_STEP;
use crate::sysdb::{DbResult, Reader, StepRow};

/// The records of earlier runs that this run has not come to yet.
#[derive(Debug, Default)]
pub(crate) struct History(BTreeMap<StepId, StepRow>);

impl History {
    /// The history of a fresh run: it is empty, and is never read.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// A history that was read already.
    pub(crate) fn of(steps: Vec<StepRow>) -> Self {
        Self(steps.into_iter().map(|row| (row.step_id, row)).collect())
    }

    /// Reads the whole history, in pages.
    pub(crate) fn read(reader: &dyn Reader, workflow: &WorkflowId) -> DbResult<Self> {
        let mut steps = BTreeMap::new();
        let mut after = BEFORE_FIRST_STEP;
        loop {
            let page = reader.steps(workflow, after, HISTORY_PAGE_ROWS)?;
            let Some(last) = page.last() else { break };
            after = last.step_id;
            let full = page.len() == HISTORY_PAGE_ROWS as usize;
            steps.extend(page.into_iter().map(|row| (row.step_id, row)));
            if !full {
                break;
            }
        }
        Ok(Self(steps))
    }

    /// The record in this place. It is given out once, so that a long past does not stay in memory.
    pub(crate) fn take(&mut self, step: StepId) -> Option<StepRow> {
        self.0.remove(&step)
    }

    /// The first recorded operation for which this run did not ask.
    pub(crate) fn left_over(&self) -> Option<&StepRow> {
        self.0.values().next()
    }
}
