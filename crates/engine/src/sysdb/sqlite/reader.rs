//! Connections that only read. They see the last commit and never wait for the writer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rusqlite::Connection;

use super::file_identity::FileIdentity;
use super::json_array;
use super::open::connect;
use super::statement::{Statement, failed};
use super::{census, claims, manage, messages, queues, steps, workflows};
use crate::pure::clock::Timestamp;
use crate::pure::error::Stop;
use crate::pure::id::{ExecutorId, StepId, WorkflowId};
use crate::pure::listing::{Progress, WorkflowFilter, WorkflowInfo};
use crate::sysdb::names::ended;
use crate::sysdb::outage::{Outage, Part};
use crate::sysdb::{
    BusyExecutor, Census, DbResult, FleetReader, Outcome, Outlook, Owner, Past, Reader, Served, StepRow,
    StoredInput, WaitGraph,
};

/// More readers than this wait for each other: each costs file handles and a cache.
const CONNECTIONS_MAX: usize = 8;

/// ?1 JSON array of ids
const NOT_OPEN_AMONG: Statement = Statement {
    name: "not_open_among",
    sql: concat!(
        "
        SELECT asked.value FROM json_each(?1) AS asked
          LEFT JOIN workflow_status s ON s.workflow_uuid = asked.value
         WHERE s.workflow_uuid IS NULL OR s.status IN ",
        ended!()
    ),
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[NOT_OPEN_AMONG];

/// A pool of reading connections.
pub(super) struct Readers {
    path: PathBuf,
    file: Arc<FileIdentity>,
    pool: Mutex<Pool>,
    returned: Condvar,
    outage: Arc<Outage>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    open: usize,
    /// None is kept: SQLite puts all into the one file when the last connection on it is closed.
    closed: bool,
}

impl Readers {
    pub(super) fn new(path: PathBuf, file: Arc<FileIdentity>, outage: Arc<Outage>) -> Self {
        Self { path, file, pool: Mutex::default(), returned: Condvar::new(), outage }
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> DbResult<T>) -> DbResult<T> {
        let result = self.take().and_then(|connection| {
            let result = work(&connection);
            self.give_back(connection);
            self.file.note_damage(result)
        });
        match &result {
            Ok(_) => self.outage.passed(Part::Reads),
            Err(error) if error.may_pass => self.outage.failed(Part::Reads, error),
            Err(_) => {}
        }
        result
    }

    fn take(&self) -> DbResult<Connection> {
        let mut pool = self.pool();
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.open < CONNECTIONS_MAX {
                pool.open += 1;
                drop(pool);
                let opened = read_only(&self.path);
                if opened.is_ok() {
                    return opened;
                }
                pool = self.pool();
                pool.open -= 1;
                if pool.open == 0 {
                    self.returned.notify_all();
                    return opened;
                }
                // Out of file handles, perhaps. The open workflows come back.
                if !pool.idle.is_empty() {
                    continue;
                }
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, connection: Connection) {
        let mut pool = self.pool();
        if pool.closed {
            pool.open -= 1;
            drop(pool);
            drop(connection);
        } else {
            pool.idle.push(connection);
        }
        self.returned.notify_one();
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_only(path: &Path) -> DbResult<Connection> {
    let open = || {
        let connection = connect(path)?;
        connection.pragma_update(None, "query_only", "ON")?;
        connection.pragma_update(None, "trusted_schema", "OFF")?;
        Ok(connection)
    };
    open().map_err(|e| failed("open_reader", e))
}

impl Reader for Readers {
    fn steps(&self, workflow: &WorkflowId, after: StepId, limit: u32) -> DbResult<Vec<StepRow>> {
        self.read(|connection| steps::read(connection, workflow, after, limit))
    }

    fn input(&self, workflow: &WorkflowId) -> DbResult<StoredInput> {
        self.read(|connection| workflows::read_input(connection, workflow))
    }

    fn outcome(&self, workflow: &WorkflowId) -> DbResult<Option<Outcome>> {
        self.read(|connection| workflows::read_outcome(connection, workflow))
    }

    fn not_open_among(&self, ids: &[WorkflowId]) -> DbResult<Vec<WorkflowId>> {
        self.read(|connection| NOT_OPEN_AMONG.all(connection, [json_array(ids)], claims::id_column))
    }

    fn with_messages_among(&self, asked: &[(WorkflowId, String)]) -> DbResult<Vec<(WorkflowId, String)>> {
        self.read(|connection| messages::with_messages_among(connection, asked))
    }

    fn list(&self, app: &str, filter: &WorkflowFilter) -> DbResult<Vec<WorkflowInfo>> {
        self.read(|connection| manage::list(connection, app, filter))
    }

    fn count(&self, app: &str, filter: &WorkflowFilter) -> DbResult<u64> {
        self.read(|connection| manage::count(connection, app, filter))
    }

    fn progress(&self, workflow: &WorkflowId) -> DbResult<Option<Progress>> {
        self.read(|connection| manage::progress(connection, workflow))
    }

    fn waits_of(&self, workflow: &WorkflowId) -> DbResult<Vec<(WorkflowId, WorkflowId)>> {
        self.read(|connection| workflows::waits_of(connection, workflow))
    }

    fn close(&self) {
        let idle = {
            let mut pool = self.pool();
            pool.closed = true;
            pool.open -= pool.idle.len();
            std::mem::take(&mut pool.idle)
        };
        drop(idle);
    }
}

impl FleetReader for Readers {
    fn lost_among(&self, owners: &[Owner]) -> DbResult<Vec<(Owner, Stop)>> {
        self.read(|connection| claims::lost_among(connection, owners))
    }

    fn outlook(&self, served: &Served) -> DbResult<Outlook> {
        self.read(|connection| queues::outlook(connection, served, &self.outage))
    }

    fn pasts(&self, ids: &[WorkflowId]) -> DbResult<HashMap<WorkflowId, Past>> {
        self.read(|connection| {
            let inputs = workflows::read_inputs(connection, ids)?;
            let mut steps = steps::read_pasts(connection, ids)?;
            let past = |(id, input)| steps.remove(&id).map(|steps| (id, Past { input, steps }));
            Ok(inputs.into_iter().filter_map(past).collect())
        })
    }

    fn unknown_wait(&self, served: &Served, since: Timestamp) -> DbResult<bool> {
        self.read(|connection| claims::unknown_wait(connection, served, since))
    }

    fn fulfilled_waits(&self, app: &str) -> DbResult<Vec<WorkflowId>> {
        self.read(|connection| claims::fulfilled_waits(connection, app, &self.outage))
    }

    fn census(&self) -> DbResult<Census> {
        self.read(census::census)
    }

    fn waits(&self, app: &str) -> DbResult<WaitGraph> {
        self.read(|connection| census::waits(connection, app))
    }

    fn busy_executors(&self) -> DbResult<Vec<BusyExecutor>> {
        self.read(claims::busy_executors)
    }

    fn owned_by(&self, executor: &ExecutorId) -> DbResult<Vec<Owner>> {
        self.read(|connection| claims::owned_by(connection, executor, &self.outage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysdb::sqlite::transaction;

    fn every_statement() -> (Connection, Vec<&'static Statement>) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("schema_v125.sql")).unwrap();
        connection.execute_batch(include_str!("own_tables.sql")).unwrap();
        let topics = [
            super::ALL,
            census::ALL,
            claims::ALL,
            manage::ALL,
            messages::ALL,
            queues::ALL,
            steps::ALL,
            transaction::ALL,
            workflows::ALL,
        ];
        (connection, topics.into_iter().flatten().collect())
    }

    /// A statement that names a column which does not exist fails here and not in the field.
    #[test]
    fn every_statement_prepares() {
        let (connection, statements) = every_statement();
        for statement in statements {
            statement.prepare(&connection).unwrap_or_else(|e| panic!("{}: {e}", statement.name));
        }
    }

    /// The cost of a statement may depend on the number of running workflows, never on the number of all.
    #[test]
    fn no_statement_reads_a_whole_table() {
        let (connection, statements) = every_statement();
        // Temporary tables of a body are few.
        for statement in statements.into_iter().filter(|statement| statement.name != "temporary_tables") {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", statement.sql)).unwrap();
            let mut rows = plan.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get(3).unwrap();
                let whole =
                    step.starts_with("SCAN") && !step.contains("INDEX") && !step.contains("SCAN CONSTANT");
                assert!(!whole || step == "SCAN tree", "{}: {step}", statement.name);
            }
        }
    }
}
