//! Many steps at once, in both kinds of workflows.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{AsyncContext, Context, Engine, Error, StepInfo, Workflow};

use crate::support::{App, Counter, Result, eventually};

/// One map in both kinds: squares of the first `n` numbers, `at_once` at a time.
fn register(engine: &Engine, name: &str, bodies: &Counter) -> [Workflow<(u64, usize), Vec<u64>>; 2] {
    let (plain, task) = (bodies.clone(), bodies.clone());
    let plain = engine.register(&format!("{name}_plain"), move |ctx: &mut Context, (n, at_once)| {
        let squares = ctx.map("square", at_once, 0..n, |_, number: u64| {
            plain.count();
            engine::ok(number * number)
        })?;
        ctx.step("after", |_| engine::ok(squares))
    });
    let task =
        engine.register_async(&format!("{name}_task"), async move |mut ctx: AsyncContext, (n, at_once)| {
            let squares = ctx
                .map("square", at_once, 0..n, async |_, number: u64| {
                    task.count();
                    tokio::task::yield_now().await;
                    engine::ok(number * number)
                })
                .await?;
            ctx.step("after", async |_| engine::ok(squares)).await
        });
    [plain.unwrap(), task.unwrap()]
}

fn squares(n: u64) -> Vec<u64> {
    (0..n).map(|number| number * number).collect()
}

#[test]
fn a_map_gives_the_outcomes_in_the_order_of_its_items() {
    let (app, bodies) = (App::new(), Counter::default());
    let engine = app.open();
    let both = register(&engine, "map", &bodies);
    engine.launch().unwrap();
    for (id, workflow) in ["p", "t"].into_iter().zip(both) {
        for (n, at_once) in [(0, 5), (1, 5), (40, 7), (40, 1), (5, 1_000)] {
            let id = format!("{id}-{n}-{at_once}");
            let handle = workflow.start_as(&engine, &id, (n, at_once)).unwrap();
            assert_eq!(handle.result().unwrap(), squares(n), "{id}");
            let recorded = app.recorded(&id);
            assert_eq!(recorded.first().map(String::as_str), Some("Piton.map"));
            assert_eq!(recorded.iter().filter(|name| *name == "square").count() as u64, n);
            assert_eq!(recorded.last().map(String::as_str), Some("after"));
        }
    }
    assert_eq!(bodies.get(), 2 * (1 + 40 + 40 + 5));
}

/// However far it had come, and whatever of it was recorded.
#[test]
fn recorded_items_of_a_map_never_run_again_and_the_others_do() {
    const ITEMS: u64 = 12;
    for gone in
        [vec![2], vec![13], vec![3, 5, 7, 9, 11, 13], (2..=13).collect(), (1..=13).collect::<Vec<u32>>()]
    {
        for kind in 0..2 {
            let (app, bodies) = (App::new(), Counter::default());
            let engine = app.open();
            let workflow = &register(&engine, "map", &bodies)[kind];
            engine.launch().unwrap();
            workflow.start_as(&engine, "w", (ITEMS, 4)).unwrap().result().unwrap();
            drop(engine);
            app.interrupt("w", 13);
            app.forget_steps("w", &gone);
            let again = Counter::default();
            let engine = app.open();
            register(&engine, "map", &again);
            engine.launch().unwrap();
            let handle = engine.retrieve::<Vec<u64>>("w").unwrap();
            assert_eq!(handle.result().unwrap(), squares(ITEMS));
            let items = gone.iter().filter(|step| **step != 1).count();
            assert_eq!(again.get(), items, "without {gone:?}");
        }
    }
}

/// In either kind: a list of another length is another program.
#[test]
fn a_changed_number_of_items_is_noticed() {
    for kind in 0..2 {
        let (app, bodies) = (App::new(), Counter::default());
        let engine = app.open();
        let workflow = &register(&engine, "map", &bodies)[kind];
        engine.launch().unwrap();
        workflow.start_as(&engine, "w", (5, 2)).unwrap().result().unwrap();
        drop(engine);
        app.interrupt("w", 3);
        let input = "UPDATE workflow_input SET inputs = replace(inputs, '5', '6') WHERE workflow_uuid = 'w'";
        assert_eq!(app.execute(input, []), 1);
        let engine = app.open();
        register(&engine, "map", &bodies);
        engine.launch().unwrap();
        let error = engine.retrieve::<Vec<u64>>("w").unwrap().result().unwrap_err().to_string();
        assert!(error.contains("`a map of 5 items`") && error.contains("`a map of 6 items`"), "{error}");
    }
}

#[test]
fn as_many_items_run_at_once_as_the_map_asks_for() {
    let app = App::new();
    let engine = app.open();
    let plain = engine.register("plain", |ctx: &mut Context, n: usize| {
        // None ends before all have begun.
        let all = Barrier::new(n);
        ctx.map("wait", n, 0..n, |_, number| {
            all.wait();
            engine::ok(number)
        })
    });
    let task = engine.register_async("task", async |mut ctx: AsyncContext, n: usize| {
        let all = tokio::sync::Barrier::new(n);
        ctx.map("wait", n, 0..n, async |_, number| {
            all.wait().await;
            engine::ok(number)
        })
        .await
    });
    let (most, now) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let few = engine.register("few", move |ctx: &mut Context, (): ()| {
        ctx.map("count", 3, 0..20, |_, number: u32| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            engine::ok(number)
        })?;
        engine::ok(most.load(Ordering::SeqCst))
    });
    let (plain, task, few) = (plain.unwrap(), task.unwrap(), few.unwrap());
    engine.launch().unwrap();
    for workflow in [plain, task] {
        assert_eq!(workflow.start(&engine, 20).unwrap().result().unwrap(), (0..20).collect::<Vec<_>>());
    }
    assert!(few.start(&engine, ()).unwrap().result().unwrap() <= 3);
}

/// Of the failed ones it is the first in the order of the items, not in time.
#[test]
fn a_map_ends_with_the_error_of_the_first_failed_item_and_lets_the_others_end() {
    let app = App::new();
    let engine = app.open();
    let fails =
        |number: u32| if number == 2 || number == 3 { Err(format!("no {number}")) } else { Ok(number) };
    let plain = engine.register("plain", move |ctx: &mut Context, (): ()| {
        let both = Barrier::new(4);
        ctx.map("try", 4, 0..100, |_, number: u32| {
            if number < 4 {
                both.wait();
            }
            fails(number)
        })
    });
    let task = engine.register_async("task", async move |mut ctx: AsyncContext, (): ()| {
        let both = tokio::sync::Barrier::new(4);
        ctx.map("try", 4, 0..100, async |_, number: u32| {
            if number < 4 {
                both.wait().await;
            }
            fails(number)
        })
        .await
    });
    let both = [plain.unwrap(), task.unwrap()];
    engine.launch().unwrap();
    for (id, workflow) in ["p", "t"].into_iter().zip(both) {
        let error = workflow.start_as(&engine, id, ()).unwrap().result().unwrap_err();
        assert!(error.to_string().contains("no 2"), "{error}");
        let recorded = app.recorded(id).len();
        assert!((5..100).contains(&recorded), "the four that had begun, and not all: {recorded}");
    }
}

#[test]
fn a_map_may_give_a_result_for_each_item() {
    let (app, bodies) = (App::new(), Counter::default());
    let count = |results: Vec<Result<u32>>| {
        let failed = results.iter().filter(|result| result.is_err()).count();
        (results.len(), failed, results.iter().flatten().sum::<u32>())
    };
    let odd = |number: u32| if number % 2 == 1 { Err(format!("{number} is odd")) } else { Ok(number) };
    let engine = app.open();
    let counter = bodies.clone();
    let plain = engine.register("plain", move |ctx: &mut Context, (): ()| {
        let results = ctx.map_each("even", 5, 0..10, |_, number| {
            counter.count();
            odd(number)
        })?;
        Ok::<_, Error>(count(results))
    });
    let task = engine.register_async("task", async move |mut ctx: AsyncContext, (): ()| {
        engine::ok(count(ctx.map_each("even", 5, 0..10, async |_, number| odd(number)).await?))
    });
    let both = [plain.unwrap(), task.unwrap()];
    engine.launch().unwrap();
    for workflow in both {
        assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), (10, 5, 20));
    }
    assert_eq!(bodies.get(), 10);
}

#[test]
fn items_borrow_from_the_function_and_know_their_steps() {
    let app = App::new();
    let engine = app.open();
    let plain = engine.register("plain", |ctx: &mut Context, (): ()| {
        let (word, seen) = ("x".to_owned(), Mutex::new(BTreeSet::new()));
        let texts = ctx.map("text", 4, 0..8_u32, |step: &StepInfo, number| {
            seen.lock().unwrap().insert(step.key());
            engine::ok(format!("{word}{number}"))
        })?;
        assert_eq!(seen.into_inner().unwrap().len(), 8);
        engine::ok(texts.concat())
    });
    let plain = plain.unwrap();
    engine.launch().unwrap();
    assert_eq!(plain.start(&engine, ()).unwrap().result().unwrap(), "x0x1x2x3x4x5x6x7");
}

#[test]
fn a_map_that_can_run_nothing_is_refused() {
    let (app, bodies) = (App::new(), Counter::default());
    let engine = app.open();
    let both = register(&engine, "map", &bodies);
    engine.launch().unwrap();
    for workflow in both {
        let error = workflow.start(&engine, (3, 0)).unwrap().result().unwrap_err();
        assert!(
            error.to_string().contains("at_once of map square: with 0 no item would ever run"),
            "{error}"
        );
    }
}

#[test]
fn a_cancelled_map_begins_no_further_item() {
    for kind in 0..2 {
        let (app, begun) = (App::new(), Counter::default());
        let engine = app.open();
        let (open, count) = (crate::support::Latch::default(), begun.clone());
        let held = open.clone();
        let plain = engine.register("plain", move |ctx: &mut Context, (): ()| {
            ctx.map("hold", 2, 0..50_u32, |_, number| {
                count.count();
                held.hold();
                engine::ok(number)
            })
        });
        let count = begun.clone();
        let task = engine.register_async("task", async move |mut ctx: AsyncContext, (): ()| {
            ctx.map("hold", 2, 0..50_u32, async |_, number| {
                count.count();
                std::future::pending::<()>().await;
                engine::ok(number)
            })
            .await
        });
        let workflow = [plain.unwrap(), task.unwrap()].into_iter().nth(kind).unwrap();
        engine.launch().unwrap();
        let handle = workflow.start_as(&engine, "w", ()).unwrap();
        eventually("two have begun", || begun.get() == 2);
        engine.cancel(handle.id()).unwrap();
        open.open();
        assert!(matches!(handle.result(), Err(Error::WorkflowCancelled { .. })));
        drop(engine);
        assert_eq!((begun.get(), app.recorded("w").len()), (2, 1), "only the map itself is recorded");
    }
}

/// In both kinds, to run beside their parent and into a queue.
#[test]
fn many_children_are_started_in_a_few_commits() {
    const MANY: u64 = 200;
    let (app, starts) = (App::new(), Counter::default());
    let count = starts.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::Before && point.kinds.contains(&"start_child") {
            count.count();
        }
        Fate::Go
    });
    let engine = app.options().commit_hook(hook).open(&app.url()).unwrap();
    let child = engine.register("child", |_: &mut Context, n: u64| engine::ok(n)).unwrap();
    let queue = engine.register_queue("q", engine::QueueOptions::new()).unwrap();
    let of = (child.clone(), queue.clone());
    let plain = engine.register("plain", move |ctx: &mut Context, queued: bool| {
        let children =
            if queued { ctx.enqueue_all(&of.0, &of.1, 0..MANY)? } else { ctx.start_all(&of.0, 0..MANY)? };
        children.iter().map(|child| child.result(ctx)).sum::<Result<u64>>()
    });
    let of = (child, queue);
    let task = engine.register_async("task", async move |mut ctx: AsyncContext, queued: bool| {
        let children = if queued {
            ctx.enqueue_all(&of.0, &of.1, 0..MANY).await?
        } else {
            ctx.start_all(&of.0, 0..MANY).await?
        };
        let mut sum = 0;
        for child in children {
            sum += child.result(&mut ctx).await?;
        }
        engine::ok(sum)
    });
    let both = [plain.unwrap(), task.unwrap()];
    engine.launch().unwrap();
    for workflow in both {
        for queued in [false, true] {
            let before = starts.get();
            let id = format!("{}-{queued}", workflow.name());
            let sum = workflow.start_as(&engine, &id, queued).unwrap().result().unwrap();
            assert_eq!(sum, MANY * (MANY - 1) / 2);
            let commits = starts.get() - before;
            assert!(commits <= 10, "{id}: {commits} commits");
        }
    }
}

/// In both kinds, after each number of children that may have been recorded.
#[test]
fn a_parent_of_many_finds_those_again_that_it_had_started() {
    for kind in 0..2 {
        for kept in [0, 3, 10] {
            let (app, bodies) = (App::new(), Counter::default());
            let register = |engine: &Engine| {
                let count = bodies.clone();
                let child = engine.register("child", move |ctx: &mut Context, n: u64| {
                    ctx.step("x", |_| {
                        count.count();
                        engine::ok(n)
                    })
                });
                let child = child.unwrap();
                let of = child.clone();
                let plain = engine.register("plain", move |ctx: &mut Context, (): ()| {
                    let children = ctx.start_all(&of, 0..10)?;
                    children.iter().map(|child| child.result(ctx)).collect::<Result<Vec<u64>>>()
                });
                let task = engine.register_async("task", async move |mut ctx: AsyncContext, (): ()| {
                    let mut found = Vec::new();
                    for child in ctx.start_all(&child, 0..10).await? {
                        found.push(child.result(&mut ctx).await?);
                    }
                    engine::ok(found)
                });
                [plain.unwrap(), task.unwrap()].into_iter().nth(kind).unwrap()
            };
            let engine = app.open();
            let workflow = register(&engine);
            engine.launch().unwrap();
            let all = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
            drop(engine);
            app.interrupt("w", kept);
            let engine = app.open();
            register(&engine);
            engine.launch().unwrap();
            assert_eq!(engine.retrieve::<Vec<u64>>("w").unwrap().result().unwrap(), all);
            assert_eq!(bodies.get(), 10, "no child ran twice");
        }
    }
}

/// In both kinds: the start of the first one is refused for good, those of the others are not.
#[test]
fn a_child_runs_at_once_whatever_became_of_its_siblings_start() {
    const MANY: u32 = 5;
    for kind in 0..2 {
        let (app, alone) = (App::new(), Counter::default());
        let hook: Arc<CommitHook> = Arc::new(move |point| {
            let starts = point.moment == Moment::Before && point.kinds.contains(&"start_child");
            let refused = starts && (point.kinds.len() > 1 || alone.count() == 0);
            if refused { Fate::FailForGood } else { Fate::Go }
        });
        let engine = app.options().commit_hook(hook).open(&app.url()).unwrap();
        let child = engine.register("child", |ctx: &mut Context, n: u32| ctx.step("x", |_| engine::ok(n)));
        let child = child.unwrap();
        let of = child.clone();
        let plain = engine.register("plain", move |ctx: &mut Context, (): ()| {
            let children = ctx.start_all(&of, 0..MANY)?;
            children.iter().map(|child| child.result(ctx)).collect::<Result<Vec<u32>>>()
        });
        let task = engine.register_async("task", async move |mut ctx: AsyncContext, (): ()| {
            let mut found = Vec::new();
            for child in ctx.start_all(&child, 0..MANY).await? {
                found.push(child.result(&mut ctx).await?);
            }
            engine::ok(found)
        });
        let workflow = [plain.unwrap(), task.unwrap()].into_iter().nth(kind).unwrap();
        engine.launch().unwrap();
        let handle = workflow.start_as(&engine, "w", ()).unwrap();
        let attempts =
            "SELECT recovery_attempts FROM workflow_status WHERE name = 'child' AND status = 'SUCCESS'";
        eventually("the others have run", || app.column::<u32>(attempts, []).len() == MANY as usize - 1);
        eventually("the parent is given back", || app.status("w") == "DELAYED");
        app.clock.advance(Duration::from_secs(1));
        assert_eq!(handle.result().unwrap(), (0..MANY).collect::<Vec<_>>());
        assert_eq!(
            app.column::<u32>(attempts, []),
            [1; MANY as usize],
            "none was given back and taken up again"
        );
    }
}
