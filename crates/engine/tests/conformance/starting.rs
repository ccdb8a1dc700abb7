use std::sync::Arc;
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Error, Workflow, WorkflowStatus};

use crate::support::{App, Counter, Latch, Result};
use crate::way::{Context, Engine};

#[test]
fn a_generated_id_is_unique_and_sorts_by_creation() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    engine.launch().unwrap();
    let handles: Vec<_> = (0..20).map(|_| workflow.start(&engine, ()).unwrap()).collect();
    assert!(handles.is_sorted_by(|a, b| a.id() < b.id()));
    for handle in handles {
        handle.result().unwrap();
        assert_eq!(handle.status().unwrap(), WorkflowStatus::Success);
    }
}

#[test]
fn an_id_that_is_taken_attaches_and_the_first_input_stands() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("double", |_: &mut Context, n: u32| Ok::<_, Error>(n * 2)).unwrap();
    engine.launch().unwrap();
    let first = workflow.start_as(&engine, "w", 1).unwrap();
    let second = workflow.start_as(&engine, "w", 50).unwrap();
    assert!(!first.is_attached() && second.is_attached());
    assert_eq!((first.result().unwrap(), second.result().unwrap()), (2, 2));
    assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status", []), 1);
}

#[test]
fn an_id_of_another_workflow_is_refused_and_names_both() {
    let app = App::new();
    let engine = app.open();
    let one = engine.register("one", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    let two = engine.register("two", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    engine.launch().unwrap();
    one.start_as(&engine, "w", ()).unwrap().result().unwrap();
    let error = two.start_as(&engine, "w", ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "workflow id w belongs to a run of `one`; choose another id for the run of `two`"
    );
    let name: String = app.value("SELECT name FROM workflow_status WHERE workflow_uuid = 'w'", []);
    assert_eq!(name, "one");
}

#[test]
fn bad_ids_are_refused_before_anything_is_written() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    engine.launch().unwrap();
    for id in ["", &"x".repeat(256), "a\0b"] {
        assert!(matches!(workflow.start_as(&engine, id, ()).unwrap_err(), Error::InvalidName { .. }));
    }
    assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status", []), 0);
    for id in ["x", &"y".repeat(255), "'; DROP TABLE workflow_status; --", "a%b_c\"d\\e", "\u{1F9D7}"] {
        assert_eq!(workflow.start_as(&engine, id, ()).unwrap().id().as_str(), id);
    }
}

#[test]
fn an_input_over_the_cap_is_refused_once_and_leaves_nothing() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, text: String| Ok::<_, Error>(text.len())).unwrap();
    engine.launch().unwrap();
    let error = workflow.start(&engine, "x".repeat(engine::PAYLOAD_BYTES_MAX)).unwrap_err().to_string();
    assert!(error.starts_with("input of workflow w cannot be encoded: it takes 167772"), "{error}");
    assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status", []), 0);
    let fits = "x".repeat(engine::PAYLOAD_BYTES_MAX - 100);
    assert_eq!(workflow.start(&engine, fits.clone()).unwrap().result().unwrap(), fits.len());
}

#[test]
fn registration_is_checked() {
    let app = App::new();
    let engine = app.open();
    let body = |_: &mut Context, (): ()| Ok::<_, Error>(());
    engine.register("w", body).unwrap();
    let twice = engine.register("w", body).unwrap_err().to_string();
    assert_eq!(twice, "a workflow named `w` is registered already");
    assert!(engine.register("", body).is_err());
    let unknown = Workflow::<(), ()>::named("typo");
    assert!(matches!(unknown.start(&engine, ()).unwrap_err(), Error::NotRegistered { .. }));
    engine.launch().unwrap();
    let error = unknown.start(&engine, ()).unwrap_err().to_string();
    assert_eq!(error, "workflow `typo` is not registered in this program; registered workflows: w");
    assert!(matches!(engine.register("late", body).unwrap_err(), Error::AlreadyLaunched));
    assert!(matches!(engine.launch().unwrap_err(), Error::AlreadyLaunched));
}

#[test]
fn nothing_starts_before_the_launch() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    assert!(matches!(workflow.start(&engine, ()).unwrap_err(), Error::NotLaunched));
}

/// The clock of this test stands, and the wait ends all the same: a caller's patience is real time.
#[test]
fn a_wait_with_a_timeout_gives_up_and_may_be_repeated() {
    let app = App::new();
    let engine = app.open();
    let latch = Latch::default();
    let held = latch.clone();
    let workflow = engine.register("w", move |_: &mut Context, (): ()| -> Result<u8> {
        held.hold();
        Ok(7)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    let patient = engine.retrieve::<u8>(handle.id().as_str()).unwrap();
    std::thread::spawn(move || ended.send(patient.wait(Duration::from_millis(5)).unwrap()));
    assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(None));
    assert_eq!(handle.status().unwrap(), WorkflowStatus::Pending);
    latch.open();
    assert_eq!(handle.wait(Duration::from_secs(60)).unwrap(), Some(7));
}

#[test]
fn an_unknown_id_is_not_found() {
    let app = App::new();
    let engine = app.open();
    let error = engine.retrieve::<()>("nobody").unwrap_err().to_string();
    assert_eq!(error, "there is no workflow nobody");
}

/// More are started than can run: the rest waits in the database and runs when there is room.
#[test]
fn workflows_beyond_the_workers_wait_and_all_end() {
    let app = App::new();
    let engine = app.open_with(app.options().workers_max(3).tasks_max(3));
    let latch = Latch::default();
    let held = latch.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, n: u32| {
        held.hold();
        ctx.step("s", |_| Ok::<_, Error>(n))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handles: Vec<_> = (0..40).map(|n| workflow.start(&engine, n).unwrap()).collect();
    latch.wait_for(3);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status WHERE status = 'PENDING'", []), 3);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status WHERE status = 'ENQUEUED'", []), 37);
    latch.open();
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(handle.result().unwrap() as usize, n);
    }
    assert_eq!(app.value::<u32>("SELECT max(recovery_attempts) FROM workflow_status", []), 1);
}

/// A healthy engine never takes a workflow from itself, however many start at once.
#[test]
fn every_workflow_of_a_busy_engine_runs_once() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, n: u32| {
        ctx.step("a", |_| Ok::<_, Error>(()))?;
        ctx.step("b", |_| Ok::<_, Error>(n))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for n in 0..50 {
                    assert_eq!(workflow.start(&engine, n).unwrap().result().unwrap(), n);
                }
            });
        }
    });
    assert_eq!(app.value::<u32>("SELECT count(*) FROM workflow_status WHERE recovery_attempts = 1", []), 800);
    assert_eq!(app.value::<u32>("SELECT count(*) FROM operation_outputs", []), 1600);
}

#[test]
fn an_engine_that_is_not_launched_can_wait_for_a_workflow() {
    let app = App::new();
    let latch = Latch::default();
    let held = latch.clone();
    let engine = app.open();
    let workflow = engine.register("w", move |_: &mut Context, (): ()| {
        held.hold();
        Ok::<_, Error>(7)
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    let client = app.open();
    let handle = client.retrieve::<u32>("w").unwrap();
    assert_eq!(handle.wait(Duration::ZERO).unwrap(), None);
    latch.open();
    assert_eq!(handle.result().unwrap(), 7);
}

#[test]
fn a_launch_that_failed_can_be_repeated() {
    let app = App::new();
    let failures = Counter::default();
    let hook: Arc<CommitHook> = Arc::new(move |point| {
        let first = point.moment == Moment::Before && failures.count() == 0;
        if first { Fate::FailForGood } else { Fate::Go }
    });
    let engine = app.open_with(app.options().commit_hook(hook));
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    assert!(matches!(engine.launch(), Err(Error::Database { .. })));
    assert!(matches!(workflow.start(&engine, ()), Err(Error::NotLaunched)));
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 7);
}

/// Checked before anything is made.
#[test]
fn options_without_meaning_are_refused() {
    let app = App::new();
    assert!(Engine::options().workers_max(0).open(&app.url()).is_err());
    assert!(Engine::options().app("").open(&app.url()).is_err());
    assert!(Engine::options().executor("../../etc").open(&app.url()).is_err());
    assert!(Engine::options().version("a\0b").open(&app.url()).is_err());
    assert!(!app.database.exists());
}
