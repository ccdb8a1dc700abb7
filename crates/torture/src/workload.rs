//! The workflows of the torture: every kind of durable operation, each with a value that says who made it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use engine::sql::SqlError;
use engine::{BoxError, Context, Engine, Error, Result, StepInfo, StepOptions, Workflow, WorkflowId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ledger::Ledger;
use crate::points::{Killer, Point};

/// Kinds of workflows; the number of one says its kind.
pub const KINDS: u64 = 6;

/// Long enough to be slept through without a thread, also on a busy machine.
const EVERYTHINGS_NAP_MS: u64 = 100;

/// What the workflows work with.
pub struct Workload {
    ledger: Ledger,
    killer: Arc<Killer>,
}

/// What every workflow returns: the values that it saw, in order.
pub type Seen = Vec<String>;

/// The references to start them by.
pub struct Workflows {
    kinds: Vec<Workflow<u64, Seen>>,
    all: Workflow<u64, Seen>,
}

impl Workflows {
    /// The workflow of this number.
    pub fn of(&self, number: u64) -> &Workflow<u64, Seen> {
        &self.kinds[usize::try_from(number % KINDS).unwrap_or_default()]
    }

    /// The one that does everything.
    pub fn all(&self) -> &Workflow<u64, Seen> {
        &self.all
    }
}

/// Its unique value kills the process while it is encoded or decoded, if that is the point.
#[derive(Debug)]
struct Value {
    text: String,
}

thread_local! {
    /// The killer, for the code of [`Value`], which gets no arguments; and whether a step is being replayed.
    static KILLER: std::cell::RefCell<Option<(Arc<Killer>, bool)>> = const { std::cell::RefCell::new(None) };
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
    /// Writes to this ledger, and kills where it is told to.
    pub fn new(ledger: Ledger, killer: Arc<Killer>) -> Arc<Self> {
        Arc::new(Self { ledger, killer })
    }

    /// A step whose body leaves a trace and returns a value that no other execution returns.
    fn step(&self, ctx: &mut Context, name: &str) -> Result<String> {
        self.killer.at(Point::BeforeStep);
        KILLER.set(Some((self.killer.clone(), false)));
        let run = ctx.attempt();
        let value = ctx.step(name, |step| {
            KILLER.set(Some((self.killer.clone(), true)));
            self.killer.at(Point::BeforeEffect);
            self.ledger.body(step.workflow_id().as_str(), name, run);
            self.killer.at(Point::AfterEffect);
            Ok::<_, Error>(Value { text: unique() })
        });
        KILLER.set(None);
        let value = value?.text;
        self.ledger.saw(ctx.workflow_id().as_str(), name, run, &value);
        self.killer.at(Point::AfterStep);
        Ok(value)
    }

    /// A step that fails twice before it succeeds.
    fn flaky(&self, ctx: &mut Context, name: &str) -> Result<String> {
        const OPTIONS: StepOptions = StepOptions::retries().interval(Duration::from_millis(1));
        let run = ctx.attempt();
        let value = ctx.step_with(name, &OPTIONS, |step: &StepInfo| -> Result<String, BoxError> {
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

    fn nap(ctx: &mut Context, millis: u64) -> Result<()> {
        ctx.sleep(Duration::from_millis(millis))
    }

    fn steps(&self, ctx: &mut Context) -> Result<Seen> {
        (0..4).map(|n| self.step(ctx, &format!("step-{n}"))).collect()
    }

    fn transactions(&self, ctx: &mut Context) -> Result<Seen> {
        Ok(vec![self.transaction(ctx, "tx-0")?, self.step(ctx, "between")?, self.transaction(ctx, "tx-1")?])
    }

    fn sleeper(&self, ctx: &mut Context) -> Result<Seen> {
        let first = self.step(ctx, "before")?;
        Self::nap(ctx, 3)?;
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
        for (n, value) in seen.iter().enumerate() {
            self.ledger.saw(ctx.workflow_id().as_str(), &format!("seen-{n}"), ctx.attempt(), value);
        }
        Ok(seen)
    }

    /// A message to itself and one to its child.
    fn messenger(ctx: &mut Context, listener: &Workflow<u64, Seen>) -> Result<Seen> {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "self", format!("{me} to itself"))?;
        let child = ctx.start(listener, 0)?;
        let id: WorkflowId = child.id().clone();
        ctx.send(&id, "parent", format!("{me} to its child"))?;
        let mut seen = child.result(ctx)?;
        seen.push(
            ctx.recv::<String>("self", Duration::from_secs(60))?.unwrap_or_else(|| "nothing".to_owned()),
        );
        Ok(seen)
    }

    fn listener(ctx: &mut Context) -> Result<Seen> {
        let message = ctx.recv::<String>("parent", Duration::from_secs(60))?;
        Ok(vec![message.unwrap_or_else(|| "nothing".to_owned())])
    }

    /// Each kind of write once.
    fn everything(&self, ctx: &mut Context, leaf: &Workflow<u64, Seen>) -> Result<Seen> {
        let me = ctx.workflow_id().clone();
        let mut seen = vec![self.step(ctx, "step")?, self.transaction(ctx, "tx")?];
        ctx.send(&me, "self", "hello".to_owned())?;
        seen.extend(ctx.run(leaf, 0)?);
        let beside = ctx.start(leaf, 1)?;
        Self::nap(ctx, EVERYTHINGS_NAP_MS)?;
        seen.extend(beside.result(ctx)?);
        seen.push(
            ctx.recv::<String>("self", Duration::from_secs(60))?.unwrap_or_else(|| "nothing".to_owned()),
        );
        seen.push(self.flaky(ctx, "flaky")?);
        Ok(seen)
    }

    /// Registers all of them.
    ///
    /// # Errors
    /// [`engine::Error::AlreadyRegistered`].
    pub fn register(self: &Arc<Self>, engine: &Engine) -> Result<Workflows> {
        type Body = fn(&Workload, &mut Context) -> Result<Seen>;
        let simple = |name: &str, body: Body| {
            let workload = self.clone();
            engine.register(name, move |ctx: &mut Context, _: u64| body(&workload, ctx))
        };
        let steps = simple("steps", Self::steps)?;
        let transactions = simple("transactions", Self::transactions)?;
        let sleeper = simple("sleeper", Self::sleeper)?;
        let leaf = simple("leaf", |workload, ctx| Ok(vec![workload.step(ctx, "leaf")?]))?;
        let listener = simple("listener", |_, ctx| Self::listener(ctx))?;
        let (workload, child) = (self.clone(), leaf.clone());
        let parent =
            engine.register("parent", move |ctx: &mut Context, _: u64| workload.parent(ctx, &child))?;
        let messenger =
            engine.register("messenger", move |ctx: &mut Context, _: u64| Self::messenger(ctx, &listener))?;
        let workload = self.clone();
        let all = engine
            .register("everything", move |ctx: &mut Context, _: u64| workload.everything(ctx, &leaf))?;
        let kinds = vec![steps, transactions, sleeper, parent, messenger, all.clone()];
        Ok(Workflows { kinds, all })
    }
}

/// A text that no other call returns, in any process.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);
    format!("{:x}-{}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}
