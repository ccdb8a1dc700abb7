//! Workflows of all kinds of waits, and calls of all kinds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{AsyncContext, AsyncEngine, Context, Error, Handle, Workflow, WorkflowFilter, WorkflowId};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinSet, yield_now};

/// As long as a workflow waits here for a word that may come.
const HOUR: Duration = Duration::from_secs(3600);
/// How many of each are under way at once.
const EACH: u64 = 10;

/// The workflows of an engine.
pub(crate) struct Work {
    /// Steps, a transaction step, a child of either kind, a message to itself.
    everything: Workflow<u64, u64>,
    /// Waits for a message.
    waits: Workflow<u64, u64>,
    /// A transaction step whose body takes so many seconds.
    pub(crate) transaction: Workflow<u64, u64>,
    /// Twenty steps, and one more that does not end before it is let.
    pub(crate) long: Workflow<bool, ()>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    begins: Mutex<Option<oneshot::Sender<()>>>,
    at_their_last_steps: AtomicU64,
    may_end: AtomicBool,
    never: Notify,
}

impl Work {
    pub(crate) fn register(engine: &AsyncEngine) -> Self {
        let state = Arc::<State>::default();
        let plain = engine.blocking().register("plain", |ctx: &mut Context, n: u64| {
            ctx.step("a", |_| engine::ok(n))?;
            ctx.step("b", |_| engine::ok(n + 1))
        });
        let task = engine.register("task", async |mut ctx: AsyncContext, n: u64| {
            let a = ctx.step("a", async |_| engine::ok(n)).await?;
            ctx.step("b", async |_| {
                yield_now().await;
                engine::ok(a + 1)
            })
            .await
        });
        let (plain, task) = (plain.unwrap(), task.unwrap());
        let everything = engine.register("everything", async move |mut ctx: AsyncContext, n: u64| {
            let me = ctx.workflow_id().clone();
            let own = ctx.step("own", async |_| engine::ok(n)).await?;
            ctx.send(&me, "word", own).await?;
            let (first, second) = (ctx.start(&plain, n), ctx.start(&task, n));
            let (first, second) = tokio::join!(first, second);
            let written = ctx.transaction("write", move |_| engine::ok(own)).await?;
            ctx.sleep(Duration::from_millis(1)).await?;
            let (first, second) = (first?.result(&mut ctx).await?, second?.result(&mut ctx).await?);
            let word: Option<u64> = ctx.recv("word", HOUR).await?;
            let inline = ctx.run(&task, n).await?;
            engine::ok(first + second + written + word.unwrap_or_default() + inline)
        });
        let waits = engine.register("waits", async |mut ctx: AsyncContext, n: u64| {
            let word: Option<u64> = ctx.recv("word", HOUR).await?;
            engine::ok(n + word.unwrap_or_default())
        });
        let told = state.clone();
        let transaction = engine.register("transaction", async move |mut ctx: AsyncContext, seconds: u64| {
            ctx.transaction("write", move |_| {
                told.begins.lock().unwrap().take().into_iter().for_each(|begins| begins.send(()).unwrap());
                crate::pass(Duration::from_secs(seconds));
                engine::ok(seconds)
            })
            .await
        });
        let told = state.clone();
        let long = engine.register("long", async move |mut ctx: AsyncContext, _: bool| {
            for n in 0..20_u64 {
                ctx.step("one of twenty", async |_| engine::ok(n)).await?;
            }
            ctx.step("last", async |_| {
                told.at_their_last_steps.fetch_add(1, Ordering::SeqCst);
                if !told.may_end.load(Ordering::SeqCst) {
                    told.never.notified().await;
                }
                engine::ok(())
            })
            .await
        });
        Self {
            everything: everything.unwrap(),
            waits: waits.unwrap(),
            transaction: transaction.unwrap(),
            long: long.unwrap(),
            state,
        }
    }

    pub(crate) fn when_a_transaction_begins(&self, begins: oneshot::Sender<()>) {
        *self.state.begins.lock().unwrap() = Some(begins);
    }

    pub(crate) fn at_their_last_steps(&self) -> u64 {
        self.state.at_their_last_steps.load(Ordering::SeqCst)
    }

    pub(crate) fn let_the_last_steps_end(&self) {
        self.state.may_end.store(true, Ordering::SeqCst);
    }

    /// One run of everything.
    pub(crate) async fn run_once(&self, engine: &AsyncEngine) {
        assert_eq!(engine.start(&self.everything, 1).await.unwrap().await.unwrap(), 8);
    }
}

/// Calls that are under way.
pub(crate) struct Calls(JoinSet<engine::Result<()>>);

impl Calls {
    /// All of them have an answer, or the database had none for them.
    pub(crate) async fn all_end(mut self) {
        while let Some(ended) = self.0.join_next().await {
            match ended.unwrap() {
                Ok(()) | Err(Error::Unanswered { .. } | Error::Database { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Makes each call of an engine in tasks of their own, and does not wait for them.
pub(crate) fn all_calls(engine: &AsyncEngine, work: &Work) -> Calls {
    let mut calls = JoinSet::new();
    for n in 0..EACH {
        let (on, workflow) = (engine.clone(), work.everything.clone());
        calls.spawn(async move {
            assert_eq!(on.start(&workflow, n).await?.await?, 5 * n + 3);
            Ok(())
        });
        let (on, workflow) = (engine.clone(), work.waits.clone());
        calls.spawn(async move {
            let handle = on.start(&workflow, n).await?;
            on.send(handle.id(), "word", n).await?;
            look_at(&on, &handle).await?;
            assert_eq!(handle.await?, 2 * n);
            Ok(())
        });
        let (on, workflow) = (engine.clone(), work.waits.clone());
        calls.spawn(async move {
            let handle = on.start(&workflow, n).await?;
            let (cancelled, ended) = tokio::join!(on.cancel(handle.id()), handle.clone().into_future());
            assert!(cancelled?.is_terminal() && matches!(ended, Err(Error::WorkflowCancelled { .. })));
            on.resume(handle.id()).await?;
            on.cancel_with_children(handle.id()).await?;
            Ok(())
        });
        let on = engine.clone();
        calls.spawn(async move {
            on.list(&WorkflowFilter::new()).await?;
            on.count(&WorkflowFilter::new()).await?;
            on.waiting_for_nobody().await.map(drop)
        });
        let on = engine.clone();
        calls.spawn(async move {
            let missing = WorkflowId::new("missing")?;
            let answers =
                tokio::join!(on.send(&missing, "word", 1), on.cancel(&missing), on.resume(&missing));
            for answer in [answers.0, answers.1.map(drop), answers.2.map(drop)] {
                if !matches!(answer, Err(Error::NotFound { .. })) {
                    answer?;
                }
            }
            Ok(())
        });
    }
    Calls(calls)
}

async fn look_at(engine: &AsyncEngine, handle: &Handle<u64>) -> engine::Result<()> {
    engine.status(handle.id()).await?;
    engine.steps(handle.id()).await?;
    engine.progress(handle.id()).await?;
    engine.retrieve::<u64>(handle.id().as_str()).await?.await.map(drop)
}
