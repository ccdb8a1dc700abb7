//! Transaction steps: a user's writes and the record of the step, in one commit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::file_identity::FileIdentity;
use super::open::{connect, make_durable, still_durable};
use super::statement::{Statement, failed};
use super::{steps, workflows};
use crate::pure::causes;
use crate::pure::id::StepId;
use crate::pure::limits::BODY_TRIES_MAX;
use crate::sysdb::testing::Gate;
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Transacted, Tx, Verdict};

/// A connection of their own, so that nothing a user does to it (settings, temporary tables) reaches the
/// engine's. Opened at the first use.
pub(crate) struct TransactionSteps {
    path: PathBuf,
    file: Arc<FileIdentity>,
    connection: Mutex<Option<Connection>>,
}

impl TransactionSteps {
    pub(super) fn new(path: &Path, file: Arc<FileIdentity>) -> Self {
        Self { path: path.to_owned(), file, connection: Mutex::new(None) }
    }

    /// Runs `body` in a transaction and commits it with the step row that it returns. After an error it is not known
    /// whether the transaction was committed. Try again with the place of the record as `earlier`: the record is looked
    /// up first.
    pub(crate) fn attempt<T, E>(
        &self,
        owner: &Owner,
        earlier: Option<StepId>,
        gate: &Gate,
        body: impl FnOnce(&mut Tx<'_>) -> Result<(StepRow, T), E>,
    ) -> DbResult<Transacted<T, E>> {
        self.file.check()?;
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => open(&self.path)?,
        };
        self.file.check_content(&connection)?;
        let tried = self.file.note_damage(try_once(&mut connection, owner, earlier, gate, body))?;
        // A connection that failed or was misused, or that has temporary tables by now, is not used again.
        if !matches!(tried, Transacted::Misused(_)) && TEMPORARY.first(&connection, [], |_| Ok(()))?.is_none()
        {
            *slot = Some(connection);
        }
        Ok(tried)
    }

    /// Keeps no connection until the next attempt.
    pub(crate) fn close(&self) {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn try_once<T, E>(
    connection: &mut Connection,
    owner: &Owner,
    earlier: Option<StepId>,
    gate: &Gate,
    body: impl FnOnce(&mut Tx<'_>) -> Result<(StepRow, T), E>,
) -> DbResult<Transacted<T, E>> {
    // A body may have changed them.
    connection.execute_batch(SETTINGS).map_err(|e| failed("settings_of_transaction_steps", e))?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| failed("begin_transaction_step", e))?;
    if !workflows::is_owner(&transaction, owner)? {
        return Ok(Transacted::NotOwner);
    }
    if let Some(place) = earlier
        && let Some(recorded) = steps::read_at(&transaction, &owner.workflow, place)?
    {
        return Ok(Transacted::Recorded(recorded));
    }
    still_durable(&transaction)?;
    HOLD.execute(&transaction, [])?;
    let (step, value) = match body(&mut Tx::on_sqlite(&transaction)) {
        Ok(done) => done,
        Err(error) => return Ok(Transacted::Failed(error)),
    };
    if let Some(misuse) = misuse(&transaction) {
        return Ok(Transacted::Misused(misuse.to_owned()));
    }
    match steps::record(&transaction, owner, &step)? {
        Verdict::Done => {}
        Verdict::NotOwner => return Ok(Transacted::NotOwner),
        other => {
            return Ok(Transacted::Misused(format!(
                "another record is already in the place of this step: {other:?}"
            )));
        }
    }
    let mut refused = None;
    let commit = || {
        transaction.commit().map_err(|e| {
            let constraint = e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
            refused = constraint.then(|| e.to_string());
            failed("commit_transaction_step", e)
        })
    };
    let committed = gate.around(|| vec!["transaction_step"], commit);
    if let Some(reason) = refused {
        return Ok(Transacted::Refused(reason));
    }
    match committed {
        Ok(()) => Ok(Transacted::Committed(value)),
        // The answer may be lost while the commit is not: the record tells. Without it, the next try looks.
        Err(error) => match steps::read_at(connection, &owner.workflow, step.step_id) {
            Ok(Some(_)) => Ok(Transacted::Committed(value)),
            Ok(None) => Err(error),
            Err(_) => Err(DbError { may_pass: true, ..error }),
        },
    }
}

/// How often a body that fails with this error is run at most: the disk may have room again. It may also be the disk of
/// another file, which the body opened itself. Errors that a body can make by itself (a lock that it waits for, a
/// setting) are its own.
pub(crate) fn tries_max(error: &(dyn std::error::Error + 'static), _lost: bool) -> u32 {
    let is_of_the_disk = causes::chain(error).any(|error| {
        let error = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        matches!(error, Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
    });
    if is_of_the_disk { BODY_TRIES_MAX } else { 1 }
}

const ENDED: &str = "the body ended the transaction itself, so its effect is not tied to its record";

/// The settings that every body finds.
const SETTINGS: &str = "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA query_only = OFF";

/// Whether a body left temporary tables behind.
const TEMPORARY: Statement =
    Statement { name: "temporary_tables", sql: "SELECT 1 FROM temp.sqlite_schema LIMIT 1" };

/// A savepoint around the body.
const HOLD: Statement = Statement { name: "hold_transaction_step", sql: "SAVEPOINT piton_step" };
const RELEASE: Statement = Statement { name: "release_transaction_step", sql: "RELEASE piton_step" };

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[TEMPORARY, HOLD, RELEASE];

/// The reason why the effect cannot be committed together with its record.
fn misuse(transaction: &Transaction<'_>) -> Option<&'static str> {
    if transaction.is_autocommit() {
        return Some(ENDED);
    }
    // It is gone when the body has ended the transaction and begun another.
    if RELEASE.execute(transaction, []).is_err() {
        return Some(ENDED);
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

fn unusable(reason: &str) -> DbError {
    DbError::lasting("transaction_step", reason)
}
