//! The suite with async functions as its workflows.
//!
//! The texts write plain functions all the same. Here each is the body of an async workflow: it runs on a thread of its own
//! with the [`AsyncContext`], whose operations it drives to their ends, while the task awaits what it returns. When the
//! task drops its body, the function goes on until its next operation, which fails as it does for a plain one.

use std::cell::RefCell;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Wake};
use std::thread;
use std::time::Duration;

use engine::{
    AsyncChild, AsyncContext, AsyncOperation, BoxError, EngineOptions, EnqueueOptions, Queue, Result,
    StepInfo, StepOptions, Tx, Workflow, WorkflowId, WorkflowOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

/// Whether each workflow has a thread, which is its own while it runs.
pub(crate) const IS_PLAIN: bool = false;

/// An engine that makes each function that is registered with it an async workflow.
#[derive(Clone)]
pub(crate) struct Engine(engine::Engine);

/// An engine as the texts use it.
pub(crate) fn opened(engine: engine::Engine) -> Engine {
    Engine(engine)
}

impl Deref for Engine {
    type Target = engine::Engine;

    fn deref(&self) -> &engine::Engine {
        &self.0
    }
}

impl Engine {
    pub(crate) fn options() -> EngineOptions {
        engine::Engine::options()
    }

    pub(crate) fn register<I, O, E>(
        &self,
        name: &str,
        function: impl Fn(&mut Context, I) -> Result<O, E> + Send + Sync + 'static,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.register_with(name, WorkflowOptions::new(), function)
    }

    pub(crate) fn register_with<I, O, E>(
        &self,
        name: &str,
        options: WorkflowOptions,
        function: impl Fn(&mut Context, I) -> Result<O, E> + Send + Sync + 'static,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let function = Arc::new(function);
        self.0.register_async_with(name, options, async move |ctx: AsyncContext, input: I| {
            on_a_thread(move || function(&mut Context(ctx), input)).await
        })
    }
}

/// What the function returns. Its panic is one of the task.
async fn on_a_thread<T: Send + 'static>(function: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = oneshot::channel();
    thread::spawn(move || {
        let returned = catch_unwind(AssertUnwindSafe(function));
        // Nobody listens where the body was dropped.
        let _ = tell.send(returned);
    });
    match told.await.unwrap() {
        Ok(returned) => returned,
        Err(payload) => resume_unwind(payload),
    }
}

/// The context of an async workflow, with the methods of a plain one.
pub(crate) struct Context(AsyncContext);

#[derive(Debug)]
pub(crate) struct Child<O>(AsyncChild<O>);

impl<O: DeserializeOwned> Child<O> {
    pub(crate) fn result(&self, ctx: &mut Context) -> Result<O> {
        driven(self.0.result(&mut ctx.0))
    }
}

/// An operation of a race, whose body is plain.
pub(crate) struct Operation<'o, T>(AsyncOperation<'o, T>);

impl<'o, T: 'o> Operation<'o, T> {
    pub(crate) fn step<E>(
        name: impl Into<String>,
        body: impl FnOnce(&StepInfo) -> Result<T, E> + Send + 'o,
    ) -> Self
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + Send + 'static,
    {
        Self(AsyncOperation::step(name, async move |info| body(&info)))
    }

    pub(crate) fn step_with<E>(
        name: impl Into<String>,
        options: &StepOptions,
        body: impl FnMut(&StepInfo) -> Result<T, E> + Send + 'o,
    ) -> Self
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + Send + 'static,
    {
        let body = Arc::new(Mutex::new(body));
        Self(AsyncOperation::step_with(name, options, move |info| {
            let body = body.clone();
            async move { (body.lock().unwrap())(&info) }
        }))
    }

    pub(crate) fn result(child: &Child<T>) -> Self
    where
        T: DeserializeOwned + Send,
    {
        Self(AsyncOperation::result(&child.0))
    }

    pub(crate) fn result_or_cancel(child: &Child<T>) -> Self
    where
        T: DeserializeOwned + Send,
    {
        Self(AsyncOperation::result_or_cancel(&child.0))
    }

    pub(crate) fn map<U: 'o>(self, change: impl FnOnce(T) -> U + Send + 'o) -> Operation<'o, U> {
        Operation(self.0.map(change))
    }
}

impl Operation<'_, ()> {
    pub(crate) fn sleep(duration: Duration) -> Self {
        Self(AsyncOperation::sleep(duration))
    }

    pub(crate) fn recv<'o, T>(topic: impl Into<String>, timeout: Duration) -> Operation<'o, Option<T>>
    where
        T: DeserializeOwned + Send + 'o,
    {
        Operation(AsyncOperation::recv(topic, timeout))
    }
}

impl Context {
    pub(crate) fn race<'o, T: Send + 'o>(
        &mut self,
        operations: impl IntoIterator<Item = Operation<'o, T>>,
    ) -> Result<T> {
        driven(self.0.race(operations.into_iter().map(|operation| operation.0)))
    }

    pub(crate) fn workflow_id(&self) -> &WorkflowId {
        self.0.workflow_id()
    }

    pub(crate) fn step<T, E>(&mut self, name: &str, body: impl FnOnce(&StepInfo) -> Result<T, E>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        driven(self.0.step(name, async |info| body(&info)))
    }

    pub(crate) fn step_with<T, E>(
        &mut self,
        name: &str,
        options: &StepOptions,
        body: impl FnMut(&StepInfo) -> Result<T, E>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        // Each attempt has a clone of the body.
        let body = &RefCell::new(body);
        driven(self.0.step_with(name, options, async move |info| (body.borrow_mut())(&info)))
    }

    pub(crate) fn transaction<T, E>(
        &mut self,
        name: &str,
        body: impl FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        driven(self.0.transaction(name, body))
    }

    pub(crate) fn transaction_with<T, E>(
        &mut self,
        name: &str,
        options: &StepOptions,
        body: impl FnMut(&mut Tx<'_>, &StepInfo) -> Result<T, E> + Send + 'static,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        driven(self.0.transaction_with(name, options, body))
    }

    pub(crate) fn sleep(&mut self, duration: Duration) -> Result<()> {
        driven(self.0.sleep(duration))
    }

    pub(crate) fn send<T>(&mut self, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        driven(self.0.send(destination, topic, message))
    }

    pub(crate) fn recv<T: DeserializeOwned>(&mut self, topic: &str, timeout: Duration) -> Result<Option<T>> {
        driven(self.0.recv(topic, timeout))
    }

    pub(crate) fn run<I, O>(&mut self, workflow: &Workflow<I, O>, input: I) -> Result<O>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        driven(self.0.run(workflow, input))
    }

    pub(crate) fn start<I, O>(&mut self, workflow: &Workflow<I, O>, input: I) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
    {
        driven(self.0.start(workflow, input)).map(Child)
    }

    pub(crate) fn start_as<I, O>(&mut self, workflow: &Workflow<I, O>, id: &str, input: I) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
    {
        driven(self.0.start_as(workflow, id, input)).map(Child)
    }

    pub(crate) fn enqueue<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        input: I,
    ) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        driven(self.0.enqueue(workflow, queue, input)).map(Child)
    }

    pub(crate) fn enqueue_with<I, O>(
        &mut self,
        workflow: &Workflow<I, O>,
        queue: &Queue,
        options: &EnqueueOptions<'_>,
        input: I,
    ) -> Result<Child<O>>
    where
        I: Serialize + DeserializeOwned,
        O: DeserializeOwned,
    {
        driven(self.0.enqueue_with(workflow, queue, options, input)).map(Child)
    }
}

/// Rings when the future is to be polled again. Bodies may park their thread, so parking is no bell.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.rings.notify_one();
    }
}

/// Drives an operation to its end on this thread, which is none of a runtime: bodies of the texts block.
fn driven<T>(operation: impl Future<Output = T>) -> T {
    let (mut operation, bell) = (pin!(operation), Arc::<Bell>::default());
    let waker = bell.clone().into();
    loop {
        if let Poll::Ready(done) = operation.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return done;
        }
        let rung = bell.rung.lock().unwrap();
        *bell.rings.wait_while(rung, |rung| !*rung).unwrap() = false;
    }
}
