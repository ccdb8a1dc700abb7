//! What happens around the engine: reads that fail, rows that others spoiled, files that go, calls that cross.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Error, StepOptions, Timestamp, WorkflowId, WorkflowOptions, WorkflowStatus};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn id(text: &str) -> WorkflowId {
    WorkflowId::new(text).unwrap()
}

/// The fleet looks four times a second; this is time for several looks.
pub(crate) fn several_looks() {
    let start = Instant::now();
    eventually("several looks", || start.elapsed() > Duration::from_millis(1200));
}

/// A workflow whose only step waits at a latch.
pub(crate) fn held(
    engine: &Engine,
    name: &str,
    latch: &Latch,
    bodies: &Counter,
) -> engine::Workflow<(), usize> {
    let (latch, bodies) = (latch.clone(), bodies.clone());
    let workflow = engine.register(name, move |ctx: &mut Context, (): ()| {
        ctx.step("s", |_| {
            let before = bodies.count();
            latch.hold();
            Ok::<_, Error>(before)
        })
    });
    workflow.unwrap()
}

fn sleeper(engine: &Engine) -> engine::Workflow<(), ()> {
    engine.register("sleeper", |ctx: &mut Context, (): ()| ctx.sleep(MINUTE)).unwrap()
}

/// A table that is away for a moment stands for anything that keeps a reader from reading.
#[test]
fn a_read_that_fails_while_a_parent_waits_is_no_outcome() {
    let app = App::new();
    let engine = app.open_with(app.options());
    let (latch, before, after) = (Latch::default(), Latch::default(), Latch::default());
    let child = held(&engine, "child", &latch, &Counter::default());
    let (waits, waited) = (before.clone(), after.clone());
    let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<usize> {
        let child = ctx.start(&child, ())?;
        waits.hold();
        let result = child.result(ctx);
        waited.hold();
        result
    });
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let handle = parent.start_as(&engine, "p", ()).unwrap();
    before.wait_for(1);
    app.batch("ALTER TABLE workflow_output RENAME TO hidden");
    before.open();
    after.wait_for(1);
    app.batch("ALTER TABLE hidden RENAME TO workflow_output");
    after.open();
    latch.open();
    eventually("given back", || {
        app.clock.advance(Duration::from_secs(1));
        app.status("p") == "SUCCESS"
    });
    assert_eq!(handle.result().unwrap(), 0);
}

#[test]
fn reads_that_fail_before_a_run_begins_use_up_no_attempt() {
    let app = App::new();
    let once = WorkflowOptions::new().recovery_attempts_max(0);
    let register = |engine: &Engine| {
        engine
            .register_with("w", once, |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7)))
            .unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 0);
    app.execute("UPDATE workflow_status SET recovery_attempts = 0", []);
    app.batch("ALTER TABLE workflow_input RENAME TO hidden");
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    for _ in 0..3 {
        eventually("given back", || app.status("w") == "DELAYED" && app.attempts("w") == 0);
        app.clock.advance(Duration::from_secs(1));
    }
    app.batch("ALTER TABLE hidden RENAME TO workflow_input");
    eventually("done", || {
        app.clock.advance(Duration::from_secs(1));
        app.status("w") == "SUCCESS"
    });
}

/// By a cleaner of temporary files, say. The living put them back, and nobody takes them for dead.
#[test]
fn removing_the_traces_of_the_living_costs_nothing() {
    let app = App::new();
    let (latch, bodies) = (Latch::default(), Counter::default());
    let first = app.open_with(app.options().workers_max(1).tasks_max(1));
    let running = held(&first, "w", &latch, &bodies);
    let waiting = first.register("waiting", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    first.launch().unwrap();
    let running = running.start_as(&first, "w", ()).unwrap();
    latch.wait_for(1);
    let waiting = waiting.start_as(&first, "waits", ()).unwrap();
    app.database.remove_traces();
    let second = app.open();
    held(&second, "w", &latch, &bodies);
    second.launch().unwrap();
    app.clock.advance(MINUTE);
    several_looks();
    assert_eq!((bodies.get(), app.status("waits").as_str()), (1, "ENQUEUED"));
    latch.open();
    assert_eq!((running.result().unwrap(), waiting.result().unwrap()), (0, 7));
}

#[test]
fn the_work_of_a_program_that_starts_again_is_not_refused_meanwhile() {
    let app = App::new();
    let register = |engine: &Engine| {
        engine.register("b", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7))).unwrap()
    };
    let b = app.open();
    let workflow = register(&b);
    b.launch().unwrap();
    workflow.start_as(&b, "w", ()).unwrap().result().unwrap();
    drop(b);
    let a = app.open();
    a.register("a", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    a.launch().unwrap();
    app.interrupt("w", 1);
    let handle = a.retrieve::<u32>("w").unwrap();
    several_looks();
    let b = app.open();
    register(&b);
    b.launch().unwrap();
    assert_eq!(handle.result().unwrap(), 7);
}

/// As `updateWorkflowAttributes` of the DBOS SDKs does.
#[test]
fn a_parent_whose_attributes_were_replaced_wakes_all_the_same() {
    let app = App::new();
    let latch = Latch::default();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let child = held(&engine, "child", &latch, &Counter::default());
    let parent =
        engine.register("parent", move |ctx: &mut Context, (): ()| ctx.start(&child, ())?.result(ctx));
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let handle = parent.start_as(&engine, "p", ()).unwrap();
    latch.wait_for(1);
    eventually("without a thread", || app.status("p") == "DELAYED");
    app.execute("UPDATE workflow_status SET attributes = '{\"team\":\"x\"}' WHERE workflow_uuid = 'p'", []);
    latch.open();
    assert_eq!(handle.result().unwrap(), 0);
    assert!(
        app.value::<String>(
            "SELECT CAST(attributes AS TEXT) FROM workflow_status WHERE workflow_uuid = 'p'",
            []
        )
        .contains("team")
    );
}

#[test]
fn a_status_that_this_program_does_not_know_stops_nobody_else() {
    let app = App::new();
    let latch = Latch::default();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let running = held(&engine, "held", &latch, &Counter::default());
    let sleeper = sleeper(&engine);
    engine.launch().unwrap();
    running.start_as(&engine, "h", ()).unwrap();
    latch.wait_for(1);
    let handle = sleeper.start_as(&engine, "s", ()).unwrap();
    eventually("asleep", || app.status("s") == "DELAYED");
    app.execute("UPDATE workflow_status SET status = 'PAUSED' WHERE workflow_uuid = 'h'", []);
    app.clock.advance(MINUTE);
    handle.result().unwrap();
    latch.open();
}

#[test]
fn a_message_is_taken_in_the_order_of_sending_whatever_the_clock_says() {
    let app = App::new();
    let engine = app.open();
    let latch = Latch::default();
    let gate = latch.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<Vec<Option<u32>>> {
        gate.hold();
        Ok(vec![ctx.recv("t", Duration::ZERO)?, ctx.recv("t", Duration::ZERO)?])
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    latch.wait_for(1);
    engine.send(handle.id(), "t", 1).unwrap();
    app.clock.set(Timestamp::from_millis(1_000));
    engine.send(handle.id(), "t", 2).unwrap();
    latch.open();
    assert_eq!(handle.result().unwrap(), [Some(1), Some(2)]);
}

/// What is not recorded takes as long as it should.
#[test]
fn a_clock_that_is_set_back_delays_no_retry_and_no_timeout() {
    let app = App::new();
    let engine = app.open();
    let (bodies, latch) = (Counter::default(), Latch::default());
    let (counted, gate) = (bodies.clone(), latch.clone());
    let options = StepOptions::new().attempts_max(2).interval(MINUTE);
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        ctx.step_with("s", &options, |_| if counted.count() == 0 { Err("not yet") } else { Ok(7) })
    });
    let held = engine.register("held", move |_: &mut Context, (): ()| {
        gate.hold();
        Ok::<_, Error>(())
    });
    let (workflow, held) = (workflow.unwrap(), held.unwrap());
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    let held = held.start(&engine, ()).unwrap();
    latch.wait_for(1);
    eventually("failed once", || bodies.get() == 1);
    std::thread::scope(|scope| {
        // The patience of a caller is real time, so this one ends by itself.
        let waiter = scope.spawn(|| held.wait(Duration::from_millis(50)).unwrap());
        app.clock.set(Timestamp::from_millis(0));
        let result = scope.spawn(|| handle.result().unwrap());
        eventually("both are over", || {
            app.clock.advance(Duration::from_secs(5));
            waiter.is_finished() && result.is_finished()
        });
        assert_eq!((waiter.join().unwrap(), result.join().unwrap()), (None, 7));
    });
    latch.open();
}

#[test]
fn a_handle_gives_the_last_outcome_when_another_process_has_resumed() {
    let app = App::new();
    let fits = Arc::new(AtomicBool::new(true));
    let register = |engine: &Engine| {
        let fits = fits.clone();
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            ctx.step(if fits.load(Ordering::SeqCst) { "a" } else { "z" }, |_| Ok::<_, Error>(7))
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 1);
    fits.store(false, Ordering::SeqCst);
    let first = app.open();
    register(&first);
    let handle = first.retrieve::<u32>("w").unwrap();
    first.launch().unwrap();
    eventually("the program does not fit", || app.status("w") == "ERROR");
    first.shutdown(MINUTE);
    fits.store(true, Ordering::SeqCst);
    let second = app.open();
    register(&second);
    second.launch().unwrap();
    assert_eq!(second.resume(&id("w")).unwrap(), WorkflowStatus::Enqueued);
    assert_eq!(second.retrieve::<u32>("w").unwrap().result().unwrap(), 7);
    assert_eq!(handle.result().unwrap(), 7);
}

/// The fleet may claim a resumed workflow before the thread that resumed it goes on.
#[test]
fn a_resume_does_not_stop_the_execution_that_it_caused() {
    let app = App::new();
    let (resumed, began) = (Latch::default(), Latch::default());
    let (in_hook, begins) = (resumed.clone(), began.clone());
    // The verdict of the resume is held back until the new execution has begun.
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::After && point.kinds.contains(&"resume") {
            in_hook.hold();
        }
        Fate::Go
    });
    let engine = app.open();
    let bodies = Counter::default();
    let counted = bodies.clone();
    let register = |engine: &Engine| {
        let (begins, counted) = (begins.clone(), counted.clone());
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
            counted.count();
            begins.hold();
            ctx.sleep(MINUTE)
        });
        workflow.unwrap()
    };
    let workflow = register(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    began.wait_for(1);
    let operator = app.open_with(app.options().commit_hook(hook));
    std::thread::scope(|scope| {
        let resume = scope.spawn(|| operator.resume(&id("w")).unwrap());
        resumed.wait_for(1);
        began.wait_for(2);
        resumed.open();
        assert_eq!(resume.join().unwrap(), WorkflowStatus::Enqueued);
    });
    began.open();
    eventually("asleep", || app.recorded("w") == ["DBOS.sleep"]);
    assert_eq!(bodies.get(), 2);
}

#[test]
fn a_resume_whose_answer_is_lost_does_not_undo_a_later_cancel() {
    let app = App::new();
    let (latch, bodies) = (Latch::default(), Counter::default());
    let engine = app.open();
    let workflow = held(&engine, "w", &latch, &bodies);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    latch.wait_for(1);
    engine.cancel(&id("w")).unwrap();
    let (lost, canceller, ran) = (AtomicBool::new(false), engine.clone(), latch.clone());
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let resumed = point.moment == Moment::After && point.kinds.contains(&"resume");
        if resumed && !lost.swap(true, Ordering::SeqCst) {
            ran.wait_for(2);
            assert_eq!(canceller.cancel(&id("w")).unwrap(), WorkflowStatus::Cancelled);
            return Fate::FailForNow;
        }
        Fate::Go
    });
    let operator = app.open_with(app.options().commit_hook(hook));
    operator.resume(&id("w")).unwrap();
    several_looks();
    assert_eq!((app.status("w").as_str(), bodies.get()), ("CANCELLED", 2));
    latch.open();
}

#[test]
fn the_mark_of_an_old_wait_does_not_end_a_later_sleep() {
    let app = App::new();
    let runs = Counter::default();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let counted = runs.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
        counted.count();
        ctx.recv::<u32>("t", 60 * MINUTE)?;
        ctx.sleep(120 * MINUTE)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    eventually("waits", || app.status("w") == "DELAYED");
    engine.cancel(&id("w")).unwrap();
    engine.send(&id("w"), "t", 1).unwrap();
    engine.resume(&id("w")).unwrap();
    eventually("asleep", || app.status("w") == "DELAYED" && runs.get() == 2);
    engine.send(&id("w"), "t", 2).unwrap();
    several_looks();
    assert_eq!(runs.get(), 2);
}

/// The rows of one claim share a token; one of them is lost while another runs on.
#[test]
fn a_lost_workflow_is_found_while_a_neighbour_of_its_claim_runs() {
    let app = App::new();
    let open = Latch::default();
    open.open();
    {
        let engine = app.open();
        let long = held(&engine, "long", &open, &Counter::default());
        let short = held(&engine, "short", &open, &Counter::default());
        engine.launch().unwrap();
        long.start_as(&engine, "long", ()).unwrap().result().unwrap();
        short.start_as(&engine, "short", ()).unwrap().result().unwrap();
    }
    app.interrupt("long", 0);
    app.interrupt("short", 0);
    let (refuses, count) = (Arc::new(AtomicBool::new(false)), Counter::default());
    let (asked, counted) = (refuses.clone(), count.clone());
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let ours = point.kinds.iter().any(|kind| ["record_step", "release"].contains(kind));
        if ours && point.moment == Moment::Before && asked.load(Ordering::SeqCst) {
            counted.count();
            return Fate::FailForGood;
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let (latch, entered) = (Latch::default(), Latch::default());
    held(&engine, "long", &latch, &Counter::default());
    held(&engine, "short", &entered, &Counter::default());
    engine.launch().unwrap();
    latch.wait_for(1);
    entered.wait_for(1);
    refuses.store(true, Ordering::SeqCst);
    entered.open();
    eventually("the record, the release and a release of the sweep were refused", || count.get() >= 3);
    refuses.store(false, Ordering::SeqCst);
    eventually("done", || {
        app.clock.advance(Duration::from_secs(1));
        app.status("short") == "SUCCESS"
    });
    assert_eq!(app.status("long"), "PENDING");
    latch.open();
}

#[test]
fn a_workflow_that_would_wait_for_itself_is_told() {
    let app = App::new();
    let engine = app.open();
    let slot: Arc<Mutex<Option<engine::Workflow<(), ()>>>> = Arc::default();
    let own = slot.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
        let own = own.lock().unwrap().clone().unwrap();
        ctx.start_as(&own, "w", ())?.result(ctx)
    });
    let workflow = workflow.unwrap();
    *slot.lock().unwrap() = Some(workflow.clone());
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("is the id of the parent itself"), "{error}");
    slot.lock().unwrap().take();
}

#[test]
fn a_launch_that_a_shutdown_overtakes_is_none() {
    let app = App::new();
    drop(app.open());
    let slot: Arc<Mutex<Option<Engine>>> = Arc::default();
    let other = slot.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::After
            && point.kinds.contains(&"revive")
            && let Some(engine) = other.lock().unwrap().take()
        {
            std::thread::spawn(move || engine.shutdown(Duration::from_millis(50))).join().unwrap();
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    *slot.lock().unwrap() = Some(engine.clone());
    assert!(matches!(engine.launch(), Err(Error::ShuttingDown)));
    assert_eq!(app.database.living(), 0);
}
