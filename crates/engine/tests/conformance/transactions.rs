use std::sync::Arc;
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Context, Engine, Error, StepOptions, Workflow};

use crate::support::{App, Counter, Latch, Result};

fn deposits(engine: &Engine, bodies: &Counter) -> Workflow<i64, i64> {
    let bodies = bodies.clone();
    let workflow = engine.register("deposit", move |ctx: &mut Context, cents: i64| {
        ctx.transaction("deposit", |tx| {
            bodies.count();
            tx.execute("UPDATE account SET cents = cents + ?1", [cents])?;
            tx.query_row("SELECT cents FROM account", [], |row| row.get(0))
        })
    });
    workflow.unwrap()
}

fn bank() -> App {
    let app = App::new();
    drop(app.open());
    app.sql().execute_batch("CREATE TABLE account (cents); INSERT INTO account VALUES (100)").unwrap();
    app
}

#[test]
fn the_effect_and_the_record_of_a_transaction_step_are_one_commit() {
    let (app, bodies) = (bank(), Counter::default());
    let engine = app.open();
    let workflow = deposits(&engine, &bodies);
    engine.launch().unwrap();
    assert_eq!(workflow.start_as(&engine, "w", 5).unwrap().result().unwrap(), 105);
    assert_eq!(app.recorded("w"), ["deposit"]);
    drop(engine);
    // The record is there: a recovered run does not do it again.
    app.interrupt("w", 1);
    let engine = app.open();
    deposits(&engine, &bodies);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<i64>("w").unwrap().result().unwrap(), 105);
    assert_eq!((bodies.get(), app.value::<i64>("SELECT cents FROM account", [])), (1, 105));
}

#[test]
fn a_failed_transaction_step_leaves_nothing_and_is_recorded() {
    let app = bank();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| -> Result<String> {
        let failed = ctx.transaction("t", |tx| -> Result<(), engine::rusqlite::Error> {
            tx.execute("UPDATE account SET cents = 0", [])?;
            tx.execute("UPDATE no_such_table SET x = 0", [])?;
            Ok(())
        });
        Ok(failed.unwrap_err().to_string())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    assert!(error.starts_with("step t failed: no such table: no_such_table"), "{error}");
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 100);
    assert_eq!(app.recorded("w"), ["t"]);
}

#[test]
fn each_attempt_of_a_transaction_step_has_its_own_transaction() {
    let app = bank();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        let options = StepOptions::new().attempts_max(5).interval(std::time::Duration::ZERO);
        ctx.transaction_with("t", &options, |tx, step| -> Result<i64, engine::BoxError> {
            tx.execute("UPDATE account SET cents = cents + 1", [])?;
            if step.attempt() < 3 {
                return Err("not yet".into());
            }
            Ok(tx.query_row("SELECT cents FROM account", [], |row| row.get(0))?)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 101);
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 101);
}

/// An output that cannot be recorded takes its effect with it.
#[test]
fn a_transaction_step_whose_output_cannot_be_recorded_leaves_nothing() {
    let app = bank();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |tx| tx.execute("UPDATE account SET cents = 0", []).map(|_| f64::NAN))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    assert!(workflow.start(&engine, ()).unwrap().result().is_err());
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 100);
}

/// A body that ends the transaction itself breaks the promise, and is told so.
#[test]
fn a_body_that_commits_by_itself_is_told() {
    let app = bank();
    let engine = app.open();
    let workflow = engine
        .register("w", |ctx: &mut Context, sql: String| ctx.transaction("t", |tx| tx.execute_batch(&sql)));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let run = |sql: &str| workflow.start(&engine, sql.to_owned()).unwrap().result();
    for sql in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN IMMEDIATE", "ROLLBACK; BEGIN IMMEDIATE"] {
        let error = run(sql).unwrap_err().to_string();
        assert!(error.contains("ended the transaction itself"), "{sql}: {error}");
        // The next one finds a connection in order.
        run("SAVEPOINT mine; UPDATE account SET cents = 7; ROLLBACK TO mine").unwrap();
    }
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 100);
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

/// A call of the engine from inside would wait for itself for ever.
#[test]
fn a_transaction_step_cannot_call_the_engine() {
    let app = bank();
    let engine = app.open();
    let other = engine.register("other", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    let inner = app.open();
    inner.register("other", |_: &mut Context, (): ()| Ok::<_, Error>(())).unwrap();
    inner.launch().unwrap();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |_| other.start(&inner, ()).map(drop))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("a transaction step cannot call the engine"), "{error}");
}

/// Transactions of many workflows at once take turns and lose no update.
#[test]
fn concurrent_transaction_steps_lose_no_update() {
    let (app, bodies) = (bank(), Counter::default());
    let engines = [app.open(), app.open()];
    let workflows: Vec<_> = engines.iter().map(|engine| deposits(engine, &bodies)).collect();
    for engine in &engines {
        engine.launch().unwrap();
    }
    let handles: Vec<_> = (0..60).map(|n| workflows[n % 2].start(&engines[n % 2], 1).unwrap()).collect();
    let mut seen: Vec<i64> = handles.iter().map(|handle| handle.result().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (101..=160).collect::<Vec<_>>());
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

/// A commit is done, its answer is lost, and the look for its traces fails as well.
#[test]
fn an_effect_is_not_repeated_when_its_commit_cannot_be_looked_up() {
    let app = bank();
    let (path, lost) = (app.path(), Counter::default());
    let hidden = Latch::default();
    let hook: Arc<CommitHook> = {
        let hidden = hidden.clone();
        Arc::new(move |point| {
            let after = point.moment == Moment::After && point.kinds.contains(&"transaction_step");
            if !after || lost.count() > 0 {
                return Fate::Go;
            }
            let other = engine::rusqlite::Connection::open(&path).unwrap();
            other.execute_batch("ALTER TABLE operation_outputs RENAME TO hidden").unwrap();
            hidden.open();
            Fate::FailForNow
        })
    };
    let engine = app.options().commit_hook(hook).open(&app.url()).unwrap();
    let bodies = Counter::default();
    let workflow = deposits(&engine, &bodies);
    engine.launch().unwrap();
    let handle = workflow.start(&engine, 5).unwrap();
    hidden.hold();
    // The next try waits for the clock.
    (0..10_000).for_each(|_| std::thread::yield_now());
    app.sql().execute_batch("ALTER TABLE hidden RENAME TO operation_outputs").unwrap();
    let mut result = None;
    while result.is_none() {
        app.clock.advance(Duration::from_millis(10));
        result = handle.wait(Duration::ZERO).unwrap();
    }
    assert_eq!((result, bodies.get()), (Some(105), 1));
}

/// Checked at the commit, it is the body's error all the same: recorded, and nothing is left of the effect.
#[test]
fn a_deferred_constraint_fails_the_step() {
    let app = bank();
    app.sql()
        .execute_batch(
            "CREATE TABLE owner (id INTEGER PRIMARY KEY);
             CREATE TABLE pet (owner REFERENCES owner (id) DEFERRABLE INITIALLY DEFERRED)",
        )
        .unwrap();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        ctx.transaction("adopt", |tx| tx.execute("INSERT INTO pet VALUES (404)", []))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap_err();
    assert!(error.to_string().contains("FOREIGN KEY constraint failed"), "{error}");
    assert_eq!(app.value::<u32>("SELECT count(*) FROM pet", []), 0);
    assert_eq!(app.recorded("w"), ["adopt"]);
}
