use engine::{Codec, Error, Failure, StepOptions, WorkflowStatus};

use crate::support::{App, Counter, Result};
use crate::way::{Context, Engine};

/// 1: a step runs once; a start under the same id returns what is stored.
#[test]
fn a_recorded_step_never_runs_again() {
    let app = App::new();
    let (engine, bodies) = (app.open(), Counter::default());
    let counted = bodies.clone();
    let workflow = engine.register("add", move |ctx: &mut Context, n: i64| {
        ctx.step("one more", |_| {
            counted.count();
            Ok::<_, Error>(n + 1)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start_as(&engine, "w", 1).unwrap().result().unwrap(), 2);
    let again = workflow.start_as(&engine, "w", 1).unwrap();
    assert!(again.is_attached());
    assert_eq!(again.result().unwrap(), 2);
    assert_eq!((bodies.get(), app.attempts("w")), (1, 1));

    app.interrupt("w", 1);
    drop(engine);
    let engine = app.open();
    let counted = bodies.clone();
    let workflow = engine.register("add", move |ctx: &mut Context, n: i64| {
        ctx.step("one more", |_| {
            counted.count();
            Ok::<_, Error>(n + 1)
        })
    });
    workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<i64>("w").unwrap().result().unwrap(), 2);
    assert_eq!((bodies.get(), app.attempts("w")), (1, 2), "replayed, not run");
}

/// A workflow that passes through all values that may be taken for "nothing".
fn nothings(engine: &Engine, bodies: &Counter) -> engine::Workflow<(), (Option<u8>, String, Vec<u8>)> {
    let bodies = bodies.clone();
    let workflow = engine.register("nothings", move |ctx: &mut Context, (): ()| -> Result<_> {
        let step = |name: &str| {
            bodies.count();
            name.len()
        };
        ctx.step("unit", |_| {
            step("unit");
            Ok::<_, Error>(())
        })?;
        let none: Option<u8> = ctx.step("none", |_| Ok::<_, Error>((step("none") > 99).then_some(1)))?;
        let text = ctx.step("empty text", |_| Ok::<_, Error>(String::with_capacity(step(""))))?;
        let list = ctx.step("empty list", |_| Ok::<_, Error>(Vec::with_capacity(step(""))))?;
        Ok((none, text, list))
    });
    workflow.unwrap()
}

/// 4: a result of None survives a replay.
#[test]
fn a_step_that_returns_nothing_is_recorded_like_any_other() {
    let (app, bodies) = (App::new(), Counter::default());
    let engine = app.open();
    let workflow = nothings(&engine, &bodies);
    engine.launch().unwrap();
    let first = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 4);

    let engine = app.open();
    nothings(&engine, &bodies);
    engine.launch().unwrap();
    let replayed = engine.retrieve::<(Option<u8>, String, Vec<u8>)>("w").unwrap().result().unwrap();
    assert_eq!(first, replayed);
    assert_eq!(bodies.get(), 4);
}

/// 13: recovery replays what is recorded and runs the rest.
#[test]
fn a_step_that_was_not_recorded_runs_again() {
    let (app, bodies) = (App::new(), Counter::default());
    let register = |engine: &Engine| {
        let bodies = bodies.clone();
        let workflow = engine.register("three", move |ctx: &mut Context, (): ()| -> Result<Vec<usize>> {
            (0..3).map(|n| ctx.step(&format!("step {n}"), |_| Ok::<_, Error>(bodies.count()))).collect()
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    assert_eq!(workflow.start_as(&engine, "w", ()).unwrap().result().unwrap(), [0, 1, 2]);
    drop(engine);
    for (recorded, expected) in [(3, [0, 1, 2]), (1, [0, 3, 4]), (0, [5, 6, 7])] {
        app.interrupt("w", recorded);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<Vec<usize>>("w").unwrap().result().unwrap(), expected);
    }
}

/// The first run sees what a replay will see: here a field that is not written down.
#[test]
fn the_live_value_is_the_recorded_value() {
    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    struct Hold {
        id: u32,
        #[serde(skip)]
        secret: u32,
    }
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("hold", |ctx: &mut Context, (): ()| {
        let hold = ctx.step("reserve", |_| Ok::<_, Error>(Hold { id: 7, secret: 9 }))?;
        Ok::<_, Error>((hold.id, hold.secret))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), (7, 0));
}

/// 9: an error is the same live and replayed: name, message, code, data.
#[test]
fn a_failed_step_returns_the_same_error_when_it_is_replayed() {
    let (app, bodies) = (App::new(), Counter::default());
    let register = |engine: &Engine| {
        let bodies = bodies.clone();
        let workflow = engine.register("fails", move |ctx: &mut Context, (): ()| -> Result<String> {
            let error = ctx.step("pay", |_| {
                bodies.count();
                Err::<(), _>(Failure::new("Declined", "no funds").with_code(402).with_data("soft"))
            });
            Ok(format!("{:#?}", error.unwrap_err()))
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    let live = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    assert!(live.contains("Declined") && live.contains("402") && live.contains("soft"), "{live}");
    drop(engine);

    app.interrupt("w", 1);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<String>("w").unwrap().result().unwrap(), live);
    assert_eq!(bodies.get(), 1);
}

/// 11: another name in the place of a recorded step ends the workflow with both names.
#[test]
fn a_changed_order_of_steps_is_told_with_both_names() {
    let app = App::new();
    let engine = app.open();
    let before = engine.register("order", |ctx: &mut Context, (): ()| -> Result<()> {
        ctx.step("reserve", |_| Ok::<_, Error>(()))?;
        ctx.step("charge", |_| Ok::<_, Error>(()))
    });
    let before = before.unwrap();
    engine.launch().unwrap();
    before.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);

    app.interrupt("w", 1);
    let engine = app.open();
    let swapped = engine.register("order", |ctx: &mut Context, (): ()| -> Result<()> {
        // A program that swallows the error cannot hide it.
        let _ = ctx.step("charge", |_| -> Result<()> { panic!("must not run") });
        ctx.step("reserve", |_| -> Result<()> { panic!("must not run") }).or(Ok(()))
    });
    swapped.unwrap();
    engine.launch().unwrap();
    let error = engine.retrieve::<()>("w").unwrap().result().unwrap_err().to_string();
    assert!(error.contains("step 1 is recorded as `reserve`, but the code now asks for `charge`"), "{error}");
    assert_eq!(app.status("w"), "ERROR");
    assert_eq!(app.recorded("w"), ["reserve"], "nothing was written");
}

#[test]
fn a_replay_that_ends_before_its_record_does_is_told() {
    let app = App::new();
    let engine = app.open();
    let long = engine.register("order", |ctx: &mut Context, (): ()| -> Result<()> {
        ctx.step("reserve", |_| Ok::<_, Error>(()))?;
        ctx.step("charge", |_| Ok::<_, Error>(()))
    });
    let long = long.unwrap();
    engine.launch().unwrap();
    long.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);

    app.interrupt("w", 2);
    let engine = app.open();
    let short =
        engine.register("order", |ctx: &mut Context, (): ()| ctx.step("reserve", |_| Ok::<_, Error>(())));
    short.unwrap();
    engine.launch().unwrap();
    let error = engine.retrieve::<()>("w").unwrap().result().unwrap_err().to_string();
    assert!(error.contains("step 2 is recorded as `charge`, but the code now asks for `the end"), "{error}");
}

/// A workflow that ended because the program did not fit it goes on with the program that does.
#[test]
fn the_right_program_resumes_what_the_wrong_one_ended() {
    let app = App::new();
    let register = |engine: &Engine, first: &'static str| {
        let workflow = engine.register("order", move |ctx: &mut Context, (): ()| -> Result<String> {
            ctx.step(first, |_| Ok::<_, Error>(()))?;
            Ok("done".to_owned())
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine, "reserve");
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 1);

    let engine = app.open();
    register(&engine, "charge");
    engine.launch().unwrap();
    engine.retrieve::<String>("w").unwrap().result().unwrap_err();
    drop(engine);

    let engine = app.open();
    register(&engine, "reserve");
    engine.launch().unwrap();
    let handle = engine.retrieve::<String>("w").unwrap();
    assert_eq!(engine.resume(handle.id()).unwrap(), WorkflowStatus::Enqueued);
    assert_eq!(handle.result().unwrap(), "done");
}

#[test]
fn step_names_are_checked_like_ids() {
    let app = App::new();
    let engine = app.open();
    let workflow =
        engine.register("names", |ctx: &mut Context, name: String| ctx.step(&name, |_| Ok::<_, Error>(())));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for name in [String::new(), "x".repeat(256), "a\0b".to_owned()] {
        let error = workflow.start(&engine, name).unwrap().result().unwrap_err().to_string();
        assert!(error.contains("step name"), "{error}");
    }
    for name in ["'; DROP TABLE workflow_status; --", "%_\\", "\u{1F9D7}", &"x".repeat(255)] {
        workflow.start(&engine, name.to_owned()).unwrap().result().unwrap();
    }
}

#[test]
fn a_large_output_may_be_recorded_as_bincode() {
    let (app, bodies) = (App::new(), Counter::default());
    let register = |engine: &Engine| {
        let bodies = bodies.clone();
        let workflow = engine.register("page", move |ctx: &mut Context, (): ()| -> Result<usize> {
            let options = StepOptions::new().codec(Codec::Bincode);
            let page: Vec<(u64, String)> = ctx.step_with("page", &options, |_| {
                bodies.count();
                Ok::<_, Error>((0..100).map(|n| (n, "x".repeat(10))).collect())
            })?;
            Ok(page.len())
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    assert_eq!(workflow.start_as(&engine, "w", ()).unwrap().result().unwrap(), 100);
    let codec: String =
        app.value("SELECT serialization FROM operation_outputs WHERE workflow_uuid = 'w'", []);
    assert_eq!(codec, "rs_bincode");
    drop(engine);

    app.interrupt("w", 1);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<usize>("w").unwrap().result().unwrap(), 100);
    assert_eq!(bodies.get(), 1);
}

#[test]
fn a_type_that_bincode_cannot_read_back_is_refused_before_its_step_runs() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("value", |ctx: &mut Context, (): ()| {
        let options = StepOptions::new().codec(Codec::Bincode);
        ctx.step_with("value", &options, |_| -> Result<Untagged> { panic!("must not run") }).map(drop)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("untagged"), "{error}");
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u8),
    Text(String),
}
