//! Watches a value while it is written and read: its depth, the place in it, and the serde calls that are made.
//!
//! Both sides of a codec make the same calls in the same order when the written data is the data that will be read.
//! Under bincode, which writes no names, the two [`Trace`]s are compared.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::Serialize;

use crate::pure::limits::VALUE_DEPTH_MAX;

/// The place in a value: `rows[3].price`.
#[derive(Clone, Copy)]
pub(super) struct Path<'p> {
    pub(super) above: Option<&'p Path<'p>>,
    pub(super) part: Part<'p>,
}

#[derive(Clone, Copy)]
pub(super) enum Part<'p> {
    Field(&'static str),
    Item(usize),
    /// The value of an entry whose key is at hand.
    Entry(&'p dyn Key),
    Key,
}

/// A key of a map, as a text for people.
pub(super) trait Key {
    fn text(&self) -> String;
}

impl<K: Serialize + ?Sized> Key for K {
    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "..".to_owned())
    }
}

/// How many parts of a path are shown at each end.
const PARTS_SHOWN: usize = 8;
/// How many characters of a key are shown.
const KEY_CHARS: usize = 40;

/// The path in code quotes, or `it` for the whole value.
pub(super) struct ShownPath<'p>(pub(super) Option<&'p Path<'p>>);

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<_> =
            std::iter::successors(self.0, |path| path.above).map(|path| path.part).collect();
        if parts.is_empty() {
            return f.write_str("it");
        }
        parts.reverse();
        let left_out = PARTS_SHOWN..parts.len().saturating_sub(PARTS_SHOWN).max(PARTS_SHOWN);
        f.write_str("`")?;
        for (n, part) in parts.iter().enumerate() {
            if n == left_out.start && !left_out.is_empty() {
                f.write_str("..")?;
            }
            if left_out.contains(&n) {
                continue;
            }
            match part {
                Part::Field(name) if n == 0 => f.write_str(name)?,
                Part::Field(name) => write!(f, ".{name}")?,
                Part::Item(index) => write!(f, "[{index}]")?,
                Part::Key => f.write_str("(key)")?,
                Part::Entry(key) => {
                    let key: String = key.text().chars().take(KEY_CHARS).collect();
                    write!(f, "[{key}]")?;
                }
            }
        }
        f.write_str("`")
    }
}

/// How many levels deep a part of a value stands.
#[derive(Clone, Copy, Default)]
pub(super) struct Depth(usize);

impl Depth {
    /// One level further in, unless that is too deep.
    pub(super) fn inside(self) -> Option<Self> {
        (self.0 < VALUE_DEPTH_MAX).then_some(Self(self.0 + 1))
    }
}

/// The error text for a value that is too deep.
pub(super) struct TooDeep;

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is nested more than {VALUE_DEPTH_MAX} levels deep")
    }
}

/// The serde calls that one side made.
#[derive(Default)]
pub(super) struct Trace {
    hash: Cell<Hash>,
    /// The hash of the calls without the names.
    nameless: Cell<Hash>,
    /// The number of calls that stand for at least one byte.
    sized: Cell<u64>,
    /// Each call with its place, kept when the caller asks where the two sides part.
    calls: Option<RefCell<Vec<Call>>>,
}

/// One call, and where it was made.
pub(super) struct Call {
    what: String,
    place: String,
}

/// How many calls of one side are kept. The place of a later difference is not told.
const CALLS_MAX: usize = 1 << 18;

/// FNV-1a.
#[derive(Clone, Copy, Default, PartialEq)]
struct Hash(u64);

impl Hash {
    /// Adds bytes to the hash, with their length in front, so that "ab" and "c" are not "a" and "bc".
    fn with(self, bytes: &[u8]) -> Self {
        let fold = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let begun = fold(self.0, length.wrapping_add(0x9e37_79b9_7f4a_7c15));
        Self(bytes.iter().fold(begun, |hash, byte| fold(hash, u64::from(*byte))))
    }
}

impl Trace {
    pub(super) fn detailed() -> Self {
        Self { calls: Some(RefCell::default()), ..Self::default() }
    }

    /// Notes a call that stands for bytes.
    pub(super) fn sized(&self, what: &str, place: Option<&Path<'_>>) {
        self.sized.set(self.sized.get() + 1);
        self.shape(what, place);
    }

    /// Notes a call that stands for no bytes: a struct, a tuple.
    pub(super) fn shape(&self, what: &str, place: Option<&Path<'_>>) {
        self.fold(what.as_bytes());
        self.keep(|| what.to_owned(), place);
    }

    pub(super) fn field(&self, name: &str, place: Option<&Path<'_>>) {
        self.fold(b".");
        self.fold_name(name);
        self.keep(|| format!("field `{name}`"), place);
    }

    pub(super) fn variant(&self, name: &str, place: Option<&Path<'_>>) {
        self.sized.set(self.sized.get() + 1);
        self.fold(b"<");
        self.fold_name(name);
        self.keep(|| format!("variant `{name}`"), place);
    }

    /// Notes the number of items.
    pub(super) fn end(&self, items: usize, place: Option<&Path<'_>>) {
        self.fold(&items.to_le_bytes());
        self.keep(|| format!("the end after {items}"), place);
    }

    fn fold(&self, bytes: &[u8]) {
        self.hash.set(self.hash.get().with(bytes));
        self.nameless.set(self.nameless.get().with(bytes));
    }

    fn fold_name(&self, name: &str) {
        self.hash.set(self.hash.get().with(name.as_bytes()));
    }

    fn keep(&self, what: impl FnOnce() -> String, place: Option<&Path<'_>>) {
        let Some(calls) = &self.calls else { return };
        if let Ok(mut calls) = calls.try_borrow_mut()
            && calls.len() < CALLS_MAX
        {
            calls.push(Call { what: what(), place: ShownPath(place).to_string() });
        }
    }

    pub(super) fn bytes_so_far(&self) -> u64 {
        self.sized.get()
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    /// Whether two traces differ at most in the names of fields and variants.
    pub(super) fn is_like_but_for_names(&self, other: &Self) -> bool {
        self.nameless == other.nameless
    }

    /// The first place where the written data differs from the read data.
    pub(super) fn differs_from(&self, read: &Self) -> Option<String> {
        let (Some(written), Some(read)) = (&self.calls, &read.calls) else { return None };
        let (written, read) = (written.borrow(), read.borrow());
        let at = written.iter().zip(read.iter()).position(|(written, read)| written.what != read.what)?;
        let Call { what, place } = &written[at];
        Some(format!("{place} is written as {what}, where {} would be read", read[at].what))
    }
}
