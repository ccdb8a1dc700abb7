//! An async runtime of one thread goes on, whatever the engine waits for. Each test has something last for a while, and
//! looks at the longest time in which another task of the runtime did not come to run.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod outages;
mod ticks;
mod work;

use std::time::{Duration, Instant};

use engine::rusqlite::Connection;
use engine::{Engine, EngineOptions, WorkflowFilter, WorkflowStatus};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::ticks::never_blocked;
use crate::work::{Work, all_calls};

/// How long the things last that must not block.
const BLOCK: Duration = Duration::from_secs(2);
/// Longer than anything here takes.
const MINUTE: Duration = Duration::from_secs(60);

/// A new database on each of the servers that are there.
fn on_each_database(test: impl Fn(&str)) {
    watch::test(watch::LIMIT * 2);
    let dir = tempfile::tempdir().unwrap();
    test(&format!("sqlite:{}", dir.path().join("ticking.db").display()));
    if let Some(cluster) = cluster::try_shared() {
        test(&cluster.url(&cluster.fresh_database()));
    }
}

/// A machine that is busy takes nobody for dead here.
fn options() -> EngineOptions {
    Engine::options().app("ticking").takeover_within(MINUTE)
}

/// Time passes: what is tested here happens in it by itself. Blocks the thread.
fn pass(time: Duration) {
    let watch = Instant::now();
    while let Some(left) = time.checked_sub(watch.elapsed()) {
        std::thread::park_timeout(left);
    }
}

#[test]
fn a_transaction_step_that_takes_long_blocks_no_runtime() {
    on_each_database(|url| {
        never_blocked("a transaction step", BLOCK, async || {
            let engine = options().open_async(url).await.unwrap();
            let work = Work::register(&engine);
            engine.launch().await.unwrap();
            let (begun, begins) = oneshot::channel();
            work.when_a_transaction_begins(begun);
            let slow = engine.start(&work.transaction, BLOCK.as_secs()).await.unwrap();
            begins.await.unwrap();
            let calls = all_calls(&engine, &work);
            assert_eq!(slow.await.unwrap(), BLOCK.as_secs());
            calls.all_end().await;
            engine.shutdown(MINUTE).await;
        });
    });
}

#[test]
fn a_shutdown_or_a_drop_while_a_body_runs_blocks_no_runtime() {
    on_each_database(|url| {
        for is_dropped in [false, true] {
            never_blocked("the end of an engine", BLOCK, async || {
                let engine = options().open_async(url).await.unwrap();
                let work = Work::register(&engine);
                engine.launch().await.unwrap();
                let (begun, begins) = oneshot::channel();
                work.when_a_transaction_begins(begun);
                let slow = engine.start(&work.transaction, BLOCK.as_secs()).await.unwrap();
                begins.await.unwrap();
                if is_dropped {
                    drop((engine, slow));
                    tokio::time::sleep(BLOCK).await;
                } else {
                    assert!(engine.shutdown(MINUTE).await.is_empty());
                }
            });
        }
    });
}

#[test]
fn another_program_that_keeps_the_file_locked_blocks_no_runtime() {
    watch::test(watch::LIMIT);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("locked.db");
    never_blocked("a file that is locked", BLOCK, async || {
        let engine = options().open_async(&format!("sqlite:{}", path.display())).await.unwrap();
        let work = Work::register(&engine);
        engine.launch().await.unwrap();
        let other = Connection::open(&path).unwrap();
        other.busy_timeout(MINUTE).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let calls = all_calls(&engine, &work);
        tokio::time::sleep(BLOCK).await;
        other.execute_batch("COMMIT").unwrap();
        calls.all_end().await;
        engine.shutdown(MINUTE).await;
    });
}

/// What one engine leaves behind, another one takes up.
#[test]
fn a_recovery_of_a_thousand_histories_blocks_no_runtime() {
    const HISTORIES: u64 = 1000;
    on_each_database(|url| {
        never_blocked("a recovery", BLOCK, async || {
            let ended = WorkflowFilter::new().status(WorkflowStatus::Success);
            // With a long lease the second one would wait as long until it takes the first one for dead.
            let options = || Engine::options().app("ticking");
            let (first, second) = (options().open_async(url), options().open_async(url));
            let (first, second) = (first.await.unwrap(), second.await.unwrap());
            let before = second.count(&ended).await.unwrap();
            let work = Work::register(&first);
            first.launch().await.unwrap();
            let starts = (0..HISTORIES).map(|_| first.start(&work.long, false));
            join_all(starts).await.into_iter().for_each(|started| drop(started.unwrap()));
            while work.at_their_last_steps() < HISTORIES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // None of them ends: all are dropped, and given back or left to whoever finds them.
            let _left = first.shutdown(Duration::ZERO).await;

            let work = Work::register(&second);
            work.let_the_last_steps_end();
            second.launch().await.unwrap();
            while second.count(&ended).await.unwrap() < before + HISTORIES {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(work.at_their_last_steps() >= HISTORIES);
            second.shutdown(MINUTE).await;
        });
    });
}
