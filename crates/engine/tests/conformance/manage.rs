use std::time::Duration;

use engine::{Error, Stop, Workflow, WorkflowId, WorkflowStatus};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> WorkflowId {
    WorkflowId::new(text).unwrap()
}

/// Two steps; the first is held.
fn held(engine: &Engine, latch: &Latch, bodies: &Counter) -> Workflow<(), usize> {
    let (latch, bodies) = (latch.clone(), bodies.clone());
    let workflow = engine.register("held", move |ctx: &mut Context, (): ()| -> Result<usize> {
        ctx.step("first", |_| {
            bodies.count();
            latch.hold();
            Ok::<_, Error>(())
        })?;
        ctx.step("second", |_| Ok::<_, Error>(bodies.count()))
    });
    workflow.unwrap()
}

/// 35: a cancelled workflow records nothing more, and its waiters are told; resumed, it goes on.
#[test]
fn a_cancelled_workflow_stops_at_its_next_step_and_can_be_resumed() {
    let (app, latch, bodies) = (App::new(), Latch::default(), Counter::default());
    let engine = app.open();
    let workflow = held(&engine, &latch, &bodies);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    latch.wait_for(1);
    assert_eq!(engine.cancel(handle.id()).unwrap(), WorkflowStatus::Cancelled);
    assert!(matches!(handle.result().unwrap_err(), Error::WorkflowCancelled { .. }));
    latch.open();
    assert_eq!(engine.cancel(handle.id()).unwrap(), WorkflowStatus::Cancelled, "twice is once");
    assert_eq!(engine.resume(handle.id()).unwrap(), WorkflowStatus::Enqueued);
    assert_eq!(handle.result().unwrap(), 2, "the first step was not recorded, so it ran again");
    assert_eq!(app.recorded("w"), ["first", "second"]);
}

/// 35: whichever comes first stands: a completion that won is not cancelled, and the caller is told.
#[test]
fn an_outcome_that_came_first_is_not_cancelled() {
    let app = App::new();
    let engine = app.open();
    let good = engine.register("good", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    let bad = engine.register("bad", |_: &mut Context, (): ()| Err::<(), _>("no luck")).unwrap();
    engine.launch().unwrap();
    good.start_as(&engine, "good", ()).unwrap().result().unwrap();
    bad.start_as(&engine, "bad", ()).unwrap().result().unwrap_err();
    for (name, status) in [("good", WorkflowStatus::Success), ("bad", WorkflowStatus::Error)] {
        assert_eq!(engine.cancel(&id(name)).unwrap(), status);
        let resumed = engine.resume(&id(name));
        match status {
            WorkflowStatus::Success => assert_eq!(resumed.unwrap(), status, "nothing is left to do"),
            _ => assert!(matches!(resumed, Err(Error::Final { .. })), "{resumed:?}"),
        }
        assert_eq!(app.status(name), status.as_str());
    }
}

/// 35: cancel and completion race, many times: one of them wins and both agree which.
#[test]
fn cancel_and_completion_agree_on_who_won() {
    let app = App::new();
    let engine = app.open();
    let workflow =
        engine.register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7))).unwrap();
    engine.launch().unwrap();
    let mut cancelled = 0;
    for _ in 0..200 {
        let handle = workflow.start(&engine, ()).unwrap();
        let told = engine.cancel(handle.id()).unwrap();
        let result = handle.result();
        assert_eq!(result.is_ok(), told == WorkflowStatus::Success, "{told} {result:?}");
        assert_eq!(handle.status().unwrap(), told);
        cancelled += usize::from(told == WorkflowStatus::Cancelled);
    }
    let late = "SELECT count(*) FROM operation_outputs o JOIN workflow_status s USING (workflow_uuid)
                 WHERE s.status = 'CANCELLED' AND o.completed_at_epoch_ms > s.completed_at";
    assert_eq!(app.value::<u32>(late, []), 0);
    assert!(cancelled <= 200);
}

/// A cancel reaches a workflow that sleeps, waits for an attempt, or looks at its step's info.
#[test]
fn a_cancel_ends_waits() {
    let app = App::new();
    let engine = app.open();
    let options = engine::StepOptions::retries().interval(HOUR);
    let seen = Latch::default();
    let watching = seen.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, way: u32| -> Result<()> {
        match way {
            0 => ctx.sleep(Duration::from_secs(1)),
            1 => ctx.step_with("s", &options, |_| Err::<(), _>("not yet")),
            2 => ctx.recv::<()>("never", Duration::from_secs(1)).map(drop),
            _ => ctx.step("long", |step| {
                while !step.cancelled() {
                    std::thread::yield_now();
                }
                watching.hold();
                Ok::<_, Error>(())
            }),
        }
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    seen.open();
    for way in 0..4 {
        let handle = workflow.start(&engine, way).unwrap();
        engine.cancel(handle.id()).unwrap();
        assert!(matches!(handle.result().unwrap_err(), Error::WorkflowCancelled { .. }), "{way}");
    }
    assert_eq!(engine.shutdown(Duration::from_secs(60)), []);
}

/// A cancel by another process reaches a workflow that waits.
#[test]
fn a_cancel_by_another_process_is_noticed_during_a_wait() {
    let app = App::new();
    let (here, there) = (app.open(), app.open());
    let stopped = Latch::default();
    let told = stopped.clone();
    let workflow = here.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
        let error = ctx.sleep(Duration::from_secs(4)).unwrap_err();
        assert!(matches!(error, Error::Stopped { reason: Stop::Cancelled, .. }), "{error:?}");
        told.hold();
        Err(error)
    });
    let workflow = workflow.unwrap();
    here.launch().unwrap();
    let handle = workflow.start_as(&here, "w", ()).unwrap();
    eventually("it sleeps", || app.recorded("w").len() == 1);
    there.cancel(&id("w")).unwrap();
    stopped.wait_for(1);
    stopped.open();
    assert!(matches!(handle.result().unwrap_err(), Error::WorkflowCancelled { .. }));
}

/// 36: children and theirs, if asked to.
#[test]
fn a_cancel_with_children_reaches_all_descendants() {
    for with_children in [false, true] {
        let (app, latch) = (App::new(), Latch::default());
        let engine = app.open();
        let held = latch.clone();
        let leaf = engine.register("leaf", move |ctx: &mut Context, (): ()| {
            ctx.step("s", |_| {
                held.hold();
                Ok::<_, Error>(7)
            })
        });
        let leaf = leaf.unwrap();
        let middle =
            engine.register("middle", move |ctx: &mut Context, (): ()| ctx.start(&leaf, ())?.result(ctx));
        let middle = middle.unwrap();
        let root =
            engine.register("root", move |ctx: &mut Context, (): ()| ctx.start(&middle, ())?.result(ctx));
        let root = root.unwrap();
        engine.launch().unwrap();
        let handle = root.start_as(&engine, "r", ()).unwrap();
        latch.wait_for(1);
        if with_children {
            engine.cancel_with_children(handle.id()).unwrap();
        } else {
            engine.cancel(handle.id()).unwrap();
        }
        latch.open();
        let leaf = engine.retrieve::<u32>("r-1-1").unwrap().result();
        assert_eq!(leaf.is_ok(), !with_children, "{leaf:?}");
        assert_eq!(app.status("r"), "CANCELLED");
        let middle = engine.retrieve::<u32>("r-1").unwrap().result();
        assert_eq!(middle.is_ok(), !with_children, "{middle:?}");
    }
}

/// A parent learns that its child was cancelled, the same way every time.
#[test]
fn a_parent_of_a_cancelled_child_is_told() {
    let (app, latch) = (App::new(), Latch::default());
    let engine = app.open();
    let inside = latch.clone();
    let child = engine.register("child", move |ctx: &mut Context, (): ()| {
        ctx.step("s", |_| {
            inside.hold();
            Ok::<_, Error>(())
        })
    });
    let child = child.unwrap();
    let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<String> {
        Ok(ctx.start(&child, ())?.result(ctx).unwrap_err().to_string())
    });
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let handle = parent.start_as(&engine, "p", ()).unwrap();
    latch.wait_for(1);
    engine.cancel(&id("p-1")).unwrap();
    latch.open();
    assert_eq!(handle.result().unwrap(), "workflow p-1 was cancelled");
}

/// 37: an unknown id is an error, and a resume resets what counts.
#[test]
fn unknown_ids_are_not_found() {
    let app = App::new();
    let engine = app.open();
    assert!(matches!(engine.cancel(&id("nobody")).unwrap_err(), Error::NotFound { .. }));
    assert!(matches!(engine.cancel_with_children(&id("nobody")).unwrap_err(), Error::NotFound { .. }));
    assert!(matches!(engine.resume(&id("nobody")).unwrap_err(), Error::NotFound { .. }));
    assert!(matches!(engine.progress(&id("nobody")).unwrap_err(), Error::NotFound { .. }));
}

/// A sleeper that is resumed wakes up, looks at its recorded time, and sleeps on.
#[test]
fn a_resumed_sleeper_sleeps_on() {
    let app = App::new();
    let engine = app.open();
    let workflow =
        engine.register("w", |ctx: &mut Context, (): ()| -> Result<()> { ctx.sleep(HOUR) }).unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("it sleeps", || app.status("w") == "DELAYED");
    engine.resume(handle.id()).unwrap();
    eventually("it sleeps again", || app.status("w") == "DELAYED");
    app.clock.advance(HOUR);
    handle.result().unwrap();
}

/// Workflows are managed by a process that runs none.
#[test]
fn an_engine_that_is_not_launched_can_look_and_manage() {
    let app = App::new();
    let engine = app.open();
    let workflow =
        engine.register("w", |ctx: &mut Context, (): ()| -> Result<()> { ctx.sleep(HOUR) }).unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    eventually("it sleeps", || app.status("w") == "DELAYED");
    let tool = app.open();
    assert_eq!(tool.progress(&id("w")).unwrap().status, WorkflowStatus::Delayed);
    assert_eq!(tool.cancel(&id("w")).unwrap(), WorkflowStatus::Cancelled);
}
