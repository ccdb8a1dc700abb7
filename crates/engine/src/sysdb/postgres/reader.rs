//! Looks at the database, each on a connection of the pool.

use std::collections::HashMap;
use std::sync::Arc;

use super::connection::Statement;
use super::pool::Pool;
use super::{census, claims, manage, messages, queues, steps, workflows};
use crate::pure::clock::Timestamp;
use crate::pure::error::Stop;
use crate::pure::id::{ExecutorId, StepId, WorkflowId};
use crate::pure::listing::{Progress, WorkflowFilter, WorkflowInfo};
use crate::sysdb::names::ended;
use crate::sysdb::{
    BusyExecutor, Census, DbResult, FleetReader, Outcome, Outlook, Owner, Past, Reader, Served, StepRow,
    StoredInput, WaitGraph,
};

/// $1 ids
const NOT_OPEN_AMONG: Statement = Statement {
    name: "not_open_among",
    sql: concat!(
        "
        SELECT asked.id FROM unnest($1::text[]) AS asked (id)
          LEFT JOIN dbos.workflow_status s ON s.workflow_uuid = asked.id
         WHERE s.workflow_uuid IS NULL OR s.status IN ",
        ended!()
    ),
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[NOT_OPEN_AMONG];

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

    fn not_open_among(&self, ids: &[WorkflowId]) -> DbResult<Vec<WorkflowId>> {
        let asked: Vec<&str> = ids.iter().map(WorkflowId::as_str).collect();
        self.pool
            .read(|connection| claims::ids(&NOT_OPEN_AMONG, &connection.query(&NOT_OPEN_AMONG, &[&asked])?))
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

    fn waits_of(&self, workflow: &WorkflowId) -> DbResult<Vec<(WorkflowId, WorkflowId)>> {
        self.pool.read(|connection| workflows::waits_of(connection, workflow))
    }
}

impl FleetReader for Readers {
    fn lost_among(&self, owners: &[Owner]) -> DbResult<Vec<(Owner, Stop)>> {
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

    fn fulfilled_waits(&self, app: &str) -> DbResult<Vec<WorkflowId>> {
        self.pool.read(|connection| claims::fulfilled_waits(connection, app))
    }

    fn census(&self) -> DbResult<Census> {
        self.pool.read(census::census)
    }

    fn waits(&self, app: &str) -> DbResult<WaitGraph> {
        self.pool.read(|connection| census::waits(connection, app))
    }

    fn busy_executors(&self) -> DbResult<Vec<BusyExecutor>> {
        self.pool.read(claims::busy_executors)
    }

    fn owned_by(&self, executor: &ExecutorId) -> DbResult<Vec<Owner>> {
        self.pool.read(|connection| claims::owned_by(connection, executor))
    }
}
