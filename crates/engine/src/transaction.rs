//! Transaction steps: the effect of a step and its record in one commit, so exactly once.
//!
//! The one file above the wall that names a driver: the user's closure writes with it.

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::time::Duration;

    use rusqlite::Transaction;
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use crate::attempts::{self, StepInfo, Tried};
    use crate::codec::{self, Codec};
    use crate::committer::CommitError;
    use crate::context::{Context, Place};
    use crate::error::{BoxError, Failure, Result};
    use crate::inside::Inside;
    use crate::limits::{BODY_TRIES_MAX, COMMIT_RETRY_MAX, COMMIT_RETRY_MIN};
    use crate::options::StepOptions;
    use crate::step::what;
    use crate::sync::say;
    use crate::sysdb::sqlite::{Transacted, may_pass};

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
                    let (row, error) = self.failure(&place, failure);
                    self.record(row)?;
                    Err(error)
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
            let mut body_failures = 0;
            // Of the first try nothing can be recorded, of the next ones the answer may have been lost.
            let mut earlier = None;
            loop {
                let core = self.core.clone();
                let tried = core.committer.alone(|| {
                    let _inside = Inside::enter("a transaction step");
                    core.sqlite.attempt(&self.run.owner, earlier, &core.options.gate, |transaction| {
                        let value = attempts::caught(|| body(transaction))?;
                        let encoded = codec::encode(codec, &what(place.name), value);
                        let encoded = encoded.map_err(|error| Tried::unencodable(&error))?;
                        Ok((self.success(place, encoded.text, codec.name()), encoded.value))
                    })
                });
                match tried {
                    Ok(Ok(Transacted::Committed(value))) => return Ok(value),
                    Ok(Ok(Transacted::Recorded(row))) => {
                        return self.replay(place, &row).map_err(Tried::Stopped);
                    }
                    Ok(Ok(Transacted::Failed(Tried::Failed { failure, error }))) => {
                        body_failures += 1;
                        if body_failures >= BODY_TRIES_MAX || !may_pass(error.as_ref()) {
                            return Err(Tried::Failed { failure, error });
                        }
                        self.pause_after(&failure, &mut pause).map_err(Tried::Stopped)?;
                    }
                    Ok(Ok(Transacted::Failed(tried))) => return Err(tried),
                    Ok(Ok(Transacted::Refused(reason))) => {
                        let failure = Failure::new("Error", reason);
                        return Err(Tried::Failed { error: failure.clone().into(), failure });
                    }
                    Ok(Ok(Transacted::Misused(reason))) => {
                        return Err(Tried::FailedForGood(Failure::new("PitonTransactionMisused", reason)));
                    }
                    Ok(Ok(Transacted::NotOwner)) => return Err(Tried::Stopped(self.lost())),
                    Ok(Err(error)) if error.may_pass => {
                        self.pause_after(&error, &mut pause).map_err(Tried::Stopped)?;
                        earlier = Some(place.step_id);
                    }
                    Ok(Err(error)) => {
                        return Err(Tried::Stopped(self.commit_failed(&CommitError::Refused(error))));
                    }
                    Err(error) => return Err(Tried::Stopped(self.commit_failed(&error))),
                }
            }
        }

        /// Waits before the next try.
        fn pause_after(&mut self, error: &dyn std::fmt::Display, pause: &mut Duration) -> Result<()> {
            say!(warn, "{error}; trying again in {pause:?}");
            self.pause(*pause)?;
            *pause = (*pause * 2).min(COMMIT_RETRY_MAX);
            Ok(())
        }
    }
}
