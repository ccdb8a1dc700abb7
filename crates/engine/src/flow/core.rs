//! The state that the parts of one engine share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::Duration;

use crate::flow::options::EngineOptions;
use crate::flow::registry::{Kind, Registry};
use crate::flow::workflow;
use crate::machines::committer::{Caller, CommitError, Committer, Surroundings};
#[cfg(feature = "tokio")]
use crate::machines::errands::Errands;
use crate::machines::slots::{Slot, Slots};
use crate::machines::waiter::Hub;
use crate::machines::worker::Workers;
#[cfg(feature = "tokio")]
use crate::machines::{tasks::Tasks, timer::Timer};
use crate::pure::blocking::Blocking;
use crate::pure::clock::Stopwatch;
use crate::pure::due::Dues;
use crate::pure::error::{Error, Result, Stop};
use crate::pure::id::{ExecutorId, OwnerToken, WorkflowId};
#[cfg(feature = "tokio")]
use crate::pure::limits::CALL_WITHIN;
use crate::pure::sync::{Inflight, Signal, lock};
use crate::sysdb::outage::Outage;
use crate::sysdb::{Identity, Liveness, Owner, Reader, Served, SystemDatabase, Verdict, Write};

pub(crate) struct Core {
    pub(crate) options: EngineOptions,
    pub(crate) registry: Registry,
    pub(crate) committer: Committer,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) liveness: Arc<dyn Liveness>,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) transactions: crate::sysdb::TransactionSteps,
    pub(crate) hub: Arc<Hub>,
    pub(crate) workers: Workers,
    #[cfg(feature = "tokio")]
    pub(crate) tasks: Tasks,
    #[cfg(feature = "tokio")]
    pub(crate) errands: Errands,
    #[cfg(feature = "tokio")]
    pub(crate) timer: Timer,
    pub(crate) runs: Runs,
    pub(crate) dues: Dues,
    blocking: Blocking,
    /// Raised when there may be work for the fleet's thread.
    pub(crate) fleet: Arc<Signal>,
    pub(crate) sweep_every: Duration,
    pub(crate) outage: Arc<Outage>,
    pub(crate) stopping: AtomicBool,
    /// Starts of callers that are under way. A shutdown lets them come to their end.
    pub(crate) starts: Inflight,
    /// The process that opened the engine.
    process: u32,
    backlog: AtomicBool,
    /// Whether the engine has shut down over a running body.
    leaving: AtomicBool,
    left: Once,
    served: OnceLock<Arc<Served>>,
}

impl Core {
    pub(crate) fn new(options: EngineOptions, database: SystemDatabase) -> Self {
        let (fleet, outage, hub) = (database.fleet, database.outage, Arc::<Hub>::default());
        let around = Surroundings {
            gate: options.gate.clone(),
            observers: options.observers.clone(),
            fleet: fleet.clone(),
            hub: hub.clone(),
            outage: outage.clone(),
            steady_clock: options.clock.steady(),
        };
        let committer = Committer::new(database.writer, around);
        Self {
            workers: Workers::new(options.workers_max, options.stack_bytes),
            #[cfg(feature = "tokio")]
            tasks: Tasks::new(options.tasks_max),
            #[cfg(feature = "tokio")]
            errands: Errands::default(),
            #[cfg(feature = "tokio")]
            timer: Timer::new(&options.clock),
            registry: Registry::default(),
            committer,
            reader: database.reader,
            liveness: database.liveness,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            transactions: database.transactions,
            sweep_every: database.sweep_every,
            outage,
            hub,
            runs: Runs::default(),
            dues: Dues::default(),
            blocking: Blocking::default(),
            fleet,
            stopping: AtomicBool::new(false),
            starts: Inflight::default(),
            process: std::process::id(),
            backlog: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            left: Once::new(),
            served: OnceLock::new(),
            options,
        }
    }

    /// The identity of this executor; known from the launch on.
    pub(crate) fn identity(&self) -> Result<&Arc<Identity>> {
        self.served().map(|served| &served.identity)
    }

    /// The names and queues that this executor takes up; known from the launch on.
    pub(crate) fn served(&self) -> Result<&Arc<Served>> {
        self.served.get().ok_or(Error::NotLaunched)
    }

    /// The launch calls this once.
    pub(crate) fn set_served(&self, served: Served) {
        let _ = self.served.set(Arc::new(served));
    }

    /// Whether this executor surely lives. An executor that others may take for dead takes no workflow up.
    pub(crate) fn is_alive(&self, executor: &ExecutorId) -> bool {
        self.liveness.covers(executor, Stopwatch::start())
    }

    /// A slot for a workflow of this name that this executor is about to start, if it may run the workflow at once.
    pub(crate) fn slot_of(&self, executor: &ExecutorId, name: &str) -> Option<Slot> {
        if self.is_alive(executor) { self.slots_of(self.registry.kind_of(name)?).try_one() } else { None }
    }

    /// The slots of the workflows of one kind.
    pub(crate) fn slots_of(&self, kind: Kind) -> &Arc<Slots> {
        match kind {
            Kind::Plain => &self.workers.slots,
            #[cfg(feature = "tokio")]
            Kind::Async => &self.tasks.slots,
        }
    }

    /// Refuses a call in a fork: it would wait for threads that stayed in the parent, or spoil the parent's
    /// connections.
    pub(crate) fn refuse_in_a_fork(&self) -> Result<()> {
        let (opened_in, this) = (self.process, std::process::id());
        if opened_in == this { Ok(()) } else { Err(Error::Forked { opened_in, this }) }
    }

    /// Every call of a program begins with this, under its name. It is refused in a fork, and warned of if it blocks a
    /// task.
    pub(crate) fn enter(&self, call: &'static str) -> Result<()> {
        self.refuse_in_a_fork()?;
        self.blocking.begins(call);
        Ok(())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Notes that more workflows wait in the database than there are slots: a freed slot must call the fleet.
    pub(crate) fn expect_backlog(&self) {
        self.note_backlog(true);
    }

    pub(crate) fn note_backlog(&self, backlog: bool) {
        self.backlog.store(backlog, Ordering::SeqCst);
    }

    pub(crate) fn has_backlog(&self) -> bool {
        self.backlog.load(Ordering::SeqCst)
    }

    /// Calls the fleet when a good part of the slots of this kind is free. A claim is a commit, so it should take many
    /// workflows. The fleet's next look notices fewer slots, too. A queue may have room again under its limit.
    pub(crate) fn slot_was_freed(&self, run: &Run, kind: Kind) {
        if run.queue.is_some() || (self.has_backlog() && self.slots_of(kind).many_are_free()) {
            self.fleet.raise();
        }
    }

    /// Leaves the fleet and lets go of the database, also while the program still holds the engine. This happens once:
    /// a second call waits for the end of the first.
    pub(crate) fn leave(&self) {
        self.left.call_once(|| self.leave_now());
    }

    fn leave_now(&self) {
        if let Ok(identity) = self.identity() {
            let owns_nothing = self.reader.owned_by(&identity.executor).is_ok_and(|owned| owned.is_empty());
            self.liveness.leave(&identity.executor, owns_nothing);
        }
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        self.transactions.close();
        self.reader.close();
        self.committer.close_writer();
    }

    /// Leaves the fleet as soon as no workflow runs here any more, after the committer has closed.
    pub(crate) fn leave_after_the_last(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        self.leave_if_last();
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Call this when a run has ended.
    pub(crate) fn leave_if_last(&self) {
        if self.leaving.load(Ordering::SeqCst) && self.runs.all().is_empty() && self.committer.is_idle() {
            self.leave();
        }
    }

    /// Enters a run that is about to be started.
    pub(crate) fn entered(&self, run: Arc<Run>) -> Entered<'_> {
        self.runs.enter(&run);
        Entered { core: self, run, kept: false, answered: false }
    }

    /// Commits a write of a caller's task.
    #[cfg(feature = "tokio")]
    pub(crate) async fn commit_from_a_task(&self, write: Write) -> Result<Verdict> {
        crate::pure::inside::refuse()?;
        self.refuse_in_a_fork()?;
        let now = self.options.clock.steady().now();
        let alarm = self.timer.at(now.checked_add(CALL_WITHIN).unwrap_or(now));
        self.committer.commit_for_a_caller(write, alarm).await.map_err(refused)
    }

    /// Commits a write of a caller's thread.
    pub(crate) fn commit_from_outside(&self, write: Write) -> Result<Verdict> {
        crate::pure::inside::refuse()?;
        self.enter(match &write {
            Write::StartWorkflow(_) => "Workflow::start",
            Write::Send { .. } => "Engine::send",
            Write::Cancel { .. } => "Engine::cancel",
            Write::Resume { .. } => "Engine::resume",
            _ => "Engine::launch",
        })?;
        self.committer.commit(write, Caller::Outside).map_err(refused)
    }
}

/// The caller's error for a write without a verdict.
fn refused(error: CommitError) -> Error {
    match error {
        CommitError::Closed => Error::ShuttingDown,
        CommitError::Refused(error) => error.into(),
        CommitError::Unanswered { begun, reason } => Error::Unanswered { begun, reason },
    }
}

/// The executions of this process.
#[derive(Default)]
pub(crate) struct Runs(Mutex<HashMap<OwnerToken, Vec<Arc<Run>>>>);

/// One execution, as other threads see it: they can tell it to stop.
pub(crate) struct Run {
    pub(crate) owner: Owner,
    /// The queue from which it came, if that is not the engine's own.
    pub(crate) queue: Option<Arc<str>>,
    stop: Mutex<Option<Stop>>,
    /// Its row is in the database. So if the row is missing later, it was deleted.
    has_row: AtomicBool,
    /// A time after which its claim came: the workflow is surely its own from then on.
    sure_at: Mutex<Stopwatch>,
    /// Raised when the execution should interrupt its wait and look.
    pub(crate) signal: Arc<Signal>,
}

impl Run {
    /// The run of an owner whose start is not committed yet.
    pub(crate) fn new(owner: Owner) -> Arc<Self> {
        Self::build(owner, None, Stopwatch::start(), false)
    }

    /// The run of an owner whose claim came some time after `asked`.
    pub(crate) fn claimed(owner: Owner, queue: Option<Arc<str>>, asked: Stopwatch) -> Arc<Self> {
        Self::build(owner, queue, asked, true)
    }

    fn build(owner: Owner, queue: Option<Arc<str>>, asked: Stopwatch, has_row: bool) -> Arc<Self> {
        let (sure_at, has_row) = (Mutex::new(asked), AtomicBool::new(has_row));
        Arc::new(Self { owner, queue, stop: Mutex::default(), has_row, sure_at, signal: Arc::default() })
    }

    /// Call this after its start was committed.
    pub(crate) fn was_started(&self) {
        self.has_row.store(true, Ordering::SeqCst);
    }

    pub(crate) fn workflow(&self) -> &WorkflowId {
        &self.owner.workflow
    }

    pub(crate) fn stop(&self) -> Option<Stop> {
        lock(&self.stop).clone()
    }

    pub(crate) fn sure_at(&self) -> Stopwatch {
        *lock(&self.sure_at)
    }

    pub(crate) fn is_sure_since(&self, looked: Stopwatch) {
        *lock(&self.sure_at) = looked;
    }

    /// Only the first reason counts.
    pub(crate) fn tell_to_stop(&self, reason: Stop) {
        lock(&self.stop).get_or_insert(reason);
        self.signal.raise();
    }
}

/// Tells those of these runs to stop that are of one of the workflows.
pub(crate) fn tell_to_stop(running: &[Arc<Run>], workflows: &[WorkflowId], reason: &Stop) {
    for run in running.iter().filter(|run| workflows.contains(run.workflow())) {
        run.tell_to_stop(reason.clone());
    }
}

/// A run whose start is on its way into the database. When this is dropped, the run leaves again, unless it is kept.
pub(crate) struct Entered<'c> {
    core: &'c Core,
    run: Arc<Run>,
    kept: bool,
    answered: bool,
}

impl Entered<'_> {
    /// Notes that the answer to the start is known.
    pub(crate) fn is_answered(&mut self) {
        self.answered = true;
    }

    pub(crate) fn keep(mut self) -> Arc<Run> {
        self.kept = true;
        self.run.clone()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if !self.answered {
            // The start may be committed, or yet be, for this executor, which will not run it. The release comes after
            // it.
            workflow::release_unheard(self.core, &self.run, None);
        }
        self.core.runs.leave(&self.run);
    }
}

impl Runs {
    /// Enters a run before its claim is committed. A row that is `PENDING` under this executor and has no run here was
    /// lost.
    pub(crate) fn enter(&self, run: &Arc<Run>) {
        lock(&self.0).entry(run.owner.token.clone()).or_default().push(run.clone());
    }

    pub(crate) fn leave(&self, run: &Arc<Run>) {
        let mut runs = lock(&self.0);
        if let Some(list) = runs.get_mut(&run.owner.token) {
            list.retain(|other| !Arc::ptr_eq(other, run));
            if list.is_empty() {
                runs.remove(&run.owner.token);
            }
        }
    }

    /// Keeps a token for a claim whose workflows are not known yet.
    pub(crate) fn reserve(&self, token: &OwnerToken) {
        lock(&self.0).entry(token.clone()).or_default();
    }

    /// Gives back the token of `reserve`. Runs that were entered meanwhile stay.
    pub(crate) fn unreserve(&self, token: &OwnerToken) {
        let mut runs = lock(&self.0);
        if runs.get(token).is_some_and(Vec::is_empty) {
            runs.remove(token);
        }
    }

    /// Whether the owner's run is here, or may soon be, because its token is reserved.
    pub(crate) fn has(&self, owner: &Owner) -> bool {
        let runs = lock(&self.0);
        runs.get(&owner.token)
            .is_some_and(|list| list.is_empty() || list.iter().any(|run| run.owner == *owner))
    }

    /// The owners of runs whose row is in the database, or was.
    pub(crate) fn owners(&self) -> Vec<Owner> {
        let runs = lock(&self.0);
        let there = runs.values().flatten().filter(|run| run.has_row.load(Ordering::SeqCst));
        there.map(|run| run.owner.clone()).collect()
    }

    pub(crate) fn tell_to_stop(&self, owner: &Owner, reason: &Stop) {
        let told: Vec<_> = lock(&self.0).get(&owner.token).into_iter().flatten().cloned().collect();
        told.iter().filter(|run| run.owner == *owner).for_each(|run| run.tell_to_stop(reason.clone()));
    }

    /// How many runs of this queue are here.
    pub(crate) fn count_of(&self, queue: &str) -> usize {
        let runs = lock(&self.0);
        runs.values().flatten().filter(|run| run.queue.as_deref() == Some(queue)).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        lock(&self.0).values().flatten().cloned().collect()
    }
}
