use std::sync::Arc;
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment};
use engine::{Error, StepOptions, Workflow};

use engine::sql::SqlError;

use crate::backend::BEGIN;
use crate::support::{App, Counter, Latch, Result};
use crate::way::{Context, Engine};

fn deposits(engine: &Engine, bodies: &Counter) -> Workflow<i64, i64> {
    let bodies = bodies.clone();
    let workflow = engine.register("deposit", move |ctx: &mut Context, cents: i64| {
        let bodies = bodies.clone();
        ctx.transaction("deposit", move |tx| {
            bodies.count();
            tx.execute("UPDATE account SET cents = cents + $1", [cents])?;
            tx.query_one("SELECT cents FROM account", ())?.get(0)
        })
    });
    workflow.unwrap()
}

/// An account with 100 cents.
pub(crate) fn bank() -> App {
    let app = App::new();
    drop(app.open());
    app.batch("CREATE TABLE account (cents bigint); INSERT INTO account VALUES (100)");
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
        let failed = ctx.transaction("t", |tx| -> Result<(), SqlError> {
            tx.execute("UPDATE account SET cents = 0", ())?;
            tx.execute("UPDATE no_such_table SET x = 0", ())?;
            Ok(())
        });
        Ok(failed.unwrap_err().to_string())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    assert!(error.starts_with("step t failed: ") && error.contains("no_such_table"), "{error}");
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
            tx.execute("UPDATE account SET cents = cents + 1", ())?;
            if step.attempt() < 4 {
                return Err("not yet".into());
            }
            Ok(tx.query_one("SELECT cents FROM account", ())?.get(0)?)
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
        ctx.transaction("t", |tx| tx.execute("UPDATE account SET cents = 0", ()).map(|_| f64::NAN))
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
    let workflow =
        engine.register("w", |ctx: &mut Context, sql: String| ctx.transaction("t", move |tx| tx.batch(&sql)));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let run = |sql: &str| workflow.start(&engine, sql.to_owned()).unwrap().result();
    for sql in ["COMMIT", "ROLLBACK", &format!("COMMIT; {BEGIN}"), &format!("ROLLBACK; {BEGIN}")] {
        let error = run(sql).unwrap_err().to_string();
        assert!(error.contains("ended the transaction itself"), "{sql}: {error}");
        // The next one finds a connection in order.
        run("SAVEPOINT mine; UPDATE account SET cents = 7; ROLLBACK TO mine").unwrap();
    }
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 100);
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
        let (other, inner) = (other.clone(), inner.clone());
        ctx.transaction("t", move |_| other.start(&inner, ()).map(drop))
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
    // By the real clock: on a server one that finds a conflict waits before it tries again.
    let open = || app.open_with(Engine::options().app("test"));
    let engines = [open(), open()];
    let workflows: Vec<_> = engines.iter().map(|engine| deposits(engine, &bodies)).collect();
    for engine in &engines {
        engine.launch().unwrap();
    }
    let handles: Vec<_> = (0..60).map(|n| workflows[n % 2].start(&engines[n % 2], 1).unwrap()).collect();
    let mut seen: Vec<i64> = handles.iter().map(|handle| handle.result().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (101..=160).collect::<Vec<_>>());
}

/// A commit is done, its answer is lost, and the look for its traces fails as well.
#[test]
fn an_effect_is_not_repeated_when_its_commit_cannot_be_looked_up() {
    let app = bank();
    let (side, lost) = (app.clone(), Counter::default());
    let hidden = Latch::default();
    let hook: Arc<CommitHook> = {
        let hidden = hidden.clone();
        Arc::new(move |point| {
            let after = point.moment == Moment::After && point.kinds.contains(&"transaction_step");
            if !after || lost.count() > 0 {
                return Fate::Go;
            }
            side.batch("ALTER TABLE operation_outputs RENAME TO hidden");
            hidden.open();
            Fate::FailForNow
        })
    };
    let engine = app.open_with(app.options().commit_hook(hook));
    let bodies = Counter::default();
    let workflow = deposits(&engine, &bodies);
    engine.launch().unwrap();
    let handle = workflow.start(&engine, 5).unwrap();
    hidden.hold();
    // The next try waits for the clock.
    (0..10_000).for_each(|_| std::thread::yield_now());
    app.batch("ALTER TABLE hidden RENAME TO operation_outputs");
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
    app.batch(
        "CREATE TABLE owner (id INTEGER PRIMARY KEY);
             CREATE TABLE pet (owner INTEGER REFERENCES owner (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        ctx.transaction("adopt", |tx| tx.execute("INSERT INTO pet VALUES (404)", ()))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap_err();
    assert!(error.to_string().to_lowercase().contains("foreign key constraint"), "{error}");
    assert_eq!(app.value::<u32>("SELECT count(*) FROM pet", []), 0);
    assert_eq!(app.recorded("w"), ["adopt"]);
}
