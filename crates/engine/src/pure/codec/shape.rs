//! The shape of a type: which serde calls its `Deserialize` makes, as a text and a hash.
//!
//! [`of`] lets the type read from a source without data. The source notes each call and answers with dummies. Where
//! there is a choice, the type is read again until every answer was given once. Choices are an option, a list, the
//! variants of an enum, and a text that the type may refuse. So the shape has all variants.
//!
//! Limits: the shape of a type that refuses all dummies is known up to that point. A type that contains itself is known
//! up to its first repetition, or up to a depth if it has no name.

use std::fmt::{self, Write as _};

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

/// How often a type is read until its shape is taken as known.
const READINGS_MAX: usize = 400;
/// How deep a type is read. Only types that contain themselves are deeper.
const DEPTH_MAX: usize = 64;
/// Texts to offer, for types that parse a text.
const TEXTS: [&str; 5] =
    ["", "1", "1970-01-01T00:00:00Z", "00000000-0000-0000-0000-000000000000", "127.0.0.1"];
/// Bytes to offer: none, and as many as common ids have.
const BYTES: [&[u8]; 3] = [&[0; 16], &[], &[0; 32]];

/// The shape that [`of`] found.
pub(super) struct Shape {
    text: String,
    asks_the_data: bool,
    has_zero_sized_items: bool,
}

impl Shape {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the type asks the data of which kind it is, as untagged enums do.
    pub(super) fn asks_the_data(&self) -> bool {
        self.asks_the_data
    }

    /// Whether a list or a map has items without bytes, so that its length promises nothing.
    pub(super) fn has_zero_sized_items(&self) -> bool {
        self.has_zero_sized_items
    }

    /// FNV-1a, 64 bits: stable across releases of Rust, unlike the hashers of `std`.
    pub(super) fn hash(&self) -> u64 {
        self.text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// The shape of `T` as its `Deserialize` tells it.
pub(super) fn of<T: DeserializeOwned>() -> Shape {
    let mut tracer = Tracer::default();
    let mut texts: Vec<String> = Vec::new();
    let mut refused = String::new();
    for _ in 0..READINGS_MAX {
        let complete = T::deserialize(&mut tracer).is_ok();
        let text = std::mem::take(&mut tracer.text);
        if !complete && !tracer.met_itself {
            refused = text;
        } else if !texts.contains(&text) {
            texts.push(text);
        }
        if !tracer.next_reading(complete) {
            break;
        }
    }
    // Part of a reading is better than none.
    let text = if texts.is_empty() { refused } else { texts.join("|") };
    Shape { text, asks_the_data: tracer.asked_the_data, has_zero_sized_items: tracer.saw_zero_sized_items }
}

/// One choice of the current reading: its answer, and how many answers there are.
#[derive(Clone, Copy)]
struct Choice {
    taken: usize,
    answers: usize,
    /// Whether every answer belongs to the shape (a variant), or only the first that the type accepts (a text).
    all_count: bool,
}

#[derive(Default)]
struct Tracer {
    text: String,
    /// Answers to give, in the order of the questions. Later questions get their first answer.
    script: Vec<Choice>,
    asked: usize,
    /// Names of the structs and enums that are being read, outermost first.
    open: Vec<&'static str>,
    /// This reading ended where the type contains itself.
    met_itself: bool,
    /// Some reading asked the data of which kind it is.
    asked_the_data: bool,
    /// Questions of this reading that have bytes for an answer.
    sized: usize,
    /// Some reading of an item asked for no bytes.
    saw_zero_sized_items: bool,
    /// How deep the reading is.
    depth: usize,
}

impl Tracer {
    fn choose(&mut self, answers: usize, all_count: bool) -> usize {
        self.sized += 1;
        if self.asked == self.script.len() {
            self.script.push(Choice { taken: 0, answers, all_count });
        }
        let taken = self.script[self.asked].taken;
        self.asked += 1;
        taken
    }

    /// Turns to the next combination of answers, the last question first. After a complete reading, only questions
    /// whose every answer counts have another answer to give.
    fn next_reading(&mut self, complete: bool) -> bool {
        self.script.truncate(self.asked);
        self.asked = 0;
        self.open.clear();
        self.depth = 0;
        self.met_itself = false;
        while let Some(mut choice) = self.script.pop() {
            choice.taken += 1;
            if choice.taken < choice.answers && (choice.all_count || !complete) {
                self.script.push(choice);
                return true;
            }
        }
        false
    }

    /// Reads a list of one item, or of none for a type that contains itself.
    fn items<T>(&mut self, visit: impl FnOnce(Items<'_>) -> Result<T, Refused>) -> Result<T, Refused> {
        let items = 1 - self.choose(2, false);
        if items == 0 {
            self.text.push('-');
        }
        let before = self.sized;
        let value = self.deeper(|tracer| visit(Items { tracer, left: items }))?;
        self.saw_zero_sized_items |= items == 1 && self.sized == before;
        self.text.push(']');
        Ok(value)
    }

    /// Reads the contents of a value. A type without a name that contains itself would never end.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Refused>) -> Result<T, Refused> {
        if self.depth == DEPTH_MAX {
            self.text.push_str("^..");
            self.met_itself = true;
            return Err(Refused);
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn note(&mut self, what: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{what} ");
    }

    /// Enters a struct or enum, unless it is being read already.
    fn enter(&mut self, name: &'static str) -> Result<(), Refused> {
        if self.open.contains(&name) {
            let _ = write!(self.text, "^{name}");
            self.met_itself = true;
            return Err(Refused);
        }
        self.open.push(name);
        self.text.push_str(name);
        Ok(())
    }
}

/// The type did not take the dummy, or contains itself.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

macro_rules! primitives {
    ($($method:ident $name:literal $visit:ident $dummy:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.note($name);
            // Zero first, then one for types that refuse zero.
            if self.choose(2, false) == 0 { visitor.$visit($dummy.0) } else { visitor.$visit($dummy.1) }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Tracer {
    type Error = Refused;

    primitives! {
        deserialize_bool "bool" visit_bool (false, true);
        deserialize_i8 "i8" visit_i8 (0, 1);
        deserialize_i16 "i16" visit_i16 (0, 1);
        deserialize_i32 "i32" visit_i32 (0, 1);
        deserialize_i64 "i64" visit_i64 (0, 1);
        deserialize_i128 "i128" visit_i128 (0, 1);
        deserialize_u8 "u8" visit_u8 (0, 1);
        deserialize_u16 "u16" visit_u16 (0, 1);
        deserialize_u32 "u32" visit_u32 (0, 1);
        deserialize_u64 "u64" visit_u64 (0, 1);
        deserialize_u128 "u128" visit_u128 (0, 1);
        deserialize_f32 "f32" visit_f32 (0.0, 1.0);
        deserialize_f64 "f64" visit_f64 (0.0, 1.0);
        deserialize_char "char" visit_char ('a', 'A');
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        self.note("any");
        self.asked_the_data = true;
        Err(Refused)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note("str");
        let text = TEXTS[self.choose(TEXTS.len(), false)];
        visitor.visit_string(text.to_owned())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.note("bytes");
        let bytes = BYTES[self.choose(BYTES.len(), false)];
        visitor.visit_byte_buf(bytes.to_vec())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.text.push('?');
        if self.choose(2, false) == 0 {
            self.deeper(|tracer| visitor.visit_some(tracer))
        } else {
            visitor.visit_none()
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deeper(|tracer| visitor.visit_newtype_struct(tracer))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.text.push_str("seq[");
        self.items(|items| visitor.visit_seq(items))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.text.push_str("map[");
        self.items(|items| visitor.visit_map(items))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.text.push('(');
        let value = self.deeper(|tracer| visitor.visit_seq(Items { tracer, left: len }))?;
        self.text.push(')');
        Ok(value)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.enter(name)?;
        let value = self.deserialize_tuple(len, visitor)?;
        self.open.pop();
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.enter(name)?;
        let _ = write!(self.text, "{{{}}}", fields.join(","));
        let value = self.deserialize_tuple(fields.len(), visitor)?;
        self.open.pop();
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.enter(name)?;
        let _ = write!(self.text, "<{}>", variants.join(","));
        let index = self.choose(variants.len().max(1), true);
        let variant = variants.get(index).ok_or(Refused)?;
        let _ = write!(self.text, "{variant}");
        let value = visitor.visit_enum(Variant { tracer: self, index })?;
        self.open.pop();
        Ok(value)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// A given number of items or entries.
struct Items<'t> {
    tracer: &'t mut Tracer,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.tracer).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> de::MapAccess<'de> for Items<'_> {
    type Error = Refused;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        seed.deserialize(&mut *self.tracer)
    }
}

/// One variant of an enum, by its position.
struct Variant<'t> {
    tracer: &'t mut Tracer,
    index: usize,
}

impl<'de> de::EnumAccess<'de> for Variant<'_> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Refused> {
        let index = u32::try_from(self.index).map_err(|_| Refused)?;
        Ok((seed.deserialize(index.into_deserializer())?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Refused> {
        self.tracer.text.push('(');
        let value = seed.deserialize(&mut *self.tracer)?;
        self.tracer.text.push(')');
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        de::Deserializer::deserialize_tuple(self.tracer, len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let _ = write!(self.tracer.text, "{{{}}}", fields.join(","));
        de::Deserializer::deserialize_tuple(self.tracer, fields.len(), visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn text<T: DeserializeOwned>() -> String {
        of::<T>().text
    }

    #[test]
    fn the_shape_of_a_page_of_users() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its shape is looked at")]
        struct User {
            id: uuid::Uuid,
            name: String,
        }
        assert_eq!(text::<Vec<User>>(), "seq[User{id,name}(bytes str )]");
    }

    #[test]
    fn every_variant_is_in_the_shape() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its shape is looked at")]
        enum Kind {
            A,
            B(u8),
            C { x: Option<bool> },
        }
        assert_eq!(
            text::<(Kind, i8)>(),
            "(Kind<A,B,C>Ai8 )|(Kind<A,B,C>B(u8 )i8 )|(Kind<A,B,C>C{x}(?bool )i8 )"
        );
    }

    #[test]
    fn types_that_check_their_data_are_known_whole() {
        assert_eq!(text::<(std::num::NonZeroU32, u8)>(), "(u32 u8 )");
        assert_eq!(text::<(chrono::DateTime<chrono::Utc>, u8)>(), "(str u8 )");
    }

    #[test]
    fn a_type_that_contains_itself_has_a_finite_shape() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its shape is looked at")]
        struct Tree {
            left: Option<Box<Tree>>,
            items: Vec<Tree>,
            weight: f64,
        }
        assert_eq!(
            text::<Tree>(),
            "Tree{left,items,weight}(?^Tree|Tree{left,items,weight}(?seq[^Tree|Tree{left,items,weight}(?seq[-]f64 )"
        );
    }

    #[test]
    fn a_change_of_a_field_type_name_or_order_changes_the_hash() {
        let hashes = [
            of::<(u8, u16)>().hash(),
            of::<(u16, u8)>().hash(),
            of::<Vec<u8>>().hash(),
            of::<Option<u8>>().hash(),
        ];
        let distinct: std::collections::HashSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }

    #[test]
    fn the_hash_never_changes_between_releases() {
        let hash = |text: &str| {
            Shape { text: text.to_owned(), asks_the_data: false, has_zero_sized_items: false }.hash()
        };
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
