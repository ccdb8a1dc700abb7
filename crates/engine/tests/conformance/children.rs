use std::time::Duration;

use engine::{Error, Failure, Workflow, WorkflowFilter, WorkflowId};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const MINUTE: Duration = Duration::from_secs(60);

/// A child that doubles, and a parent that runs it in each of the ways.
fn register(engine: &Engine, bodies: &Counter) -> Workflow<u32, Vec<u32>> {
    let bodies = bodies.clone();
    let child = engine.register("child", move |ctx: &mut Context, n: u32| {
        ctx.step("double", |_| {
            bodies.count();
            Ok::<_, Error>(n * 2)
        })
    });
    let child = child.unwrap();
    let parent = engine.register("parent", move |ctx: &mut Context, n: u32| -> Result<Vec<u32>> {
        let inline = ctx.run(&child, n)?;
        let beside = ctx.start(&child, n + 1)?;
        let named = ctx.start_as(&child, "chosen", n + 2)?;
        Ok(vec![inline, beside.result(ctx)?, named.result(ctx)?])
    });
    parent.unwrap()
}

/// 2: child ids are PARENT-STEP, or chosen; the recorded names and numbers are those of DBOS.
#[test]
fn children_take_their_ids_and_steps_as_dbos_has_them() {
    let app = App::new();
    let engine = app.open();
    let parent = register(&engine, &Counter::default());
    engine.launch().unwrap();
    assert_eq!(parent.start_as(&engine, "p", 1).unwrap().result().unwrap(), [2, 4, 6]);
    let names = ["child", "DBOS.getResult", "child", "child", "DBOS.getResult", "DBOS.getResult"];
    assert_eq!(app.recorded("p"), names);
    let id = WorkflowId::new("p").unwrap();
    let steps = engine.steps(&id).unwrap();
    let children: Vec<_> = steps.iter().map(|step| step.child.as_ref().unwrap().as_str()).collect();
    assert_eq!(children, ["p-1", "p-1", "p-3", "chosen", "p-3", "chosen"]);
    assert_eq!(steps[0].output, None, "a start has no output");
    let listed = engine.list(&WorkflowFilter::new().parent(id.clone())).unwrap();
    assert!(listed.iter().all(|child| child.parent.as_ref() == Some(&id) && child.attempts == 1));
    assert_eq!(listed.len(), 3);
}

/// 13, 16: a parent that is interrupted anywhere ends with the same, and no child's step runs twice.
#[test]
fn a_parent_recovered_anywhere_adopts_its_children() {
    for recorded in 0..=6 {
        let (app, bodies) = (App::new(), Counter::default());
        let engine = app.open();
        let parent = register(&engine, &bodies);
        engine.launch().unwrap();
        parent.start_as(&engine, "p", 1).unwrap().result().unwrap();
        drop(engine);
        app.interrupt("p", recorded);

        let engine = app.open();
        register(&engine, &bodies);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<Vec<u32>>("p").unwrap().result().unwrap(), [2, 4, 6], "{recorded}");
        assert_eq!(bodies.get(), 3, "after {recorded}");
        assert_eq!((app.attempts("p"), app.attempts("p-1")), (2, 1));
    }
}

/// 16: parent and child that died together are both taken up, each with its own count.
#[test]
fn parent_and_child_are_recovered_as_workflows_of_their_own() {
    let (app, bodies) = (App::new(), Counter::default());
    let engine = app.open_with(app.options().workers_max(1).tasks_max(1));
    let parent = register(&engine, &bodies);
    engine.launch().unwrap();
    parent.start_as(&engine, "p", 1).unwrap().result().unwrap();
    drop(engine);
    for round in 1..=3 {
        app.interrupt("p", 1);
        app.interrupt("p-1", 0);
        // One worker for both: the parent that waits lends it.
        let engine = app.open_with(app.options().workers_max(1).tasks_max(1));
        register(&engine, &bodies);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<Vec<u32>>("p").unwrap().result().unwrap(), [2, 4, 6]);
        assert_eq!((app.attempts("p"), app.attempts("p-1")), (1 + round, 1 + round));
        drop(engine);
    }
}

#[test]
fn the_error_of_a_child_is_told_with_its_id_live_and_replayed() {
    let app = App::new();
    let register = |engine: &Engine| {
        let child = engine.register("child", |_: &mut Context, (): ()| {
            Err::<(), _>(Failure::new("Declined", "no funds").with_code(402))
        });
        let child = child.unwrap();
        let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<String> {
            Ok(format!("{:#?}", ctx.run(&child, ()).unwrap_err()))
        });
        parent.unwrap()
    };
    let engine = app.open();
    let parent = register(&engine);
    engine.launch().unwrap();
    let live = parent.start_as(&engine, "p", ()).unwrap().result().unwrap();
    assert!(live.contains("WorkflowFailed") && live.contains("p-1") && live.contains("402"), "{live}");
    drop(engine);
    app.interrupt("p", 2);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<String>("p").unwrap().result().unwrap(), live);
}

#[test]
fn a_child_id_of_another_workflow_fails_the_step_the_same_way_every_time() {
    let app = App::new();
    let engine = app.open();
    let other = engine.register("other", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    let child = engine.register("child", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<String> {
        Ok(ctx.start_as(&child, "taken", ()).unwrap_err().to_string())
    });
    let parent = parent.unwrap();
    engine.launch().unwrap();
    other.start_as(&engine, "taken", ()).unwrap().result().unwrap();
    let live = parent.start_as(&engine, "p", ()).unwrap().result().unwrap();
    assert!(live.contains("belongs to a run of `other`"), "{live}");
    assert_eq!(app.recorded("p"), ["child"]);
}

/// 27: there is never a child without its parent's record, nor a record without the child.
#[test]
fn a_child_and_its_record_are_one_commit() {
    let app = App::new();
    let engine = app.open();
    let parent = register(&engine, &Counter::default());
    engine.launch().unwrap();
    for n in 0..20 {
        parent.start(&engine, n).unwrap();
        let orphans: u32 = app.value(
            "SELECT count(*) FROM operation_outputs o
              WHERE child_workflow_id IS NOT NULL AND function_name <> 'DBOS.getResult'
                AND NOT EXISTS (SELECT 1 FROM workflow_status s WHERE s.workflow_uuid = o.child_workflow_id)",
            [],
        );
        let unrecorded: u32 = app.value(
            "SELECT count(*) FROM workflow_status s WHERE parent_workflow_id IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM operation_outputs o WHERE o.child_workflow_id = s.workflow_uuid)",
            [],
        );
        assert_eq!((orphans, unrecorded), (0, 0));
    }
}

/// A parent waits long: it leaves its thread, and its child's end brings it back.
#[test]
fn a_parent_that_waits_long_leaves_its_thread_and_comes_back() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::from_secs(1)));
    let latch = Latch::default();
    let held = latch.clone();
    let child = engine.register("child", move |ctx: &mut Context, n: u32| {
        ctx.step("s", |_| {
            held.hold();
            Ok::<_, Error>(n)
        })
    });
    let child = child.unwrap();
    let parent =
        engine.register("parent", move |ctx: &mut Context, n: u32| ctx.start(&child, n)?.result(ctx));
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let handle = parent.start_as(&engine, "p", 7).unwrap();
    latch.wait_for(1);
    crate::support::eventually("the parent leaves its thread", || {
        app.clock.advance(Duration::from_millis(100));
        app.status("p") == "DELAYED"
    });
    latch.open();
    assert_eq!(handle.result().unwrap(), 7);
    assert_eq!(app.attempts("p"), 1, "leaving a thread in order is not a crash");
}

/// Inline children of inline children: beyond a depth they get threads of their own.
#[test]
fn a_deep_recursion_of_children_does_not_overflow_the_stack() {
    let app = App::new();
    let engine = app.open();
    let down = engine.register("down", |ctx: &mut Context, n: u32| -> Result<u32> {
        if n == 0 {
            return Ok(0);
        }
        Ok(ctx.run(&Workflow::<u32, u32>::named("down"), n - 1)? + 1)
    });
    let down = down.unwrap();
    engine.launch().unwrap();
    // Ids grow with the depth ("d-1-1-1..."), and 255 bytes are enough for about 120.
    assert_eq!(down.start_as(&engine, "d", 300).unwrap().result().unwrap(), 300);
    let longest: u32 = app.value("SELECT max(length(workflow_uuid)) FROM workflow_status", []);
    assert!(longest <= 255, "{longest}");
}

/// The id of a hash is the same one at every replay.
#[test]
fn a_child_that_is_named_by_a_hash_is_found_again() {
    let (app, bodies) = (App::new(), Counter::default());
    let id = "p".repeat(254);
    let engine = app.open();
    let parent = register(&engine, &bodies);
    engine.launch().unwrap();
    assert_eq!(parent.start_as(&engine, &id, 1).unwrap().result().unwrap(), [2, 4, 6]);
    drop(engine);
    app.interrupt(&id, 1);
    let engine = app.open();
    register(&engine, &bodies);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<Vec<u32>>(&id).unwrap().result().unwrap(), [2, 4, 6]);
    assert_eq!(bodies.get(), 3);
}

#[test]
fn an_error_from_far_below_does_not_repeat_every_workflow_between() {
    let app = App::new();
    let engine = app.open();
    let down = engine.register("down", |ctx: &mut Context, n: u32| -> Result<u32, engine::BoxError> {
        if n == 0 {
            return Err(Failure::new("Boom", "no luck").with_code(7).into());
        }
        Ok(ctx.run(&Workflow::<u32, u32>::named("down"), n - 1)?)
    });
    let down = down.unwrap();
    engine.launch().unwrap();
    let error = down.start_as(&engine, "d", 100).unwrap().result().unwrap_err();
    let text = error.to_string();
    assert!(text.len() < 1000, "{} bytes: {text}", text.len());
    let root = format!("d{}", "-1".repeat(100));
    for part in
        ["workflow d failed", "workflow d-1 failed", &format!("workflow {root} failed"), "Boom: no luck"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let Error::WorkflowFailed { failure, .. } = error else { panic!("{error:?}") };
    assert_eq!((failure.name(), failure.code_value()), ("Boom", &serde_json::json!(7)));
}

/// The parent, and any that it descends from; beside and in a queue; the same way at every replay.
#[test]
fn a_child_under_the_id_of_an_ancestor_is_refused() {
    for depth in 1..=3 {
        let app = App::new();
        let register = |engine: &Engine| {
            let queue = engine.register_queue("q", engine::QueueOptions::new()).unwrap();
            let down = engine.register("down", move |ctx: &mut Context, left: u32| -> Result<Vec<String>> {
                let me = Workflow::<u32, Vec<String>>::named("down");
                if left > 0 {
                    return ctx.start(&me, left - 1)?.result(ctx);
                }
                let options = engine::EnqueueOptions::new().id("root");
                let beside = ctx.start_as(&me, "root", 9).unwrap_err();
                let queued = ctx.enqueue_with(&me, &queue, &options, 9).unwrap_err();
                Ok(vec![beside.to_string(), queued.to_string()])
            });
            down.unwrap()
        };
        let engine = app.open();
        let down = register(&engine);
        engine.launch().unwrap();
        let told = down.start_as(&engine, "root", depth).unwrap().wait(MINUTE).unwrap().expect("it ends");
        let leaf = format!("root{}", "-1".repeat(depth as usize));
        for error in &told {
            let names = format!("workflow root cannot be a child of {leaf}, which descends from it");
            assert!(error.contains(&names), "{error}");
        }
        drop(engine);
        app.interrupt(&leaf, 2);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<Vec<String>>(&leaf).unwrap().result().unwrap(), told);
    }
}

/// Each waits for the next one. The last one to leave its thread sees the circle.
#[test]
fn workflows_that_wait_for_each_other_are_told_so() {
    for others in [1_u32, 2, 5] {
        let app = App::new();
        let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
        let (all_there, go) = (Latch::default(), Latch::default());
        let (arrived, gate) = (all_there.clone(), go.clone());
        let workflow = engine.register("w", move |ctx: &mut Context, next: String| -> Result<u32> {
            ctx.step("arrive", |_| {
                arrived.arrive();
                gate.hold();
                Ok::<_, Error>(())
            })?;
            ctx.start_as(&Workflow::<String, u32>::named("w"), &next, String::new())?.result(ctx)
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        let start = |n: u32| {
            let next = format!("w{}", (n + 1) % (others + 1));
            workflow.start_as(&engine, &format!("w{n}"), next).unwrap()
        };
        let handles: Vec<_> = (0..=others).map(start).collect();
        all_there.wait_for(handles.len());
        go.open();
        let errors: Vec<_> =
            handles.iter().map(|handle| handle.wait(MINUTE).unwrap_err().to_string()).collect();
        for error in &errors {
            assert!(error.contains("cannot wait for") && error.contains("none of them would end"), "{error}");
        }
    }
}

/// The child of another parent, and a child that was started from outside: their end wakes whoever waits for them.
#[test]
fn a_parent_without_a_thread_wakes_for_a_child_that_is_not_its_own() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let latch = Latch::default();
    let held = latch.clone();
    let child = engine.register("child", move |ctx: &mut Context, (): ()| {
        ctx.step("s", |_| {
            held.hold();
            Ok::<_, Error>(7)
        })
    });
    let child = child.unwrap();
    let shared = child.clone();
    let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<u32> {
        ctx.start_as(&shared, "shared", ())?.result(ctx)
    });
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let direct = child.start_as(&engine, "shared", ()).unwrap();
    latch.wait_for(1);
    let parents: Vec<_> = ["p1", "p2"].iter().map(|id| parent.start_as(&engine, id, ()).unwrap()).collect();
    eventually("both wait without a thread", || {
        app.status("p1") == "DELAYED" && app.status("p2") == "DELAYED"
    });
    latch.open();
    assert_eq!(direct.result().unwrap(), 7);
    for parent in parents {
        assert_eq!(parent.result().unwrap(), 7);
    }
}
