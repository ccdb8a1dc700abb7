//! The input of a workflow as arguments: ours take one, functions in other languages several, by place or by name.

use serde::de::{Deserializer, Error as _, IntoDeserializer as _, Visitor};
use serde::{Deserialize, Serialize, de::DeserializeOwned, forward_to_deserialize_any};
use serde_json::{Map, Value};

use super::{Codec, caught, check_size, codec_of, portable_json};
use crate::error::{Error, Result};

/// What stands in `workflow_input.inputs`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Arguments {
    positional_args: Option<Vec<Value>>,
    named_args: Option<Map<String, Value>>,
}

/// `()` is no argument; everything else is one, unless it is to be `spread`.
pub(crate) fn encode_input<T>(workflow: &str, input: T, spread: bool) -> Result<String>
where
    T: Serialize + DeserializeOwned,
{
    let write = || {
        let value = serde_json::to_value(&input).map_err(|e| e.to_string())?;
        // Dropped here, where a panic of its `Drop` is caught.
        drop(input);
        let (positional, named) = match value {
            Value::Null => (Vec::new(), Map::new()),
            Value::Array(parts) if spread => (parts, Map::new()),
            Value::Object(fields) if spread => (Vec::new(), fields),
            value => (vec![value], Map::new()),
        };
        let arguments = Arguments { positional_args: Some(positional), named_args: Some(named) };
        let text = portable_json::encode(&arguments)?;
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

fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let arguments: Arguments = portable_json::decode(text)?;
    let given = Given {
        positional: arguments.positional_args.unwrap_or_default(),
        named: arguments.named_args.unwrap_or_default(),
    };
    T::deserialize(given).map_err(|e| e.to_string())
}

/// Arguments as they fit a type: one is the input itself, several are the parts of a tuple or the fields of a struct, and
/// named ones the fields of these names.
struct Given {
    positional: Vec<Value>,
    named: Map<String, Value>,
}

impl Given {
    /// The one value that they are together.
    fn value(mut self) -> Result<Value, serde_json::Error> {
        match (self.positional.len(), self.named.keys().next()) {
            (0, None) => Ok(Value::Null),
            (0, Some(_)) => Ok(Value::Object(self.named)),
            (1, None) => Ok(self.positional.remove(0)),
            (_, None) => Ok(Value::Array(self.positional)),
            (_, Some(name)) => Err(serde_json::Error::custom(format!(
                "argument `{name}` is named and others are not; only a struct takes both"
            ))),
        }
    }

    fn into_fields(self, fields: &[&str]) -> Result<Value, serde_json::Error> {
        let Self { positional, mut named } = self;
        if positional.len() > fields.len() {
            let (given, takes) = (positional.len(), fields.join(", "));
            return Err(serde_json::Error::custom(format!(
                "{given} arguments are given, and it takes: {takes}"
            )));
        }
        for (field, value) in fields.iter().zip(positional) {
            if named.insert((*field).to_owned(), value).is_some() {
                return Err(serde_json::Error::custom(format!(
                    "argument `{field}` is given twice, by place and by name"
                )));
            }
        }
        Ok(Value::Object(named))
    }
}

impl<'de> Deserializer<'de> for Given {
    type Error = serde_json::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let is_itself = matches!(self.positional.as_slice(), [Value::Object(_)]) && self.named.is_empty();
        let value = if is_itself { self.value()? } else { self.into_fields(fields)? };
        value.into_deserializer().deserialize_struct(name, fields, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        // A tuple of one part that was spread is no list.
        let is_part =
            len == 1 && self.named.is_empty() && matches!(self.positional.as_slice(), [v] if !v.is_array());
        let value = if is_part { Value::Array(self.positional) } else { self.value()? };
        value.into_deserializer().deserialize_tuple(len, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let is_none = self.named.is_empty() && matches!(self.positional.as_slice(), [] | [Value::Null]);
        if is_none { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.value()?.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.value()?.into_deserializer().deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple_struct map identifier ignored_any
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
        assert_eq!(text, r#"{"positionalArgs":[],"namedArgs":{"count":2,"item":"book","note":null}}"#);
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
