//! Rows that somebody deletes: a retention job, an operator, another program. Whoever waits for one is told.

use std::time::Duration;

use engine::{Error, Stop, Workflow, WorkflowId};

use crate::support::{App, Counter, Latch, Result, eventually, levels};
use crate::way::{Context, Engine};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn id(text: &str) -> WorkflowId {
    WorkflowId::new(text).unwrap()
}

fn delete(app: &App, id: &str) {
    for table in
        ["operation_outputs", "notifications", "workflow_input", "workflow_output", "workflow_status"]
    {
        let column = if table == "notifications" { "destination_uuid" } else { "workflow_uuid" };
        app.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [id]);
    }
}

/// Held in a step until the latch opens; then one more step.
fn held(engine: &Engine, latch: &Latch) -> Workflow<(), u32> {
    let latch = latch.clone();
    let workflow = engine.register("held", move |ctx: &mut Context, (): ()| -> Result<u32> {
        ctx.step("first", |_| {
            latch.hold();
            Ok::<_, Error>(())
        })?;
        ctx.step("second", |_| Ok::<_, Error>(7))
    });
    workflow.unwrap()
}

fn sleeper(engine: &Engine, time: Duration) -> Workflow<(), u32> {
    let workflow = engine.register("sleeper", move |ctx: &mut Context, (): ()| -> Result<u32> {
        ctx.sleep(time)?;
        Ok(7)
    });
    workflow.unwrap()
}

/// A wait without an end fails the test.
fn ended<O: serde::de::DeserializeOwned>(handle: &engine::Handle<O>) -> Result<O> {
    handle.wait(MINUTE).map(|output| output.expect("it ends within a minute"))
}

fn is_not_found<T: std::fmt::Debug>(result: Result<T>, of: &str) {
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::NotFound { workflow } if *workflow == id(of)), "{error:?}");
}

/// While it runs a body, while it waits on a thread, and while it waits without one.
#[test]
fn a_handle_of_a_deleted_workflow_is_told_so() {
    let (app, latch) = (App::new(), Latch::default());
    let engine = app.open();
    let (held, sleeper) = (held(&engine, &latch), sleeper(&engine, HOUR));
    let waits =
        engine.register("waits", |ctx: &mut Context, (): ()| ctx.recv::<u32>("t", Duration::from_secs(4)));
    let waits = waits.unwrap();
    engine.launch().unwrap();
    let running = held.start_as(&engine, "running", ()).unwrap();
    latch.wait_for(1);
    let asleep = sleeper.start_as(&engine, "asleep", ()).unwrap();
    eventually("it sleeps", || app.status("asleep") == "DELAYED");
    let waiting = waits.start_as(&engine, "waiting", ()).unwrap();
    eventually("it waits", || app.recorded("waiting") == ["DBOS.sleep"]);
    let elsewhere = app.open();
    let from_there = elsewhere.retrieve::<u32>("running").unwrap();
    for id in ["running", "asleep", "waiting"] {
        delete(&app, id);
    }
    is_not_found(ended(&running), "running");
    is_not_found(running.result(), "running");
    is_not_found(ended(&asleep), "asleep");
    is_not_found(ended(&waiting), "waiting");
    is_not_found(ended(&from_there), "running");
    is_not_found(engine.progress(&id("running")).map(drop), "running");
    is_not_found(engine.send(&id("waiting"), "t", 1_u32), "waiting");
    is_not_found(engine.cancel(&id("asleep")), "asleep");
    latch.open();
}

#[test]
fn a_workflow_whose_row_was_deleted_stops_and_says_so() {
    let (app, latch, told) = (App::new(), Latch::default(), Counter::default());
    let engine = app.open();
    let held = held(&engine, &latch);
    let says = told.clone();
    let waits = engine.register("waits", move |ctx: &mut Context, (): ()| -> Result<()> {
        let error = ctx.sleep(Duration::from_secs(4)).unwrap_err();
        assert!(matches!(error, Error::Stopped { reason: Stop::Deleted, .. }), "{error:?}");
        says.count();
        Err(error)
    });
    let waits = waits.unwrap();
    engine.launch().unwrap();
    held.start_as(&engine, "deleted-in-a-body", ()).unwrap();
    waits.start_as(&engine, "deleted-in-a-wait", ()).unwrap();
    latch.wait_for(1);
    eventually("it waits", || app.recorded("deleted-in-a-wait") == ["DBOS.sleep"]);
    delete(&app, "deleted-in-a-body");
    delete(&app, "deleted-in-a-wait");
    eventually("the one that waits is told", || told.get() == 1);
    latch.open();
    for id in ["deleted-in-a-body", "deleted-in-a-wait"] {
        eventually("it said so", || levels(&format!("workflow {id} ")).contains(&log::Level::Warn));
    }
    assert_eq!(engine.shutdown(MINUTE), []);
    let left: u32 = app.value("SELECT count(*) FROM operation_outputs", []);
    assert_eq!(left, 0, "nothing was recorded for what is not there");
}

/// On its thread and without it; in the process of the child and in another one; and the same at a replay.
#[test]
fn a_parent_of_a_deleted_child_is_told_and_the_wait_is_recorded() {
    for suspend_after in [Duration::ZERO, HOUR] {
        let (app, latch) = (App::new(), Latch::default());
        let register = |engine: &Engine| {
            let child = held(engine, &latch);
            let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<String> {
                Ok(ctx.start_as(&child, "child", ())?.result(ctx).unwrap_err().to_string())
            });
            parent.unwrap()
        };
        let engine = app.open_with(app.options().suspend_after(suspend_after));
        let parent = register(&engine);
        engine.launch().unwrap();
        let handle = parent.start_as(&engine, "p", ()).unwrap();
        latch.wait_for(1);
        if suspend_after.is_zero() {
            eventually("the parent waits without a thread", || app.status("p") == "DELAYED");
        }
        delete(&app, "child");
        assert_eq!(ended(&handle).unwrap(), "there is no workflow child");
        assert_eq!(app.recorded("p"), ["held", "DBOS.getResult"]);
        latch.open();
        drop(engine);
        app.interrupt("p", 2);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        let replayed = ended(&engine.retrieve::<String>("p").unwrap()).unwrap();
        assert_eq!(replayed, "there is no workflow child");
    }
}

/// A child is a workflow of its own.
#[test]
fn children_of_a_deleted_workflow_go_on() {
    let (app, latch) = (App::new(), Latch::default());
    let engine = app.open();
    let child = held(&engine, &latch);
    let (beside, inline) = (child.clone(), child);
    let starts =
        engine.register("starts", move |ctx: &mut Context, (): ()| ctx.start(&beside, ())?.result(ctx));
    let runs = engine.register("runs", move |ctx: &mut Context, (): ()| ctx.run(&inline, ()));
    let (starts, runs) = (starts.unwrap(), runs.unwrap());
    engine.launch().unwrap();
    let parents = [starts.start_as(&engine, "s", ()).unwrap(), runs.start_as(&engine, "r", ()).unwrap()];
    latch.wait_for(2);
    delete(&app, "s");
    delete(&app, "r");
    for parent in &parents {
        is_not_found(ended(parent), parent.id().as_str());
    }
    latch.open();
    for child in ["s-1", "r-1"] {
        assert_eq!(ended(&engine.retrieve::<u32>(child).unwrap()).unwrap(), 7);
    }
    assert_eq!(engine.shutdown(MINUTE), []);
}
