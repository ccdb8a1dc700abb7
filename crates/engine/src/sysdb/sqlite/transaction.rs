//! Transaction steps: a user's writes and the record of the step, in one commit.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::open::{connect, make_durable};
use super::statement::failed;
use super::{steps, workflows};
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Verdict};
use crate::testing::Gate;

/// A connection of their own, so that nothing a user does to it (settings, temporary tables) reaches the
/// engine's. Opened at the first use.
pub(crate) struct TransactionSteps {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

/// What became of one try.
pub(crate) enum Transacted<T, E> {
    /// The effect and the record are in the database.
    Committed(T),
    /// Nothing is: the body failed.
    Failed(E),
    /// Nothing is: somebody else owns the workflow.
    NotOwner,
    /// The body did what it must not, and its effect is not tied to a record.
    Misused(String),
}

impl TransactionSteps {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connection: Mutex::new(None) }
    }

    /// Runs `body` in a transaction and commits it with the step row that it returns. An error means that
    /// nothing was committed, so trying again is safe.
    pub(crate) fn attempt<T, E>(
        &self,
        owner: &Owner,
        gate: &Gate,
        body: impl FnOnce(&Transaction<'_>) -> Result<(StepRow, T), E>,
    ) -> DbResult<Transacted<T, E>> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => open(&self.path)?,
        };
        let tried = try_once(&mut connection, owner, gate, body)?;
        // One that failed, or was misused, is not used again.
        if !matches!(tried, Transacted::Misused(_)) {
            *slot = Some(connection);
        }
        Ok(tried)
    }
}

fn try_once<T, E>(
    connection: &mut Connection,
    owner: &Owner,
    gate: &Gate,
    body: impl FnOnce(&Transaction<'_>) -> Result<(StepRow, T), E>,
) -> DbResult<Transacted<T, E>> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| failed("begin_transaction_step", e))?;
    if !workflows::is_owner(&transaction, owner)? {
        return Ok(Transacted::NotOwner);
    }
    let (step, value) = match body(&transaction) {
        Ok(done) => done,
        Err(error) => return Ok(Transacted::Failed(error)),
    };
    if let Some(misuse) = misuse(&transaction) {
        return Ok(Transacted::Misused(misuse.to_owned()));
    }
    match steps::record(&transaction, owner, &step)? {
        Verdict::Done => {}
        Verdict::NotOwner => return Ok(Transacted::NotOwner),
        other => return Ok(Transacted::Misused(format!("the place of its record is taken: {other:?}"))),
    }
    let committed = gate.around(
        || vec!["transaction_step"],
        || transaction.commit().map_err(|e| failed("commit_transaction_step", e)),
    );
    match committed {
        Ok(()) => Ok(Transacted::Committed(value)),
        // The answer may be lost while the commit is not: the record tells.
        Err(error) => {
            if is_recorded(connection, owner, &step)? {
                Ok(Transacted::Committed(value))
            } else {
                Err(error)
            }
        }
    }
}

/// What makes it impossible to commit the effect together with its record.
fn misuse(transaction: &Transaction<'_>) -> Option<&'static str> {
    if transaction.is_autocommit() {
        return Some("the body ended the transaction itself, so its effect is not tied to its record");
    }
    let query_only = transaction.pragma_query_value(None, "query_only", |row| row.get::<_, bool>(0));
    (!query_only.is_ok_and(|on| !on)).then_some("the body made its connection read-only")
}

fn open(path: &Path) -> DbResult<Connection> {
    const NAME: &str = "open_transaction_steps";
    let connection = connect(path).map_err(|e| failed(NAME, e))?;
    make_durable(&connection).map_err(|e| failed(NAME, e))?.map_err(|reason| unusable(&reason))?;
    Ok(connection)
}

fn is_recorded(connection: &Connection, owner: &Owner, step: &StepRow) -> DbResult<bool> {
    let before = crate::id::StepId(step.step_id.0.saturating_sub(1));
    let found = steps::read(connection, &owner.workflow, before, 1)?.pop();
    Ok(found.is_some_and(|found| found.step_id == step.step_id && step.is_same_write(&found)))
}

fn unusable(reason: &str) -> DbError {
    DbError {
        statement: "transaction_step",
        may_pass: false,
        source: Box::<dyn std::error::Error + Send + Sync>::from(reason).into(),
    }
}
