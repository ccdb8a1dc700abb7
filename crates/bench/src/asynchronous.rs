//! Async workflows beside plain ones, and many in flight.

use anyhow::Context as _;

use crate::measure::{median, timed};
use crate::report::{Line, Report};
use crate::scenarios::{Bench, ratio};

impl Bench {
    /// Measures equal workflows of both kinds, which take turns.
    pub(crate) fn tasks(&self, report: &mut Report) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let load = self.load("tasks")?;
        runtime.block_on(load.engine.to_async().launch())?;
        let (mut plain, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            plain.push(load.sequential(self.steps)?);
            tasks.push(load.async_sequential(self.steps)?);
        }
        report.add(
            Line::rate("sequential steps of an async workflow", "steps/s", median(tasks.clone())).against(
                "of a plain one",
                ratio(&tasks, &plain),
                Some(0.75),
            ),
        );
        for at_once in [64, 256] {
            let (mut plain, mut tasks) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                let total = self.workflows / at_once * at_once;
                plain.push(load.concurrent(at_once, total)?.rate);
                let run = || runtime.block_on(load.async_concurrent(at_once, total));
                tasks.push(timed(total, run)?.0);
            }
            let line = format!("async 3-step workflows, {at_once} at once");
            report.add(Line::rate(&line, "workflows/s", median(tasks.clone())).against(
                "of plain ones",
                ratio(&tasks, &plain),
                Some(0.9),
            ));
        }
        Ok(())
    }

    /// Measures as many workflows as may be in flight, each of which waits three times.
    pub(crate) fn in_flight(&self, report: &mut Report) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let mut floor = self.ground.floor("floor-in-flight")?;
        let load = self.load("in-flight")?;
        runtime.block_on(load.engine.to_async().launch())?;
        runtime.block_on(load.in_flight(100))?;
        let before = Usage::now()?;
        let (mut rates, mut floors) = (Vec::new(), Vec::new());
        let mut most = before;
        for _ in 0..self.rounds {
            load.commits.take();
            let run = || runtime.block_on(load.in_flight(self.in_flight));
            rates.push(timed(self.in_flight, run)?.0);
            most = most.max(Usage::now()?);
            floors.push(self.bare_workflows(&mut floor, load.commits.batch_size())?);
        }
        let line = format!("{} async workflows in flight, three bodies that wait 50 ms", self.in_flight);
        report.add(Line::rate(&line, "workflows/s", median(rates.clone())).against(
            "of the same statements in bare batches",
            ratio(&rates, &floors),
            None,
        ));
        report.add(Line::rate("threads of the process meanwhile", "threads", most.threads));
        let grown = most.peak_mb - before.peak_mb;
        report.add(Line::rate("its peak of memory has grown by", "MB", grown));
        Ok(())
    }
}

/// The kernel's numbers about this process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    threads: f64,
    peak_mb: f64,
}

impl Usage {
    fn now() -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").context("only Linux tells")?;
        let number = |key: &str| -> anyhow::Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).context(key.to_owned())?;
            Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
        };
        Ok(Self { threads: number("Threads:")?, peak_mb: number("VmHWM:")? / 1024.0 })
    }

    fn max(self, other: Self) -> Self {
        Self { threads: self.threads.max(other.threads), peak_mb: self.peak_mb.max(other.peak_mb) }
    }
}
