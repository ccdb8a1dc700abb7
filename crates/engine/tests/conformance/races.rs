//! Races: the first operation that ends decides, for good.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Error, Event, Observer, StepOptions, Workflow, WorkflowId};

use crate::support::{App, Counter, Latch, eventually};
use crate::way::{Context, Engine, IS_PLAIN, Operation};

const HOUR: Duration = Duration::from_secs(3600);

/// What a race may be won by.
const WINNERS: [&str; 4] = ["message", "child", "sleep", "step"];

/// A race of all that can be awaited, and of a step if there is to be one. The step ends when it is to win.
fn register(engine: &Engine, polls: &Counter, with_step: bool) -> Workflow<bool, String> {
    let child = engine.register("child", |ctx: &mut Context, (): ()| {
        ctx.recv::<bool>("end", 10 * HOUR)?;
        Ok::<_, Error>(7)
    });
    let (child, polls) = (child.unwrap(), polls.clone());
    let workflow = engine.register("race", move |ctx: &mut Context, step_wins: bool| {
        let child = ctx.start(&child, ())?;
        let mut operations = vec![
            Operation::recv("word", 2 * HOUR).map(|word: Option<String>| format!("message {word:?}")),
            Operation::result(&child).map(|seven: u32| format!("child {seven}")),
            Operation::sleep(HOUR).map(|()| "sleep".to_owned()),
        ];
        if with_step {
            let often = StepOptions::new().attempts_max(1_000).interval(Duration::from_secs(1));
            operations.push(Operation::step_with("poll", &often, |_| {
                polls.count();
                if step_wins { Ok("step".to_owned()) } else { Err("not yet") }
            }));
        }
        let first = ctx.race(operations)?;
        ctx.step("after", |_| Ok::<_, Error>(first))
    });
    workflow.unwrap()
}

fn id(text: &str) -> WorkflowId {
    WorkflowId::new(text).unwrap()
}

/// Lets this operation of the workflow `w` win.
fn let_win(app: &App, engine: &Engine, winner: &str) {
    match winner {
        "message" => engine.send(&id("w"), "word", "now".to_owned()).unwrap(),
        "child" => engine.send(&id("w-1"), "end", true).unwrap(),
        "sleep" => app.clock.advance(HOUR),
        _ => {}
    }
}

fn outcome_of(winner: &str) -> String {
    match winner {
        "message" => "message Some(\"now\")".to_owned(),
        "child" => "child 7".to_owned(),
        winner => winner.to_owned(),
    }
}

#[test]
fn the_first_that_ends_wins_and_a_replay_has_the_same_winner() {
    for (number, winner) in WINNERS.into_iter().enumerate() {
        let (app, polls) = (App::new(), Counter::default());
        let engine = app.open();
        let workflow = register(&engine, &polls, true);
        engine.launch().unwrap();
        let handle = workflow.start_as(&engine, "w", winner == "step").unwrap();
        eventually("the race is on", || polls.get() > 0);
        eventually("all times are recorded", || app.recorded("w").len() >= 3);
        let_win(&app, &engine, winner);
        assert_eq!(handle.result().unwrap(), outcome_of(winner));
        let own: &[&str] = match winner {
            "message" => &["DBOS.recv"],
            "child" => &["DBOS.getResult"],
            "sleep" => &[],
            _ => &["poll"],
        };
        let mut recorded = app.recorded("w");
        recorded.retain(|name| name != "DBOS.sleep");
        let expected: Vec<_> = ["child", "Piton.race"].iter().chain(own).chain(&["after"]).collect();
        assert_eq!(recorded.iter().collect::<Vec<_>>(), expected, "{winner}");
        let verdict = "SELECT output FROM operation_outputs WHERE function_name = 'Piton.race'";
        let expected = format!("{{\"of\":4,\"winner\":{number}}}");
        assert_eq!(app.value::<String>(verdict, []), expected);
        drop(engine);

        // Whatever comes later, a replay has the verdict.
        app.interrupt("w", 7);
        let polled = polls.get();
        let engine = app.open();
        register(&engine, &polls, true);
        for other in WINNERS {
            let_win(&app, &engine, other);
        }
        engine.launch().unwrap();
        let handle = engine.retrieve::<String>("w").unwrap();
        assert_eq!(handle.result().unwrap(), outcome_of(winner));
        assert_eq!(polls.get(), polled, "nothing runs again");
    }
}

/// A crash before the verdict: all run again, and a sleep has its rest left.
#[test]
fn a_race_without_a_verdict_begins_again() {
    for (winner, number) in [("message", 0), ("child", 1), ("step", 3)] {
        let (app, polls) = (App::new(), Counter::default());
        let engine = app.open();
        let workflow = register(&engine, &polls, true);
        engine.launch().unwrap();
        workflow.start_as(&engine, "w", true).unwrap().result().unwrap();
        drop(engine);
        // The outcome of the step that won is gone with it.
        app.interrupt("w", 6);
        app.forget_steps("w", &[2]);
        if winner != "step" {
            let sql = "UPDATE workflow_input SET inputs = replace(inputs, 'true', 'false') WHERE workflow_uuid = 'w'";
            assert_eq!(app.execute(sql, []), 1);
        }
        app.clock.advance(HOUR / 2);
        let before = polls.get();
        let engine = app.open();
        register(&engine, &polls, true);
        engine.launch().unwrap();
        let handle = engine.retrieve::<String>("w").unwrap();
        eventually("the step runs again", || polls.get() > before);
        let_win(&app, &engine, winner);
        assert_eq!(handle.result().unwrap(), outcome_of(winner));
        let verdict = "SELECT output FROM operation_outputs WHERE function_name = 'Piton.race'";
        assert_eq!(app.value::<String>(verdict, []), format!("{{\"of\":4,\"winner\":{number}}}"));
    }
}

#[test]
fn a_sleep_in_a_race_has_only_its_rest_left() {
    let (app, polls) = (App::new(), Counter::default());
    let engine = app.open();
    let workflow = register(&engine, &polls, true);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", false).unwrap();
    eventually("all times are recorded", || app.recorded("w").len() >= 3);
    assert_eq!(engine.shutdown(HOUR), []);
    app.clock.advance(HOUR.checked_sub(Duration::from_secs(1)).unwrap());
    let engine = app.open();
    register(&engine, &polls, true);
    engine.launch().unwrap();
    let handle = engine.retrieve::<String>("w").unwrap();
    app.clock.advance(Duration::from_secs(1));
    assert_eq!(handle.result().unwrap(), "sleep");
}

/// Without memory: the marks of all three stand in its row, and each of them wakes it.
#[test]
fn a_race_that_waits_leaves_and_is_woken_by_each_of_its_operations() {
    for winner in &WINNERS[..3] {
        let (app, polls) = (App::new(), Counter::default());
        let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
        let workflow = register(&engine, &polls, false);
        engine.launch().unwrap();
        let handle = workflow.start_as(&engine, "w", false).unwrap();
        eventually("both have left", || ["w", "w-1"].iter().all(|id| app.status(id) == "DELAYED"));
        let_win(&app, &engine, winner);
        assert_eq!(handle.result().unwrap(), outcome_of(winner));
        assert_eq!(app.attempts("w"), 1, "leaving is no crash");
    }
}

/// Their ends are on their way into the database at once.
#[test]
fn of_many_operations_that_end_at_once_one_wins() {
    const MANY: u32 = 12;
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("many", |ctx: &mut Context, (): ()| {
        let steps = (0..MANY)
            .map(|number| Operation::step(format!("step {number}"), move |_| Ok::<_, Error>(number)));
        let first = ctx.race(steps)?;
        ctx.step("after", |_| Ok::<_, Error>(first))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for round in 0..20 {
        let id = format!("w{round}");
        let first = workflow.start_as(&engine, &id, ()).unwrap().result().unwrap();
        let expected = ["Piton.race".to_owned(), format!("step {first}"), "after".to_owned()];
        assert_eq!(app.recorded(&id), expected);
    }
}

/// It arrives while the verdict of another operation is on its way.
#[test]
fn a_message_that_comes_too_late_for_a_race_is_there_for_the_next_receive() {
    let app = App::new();
    let sent = Arc::new(Mutex::new(None::<Box<dyn FnOnce() + Send>>));
    let to_send = sent.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let decides = point.moment == Moment::Before && point.kinds.contains(&"decide");
        if let Some(now) = decides.then(|| to_send.lock().unwrap().take()).flatten() {
            now();
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let workflow = engine.register("late", |ctx: &mut Context, (): ()| {
        let first =
            ctx.race([Operation::sleep(HOUR).map(|()| None), Operation::recv::<u32>("late", 2 * HOUR)])?;
        Ok::<_, Error>((first, ctx.recv::<u32>("late", Duration::ZERO)?))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("it waits", || app.recorded("w").len() == 2);
    let url = app.url();
    let other = app.options().open(&url).unwrap();
    *sent.lock().unwrap() = Some(Box::new(move || {
        other.send(&id("w"), "late", 7).unwrap();
        drop(other);
    }));
    app.clock.advance(HOUR);
    let (first, later) = handle.result().unwrap();
    assert_eq!([first, later].into_iter().flatten().collect::<Vec<_>>(), [7], "received once");
}

#[test]
fn an_operation_that_fails_wins_like_any_other() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("fails", |ctx: &mut Context, (): ()| {
        let first =
            ctx.race([Operation::sleep(HOUR), Operation::step("no", |_| Err::<(), _>("it cannot be"))]);
        let said = first.unwrap_err().to_string();
        ctx.step("after", |_| Ok::<_, Error>(said))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let said = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    assert!(said.contains("it cannot be"), "{said}");
    assert_eq!(app.recorded("w"), ["Piton.race", "DBOS.sleep", "no", "after"]);
}

#[test]
fn a_changed_number_of_operations_is_noticed() {
    let app = App::new();
    let register = |engine: &Engine, many: u64| {
        let race = move |ctx: &mut Context, (): ()| {
            let sleeps = (0..many).map(|hours| Operation::sleep(Duration::from_secs(3600 * hours)));
            ctx.race(sleeps)?;
            ctx.step("after", |_| Ok::<_, Error>(()))
        };
        engine.register("race", race).unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine, 3);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 4);
    let engine = app.open();
    register(&engine, 2);
    engine.launch().unwrap();
    let error = engine.retrieve::<()>("w").unwrap().result().unwrap_err().to_string();
    let (before, now) = ("`a race of 3 operations`", "`a race of 2 operations`");
    assert!(error.contains(before) && error.contains(now), "{error}");
}

/// As written by hand.
#[test]
fn a_verdict_for_an_operation_that_is_not_there_does_not_fit() {
    let app = App::new();
    let register = |engine: &Engine| {
        let race = |ctx: &mut Context, (): ()| {
            ctx.race([Operation::sleep(Duration::ZERO), Operation::sleep(HOUR)])?;
            ctx.step("after", |_| Ok::<_, Error>(()))
        };
        engine.register("race", race).unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 2);
    let sql =
        r#"UPDATE operation_outputs SET output = '{"of":2,"winner":2}' WHERE function_name = 'Piton.race'"#;
    assert_eq!(app.execute(sql, []), 1);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    let error = engine.retrieve::<()>("w").unwrap().result().unwrap_err().to_string();
    assert!(error.contains("`a race of 2 operations`") && !error.contains("panic"), "{error}");
}

/// It fails at once, while another one is on its way to its end.
#[test]
fn an_operation_that_cannot_begin_wins_in_each_run_or_in_none() {
    let app = App::new();
    let register = |engine: &Engine| {
        let race = |ctx: &mut Context, (): ()| {
            let step = Operation::step("step", |step| {
                // The body of an async step runs before the other one is looked at.
                while IS_PLAIN && !step.cancelled() {
                    std::thread::yield_now();
                }
                Ok::<_, Error>("the step".to_owned())
            });
            let message = Operation::recv("\0", HOUR).map(Option::unwrap_or_default);
            let first = ctx.race([step, message]).unwrap_or_else(|error| error.to_string());
            ctx.step("after", |_| Ok::<_, Error>(first))
        };
        engine.register("race", race).unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    let first = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 2);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<String>("w").unwrap().result().unwrap(), first);
}

#[test]
fn a_verdict_is_told_once() {
    #[derive(Default)]
    struct Verdicts(Counter);
    impl Observer for Verdicts {
        fn observe(&self, event: &Event<'_>) {
            if let Event::StepRecorded { name: "Piton.race", .. } = event {
                self.0.count();
            }
        }
    }
    for zero in [true, false] {
        let (app, verdicts) = (App::new(), Arc::<Verdicts>::default());
        let engine = app.open_with(app.options().observer(verdicts.clone()));
        let workflow = engine.register("race", move |ctx: &mut Context, (): ()| {
            let first = if zero {
                Operation::sleep(Duration::ZERO)
            } else {
                Operation::step("step", |_| engine::ok(()))
            };
            ctx.race([first, Operation::sleep(HOUR)])
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        workflow.start(&engine, ()).unwrap().result().unwrap();
        assert_eq!(verdicts.0.get(), 1);
    }
}

#[test]
fn a_race_that_cannot_begin_is_an_error() {
    let app = App::new();
    let engine = app.open();
    let empty =
        engine.register("empty", |ctx: &mut Context, (): ()| ctx.race(Vec::<Operation<'_, ()>>::new()));
    let invalid = engine.register("invalid", |ctx: &mut Context, (): ()| {
        let message = Operation::recv("\0", HOUR).map(|_: Option<()>| ());
        ctx.race([Operation::sleep(HOUR), message])
    });
    let (empty, invalid) = (empty.unwrap(), invalid.unwrap());
    engine.launch().unwrap();
    let error = empty.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("without an operation it would never end"), "{error}");
    let error = invalid.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("topic"), "{error}");
}

#[test]
fn a_race_that_is_cancelled_or_shut_down_ends() {
    let (app, polls) = (App::new(), Counter::default());
    let engine = app.open();
    let workflow = register(&engine, &polls, true);
    engine.launch().unwrap();
    let cancelled = workflow.start_as(&engine, "c", false).unwrap();
    workflow.start_as(&engine, "w", false).unwrap();
    eventually("both races are on", || ["c", "w"].iter().all(|id| app.recorded(id).len() >= 3));
    engine.cancel(cancelled.id()).unwrap();
    assert!(matches!(cancelled.result(), Err(Error::WorkflowCancelled { .. })));
    assert_eq!(engine.shutdown(HOUR), []);
    assert_eq!(app.status("w"), "ENQUEUED");
}

/// A race of two children, one of which is cancelled if it loses, and of a message.
fn register_children(engine: &Engine) -> Workflow<(), String> {
    let child = engine.register("child", |ctx: &mut Context, (): ()| {
        ctx.recv::<bool>("end", 100 * HOUR)?;
        Ok::<_, Error>(7)
    });
    let parent = engine.register("parent", {
        let child = child.unwrap();
        move |ctx: &mut Context, (): ()| {
            let below = ctx.start(&child, ())?;
            below.result(ctx)
        }
    });
    let parent = parent.unwrap();
    let workflow = engine.register("race", move |ctx: &mut Context, (): ()| {
        let (kept, cancelled) = (ctx.start(&parent, ())?, ctx.start(&parent, ())?);
        let first = ctx.race([
            Operation::result(&kept).map(|seven: u32| format!("kept {seven}")),
            Operation::result_or_cancel(&cancelled).map(|seven| format!("cancelled {seven}")),
            Operation::recv("word", 100 * HOUR).map(|word: Option<String>| format!("message {word:?}")),
        ])?;
        ctx.step("after", |_| Ok::<_, Error>(first))
    });
    workflow.unwrap()
}

#[test]
fn a_child_that_loses_is_cancelled_with_all_below_it_if_the_race_says_so() {
    let app = App::new();
    let engine = app.open();
    let workflow = register_children(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("all wait", || app.recorded("w-1-1").len() + app.recorded("w-2-1").len() == 2);
    engine.send(&id("w"), "word", "now".to_owned()).unwrap();
    assert_eq!(handle.result().unwrap(), "message Some(\"now\")");
    for cancelled in ["w-2", "w-2-1"] {
        assert_eq!(app.status(cancelled), "CANCELLED", "{cancelled}");
    }
    let own = ["parent", "parent", "Piton.race", "DBOS.cancelWorkflow", "DBOS.recv", "DBOS.sleep", "after"];
    assert_eq!(app.recorded("w"), own);
    engine.send(&id("w-1-1"), "end", true).unwrap();
    assert_eq!(engine.retrieve::<u32>("w-1").unwrap().result().unwrap(), 7, "a child that loses runs on");

    let handle = workflow.start_as(&engine, "v", ()).unwrap();
    eventually("all wait", || app.recorded("v-1-1").len() + app.recorded("v-2-1").len() == 2);
    engine.send(&id("v-2-1"), "end", true).unwrap();
    assert_eq!(handle.result().unwrap(), "cancelled 7");
    assert_eq!(app.status("v-2"), "SUCCESS", "a child that wins is not cancelled");
    assert!(!app.recorded("v").contains(&"DBOS.cancelWorkflow".to_owned()));
}

/// The run that decided ends before the cancel. A later run goes by the verdict, and cancels.
#[test]
fn a_child_that_lost_is_cancelled_after_a_crash_as_well() {
    let app = App::new();
    let may_cancel = Arc::new(AtomicBool::new(false));
    let allowed = may_cancel.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let cancels = point.moment == Moment::Before && point.kinds.contains(&"cancel_child");
        if cancels && !allowed.load(Ordering::SeqCst) { Fate::FailForGood } else { Fate::Go }
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let workflow = register_children(&engine);
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    eventually("all wait", || app.recorded("w-1-1").len() + app.recorded("w-2-1").len() == 2);
    engine.send(&id("w"), "word", "now".to_owned()).unwrap();
    eventually("two runs were refused the cancel", || {
        app.clock.advance(Duration::from_secs(1));
        app.attempts("w") > 2
    });
    assert_ne!(app.status("w-2"), "CANCELLED");
    may_cancel.store(true, Ordering::SeqCst);
    eventually("the child is cancelled", || {
        app.clock.advance(Duration::from_secs(1));
        app.status("w-2-1") == "CANCELLED"
    });
    assert_eq!(handle.result().unwrap(), "message Some(\"now\")");
}

/// The change of the winner's value is made by the workflow itself, after all else.
#[test]
fn a_child_that_lost_is_cancelled_although_the_winner_panics() {
    let app = App::new();
    let engine = app.open();
    let child = engine.register("child", |ctx: &mut Context, (): ()| {
        ctx.recv::<bool>("end", HOUR)?;
        Ok::<_, Error>(7)
    });
    let child = child.unwrap();
    let workflow = engine.register("race", move |ctx: &mut Context, (): ()| {
        let child = ctx.start(&child, ())?;
        ctx.race([
            Operation::step("step", |_| engine::ok(6)).map(|six: u32| {
                assert_eq!(six, 7, "on purpose");
                six
            }),
            Operation::result_or_cancel(&child),
        ])
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("on purpose"), "{error}");
    assert_eq!(app.status("w-1"), "CANCELLED");
}

#[test]
fn a_changed_order_of_children_is_noticed() {
    let app = App::new();
    let register = |engine: &Engine, or_cancel: bool, swapped: bool| {
        let child = engine.register("child", |_: &mut Context, number: u32| Ok::<_, Error>(number));
        let child = child.unwrap();
        let race = move |ctx: &mut Context, (): ()| {
            let mut children = [ctx.start(&child, 1)?, ctx.start(&child, 2)?];
            if swapped {
                children.reverse();
            }
            let [first, second] = children;
            let mut operations = vec![Operation::result(&first)];
            if or_cancel {
                operations = vec![Operation::sleep(Duration::ZERO).map(|()| 0)];
                operations.push(Operation::result_or_cancel(&second));
            }
            let winner = ctx.race(operations)?;
            ctx.step("after", |_| Ok::<_, Error>(winner))
        };
        engine.register("race", race).unwrap()
    };
    for or_cancel in [false, true] {
        let id = format!("w-{or_cancel}");
        let engine = app.open();
        let workflow = register(&engine, or_cancel, false);
        engine.launch().unwrap();
        workflow.start_as(&engine, &id, ()).unwrap().result().unwrap();
        drop(engine);
        app.interrupt(&id, if or_cancel { 5 } else { 4 });
        let engine = app.open();
        register(&engine, or_cancel, true);
        engine.launch().unwrap();
        let error = engine.retrieve::<u32>(&id).unwrap().result().unwrap_err().to_string();
        let expected = [format!("`workflow {id}-2`"), format!("`workflow {id}-1`")];
        assert!(expected.iter().all(|words| error.contains(words)), "{error}");
        drop(engine);
    }
}

/// The wait of one operation ends while a suspension with all waits is on its way: nothing follows from that end until
/// the suspension is made or refused.
#[test]
fn an_operation_whose_wait_is_over_waits_for_the_suspension_on_its_way() {
    let app = App::new();
    let (held, committed) = (Latch::default(), Arc::new(Mutex::new(Vec::new())));
    let (holding, kinds) = (held.clone(), committed.clone());
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::Before && point.kinds.contains(&"suspend") {
            holding.hold();
        }
        if point.moment == Moment::Before {
            kinds.lock().unwrap().extend(point.kinds.iter().map(ToString::to_string));
        }
        Fate::Go
    });
    let engine = app.open_with(app.options().commit_hook(hook).suspend_after(Duration::ZERO));
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        ctx.race([
            Operation::sleep(Duration::from_secs(2)).map(|()| "sleep".to_owned()),
            Operation::recv("word", HOUR).map(|word: Option<String>| format!("message {word:?}")),
        ])
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    held.wait_for(1);
    app.clock.advance(Duration::from_secs(2));
    watch::give_time("the sleep decides", || false);
    held.open();
    assert_eq!(handle.result().unwrap(), "sleep");
    let kinds = committed.lock().unwrap();
    let after = kinds.iter().skip_while(|kind| *kind != "suspend").take_while(|kind| *kind != "claim");
    assert!(!after.into_iter().any(|kind| kind == "decide"), "the run that left decides nothing: {kinds:?}");
}

#[test]
fn a_child_that_has_ended_or_was_deleted_loses_without_a_cancel() {
    let app = App::new();
    let engine = app.open();
    let workflow = register_children(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    eventually("all wait", || app.recorded("w-1-1").len() + app.recorded("w-2-1").len() == 2);
    engine.send(&id("w"), "word", "now".to_owned()).unwrap();
    engine.retrieve::<String>("w").unwrap().result().unwrap();
    drop(engine);
    // As after a crash before the record of the cancel, while the child ends or is deleted.
    for deleted in [false, true] {
        app.interrupt("w", 8);
        app.forget_steps("w", &[6]);
        if deleted {
            assert_eq!(app.execute("DELETE FROM workflow_status WHERE workflow_uuid = 'w-2'", []), 1);
        }
        let engine = app.open();
        register_children(&engine);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<String>("w").unwrap().result().unwrap(), "message Some(\"now\")");
        assert!(app.recorded("w").contains(&"DBOS.cancelWorkflow".to_owned()));
    }
}
