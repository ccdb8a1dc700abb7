//! The recorded past of one workflow: read once when a run is recovered, replayed from memory.

use std::collections::BTreeMap;

use crate::pure::id::{StepId, WorkflowId};
use crate::pure::limits::HISTORY_PAGE_ROWS;
use crate::sysdb::write::BEFORE_FIRST_STEP;
use crate::sysdb::{DbResult, Reader, StepRow};

/// What earlier runs recorded and this one has not come to yet.
#[derive(Debug, Default)]
pub(crate) struct History(BTreeMap<StepId, StepRow>);

impl History {
    /// A fresh run has no past, and never asks for one.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// One that was read already.
    pub(crate) fn of(steps: Vec<StepRow>) -> Self {
        Self(steps.into_iter().map(|row| (row.step_id, row)).collect())
    }

    /// All of it, in pages.
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

    /// What is recorded in this place. Given out once, so that a long past does not stay in memory.
    pub(crate) fn take(&mut self, step: StepId) -> Option<StepRow> {
        self.0.remove(&step)
    }

    /// The first recorded operation that this run did not ask for.
    pub(crate) fn left_over(&self) -> Option<&StepRow> {
        self.0.values().next()
    }
}
