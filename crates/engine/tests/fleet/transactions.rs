//! Transaction steps that lose their connection, and that meet each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use engine::sql::SqlError;
use engine::{BoxError, Context};

use crate::support::{Ground, eventually, listen_to_the_log, options, sql};

/// More often than a body is run that fails by itself.
#[test]
fn a_body_whose_connection_is_lost_under_it_runs_again_until_it_is_not() {
    const LOST: usize = 12;
    let ground = Ground::new();
    let engine = ground.open();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> engine::Result<usize> {
        ctx.transaction("lost", |tx| -> Result<usize, SqlError> {
            let before = counted.fetch_add(1, Ordering::SeqCst);
            if before < LOST {
                tx.execute("SELECT pg_terminate_backend(pg_backend_pid())", ())?;
            }
            Ok(before)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), LOST);
    assert_eq!(tries.load(Ordering::SeqCst), LOST + 1);
}

#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
enum Ends {
    Well,
    WithItsError,
    WithAnotherError,
}

/// It would be for ever: each time the server ends its transaction.
#[test]
fn a_body_that_leaves_its_transaction_idle_for_too_long_fails_after_ten_runs() {
    let ground = Ground::new();
    let engine = ground.open();
    let tries = Arc::new(AtomicUsize::new(0));
    let (counted, url) = (tries.clone(), ground.url());
    let workflow = engine.register("w", move |ctx: &mut Context, ends: Ends| -> engine::Result<usize> {
        ctx.transaction("idle", |tx| -> Result<usize, BoxError> {
            let before = counted.fetch_add(1, Ordering::SeqCst);
            let pid: i32 = tx.query_one("SELECT pg_backend_pid()", ())?.get(0)?;
            // Where this process is late, the end of the session is the answer to this already.
            let _ = tx.batch("SET LOCAL idle_in_transaction_session_timeout = '1ms'");
            let mut beside = sql(&url);
            let ended = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1";
            eventually("ended", || beside.query_one(ended, &[&pid]).unwrap().try_get(0).unwrap());
            match ends {
                Ends::Well => {}
                Ends::WithItsError => tx.batch("SELECT 1")?,
                Ends::WithAnotherError => return Err("the service is down".into()),
            }
            Ok(before)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let timeout = "idle-in-transaction timeout";
    for (ends, reason) in [
        (Ends::Well, timeout),
        (Ends::WithItsError, timeout),
        (Ends::WithAnotherError, "the service is down"),
    ] {
        let error = workflow.start(&engine, ends).unwrap().result().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        // The driver does not always hear why its connection ended: such a run does not count.
        let tries = tries.swap(0, Ordering::SeqCst);
        assert!(tries >= 10, "{tries}");
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
        ctx.transaction("leave", |tx| -> Result<u64, SqlError> {
            let others: i64 = tx.query_one("SELECT count(*) FROM duty WHERE d <> $1", [doctor])?.get(0)?;
            if counted.fetch_add(1, Ordering::SeqCst) < 2 {
                both_have_read.wait();
            }
            if others > 0 { tx.execute("DELETE FROM duty WHERE d = $1", [doctor]) } else { Ok(0) }
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let both = [1, 2].map(|doctor| workflow.start(&engine, doctor).unwrap());
    let left: u64 = both.iter().map(|handle| handle.result().unwrap()).sum();
    assert_eq!((left, runs.load(Ordering::SeqCst)), (1, 3), "somebody stays");
    assert_eq!(log.lines(&format!("/{}", ground.database)).len(), 0);
}

/// Whatever it says, it is about what the body wrote, and so for the workflow to deal with.
#[test]
fn what_the_commit_refuses_fails_the_step() {
    let ground = Ground::new();
    let engine = ground.open();
    let refuses = "
        CREATE TABLE orders (n int);
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'sold out'; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION no();";
    ground.sql().batch_execute(refuses).unwrap();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| -> engine::Result<String> {
        let ordered = ctx.transaction("order", |tx| tx.execute("INSERT INTO orders VALUES (1)", ()));
        Ok(ordered.unwrap_err().to_string())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let seen = workflow.start(&engine, ()).unwrap().result().unwrap();
    assert!(seen.contains("sold out"), "{seen}");
}

/// The one connection is used again: of what one body left in its session nothing is there for another workflow's.
#[test]
fn a_body_finds_a_session_as_new() {
    let ground = Ground::new();
    let engine = options().open(&format!("{}&pool_max=1", ground.url())).unwrap();
    let leaves = "
        SET search_path = pg_catalog; SET TIME ZONE 'Asia/Tokyo'; SET statement_timeout = '1h';
        SELECT set_config('app.tenant', '42', false), pg_advisory_lock(7);
        CREATE TEMP TABLE left_behind ()";
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> engine::Result<Vec<String>> {
        ctx.transaction("t", |tx| -> Result<Vec<String>, BoxError> {
            let session = "
                SELECT current_setting('search_path'), current_setting('TimeZone'),
                       current_setting('statement_timeout'), COALESCE(current_setting('app.tenant', true), ''),
                       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())::text,
                       (SELECT count(*) FROM pg_class WHERE relname = 'left_behind')::text, pg_backend_pid()::text";
            let row = tx.query_one(session, ())?;
            let seen = (0..7).map(|n: usize| row.get(n)).collect::<Result<_, _>>()?;
            tx.batch(leaves)?;
            Ok(seen)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let run = || workflow.start(&engine, ()).unwrap().result().unwrap();
    let first = run();
    assert_eq!(first[3..6], ["", "0", "0"]);
    assert_eq!(run(), first);
}
