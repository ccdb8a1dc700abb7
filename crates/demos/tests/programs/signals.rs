//! A demo that is told to stop, or killed, in the middle. A lock on its users keeps it there.

use engine::rusqlite::Connection;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::support::{Demo, Ended, Running};

const CALM: [&str; 2] = ["--crash", "0"];

/// ex6 in the seventh of its batches: six are recorded, and the insert of the seventh waits for the lock.
fn in_the_middle() -> (Demo, Running, Connection) {
    let demo = Demo::new("ex6");
    demo.crash(&["--json", "--crash", "1"]);
    let held = demo.lock("users.db");
    let mut running = demo.start(&CALM);
    running.wait_for("= 12 recorded steps were replayed");
    (demo, running, held)
}

/// The run can be taken up, the next process does, and no user is missing.
fn the_next_run_finishes(demo: &Demo, interrupted: &Ended) {
    let id = interrupted.workflow();
    let status = demo.workflow_status(id);
    assert!(["ENQUEUED", "PENDING"].contains(&status.as_str()), "{status}");
    let next = demo.start(&CALM).end().exits(0);
    let found = next.json();
    assert_eq!(found["workflow_id"], id);
    assert_eq!((&found["status"], &found["unique_users"]), (&"SUCCESS".into(), &1_000.into()));
    assert!(found["steps_replayed"].as_u64().unwrap() >= 12, "{found}");
    assert_eq!(demo.users(), (found["rows"].as_u64().unwrap(), 1_000));
    assert_eq!(demo.workflow_status(id), "SUCCESS");
}

fn told_to_stop_by(signal: Signal) {
    let (demo, mut running, held) = in_the_middle();
    running.send(signal);
    running.wait_for("told to stop");
    drop(held);
    let stopped = running.end().exits(130);
    assert_eq!(demo.logs(), [""; 0]);
    let id = stopped.workflow();
    assert_eq!(stopped.lines(&format!("  stopped; workflow {id} goes on at the next start")).len(), 1);
    let found = stopped.json();
    assert_eq!((&found["example"], &found["workflow_id"]), (&"ex6".into(), &id.into()));
    assert_eq!((&found["error"], &found["output"]), (&"stopped".into(), &Value::Null));
    assert_eq!(found["status"], demo.workflow_status(id));
    assert!(found["steps_replayed"].as_u64().unwrap() >= 12, "{found}");
    let journal = std::fs::read_to_string(demo.path("journal.jsonl")).unwrap();
    assert!(!journal.contains("\"ended\""), "it has not: {journal}");
    the_next_run_finishes(&demo, &stopped);
}

#[test]
fn term_ends_a_demo_and_the_next_run_goes_on() {
    told_to_stop_by(Signal::SIGTERM);
}

#[test]
fn int_ends_a_demo_and_the_next_run_goes_on() {
    told_to_stop_by(Signal::SIGINT);
}

#[test]
fn a_second_signal_changes_nothing() {
    let (demo, mut running, held) = in_the_middle();
    running.send(Signal::SIGINT);
    running.wait_for("told to stop");
    running.send(Signal::SIGINT);
    drop(held);
    let stopped = running.end().exits(130);
    the_next_run_finishes(&demo, &stopped);
}

/// The lock is not released, so the insert does not end, and the demo does not wait for it for ever.
#[test]
fn a_step_that_hangs_does_not_keep_a_demo_from_stopping() {
    let (demo, running, held) = in_the_middle();
    running.send(Signal::SIGTERM);
    let stopped = running.end().exits(130);
    drop(held);
    the_next_run_finishes(&demo, &stopped);
}

#[test]
fn a_kill_in_the_middle_loses_nothing() {
    let (demo, running, held) = in_the_middle();
    running.send(Signal::SIGKILL);
    let killed = running.end();
    drop(held);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed.status), Some(Signal::SIGKILL as i32));
    assert_eq!(demo.workflow_status(killed.workflow()), "PENDING");
    the_next_run_finishes(&demo, &killed);
}

/// A killed program cannot note its end, so the count of crashes is left out.
#[test]
fn after_a_kill_the_summary_counts_runs_and_no_crashes_that_were_none() {
    let demo = Demo::new("ex1");
    demo.run(&[]).exits(0);
    let held = demo.lock("users.db");
    let mut running = demo.start(&[]);
    running.wait_for("> workflow ");
    running.send(Signal::SIGKILL);
    running.end();
    drop(held);
    let run = demo.start(&[]).end().exits(0);
    assert_eq!(run.lines("  3 runs of the program in this directory; ").len(), 1, "{run:#?}");
    let demo = Demo::new("ex3");
    demo.crash(&["--json", "--crash", "1"]);
    let run = demo.start(&CALM).end().exits(0);
    assert_eq!(
        run.lines("  2 runs of the program in this directory, 1 crash on purpose; ").len(),
        1,
        "{run:#?}"
    );
}

#[test]
fn kills_one_after_another_lose_nothing() {
    let (demo, mut running, held) = in_the_middle();
    for _ in 0..3 {
        running.send(Signal::SIGKILL);
        running.end();
        running = demo.start(&CALM);
        running.wait_for("were replayed");
    }
    running.send(Signal::SIGKILL);
    let killed = running.end();
    drop(held);
    the_next_run_finishes(&demo, &killed);
}

/// A lock on the system database holds the launch.
#[test]
fn a_demo_that_is_told_to_stop_while_it_launches_stops_too() {
    let demo = Demo::new("ex6");
    demo.crash(&["--json", "--crash", "1"]);
    let held = demo.lock("system.db");
    let mut running = demo.start(&CALM);
    running.wait_for("was interrupted and goes on");
    running.send(Signal::SIGTERM);
    running.wait_for("told to stop");
    drop(held);
    let stopped = running.end().exits(130);
    assert_eq!(stopped.json()["error"], "stopped");
    the_next_run_finishes(&demo, &stopped);
}

#[test]
fn a_demo_that_is_told_to_stop_before_it_has_a_workflow_stops_too() {
    let demo = Demo::new("ex6");
    demo.run(&["--json", "--crash", "0"]).exits(0);
    let held = demo.lock("system.db");
    let mut running = demo.start(&CALM);
    running.wait_for("  run 2 in ");
    running.send(Signal::SIGTERM);
    running.wait_for("told to stop");
    drop(held);
    let stopped = running.end().exits(130);
    assert_eq!(stopped.lines("  stopped; ").len(), 1, "{stopped:#?}");
    assert_eq!(stopped.json()["error"], "stopped");
    demo.run(&["--json", "--crash", "0"]).exits(0);
}
