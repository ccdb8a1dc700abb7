//! A server that goes and comes back.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use cluster::{Cluster, Settings};
use engine::{Context, Engine, Error, Workflow, WorkflowFilter, WorkflowStatus};

use crate::support::{Ground, eventually, listen_to_the_log, long, options, pass, sql, steps};

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

fn has_moved(done: &AtomicU32, within: Duration) -> Duration {
    let (before, watch) = (done.load(Ordering::SeqCst), Instant::now());
    while done.load(Ordering::SeqCst) == before {
        assert!(watch.elapsed() < within, "nothing ended within {within:?}");
        std::thread::yield_now();
    }
    watch.elapsed()
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
    let begins = || log.count("outages does not answer as it should");
    std::thread::scope(|scope| {
        let _at_the_end = Stop(&until);
        scope.spawn(|| load(&engine, &workflow, 8, &until, &done));
        has_moved(&done, Duration::from_secs(10));
        for _ in 0..long(4, 30) {
            cluster.crash().unwrap();
            cluster.resume().unwrap();
            has_moved(&done, Duration::from_secs(5));
            pass(Duration::from_secs(2));
        }
        let ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = 'outages' AND pid <> pg_backend_pid() AND query LIKE '%operation_outputs%'";
        sql(&url).execute(ours, &[]).unwrap();
        has_moved(&done, Duration::from_secs(5));
        pass(Duration::from_secs(2));

        let before = begins();
        cluster.crash().unwrap();
        pass(Duration::from_secs(long(8, 60).into()));
        assert_eq!(begins(), before + 1, "said once, however long it lasts");
        cluster.resume().unwrap();
        let went_on = has_moved(&done, Duration::from_secs(10));
        // Two seconds, and what a busy machine takes to run anything.
        assert!(went_on < Duration::from_secs(4), "{went_on:?}");
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

/// More often than a body is run that fails by itself.
#[test]
fn a_body_whose_connection_is_lost_under_it_runs_again_until_it_is_not() {
    const LOST: usize = 12;
    let ground = Ground::new();
    let engine = ground.open();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> engine::Result<usize> {
        ctx.pg_transaction("lost", |tx| -> Result<usize, engine::postgres::Error> {
            let before = counted.fetch_add(1, Ordering::SeqCst);
            if before < LOST {
                tx.execute("SELECT pg_terminate_backend(pg_backend_pid())", &[])?;
            }
            Ok(before)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), LOST);
    assert_eq!(tries.load(Ordering::SeqCst), LOST + 1);
}

/// It would be for ever: each time the server ends its transaction.
#[test]
fn a_body_that_leaves_its_transaction_idle_for_too_long_fails_after_ten_runs() {
    let ground = Ground::new();
    let engine = ground.open();
    let tries = Arc::new(AtomicUsize::new(0));
    let (counted, url) = (tries.clone(), ground.url());
    let workflow = engine.register("w", move |ctx: &mut Context, notices: bool| -> engine::Result<usize> {
        ctx.pg_transaction("idle", |tx| -> Result<usize, engine::postgres::Error> {
            let pid: i32 = tx.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?;
            tx.batch_execute("SET LOCAL idle_in_transaction_session_timeout = '1ms'")?;
            let mut beside = sql(&url);
            let ended = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1";
            eventually("ended", || beside.query_one(ended, &[&pid]).unwrap().try_get(0).unwrap());
            let before = counted.fetch_add(1, Ordering::SeqCst);
            if notices {
                tx.batch_execute("SELECT 1")?;
            }
            Ok(before)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for notices in [false, true] {
        let error = workflow.start(&engine, notices).unwrap().result().unwrap_err().to_string();
        assert!(error.contains("idle-in-transaction timeout"), "{error}");
        assert_eq!(tries.swap(0, Ordering::SeqCst), 10);
    }
}

/// The database does as it should: the log has nothing to say.
#[test]
fn a_conflict_between_two_transactions_is_no_outage() {
    let log = listen_to_the_log();
    let ground = Ground::new();
    let engine = ground.open();
    ground.sql().batch_execute("CREATE TABLE duty AS SELECT d FROM generate_series(1, 2) AS d").unwrap();
    let (both_have_read, runs) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let counted = runs.clone();
    let workflow = engine.register("leave", move |ctx: &mut Context, doctor: i32| -> engine::Result<u64> {
        ctx.pg_transaction("leave", |tx| -> Result<u64, engine::postgres::Error> {
            let others: i64 =
                tx.query_one("SELECT count(*) FROM duty WHERE d <> $1", &[&doctor])?.try_get(0)?;
            if counted.fetch_add(1, Ordering::SeqCst) < 2 {
                both_have_read.wait();
            }
            if others > 0 { tx.execute("DELETE FROM duty WHERE d = $1", &[&doctor]) } else { Ok(0) }
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let both = [1, 2].map(|doctor| workflow.start(&engine, doctor).unwrap());
    let left: u64 = both.iter().map(|handle| handle.result().unwrap()).sum();
    assert_eq!((left, runs.load(Ordering::SeqCst)), (1, 3), "somebody stays");
    assert_eq!(log.count(&format!("/{}", ground.database)), 0);
}
