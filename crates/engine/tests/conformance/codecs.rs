//! A value comes back as it was given, or fails in the run that made it: as an input, a step, an output, a message and
//! the data of an error, under each codec.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use engine::{BoxError, Codec, Error, Failure, StepOptions, VALUE_DEPTH_MAX};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::support::{App, Result};
use crate::way::{Context, Engine};

const CODECS: [Codec; 2] = [Codec::PortableJson, Codec::Bincode];

/// What becomes of a value as the input, a step and the output of a workflow, and as a message.
fn through_all<T>(given: impl Fn() -> T + Send + Sync + 'static) -> [Result<T>; 4]
where
    T: Serialize + DeserializeOwned + Send + 'static,
{
    let app = App::new();
    let engine = app.open();
    let given = Arc::new(given);
    let input = engine.register("input", |_: &mut Context, value: T| Ok::<_, Error>(value));
    let made = given.clone();
    let step =
        engine.register("step", move |ctx: &mut Context, (): ()| ctx.step("s", |_| Ok::<_, Error>(made())));
    let made = given.clone();
    let output = engine.register("output", move |_: &mut Context, (): ()| Ok::<_, Error>(made()));
    let made = given.clone();
    let message = engine.register("message", move |ctx: &mut Context, (): ()| -> Result<T, BoxError> {
        let own = ctx.workflow_id().clone();
        ctx.send(&own, "t", made())?;
        ctx.recv("t", Duration::ZERO)?.ok_or_else(|| "no message".into())
    });
    let (input, step, output, message) = (input.unwrap(), step.unwrap(), output.unwrap(), message.unwrap());
    engine.launch().unwrap();
    [
        input.start(&engine, given()).and_then(|handle| handle.result()),
        step.start(&engine, ()).unwrap().result(),
        output.start(&engine, ()).unwrap().result(),
        message.start(&engine, ()).unwrap().result(),
    ]
}

#[track_caller]
fn survives<T: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static>(given: T) {
    let expected = given.clone();
    for (n, got) in through_all(move || given.clone()).into_iter().enumerate() {
        assert_eq!(got.unwrap(), expected, "way {n}");
    }
}

/// It is refused on every way, with these words.
#[track_caller]
fn is_refused<T: Serialize + DeserializeOwned + Send + 'static>(given: fn() -> T, words: &str) {
    for (n, got) in through_all(given).into_iter().enumerate() {
        let Err(error) = got.map(drop) else { panic!("way {n} lets it pass") };
        assert!(error.to_string().contains(words), "way {n}: {error}");
    }
}

/// What a step under the codec gives, as the next line of the workflow sees it.
pub(crate) fn step<T>(
    codec: Codec,
    given: impl Fn() -> T + Send + Sync + 'static,
    look: fn(&T) -> String,
) -> Result<String>
where
    T: Serialize + DeserializeOwned + 'static,
{
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", move |ctx: &mut Context, (): ()| -> Result<String> {
        let options = StepOptions::new().codec(codec);
        ctx.step_with("s", &options, |_| Ok::<_, Error>(given())).map(|value| look(&value))
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    workflow.start(&engine, ()).unwrap().result()
}

pub(crate) fn seen<T: Debug>(value: &T) -> String {
    format!("{value:?}")
}

/// A map that keeps its order and its repeated keys.
#[derive(Debug, Clone, PartialEq)]
struct Ordered(Vec<(String, u32)>);

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Ordered;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Ordered(all))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn ordered() -> Ordered {
    Ordered(vec![("z".into(), 1), ("a".into(), 2), ("z".into(), 3)])
}

#[test]
fn an_ordered_map_keeps_its_order_and_its_repeated_keys_on_every_way() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Order {
        lines: Ordered,
        next: Option<Ordered>,
    }
    survives(ordered());
    survives(vec![Some(ordered())]);
    survives(Order { lines: ordered(), next: Some(ordered()) });
}

#[test]
fn numbers_and_keys_that_one_way_takes_are_taken_by_all() {
    survives(u128::MAX);
    survives((i128::MIN, u64::MAX, vec![i128::MAX]));
    survives(BTreeMap::from([(Some("a".to_owned()), 1), (Some("b".to_owned()), 2)]));
    survives(BTreeMap::from([(u128::MAX, 1.5)]));
    survives((0.1 + 0.2, f32::MIN_POSITIVE, -0.0_f64));
    survives(((), 1_u8));
    survives(vec![(), ()]);
    survives(Some(Some(1)));
    survives(vec![None, Some(1)]);
    survives(serde_json::json!({"a": [null, 1.5, {"b": "c"}]}));
    survives(Box::new(Some("x".to_owned())));
}

#[test]
fn a_spread_input_keeps_its_order_and_its_numbers() {
    let app = App::new();
    let engine = app.open();
    let map = engine.register("map", |_: &mut Context, value: Ordered| Ok::<_, Error>(value)).unwrap();
    let big =
        engine.register("big", |_: &mut Context, value: (u128, Ordered)| Ok::<_, Error>(value)).unwrap();
    let queue = engine.register_queue("q", engine::QueueOptions::new()).unwrap();
    engine.launch().unwrap();
    let spread = engine::EnqueueOptions::new().spread_arguments();
    let handle = map.enqueue_with(&engine, &queue, &spread, ordered()).unwrap();
    assert_eq!(handle.result().unwrap(), ordered());
    let handle = big.enqueue_with(&engine, &queue, &spread, (u128::MAX, ordered())).unwrap();
    assert_eq!(handle.result().unwrap(), (u128::MAX, ordered()));
    let recorded: Vec<String> = app.column("SELECT inputs FROM workflow_input", []);
    let named = r#"{"positionalArgs":[],"namedArgs":{"z":1,"a":2,"z":3}}"#;
    assert!(recorded.iter().any(|text| text == named), "{recorded:?}");
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Unit;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wrapped<T>(pub(crate) T);

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    price: Option<f64>,
}

#[test]
fn a_some_that_json_would_write_as_null_is_refused_with_its_place() {
    is_refused(|| Some(None::<u8>), "it is Some(None), which JSON writes as `null`");
    is_refused(|| vec![Some(()), None], "`[0]` is Some(()), which JSON");
    is_refused(|| Some(Unit), "is Some(Unit), which JSON");
    is_refused(|| (1, Some(Wrapped(Wrapped(None::<u8>)))), "`[1]` is Some(None)");
    is_refused(|| Some(Value::Null), "is Some(()), which JSON");
    is_refused(
        || BTreeMap::from([("a b", Some(Some(())))].map(|(k, v)| (k.to_owned(), v))),
        r#"`["a b"]` is Some(())"#,
    );
    is_refused(|| Some(Some(None::<u8>)), "is Some(None)");
    let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
    is_refused(|| Some(RawValue::from_string("null".to_owned()).unwrap()), "is Some(a JSON null)");
    for got in through_all(move || (raw("null"), Some(raw(r#"{"b":1,"a":[2.50]}"#)))) {
        let (null, object) = got.unwrap();
        assert_eq!((null.get(), object.unwrap().get()), ("null", r#"{"b":1,"a":[2.50]}"#));
    }
}

#[test]
fn a_number_that_is_not_finite_is_refused_with_its_place() {
    let rows = || {
        BTreeMap::from([("rows".to_owned(), vec![Row { price: Some(1.5) }, Row { price: Some(f64::NAN) }])])
    };
    is_refused(rows, r#"`["rows"][1].price` is NaN"#);
    is_refused(|| Some(f32::INFINITY), "it is inf");
    is_refused(|| Wrapped(Wrapped(f64::NEG_INFINITY)), "it is -inf");
    is_refused(|| (0, Some(Wrapped(f32::NAN))), "`[1]` is NaN");
    for codec in CODECS {
        let look = |row: &Row| row.price.is_some_and(f64::is_nan).to_string();
        let got = step(codec, || Row { price: Some(f64::NAN) }, look);
        match codec {
            Codec::PortableJson => assert!(got.unwrap_err().to_string().contains("`price` is NaN")),
            Codec::Bincode => assert_eq!(got.unwrap(), "true"),
        }
    }
}

#[test]
fn bincode_keeps_what_json_cannot_tell_apart() {
    let got = step(Codec::Bincode, || (Some(None::<u8>), Some(()), Some(Unit), Some(Some(None::<u8>))), seen);
    assert_eq!(got.unwrap(), "(Some(None), Some(()), Some(Unit), Some(Some(None)))");
    let keys = || BTreeMap::from([(None, u128::MAX), (Some(1), 2)]);
    assert_eq!(step(Codec::Bincode, keys, seen).unwrap(), seen(&keys()));
    assert_eq!(step(Codec::Bincode, ordered, seen).unwrap(), seen(&ordered()));
}

#[test]
fn the_data_of_an_error_is_whole_or_says_what_is_wrong_with_it() {
    let app = App::new();
    let engine = app.open();
    let workflow = engine.register("w", |ctx: &mut Context, data: Option<f64>| {
        ctx.step("s", |_| {
            let data = data.or(Some(f64::NAN));
            Err::<(), _>(Failure::new("E", "m").with_data([data]))
        })
    });
    let workflow = workflow.unwrap();
    engine.launch().unwrap();
    let data = |input| match workflow.start(&engine, input).unwrap().result() {
        Err(Error::WorkflowFailed { failure, .. }) => failure.data_value().to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(data(Some(0.5)), "[0.5]");
    assert!(data(None).contains("this data cannot be recorded: `[0]` is NaN"));
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    next: Option<Box<List>>,
}

fn list(depth: usize) -> List {
    (0..depth).fold(List { next: None }, |list, _| List { next: Some(Box::new(list)) })
}

#[test]
fn a_value_too_deep_for_the_stack_is_refused_on_every_way_and_by_every_codec() {
    is_refused(|| list(100_000), "it is nested more than 256 levels deep");
    for codec in CODECS {
        for depth in [VALUE_DEPTH_MAX / 2, 5000, 20_000, 1_000_000] {
            let error = step(codec, move || list(depth), seen).unwrap_err().to_string();
            assert!(error.contains("it is nested more than 256 levels deep, at `next.next"), "{error}");
            assert!(error.len() < 300, "{error}");
        }
        let deepest = step(codec, || list(VALUE_DEPTH_MAX / 2 - 1), |list| seen(list).len().to_string());
        assert_eq!(deepest.unwrap(), seen(&list(VALUE_DEPTH_MAX / 2 - 1)).len().to_string(), "{codec:?}");
    }
}

/// Types that contain themselves under no name, and that read for ever from a text that is not deep.
#[derive(Debug, Serialize, Deserialize)]
struct Nested(Vec<Nested>);

#[derive(Debug, Serialize, Deserialize)]
struct Endless(Option<Box<Endless>>);

#[test]
fn a_type_that_contains_itself_without_a_name_is_bounded() {
    let nested = |depth| (0..depth).fold(Nested(Vec::new()), |nested, _| Nested(vec![nested]));
    for codec in CODECS {
        let error = step(codec, move || nested(10_000), seen).unwrap_err().to_string();
        assert!(error.contains("nested more than 256 levels deep"), "{error}");
        assert!(step(codec, move || nested(100), seen).is_ok());
    }
    assert_eq!(
        step(Codec::Bincode, || Endless(Some(Box::new(Endless(None)))), seen).unwrap(),
        "Endless(Some(Endless(None)))"
    );
}

#[test]
fn a_hostile_record_ends_its_workflow_with_a_reason() {
    fn replayed<T: Debug + Serialize + DeserializeOwned + 'static>(
        codec: Codec,
        given: fn() -> T,
        record: &str,
    ) -> String {
        let app = App::new();
        let register = |engine: &Engine| {
            let workflow = engine.register("w", move |ctx: &mut Context, (): ()| {
                let options = StepOptions::new().codec(codec);
                ctx.step_with("s", &options, |_| Ok::<_, Error>(given())).map(|value| seen(&value))
            });
            workflow.unwrap()
        };
        {
            let engine = app.open();
            let workflow = register(&engine);
            engine.launch().unwrap();
            workflow.start_as(&engine, "w", ()).unwrap().result().unwrap();
        }
        let own: String = app.value("SELECT output FROM operation_outputs", []);
        // Of a record of bincode the header stays, which says what type it is of.
        let record =
            if codec == Codec::Bincode { format!("{}{record}", &own[..16]) } else { record.to_owned() };
        app.execute("UPDATE operation_outputs SET output = ?1 WHERE function_id = ?2", (record, 1_u32));
        app.interrupt("w", 1);
        let engine = app.open();
        register(&engine);
        engine.launch().unwrap();
        engine.retrieve::<String>("w").unwrap().result().unwrap_err().to_string()
    }
    let deep = |text: &str, end: &str| format!("{}null{}", text.repeat(100_000), end.repeat(100_000));
    let error = replayed(Codec::PortableJson, || list(1), &deep(r#"{"next":"#, "}"));
    assert!(error.contains("nested more than 256 levels deep"), "{error}");
    let error = replayed(Codec::PortableJson, || Value::Null, &deep("[", "]"));
    assert!(error.contains("nested more than 256 levels deep"), "{error}");
    let error = replayed(Codec::PortableJson, || Endless(None), "5");
    assert!(error.contains("nested more than 256 levels deep"), "{error}");
    // 01 is Some: a list without an end.
    let error = replayed(Codec::Bincode, || list(1), &"AQEB".repeat(100_000));
    assert!(error.contains("nested more than 256 levels deep"), "{error}");
}
