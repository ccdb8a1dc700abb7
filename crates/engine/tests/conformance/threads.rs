//! What a plain function has and an async one has not: a thread, which it blocks, which may be missing, on which its
//! children run, and which nobody takes away from a body.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::{Error, WorkflowFilter, WorkflowStatus};

use crate::accidents::{held, id, several_looks};
use crate::shutdown::two_steps;
use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const MINUTE: Duration = Duration::from_secs(60);

/// The step lends its slot to what it waits for.
#[test]
fn a_step_may_wait_for_a_workflow_when_there_is_one_worker() {
    let app = App::new();
    let engine = app.open_with(app.options().workers_max(1).tasks_max(1));
    let inner = engine.register("inner", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    let slot: Arc<Mutex<Option<Engine>>> = Arc::default();
    let from_inside = slot.clone();
    let outer = engine.register("outer", move |ctx: &mut Context, (): ()| -> Result<u32> {
        ctx.step("call", |_| {
            let engine = from_inside.lock().unwrap().clone().unwrap();
            inner.start(&engine, ())?.result()
        })
    });
    let outer = outer.unwrap();
    *slot.lock().unwrap() = Some(engine.clone());
    engine.launch().unwrap();
    let many: Vec<_> = (0..20).map(|_| outer.start(&engine, ()).unwrap()).collect();
    for outer in many {
        assert_eq!(outer.result().unwrap(), 7);
    }
    slot.lock().unwrap().take();
}

/// A start that finds no thread costs no attempt, and the workflow waits for one.
#[test]
fn a_workflow_without_a_thread_waits_for_one() {
    let app = App::new();
    let body = |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7));
    let engine = app.open_with(app.options().stack_bytes(1 << 46));
    let workflow = engine.register("w", body).unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    for _ in 0..5 {
        eventually("given back", || app.status("w") == "DELAYED" && app.attempts("w") == 0);
        app.clock.advance(Duration::from_secs(1));
    }
    drop(engine);

    let engine = app.open();
    engine.register("w", body).unwrap();
    engine.launch().unwrap();
    let handle = engine.retrieve::<u32>("w").unwrap();
    eventually("run", || {
        app.clock.advance(Duration::from_secs(1));
        app.status("w") == "SUCCESS"
    });
    assert_eq!(handle.result().unwrap(), 7);
}

/// An inline child that sleeps long takes its parent along.
#[test]
fn an_inline_child_that_sleeps_long_suspends_its_parent_too() {
    let app = App::new();
    let engine = app.open();
    let child = engine.register("child", |ctx: &mut Context, n: u32| -> Result<u32> {
        ctx.sleep(Duration::from_secs(3600))?;
        Ok(n)
    });
    let child = child.unwrap();
    let parent = engine.register("parent", move |ctx: &mut Context, n: u32| ctx.run(&child, n));
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let handle = parent.start_as(&engine, "p", 7).unwrap();
    eventually("both leave the thread", || app.status("p") == "DELAYED");
    assert_eq!(app.status("p-1"), "DELAYED");
    app.clock.advance(Duration::from_secs(3600));
    assert_eq!(handle.result().unwrap(), 7);
    assert_eq!(engine.count(&WorkflowFilter::new().status(WorkflowStatus::Success)).unwrap(), 2);
}

/// A step beyond the deadline is left alone: its workflow stays with this process as long as that lives.
#[test]
fn a_step_that_outlasts_the_deadline_keeps_its_workflow() {
    let (app, latch, bodies) = (App::new(), Latch::default(), Counter::default());
    let engine = app.open();
    let workflow = two_steps(&engine, &latch, &bodies);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    latch.wait_for(1);
    assert_eq!(engine.shutdown(Duration::from_millis(10)), [handle.id().clone()]);

    let other = app.open();
    two_steps(&other, &Latch::default(), &bodies);
    other.launch().unwrap();
    assert_eq!(app.status("w"), "PENDING", "not taken over while its step runs");
    latch.open();
    eventually("the step has ended", || bodies.get() == 1);
    assert!(app.recorded("w").is_empty(), "and records nothing: the engine is closed");
}

#[test]
fn a_shutdown_keeps_its_deadline_while_a_transaction_step_runs() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let latch = Latch::default();
    let held = latch.clone();
    let sleeper = engine.register("sleeper", |ctx: &mut Context, (): ()| ctx.sleep(MINUTE)).unwrap();
    let slow = engine.register("slow", move |ctx: &mut Context, (): ()| {
        let held = held.clone();
        ctx.transaction("t", move |_| {
            held.hold();
            Ok::<_, Error>(())
        })
    });
    let slow = slow.unwrap();
    engine.launch().unwrap();
    sleeper.start_as(&engine, "sleeper", ()).unwrap();
    eventually("asleep", || app.status("sleeper") == "DELAYED");
    slow.start_as(&engine, "slow", ()).unwrap();
    latch.wait_for(1);
    app.clock.advance(2 * MINUTE);
    let left = engine.shutdown(Duration::from_millis(100));
    assert_eq!(left.iter().map(ToString::to_string).collect::<Vec<_>>(), ["slow"]);
    latch.open();
}

/// What was shut down over a running body takes leave when that body ends, although a handle lives on.
#[test]
fn the_last_body_of_a_shut_down_engine_takes_leave() {
    let app = App::new();
    let (latch, bodies) = (Latch::default(), Counter::default());
    let first = app.open();
    let workflow = held(&first, "w", &latch, &bodies);
    first.launch().unwrap();
    let _handle = workflow.start_as(&first, "w", ()).unwrap();
    latch.wait_for(1);
    assert_eq!(first.shutdown(Duration::from_millis(10)), [id("w")]);
    let second = app.open();
    held(&second, "w", &latch, &bodies);
    second.launch().unwrap();
    several_looks();
    assert_eq!(bodies.get(), 1, "the first one lives while its body runs");
    latch.open();
    eventually("done by the second", || app.status("w") == "SUCCESS");
}

/// The last engine goes in the body of a step; the shutdown waits for that step and not the step for it.
#[test]
fn an_engine_dropped_inside_a_step_does_not_lose_the_step() {
    let app = App::new();
    let engine = app.open();
    let slot: Arc<Mutex<Option<Engine>>> = Arc::default();
    let (latch, last) = (Latch::default(), slot.clone());
    let gate = latch.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        ctx.step("s", |_| {
            gate.hold();
            let watch = Instant::now();
            drop(last.lock().unwrap().take());
            Ok::<_, Error>(watch.elapsed() < Duration::from_secs(3))
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    drop(workflow.start_as(&engine, "w", ()).unwrap());
    latch.wait_for(1);
    *slot.lock().unwrap() = Some(engine);
    latch.open();
    eventually("recorded", || app.recorded("w") == ["s"]);
    assert_eq!(app.value::<String>("SELECT output FROM operation_outputs", []), "true");
}

/// A driver that blocks would panic there.
#[test]
fn an_engine_is_used_and_dropped_inside_an_async_runtime() {
    let app = App::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let single = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (name, runtime) in [("several", &runtime), ("single", &single)] {
        let engine = runtime.block_on(async {
            let engine = app.open();
            let workflow = engine
                .register("w", |ctx: &mut Context, n: u32| {
                    let stepped = ctx.step("s", |_| Ok::<_, Error>(n))?;
                    ctx.transaction("t", move |tx| {
                        tx.query_one("SELECT 1", ())?.get::<u32>(0).map(|one| stepped + one)
                    })
                })
                .unwrap();
            engine.launch().unwrap();
            let handle = workflow.start_as(&engine, name, 1).unwrap();
            assert_eq!(handle.result().unwrap(), 2);
            assert_eq!(
                engine.list(&WorkflowFilter::new().name("w")).unwrap().len(),
                if name == "several" { 1 } else { 2 }
            );
            engine.send(handle.id(), "t", 1).unwrap();
            engine
        });
        // One that was built elsewhere, dropped here.
        runtime.block_on(async { drop(engine) });
    }
}
