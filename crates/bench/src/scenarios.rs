//! What is measured, and what it is to reach.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use engine::rusqlite::Connection;
use engine::{WorkflowFilter, WorkflowStatus};
use store::{Key, Store};

use crate::floor::{Floor, Write};
use crate::load::{Load, at};
use crate::measure::{Round, median, quantile_ms, timed};
use crate::report::{Line, Report};

/// Sizes of one run.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    rounds: usize,
    steps: u32,
    workflows: usize,
    recovered: usize,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    Steps,
    Workflows,
    Recovery,
    Ex6,
}

const STEPS_EACH: u32 = 50;

impl Bench {
    pub(crate) fn new(dir: &Path, quick: bool) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(dir)?;
        Ok(if quick {
            Self { dir, rounds: 3, steps: 500, workflows: 1_000, recovered: 200 }
        } else {
            Self { dir, rounds: 5, steps: 3_000, workflows: 6_000, recovered: 1_000 }
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn run(&self, only: Option<Scenario>) -> anyhow::Result<Report> {
        let mut report = Report::default();
        for scenario in Scenario::value_variants() {
            if only.is_some_and(|only| only != *scenario) {
                continue;
            }
            match scenario {
                Scenario::Steps => self.sequential(&mut report)?,
                Scenario::Workflows => self.concurrent(&mut report)?,
                Scenario::Recovery => self.recovery(&mut report)?,
                Scenario::Ex6 => self.ex6(&mut report)?,
            }
        }
        Ok(report)
    }

    fn sequential(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut floor = Floor::open(&self.path("floor-steps.db"))?;
        let load = Load::open(&self.path("steps.db"), &self.path("unused-1.db"))?;
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
            0.85,
        ));
        Ok(())
    }

    fn concurrent(&self, report: &mut Report) -> anyhow::Result<()> {
        let levels = [1, 16, 64, 256];
        // A database each: rows of the other levels would make every write of this one dearer.
        let mut loads = Vec::new();
        for at_once in levels {
            let name = |what: &str| self.path(&format!("{what}-{at_once}.db"));
            let load = Load::open(&name("three"), &name("unused"))?;
            load.engine.launch()?;
            load.concurrent(16, 160)?;
            load.commits.batch_size();
            loads.push(load);
        }
        let mut floor = Floor::open(&self.path("floor-three.db"))?;
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
                    .against("times the rate at 1", ratio(&rates, &alone), 8.0)
                    .against("of the same statements in bare batches", ratio(&rates, &floors), 0.6)
                    .below("commits per write", 1.0 / median(batches[level].clone()), 0.1);
            }
            report.add(line);
        }
        report.add(Line::rate(
            "floor: the same statements in batches of that size",
            "workflows/s",
            median(floors),
        ));
        Ok(())
    }

    /// Start, three steps, settle, for many workflows at once, in batches of the size that the engine had.
    fn bare_workflows(&self, floor: &mut Floor, batch: f64) -> anyhow::Result<f64> {
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
            let mut floor = Floor::open(&self.path(&format!("floor-recovery-{round}.db")))?;
            let workflows = record_halfway(&mut floor, self.recovered)?;
            let database = self.path(&format!("recovery-{round}.db"));
            let mut copy = Floor::open(&database)?;
            record_halfway(&mut copy, self.recovered)?;
            drop(copy);
            abandon(&database)?;

            let load = Load::open(&database, &self.path(&format!("unused-recovery-{round}.db")))?;
            let (rate, size) = timed(self.recovered, || {
                load.engine.launch()?;
                wait_for_all(&load, self.recovered)?;
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
            .against("of the floor", ratio(&engines, &floors), 0.5),
        );
        Ok(())
    }

    fn ex6(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut floor = Floor::open(&self.path("floor-ex6.db"))?;
        let store = Store::open(&self.path("floor-users.db"), Key::Append)?;
        store.users(|users| users.create())?;
        let load = Load::open(&self.path("ex6.db"), &self.path("users.db"))?;
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
            1.5,
        ));
        Ok(())
    }
}

/// The middle of the ratios of neighbours: what changes from round to round on the machine changes both.
fn ratio(engines: &[f64], floors: &[f64]) -> f64 {
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

/// As if the executor that ran them had died: its lock file is there, and nobody holds it.
fn abandon(database: &Path) -> anyhow::Result<()> {
    Connection::open(database)?
        .execute_batch("UPDATE workflow_status SET name = 'steps', executor_id = 'piton-dead'")?;
    let mut locks = database.as_os_str().to_owned();
    locks.push("-executors");
    std::fs::create_dir_all(&locks)?;
    std::fs::write(Path::new(&locks).join("piton-dead.lock"), "")?;
    Ok(())
}

fn wait_for_all(load: &Load, count: usize) -> anyhow::Result<()> {
    let done = WorkflowFilter::new().status(WorkflowStatus::Success);
    let start = Instant::now();
    while load.engine.count(&done)? < count as u64 {
        anyhow::ensure!(start.elapsed() < Duration::from_secs(120), "recovery does not end");
        #[expect(
            clippy::disallowed_methods,
            reason = "the bench looks from outside, a few hundred times a second"
        )]
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}
