use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{Error, Event, Failure, Observer, StepInfo, StepOptions};

use crate::support::{App, Counter, Latch, Result, eventually};
use crate::way::{Context, Engine};

const SECOND: Duration = Duration::from_secs(1);

/// Waits that steps took before their next attempts, in the order of the attempts.
#[derive(Default)]
struct Waits(Mutex<Vec<Option<Duration>>>);

impl Observer for Waits {
    fn observe(&self, event: &Event<'_>) {
        if let Event::StepRan { failure: Some(_), retry_in, .. } = event {
            self.0.lock().unwrap().push(*retry_in);
        }
    }
}

/// Runs a step that fails so many times, with the clock going on by itself.
fn run(app: &App, options: StepOptions, failures: usize) -> (Result<u32>, usize, Vec<Option<Duration>>) {
    let waits = Arc::new(Waits::default());
    let engine = app.open_with(app.options().observer(waits.clone()));
    let bodies = Counter::default();
    let counted = bodies.clone();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
        ctx.step_with("flaky", &options, |step| {
            let n = counted.count();
            assert_eq!(step.attempt() as usize, n + 1, "the first attempt is 1");
            if n < failures { Err(Failure::new("Flaky", format!("answer {n}"))) } else { Ok(step.attempt()) }
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let handle = workflow.start(&engine, ()).unwrap();
    eventually("the workflow ends", || {
        app.clock.advance(Duration::from_millis(50));
        handle.status().unwrap().is_terminal()
    });
    let waits = waits.0.lock().unwrap().clone();
    (handle.result(), bodies.get(), waits)
}

/// 5: attempts and waits; none after the last.
#[test]
fn a_step_is_tried_again_until_it_succeeds() {
    let (result, bodies, waits) = run(&App::new(), StepOptions::retries(), 2);
    assert_eq!((result.unwrap(), bodies), (3, 3));
    assert_eq!(waits, [Some(SECOND), Some(2 * SECOND)]);
}

#[test]
fn the_waits_follow_interval_rate_and_cap() {
    let options = StepOptions::new().attempts_max(5).interval(SECOND).rate(10.0).cap(30 * SECOND);
    let (_, _, waits) = run(&App::new(), options, 4);
    assert_eq!(waits, [1, 10, 30, 30].map(|s| Some(s * SECOND)));
    let shorter = StepOptions::new().attempts_max(4).interval(SECOND).rate(0.1);
    let (_, _, waits) = run(&App::new(), shorter, 3);
    assert_eq!(waits, [1000, 100, 10].map(|ms| Some(Duration::from_millis(ms))));
}

/// 9: the exhausted error lists every attempt.
#[test]
fn exhausted_retries_tell_what_each_attempt_said() {
    let app = App::new();
    let (result, bodies, waits) = run(&app, StepOptions::retries(), 99);
    assert_eq!(bodies, 3);
    assert_eq!(waits.last(), Some(&None), "no wait after the last attempt");
    let error = result.unwrap_err().to_string();
    assert!(
        error.ends_with(
            "step flaky failed 3 times: attempt 1: Flaky: answer 0; attempt 2: Flaky: answer 1; attempt 3: Flaky: \
             answer 2"
        ),
        "{error}"
    );
    let recorded: String = app.value("SELECT error FROM operation_outputs", []);
    assert!(
        recorded.starts_with(r#"{"name":"DBOSMaxStepRetriesExceeded","message":"step flaky"#),
        "{recorded}"
    );
}

#[test]
fn exhausted_retries_are_the_same_error_live_and_replayed() {
    let app = App::new();
    let register = |engine: &Engine| {
        let options = StepOptions::new().attempts_max(2).interval(Duration::ZERO);
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<String> {
            let error = ctx.step_with("pay", &options, |step| -> Result<(), String> {
                Err(format!("no {}", step.attempt()))
            });
            Ok(format!("{:?}", error.unwrap_err()))
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    let live = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    assert_eq!(live, "step pay failed 2 times: attempt 1: no 1; attempt 2: no 2");
    drop(engine);
    app.interrupt("w", 1);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<String>("w").unwrap().result().unwrap(), live);
}

#[derive(Debug, thiserror::Error)]
enum Pay {
    #[error("the line is down")]
    LineDown,
    #[error("declined")]
    Declined,
}

fn only_the_line(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(Pay::LineDown))
}

/// 6: `should_retry` ends the attempts at once, also at the last one.
#[test]
fn an_error_that_is_not_worth_a_retry_is_returned_at_once() {
    for declined_at in [0, 2] {
        let app = App::new();
        let engine = app.open();
        let bodies = Counter::default();
        let counted = bodies.clone();
        let options = StepOptions::retries().interval(Duration::ZERO).should_retry(only_the_line);
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            ctx.step_with("pay", &options, |_| -> Result<(), Pay> {
                Err(if counted.count() == declined_at { Pay::Declined } else { Pay::LineDown })
            })
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
        assert!(error.ends_with("step pay failed: Pay: declined"), "{error}");
        assert_eq!(bodies.get(), declined_at + 1);
    }
}

/// 7: what a body may know of itself.
#[test]
fn a_body_knows_its_workflow_its_place_and_its_attempt() {
    let app = App::new();
    let engine = app.open();
    let options = StepOptions::retries().interval(Duration::ZERO);
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<Vec<String>> {
        let tell = |step: &StepInfo| {
            format!("{} {} {}/{}", step.workflow_id(), step.step_id(), step.attempt(), step.attempts_max())
        };
        let first = ctx.step("one", |step| Ok::<_, Error>(tell(step)))?;
        let second =
            ctx.step_with(
                "two",
                &options,
                |step| {
                    if step.attempt() < 3 { Err("not yet") } else { Ok(tell(step)) }
                },
            )?;
        Ok(vec![first, second])
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let told = workflow.start_as(&engine, "w-1", ()).unwrap().result().unwrap();
    assert_eq!(told, ["w-1 1 1/1", "w-1 2 3/3"]);
}

/// 8: nothing is recorded before the last attempt, so recovery starts the attempts anew.
#[test]
fn a_workflow_that_is_recovered_during_retries_starts_the_attempts_anew() {
    let app = App::new();
    let bodies = Counter::default();
    let register = |engine: &Engine| {
        let bodies = bodies.clone();
        let options = StepOptions::new().attempts_max(3).interval(Duration::ZERO);
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            ctx.step_with("pay", &options, |step| {
                bodies.count();
                if step.attempt() < 2 { Err("not yet") } else { Ok(step.attempt()) }
            })
        });
        workflow.unwrap()
    };
    let engine = app.open();
    let workflow = register(&engine);
    engine.launch().unwrap();
    workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
    drop(engine);
    app.interrupt("w", 0);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    assert_eq!(engine.retrieve::<u32>("w").unwrap().result().unwrap(), 2);
    assert_eq!(bodies.get(), 4);
}

#[test]
fn options_without_meaning_are_refused_before_the_step_runs() {
    for options in [StepOptions::new().attempts_max(0), StepOptions::retries().rate(f64::NAN)] {
        let app = App::new();
        let engine = app.open();
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            ctx.step_with("s", &options, |_| -> Result<()> { panic!("must not run") })
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
        assert!(error.contains("retries of step s: "), "{error}");
    }
}

/// A workflow that waits for its next attempt takes no worker.
#[test]
fn a_wait_between_attempts_lends_its_worker() {
    let app = App::new();
    let engine = app.open_with(app.options().workers_max(1).tasks_max(1));
    let latch = Latch::default();
    let held = latch.clone();
    let options = StepOptions::retries().interval(3600 * SECOND);
    let flaky = engine.register("flaky", move |ctx: &mut Context, (): ()| {
        ctx.step_with("s", &options, |step| {
            if step.attempt() == 1 {
                held.hold();
                return Err("not yet");
            }
            Ok(())
        })
    });
    let quick = engine.register("quick", |_: &mut Context, (): ()| Ok::<_, Error>(()));
    let (flaky, quick) = (flaky.unwrap(), quick.unwrap());
    engine.launch().unwrap();
    let first = flaky.start(&engine, ()).unwrap();
    latch.wait_for(1);
    let second = quick.start(&engine, ()).unwrap();
    latch.open();
    second.result().unwrap();
    assert!(!first.status().unwrap().is_terminal());
    app.clock.advance(3600 * SECOND);
    first.result().unwrap();
}

#[test]
fn errors_too_large_to_record_are_cut_and_the_same_live_and_replayed() {
    let app = App::new();
    let register = |engine: &Engine| {
        let options = StepOptions::retries().attempts_max(2).interval(Duration::ZERO);
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<String> {
            let result = ctx.step_with("s", &options, |_| Err::<(), _>("x".repeat(6 << 20)));
            let text = match result.unwrap_err() {
                Error::RetriesExhausted { attempts, .. } => {
                    format!("{} {}", attempts.count(), attempts.first().unwrap().message().len())
                }
                other => format!("{other}"),
            };
            ctx.step("seen", |_| Ok::<_, Error>(text))
        });
        workflow.unwrap()
    };
    let live = {
        let engine = app.open();
        let workflow = register(&engine);
        engine.launch().unwrap();
        workflow.start_as(&engine, "w", ()).unwrap().result().unwrap()
    };
    app.interrupt("w", 1);
    let engine = app.open();
    register(&engine);
    engine.launch().unwrap();
    let replayed = engine.retrieve::<String>("w").unwrap().result().unwrap();
    assert_eq!(live, replayed);
    assert!(live.starts_with("2 "), "{live}");
}

/// However often a step is tried, what is kept of it is the first failure, the last few, and how many there were.
#[test]
fn many_attempts_are_kept_in_little_room() {
    const ATTEMPTS: u32 = 20_000;
    fn error_of(said: fn(u32) -> String) -> (String, usize) {
        let app = App::new();
        let engine = app.open();
        let options = StepOptions::new().attempts_max(ATTEMPTS).interval(Duration::ZERO);
        let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
            ctx.step_with("s", &options, |step| Err::<(), _>(Failure::new("Flaky", said(step.attempt()))))
        });
        let workflow = workflow.unwrap();
        engine.launch().unwrap();
        let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
        let recorded: String = app.value("SELECT error FROM operation_outputs", []);
        (error, recorded.len())
    }
    let (alike, recorded) = error_of(|_| "no answer".to_owned());
    assert!(alike.ends_with("step s failed 20000 times: Flaky: no answer"), "{alike}");
    assert!(recorded < 1000, "{recorded}");
    let (two, _) = error_of(|attempt| if attempt % 2 == 0 { "busy" } else { "no answer" }.to_owned());
    assert!(
        two.contains("10000 times (first attempt 1, last attempt 19999): Flaky: no answer; 10000"),
        "{two}"
    );
    let (all, recorded) = error_of(|attempt| format!("no answer to {attempt}: {}", "x".repeat(2000)));
    assert!(all.contains("20000 times: attempt 1: Flaky: no answer to 1: x"), "{all}");
    assert!(all.contains("attempt 20000: Flaky: no answer to 20000: x"), "{all}");
    assert!(all.ends_with("; 19992 more said something else"), "{all}");
    assert!(all.len() < 10_000 && recorded < 50_000, "{} {recorded}", all.len());
}
