//! What only a file has: its lock, its names, its settings.

use std::time::Duration;

use engine::{Context, Engine, Error};

use crate::lasting_trouble::{at_work, is_said_once};
use crate::support::{App, Counter, Latch, eventually};
use crate::transactions::bank;

const MINUTE: Duration = Duration::from_secs(60);

/// Writing through a connection of the application waits for the step's own lock, so it can never succeed.
#[test]
fn a_body_that_waits_for_its_own_lock_fails_and_does_not_hang() {
    let app = App::new();
    drop(app.open());
    app.batch("CREATE TABLE t (x)");
    let engine = app.open();
    let (path, bodies) = (app.database.path(), Counter::default());
    let counted = bodies.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |_| -> engine::rusqlite::Result<usize> {
            counted.count();
            let own = engine::rusqlite::Connection::open(&path)?;
            own.busy_timeout(Duration::from_millis(1))?;
            own.execute("INSERT INTO t VALUES (1)", [])
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("database is locked"), "{error}");
    assert_eq!(bodies.get(), 1);
}

#[test]
fn every_body_of_a_transaction_step_finds_the_same_connection() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |tx| {
            let synchronous = tx.pragma_query_value(None, "synchronous", |row| row.get::<_, u32>(0))?;
            tx.execute_batch("CREATE TEMP TABLE scratch (x); PRAGMA foreign_keys = OFF")?;
            Ok::<_, engine::rusqlite::Error>(synchronous)
        })
    });
    let workflow = workflow.unwrap();
    // Outside of a transaction a body can change more.
    let spoil = engine.register("spoil", |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |tx| tx.execute_batch("COMMIT; PRAGMA synchronous = OFF; BEGIN IMMEDIATE"))
    });
    let spoil = spoil.unwrap();
    engine.launch().unwrap();
    for _ in 0..3 {
        assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 2);
        assert!(spoil.start(&engine, ()).unwrap().result().is_err());
    }
}

#[test]
fn nothing_is_acknowledged_into_a_file_that_is_gone() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "one", ()).unwrap().result().unwrap();
    std::fs::rename(app.database.path(), app.database.path().with_extension("moved")).unwrap();
    let error = workflow.start_as(&engine, "two", ()).unwrap_err().to_string();
    assert!(error.contains("system.db was deleted or replaced"), "{error}");
}

#[test]
fn a_file_with_a_second_name_is_refused() {
    let app = App::new();
    drop(app.open());
    let link = app.database.path().with_file_name("link.db");
    std::fs::hard_link(app.database.path(), &link).unwrap();
    for path in [app.database.path(), link] {
        let error = Engine::options().open_file(&path).unwrap_err().to_string();
        assert!(error.contains("2 hard links") && error.contains("keep one name"), "{error}");
    }
}

/// What a body does to its connection's settings does not reach the engine's.
#[test]
fn a_body_that_spoils_its_connection_spoils_no_other() {
    let app = bank();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        let spoiled = ctx.transaction("t", |tx| tx.execute_batch("PRAGMA query_only = ON"));
        assert!(spoiled.unwrap_err().to_string().contains("made its connection read-only"));
        ctx.transaction("u", |tx| tx.execute("UPDATE account SET cents = 7", []))?;
        ctx.step("s", |_| Ok::<_, Error>(7))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    assert_eq!(handle.result().unwrap(), 7);
}

/// The disk is full for a moment, and the body is the first to be told.
#[test]
fn a_full_disk_in_the_body_is_waited_for() {
    let app = bank();
    let bodies = Counter::default();
    let counted = bodies.clone();
    let engine = Engine::options().app("test").open(&app.url()).unwrap();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        ctx.transaction("fill", |tx| {
            let now = tx.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))?;
            let max = if counted.count() < 3 { now } else { 1_000_000 };
            tx.query_row(&format!("PRAGMA max_page_count = {max}"), [], |_| Ok(()))?;
            tx.execute("INSERT INTO account VALUES (zeroblob(100000))", [])
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 1);
    assert_eq!(bodies.get(), 4);
}

/// Another process holds the write lock, and the engine has something to commit.
#[test]
fn a_shutdown_keeps_its_deadline_while_the_database_is_locked() {
    let app = App::new();
    let engine = app.options().suspend_after(Duration::ZERO).open(&app.url()).unwrap();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| ctx.sleep(MINUTE)).unwrap();
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap();
    eventually("asleep", || app.status("w") == "DELAYED");
    let other = engine::rusqlite::Connection::open(app.database.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    app.clock.advance(2 * MINUTE); // due: it must be woken, and cannot be
    let watch = std::time::Instant::now();
    engine.shutdown(Duration::from_millis(100));
    // The lock is waited for five seconds.
    assert!(watch.elapsed() < Duration::from_secs(4), "{:?}", watch.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
}

/// By somebody who cleans up, while the engine is at work.
#[test]
fn a_file_that_is_unlinked_is_said_once() {
    let (app, latch) = (App::new(), Latch::default());
    let engine = app.open();
    let workflow = at_work(&app, &engine, &latch);
    std::fs::remove_file(app.database.path()).unwrap();
    latch.open();
    is_said_once(&app, &engine, &workflow);
}
