use std::sync::Arc;
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Error, Workflow, WorkflowFilter, WorkflowOptions, WorkflowStatus};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

fn one_step(engine: &Engine, name: &str, options: WorkflowOptions) -> Workflow<u32, u32> {
    let workflow = engine
        .register_with(name, options, |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n + 1)));
    workflow.unwrap()
}

/// A finished run to interrupt.
fn finished(app: &App, name: &str, id: &str) {
    let engine = app.open();
    let workflow = one_step(&engine, name, WorkflowOptions::new());
    engine.launch().unwrap();
    workflow.start_as(&engine, id, 1).unwrap().result().unwrap();
}

/// 14: what died is taken up by any live executor, and by one of them.
#[test]
fn one_of_many_executors_takes_up_what_a_dead_one_left() {
    let app = App::new();
    (0..20).for_each(|n| finished(&app, "w", &format!("w{n}")));
    (0..20).for_each(|n| app.interrupt(&format!("w{n}"), 0));
    let engines: Vec<_> = (0..4).map(|_| app.open()).collect();
    for engine in &engines {
        one_step(engine, "w", WorkflowOptions::new());
    }
    std::thread::scope(|scope| {
        for engine in &engines {
            scope.spawn(|| engine.launch().unwrap());
        }
    });
    for n in 0..20 {
        assert_eq!(engines[0].retrieve::<u32>(&format!("w{n}")).unwrap().result().unwrap(), 2);
        assert_eq!(app.attempts(&format!("w{n}")), 2);
    }
}

/// 15: another version's, another application's and another engine's rows are left alone.
#[test]
fn rows_of_other_versions_applications_and_engines_are_left_alone() {
    let app = App::new();
    let ids = ["mine", "version", "application", "python"];
    for id in ids {
        finished(&app, "w", id);
    }
    for id in ids {
        app.interrupt(id, 0);
    }
    app.execute("UPDATE workflow_status SET executor_id = 'local' WHERE workflow_uuid = 'python'", []);
    app.execute("UPDATE workflow_status SET application_version = '2' WHERE workflow_uuid = 'version'", []);
    app.execute(
        "UPDATE workflow_status SET application_name = 'other' WHERE workflow_uuid = 'application'",
        [],
    );
    let engine = app.open();
    one_step(&engine, "w", WorkflowOptions::new());
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<u32>("mine").unwrap().result().unwrap(), 2);
    assert_eq!(app.status("version"), "ENQUEUED", "waits for an executor of its version");
    assert_eq!(app.status("application"), "ENQUEUED");
    assert_eq!(app.status("python"), "PENDING", "whether its executor lives is not ours to judge");
    assert_eq!([app.attempts("version"), app.attempts("application"), app.attempts("python")], [1, 1, 1]);

    let newer = app.open_with(app.options().version("2"));
    one_step(&newer, "w", WorkflowOptions::new());
    newer.launch().unwrap();
    assert_eq!(newer.retrieve::<u32>("version").unwrap().result().unwrap(), 2);
}

/// A row without a version or an application may be taken by anyone.
#[test]
fn a_row_that_belongs_to_nobody_is_taken_by_anyone() {
    let app = App::new();
    finished(&app, "w", "free");
    app.interrupt("free", 0);
    app.execute("UPDATE workflow_status SET application_version = NULL, application_name = NULL", []);
    let engine = app.open();
    one_step(&engine, "w", WorkflowOptions::new());
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<u32>("free").unwrap().result().unwrap(), 2);
    assert_eq!(app.value::<String>("SELECT application_name FROM workflow_status", []), "test");
}

/// 20: a rebuilt program has the same version and goes on; the version is known to clients.
#[test]
fn the_version_is_a_constant_that_clients_can_see() {
    let app = App::new();
    finished(&app, "w", "w");
    finished(&app, "w", "v");
    let versions = "SELECT version_name || ' of ' || application_name FROM application_versions";
    assert_eq!(app.value::<String>(versions, []), "1 of test");
}

/// 17: one run and as many recoveries as allowed; one more and it is parked, and resume brings it back.
#[test]
fn a_workflow_that_keeps_killing_its_executor_is_parked() {
    let app = App::new();
    finished(&app, "w", "w");
    let options = WorkflowOptions::new().recovery_attempts_max(2);
    for attempt in 2..=3 {
        app.interrupt("w", 0);
        let engine = app.open();
        one_step(&engine, "w", options);
        engine.launch().unwrap();
        engine.retrieve::<u32>("w").unwrap().result().unwrap();
        assert_eq!(app.attempts("w"), attempt);
    }
    app.interrupt("w", 0);
    let engine = app.open();
    one_step(&engine, "w", options);
    engine.launch().unwrap();
    let handle = engine.retrieve::<u32>("w").unwrap();
    let error = handle.result().unwrap_err();
    assert!(matches!(error, Error::RecoveryAttemptsExceeded { .. }), "{error:?}");
    assert!(error.to_string().contains("taken up 3 times"), "{error}");
    assert_eq!((app.status("w").as_str(), app.attempts("w")), ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", 4));
    assert!(app.recorded("w").is_empty(), "it did not run");

    assert_eq!(engine.resume(handle.id()).unwrap(), WorkflowStatus::Enqueued);
    assert_eq!(handle.result().unwrap(), 2);
    assert_eq!(app.attempts("w"), 1, "counted anew");
}

/// 17: without a limit it goes on for ever.
#[test]
fn a_workflow_without_a_limit_is_never_parked() {
    let app = App::new();
    finished(&app, "w", "w");
    app.interrupt("w", 0);
    app.execute("UPDATE workflow_status SET recovery_attempts = 100000", []);
    let engine = app.open();
    one_step(&engine, "w", WorkflowOptions::new().recovery_attempts_unlimited());
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<u32>("w").unwrap().result().unwrap(), 2);
}

/// The attempt is counted before anything of the row is decoded: a poisoned input ends, it does not loop.
#[test]
fn an_input_that_cannot_be_decoded_ends_the_workflow_with_the_reason() {
    for (text, serialization) in [
        ("garbage", "portable_json"),
        (r#"{"positionalArgs":["x"]}"#, "portable_json"),
        ("gASVEQAAAAAAAAB9lCiMAWGUSwF1Lg==", "py_pickle"),
    ] {
        let app = App::new();
        finished(&app, "w", "w");
        app.interrupt("w", 0);
        app.execute("UPDATE workflow_input SET inputs = ?1", [text]);
        app.execute("UPDATE workflow_status SET serialization = ?1", [serialization]);
        let engine = app.open();
        one_step(&engine, "w", WorkflowOptions::new());
        engine.launch().unwrap();
        let error = engine.retrieve::<u32>("w").unwrap().result().unwrap_err().to_string();
        assert!(error.contains("input of workflow w cannot be decoded"), "{error}");
        assert_eq!((app.status("w").as_str(), app.attempts("w")), ("ERROR", 2));
        assert_eq!(app.value::<String>("SELECT inputs FROM workflow_input", []), text, "left as it is");
    }
}

#[test]
fn a_recorded_output_that_cannot_be_decoded_ends_the_workflow_with_the_reason() {
    let app = App::new();
    finished(&app, "w", "w");
    app.interrupt("w", 1);
    app.execute("UPDATE operation_outputs SET output = '\"text\"'", []);
    let engine = app.open();
    one_step(&engine, "w", WorkflowOptions::new());
    engine.launch().unwrap();
    let error = engine.retrieve::<u32>("w").unwrap().result().unwrap_err().to_string();
    assert!(
        error.contains("recorded output of step 1 (s) cannot be decoded: invalid type: string"),
        "{error}"
    );
    assert_eq!(app.value::<String>("SELECT output FROM operation_outputs", []), "\"text\"", "left as it is");
}

/// A name that no living program knows is told as such, and the program that knows it goes on.
#[test]
fn an_unknown_workflow_name_ends_with_a_reason_until_a_program_knows_it() {
    let app = App::new();
    finished(&app, "renamed", "w");
    app.interrupt("w", 0);
    let engine = app.open();
    one_step(&engine, "new name", WorkflowOptions::new());
    engine.launch().unwrap();
    eventually("taken from the dead one", || app.status("w") == "ENQUEUED");
    // The program that knows it may just be starting again.
    app.clock.advance(Duration::from_secs(29));
    let swept = std::time::Instant::now();
    eventually("sweeps have passed", || swept.elapsed().as_millis() > 600);
    assert_eq!(app.status("w"), "ENQUEUED");
    app.clock.advance(Duration::from_secs(1));
    let error = engine.retrieve::<u32>("w").unwrap().result().unwrap_err().to_string();
    assert!(error.contains("no running program of application test registers this workflow"), "{error}");
    assert!(error.contains("registered workflows: new name"), "{error}");
    assert_eq!(app.status("w"), "ERROR");
    drop(engine);

    let engine = app.open();
    one_step(&engine, "renamed", WorkflowOptions::new());
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<u32>("w").unwrap().result().unwrap(), 2);
}

#[test]
fn a_name_that_another_living_executor_knows_is_left_to_it() {
    let app = App::new();
    finished(&app, "theirs", "w");
    let theirs = app.open_with(app.options().workers_max(1).tasks_max(1));
    let latch = crate::support::Latch::default();
    let held = latch.clone();
    let busy = theirs.register("busy", move |_: &mut Context, (): ()| -> Result<()> {
        held.hold();
        Ok(())
    });
    let busy = busy.unwrap();
    one_step(&theirs, "theirs", WorkflowOptions::new());
    theirs.launch().unwrap();
    let holding = busy.start(&theirs, ()).unwrap();
    latch.wait_for(1);
    app.interrupt("w", 0);

    let mine = app.open();
    one_step(&mine, "mine", WorkflowOptions::new());
    mine.launch().unwrap();
    eventually("taken from the dead one", || app.status("w") == "ENQUEUED");
    app.clock.advance(Duration::from_secs(60));
    // Long enough for several sweeps of both.
    let swept = std::time::Instant::now();
    eventually("sweeps have passed", || swept.elapsed().as_millis() > 1_000);
    assert_eq!(app.status("w"), "ENQUEUED", "the one who knows it is busy");
    latch.open();
    holding.result().unwrap();
    assert_eq!(theirs.retrieve::<u32>("w").unwrap().result().unwrap(), 2);
}

/// The rows of dead executors without a trace, as in a restored backup.
#[test]
fn a_restored_database_without_traces_of_executors_goes_on() {
    let app = App::new();
    finished(&app, "w", "w");
    app.interrupt_without_trace("piton-from-another-machine", "w", 0);
    let engine = app.open();
    one_step(&engine, "w", WorkflowOptions::new());
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<u32>("w").unwrap().result().unwrap(), 2);
}

/// A past of several pages, and one beyond what a claim reads for all.
#[test]
fn a_long_past_is_replayed_whole() {
    let (app, bodies) = (App::new(), Counter::default());
    let register = |engine: &Engine| {
        let bodies = bodies.clone();
        let workflow = engine.register("long", move |ctx: &mut Context, steps: u32| -> Result<u64> {
            (0..steps).try_fold(0, |sum, n| {
                Ok(sum
                    + ctx.step("s", |_| {
                        bodies.count();
                        Ok::<_, Error>(u64::from(n))
                    })?)
            })
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", 3).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 0);
    let steps = 25_000_u32;
    app.execute(
        "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ?1)
         INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, output, serialization)
         SELECT 'w', id, 's', CAST(id - 1 AS TEXT), 'portable_json' FROM n",
        [steps],
    );
    app.execute(
        "UPDATE workflow_input SET inputs = ?1",
        [format!(r#"{{"positionalArgs":[{}]}}"#, steps + 1)],
    );
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    let sum = u64::from(steps) * u64::from(steps + 1) / 2;
    assert_eq!(engine.retrieve::<u64>("w").unwrap().result().unwrap(), sum);
    assert_eq!(bodies.get(), 3 + 1);
    assert_eq!(engine.count(&WorkflowFilter::new()).unwrap(), 1);
}

/// One row that others spoiled does not keep the engine from the rest.
#[test]
fn an_odd_number_of_attempts_does_not_stop_the_claims() {
    for odd in [-5_i64, 5_000_000_000] {
        let app = App::new();
        finished(&app, "w", "odd");
        finished(&app, "w", "plain");
        app.interrupt("odd", 0);
        app.interrupt("plain", 0);
        app.execute("UPDATE workflow_status SET recovery_attempts = ?1 WHERE workflow_uuid = 'odd'", [odd]);
        let engine = app.open();
        one_step(&engine, "w", WorkflowOptions::new());
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<u32>("plain").unwrap().result().unwrap(), 2);
        assert!(engine.list(&WorkflowFilter::new()).is_ok());
    }
}

/// One program finds that nobody knows a workflow. Before it says so, one is launched that does.
#[test]
fn a_name_refused_while_a_program_that_knows_it_is_launched_goes_on() {
    let app = App::new();
    finished(&app, "b", "w");
    app.interrupt("w", 0);
    let latch = Latch::default();
    let held = latch.clone();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        if point.moment == Moment::Before && point.kinds.contains(&"refuse_unknown") {
            held.hold();
        }
        Fate::Go
    });
    let first = app.open_with(app.options().commit_hook(hook));
    one_step(&first, "a", WorkflowOptions::new());
    first.launch().unwrap();
    eventually("taken from the dead one", || app.status("w") == "ENQUEUED");
    app.clock.advance(Duration::from_secs(60));
    latch.wait_for(1); // it has looked who lives
    let second = app.open();
    one_step(&second, "b", WorkflowOptions::new());
    second.launch().unwrap();
    latch.open();
    eventually("done by the one that knows it", || app.status("w") == "SUCCESS");
}
