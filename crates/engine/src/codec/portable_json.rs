//! `portable_json`: what every DBOS SDK reads and writes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{caught, check_size, codec_of};
use crate::codec::Codec;
use crate::error::{Error, Failure, Result};

pub(super) fn encode<T: Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// The arguments of a workflow. Ours have one; other SDKs may write several, or named ones.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Arguments {
    positional_args: Option<Vec<Value>>,
    named_args: Option<serde_json::Map<String, Value>>,
}

/// `()` is no argument; everything else is one.
pub(crate) fn encode_input<T: Serialize + DeserializeOwned>(workflow: &str, input: T) -> Result<String> {
    let write = || {
        let value = serde_json::to_value(&input).map_err(|e| e.to_string())?;
        // Dropped here, where a panic of its `Drop` is caught.
        drop(input);
        let args = if value.is_null() { vec![] } else { vec![value] };
        let arguments = Arguments { positional_args: Some(args), named_args: Some(serde_json::Map::new()) };
        let text = encode(&arguments)?;
        check_size(&text)?;
        read::<T>(&text)?;
        Ok(text)
    };
    let what = || format!("input of workflow {workflow}");
    caught(write).map_err(|reason| Error::Unencodable { what: what(), reason })
}

pub(crate) fn decode_input<T: DeserializeOwned>(
    workflow: &str,
    serialization: Option<&str>,
    text: Option<&str>,
) -> Result<T> {
    let read = || match (codec_of(serialization)?, text) {
        (Codec::PortableJson, Some(text)) => read(text),
        (Codec::Bincode, Some(_)) => Err("inputs are never written as rs_bincode".to_owned()),
        (_, None) => Err("nothing is recorded".to_owned()),
    };
    let what = || format!("input of workflow {workflow}");
    caught(read).map_err(|reason| Error::Undecodable { what: what(), reason })
}

/// One argument is the input itself; several are a tuple; named ones are a struct.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let arguments: Arguments = decode(text)?;
    let mut positional = arguments.positional_args.unwrap_or_default();
    let named = arguments.named_args.unwrap_or_default();
    let input = match positional.len() {
        0 if named.is_empty() => Value::Null,
        0 => Value::Object(named),
        1 => positional.remove(0),
        _ => Value::Array(positional),
    };
    T::deserialize(input).map_err(|e| e.to_string())
}

/// A failure always fits: its parts are texts and JSON. One over the cap is cut to its message.
pub(crate) fn encode_failure(failure: &Failure) -> String {
    const MESSAGE_CHARS_MAX: usize = 10_000;
    let text = encode(failure).unwrap_or_default();
    if !text.is_empty() && check_size(&text).is_ok() {
        return text;
    }
    let message: String = failure.message().chars().take(MESSAGE_CHARS_MAX).collect();
    encode(&Failure::new(failure.name(), format!("{message} (cut: the whole error was too large)")))
        .unwrap_or_default()
}

/// What an `error` column says, in whatever words it was written.
pub(crate) fn decode_failure(serialization: Option<&str>, text: &str) -> Failure {
    let read = match codec_of(serialization) {
        Ok(_) => serde_json::from_str(text).map_err(|e| e.to_string()),
        Err(reason) => Err(reason),
    };
    read.unwrap_or_else(|reason| Failure::new("Error", text).data(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input<T: DeserializeOwned>(text: &str) -> Result<T> {
        decode_input("w", Some("portable_json"), Some(text))
    }

    #[test]
    fn an_input_is_one_positional_argument_and_unit_is_none() {
        let text = encode_input("w", "x".to_owned()).unwrap();
        assert_eq!(text, r#"{"positionalArgs":["x"],"namedArgs":{}}"#);
        let text = encode_input("w", ()).unwrap();
        assert_eq!(text, r#"{"positionalArgs":[],"namedArgs":{}}"#);
        input::<()>(&text).unwrap();
    }

    #[test]
    fn arguments_of_other_sdks_are_read_in_every_form() {
        #[derive(Deserialize)]
        struct Order {
            c: i32,
        }
        assert_eq!(input::<(i32, i32)>(r#"{"namedArgs":{},"positionalArgs":[1,2]}"#).unwrap(), (1, 2));
        assert_eq!(input::<(i32, i32)>(r#"{"positionalArgs":[[1,2]]}"#).unwrap(), (1, 2));
        assert_eq!(input::<Order>(r#"{"namedArgs":{"c":9},"positionalArgs":null}"#).unwrap().c, 9);
        assert_eq!(input::<Order>(r#"{"positionalArgs":[{"c":9}]}"#).unwrap().c, 9);
        assert_eq!(input::<Option<u8>>(r#"{"positionalArgs":[null]}"#).unwrap(), None);
    }

    #[test]
    fn an_undecodable_input_names_the_workflow_and_the_reason() {
        let error = input::<u8>(r#"{"positionalArgs":["x"]}"#).unwrap_err().to_string();
        assert!(error.starts_with("input of workflow w cannot be decoded: invalid type: string"), "{error}");
        assert!(input::<u8>("garbage").is_err());
        assert!(decode_input::<u8>("w", None, None).unwrap_err().to_string().contains("nothing is recorded"));
    }

    #[test]
    fn an_input_that_cannot_be_read_back_is_refused_when_it_is_given() {
        assert!(encode_input("w", vec![f64::NAN]).is_err());
        assert!(encode_input("w", std::collections::HashMap::from([((1, 2), 3)])).is_err(), "keys are texts");
    }

    #[test]
    fn floats_come_back_to_the_last_bit() {
        for number in [0.1 + 0.2, 2.0_f64.powi(-1074), 123_456_789.123_456_79, 1e16, f64::MAX] {
            let text = encode(&number).unwrap();
            assert_eq!(decode::<f64>(&text).unwrap().to_bits(), number.to_bits(), "{text}");
        }
    }

    #[test]
    fn an_error_in_foreign_words_is_shown_as_it_stands() {
        let failure = decode_failure(Some("py_pickle"), "gASV");
        assert_eq!(failure.message(), "gASV");
        let portable =
            decode_failure(Some("portable_json"), r#"{"name":"E","message":"m","code":1,"extra":2}"#);
        assert_eq!((portable.name(), portable.message()), ("E", "m"));
    }

    #[test]
    fn an_error_over_the_cap_keeps_its_name_and_the_start_of_its_message() {
        let text = encode_failure(&Failure::new("Big", "x".repeat(crate::limits::PAYLOAD_BYTES_MAX)));
        assert!(text.len() < 11_000);
        assert!(text.starts_with(r#"{"name":"Big","message":"xxx"#));
    }
}
