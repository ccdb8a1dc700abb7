//! A serializer between a value and its codec. It refuses a value that would not be read back as the same value, and
//! says which part of the value is to blame.

use std::cell::Cell;
use std::fmt;

use serde::ser::{self, Serialize, Serializer};

use super::watch::{Depth, Part, Path, ShownPath, TooDeep, Trace};

/// The name of the struct by which `serde_json` passes a JSON text.
const RAW_JSON: &str = "$serde_json::private::RawValue";

/// The rules of a codec.
#[derive(Clone, Copy)]
pub(super) enum Form<'t> {
    /// JSON has one `null` and no number that is not finite.
    Json,
    /// bincode has no names.
    Bincode(&'t Trace),
}

/// A value that is watched while it is written.
pub(super) struct Watched<'p, T: ?Sized> {
    value: &'p T,
    here: Here<'p>,
}

impl<'p, T: ?Sized> Watched<'p, T> {
    /// After writing, `too_deep` says whether the value was refused for its depth.
    pub(super) fn new(value: &'p T, form: Form<'p>, too_deep: &'p Cell<bool>) -> Self {
        Self {
            value,
            here: Here { form, too_deep, depth: Depth::default(), above: Above::Other, path: None },
        }
    }
}

impl<T: Serialize + ?Sized> Serialize for Watched<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Writing { inner: serializer, here: self.here })
    }
}

/// The place in a value where a part is written.
#[derive(Clone, Copy)]
struct Here<'p> {
    form: Form<'p>,
    too_deep: &'p Cell<bool>,
    depth: Depth,
    above: Above,
    path: Option<&'p Path<'p>>,
}

/// The direct container of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Above {
    /// A `Some`, with nothing but newtypes in between.
    Some,
    /// The JSON text in a `Some`.
    RawInSome,
    Other,
}

impl<'p> Here<'p> {
    fn inside<E: ser::Error>(self, above: Above) -> Result<Self, E> {
        let depth = self.depth.inside().ok_or_else(|| {
            self.too_deep.set(true);
            E::custom(format_args!("{TooDeep}, at {}", ShownPath(self.path)))
        })?;
        Ok(Self { depth, above, ..self })
    }

    fn at(self, path: &'p Path<'p>) -> Self {
        Self { path: Some(path), ..self }
    }

    fn sized(&self, what: &str) {
        if let Form::Bincode(trace) = self.form {
            trace.sized(what, self.path);
        }
    }

    fn shape(&self, what: &str) {
        if let Form::Bincode(trace) = self.form {
            trace.shape(what, self.path);
        }
    }

    fn variant(&self, name: &str) {
        if let Form::Bincode(trace) = self.form {
            trace.variant(name, self.path);
        }
    }

    fn end(&self, items: usize) {
        if let Form::Bincode(trace) = self.form {
            trace.end(items, self.path);
        }
    }

    /// Refuses a `null` under a `Some`: JSON would read it back as `None`.
    fn null<E: ser::Error>(&self, what: &str) -> Result<(), E> {
        if matches!(self.form, Form::Json) && self.above != Above::Other {
            return Err(E::custom(format_args!(
                "{} is Some({what}), which JSON writes as `null` and reads back as None; give it a form that is not \
                 `null`",
                ShownPath(self.path)
            )));
        }
        Ok(())
    }

    fn finite<E: ser::Error>(&self, number: f64) -> Result<(), E> {
        if matches!(self.form, Form::Json) && !number.is_finite() {
            return Err(E::custom(format_args!(
                "{} is {number}, for which JSON has no number but only `null`; write it as a text",
                ShownPath(self.path)
            )));
        }
        Ok(())
    }
}

/// The serializer of the codec, watched.
struct Writing<'p, S> {
    inner: S,
    here: Here<'p>,
}

/// The parts of a list, a struct or a map, watched.
pub(super) struct Parts<'p, C> {
    inner: C,
    /// The place of these parts.
    here: Here<'p>,
    count: usize,
}

impl<'p, S: Serializer> Writing<'p, S> {
    /// Begins a value that has parts.
    fn parts<C>(self, begin: impl FnOnce(S) -> Result<C, S::Error>) -> Result<Parts<'p, C>, S::Error> {
        let here = self.here.inside(Above::Other)?;
        Ok(Parts { inner: begin(self.inner)?, here, count: 0 })
    }
}

macro_rules! scalars {
    ($($method:ident $type:ty, $name:literal;)*) => {$(
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.here.sized($name);
            self.inner.$method(value)
        }
    )*};
}

impl<'p, S: Serializer> Serializer for Writing<'p, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'p, S::SerializeSeq>;
    type SerializeTuple = Parts<'p, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'p, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'p, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'p, S::SerializeMap>;
    type SerializeStruct = Parts<'p, S::SerializeStruct>;
    type SerializeStructVariant = Parts<'p, S::SerializeStructVariant>;

    scalars! {
        serialize_bool bool, "bool";
        serialize_i8 i8, "i8";
        serialize_i16 i16, "i16";
        serialize_i32 i32, "i32";
        serialize_i64 i64, "i64";
        serialize_i128 i128, "i128";
        serialize_u8 u8, "u8";
        serialize_u16 u16, "u16";
        serialize_u32 u32, "u32";
        serialize_u64 u64, "u64";
        serialize_u128 u128, "u128";
        serialize_char char, "char";
        serialize_bytes &[u8], "bytes";
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.here.finite(value.into())?;
        self.here.sized("f32");
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.here.finite(value)?;
        self.here.sized("f64");
        self.inner.serialize_f64(value)
    }

    fn serialize_str(self, value: &str) -> Result<S::Ok, S::Error> {
        if self.here.above == Above::RawInSome && value.trim() == "null" {
            self.here.null("a JSON null")?;
        }
        self.here.sized("str");
        self.inner.serialize_str(value)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.here.sized("str");
        self.inner.collect_str(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.here.null("None")?;
        self.here.sized("None");
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.here.sized("Some");
        let here = self.here.inside(Above::Some)?;
        self.inner.serialize_some(&Watched { value, here })
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.here.null("()")?;
        self.inner.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.here.null(name)?;
        self.inner.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.here.variant(variant);
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let here = self.here.inside(self.here.above)?;
        self.inner.serialize_newtype_struct(name, &Watched { value, here })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.here.variant(variant);
        let here = self.here.inside(Above::Other)?;
        self.inner.serialize_newtype_variant(name, index, variant, &Watched { value, here })
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.here.sized("a list");
        self.parts(|inner| inner.serialize_seq(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.here.shape("a tuple");
        self.parts(|inner| inner.serialize_tuple(len))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.here.shape("a tuple");
        self.parts(|inner| inner.serialize_tuple_struct(name, len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.here.variant(variant);
        self.here.shape("a tuple");
        self.parts(|inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.here.sized("a map");
        self.parts(|inner| inner.serialize_map(len))
    }

    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        let raw = name == RAW_JSON && self.here.above == Above::Some;
        self.here.shape("a struct");
        let mut parts = self.parts(|inner| inner.serialize_struct(name, len))?;
        if raw {
            parts.here.above = Above::RawInSome;
        }
        Ok(parts)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.here.variant(variant);
        self.here.shape("a struct");
        self.parts(|inner| inner.serialize_struct_variant(name, index, variant, len))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

impl<C> Parts<'_, C> {
    /// Writes one part, under its place.
    fn part<T: ?Sized, E>(
        &mut self,
        part: Part<'_>,
        value: &T,
        write: impl FnOnce(&mut C, &Watched<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = Path { above: self.here.path, part };
        let here = self.here;
        write(&mut self.inner, &Watched { value, here: here.at(&path) })
    }

    fn item<T: ?Sized, E>(
        &mut self,
        value: &T,
        write: impl FnOnce(&mut C, &Watched<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let index = self.count;
        self.count += 1;
        self.part(Part::Item(index), value, write)
    }

    fn field<T: ?Sized, E>(
        &mut self,
        name: &'static str,
        value: &T,
        write: impl FnOnce(&mut C, &Watched<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.count += 1;
        if let Form::Bincode(trace) = self.here.form {
            trace.field(name, self.here.path);
        }
        self.part(Part::Field(name), value, write)
    }

    /// Refuses a field that is left out, under a codec without names. JSON says which fields there are; bincode does
    /// not.
    fn left_out<E: ser::Error>(&self, name: &'static str) -> Result<(), E> {
        let path = Path { above: self.here.path, part: Part::Field(name) };
        match self.here.form {
            Form::Json => Ok(()),
            Form::Bincode(_) => Err(E::custom(format_args!(
                "{} is left out, and bincode would read what follows in its place; drop `skip_serializing` and \
                 `skip_serializing_if`, or record it as JSON",
                ShownPath(Some(&path))
            ))),
        }
    }
}

impl<C: ser::SerializeSeq> ser::SerializeSeq for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.item(value, |inner, value| inner.serialize_element(value))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.here.end(self.count);
        self.inner.end()
    }
}

impl<C: ser::SerializeTuple> ser::SerializeTuple for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.item(value, |inner, value| inner.serialize_element(value))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.here.end(self.count);
        self.inner.end()
    }
}

impl<C: ser::SerializeTupleStruct> ser::SerializeTupleStruct for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.item(value, |inner, value| inner.serialize_field(value))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.here.end(self.count);
        self.inner.end()
    }
}

impl<C: ser::SerializeTupleVariant> ser::SerializeTupleVariant for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.item(value, |inner, value| inner.serialize_field(value))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.here.end(self.count);
        self.inner.end()
    }
}

impl<C: ser::SerializeMap> ser::SerializeMap for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.count += 1;
        self.part(Part::Key, key, |inner, key| inner.serialize_key(key))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let entry = self.count.saturating_sub(1);
        self.part(Part::Item(entry), value, |inner, value| inner.serialize_value(value))
    }

    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), C::Error> {
        self.serialize_key(key)?;
        self.part(Part::Entry(&key), value, |inner, value| inner.serialize_value(value))
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.here.end(self.count);
        self.inner.end()
    }
}

impl<C: ser::SerializeStruct> ser::SerializeStruct for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), C::Error> {
        self.field(name, value, |inner, value| inner.serialize_field(name, value))
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
        self.left_out(name)?;
        self.inner.skip_field(name)
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.here.end(self.count);
        self.inner.end()
    }
}

impl<C: ser::SerializeStructVariant> ser::SerializeStructVariant for Parts<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), C::Error> {
        self.field(name, value, |inner, value| inner.serialize_field(name, value))
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
        self.left_out(name)?;
        self.inner.skip_field(name)
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.here.end(self.count);
        self.inner.end()
    }
}
