//! The engine's side: workflows, and counters of their commits.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::{AsyncContext, Context, Engine, EngineOptions, Error, Event, Observer, Queue, Workflow};
use store::{Key, Store};

use crate::measure::{Round, timed};

/// Counts commits and the writes in them.
#[derive(Default)]
pub(crate) struct Commits {
    commits: AtomicUsize,
    writes: AtomicUsize,
}

impl Observer for Commits {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Committed { writes, .. } = event {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.writes.fetch_add(*writes, Ordering::Relaxed);
        }
    }
}

impl Commits {
    /// Commits and the writes in them since the last call of this or of `batch_size`.
    pub(crate) fn take(&self) -> (usize, usize) {
        (self.commits.swap(0, Ordering::Relaxed), self.writes.swap(0, Ordering::Relaxed))
    }

    /// Writes per commit.
    pub(crate) fn batch_size(&self) -> f64 {
        let (commits, writes) = self.take();
        #[expect(clippy::cast_precision_loss, reason = "counts of a bench are small")]
        let size = writes as f64 / commits as f64;
        size
    }
}

/// An engine with the workflows of the bench.
pub(crate) struct Load {
    pub(crate) engine: Engine,
    pub(crate) commits: Arc<Commits>,
    steps: Workflow<u32, u64>,
    three: Workflow<u32, u64>,
    ex6: Workflow<(), usize>,
    async_steps: Workflow<u32, u64>,
    async_three: Workflow<u32, u64>,
    waiting_three: Workflow<u32, u64>,
}

/// How long each body of the workflows in flight waits, as for another service.
pub(crate) const BODY_WAITS: Duration = Duration::from_millis(50);

impl Load {
    /// Opens the database of this URL. The users of ex6 go to a file.
    pub(crate) fn open(url: &str, users: &Path, options: EngineOptions) -> anyhow::Result<Self> {
        let commits = Arc::new(Commits::default());
        let engine = options.app("bench").observer(commits.clone()).open(url)?;
        let steps = engine.register("steps", |ctx: &mut Context, count: u32| {
            (0..count).try_fold(0_u64, |sum, n| Ok::<_, Error>(sum + ctx.step("step", |_| one(n))?))
        })?;
        let three = engine.register("three", |ctx: &mut Context, n: u32| {
            Ok::<_, Error>(
                ctx.step("a", |_| one(n))? + ctx.step("b", |_| one(n))? + ctx.step("c", |_| one(n))?,
            )
        })?;
        let store = Arc::new(Store::open(users, Key::Append)?);
        store.users(|users| users.create())?;
        let batch = engine.register("batch", move |ctx: &mut Context, batch: u64| {
            let mut list = Vec::new();
            for page in 0..10 {
                list.extend(
                    ctx.step("generate", |_| Ok::<_, Error>(model::fake_users(batch * 10 + page, 10)))?,
                );
            }
            let id = ctx.workflow_id().to_string();
            ctx.step("insert", |_| {
                store.users(|users| users.insert_page(&list, &id, at()))?;
                Ok::<_, store::Error>(list.len())
            })
        })?;
        let ex6 = engine.register("ex6", move |ctx: &mut Context, ()| {
            (0..10).try_fold(0, |sum, number| Ok::<_, Error>(sum + ctx.run(&batch, number)?))
        })?;
        let async_steps =
            engine.register_async("async_steps", async |mut ctx: AsyncContext, count: u32| {
                let mut sum = 0;
                for n in 0..count {
                    sum += ctx.step("step", async |_| one(n)).await?;
                }
                engine::ok(sum)
            })?;
        let async_three = engine.register_async("async_three", async |mut ctx: AsyncContext, n: u32| {
            engine::ok(
                ctx.step("a", async |_| one(n)).await?
                    + ctx.step("b", async |_| one(n)).await?
                    + ctx.step("c", async |_| one(n)).await?,
            )
        })?;
        let waiting_three =
            engine.register_async("waiting_three", async |mut ctx: AsyncContext, n: u32| {
                let mut sum = 0;
                for name in ["a", "b", "c"] {
                    sum += ctx
                        .step(name, async |_| {
                            tokio::time::sleep(BODY_WAITS).await;
                            one(n)
                        })
                        .await?;
                }
                engine::ok(sum)
            })?;
        Ok(Self { engine, commits, steps, three, ex6, async_steps, async_three, waiting_three })
    }

    /// Runs one async workflow with this many steps.
    pub(crate) fn async_sequential(&self, count: u32) -> anyhow::Result<f64> {
        let (rate, _) =
            timed(count as usize, || Ok(self.async_steps.start(&self.engine, count)?.result()?))?;
        Ok(rate)
    }

    /// Runs async workflows of three steps, this many at once, started and awaited by tasks.
    pub(crate) async fn async_concurrent(&self, at_once: usize, total: usize) -> anyhow::Result<()> {
        let each = total / at_once;
        let callers = (0..at_once).map(|_| {
            let (engine, three) = (self.engine.to_async(), self.async_three.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    engine.start(&three, 1).await?.await?;
                }
                Ok::<_, Error>(())
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await??;
        }
        Ok(())
    }

    /// Runs async workflows whose bodies wait, all of them at once.
    pub(crate) async fn in_flight(&self, count: usize) -> anyhow::Result<()> {
        let engine = self.engine.to_async();
        let starters = (0..count).map(|_| {
            let (engine, three) = (engine.clone(), self.waiting_three.clone());
            tokio::spawn(async move { engine.start(&three, 1).await?.await })
        });
        for starter in starters.collect::<Vec<_>>() {
            starter.await??;
        }
        Ok(())
    }

    /// Runs one workflow with this many steps.
    pub(crate) fn sequential(&self, count: u32) -> anyhow::Result<f64> {
        let (rate, _) = timed(count as usize, || Ok(self.steps.start(&self.engine, count)?.result()?))?;
        Ok(rate)
    }

    /// Runs workflows of three steps, this many at once. Each caller starts its next workflow when it has the last
    /// result.
    pub(crate) fn concurrent(&self, at_once: usize, total: usize) -> anyhow::Result<Round> {
        let per_caller = total / at_once;
        let (rate, latencies) = timed(per_caller * at_once, || {
            std::thread::scope(|scope| {
                let callers: Vec<_> = (0..at_once).map(|_| scope.spawn(|| self.caller(per_caller))).collect();
                let mut all = Vec::new();
                for caller in callers {
                    let latencies = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
                    all.extend(latencies?);
                }
                Ok(all)
            })
        })?;
        Ok(Round { rate, latencies })
    }

    fn caller(&self, count: usize) -> anyhow::Result<Vec<Duration>> {
        (0..count)
            .map(|_| {
                let start = Instant::now();
                self.three.start(&self.engine, 1)?.result()?;
                Ok(start.elapsed())
            })
            .collect()
    }

    /// Puts one-step workflows into a queue, 16 at once.
    pub(crate) fn enqueue(&self, queue: &Queue, count: usize) -> anyhow::Result<()> {
        let each = |count: usize| -> anyhow::Result<()> {
            (0..count).try_for_each(|_| Ok(self.steps.enqueue(&self.engine, queue, 1).map(drop)?))
        };
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..16).map(|_| scope.spawn(|| each(count / 16))).collect();
            callers
                .into_iter()
                .try_for_each(|caller| caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?)
        })
    }

    /// Runs ex6 without its failures.
    pub(crate) fn ex6(&self) -> anyhow::Result<f64> {
        let (rate, users) = timed(1, || Ok(self.ex6.start(&self.engine, ())?.result()?))?;
        anyhow::ensure!(users == 1000, "{users} users");
        Ok(rate)
    }
}

/// The body of a step, which may fail in general.
#[expect(clippy::unnecessary_wraps, reason = "this one does not")]
fn one(n: u32) -> Result<u64, Error> {
    Ok(u64::from(n % 2))
}

pub(crate) fn at() -> store::Timestamp {
    store::Timestamp::UNIX_EPOCH
}
