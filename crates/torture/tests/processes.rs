//! Several processes on one file.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Engine;
use nix::sys::signal::Signal;
use support::{Ground, Worker};
use torture::ledger::{Entry, Ledger};
use torture::points::Killer;
use torture::worker::{database, ledger};
use torture::workload::Workload;

const PENDING: &str =
    "SELECT owner_xid FROM workflow_status WHERE workflow_uuid = 'e' AND status = 'PENDING'";

/// An executor in this process, which lives while others die.
fn executor_here(ground: &Ground) -> Engine {
    let engine = Engine::options().app("torture");
    let engine = engine.open(&format!("sqlite:{}", database(ground.path()).display())).unwrap();
    let ledger = Ledger::open(&ledger(ground.path())).unwrap();
    Workload::new(ledger, Arc::new(Killer::new(None, 0, || {}))).register(&engine).unwrap();
    engine.launch().unwrap();
    engine
}

fn go_at_once(workers: &mut [Worker]) {
    for worker in &*workers {
        worker.wait_for("ready");
    }
    for worker in workers {
        worker.go();
    }
}

fn end_all(ground: &mut Ground, workers: Vec<Worker>) {
    for worker in workers {
        assert!(!ground.end(worker).was_killed());
    }
}

/// Both start the same twenty ids at the same moment.
#[test]
fn two_processes_that_race_for_an_id_run_it_once() {
    for _ in 0..5 {
        let mut ground = Ground::new();
        let mut workers: Vec<_> =
            (0..2).map(|_| ground.spawn("--start 0..20 --wait-for-go --finish")).collect();
        go_at_once(&mut workers);
        end_all(&mut ground, workers);
        ground.assert_clean("a race for ids");
        assert_eq!(ground.value::<u32>("SELECT max(recovery_attempts) FROM workflow_status", []), 1);
        let bodies = Ledger::read(&ledger(ground.path())).unwrap();
        let steps =
            bodies.iter().filter(|entry| matches!(entry, Entry::Body { step, .. } if step == "step-0"));
        assert_eq!(steps.count(), 4, "the first steps of w0, w6, w12 and w18");
    }
}

/// A backlog of a dead process, and four that find it at the same moment.
#[test]
fn processes_that_recover_at_once_take_each_workflow_once() {
    let mut ground = Ground::new();
    let killed = ground.run("--start 0..60 --kill-at after-effect --skip 60 --workers 64");
    assert!(killed.was_killed());
    let mut workers: Vec<_> = (0..4).map(|_| ground.spawn("--wait-for-go --finish")).collect();
    go_at_once(&mut workers);
    end_all(&mut ground, workers);
    ground.assert_clean("a recovery by four");
    assert_eq!(ground.value::<u32>("SELECT max(recovery_attempts) FROM workflow_status", []), 2);
}

/// Without a restart of anything.
#[test]
fn a_live_process_takes_over_from_one_that_was_killed() {
    let mut ground = Ground::new();
    let live = executor_here(&ground);
    // It has only one worker and holds it, so that the live one cannot have been the first.
    let other = ground.spawn("--everything e --kill-at after-effect --hold --workers 1");
    other.wait_for("held");
    let seen = Instant::now();
    other.signal(Signal::SIGKILL);
    assert!(ground.end(other).was_killed());
    live.retrieve::<serde_json::Value>("e").unwrap().result().unwrap();
    assert!(seen.elapsed() < Duration::from_secs(10), "{:?}", seen.elapsed());
    drop(live);
    ground.assert_clean("a takeover");
    assert_eq!(
        ground.value::<u32>("SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = 'e'", []),
        2
    );
}

/// A process that is merely stopped is not dead, however long it is.
#[test]
fn a_stopped_process_keeps_its_workflows() {
    let mut ground = Ground::new();
    let live = executor_here(&ground);
    let mut other = ground.spawn("--everything e --kill-at after-effect --hold --finish");
    other.wait_for("held");
    let token: String = ground.value(PENDING, []);
    other.signal(Signal::SIGSTOP);
    // The live one goes round many times meanwhile: it takes up what was killed after the stop.
    for id in ["one", "two", "three"] {
        let third = ground.spawn(&format!("--everything {id} --kill-at after-effect --hold --workers 1"));
        third.wait_for("held");
        third.signal(Signal::SIGKILL);
        assert!(ground.end(third).was_killed());
        live.retrieve::<serde_json::Value>(id).unwrap().result().unwrap();
    }
    assert_eq!(ground.value::<String>(PENDING, []), token);
    other.signal(Signal::SIGCONT);
    // It holds at each of its steps from there on.
    while ground.value::<String>("SELECT status FROM workflow_status WHERE workflow_uuid = 'e'", [])
        == "PENDING"
    {
        other.go();
    }
    assert!(!ground.end(other).was_killed());
    drop(live);
    ground.assert_clean("a stop");
    assert_eq!(
        ground.value::<u32>("SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = 'e'", []),
        1
    );
}

#[test]
fn eight_processes_on_one_file_all_make_progress() {
    let mut ground = Ground::new();
    let args = |n: u32| format!("--start {}..{} --finish", n * 1000, n * 1000 + 40);
    let workers = (0..8).map(|n| ground.spawn(&args(n))).collect();
    end_all(&mut ground, workers);
    ground.assert_clean("eight processes");
    assert_eq!(ground.acks.len(), 8 * 40);
    let executors = ground.value::<u32>("SELECT count(DISTINCT executor_id) FROM workflow_status", []);
    assert!(executors >= 4, "only {executors} of 8 executors ran anything");
}

#[test]
fn sixteen_processes_that_start_on_no_file_all_succeed() {
    let mut ground = Ground::bare();
    let workers = (0..16).map(|_| ground.spawn("--finish")).collect();
    end_all(&mut ground, workers);
    assert_eq!(ground.value::<u32>("SELECT count(*) FROM dbos_migrations", []), 1);
}
