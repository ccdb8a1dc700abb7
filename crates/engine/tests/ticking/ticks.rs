//! How long a runtime stood still.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// How often a task looks at the time.
const TICK: Duration = Duration::from_millis(10);

/// Of how many tries one must find the machine idle enough to tell.
const TRIES: usize = 15;

/// The longest time between two ticks, as a task sees it that shares a thread with others.
#[derive(Clone, Default)]
struct Ticks(Arc<AtomicU64>);

impl Ticks {
    async fn count(self) {
        loop {
            let watch = Instant::now();
            tokio::time::sleep(TICK).await;
            self.0
                .fetch_max(u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }

    fn longest(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// The ticks of a thread that does nothing else: what the machine does to every thread.
struct Beside {
    ticks: Ticks,
    ended: mpsc::Receiver<()>,
    until: Arc<AtomicBool>,
}

impl Beside {
    fn begin() -> Self {
        let (ticks, until) = (Ticks::default(), Arc::new(AtomicBool::new(false)));
        let (counted, stop) = (ticks.clone(), until.clone());
        let (ends, ended) = mpsc::channel();
        thread::spawn(move || {
            runtime().block_on(async {
                let counting = tokio::spawn(counted.count());
                while !stop.load(Ordering::SeqCst) {
                    tokio::time::sleep(TICK).await;
                }
                counting.abort();
            });
            drop(ends);
        });
        Self { ticks, ended, until }
    }

    fn end(self) -> Duration {
        self.until.store(true, Ordering::SeqCst);
        let _ = self.ended.recv();
        self.ticks.longest()
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Does work that waits for something that lasts so long, on a runtime of one thread. A runtime that waits with it stands
/// still for as long; one that does not may be late because the machine is busy, and then others are late as well.
pub(crate) fn never_blocked(what: &str, lasts: Duration, work: impl AsyncFn()) {
    let bound = lasts / 2;
    let mut busy = Vec::new();
    while busy.len() < TRIES {
        let (ticks, beside) = (Ticks::default(), Beside::begin());
        runtime().block_on(async {
            let counting = tokio::spawn(ticks.clone().count());
            // It is at it before the work begins, and is heard after its end.
            tokio::time::sleep(TICK).await;
            work().await;
            tokio::time::sleep(2 * TICK).await;
            counting.abort();
        });
        let (longest, beside) = (ticks.longest(), beside.end());
        if longest < bound {
            return;
        }
        assert!(
            beside > bound / 2,
            "{what} blocked the runtime for {longest:?}, while one beside it was late by at most {beside:?}"
        );
        busy.push((longest, beside));
    }
    panic!("{what}: the machine was too busy to tell, each time: {busy:?}");
}

/// What the others stand on: a task that blocks is told from a machine that is busy.
#[test]
#[should_panic(expected = "blocked the runtime")]
fn a_runtime_that_is_blocked_is_found_out() {
    never_blocked("a task", Duration::from_secs(1), async || crate::pass(Duration::from_secs(1)));
}
