//! Plain workflows.

use std::sync::Arc;
use std::time::Duration;

use engine::{BoxError, Context, Error, StepInfo, StepOptions};

use crate::{App, Odd, failure, half, number, result};

#[test]
fn errors_of_any_kind_come_out_of_steps_and_workflows() {
    fn of_anyhow(ctx: &mut Context, text: String) -> anyhow::Result<u32> {
        let text = ctx.step("text", |_| engine::ok(text))?;
        let n = number(&text)?;
        let n = ctx.step("half", |_| half(n))?;
        let n = ctx.step("boxed", |_| {
            anyhow::ensure!(n != 1, "one is too few");
            Ok(half(n)?)
        })?;
        Ok(ctx.step("any", |_| engine::ok(half(n)? + number("1")? + "1".parse::<u32>()?))?)
    }
    let app = App::new();
    let engine = app.open();
    let of_anyhow = engine.register("of_anyhow", of_anyhow).unwrap();
    let of_boxes = engine
        .register("of_boxes", |ctx: &mut Context, n: u32| -> Result<u32, BoxError> {
            if n == 0 {
                return Err("nothing to do".into());
            }
            Ok(ctx.step("half", |_| Ok::<_, Odd>(half(n)? + half(2)?))?)
        })
        .unwrap();
    let closed_by_ok = engine
        .register("closed_by_ok", |ctx: &mut Context, n: u32| {
            let n = ctx.step("half", |_| half(n))?;
            engine::ok(half(n)? + number("1")?)
        })
        .unwrap();
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
fn what_is_captured_needs_no_clones() {
    let app = App::new();
    let engine = app.open();
    let child = engine.register("child", |_: &mut Context, n: u32| Ok::<_, Error>(n + 1)).unwrap();
    let (prefix, shared) = ("n = ".to_owned(), Arc::new(40));
    let captures = engine.register("captures", move |ctx: &mut Context, n: u32| {
        let mut seen = Vec::new();
        let sum = ctx.step("sum", |_| {
            seen.push(n);
            engine::ok(n + *shared)
        })?;
        let sum = ctx.run(&child, sum)?;
        let text =
            ctx.step_with("text", &StepOptions::retries(), |_| engine::ok(format!("{prefix}{sum}")))?;
        engine::ok(format!("{text} after {}", seen.len()))
    });
    let captures = captures.unwrap();
    engine.launch().unwrap();
    assert_eq!(result(&engine, &captures, 1).unwrap(), "n = 42 after 1");
}

#[test]
fn whether_to_retry_may_hang_on_what_is_captured() {
    let app = App::new();
    let engine = app.open();
    let (limit, count) = (3, Arc::new(std::sync::atomic::AtomicU32::new(0)));
    let judged = engine.register("judged", move |ctx: &mut Context, (): ()| {
        let judge = count.clone();
        let options = StepOptions::new()
            .attempts_max(10)
            .interval(Duration::ZERO)
            .should_retry_if(move |_| judge.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 < limit);
        ctx.step_with("fails", &options, |step: &StepInfo| Err::<(), _>(Odd(step.attempt())))
    });
    let judged = judged.unwrap();
    engine.launch().unwrap();
    let failed = failure(&engine, &judged, ());
    assert!(failed.contains("3 is odd") && !failed.contains("4 is odd"), "{failed}");
}

/// Errors go to another thread, and several may look at one. What is not made for that is told as a text.
#[test]
fn an_error_that_is_not_sync_is_told_by_its_text() {
    #[derive(Debug, thiserror::Error)]
    #[error("a count of {}", .0.get())]
    struct NotSync(std::cell::Cell<u32>);
    let app = App::new();
    let engine = app.open();
    let told = engine.register("told", |ctx: &mut Context, n: u32| {
        let fails = || Err::<(), _>(NotSync(n.into()));
        ctx.step("fails", |_| fails().map_err(|error| error.to_string()))
    });
    let told = told.unwrap();
    engine.launch().unwrap();
    let failed = failure(&engine, &told, 7);
    assert!(failed.contains("a count of 7"), "{failed}");
}
