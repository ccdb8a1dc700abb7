//! What the log says of workflows that wait in vain. On both databases at once, each under an application of its own.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "fleet/heard.rs"]
mod heard;

use std::time::Duration;

use engine::{Context, Engine, EngineOptions, Error, Queue, QueueOptions, Result, Workflow, WorkflowStatus};
use watch::eventually;

/// A database, and the prefix of the names in it.
struct Ground {
    url: String,
    name: &'static str,
}

impl Ground {
    fn options(&self) -> EngineOptions {
        Engine::options().app(format!("{}-shop", self.name)).suspend_after(Duration::ZERO)
    }

    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }
}

fn on_each_database(test: impl Fn(&Ground, &heard::Log) + Sync) {
    watch::test(watch::LIMIT);
    let log = heard::listen_to_the_log();
    let dir = tempfile::tempdir().unwrap();
    let file = Ground { url: format!("sqlite:{}", dir.path().join("x.db").display()), name: "sqlite" };
    let server = cluster::try_shared();
    let server = server.map(|it| Ground { url: it.url(&it.fresh_database()), name: "postgres" });
    std::thread::scope(|scope| {
        for ground in [Some(file), server].into_iter().flatten() {
            let (test, log) = (&test, &log);
            scope.spawn(move || test(&ground, log));
        }
    });
}

fn plus_one(engine: &Engine) -> Workflow<u32, u32> {
    engine.register("plus one", |_: &mut Context, n: u32| Ok::<_, Error>(n + 1)).unwrap()
}

#[test]
fn a_launch_says_what_waits_for_an_absent_version_once_and_when_it_does_no_longer() {
    on_each_database(|ground, log| {
        let open = |version: &str| {
            let engine = ground.options().version(version).open(&ground.url).unwrap();
            (plus_one(&engine), engine)
        };
        let (workflow, old) = open("1");
        let handles: Vec<_> = (0..89)
            .map(|n| {
                // As a program of the old version left them.
                workflow.enqueue(&old, &Queue::named("q"), n).unwrap().id().clone()
            })
            .collect();
        drop(old);
        let (_, new) = open("2");
        new.register_queue("q", QueueOptions::new()).unwrap();
        new.launch().unwrap();
        let what = format!("open workflows of version 1 of application {}", ground.name("shop"));
        let says = format!(
            "WARN 89 {what}: no living executor runs that version; start a program with version(\"1\")"
        );
        eventually("the launch says it", || !log.lines(&says).is_empty());

        let (_, old) = open("1");
        old.register_queue("q", QueueOptions::new()).unwrap();
        old.launch().unwrap();
        for id in handles {
            old.retrieve::<u32>(id.as_str()).unwrap().result().unwrap();
        }
        eventually("and when it is over", || {
            !log.lines(&format!("INFO {what}: this problem is over")).is_empty()
        });
        assert_eq!(log.lines(&format!("{what}: no living")).len(), 1, "said once");
    });
}

/// Also by one that was launched before.
#[test]
fn what_comes_to_wait_for_nobody_is_said_by_an_idle_executor() {
    on_each_database(|ground, log| {
        let idle = ground.options().app(ground.name("idle")).open(&ground.url).unwrap();
        plus_one(&idle);
        idle.launch().unwrap();
        let workflow = Workflow::<u32, u32>::named("plus one");
        workflow.enqueue(&idle, &Queue::named("nobody's"), 1).unwrap();
        let says = format!(
            "WARN 1 open workflow of version 1 of application {} in queue nobody's: no",
            ground.name("idle")
        );
        eventually("it is said", || !log.lines(&says).is_empty());
    });
}

#[test]
fn a_parent_that_fills_the_queue_of_its_child_is_named_with_the_way_out() {
    on_each_database(|ground, log| {
        let (queue, id) = (ground.name("own"), ground.name("parent"));
        let open = || {
            let engine = ground.options().app(ground.name("own")).open(&ground.url).unwrap();
            let child = plus_one(&engine);
            let queue = engine.register_queue(&queue, QueueOptions::new().in_flight(1)).unwrap();
            let of_child = queue.clone();
            let parent = engine.register("parent", move |ctx: &mut Context, n: u32| -> Result<u32> {
                ctx.enqueue(&child, &of_child, n)?.result(ctx)
            });
            engine.launch().unwrap();
            (engine, parent.unwrap(), queue)
        };
        let (engine, parent, queue) = open();
        let options = engine::EnqueueOptions::new().id(&id);
        let handle = parent.enqueue_with(&engine, &queue, &options, 1).unwrap();
        let says = format!(
            "WARN 1 workflow can never go on, because of a circle of waits: {id} waits for {id}-1, which waits for a \
             place in queue {} (in_flight 1, all taken). Cancel one workflow of the circle with Engine::cancel. Then raise \
             in_flight",
            queue.name()
        );
        eventually("it is said", || !log.lines(&says).is_empty());
        let child = engine.retrieve::<u32>(&format!("{id}-1")).unwrap();
        assert_eq!(child.status().unwrap(), WorkflowStatus::Enqueued);
        engine.cancel(child.id()).unwrap();
        let error = handle.result().unwrap_err().to_string();
        assert!(error.contains("was cancelled"), "{error}");
    });
}
