//! What waits for nobody, as tools are told of it.

use std::time::Duration;

use engine::{
    Absent, EnqueueOptions, Queue, QueueOptions, Stranded, Workflow, WorkflowFilter, WorkflowStatus,
};

use crate::support::{App, Result, eventually};
use crate::way::{Context, Engine};

const HOUR: Duration = Duration::from_secs(3600);

/// A program of this version: it has a workflow `w` and serves the queue `q`.
fn open(app: &App, version: &str) -> (Engine, Workflow<bool, ()>) {
    let engine = app.open_with(app.options().version(version));
    let workflow = engine.register("w", |ctx: &mut Context, sleeps: bool| -> Result<()> {
        if sleeps { ctx.sleep(HOUR) } else { Ok(()) }
    });
    engine.register_queue("q", QueueOptions::new()).unwrap();
    (engine, workflow.unwrap())
}

/// What is missing, of what, and how many wait for it.
fn stranded(engine: &Engine) -> Vec<(Absent, String, u64)> {
    let of = |stranded: &Stranded| {
        let Stranded { application, version, queue, name, .. } = stranded;
        let parts =
            [application, version, queue, name].map(|part| part.clone().unwrap_or_else(|| "-".to_owned()));
        (stranded.absent, parts.join(" "), stranded.count)
    };
    engine.waiting_for_nobody().unwrap().iter().map(of).collect()
}

fn told(list: &[(Absent, &str, u64)]) -> Vec<(Absent, String, u64)> {
    list.iter().map(|(absent, of, count)| (*absent, (*of).to_owned(), *count)).collect()
}

#[test]
fn what_no_living_executor_can_take_up_is_told_by_what_is_missing() {
    let app = App::new();
    let queue = Queue::named("q");
    let (old, workflow) = open(&app, "1");
    // Also before a launch, and by one that only enqueues.
    workflow.enqueue(&old, &queue, false).unwrap();
    assert_eq!(stranded(&old), told(&[(Absent::Application, "test - - -", 1)]));
    old.launch().unwrap();
    workflow.enqueue(&old, &queue, true).unwrap();
    eventually("one sleeps", || {
        old.count(&WorkflowFilter::new().status(WorkflowStatus::Delayed)).unwrap() == 1
    });
    assert_eq!(stranded(&old), []);
    drop(old);

    app.clock.advance(Duration::from_secs(1));
    let (new, workflow) = open(&app, "2");
    new.launch().unwrap();
    for _ in 0..2 {
        workflow.enqueue_with(&new, &queue, &EnqueueOptions::new().version("1"), false).unwrap();
    }
    workflow.enqueue(&new, &Queue::named("another"), false).unwrap();
    workflow.enqueue_with(&new, &queue, &EnqueueOptions::new().application("theirs"), false).unwrap();
    Workflow::<bool, ()>::named("v").enqueue(&new, &queue, false).unwrap();
    let version = (Absent::Version, "test 1 - -", 3);
    let another = (Absent::Queue, "test 2 another -", 1);
    assert_eq!(stranded(&new), told(&[version, another, (Absent::Name, "test 2 q v", 1)]));

    // Another application is given a while; a name that nobody knows for so long is refused.
    app.clock.advance(Duration::from_secs(31));
    let theirs = (Absent::Application, "theirs - - -", 1);
    eventually("the name is refused", || stranded(&new) == told(&[theirs, version, another]));
    let oldest = new.waiting_for_nobody().unwrap()[1].oldest;
    assert_eq!(oldest.to_string(), "2026-01-01T00:00:00.000Z", "the sleeper is the oldest");

    // They wait for somebody as soon as there is somebody.
    let (old, _) = open(&app, "1");
    old.launch().unwrap();
    eventually("the old version runs again", || stranded(&new) == told(&[theirs, another]));
    let their = app.open_with(Engine::options().app("theirs").clock(app.clock.clone()));
    their.launch().unwrap();
    assert_eq!(stranded(&new), told(&[another, (Absent::Queue, "theirs - q -", 1)]));
}

/// A queue whose row is gone is closed, whoever serves it.
#[test]
fn a_queue_that_was_removed_is_absent() {
    let app = App::new();
    let (engine, workflow) = open(&app, "1");
    engine.launch().unwrap();
    app.execute("DELETE FROM queues", ());
    workflow.enqueue(&engine, &Queue::named("q"), false).unwrap();
    assert_eq!(stranded(&engine), told(&[(Absent::Queue, "test 1 q -", 1)]));
}

/// Executors of other programs are not seen, so what may be theirs is not judged.
#[test]
fn what_another_program_may_take_up_is_not_judged() {
    let app = App::new();
    let (engine, workflow) = open(&app, "2");
    engine.launch().unwrap();
    let old = EnqueueOptions::new().version("1");
    workflow.enqueue_with(&engine, &Queue::named("q"), &old.id("theirs"), false).unwrap();
    workflow.enqueue_with(&engine, &Queue::named("q"), &old.id("anybody's"), false).unwrap();
    app.execute("UPDATE workflow_status SET executor_id = 'local' WHERE workflow_uuid = 'theirs'", ());
    assert_eq!(stranded(&engine), told(&[(Absent::Version, "test 1 - -", 1)]));
    app.execute("UPDATE workflow_status SET status = 'PENDING' WHERE workflow_uuid = 'theirs'", ());
    assert_eq!(stranded(&engine), [], "they run something of this application");
}

/// One row that cannot be read as it should be harms nobody else.
#[test]
fn an_odd_row_does_not_hide_the_others() {
    let app = App::new();
    let (engine, workflow) = open(&app, "2");
    engine.launch().unwrap();
    workflow.enqueue_with(&engine, &Queue::named("q"), &EnqueueOptions::new().version("1"), false).unwrap();
    app.batch(
        "INSERT INTO workflow_status (workflow_uuid, status, priority) VALUES ('odd', 'ENQUEUED', 0);
         INSERT INTO workflow_status (workflow_uuid, status, application_name, application_version, name, created_at)
         VALUES ('odder', 'ENQUEUED', 'test', '1', '', -1)",
    );
    let told_of: Vec<_> =
        stranded(&engine).into_iter().filter(|(absent, ..)| *absent == Absent::Version).collect();
    assert_eq!(told_of, told(&[(Absent::Version, "test 1 - -", 2)]));
}
