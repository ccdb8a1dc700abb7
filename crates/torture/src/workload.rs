//! The workflows of the torture: every kind of durable operation, each with a value that names its maker. Each workflow
//! is there twice, as a plain function here and as an async function in the module `async_workload`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use engine::sql::SqlError;
use engine::{
    AsyncContext, BoxError, Context, Engine, Error, Result, StepInfo, StepOptions, Workflow, WorkflowId,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::async_at_once;
use crate::async_workload as asynchronous;
use crate::kinds::Kinds;
use crate::ledger::Ledger;
use crate::points::{Killer, Point};

/// Kinds of workflows; the number of one says its kind.
pub const KINDS: u64 = 9;

/// Long enough to be slept through without a thread, also on a busy machine.
pub(crate) const EVERYTHINGS_NAP: Duration = Duration::from_millis(100);

/// Short enough to be slept through on a thread.
pub(crate) const SHORT_NAP: Duration = Duration::from_millis(3);

pub(crate) const FOUR_STEPS: [&str; 4] = ["step-0", "step-1", "step-2", "step-3"];

/// Longer than any message of the torture takes: its sender may stand in a backlog of a slow machine. A workflow that
/// waits in vain is found sooner, as one that is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// A step that fails now and then.
pub(crate) const FLAKY: StepOptions = StepOptions::retries().interval(Duration::from_millis(1));

/// The parts with which the workflows work.
pub struct Workload {
    pub(crate) ledger: Ledger,
    pub(crate) killer: Arc<Killer>,
}

/// The output of every workflow: the values that it saw, in order.
pub type Seen = Vec<String>;

/// The references by which the workflows are started.
pub struct Workflows {
    kinds: Vec<Workflow<u64, Seen>>,
    all: Workflow<u64, Seen>,
}

impl Workflows {
    /// The workflow of this number.
    pub fn of(&self, number: u64) -> &Workflow<u64, Seen> {
        &self.kinds[usize::try_from(number % KINDS).unwrap_or_default()]
    }

    /// The workflow with all kinds of operations.
    pub fn all(&self) -> &Workflow<u64, Seen> {
        &self.all
    }
}

/// A unique value that kills the process while it is encoded or decoded, if the test asks for it.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) text: String,
}

thread_local! {
    /// The killer, for the code of [`Value`], which gets no arguments; and whether the step is live or being replayed.
    static KILLER: std::cell::RefCell<Option<(Arc<Killer>, bool)>> = const { std::cell::RefCell::new(None) };
}

/// Notes that a step begins on this thread: the next value to be decoded is its record. In a task that holds until the
/// next await, which is long enough: a step with a record decodes it without an await.
pub(crate) fn step_begins(killer: &Arc<Killer>) {
    KILLER.set(Some((killer.clone(), false)));
}

/// Notes that the body of a step is about to return: the next value to be encoded and decoded is its output.
pub(crate) fn body_ends(killer: &Arc<Killer>) {
    KILLER.set(Some((killer.clone(), true)));
}

pub(crate) fn step_ends() {
    KILLER.set(None);
}

fn at_codec(live: Point, replayed: Option<Point>) {
    KILLER.with_borrow(|killer| {
        if let Some((killer, is_live)) = killer {
            if *is_live {
                killer.at(live);
            } else if let Some(replayed) = replayed {
                killer.at(replayed);
            }
        }
    });
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        at_codec(Point::WhileEncoding, None);
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        at_codec(Point::WhileDecoding, Some(Point::WhileReplaying));
        Ok(Self { text: String::deserialize(deserializer)? })
    }
}

impl Workload {
    /// A workload that writes to this ledger, and whose killer acts where it is told to.
    pub fn new(ledger: Ledger, killer: Arc<Killer>) -> Arc<Self> {
        Arc::new(Self { ledger, killer })
    }

    /// A step whose body leaves a trace and returns a value that no other execution returns.
    pub(crate) fn step(&self, ctx: &mut Context, name: &str) -> Result<String> {
        self.killer.at(Point::BeforeStep);
        step_begins(&self.killer);
        let run = ctx.attempt();
        let value = ctx.step(name, |step| {
            self.killer.at(Point::BeforeEffect);
            self.ledger.body(step.workflow_id().as_str(), name, run);
            self.killer.at(Point::AfterEffect);
            body_ends(&self.killer);
            Ok::<_, Error>(Value { text: unique() })
        });
        step_ends();
        let value = value?.text;
        self.ledger.saw(ctx.workflow_id().as_str(), name, run, &value);
        self.killer.at(Point::AfterStep);
        Ok(value)
    }

    /// A step that fails twice before it succeeds.
    fn flaky(&self, ctx: &mut Context, name: &str) -> Result<String> {
        let run = ctx.attempt();
        let value = ctx.step_with(name, &FLAKY, |step: &StepInfo| -> Result<String, BoxError> {
            self.ledger.body(step.workflow_id().as_str(), name, run);
            if step.attempt() < 3 { Err("not yet".into()) } else { Ok(unique()) }
        })?;
        self.ledger.saw(ctx.workflow_id().as_str(), name, run, &value);
        Ok(value)
    }

    /// One row of the table `effect`, exactly once.
    fn transaction(&self, ctx: &mut Context, name: &str) -> Result<String> {
        let id = ctx.workflow_id().to_string();
        let value = ctx.transaction(name, |tx| {
            let value = unique();
            tx.execute("INSERT INTO effect VALUES ($1, $2, $3)", (&id, name, &value))?;
            Ok::<_, SqlError>(value)
        })?;
        self.ledger.saw(&id, name, ctx.attempt(), &value);
        Ok(value)
    }

    fn steps(&self, ctx: &mut Context) -> Result<Seen> {
        FOUR_STEPS.iter().map(|name| self.step(ctx, name)).collect()
    }

    fn transactions(&self, ctx: &mut Context) -> Result<Seen> {
        Ok(vec![self.transaction(ctx, "tx-0")?, self.step(ctx, "between")?, self.transaction(ctx, "tx-1")?])
    }

    fn sleeper(&self, ctx: &mut Context) -> Result<Seen> {
        let first = self.step(ctx, "before")?;
        ctx.sleep(SHORT_NAP)?;
        Ok(vec![first, self.flaky(ctx, "after")?])
    }

    /// Children inline and beside.
    fn parent(&self, ctx: &mut Context, leaf: &Workflow<u64, Seen>) -> Result<Seen> {
        let mut seen = ctx.run(leaf, 0)?;
        let beside = (1..3).map(|n| ctx.start(leaf, n)).collect::<Result<Vec<_>>>()?;
        seen.push(self.step(ctx, "while they run")?);
        for child in beside {
            seen.extend(child.result(ctx)?);
        }
        self.saw_of_children(ctx.workflow_id(), ctx.attempt(), &seen);
        Ok(seen)
    }

    /// Notes the values that a parent saw of its children.
    pub(crate) fn saw_of_children(&self, parent: &WorkflowId, run: u32, seen: &Seen) {
        for (n, value) in seen.iter().enumerate() {
            self.ledger.saw(parent.as_str(), &format!("seen-{n}"), run, value);
        }
    }

    /// A message to itself and one to its child.
    fn messenger(ctx: &mut Context, listener: &Workflow<u64, Seen>) -> Result<Seen> {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "self", format!("{me} to itself"))?;
        let child = ctx.start(listener, 0)?;
        let id: WorkflowId = child.id().clone();
        ctx.send(&id, "parent", format!("{me} to its child"))?;
        let mut seen = child.result(ctx)?;
        seen.push(or_nothing(ctx.recv("self", PATIENCE)?));
        Ok(seen)
    }

    fn listener(ctx: &mut Context) -> Result<Seen> {
        Ok(vec![or_nothing(ctx.recv("parent", PATIENCE)?)])
    }

    /// Each kind of write once.
    fn everything(&self, ctx: &mut Context, leaf: &Workflow<u64, Seen>) -> Result<Seen> {
        let me = ctx.workflow_id().clone();
        let mut seen = vec![self.step(ctx, "step")?, self.transaction(ctx, "tx")?];
        ctx.send(&me, "self", "hello".to_owned())?;
        seen.extend(ctx.run(leaf, 0)?);
        let beside = ctx.start(leaf, 1)?;
        ctx.sleep(EVERYTHINGS_NAP)?;
        seen.extend(beside.result(ctx)?);
        seen.push(or_nothing(ctx.recv("self", PATIENCE)?));
        seen.push(self.flaky(ctx, "flaky")?);
        Ok(seen)
    }

    /// Registers all workflows, each as a function of the kind whose turn it is.
    ///
    /// # Errors
    /// [`engine::Error::AlreadyRegistered`].
    pub fn register(self: &Arc<Self>, engine: &Engine, kinds: Kinds) -> Result<Workflows> {
        let mut all = Registrar { engine, workload: self, kinds };
        let steps = all.register("steps", Self::steps, asynchronous::steps)?;
        let transactions = all.register("transactions", Self::transactions, asynchronous::transactions)?;
        let sleeper = all.register("sleeper", Self::sleeper, asynchronous::sleeper)?;
        let leaf =
            all.register("leaf", |workload, ctx| Ok(vec![workload.step(ctx, "leaf")?]), asynchronous::leaf)?;
        let listener = all.register("listener", |_, ctx| Self::listener(ctx), asynchronous::listener)?;
        let (plain, task) = (leaf.clone(), leaf.clone());
        let parent = all.register(
            "parent",
            move |workload, ctx| workload.parent(ctx, &plain),
            async move |workload, ctx| asynchronous::parent(workload, ctx, task).await,
        )?;
        let task = listener.clone();
        let messenger = all.register(
            "messenger",
            move |_, ctx| Self::messenger(ctx, &listener),
            async move |_, ctx| asynchronous::messenger(ctx, task).await,
        )?;
        let task = leaf.clone();
        let everything = all.register(
            "everything",
            move |workload, ctx| workload.everything(ctx, &leaf),
            async move |workload, ctx| asynchronous::everything(workload, ctx, task).await,
        )?;
        let [map, join, race] = Self::register_at_once(&mut all)?;
        let kinds =
            vec![steps, transactions, sleeper, parent, messenger, everything.clone(), map, join, race];
        Ok(Workflows { kinds, all: everything })
    }

    fn register_at_once(all: &mut Registrar<'_>) -> Result<[Workflow<u64, Seen>; 3]> {
        let runner = all.register_numbered("runner", Self::runner, async_at_once::runner)?;
        let map = all.register_numbered("map", Self::map, async_at_once::map)?;
        let (plain, task) = (runner.clone(), runner.clone());
        let join = all.register(
            "join",
            move |workload, ctx| workload.join(ctx, &plain),
            async move |workload, ctx| async_at_once::join(workload, ctx, task).await,
        )?;
        let task = runner.clone();
        let race = all.register_numbered(
            "race",
            move |workload, ctx, number| workload.race(ctx, &runner, number),
            async move |workload, ctx, number| async_at_once::race(workload, ctx, task, number).await,
        )?;
        Ok([map, join, race])
    }
}

/// Registers workflows that exist as functions of both kinds.
struct Registrar<'r> {
    engine: &'r Engine,
    workload: &'r Arc<Workload>,
    kinds: Kinds,
}

impl Registrar<'_> {
    fn register<A, Fut>(
        &mut self,
        name: &str,
        plain: impl Fn(&Workload, &mut Context) -> Result<Seen> + Send + Sync + 'static,
        task: A,
    ) -> Result<Workflow<u64, Seen>>
    where
        A: FnOnce(Arc<Workload>, AsyncContext) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Seen>> + Send + 'static,
    {
        self.register_numbered(
            name,
            move |workload, ctx, _| plain(workload, ctx),
            move |workload, ctx, _| task(workload, ctx),
        )
    }

    /// Registers a workflow that depends on the number with which it is started.
    fn register_numbered<A, Fut>(
        &mut self,
        name: &str,
        plain: impl Fn(&Workload, &mut Context, u64) -> Result<Seen> + Send + Sync + 'static,
        task: A,
    ) -> Result<Workflow<u64, Seen>>
    where
        A: FnOnce(Arc<Workload>, AsyncContext, u64) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Seen>> + Send + 'static,
    {
        let workload = self.workload.clone();
        if self.kinds.next_is_async() {
            self.engine.register_async(name, move |ctx, number: u64| task(workload, ctx, number))
        } else {
            self.engine.register(name, move |ctx: &mut Context, number: u64| plain(&workload, ctx, number))
        }
    }
}

/// The text of a received message, or `nothing`.
pub(crate) fn or_nothing(message: Option<String>) -> String {
    message.unwrap_or_else(|| "nothing".to_owned())
}

/// A text that no other call returns, in any process.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);
    format!("{:x}-{}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}
