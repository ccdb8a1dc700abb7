//! Values to text and back.
//!
//! A value is decoded right after it was encoded, and the program goes on with the decoded value. So a value that
//! cannot be read back fails in the run that made it. A first run and a replay see the same value.
//!
//! Reading back cannot see the losses of a codec: JSON has one `null`, bincode has no names. So `writing` and `reading`
//! stand between every value and its codec.
//!
//! Does not know: SQL, workflows.

mod arguments;
mod bincode;
mod portable_json;
mod reading;
mod shape;
mod watch;
mod writing;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::pure::error::{Error, Failure, Result};
use crate::pure::limits::PAYLOAD_BYTES_MAX;

pub(crate) use arguments::{decode_input, encode_input, same_input};
pub(crate) use portable_json::{decode_failure, encode_failure};

/// The codec of a step's output. Inputs, outputs of workflows and errors are always JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// JSON: readable by every DBOS SDK and in SQL, tolerant of added fields. It refuses numbers that are not finite.
    /// It refuses a `Some` over `None` or `()`, which JSON writes as `null`.
    #[default]
    PortableJson,
    /// bincode with a fingerprint of the type's shape, for large outputs that only the same program reads. It is
    /// compact, only this engine reads it, and it is refused when the type has changed. It refuses values whose type
    /// writes other fields than it reads, as with `skip_serializing_if`.
    Bincode,
}

impl Codec {
    /// The name of the codec in the column `serialization`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortableJson => "portable_json",
            Self::Bincode => "rs_bincode",
        }
    }

    /// Refuses a type that this codec could write but never read.
    pub(crate) fn check_type<T: DeserializeOwned>(self, what: &str) -> Result<()> {
        match self {
            Self::PortableJson => Ok(()),
            Self::Bincode => bincode::check_type::<T>()
                .map_err(|reason| Error::Unencodable { what: what.to_owned(), reason }),
        }
    }
}

/// An encoded value, and the value that was decoded from it.
pub(crate) struct Encoded<T> {
    pub(crate) text: String,
    pub(crate) value: T,
}

/// Encodes and decodes once. A panic of the type's own code is an error like any other.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(
    codec: Codec,
    what: &str,
    value: T,
) -> Result<Encoded<T>> {
    let unencodable = |reason| Error::Unencodable { what: what.to_owned(), reason };
    let too_deep = Cell::new(false);
    let round_trip = || match codec {
        Codec::PortableJson => {
            let text = written(value, &too_deep, |value| portable_json::encode(value, &too_deep))?;
            check_size(&text)?;
            let value = portable_json::decode(&text)?;
            Ok(Encoded { text, value })
        }
        Codec::Bincode => {
            let (text, value) = written(value, &too_deep, |value| bincode::encode(value, &too_deep))?;
            Ok(Encoded { text, value })
        }
    };
    caught(round_trip).map_err(unencodable)
}

/// The result of `write`. The value is dropped here, where a panic of its `Drop` is caught.
fn written<T, W>(
    value: T,
    too_deep: &Cell<bool>,
    write: impl FnOnce(&T) -> Result<W, String>,
) -> Result<W, String> {
    let written = write(&value);
    if too_deep.get() {
        // Dropping it recurses as deep as writing it. So its memory is leaked, which saves the process.
        std::mem::forget(value);
    }
    written
}

/// Decodes a text by the codec that its `serialization` column names.
pub(crate) fn decode<T: DeserializeOwned>(
    what: &str,
    serialization: Option<&str>,
    text: Option<&str>,
) -> Result<T> {
    let undecodable = |reason| Error::Undecodable { what: what.to_owned(), reason };
    let text = text.ok_or_else(|| undecodable("nothing is recorded".to_owned()))?;
    let codec = codec_of(serialization).map_err(undecodable)?;
    caught(|| decode_text(codec, text)).map_err(undecodable)
}

/// A value as a tree of JSON, for the data of errors.
pub(crate) fn tree_of<T: Serialize>(value: T) -> Result<Value, String> {
    let too_deep = Cell::new(false);
    caught(|| written(value, &too_deep, |value| portable_json::tree(value, &too_deep)))
}

/// A borrowed value as a tree of JSON.
pub(crate) fn tree<T: Serialize>(value: &T) -> Result<Value, String> {
    caught(|| portable_json::tree(value, &Cell::default()))
}

pub(crate) fn of_tree<T: DeserializeOwned>(tree: &Value) -> Result<T, String> {
    caught(|| T::deserialize(reading::Reading::new(tree, None)).map_err(|e| e.to_string()))
}

/// The codec of that name. NULL means the reader's own codec, and ours is JSON.
fn codec_of(serialization: Option<&str>) -> Result<Codec, String> {
    match serialization {
        None | Some("portable_json") => Ok(Codec::PortableJson),
        Some("rs_bincode") => Ok(Codec::Bincode),
        Some(other) => Err(format!(
            "it was written as `{other}`, which this engine does not read; let the program that writes it choose \
             portable_json"
        )),
    }
}

fn decode_text<T: DeserializeOwned>(codec: Codec, text: &str) -> Result<T, String> {
    match codec {
        Codec::PortableJson => portable_json::decode(text),
        Codec::Bincode => bincode::decode(text),
    }
}

fn check_size(text: &str) -> Result<(), String> {
    if text.len() <= PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(format!("it takes {} bytes; at most {PAYLOAD_BYTES_MAX} are allowed", text.len()))
}

/// Runs code of a user's type: its `Serialize`, `Deserialize` and `Drop` may panic.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(Failure::of_panic(payload.as_ref()).message().to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Unit,
        Tuple(i64, Option<String>),
        Fields { bytes: Vec<u8>, nested: Box<Option<Kind>> },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Everything {
        number: f64,
        text: String,
        list: Vec<(u32, char)>,
        map: std::collections::BTreeMap<String, i8>,
        kind: Kind,
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        let leaf = prop_oneof![
            Just(Kind::Unit),
            (any::<i64>(), any::<Option<String>>()).prop_map(|(n, s)| Kind::Tuple(n, s))
        ];
        leaf.prop_recursive(4, 16, 1, |inner| {
            (any::<Vec<u8>>(), proptest::option::of(inner))
                .prop_map(|(bytes, nested)| Kind::Fields { bytes, nested: Box::new(nested) })
        })
    }

    prop_compose! {
        fn everything()(
            number in proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL,
            text: String,
            list: Vec<(u32, char)>,
            map: std::collections::BTreeMap<String, i8>,
            kind in kinds(),
        ) -> Everything {
            Everything { number, text, list, map, kind }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn both_codecs_give_back_what_they_were_given(value in everything()) {
            for codec in [Codec::PortableJson, Codec::Bincode] {
                let encoded = encode(codec, "value", value.clone()).unwrap();
                prop_assert_eq!(&encoded.value, &value);
                let decoded: Everything = decode("value", Some(codec.name()), Some(&encoded.text)).unwrap();
                prop_assert_eq!(&decoded, &value);
            }
        }

        #[test]
        fn no_text_makes_a_decoder_panic_or_take_memory(text: String, bytes: Vec<u8>) {
            let framed = bincode::framed_for_tests::<Everything>(&bytes);
            for text in [text.as_str(), framed.as_str()] {
                for codec in [Codec::PortableJson, Codec::Bincode] {
                    let _: Result<Everything> = decode("value", Some(codec.name()), Some(text));
                }
            }
        }
    }

    #[test]
    fn a_number_that_json_cannot_hold_fails_when_it_is_written() {
        let error = encode(Codec::PortableJson, "output of step sum", f64::NAN).err().unwrap().to_string();
        assert!(error.starts_with("output of step sum cannot be encoded: "), "{error}");
        assert!(error.contains("null"), "{error}");
    }

    #[test]
    fn a_value_over_the_cap_is_refused_with_both_sizes() {
        let error =
            encode(Codec::PortableJson, "x", "a".repeat(PAYLOAD_BYTES_MAX)).err().unwrap().to_string();
        assert_eq!(error, "x cannot be encoded: it takes 16777218 bytes; at most 16777216 are allowed");
        assert!(encode(Codec::PortableJson, "x", "a".repeat(PAYLOAD_BYTES_MAX - 2)).is_ok());
    }

    #[test]
    fn an_unknown_serialization_is_named() {
        let error = decode::<u8>("x", Some("py_pickle"), Some("gASV")).unwrap_err().to_string();
        assert_eq!(
            error,
            "x cannot be decoded: it was written as `py_pickle`, which this engine does not read; let the program that \
             writes it choose portable_json"
        );
    }

    #[test]
    fn a_type_that_panics_is_an_error() {
        #[derive(Deserialize)]
        struct Explosive;
        impl Serialize for Explosive {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("in serialize")
            }
        }
        let error = encode(Codec::PortableJson, "x", Explosive).err().unwrap().to_string();
        assert_eq!(error, "x cannot be encoded: panicked: in serialize");
    }
}
