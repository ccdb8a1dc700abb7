//! A deserializer between a codec and a type. It bounds how deep the type reads, and notes each call of the type.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::watch::{Depth, TooDeep, Trace};

/// The deserializer of the codec, watched.
pub(super) struct Reading<'t, D> {
    inner: D,
    here: Here<'t>,
}

impl<'t, D> Reading<'t, D> {
    /// The trace is for codecs whose records have no names.
    pub(super) fn new(inner: D, trace: Option<&'t Trace>) -> Self {
        Self { inner, here: Here { depth: Depth::default(), trace } }
    }
}

#[derive(Clone, Copy)]
struct Here<'t> {
    depth: Depth,
    trace: Option<&'t Trace>,
}

impl<'t> Here<'t> {
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.inside().ok_or_else(|| E::custom(TooDeep))?;
        Ok(Self { depth, ..self })
    }

    fn sized(&self, what: &str) {
        if let Some(trace) = self.trace {
            trace.sized(what, None);
        }
    }

    fn shape(&self, what: &str) {
        if let Some(trace) = self.trace {
            trace.shape(what, None);
        }
    }

    fn visit<V>(self, visitor: V, expected: Expected) -> Watching<'t, V> {
        Watching { visitor, here: self, expected }
    }
}

/// The kind of value that the type asked for.
#[derive(Clone, Copy)]
enum Expected {
    /// A list or a map: the record says how many items there are.
    Many,
    Fields(&'static [&'static str]),
    Variants(&'static [&'static str]),
    Other,
}

macro_rules! scalars {
    ($($method:ident $name:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.here.sized($name);
            self.inner.$method(self.here.visit(visitor, Expected::Other))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reading<'_, D> {
    type Error = D::Error;

    scalars! {
        deserialize_bool "bool";
        deserialize_i8 "i8";
        deserialize_i16 "i16";
        deserialize_i32 "i32";
        deserialize_i64 "i64";
        deserialize_i128 "i128";
        deserialize_u8 "u8";
        deserialize_u16 "u16";
        deserialize_u32 "u32";
        deserialize_u64 "u64";
        deserialize_u128 "u128";
        deserialize_f32 "f32";
        deserialize_f64 "f64";
        deserialize_char "char";
        deserialize_str "str";
        deserialize_string "str";
        deserialize_bytes "bytes";
        deserialize_byte_buf "bytes";
        // Codecs without names refuse these calls.
        deserialize_any "any";
        deserialize_identifier "any";
        deserialize_ignored_any "any";
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.here.sized("a list");
        self.inner.deserialize_seq(self.here.visit(visitor, Expected::Many))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.here.sized("a map");
        self.inner.deserialize_map(self.here.visit(visitor, Expected::Many))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(self.here.visit(visitor, Expected::Other))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit(self.here.visit(visitor, Expected::Other))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, self.here.visit(visitor, Expected::Other))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_newtype_struct(name, self.here.visit(visitor, Expected::Other))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.here.shape("a tuple");
        self.inner.deserialize_tuple(len, self.here.visit(visitor, Expected::Other))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.here.shape("a tuple");
        self.inner.deserialize_tuple_struct(name, len, self.here.visit(visitor, Expected::Other))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.here.shape("a struct");
        self.inner.deserialize_struct(name, fields, self.here.visit(visitor, Expected::Fields(fields)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, self.here.visit(visitor, Expected::Variants(variants)))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// The visitor of the type. Its further reading is watched too.
struct Watching<'t, V> {
    visitor: V,
    here: Here<'t>,
    expected: Expected,
}

macro_rules! pass {
    ($($method:ident $type:ty;)*) => {$(
        fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Watching<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    pass! {
        visit_bool bool;
        visit_i8 i8;
        visit_i16 i16;
        visit_i32 i32;
        visit_i64 i64;
        visit_i128 i128;
        visit_u8 u8;
        visit_u16 u16;
        visit_u32 u32;
        visit_u64 u64;
        visit_u128 u128;
        visit_f32 f32;
        visit_f64 f64;
        visit_char char;
        visit_str &str;
        visit_borrowed_str &'de str;
        visit_string String;
        visit_bytes &[u8];
        visit_borrowed_bytes &'de [u8];
        visit_byte_buf Vec<u8>;
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.here.sized("None");
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.here.sized("Some");
        let here = self.here.inside()?;
        self.visitor.visit_some(Reading { inner, here })
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let here = self.here.inside()?;
        self.visitor.visit_newtype_struct(Reading { inner, here })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let here = self.here.inside()?;
        let count = Cell::new(0);
        let value = self.visitor.visit_seq(Items::new(inner, here, self.expected, &count))?;
        if let Some(trace) = here.trace {
            trace.end(count.get(), None);
        }
        Ok(value)
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let here = self.here.inside()?;
        let count = Cell::new(0);
        let value = self.visitor.visit_map(Items::new(inner, here, self.expected, &count))?;
        if let Some(trace) = here.trace {
            trace.end(count.get(), None);
        }
        Ok(value)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let here = self.here.inside()?;
        let variants = if let Expected::Variants(variants) = self.expected { variants } else { &[] };
        self.visitor.visit_enum(Chosen { inner, here, variants })
    }
}

/// The items of a list or of a struct, or the entries of a map.
struct Items<'t, A> {
    inner: A,
    here: Here<'t>,
    expected: Expected,
    count: &'t Cell<usize>,
    /// How much the record had given when the current item began.
    begun_at: u64,
}

impl<'t, A> Items<'t, A> {
    fn new(inner: A, here: Here<'t>, expected: Expected, count: &'t Cell<usize>) -> Self {
        Self { inner, here, expected, count, begun_at: 0 }
    }

    fn begin(&mut self) {
        let Some(trace) = self.here.trace else { return };
        if let Expected::Fields(names) = self.expected
            && let Some(name) = names.get(self.count.get())
        {
            trace.field(name, None);
        }
        self.begun_at = trace.bytes_so_far();
    }

    /// Items without bytes are refused: a length of eight bytes could promise any number of them.
    fn end<E: de::Error>(&self) -> Result<(), E> {
        self.count.set(self.count.get() + 1);
        match (self.here.trace, self.expected) {
            (Some(trace), Expected::Many) if trace.bytes_so_far() == self.begun_at => {
                Err(E::custom(EMPTY_ITEMS))
            }
            _ => Ok(()),
        }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.begin();
        let item = self.inner.next_element_seed(Seed { seed, here: self.here })?;
        if item.is_some() {
            self.end()?;
        }
        Ok(item)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.begin();
        self.inner.next_key_seed(Seed { seed, here: self.here })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let value = self.inner.next_value_seed(Seed { seed, here: self.here })?;
        self.end()?;
        Ok(value)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The seed by which the type reads a part.
struct Seed<'t, T> {
    seed: T,
    here: Here<'t>,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        self.seed.deserialize(Reading { inner, here: self.here })
    }
}

/// An enum: first its variant is read, then the contents of the variant.
struct Chosen<'t, A> {
    inner: A,
    here: Here<'t>,
    variants: &'static [&'static str],
}

impl<'de, 't, A: EnumAccess<'de>> EnumAccess<'de> for Chosen<'t, A> {
    type Error = A::Error;
    type Variant = Chosen<'t, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), A::Error> {
        let Self { inner, here, variants } = self;
        let Some(trace) = here.trace else {
            let (value, inner) = inner.variant_seed(seed)?;
            return Ok((value, Chosen { inner, here, variants }));
        };
        let index = Cell::new(None);
        let (value, inner) = inner.variant_seed(Index { inner: seed, index: &index })?;
        let name = index.get().and_then(|index| variants.get(index)).copied().unwrap_or_default();
        trace.variant(name, None);
        Ok((value, Chosen { inner, here, variants }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Chosen<'_, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.newtype_variant_seed(Seed { seed, here: self.here })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.here.shape("a tuple");
        self.inner.tuple_variant(len, self.here.visit(visitor, Expected::Other))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.here.shape("a struct");
        self.inner.struct_variant(fields, self.here.visit(visitor, Expected::Fields(fields)))
    }
}

/// Watches a type while it reads its variant. In a codec without names the variant is a number.
struct Index<'t, T> {
    inner: T,
    index: &'t Cell<Option<usize>>,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Index<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        self.inner.deserialize(Index { inner, index: self.index })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Index<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Index { inner: visitor, index: self.index })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_identifier(Index { inner: visitor, index: self.index })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Index<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_u32<E: de::Error>(self, value: u32) -> Result<V::Value, E> {
        self.index.set(usize::try_from(value).ok());
        self.inner.visit_u32(value)
    }
}

/// The reason for refusing a list of empty items.
pub(super) const EMPTY_ITEMS: &str =
    "a list of empty items has no size that bincode could check; record it as JSON";
