//! Who waits in one process for what another does.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cluster::Proxy;
use engine::{Context, Engine, Queue, QueueOptions, Workflow};

use crate::support::{Ground, eventually, listen_to_the_log, options, pass};

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

/// What is found by the beat of every second.
const A_SECOND: Duration = Duration::from_millis(1_500);

/// In the best of five series: others may be busy on this machine.
fn assert_median(two: &Two, rounds: u32, limit: Duration) {
    let mut all = Vec::new();
    for _ in 0..5 {
        let (starts, results) = times(two, rounds);
        let middle = starts.len() / 2;
        if starts[middle] < limit && results[middle] < limit {
            return;
        }
        all.push((starts[middle], results[middle]));
    }
    panic!("the middle of each series took {all:?}, not less than {limit:?}");
}

#[test]
fn an_idle_executor_and_a_waiting_caller_are_told_at_once() {
    let ground = Ground::new();
    let two = two(&ground.url(), true);
    // A poll would take half a second. How fast it is, the bench says.
    assert_median(&two, 40, Duration::from_millis(150));
}

#[test]
fn without_listen_they_are_at_most_a_second_late() {
    let ground = Ground::new();
    assert_median(&two(&ground.url(), false), 8, A_SECOND);
}

/// A pooler gives each transaction another connection: the engine notices that it does not hear itself, and says so once.
#[test]
fn behind_a_pooler_nothing_is_heard_and_nothing_is_missed() {
    let (ground, log) = (Ground::new(), listen_to_the_log());
    let proxy = Proxy::before(ground.cluster).unwrap();
    proxy.be_deaf(true);
    let two = two(&proxy.url(&ground.database), true);
    assert_median(&two, 5, A_SECOND);
    let says = format!("NOTIFY does not arrive in database {} ", ground.database);
    eventually("both say so", || log.lines(&says).len() >= 2);
    pass(Duration::from_secs(2));
    assert_eq!(log.lines(&says).len(), 2, "once for each engine");
}
