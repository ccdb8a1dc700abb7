use std::time::Duration;

use engine::{Error, Workflow};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn two_steps(engine: &Engine, latch: &Latch, bodies: &Counter) -> Workflow<(), usize> {
    let (latch, bodies) = (latch.clone(), bodies.clone());
    let workflow = engine.register("two", move |ctx: &mut Context, (): ()| -> Result<usize> {
        ctx.step("first", |_| {
            latch.hold();
            Ok::<_, Error>(bodies.count())
        })?;
        ctx.step("second", |_| Ok::<_, Error>(bodies.count()))
    });
    workflow.unwrap()
}

/// A running step ends and is recorded; the next one is for the next start, and no attempt is used up.
#[test]
fn a_shutdown_lets_the_running_step_end_and_gives_the_workflow_back() {
    let (app, latch, bodies) = (App::new(), Latch::default(), Counter::default());
    let engine = app.open();
    let workflow = two_steps(&engine, &latch, &bodies);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    latch.wait_for(1);
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| engine.shutdown(MINUTE));
        assert!(matches!(handle.result().unwrap_err(), Error::ShuttingDown));
        latch.open();
        assert_eq!(ended.join().unwrap(), []);
    });
    assert_eq!(app.recorded("w"), ["first"]);
    assert_eq!((app.status("w").as_str(), app.attempts("w")), ("ENQUEUED", 0));
    assert!(matches!(workflow.start(&engine, ()).unwrap_err(), Error::ShuttingDown));
    assert!(matches!(engine.cancel(handle.id()).unwrap_err(), Error::ShuttingDown));
    assert!(matches!(engine.launch().unwrap_err(), Error::ShuttingDown));

    let engine = app.open();
    two_steps(&engine, &latch, &bodies);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<usize>("w").unwrap().result().unwrap(), 1);
    assert_eq!((bodies.get(), app.attempts("w")), (2, 1));
}

/// Waits end at once: for a time, for a child, for a message, for an attempt.
#[test]
fn a_shutdown_ends_waits_at_once() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::from_secs(3600)));
    let options = engine::StepOptions::retries().interval(MINUTE);
    let sleeper =
        engine.register("sleeper", |ctx: &mut Context, (): ()| -> Result<()> { ctx.sleep(MINUTE) }).unwrap();
    let workflow = engine.register("w", move |ctx: &mut Context, way: u32| -> Result<()> {
        match way {
            0 => ctx.sleep(MINUTE),
            1 => ctx.recv::<()>("never", MINUTE).map(drop),
            2 => ctx.step_with("s", &options, |_| Err::<(), _>("not yet")),
            3 => ctx.run(&sleeper, ()),
            _ => ctx.start(&sleeper, ())?.result(ctx),
        }
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for way in 0..5 {
        workflow.start_as(&engine, &format!("w{way}"), way).unwrap();
    }
    eventually("all wait", || app.value::<u32>("SELECT count(*) FROM workflow_status", []) == 7);
    assert_eq!(engine.shutdown(MINUTE), []);
    let waiting = "SELECT count(*) FROM workflow_status WHERE status = 'ENQUEUED' AND owner_xid IS NULL";
    assert_eq!(app.value::<u32>(waiting, []), 7);
}

#[test]
fn a_shutdown_may_come_at_any_time_and_twice() {
    let app = App::new();
    let never_launched = app.open();
    assert_eq!(never_launched.shutdown(MINUTE), []);
    assert_eq!(never_launched.shutdown(MINUTE), []);

    for _ in 0..20 {
        let engine = app.open();
        let workflow =
            engine.register("w", |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n))).unwrap();
        engine.launch().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while workflow.start(&engine, 1).is_ok() {});
            }
            assert_eq!(engine.shutdown(MINUTE), []);
        });
        drop(engine);
    }
    assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status WHERE status = 'PENDING'", []), 0);
    assert_eq!(app.database.traces(), 0, "somebody left one");
}

/// The last clone that is dropped shuts the engine down, wherever that happens.
#[test]
fn dropping_an_engine_is_a_shutdown() {
    let (app, bodies) = (App::new(), Counter::default());
    let engine = app.open();
    let counted = bodies.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
        ctx.step("s", |_| Ok::<_, Error>(counted.count()))?;
        ctx.sleep(Duration::from_secs(1))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    eventually("it sleeps", || app.recorded("w").len() == 2);
    let clone = engine.clone();
    drop(engine);
    assert_eq!(app.status("w"), "PENDING", "one clone is left");
    drop(clone);
    assert_eq!(app.status("w"), "ENQUEUED");
}

/// Whatever words it chooses: the body may have failed because it was told to stop.
#[test]
fn an_error_of_a_body_that_was_told_to_stop_is_no_outcome() {
    let app = App::new();
    let latch = Latch::default();
    let register = |engine: &Engine| {
        let held = latch.clone();
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            ctx.step("long", |step| {
                held.hold();
                if step.cancelled() { Err("interrupted") } else { Ok(7) }
            })
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    latch.wait_for(1);
    std::thread::scope(|scope| {
        let shutdown = scope.spawn(|| engine.shutdown(MINUTE));
        eventually("told", || matches!(workflow.start(&engine, ()), Err(Error::ShuttingDown)));
        latch.open();
        assert_eq!(shutdown.join().unwrap(), []);
    });
    assert_eq!((app.status("w").as_str(), app.recorded("w").len()), ("ENQUEUED", 0));

    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<u32>("w").unwrap().result().unwrap(), 7);
}
