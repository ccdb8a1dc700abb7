//! The wall between the engine and its database.
//!
//! Above it: workflows, retries, threads. Below it: SQL. Only the rows of this file and of [`mod@write`] cross, no
//! driver type does. A read is one query or few, a batch of writes is one transaction.

mod names;
pub(crate) mod outage;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
pub mod testing;
#[cfg(all(test, unix, feature = "sqlite", feature = "postgres"))]
mod tests;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod tx;
mod url;
pub(crate) mod write;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::clock::{Stopwatch, Timestamp};
use crate::pure::codec;
use crate::pure::error::{Error, Failure, Stop};
use crate::pure::id::{ExecutorId, OwnerToken, StepId, WorkflowId};
use crate::pure::listing::{Progress, StepRecord, WorkflowFilter, WorkflowInfo};
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::Signal;
use crate::sysdb::outage::Outage;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::sysdb::testing::Gate;

pub(crate) use names::INTERNAL_QUEUE;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use tx::{Native, Tx};
pub(crate) use url::Url;
#[cfg(feature = "postgres")]
pub(crate) use url::{Host, PostgresUrl, Tls};
pub(crate) use write::{Verdict, Write};

/// The identity of this executor for the others.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) executor: ExecutorId,
    pub(crate) app: Arc<str>,
    pub(crate) version: Arc<str>,
}

/// The workflows that an executor can take up: with these names, in these queues.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) identity: Arc<Identity>,
    pub(crate) names: Vec<String>,
    /// With the engine's own queue.
    pub(crate) queues: Vec<String>,
}

/// The right to write for one execution of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) workflow: WorkflowId,
    pub(crate) token: OwnerToken,
}

/// One durable operation as the database holds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StepRow {
    pub(crate) step_id: StepId,
    pub(crate) name: Cow<'static, str>,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) child: Option<WorkflowId>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) serialization: Option<Cow<'static, str>>,
}

impl StepRow {
    pub(crate) fn failure(&self) -> Option<Failure> {
        let error = self.error.as_deref()?;
        Some(codec::decode_failure(self.serialization.as_deref(), error))
    }

    /// The verdict of this record for a receive in its place: an earlier try of it, or another operation.
    pub(crate) fn received_before(self, receive: &Self) -> Verdict {
        match self.output {
            Some(text) if self.name == receive.name => {
                Verdict::Received { text, serialization: self.serialization.map(Cow::into_owned) }
            }
            _ => Verdict::Refused(write::Refusal::OtherStep { recorded: self.name.into_owned() }),
        }
    }
}

impl From<StepRow> for StepRecord {
    fn from(row: StepRow) -> Self {
        Self {
            step_id: row.step_id,
            failure: row.failure().map(Failure::of_the_work),
            name: row.name.into_owned(),
            output: row.output,
            child: row.child,
            started_at: row.started_at,
            completed_at: row.completed_at,
            serialization: row.serialization.map(Cow::into_owned),
        }
    }
}

/// The status of a workflow, and its output or error.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) workflow: WorkflowId,
    pub(crate) status: WorkflowStatus,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) serialization: Option<Cow<'static, str>>,
}

impl Outcome {
    pub(crate) fn failure(&self) -> Failure {
        match &self.error {
            Some(error) => codec::decode_failure(self.serialization.as_deref(), error),
            None => Failure::new("Error", "nothing is recorded of the error"),
        }
    }
}

/// The input and the place of a recovered run.
#[derive(Debug, Clone)]
pub(crate) struct StoredInput {
    pub(crate) text: Option<String>,
    pub(crate) serialization: Option<String>,
}

/// Input and recorded steps of a workflow that is taken up again.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    pub(crate) input: StoredInput,
    pub(crate) steps: Vec<StepRow>,
}

/// A queue with a waiting workflow that may be taken up under the limits of all executors together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenQueue {
    pub(crate) name: String,
    /// How many of its workflows may run at once, everywhere and in one executor.
    pub(crate) concurrency: Option<u32>,
    pub(crate) worker_concurrency: Option<u32>,
    /// How many of them may have begun and not ended, everywhere.
    pub(crate) in_flight: Option<u32>,
}

/// The work that there is for an idle executor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Outlook {
    pub(crate) open: Vec<OpenQueue>,
    /// When the next `DELAYED` workflow wakes up.
    pub(crate) next_due: Option<Timestamp>,
}

/// Workflows that wait to be taken up, or will, and that the same executors could take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenGroup {
    pub(crate) app: Option<String>,
    pub(crate) version: Option<String>,
    /// The newest version of the application, which takes workflows without a version.
    pub(crate) newest: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) queue: Option<String>,
    /// Whether the queue has a row, or is the engine's own.
    pub(crate) queue_exists: bool,
    pub(crate) count: u64,
    pub(crate) oldest: Timestamp,
}

/// All workflows that wait to be taken up, by executors of this engine or of other programs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Census {
    pub(crate) groups: Vec<OpenGroup>,
    /// Applications of which an executor of another program runs workflows.
    pub(crate) of_others: Vec<Option<String>>,
}

/// A workflow that waits for another without a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitEdge {
    pub(crate) waiter: WorkflowId,
    pub(crate) awaited: WorkflowId,
    /// The queue in which the awaited workflow waits for a place; `None` when it waits for another workflow itself.
    pub(crate) in_queue: Option<String>,
    /// How many waits of its workflow must be stuck until the workflow is: 1, and all of them in a race.
    pub(crate) stuck_with: usize,
}

/// A queue with an `in_flight` limit, and the holders of its places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueuePlaces {
    pub(crate) queue: String,
    pub(crate) in_flight: u32,
    pub(crate) holders: Vec<WorkflowId>,
}

/// Waits that may form circles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WaitGraph {
    pub(crate) waits: Vec<WaitEdge>,
    pub(crate) queues: Vec<QueuePlaces>,
}

impl WaitGraph {
    /// The queues in which a place is waited for, each once.
    pub(crate) fn queues_of(waits: &[WaitEdge]) -> Vec<&str> {
        let mut queues: Vec<_> = waits.iter().filter_map(|wait| wait.in_queue.as_deref()).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// With a row for each place that is held: queue, limit, holder.
    pub(crate) fn of(
        waits: Vec<WaitEdge>,
        held: impl IntoIterator<Item = (String, u32, WorkflowId)>,
    ) -> Self {
        let mut queues: Vec<QueuePlaces> = Vec::new();
        for (queue, in_flight, holder) in held {
            match queues.iter_mut().find(|places| places.queue == queue) {
                Some(places) => places.holders.push(holder),
                None => queues.push(QueuePlaces { queue, in_flight, holders: vec![holder] }),
            }
        }
        Self { waits, queues }
    }
}

/// The executor under which a workflow is `PENDING`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BusyExecutor {
    Known(ExecutorId),
    /// The value in the row in place of an id.
    Unreadable(String),
}

/// The information that an executor gives the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) app: String,
    pub(crate) version: String,
    pub(crate) workflows: Vec<String>,
    pub(crate) queues: Vec<String>,
}

/// The reason why the database refused a call.
#[derive(Debug, Clone)]
pub(crate) struct DbError {
    pub(crate) statement: &'static str,
    /// Whether the call may work later: the database is busy, full or away. Otherwise it never will.
    pub(crate) may_pass: bool,
    pub(crate) source: Arc<dyn std::error::Error + Send + Sync>,
}

impl DbError {
    /// An error in our own words that does not pass: to try again does not help.
    pub(crate) fn lasting(
        statement: &'static str,
        reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { statement, may_pass: false, source: reason.into().into() }
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.statement, self.source)
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        Self::Database { statement: error.statement, source: error.source }
    }
}

pub(crate) type DbResult<T> = Result<T, DbError>;

/// The result of one try of a transaction step.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) enum Transacted<T, E> {
    /// The effect and the record are in the database.
    Committed(T),
    /// They are in the database from an earlier try whose answer was lost.
    Recorded(StepRow),
    /// Neither is in the database: the body failed.
    Failed(E),
    /// Neither is in the database: the transaction was lost under the body, perhaps because it took too long. The body
    /// may have failed or not.
    #[cfg(feature = "postgres")]
    Lost { tried: Option<E>, error: DbError, timed_out: bool },
    /// Neither is in the database: another transaction was in the way. No code is to blame.
    #[cfg(feature = "postgres")]
    Conflict,
    /// Neither is in the database: the writes of the body break a constraint that is checked at the commit.
    Refused(String),
    /// Neither is in the database: another execution owns the workflow.
    NotOwner,
    /// The body did something forbidden, and its effect is not tied to a record.
    Misused(String),
}

/// Transaction steps of either backend.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) enum TransactionSteps {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::TransactionSteps),
    #[cfg(feature = "postgres")]
    Postgres(postgres::TransactionSteps),
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl TransactionSteps {
    /// Whether no other write may commit while a transaction step runs: SQLite has one writer at a time.
    pub(crate) fn stop_other_commits(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => true,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => false,
        }
    }

    /// Runs `body` in a transaction and commits it with the step row that it returns. After an error it is not known
    /// whether the transaction was committed. A next try takes the place of the record as `earlier`, and looks there
    /// first.
    pub(crate) fn attempt<T, E>(
        &self,
        owner: &Owner,
        earlier: Option<StepId>,
        gate: &Gate,
        body: impl FnOnce(&mut Tx<'_>) -> Result<(StepRow, T), E>,
    ) -> DbResult<Transacted<T, E>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(steps) => steps.attempt(owner, earlier, gate, body),
            #[cfg(feature = "postgres")]
            Self::Postgres(steps) => steps.attempt(owner, earlier, gate, body),
        }
    }

    /// Keeps no connection from now on.
    pub(crate) fn close(&self) {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(steps) => steps.close(),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => {}
        }
    }

    /// How often a body that fails with this error is run at most, in a transaction that is `lost` or not.
    pub(crate) fn tries_max(&self, error: &(dyn std::error::Error + 'static), lost: bool) -> u32 {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => sqlite::tries_max(error, lost),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => postgres::tries_max(error, lost),
        }
    }
}

/// Makes writes durable.
pub(crate) trait Writer: Send {
    /// Commits the batch as one transaction and returns the verdict of each write, in order. After an error the
    /// transaction may have committed all the same; repeating the batch is safe.
    fn commit(&mut self, batch: &[Write]) -> DbResult<Vec<Verdict>>;

    /// Whether another connection has committed since the last call.
    fn others_committed(&mut self) -> DbResult<bool>;

    /// Lets go of the database. No write is committed after it.
    fn close(&mut self) {}
}

/// Reads for workflows and their callers. Never waits for the writer.
pub(crate) trait Reader: FleetReader {
    /// The recorded steps after `after`, in order, at most `limit`.
    fn steps(&self, workflow: &WorkflowId, after: StepId, limit: u32) -> DbResult<Vec<StepRow>>;
    fn input(&self, workflow: &WorkflowId) -> DbResult<StoredInput>;
    fn outcome(&self, workflow: &WorkflowId) -> DbResult<Option<Outcome>>;
    /// The workflows among these that have ended, or have no row.
    fn not_open_among(&self, workflows: &[WorkflowId]) -> DbResult<Vec<WorkflowId>>;
    /// The waits among these for which a message of the topic is there.
    fn with_messages_among(&self, asked: &[(WorkflowId, String)]) -> DbResult<Vec<(WorkflowId, String)>>;
    fn list(&self, app: &str, filter: &WorkflowFilter) -> DbResult<Vec<WorkflowInfo>>;
    fn count(&self, app: &str, filter: &WorkflowFilter) -> DbResult<u64>;
    fn progress(&self, workflow: &WorkflowId) -> DbResult<Option<Progress>>;
    /// Which workflows this one waits for without a thread, and which those wait for, and so on: waiter and awaited.
    fn waits_of(&self, workflow: &WorkflowId) -> DbResult<Vec<(WorkflowId, WorkflowId)>>;
    /// Keeps no connection between two looks from now on.
    fn close(&self) {}
}

/// The stop for an execution whose workflow has this status under another token or none, or has no row.
fn loss(status: Option<&str>) -> Stop {
    match status.map(WorkflowStatus::parse) {
        None => Stop::Deleted,
        Some(Some(WorkflowStatus::Cancelled)) => Stop::Cancelled,
        // A status that this program does not know belongs to another program.
        Some(_) => Stop::NotOwner,
    }
}

/// Reads for the fleet: owners of workflows, and waiting workflows.
pub(crate) trait FleetReader: Send + Sync {
    /// The owners whose token no longer stands in their row, or that have no row, with the stop for their execution.
    fn lost_among(&self, owners: &[Owner]) -> DbResult<Vec<(Owner, Stop)>>;
    fn outlook(&self, served: &Served) -> DbResult<Outlook>;
    /// The pasts of many workflows with one question for all, as far as they are not large.
    fn pasts(&self, workflows: &[WorkflowId]) -> DbResult<HashMap<WorkflowId, Past>>;
    /// Whether a workflow of this application waits, since then or longer, that has none of these names.
    fn unknown_wait(&self, served: &Served, since: Timestamp) -> DbResult<bool>;
    /// The workflows of an application that wait without a thread for an end or a message that is there.
    fn fulfilled_waits(&self, app: &str) -> DbResult<Vec<WorkflowId>>;
    /// The executors of this engine that have a workflow in `PENDING`, and values in place of an executor's id.
    fn busy_executors(&self) -> DbResult<Vec<BusyExecutor>>;
    /// All workflows that wait to be taken up, in all applications. It reads all of them.
    fn census(&self) -> DbResult<Census>;
    /// The waits of an application for workflows that wait themselves, for another one or for a place in a queue.
    fn waits(&self, app: &str) -> DbResult<WaitGraph>;
    /// The workflows that are `PENDING` under this executor.
    fn owned_by(&self, executor: &ExecutorId) -> DbResult<Vec<Owner>>;
}

/// Liveness of executors. A stopped process lives; a killed one does not, from the moment it is gone.
pub(crate) trait Liveness: Send + Sync {
    /// Makes this process known under a fresh id, and alive until it dies or leaves.
    fn join(&self, label: Option<&str>, about: &Membership) -> Result<ExecutorId, Error>;
    /// Puts the traces of an executor of this process back if they were removed.
    fn uphold(&self, executor: &ExecutorId) -> std::io::Result<()>;
    /// Ends the membership of `join`: without a trace, or as a dead executor whose workflows others take over.
    fn leave(&self, executor: &ExecutorId, without_trace: bool);
    /// The executors that died and left traces.
    fn dead(&self) -> Vec<ExecutorId>;
    /// The executors without any trace: they left, or their traces were removed, or they never were here.
    fn without_trace(&self, executors: Vec<ExecutorId>) -> Vec<ExecutorId>;
    /// Whether an executor that runs nothing should sweep all the same.
    fn calls_for_a_sweep(&self) -> bool;
    /// Whether at no time since then another executor could have taken this one for dead.
    fn covers(&self, executor: &ExecutorId, since: Stopwatch) -> bool;
    /// Whether others took an executor of this process for dead since the last call, and refused workflows that only it
    /// can run.
    fn was_refused(&self) -> bool {
        false
    }
    /// Removes the traces of a dead one, after its workflows were taken over.
    fn forget(&self, executor: &ExecutorId);
    /// The workflows that the living executors can run. An error when that is not known of each of them.
    fn members(&self) -> std::io::Result<Vec<Membership>>;
}

/// An open system database.
pub(crate) struct SystemDatabase {
    pub(crate) writer: Box<dyn Writer>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) liveness: Arc<dyn Liveness>,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) transactions: TransactionSteps,
    /// Raised when the database calls the fleet.
    pub(crate) fleet: Arc<Signal>,
    /// How often the fleet sweeps.
    pub(crate) sweep_every: Duration,
    /// The known trouble with the database.
    pub(crate) outage: Arc<Outage>,
}
