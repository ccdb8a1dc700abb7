//! Commits that fail, and commits whose answer is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Error, Event, Observer, Workflow, WorkflowFilter, WorkflowId, WorkflowStatus};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{self, Context, Engine};

/// Every kind of write: steps, a transaction step, children, a sleep, messages.
fn register(engine: &Engine, bodies: &Counter) -> Workflow<u32, u32> {
    let counted = bodies.clone();
    let child = engine.register("child", move |ctx: &mut Context, n: u32| {
        ctx.step("double", |_| {
            counted.count();
            Ok::<_, Error>(n * 2)
        })
    });
    let child = child.unwrap();
    let bodies = bodies.clone();
    let workflow = engine.register("all", move |ctx: &mut Context, n: u32| -> Result<u32> {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "self", n)?;
        let step = ctx.step("step", |_| {
            bodies.count();
            Ok::<_, Error>(n + 1)
        })?;
        let inserted: u32 = ctx.transaction("insert", move |tx| {
            tx.execute("INSERT INTO effect VALUES ($1)", [me.as_str()])?;
            tx.query_one("SELECT count(*) FROM effect WHERE id = $1", [me.as_str()])?.get(0)
        })?;
        let inline = ctx.run(&child, step)?;
        let beside = ctx.start(&child, step)?;
        ctx.sleep(Duration::from_millis(1))?;
        let message: Option<u32> = ctx.recv("self", Duration::ZERO)?;
        Ok(inserted + inline + beside.result(ctx)? + message.unwrap_or(1000))
    });
    workflow.unwrap()
}

/// Runs `count` such workflows while the hook does its work, and checks that nothing was lost or doubled.
fn run_under(hook: Arc<CommitHook>, count: u32) {
    let app = App::new();
    drop(app.open());
    app.batch("CREATE TABLE effect (id text)");
    let options = Engine::options().app("test").commit_hook(hook);
    let engine = app.open_with(options);
    let bodies = Counter::default();
    let workflow = register(&engine, &bodies);
    engine.launch().unwrap();
    let handles: Vec<_> =
        (0..count).map(|n| workflow.start_as(&engine, &format!("w{n}"), n).unwrap()).collect();
    for (n, handle) in handles.iter().enumerate() {
        let n = u32::try_from(n).unwrap();
        assert_eq!(handle.result().unwrap(), 1 + 2 * (n + 1) * 2 + n);
    }
    assert_eq!(bodies.get(), count as usize * 3, "no body ran twice");
    assert_eq!(app.value::<u32>("SELECT count(*) FROM effect", []), count);
    assert_eq!(app.value::<u32>("SELECT count(DISTINCT id) FROM effect", []), count);
    let success = WorkflowFilter::new().status(WorkflowStatus::Success);
    assert_eq!(engine.count(&success).unwrap(), u64::from(count * 3));
    assert_eq!(app.value::<u32>("SELECT max(recovery_attempts) FROM workflow_status", []), 1);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM notifications WHERE consumed", []), count);
}

/// 26: every commit is done, reported as failed, and done again.
#[test]
fn a_commit_whose_answer_is_lost_doubles_nothing() {
    let failed_before = AtomicBool::new(false);
    run_under(
        Arc::new(move |point| {
            // Every second commit: the first tries, not their repetitions.
            let lost = point.moment == Moment::After && !failed_before.fetch_not(Ordering::SeqCst);
            if lost { Fate::FailForNow } else { Fate::Go }
        }),
        20,
    );
}

#[test]
fn a_commit_that_fails_before_it_is_done_is_done_later() {
    run_under(
        Arc::new(|point| {
            if point.moment == Moment::Before && point.number % 3 == 0 { Fate::FailForNow } else { Fate::Go }
        }),
        20,
    );
}

/// Before, after, several times in a row, in an order that differs from commit to commit.
#[test]
fn commits_that_fail_in_every_way_lose_and_double_nothing() {
    run_under(
        Arc::new(|point| {
            let dice = point.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
            match (point.moment, dice) {
                (Moment::Before, 0..=4) | (Moment::After, 4..=8) => Fate::FailForNow,
                _ => Fate::Go,
            }
        }),
        20,
    );
}

/// What fails it may be its size: a time limit on statements, a connection that never lasts so long.
#[test]
fn a_batch_that_never_gets_through_as_a_whole_is_made_in_parts() {
    run_under(
        Arc::new(|point| {
            let too_large = point.moment == Moment::After && point.kinds.len() > 2;
            if too_large { Fate::FailForNow } else { Fate::Go }
        }),
        20,
    );
}

/// A workflow waits for the database as long as it takes, a caller does not.
#[test]
fn a_call_while_the_database_does_not_answer_ends_with_the_reason() {
    let app = App::new();
    let (away, failures) = (Arc::new(AtomicBool::new(false)), Counter::default());
    let (is_away, counted) = (away.clone(), failures.clone());
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::After || !is_away.load(Ordering::SeqCst) {
            return Fate::Go;
        }
        counted.count();
        Fate::FailForNow
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let (latch, held) = (Latch::default(), Latch::default());
    let holding = held.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, n: u32| {
        ctx.step("s", |_| {
            holding.hold();
            Ok::<_, Error>(n)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let running = workflow.start(&engine, 1).unwrap();
    held.wait_for(1);
    away.store(true, Ordering::SeqCst);
    held.open();
    // The second try tells that the first one is known to have failed.
    eventually("the record of the step has failed", || failures.get() > 1);
    std::thread::scope(|scope| {
        let callers = [0, 1].map(|n| {
            let (engine, workflow, latch) = (&engine, &workflow, &latch);
            scope.spawn(move || {
                latch.arrive();
                workflow.start_as(engine, &format!("late-{n}"), 2).map(drop).unwrap_err()
            })
        });
        latch.wait_for(2);
        eventually("both have ended", || {
            app.clock.advance(Duration::from_secs(10));
            callers.iter().all(std::thread::ScopedJoinHandle::is_finished)
        });
        for caller in callers {
            let error = caller.join().unwrap();
            assert!(matches!(error, Error::Unanswered { .. }), "{error:?}");
            assert!(error.to_string().contains("failed by a test"), "{error}");
        }
    });
    away.store(false, Ordering::SeqCst);
    assert_eq!(running.result().unwrap(), 1, "the workflow went on by itself");
    for n in 0..2 {
        assert_eq!(workflow.start_as(&engine, &format!("late-{n}"), 2).unwrap().result().unwrap(), 2);
    }
}

/// A write that the database refuses for good fails alone: its neighbours in the batch are committed.
#[test]
fn one_bad_write_does_not_fail_its_neighbours() {
    let app = App::new();
    let poison = Arc::new(AtomicBool::new(false));
    let armed = poison.clone();
    // A batch that holds a step is refused as a whole as long as it holds anything else.
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let refused = armed.load(Ordering::SeqCst)
            && point.moment == Moment::Before
            && point.kinds.len() > 1
            && point.kinds.contains(&"record_step");
        if refused { Fate::FailForGood } else { Fate::Go }
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let workflow = engine.register("w", |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n)));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    poison.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let (engine, workflow) = (&engine, &workflow);
            scope.spawn(move || {
                for _ in 0..10 {
                    assert_eq!(workflow.start(engine, n).unwrap().result().unwrap(), n);
                }
            });
        }
    });
}

/// A step whose record is refused for good has no outcome: the workflow goes back to those that wait, and on.
#[test]
fn a_workflow_whose_write_is_refused_goes_on_when_the_database_works() {
    let app = App::new();
    let failures = Counter::default();
    let counted = failures.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let refused = point.moment == Moment::Before && point.kinds == ["record_step"] && counted.count() < 3;
        if refused { Fate::FailForGood } else { Fate::Go }
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7)));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    // Not at once: a refused write will be refused again, and each run repeats the body.
    for (attempt, wait) in [(1, 1), (2, 2), (3, 4)] {
        eventually("given back", || app.attempts("w") == attempt && app.status("w") == "DELAYED");
        app.clock.advance(Duration::from_millis(wait * 1000 - 1));
        assert_eq!(handle.wait(Duration::ZERO).unwrap(), None);
        app.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(handle.result().unwrap(), 7);
    assert_eq!(app.attempts("w"), 4);
}

/// What cannot even be given back is found by the sweep: never PENDING with nobody.
#[test]
fn a_workflow_that_could_not_be_given_back_is_found() {
    let app = App::new();
    let failures = Counter::default();
    let counted = failures.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let bad = matches!(point.kinds, ["settle" | "release"]);
        if bad && point.moment == Moment::Before && counted.count() < 2 {
            Fate::FailForGood
        } else {
            Fate::Go
        }
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let bodies = Counter::default();
    let counted = bodies.clone();
    let workflow = engine
        .register("w", move |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(counted.count())));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("given back", || app.status("w") == "DELAYED");
    app.clock.advance(Duration::from_secs(1));
    assert_eq!(handle.result().unwrap(), 0);
    assert_eq!((bodies.get(), app.attempts("w")), (1, 2));
}

/// An observer on the thread that commits.
struct Guest<F>(F);

impl<F: Fn() + Send + Sync> Observer for Guest<F> {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Committed { .. } = event {
            (self.0)();
        }
    }
}

fn ten_workflows_end(engine: &Engine) {
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7)));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for _ in 0..10 {
        assert_eq!(workflow.start(engine, ()).unwrap().result().unwrap(), 7);
    }
}

/// Its payload panics once more when it is dropped.
#[test]
fn an_observer_that_panics_takes_no_commit_along() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("again"));
        }
    }
    let app = App::new();
    let guest = Guest(|| std::panic::resume_unwind(Box::new(Bomb)));
    ten_workflows_end(&app.open_with(app.options().observer(Arc::new(guest))));
}

/// A hook is code of ours and of tests; a panic in it stands for any fault on the thread that commits.
#[test]
fn a_panic_while_committing_leaves_nobody_waiting() {
    let app = App::new();
    let commits = Counter::default();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::Before && commits.count() % 3 == 2 {
            std::panic::resume_unwind(Box::new("a fault"));
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7)));
    let workflow = workflow.unwrap();
    let launched = (0..5).any(|_| engine.launch().is_ok());
    assert!(launched);
    for n in 0..10 {
        let id = format!("w-{n}");
        let handle = (0..5).find_map(|_| workflow.start_as(&engine, &id, ()).ok()).unwrap();
        eventually("ended", || {
            app.clock.advance(Duration::from_secs(1));
            app.status(&id) == "SUCCESS"
        });
        assert_eq!(handle.result().unwrap(), 7);
    }
}

#[test]
fn an_observer_that_calls_the_engine_is_refused_and_hangs_nothing() {
    let app = App::new();
    let slot = Arc::new(Mutex::new(None::<Engine>));
    let answers = Arc::new(Mutex::new(Vec::<String>::new()));
    let (engine_of, said) = (slot.clone(), answers.clone());
    let guest = Guest(move || {
        if let Some(engine) = engine_of.lock().unwrap().take() {
            let answer = engine.cancel(&WorkflowId::new("nobody").unwrap());
            said.lock().unwrap().push(answer.unwrap_err().to_string());
        }
    });
    let engine = app.open_with(app.options().observer(Arc::new(guest)));
    *slot.lock().unwrap() = Some(engine.clone());
    ten_workflows_end(&engine);
    let answers = answers.lock().unwrap();
    assert!(answers[0].starts_with("an observer cannot call the engine"), "{answers:?}");
}

/// It may belong to an async runtime, where a driver that blocks would panic.
#[test]
fn no_thread_of_a_caller_ever_commits() {
    let app = App::new();
    {
        let engine = app.open();
        let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
        engine.launch().unwrap();
        workflow.start_as(&engine, "left", ()).unwrap().result().unwrap();
    }
    app.interrupt("left", 0);
    let committed = Arc::new(Mutex::new(Vec::new()));
    let seen = committed.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        seen.lock().unwrap().push((name, point.kinds.to_vec()));
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook).stack_bytes(1 << 46));
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap(); // a plain one has no thread, so it is given back
    engine.send(&WorkflowId::new("w").unwrap(), "t", 1).unwrap();
    engine.cancel(&WorkflowId::new("w").unwrap()).unwrap();
    engine.shutdown(Duration::from_secs(10));
    let committed = committed.lock().unwrap();
    // An async function needs no thread.
    let release = way::IS_PLAIN.then_some("release");
    for kind in ["requeue", "start_workflow", "send", "cancel"].into_iter().chain(release) {
        assert!(committed.iter().any(|(_, kinds)| kinds.contains(&kind)), "no {kind}");
    }
    let others: Vec<_> = committed.iter().filter(|(name, _)| !name.starts_with("piton-")).collect();
    assert!(others.is_empty(), "{others:?}");
}
