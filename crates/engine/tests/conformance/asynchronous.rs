//! What async workflows promise beyond what the whole suite, which runs with them as well, asks of both kinds.

use std::collections::BTreeSet;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{
    AsyncContext, Context, Engine, Error, StepOptions, Workflow, WorkflowFilter, WorkflowId, WorkflowStatus,
};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Notify;

use crate::support::{App, Counter, Latch, Result, eventually};

const HOUR: Duration = Duration::from_secs(3600);
const NO_TIME: Duration = Duration::ZERO;

/// Set when the future that holds it is dropped.
#[derive(Clone, Default)]
struct Dropped(Arc<AtomicBool>);

struct SetWhenDropped(Dropped);

impl Drop for SetWhenDropped {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}

impl Dropped {
    fn guard(&self) -> SetWhenDropped {
        SetWhenDropped(self.clone())
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A runtime of this test alone.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_recorded_async_step_never_runs_again() {
    let (app, bodies) = (App::new(), Counter::default());
    let register = |engine: &Engine| {
        let bodies = bodies.clone();
        let twice = engine.register_async("twice", async move |mut ctx: AsyncContext, n: usize| {
            let (first, second) = (bodies.clone(), bodies.clone());
            let a = ctx.step("a", async |_| engine::ok(first.count() + n)).await?;
            ctx.step("b", async |_| engine::ok(second.count() + a)).await
        });
        twice.unwrap()
    };
    let engine = app.open();
    let twice = register(&engine);
    engine.launch().unwrap();
    assert_eq!(twice.start_as(&engine, "w", 10).unwrap().result().unwrap(), 11);
    drop(engine);
    app.interrupt("w", 1);

    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<usize>("w").unwrap().result().unwrap(), 12);
    assert_eq!((bodies.get(), app.recorded("w")), (3, vec!["a".to_owned(), "b".to_owned()]));
}

/// Both kinds ask for equal records, so a record does not tell which kind made it.
#[test]
fn a_run_goes_on_in_the_other_kind() {
    let app = App::new();
    let plain = |engine: &Engine| {
        let workflow = engine.register("sum", |ctx: &mut Context, n: u32| {
            let a = ctx.step("a", |_| engine::ok(n + 1))?;
            ctx.sleep(Duration::from_millis(1))?;
            ctx.step("b", |_| engine::ok(a * 10))
        });
        workflow.unwrap()
    };
    let asynchronous = |engine: &Engine| {
        let workflow = engine.register_async("sum", async |mut ctx: AsyncContext, n: u32| {
            let a = ctx.step("a", async |_| engine::ok(n + 2)).await?;
            ctx.sleep(Duration::from_millis(1)).await?;
            ctx.step("b", async |_| engine::ok(a * 100)).await
        });
        workflow.unwrap()
    };
    let begin = |id: &str, register: &dyn Fn(&Engine) -> Workflow<u32, u32>| {
        let engine = app.open();
        let workflow = register(&engine);
        engine.launch().unwrap();
        workflow.start_as(&engine, id, 1).unwrap();
        eventually("it sleeps", || app.recorded(id).len() == 2);
        app.clock.advance(Duration::from_millis(1));
        engine.retrieve::<u32>(id).unwrap().result().unwrap();
        drop(engine);
        app.interrupt(id, 2);
    };
    let finish = |id: &str, register: &dyn Fn(&Engine) -> Workflow<u32, u32>| {
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        engine.retrieve::<u32>(id).unwrap().result().unwrap()
    };
    begin("plain-first", &plain);
    assert_eq!(finish("plain-first", &asynchronous), 200);
    begin("async-first", &asynchronous);
    assert_eq!(finish("async-first", &plain), 30);
}

#[test]
fn operations_of_one_workflow_run_at_once_and_take_their_places_at_the_call() {
    let app = App::new();
    let engine = app.open();
    let both = engine.register_async("both", async |mut ctx: AsyncContext, (): ()| {
        let (first, second) = (Notify::new(), Notify::new());
        // Each waits for the other, so neither ends unless both run. The second is recorded first.
        let a = ctx.step("a", async |_| {
            first.notify_one();
            second.notified().await;
            engine::ok(1)
        });
        let b = ctx.step("b", async |_| {
            first.notified().await;
            engine::ok(2)
        });
        let b = async {
            let b = b.await;
            second.notify_one();
            b
        };
        let (b, a) = tokio::join!(b, a);
        engine::ok((a?, b?))
    });
    let both = both.unwrap();
    engine.launch().unwrap();
    assert_eq!(both.start_as(&engine, "w", ()).unwrap().result().unwrap(), (1, 2));
    assert_eq!(app.recorded("w"), ["a", "b"]);
}

/// Its place is lent once, and taken again once.
#[test]
fn a_workflow_may_wait_for_several_things_at_once() {
    let app = App::new();
    let engine = app.options().tasks_max(1).suspend_after(HOUR * 2).open(&app.url()).unwrap();
    let waits = engine.register_async("waits", async |mut ctx: AsyncContext, (): ()| {
        let (nap, other) = (ctx.sleep(HOUR), ctx.sleep(HOUR));
        let (nap, other, word) = tokio::join!(nap, other, ctx.recv::<u32>("word", HOUR));
        nap?;
        other?;
        word
    });
    let waits = waits.unwrap();
    engine.launch().unwrap();
    let handles = ["a", "b", "c"].map(|id| waits.start_as(&engine, id, ()).unwrap());
    eventually("all of them wait", || ["a", "b", "c"].iter().all(|id| app.recorded(id).len() == 3));
    for handle in &handles {
        engine.send(handle.id(), "word", 7).unwrap();
    }
    app.clock.advance(HOUR);
    assert_eq!(handles.map(|handle| handle.result().unwrap()), [Some(7); 3]);
}

/// The future that makes the suspension is not polled when another one ends.
#[test]
fn a_wait_ends_although_nothing_polls_the_future_that_leaves() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let app = App::new();
    let (held, armed, poke) = (Latch::default(), Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (holding, holds) = (held.clone(), armed.clone());
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let starts = point.moment == Moment::Before && point.kinds.contains(&"start_workflow");
        if starts && holds.swap(false, Ordering::SeqCst) {
            holding.hold();
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook).suspend_after(PATIENCE));
    let poked = poke.clone();
    let waits = engine.register_async("waits", move |mut ctx: AsyncContext, (): ()| {
        let poked = poked.clone();
        async move {
            let (last, first) = (ctx.recv::<u32>("last", 100 * HOUR), ctx.recv::<u32>("first", 100 * HOUR));
            let (mut last, mut first) = (pin!(last), pin!(first));
            let early = tokio::select! {
                biased;
                word = &mut first => Some(word),
                _ = &mut last => None,
                () = poked.notified() => None,
            };
            match early {
                Some(word) => word,
                None => first.await,
            }
        }
    });
    let (waits, other) = (waits.unwrap(), engine.register("other", |_: &mut Context, (): ()| engine::ok(())));
    let other = other.unwrap();
    engine.launch().unwrap();
    let handle = waits.start_as(&engine, "w", ()).unwrap();
    eventually("both wait", || app.recorded("w").len() == 2);
    watch::give_time("their looks for a message", || false);
    armed.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| other.start(&engine, ()).unwrap());
        held.wait_for(1);
        scope.spawn(|| engine.send(handle.id(), "first", 7).unwrap());
        watch::give_time("the message stands in line", || false);
        app.clock.advance(PATIENCE);
        watch::give_time("the suspension stands in line after it", || false);
        poke.notify_one();
        watch::give_time("only one future is polled", || false);
        held.open();
    });
    assert_eq!(handle.result().unwrap(), Some(7));
}

/// A suspension that is refused is not tried again before each operation has looked.
#[test]
fn an_operation_that_leaves_at_once_does_not_keep_another_one_from_its_message() {
    let app = App::new();
    let (held, suspensions) = (Latch::default(), Counter::default());
    let (holding, counted) = (held.clone(), suspensions.clone());
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::Before && point.kinds.contains(&"suspend") {
            counted.count();
            if counted.get() == 1 {
                holding.hold();
            }
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook).suspend_after(NO_TIME));
    let go = Arc::new(Notify::new());
    let gone = go.clone();
    let waits = engine.register_async("waits", move |mut ctx: AsyncContext, (): ()| {
        let gone = gone.clone();
        async move {
            let message = ctx.recv::<u32>("word", 100 * HOUR);
            let step = ctx.step("step", async move |_| {
                gone.notified().await;
                engine::ok(())
            });
            let nap = ctx.sleep(2 * HOUR);
            let later = async move {
                step.await?;
                nap.await
            };
            let (message, later) = tokio::join!(message, later);
            later.and(message)
        }
    });
    let waits = waits.unwrap();
    engine.launch().unwrap();
    let handle = waits.start_as(&engine, "w", ()).unwrap();
    eventually("it waits for the message", || !app.recorded("w").is_empty());
    watch::give_time("its look for the message", || false);
    go.notify_one();
    held.wait_for(1);
    let other = app.options().open(&app.url()).unwrap();
    other.send(handle.id(), "word", 7).unwrap();
    drop(other);
    held.open();
    eventually("it takes the message and leaves", || {
        app.recorded("w").contains(&"DBOS.recv".to_owned()) && app.status("w") == "DELAYED"
    });
    assert!(suspensions.get() < 5, "{} suspensions", suspensions.get());
    app.clock.advance(2 * HOUR);
    assert_eq!(handle.result().unwrap(), Some(7));
}

#[test]
fn operations_of_one_workflow_wait_at_once_in_its_one_place() {
    let app = App::new();
    let engine = app.options().tasks_max(1).suspend_after(HOUR).open(&app.url()).unwrap();
    let naps = engine.register_async("naps", async |mut ctx: AsyncContext, (): ()| {
        let (first, second) = (ctx.sleep(HOUR), ctx.sleep(HOUR));
        let (first, second) = tokio::join!(first, second);
        first.and(second)
    });
    let quick = engine.register_async("quick", async |_: AsyncContext, (): ()| engine::ok(()));
    let (naps, quick) = (naps.unwrap(), quick.unwrap());
    engine.launch().unwrap();
    let handle = naps.start_as(&engine, "w", ()).unwrap();
    eventually("both sleep", || app.recorded("w").len() == 2);
    quick.start(&engine, ()).unwrap().result().unwrap();
    app.clock.advance(HOUR);
    handle.result().unwrap();
    quick.start(&engine, ()).unwrap().result().unwrap();
}

#[test]
fn a_set_of_futures_completes_in_any_order() {
    let app = App::new();
    let engine = app.open();
    let all = engine.register_async("all", async |mut ctx: AsyncContext, n: u64| {
        let steps = (0..n).map(|number| {
            ctx.step("square", async move |_| {
                for _ in 0..(n - number) {
                    tokio::task::yield_now().await;
                }
                engine::ok(number * number)
            })
        });
        let mut steps: FuturesUnordered<_> = steps.collect();
        let mut squares = Vec::new();
        while let Some(square) = steps.next().await {
            squares.push(square?);
        }
        engine::ok(squares)
    });
    let all = all.unwrap();
    engine.launch().unwrap();
    let squares = all.start_as(&engine, "w", 20).unwrap().result().unwrap();
    let last_first: Vec<u64> = (0..20).rev().map(|n| n * n).collect();
    assert_ne!(squares, (0..20).map(|n| n * n).collect::<Vec<u64>>(), "not in the order of their calls");
    assert_eq!(squares.iter().collect::<BTreeSet<_>>(), last_first.iter().collect());
    let recorded = "SELECT output FROM operation_outputs ORDER BY function_id";
    let in_places: Vec<String> = app.column(recorded, []);
    assert_eq!(in_places, (0..20).map(|n: u64| (n * n).to_string()).collect::<Vec<_>>());
    let ids: Vec<u32> = app.column("SELECT function_id FROM operation_outputs ORDER BY 1", []);
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
}

#[test]
fn children_of_either_kind_are_awaited_by_either_kind() {
    let app = App::new();
    let engine = app.open();
    let plain = engine.register("plain", |ctx: &mut Context, n: u32| ctx.step("x", |_| engine::ok(n + 1)));
    let plain = plain.unwrap();
    let task = engine
        .register_async("task", async |mut ctx: AsyncContext, n: u32| {
            ctx.step("y", async |_| engine::ok(n + 10)).await
        })
        .unwrap();
    let children = (plain.clone(), task.clone());
    let of_plain = engine.register("of_plain", move |ctx: &mut Context, n: u32| {
        let child = ctx.start(&children.1, n)?;
        Ok::<_, Error>(child.result(ctx)? + ctx.run(&children.0, n)? + ctx.run(&children.1, n)?)
    });
    let children = (plain, task);
    let of_task = engine.register_async("of_task", async move |mut ctx: AsyncContext, n: u32| {
        let child = ctx.start(&children.0, n).await?;
        engine::ok(
            child.result(&mut ctx).await? + ctx.run(&children.0, n).await? + ctx.run(&children.1, n).await?,
        )
    });
    let (of_plain, of_task) = (of_plain.unwrap(), of_task.unwrap());
    engine.launch().unwrap();
    assert_eq!(of_plain.start_as(&engine, "p", 100).unwrap().result().unwrap(), 110 + 101 + 110);
    assert_eq!(of_task.start_as(&engine, "t", 100).unwrap().result().unwrap(), 101 + 101 + 110);
    let names = |id: &str| app.recorded(id);
    let result = "DBOS.getResult";
    assert_eq!(names("p"), ["task", result, "plain", result, "task", result]);
    assert_eq!(names("t"), ["plain", result, "plain", result, "task", result]);
}

#[test]
fn a_long_wait_of_an_async_workflow_is_a_row_and_a_replay() {
    let (app, bodies, dropped) = (App::new(), Counter::default(), Dropped::default());
    let engine = app.options().suspend_after(NO_TIME).open(&app.url()).unwrap();
    let (count, drops) = (bodies.clone(), dropped.clone());
    let nap = engine.register_async("nap", async move |mut ctx: AsyncContext, (): ()| {
        let _guard = drops.guard();
        ctx.step("before", async |_| engine::ok(count.count())).await?;
        ctx.sleep(HOUR).await?;
        let word: Option<String> = ctx.recv("word", HOUR).await?;
        engine::ok(word)
    });
    let nap = nap.unwrap();
    engine.launch().unwrap();
    let handle = nap.start_as(&engine, "w", ()).unwrap();
    eventually("it sleeps", || app.status("w") == "DELAYED");
    eventually("its future is gone", || dropped.get());
    app.clock.advance(HOUR);
    eventually("it waits for a message", || app.recorded("w").len() == 3 && app.status("w") == "DELAYED");
    engine.send(handle.id(), "word", "now".to_owned()).unwrap();
    assert_eq!(handle.result().unwrap().as_deref(), Some("now"));
    assert_eq!((bodies.get(), app.attempts("w")), (1, 1));
}

/// A suspension would take the body of the step away.
#[test]
fn a_workflow_does_not_leave_while_another_of_its_operations_runs() {
    let (app, latch) = (App::new(), Arc::new(Notify::new()));
    let engine = app.options().suspend_after(NO_TIME).open(&app.url()).unwrap();
    let open = latch.clone();
    let mixed = engine.register_async("mixed", async move |mut ctx: AsyncContext, (): ()| {
        let nap = ctx.sleep(HOUR);
        let step = ctx.step("body", async |_| {
            open.notified().await;
            engine::ok(7)
        });
        let (slept, seven) = tokio::join!(nap, step);
        slept?;
        seven
    });
    let mixed = mixed.unwrap();
    engine.launch().unwrap();
    let handle = mixed.start_as(&engine, "w", ()).unwrap();
    eventually("the sleep is recorded", || app.recorded("w") == ["DBOS.sleep"]);
    assert_eq!(app.status("w"), "PENDING");
    latch.notify_one();
    eventually("the step is recorded, and nothing is left but the sleep", || app.status("w") == "DELAYED");
    assert_eq!(app.recorded("w"), ["DBOS.sleep", "body"]);
    app.clock.advance(HOUR);
    assert_eq!(handle.result().unwrap(), 7);
}

#[test]
fn a_cancelled_async_workflow_has_its_body_dropped() {
    let (app, dropped, begun) = (App::new(), Dropped::default(), Counter::default());
    let engine = app.open();
    let (drops, begins) = (dropped.clone(), begun.clone());
    let stuck = engine.register_async("stuck", async move |mut ctx: AsyncContext, (): ()| {
        ctx.step("never", async |_| {
            let _guard = drops.guard();
            begins.count();
            pending::<()>().await;
            engine::ok(())
        })
        .await
    });
    let stuck = stuck.unwrap();
    engine.launch().unwrap();
    let handle = stuck.start_as(&engine, "w", ()).unwrap();
    eventually("its body runs", || begun.get() == 1);
    assert_eq!(engine.cancel(handle.id()).unwrap(), WorkflowStatus::Cancelled);
    eventually("the body is gone", || dropped.get());
    assert!(matches!(handle.result(), Err(Error::WorkflowCancelled { .. })));
    assert!(app.recorded("w").is_empty());
    assert!(engine.shutdown(Duration::from_secs(60)).is_empty());
}

#[test]
fn an_operation_that_was_dropped_makes_the_next_one_fail_with_the_way_out() {
    let app = App::new();
    let engine = app.open();
    let timed = engine.register_async("timed", async |mut ctx: AsyncContext, (): ()| {
        let slow = ctx.step("slow", async |_| {
            pending::<()>().await;
            engine::ok(1)
        });
        // Its time is up before it is polled a second time.
        let over = tokio::time::timeout(Duration::from_millis(1), slow).await.is_err();
        ctx.step("after", async |_| engine::ok(over)).await
    });
    let selected = engine.register_async("selected", async |mut ctx: AsyncContext, (): ()| {
        let slow = ctx.recv::<u32>("never", HOUR);
        tokio::select! {
            _ = slow => {}
            () = tokio::task::yield_now() => {}
        }
        ctx.step("after", async |_| engine::ok(true)).await
    });
    let (timed, selected) = (timed.unwrap(), selected.unwrap());
    engine.launch().unwrap();
    for (workflow, id, name) in [(timed, "t", "slow"), (selected, "s", "recv")] {
        let error = workflow.start_as(&engine, id, ()).unwrap().result().unwrap_err().to_string();
        let said = format!("workflow {id} dropped step 1 ({name}) before its end");
        assert!(error.contains(&said) && error.contains("timeout of its options"), "{error}");
        assert_eq!(app.status(id), "ERROR");
    }
}

/// It can be mended, so it can be resumed.
#[test]
fn a_workflow_that_dropped_an_operation_goes_on_when_the_program_is_mended() {
    let app = App::new();
    let register = |engine: &Engine, mended: bool| {
        let workflow = engine.register_async("w", async move |mut ctx: AsyncContext, (): ()| {
            let first = ctx.step("first", async move |_| {
                if !mended {
                    pending::<()>().await;
                }
                engine::ok(1)
            });
            if mended {
                first.await?;
            } else {
                drop(first);
            }
            ctx.step("second", async |_| engine::ok(2)).await
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine, false);
    engine.launch().unwrap();
    assert!(workflow.start_as(&engine, "w", ()).unwrap().result().is_err());
    drop(engine);

    let engine = app.open();
    register(&engine, true);
    engine.launch().unwrap();
    let handle = engine.retrieve::<u32>("w").unwrap();
    assert_eq!(engine.resume(handle.id()).unwrap(), WorkflowStatus::Enqueued);
    assert_eq!(handle.result().unwrap(), 2);
}

fn bang(said: &str) -> Error {
    panic!("{said}");
}

#[test]
fn a_panic_in_a_poll_is_the_error_of_its_step_or_of_its_workflow() {
    let app = App::new();
    let engine = app.open();
    let panics = engine.register_async("panics", async |mut ctx: AsyncContext, in_a_step: bool| {
        if in_a_step {
            return ctx
                .step("bang", async |_| {
                    tokio::task::yield_now().await;
                    Err::<(), Error>(bang("a step's bang"))
                })
                .await;
        }
        tokio::task::yield_now().await;
        panic!("the workflow's bang");
    });
    let panics = panics.unwrap();
    engine.launch().unwrap();
    for (in_a_step, said) in [(true, "a step's bang"), (false, "the workflow's bang")] {
        let error = panics.start(&engine, in_a_step).unwrap().result().unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_shutdown_lets_async_steps_end_and_drops_those_that_do_not() {
    let (app, latch, dropped) = (App::new(), Arc::new(Notify::new()), Dropped::default());
    let (engine, begun) = (app.open(), Counter::default());
    let (open, drops, begins) = (latch.clone(), dropped.clone(), begun.clone());
    let waits = engine.register_async("waits", async move |mut ctx: AsyncContext, ends: bool| {
        ctx.step("body", async |_| {
            let _guard = (!ends).then(|| drops.guard());
            begins.count();
            if ends {
                open.notified().await;
            } else {
                pending::<()>().await;
            }
            engine::ok(())
        })
        .await?;
        ctx.step("next", async |_| engine::ok(())).await
    });
    let waits = waits.unwrap();
    engine.launch().unwrap();
    waits.start_as(&engine, "ends", true).unwrap();
    waits.start_as(&engine, "never", false).unwrap();
    eventually("both bodies run", || begun.get() == 2);
    let ending = engine.clone();
    let shutdown = std::thread::spawn(move || ending.shutdown(Duration::from_secs(1)));
    latch.notify_one();
    assert!(shutdown.join().unwrap().is_empty(), "what never ends is dropped and given back");
    assert!(dropped.get());
    let status: BTreeSet<_> = ["ends", "never"].map(|id| app.status(id)).into();
    assert_eq!(status, BTreeSet::from(["ENQUEUED".to_owned()]));
    assert!(app.recorded("never").is_empty());
    assert_eq!((app.attempts("ends"), app.attempts("never")), (0, 0), "neither attempt counts");
}

#[test]
fn a_shutdown_gives_back_what_a_running_body_has_started_since() {
    let (app, runs) = (App::new(), Latch::default());
    let engine = app.open();
    let begun = runs.clone();
    let child = engine.register_async("child", async move |_: AsyncContext, (): ()| {
        pending::<()>().await;
        engine::ok(())
    });
    let child = child.unwrap();
    let parent = engine.register_async("parent", async move |mut ctx: AsyncContext, (): ()| {
        let step = ctx.step("long", async |step: engine::StepInfo| {
            begun.arrive();
            while !step.cancelled() {
                tokio::task::yield_now().await;
            }
            // Long after all that runs was told to stop.
            tokio::time::sleep(Duration::from_millis(300)).await;
            engine::ok(())
        });
        let start = ctx.start(&child, ());
        step.await?;
        start.await?;
        engine::ok(())
    });
    let parent = parent.unwrap();
    engine.launch().unwrap();
    parent.start_as(&engine, "w", ()).unwrap();
    runs.wait_for(1);
    assert!(engine.shutdown(Duration::from_secs(2)).is_empty(), "nothing is left");
    assert_eq!(["w", "w-2"].map(|id| app.status(id)), ["SUCCESS", "ENQUEUED"]);
}

/// Of one thread, so a call that blocks it would wait for itself.
#[test]
fn a_child_that_finds_no_thread_does_not_block_the_runtime() {
    let (app, release) = (App::new(), Latch::default());
    let holds = release.clone();
    let hook = move |point: &engine::testing::CommitPoint<'_>| {
        if point.kinds.contains(&"release") {
            holds.hold();
        }
        engine::testing::Fate::Go
    };
    let too_much = usize::MAX / 4;
    let engine = app.options().stack_bytes(too_much).commit_hook(Arc::new(hook)).open(&app.url()).unwrap();
    let plain = engine.register("plain", |ctx: &mut Context, (): ()| ctx.step("x", |_| engine::ok(2)));
    let of_parent = plain.unwrap();
    let parent = engine.register_async("parent", async move |mut ctx: AsyncContext, (): ()| {
        ctx.start(&of_parent, ()).await?;
        engine::ok(())
    });
    let parent = parent.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = engine.to_async();
        engine.launch().await.unwrap();
        let handle = engine.start_as(&parent, "p", ()).await.unwrap();
        let held = release.clone();
        tokio::task::spawn_blocking(move || held.wait_for(1)).await.unwrap();
        release.open();
        handle.await.unwrap();
    });
    eventually("the child waits for a thread", || app.status("p-1") == "DELAYED");
}

#[test]
fn a_runtime_that_shuts_down_loses_nothing_and_is_said_once() {
    let app = App::new();
    let register = |engine: &Engine, bodies: &Counter, ends: bool| {
        let bodies = bodies.clone();
        let workflow = engine.register_async("runtime_gone", async move |mut ctx: AsyncContext, (): ()| {
            ctx.step("first", async |_| engine::ok(bodies.count())).await?;
            ctx.step("second", async |_| {
                if !ends {
                    pending::<()>().await;
                }
                engine::ok(bodies.count())
            })
            .await
        });
        workflow.unwrap()
    };
    let bodies = Counter::default();
    let runtime = runtime();
    let engine = app.open();
    let workflow = register(&engine, &bodies, false);
    runtime.block_on(async { engine.to_async().launch().await }).unwrap();
    for id in ["a", "b"] {
        workflow.start_as(&engine, id, ()).unwrap();
        eventually("it is in its second step", || app.recorded(id).len() == 1);
    }
    runtime.shutdown_timeout(Duration::from_secs(10));
    // Not taken up again by the one that cannot run them.
    eventually("they are given back", || ["a", "b"].iter().all(|id| app.status(id) != "PENDING"));
    let (later, other) = (app.open(), Counter::default());
    register(&later, &other, true);
    later.launch().unwrap();
    app.clock.advance(HOUR);
    for id in ["a", "b"] {
        later.retrieve::<usize>(id).unwrap().result().unwrap();
    }
    assert_eq!((bodies.get(), other.get()), (2, 2), "the first steps ran once");
    drop(engine);
}

#[test]
fn the_only_workflow_of_a_runtime_that_shuts_down_is_given_back_at_once() {
    let (app, runtime) = (App::new(), runtime());
    let engine = app.open();
    let stuck = engine.register_async("stuck", async |mut ctx: AsyncContext, (): ()| {
        ctx.step("never", async |_| {
            pending::<()>().await;
            engine::ok(())
        })
        .await
    });
    let stuck = stuck.unwrap();
    runtime.block_on(engine.to_async().launch()).unwrap();
    stuck.start_as(&engine, "w", ()).unwrap();
    runtime.shutdown_timeout(Duration::from_secs(10));
    eventually("it is given back", || app.status("w") == "ENQUEUED");
    assert_eq!(app.attempts("w"), 0, "it was not its fault");
}

/// Polls a future once, so that what it does has begun, and drops it.
async fn begun_and_dropped<T>(future: impl Future<Output = T>) {
    let mut future = pin!(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Nobody waits for its end, so nothing but the dropped start can tell that it is there.
#[test]
fn a_start_whose_future_is_dropped_runs_all_the_same() {
    let (app, runtime) = (App::new(), runtime());
    let engine = app.open();
    let step = async |mut ctx: AsyncContext, (): ()| ctx.step("x", async |_| engine::ok(1)).await;
    let child = engine.register_async("child", step).unwrap();
    let of_parent = child.clone();
    let parent = engine.register_async("parent", async move |mut ctx: AsyncContext, (): ()| {
        Box::pin(begun_and_dropped(ctx.start(&of_parent, ()))).await;
        engine::ok(())
    });
    let parent = parent.unwrap();
    let calls = engine.to_async();
    runtime.block_on(calls.launch()).unwrap();
    runtime.block_on(Box::pin(begun_and_dropped(calls.start_as(&child, "w", ()))));
    let ended = |id: &str| {
        let sql = "SELECT status FROM workflow_status WHERE workflow_uuid = ?1 AND recovery_attempts = 1";
        app.column::<String>(sql, [id]) == ["SUCCESS"]
    };
    eventually("it has ended", || ended("w"));
    parent.start_as(&engine, "p", ()).unwrap();
    eventually("so have parent and child", || ended("p") && ended("p-1"));
}

#[test]
fn a_context_that_outlives_its_function_is_refused() {
    let (app, refused) = (App::new(), Arc::new(std::sync::Mutex::new(None)));
    let (engine, latch) = (app.open(), Latch::default());
    let (told, waits) = (refused.clone(), latch.clone());
    let moved = engine.register_async("moved", async move |mut ctx: AsyncContext, (): ()| {
        let (told, waits) = (told.clone(), waits.clone());
        tokio::spawn(async move {
            tokio::task::spawn_blocking(move || waits.hold()).await.ok();
            let late = ctx.step("late", async |_| engine::ok(())).await;
            *told.lock().unwrap() = Some(late.unwrap_err().to_string());
        });
        engine::ok(())
    });
    let moved = moved.unwrap();
    engine.launch().unwrap();
    moved.start_as(&engine, "w", ()).unwrap().result().unwrap();
    latch.open();
    eventually("it was refused", || refused.lock().unwrap().is_some());
    let said = refused.lock().unwrap().clone().unwrap();
    assert_eq!(said, "workflow w stops here: its function has returned");
    assert!(app.recorded("w").is_empty());
}

#[test]
fn a_context_that_outlives_its_function_keeps_no_place() {
    let app = App::new();
    let engine = app.options().tasks_max(1).open(&app.url()).unwrap();
    let moved = engine.register_async("moved", async |ctx: AsyncContext, (): ()| {
        tokio::spawn(async move {
            pending::<()>().await;
            drop(ctx);
        });
        engine::ok(())
    });
    let moved = moved.unwrap();
    engine.launch().unwrap();
    for _ in 0..2 {
        moved.start(&engine, ()).unwrap().result().unwrap();
    }
}

#[test]
fn a_context_may_be_used_in_another_task_that_is_awaited() {
    let app = App::new();
    let engine = app.open();
    let moved = engine.register_async("moved", async |mut ctx: AsyncContext, n: u32| {
        let task = tokio::spawn(async move {
            let a = ctx.step("a", async |_| engine::ok(n + 1)).await?;
            ctx.step("b", async |_| engine::ok(a + 1)).await
        });
        task.await
            .map_err(|error| Error::InvalidOption { what: "task".to_owned(), reason: error.to_string() })?
    });
    let moved = moved.unwrap();
    engine.launch().unwrap();
    assert_eq!(moved.start_as(&engine, "w", 1).unwrap().result().unwrap(), 3);
    assert_eq!(app.recorded("w"), ["a", "b"]);
}

#[test]
fn an_attempt_that_takes_too_long_is_dropped_and_may_be_tried_again() {
    let (app, dropped) = (App::new(), Dropped::default());
    let engine = app.open();
    let drops = dropped.clone();
    let slow = engine.register_async("slow", async move |mut ctx: AsyncContext, (): ()| {
        let options = StepOptions::new().attempts_max(2).interval(NO_TIME).timeout(Duration::from_secs(5));
        ctx.step_with("call", &options, async |step: engine::StepInfo| {
            if step.attempt() == 1 {
                let _guard = drops.guard();
                assert!(step.time_left().is_some_and(|left| left <= Duration::from_secs(5)));
                pending::<()>().await;
            }
            engine::ok(step.attempt())
        })
        .await
    });
    let never = engine.register_async("never", async |mut ctx: AsyncContext, (): ()| {
        let options = StepOptions::new().timeout(Duration::from_secs(5));
        ctx.step_with("call", &options, async |_| {
            pending::<()>().await;
            engine::ok(())
        })
        .await
    });
    let (slow, never) = (slow.unwrap(), never.unwrap());
    engine.launch().unwrap();
    let handle = slow.start(&engine, ()).unwrap();
    let passes = || app.clock.advance(Duration::from_secs(1));
    eventually("the first attempt is dropped", || {
        passes();
        dropped.get()
    });
    assert_eq!(handle.result().unwrap(), 2);
    let handle = never.start(&engine, ()).unwrap();
    eventually("it has failed", || {
        passes();
        handle.status().unwrap().is_terminal()
    });
    let Err(Error::WorkflowFailed { failure, .. }) = handle.result() else { panic!() };
    assert_eq!(failure.name(), "PitonTimeout");
    assert!(failure.to_string().contains("longer than 5s"), "{failure}");
}

/// The drop of a body is code of the program as well.
#[test]
fn an_attempt_that_panics_as_it_is_dropped_is_tried_again() {
    struct Bang;
    impl Drop for Bang {
        fn drop(&mut self) {
            bang("dropped");
        }
    }
    let app = App::new();
    let engine = app.open();
    let slow = engine.register_async("slow", async |mut ctx: AsyncContext, (): ()| {
        let options = StepOptions::new().attempts_max(2).interval(NO_TIME).timeout(Duration::from_secs(5));
        ctx.step_with("call", &options, async |step: engine::StepInfo| {
            if step.attempt() == 1 {
                let _bang = Bang;
                pending::<()>().await;
            }
            engine::ok(step.attempt())
        })
        .await
    });
    let slow = slow.unwrap();
    engine.launch().unwrap();
    let handle = slow.start(&engine, ()).unwrap();
    eventually("it has ended", || {
        app.clock.advance(Duration::from_secs(1));
        handle.status().unwrap().is_terminal()
    });
    assert_eq!(handle.result().unwrap(), 2);
}

#[test]
fn all_attempts_together_may_be_limited() {
    let (app, tries) = (App::new(), Counter::default());
    let engine = app.open();
    let count = tries.clone();
    let fails = engine.register_async("fails", async move |mut ctx: AsyncContext, (): ()| {
        let options = StepOptions::new().attempts_max(100).interval(HOUR).rate(1.0).total(HOUR * 2);
        ctx.step_with("call", &options, async |_| {
            count.count();
            Err::<(), _>(std::fmt::Error)
        })
        .await
    });
    let fails = fails.unwrap();
    engine.launch().unwrap();
    let handle = fails.start(&engine, ()).unwrap();
    eventually("it has failed", || {
        app.clock.advance(HOUR / 4);
        handle.status().unwrap().is_terminal()
    });
    assert_eq!(tries.get(), 2, "at the start, and after an hour; the next would be after the end");
}

/// Parents that wait lend their places, so the children come to run.
#[test]
fn many_parents_wait_for_children_with_few_places() {
    let many: u64 = if std::env::var_os("PITON_LONG_TESTS").is_some() { 10_000 } else { 1_000 };
    let app = App::new();
    let engine = app.options().tasks_max(100).suspend_after(HOUR).open(&app.url()).unwrap();
    let child = engine.register_async("child", async |mut ctx: AsyncContext, n: u64| {
        ctx.step("x", async |_| {
            tokio::task::yield_now().await;
            engine::ok(n)
        })
        .await
    });
    let child = child.unwrap();
    let parent = engine.register_async("parent", async move |mut ctx: AsyncContext, n: u64| {
        let child = ctx.start(&child, n).await?;
        child.result(&mut ctx).await
    });
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let sum_of = |first: u64| {
        let numbers = (first..many).step_by(20);
        let handles: Vec<_> = numbers.map(|n| parent.start(&engine, n).unwrap()).collect();
        handles.iter().map(|handle| handle.result().unwrap()).sum::<u64>()
    };
    let sum: u64 = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..20).map(|first| scope.spawn(move || sum_of(first))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    assert_eq!(sum, many * (many - 1) / 2);
}

/// The one that is waited for needs the only place.
#[test]
fn a_step_that_awaits_a_handle_lends_the_place_of_its_workflow() {
    let app = App::new();
    let engine = app.options().tasks_max(1).open(&app.url()).unwrap();
    let (given, taken) = tokio::sync::oneshot::channel::<engine::Handle<u32>>();
    let taken = Arc::new(std::sync::Mutex::new(Some(taken)));
    let other = engine.register_async("other", async |mut ctx: AsyncContext, (): ()| {
        ctx.step("x", async |_| engine::ok(7)).await
    });
    let waits = engine.register_async("waits", async move |mut ctx: AsyncContext, (): ()| {
        let taken = taken.lock().unwrap().take();
        ctx.step("wait", async |_| match taken {
            Some(handle) => handle.await.unwrap().await,
            None => Ok(0),
        })
        .await
    });
    let (other, waits) = (other.unwrap(), waits.unwrap());
    engine.launch().unwrap();
    let handle = waits.start(&engine, ()).unwrap();
    // It has no place until the step waits for it.
    assert!(given.send(other.start(&engine, ()).unwrap()).is_ok());
    assert_eq!(handle.result().unwrap(), 7);
}

/// Plain ones are claimed while there is no place for async ones, and the other way round.
#[test]
fn a_claim_takes_the_kind_that_has_room() {
    let (app, open) = (App::new(), Arc::new(Notify::new()));
    let engine = app.options().tasks_max(1).workers_max(1).open(&app.url()).unwrap();
    let waits = open.clone();
    let task = engine.register_async("task", async move |mut ctx: AsyncContext, waiting: bool| {
        ctx.step("x", async |_| {
            if waiting {
                waits.notified().await;
            }
            engine::ok(1)
        })
        .await
    });
    let plain = engine.register("plain", |ctx: &mut Context, (): ()| ctx.step("x", |_| engine::ok(2)));
    let (task, plain) = (task.unwrap(), plain.unwrap());
    let queue = engine.register_queue("q", engine::QueueOptions::new()).unwrap();
    engine.launch().unwrap();
    let first = task.start(&engine, true).unwrap();
    let second = task.enqueue(&engine, &queue, false).unwrap();
    let plains: Vec<_> = (0..5).map(|_| plain.enqueue(&engine, &queue, ()).unwrap()).collect();
    for handle in plains {
        assert_eq!(handle.result().unwrap(), 2);
    }
    assert_eq!(second.status().unwrap(), WorkflowStatus::Enqueued);
    open.notify_one();
    assert_eq!((first.result().unwrap(), second.result().unwrap()), (1, 1));
}

#[test]
fn an_async_transaction_step_has_its_effect_exactly_once() {
    let app = App::new();
    let engine = app.options().shared_with_application().open(&app.url()).unwrap();
    app.batch(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, cents BIGINT); INSERT INTO account VALUES (1, 100)",
    );
    let deposit = engine.register_async("deposit", async |mut ctx: AsyncContext, cents: i64| {
        ctx.transaction("deposit", move |tx| -> Result<i64, engine::sql::SqlError> {
            tx.execute("UPDATE account SET cents = cents + $1 WHERE id = 1", [cents])?;
            tx.query_one("SELECT cents FROM account WHERE id = 1", [0_i64; 0])?.get("cents")
        })
        .await
    });
    let deposit = deposit.unwrap();
    engine.launch().unwrap();
    assert_eq!(deposit.start_as(&engine, "w", 5).unwrap().result().unwrap(), 105);
    app.execute("DELETE FROM workflow_output WHERE workflow_uuid = ?1", ["w"]);
    drop(engine);
    app.interrupt("w", 1);
    let engine = app.options().shared_with_application().open(&app.url()).unwrap();
    let _ = engine.register_async("deposit", async |mut ctx: AsyncContext, _: i64| {
        ctx.transaction("deposit", move |_| engine::ok(0_i64)).await
    });
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<i64>("w").unwrap().result().unwrap(), 105);
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 105);
}

/// What is started and finds no thread is given back, by a commit that may take long.
#[test]
fn a_runtime_does_not_wait_for_what_is_given_back_for_want_of_a_thread() {
    let (app, latch, begun) = (App::new(), Latch::default(), Arc::new(Notify::new()));
    let (holds, begins) = (latch.clone(), begun.clone());
    let options = app.options().stack_bytes(1 << 46).commit_hook(Arc::new(move |point| {
        if point.kinds.contains(&"release") {
            begins.notify_one();
            holds.hold();
        }
        Fate::Go
    }));
    let (url, runtime) =
        (app.url(), tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    runtime.block_on(async move {
        let engine = options.open_async(&url).await.unwrap();
        let plain = engine.blocking().register("plain", |_: &mut Context, (): ()| Ok::<_, Error>(1)).unwrap();
        let child = plain.clone();
        let parent = engine.register("parent", async move |mut ctx: AsyncContext, (): ()| {
            engine::ok(ctx.start(&child, ()).await?.id().to_string())
        });
        let parent = parent.unwrap();
        engine.launch().await.unwrap();
        let of_parent = engine.start(&parent, ()).await.unwrap();
        engine.start_as(&plain, "of-a-caller", ()).await.unwrap();
        begun.notified().await;
        latch.open();
        of_parent.await.unwrap();
        engine.shutdown(Duration::from_secs(60)).await;
    });
}

/// It runs on a thread, which nobody takes away. When it ends, the engine takes leave, although it is still held.
#[test]
fn a_transaction_body_that_outlasts_a_shutdown_has_its_effect_once() {
    let app = App::new();
    drop(app.open());
    app.batch("CREATE TABLE effect (x integer)");
    let (latch, bodies) = (Latch::default(), Counter::default());
    let register = |engine: &Engine| {
        let (latch, bodies) = (latch.clone(), bodies.clone());
        let workflow = engine.register_async("w", async move |mut ctx: AsyncContext, (): ()| {
            let inserted = ctx.transaction("t", move |tx| {
                if bodies.count() == 0 {
                    latch.hold();
                }
                tx.execute("INSERT INTO effect VALUES (1)", ())
            });
            inserted.await
        });
        workflow.unwrap()
    };
    let first = app.open();
    let workflow = register(&first);
    first.launch().unwrap();
    let handle = workflow.start_as(&first, "w", ()).unwrap();
    latch.wait_for(1);
    let left = first.shutdown(Duration::from_millis(10));
    assert!(left == [handle.id().clone()] || app.status("w") == "ENQUEUED", "not told: {left:?}");
    latch.open();

    let second = app.open();
    register(&second);
    second.launch().unwrap();
    eventually("the next one goes on with it", || {
        app.clock.advance(Duration::from_secs(1));
        app.status("w") == "SUCCESS"
    });
    assert_eq!(app.value::<u32>("SELECT count(*) FROM effect", []), 1);
    drop(first);
}

/// The last engine goes in the body of a step; the shutdown waits for that step and not the step for it.
#[test]
fn an_engine_dropped_inside_an_async_step_does_not_lose_the_step() {
    let (app, latch) = (App::new(), Arc::new(Notify::new()));
    let slot: Arc<std::sync::Mutex<Option<Engine>>> = Arc::default();
    let engine = app.open();
    let (gate, last) = (latch.clone(), slot.clone());
    let workflow = engine.register_async("w", async move |mut ctx: AsyncContext, (): ()| {
        let step = ctx.step("s", async |_| {
            gate.notified().await;
            drop(last.lock().unwrap().take());
            engine::ok(7)
        });
        step.await
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    drop(workflow.start_as(&engine, "w", ()).unwrap());
    *slot.lock().unwrap() = Some(engine);
    latch.notify_one();
    eventually("recorded", || app.recorded("w") == ["s"]);
}

/// It is code of the program's runtime, called on the threads of the engine.
#[test]
fn a_waker_that_panics_takes_no_thread_of_the_engine_along() {
    struct Bad(Counter);
    impl std::task::Wake for Bad {
        fn wake(self: Arc<Self>) {
            self.0.count();
            bang("a waker's bang");
        }
    }
    let (app, woken) = (App::new(), Counter::default());
    let engine = app.open();
    let nap = engine.register_async("nap", async |mut ctx: AsyncContext, (): ()| ctx.sleep(HOUR).await);
    let nap = nap.unwrap();
    engine.launch().unwrap();
    let calls = engine.to_async();
    let waker = std::task::Waker::from(Arc::new(Bad(woken.clone())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut start = pin!(calls.start_as(&nap, "w", ()));
    assert!(start.as_mut().poll(&mut context).is_pending());
    eventually("the committer woke it", || woken.get() == 1);
    let Poll::Ready(Ok(handle)) = start.as_mut().poll(&mut context) else { panic!() };
    let mut handle = handle.into_future();
    assert!(handle.as_mut().poll(&mut context).is_pending());
    let other = nap.start(&engine, ()).unwrap();
    eventually("both sleep", || app.value::<u32>("SELECT count(*) FROM operation_outputs", []) == 2);
    app.clock.advance(HOUR);
    other.result().unwrap();
    eventually("the end woke it", || woken.get() == 2);
    // What woke it may have been a look of the fleet, which hands no outcome over: then it looks for itself.
    eventually("it has the outcome", || match handle.as_mut().poll(&mut context) {
        Poll::Ready(result) => result.is_ok() || panic!("{result:?}"),
        Poll::Pending => false,
    });
}

/// The whole life of a program with an async runtime, of one thread, which is never blocked.
#[test]
fn an_async_program_starts_waits_looks_and_ends() {
    let app = App::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (options, url) = (app.options(), app.url());
    runtime.block_on(async move {
        let engine = options.open_async(&url).await.unwrap();
        let ask = engine.register("ask", async |mut ctx: AsyncContext, name: String| {
            let answer: Option<String> = ctx.recv("answer", HOUR).await?;
            engine::ok(format!("{name}: {}", answer.unwrap_or_default()))
        });
        let ask = ask.unwrap();
        engine.launch().await.unwrap();
        let handle = engine.start_as(&ask, "w", "who".to_owned()).await.unwrap();
        assert!(engine.start_as(&ask, "w", "who".to_owned()).await.unwrap().is_attached());
        let id = WorkflowId::new("w").unwrap();
        assert!(!engine.status(&id).await.unwrap().is_terminal());
        engine.send_once("key", &id, "answer", "me".to_owned()).await.unwrap();
        assert_eq!(handle.clone().await.unwrap(), "who: me");
        assert_eq!(handle.await.unwrap(), "who: me");
        assert_eq!(engine.retrieve::<String>("w").await.unwrap().await.unwrap(), "who: me");
        assert_eq!(engine.count(&WorkflowFilter::new()).await.unwrap(), 1);
        assert_eq!(engine.list(&WorkflowFilter::new()).await.unwrap().len(), 1);
        assert_eq!(engine.steps(&id).await.unwrap().len(), 2);
        assert_eq!(engine.progress(&id).await.unwrap().steps_recorded, 2);
        assert_eq!(engine.resume(&id).await.unwrap(), WorkflowStatus::Success);
        let missing = WorkflowId::new("missing").unwrap();
        assert!(matches!(engine.cancel(&missing).await, Err(Error::NotFound { .. })));
        assert!(engine.shutdown(Duration::from_secs(60)).await.is_empty());
        assert!(matches!(engine.start(&ask, String::new()).await, Err(Error::ShuttingDown)));
    });
}

/// Nothing would record what it gave. In a step it is recorded.
#[test]
fn a_handle_that_is_awaited_outside_of_a_step_of_an_async_workflow_is_refused() {
    let app = App::new();
    let engine = app.open();
    let other = engine.register("other", |_: &mut Context, n: u32| engine::ok(n)).unwrap();
    let shared: Arc<std::sync::OnceLock<engine::AsyncEngine>> = Arc::default();
    let from = shared.clone();
    let awaits = engine.register_async("awaits", async move |mut ctx: AsyncContext, in_a_step: bool| {
        let engine = from.get().cloned().ok_or(Error::NotLaunched)?;
        let handle = engine.start_as(&other, "o", 7).await?;
        if in_a_step {
            return ctx.step("await", async |_| handle.await).await;
        }
        handle.await
    });
    let awaits = awaits.unwrap();
    engine.launch().unwrap();
    assert!(shared.set(engine.to_async()).is_ok());
    assert_eq!(awaits.start(&engine, true).unwrap().result().unwrap(), 7);
    let error = awaits.start(&engine, false).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("workflow o was awaited by its handle inside an async workflow"), "{error}");
    // The registered function would keep the engine for ever.
    engine.shutdown(Duration::from_secs(60));
}
