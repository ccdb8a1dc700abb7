//! The moment between a body and its write: an execution that has just lost its workflow stops there and writes nothing,
//! and an execution that is about to wait for what has just come does not leave its thread.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::testing::{CommitHook, Fate, Moment, fenced_writes};
use engine::{Error, Event, Observer, Stop, Workflow};

use crate::backend::WORKFLOW_STATUS;
use crate::support::{App, Counter, Latch, Result};
use crate::way::{Context, Engine, Operation};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Acts before the first commit with a write of this kind.
fn before(kind: &'static str, act: impl FnOnce() + Send + 'static) -> Arc<CommitHook> {
    refusing("nothing", kind, act)
}

/// Acts before the first commit with a write of one kind, and refuses commits with a write of another kind for good.
fn refusing(
    refused: &'static str,
    kind: &'static str,
    act: impl FnOnce() + Send + 'static,
) -> Arc<CommitHook> {
    let act = Mutex::new(Some(act));
    Arc::new(move |point| {
        if point.moment == Moment::Before && point.kinds.contains(&kind) {
            let act = act.lock().unwrap().take();
            if let Some(act) = act {
                act();
            }
        }
        if point.kinds.contains(&refused) { Fate::FailForGood } else { Fate::Go }
    })
}

/// Tells how runs end that are nobody's child.
struct Ends(Mutex<Sender<String>>);

impl Ends {
    fn new() -> (Arc<Self>, Receiver<String>) {
        let (sender, receiver) = channel();
        (Arc::new(Self(Mutex::new(sender))), receiver)
    }
}

impl Observer for Ends {
    fn observe(&self, event: &Event<'_>) {
        let end = match event {
            Event::WorkflowLeft { workflow, reason, .. } => (workflow, format!("{reason:?}")),
            Event::WorkflowEnded { workflow, status, .. } => (workflow, status.to_string()),
            _ => return,
        };
        if !end.0.as_str().contains('-') {
            let _ = self.0.lock().unwrap().send(end.1);
        }
    }
}

/// A body, given a child that is held until the end of the test.
type Body = fn(&mut Context, &Workflow<(), ()>) -> Result<()>;

/// What an execution writes, and a body that makes it write that.
const ROWS: &[(&str, &str, Body)] = &[
    ("start_child", "beside", |ctx, child| ctx.start(child, ()).map(drop)),
    ("start_child", "inline", |ctx, child| ctx.run(child, ())),
    ("record_step", "an output", |ctx, _| ctx.step("s", |_| Ok::<_, Error>(()))),
    ("record_step", "an error", |ctx, _| ctx.step("s", |_| Err::<(), _>("no"))),
    ("record_step", "the end of a sleep", |ctx, _| ctx.sleep(Duration::from_millis(1))),
    ("settle", "a success", |_, _| Ok(())),
    ("settle", "an error", |_, _| Err(Error::ShuttingDown)),
    ("suspend", "a sleep", |ctx, _| ctx.sleep(HOUR)),
    ("suspend", "a child", |ctx, child| ctx.start(child, ())?.result(ctx)),
    ("suspend", "a message", |ctx, _| ctx.recv::<()>("none", HOUR).map(drop)),
    ("send", "to itself", |ctx, _| {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "t", 1)
    }),
    ("receive", "a message that is there", |ctx, _| {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "t", 1)?;
        ctx.recv::<u32>("t", HOUR).map(drop)
    }),
    ("receive", "no message", |ctx, _| ctx.recv::<u32>("t", HOUR).map(drop)),
    ("suspend", "a race", |ctx, child| {
        let child = ctx.start(child, ())?;
        let message = Operation::recv("none", HOUR).map(|_: Option<()>| ());
        ctx.race([message, Operation::sleep(HOUR), Operation::result(&child)])
    }),
    ("decide", "a step", |ctx, _| {
        ctx.race([Operation::sleep(HOUR), Operation::step("s", |_| Ok::<_, Error>(()))])
    }),
    ("decide", "a sleep", |ctx, _| ctx.race([Operation::sleep(Duration::ZERO)])),
    ("decide", "a message", |ctx, _| {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "t", 1)?;
        ctx.race([Operation::recv("t", HOUR).map(|_: Option<u32>| ())])
    }),
    ("decide", "no message", |ctx, _| ctx.race([Operation::recv("t", HOUR).map(|_: Option<u32>| ())])),
    ("cancel_child", "that lost a race", |ctx, child| {
        let child = ctx.start(child, ())?;
        ctx.race([Operation::sleep(Duration::ZERO), Operation::result_or_cancel(&child)])
    }),
    ("release", "of a refused step", |ctx, _| ctx.step("refused", |_| Ok::<_, Error>(()))),
];

/// What makes another the owner, and what the execution is told then.
const LOSSES: [(&str, &str); 2] =
    [("owner_xid = 'another', executor_id = 'local'", "NotOwner"), ("status = 'CANCELLED'", "Cancelled")];

/// All that is written of a workflow.
fn written(app: &App, id: &str) -> Vec<String> {
    let mut all = Vec::new();
    for sql in [
        "SELECT concat_ws(' ', status, owner_xid, executor_id, recovery_attempts, delay_until_epoch_ms, attributes)
           FROM workflow_status WHERE workflow_uuid = ?1",
        "SELECT workflow_uuid FROM workflow_status WHERE parent_workflow_id = ?1",
        "SELECT concat_ws(' ', function_id, function_name, output, error) FROM operation_outputs
          WHERE workflow_uuid = ?1 ORDER BY function_id",
        "SELECT concat_ws(' ', output, error) FROM workflow_output WHERE workflow_uuid = ?1",
        "SELECT concat_ws(' ', message, CASE WHEN consumed THEN 'consumed' END) FROM notifications
          WHERE destination_uuid = ?1 ORDER BY message_uuid",
    ] {
        all.extend(app.column::<String>(sql, [id]));
    }
    all
}

/// An engine with the hook, and a workflow of this body.
fn engine_with(
    app: &App,
    hook: Arc<CommitHook>,
    ends: Arc<Ends>,
    held: &Latch,
    body: Body,
) -> (Engine, Workflow<(), ()>) {
    let options = app.options().suspend_after(Duration::ZERO).commit_hook(hook).observer(ends);
    let engine = app.open_with(options);
    let held = held.clone();
    let child = engine.register("child", move |ctx: &mut Context, (): ()| {
        ctx.step("held", |_| {
            held.hold();
            Ok::<_, Error>(())
        })
    });
    let child = child.unwrap();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| body(ctx, &child)).unwrap();
    engine.launch().unwrap();
    (engine, workflow)
}

/// 21, 24: whatever an execution was about to write, it is not written, and the execution stops.
#[test]
fn an_execution_that_loses_its_workflow_before_a_write_stops_and_writes_nothing() {
    let app = App::new();
    for (n, (kind, what, body)) in ROWS.iter().enumerate() {
        for (loss, told) in LOSSES {
            loses_its_workflow(&app, &format!("w{n}{told}"), kind, *body, (loss, told))
                .unwrap_or_else(|wrong| panic!("{kind}, {what}, {loss}: {wrong}"));
        }
    }
    let tested: std::collections::BTreeSet<_> = ROWS.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(tested, fenced_writes().collect(), "each kind of write has its rows");
}

/// Runs a workflow to the write before which it is lost, and says what is wrong with what came after.
fn loses_its_workflow(
    app: &App,
    id: &str,
    kind: &'static str,
    body: Body,
    (loss, told): (&'static str, &str),
) -> Result<(), String> {
    let (held, (ends, ended), (tells, then)) = (Latch::default(), Ends::new(), channel());
    let (side, workflow) = (app.clone(), id.to_owned());
    let take_over = move || {
        let sql = format!("UPDATE workflow_status SET {loss} WHERE workflow_uuid = ?1");
        assert_eq!(side.execute(&sql, [&workflow]), 1);
        tells.send(written(&side, &workflow)).unwrap();
    };
    let is_release = kind == "release";
    let hook = refusing(if is_release { "record_step" } else { "nothing" }, kind, take_over);
    let (engine, workflow) = engine_with(app, hook, ends, &held, body);
    workflow.start_as(&engine, id, ()).unwrap();
    let _waiting = watch::waiting(format!("{kind} before which {id} is lost"));
    let before = then.recv_timeout(watch::PATIENCE).map_err(|_| "it never came to the write".to_owned())?;
    let end = ended.recv_timeout(watch::PATIENCE).map_err(|_| "it goes on".to_owned())?;
    held.open();
    let running = engine.shutdown(MINUTE);
    let after = written(app, id);
    // What is given back was left before.
    if end != told && !(is_release && end.starts_with("Database")) {
        return Err(format!("it ended as {end}"));
    }
    if running.is_empty() && after == before {
        return Ok(());
    }
    Err(format!("{running:?} run on; it wrote {after:?}, and there was {before:?}"))
}

/// The look at the owner and the record are in the transaction of the body.
#[test]
fn a_transaction_step_that_loses_its_workflow_leaves_no_effect() {
    for lost_in_the_body in [false, true] {
        let (app, bodies, done) = (App::new(), Counter::default(), Latch::default());
        let engine = app.open();
        app.batch("CREATE TABLE effect (x integer)");
        let (side, counted, at_its_end) = (app.clone(), bodies.clone(), done.clone());
        let sql = format!("UPDATE {WORKFLOW_STATUS} SET owner_xid = 'another', executor_id = 'local'");
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<()> {
            if !lost_in_the_body {
                side.execute(&sql, []);
            }
            let (sql, counted) = (sql.clone(), counted.clone());
            let tried = ctx.transaction("t", move |tx| {
                counted.count();
                if lost_in_the_body {
                    tx.execute(&sql, ())?;
                }
                tx.execute("INSERT INTO effect VALUES (1)", ())
            });
            let stopped = matches!(tried, Err(Error::Stopped { reason: Stop::NotOwner, .. }));
            if stopped {
                at_its_end.arrive();
            }
            tried.map(drop)
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        workflow.start_as(&engine, "w", ()).unwrap();
        done.wait_for(1);
        drop(engine);
        assert_eq!(app.value::<u32>("SELECT count(*) FROM effect", []), 0);
        assert!(app.recorded("w").is_empty());
        assert!(lost_in_the_body || bodies.get() == 0, "it is looked at before the body runs");
    }
}

/// How often `w` left before it ended well, when this happened just before it would have left its thread.
fn leaves(happens: fn(&App), body: Body) -> usize {
    let (app, held) = (App::new(), Latch::default());
    let (ends, ended) = Ends::new();
    let side = app.clone();
    let hook = before("suspend", move || happens(&side));
    let (engine, workflow) = engine_with(&app, hook, ends, &held, body);
    let handle = workflow.start_as(&engine, "w", ()).unwrap();
    handle.result().unwrap();
    held.open();
    assert_eq!(engine.shutdown(MINUTE), []);
    ended.try_iter().filter(|end| end == "Suspended").count()
}

#[test]
fn a_message_that_comes_before_its_receiver_leaves_keeps_it() {
    let comes = |app: &App| {
        let sql = "INSERT INTO notifications
                          (message_uuid, destination_uuid, topic, message, created_at_epoch_ms, serialization)
                   VALUES ('m', 'w', 't', '7', 1, 'portable_json')";
        app.execute(sql, []);
    };
    let body: Body = |ctx, _| {
        assert_eq!(ctx.recv::<u32>("t", HOUR)?, Some(7));
        Ok(())
    };
    assert_eq!(leaves(comes, body), 0);
}

#[test]
fn a_child_that_ends_before_its_parent_leaves_keeps_it() {
    for status in ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"] {
        let ends: fn(&App) = match status {
            "SUCCESS" => |app| end_child(app, "SUCCESS"),
            "ERROR" => |app| end_child(app, "ERROR"),
            "CANCELLED" => |app| end_child(app, "CANCELLED"),
            _ => |app| end_child(app, "MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
        };
        let body: Body = |ctx, child| {
            let child = ctx.start(child, ())?;
            let _ = child.result(ctx);
            Ok(())
        };
        assert_eq!(leaves(ends, body), 0, "{status}");
    }
}

/// By another program, which wakes nobody.
fn end_child(app: &App, status: &str) {
    let sql = "UPDATE workflow_status SET status = ?1, owner_xid = NULL WHERE workflow_uuid = 'w-1'";
    assert_eq!(app.execute(sql, [status]), 1);
    let outcome = "INSERT INTO workflow_output (workflow_uuid, output, error, retention_timestamp)
                   VALUES ('w-1', ?1, ?2, 1)";
    let error = "{\"name\":\"E\",\"message\":\"\"}";
    let columns = if status == "SUCCESS" { (Some("null"), None) } else { (None, Some(error)) };
    app.execute(outcome, columns);
}

/// It leaves, and is due at once: nobody has to call it.
#[test]
fn a_time_that_comes_before_its_sleeper_leaves_wakes_it() {
    let bodies: [Body; 2] =
        [|ctx, _| ctx.sleep(HOUR), |ctx, _| ctx.recv::<u32>("none", HOUR).map(|none| assert_eq!(none, None))];
    for body in bodies {
        assert!(leaves(|app| app.clock.advance(HOUR), body) <= 1);
    }
}
