//! Who waits in one process for what another does.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cluster::Proxy;
use engine::{Context, Engine, Queue, QueueOptions, Workflow};

use crate::support::{Ground, listen_to_the_log, options, pass};

/// One that serves a queue and says when a workflow starts, and one that enqueues. Only the database joins them.
struct Two {
    client: Engine,
    _server: Engine,
    workflow: Workflow<u32, u32>,
    started: Receiver<Instant>,
}

fn two(url: &str, listen: bool) -> Two {
    let open = || options().listen_notify(listen).open(url).unwrap();
    let (client, server) = (open(), open());
    let (says, started): (Sender<Instant>, _) = channel();
    let says = std::sync::Mutex::new(says);
    let workflow = server.register("w", move |_: &mut Context, n: u32| -> engine::Result<u32> {
        says.lock().unwrap().send(Instant::now()).unwrap();
        Ok(n + 1)
    });
    server.register_queue("q", QueueOptions::new()).unwrap();
    server.launch().unwrap();
    // Those who listen have begun to, and the launch is over.
    pass(Duration::from_secs(2));
    Two { client, _server: server, workflow: workflow.unwrap(), started }
}

/// From an enqueue to the start in the other process, and from that to the result in this one.
fn times(two: &Two, rounds: u32) -> (Vec<Duration>, Vec<Duration>) {
    let round = |n: u32| {
        // An idle moment, so that nothing of the round before wakes anybody.
        pass(Duration::from_millis(60));
        let enqueued = Instant::now();
        let handle = two.workflow.enqueue(&two.client, &Queue::named("q"), n).unwrap();
        let started = two.started.recv().unwrap();
        assert_eq!(handle.result().unwrap(), n + 1);
        (started - enqueued, started.elapsed())
    };
    let (mut starts, mut results): (Vec<_>, Vec<_>) = (0..rounds).map(round).unzip();
    starts.sort();
    results.sort();
    (starts, results)
}

#[test]
fn an_idle_executor_and_a_waiting_caller_are_told_at_once() {
    let ground = Ground::new();
    let (starts, results) = times(&two(&ground.url(), true), 40);
    // A poll would take half a second. How fast it is, the bench says.
    assert!(starts[20] < Duration::from_millis(150), "{starts:?}");
    assert!(results[20] < Duration::from_millis(150), "{results:?}");
}

#[test]
fn without_listen_they_are_at_most_a_second_late() {
    let ground = Ground::new();
    let (starts, results) = times(&two(&ground.url(), false), 8);
    let late = Duration::from_millis(1_500); // a second, on a busy machine
    assert!(starts[7] < late && results[7] < late, "{starts:?} {results:?}");
}

/// A pooler gives each transaction another connection: the engine notices that it does not hear itself, and says so once.
#[test]
fn behind_a_pooler_nothing_is_heard_and_nothing_is_missed() {
    let (ground, log) = (Ground::new(), listen_to_the_log());
    let proxy = Proxy::before(ground.cluster).unwrap();
    proxy.be_deaf(true);
    let (starts, results) = times(&two(&proxy.url(&ground.database), true), 5);
    let late = Duration::from_millis(1_500);
    assert!(starts[4] < late && results[4] < late, "{starts:?} {results:?}");
    pass(Duration::from_secs(2));
    assert_eq!(log.count("NOTIFY does not arrive"), 2, "once for each engine");
}
