//! Looks at the database, each on a connection of the pool.

use std::collections::HashMap;
use std::sync::Arc;

use super::connection::Statement;
use super::pool::Pool;
use super::{claims, manage, messages, queues, steps, workflows};
use crate::clock::Timestamp;
use crate::id::{ExecutorId, StepId, WorkflowId};
use crate::listing::{Progress, WorkflowFilter, WorkflowInfo};
use crate::status::WorkflowStatus;
use crate::sysdb::names::ended;
use crate::sysdb::{
    BusyExecutor, DbResult, FleetReader, Outcome, Outlook, Owner, Past, Reader, Served, StepRow, StoredInput,
};

/// $1 ids
const SETTLED_AMONG: Statement = Statement {
    name: "settled_among",
    sql: concat!(
        "
        SELECT workflow_uuid FROM dbos.workflow_status WHERE workflow_uuid = ANY ($1) AND status IN ",
        ended!()
    ),
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[SETTLED_AMONG];

pub(super) struct Readers {
    pool: Arc<Pool>,
}

impl Readers {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool }
    }
}

impl Reader for Readers {
    fn steps(&self, workflow: &WorkflowId, after: StepId, limit: u32) -> DbResult<Vec<StepRow>> {
        self.pool.read(|connection| steps::read(connection, workflow, after, limit))
    }

    fn input(&self, workflow: &WorkflowId) -> DbResult<StoredInput> {
        self.pool.read(|connection| workflows::read_input(connection, workflow))
    }

    fn outcome(&self, workflow: &WorkflowId) -> DbResult<Option<Outcome>> {
        self.pool.read(|connection| workflows::read_outcome(connection, workflow))
    }

    fn settled_among(&self, ids: &[WorkflowId]) -> DbResult<Vec<WorkflowId>> {
        let asked: Vec<&str> = ids.iter().map(WorkflowId::as_str).collect();
        self.pool
            .read(|connection| claims::ids(&SETTLED_AMONG, &connection.query(&SETTLED_AMONG, &[&asked])?))
    }

    fn with_messages_among(&self, asked: &[(WorkflowId, String)]) -> DbResult<Vec<(WorkflowId, String)>> {
        self.pool.read(|connection| messages::with_messages_among(connection, asked))
    }

    fn list(&self, app: &str, filter: &WorkflowFilter) -> DbResult<Vec<WorkflowInfo>> {
        self.pool.read(|connection| manage::list(connection, app, filter))
    }

    fn count(&self, app: &str, filter: &WorkflowFilter) -> DbResult<u64> {
        self.pool.read(|connection| manage::count(connection, app, filter))
    }

    fn progress(&self, workflow: &WorkflowId) -> DbResult<Option<Progress>> {
        self.pool.read(|connection| manage::progress(connection, workflow))
    }
}

impl FleetReader for Readers {
    fn lost_among(&self, owners: &[Owner]) -> DbResult<Vec<(Owner, Option<WorkflowStatus>)>> {
        self.pool.read(|connection| claims::lost_among(connection, owners))
    }

    fn outlook(&self, served: &Served) -> DbResult<Outlook> {
        self.pool.read(|connection| queues::outlook(connection, served))
    }

    fn pasts(&self, ids: &[WorkflowId]) -> DbResult<HashMap<WorkflowId, Past>> {
        self.pool.read(|connection| steps::read_pasts(connection, ids))
    }

    fn unknown_wait(&self, served: &Served, since: Timestamp) -> DbResult<bool> {
        self.pool.read(|connection| claims::unknown_wait(connection, served, since))
    }

    fn served_waits(&self, app: &str) -> DbResult<Vec<WorkflowId>> {
        self.pool.read(|connection| claims::served_waits(connection, app))
    }

    fn busy_executors(&self) -> DbResult<Vec<BusyExecutor>> {
        self.pool.read(claims::busy_executors)
    }

    fn owned_by(&self, executor: &ExecutorId) -> DbResult<Vec<Owner>> {
        self.pool.read(|connection| claims::owned_by(connection, executor))
    }
}
