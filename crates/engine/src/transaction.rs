//! Transaction steps: the effect of a step and its record in one commit, so exactly once.
//!
//! The one file above the wall that names drivers: the user's closure writes with them.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attempts::{self, StepInfo, Tried};
use crate::codec::{self, Codec, Encoded};
use crate::committer::CommitError;
use crate::context::{Context, Place};
use crate::error::{BoxError, Error, Failure, Result};
use crate::id::StepId;
use crate::inside::Inside;
#[cfg(feature = "postgres")]
use crate::limits::BODY_TRIES_MAX;
use crate::limits::COMMIT_RETRY_MIN;
use crate::options::StepOptions;
use crate::outage::Part;
use crate::step::what;
use crate::sync::say;
use crate::sysdb::{DbResult, StepRow, Transacted};

/// How often a body that fails with this error is run at most, in a transaction that is lost or not.
type TriesMax = fn(&(dyn std::error::Error + 'static), bool) -> u32;

/// What one try came to, where a commit may have been refused altogether.
type Attempt<T> = Result<DbResult<Transacted<T, Tried>>, CommitError>;

#[cfg(feature = "sqlite")]
impl Context {
    /// Runs `body` in a transaction of the system database on SQLite and commits what it wrote together with the record
    /// of the step: a crash anywhere leaves both or neither, so the effect happens **exactly once**. On PostgreSQL there
    /// is [`Context::pg_transaction`] for it.
    ///
    /// The body may write tables of the application in the same file; it must leave the engine's tables, and
    /// the transaction itself, alone. Nobody else writes to the file meanwhile, so keep it short, and call
    /// the engine before or after. An error or a panic rolls back; when the database fails in a way that may
    /// pass, the body runs again in a new transaction. One step id, one commit.
    ///
    /// # Errors
    /// As [`Context::step`].
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result, rusqlite};
    /// fn deposit(ctx: &mut Context, (account, cents): (u32, i64)) -> Result<i64> {
    ///     ctx.transaction("deposit", |tx| {
    ///         tx.execute("UPDATE account SET cents = cents + ?2 WHERE id = ?1", (account, cents))?;
    ///         tx.query_row("SELECT cents FROM account WHERE id = ?1", [account], |row| row.get(0))
    ///     })
    /// }
    /// ```
    pub fn transaction<T, E>(
        &mut self,
        name: &str,
        mut body: impl FnMut(&rusqlite::Transaction<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        self.transaction_with(name, &StepOptions::new(), |transaction, _| body(transaction))
    }

    /// The same with retries. Each attempt has a transaction of its own; a failed one leaves nothing.
    ///
    /// # Errors
    /// As [`Context::step_with`].
    pub fn transaction_with<T, E>(
        &mut self,
        name: &str,
        options: &StepOptions,
        mut body: impl FnMut(&rusqlite::Transaction<'_>, &StepInfo<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        if self.core.sqlite.is_none() {
            return Err(on_another_database("transaction", "PostgreSQL", "pg_transaction"));
        }
        let tries_max = crate::sysdb::sqlite::tries_max;
        self.transaction_step(name, options, tries_max, |ctx, place, codec, earlier, step| {
            let core = ctx.core.clone();
            // SQLite has one writer at a time; while this one writes, nobody commits.
            core.committer.alone(|| {
                let _inside = Inside::enter("a transaction step");
                let Some(sqlite) = &core.sqlite else { return Ok(Transacted::NotOwner) };
                sqlite.attempt(&ctx.run.owner, earlier, &core.options.gate, |transaction| {
                    let value = attempts::caught(&core.registry.errors, || body(transaction, step))?;
                    ctx.row_and_value(place, codec, value)
                })
            })
        })
    }
}

#[cfg(feature = "postgres")]
impl Context {
    /// Runs `body` in a transaction of the system database on PostgreSQL and commits what it wrote together with the
    /// record of the step: a crash anywhere leaves both or neither, so the effect happens **exactly once**. On SQLite
    /// there is [`Context::transaction`] for it.
    ///
    /// The body may write tables of the application in the same database; it must leave the engine's tables, and the
    /// transaction itself, alone, and call the engine before or after. The transaction is `SERIALIZABLE`. An error or a
    /// panic rolls back; on a conflict with another transaction (SQLSTATE 40001, 40P01), and when the database fails in
    /// a way that may pass, the body runs again in a new transaction, so a body that wraps an error of the database must
    /// keep it as the source of its own. The server ends a transaction that is left idle for 60 s; a body that lets that
    /// happen runs again, ten times in all. One step id, one commit, six round trips besides those of the body, which
    /// finds a session without the settings, temporary tables and locks of others.
    ///
    /// # Errors
    /// As [`Context::step`].
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result, postgres};
    /// fn deposit(ctx: &mut Context, (account, cents): (i32, i64)) -> Result<i64> {
    ///     ctx.pg_transaction("deposit", |tx| {
    ///         tx.execute("UPDATE account SET cents = cents + $2 WHERE id = $1", &[&account, &cents])?;
    ///         tx.query_one("SELECT cents FROM account WHERE id = $1", &[&account])?.try_get(0)
    ///     })
    /// }
    /// ```
    pub fn pg_transaction<T, E>(
        &mut self,
        name: &str,
        mut body: impl FnMut(&mut postgres::Transaction<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        self.pg_transaction_with(name, &StepOptions::new(), |transaction, _| body(transaction))
    }

    /// The same with retries. Each attempt has a transaction of its own; a failed one leaves nothing.
    ///
    /// # Errors
    /// As [`Context::step_with`].
    pub fn pg_transaction_with<T, E>(
        &mut self,
        name: &str,
        options: &StepOptions,
        mut body: impl FnMut(&mut postgres::Transaction<'_>, &StepInfo<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        if self.core.postgres.is_none() {
            return Err(on_another_database("pg_transaction", "SQLite", "transaction"));
        }
        let tries_max = crate::sysdb::postgres::tries_max;
        self.transaction_step(name, options, tries_max, |ctx, place, codec, earlier, step| {
            let core = ctx.core.clone();
            let _inside = Inside::enter("a transaction step");
            let Some(postgres) = &core.postgres else { return Ok(Ok(Transacted::NotOwner)) };
            Ok(postgres.attempt(&ctx.run.owner, earlier, &core.options.gate, |transaction| {
                let value = attempts::caught(&core.registry.errors, || body(transaction, step))?;
                ctx.row_and_value(place, codec, value)
            }))
        })
    }
}

impl Context {
    /// A transaction step; `attempt` makes one try of it.
    fn transaction_step<T>(
        &mut self,
        name: &str,
        options: &StepOptions,
        tries_max: TriesMax,
        mut attempt: impl FnMut(&Self, &Place<'_>, Codec, Option<StepId>, &StepInfo<'_>) -> Attempt<T>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let codec = options.codec.unwrap_or(self.core.options.codec);
        options.retry.check(name)?;
        codec.check_type::<T>(&what(name))?;

        let place = self.place(name)?;
        if let Some(recorded) = self.replayed(&place)? {
            return self.replay(&place, &recorded);
        }
        let outcome = attempts::run(self, &place, options, |ctx, step| {
            ctx.try_transaction(&place, tries_max, |ctx, earlier| attempt(ctx, &place, codec, earlier, step))
        })?;
        match outcome {
            Ok(value) => {
                self.tell_recorded(place.step_id, name, true);
                Ok(value)
            }
            Err(failure) => {
                let (row, error) = self.failure(&place, failure);
                self.record(row)?;
                Err(error)
            }
        }
    }

    /// One attempt: again, from the body on, while the database fails in a way that may pass.
    fn try_transaction<T: DeserializeOwned>(
        &mut self,
        place: &Place<'_>,
        tries_max: TriesMax,
        mut attempt: impl FnMut(&Self, Option<StepId>) -> Attempt<T>,
    ) -> Result<T, Tried> {
        let mut pause = COMMIT_RETRY_MIN;
        let mut failures = 0;
        // Of the first try nothing can be recorded, of the next ones the answer may have been lost.
        let mut earlier = None;
        loop {
            let (tried, max) = match attempt(self, earlier) {
                Ok(Ok(Transacted::Committed(value))) => {
                    self.core.outage.passed(Part::Writes);
                    return Ok(value);
                }
                Ok(Ok(Transacted::Recorded(row))) => {
                    return self.replay(place, &row).map_err(Tried::Stopped);
                }
                Ok(Ok(Transacted::Failed(tried))) => {
                    let max = match &tried {
                        Tried::Failed { error, .. } => tries_max(error.as_ref(), false),
                        Tried::FailedForGood(_) | Tried::Stopped(_) => 1,
                    };
                    (tried, max)
                }
                #[cfg(feature = "postgres")]
                Ok(Ok(Transacted::Conflict)) => {
                    self.pause_longer(&mut pause).map_err(Tried::Stopped)?;
                    continue;
                }
                #[cfg(feature = "postgres")]
                Ok(Ok(Transacted::Lost { tried, error, timed_out })) => {
                    let tried =
                        tried.unwrap_or_else(|| Tried::failed(Failure::new("Error", error.to_string())));
                    let max = match &tried {
                        Tried::Failed { error, .. } if !timed_out => tries_max(error.as_ref(), true),
                        // A panic may be an error of the lost connection, unwrapped.
                        _ => BODY_TRIES_MAX,
                    };
                    (tried, max)
                }
                Ok(Ok(Transacted::Refused(reason))) => {
                    return Err(Tried::failed(Failure::new("Error", reason)));
                }
                Ok(Ok(Transacted::Misused(reason))) => {
                    return Err(Tried::FailedForGood(Failure::new("PitonTransactionMisused", reason)));
                }
                Ok(Ok(Transacted::NotOwner)) => return Err(Tried::Stopped(self.lost())),
                Ok(Err(error)) if error.may_pass => {
                    self.core.outage.failed(Part::Writes, &error);
                    self.pause_longer(&mut pause).map_err(Tried::Stopped)?;
                    earlier = Some(place.step_id);
                    continue;
                }
                Ok(Err(error)) => {
                    return Err(Tried::Stopped(self.commit_failed(&CommitError::Refused(error))));
                }
                Err(error) => return Err(Tried::Stopped(self.commit_failed(&error))),
            };
            failures += u32::from(max < u32::MAX);
            if failures >= max {
                return Err(tried);
            }
            say!(debug, "step {}: the transaction failed; trying again in {pause:?}", place.name);
            self.pause_longer(&mut pause).map_err(Tried::Stopped)?;
        }
    }

    /// The record of a body that succeeded, and the value as a replay reads it.
    fn row_and_value<T>(&self, place: &Place<'_>, codec: Codec, value: T) -> Result<(StepRow, T), Tried>
    where
        T: Serialize + DeserializeOwned,
    {
        let Encoded { text, value } =
            codec::encode(codec, &what(place.name), value).map_err(|error| Tried::unencodable(&error))?;
        Ok((self.success(place, text, codec.name()), value))
    }
}

impl Tried {
    fn failed(failure: Failure) -> Self {
        Self::Failed { error: failure.clone().into(), failure }
    }
}

fn on_another_database(called: &str, database: &str, instead: &str) -> Error {
    let reason = format!("the system database of this engine is on {database}; call {instead} instead");
    Error::InvalidOption { what: called.to_owned(), reason }
}
