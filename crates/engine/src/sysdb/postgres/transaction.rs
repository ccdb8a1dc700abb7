//! Transaction steps: a user's writes and the record of the step, in one commit.

use std::error::Error as StdError;
use std::sync::{Arc, LazyLock};

use postgres::error::SqlState;
use postgres::{GenericClient, IsolationLevel, Transaction};

use super::connection::{Connection, Prepared, Statement, column, failed, in_words, source_of, trouble};
use super::connector::{Connector, IDLE_MAX, Purpose, settings};
use super::pool::Pool;
use super::{batch, steps};
use crate::clock::Stopwatch;
use crate::id::StepId;
use crate::limits::BODY_TRIES_MAX;
use crate::outage::Outage;
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Transacted, Verdict};
use crate::testing::Gate;

/// Connections of their own, so that nothing a user does to a session (settings, temporary tables) reaches the
/// engine's.
pub(crate) struct TransactionSteps {
    pool: Pool,
}

/// Settings, temporary tables and locks of one body are not there for the next, which may be another workflow's. They go
/// with the first request, because a body that failed may have left them, too. Statements that it prepared stay: ours
/// would go with them.
static RENEW: LazyLock<String> = LazyLock::new(|| {
    const FORGET: &str = "
        RESET ROLE; RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
        SELECT pg_advisory_unlock_all();";
    format!("{FORGET}{}", settings(Purpose::Steps))
});

/// Says whether the workflow is still the owner's, and marks the transaction: the mark is gone when it has ended.
///
/// $1 id, $2 token
const OPEN: Statement = Statement {
    name: "open_transaction_step",
    sql: "
        SELECT set_config('piton.step', $1::text, TRUE),
               EXISTS (SELECT 1 FROM dbos.workflow_status
                        WHERE workflow_uuid = $1 AND (status = 'PENDING') IS TRUE AND owner_xid = $2)",
};

const CLOSE: Statement = Statement {
    name: "close_transaction_step",
    sql: "
        SELECT current_setting('piton.step', TRUE), current_setting('synchronous_commit'),
               current_setting('transaction_read_only')",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[OPEN, CLOSE];

impl TransactionSteps {
    pub(super) fn new(connector: Connector, connections_max: usize, outage: Arc<Outage>) -> Self {
        Self { pool: Pool::new(connector, Purpose::Steps, connections_max, outage) }
    }

    /// Runs `body` in a transaction and commits it with the step row that it returns. After an error it is not
    /// known what was committed; try again with the place of the record as `earlier`, and it is looked up first.
    pub(crate) fn attempt<T, E>(
        &self,
        owner: &Owner,
        earlier: Option<StepId>,
        gate: &Gate,
        body: impl FnOnce(&mut Transaction<'_>) -> Result<(StepRow, T), E>,
    ) -> DbResult<Transacted<T, E>> {
        self.pool.with_here(|connection| {
            match try_once(connection, owner, earlier, gate, body) {
                Err(error) if is_conflict(source_of(error.source.as_ref())) => Ok(Transacted::Conflict),
                tried => {
                    // One that was misused may have lost a setting that makes it safe.
                    if matches!(tried, Ok(Transacted::Misused(_) | Transacted::Lost { .. })) {
                        connection.give_up();
                    }
                    tried
                }
            }
        })
    }
}

fn try_once<T, E>(
    connection: &mut Connection,
    owner: &Owner,
    earlier: Option<StepId>,
    gate: &Gate,
    body: impl FnOnce(&mut Transaction<'_>) -> Result<(StepRow, T), E>,
) -> DbResult<Transacted<T, E>> {
    connection.run("renew_session", &RENEW)?;
    let (client, prepared) = connection.parts("begin_transaction_step")?;
    let mut transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::Serializable)
        .read_only(false)
        .start()
        .map_err(|e| failed("begin_transaction_step", e))?;
    if let Some(place) = earlier
        && let Some(recorded) = steps::recorded_at(&mut transaction, prepared, owner, place)?
    {
        return Ok(Transacted::Recorded(recorded));
    }
    if !open(&mut transaction, prepared, owner)? {
        return Ok(Transacted::NotOwner);
    }
    let watch = Stopwatch::start();
    let done = body(&mut transaction);
    // Whether the connection was lost comes out with the next request, and mostly why.
    let took = watch.elapsed();
    let lost = |tried, error: DbError| {
        let code = source_of::<postgres::Error>(error.source.as_ref()).and_then(postgres::Error::code);
        let timed_out = code == Some(&SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT) || took >= IDLE_MAX;
        Ok(Transacted::Lost { tried, error, timed_out })
    };
    let (step, value) = match done {
        Ok(done) => done,
        Err(tried) => {
            return match transaction.batch_execute("") {
                Ok(()) => Ok(Transacted::Failed(tried)),
                Err(error) => lost(Some(tried), failed("transaction_step", error)),
            };
        }
    };
    match misuse(&mut transaction, prepared, owner) {
        Ok(None) => {}
        Ok(Some(misuse)) => return Ok(Transacted::Misused(misuse.to_owned())),
        Err(error) if error.may_pass && !is_conflict(source_of(error.source.as_ref())) => {
            return lost(None, error);
        }
        Err(error) => return Err(error),
    }
    match batch::record_in(&mut transaction, prepared, owner, &step)? {
        Verdict::Done => {}
        Verdict::NotOwner => return Ok(Transacted::NotOwner),
        other => return Ok(Transacted::Misused(format!("the place of its record is taken: {other:?}"))),
    }
    let mut refused = None;
    let committed = gate.around(
        || vec!["transaction_step"],
        || {
            transaction.commit().map_err(|e| {
                let reason = e.code().is_some().then(|| in_words(&e));
                let error = failed("commit_transaction_step", e);
                refused = reason.filter(|_| !error.may_pass);
                error
            })
        },
    );
    if let Some(reason) = refused {
        return Ok(Transacted::Refused(reason));
    }
    match committed {
        Ok(()) => Ok(Transacted::Committed(value)),
        // The answer may be lost while the commit is not: the next try looks for the record first.
        Err(error) if error.may_pass => Err(error),
        Err(error) => match steps::recorded_at(client, prepared, owner, step.step_id) {
            Ok(Some(_)) => Ok(Transacted::Committed(value)),
            Ok(None) => Err(error),
            Err(_) => Err(DbError { may_pass: true, ..error }),
        },
    }
}

fn open(client: &mut impl GenericClient, prepared: &mut Prepared, owner: &Owner) -> DbResult<bool> {
    let rows = prepared.query(client, &OPEN, &[&owner.workflow.as_str(), &owner.token.as_str()])?;
    rows.first().map_or(Ok(false), |row| column(&OPEN, row, 1))
}

/// What makes it impossible to commit the effect together with its record.
fn misuse(
    client: &mut impl GenericClient,
    prepared: &mut Prepared,
    owner: &Owner,
) -> DbResult<Option<&'static str>> {
    let rows = match prepared.query(client, &CLOSE, &[]) {
        Ok(rows) => rows,
        Err(error) if is_aborted(&error) => {
            return Ok(Some(
                "a statement failed, which rolls the transaction back, and the body went on as if it had not",
            ));
        }
        Err(error) => return Err(error),
    };
    let Some(row) = rows.first() else { return Err(trouble(CLOSE.name, "no answer")) };
    let setting = |index| column::<Option<String>>(&CLOSE, row, index).map(Option::unwrap_or_default);
    Ok(if setting(0)? != owner.workflow.as_str() {
        Some("the body ended the transaction itself, so its effect is not tied to its record")
    } else if setting(1)? == "off" {
        Some("the body switched synchronous_commit off, so its effect could be lost after it was recorded")
    } else if setting(2)? == "on" {
        Some("the body made its transaction read-only")
    } else {
        None
    })
}

fn is_conflict(error: Option<&postgres::Error>) -> bool {
    matches!(
        error.and_then(postgres::Error::code),
        Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
    )
}

fn is_aborted(error: &DbError) -> bool {
    source_of::<postgres::Error>(error.source.as_ref())
        .is_some_and(|error| error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION))
}

/// How often a body that fails with this error is run at most. A conflict with another transaction is nobody's fault,
/// and the same body succeeds later; nor is it when its connection is `lost`, unless it took longer than a transaction
/// may. Another one that is gone may be one that the body opened itself.
pub(crate) fn tries_max(error: &(dyn StdError + 'static), lost: bool) -> u32 {
    let Some(error) = source_of::<postgres::Error>(error) else { return if lost { u32::MAX } else { 1 } };
    match error.code() {
        Some(&SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT) => BODY_TRIES_MAX,
        _ if lost || is_conflict(Some(error)) => u32::MAX,
        Some(code) if ["08", "57"].contains(&code.code().get(..2).unwrap_or_default()) => BODY_TRIES_MAX,
        None if error.is_closed() => BODY_TRIES_MAX,
        _ => 1,
    }
}
