//! What a workflow's async function holds while it runs.

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::attempts::{StepInfo, Tried};
use crate::flow::child::{AsyncChild, How};
use crate::flow::core::Core;
use crate::flow::drive::Flow;
use crate::flow::execution::Open;
use crate::flow::options::StepOptions;
use crate::flow::registry::Workflow;
use crate::flow::{attempts, task};
use crate::pure::error::{BoxError, Failure, Result};
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
/// Await each operation to its end. One that is dropped before, by `select!` or a timeout around it, makes the next
/// operation fail with [`Error::Dropped`](crate::Error::Dropped), because a replay could not know. To limit a step use
/// [`StepOptions::timeout`].
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

    /// Which run of the workflow this is: 1 for the first, one more for each that did not come to an end because its
    /// executor died or its writes were refused.
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
                    None => ready(Err(without_a_body())).await,
                }
            }
        });
        self.open(name, before, operation)
    }

    /// The same with retries and limits: the body is cloned for each attempt. As
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
                let limit = info.time_left();
                attempt(&core, limit, body(info)).await
            }
        });
        self.open(name, before, operation)
    }

    /// Runs `body` in a transaction and commits what it wrote together with the record of the step. As
    /// [`Context::transaction`](crate::Context::transaction).
    ///
    /// The body is no future: it runs on a thread of the engine, so it owns what it uses.
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

    /// The same with retries. As [`Context::transaction_with`](crate::Context::transaction_with).
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

    /// Runs a child and returns what it returned. An async child takes the slot of this workflow; a plain one runs on a
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

    /// The same under an id of your choice. As [`Context::start_as`](crate::Context::start_as).
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

    /// The same with options. As [`Context::enqueue_with`](crate::Context::enqueue_with).
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
        let open = Open::since(&self.flow.execution, before, name);
        async move {
            let result = operation.await;
            open.into_iter().for_each(Open::finish);
            result
        }
    }
}

/// One attempt of a step, at most this long.
async fn attempt<T, E>(
    core: &Core,
    limit: Option<Duration>,
    body: impl Future<Output = Result<T, E>>,
) -> Result<T, Tried>
where
    E: Into<BoxError> + 'static,
{
    let deadline = limit.and_then(|limit| core.options.clock.steady().now().checked_add(limit));
    let mut alarm = deadline.map(|deadline| core.timer.at(deadline));
    let is_over =
        |context: &std::task::Context<'_>| alarm.as_mut().is_some_and(|alarm| alarm.poll(context).is_ready());
    match task::caught(body, is_over).await {
        Some(Ok(returned)) => attempts::caught(&core.registry.errors, || returned),
        Some(Err(panicked)) => Err(Tried::FailedForGood(panicked)),
        None => Err(Tried::timed_out(limit.unwrap_or_default())),
    }
}

/// A step without retries takes its body once.
fn without_a_body() -> Tried {
    Tried::FailedForGood(Failure::new("Error", "a step without retries runs its body once"))
}
