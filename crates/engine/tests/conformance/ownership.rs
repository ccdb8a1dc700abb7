//! Two executions of one workflow: the one that owns it writes, the other stops and adopts.

use std::time::Duration;

use engine::{Error, Stop, Workflow, WorkflowId, WorkflowStatus};

use crate::support::{App, Counter, Latch, Result};
use crate::way::{Context, Engine};

const MINUTE: Duration = Duration::from_secs(60);

/// A workflow that is held inside its first step; the second run is not.
struct Held {
    latch: Latch,
    bodies: Counter,
}

impl Held {
    fn new() -> Self {
        Self { latch: Latch::default(), bodies: Counter::default() }
    }

    fn register(&self, engine: &Engine) -> Workflow<(), Vec<usize>> {
        let (latch, bodies) = (self.latch.clone(), self.bodies.clone());
        let workflow = engine.register("held", move |ctx: &mut Context, (): ()| -> Result<Vec<usize>> {
            let first = ctx.step("first", |_| {
                let n = bodies.count();
                if n == 0 {
                    latch.hold();
                }
                Ok::<_, Error>(n)
            })?;
            let second = ctx.step("second", |_| Ok::<_, Error>(bodies.count()))?;
            Ok(vec![first, second])
        });
        workflow.unwrap()
    }
}

fn id() -> WorkflowId {
    WorkflowId::new("w").unwrap()
}

/// 21, 22, 23: an execution that was superseded records no step and no outcome; its handle adopts the owner's.
#[test]
fn a_superseded_execution_writes_nothing_and_its_handle_adopts_the_outcome() {
    let (app, held) = (App::new(), Held::new());
    let (stale, fresh) = (app.open(), app.open());
    let workflow = held.register(&stale);
    held.register(&fresh);
    stale.launch().unwrap();
    let handle = workflow.start_as(&stale, "w", ()).unwrap();
    held.latch.wait_for(1);
    // An operator takes the workflow from an executor that seems stuck.
    fresh.launch().unwrap();
    assert_eq!(fresh.resume(&id()).unwrap(), WorkflowStatus::Enqueued);
    assert_eq!(fresh.retrieve::<Vec<usize>>("w").unwrap().result().unwrap(), [1, 2]);
    held.latch.open();
    assert_eq!(handle.result().unwrap(), [1, 2], "adopted");
    assert_eq!(stale.shutdown(MINUTE), [], "the stale execution has ended");
    assert_eq!(held.bodies.get(), 3, "the stale one ran no second step");
    assert_eq!(app.recorded("w"), ["first", "second"]);
}

/// Two engines of one process do it.
#[test]
fn a_resume_in_the_same_process_supersedes_the_running_execution() {
    let (app, held) = (App::new(), Held::new());
    let engine = app.open();
    let workflow = held.register(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    held.latch.wait_for(1);
    engine.resume(&id()).unwrap();
    assert_eq!(handle.result().unwrap(), [1, 2]);
    held.latch.open();
    assert_eq!(engine.shutdown(MINUTE), []);
    assert_eq!(held.bodies.get(), 3);
}

/// 24: the fence and the write are one commit: a take-over that comes between the body and the record wins.
#[test]
fn a_take_over_between_the_body_and_its_record_wins() {
    let app = App::new();
    let engine = app.open();
    let side = app.clone();
    let done = Latch::default();
    let at_its_end = done.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
        let error = ctx.step("s", |_| {
            side.execute("UPDATE workflow_status SET owner_xid = 'another', executor_id = 'local'", []);
            Ok::<_, Error>(())
        });
        let Err(Error::Stopped { reason, .. }) = &error else { panic!("{error:?}") };
        assert_eq!(*reason, Stop::NotOwner);
        // Whatever it tries from here on, it gets the same answer and writes nothing.
        let again = ctx.step("t", |_| -> Result<()> { panic!("must not run") });
        assert!(matches!(again, Err(Error::Stopped { reason: Stop::NotOwner, .. })));
        at_its_end.hold();
        Ok(())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    done.wait_for(1);
    done.open();
    assert_eq!(engine.shutdown(MINUTE), []);
    assert_eq!(app.status("w"), "PENDING", "it is somebody else's");
    assert!(app.recorded("w").is_empty());
}

/// 25: a stale parent starts no child, inline or beside.
#[test]
fn a_stale_parent_cannot_start_a_child() {
    for inline in [true, false] {
        let app = App::new();
        let engine = app.open();
        let bodies = Counter::default();
        let counted = bodies.clone();
        let child = engine.register("child", move |_: &mut Context, (): ()| -> Result<()> {
            counted.count();
            Ok(())
        });
        let child = child.unwrap();
        let side = app.clone();
        let done = Latch::default();
        let at_its_end = done.clone();
        let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<()> {
            side.execute("UPDATE workflow_status SET owner_xid = 'another', executor_id = 'local'", []);
            let started = if inline { ctx.run(&child, ()) } else { ctx.start(&child, ()).map(drop) };
            at_its_end.hold();
            started
        });
        let parent = parent.unwrap();
        engine.launch().unwrap();
        parent.start_as(&engine, "p", ()).unwrap();
        done.wait_for(1);
        done.open();
        assert_eq!(engine.shutdown(MINUTE), []);
        assert_eq!(bodies.get(), 0);
        assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status", []), 1);
        assert!(app.recorded("p").is_empty());
    }
}

/// A transaction step of a stale execution leaves no effect.
#[test]
fn a_stale_transaction_step_has_no_effect() {
    let app = App::new();
    let engine = app.open();
    app.batch("CREATE TABLE effect (x integer)");
    let side = app.clone();
    let done = Latch::default();
    let at_its_end = done.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        side.execute("UPDATE workflow_status SET owner_xid = 'another', executor_id = 'local'", []);
        let inserted = ctx.transaction("t", |tx| tx.execute("INSERT INTO effect VALUES (1)", ()));
        at_its_end.hold();
        inserted
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    done.wait_for(1);
    done.open();
    assert_eq!(engine.shutdown(MINUTE), []);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM effect", []), 0);
}

/// Two processes that start the same id at the same time: one row, one run, one outcome.
#[test]
fn starts_that_race_for_one_id_run_it_once() {
    let (app, bodies) = (App::new(), Counter::default());
    let engines: Vec<_> = (0..4).map(|_| app.open()).collect();
    let workflows: Vec<_> = engines
        .iter()
        .map(|engine| {
            let bodies = bodies.clone();
            let workflow = engine.register("w", move |ctx: &mut Context, n: usize| {
                ctx.step("s", |_| {
                    bodies.count();
                    Ok::<_, Error>(n)
                })
            });
            engine.launch().unwrap();
            workflow.unwrap()
        })
        .collect();
    for round in 0..25 {
        let id = format!("w{round}");
        let results: Vec<usize> = std::thread::scope(|scope| {
            let starts: Vec<_> = engines
                .iter()
                .zip(&workflows)
                .enumerate()
                .map(|(n, (engine, workflow))| {
                    let id = &id;
                    scope.spawn(move || workflow.start_as(engine, id, n).unwrap().result().unwrap())
                })
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    }
    assert_eq!(bodies.get(), 25);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM operation_outputs", []), 25);
}
