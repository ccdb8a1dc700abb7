//! The input of a workflow as arguments. Our workflows take one argument; functions in other languages take several, by
//! place or by name.

use std::cell::{Cell, OnceCell};
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use serde_json::value::RawValue;

use super::reading::Reading;
use super::{Codec, caught, check_size, codec_of, portable_json, written};
use crate::pure::error::{Error, Result};

/// The contents of `workflow_input.inputs`. Each argument is a JSON text as it was written. A tree of values would sort
/// the keys of maps, drop repeated keys and round large numbers.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Arguments<'t> {
    #[serde(borrow)]
    positional_args: Option<&'t RawValue>,
    #[serde(borrow)]
    named_args: Option<&'t RawValue>,
}

/// Encodes an input. `()` becomes no argument, any other input one argument, unless it is to be `spread`.
pub(crate) fn encode_input<T>(workflow: &str, input: T, spread: bool) -> Result<String>
where
    T: Serialize + DeserializeOwned,
{
    let too_deep = Cell::new(false);
    let write = || {
        let value = written(input, &too_deep, |input| portable_json::encode(input, &too_deep))?;
        let text = match value.as_bytes().first() {
            _ if value == "null" => r#"{"positionalArgs":[],"namedArgs":{}}"#.to_owned(),
            Some(b'[') if spread => format!(r#"{{"positionalArgs":{value},"namedArgs":{{}}}}"#),
            Some(b'{') if spread => format!(r#"{{"positionalArgs":[],"namedArgs":{value}}}"#),
            _ => format!(r#"{{"positionalArgs":[{value}],"namedArgs":{{}}}}"#),
        };
        check_size(&text)?;
        read::<T>(&text)?;
        Ok(text)
    };
    let what = || format!("input of workflow {workflow}");
    caught(write).map_err(|reason| Error::Unencodable { what: what(), reason })
}

/// Whether two recorded inputs have the same contents: a hash map is written in another order each time.
pub(crate) fn same_input(one: &str, other: &str) -> bool {
    let tree = |text| serde_json::from_str::<Value>(text).ok();
    one == other || tree(one).is_some_and(|one| Some(one) == tree(other))
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

fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let fields = OnceCell::new();
    let read = || T::deserialize(Reading::new(Given::of(text, &fields)?, None));
    read().map_err(|e| e.to_string())
}

/// Arguments by name, in their order in the text, repeated names included.
struct Named<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Named<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Named<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("arguments by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Named(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Arguments as they fit a type. One argument is the input itself. Several are the parts of a tuple or the fields of a
/// struct. Named arguments are the fields of these names.
struct Given<'t> {
    positional: Vec<&'t RawValue>,
    /// The JSON list of the positional arguments.
    all_positional: Option<&'t RawValue>,
    named: Vec<(String, &'t RawValue)>,
    /// The JSON object of the named arguments.
    all_named: Option<&'t RawValue>,
    /// Keeps the object of a struct's fields while it is read.
    fields: &'t OnceCell<String>,
}

/// A deserializer of one JSON text. Its reader bounds the depth.
type Text<'t> = serde_json::Deserializer<serde_json::de::StrRead<'t>>;

fn text_of(raw: &str) -> Text<'_> {
    let mut text = serde_json::Deserializer::from_str(raw);
    text.disable_recursion_limit();
    text
}

impl<'t> Given<'t> {
    fn of(text: &'t str, fields: &'t OnceCell<String>) -> Result<Self, serde_json::Error> {
        let Arguments { positional_args, named_args } = serde_json::from_str(text)?;
        let positional =
            positional_args.map_or_else(|| Ok(Vec::new()), |args| serde_json::from_str(args.get()))?;
        let named = named_args.map(|args| serde_json::from_str::<Named<'_>>(args.get())).transpose()?;
        let named = named.map(|Named(entries)| entries).unwrap_or_default();
        Ok(Self { positional, all_positional: positional_args, named, all_named: named_args, fields })
    }

    /// The one value that the arguments are together.
    fn value(&self) -> Result<Text<'t>, serde_json::Error> {
        let raw = match (self.positional.as_slice(), self.named.first()) {
            ([], None) => None,
            ([], Some(_)) => self.all_named,
            ([one], None) => Some(*one),
            (_, None) => self.all_positional,
            (_, Some((name, _))) => {
                return Err(serde_json::Error::custom(format!(
                    "argument `{name}` is named and others are not; only a struct takes both"
                )));
            }
        };
        Ok(text_of(raw.map_or("null", RawValue::get)))
    }

    /// The object that the arguments are, for a struct of these fields.
    fn object(&self, fields: &[&str]) -> Result<Text<'t>, serde_json::Error> {
        let Self { positional, named, .. } = self;
        if positional.len() > fields.len() {
            let (given, takes) = (positional.len(), fields.join(", "));
            return Err(serde_json::Error::custom(format!(
                "{given} arguments are given, and it takes: {takes}"
            )));
        }
        let mut entries = Vec::with_capacity(positional.len() + named.len());
        for (field, value) in fields.iter().zip(positional) {
            if named.iter().any(|(name, _)| name == field) {
                return Err(serde_json::Error::custom(format!(
                    "argument `{field}` is given twice, by place and by name"
                )));
            }
            entries.push(format!("{}:{value}", Value::from(*field)));
        }
        entries.extend(named.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))));
        Ok(text_of(self.fields.get_or_init(|| format!("{{{}}}", entries.join(",")))))
    }
}

macro_rules! as_the_value {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            self.value()?.$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Given<'de> {
    type Error = serde_json::Error;

    as_the_value! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let is_itself = matches!(self.positional.as_slice(), [one] if one.get().starts_with('{'))
            && self.named.is_empty();
        let mut text = if is_itself { self.value()? } else { self.object(fields)? };
        text.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        // A tuple of one part that was spread is no list.
        let is_part = len == 1
            && self.named.is_empty()
            && matches!(self.positional.as_slice(), [one] if !one.get().starts_with('['));
        let parts = if is_part { self.all_positional.map(|parts| text_of(parts.get())) } else { None };
        parts.map_or_else(|| self.value(), Ok)?.deserialize_tuple(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.value()?.deserialize_tuple_struct(name, len, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.value()?.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        // By this call serde_json takes a JSON text as it stands. The name tells the call.
        if name.starts_with("$serde_json::") {
            return self.value()?.deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let is_null = |one: &RawValue| one.get() == "null";
        let is_none = self.named.is_empty()
            && (self.positional.is_empty() || matches!(self.positional.as_slice(), [one] if is_null(one)));
        if is_none { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.value()?.deserialize_enum(name, variants, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input<T: DeserializeOwned>(text: &str) -> Result<T> {
        decode_input("w", Some("portable_json"), Some(text))
    }

    fn refusal<T: DeserializeOwned>(text: &str) -> String {
        input::<T>(text).map(drop).unwrap_err().to_string()
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        item: String,
        count: u32,
        #[serde(default)]
        note: Option<String>,
    }

    fn order(item: &str, count: u32) -> Order {
        Order { item: item.to_owned(), count, note: None }
    }

    #[test]
    fn an_input_is_one_positional_argument_and_unit_is_none() {
        let text = encode_input("w", "x".to_owned(), false).unwrap();
        assert_eq!(text, r#"{"positionalArgs":["x"],"namedArgs":{}}"#);
        let text = encode_input("w", (), false).unwrap();
        assert_eq!(text, r#"{"positionalArgs":[],"namedArgs":{}}"#);
        input::<()>(&text).unwrap();
    }

    #[test]
    fn arguments_of_other_sdks_are_read_in_every_form() {
        assert_eq!(input::<(i32, i32)>(r#"{"namedArgs":{},"positionalArgs":[1,2]}"#).unwrap(), (1, 2));
        assert_eq!(input::<(i32, i32)>(r#"{"positionalArgs":[[1,2]]}"#).unwrap(), (1, 2));
        assert_eq!(input::<Vec<i32>>(r#"{"positionalArgs":[[1]]}"#).unwrap(), [1]);
        assert_eq!(input::<Option<u8>>(r#"{"positionalArgs":[null]}"#).unwrap(), None);
        assert_eq!(input::<Option<u8>>(r#"{"positionalArgs":[7]}"#).unwrap(), Some(7));
        let order = order("book", 2);
        for text in [
            r#"{"positionalArgs":[{"item":"book","count":2}],"namedArgs":{}}"#,
            r#"{"positionalArgs":null,"namedArgs":{"item":"book","count":2}}"#,
            r#"{"positionalArgs":["book",2],"namedArgs":null}"#,
            r#"{"positionalArgs":["book"],"namedArgs":{"count":2}}"#,
            r#"{"namedArgs":{"note":null,"count":2},"positionalArgs":["book"]}"#,
        ] {
            assert_eq!(input::<Order>(text).unwrap(), order, "{text}");
            assert_eq!(input::<Option<Order>>(text).unwrap().as_ref(), Some(&order), "{text}");
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_told_by_name() {
        let twice = refusal::<Order>(r#"{"positionalArgs":["book"],"namedArgs":{"item":"x","count":2}}"#);
        assert!(twice.contains("`item` is given twice"), "{twice}");
        let many = refusal::<Order>(r#"{"positionalArgs":["book",2,null,4]}"#);
        assert!(many.contains("4 arguments are given, and it takes: item, count, note"), "{many}");
        let missing = refusal::<Order>(r#"{"positionalArgs":["book"]}"#);
        assert!(missing.contains("missing field `count`"), "{missing}");
        let both = refusal::<(u8, u8)>(r#"{"positionalArgs":[1],"namedArgs":{"c":2}}"#);
        assert!(both.contains("`c` is named and others are not"), "{both}");
    }

    #[test]
    fn what_is_spread_becomes_arguments_and_reads_back() {
        let text = encode_input("w", order("book", 2), true).unwrap();
        assert_eq!(text, r#"{"positionalArgs":[],"namedArgs":{"item":"book","count":2,"note":null}}"#);
        assert_eq!(input::<Order>(&text).unwrap(), order("book", 2));
        let text = encode_input("w", ("book".to_owned(), 2), true).unwrap();
        assert_eq!(text, r#"{"positionalArgs":["book",2],"namedArgs":{}}"#);
        assert_eq!(input::<Order>(&text).unwrap(), order("book", 2));
        let text = encode_input("w", (7,), true).unwrap();
        assert_eq!(input::<(u8,)>(&text).unwrap(), (7,));
    }

    #[test]
    fn an_undecodable_input_names_the_workflow_and_the_reason() {
        let error = refusal::<u8>(r#"{"positionalArgs":["x"]}"#);
        assert!(error.starts_with("input of workflow w cannot be decoded: invalid type: string"), "{error}");
        assert!(input::<u8>("garbage").is_err());
        assert!(decode_input::<u8>("w", None, None).unwrap_err().to_string().contains("nothing is recorded"));
    }

    #[test]
    fn an_input_that_cannot_be_read_back_is_refused_when_it_is_given() {
        assert!(encode_input("w", vec![f64::NAN], false).is_err());
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(encode_input("w", keys, false).is_err(), "keys are texts");
    }
}
