//! Transaction steps: the effect of a step and its record in one commit, so exactly once.
//!
//! The one file above the wall that names a driver: the user's closure writes with it.

use std::cell::Cell;

use crate::error::{Error, Result};

thread_local! {
    /// This thread runs the body of a transaction step, and every commit of the engine waits for it.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Refuses a call that would wait for itself.
pub(crate) fn refuse_inside() -> Result<()> {
    if INSIDE.get() { Err(Error::InsideTransaction) } else { Ok(()) }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use rusqlite::Transaction;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::INSIDE;
    use crate::attempts::{self, StepInfo, Tried};
    use crate::codec::{self, Codec};
    use crate::committer::CommitError;
    use crate::context::{Context, Place};
    use crate::error::{BoxError, Failure, Result};
    use crate::limits::{COMMIT_RETRY_MAX, COMMIT_RETRY_MIN};
    use crate::options::StepOptions;
    use crate::step::what;
    use crate::sysdb::sqlite::Transacted;

    impl Context {
        /// Runs `body` in a transaction of the system database and commits what it wrote together with the
        /// record of the step: a crash anywhere leaves both or neither, so the effect happens **exactly once**.
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
            mut body: impl FnMut(&Transaction<'_>) -> Result<T, E>,
        ) -> Result<T>
        where
            T: Serialize + DeserializeOwned,
            E: Into<BoxError>,
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
            mut body: impl FnMut(&Transaction<'_>, &StepInfo<'_>) -> Result<T, E>,
        ) -> Result<T>
        where
            T: Serialize + DeserializeOwned,
            E: Into<BoxError>,
        {
            let codec = options.codec.unwrap_or(self.core.options.codec);
            options.retry.check(name)?;
            codec.check_type::<T>(&what(name))?;

            let place = self.place(name)?;
            if let Some(recorded) = self.replayed(&place)? {
                return self.replay(&place, &recorded);
            }
            let outcome = attempts::run(self, &place, options, |ctx, step| {
                ctx.try_transaction(&place, codec, |transaction| body(transaction, step))
            })?;
            match outcome {
                Ok(value) => {
                    self.tell_recorded(place.step_id, name, true);
                    Ok(value)
                }
                Err(failure) => {
                    self.record(self.failure(&place, &failure))?;
                    Err(failure.into_step_error(name))
                }
            }
        }

        /// One attempt: again, from the body on, while the database fails in a way that may pass.
        fn try_transaction<T, E>(
            &mut self,
            place: &Place<'_>,
            codec: Codec,
            mut body: impl FnMut(&Transaction<'_>) -> Result<T, E>,
        ) -> Result<T, Tried>
        where
            T: Serialize + DeserializeOwned,
            E: Into<BoxError>,
        {
            let mut pause = COMMIT_RETRY_MIN;
            loop {
                let core = self.core.clone();
                let tried = core.committer.alone(|| {
                    let _inside = Inside::enter();
                    core.sqlite.attempt(&self.run.owner, &core.options.gate, |transaction| {
                        let value = attempts::caught(|| body(transaction))?;
                        let encoded = codec::encode(codec, &what(place.name), value);
                        let encoded = encoded.map_err(|error| Tried::unencodable(&error))?;
                        Ok((self.success(place, encoded.text, codec.name()), encoded.value))
                    })
                });
                match tried {
                    Ok(Ok(Transacted::Committed(value))) => return Ok(value),
                    Ok(Ok(Transacted::Failed(tried))) => return Err(tried),
                    Ok(Ok(Transacted::Misused(reason))) => {
                        return Err(Tried::FailedForGood(Failure::new("PitonTransactionMisused", reason)));
                    }
                    Ok(Ok(Transacted::NotOwner)) => return Err(Tried::Stopped(self.lost())),
                    Ok(Err(error)) if error.may_pass => {
                        log::warn!("{error}; trying again in {pause:?}");
                        let deadline = self.now().checked_add(pause);
                        self.wait_until(deadline, || false).map_err(Tried::Stopped)?;
                        pause = (pause * 2).min(COMMIT_RETRY_MAX);
                    }
                    Ok(Err(error)) => {
                        return Err(Tried::Stopped(self.commit_failed(&CommitError::Refused(error))));
                    }
                    Err(error) => return Err(Tried::Stopped(self.commit_failed(&error))),
                }
            }
        }
    }

    /// Marks this thread for as long as the body runs.
    struct Inside;

    impl Inside {
        fn enter() -> Self {
            INSIDE.set(true);
            Self
        }
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }
}
