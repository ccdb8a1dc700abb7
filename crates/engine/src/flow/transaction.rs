//! Transaction steps: the effect of a step and its record in one commit, so the effect happens exactly once.
//!
//! Does not know: SQL, drivers. The body writes with a [`Tx`].

use std::future::ready;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::attempts::{self, Attempts, StepInfo, Tried};
use crate::flow::context::Context;
use crate::flow::drive::{self, Flow};
use crate::flow::execution::{Ended, Unrecorded};
use crate::flow::operation::{Begun, Entry};
use crate::flow::options::StepOptions;
use crate::flow::step::encoded;
use crate::machines::committer::CommitError;
use crate::pure::clock::Stopwatch;
use crate::pure::codec::{Codec, Encoded};
use crate::pure::error::{BoxError, Failure, Result, Stop};
use crate::pure::id::StepId;
use crate::pure::inside::Inside;
#[cfg(feature = "postgres")]
use crate::pure::limits::BODY_TRIES_MAX;
use crate::pure::limits::COMMIT_RETRY_MIN;
use crate::pure::sync::say;
use crate::sysdb::outage::Part;
use crate::sysdb::{DbResult, StepRow, Transacted, Tx};

/// The result of one try. Its commit may have been refused altogether.
pub(crate) type Attempted<T> = Result<DbResult<Transacted<T, Tried>>, CommitError>;

impl Context {
    /// Runs `body` in a transaction of the system database. The writes of the body and the record of the step are one
    /// commit. A crash leaves both or neither, so the effect happens **exactly once**. Takes one step id and one
    /// commit.
    ///
    /// The body may write tables of the application in the same database. It must leave the engine's tables and the
    /// transaction itself alone, and must not call the engine. An error or a panic rolls back.
    ///
    /// When the database fails in a way that may pass, the body runs again in a new transaction. So a body that wraps
    /// an error of the database must keep it as the source of its own error.
    ///
    /// | | SQLite | PostgreSQL |
    /// |---|---|---|
    /// | beside other writes | nothing else writes to the file meanwhile, so keep the body short | yes, `SERIALIZABLE`; on a conflict (SQLSTATE 40001, 40P01) the body runs again |
    /// | a body that idles | holds up all writes | the server ends the transaction after 60 s; the body runs again, ten times in all |
    /// | round trips | none | six, and one for each statement of the body |
    ///
    /// # Errors
    /// As [`Context::step`].
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result};
    /// # use engine::sql::SqlError;
    /// fn deposit(ctx: &mut Context, (account, cents): (u32, i64)) -> Result<i64> {
    ///     ctx.transaction("deposit", |tx| -> Result<i64, SqlError> {
    ///         tx.execute("UPDATE account SET cents = cents + $2 WHERE id = $1", (account, cents))?;
    ///         tx.query_one("SELECT cents FROM account WHERE id = $1", [account])?.get("cents")
    ///     })
    /// }
    /// ```
    pub fn transaction<T, E>(
        &mut self,
        name: &str,
        mut body: impl FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        self.transaction_with(name, &StepOptions::new(), |tx, _| body(tx))
    }

    /// Runs a transaction step with retries. Each attempt has a transaction of its own; a failed attempt leaves
    /// nothing.
    ///
    /// # Errors
    /// As [`Context::step_with`].
    pub fn transaction_with<T, E>(
        &mut self,
        name: &str,
        options: &StepOptions,
        mut body: impl FnMut(&mut Tx<'_>, &StepInfo) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        let core = self.flow.core().clone();
        drive::now(self.flow.transaction(name, options, |begun, codec, info, earlier| {
            ready(attempt_transaction(&begun, codec, earlier, |tx| {
                attempts::caught(&core.registry.errors, || body(tx, &info))
                    .and_then(|value| info.in_time(value))
            }))
        }))
    }
}

impl Flow {
    /// A transaction step whose tries are these futures. The last argument of a try names the step if an earlier try
    /// may have been committed.
    pub(crate) fn transaction<T, F, A>(
        &self,
        name: &str,
        options: &StepOptions,
        mut try_once: F,
    ) -> impl Future<Output = Result<T>> + use<T, F, A>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Arc<Begun>, Codec, StepInfo, Option<StepId>) -> A,
        A: Future<Output = Attempted<T>>,
    {
        let begun = self.begin_step::<T>(name, options);
        let (flow, options) = (self.clone(), options.clone());
        async move {
            let (codec, begun) = match begun? {
                (_, Entry::Replayed(recorded)) => return recorded.outcome(),
                (codec, Entry::Fresh(begun)) => (codec, Arc::new(begun)),
            };
            // The first try cannot find a record. A later try can: the answer to an earlier commit may have been lost.
            // An attempt that ends without a value does not change that.
            let mut earlier = None;
            let mut attempts = Attempts::new(&begun, None, &options);
            let outcome = loop {
                flow.refuse_if_superseded().await?;
                let (watch, info) = (Stopwatch::start(), attempts.begin());
                let attempt = |earlier| try_once(begun.clone(), codec, info.clone(), earlier);
                let tried = flow.try_transaction(&begun, &mut earlier, attempt).await;
                if let Some(outcome) = flow.after_attempt(&mut attempts, tried, watch.elapsed()).await? {
                    break outcome;
                }
            };
            match outcome {
                Ok(value) => {
                    begun.tell_recorded(true);
                    Ok(value)
                }
                Err(failure) => {
                    if earlier.is_some()
                        && let Some(recorded) = flow.recorded_meanwhile(&begun).await?
                    {
                        return begun.outcome_of(&recorded);
                    }
                    let (recording, error) = begun.as_ref().clone().fail(failure);
                    flow.record(recording).await?;
                    Err(error)
                }
            }
        }
    }

    /// The record of an earlier try whose answer was lost.
    async fn recorded_meanwhile(&self, begun: &Begun) -> Result<Option<StepRow>> {
        let step = begun.place.step_id;
        let before = StepId(step.0.saturating_sub(1));
        let found = self.call(move |execution| execution.core.reader.steps(execution.workflow(), before, 1));
        let found = found
            .await
            .map_err(|error| self.execution.end(Ended::Stopped(Stop::Database(error.to_string().into()))))?;
        Ok(found.into_iter().next().filter(|row| row.step_id == step))
    }

    /// One attempt. While the database fails in a way that may pass, it begins again with the body.
    async fn try_transaction<T, A>(
        &self,
        begun: &Begun,
        earlier: &mut Option<StepId>,
        mut attempt: impl FnMut(Option<StepId>) -> A,
    ) -> Result<T, Tried>
    where
        T: DeserializeOwned,
        A: Future<Output = Attempted<T>>,
    {
        let mut pause = COMMIT_RETRY_MIN;
        let mut failures = 0;
        loop {
            let (tried, max) = match attempt(*earlier).await {
                Ok(Ok(Transacted::Committed(value))) => {
                    self.core().outage.passed(Part::Writes);
                    return Ok(value);
                }
                Ok(Ok(Transacted::Recorded(row))) => {
                    return begun.outcome_of(&row).map_err(Tried::Stopped);
                }
                Ok(Ok(Transacted::Failed(tried))) => {
                    let max = match &tried {
                        Tried::Failed { error, .. } => {
                            self.core().transactions.tries_max(error.as_ref(), false)
                        }
                        Tried::FailedForGood(_) | Tried::Stopped(_) => 1,
                    };
                    (tried, max)
                }
                #[cfg(feature = "postgres")]
                Ok(Ok(Transacted::Conflict)) => {
                    self.pause_longer(&mut pause).await.map_err(Tried::Stopped)?;
                    continue;
                }
                #[cfg(feature = "postgres")]
                Ok(Ok(Transacted::Lost { tried, error, timed_out })) => {
                    let tried =
                        tried.unwrap_or_else(|| Tried::failed(Failure::new("Error", error.to_string())));
                    let max = match &tried {
                        Tried::Failed { error, .. } if !timed_out => {
                            self.core().transactions.tries_max(error.as_ref(), true)
                        }
                        // A panic may come from an unwrapped error of the lost connection.
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
                Ok(Ok(Transacted::NotOwner)) => {
                    return Err(Tried::Stopped(self.explain(Unrecorded::Lost).await));
                }
                Ok(Err(error)) if error.may_pass => {
                    self.core().outage.failed(Part::Writes, &error);
                    self.pause_longer(&mut pause).await.map_err(Tried::Stopped)?;
                    *earlier = Some(begun.place.step_id);
                    continue;
                }
                Ok(Err(error)) => {
                    return Err(Tried::Stopped(self.execution.commit_failed(&CommitError::Refused(error))));
                }
                Err(error) => return Err(Tried::Stopped(self.execution.commit_failed(&error))),
            };
            failures += u32::from(max < u32::MAX);
            if failures >= max {
                return Err(tried);
            }
            say!(debug, "step {}: the transaction failed; trying again in {pause:?}", begun.place.name);
            self.pause_longer(&mut pause).await.map_err(Tried::Stopped)?;
        }
    }
}

/// One transaction: the body, the record of its value, the commit.
pub(crate) fn attempt_transaction<T>(
    begun: &Begun,
    codec: Codec,
    earlier: Option<StepId>,
    body: impl FnOnce(&mut Tx<'_>) -> Result<T, Tried>,
) -> Attempted<T>
where
    T: Serialize + DeserializeOwned,
{
    let core = &begun.execution.core;
    let attempt = || {
        let _inside = Inside::enter("a transaction step");
        core.transactions.attempt(&begun.execution.run.owner, earlier, &core.options.gate, |tx| {
            let value = body(tx)?;
            let Encoded { text, value } = encoded(codec, begun, value)?;
            Ok((begun.success(text, codec.name()), value))
        })
    };
    if core.transactions.stop_other_commits() { core.committer.alone(attempt) } else { Ok(attempt()) }
}
