use std::time::Duration;

use engine::{Error, Timestamp, Workflow, WorkflowFilter, WorkflowStatus};

use crate::backend::ODD_ATTRIBUTES;
use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const HOUR: Duration = Duration::from_secs(3600);

fn register(engine: &Engine, bodies: &Counter) -> Workflow<u64, usize> {
    let bodies = bodies.clone();
    let workflow = engine.register("nap", move |ctx: &mut Context, seconds: u64| -> Result<usize> {
        ctx.step("before", |_| Ok::<_, Error>(bodies.count()))?;
        ctx.sleep(Duration::from_secs(seconds))?;
        ctx.step("after", |_| Ok::<_, Error>(bodies.count()))
    });
    workflow.unwrap()
}

/// The row says how DBOS says it: seconds since the epoch, completed when it ends.
#[test]
fn a_sleep_is_recorded_before_it_is_slept() {
    let app = App::new();
    let engine = app.open();
    let workflow = register(&engine, &Counter::default());
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", 2).unwrap();
    eventually("the sleep is recorded", || app.recorded("w").len() == 2);
    let row = "SELECT output || ' ' || serialization || ' ' || completed_at_epoch_ms FROM operation_outputs
                WHERE function_name = 'DBOS.sleep'";
    assert_eq!(app.value::<String>(row, []), "1767225602.0 portable_json 1767225602000");
    assert!(!handle.status().unwrap().is_terminal());
    app.clock.advance(Duration::from_millis(1_999));
    assert!(!handle.status().unwrap().is_terminal());
    app.clock.advance(Duration::from_millis(1));
    assert_eq!(handle.result().unwrap(), 1);
}

/// 28: a recovered workflow waits for the rest of its sleep, or not at all.
#[test]
fn a_recovered_sleep_waits_only_for_the_rest() {
    for already_over in [false, true] {
        let (app, bodies) = (App::new(), Counter::default());
        let engine = app.open();
        let workflow = register(&engine, &bodies);
        engine.launch().unwrap();
        workflow.start_as(&engine, "w", 3).unwrap();
        eventually("the sleep is recorded", || app.recorded("w").len() == 2);
        drop(engine);
        app.clock.advance(Duration::from_secs(if already_over { 3 } else { 2 }));

        let engine = app.open();
        register(&engine, &bodies);
        engine.launch().unwrap();
        let handle = engine.retrieve::<usize>("w").unwrap();
        if !already_over {
            eventually("it goes on", || app.attempts("w") == 1 && app.status("w") == "PENDING");
            assert_eq!(bodies.get(), 1);
            app.clock.advance(Duration::from_secs(1));
        }
        assert_eq!(handle.result().unwrap(), 1);
        assert_eq!(bodies.get(), 2);
    }
}

/// A long sleep is a row and no thread, and as many as you like wake up.
#[test]
fn long_sleeps_take_no_worker() {
    let app = App::new();
    let engine = app.open_with(app.options().workers_max(2).tasks_max(2));
    let bodies = Counter::default();
    let workflow = register(&engine, &bodies);
    engine.launch().unwrap();
    let handles: Vec<_> =
        (0..50).map(|n| workflow.start_as(&engine, &format!("w{n}"), 3600).unwrap()).collect();
    let asleep = WorkflowFilter::new().status(WorkflowStatus::Delayed);
    eventually("all sleep", || engine.count(&asleep).unwrap() == 50);
    let one = &engine.list(&asleep.clone().limit(1)).unwrap()[0];
    assert_eq!(one.delayed_until, Some(Timestamp::from_millis(1_767_225_600_000 + 3_600_000)));
    assert_eq!(bodies.get(), 50);
    app.clock.advance(HOUR);
    for handle in &handles {
        handle.result().unwrap();
    }
    assert_eq!(bodies.get(), 100);
    assert_eq!(app.value::<u32>("SELECT max(recovery_attempts) FROM workflow_status", []), 1);
}

/// Many sleeps in one workflow are no crashes: the attempts do not run out.
#[test]
fn a_workflow_may_sleep_more_often_than_it_may_be_recovered() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let options = engine::WorkflowOptions::new().recovery_attempts_max(3);
    let workflow = engine.register_with("naps", options, |ctx: &mut Context, (): ()| -> Result<()> {
        (0..20).try_for_each(|_| ctx.sleep(Duration::from_secs(1)))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    eventually("all naps are over", || {
        app.clock.advance(Duration::from_millis(200));
        handle.status().unwrap().is_terminal()
    });
    handle.result().unwrap();
}

#[test]
fn a_sleeper_is_woken_by_another_executor_when_its_own_is_gone() {
    let (app, bodies) = (App::new(), Counter::default());
    let first = app.open();
    let workflow = register(&first, &bodies);
    first.launch().unwrap();
    workflow.start_as(&first, "w", 3600).unwrap();
    eventually("it sleeps", || app.status("w") == "DELAYED");
    drop(first);
    let second = app.open();
    register(&second, &bodies);
    second.launch().unwrap();
    app.clock.advance(HOUR);
    assert_eq!(second.retrieve::<usize>("w").unwrap().result().unwrap(), 1);
}

#[test]
fn sleeps_of_no_time_and_of_all_time_are_told_apart() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| -> Result<String> {
        ctx.sleep(Duration::ZERO)?;
        Ok(ctx.sleep(Duration::MAX).unwrap_err().to_string())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    assert!(error.contains("is beyond the calendar"), "{error}");
    assert!(app.recorded("w").is_empty(), "a sleep of no time takes no step");
}

/// What is left of a wait goes by a clock that nobody sets: on the thread and without it, for a sleep and for a receive.
#[test]
fn a_clock_that_steps_back_makes_no_wait_longer() {
    for seconds in [4, 600] {
        for receives in [false, true] {
            let app = App::new();
            let engine = app.open();
            let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<u32> {
                let time = Duration::from_secs(seconds);
                if receives {
                    assert_eq!(ctx.recv::<u32>("never", time)?, None);
                } else {
                    ctx.sleep(time)?;
                }
                Ok(7)
            });
            let workflow = workflow.unwrap();
            engine.launch().unwrap();
            let handle = workflow.start_as(&engine, "w", ()).unwrap();
            eventually("the wait is recorded", || app.recorded("w") == ["DBOS.sleep"]);
            if seconds > 4 {
                eventually("it waits without a thread", || {
                    app.clock.advance(Duration::from_millis(if receives { 50 } else { 0 }));
                    app.status("w") == "DELAYED"
                });
            }
            app.clock.step(-3_600_000);
            assert!(!handle.status().unwrap().is_terminal());
            app.clock.advance(Duration::from_secs(seconds));
            assert_eq!(handle.wait(Duration::from_secs(60)).unwrap(), Some(7), "{seconds} {receives}");
            assert_eq!(app.attempts("w"), 1);
        }
    }
}

/// Only the process that began the wait knows how long it is by a steady clock.
#[test]
fn another_process_goes_by_the_date_of_a_wait() {
    let app = App::new();
    let first = app.open();
    register(&first, &Counter::default());
    first.launch().unwrap();
    let workflow = Workflow::<u64, usize>::named("nap");
    workflow.start_as(&first, "w", 600).unwrap();
    eventually("it sleeps", || app.status("w") == "DELAYED");
    drop(first);
    app.clock.step(-3_600_000);
    let second = app.open();
    register(&second, &Counter::default());
    second.launch().unwrap();
    app.clock.advance(Duration::from_secs(600));
    let handle = second.retrieve::<usize>("w").unwrap();
    assert!(!handle.status().unwrap().is_terminal());
    app.clock.step(3_600_000);
    handle.result().unwrap();
}

/// A retry of a workflow whose write was refused waits as a row, too.
#[test]
fn a_clock_that_steps_back_keeps_no_refused_workflow_waiting() {
    let app = App::new();
    let refused = std::sync::atomic::AtomicBool::new(false);
    let hook: std::sync::Arc<engine::testing::CommitHook> = std::sync::Arc::new(move |point| {
        let records = point.kinds.contains(&"record_step") && point.moment == engine::testing::Moment::Before;
        if records && !refused.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return engine::testing::Fate::FailForGood;
        }
        engine::testing::Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let w = engine.register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7))).unwrap();
    engine.launch().unwrap();
    let handle = w.start_as(&engine, "w", ()).unwrap();
    eventually("it waits for another try", || app.status("w") == "DELAYED");
    app.clock.step(-3_600_000);
    app.clock.advance(Duration::from_secs(60));
    assert_eq!(handle.wait(Duration::from_secs(60)).unwrap(), Some(7));
}

/// Attributes belong to whoever enqueues; what cannot be read there must not keep anybody asleep.
#[test]
fn unreadable_attributes_of_a_row_keep_nobody_asleep() {
    for attributes in ODD_ATTRIBUTES {
        let app = App::new();
        let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
        let latch = Latch::default();
        let held = latch.clone();
        let sleeper =
            engine.register("sleeper", |ctx: &mut Context, (): ()| ctx.sleep(Duration::from_secs(60)));
        let receiver = engine.register("receiver", move |ctx: &mut Context, (): ()| {
            held.hold();
            ctx.recv::<u32>("t", Duration::from_secs(600))
        });
        let (sleeper, receiver) = (sleeper.unwrap(), receiver.unwrap());
        engine.launch().unwrap();
        let sleeper = sleeper.start_as(&engine, "s", ()).unwrap();
        let receiver = receiver.start_as(&engine, "r", ()).unwrap();
        latch.wait_for(1);
        app.execute("UPDATE workflow_status SET attributes = ?1", [*attributes]);
        latch.open();
        eventually("both wait without a thread", || {
            app.status("s") == "DELAYED" && app.status("r") == "DELAYED"
        });
        engine.send(receiver.id(), "t", 5_u32).unwrap();
        assert_eq!(receiver.result().unwrap(), Some(5));
        app.clock.advance(Duration::from_secs(60));
        sleeper.result().unwrap();
    }
}
