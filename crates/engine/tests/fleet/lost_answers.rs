//! Commits that were made and whose answer never came.

use std::time::Duration;

use cluster::Proxy;
use engine::{Context, Engine, Workflow, WorkflowFilter, WorkflowStatus};

use crate::support::{Ground, long, options, steps};

/// Each kind of write, and an effect of its own.
fn everything(engine: &Engine, child: &Workflow<u32, u32>) -> Workflow<u32, u32> {
    let child = child.clone();
    let workflow = engine.register("everything", move |ctx: &mut Context, n: u32| -> engine::Result<u32> {
        let me = ctx.workflow_id().clone();
        ctx.send(&me, "self", n)?;
        let step = ctx.step("step", |_| Ok::<_, engine::Error>(n + 1))?;
        let id = me.to_string();
        ctx.transaction("insert", |tx| tx.execute("INSERT INTO public.effect VALUES ($1)", [&id]))?;
        let inline = ctx.run(&child, 2)?;
        let beside = ctx.start(&child, 3)?;
        ctx.sleep(Duration::from_millis(1))?;
        let message: Option<u32> = ctx.recv("self", Duration::from_secs(60))?;
        Ok(step + inline + beside.result(ctx)? + message.unwrap_or(1000))
    });
    workflow.unwrap()
}

/// 26: many connections are cut after the server has done what it was asked and before it could say so.
#[test]
fn lost_answers_lose_nothing_and_double_nothing() {
    let ground = Ground::new();
    drop(ground.open());
    ground.sql().batch_execute("CREATE TABLE public.effect (id text)").unwrap();
    let proxy = Proxy::before(ground.cluster).unwrap();
    let engine = options()
        .suspend_after(Duration::ZERO)
        .open(&format!("{}&connect_timeout=60", proxy.url(&ground.database)))
        .unwrap();
    let child = steps(&engine);
    let workflow = everything(&engine, &child);
    engine.launch().unwrap();
    // A fresh connection prepares its statements anew, so a transaction may take some twenty requests.
    proxy.lose_every(41);
    let mut started = 0;
    while proxy.lost() < u64::from(long(250, 1_000)) {
        let handles: Vec<_> = (0..16)
            .map(|n| (n, workflow.start_as(&engine, &format!("w{}", started + n), n).unwrap()))
            .collect();
        for (n, handle) in handles {
            assert_eq!(handle.result().unwrap(), n + 1 + 2 + 3 + n);
        }
        started += 16;
    }
    proxy.lose_every(0);
    let done = WorkflowFilter::new().status(WorkflowStatus::Success);
    assert_eq!(engine.count(&done).unwrap(), u64::from(started * 3));
    assert_eq!(ground.count("SELECT count(*) FROM dbos.workflow_status"), i64::from(started * 3));
    assert_eq!(ground.count("SELECT count(*) FROM public.effect"), i64::from(started));
    assert_eq!(ground.count("SELECT count(DISTINCT id) FROM public.effect"), i64::from(started));
    assert_eq!(ground.count("SELECT count(*) FROM dbos.notifications WHERE consumed"), i64::from(started));
    assert_eq!(ground.count("SELECT count(*) FROM dbos.notifications"), i64::from(started));
    assert_eq!(ground.count("SELECT max(recovery_attempts) FROM dbos.workflow_status"), 1);
}
