//! The measurements, and their targets.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use engine::{Context, Engine, EngineOptions, Error, QueueOptions, WorkflowFilter, WorkflowStatus};
use store::{Key, Store};

use crate::floor::{Floor, Write};
use crate::ground::Ground;
use crate::load::{Load, at};
use crate::measure::{Round, median, quantile_ms, timed};
use crate::report::{Line, Report};

/// Sizes of one run.
pub(crate) struct Bench {
    pub(crate) ground: Box<dyn Ground>,
    dir: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) steps: u32,
    pub(crate) workflows: usize,
    pub(crate) in_flight: usize,
    recovered: usize,
    queued: usize,
    wakes: usize,
}

/// The measurements by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    Steps,
    Workflows,
    Recovery,
    Ex6,
    Queue,
    Wake,
    Tasks,
    InFlight,
}

const STEPS_EACH: u32 = 50;

impl Bench {
    pub(crate) fn new(ground: Box<dyn Ground>, dir: &Path, quick: bool) -> Self {
        let dir = dir.to_owned();
        if quick {
            Self {
                ground,
                dir,
                rounds: 3,
                steps: 500,
                workflows: 1_000,
                in_flight: 2_000,
                recovered: 200,
                queued: 800,
                wakes: 20,
            }
        } else {
            Self {
                ground,
                dir,
                rounds: 5,
                steps: 3_000,
                workflows: 6_000,
                in_flight: 10_000,
                recovered: 1_000,
                queued: 5_000,
                wakes: 200,
            }
        }
    }

    pub(crate) fn load(&self, name: &str) -> anyhow::Result<Load> {
        self.load_at(&self.ground.url(name), name, Engine::options())
    }

    fn load_at(&self, url: &str, name: &str, options: EngineOptions) -> anyhow::Result<Load> {
        Load::open(url, &self.users(name), options)
    }

    /// The file of ex6's users, on every ground.
    fn users(&self, name: &str) -> PathBuf {
        self.dir.join(format!("users-{name}.db"))
    }

    pub(crate) fn run(&self, only: Option<Scenario>) -> anyhow::Result<Report> {
        let mut report = Report::new(self.ground.durability()?);
        for scenario in Scenario::value_variants() {
            if only.is_some_and(|only| only != *scenario) {
                continue;
            }
            match scenario {
                Scenario::Steps => self.sequential(&mut report)?,
                Scenario::Workflows => self.concurrent(&mut report)?,
                Scenario::Recovery => self.recovery(&mut report)?,
                Scenario::Ex6 => self.ex6(&mut report)?,
                Scenario::Queue => self.queue(&mut report)?,
                Scenario::Wake => self.wake(&mut report)?,
                Scenario::Tasks => self.tasks(&mut report)?,
                Scenario::InFlight => self.in_flight(&mut report)?,
            }
        }
        Ok(report)
    }

    fn sequential(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut floor = self.ground.floor("floor-steps")?;
        let load = self.load("steps")?;
        load.engine.launch()?;
        load.sequential(self.steps / 10)?;
        let (mut floors, mut engines) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let workflow = floor.fresh();
            let (rate, ()) = timed(self.steps as usize, || {
                (0..self.steps).try_for_each(|step| floor.commit(&[Write::Step(workflow, step)], "1"))
            })?;
            floors.push(rate);
            engines.push(load.sequential(self.steps)?);
        }
        report.add(Line::rate("floor: one INSERT + COMMIT per row", "rows/s", median(floors.clone())));
        report.add(Line::rate("sequential steps", "steps/s", median(engines.clone())).against(
            "of the floor",
            ratio(&engines, &floors),
            Some(self.ground.targets().steps),
        ));
        Ok(())
    }

    fn concurrent(&self, report: &mut Report) -> anyhow::Result<()> {
        let levels = [1, 16, 64, 256];
        // Each level has a database: rows of the other levels would make every write of this one dearer.
        let mut loads = Vec::new();
        for at_once in levels {
            let load = self.load(&format!("three-{at_once}"))?;
            load.engine.launch()?;
            load.concurrent(16, 160)?;
            load.commits.batch_size();
            loads.push(load);
        }
        let mut floor = self.ground.floor("floor-three")?;
        let mut rounds: [Vec<Round>; 4] = Default::default();
        let mut batches: [Vec<f64>; 4] = Default::default();
        let mut floors = Vec::new();
        for _ in 0..self.rounds {
            for (level, &at_once) in levels.iter().enumerate() {
                let load = &loads[level];
                let total = if at_once == 1 { self.workflows / 10 } else { self.workflows };
                rounds[level].push(load.concurrent(at_once, total)?);
                batches[level].push(load.commits.batch_size());
                if at_once == 64 {
                    let size = batches[level].last().copied().unwrap_or(1.0);
                    floors.push(self.bare_workflows(&mut floor, size)?);
                }
            }
        }
        let targets = self.ground.targets();
        let alone: Vec<f64> = rounds[0].iter().map(|round| round.rate).collect();
        for (level, at_once) in levels.into_iter().enumerate() {
            let rates: Vec<f64> = rounds[level].iter().map(|round| round.rate).collect();
            let latencies: Vec<Duration> =
                rounds[level].iter().flat_map(|round| round.latencies.clone()).collect();
            let mut line = Line::rate(
                &format!("3-step workflows, {at_once} at once"),
                "workflows/s",
                median(rates.clone()),
            )
            .latency(quantile_ms(&latencies, 50), quantile_ms(&latencies, 99))
            .commits_per_write(1.0 / median(batches[level].clone()));
            if at_once == 64 {
                line = line
                    .against("times the rate at 1", ratio(&rates, &alone), Some(8.0))
                    .against(
                        "of the same statements in bare batches",
                        ratio(&rates, &floors),
                        targets.bare_batches,
                    )
                    .below(
                        "commits per write",
                        1.0 / median(batches[level].clone()),
                        targets.commits_per_write,
                    );
            }
            if at_once == 256 {
                let at_16: Vec<f64> = rounds[1].iter().map(|round| round.rate).collect();
                line = line.against("times the rate at 16", ratio(&rates, &at_16), targets.rising);
            }
            report.add(line);
        }
        report.add(Line::rate(
            "floor: the same statements in batches of that size",
            "workflows/s",
            median(floors),
        ));
        self.round_trips(report)
    }

    /// Counts the round trips that the writes of 3-step workflows take.
    fn round_trips(&self, report: &mut Report) -> anyhow::Result<()> {
        let Some(counter) = self.ground.counter()? else { return Ok(()) };
        for (at_once, most) in [(1, 1.0), (64, 0.2)] {
            let name = format!("counted-{at_once}");
            drop(self.ground.floor(&name)?);
            // NOTIFY is sent by a thread of its own, beside the writes.
            let load = self.load_at(&counter.url(&name), &name, Engine::options().listen_notify(false))?;
            load.engine.launch()?;
            load.concurrent(at_once, 640)?;
            // Each second an executor looks around as well. The fewest round trips of several rounds are those of the
            // writes.
            let mut each = f64::INFINITY;
            for _ in 0..20 {
                load.commits.take();
                let before = counter.round_trips();
                load.concurrent(at_once, at_once * 20)?;
                let (_, writes) = load.commits.take();
                each = each.min(lossy(counter.round_trips() - before) / lossy(writes as u64));
            }
            let line = format!("round trips for each write, {at_once} at once");
            report.add(Line::rate(&line, "a write", each).below("round trips a write", each, Some(most)));
        }
        Ok(())
    }

    /// Writes the rows of many workflows by hand (start, three steps, settle), in batches of the engine's size.
    pub(crate) fn bare_workflows(&self, floor: &mut Floor, batch: f64) -> anyhow::Result<f64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a batch has 1 to 512 writes"
        )]
        let size = batch.round() as usize;
        let mut writes = Vec::new();
        for group in (0..self.workflows).collect::<Vec<_>>().chunks(64) {
            let ids: Vec<usize> = group.iter().map(|_| floor.fresh()).collect();
            writes.extend(ids.iter().map(|&n| Write::Start(n)));
            for step in 1..=3 {
                writes.extend(ids.iter().map(|&n| Write::Step(n, step)));
            }
            writes.extend(ids.iter().map(|&n| Write::Settle(n)));
        }
        Ok(timed(self.workflows, || floor.commit_in_batches(&writes, size))?.0)
    }

    fn recovery(&self, report: &mut Report) -> anyhow::Result<()> {
        let (mut floors, mut engines) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let mut floor = self.ground.floor(&format!("floor-recovery-{round}"))?;
            let workflows = record_halfway(&mut floor, self.recovered)?;
            let name = format!("recovery-{round}");
            self.interrupted(&name)?;
            let load = self.load(&name)?;
            let (rate, size) = timed(self.recovered, || {
                load.engine.launch()?;
                wait_for_all(&load.engine, self.recovered)?;
                Ok(load.commits.batch_size())
            })?;
            engines.push(rate);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a batch has 1 to 512 writes"
            )]
            let size = size.round() as usize;
            let (rate, rows) = timed(self.recovered, || floor.recover(&workflows, size))?;
            anyhow::ensure!(rows == self.recovered * STEPS_EACH as usize, "{rows} rows");
            floors.push(rate);
        }
        report.add(Line::rate("floor: read and settle them by hand", "workflows/s", median(floors.clone())));
        report.add(
            Line::rate(
                &format!("recovery of {} workflows with {STEPS_EACH} recorded steps", self.recovered),
                "workflows/s",
                median(engines.clone()),
            )
            .against("of the floor", ratio(&engines, &floors), self.ground.targets().recovery),
        );
        self.recovery_queries(report)
    }

    /// A database with workflows whose executor died.
    fn interrupted(&self, name: &str) -> anyhow::Result<()> {
        record_halfway(&mut self.ground.floor(name)?, self.recovered)?;
        self.ground.abandon(name)
    }

    /// Counts the queries of a recovery, without its commits and without the queries of every launch.
    fn recovery_queries(&self, report: &mut Report) -> anyhow::Result<()> {
        let Some(counter) = self.ground.counter()? else { return Ok(()) };
        let queries = |name: &str, workflows: usize| -> anyhow::Result<f64> {
            let options = Engine::options().listen_notify(false);
            let load = self.load_at(&counter.url(name), &format!("counted-{name}"), options)?;
            let watcher = Engine::options().app("bench").open(&self.ground.url(name))?;
            let before = counter.statements();
            load.engine.launch()?;
            wait_for_all(&watcher, workflows)?;
            let (commits, _) = load.commits.take();
            Ok(lossy(counter.statements() - before) - lossy(commits as u64))
        };
        drop(self.ground.floor("nothing-to-recover")?);
        let launch = queries("nothing-to-recover", 0)?;
        self.interrupted("counted-recovery")?;
        let asked = queries("counted-recovery", self.recovered)? - launch;
        let hundreds = lossy(self.recovered as u64) / 100.0;
        report.add(Line::rate("queries of that recovery besides its commits", "queries", asked).below(
            "for each 100 workflows",
            asked / hundreds,
            Some(3.0),
        ));
        Ok(())
    }

    fn ex6(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut floor = self.ground.floor("floor-ex6")?;
        let store = Store::open(&self.users("floor"), Key::Append)?;
        store.users(|users| users.create())?;
        let load = self.load("ex6")?;
        load.engine.launch()?;
        load.ex6()?;
        let (mut floors, mut engines) = (Vec::new(), Vec::new());
        let mut commits = 0;
        for _ in 0..self.rounds * 3 {
            let (rate, count) = timed(1, || {
                floor.ex6(|page| Ok(store.users(|users| users.insert_page(page, "floor", at()))?))
            })?;
            commits = count;
            floors.push(rate);
            engines.push(load.ex6()?);
        }
        let line = format!("floor: ex6's bare statements ({commits} commits) and bodies");
        report.add(Line::rate(&line, "runs/s", median(floors.clone())));
        report.add(Line::rate("ex6's shape without failures", "runs/s", median(engines.clone())).below(
            "times the floor's time",
            1.0 / ratio(&engines, &floors),
            self.ground.targets().ex6,
        ));
        Ok(())
    }

    /// Measures a backlog of one-step workflows, and one executor that comes to it.
    fn queue(&self, report: &mut Report) -> anyhow::Result<()> {
        const WORKERS: usize = 64;
        let mut rates = Vec::new();
        for round in 0..self.rounds {
            let name = format!("queue-{round}");
            let load =
                self.load_at(&self.ground.url(&name), &name, Engine::options().workers_max(WORKERS))?;
            let queue = load.engine.register_queue("backlog", QueueOptions::new())?;
            let count = self.queued / 16 * 16;
            load.enqueue(&queue, count)?;
            let (rate, ()) = timed(count, || {
                load.engine.launch()?;
                wait_for_all(&load.engine, count)
            })?;
            rates.push(rate);
        }
        let line = format!("queue of {} one-step workflows, {WORKERS} workers", self.queued);
        report.add(Line::rate(&line, "workflows/s", median(rates)));
        Ok(())
    }

    /// Measures two engines that only the database joins, with an idle moment before each round.
    fn wake(&self, report: &mut Report) -> anyhow::Result<()> {
        let url = self.ground.url("wake");
        let client = Engine::options().app("bench").open(&url)?;
        let server = Engine::options().app("bench").open(&url)?;
        let (says, started) = std::sync::mpsc::channel();
        let says = std::sync::Mutex::new(says);
        let workflow = server.register("woken", move |_: &mut Context, n: u64| {
            let says = says.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // The bench that listens may have ended.
            let _ = says.send(Instant::now());
            Ok::<_, Error>(n)
        })?;
        let queue = server.register_queue("wake", QueueOptions::new())?;
        server.launch()?;
        let (mut starts, mut results) = (Vec::new(), Vec::new());
        for n in 0..self.wakes as u64 + 3 {
            pause(Duration::from_millis(if n < 3 { 500 } else { 60 }));
            let enqueued = Instant::now();
            let handle = workflow.enqueue(&client, &queue, n)?;
            let begun = started.recv_timeout(Duration::from_secs(30))?;
            anyhow::ensure!(handle.result()? == n, "another workflow's result");
            if n >= 3 {
                starts.push(begun - enqueued);
                results.push(begun.elapsed());
            }
        }
        let targets = self.ground.targets().wake_ms.unzip();
        for (what, times) in [("enqueue to start elsewhere", starts), ("start to result elsewhere", results)]
        {
            let (p50, p99) = (quantile_ms(&times, 50), quantile_ms(&times, 99));
            report.add(
                Line::rate(what, "a second", 1000.0 / p50)
                    .latency(p50, p99)
                    .below("ms in the median", p50, targets.0)
                    .below("ms at the 99th percentile", p99, targets.1),
            );
        }
        Ok(())
    }
}

/// The middle of the ratios of neighbouring rounds: a change of the machine from round to round changes both.
pub(crate) fn ratio(engines: &[f64], floors: &[f64]) -> f64 {
    median(engines.iter().zip(floors).map(|(engine, floor)| engine / floor))
}

/// Workflows that were interrupted after their recorded steps.
fn record_halfway(floor: &mut Floor, count: usize) -> anyhow::Result<Vec<usize>> {
    let workflows: Vec<usize> = (0..count).map(|_| floor.fresh()).collect();
    let input = format!(r#"{{"positionalArgs":[{STEPS_EACH}],"namedArgs":{{}}}}"#);
    for batch in workflows.chunks(100) {
        let starts: Vec<_> = batch.iter().map(|&n| Write::Start(n)).collect();
        floor.commit(&starts, &input)?;
        let steps: Vec<_> =
            batch.iter().flat_map(|&n| (1..=STEPS_EACH).map(move |s| Write::Step(n, s))).collect();
        floor.commit(&steps, "1")?;
    }
    Ok(workflows)
}

fn wait_for_all(engine: &Engine, count: usize) -> anyhow::Result<()> {
    let done = WorkflowFilter::new().status(WorkflowStatus::Success);
    let start = Instant::now();
    while engine.count(&done)? < count as u64 {
        anyhow::ensure!(start.elapsed() < Duration::from_secs(120), "it does not end");
        pause(Duration::from_millis(3));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the bench looks from outside, and lets idle moments pass")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench are small")]
fn lossy(count: u64) -> f64 {
    count as f64
}
