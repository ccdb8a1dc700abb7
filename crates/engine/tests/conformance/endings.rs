//! Every bad ending leaves a state with a readable reason; other workflows do not notice.

use std::time::Duration;

use engine::{Error, StepOptions};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{App, Result};
use crate::way::{Context, Engine};

/// Runs one workflow and returns its error, after a look at its row and at a neighbour.
fn error_of<O>(body: impl Fn(&mut Context) -> Result<O> + Send + Sync + 'static) -> String
where
    O: Serialize + for<'de> Deserialize<'de> + Send + 'static,
{
    let app = App::new();
    let engine = app.open();
    let bad = engine.register("bad", move |ctx: &mut Context, (): ()| body(ctx)).unwrap();
    let good =
        engine.register("good", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7))).unwrap();
    engine.launch().unwrap();
    let handle = bad.start_as(&engine, "bad", ()).unwrap();
    let Err(error) = handle.result() else { panic!("it ended well") };
    assert_eq!(app.status("bad"), "ERROR");
    let recorded: String = app.value("SELECT error FROM workflow_output WHERE workflow_uuid = 'bad'", []);
    assert!(serde_json::from_str::<engine::Failure>(&recorded).is_ok(), "{recorded}");
    assert_eq!(good.start(&engine, ()).unwrap().result().unwrap(), 7, "the others go on");
    assert_eq!(engine.shutdown(Duration::from_secs(60)), []);
    error.to_string()
}

/// 3: an error is stored and returned, and the body is not run again.
#[test]
fn a_failed_workflow_returns_its_error_to_every_handle() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| "x".parse::<u8>()).unwrap();
    engine.launch().unwrap();
    let first = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap_err().to_string();
    let second = workflow.start_as(&engine, "w", ()).unwrap().result().unwrap_err().to_string();
    assert_eq!(first, "workflow w failed: ParseIntError: invalid digit found in string");
    assert_eq!(first, second);
    assert_eq!(app.attempts("w"), 1);
}

#[test]
fn a_panic_of_the_workflow_is_its_error() {
    let error = error_of(|_| -> Result<()> { panic!("out of {}", "luck") });
    assert_eq!(error, "workflow bad failed: PitonPanic: panicked: out of luck");
}

#[test]
fn a_panic_of_a_step_is_recorded_and_not_retried() {
    let error = error_of(|ctx| {
        let options = StepOptions::retries();
        ctx.step_with("pay", &options, |step| -> Result<()> { panic!("at attempt {}", step.attempt()) })
    });
    assert!(error.ends_with("step pay failed: PitonPanic: panicked: at attempt 1"), "{error}");
}

#[test]
fn a_panic_of_a_transaction_step_rolls_back() {
    let error = error_of(|ctx| {
        let panicked = ctx.transaction("pay", |tx| -> Result<()> {
            tx.batch("CREATE TABLE never (x integer)").unwrap();
            panic!("boom")
        });
        assert!(panicked.unwrap_err().to_string().contains("panicked: boom"));
        ctx.transaction("look", |tx| tx.query_one("SELECT count(*) FROM never", ())?.get::<u32>(0))
    });
    assert!(error.contains("never"), "{error}");
}

/// A value whose code panics where the test says.
struct Explosive(&'static str);

impl Serialize for Explosive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0 != "serialize", "in serialize");
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Explosive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        assert!(text != "deserialize", "in deserialize");
        Ok(Self(""))
    }
}

impl Drop for Explosive {
    fn drop(&mut self) {
        assert!(self.0 != "drop", "in drop");
    }
}

#[test]
fn a_panic_in_the_code_of_an_outputs_type_is_an_error() {
    for place in ["serialize", "deserialize", "drop"] {
        let step = error_of(move |ctx| ctx.step("s", |_| Ok::<_, Error>(Explosive(place))).map(drop));
        assert!(step.contains("output of step s cannot be encoded: panicked: in "), "{step}");
        let workflow = error_of(move |_| Ok(Explosive(place)));
        assert!(workflow.contains("output of workflow bad cannot be encoded: panicked: in "), "{workflow}");
    }
}

/// 10: an output that cannot be recorded is still an end.
#[test]
fn an_output_that_cannot_be_recorded_is_an_error() {
    let step = error_of(|ctx| ctx.step("s", |_| Ok::<_, Error>(f64::NAN)));
    assert!(step.contains("output of step s cannot be encoded: "), "{step}");
    let workflow = error_of(|_| Ok(f64::INFINITY));
    assert!(workflow.contains("output of workflow bad cannot be encoded: "), "{workflow}");
    let keys = error_of(|_| Ok(std::collections::HashMap::from([((1, 2), 3)])));
    assert!(keys.contains("key must be a string"), "{keys}");
}

#[test]
fn an_output_over_the_cap_is_an_error() {
    let error = error_of(|ctx| ctx.step("s", |_| Ok::<_, Error>("x".repeat(engine::PAYLOAD_BYTES_MAX))));
    assert!(error.ends_with("it takes 16777218 bytes; at most 16777216 are allowed"), "{error}");
}

/// 10: an error whose own text panics, or is huge, or holds what a database may choke on.
#[test]
fn an_error_that_is_hard_to_record_is_recorded() {
    #[derive(Debug)]
    struct Unspeakable;
    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("in display")
        }
    }
    impl std::error::Error for Unspeakable {}
    let step = error_of(|ctx| ctx.step("s", |_| Err::<(), _>(Unspeakable)));
    assert!(step.contains("panicked: in display"), "{step}");

    let huge = error_of(|ctx| ctx.step("s", |_| Err::<(), _>("x".repeat(engine::PAYLOAD_BYTES_MAX))));
    assert!(huge.contains("(cut: the whole error was too large)"), "{}", huge.len());

    let odd = "nul \0 and \u{1b}[31m and \u{1F9D7}";
    let text = error_of(move |ctx| ctx.step("s", |_| Err::<(), _>(odd)));
    assert!(text.contains(odd), "{text:?}");
}

/// Errors that are foreign code: a chain of causes that is a ring, a text without an end, a cause that panics.
#[derive(Debug)]
struct Odd(&'static str);

static FIRST: Odd = Odd("first");
static SECOND: Odd = Odd("second");
static PANICS: Odd = Odd("panics");

impl std::fmt::Display for Odd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            "endless" => loop {
                f.write_str("and on ")?;
            },
            "panics" => panic!("in display"),
            text => f.write_str(text),
        }
    }
}

impl std::error::Error for Odd {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.0 {
            "own source" => Some(self),
            "first" => Some(&SECOND),
            "second" => Some(&FIRST),
            "has a bad cause" => Some(&PANICS),
            "panics" => panic!("in source"),
            _ => None,
        }
    }
}

#[test]
fn an_error_whose_causes_or_text_have_no_end_is_recorded() {
    let text_of = |text: &'static str| error_of(move |ctx| ctx.step("s", |_| Err::<(), _>(Odd(text))));
    assert!(text_of("own source").ends_with("Odd: own source"));
    assert!(text_of("first").ends_with("Odd: first: second"));
    let bad_cause = text_of("has a bad cause");
    assert!(bad_cause.ends_with("Odd: has a bad cause: (its text panicked: in display)"), "{bad_cause}");
    let endless = text_of("endless");
    assert!(
        endless.ends_with("and on and  (cut: the whole error was too large)") || endless.contains(" (cut: ")
    );
    // As the error of a workflow and of a transaction step, too.
    let of_transaction =
        error_of(|ctx| ctx.transaction("s", |_| Err::<(), engine::BoxError>(Odd("own source").into())));
    assert!(of_transaction.ends_with("own source"), "{of_transaction}");
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |_: &mut Context, (): ()| Err::<(), _>(Odd("own source"))).unwrap();
    engine.launch().unwrap();
    let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
    assert!(error.ends_with("Odd: own source"), "{error}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("card {card} was declined")]
struct Declined {
    card: u8,
}

#[test]
fn a_registered_error_comes_back_typed_from_every_handle() {
    use anyhow::Context as _;
    let app = App::new();
    let engine = app.open();
    engine.register_error::<Declined>("card_declined").unwrap();
    let plain = engine.register("plain", |_: &mut Context, card: u8| Err::<(), _>(Declined { card }));
    let step = engine.register("step", |ctx: &mut Context, card: u8| {
        ctx.step("charge", |_| Err::<(), _>(Declined { card }))
    });
    let anyhow = engine.register("anyhow", |ctx: &mut Context, card: u8| -> anyhow::Result<()> {
        ctx.step("charge", |_| Err::<(), _>(Declined { card })).context("order 7")?;
        Ok(())
    });
    let inner = engine.register("inner", |ctx: &mut Context, card: u8| {
        ctx.step("charge", |_| -> anyhow::Result<()> { Err(Declined { card }).context("at the bank") })
    });
    let child = inner.clone().unwrap();
    let parent = engine.register("parent", move |ctx: &mut Context, card: u8| ctx.run(&child, card));
    engine.launch().unwrap();
    for workflow in [plain, step, anyhow, inner, parent].map(Result::unwrap) {
        let started = workflow.start_as(&engine, &format!("{workflow:?}"), 4).unwrap();
        let later = engine.retrieve::<()>(started.id().as_str()).unwrap();
        for handle in [started, later] {
            let Err(Error::WorkflowFailed { failure, .. }) = handle.result() else { panic!("{workflow:?}") };
            assert_eq!(failure.name(), "card_declined", "{workflow:?}: {failure}");
            assert_eq!(failure.data::<Declined>().unwrap(), Declined { card: 4 });
            assert!(failure.message().ends_with("card 4 was declined"), "{failure}");
        }
    }
    let recorded: Vec<String> = app.column("SELECT error FROM workflow_output", []);
    let portable =
        r#"{"name":"card_declined","message":"card 4 was declined","code":null,"data":{"card":4}}"#;
    assert!(recorded.iter().any(|text| text == portable), "{recorded:?}");
    assert!(matches!(engine.register_error::<Odder>("late"), Err(Error::AlreadyLaunched)));
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("odder")]
struct Odder;

#[test]
fn the_error_type_of_a_workflow_may_be_anything() {
    let app = App::new();
    let engine: Engine = app.open();
    let boxed = engine.register(
        "boxed",
        |_: &mut Context, (): ()| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Err("no luck")?;
            Ok(())
        },
    );
    let text = engine.register("text", |_: &mut Context, (): ()| Err::<(), _>("no luck".to_owned()));
    let (boxed, text) = (boxed.unwrap(), text.unwrap());
    engine.launch().unwrap();
    for workflow in [boxed, text] {
        let error = workflow.start(&engine, ()).unwrap().result().unwrap_err().to_string();
        assert!(error.ends_with("failed: no luck"), "{error}");
    }
}

/// A panic in the observer of a user is nobody's problem.
#[test]
fn an_observer_that_panics_is_ignored() {
    struct Panics;
    impl engine::Observer for Panics {
        fn observe(&self, _: &engine::Event<'_>) {
            panic!("in observe")
        }
    }
    let app = App::new();
    let engine = app.open_with(app.options().observer(std::sync::Arc::new(Panics)));
    let workflow =
        engine.register("w", |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(7))).unwrap();
    engine.launch().unwrap();
    assert_eq!(workflow.start(&engine, ()).unwrap().result().unwrap(), 7);
}
