//! Different operations at once, in both kinds of workflows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{
    AsyncContext, AsyncOperation, Context, Engine, Error, Event, Observer, Operation, StepOptions, Workflow,
    WorkflowId,
};

use watch::give_time;

use crate::support::{App, Counter, Latch, eventually};

const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> WorkflowId {
    WorkflowId::new(text).unwrap()
}

#[test]
fn operations_of_a_join_run_at_once_and_give_what_each_returned() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("three", |ctx: &mut Context, (): ()| {
        let (all, word) = (Barrier::new(3), "borrowed".to_owned());
        let (number, text, (), ended) = ctx.join((
            Operation::step("number", |_| {
                all.wait();
                engine::ok(7)
            }),
            Operation::step("text", |_| {
                all.wait();
                engine::ok(word.len())
            }),
            Operation::sleep(Duration::from_millis(1)),
            Operation::step("flag", |_| {
                all.wait();
                engine::ok(true)
            }),
        ))?;
        engine::ok((number, text, ended))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("the sleep is recorded", || !app.recorded("w").is_empty());
    app.clock.advance(Duration::from_millis(1));
    assert_eq!(handle.result().unwrap(), (7, 8, true));
    assert_eq!(app.recorded("w"), ["number", "text", "DBOS.sleep", "flag"], "in the order of the tuple");
}

#[test]
fn recorded_operations_of_a_join_never_run_again() {
    for gone in [vec![], vec![1_u32], vec![2], vec![1, 2]] {
        let (app, bodies) = (App::new(), Counter::default());
        let register = |engine: &Engine| {
            let bodies = bodies.clone();
            let two = engine.register("two", move |ctx: &mut Context, (): ()| {
                ctx.join((
                    Operation::step("a", |_| {
                        bodies.count();
                        engine::ok(1)
                    }),
                    Operation::step("b", |_| {
                        bodies.count();
                        engine::ok(2)
                    }),
                ))
            });
            two.unwrap()
        };
        let engine = app.open();
        let workflow = register(&engine);
        engine.launch().unwrap();
        workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
        drop(engine);
        app.interrupt("w", 2);
        app.forget_steps("w", &gone);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<(i32, i32)>("w").unwrap().result().unwrap(), (1, 2));
        assert_eq!(bodies.get(), 2 + gone.len());
    }
}

/// Each comes to its end, and of two errors it is the first in the order of the tuple.
#[test]
fn a_join_ends_with_the_first_error_in_its_order() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("fails", |ctx: &mut Context, (): ()| {
        let (second_failed, no) = (AtomicBool::new(false), StepOptions::new());
        let joined = ctx.join((
            Operation::step_with("first", &no, |_| {
                while !second_failed.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                Err::<(), _>("the first")
            }),
            Operation::step("second", |_| {
                second_failed.store(true, Ordering::SeqCst);
                Err::<(), _>("the second")
            }),
            Operation::step("third", |_| engine::ok(3)),
        ));
        joined.map(drop)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("the first") && !error.contains("the second"), "{error}");
    assert_eq!(app.recorded("w"), ["first", "second", "third"]);
}

/// A message and a time, awaited together, in each kind.
fn register_waits(engine: &Engine) -> [Workflow<(), Option<u32>>; 2] {
    let plain = engine.register("plain", |ctx: &mut Context, (): ()| {
        let (word, ()) = ctx.join((Operation::recv("word", 2 * HOUR), Operation::sleep(HOUR)))?;
        engine::ok(word)
    });
    let task = engine.register_async("task", async |mut ctx: AsyncContext, (): ()| {
        let (word, nap) = (ctx.recv("word", 2 * HOUR), ctx.sleep(HOUR));
        let (word, nap) = tokio::join!(word, nap);
        nap?;
        word
    });
    [plain.unwrap(), task.unwrap()]
}

#[test]
fn operations_that_all_wait_leave_together_and_each_wakes_the_workflow() {
    for kind in 0..2 {
        for message_first in [true, false] {
            let app = App::new();
            let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
            let workflow = &register_waits(&engine)[kind];
            engine.launch().unwrap();
            let handle = workflow.start_as(&engine, "w", ()).unwrap();
            let leaves = || eventually("it has left", || app.status("w") == "DELAYED");
            let send = || engine.send(&id("w"), "word", 7).unwrap();
            leaves();
            let recorded = app.recorded("w").len();
            if message_first {
                send();
                eventually("it took the message", || app.recorded("w").len() == recorded + 1);
                leaves();
                app.clock.advance(HOUR);
            } else {
                let due =
                    || app.value::<i64>("SELECT COALESCE(delay_until_epoch_ms, 0) FROM workflow_status", []);
                let first = due();
                app.clock.advance(HOUR);
                eventually("it has slept, and left again", || app.status("w") == "DELAYED" && due() > first);
                send();
            }
            assert_eq!(handle.result().unwrap(), Some(7));
            assert_eq!(app.attempts("w"), 1);
        }
    }
}

/// One operation was about to leave when the other one won.
#[test]
fn a_workflow_leaves_again_after_a_race_that_it_was_about_to_leave() {
    struct Looks {
        looked: AtomicBool,
        won: AtomicBool,
    }
    impl Observer for Looks {
        fn observe(&self, event: &Event<'_>) {
            match event {
                Event::Recorded { kind: "decide", .. } if !self.looked.swap(true, Ordering::SeqCst) => {
                    eventually("the step has won", || self.won.load(Ordering::SeqCst));
                    give_time("the thread of the step ends, which nobody is told", || false);
                }
                Event::StepRecorded { name: "Piton.race", .. } => self.won.store(true, Ordering::SeqCst),
                _ => {}
            }
        }
    }
    let app = App::new();
    let looks = Arc::new(Looks { looked: AtomicBool::new(false), won: AtomicBool::new(false) });
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO).observer(looks.clone()));
    let workflow = engine.register("race", move |ctx: &mut Context, (): ()| {
        let word = Operation::recv("word", HOUR).map(Option::unwrap_or_default);
        let step = Operation::step("step", |_| {
            while !looks.looked.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            engine::ok(7)
        });
        let first = ctx.race([word, step])?;
        ctx.sleep(HOUR)?;
        engine::ok(first)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("it has left", || app.status("w") == "DELAYED");
    app.clock.advance(HOUR);
    assert_eq!(handle.result().unwrap(), 7);
}

/// The time of a sleep is over while the workflow leaves: what comes after it is for the next run.
#[test]
fn no_body_runs_while_its_workflow_leaves() {
    let (app, bodies, leaves) = (App::new(), Counter::default(), AtomicBool::new(false));
    let (clock, ran) = (app.clock.clone(), bodies.clone());
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let suspends = point.moment == Moment::Before && point.kinds.contains(&"suspend");
        if suspends && !leaves.swap(true, Ordering::SeqCst) {
            clock.advance(HOUR);
            give_time("the body runs", || ran.get() > 0);
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO).commit_hook(hook));
    let ran = bodies.clone();
    let workflow = engine.register_async("leaves", async move |mut ctx: AsyncContext, (): ()| {
        let (nap, word) = (ctx.sleep(HOUR), ctx.recv::<u32>("word", 2 * HOUR));
        let then = async {
            nap.await?;
            ctx.step("then", async |_| engine::ok(ran.count())).await
        };
        let (then, word) = tokio::join!(then, word);
        then?;
        word
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("the step is recorded", || app.recorded("w").contains(&"then".to_owned()));
    engine.send(&id("w"), "word", 7).unwrap();
    assert_eq!(handle.result().unwrap(), Some(7));
    assert_eq!(bodies.get(), 1);
}

/// More than a row can mark: they stay in memory, and come to their ends all the same.
#[test]
fn more_waits_than_a_row_can_mark_stay_in_memory() {
    let app = App::new();
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
    let many = engine.register_async("many", async |mut ctx: AsyncContext, (): ()| {
        let words: Vec<_> = (0..20).map(|n| ctx.recv::<u32>(&format!("word {n}"), HOUR)).collect();
        let words = futures_util::future::join_all(words).await;
        words.into_iter().try_fold(0, |sum, word| Ok::<_, Error>(sum + word?.unwrap_or_default()))
    });
    let many = many.unwrap();
    engine.launch().unwrap();
    let handle = many.start_as(&engine, "w", ()).unwrap();
    eventually("all wait", || app.recorded("w").len() == 20);
    assert_eq!(app.status("w"), "PENDING");
    for n in 0..20 {
        engine.send(&id("w"), &format!("word {n}"), n).unwrap();
    }
    assert_eq!(handle.result().unwrap(), (0..20).sum::<u32>());
}

/// Two workflows that wait for each other, and for other things.
#[test]
fn a_circle_of_waits_is_found_among_several() {
    for kind in 0..2 {
        let (app, latch) = (App::new(), Latch::default());
        let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
        let waits = Workflow::<String, String>::named("waits");
        let held = latch.clone();
        let join = move |ctx: &mut Context, awaited: String| {
            ctx.step("arrive", |_| {
                held.hold();
                engine::ok(())
            })?;
            let other = ctx.start_as(&waits, &awaited, String::new())?;
            let (ended, _) = ctx.join((Operation::result(&other), Operation::recv::<u32>("word", HOUR)))?;
            engine::ok(ended)
        };
        let (held, waits) = (latch.clone(), Workflow::<String, String>::named("waits"));
        let task = async move |mut ctx: AsyncContext, awaited: String| {
            ctx.step("arrive", async |_| {
                let held = held.clone();
                engine::ok(tokio::task::spawn_blocking(move || held.hold()).await?)
            })
            .await?;
            let other = ctx.start_as(&waits, &awaited, String::new()).await?;
            let (ended, word) = (other.result(&mut ctx), ctx.recv::<u32>("word", HOUR));
            let (ended, word) = tokio::join!(ended, word);
            word?;
            ended
        };
        let workflow = match kind {
            0 => engine.register("waits", join).unwrap(),
            _ => engine.register_async("waits", task).unwrap(),
        };
        engine.launch().unwrap();
        let handles = [("a", "b"), ("b", "a")]
            .map(|(id, other)| workflow.start_as(&engine, id, other.to_owned()).unwrap());
        latch.wait_for(2);
        latch.open();
        let seen = "SELECT count(*) FROM operation_outputs WHERE error LIKE '%PitonCircularWait%'";
        eventually("one of them sees the circle", || app.value::<u32>(seen, []) > 0);
        for id in ["a", "b"] {
            engine.send(&WorkflowId::new(id).unwrap(), "word", 1).unwrap();
        }
        for handle in handles {
            let error = handle.result().unwrap_err().to_string();
            assert!(error.contains("cannot wait for"), "{error}");
        }
    }
}

/// A plain body is told, an async one is dropped.
#[test]
fn the_body_of_a_step_that_has_lost_a_race_ends() {
    struct Gone<'g>(&'g Counter);
    impl Drop for Gone<'_> {
        fn drop(&mut self) {
            self.0.count();
        }
    }
    let (app, gone) = (App::new(), Counter::default());
    let engine = app.open();
    let drops = gone.clone();
    let plain = engine.register("plain", move |ctx: &mut Context, (): ()| {
        let slow = Operation::step("slow", |step| {
            let _gone = Gone(&drops);
            while !step.cancelled() {
                std::thread::yield_now();
            }
            Err::<u32, _>("too late")
        });
        let first = ctx.race([slow, Operation::recv("word", HOUR).map(Option::unwrap_or_default)])?;
        ctx.step("after", |_| engine::ok(first))
    });
    let drops = gone.clone();
    let task = engine.register_async("task", async move |mut ctx: AsyncContext, (): ()| {
        let slow = AsyncOperation::step("slow", async |_| {
            let _gone = Gone(&drops);
            std::future::pending::<()>().await;
            engine::ok(0)
        });
        let word = AsyncOperation::recv("word", HOUR).map(Option::unwrap_or_default);
        let first = ctx.race([slow, word]).await?;
        ctx.step("after", async |_| engine::ok(first)).await
    });
    let both = [plain.unwrap(), task.unwrap()];
    engine.launch().unwrap();
    for (n, workflow) in both.into_iter().enumerate() {
        let handle = workflow.start(&engine, ()).unwrap();
        engine.send(handle.id(), "word", 7).unwrap();
        assert_eq!(handle.result().unwrap(), 7);
        assert_eq!(gone.get(), n + 1);
    }
}

/// As outside of a race.
#[test]
fn a_shutdown_lets_the_body_of_a_step_in_a_race_come_to_its_end() {
    for kind in 0..2 {
        let (app, latch, bodies) = (App::new(), Latch::default(), Counter::default());
        let register = |engine: &Engine| {
            let (held, ran) = (latch.clone(), bodies.clone());
            let plain = move |ctx: &mut Context, (): ()| {
                let step = Operation::step("step", |_| {
                    held.hold();
                    engine::ok(ran.count())
                });
                ctx.race([Operation::recv("word", HOUR).map(Option::unwrap_or_default), step])
            };
            let (held, ran) = (latch.clone(), bodies.clone());
            let task = async move |mut ctx: AsyncContext, (): ()| {
                let step = AsyncOperation::step("step", async |_| {
                    let held = held.clone();
                    tokio::task::spawn_blocking(move || held.hold()).await?;
                    engine::ok(ran.count())
                });
                ctx.race([AsyncOperation::recv("word", HOUR).map(Option::unwrap_or_default), step]).await
            };
            match kind {
                0 => engine.register("race", plain).unwrap(),
                _ => engine.register_async("race", task).unwrap(),
            }
        };
        let engine = app.open();
        let workflow = register(&engine);
        engine.launch().unwrap();
        workflow.start_as(&engine, "w", ()).unwrap();
        latch.wait_for(1);
        eventually("the other one waits", || app.recorded("w") == ["DBOS.sleep"]);
        std::thread::scope(|scope| {
            let shutdown = scope.spawn(|| engine.shutdown(Duration::from_secs(30)));
            give_time("the other operation is told to stop", || false);
            latch.open();
            assert_eq!(shutdown.join().unwrap(), []);
        });
        assert_eq!(app.recorded("w"), ["Piton.race", "DBOS.sleep", "step"]);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<usize>("w").unwrap().result().unwrap(), 0);
        assert_eq!(bodies.get(), 1);
    }
}

#[test]
fn a_panic_in_what_changes_a_value_is_the_error_of_the_workflow() {
    let app = App::new();
    let engine = app.open();
    let change = |()| -> u32 { panic!("while it changed") };
    let joined = engine.register("joined", move |ctx: &mut Context, (): ()| {
        let nap = Operation::sleep(Duration::ZERO).map(change);
        let (a, b): (u32, u32) = ctx.join((nap, Operation::step("b", |_| engine::ok(2))))?;
        engine::ok(a + b)
    });
    let raced = engine.register("raced", move |ctx: &mut Context, (): ()| {
        ctx.race([Operation::sleep(Duration::ZERO).map(change), Operation::sleep(HOUR).map(|()| 1)])
    });
    let both: [Workflow<(), u32>; 2] = [joined.unwrap(), raced.unwrap()];
    engine.launch().unwrap();
    for workflow in both {
        let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
        assert!(error.contains("while it changed"), "{error}");
    }
}
