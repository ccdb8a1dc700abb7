use engine::*;
use std::time::Duration;
#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("x.db").display());
    let engine = Engine::options().app("t").open(&url).unwrap();
    let child = engine
        .register("child", |ctx: &mut Context, n: u32| -> Result<u32> {
            ctx.step("double", |_| Ok::<_, Error>(n * 2))
        })
        .unwrap();
    let c2 = child.clone();
    let wf = engine
        .register("wf", move |ctx: &mut Context, n: u32| -> Result<u32> {
            let a = ctx.step("a", |_| Ok::<_, Error>(n + 1))?;
            let b = ctx.run(&c2, a)?;
            let kids = (0..3).map(|i| ctx.start(&c2, i)).collect::<Result<Vec<_>>>()?;
            let s = kids.iter().map(|k| k.result(ctx)).sum::<Result<u32>>()?;
            ctx.sleep(Duration::from_millis(20))?;
            let t = ctx.transaction("tx", |tx| {
                tx.execute_batch("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES (1)")?;
                tx.query_row("select count(*) from t", [], |r| r.get::<_, u32>(0))
            })?;
            Ok(b + s + t)
        })
        .unwrap();
    engine.launch().unwrap();
    let h = wf.start(&engine, 1).unwrap();
    assert_eq!(h.result().unwrap(), 4 + 6 + 1);
    for s in engine.steps(h.id()).unwrap() {
        println!("{s:?}");
    }
    for w in engine.list(&WorkflowFilter::new()).unwrap() {
        println!("{w:?}");
    }
    let t = std::time::Instant::now();
    let n = 200;
    for i in 0..n {
        wf.start_as(&engine, &format!("w{i}"), 1).unwrap();
    }
    for i in 0..n {
        engine.retrieve::<u32>(&format!("w{i}")).unwrap().result().unwrap();
    }
    println!("{:?}", t.elapsed());
    assert!(engine.shutdown(Duration::from_secs(1)).is_empty());
}
