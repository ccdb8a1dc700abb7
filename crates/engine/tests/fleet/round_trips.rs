use std::time::{Duration, Instant};

use cluster::Proxy;
use engine::Context;

use crate::support::{Ground, eventually, options, pass, steps};

/// Asserts that `work` takes so many requests, once everything is prepared and nobody else asks. The executor beats once
/// a second and looks around, so a run that takes more says nothing.
fn assert_requests(proxy: &Proxy, expected: u64, work: impl Fn()) {
    (0..3).for_each(|_| work());
    eventually("it takes as few requests as it should", || {
        let before = proxy.requests();
        work();
        let took = proxy.requests() - before;
        assert!(took >= expected, "{took} requests, not {expected}");
        took == expected
    });
}

#[test]
fn a_lone_step_is_one_round_trip_and_an_empty_workflow_two() {
    let ground = Ground::new();
    let proxy = Proxy::before(ground.cluster).unwrap();
    let engine = options().listen_notify(false).open(&proxy.url(&ground.database)).unwrap();
    let workflow = steps(&engine);
    engine.launch().unwrap();
    for steps in [0, 1, 10] {
        assert_requests(&proxy, u64::from(steps) + 2, || {
            assert_eq!(workflow.start(&engine, steps).unwrap().result().unwrap(), steps);
        });
    }
}

#[test]
fn a_transaction_step_is_six_round_trips_besides_those_of_its_body() {
    let ground = Ground::new();
    let proxy = Proxy::before(ground.cluster).unwrap();
    let engine = options().listen_notify(false).open(&proxy.url(&ground.database)).unwrap();
    let workflow = engine
        .register("w", |ctx: &mut Context, (): ()| ctx.transaction("t", |_| Ok::<_, engine::Error>(())));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let empty = 2;
    assert_requests(&proxy, empty + 6, || workflow.start(&engine, ()).unwrap().result().unwrap());
}

/// With a pool of one connection everything works.
#[test]
fn a_pool_of_one_connection_is_enough() {
    let ground = Ground::new();
    let engine = options().open(&format!("{}&pool_max=1", ground.url())).unwrap();
    let workflow = steps(&engine);
    engine.launch().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(workflow.start(&engine, 3).unwrap().result().unwrap(), 3);
                    assert!(engine.list(&engine::WorkflowFilter::new().limit(1)).unwrap().len() == 1);
                }
            });
        }
    });
    assert_eq!(engine.shutdown(Duration::from_secs(60)), []);
}

/// An idle executor asks once a second, whatever it serves.
#[test]
fn an_idle_executor_asks_once_a_second() {
    let ground = Ground::new();
    let proxy = Proxy::before(ground.cluster).unwrap();
    let engine = options().open(&proxy.url(&ground.database)).unwrap();
    steps(&engine);
    for n in 0..10 {
        engine.register_queue(&format!("q{n}"), engine::QueueOptions::new()).unwrap();
    }
    engine.launch().unwrap();
    pass(Duration::from_secs(2)); // what a launch brings with it
    let (before, watch) = (proxy.requests(), Instant::now());
    pass(Duration::from_secs(10));
    let asked = proxy.requests() - before;
    let seconds = watch.elapsed().as_secs();
    assert!((seconds / 2..=seconds + 1).contains(&asked), "{asked} statements in {seconds} s");
}

/// What waits for nobody is looked at every ten seconds, and not with every beat.
#[test]
fn an_idle_executor_beside_what_waits_for_nobody_asks_little_more() {
    let ground = Ground::new();
    let proxy = Proxy::before(ground.cluster).unwrap();
    let engine = options().version("2").open(&proxy.url(&ground.database)).unwrap();
    let workflow = steps(&engine);
    engine.launch().unwrap();
    let of_the_old = engine::EnqueueOptions::new().version("1");
    workflow.enqueue_with(&engine, &engine::Queue::named("q"), &of_the_old, 1).unwrap();
    let asked_within = |time: Duration| {
        let (before, watch) = (proxy.requests(), std::time::Instant::now());
        crate::support::eventually("time has passed", || watch.elapsed() > time);
        proxy.requests() - before
    };
    asked_within(Duration::from_secs(2)); // what a launch brings with it
    let asked = asked_within(Duration::from_secs(20));
    assert!((16..=56).contains(&asked), "{asked} statements in 20 s");
    assert_eq!(engine.waiting_for_nobody().unwrap().len(), 1);
}
