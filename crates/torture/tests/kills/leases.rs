//! Takeovers by leases: their time, and the writes of a process that was stopped for too long.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use engine::Engine;
use nix::sys::signal::Signal;

use torture::kinds::Kind;
use torture::ledger::{Entry, Ledger};
use torture::worker::{LeaseLength, ledger};

use crate::support::Ground;

/// The only column of a query.
fn values(ground: &Ground, sql: &str) -> Vec<String> {
    ground.database.rows(sql).unwrap().into_iter().filter_map(|mut row| row.pop().flatten()).collect()
}

/// The executor that has the workflow, and its token.
fn owner(ground: &Ground, id: &str) -> Option<(String, String)> {
    let sql = format!(
        "SELECT executor_id || ' ' || owner_xid FROM workflow_status WHERE workflow_uuid = '{id}' AND status = 'PENDING'"
    );
    let found = values(ground, &sql).pop()?;
    found.split_once(' ').map(|(executor, token)| (executor.to_owned(), token.to_owned()))
}

/// How long it took until `is_so` was true.
fn until(what: &str, is_so: impl FnMut() -> bool) -> Duration {
    let watch = Instant::now();
    watch::eventually(what, is_so);
    watch.elapsed()
}

/// One of three that all have work is killed; the other two go on with its workflows.
#[test]
fn the_workflows_of_a_killed_executor_go_on_elsewhere_within_five_seconds() {
    let mut ground = Ground::new();
    // Two executors here have the default: five seconds. The process that dies says by its own options how long its
    // lease lasts.
    let live: Vec<Engine> = (0..2).map(|_| ground.executor_with(Engine::options())).collect();
    let other = ground.spawn("--everything e --kill-at after-effect --hold --workers 1 --lease default");
    other.wait_for("held");
    let (theirs, _) = owner(&ground, "e").unwrap();
    let load = ground.spawn("--start 0..60 --finish");
    other.signal(Signal::SIGKILL);
    let taken = || owner(&ground, "e").is_none_or(|(executor, _)| executor != theirs);
    let took = until("taken over", taken);
    // The bound includes the time that a busy machine takes to run any process.
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(ground.end(other).was_killed());
    assert!(!ground.end(load).was_killed());
    live[0].retrieve::<serde_json::Value>("e").unwrap().result().unwrap();
    drop(live);
    ground.finish_as(Kind::Mixed);
    ground.assert_clean("a takeover by lease");
}

/// The best of five tries: other programs may be busy on this machine.
#[test]
fn a_takeover_may_be_had_within_a_second() {
    let mut all = Vec::new();
    while !all.iter().any(|took| *took < Duration::from_secs(2)) {
        assert!(all.len() < 5, "{all:?}");
        all.push(quick_takeover());
    }
}

fn quick_takeover() -> Duration {
    let mut ground = Ground::new();
    let live = ground.executor_with(LeaseLength::Short.of(Engine::options()));
    let other = ground.spawn("--everything e --kill-at after-effect --hold --workers 1");
    other.wait_for("held");
    let (theirs, _) = owner(&ground, "e").unwrap();
    other.signal(Signal::SIGKILL);
    let taken = || owner(&ground, "e").is_none_or(|(executor, _)| executor != theirs);
    let took = until("taken over", taken);
    assert!(ground.end(other).was_killed());
    live.retrieve::<serde_json::Value>("e").unwrap().result().unwrap();
    drop(live);
    ground.assert_clean("a quick takeover");
    took
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GoesOn {
    AtOnce,
    WithALease,
}

/// A worker is stopped at this place for longer than its lease, while another worker finishes. Then it goes on, at once
/// or after its lease lasts again, and gives the other worker's outcome.
fn stopped_past_its_lease(kind: Kind, place: &str, goes_on: GoesOn) -> Ground {
    // A machine that is busy may let the lease run out before the place is reached.
    const TRIES: usize = 10;
    let stopped = (0..TRIES).find_map(|_| stopped_past_its_lease_if_it_holds(kind, place, goes_on));
    stopped.unwrap_or_else(|| panic!("in {TRIES} tries a lease of a second never lasted until {place}"))
}

fn stopped_past_its_lease_if_it_holds(kind: Kind, place: &str, goes_on: GoesOn) -> Option<Ground> {
    let mut ground = Ground::new();
    let live = ground.executor_here();
    let args = format!("--everything e --kill-at {place} --hold --tell-result");
    let mut zombie = ground.spawn(&format!("--kind {kind} {args}"));
    if zombie.wait_for_one_of(&["held", "result "]) != "held" {
        return None;
    }
    zombie.signal(Signal::SIGSTOP);
    let (executor, _) = owner(&ground, "e")?;
    let result = live.retrieve::<Vec<String>>("e").unwrap().result().unwrap();
    zombie.signal(Signal::SIGCONT);
    if goes_on == GoesOn::WithALease {
        wait_for_a_lease(&ground, &executor);
    }
    zombie.go();
    zombie.wait_for(&format!("result {}", result.join(",")));
    zombie.signal(Signal::SIGKILL);
    assert!(ground.end(zombie).was_killed());
    drop(live);
    ground.assert_clean("a zombie");
    Some(ground)
}

/// In the body of a step: none of its later writes is accepted.
#[test]
fn a_process_that_was_stopped_past_its_lease_writes_nothing() {
    for (kind, skip) in [(Kind::Plain, 0), (Kind::Async, 0), (Kind::Plain, 1), (Kind::Async, 2)] {
        let ground = stopped_past_its_lease(kind, &format!("after-effect --skip {skip}"), GoesOn::AtOnce);
        let attempts =
            ground.number("SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = 'e'");
        assert!(attempts >= 2, "{attempts}");
    }
}

/// Between two steps: it asks before it runs the next body.
#[test]
fn a_process_that_was_stopped_past_its_lease_runs_no_body_that_another_has_run() {
    for kind in [Kind::Plain, Kind::Async] {
        for goes_on in [GoesOn::AtOnce, GoesOn::WithALease] {
            let ground = stopped_past_its_lease(kind, "before-step", goes_on);
            assert_eq!(first_bodies(&ground), 1);
        }
    }
}

/// Before it had begun with a workflow that it had just claimed, and while the other worker is in the first body.
#[test]
fn a_process_that_was_stopped_past_its_lease_after_a_claim_runs_no_body_that_another_runs() {
    for kind in [Kind::Plain, Kind::Async] {
        stopped_after_a_claim(kind);
    }
}

fn stopped_after_a_claim(kind: Kind) {
    let mut ground = Ground::new();
    assert!(ground.run("--everything e --kill-at before-step").was_killed());
    let args = "--everything e --kill-at after-claim --hold --tell-result";
    let mut zombie = ground.spawn(&format!("--kind {kind} {args}"));
    zombie.wait_for("held");
    let (executor, _) = owner(&ground, "e").unwrap();
    zombie.signal(Signal::SIGSTOP);
    let mut other = ground.spawn("--kill-at after-effect --hold --finish --lease long");
    other.wait_for("held");
    zombie.signal(Signal::SIGCONT);
    wait_for_a_lease(&ground, &executor);
    zombie.go();
    // It holds at each of its steps.
    while owner(&ground, "e").is_some() {
        other.go();
    }
    assert!(!ground.end(other).was_killed());
    zombie.wait_for("result ");
    zombie.signal(Signal::SIGKILL);
    assert!(ground.end(zombie).was_killed());
    assert_eq!(first_bodies(&ground), 1);
    ground.assert_clean("a zombie with a claim");
}

fn wait_for_a_lease(ground: &Ground, executor: &str) {
    let sql = format!(
        "SELECT count(*) FROM piton_executors WHERE executor_id = '{executor}' AND lease_until >= clock_timestamp()"
    );
    watch::eventually("it has a lease", || ground.number(&sql) == 1);
}

/// How often the first step of the workflow ran.
fn first_bodies(ground: &Ground) -> usize {
    let ledger = Ledger::read(&ledger(ground.path())).unwrap();
    let is_first = |entry: &&Entry| matches!(entry, Entry::Body { workflow, step, .. } if workflow == "e" && step == "step");
    ledger.iter().filter(is_first).count()
}

/// It lives again before another executor has taken its workflows: it keeps them.
#[test]
fn a_process_that_was_stopped_for_less_than_its_lease_keeps_its_workflows() {
    let mut ground = Ground::new();
    let live = ground.executor_with(Engine::options());
    let mut other = ground.spawn("--everything e --kill-at after-effect --hold --finish --lease long");
    other.wait_for("held");
    let before = owner(&ground, "e").unwrap();
    other.signal(Signal::SIGSTOP);
    let watch = Instant::now();
    watch::eventually("half a second has passed", || watch.elapsed() > Duration::from_millis(500));
    other.signal(Signal::SIGCONT);
    assert_eq!(owner(&ground, "e").unwrap(), before);
    // It holds at each of its steps from there on.
    while owner(&ground, "e").is_some() {
        other.go();
    }
    assert!(!ground.end(other).was_killed());
    drop(live);
    ground.assert_clean("a short stop");
    assert_eq!(ground.number("SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = 'e'"), 1);
}

/// A label is no identity.
#[test]
fn two_processes_with_the_same_label_leave_each_other_alone() {
    let ground = Ground::new();
    let open = || ground.executor_with(LeaseLength::Long.of(Engine::options()).executor("web"));
    let (first, second) = (open(), open());
    let start = |n: u32| format!("--start {}..{} --finish --lease long", n * 100, n * 100 + 30);
    let workers: Vec<_> = (0..2).map(|n| ground.spawn(&start(n))).collect();
    let mut ground = ground;
    for worker in workers {
        assert!(!ground.end(worker).was_killed());
    }
    drop((first, second));
    ground.finish_as(Kind::Mixed);
    ground.assert_clean("two of one label");
    assert_eq!(ground.number("SELECT max(recovery_attempts) FROM workflow_status"), 1);
}

/// A start that is killed while it makes the tables leaves nothing that the next one could not finish.
#[test]
fn a_process_that_is_killed_while_it_brings_the_tables_up_spoils_nothing() {
    for millis in (0..60).step_by(4) {
        let mut ground = Ground::bare();
        let worker = ground.spawn("--finish");
        let watch = Instant::now();
        watch::eventually("the moment has come", || watch.elapsed().as_millis() >= millis);
        worker.signal(Signal::SIGKILL);
        ground.end(worker);
        ground.finish_as(Kind::Mixed);
        assert_eq!(ground.number("SELECT version FROM dbos_migrations"), 125, "killed after {millis} ms");
    }
}

/// A backlog is shared: no executor takes more than it can run.
#[test]
fn a_backlog_is_shared_in_proportion_to_free_workers() {
    let mut ground = Ground::new();
    let killed = ground.run("--start 0..600 --kill-at after-effect --skip 40 --workers 1");
    assert!(killed.was_killed());
    let mut workers = vec![
        ground.spawn("--wait-for-go --finish --workers 4"),
        ground.spawn("--wait-for-go --finish --workers 4"),
    ];
    for worker in &workers {
        worker.wait_for("ready");
    }
    for worker in &mut workers {
        worker.go();
    }
    for worker in workers {
        assert!(!ground.end(worker).was_killed());
    }
    ground.assert_clean("a backlog");
    let shares = values(
        &ground,
        "SELECT count(*)::text FROM workflow_status WHERE parent_workflow_id IS NULL GROUP BY executor_id ORDER BY 1",
    );
    let shares: BTreeSet<u64> = shares.iter().map(|share| share.parse().unwrap()).collect();
    let both: Vec<u64> = shares.into_iter().rev().take(2).collect();
    let all: u64 = both.iter().sum();
    assert!(both.iter().all(|share| *share * 10 >= all * 3), "{both:?}");
}
