//! The context of an async workflow function: the function calls its operations while it runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::attempts::{Limit, StepInfo, Tried};
use crate::flow::child::AsyncChild;
use crate::flow::core::Core;
use crate::flow::drive::Flow;
use crate::flow::execution::ToTheEnd;
use crate::flow::map::{Failed, first_failure};
use crate::flow::operation::Entry;
use crate::flow::options::StepOptions;
use crate::flow::registry::Workflow;
use crate::flow::start_child::How;
use crate::flow::{attempts, task};
use crate::pure::codec::Codec;
use crate::pure::error::{BoxError, Result};
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::queue::{EnqueueOptions, Queue};
use crate::pure::sync::lock;

/// A running async workflow: every durable operation goes through it.
///
/// Its operations have the names of [`Context`](crate::Context)'s and do the same. Each takes its number at the call and
/// returns a future that borrows nothing of the context, so several can be awaited at once:
///
/// ```
/// # use engine::{AsyncContext, Result};
/// async fn order(mut ctx: AsyncContext, item: String) -> Result<u32> {
///     let price = ctx.step("price", async |_| shop::price(&item).await);
///     let stock = ctx.step("stock", async |_| shop::stock(&item).await);
///     let (price, stock) = (price.await?, stock.await?); // or tokio::join!, which runs both at once
///     Ok(price + stock)
/// }
/// # mod shop {
/// #     pub async fn price(_: &str) -> Result<u32, std::fmt::Error> { Ok(7) }
/// #     pub async fn stock(_: &str) -> Result<u32, std::fmt::Error> { Ok(1) }
/// # }
/// ```
///
/// Await each operation to its end. After an operation that is dropped before its end (`select!`, a timeout around it),
/// the next one fails with [`Error::Dropped`](crate::Error::Dropped). A replay could not know of the drop. To limit a
/// step use [`StepOptions::timeout`].
///
/// While it waits, for a commit, a time, a message or a child, it holds no thread. When its workflow is cancelled or taken
/// over, the function is dropped at its next await.
///
/// A step inside a step is a compile error:
///
/// ```compile_fail
/// # async fn workflow(mut ctx: engine::AsyncContext) -> engine::Result<()> {
/// ctx.step("outer", async |_| ctx.step("inner", async |_| engine::ok(())).await).await
/// # }
/// # let engine = engine::Engine::options().open("sqlite:x.db").unwrap();
/// # engine.register_async("w", async |ctx, (): ()| workflow(ctx).await).unwrap();
/// ```
pub struct AsyncContext {
    pub(crate) flow: Flow,
}

impl AsyncContext {
    pub(crate) fn new(flow: Flow) -> Self {
        Self { flow }
    }

    /// The id of this workflow.
    pub fn workflow_id(&self) -> &WorkflowId {
        self.flow.execution.workflow()
    }

    /// The number of this run: 1 for the first run, one more for each run that did not end. A run does not end when its
    /// executor dies or its writes are refused.
    pub fn attempt(&self) -> u32 {
        self.flow.execution.attempt
    }

    /// Runs `body` unless its outcome is recorded, and returns the outcome either way. As
    /// [`Context::step`](crate::Context::step).
    ///
    /// The body may borrow locals of the workflow. Where it uses `?` and names no error type, end it with
    /// [`ok`](crate::ok).
    ///
    /// # Errors
    /// As [`Context::step`](crate::Context::step), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn step<T, E, F>(&mut self, name: &str, body: F) -> impl Future<Output = Result<T>> + use<T, E, F>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
        F: AsyncFnOnce(StepInfo) -> Result<T, E>,
    {
        let core = self.flow.core().clone();
        let mut body = Some(body);
        let (flow, before) = self.at_the_call();
        let operation = flow.step(name, &StepOptions::new(), move |info| {
            let (core, body) = (core.clone(), body.take());
            async move {
                match body {
                    Some(body) => attempt(&core, None, body(info)).await,
                    None => Err(Tried::without_a_body()),
                }
            }
        });
        self.open(name, before, operation)
    }

    /// Runs `body` as a step with retries and limits; the body is cloned for each attempt. As
    /// [`Context::step_with`](crate::Context::step_with).
    ///
    /// # Errors
    /// As [`Context::step_with`](crate::Context::step_with), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn step_with<T, E, F>(
        &mut self,
        name: &str,
        options: &StepOptions,
        body: F,
    ) -> impl Future<Output = Result<T>> + use<T, E, F>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
        F: AsyncFnOnce(StepInfo) -> Result<T, E> + Clone,
    {
        let core = self.flow.core().clone();
        let (flow, before) = self.at_the_call();
        let operation = flow.step(name, options, move |info| {
            let (core, body) = (core.clone(), body.clone());
            async move {
                let limit = info.limit();
                attempt(&core, limit, body(info)).await
            }
        });
        self.open(name, before, operation)
    }

    /// Runs `body` in a transaction and commits its writes together with the record of the step. As
    /// [`Context::transaction`](crate::Context::transaction).
    ///
    /// The body is no future: it runs on a thread of the engine, so it owns its values.
    ///
    /// # Errors
    /// As [`Context::step`](crate::Context::step), and [`Error::Dropped`](crate::Error::Dropped).
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub fn transaction<T, E, F>(
        &mut self,
        name: &str,
        mut body: F,
    ) -> impl Future<Output = Result<T>> + use<T, E, F>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + 'static,
        F: FnMut(&mut crate::Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.begin_transaction::<T, E, _>(name, &StepOptions::new(), move |tx, _| body(tx))
    }

    /// Runs a transaction step with retries. As [`Context::transaction_with`](crate::Context::transaction_with).
    ///
    /// # Errors
    /// As [`Context::step_with`](crate::Context::step_with), and [`Error::Dropped`](crate::Error::Dropped).
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub fn transaction_with<T, E, F>(
        &mut self,
        name: &str,
        options: &StepOptions,
        body: F,
    ) -> impl Future<Output = Result<T>> + use<T, E, F>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + 'static,
        F: FnMut(&mut crate::Tx<'_>, &StepInfo) -> Result<T, E> + Send + 'static,
    {
        self.begin_transaction::<T, E, F>(name, options, body)
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    fn begin_transaction<T, E, B>(
        &mut self,
        name: &str,
        options: &StepOptions,
        body: B,
    ) -> impl Future<Output = Result<T>> + use<T, E, B>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + 'static,
        B: FnMut(&mut crate::Tx<'_>, &StepInfo) -> Result<T, E> + Send + 'static,
    {
        let core = self.flow.core().clone();
        let body = Arc::new(Mutex::new(body));
        let (flow, before) = self.at_the_call();
        let operation = flow.transaction(name, options, move |begun, codec, info, earlier| {
            let (making, body) = (core.clone(), body.clone());
            core.errands.run(move || {
                let tried = crate::flow::transaction::attempt_transaction(&begun, codec, earlier, |tx| {
                    attempts::caught(&making.registry.errors, || (lock(&body))(tx, &info))
                        .and_then(|value| info.in_time(value))
                });
                // It may have outlasted its task, and the engine.
                making.leave_if_last();
                tried
            })
        });
        self.open(name, before, operation)
    }

    /// Runs `body` as a step for each item, at most `at_once` of them at the same time. Returns their values, in the
    /// order of the items. As [`Context::map`](crate::Context::map), without threads.
    ///
    /// # Errors
    /// As [`Context::map`](crate::Context::map), and [`Error::Dropped`](crate::Error::Dropped).
    ///
    /// # Example
    /// ```
    /// # use engine::{AsyncContext, Result};
    /// async fn prices(mut ctx: AsyncContext, items: Vec<String>) -> Result<u64> {
    ///     let prices = ctx.map("price", 50, items, async |_, item: String| shop::price(&item).await).await?;
    ///     Ok(prices.iter().sum())
    /// }
    /// # mod shop { pub async fn price(_: &str) -> Result<u64, std::fmt::Error> { Ok(7) } }
    /// ```
    pub fn map<A, T, E, F, I>(
        &mut self,
        name: &str,
        at_once: usize,
        items: I,
        body: F,
    ) -> impl Future<Output = Result<Vec<T>>> + use<A, T, E, F, I>
    where
        I: IntoIterator<Item = A>,
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
        F: AsyncFnOnce(StepInfo, A) -> Result<T, E> + Clone,
    {
        let items = items.into_iter().collect();
        let ended = self.map_as_tasks::<A, T, E, F>((name, at_once), items, Failed::EndsAll, body);
        async move { first_failure(ended.await?) }
    }

    /// Runs `body` as a step for each item, as [`AsyncContext::map`] does, and gives a result for each. As
    /// [`Context::map_each`](crate::Context::map_each).
    ///
    /// # Errors
    /// As [`Context::map_each`](crate::Context::map_each), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn map_each<A, T, E, F, I>(
        &mut self,
        name: &str,
        at_once: usize,
        items: I,
        body: F,
    ) -> impl Future<Output = Result<Vec<Result<T>>>> + use<A, T, E, F, I>
    where
        I: IntoIterator<Item = A>,
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
        F: AsyncFnOnce(StepInfo, A) -> Result<T, E> + Clone,
    {
        let items = items.into_iter().collect();
        let ended = self.map_as_tasks::<A, T, E, F>((name, at_once), items, Failed::IsAResult, body);
        async move { Ok(ended.await?.into_iter().flatten().collect()) }
    }

    fn map_as_tasks<A, T, E, F>(
        &mut self,
        (name, at_once): (&str, usize),
        items: Vec<A>,
        failed: Failed,
        body: F,
    ) -> impl Future<Output = Result<Vec<Option<Result<T>>>>> + use<A, T, E, F>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
        F: AsyncFnOnce(StepInfo, A) -> Result<T, E> + Clone,
    {
        let (flow, before) = self.at_the_call();
        let begun = flow.begin_map::<T>(name, at_once, items.len());
        let operation = async move {
            let begun = begun?;
            let (codec, at_once) = (begun.codec, begun.at_once);
            let entries = flow.record_map(begun).await?;
            let mut ended: Vec<_> = entries.iter().map(|_| None).collect();
            let mut waiting = entries.into_iter().zip(items).enumerate();
            let mut running = FuturesUnordered::new();
            loop {
                while running.len() < at_once
                    && let Some((number, (entry, item))) = waiting.next()
                {
                    let one = run_item(&flow, codec, entry, item, body.clone());
                    running.push(async move { (number, one.await) });
                }
                let Some((number, result)) = running.next().await else { break };
                if result.is_err() && failed == Failed::EndsAll {
                    waiting.by_ref().for_each(drop);
                }
                ended[number] = Some(result);
            }
            flow.execution.refuse_if_ended()?;
            Ok(ended)
        };
        self.open(name, before, operation)
    }

    /// Sleeps until `duration` has passed, across any number of restarts. As [`Context::sleep`](crate::Context::sleep).
    ///
    /// # Errors
    /// As [`Context::sleep`](crate::Context::sleep), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn sleep(&mut self, duration: Duration) -> impl Future<Output = Result<()>> + use<> {
        let (flow, before) = self.at_the_call();
        let operation = flow.sleep(duration);
        self.open("sleep", before, operation)
    }

    /// Sends a message to a workflow, once. As [`Context::send`](crate::Context::send).
    ///
    /// # Errors
    /// As [`Context::send`](crate::Context::send), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn send<T>(
        &mut self,
        destination: &WorkflowId,
        topic: &str,
        message: T,
    ) -> impl Future<Output = Result<()>> + use<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let (flow, before) = self.at_the_call();
        let operation = flow.send(destination, topic, message);
        self.open("send", before, operation)
    }

    /// Takes the oldest message of a topic, and waits for one at most `timeout`. As
    /// [`Context::recv`](crate::Context::recv).
    ///
    /// # Errors
    /// As [`Context::recv`](crate::Context::recv), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn recv<T: DeserializeOwned>(
        &mut self,
        topic: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<T>>> + use<T> {
        let (flow, before) = self.at_the_call();
        let operation = flow.recv(topic, timeout);
        self.open("recv", before, operation)
    }

    /// Runs a child and returns its output. An async child takes the slot of this workflow; a plain one runs on a
    /// thread of its own. As [`Context::run`](crate::Context::run).
    ///
    /// # Errors
    /// As [`AsyncContext::start`] and [`AsyncChild::result`].
    pub fn run<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        input: I,
    ) -> impl Future<Output = Result<O>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        let (flow, before) = self.at_the_call();
        let operation = flow.run_child(workflow, input);
        self.open(workflow.name(), before, operation)
    }

    /// Starts a child, which runs beside this workflow. As [`Context::start`](crate::Context::start).
    ///
    /// # Errors
    /// As [`Context::start`](crate::Context::start), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn start<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        input: I,
    ) -> impl Future<Output = Result<AsyncChild<O>>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
    {
        let (flow, before) = self.at_the_call();
        let started = flow.start_child(workflow, None, input, How::Beside);
        let operation = async move { Ok(AsyncChild::of(started.await?.id)) };
        self.open(workflow.name(), before, operation)
    }

    /// Starts a child under an id of your choice. As [`Context::start_as`](crate::Context::start_as).
    ///
    /// # Errors
    /// As [`Context::start_as`](crate::Context::start_as), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn start_as<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        id: &str,
        input: I,
    ) -> impl Future<Output = Result<AsyncChild<O>>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
    {
        let id = WorkflowId::new(id);
        let (flow, before) = self.at_the_call();
        let started = id.map(|id| flow.start_child(workflow, Some(id), input, How::Beside));
        let operation = async move { Ok(AsyncChild::of(started?.await?.id)) };
        self.open(workflow.name(), before, operation)
    }

    /// Starts a child for each input. As [`Context::start_all`](crate::Context::start_all).
    ///
    /// # Errors
    /// As [`Context::start`](crate::Context::start), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn start_all<I, O, N>(
        &mut self,
        workflow: &Workflow<I, O>,
        inputs: N,
    ) -> impl Future<Output = Result<Vec<AsyncChild<O>>>> + use<I, O, N>
    where
        I: Serialize + DeserializeOwned,
        N: IntoIterator<Item = I>,
    {
        let (flow, before) = self.at_the_call();
        let started = flow.start_children(workflow, inputs.into_iter().collect());
        let operation = async move { Ok(started.await?.into_iter().map(AsyncChild::of).collect()) };
        self.open(workflow.name(), before, operation)
    }

    /// Puts a child for each input into a queue. As [`Context::enqueue_all`](crate::Context::enqueue_all).
    ///
    /// # Errors
    /// As [`Context::enqueue`](crate::Context::enqueue), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn enqueue_all<I, O, N>(
        &mut self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        inputs: N,
    ) -> impl Future<Output = Result<Vec<AsyncChild<O>>>> + use<I, O, N>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
        N: IntoIterator<Item = I>,
    {
        let (flow, before) = self.at_the_call();
        let queued = flow.enqueue_children(workflow, queue, inputs.into_iter().collect());
        let operation = async move { Ok(queued.await?.into_iter().map(AsyncChild::of).collect()) };
        self.open(workflow.name(), before, operation)
    }

    /// Puts a child into a queue. As [`Context::enqueue`](crate::Context::enqueue).
    ///
    /// # Errors
    /// As [`Context::enqueue`](crate::Context::enqueue), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn enqueue<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        input: I,
    ) -> impl Future<Output = Result<AsyncChild<O>>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        self.enqueue_with(workflow, queue, &EnqueueOptions::new(), input)
    }

    /// Puts a child into a queue, with options. As [`Context::enqueue_with`](crate::Context::enqueue_with).
    ///
    /// # Errors
    /// As [`Context::enqueue_with`](crate::Context::enqueue_with), and [`Error::Dropped`](crate::Error::Dropped).
    pub fn enqueue_with<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> impl Future<Output = Result<AsyncChild<O>>> + use<I, O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        let (flow, before) = self.at_the_call();
        let queued = flow.enqueue(workflow, queue, options, input);
        let operation = async move { queued.await.map(AsyncChild::of) };
        self.open(workflow.name(), before, operation)
    }

    /// To be taken before an operation begins.
    pub(crate) fn at_the_call(&self) -> (Flow, StepId) {
        (self.flow.clone(), self.flow.execution.last_step())
    }

    /// An operation that has begun. If it has taken a place since, its future is to come to its end.
    pub(crate) fn open<T, F>(
        &mut self,
        name: &str,
        before: StepId,
        operation: F,
    ) -> impl Future<Output = Result<T>> + use<T, F>
    where
        F: Future<Output = Result<T>>,
    {
        let open = ToTheEnd::since(&self.flow.execution, before, name);
        // It has kilobytes. They are not the workflow's for its whole life, nor do they move with its future.
        let operation = Box::pin(operation);
        async move {
            let result = operation.await;
            open.into_iter().for_each(ToTheEnd::finish);
            result
        }
    }
}

/// The step of one item.
async fn run_item<A, T, E, F>(flow: &Flow, codec: Codec, entry: Entry, item: A, body: F) -> Result<T>
where
    T: Serialize + DeserializeOwned,
    E: Into<BoxError> + 'static,
    F: AsyncFnOnce(StepInfo, A) -> Result<T, E>,
{
    let mut once = Some((body, item));
    let try_once = |info| {
        let once = once.take();
        async move {
            match once {
                Some((body, item)) => attempt(flow.core(), None, body(info, item)).await,
                None => Err(Tried::without_a_body()),
            }
        }
    };
    flow.finish_step(codec, entry, &StepOptions::new(), try_once).await
}

/// One attempt of a step, at most this long.
pub(crate) async fn attempt<T, E>(
    core: &Core,
    limit: Option<Limit>,
    body: impl Future<Output = Result<T, E>>,
) -> Result<T, Tried>
where
    E: Into<BoxError> + 'static,
{
    let mut alarm = limit.as_ref().map(|limit| core.timer.at(limit.until));
    let is_over =
        |context: &std::task::Context<'_>| alarm.as_mut().is_some_and(|alarm| alarm.poll(context).is_ready());
    match task::caught(body, is_over).await {
        Some(Ok(returned)) => attempts::caught(&core.registry.errors, || returned),
        Some(Err(panicked)) => Err(Tried::FailedForGood(panicked)),
        None => Err(Tried::timed_out(limit.map(|limit| limit.time).unwrap_or_default())),
    }
}
