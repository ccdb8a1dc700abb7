//! What waits for the transaction of another process to commit, and then sees what it did.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use cluster::Proxy;
use engine::{Context, Engine, Handle, WorkflowStatus};

use crate::support::{Ground, eventually, options, pass};

/// Until a session of the engine's waits for a lock.
fn until_it_waits(ground: &Ground) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it waits for a lock", || ground.count(waiting) == 1);
}

/// A running workflow of this id. It receives a message once it is let through the gate, by dropping that.
fn receiver(id: &str) -> (Ground, Engine, Handle<Option<String>>, Sender<()>) {
    let ground = Ground::new();
    let engine = ground.open();
    let (gate, opened) = channel::<()>();
    let opened = Mutex::new(opened);
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        let _ = opened.lock().unwrap().recv();
        ctx.recv::<String>("t", Duration::from_secs(60))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, id, ()).unwrap();
    (ground, engine, handle, gate)
}

/// The child is in no tree that was looked at before.
#[test]
fn a_child_whose_start_is_in_flight_is_cancelled_with_its_parent() {
    let (ground, engine, parent, gate) = receiver("parent");
    let mut start = ground.sql();
    let mut start = start.transaction().unwrap();
    let child = "
        SELECT 1 FROM dbos.workflow_status WHERE workflow_uuid = 'parent' FOR NO KEY UPDATE;
        INSERT INTO dbos.workflow_status
               (workflow_uuid, status, name, parent_workflow_id, application_name, application_version, created_at,
                updated_at, recovery_attempts)
        SELECT 'child', 'PENDING', name, 'parent', application_name, application_version, created_at, updated_at, 1
          FROM dbos.workflow_status WHERE workflow_uuid = 'parent'";
    start.batch_execute(child).unwrap();
    std::thread::scope(|scope| {
        let cancelled = scope.spawn(|| engine.cancel_with_children(parent.id()));
        until_it_waits(&ground);
        start.commit().unwrap();
        cancelled.join().unwrap().unwrap();
    });
    let status = engine.retrieve::<()>("child").unwrap().status().unwrap();
    drop(gate);
    assert_eq!(status, WorkflowStatus::Cancelled);
}

/// Its answer was lost while it commits: what it took is found, and nothing else is taken.
#[test]
fn a_receive_waits_for_its_own_earlier_try() {
    let (ground, engine, handle, gate) = receiver("w");
    for message in ["first", "second"] {
        engine.send(handle.id(), "t", message.to_owned()).unwrap();
    }
    let mut earlier = ground.sql();
    let mut earlier = earlier.transaction().unwrap();
    let took = "
        SELECT 1 FROM dbos.workflow_status WHERE workflow_uuid = 'w' FOR SHARE;
        UPDATE dbos.notifications SET consumed = TRUE WHERE message LIKE '%first%';
        INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, serialization)
        SELECT 'w', 1, 'DBOS.recv', message, serialization FROM dbos.notifications WHERE message LIKE '%first%'";
    earlier.batch_execute(took).unwrap();
    drop(gate);
    until_it_waits(&ground);
    let looks = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FOR NO KEY UPDATE%'";
    assert_eq!(ground.count(looks), 1, "before it looks");
    earlier.commit().unwrap();
    assert_eq!(handle.result().unwrap().as_deref(), Some("first"));
    assert_eq!(ground.count("SELECT count(*) FROM dbos.notifications WHERE NOT consumed"), 1);
}

/// The child may have been seen to run by the parent, and its end wakes nobody who has not left yet.
#[test]
fn a_parent_that_is_about_to_leave_waits_for_the_end_of_its_child_that_is_in_flight() {
    let ground = Ground::new();
    let engine = options().suspend_after(Duration::ZERO).open(&ground.url()).unwrap();
    let ((child_gate, child_opened), (gate, opened)) = (channel::<()>(), channel::<()>());
    let (child_opened, opened) = (Mutex::new(child_opened), Mutex::new(opened));
    let child = engine.register("child", move |_: &mut Context, (): ()| -> engine::Result<u32> {
        let _ = child_opened.lock().unwrap().recv();
        Ok(1)
    });
    let child = child.unwrap();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> engine::Result<u32> {
        let child = ctx.start(&child, ())?;
        let _ = opened.lock().unwrap().recv();
        child.result(ctx)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    let started = "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'w'";
    eventually("it has a child", || ground.count(started) == 1);
    let mut end = ground.sql();
    let mut end = end.transaction().unwrap();
    let ends = "
        UPDATE dbos.workflow_status SET status = 'SUCCESS', owner_xid = NULL WHERE workflow_uuid = 'w-1';
        INSERT INTO dbos.workflow_output (workflow_uuid, output, retention_timestamp) VALUES ('w-1', '2', 1)";
    end.batch_execute(ends).unwrap();
    drop(gate);
    until_it_waits(&ground);
    end.commit().unwrap();
    assert_eq!(handle.result().unwrap(), 2);
    drop(child_gate);
}

/// It is due and nobody can have it: it is asked for now and then.
#[test]
fn a_due_workflow_that_is_held_by_somebody_makes_nobody_spin() {
    let ground = Ground::new();
    let proxy = Proxy::before(ground.cluster).unwrap();
    let engine = options().open(&proxy.url(&ground.database)).unwrap();
    let workflow =
        engine.register("sleeps", |ctx: &mut Context, (): ()| ctx.sleep(Duration::from_secs(3600))).unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("asleep", || handle.status().unwrap() == WorkflowStatus::Delayed);
    let due =
        "UPDATE dbos.workflow_status SET delay_until_epoch_ms = extract(epoch FROM now()) * 1000 + 3000";
    ground.sql().batch_execute(due).unwrap();
    let mut holder = ground.sql();
    let mut holder = holder.transaction().unwrap();
    holder.batch_execute("SELECT 1 FROM dbos.workflow_status FOR UPDATE").unwrap();
    pass(Duration::from_secs(4));
    let (before, watch) = (proxy.requests(), Instant::now());
    pass(Duration::from_secs(1));
    let (asked, seconds) = (proxy.requests() - before, watch.elapsed().as_secs());
    assert!((1..400 * seconds).contains(&asked), "{asked} requests in {seconds} s");
    holder.commit().unwrap();
    eventually("awake", || handle.status().unwrap() != WorkflowStatus::Delayed || ground.count(AGAIN) == 1);
}

/// It has found that its time has not come by its own record, and sleeps on.
const AGAIN: &str = "SELECT count(*) FROM dbos.workflow_status
    WHERE status = 'DELAYED' AND delay_until_epoch_ms > extract(epoch FROM now()) * 1000 + 60000";
