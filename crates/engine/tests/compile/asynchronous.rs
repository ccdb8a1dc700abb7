//! Async workflows.

use std::collections::BTreeSet;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::{AsyncContext, BoxError, Engine, Error, StepInfo, StepOptions};
use tokio::task::yield_now;

use crate::{App, Odd, failure, half, number, result};

#[test]
fn a_body_borrows_what_is_around_it() {
    async fn borrows(mut ctx: AsyncContext, name: String) -> engine::Result<(usize, String)> {
        let mut seen = Vec::new();
        ctx.step("mutably", async |_| {
            seen.push(name.len());
            yield_now().await;
            seen.push(1);
            engine::ok(())
        })
        .await?;
        let (lower, upper) = tokio::join!(
            ctx.step("lower", async |_| {
                yield_now().await;
                engine::ok(name.to_lowercase())
            }),
            ctx.step("upper", async |_| {
                yield_now().await;
                engine::ok(name.to_uppercase())
            }),
        );
        let (lower, upper) = (lower?, upper?);
        let options = StepOptions::new().attempts_max(3).interval(Duration::ZERO);
        let text = ctx
            .step_with("repeated", &options, async |step: StepInfo| {
                yield_now().await;
                half(step.attempt())?;
                engine::ok(format!("{name} {lower} {upper}"))
            })
            .await?;
        Ok((seen.into_iter().sum(), text))
    }
    let app = App::new();
    let engine = app.open();
    let borrows = engine.register_async("borrows", borrows).unwrap();
    engine.launch().unwrap();
    assert_eq!(result(&engine, &borrows, "Ab".to_owned()).unwrap(), (3, "Ab ab AB".to_owned()));
}

#[test]
fn errors_of_any_kind_come_out_of_async_steps_and_workflows() {
    async fn of_anyhow(mut ctx: AsyncContext, text: String) -> anyhow::Result<u32> {
        let n = number(&text)?;
        let n = ctx.step("half", async |_| half(n)).await?;
        let n = ctx.step("boxed", async |_| {
            anyhow::ensure!(n != 1, "one is too few");
            yield_now().await;
            Ok(half(n)?)
        });
        let n = n.await?;
        let sum = ctx.step("any", async |_| {
            yield_now().await;
            engine::ok(half(n)? + number("1")? + "1".parse::<u32>()?)
        });
        Ok(sum.await?)
    }
    let app = App::new();
    let engine = app.open();
    let of_anyhow = engine.register_async("of_anyhow", of_anyhow).unwrap();
    let of_boxes = engine.register_async("of_boxes", async |mut ctx: AsyncContext, n: u32| {
        if n == 0 {
            return Err::<_, BoxError>("nothing to do".into());
        }
        Ok(ctx.step("half", async |_| Ok::<_, Odd>(half(n)? + half(2)?)).await?)
    });
    let of_boxes = of_boxes.unwrap();
    let closed_by_ok = engine.register_async("closed_by_ok", async |mut ctx: AsyncContext, n: u32| {
        let n = ctx.step("half", async |_| half(n)).await?;
        engine::ok(half(n)? + number("1")?)
    });
    let closed_by_ok = closed_by_ok.unwrap();
    engine.launch().unwrap();
    assert_eq!(result(&engine, &of_anyhow, "8".to_owned()).unwrap(), 3);
    assert_eq!(result(&engine, &of_boxes, 2).unwrap(), 2);
    assert_eq!(result(&engine, &closed_by_ok, 4).unwrap(), 2);
    for (text, said) in [("", "no number"), ("3", "3 is odd"), ("2", "one is too few"), ("12", "3 is odd")] {
        let failed = failure(&engine, &of_anyhow, text.to_owned());
        assert!(failed.contains(said), "{failed}");
    }
    assert!(failure(&engine, &of_boxes, 0).contains("nothing to do"));
    assert!(failure(&engine, &closed_by_ok, 2).contains("1 is odd"));
}

#[test]
fn what_an_async_workflow_captures_needs_no_clones() {
    let app = App::new();
    let engine = app.open();
    let child = engine.register_async("child", async |mut ctx: AsyncContext, n: u32| {
        ctx.step("more", async |_| engine::ok(n + 1)).await
    });
    let child = child.unwrap();
    let (prefix, shared) = ("n = ".to_owned(), Arc::new(40));
    let captures = engine.register_async("captures", async move |mut ctx: AsyncContext, n: u32| {
        let sum = ctx.step("sum", async |_| engine::ok(n + *shared)).await?;
        let beside = ctx.start(&child, sum).await?;
        let sum = ctx.run(&child, sum).await? + beside.result(&mut ctx).await? - 41;
        let text = ctx.step_with("text", &StepOptions::retries(), async |_| {
            yield_now().await;
            engine::ok(format!("{prefix}{sum}"))
        });
        text.await
    });
    let captures = captures.unwrap();
    engine.launch().unwrap();
    assert_eq!(result(&engine, &captures, 1).unwrap(), "n = 43");
}

#[test]
fn a_transaction_step_owns_what_it_uses() {
    let app = App::new();
    let engine = app.open();
    let moves = engine.register_async("moves", async |mut ctx: AsyncContext, name: String| {
        let key = ctx.workflow_id().to_string();
        let written = ctx.transaction("write", move |tx| {
            tx.execute("CREATE TABLE t (k TEXT, n TEXT)", ())?;
            tx.execute("INSERT INTO t VALUES ($1, $2)", (&key, &name))?;
            engine::ok(name.len())
        });
        written.await
    });
    let moves = moves.unwrap();
    engine.launch().unwrap();
    assert_eq!(result(&engine, &moves, "abc".to_owned()).unwrap(), 3);
}

#[test]
fn a_step_is_limited_by_its_options() {
    let app = App::new();
    let engine = app.open();
    let limited = engine.register_async("limited", async |mut ctx: AsyncContext, texts: Vec<String>| {
        let options = StepOptions::new().timeout(Duration::from_millis(1));
        let late = ctx.step_with("late", &options, async |_| {
            pending::<()>().await;
            engine::ok(texts.len())
        });
        engine::ok(late.await.is_err())
    });
    let limited = limited.unwrap();
    engine.launch().unwrap();
    assert!(result(&engine, &limited, Vec::new()).unwrap());
}

#[test]
fn whether_to_retry_an_async_step_may_hang_on_what_is_captured() {
    let app = App::new();
    let engine = app.open();
    let fatal = BTreeSet::from([3, 7]);
    let judged = engine.register_async("judged", async move |mut ctx: AsyncContext, (): ()| {
        let options = StepOptions::new()
            .attempts_max(10)
            .interval(Duration::ZERO)
            .should_retry_if(move |error| error.downcast_ref().is_none_or(|Odd(n)| !fatal.contains(n)));
        ctx.step_with("fails", &options, async |step: StepInfo| Err::<(), _>(Odd(step.attempt()))).await
    });
    let judged = judged.unwrap();
    engine.launch().unwrap();
    let failed = failure(&engine, &judged, ());
    assert!(failed.contains("3 is odd") && !failed.contains("4 is odd"), "{failed}");
}

#[test]
fn contexts_and_handles_go_to_other_tasks() {
    let app = App::new();
    let path = app.dir.path().join("compile.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let engine = Engine::options().open_async(&format!("sqlite:{}", path.display())).await.unwrap();
        let moved = engine.register("moved", async |mut ctx: AsyncContext, n: u32| {
            let task = tokio::spawn(async move {
                let a = ctx.step("a", async |_| half(n)).await?;
                ctx.sleep(Duration::from_millis(1)).await?;
                ctx.step("b", async |_| half(a)).await
            });
            engine::ok(task.await??)
        });
        let moved = moved.unwrap();
        engine.launch().await.unwrap();
        let handle = engine.start(&moved, 8).await.unwrap();
        let awaited = tokio::spawn(handle.into_future());
        assert_eq!(awaited.await.unwrap().unwrap(), 2);
        let (within, moved) = (engine.clone(), moved.clone());
        let started = tokio::spawn(async move {
            let handle = within.start(&moved, 12).await?;
            within.send(handle.id(), "topic", "word".to_owned()).await?;
            handle.await
        });
        assert_eq!(started.await.unwrap().unwrap(), 3);
        engine.shutdown(Duration::from_secs(60)).await;
    });
}

/// Only what lives across an await must be able to change its thread.
#[test]
fn what_is_not_send_may_be_used_between_two_awaits() {
    let app = App::new();
    let engine = app.open();
    let local = engine.register_async("local", async |mut ctx: AsyncContext, n: u32| {
        let sum = {
            let shared = Rc::new(n);
            *shared + *Rc::clone(&shared)
        };
        ctx.step("sum", async |_| {
            let sum = *Rc::new(sum);
            yield_now().await;
            Ok::<_, Error>(sum)
        })
        .await
    });
    let local = local.unwrap();
    engine.launch().unwrap();
    assert_eq!(result(&engine, &local, 2).unwrap(), 4);
}
