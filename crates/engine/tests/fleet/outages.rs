//! A server that goes and comes back.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, Settings};
use engine::{Engine, Error, Workflow, WorkflowFilter, WorkflowStatus};

use crate::support::{listen_to_the_log, long, options, pass, sql, steps};

/// Callers that start workflows and wait for them, until told to stop. A call that the outage refused is made again.
fn load(engine: &Engine, workflow: &Workflow<u32, u32>, callers: u32, until: &AtomicBool, done: &AtomicU32) {
    std::thread::scope(|scope| {
        for caller in 0..callers {
            scope.spawn(move || {
                for n in 0.. {
                    if until.load(Ordering::SeqCst) {
                        return;
                    }
                    let id = format!("w-{caller}-{n}");
                    let handle = loop {
                        match workflow.start_as(engine, &id, 3) {
                            Ok(handle) => break handle,
                            Err(Error::Unanswered { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    };
                    // Longer than any absence here; when an assertion has failed, the server may never return.
                    let ended = (0..120).find_map(|_| handle.wait(Duration::from_secs(1)).unwrap());
                    let Some(ended) = ended else { return };
                    assert_eq!(ended, 3);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
}

/// Within seconds, and what a busy machine takes to run anything.
fn has_moved(done: &AtomicU32) {
    let (before, watch, within) = (done.load(Ordering::SeqCst), Instant::now(), Duration::from_secs(30));
    while done.load(Ordering::SeqCst) == before {
        assert!(watch.elapsed() < within, "nothing ended within {within:?}");
        pass(Duration::from_millis(1));
    }
}

/// Tells the callers to stop, also when an assertion has failed.
struct Stop<'u>(&'u AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Restarts, a connection that is killed, and an absence: no workflow is lost, none fails of it, and the log says so once.
#[test]
fn a_server_that_comes_back_finds_everything_going_on() {
    let log = listen_to_the_log();
    if cluster::try_shared().is_none() {
        return;
    }
    let cluster = Cluster::start(&Settings::default()).unwrap();
    let url = cluster.url("outages");
    let engine = options().open(&url).unwrap();
    let workflow = steps(&engine);
    engine.launch().unwrap();
    let (until, done) = (AtomicBool::new(false), AtomicU32::new(0));
    let begins = || log.lines("outages does not answer as it should").len();
    std::thread::scope(|scope| {
        let _at_the_end = Stop(&until);
        scope.spawn(|| load(&engine, &workflow, 8, &until, &done));
        has_moved(&done);
        for _ in 0..long(4, 30) {
            cluster.crash().unwrap();
            cluster.resume().unwrap();
            has_moved(&done);
            pass(Duration::from_secs(2));
        }
        let ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = 'outages' AND pid <> pg_backend_pid() AND query LIKE '%operation_outputs%'";
        sql(&url).execute(ours, &[]).unwrap();
        has_moved(&done);
        pass(Duration::from_secs(2));

        let before = begins();
        cluster.crash().unwrap();
        pass(Duration::from_secs(long(8, 60).into()));
        assert_eq!(begins(), before + 1, "said once, however long it lasts");
        cluster.resume().unwrap();
        has_moved(&done);
    });
    let all = WorkflowFilter::new();
    let done = u64::from(done.load(Ordering::SeqCst));
    assert_eq!(engine.count(&all).unwrap(), done);
    assert_eq!(engine.count(&all.status(WorkflowStatus::Success)).unwrap(), done);
    let rows = "SELECT count(*), count(DISTINCT (workflow_uuid, function_id)) FROM dbos.operation_outputs";
    let row = sql(&url).query_one(rows, &[]).unwrap();
    let steps = i64::try_from(done * 3).unwrap();
    assert_eq!((row.try_get(0).unwrap(), row.try_get(1).unwrap()), (steps, steps));
}
