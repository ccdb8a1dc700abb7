//! The tests beside builds: no test depends on a machine that is idle.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{run, tests};
use crate::cargo::{self, cargo};

const ROUNDS: u32 = 10;
const BUILDS: u32 = 2;
/// How often a build is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs the README's test command so many times in a row, with builds from nothing beside it all the time.
pub(super) fn tests_beside_builds() -> anyhow::Result<()> {
    // This is built alone, so that the measured time is that of the tests.
    run(tests().arg("--no-run"))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let done = &done;
        let builds: Vec<_> = (0..BUILDS).map(|n| scope.spawn(move || keep_building(n, done))).collect();
        let rounds = (1..=ROUNDS).try_for_each(|round| {
            let watch = Instant::now();
            run(&mut tests()).with_context(|| format!("round {round} of {ROUNDS}"))?;
            println!("-- round {round}: passed in {:.0} s", watch.elapsed().as_secs_f64());
            Ok(())
        });
        done.store(true, Ordering::SeqCst);
        for build in builds {
            build.join().ok().context("a build panicked")??;
        }
        rounds
    })
}

/// Builds the tests of the engine in a directory of its own, again and again from nothing.
fn keep_building(number: u32, done: &AtomicBool) -> anyhow::Result<()> {
    let dir = cargo::root().join(format!("target/load-{number}"));
    while !done.load(Ordering::SeqCst) {
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let build = ["build", "--quiet", "--package", "engine", "--tests", "--target-dir"];
        let mut build = cargo().args(build).arg(&dir).spawn().context("cargo cannot be started")?;
        let Some(success) = end_of(&mut build, done)? else { break };
        ensure!(success, "a build beside the tests failed");
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// Whether a build succeeded; `None`, and an end to it, when it is no longer needed.
fn end_of(build: &mut Child, done: &AtomicBool) -> anyhow::Result<Option<bool>> {
    loop {
        if let Some(status) = build.try_wait()? {
            return Ok(Some(status.success()));
        }
        if done.load(Ordering::SeqCst) {
            interrupt(build)?;
            build.wait()?;
            return Ok(None);
        }
        thread::park_timeout(LOOK_EVERY);
    }
}

/// Asks cargo to end, which takes its compilers along; a kill would leave them.
fn interrupt(build: &mut Child) -> anyhow::Result<()> {
    Command::new("kill").args(["-INT", &build.id().to_string()]).status()?;
    Ok(())
}
