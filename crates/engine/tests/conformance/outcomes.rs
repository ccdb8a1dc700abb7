//! What a workflow ended with is told by its status, and an error is a text with a name: no name of a user's error makes the
//! engine say or do anything.

use std::time::Duration;

use engine::{Error, Failure, StepOptions, Workflow, WorkflowId, WorkflowStatus};

use crate::support::{App, Counter, Latch, Result, eventually, levels};
use crate::way::{Context, Engine};

/// The names under which the engine records failures of its own.
const NAMES: [&str; 12] = [
    "DBOSAwaitedWorkflowCancelledError",
    "DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded",
    "DBOSMaxStepRetriesExceeded",
    "DBOSNonExistentWorkflowError",
    "IdInUse",
    "MaxRecoveryAttemptsExceeded",
    "PitonCircularWait",
    "PitonNonDeterminism",
    "PitonPanic",
    "PitonUndecodable",
    "PitonWorkflowNotFound",
    "PitonWorkflowNotRegistered",
];

fn id(text: &str) -> WorkflowId {
    WorkflowId::new(text).unwrap()
}

/// A workflow that hands on whatever ends the one that it waits for.
fn hands_on(
    engine: &Engine,
    name: &str,
    awaited: &Workflow<(), u32>,
    awaited_id: &'static str,
) -> Workflow<(), u32> {
    let awaited = awaited.clone();
    let workflow = engine.register(name, move |ctx: &mut Context, (): ()| -> Result<u32> {
        ctx.start_as(&awaited, awaited_id, ())?.result(ctx)
    });
    workflow.unwrap()
}

/// C awaits G, B awaits C.
fn line_of_three(engine: &Engine, g: &Workflow<(), u32>) -> Workflow<(), u32> {
    let c = hands_on(engine, "c", g, "G");
    hands_on(engine, "b", &c, "C")
}

fn assert_failed_with(error: &Error, who: &str, name: &str, cause: &str) {
    let Error::WorkflowFailed { workflow, failure } = error else { panic!("{error:?}") };
    assert_eq!((workflow.as_str(), failure.name()), (who, name), "{error}");
    assert!(failure.message().contains(cause), "{error}");
}

#[test]
fn who_hands_on_that_another_was_cancelled_has_failed_and_was_not_cancelled() {
    let (app, latch) = (App::new(), Latch::default());
    let engine = app.open();
    let held = latch.clone();
    let g = engine.register("g", move |ctx: &mut Context, (): ()| {
        ctx.step("s", |_| {
            held.hold();
            Ok::<_, Error>(1)
        })
    });
    let b = line_of_three(&engine, &g.unwrap());
    engine.launch().unwrap();
    let b = b.start_as(&engine, "B", ()).unwrap();
    latch.wait_for(1);
    engine.cancel(&id("G")).unwrap();
    latch.open();
    let name = "DBOSAwaitedWorkflowCancelledError";
    assert_failed_with(&b.result().unwrap_err(), "B", name, "workflow G was cancelled");
    let c = engine.retrieve::<u32>("C").unwrap();
    assert_eq!(c.status().unwrap(), WorkflowStatus::Error);
    assert_failed_with(&c.result().unwrap_err(), "C", name, "workflow G was cancelled");
    let g = engine.retrieve::<u32>("G").unwrap().result();
    assert!(matches!(g, Err(Error::WorkflowCancelled { workflow }) if workflow == id("G")));

    // The same in another process, from what is recorded.
    drop(engine);
    let other = app.open();
    let c = other.retrieve::<u32>("C").unwrap().result().unwrap_err();
    assert_failed_with(&c, "C", name, "workflow G was cancelled");
    for who in ["B", "C"] {
        assert!(matches!(other.resume(&id(who)), Err(Error::Final { .. })));
    }
}

#[test]
fn who_hands_on_that_another_is_parked_is_not_parked() {
    let app = App::new();
    let engine = app.open();
    let g = engine.register("g", |_: &mut Context, (): ()| Ok::<_, Error>(1)).unwrap();
    let b = line_of_three(&engine, &g);
    engine.launch().unwrap();
    g.start_as(&engine, "G", ()).unwrap().result().unwrap();
    app.execute(
        "UPDATE workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' WHERE workflow_uuid = 'G'",
        [],
    );
    app.execute(
        "UPDATE workflow_output SET output = NULL, error = '{\"name\":\"MaxRecoveryAttemptsExceeded\",\"message\":\"of old\"}'
          WHERE workflow_uuid = 'G'",
        [],
    );
    let error = b.start_as(&engine, "B", ()).unwrap().result().unwrap_err();
    assert_failed_with(&error, "B", "DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded", "workflow G is parked");
    let g = engine.retrieve::<u32>("G").unwrap().result().unwrap_err();
    assert!(matches!(g, Error::RecoveryAttemptsExceeded { .. }), "{g:?}");
}

/// Also for the parent of the parent, in the first run and in a replay, and for resume.
#[test]
fn an_error_of_a_user_may_have_any_name() {
    for name in NAMES {
        let (app, bodies) = (App::new(), Counter::default());
        let register = |engine: &Engine| {
            let counted = bodies.clone();
            let g = engine.register("g", move |_: &mut Context, (): ()| {
                counted.count();
                Err::<u32, _>(
                    Failure::new(name, "no luck").with_data(serde_json::json!({ "count": 0, "alike": [] })),
                )
            });
            line_of_three(engine, &g.unwrap())
        };
        let engine = app.open();
        let b = register(&engine);
        engine.launch().unwrap();
        let first = b.start_as(&engine, "B", ()).unwrap().result().unwrap_err();
        assert_failed_with(&first, "B", name, "workflow G failed");
        for who in ["C", "G"] {
            let error = engine.retrieve::<u32>(who).unwrap().result().unwrap_err();
            assert_failed_with(&error, who, name, "no luck");
            assert_eq!(app.status(who), "ERROR");
        }
        for who in ["B", "C", "G"] {
            let refused = engine.resume(&id(who)).unwrap_err();
            assert!(matches!(refused, Error::Final { .. }), "{name} {who}: {refused:?}");
        }
        drop(engine);
        app.interrupt("B", 2);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        let replayed = engine.retrieve::<u32>("B").unwrap().result().unwrap_err();
        assert_eq!(replayed.to_string(), first.to_string());
        assert!(["C", "G"].iter().all(|who| app.status(who) == "ERROR"), "{name}: nothing is revived");
        assert_eq!(bodies.get(), 1, "{name}");
    }
}

#[test]
fn a_steps_error_of_any_name_is_the_steps_error() {
    for name in NAMES {
        let app = App::new();
        let engine = app.open();
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<bool> {
            let failure =
                || Failure::new(name, "no luck").with_data(serde_json::json!({ "count": 0, "alike": [] }));
            let once = ctx.step("once", |_| Err::<(), _>(failure())).unwrap_err();
            let options = StepOptions::retries().attempts_max(1);
            let retried = ctx.step_with("retried", &options, |_| Err::<(), _>(failure())).unwrap_err();
            Ok([once, retried]
                .iter()
                .all(|error| matches!(error, Error::StepFailed { failure, .. } if failure.name() == name)))
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        assert!(workflow.start_as(&engine, "w", ()).unwrap().result().unwrap(), "{name}");
    }
}

/// Rows that an earlier version of this engine wrote have no marks.
#[test]
fn an_error_about_the_program_that_was_recorded_before_is_still_resumable() {
    let app = App::new();
    let engine = app.open();
    let w = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    engine.launch().unwrap();
    let handle = w.start_as(&engine, "w", ()).unwrap();
    handle.result().unwrap();
    app.execute("UPDATE workflow_status SET status = 'ERROR' WHERE workflow_uuid = 'w'", []);
    let error = r#"{"name":"PitonNonDeterminism","message":"of old","code":null}"#;
    app.execute("UPDATE workflow_output SET output = NULL, error = ?1 WHERE workflow_uuid = 'w'", [error]);
    assert_eq!(engine.resume(&id("w")).unwrap(), WorkflowStatus::Enqueued);
    assert_eq!(handle.result().unwrap(), 7);
}

#[test]
fn a_resume_of_a_final_error_says_why_not_and_what_to_do() {
    let app = App::new();
    let engine = app.open();
    let w = engine.register("w", |_: &mut Context, (): ()| Err::<u32, _>("the bank said no")).unwrap();
    engine.launch().unwrap();
    w.start_as(&engine, "w", ()).unwrap().result().unwrap_err();
    let error = engine.resume(&id("w")).unwrap_err().to_string();
    for part in ["workflow w", "final", "the bank said no", "another id"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(app.status("w"), "ERROR");
}

#[test]
fn an_end_for_a_reason_about_the_program_is_a_warning_and_one_of_the_work_is_not() {
    let app = App::new();
    let engine = app.open();
    let other = engine.register("other", |ctx: &mut Context, (): ()| ctx.step("new", |_| Ok::<_, Error>(7)));
    let odd = engine.register("odd", |_: &mut Context, n: u32| Ok::<_, Error>(n)).unwrap();
    let work = engine.register("work", |_: &mut Context, (): ()| Err::<u32, _>("no luck")).unwrap();
    let other = other.unwrap();
    engine.launch().unwrap();
    other.start_as(&engine, "warn-order", ()).unwrap().result().unwrap();
    app.execute("UPDATE operation_outputs SET function_name = 'old' WHERE workflow_uuid = 'warn-order'", []);
    app.interrupt("warn-order", 1);
    let asks_for_another = engine.retrieve::<u32>("warn-order").unwrap();
    eventually("it ended again", || asks_for_another.status().unwrap() == WorkflowStatus::Error);
    odd.start_as(&engine, "warn-odd", 7).unwrap().result().unwrap();
    app.execute("UPDATE workflow_input SET inputs = '\"text\"' WHERE workflow_uuid = 'warn-odd'", []);
    app.interrupt("warn-odd", 0);
    let odd = engine.retrieve::<u32>("warn-odd").unwrap();
    eventually("it ended again", || odd.status().unwrap() == WorkflowStatus::Error);
    work.start_as(&engine, "no-warn-work", ()).unwrap().result().unwrap_err();
    assert_eq!(levels("workflow warn-order (other): ERROR"), [log::Level::Warn]);
    assert_eq!(levels("workflow warn-odd (odd): ERROR"), [log::Level::Warn]);
    assert_eq!(levels("workflow no-warn-work (work): ERROR"), [log::Level::Info]);
    assert_eq!(engine.shutdown(Duration::from_secs(60)), []);
}
