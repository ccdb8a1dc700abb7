//! Queues: who runs what waits there, in which order, and how many at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{
    EnqueueOptions, Error, Queue, QueueOptions, Workflow, WorkflowFilter, WorkflowId, WorkflowStatus,
};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const MINUTE: Duration = Duration::from_secs(60);

fn plus_one(engine: &Engine) -> Workflow<u32, u32> {
    engine.register("plus one", |ctx: &mut Context, n: u32| ctx.step("s", |_| Ok::<_, Error>(n + 1))).unwrap()
}

/// Its bodies wait at the latch, and then note what they were given.
fn noting(engine: &Engine) -> (Latch, Arc<Mutex<Vec<u32>>>, Workflow<u32, ()>) {
    let (latch, ran) = (Latch::default(), Arc::new(Mutex::new(Vec::new())));
    let (held, noted) = (latch.clone(), ran.clone());
    let workflow = engine.register("w", move |_: &mut Context, n: u32| -> Result<()> {
        held.hold();
        noted.lock().unwrap().push(n);
        Ok(())
    });
    (latch, ran, workflow.unwrap())
}

fn id(text: &str) -> WorkflowId {
    WorkflowId::new(text).unwrap()
}

#[test]
fn an_enqueued_workflow_runs_where_its_queue_is_served() {
    let app = App::new();
    let (client, server) = (app.open(), app.open());
    let workflow = plus_one(&server);
    let queue = server.register_queue("q", QueueOptions::new()).unwrap();
    // One that only enqueues need not be launched, and need not know the workflow.
    let first = workflow.enqueue(&client, &queue, 1).unwrap();
    server.launch().unwrap();
    let second = workflow.enqueue(&client, &Queue::named("q"), 2).unwrap();
    assert_eq!((first.result().unwrap(), second.result().unwrap()), (2, 3));
    let infos = server.list(&WorkflowFilter::new()).unwrap();
    assert!(infos.iter().all(|info| info.attempts == 1 && info.version.as_deref() == Some("1")), "{infos:?}");
    assert!(!first.is_attached());
}

#[test]
fn a_queue_that_nobody_serves_keeps_its_workflows() {
    let app = App::new();
    let engine = app.open();
    let workflow = plus_one(&engine);
    let other = engine.register_queue("other", QueueOptions::new()).unwrap();
    engine.launch().unwrap();
    workflow.enqueue_with(&engine, &Queue::named("nobody's"), &EnqueueOptions::new().id("w"), 1).unwrap();
    for n in 0..5 {
        assert_eq!(workflow.enqueue(&engine, &other, n).unwrap().result().unwrap(), n + 1);
    }
    assert_eq!(app.status("w"), "ENQUEUED");
}

/// Lower priorities first, and within one of them first come, first served.
#[test]
fn a_queue_is_emptied_by_priority_and_then_in_order() {
    let app = App::new();
    let engine = app.open();
    let (latch, ran, workflow) = noting(&engine);
    let queue = engine.register_queue("q", QueueOptions::new().worker_concurrency(1)).unwrap();
    engine.launch().unwrap();
    let mut handles = vec![workflow.enqueue(&engine, &queue, 0).unwrap()];
    latch.wait_for(1);
    for (n, priority) in [(1, 5), (2, 1), (3, 5), (4, 0), (5, 1), (6, 0), (7, 2_147_483_647)] {
        let options = EnqueueOptions::new().priority(priority);
        handles.push(workflow.enqueue_with(&engine, &queue, &options, n).unwrap());
    }
    latch.open();
    for handle in handles {
        handle.result().unwrap();
    }
    assert_eq!(*ran.lock().unwrap(), [0, 4, 6, 2, 5, 1, 3, 7]);
}

/// Also within one millisecond, under ids whose order is another, and from a workflow.
#[test]
fn what_one_caller_enqueues_in_order_is_taken_in_order() {
    let app = App::new();
    let engine = app.open();
    let (latch, ran, workflow) = noting(&engine);
    let queue = engine.register_queue("q", QueueOptions::new().worker_concurrency(1)).unwrap();
    let (child, of_child) = (Workflow::<u32, ()>::named("w"), queue.clone());
    let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<()> {
        (20..32).try_for_each(|n| ctx.enqueue(&child, &of_child, n).map(drop))
    });
    let parent = parent.unwrap();
    engine.launch().unwrap();
    let mut handles = vec![workflow.enqueue(&engine, &queue, 0).unwrap()];
    latch.wait_for(1);
    for n in 1..20 {
        let id = format!("w{}", 100 - n);
        handles.push(workflow.enqueue_with(&engine, &queue, &EnqueueOptions::new().id(&id), n).unwrap());
    }
    parent.start_as(&engine, "p", ()).unwrap().result().unwrap();
    latch.open();
    for handle in handles {
        handle.result().unwrap();
    }
    for step in 1..=12 {
        engine.retrieve::<()>(&format!("p-{step}")).unwrap().result().unwrap();
    }
    assert_eq!(*ran.lock().unwrap(), (0..32).collect::<Vec<_>>());
}

/// How many run, and the most that ever did.
#[derive(Clone, Default)]
struct Crowd(Arc<(AtomicUsize, AtomicUsize)>);

impl Crowd {
    fn while_one_more<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        let result = work();
        self.0.0.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

fn crowded(engine: &Engine, all: &Crowd, here: &Crowd, bodies: &Counter) -> Workflow<(), ()> {
    let (all, here, bodies) = (all.clone(), here.clone(), bodies.clone());
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        all.while_one_more(|| {
            here.while_one_more(|| {
                (0..3).try_for_each(|_| {
                    ctx.step("s", |_| {
                        bodies.count();
                        Ok::<_, Error>(())
                    })
                })
            })
        })
    });
    workflow.unwrap()
}

/// 45: as many run as may, in all executors together and in each of them.
#[test]
fn the_limits_of_a_queue_hold_across_executors() {
    for (options, most_of_all, most_of_one) in [
        (QueueOptions::new().concurrency(2), 2, 2),
        (QueueOptions::new().worker_concurrency(1), 3, 1),
        (QueueOptions::new().concurrency(3).worker_concurrency(2), 3, 2),
    ] {
        let app = App::new();
        let (all, bodies) = (Crowd::default(), Counter::default());
        let crowds: Vec<Crowd> = (0..3).map(|_| Crowd::default()).collect();
        let engines: Vec<_> = (0..3).map(|_| app.open()).collect();
        let workflows: Vec<_> = engines
            .iter()
            .zip(&crowds)
            .map(|(engine, here)| {
                engine.register_queue("q", options).unwrap();
                crowded(engine, &all, here, &bodies)
            })
            .collect();
        for engine in &engines {
            engine.launch().unwrap();
        }
        let queue = Queue::named("q");
        let enqueue = |n: usize| workflows[n % 3].enqueue(&engines[n % 3], &queue, ()).unwrap();
        let handles: Vec<_> = (0..30).map(enqueue).collect();
        for handle in handles {
            handle.result().unwrap();
        }
        assert_eq!(bodies.get(), 90, "nothing ran twice");
        assert!(all.most() <= most_of_all, "{} at once, {options:?}", all.most());
        for here in &crowds {
            assert!(here.most() <= most_of_one, "{} at once in one executor, {options:?}", here.most());
        }
    }
}

/// A place in a full queue is free again when its workflow is cancelled, sleeps, or loses its executor.
#[test]
fn a_limit_is_not_used_up_by_what_does_not_run() {
    let app = App::new();
    let engine = app.open();
    let (latch, begun) = (Latch::default(), Latch::default());
    let (held, begins) = (latch.clone(), begun.clone());
    let stuck = engine.register("stuck", move |ctx: &mut Context, (): ()| {
        ctx.step("s", |_| {
            begins.arrive();
            held.hold();
            Ok::<_, Error>(())
        })
    });
    let sleeper = engine.register("sleeper", |ctx: &mut Context, (): ()| ctx.sleep(MINUTE));
    let (stuck, sleeper) = (stuck.unwrap(), sleeper.unwrap());
    let workflow = plus_one(&engine);
    let queue = engine.register_queue("q", QueueOptions::new().concurrency(1)).unwrap();
    engine.launch().unwrap();

    let running = stuck.enqueue(&engine, &queue, ()).unwrap();
    begun.wait_for(1);
    let waiting = workflow.enqueue(&engine, &queue, 1).unwrap();
    assert_eq!(engine.cancel(running.id()).unwrap(), WorkflowStatus::Cancelled);
    assert_eq!(waiting.result().unwrap(), 2);

    let asleep = sleeper.enqueue_with(&engine, &queue, &EnqueueOptions::new().id("sleeper"), ()).unwrap();
    eventually("it sleeps without a thread", || app.status("sleeper") == "DELAYED");
    assert_eq!(workflow.enqueue(&engine, &queue, 2).unwrap().result().unwrap(), 3);
    app.clock.advance(MINUTE);
    asleep.result().unwrap();

    let lost = workflow.enqueue_with(&engine, &queue, &EnqueueOptions::new().id("lost"), 3).unwrap();
    assert_eq!(lost.result().unwrap(), 4);
    engine.shutdown(Duration::ZERO);
    app.interrupt("lost", 0);
    let next = app.open();
    let workflow = plus_one(&next);
    next.register_queue("q", QueueOptions::new().concurrency(1)).unwrap();
    next.launch().unwrap();
    assert_eq!(workflow.enqueue(&next, &queue, 4).unwrap().result().unwrap(), 5);
    assert_eq!(next.retrieve::<u32>("lost").unwrap().result().unwrap(), 4);
    latch.open();
}

/// Runs that have begun and not ended, waiting or not.
fn registered_sleeper(engine: &Engine, open: &Open) -> Workflow<(), ()> {
    let open = open.clone();
    let workflow = engine.register("sleeper", move |ctx: &mut Context, (): ()| -> Result<()> {
        ctx.step("begin", |_| Ok::<_, Error>(open.begin()))?;
        ctx.sleep(MINUTE)?;
        ctx.step("end", |_| Ok::<_, Error>(open.end())).map(drop)
    });
    workflow.unwrap()
}

/// How many are open, and the most that ever were.
#[derive(Clone, Default)]
struct Open(Arc<(AtomicUsize, AtomicUsize)>);

impl Open {
    /// Says how many are open then.
    fn begin(&self) -> usize {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        now
    }

    /// Says how many were open before.
    fn end(&self) -> usize {
        self.0.0.fetch_sub(1, Ordering::SeqCst)
    }

    fn now(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

/// A limit of what may be open is not one of what may run: a sleeper keeps its place.
#[test]
fn in_flight_counts_what_waits_without_a_thread() {
    let app = App::new();
    let engine = app.open();
    let open = Open::default();
    let sleeper = registered_sleeper(&engine, &open);
    let workflow = plus_one(&engine);
    let queue = engine.register_queue("q", QueueOptions::new().in_flight(1)).unwrap();
    let beside = engine.register_queue("beside", QueueOptions::new().concurrency(1)).unwrap();
    engine.launch().unwrap();
    let first = sleeper.enqueue_with(&engine, &queue, &EnqueueOptions::new().id("first"), ()).unwrap();
    eventually("it sleeps without a thread", || app.status("first") == "DELAYED");
    let second = sleeper.enqueue_with(&engine, &queue, &EnqueueOptions::new().id("second"), ()).unwrap();
    for n in 0..5 {
        assert_eq!(workflow.enqueue(&engine, &beside, n).unwrap().result().unwrap(), n + 1);
    }
    assert_eq!((app.status("second").as_str(), open.now()), ("ENQUEUED", 1));
    app.clock.advance(MINUTE);
    first.result().unwrap();
    eventually("the second has its place", || app.status("second") == "DELAYED");
    app.clock.advance(MINUTE);
    second.result().unwrap();
    assert_eq!(open.most(), 1);

    // Where only what runs counts, both are open at once.
    let handles: Vec<_> = (0..2).map(|_| sleeper.enqueue(&engine, &beside, ()).unwrap()).collect();
    eventually("both sleep", || open.now() == 2);
    eventually("without a thread", || {
        engine.count(&WorkflowFilter::new().status(WorkflowStatus::Delayed)).unwrap() == 2
    });
    app.clock.advance(MINUTE);
    for handle in handles {
        handle.result().unwrap();
    }
}

/// However many executors claim at once, and whatever its workflows wait for.
#[test]
fn in_flight_holds_across_executors() {
    let app = App::new();
    let open = Open::default();
    let engines: Vec<_> = (0..3).map(|_| app.open()).collect();
    let limits = QueueOptions::new().in_flight(4).concurrency(2);
    let mut workflows = Vec::new();
    for engine in &engines {
        workflows.push(registered_sleeper(engine, &open));
        engine.register_queue("q", limits).unwrap();
    }
    for engine in &engines {
        engine.launch().unwrap();
    }
    let queue = Queue::named("q");
    let handles: Vec<_> =
        (0..20).map(|n| workflows[n % 3].enqueue(&engines[n % 3], &queue, ()).unwrap()).collect();
    for round in 1..=5 {
        eventually("all places are taken by sleepers, and no more", || {
            let count = |status| engines[0].count(&WorkflowFilter::new().status(status)).unwrap();
            let stand = (count(WorkflowStatus::Delayed), count(WorkflowStatus::Enqueued));
            stand == (4, 20 - 4 * round)
        });
        app.clock.advance(MINUTE);
    }
    for handle in handles {
        handle.result().unwrap();
    }
    assert_eq!((open.most(), open.now()), (4, 0));
    assert_eq!(app.value::<u32>("SELECT max(recovery_attempts) FROM workflow_status", []), 1);
}

/// It has its place, and nothing else begins before it has ended, whatever the priorities.
#[test]
fn what_has_begun_goes_on_before_anything_else_begins() {
    let app = App::new();
    let ran = Arc::new(Mutex::new(Vec::new()));
    let register = |engine: &Engine| {
        let noted = ran.clone();
        let workflow = engine.register("w", move |ctx: &mut Context, n: u32| -> Result<()> {
            noted.lock().unwrap().push(n);
            ctx.step("s", |_| Ok::<_, Error>(()))
        });
        (workflow.unwrap(), engine.register_queue("q", QueueOptions::new().in_flight(1)).unwrap())
    };
    let begun = EnqueueOptions::new().priority(9).id("begun");
    {
        let engine = app.open();
        let (workflow, queue) = register(&engine);
        engine.launch().unwrap();
        workflow.enqueue_with(&engine, &queue, &begun, 1).unwrap().result().unwrap();
    }
    app.interrupt("begun", 0);
    let engine = app.open();
    let (workflow, queue) = register(&engine);
    let fresh = workflow.enqueue_with(&engine, &queue, &EnqueueOptions::new().id("fresh"), 2).unwrap();
    engine.launch().unwrap();
    fresh.result().unwrap();
    assert_eq!(*ran.lock().unwrap(), [1, 1, 2]);
    assert_eq!((app.attempts("begun"), app.status("begun")), (2, "SUCCESS".to_owned()));
}

/// A place is free again whoever ended its workflow, or took it out of the queue.
#[test]
fn a_place_is_free_when_its_workflow_is_not_in_the_queue_any_more() {
    let app = App::new();
    let engine = app.open();
    let open = Open::default();
    let sleeper = registered_sleeper(&engine, &open);
    let queue = engine.register_queue("q", QueueOptions::new().in_flight(1)).unwrap();
    engine.launch().unwrap();
    let next = |id: &str| {
        sleeper.enqueue_with(&engine, &queue, &EnqueueOptions::new().id(id), ()).unwrap();
        eventually("it has its place", || app.status(id) == "DELAYED");
    };
    next("cancelled");
    engine.cancel(&id("cancelled")).unwrap();
    next("cancelled by another program");
    app.execute(
        "UPDATE workflow_status SET status = 'CANCELLED', queue_name = NULL WHERE workflow_uuid = ?1",
        ["cancelled by another program"],
    );
    next("resumed");
    engine.resume(&id("resumed")).unwrap();
    next("removed");
    app.execute("DELETE FROM workflow_status WHERE workflow_uuid = 'removed'", ());
    next("last");
    assert_eq!(app.value::<u32>("SELECT count(*) FROM piton_places", []), 1, "they leave no trace");
}

/// What has begun before there was a limit has its place; who raises the limit raises it at once.
#[test]
fn a_limit_of_what_may_be_in_flight_can_come_later_and_change() {
    let app = App::new();
    let open = Open::default();
    let launched = |options: QueueOptions| {
        let engine = app.open();
        let sleeper = registered_sleeper(&engine, &open);
        engine.register_queue("q", options).unwrap();
        engine.launch().unwrap();
        (engine, sleeper)
    };
    let queue = Queue::named("q");
    let asleep = |engine: &Engine, count: u64| {
        eventually("they sleep without a thread", || {
            engine.count(&WorkflowFilter::new().status(WorkflowStatus::Delayed)).unwrap() == count
        });
    };
    {
        let (engine, sleeper) = launched(QueueOptions::new());
        (0..2).for_each(|_| drop(sleeper.enqueue(&engine, &queue, ()).unwrap()));
        asleep(&engine, 2);
    }
    {
        let (engine, sleeper) = launched(QueueOptions::new().in_flight(2));
        let third = sleeper.enqueue(&engine, &queue, ()).unwrap();
        let beside = sleeper.start(&engine, ()).unwrap();
        asleep(&engine, 3);
        assert_eq!(third.status().unwrap(), WorkflowStatus::Enqueued);
        app.execute("UPDATE piton_queues SET in_flight = 3 WHERE name = 'q'", ());
        asleep(&engine, 4);
        engine.cancel(beside.id()).unwrap();
    }
    let (engine, sleeper) = launched(QueueOptions::new());
    let fourth = sleeper.enqueue(&engine, &queue, ()).unwrap();
    asleep(&engine, 4);
    assert_eq!(
        app.value::<u32>("SELECT count(*) FROM piton_places", []),
        0,
        "without a limit nobody has a place"
    );
    app.clock.advance(MINUTE);
    fourth.result().unwrap();
}

/// 46: what was interrupted goes back to its queue, and the limit holds for it too.
#[test]
fn a_limit_holds_for_what_is_recovered() {
    let app = App::new();
    let (all, bodies) = (Crowd::default(), Counter::default());
    let limit = QueueOptions::new().concurrency(2);
    let ids: Vec<String> = (0..10).map(|n| format!("w{n}")).collect();
    {
        let engine = app.open();
        let workflow = crowded(&engine, &Crowd::default(), &Crowd::default(), &Counter::default());
        let queue = engine.register_queue("q", limit).unwrap();
        engine.launch().unwrap();
        for id in &ids {
            let options = EnqueueOptions::new().id(id);
            workflow.enqueue_with(&engine, &queue, &options, ()).unwrap().result().unwrap();
        }
    }
    for id in &ids {
        app.interrupt(id, 1);
    }
    let engines = [app.open(), app.open()];
    for engine in &engines {
        crowded(engine, &all, &Crowd::default(), &bodies);
        engine.register_queue("q", limit).unwrap();
        engine.launch().unwrap();
    }
    for id in &ids {
        engines[0].retrieve::<()>(id).unwrap().result().unwrap();
        assert_eq!(app.attempts(id), 2);
    }
    assert_eq!(bodies.get(), 20, "the first steps were recorded");
    assert!(all.most() <= 2, "{} at once", all.most());
}

#[test]
fn an_id_names_one_run_also_in_a_queue() {
    let app = App::new();
    let engine = app.open();
    let workflow = plus_one(&engine);
    let other = engine.register("other", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    let queue = engine.register_queue("q", QueueOptions::new()).unwrap();
    engine.launch().unwrap();
    let options = EnqueueOptions::new().id("w");
    assert_eq!(workflow.enqueue_with(&engine, &queue, &options, 1).unwrap().result().unwrap(), 2);
    let again = workflow.enqueue_with(&engine, &queue, &options, 7).unwrap();
    assert!(again.is_attached());
    assert_eq!(again.result().unwrap(), 2, "the first input stands");
    let error = other.enqueue_with(&engine, &queue, &options, ()).unwrap_err();
    assert!(matches!(error, Error::IdInUse { .. }), "{error:?}");
    assert_eq!(app.attempts("w"), 1);
}

/// 53: a row of a version waits for a program of that version, one without for the newest.
#[test]
fn versions_decide_who_takes_what_waits() {
    let app = App::new();
    let open = |version: &str| {
        let engine = app.open_with(app.options().version(version));
        engine.register_queue("q", QueueOptions::new()).unwrap();
        (plus_one(&engine), engine)
    };
    let (workflow, old) = open("old");
    old.launch().unwrap();
    app.clock.advance(Duration::from_secs(1));
    let (_, new) = open("new");
    new.launch().unwrap();
    let queue = Queue::named("q");
    let run_by = |options: EnqueueOptions<'_>| {
        let handle = workflow.enqueue_with(&old, &queue, &options, 1).unwrap();
        handle.result().unwrap();
        let mut infos = old.list(&WorkflowFilter::new().id_prefix(handle.id().as_str())).unwrap();
        infos.pop().unwrap().version.unwrap()
    };
    assert_eq!(run_by(EnqueueOptions::new()), "old", "its own");
    assert_eq!(run_by(EnqueueOptions::new().version("new")), "new");
    for _ in 0..5 {
        // As a client of another language writes it.
        assert_eq!(run_by(EnqueueOptions::new().application("test")), "new", "without a version");
    }
    // The newest is gone for a while: what waits for it waits.
    drop(new);
    let options = EnqueueOptions::new().application("test").id("w");
    let waits = workflow.enqueue_with(&old, &queue, &options, 1).unwrap();
    assert_eq!(run_by(EnqueueOptions::new()), "old");
    assert_eq!(app.status("w"), "ENQUEUED");
    let (_, new) = open("new");
    new.launch().unwrap();
    assert_eq!(waits.result().unwrap(), 2);
}

/// 60: applications share a database and leave each other's rows alone.
#[test]
fn a_workflow_for_another_application_is_run_by_that_one() {
    let app = App::new();
    let ours = app.open();
    let workflow = plus_one(&ours);
    let queue = ours.register_queue("q", QueueOptions::new()).unwrap();
    ours.launch().unwrap();
    let options = EnqueueOptions::new().application("theirs").id("w");
    let theirs_queue = Queue::named("their queue");
    let handle = workflow.enqueue_with(&ours, &theirs_queue, &options, 1).unwrap();
    let crossed = workflow.enqueue_with(&ours, &queue, &options.id("crossed"), 1).unwrap();
    assert_eq!(workflow.enqueue(&ours, &queue, 1).unwrap().result().unwrap(), 2);
    assert_eq!(app.status("w"), "ENQUEUED");

    let theirs = app.open_with(Engine::options().app("theirs").clock(app.clock.clone()));
    plus_one(&theirs);
    theirs.register_queue("their queue", QueueOptions::new()).unwrap();
    theirs.launch().unwrap();
    assert_eq!(handle.result().unwrap(), 2);
    assert_eq!(ours.count(&WorkflowFilter::new().id_prefix("w")).unwrap(), 0, "it is theirs");
    assert_eq!(crossed.status().unwrap(), WorkflowStatus::Enqueued, "they do not serve our queue");

    let thief = app.open_with(Engine::options().app("thief"));
    thief.register_queue("q", QueueOptions::new()).unwrap();
    let error = thief.launch().unwrap_err().to_string();
    assert!(error.contains("queue `q` belongs to application `test`"), "{error}");
}

/// 54: the limits stand in the table, where clients of all languages change them.
#[test]
fn limits_that_somebody_changes_hold_from_then_on() {
    let app = App::new();
    let engine = app.open();
    let latch = Latch::default();
    let held = latch.clone();
    let workflow = engine.register("w", move |_: &mut Context, (): ()| -> Result<()> {
        held.hold();
        Ok(())
    });
    let workflow = workflow.unwrap();
    let queue = engine.register_queue("q", QueueOptions::new().concurrency(1)).unwrap();
    engine.launch().unwrap();
    let handles: Vec<_> = (0..3).map(|_| workflow.enqueue(&engine, &queue, ()).unwrap()).collect();
    latch.wait_for(1);
    let running = WorkflowFilter::new().status(WorkflowStatus::Pending);
    assert_eq!(engine.count(&running).unwrap(), 1);
    app.execute("UPDATE queues SET concurrency = 3 WHERE name = 'q'", ());
    latch.wait_for(3);
    latch.open();
    for handle in handles {
        handle.result().unwrap();
    }
    // A queue whose row is gone is closed, and opens again when a program registers it.
    app.execute("DELETE FROM queues", ());
    let waits = workflow.enqueue(&engine, &queue, ()).unwrap();
    assert_eq!(waits.wait(Duration::ZERO).unwrap(), None);
    let next = app.open();
    next.register_queue("q", QueueOptions::new()).unwrap();
    next.launch().unwrap();
    waits.result().unwrap();
}

#[test]
fn what_another_program_enqueued_is_served() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Order {
        item: String,
        count: u32,
    }
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("order", |_: &mut Context, order: Order| {
        Ok::<_, Error>(order.item.repeat(order.count as usize))
    });
    workflow.unwrap();
    engine.register_queue("q", QueueOptions::new()).unwrap();
    engine.launch().unwrap();
    for (id, inputs, expected) in [
        ("named", r#"{"namedArgs":{"item":"ab","count":2},"positionalArgs":[]}"#, "abab"),
        ("placed", r#"{"positionalArgs":["ab",3]}"#, "ababab"),
        ("both", r#"{"positionalArgs":["ab"],"namedArgs":{"count":1}}"#, "ab"),
    ] {
        app.execute("INSERT INTO workflow_input (workflow_uuid, inputs) VALUES (?1, ?2)", [id, inputs]);
        app.execute(
            "INSERT INTO workflow_status (workflow_uuid, status, name, queue_name, recovery_attempts, serialization)
             VALUES (?1, 'ENQUEUED', 'order', 'q', 0, 'portable_json')",
            [id],
        );
        let handle = engine.retrieve::<String>(id).unwrap();
        assert_eq!(handle.result().unwrap(), expected, "{id}");
    }
}

#[test]
fn arguments_are_one_value_or_spread() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Order {
        item: String,
    }
    let app = App::new();
    let engine = app.open();
    let queue = Queue::named("elsewhere");
    let inputs = |id: &str| -> String {
        app.value("SELECT inputs FROM workflow_input WHERE workflow_uuid = ?1", [id])
    };
    let order = Workflow::<Order, ()>::named("order");
    let spread = EnqueueOptions::new().spread_arguments();
    order.enqueue_with(&engine, &queue, &spread.id("a"), Order { item: "x".into() }).unwrap();
    assert_eq!(inputs("a"), r#"{"positionalArgs":[],"namedArgs":{"item":"x"}}"#);
    let add = Workflow::<(u32, u32), u32>::named("add");
    add.enqueue_with(&engine, &queue, &spread.id("b"), (1, 2)).unwrap();
    assert_eq!(inputs("b"), r#"{"positionalArgs":[1,2],"namedArgs":{}}"#);
    add.enqueue_with(&engine, &queue, &EnqueueOptions::new().id("c"), (1, 2)).unwrap();
    assert_eq!(inputs("c"), r#"{"positionalArgs":[[1,2]],"namedArgs":{}}"#);
}

/// A child in a queue is a child like any other.
#[test]
fn a_child_may_wait_in_a_queue() {
    let app = App::new();
    let bodies = Counter::default();
    let register = |engine: &Engine| {
        let child = plus_one(engine);
        let queue = engine.register_queue("q", QueueOptions::new().worker_concurrency(1)).unwrap();
        let counted = bodies.clone();
        let parent = engine.register("parent", move |ctx: &mut Context, (): ()| -> Result<u32> {
            let urgent = EnqueueOptions::new().priority(1).id("named");
            let children = [ctx.enqueue(&child, &queue, 1)?, ctx.enqueue_with(&child, &queue, &urgent, 2)?];
            counted.count();
            children.iter().map(|child| child.result(ctx)).sum()
        });
        parent.unwrap()
    };
    let engine = app.open();
    let parent = register(&engine);
    engine.launch().unwrap();
    assert_eq!(parent.start_as(&engine, "p", ()).unwrap().result().unwrap(), 5);
    assert_eq!(app.recorded("p"), ["plus one", "plus one", "DBOS.getResult", "DBOS.getResult"]);
    let children = engine.list(&WorkflowFilter::new().parent(id("p"))).unwrap();
    let mut ids: Vec<_> = children.iter().map(|child| child.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["named", "p-1"]);
    drop(engine);
    for recorded in 0..4 {
        app.interrupt("p", recorded);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        assert_eq!(engine.retrieve::<u32>("p").unwrap().result().unwrap(), 5, "{recorded}");
        assert_eq!(app.attempts("p-1"), 1);
    }
    assert_eq!(bodies.get(), 5);
}

/// A name that nobody knows is told also in a queue.
#[test]
fn an_unknown_name_in_a_queue_ends_with_the_reason() {
    let app = App::new();
    let engine = app.open();
    plus_one(&engine);
    let queue = engine.register_queue("q", QueueOptions::new()).unwrap();
    engine.launch().unwrap();
    let unknown = Workflow::<u32, u32>::named("plus two");
    let handle = unknown.enqueue(&engine, &queue, 1).unwrap();
    app.clock.advance(Duration::from_secs(31));
    let error = handle.result().unwrap_err().to_string();
    assert!(error.contains("no running program of application test registers this workflow"), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    let app = App::new();
    let engine = app.open();
    let workflow = plus_one(&engine);
    let refused =
        |options: QueueOptions, name: &str| engine.register_queue(name, options).unwrap_err().to_string();
    assert!(refused(QueueOptions::new().concurrency(0), "q").contains("queue q: with a limit of 0"));
    assert!(refused(QueueOptions::new(), "").contains("queue name `` is empty"));
    assert!(
        refused(QueueOptions::new(), "_dbos_internal_queue")
            .contains("which is reserved for queues of the engine")
    );
    let queue = engine.register_queue("q", QueueOptions::new()).unwrap();
    assert!(refused(QueueOptions::new(), "q").contains("a queue named `q` is registered already"));
    let enqueue = |options: EnqueueOptions<'_>| workflow.enqueue_with(&engine, &queue, &options, 1).map(drop);
    for options in [
        EnqueueOptions::new().priority(u32::MAX),
        EnqueueOptions::new().id(""),
        EnqueueOptions::new().application(""),
        EnqueueOptions::new().version("a\0b"),
    ] {
        assert!(enqueue(options).is_err(), "{options:?}");
    }
    assert!(workflow.enqueue(&engine, &Queue::named(""), 1).is_err());
    engine.launch().unwrap();
    assert!(matches!(engine.register_queue("late", QueueOptions::new()), Err(Error::AlreadyLaunched)));
    assert_eq!(engine.count(&WorkflowFilter::new()).unwrap(), 0);
    for name in ["'; DROP TABLE queues; --", "%_\\\"", "\u{1F9D7}"] {
        let engine = app.open();
        let workflow = plus_one(&engine);
        let queue = engine.register_queue(name, QueueOptions::new()).unwrap();
        engine.launch().unwrap();
        assert_eq!(workflow.enqueue(&engine, &queue, 1).unwrap().result().unwrap(), 2);
    }
}
