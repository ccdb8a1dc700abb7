use std::time::{Duration, Instant};

pub(crate) use crate::heard::{Log, listen_to_the_log};
use cluster::Cluster;
use engine::{Context, Engine, EngineOptions, Error, Workflow};
pub(crate) use watch::eventually;

/// A database of its own on the server of this process.
pub(crate) struct Ground {
    pub(crate) cluster: &'static Cluster,
    pub(crate) database: String,
}

impl Ground {
    pub(crate) fn new() -> Self {
        limit();
        listen_to_the_log();
        let cluster = cluster::shared();
        Self { cluster, database: cluster.fresh_database() }
    }

    pub(crate) fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    pub(crate) fn open(&self) -> Engine {
        options().open(&self.url()).unwrap()
    }

    /// A connection beside the engine's.
    pub(crate) fn sql(&self) -> engine::postgres::Client {
        sql(&self.url())
    }

    pub(crate) fn count(&self, sql: &str) -> i64 {
        self.sql().query_one(sql, &[]).unwrap().try_get(0).unwrap()
    }
}

pub(crate) fn sql(url: &str) -> engine::postgres::Client {
    engine::postgres::Client::connect(url, engine::postgres::NoTls).unwrap()
}

/// Longer where tests run at length.
fn limit() {
    watch::test(watch::LIMIT * long(2, 4));
}

pub(crate) fn options() -> EngineOptions {
    limit();
    Engine::options().app("fleet")
}

/// A workflow of so many steps.
pub(crate) fn steps(engine: &Engine) -> Workflow<u32, u32> {
    let workflow = engine.register("steps", |ctx: &mut Context, steps: u32| -> engine::Result<u32> {
        (0..steps).map(|_| ctx.step("s", |_| Ok::<_, Error>(1))).sum()
    });
    workflow.unwrap()
}

/// Lets time pass: what is tested here is what happens in it by itself.
pub(crate) fn pass(time: Duration) {
    let watch = Instant::now();
    while let Some(left) = time.checked_sub(watch.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// What is about time is tried again with four times as much: on a machine that is busy with other things, threads are
/// late for a small one. What is wrong with the engine is wrong with each. Panics with what the last try said.
pub(crate) fn at_some_scale(first: Duration, holds: impl Fn(Duration) -> Result<(), String>) {
    const SCALES: [u32; 3] = [1, 4, 16];
    let tries = SCALES.map(|scale| first * scale);
    let failed = tries.iter().map(|time| holds(*time)).take_while(Result::is_err).collect::<Vec<_>>();
    assert!(failed.len() < tries.len(), "with {tries:?}: {failed:?}");
}

/// Long runs of what is kept short otherwise.
pub(crate) fn long(short: u32, long: u32) -> u32 {
    if std::env::var_os("PITON_LONG_TESTS").is_some() { long } else { short }
}
