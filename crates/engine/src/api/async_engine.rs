//! The engine for async callers: its calls as futures. No future blocks a thread of the runtime.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::engine::Engine;
use crate::api::handle::Handle;
use crate::api::send::send_as_a_task;
use crate::flow::async_context::AsyncContext;
use crate::flow::options::{EngineOptions, WorkflowOptions};
use crate::flow::registry::Workflow;
use crate::machines::errands::Errands;
use crate::pure::error::{BoxError, Result};
use crate::pure::id::WorkflowId;
use crate::pure::inside;
use crate::pure::listing::{Progress, StepRecord, Stranded, WorkflowFilter, WorkflowInfo};
use crate::pure::queue::{EnqueueOptions, Queue, QueueOptions};
use crate::pure::status::WorkflowStatus;

/// An engine whose calls are futures, for programs with an async runtime.
///
/// [`EngineOptions::open_async`] opens an async engine. [`Engine::to_async`] makes one of an engine that is open. All
/// clones are the same engine. When the last clone is dropped, the engine shuts down. A task cannot wait for that, so
/// end with [`AsyncEngine::shutdown`].
///
/// Dropping a future undoes nothing. A start whose future is dropped may be recorded all the same. Where that matters,
/// start by an id of your own.
///
/// ```
/// use engine::{AsyncContext, Engine, Result};
/// use std::time::Duration;
///
/// async fn checkout(mut ctx: AsyncContext, item: String) -> Result<u32> {
///     let hold = ctx.step("reserve", async |_| stock::reserve(&item).await).await?;
///     ctx.sleep(Duration::from_millis(5)).await?;
///     ctx.step("charge", async |step| pay::charge(hold, step.key()).await).await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let url = format!("sqlite:{}", dir.path().join("shop.db").display());
/// let engine = Engine::options().app("shop").open_async(&url).await?;
/// let checkout = engine.register("checkout", checkout)?;
/// engine.launch().await?;
/// let receipt = engine.start_as(&checkout, "order-1", "book".to_owned()).await?;
/// assert_eq!(receipt.await?, 42);
/// engine.shutdown(Duration::from_secs(10)).await;
/// # Ok(())
/// # }
/// # mod stock { pub async fn reserve(_: &str) -> Result<u32, std::fmt::Error> { Ok(41) } }
/// # mod pay { pub async fn charge(n: u32, _: String) -> Result<u32, std::fmt::Error> { Ok(n + 1) } }
/// ```
#[derive(Clone)]
pub struct AsyncEngine(Engine);

impl EngineOptions {
    /// Opens the system database as [`EngineOptions::open`] does, and blocks no thread of the runtime meanwhile.
    ///
    /// # Errors
    /// As [`EngineOptions::open`].
    pub async fn open_async(self, url: &str) -> Result<AsyncEngine> {
        let url = url.to_owned();
        // Before there is an engine, it has no threads that could make this call.
        Errands::default().run(move || self.open(&url)).await.map(AsyncEngine)
    }
}

impl Engine {
    /// This engine for async callers.
    pub fn to_async(&self) -> AsyncEngine {
        AsyncEngine(self.clone())
    }
}

impl AsyncEngine {
    /// This engine for callers that block.
    pub fn blocking(&self) -> &Engine {
        &self.0
    }

    /// Makes an async function a workflow. As [`Engine::register_async`].
    ///
    /// # Errors
    /// As [`Engine::register`].
    pub fn register<I, O, E, F, Fut>(&self, name: &str, function: F) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
        F: FnOnce(AsyncContext, I) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
    {
        self.0.register_async(name, function)
    }

    /// Makes an async function a workflow, with options. As [`Engine::register_async_with`].
    ///
    /// # Errors
    /// As [`Engine::register`].
    pub fn register_with<I, O, E, F, Fut>(
        &self,
        name: &str,
        options: WorkflowOptions,
        function: F,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
        F: FnOnce(AsyncContext, I) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
    {
        self.0.register_async_with(name, options, function)
    }

    /// Gives an error type a name. As [`Engine::register_error`].
    ///
    /// # Errors
    /// As [`Engine::register_error`].
    pub fn register_error<E>(&self, name: &str) -> Result<()>
    where
        E: std::error::Error + Serialize + DeserializeOwned + 'static,
    {
        self.0.register_error::<E>(name)
    }

    /// Makes this program serve a queue. As [`Engine::register_queue`].
    ///
    /// # Errors
    /// As [`Engine::register_queue`].
    pub fn register_queue(&self, name: &str, options: QueueOptions) -> Result<Queue> {
        self.0.register_queue(name, options)
    }

    /// Starts to run workflows. Async workflows run as tasks of this runtime. As [`Engine::launch`].
    ///
    /// # Errors
    /// As [`Engine::launch`].
    pub async fn launch(&self) -> Result<()> {
        self.0.core().tasks.take_the_callers_runtime();
        self.call(Engine::launch).await
    }

    /// Takes no more work, lets running steps end and be recorded, and gives the workflows back. As
    /// [`Engine::shutdown`]. Async bodies that have not ended within `deadline` are dropped, and their workflows are
    /// given back too.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<WorkflowId> {
        let engine = self.0.clone();
        // The call waits for the engine's threads to end, so none of them can make it.
        Errands::default().run(move || engine.shutdown(deadline)).await
    }

    /// Starts a run under a new id. As [`Workflow::start`].
    ///
    /// # Errors
    /// As [`Workflow::start`].
    pub async fn start<I, O>(&self, workflow: &Workflow<I, O>, input: I) -> Result<Handle<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        self.may_call()?;
        workflow.start_as_a_task(self.0.core(), &WorkflowId::generate(), input).await
    }

    /// Starts the run of this id, or attaches to it. As [`Workflow::start_as`].
    ///
    /// # Errors
    /// As [`Workflow::start_as`].
    pub async fn start_as<I, O>(&self, workflow: &Workflow<I, O>, id: &str, input: I) -> Result<Handle<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        self.may_call()?;
        workflow.start_as_a_task(self.0.core(), &WorkflowId::new(id)?, input).await
    }

    /// Puts a run of the workflow into a queue. As [`Workflow::enqueue`].
    ///
    /// # Errors
    /// As [`Workflow::enqueue`].
    pub async fn enqueue<I, O>(&self, workflow: &Workflow<I, O>, queue: &Queue, input: I) -> Result<Handle<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        self.enqueue_with(workflow, queue, &EnqueueOptions::new(), input).await
    }

    /// Puts a run of the workflow into a queue, with options. As [`Workflow::enqueue_with`].
    ///
    /// # Errors
    /// As [`Workflow::enqueue_with`].
    pub async fn enqueue_with<I, O>(
        &self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<Handle<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        self.may_call()?;
        workflow.enqueue_as_a_task(self.0.core(), queue, options, input).await
    }

    /// Sends a message to a workflow. As [`Engine::send`].
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub async fn send<T>(&self, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        send_as_a_task(self.0.core(), None, destination, topic, message).await
    }

    /// Sends a message at most once for each key and destination. As [`Engine::send_once`].
    ///
    /// # Errors
    /// As [`Engine::send_once`].
    pub async fn send_once<T>(
        &self,
        key: &str,
        destination: &WorkflowId,
        topic: &str,
        message: T,
    ) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        send_as_a_task(self.0.core(), Some(key), destination, topic, message).await
    }

    /// A handle to a workflow that was started before. As [`Engine::retrieve`].
    ///
    /// # Errors
    /// As [`Engine::retrieve`].
    pub async fn retrieve<O: DeserializeOwned + 'static>(&self, id: &str) -> Result<Handle<O>> {
        let id = id.to_owned();
        self.call(move |engine| engine.retrieve(&id)).await
    }

    /// The status of the workflow now.
    ///
    /// # Errors
    /// As [`Engine::retrieve`].
    pub async fn status(&self, id: &WorkflowId) -> Result<WorkflowStatus> {
        let id = id.clone();
        self.call(move |engine| engine.retrieve::<serde_json::Value>(id.as_str())?.status()).await
    }

    /// Lists the workflows that match the filter. As [`Engine::list`].
    ///
    /// # Errors
    /// As [`Engine::list`].
    pub async fn list(&self, filter: &WorkflowFilter) -> Result<Vec<WorkflowInfo>> {
        let filter = filter.clone();
        self.call(move |engine| engine.list(&filter)).await
    }

    /// Counts the workflows that match the filter. As [`Engine::count`].
    ///
    /// # Errors
    /// As [`Engine::count`].
    pub async fn count(&self, filter: &WorkflowFilter) -> Result<u64> {
        let filter = filter.clone();
        self.call(move |engine| engine.count(&filter)).await
    }

    /// Lists the recorded steps of a workflow. As [`Engine::steps`].
    ///
    /// # Errors
    /// As [`Engine::steps`].
    pub async fn steps(&self, id: &WorkflowId) -> Result<Vec<StepRecord>> {
        let id = id.clone();
        self.call(move |engine| engine.steps(&id)).await
    }

    /// How far a workflow has come: its status and its number of recorded steps. As [`Engine::progress`].
    ///
    /// # Errors
    /// As [`Engine::progress`].
    pub async fn progress(&self, id: &WorkflowId) -> Result<Progress> {
        let id = id.clone();
        self.call(move |engine| engine.progress(&id)).await
    }

    /// The open workflows that no living executor can take up. As [`Engine::waiting_for_nobody`].
    ///
    /// # Errors
    /// As [`Engine::waiting_for_nobody`].
    pub async fn waiting_for_nobody(&self) -> Result<Vec<Stranded>> {
        self.call(Engine::waiting_for_nobody).await
    }

    /// Cancels a workflow. The body of an async workflow is dropped at its next await. As [`Engine::cancel`].
    ///
    /// # Errors
    /// As [`Engine::cancel`].
    pub async fn cancel(&self, id: &WorkflowId) -> Result<WorkflowStatus> {
        let id = id.clone();
        self.call(move |engine| engine.cancel(&id)).await
    }

    /// Cancels a workflow and all workflows below it. As [`Engine::cancel_with_children`].
    ///
    /// # Errors
    /// As [`Engine::cancel_with_children`].
    pub async fn cancel_with_children(&self, id: &WorkflowId) -> Result<WorkflowStatus> {
        let id = id.clone();
        self.call(move |engine| engine.cancel_with_children(&id)).await
    }

    /// Lets a workflow go on from its last recorded step. As [`Engine::resume`].
    ///
    /// # Errors
    /// As [`Engine::resume`].
    pub async fn resume(&self, id: &WorkflowId) -> Result<WorkflowStatus> {
        let id = id.clone();
        self.call(move |engine| engine.resume(&id)).await
    }

    fn may_call(&self) -> Result<()> {
        inside::refuse()?;
        self.0.core().refuse_in_a_fork()
    }

    /// Makes a call that blocks, on a thread of the engine.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.may_call()?;
        let engine = self.0.clone();
        self.0.core().errands.run(move || call(&engine)).await
    }
}

impl fmt::Debug for AsyncEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
