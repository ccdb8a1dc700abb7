//! `rs_bincode`: bincode in a cage.
//!
//! bincode writes no names. So data of another type decodes into nonsense, and a corrupt length can take all memory.
//! Some serde attributes write bytes that cannot be read back.
//!
//! - Each payload carries the fingerprint of its type's shape.
//! - It is decoded under a size limit and to its last byte.
//! - A type that bincode cannot read back is refused before its step runs.
//! - The written and the read calls are compared while a value is encoded. A field that is left out would shift all
//!   bytes that follow, and the shifted bytes may decode.
//!
//! Layout, in base64: `pb`, format version, a reserved zero, the shape's hash (8 bytes, little endian), payload.

use std::cell::Cell;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer};

use super::reading::{EMPTY_ITEMS, Reading};
use super::shape::{self, Shape};
use super::watch::Trace;
use super::writing::{Form, Watched};
use crate::pure::limits::PAYLOAD_BYTES_MAX;

const HEADER: [u8; 4] = [b'p', b'b', 1, 0];
const HASH_BYTES: usize = 8;

type Config = Configuration<LittleEndian, Varint, Limit<PAYLOAD_BYTES_MAX>>;
const CONFIG: Config = bincode::config::standard().with_limit::<PAYLOAD_BYTES_MAX>();

pub(super) fn check_type<T: DeserializeOwned>() -> Result<(), String> {
    readable(&shape::of::<T>())
}

fn readable(shape: &Shape) -> Result<(), String> {
    if shape.asks_the_data() {
        return Err(
            "its type asks the data what comes next (an untagged or internally tagged enum, `flatten`, a JSON \
             value), and bincode does not say; record it as JSON"
                .to_owned(),
        );
    }
    if shape.has_zero_sized_items() { Err(EMPTY_ITEMS.to_owned()) } else { Ok(()) }
}

/// Encodes a value, and decodes the encoded bytes.
pub(super) fn encode<T: Serialize + DeserializeOwned>(
    value: &T,
    too_deep: &Cell<bool>,
) -> Result<(String, T), String> {
    let shape = shape::of::<T>();
    let (written, read) = (Trace::default(), Trace::default());
    let payload = write(value, &written, too_deep)?;
    let mut bytes = Vec::with_capacity(HEADER.len() + HASH_BYTES + payload.len());
    bytes.extend(HEADER);
    bytes.extend(shape.hash().to_le_bytes());
    bytes.extend(&payload);
    let text = BASE64_STANDARD.encode(bytes);
    super::check_size(&text)?;
    readable(&shape)?;
    let otherwise = match parse::<T>(&payload, &read) {
        Ok(decoded)
            if written.is_like(&read)
                || written.is_like_but_for_names(&read) && is_written_as(&decoded, &payload) =>
        {
            return Ok((text, decoded));
        }
        Ok(_) => "what is written is not what would be read".to_owned(),
        Err(reason) => reason,
    };
    Err(difference(value, &payload).unwrap_or(otherwise))
}

/// Whether a value that was read is written as the bytes from which it was read. A field or a variant is written under
/// one name and may be read under others (`rename`, `alias`). Another field or variant has other bytes.
fn is_written_as<T: Serialize>(read: &T, payload: &[u8]) -> bool {
    // A `HashMap` is written in an order of its own.
    let sorted = |mut bytes: Vec<u8>| {
        bytes.sort_unstable();
        bytes
    };
    let again = write(read, &Trace::default(), &Cell::new(false));
    again.is_ok_and(|again| sorted(again) == sorted(payload.to_vec()))
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let shape = shape::of::<T>();
    readable(&shape)?;
    super::check_size(text)?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|e| format!("it is not base64: {e}"))?;
    let (header, rest) = bytes.split_at_checked(HEADER.len()).ok_or("it ends within its header")?;
    let (hash, payload) = rest.split_at_checked(HASH_BYTES).ok_or("it ends within its header")?;
    if header != HEADER {
        return Err("it was not written as rs_bincode of format 1".to_owned());
    }
    if hash != shape.hash().to_le_bytes() {
        return Err(format!("it was written for another shape; expected {}", shape.text()));
    }
    parse(payload, &Trace::default())
}

fn write<T: Serialize>(value: &T, trace: &Trace, too_deep: &Cell<bool>) -> Result<Vec<u8>, String> {
    let value = Watched::new(value, Form::Bincode(trace), too_deep);
    bincode::serde::encode_to_vec(value, CONFIG).map_err(|error| match error {
        EncodeError::OtherString(said) => said,
        other => other.to_string(),
    })
}

fn parse<T: DeserializeOwned>(payload: &[u8], trace: &Trace) -> Result<T, String> {
    let seed = Traced(trace, PhantomData);
    let read = bincode::serde::seed_decode_from_slice(seed, payload, CONFIG);
    let (value, consumed) = read.map_err(|error| match error {
        DecodeError::OtherString(said) => said,
        other => other.to_string(),
    })?;
    if consumed != payload.len() {
        return Err(format!("{} bytes are left over", payload.len() - consumed));
    }
    Ok(value)
}

/// The place where writing and reading part. Both run once more, with every call noted.
fn difference<T: Serialize + DeserializeOwned>(value: &T, payload: &[u8]) -> Option<String> {
    let (written, read) = (Trace::detailed(), Trace::detailed());
    let _ = write(value, &written, &Cell::new(false));
    let _ = parse::<T>(payload, &read);
    let differs = written.differs_from(&read)?;
    Some(format!("{differs}; bincode has no names to tell them apart, so record it as JSON"))
}

/// Reads a `T` and notes each call.
struct Traced<'t, T>(&'t Trace, PhantomData<T>);

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Traced<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T, D::Error> {
        T::deserialize(Reading::new(inner, Some(self.0)))
    }
}

/// These bytes, behind a header that fits the type.
#[cfg(test)]
pub(super) fn framed_for_tests<T: DeserializeOwned>(payload: &[u8]) -> String {
    let mut bytes = HEADER.to_vec();
    bytes.extend(shape::of::<T>().hash().to_le_bytes());
    bytes.extend(payload);
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct User {
        id: u64,
        name: String,
    }

    fn ada() -> User {
        User { id: 7, name: "Ada".to_owned() }
    }

    #[test]
    fn another_shape_is_refused_and_the_wanted_one_told() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Renamed {
            id: u64,
            full_name: String,
        }
        #[derive(Debug, Serialize, Deserialize)]
        struct Swapped {
            name: String,
            id: u64,
        }
        let text = encode(&ada(), &Cell::default()).unwrap().0;
        assert_eq!(decode::<User>(&text).unwrap(), ada());
        let error = decode::<Renamed>(&text).unwrap_err();
        assert_eq!(error, "it was written for another shape; expected Renamed{id,full_name}(u64 str )");
        assert!(decode::<Swapped>(&text).is_err());
        assert!(decode::<(u64, String)>(&text).is_err());
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        // A length of 2^40: without the limit, a text of this length would abort the process.
        let payload = [0xfd, 0, 0, 0, 0, 0, 1, 0, 0];
        let error = decode::<Vec<u8>>(&framed_for_tests::<Vec<u8>>(&payload)).unwrap_err();
        assert_eq!(error, "UnexpectedEnd { additional: 1 }");
        let error = decode::<String>(&framed_for_tests::<String>(&payload)).unwrap_err();
        assert_eq!(error, "LimitExceeded");
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let error = decode::<u8>(&framed_for_tests::<u8>(&[1, 2])).unwrap_err();
        assert_eq!(error, "1 bytes are left over");
    }

    #[test]
    fn a_foreign_or_cut_text_is_refused() {
        assert!(decode::<u8>("{}").unwrap_err().starts_with("it is not base64"));
        assert_eq!(decode::<u8>("cGI=").unwrap_err(), "it ends within its header");
        let other = BASE64_STANDARD.encode([b'p', b'b', 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(decode::<u8>(&other).unwrap_err(), "it was not written as rs_bincode of format 1");
    }

    #[test]
    fn types_that_ask_the_data_are_refused_before_anything_is_written() {
        #[derive(Serialize, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            Number(u8),
            Text(String),
        }
        #[derive(Serialize, Deserialize)]
        #[serde(tag = "t")]
        enum Tagged {
            One { x: u8 },
        }
        #[derive(Serialize, Deserialize)]
        struct Flat {
            #[serde(flatten)]
            rest: std::collections::BTreeMap<String, u8>,
        }
        let reasons = [
            check_type::<Untagged>(),
            check_type::<Tagged>(),
            check_type::<Vec<serde_json::Value>>(),
            check_type::<Flat>(),
        ];
        assert!(reasons.iter().all(Result::is_err), "{reasons:?}");
        assert!(check_type::<Vec<()>>().unwrap_err().contains("empty items"));
    }
}
