use nix::sys::signal::Signal;
use torture::kinds::Kind;

use crate::support::Ground;

const PENDING: &str =
    "SELECT owner_xid FROM workflow_status WHERE workflow_uuid = 'e' AND status = 'PENDING'";

/// A process that is merely stopped is not dead, however long it is.
#[test]
fn a_stopped_process_keeps_its_workflows() {
    kept_through_a_stop(Kind::Plain);
}

#[test]
fn a_stopped_process_keeps_its_async_workflows() {
    kept_through_a_stop(Kind::Async);
}

fn kept_through_a_stop(kind: Kind) {
    let mut ground = Ground::new();
    let live = ground.executor_here();
    let mut other =
        ground.spawn(&format!("--kind {kind} --everything e --kill-at after-effect --hold --finish"));
    other.wait_for("held");
    let token: String = ground.database.value(PENDING).unwrap();
    other.signal(Signal::SIGSTOP);
    // The live process goes round many times meanwhile: it takes up the workflows of the process that was killed after
    // the stop.
    for id in ["one", "two", "three"] {
        let third = ground.spawn(&format!("--everything {id} --kill-at after-effect --hold --workers 1"));
        third.wait_for("held");
        third.signal(Signal::SIGKILL);
        assert!(ground.end(third).was_killed());
        live.retrieve::<serde_json::Value>(id).unwrap().result().unwrap();
    }
    assert_eq!(ground.database.value(PENDING).unwrap(), token);
    other.signal(Signal::SIGCONT);
    // It holds at each of its steps from there on.
    while ground.database.value("SELECT status FROM workflow_status WHERE workflow_uuid = 'e'").unwrap()
        == "PENDING"
    {
        other.go();
    }
    assert!(!ground.end(other).was_killed());
    drop(live);
    ground.assert_clean("a stop");
    assert_eq!(ground.number("SELECT recovery_attempts FROM workflow_status WHERE workflow_uuid = 'e'"), 1);
}
