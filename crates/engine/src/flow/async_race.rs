//! A race of an async workflow: its branches are futures in one task.
//!
//! Does not know: SQL, commits, step ids.

use std::future;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::async_context::{AsyncContext, attempt};
use crate::flow::attempts::{StepInfo, Tried};
use crate::flow::child::AsyncChild;
use crate::flow::drive::Flow;
use crate::flow::execution::{Ended, Open};
use crate::flow::join::{Deferred, Running};
use crate::flow::options::StepOptions;
use crate::flow::race::{self, Branches};
use crate::pure::error::{BoxError, Result};

/// A durable operation that has not begun, for [`AsyncContext::race`].
///
/// It does what the method of [`AsyncContext`] with its name does, and takes as many step ids.
pub struct AsyncOperation<'o, T>(Deferred<'o, T>);

impl<'o, T: 'o> AsyncOperation<'o, T> {
    fn of(begin: impl FnOnce(&Flow) -> Running<'o, T> + Send + 'o) -> Self
    where
        T: Send,
    {
        Self(Deferred::of(begin))
    }

    /// A step, as [`AsyncContext::step`].
    pub fn step<E, F, B>(name: impl Into<String>, body: B) -> Self
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + Send + 'static,
        B: FnOnce(StepInfo) -> F + Send + 'o,
        F: Future<Output = Result<T, E>> + Send + 'o,
    {
        let name = name.into();
        Self::of(move |flow| {
            let core = flow.core().clone();
            let mut body = Some(body);
            Box::pin(flow.step(&name, &StepOptions::new(), move |info| {
                let (core, body) = (core.clone(), body.take().map(|body| body(info)));
                async move {
                    match body {
                        Some(body) => attempt(&core, None, body).await,
                        None => Err(Tried::without_a_body()),
                    }
                }
            }))
        })
    }

    /// A step with retries and limits, as [`AsyncContext::step_with`].
    pub fn step_with<E, F, B>(name: impl Into<String>, options: &StepOptions, mut body: B) -> Self
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + Send + 'static,
        B: FnMut(StepInfo) -> F + Send + 'o,
        F: Future<Output = Result<T, E>> + Send + 'o,
    {
        let (name, options) = (name.into(), options.clone());
        Self::of(move |flow| {
            let core = flow.core().clone();
            Box::pin(flow.step(&name, &options, move |info| {
                let (core, limit) = (core.clone(), info.limit());
                let body = body(info);
                async move { attempt(&core, limit, body).await }
            }))
        })
    }

    /// The end of a child, as [`AsyncChild::result`].
    pub fn result(child: &AsyncChild<T>) -> Self
    where
        T: DeserializeOwned + Send,
    {
        Self(Deferred::result(child.id().clone()))
    }

    /// The end of a child that is cancelled if it loses, as
    /// [`Operation::result_or_cancel`](crate::Operation::result_or_cancel).
    pub fn result_or_cancel(child: &AsyncChild<T>) -> Self
    where
        T: DeserializeOwned + Send,
    {
        Self(Deferred::result_or_cancel(child.id().clone()))
    }

    /// The operation with its value changed by `change`, which runs again in each replay. So it must be deterministic.
    pub fn map<U: 'o>(self, change: impl FnOnce(T) -> U + Send + 'o) -> AsyncOperation<'o, U> {
        AsyncOperation(self.0.map(change))
    }
}

impl AsyncOperation<'_, ()> {
    /// A sleep, as [`AsyncContext::sleep`].
    pub fn sleep(duration: Duration) -> Self {
        Self::of(move |flow| Box::pin(flow.sleep(duration)))
    }

    /// The next message of a topic, as [`AsyncContext::recv`].
    pub fn recv<'o, T>(topic: impl Into<String>, timeout: Duration) -> AsyncOperation<'o, Option<T>>
    where
        T: DeserializeOwned + Send + 'o,
    {
        let topic = topic.into();
        AsyncOperation::of(move |flow| Box::pin(flow.recv(&topic, timeout)))
    }
}

impl<T> std::fmt::Debug for AsyncOperation<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AsyncOperation")
    }
}

impl AsyncContext {
    /// Runs several operations at once and returns what the first returned that ended. As
    /// [`Context::race`](crate::Context::race), without threads: the body of a step that loses is dropped.
    ///
    /// # Errors
    /// As [`Context::race`](crate::Context::race), and [`Error::Dropped`](crate::Error::Dropped).
    ///
    /// # Example
    /// ```
    /// # use engine::{AsyncContext, AsyncOperation, Result}; use std::time::Duration;
    /// async fn paid(mut ctx: AsyncContext, order: u32) -> Result<bool> {
    ///     ctx.race([
    ///         AsyncOperation::step("charge", async |step| bank::charge(order, &step.key()).await),
    ///         AsyncOperation::sleep(Duration::from_secs(30)).map(|()| false),
    ///     ])
    ///     .await
    /// }
    /// # mod bank { pub async fn charge(_: u32, _: &str) -> Result<bool, std::fmt::Error> { Ok(true) } }
    /// ```
    pub fn race<'o, T, I>(&mut self, operations: I) -> impl Future<Output = Result<T>> + use<'o, T, I>
    where
        T: Send + 'o,
        I: IntoIterator<Item = AsyncOperation<'o, T>>,
    {
        let (flow, before) = self.at_the_call();
        let begun = flow.begin_branches(operations.into_iter().map(|operation| operation.0));
        let racing = async move {
            let Branches { race, mut running, losses } = begun?;
            if let Some(winner) = race.winner() {
                return race.after_losses(losses, running.swap_remove(winner)).await;
            }
            // The race itself is open, and each of its branches but one.
            let open: Vec<_> = (1..running.len()).map(|_| Open::new(&flow.execution)).collect();
            let branches = running.into_iter().enumerate();
            let mut running: FuturesUnordered<_> =
                branches.map(|(number, branch)| race.ends(&flow, number, branch)).collect();
            let mut ended = None;
            while let Some(result) = running.next().await {
                if !result.as_ref().is_err_and(race::is_lost) {
                    ended.get_or_insert(result);
                    // A shutdown lets the body of a step come to its end. It drops this future when the time is over.
                    if !matches!(flow.execution.ended(), Some(Ended::Stopped(_))) {
                        break;
                    }
                }
            }
            drop((running, open));
            flow.execution.refuse_if_ended()?;
            let result = ended.unwrap_or_else(|| Err(race::decided_elsewhere(&flow)));
            race.after_losses(losses, future::ready(result)).await
        };
        self.open("race", before, racing)
    }
}
