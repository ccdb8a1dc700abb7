//! The engine: open, register, launch, shut down. It assembles the parts; only other files of this room import it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fleet::recovery;
#[cfg(feature = "tokio")]
use crate::flow::async_context::AsyncContext;
use crate::flow::context::Context;
use crate::flow::core::Core;
#[cfg(feature = "tokio")]
use crate::flow::core::Run;
use crate::flow::options::{EngineOptions, WorkflowOptions};
#[cfg(feature = "tokio")]
use crate::flow::registry::Kind;
use crate::flow::registry::Workflow;
use crate::machines::worker::is_worker;
use crate::pure::blocking::is_in_an_async_task;
use crate::pure::clock::Stopwatch;
use crate::pure::error::{BoxError, Error, Result, Stop};
use crate::pure::id::WorkflowId;
use crate::pure::limits::{DROP_DEADLINE, LEAVE_WITHIN, SERVICE_GRACE};
use crate::pure::queue::{Queue, QueueOptions};
use crate::pure::sync::{Signal, lock, say};
use crate::sysdb::write::Refusal;
use crate::sysdb::{INTERNAL_QUEUE, Identity, Membership, Served, SystemDatabase, Verdict, Write};

/// An open engine. Clones are the same engine. When the last clone is dropped, the engine shuts down.
///
/// A workflow function should not hold an engine: the engine holds the function, so neither would ever be dropped.
#[derive(Clone)]
pub struct Engine {
    guard: Arc<Guard>,
}

/// Owns the engine's own threads and ends them.
struct Guard {
    core: Arc<Core>,
    launched: AtomicBool,
    services: Arc<Services>,
}

struct Services {
    fleet: Service,
    committer: Service,
    #[cfg(feature = "tokio")]
    timer: Service,
}

impl Engine {
    /// Options for an engine; [`EngineOptions::open`] makes it.
    pub fn options() -> EngineOptions {
        EngineOptions::new()
    }

    pub(crate) fn assemble(options: EngineOptions, database: SystemDatabase) -> Result<Self> {
        let core = Arc::new(Core::new(options, database));
        let committer = Service::spawn("piton-committer", &core, |core| {
            core.committer.serve_outside();
            core.leave_if_last();
        })?;
        // It runs from the start: an engine that is never launched has handles that wait, too.
        let fleet = Service::spawn("piton-fleet", &core, |core| {
            crate::fleet::service::serve(core);
            core.leave_if_last();
        });
        let fleet = fleet.inspect_err(|_| core.committer.close())?;
        #[cfg(feature = "tokio")]
        let timer = Service::spawn("piton-timer", &core, |core| core.timer.serve()).inspect_err(|_| {
            core.stopping.store(true, Ordering::SeqCst);
            core.fleet.raise();
            core.committer.close();
        })?;
        let services = Services {
            fleet,
            committer,
            #[cfg(feature = "tokio")]
            timer,
        };
        let services = Arc::new(services);
        Ok(Self { guard: Arc::new(Guard { core, launched: AtomicBool::new(false), services }) })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.guard.core
    }

    /// Makes a function a workflow under a name, which is recorded with every run.
    ///
    /// Keep the name when the function is renamed: runs in the database go on under it.
    ///
    /// # Errors
    /// - [`Error::AlreadyRegistered`] when the name is taken.
    /// - [`Error::AlreadyLaunched`]: register before the launch.
    /// - [`Error::InvalidName`] when the name is empty, too long, or holds a NUL.
    pub fn register<I, O, E>(
        &self,
        name: &str,
        function: impl Fn(&mut Context, I) -> Result<O, E> + Send + Sync + 'static,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned,
        O: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        self.register_with(name, WorkflowOptions::new(), function)
    }

    /// Makes a function a workflow under a name, as [`Engine::register`] does, with options.
    ///
    /// # Errors
    /// As [`Engine::register`].
    pub fn register_with<I, O, E>(
        &self,
        name: &str,
        options: WorkflowOptions,
        function: impl Fn(&mut Context, I) -> Result<O, E> + Send + Sync + 'static,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned,
        O: Serialize + DeserializeOwned,
        E: Into<BoxError> + 'static,
    {
        self.core().registry.register(name, options, function)
    }

    /// Makes an async function a workflow, as [`Engine::register`] does for a plain function.
    ///
    /// The workflow runs as a task of the runtime in which the engine is launched. If there is none, it runs on a
    /// runtime of the engine's own. A runtime of one thread runs it only while that thread is in the runtime.
    ///
    /// A run that a plain function began goes on in an async function of the same name that asks for the same steps.
    /// The reverse holds too.
    ///
    /// # Errors
    /// As [`Engine::register`].
    ///
    /// # Example
    /// ```
    /// # use engine::{AsyncContext, Engine, Result};
    /// async fn greet(mut ctx: AsyncContext, name: String) -> Result<String> {
    ///     ctx.step("greet", async |_| engine::ok(format!("hello, {name}"))).await
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = Engine::options().open_file(dir.path().join("x.db"))?;
    /// let greet = engine.register_async("greet", greet)?;
    /// engine.launch()?;
    /// assert_eq!(greet.start(&engine, "you".to_owned())?.result()?, "hello, you");
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tokio")]
    pub fn register_async<I, O, E, F, Fut>(&self, name: &str, function: F) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + DeserializeOwned + Send,
        E: Into<BoxError> + 'static,
        F: FnOnce(AsyncContext, I) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<O, E>> + Send + 'static,
    {
        self.register_async_with(name, WorkflowOptions::new(), function)
    }

    /// Makes an async function a workflow under a name, as [`Engine::register_async`] does, with options.
    ///
    /// # Errors
    /// As [`Engine::register`].
    #[cfg(feature = "tokio")]
    pub fn register_async_with<I, O, E, F, Fut>(
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
        self.core().registry.register_async(name, options, function)
    }

    /// Gives an error type a name. An error of this type is recorded under the name, with its fields as data.
    ///
    /// That holds wherever the error is returned: from a step, from a workflow, in a box, or as the cause of another
    /// error. [`crate::Failure::data`] gives the error back, also in another program. Keep the name when the type is
    /// renamed.
    ///
    /// With the feature `anyhow`, an `anyhow::Error` is known by the error that it was made of.
    ///
    /// # Errors
    /// - [`Error::AlreadyRegistered`] when the name or the type is registered.
    /// - [`Error::AlreadyLaunched`]: register before the launch.
    /// - [`Error::InvalidName`] when the name is empty, too long, or begins with `Piton` or `DBOS`, as the engine's own
    ///   do.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Engine, Error, Result};
    /// #[derive(Debug, serde::Serialize, serde::Deserialize, thiserror::Error)]
    /// #[error("card {card} was declined")]
    /// struct Declined { card: u8 }
    ///
    /// # fn main() -> Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = Engine::options().open_file(dir.path().join("x.db"))?;
    /// engine.register_error::<Declined>("card_declined")?;
    /// let pay = engine.register("pay", |ctx: &mut Context, card: u8| {
    ///     ctx.step("charge", |_| Err::<u32, _>(Declined { card }))
    /// })?;
    /// engine.launch()?;
    /// let Err(Error::WorkflowFailed { failure, .. }) = pay.start(&engine, 4)?.result() else { panic!() };
    /// assert_eq!(failure.name(), "card_declined");
    /// assert_eq!(failure.data::<Declined>()?.card, 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn register_error<E>(&self, name: &str) -> Result<()>
    where
        E: std::error::Error + Serialize + DeserializeOwned + 'static,
    {
        self.core().registry.register_error::<E>(name)
    }

    /// Makes this program serve a queue, with these limits. Names of queues are unique in a database.
    ///
    /// # Errors
    /// - [`Error::AlreadyRegistered`] when the name is taken in this program. [`Engine::launch`] finds out whether the
    ///   name belongs to another application.
    /// - [`Error::AlreadyLaunched`]: register before the launch.
    /// - [`Error::InvalidName`] when the name is empty, too long, or holds a NUL.
    /// - [`Error::InvalidOption`] when the limits have no meaning.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Engine, EnqueueOptions, Error, QueueOptions, Result};
    /// # fn main() -> Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = Engine::options().open_file(dir.path().join("x.db"))?;
    /// let mail = engine.register("mail", |ctx: &mut Context, to: String| ctx.step("send", |_| Ok::<_, Error>(to.len())))?;
    /// let queue = engine.register_queue("mails", QueueOptions::new().concurrency(10))?;
    /// engine.launch()?;
    /// let urgent = EnqueueOptions::new().id("mail-1");
    /// let handles = [
    ///     mail.enqueue(&engine, &queue, "a@example.org".to_owned())?,
    ///     mail.enqueue_with(&engine, &queue, &urgent, "b@example.org".to_owned())?,
    /// ];
    /// for handle in handles {
    ///     assert_eq!(handle.result()?, 13);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn register_queue(&self, name: &str, options: QueueOptions) -> Result<Queue> {
        self.core().registry.register_queue(name, options)
    }

    /// Starts to run workflows: new workflows, and those of executors that died. After an error it can be called again.
    ///
    /// # Errors
    /// - [`Error::AlreadyLaunched`], [`Error::ShuttingDown`], [`Error::Forked`].
    /// - [`Error::QueueInUse`] when a queue belongs to another application.
    /// - [`Error::Open`] when this process cannot show the other processes that it lives.
    /// - [`Error::Unanswered`], [`Error::Database`].
    pub fn launch(&self) -> Result<()> {
        let core = self.core();
        core.refuse_in_a_fork()?;
        if core.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        if self.guard.launched.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyLaunched);
        }
        let launched = self.guard.enter_the_fleet();
        if launched.is_err() {
            self.guard.launched.store(false, Ordering::SeqCst);
        }
        launched
    }

    /// Takes no more work, lets running steps end and be recorded, and gives the workflows back. Another executor, or
    /// the next start of this program, goes on with them.
    ///
    /// Waits at most about `deadline`. Returns the workflows whose step still runs after that; they are taken over when
    /// this process ends.
    pub fn shutdown(&self, deadline: Duration) -> Vec<WorkflowId> {
        if self.core().enter("Engine::shutdown").is_err() {
            return Vec::new();
        }
        self.guard.services.shut_down(self.core(), deadline)
    }
}

impl Guard {
    fn enter_the_fleet(&self) -> Result<()> {
        let core = &self.core;
        #[cfg(feature = "tokio")]
        if core.registry.has(Kind::Async) {
            core.tasks.ensure_a_runtime().map_err(|error| Error::InvalidOption {
                what: "async runtime".to_owned(),
                reason: format!("the engine cannot start one: {error}"),
            })?;
        }
        let about = Membership {
            app: core.options.app.clone(),
            version: core.options.version.clone(),
            workflows: core.registry.freeze().to_vec(),
            queues: std::iter::once(INTERNAL_QUEUE.to_owned())
                .chain(core.registry.queues().into_keys())
                .collect(),
        };
        let executor = core.liveness.join(core.options.label.as_deref(), &about)?;
        let (app, version) = (about.app.as_str().into(), about.version.as_str().into());
        let identity = Arc::new(Identity { executor, app, version });
        let served = Served { identity: identity.clone(), names: about.workflows, queues: about.queues };
        let served = self.make_known(served);
        let served = served.inspect_err(|_| core.liveness.leave(&identity.executor, true))?;
        core.set_served(served);
        if core.is_stopping() {
            // A shutdown came in between. It found no executor that could leave the fleet.
            core.liveness.leave(&identity.executor, true);
            return Err(Error::ShuttingDown);
        }
        core.fleet.raise();
        Ok(())
    }
}

impl Guard {
    /// Makes known what this executor serves. Revives the workflows that were refused because no program served them.
    fn make_known(&self, served: Served) -> Result<Served> {
        let core = &self.core;
        let (identity, at) = (&served.identity, core.options.clock.now());
        core.commit_from_outside(Write::RegisterVersion { identity: identity.clone(), at })?;
        for (name, options) in core.registry.queues() {
            let (identity, queue) = (identity.clone(), name.as_str().into());
            let registered =
                core.commit_from_outside(Write::RegisterQueue { identity, queue, options, at })?;
            if let Verdict::Refused(Refusal::OtherApplication { name: application }) = registered {
                return Err(Error::QueueInUse { name, application });
            }
        }
        recovery::revive(identity, &served.names, at, |write| core.commit_from_outside(write))?;
        Ok(served)
    }
}

impl Services {
    fn shut_down(&self, core: &Arc<Core>, deadline: Duration) -> Vec<WorkflowId> {
        let watch = Stopwatch::start();
        // A healthy thread that was told to end needs a moment, even when the deadline is short.
        let left = || deadline.saturating_sub(watch.elapsed()).max(SERVICE_GRACE);
        core.stopping.store(true, Ordering::SeqCst);
        for run in core.runs.all() {
            run.tell_to_stop(Stop::ShuttingDown);
        }
        core.hub.wake_all();
        core.fleet.raise();
        // The fleet's thread may be in a commit that keeps failing: half of the time is left for the workers.
        let fleet_ended = self.fleet.join_within((left() / 2).max(SERVICE_GRACE));
        // Runs that the fleet's thread took up in its last moment.
        for run in core.runs.all() {
            run.tell_to_stop(Stop::ShuttingDown);
        }
        let all_ended = core.workers.close(deadline.saturating_sub(watch.elapsed()));
        #[cfg(feature = "tokio")]
        let (all_ended, dropped) = {
            let (tasks_ended, dropped) = end_tasks(core, deadline.saturating_sub(watch.elapsed()));
            (all_ended && tasks_ended, dropped)
        };
        core.starts.wait_until_none(left());
        core.committer.wait_for_the_unheard(left());
        core.committer.close();
        let committer_ended = self.committer.join_within(left());
        core.outage.notices.close();
        #[cfg(feature = "tokio")]
        {
            core.errands.close();
            core.timer.close();
            self.timer.join_within(SERVICE_GRACE);
        }
        if fleet_ended && all_ended && committer_ended {
            leave_within(core, Core::leave);
            return Vec::new();
        }
        // While a body or a commit runs, this process must count as living: other processes would run its workflows
        // too. The thread that ends last leaves the fleet.
        leave_within(core, Core::leave_after_the_last);
        let left = core.runs.all().into_iter();
        #[cfg(feature = "tokio")]
        let left = left.chain(dropped);
        left.map(|run| run.workflow().clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Lets async bodies come to the end of their steps. Drops the bodies that are still running when the time is over.
/// Says whether all have ended, and returns the runs that have not: they could not be given back.
#[cfg(feature = "tokio")]
fn end_tasks(core: &Core, patience: Duration) -> (bool, Vec<Arc<Run>>) {
    // A start that comes now gives its workflow back itself.
    core.tasks.take_no_more();
    let mut all_ended = core.tasks.wait_until_all_ended(patience);
    if !all_ended {
        core.tasks.hurry();
        // This includes runs that a running body has started since.
        core.runs.all().iter().for_each(|run| run.tell_to_stop(Stop::ShuttingDown));
        all_ended = core.tasks.wait_until_all_ended(SERVICE_GRACE);
    }
    let left = if all_ended { Vec::new() } else { core.runs.all() };
    core.tasks.close();
    (all_ended, left)
}

/// Leaves the fleet. A database that does not answer is not waited for: the other executors find out by themselves.
fn leave_within(core: &Arc<Core>, leave: fn(&Core)) {
    match Service::spawn("piton-leave", core, move |core| leave(core)) {
        Ok(leaving) => drop(leaving.join_within(LEAVE_WITHIN)),
        Err(_) => leave(core),
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (core, services) = (self.core.clone(), self.services.clone());
        if core.refuse_in_a_fork().is_err() {
            // To close the parent's connections here would take its locks away.
            std::mem::forget((core, services));
            return;
        }
        let end = move || {
            let left = services.shut_down(&core, DROP_DEADLINE);
            if !left.is_empty() {
                say!(
                    warn,
                    "the engine was dropped while workflows still ran a step (count: {}); call Engine::shutdown before \
                     the drop",
                    left.len()
                );
            }
        };
        // A shutdown in the body of a step would wait for that step, and a task must not block. Neither waits here.
        if is_worker() || is_in_an_async_task() {
            let _ = thread::Builder::new().name("piton-shutdown".to_owned()).spawn(end);
        } else {
            end();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("options", &self.core().options).finish_non_exhaustive()
    }
}

/// A thread of the engine's own.
struct Service {
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: Arc<Signal>,
}

impl Service {
    fn spawn(name: &str, core: &Arc<Core>, body: impl FnOnce(&Arc<Core>) + Send + 'static) -> Result<Self> {
        let ended = Arc::<Signal>::default();
        let (core, ends) = (core.clone(), RaisedAtTheEnd(ended.clone()));
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _ends = ends;
            body(&core);
        });
        let refuse =
            |e: io::Error| Error::InvalidOption { what: format!("thread {name}"), reason: e.to_string() };
        Ok(Self { thread: Mutex::new(Some(thread.map_err(refuse)?)), ended })
    }

    /// Whether the thread has ended within this time. A thread that drops the last engine cannot wait for itself.
    fn join_within(&self, time: Duration) -> bool {
        let mut thread = lock(&self.thread);
        if thread.as_ref().is_none_or(|thread| thread.thread().id() == thread::current().id()) {
            return true;
        }
        let watch = Stopwatch::start();
        while self.ended.now() == 0 {
            let Some(left) = time.checked_sub(watch.elapsed()) else { return false };
            self.ended.wait_at_most(0, left);
        }
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
        true
    }
}

/// Raises the signal when the thread ends, also by a panic.
struct RaisedAtTheEnd(Arc<Signal>);

impl Drop for RaisedAtTheEnd {
    fn drop(&mut self) {
        self.0.raise();
    }
}
