//! Trouble that lasts is said once, and once more when it is over.

use std::time::{Duration, Instant};

use engine::{Error, Workflow};

use crate::support::{App, Latch, eventually};
use crate::way::{Context, Engine};

/// A database that refuses what the engine asks of it says so in so many lines at most, however long it does.
const LINES_MAX: usize = 6;

/// An engine that is at work: a body that is held, and one that others started before.
pub(crate) fn at_work(app: &App, engine: &Engine, latch: &Latch) -> Workflow<(), u32> {
    let gate = latch.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        ctx.step("s", |_| {
            gate.hold();
            Ok::<_, Error>(7)
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start_as(engine, "before", ()).unwrap();
    latch.wait_for(1);
    app.clock.advance(Duration::from_secs(1));
    workflow
}

/// So many seconds of trouble, in which callers go on calling. What was said in the second half of it is nothing.
pub(crate) fn is_said_once(app: &App, engine: &Engine, workflow: &Workflow<(), u32>) {
    let looks = |time: u64| {
        let start = Instant::now();
        eventually("time passes", || {
            app.clock.advance(Duration::from_millis(100));
            let _ = workflow.start_as(engine, "meanwhile", ());
            let _ = engine.count(&engine::WorkflowFilter::new());
            start.elapsed() > Duration::from_millis(time)
        });
    };
    eventually("it is said", || !app.said().is_empty());
    looks(1500);
    let said = app.said();
    assert!((1..=LINES_MAX).contains(&said.len()), "{said:#?}");
    looks(1000);
    assert_eq!(app.said(), said, "and no more of the same");
}

#[test]
fn a_table_that_is_gone_is_said_once_and_once_more_when_it_is_back() {
    for table in ["workflow_status", "operation_outputs", "workflow_input"] {
        let (app, latch) = (App::new(), Latch::default());
        let engine = app.open();
        let workflow = at_work(&app, &engine, &latch);
        app.batch(&format!("ALTER TABLE {table} RENAME TO hidden"));
        latch.open();
        let _ = workflow.start_as(&engine, "meanwhile", ());
        is_said_once(&app, &engine, &workflow);
        app.batch(&format!("ALTER TABLE hidden RENAME TO {table}"));
        eventually("it goes on", || {
            app.clock.advance(Duration::from_secs(1));
            let _ = workflow.start_as(&engine, "afterwards", ());
            app.status("before") == "SUCCESS"
        });
        let over =
            || app.said().iter().any(|line| line.contains("is over") && line.contains(" failures in "));
        eventually("its end is said", || {
            app.clock.advance(Duration::from_secs(1));
            let _ = workflow.start(&engine, ());
            over()
        });
    }
}
