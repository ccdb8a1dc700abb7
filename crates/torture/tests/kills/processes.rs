//! Several processes on one database.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use torture::kinds::Kind;
use torture::ledger::{Entry, Ledger};
use torture::worker::ledger;

use crate::support::{Ground, Worker};

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

/// Both start the same twenty ids at the same moment, for each id as a workflow of the winner's kind.
#[test]
fn two_processes_that_race_for_an_id_run_it_once() {
    for _ in 0..5 {
        let mut ground = Ground::new();
        let args = "--start 0..20 --wait-for-go --finish --lease long";
        let racer = |kind: Kind| ground.spawn(&format!("--kind {kind} {args}"));
        let mut workers = vec![racer(Kind::Plain), racer(Kind::Async)];
        go_at_once(&mut workers);
        end_all(&mut ground, workers);
        ground.assert_clean("a race for ids");
        assert_eq!(ground.number("SELECT max(recovery_attempts) FROM workflow_status"), 1);
        let bodies = Ledger::read(&ledger(ground.path())).unwrap();
        let steps =
            bodies.iter().filter(|entry| matches!(entry, Entry::Body { step, .. } if step == "step-0"));
        assert_eq!(steps.count(), 3, "the first steps of w0, w9 and w18");
    }
}

/// A backlog of a dead process, and four that find it at the same moment.
#[test]
fn processes_that_recover_at_once_take_each_workflow_once() {
    let mut ground = Ground::new();
    let killed = ground.run("--start 0..60 --kill-at after-effect --skip 60 --workers 64");
    assert!(killed.was_killed());
    let recovering = |seed| ground.spawn(&format!("--seed {seed} --wait-for-go --finish --lease long"));
    let mut workers: Vec<_> = (1..5).map(recovering).collect();
    go_at_once(&mut workers);
    end_all(&mut ground, workers);
    ground.assert_clean("a recovery by four");
    assert_eq!(ground.number("SELECT max(recovery_attempts) FROM workflow_status"), 2);
}

/// Without a restart of anything.
#[test]
fn a_live_process_takes_over_from_one_that_was_killed() {
    for kind in [Kind::Plain, Kind::Async] {
        let mut ground = Ground::new();
        let live = ground.executor_here();
        // It has only one worker and holds it, so that the live one cannot have been the first.
        let args = "--everything e --kill-at after-effect --hold --workers 1";
        let other = ground.spawn(&format!("--kind {kind} {args}"));
        other.wait_for("held");
        let seen = Instant::now();
        other.signal(Signal::SIGKILL);
        assert!(ground.end(other).was_killed());
        live.retrieve::<serde_json::Value>("e").unwrap().result().unwrap();
        assert!(seen.elapsed() < Duration::from_secs(10), "{:?}", seen.elapsed());
        drop(live);
        ground.assert_clean(&format!("a takeover, {kind}"));
        assert_eq!(
            ground.number("SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = 'e'"),
            2
        );
    }
}

#[test]
fn eight_processes_on_one_database_all_make_progress() {
    let mut ground = Ground::new();
    let args = |n: u32| format!("--start {}..{} --seed {n} --finish", n * 1000, n * 1000 + 40);
    let workers = (0..8).map(|n| ground.spawn(&args(n))).collect();
    end_all(&mut ground, workers);
    ground.assert_clean("eight processes");
    assert_eq!(ground.acks.len(), 8 * 40);
    let executors = ground.number("SELECT count(DISTINCT executor_id) FROM workflow_status");
    assert!(executors >= 4, "only {executors} of 8 executors ran anything");
}

#[test]
fn sixteen_processes_that_start_on_no_database_all_succeed() {
    let mut ground = Ground::bare();
    let workers = (0..16).map(|_| ground.spawn("--finish")).collect();
    end_all(&mut ground, workers);
    assert_eq!(ground.number("SELECT count(*) FROM dbos_migrations"), 1);
}
