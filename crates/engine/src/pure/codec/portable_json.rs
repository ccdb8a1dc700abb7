//! `portable_json`: the form that every DBOS SDK reads and writes.

use std::cell::Cell;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::reading::Reading;
use super::writing::{Form, Watched};
use super::{check_size, codec_of};
use crate::pure::error::Failure;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, too_deep: &Cell<bool>) -> Result<String, String> {
    serde_json::to_string(&Watched::new(value, Form::Json, too_deep)).map_err(|e| e.to_string())
}

pub(super) fn tree<T: Serialize + ?Sized>(value: &T, too_deep: &Cell<bool>) -> Result<Value, String> {
    serde_json::to_value(Watched::new(value, Form::Json, too_deep)).map_err(|e| e.to_string())
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut text = serde_json::Deserializer::from_str(text);
    // serde_json's own limit counts only lists and objects, but options and newtypes nest too.
    text.disable_recursion_limit();
    let value = T::deserialize(Reading::new(&mut text, None)).map_err(|e| e.to_string())?;
    text.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// Encodes a failure, which always fits: its parts are texts and JSON. A failure over the cap is cut to its message.
pub(crate) fn encode_failure(failure: &Failure) -> String {
    const MESSAGE_CHARS_MAX: usize = 10_000;
    let encode = |failure: &Failure| encode(failure, &Cell::default()).map(|text| failure.marked(text));
    let text = encode(failure).unwrap_or_default();
    if !text.is_empty() && check_size(&text).is_ok() {
        return text;
    }
    let message: String = failure.message().chars().take(MESSAGE_CHARS_MAX).collect();
    encode(&failure.retold(format!("{message} (cut: the whole error was too large)"))).unwrap_or_default()
}

/// The failure in an `error` column, in any of the forms in which programs write one.
pub(crate) fn decode_failure(serialization: Option<&str>, text: &str) -> Failure {
    let read = match codec_of(serialization) {
        Ok(_) => decode::<Failure>(text).map(|failure| failure.marked_in(text)),
        Err(reason) => Err(reason),
    };
    read.unwrap_or_else(|reason| Failure::new("Error", text).with_data(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_come_back_to_the_last_bit() {
        for number in [0.1 + 0.2, 2.0_f64.powi(-1074), 123_456_789.123_456_79, 1e16, f64::MAX] {
            let text = encode(&number, &Cell::default()).unwrap();
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
        let text = encode_failure(&Failure::new("Big", "x".repeat(crate::pure::limits::PAYLOAD_BYTES_MAX)));
        assert!(text.len() < 11_000);
        assert!(text.starts_with(r#"{"name":"Big","message":"xxx"#));
    }
}
