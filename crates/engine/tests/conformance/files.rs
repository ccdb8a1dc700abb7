//! What only a file has: its lock, its names, its settings.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use engine::{Error, WorkflowFilter};

use crate::lasting_trouble::{at_work, is_said_once};
use crate::support::{App, Counter, Latch, eventually};
use crate::transactions::bank;
use crate::way::{Context, Engine};

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
        let (path, counted) = (path.clone(), counted.clone());
        ctx.transaction("t", move |_| -> engine::rusqlite::Result<usize> {
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
            let synchronous = tx.query_one("PRAGMA synchronous", ())?.get::<u32>(0)?;
            tx.batch("CREATE TEMP TABLE scratch (x); PRAGMA foreign_keys = OFF")?;
            Ok::<_, engine::sql::SqlError>(synchronous)
        })
    });
    let workflow = workflow.unwrap();
    // Outside of a transaction a body can change more.
    let spoil = engine.register("spoil", |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |tx| tx.batch("COMMIT; PRAGMA synchronous = OFF; BEGIN IMMEDIATE"))
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

/// Without the log what was acknowledged is gone; without its index other processes do not see it.
#[test]
fn nothing_is_acknowledged_after_the_log_or_its_index_was_removed() {
    for suffix in ["-wal", "-shm"] {
        let app = App::new();
        let engine = app.open();
        let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
            ctx.transaction("t", |tx| tx.query_one("SELECT 7", ())?.get::<u32>(0))
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        workflow.start_as(&engine, "one", ()).unwrap().result().unwrap();
        std::fs::remove_file(beside(&app.database.path(), suffix)).unwrap();
        let error = workflow.start_as(&engine, "two", ()).unwrap_err().to_string();
        assert!(error.contains(&format!("system.db{suffix} was deleted or replaced")), "{error}");
        assert!(error.contains("restore its files and start the programs again"), "{error}");
    }
}

/// Whoever meets the damage: here one that only reads.
#[test]
fn nothing_is_acknowledged_after_a_connection_has_met_damage() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>("x".repeat(4000))).unwrap();
    engine.launch().unwrap();
    for _ in 0..50 {
        workflow.start(&engine, ()).unwrap().result().unwrap();
    }
    app.batch("PRAGMA wal_checkpoint(PASSIVE)");
    let bytes = usize::try_from(std::fs::metadata(app.database.path()).unwrap().len()).unwrap();
    assert!(bytes > 50 * 4000);
    // In place, as `cp` does.
    let mut file = std::fs::OpenOptions::new().write(true).open(app.database.path()).unwrap();
    file.write_all(&vec![0xa5; bytes]).unwrap();
    let mut seen = std::iter::repeat_with(|| engine.list(&WorkflowFilter::new()));
    let error = seen.find_map(Result::err).unwrap().to_string();
    assert!(error.contains("system.db is damaged"), "{error}");
    let error = workflow.start_as(&engine, "two", ()).unwrap_err().to_string();
    assert!(error.contains("system.db is damaged") && error.contains("nothing more is written"), "{error}");
    // To close it would free the locks of all connections of this process, which have nothing to lose.
    drop(file);
}

/// By an operator who has not stopped the program. Whatever of the log is in the file by then.
#[test]
fn nothing_is_acknowledged_after_a_backup_was_copied_over_the_file() {
    for checkpoint in ["", "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(RESTART)"] {
        let app = App::new();
        let engine = app.open();
        let workflow = engine
            .register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>("x".repeat(4000))));
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        let run = |id: &str| workflow.start_as(&engine, id, ())?.result().map(|value| value.len());
        let backup = app.database.path().with_extension("backup");
        run("before").unwrap();
        app.batch("PRAGMA wal_checkpoint(PASSIVE)");
        assert!(Command::new("cp").arg(app.database.path()).arg(&backup).status().unwrap().success());
        for n in 0..20 {
            run(&format!("after-{n}")).unwrap();
        }
        app.batch(&format!("PRAGMA wal_checkpoint(PASSIVE); {checkpoint}"));
        run("last").unwrap();
        assert!(Command::new("cp").arg(&backup).arg(app.database.path()).status().unwrap().success());
        let error = run("too late").unwrap_err().to_string();
        assert!(
            error.contains("another program wrote over the file") || error.contains("malformed"),
            "{checkpoint}: {error}"
        );
        assert!(error.contains("system.db is damaged"), "{checkpoint}: {error}");
        run("later still").unwrap_err();
    }
}

/// Checkpoints write to the file too, those of other processes as well.
#[test]
fn a_checkpoint_of_another_process_is_no_overwriting() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>("x".repeat(4000))).unwrap();
    engine.launch().unwrap();
    for n in 0..40 {
        workflow.start(&engine, ()).unwrap().result().unwrap();
        let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][n % 4];
        app.batch(&format!("PRAGMA wal_checkpoint({mode})"));
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// How many workflows have succeeded in a copy of the one file, without what lies beside it.
fn succeeded_in_a_copy(app: &App) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    std::fs::copy(app.database.path(), &copy).unwrap();
    let copy = engine::rusqlite::Connection::open(copy).unwrap();
    let sql = "SELECT count(*) FROM workflow_status WHERE status = 'SUCCESS'";
    copy.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn has_a_log(app: &App) -> bool {
    beside(&app.database.path(), "-wal").exists()
}

/// A handler of signals, say, keeps a clone until the process ends.
#[test]
fn a_shutdown_leaves_one_file_and_a_clone_can_still_look() {
    let app = App::new();
    let engine = app.open();
    let clone = engine.clone();
    let workflow = engine.register("w", |ctx: &mut Context, (): ()| {
        ctx.transaction("t", |tx| tx.query_one("SELECT 7", ())?.get::<u32>(0))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handles: Vec<_> = (0..20).map(|_| workflow.start(&engine, ()).unwrap()).collect();
    for handle in &handles {
        assert_eq!(handle.result().unwrap(), 7);
    }
    assert_eq!(engine.list(&WorkflowFilter::new()).unwrap().len(), 20);
    assert!(has_a_log(&app));
    assert_eq!(engine.shutdown(MINUTE), []);
    drop(engine);
    assert_eq!(succeeded_in_a_copy(&app), 20);
    assert!(!has_a_log(&app));

    assert_eq!(clone.list(&WorkflowFilter::new()).unwrap().len(), 20);
    assert_eq!(clone.retrieve::<u32>(handles[0].id().as_str()).unwrap().result().unwrap(), 7);
    assert_eq!(clone.steps(handles[0].id()).unwrap().len(), 1);
    assert!(!has_a_log(&app), "what looks afterwards leaves nothing either");
    assert!(matches!(clone.cancel(handles[0].id()), Err(Error::ShuttingDown)));
}

/// Also of an engine that was dropped, and of one that was never launched.
#[test]
fn an_engine_that_is_dropped_leaves_one_file() {
    let app = App::new();
    drop(app.open());
    assert!(!has_a_log(&app));
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    handle.result().unwrap();
    drop(engine);
    assert_eq!(succeeded_in_a_copy(&app), 1);
    assert!(!has_a_log(&app));
    // A handle is no engine, and looks all the same.
    assert_eq!(handle.status().unwrap().as_str(), "SUCCESS");
    assert!(!has_a_log(&app));
}

/// Somebody else, another process say, is in the middle of reading and writing.
#[test]
fn a_shutdown_neither_waits_for_others_on_the_file_nor_fails_them() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Ok::<_, Error>(7)).unwrap();
    engine.launch().unwrap();
    workflow.start(&engine, ()).unwrap().result().unwrap();
    let other = engine::rusqlite::Connection::open(app.database.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    let watch = std::time::Instant::now();
    assert_eq!(engine.shutdown(MINUTE), []);
    assert!(watch.elapsed() < Duration::from_secs(4), "{:?}", watch.elapsed());
    other.execute_batch("INSERT INTO theirs VALUES (2); COMMIT").unwrap();
    assert_eq!(other.query_row("SELECT count(*) FROM theirs", [], |row| row.get::<_, u32>(0)).unwrap(), 2);
    drop(other);
    assert_eq!(succeeded_in_a_copy(&app), 1);
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
        let spoiled = ctx.transaction("t", |tx| tx.batch("PRAGMA query_only = ON"));
        assert!(spoiled.unwrap_err().to_string().contains("made its connection read-only"));
        ctx.transaction("u", |tx| tx.execute("UPDATE account SET cents = 7", ()))?;
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
    let engine = app.open_with(Engine::options().app("test"));
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        let counted = counted.clone();
        ctx.transaction("fill", move |tx| {
            let now = tx.query_one("PRAGMA page_count", ())?.get::<i64>(0)?;
            let max = if counted.count() < 3 { now } else { 1_000_000 };
            tx.query_one(&format!("PRAGMA max_page_count = {max}"), ())?;
            tx.execute("INSERT INTO account VALUES (zeroblob(100000))", ())
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
    let engine = app.open_with(app.options().suspend_after(Duration::ZERO));
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
