//! Transaction steps: a user's writes and the record of the step, in one commit.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, IsolationLevel, Transaction};

use super::connection::{Session, Statement, column, failed, in_words, is_inside_async, source_of, trouble};
use super::connector::{Connector, IDLE_MAX, Purpose};
use super::line::Serving;
use super::pool::Pool;
use super::statements::Blocking;
use super::step_session::{Lookout, StepSession};
use super::steps;
use super::trouble::silent;
use crate::pure::clock::Stopwatch;
use crate::pure::id::StepId;
use crate::pure::limits::BODY_TRIES_MAX;
use crate::sysdb::outage::{Outage, Part};
use crate::sysdb::testing::Gate;
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Transacted, Tx};

/// How long a step waits for a connection before it looks whether it should still wait.
const TURN: Duration = Duration::from_secs(1);

/// Connections of their own, so that nothing a user does to a session (settings, temporary tables) reaches the
/// engine's.
pub(crate) struct TransactionSteps {
    pool: Pool<StepSession>,
}

/// Says whether the workflow is still the owner's, and who serves the transaction; and marks it: the mark is gone when it
/// has ended.
///
/// $1 id, $2 token
const OPEN: Statement = Statement {
    name: "open_transaction_step",
    sql: "
        SELECT set_config('piton.step', $1::text, TRUE),
               EXISTS (SELECT 1 FROM dbos.workflow_status
                        WHERE workflow_uuid = $1 AND (status = 'PENDING') IS TRUE AND owner_xid = $2),
               pg_backend_pid(), (extract(epoch FROM now()) * 1000000)::int8",
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
        let answer = connector.limits.answer(Purpose::Steps);
        let look = Arc::new(Lookout::new(connector.clone()));
        let make = move || StepSession::connect(&connector, look.clone());
        Self { pool: Pool::new(make, connections_max, answer, outage) }
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
        if is_inside_async() {
            let reason =
                "it blocks, so it cannot be called inside an async runtime; call it outside of block_on";
            return Err(DbError::lasting("transaction_step", reason));
        }
        // Other steps of this process have all connections. The body is not to blame, and the caller may have been told
        // to stop.
        let Some(mut lent) = self.pool.take_within(TURN)? else { return Ok(Transacted::Conflict) };
        let session = lent.connection()?;
        let tried = session.watched(|session| try_once(session, owner, earlier, gate, body));
        // Of an error the caller says so.
        if tried.is_ok()
            && let Some(time) = session.silence()
        {
            self.pool.outage().failed(Part::Steps, &silent("transaction_step", time));
            self.pool.outage().passed(Part::Steps);
        }
        match tried {
            Err(error) if is_conflict(source_of(error.source.as_ref())) => Ok(Transacted::Conflict),
            tried => {
                // A connection that was misused may have lost a setting that makes it safe.
                if matches!(tried, Ok(Transacted::Misused(_) | Transacted::Lost { .. })) {
                    session.give_up();
                }
                tried
            }
        }
    }
}

fn try_once<T, E>(
    session: &mut StepSession,
    owner: &Owner,
    earlier: Option<StepId>,
    gate: &Gate,
    body: impl FnOnce(&mut Tx<'_>) -> Result<(StepRow, T), E>,
) -> DbResult<Transacted<T, E>> {
    let StepSession { client, manner, schema, line, renew, .. } = session;
    let Some(client) = client else {
        return Err(trouble("begin_transaction_step", "the connection is gone"));
    };
    line.serve(None);
    let mut transaction = begin(client, renew)?;
    let mut ours = Blocking { client: &mut transaction, manner, schema };
    if let Some(place) = earlier
        && let Some(recorded) = steps::recorded_at(&mut ours, owner, place)?
    {
        return Ok(Transacted::Recorded(recorded));
    }
    let Some(serving) = open(&mut ours, owner)? else { return Ok(Transacted::NotOwner) };
    line.serve(Some(serving));
    let watch = Stopwatch::start();
    let mut tx = Tx::on_postgres(transaction);
    let done = body(&mut tx);
    let Some(mut transaction) = tx.into_postgres() else {
        return Ok(Transacted::Misused(
            "the body replaced the transaction of its step by another transaction; use the given transaction"
                .to_owned(),
        ));
    };
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
    let mut ours = Blocking { client: &mut transaction, manner, schema };
    match misuse(&mut ours, owner) {
        Ok(None) => {}
        Ok(Some(misuse)) => return Ok(Transacted::Misused(misuse.to_owned())),
        Err(error) if error.may_pass && !is_conflict(source_of(error.source.as_ref())) => {
            return lost(None, error);
        }
        Err(error) => return Err(error),
    }
    if !steps::is_recorded_now(&mut ours, owner, &step)? {
        // A record that is there is of an earlier try whose answer was lost. The effect of this one is rolled back.
        return Ok(match steps::recorded_at(&mut ours, owner, step.step_id)? {
            Some(recorded) => Transacted::Recorded(recorded),
            None => Transacted::NotOwner,
        });
    }
    match commit(transaction, gate) {
        Ok(Ok(())) => Ok(Transacted::Committed(value)),
        // The answer may be lost while the commit is not: the next try looks for the record first.
        Ok(Err(error)) if error.may_pass => Err(error),
        Ok(Err(error)) => {
            let mut ours = Blocking { client, manner, schema };
            match steps::recorded_at(&mut ours, owner, step.step_id) {
                Ok(Some(_)) => Ok(Transacted::Committed(value)),
                Ok(None) => Err(error),
                Err(_) => Err(DbError { may_pass: true, ..error }),
            }
        }
        Err(reason) => Ok(Transacted::Refused(reason)),
    }
}

fn begin<'c>(client: &'c mut Client, renew: &str) -> DbResult<Transaction<'c>> {
    let mut transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::Serializable)
        .read_only(false)
        .start()
        .map_err(|e| failed("begin_transaction_step", e))?;
    transaction.batch_execute(renew).map_err(|e| failed("renew_session", e))?;
    Ok(transaction)
}

/// Commits, or gives the reason why the server refuses the body's writes.
fn commit(transaction: Transaction<'_>, gate: &Gate) -> Result<DbResult<()>, String> {
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
    refused.map_or(Ok(committed), Err)
}

/// Who serves the transaction, if the workflow is the owner's.
fn open(session: &mut impl Session, owner: &Owner) -> DbResult<Option<Serving>> {
    let rows = session.query(&OPEN, &[&owner.workflow.as_str(), &owner.token.as_str()])?;
    let Some(row) = rows.first() else { return Ok(None) };
    let serving = Serving { process: column(&OPEN, row, 2)?, since: column(&OPEN, row, 3)? };
    Ok(column::<bool>(&OPEN, row, 1)?.then_some(serving))
}

/// The reason why the effect cannot be committed together with its record.
fn misuse(session: &mut impl Session, owner: &Owner) -> DbResult<Option<&'static str>> {
    let rows = match session.query(&CLOSE, &[]) {
        Ok(rows) => rows,
        Err(error) if has_code(&error, &SqlState::INVALID_SQL_STATEMENT_NAME) => {
            return Ok(Some("the body deallocated statements of the engine"));
        }
        Err(error) if has_code(&error, &SqlState::IN_FAILED_SQL_TRANSACTION) => {
            return Ok(Some(
                "a statement failed, which rolls the transaction back, but the body returned success; return the error of the statement",
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

fn has_code(error: &DbError, code: &SqlState) -> bool {
    source_of::<postgres::Error>(error.source.as_ref()).is_some_and(|error| error.code() == Some(code))
}

/// How often a body that fails with this error is run at most. After a conflict with another transaction the same body
/// succeeds later. So it does when its connection is `lost`, unless it took longer than a transaction may. Another lost
/// connection may be one that the body opened itself.
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
