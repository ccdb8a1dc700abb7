//! What only a server has: conflicts between transactions, callers inside an async runtime, text that it refuses.

use std::time::Duration;

use engine::Error;
use engine::postgres::error::SqlState;

use crate::lasting_trouble::{at_work, is_said_once};
use crate::support::{App, Counter, Latch, Result, eventually};
use crate::transactions::bank;
use crate::way::{self, Context, Engine};
use engine::sql::SqlError;

/// A body that conflicts with another transaction runs again as a whole, however often, and its effect is there once.
#[test]
fn a_transaction_step_is_tried_again_after_a_conflict() {
    const CONFLICTS: usize = 12;
    for code in [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED] {
        let (app, bodies) = (bank(), Counter::default());
        let engine = app.open_with(Engine::options().app("test"));
        let (counted, code) = (bodies.clone(), code.code().to_owned());
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            let (counted, code) = (counted.clone(), code.clone());
            ctx.transaction("t", move |tx| -> Result<i64, SqlError> {
                tx.execute("UPDATE account SET cents = cents + 1", ())?;
                if counted.count() < CONFLICTS {
                    // As the server says it when two transactions meet.
                    tx.batch(&format!("DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$"))?;
                }
                tx.query_one("SELECT cents FROM account", ())?.get(0)
            })
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 101);
        assert_eq!(bodies.get(), CONFLICTS + 1);
        assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 101);
    }
}

/// Two that really meet: each reads what the other writes.
#[test]
fn transaction_steps_that_would_not_be_serializable_take_turns() {
    let app = App::new();
    drop(app.open());
    app.batch("CREATE TABLE duty (doctor bigint, on_call bigint); INSERT INTO duty VALUES (1, 1), (2, 1)");
    let engine = app.open_with(Engine::options().app("test"));
    let workflow = engine.register("leave", |ctx: &mut Context, doctor: i64| {
        ctx.transaction("leave", move |tx| -> Result<bool, SqlError> {
            let others: i64 = tx
                .query_one("SELECT count(*) FROM duty WHERE on_call = 1 AND doctor <> $1", [doctor])?
                .get(0)?;
            if others > 0 {
                tx.execute("UPDATE duty SET on_call = 0 WHERE doctor = $1", [doctor])?;
            }
            Ok(others > 0)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for _ in 0..10 {
        app.execute("UPDATE duty SET on_call = 1", []);
        let both = [1, 2].map(|doctor| workflow.start(&engine, doctor).unwrap());
        let left = both.iter().filter(|handle| handle.result().unwrap()).count();
        assert_eq!(left, 1, "somebody stays");
    }
}

/// The transaction is aborted by then, whatever the body makes of it.
#[test]
fn a_body_that_ignores_a_failed_statement_is_told() {
    let app = bank();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |tx| -> Result<(), SqlError> {
            tx.execute("UPDATE account SET cents = 0", ())?;
            assert!(tx.batch("SELECT 1 / 0").is_err());
            Ok(())
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.contains("a statement failed, which rolls the transaction back"), "{error}");
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 100);
}

#[test]
fn a_body_that_makes_its_commit_unsafe_is_told() {
    let app = bank();
    let engine = app.open();
    let workflow =
        engine.register("w", |ctx: &mut Context, sql: String| ctx.transaction("t", move |tx| tx.batch(&sql)));
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for (sql, told) in [
        (
            "UPDATE account SET cents = 0; SET LOCAL synchronous_commit = off",
            "switched synchronous_commit off",
        ),
        ("UPDATE account SET cents = 0; SET TRANSACTION READ ONLY", "made its transaction read-only"),
    ] {
        let error = workflow.start(&engine, sql.to_owned()).unwrap().result().unwrap_err().to_string();
        assert!(error.contains(told), "{sql}: {error}");
    }
    assert_eq!(app.value::<i64>("SELECT cents FROM account", []), 100);
}

/// The server's text has no NUL, and its JSON type no escaped one; ours are JSON in text.
#[test]
fn every_text_comes_back_as_it_was() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, text: String| -> Result<String> {
        let stepped: String = ctx.step("s", |_| Ok::<_, Error>(text.clone()))?;
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "t", stepped)?;
        Ok(ctx.recv("t", Duration::from_secs(60))?.unwrap_or_default())
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    for text in ["\0", "a\0b\u{1}", "\u{ffff}\u{10ffff}", "\\u0000", "'; --", "\u{feff}\r\n\t"] {
        assert_eq!(workflow.start(&engine, text.to_owned()).unwrap().result().unwrap(), text);
    }
}

/// With everybody who is connected to it.
#[test]
fn a_database_that_is_dropped_is_said_once() {
    let (app, latch) = (App::new(), Latch::default());
    let engine = app.open();
    // The drop makes one, of all that other tests have written.
    app.batch("CHECKPOINT");
    let workflow = at_work(&app, &engine, &latch);
    app.database.drop_for_all();
    latch.open();
    is_said_once(&app, &engine, &workflow);
}

#[test]
fn a_grant_that_is_revoked_is_said_once_and_once_more_when_it_is_back() {
    let (app, latch) = (App::new(), Latch::default());
    drop(app.open());
    let role = format!("revoked_{}", app.database.label().trim_start_matches('/'));
    app.batch(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA dbos TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA dbos TO {role}"
    ));
    let engine = app.options().open(&app.url().replace("postgres@", &format!("{role}@")));
    let engine = way::opened(engine.unwrap());
    let workflow = at_work(&app, &engine, &latch);
    app.batch(&format!("REVOKE ALL ON dbos.workflow_status FROM {role}"));
    latch.open();
    is_said_once(&app, &engine, &workflow);
    app.batch(&format!("GRANT ALL ON dbos.workflow_status TO {role}"));
    eventually("it goes on", || {
        app.clock.advance(Duration::from_secs(1));
        app.status("before") == "SUCCESS"
    });
}
