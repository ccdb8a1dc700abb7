//! Under bincode, what a type writes is what it reads, or the run that made the value says where they differ.

use std::fmt::Debug;
use std::time::Duration;

use engine::Codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use crate::codecs::{Unit, Wrapped, seen, step};

/// What bincode would read as something else, and what it says of it.
#[track_caller]
fn bincode_refuses<T: Debug + Serialize + DeserializeOwned + 'static>(given: fn() -> T, words: &str) {
    match step(Codec::Bincode, given, seen) {
        Ok(got) => panic!("it went on with {got}"),
        Err(error) => assert!(error.to_string().contains(words), "{error}"),
    }
}

#[test]
fn bincode_refuses_a_field_that_is_left_out() {
    bincode_refuses(|| Page { id: 1, next: None, kind: 0, rows: vec![1, 9] }, "`next` is left out");
    bincode_refuses(
        || vec![Some(Page { id: 1, next: None, kind: 0, rows: vec![1, 9] })],
        "`[0].next` is left out",
    );
    let whole = step(
        Codec::Bincode,
        || Page { id: 1, next: Some(2), kind: 0, rows: vec![1, 9] },
        |page| seen(&page.next),
    );
    assert_eq!(whole.unwrap(), "Some(2)");

    bincode_refuses(|| WriteOnly { a: 1, b: 2, c: 3 }, "field `a`");
    bincode_refuses(|| ReadOnly { a: None, b: 0, c: 3 }, "field `b`");
    assert_eq!(step(Codec::Bincode, || Neither { a: 1, b: 2 }, seen).unwrap(), "Neither { a: 0, b: 2 }");
}

#[test]
fn bincode_refuses_a_variant_that_would_be_read_as_another() {
    bincode_refuses(|| Kind::B, "it is written as variant `B`, where variant `C` would be read");
    bincode_refuses(|| (1_u8, vec![Kind::B]), "`[1][0]` is written as variant `B`");
    assert_eq!(step(Codec::Bincode, || Read::B(7), seen).unwrap(), "B(7)");
}

#[test]
fn bincode_refuses_a_type_that_writes_what_it_does_not_read() {
    bincode_refuses(|| Shifted { a: 1, b: vec![0] }, "`a` is written as a tuple, where u8 would be read");

    bincode_refuses(|| Signed(1), "is written as i64, where u64 would be read");

    bincode_refuses(|| Halves(1, 2), "a tuple, where a struct would be read");

    bincode_refuses(|| (Short(Vec::new()), 5_u8), "u8, where");
}

/// What is written and read by types of the standard library and of others is one and the same.
#[test]
fn bincode_takes_types_whose_two_sides_agree() {
    is_taken(|| Checked { low: 1, high: 2 });
    is_taken(|| (Duration::from_millis(1500), std::time::UNIX_EPOCH, 1..3, std::num::NonZeroU8::MIN));
    is_taken(|| {
        ("::1".parse::<std::net::IpAddr>().unwrap(), "127.0.0.1:80".parse::<std::net::SocketAddr>().unwrap())
    });
    is_taken(|| (std::path::PathBuf::from("/a"), std::borrow::Cow::Borrowed("b"), 'c', [1_u8; 3], ((),)));
    is_taken(|| (uuid::Uuid::nil(), Ok::<u8, String>(1), std::collections::VecDeque::from([Some(1_i128)])));
    is_taken(|| {
        (
            Wrapped(Unit),
            std::marker::PhantomData::<u8>,
            Box::new(1_u8),
            std::cmp::Reverse(2_u8),
            Vec::<u8>::new(),
        )
    });
    is_taken(|| std::ffi::CString::new("c").unwrap());
}

#[derive(Debug, Serialize, Deserialize)]
struct Page {
    id: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<u8>,
    kind: u8,
    rows: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WriteOnly {
    #[serde(skip_deserializing)]
    a: u8,
    b: u8,
    c: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[expect(dead_code, reason = "only written and read")]
struct ReadOnly {
    #[serde(skip_serializing, default)]
    a: Option<u8>,
    b: u8,
    c: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[expect(dead_code, reason = "only written and read")]
struct Neither {
    #[serde(skip)]
    a: u8,
    b: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[expect(dead_code, reason = "one variant is enough")]
enum Kind {
    #[serde(skip_deserializing)]
    A,
    B,
    C,
}

#[derive(Debug, Serialize, Deserialize)]
enum Read {
    #[serde(skip_serializing)]
    A,
    B(u8),
    #[serde(rename(serialize = "X", deserialize = "Y"))]
    C,
}

#[test]
fn bincode_takes_a_name_that_is_read_as_another() {
    let renamed = || (Renamed { id: 7, name: "Ada".to_owned() }, 5_u8);
    is_taken(renamed);
    let by_id = || (0..20).map(|id| (id, Renamed { id, name: id.to_string() })).collect();
    let all = |users: &std::collections::HashMap<u32, Renamed>| {
        format!("{:?}", users.iter().collect::<std::collections::BTreeMap<_, _>>())
    };
    assert_eq!(step(Codec::Bincode, by_id, all).unwrap(), all(&by_id()));
    is_taken(|| (Answer::No, vec![Answer::Yes(3), Answer::Late { by: 4 }]));
    assert_eq!(step(Codec::Bincode, || Read::C, seen).unwrap(), "C");

    // The name would be that of another field, of the same type.
    bincode_refuses(|| Crossed { a: 1, b: 2, c: 3 }, "field `b`, where field `a` would be read");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Renamed {
    #[serde(alias = "number", alias = "ident")]
    id: u32,
    #[serde(rename(serialize = "name", deserialize = "called"))]
    name: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    #[serde(alias = "yes", alias = "y")]
    Yes(u8),
    #[serde(rename(serialize = "no", deserialize = "nay"))]
    No,
    Late {
        #[serde(alias = "of")]
        by: u8,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[expect(dead_code, reason = "only written and read")]
struct Crossed {
    #[serde(skip_serializing)]
    a: u8,
    #[serde(skip_deserializing)]
    b: u8,
    c: u8,
}

#[derive(Debug, Serialize, Deserialize)]
struct Shifted {
    #[serde(serialize_with = "as_a_pair")]
    a: u8,
    b: Vec<u8>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_a_pair<S: Serializer>(a: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    (*a, 1_u8).serialize(serializer)
}

#[derive(Debug, Serialize, Deserialize)]
struct Signed(#[serde(serialize_with = "as_signed")] u64);

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_signed<S: Serializer>(a: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(a.cast_signed())
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(into = "(u8, u8)", from = "Swapped")]
struct Halves(u8, u8);

#[derive(Deserialize)]
struct Swapped {
    low: u8,
    high: u8,
}

impl Clone for Halves {
    fn clone(&self) -> Self {
        Self(self.0, self.1)
    }
}

impl From<Halves> for (u8, u8) {
    fn from(halves: Halves) -> Self {
        (halves.0, halves.1)
    }
}

impl From<Swapped> for Halves {
    fn from(swapped: Swapped) -> Self {
        Self(swapped.high, swapped.low)
    }
}

/// Says that it has more items than it has.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Short(#[expect(dead_code, reason = "only written")] Vec<u8>);

impl Serialize for Short {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq as _;
        let mut items = serializer.serialize_seq(Some(1))?;
        items.serialize_element(&0_u8)?;
        items.serialize_element(&1_u8)?;
        items.end()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
struct Checked {
    low: u8,
    high: u8,
}

#[derive(Deserialize)]
struct Unchecked {
    low: u8,
    high: u8,
}

impl TryFrom<Unchecked> for Checked {
    type Error = &'static str;

    fn try_from(it: Unchecked) -> Result<Self, Self::Error> {
        if it.low <= it.high { Ok(Self { low: it.low, high: it.high }) } else { Err("low is above high") }
    }
}

#[track_caller]
fn is_taken<T: Debug + Serialize + DeserializeOwned + 'static>(given: fn() -> T) {
    assert_eq!(step(Codec::Bincode, given, seen).unwrap(), seen(&given()));
}
