//! The engine: open, register, launch, shut down. Assembles the parts; nobody imports it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::core::Core;
use crate::error::{BoxError, Error, Result, Stop};
use crate::id::WorkflowId;
use crate::limits::DROP_DEADLINE;
use crate::options::{EngineOptions, WorkflowOptions};
use crate::registry::Workflow;
use crate::sync::lock;
use crate::sysdb::{Identity, Membership, SystemDatabase, Write};
use crate::{fleet, recovery};

/// An open engine. Clones are the same engine; when the last one is dropped it shuts down.
///
/// A workflow function should not hold one: the engine holds the function, and neither would ever go.
#[derive(Clone)]
pub struct Engine {
    guard: Arc<Guard>,
}

/// Owns the engine's own threads and ends them.
struct Guard {
    core: Arc<Core>,
    launched: AtomicBool,
    fleet: Mutex<Option<JoinHandle<()>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Options for an engine; [`EngineOptions::open`] makes it.
    pub fn options() -> EngineOptions {
        EngineOptions::new()
    }

    pub(crate) fn assemble(options: EngineOptions, database: SystemDatabase) -> Result<Self> {
        let core = Arc::new(Core::new(options, database));
        let committer = spawn("piton-committer", &core, |core| core.committer.serve_outside())?;
        let guard = Guard {
            core,
            launched: AtomicBool::new(false),
            fleet: Mutex::default(),
            committer: Mutex::new(Some(committer)),
        };
        Ok(Self { guard: Arc::new(guard) })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.guard.core
    }

    /// Makes a function a workflow under a name that is recorded with every run. Keep the name when the function
    /// is renamed: runs in the database go on under it.
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`], [`Error::AlreadyLaunched`], [`Error::InvalidName`].
    pub fn register<I, O, E>(
        &self,
        name: &str,
        function: impl Fn(&mut Context, I) -> Result<O, E> + Send + Sync + 'static,
    ) -> Result<Workflow<I, O>>
    where
        I: DeserializeOwned,
        O: Serialize + DeserializeOwned,
        E: Into<BoxError>,
    {
        self.register_with(name, WorkflowOptions::new(), function)
    }

    /// The same with options.
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
        E: Into<BoxError>,
    {
        self.core().registry.register(name, options, function)
    }

    /// Starts to run workflows: those to come, and those that an executor left behind when it died.
    ///
    /// # Errors
    /// [`Error::AlreadyLaunched`], [`Error::ShuttingDown`], [`Error::Open`] when this process cannot show the
    /// others that it lives, [`Error::Database`].
    pub fn launch(&self) -> Result<()> {
        let core = self.core();
        if core.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        if self.guard.launched.swap(true, Ordering::SeqCst) {
            return Err(Error::AlreadyLaunched);
        }
        let about = Membership {
            app: core.options.app.clone(),
            version: core.options.version.clone(),
            workflows: core.registry.freeze().to_vec(),
        };
        let executor = core.liveness.join(core.options.label.as_deref(), &about)?;
        let identity = Arc::new(Identity { executor, app: about.app, version: about.version });
        let now = core.options.clock.now();
        core.commit_from_outside(Write::RegisterVersion { identity: identity.clone(), at: now })?;
        let revive = Write::Revive { identity: identity.clone(), known: about.workflows, at: now };
        core.commit_from_outside(revive)?;
        recovery::at_launch(core, &identity)?;
        core.set_identity(identity);
        let fleet = spawn("piton-fleet", core, fleet::serve)?;
        *lock(&self.guard.fleet) = Some(fleet);
        Ok(())
    }

    /// Takes no more work, lets running steps end and be recorded, and gives the workflows back: another
    /// executor, or the next start, goes on with them. Waits at most `deadline` and returns the workflows whose
    /// step still runs then; those are taken over when this process ends.
    pub fn shutdown(&self, deadline: Duration) -> Vec<WorkflowId> {
        self.guard.shutdown(deadline)
    }
}

impl Guard {
    fn shutdown(&self, deadline: Duration) -> Vec<WorkflowId> {
        let core = &self.core;
        core.stopping.store(true, Ordering::SeqCst);
        for run in core.runs.all() {
            run.tell_to_stop(Stop::ShuttingDown);
        }
        core.hub.wake_all();
        core.fleet.raise();
        join(&self.fleet);
        // What the fleet took up in its last moment.
        for run in core.runs.all() {
            run.tell_to_stop(Stop::ShuttingDown);
        }
        let all_ended = core.workers.close(deadline);
        core.committer.close();
        join(&self.committer);
        if !all_ended {
            // As long as a body runs this process lives in the eyes of the others, or they would run it too.
            return core.runs.all().iter().map(|run| run.workflow().clone()).collect();
        }
        if let Ok(identity) = core.identity() {
            let owns_nothing = core.reader.owned_by(&identity.executor).is_ok_and(|owned| owned.is_empty());
            core.liveness.leave(&identity.executor, owns_nothing);
        }
        Vec::new()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let left = self.shutdown(DROP_DEADLINE);
        if !left.is_empty() {
            log::warn!("the engine was dropped while {} workflows ran a step", left.len());
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("options", &self.core().options).finish_non_exhaustive()
    }
}

fn spawn(
    name: &str,
    core: &Arc<Core>,
    body: impl FnOnce(&Arc<Core>) + Send + 'static,
) -> Result<JoinHandle<()>> {
    let core = core.clone();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || body(&core))
        .map_err(|e| Error::InvalidOption { what: format!("thread {name}"), reason: e.to_string() })
}

/// A thread that drops the last engine from within cannot wait for itself.
fn join(slot: &Mutex<Option<JoinHandle<()>>>) {
    if let Some(handle) = lock(slot).take()
        && handle.thread().id() != thread::current().id()
    {
        let _ = handle.join();
    }
}
