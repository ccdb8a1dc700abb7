//! Values between a program and its tables, alike for both databases.

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use super::SqlError;
use crate::pure::id::WorkflowId;

/// A value of a column or of a parameter.
///
/// SQLite has no types of its own for `Bool`, `Uuid`, `Time` and `Json`. It stores them as the last column says.
///
/// | here | PostgreSQL | SQLite |
/// |---|---|---|
/// | `Bool` | `boolean` | `0` or `1` |
/// | `Integer` | `smallint` to `bigint`, whole `numeric` | `INTEGER` |
/// | `Real` | `real`, `double precision` | `REAL` |
/// | `Text` | `text`, `varchar`, enums, other `numeric` | `TEXT` |
/// | `Bytes` | `bytea` | `BLOB` |
/// | `Uuid` | `uuid` | text, with hyphens |
/// | `Time` | `timestamptz`; `timestamp` is taken as UTC | text, ISO 8601 in UTC with microseconds |
/// | `Json` | `json`, `jsonb` | text |
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `NULL`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A UUID.
    Uuid(Uuid),
    /// A point in time.
    Time(DateTime<Utc>),
    /// A JSON document.
    Json(serde_json::Value),
}

impl Value {
    /// The kind of the value, as messages name it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) => "a whole number",
            Self::Real(_) => "a floating-point number",
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::Uuid(_) => "a UUID",
            Self::Time(_) => "a point in time",
            Self::Json(_) => "a JSON document",
        }
    }

    /// The time as a text that both databases take.
    pub(crate) fn time_as_text(time: &DateTime<Utc>) -> String {
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    }
}

/// A type that can be bound to a placeholder.
pub trait ToValue {
    /// The value to bind.
    ///
    /// # Errors
    /// [`SqlError::Value`] for a number beyond 64 bits with sign, which no column holds.
    fn to_value(&self) -> Result<Value, SqlError>;
}

/// A type as which a column can be read.
pub trait FromValue: Sized {
    /// The value as this type.
    ///
    /// # Errors
    /// The reason why the value is no such type, for [`SqlError::Value`].
    fn from_value(value: Value) -> Result<Self, String>;
}

fn other<T>(value: &Value, wanted: &str) -> Result<T, String> {
    Err(format!("it is {}, not {wanted}", value.kind()))
}

macro_rules! integers {
    ($($type:ty),+) => { $(
        impl ToValue for $type {
            fn to_value(&self) -> Result<Value, SqlError> {
                let number = i64::try_from(*self).map_err(|_| {
                    SqlError::value(format!("parameter {self}"), "is more than a column of 64 bits holds")
                })?;
                Ok(Value::Integer(number))
            }
        }

        impl FromValue for $type {
            fn from_value(value: Value) -> Result<Self, String> {
                match value {
                    Value::Integer(number) => Self::try_from(number)
                        .map_err(|_| format!("{number} is out of the range of {}", stringify!($type))),
                    value => other(&value, "a whole number"),
                }
            }
        }
    )+ };
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64, isize, usize);

macro_rules! bound_as {
    ($($type:ty => |$value:ident| $bound:expr;)+) => { $(
        impl ToValue for $type {
            fn to_value(&self) -> Result<Value, SqlError> {
                let $value = self;
                Ok($bound)
            }
        }
    )+ };
}

bound_as! {
    bool => |value| Value::Bool(*value);
    f32 => |value| Value::Real(f64::from(*value));
    f64 => |value| Value::Real(*value);
    str => |value| Value::Text(value.to_owned());
    String => |value| Value::Text(value.clone());
    [u8] => |value| Value::Bytes(value.to_vec());
    Vec<u8> => |value| Value::Bytes(value.clone());
    Uuid => |value| Value::Uuid(*value);
    DateTime<Utc> => |value| Value::Time(*value);
    serde_json::Value => |value| Value::Json(value.clone());
    WorkflowId => |value| Value::Text(value.as_str().to_owned());
    Value => |value| value.clone();
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Result<Value, SqlError> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Result<Value, SqlError> {
        self.as_ref().map_or(Ok(Value::Null), ToValue::to_value)
    }
}

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Bool(value) => Ok(value),
            Value::Integer(number @ (0 | 1)) => Ok(number == 1),
            value => other(&value, "a truth value"),
        }
    }
}

impl FromValue for f64 {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Real(number) => Ok(number),
            #[expect(
                clippy::cast_precision_loss,
                reason = "a whole number in a column of REAL was a float before"
            )]
            Value::Integer(number) => Ok(number as Self),
            Value::Text(text) if text.parse::<Self>().is_ok() => text.parse().map_err(|_| String::new()),
            value => other(&value, "a floating-point number"),
        }
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text),
            value => other(&value, "a text"),
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Bytes(bytes) => Ok(bytes),
            value => other(&value, "bytes"),
        }
    }
}

impl FromValue for Uuid {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Uuid(uuid) => Ok(uuid),
            Value::Text(text) => Self::parse_str(&text).map_err(|e| format!("`{text}` is no UUID: {e}")),
            value => other(&value, "a UUID"),
        }
    }
}

impl FromValue for DateTime<Utc> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Time(time) => Ok(time),
            Value::Text(text) => DateTime::parse_from_rfc3339(&text)
                .map(|time| time.to_utc())
                .map_err(|e| format!("`{text}` is no point in time in ISO 8601: {e}")),
            value => other(&value, "a point in time"),
        }
    }
}

impl FromValue for serde_json::Value {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Json(json) => Ok(json),
            // SQLite makes a number of a numeric text, in a column whose type it does not know.
            Value::Integer(number) => Ok(number.into()),
            Value::Real(number) => Ok(number.into()),
            Value::Text(text) => serde_json::from_str(&text).map_err(|e| format!("it is no JSON: {e}")),
            value => other(&value, "a JSON document"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_beyond_64_bits_is_refused_by_its_value() {
        let error = u64::MAX.to_value().unwrap_err().to_string();
        assert!(error.starts_with("parameter 18446744073709551615: is more"), "{error}");
    }

    #[test]
    fn a_number_out_of_the_range_of_its_type_is_refused() {
        assert_eq!(u8::from_value(Value::Integer(256)), Err("256 is out of the range of u8".to_owned()));
        assert_eq!(u8::from_value(Value::Integer(-1)), Err("-1 is out of the range of u8".to_owned()));
        assert_eq!(u8::from_value(Value::Integer(255)), Ok(255));
    }

    #[test]
    fn a_null_is_read_as_none_and_as_nothing_else() {
        assert_eq!(Option::<i64>::from_value(Value::Null), Ok(None));
        assert_eq!(i64::from_value(Value::Null), Err("it is NULL, not a whole number".to_owned()));
    }

    #[test]
    fn what_sqlite_keeps_as_text_reads_back_as_what_it_was() {
        let time = DateTime::from_timestamp_micros(1_767_323_045_678_901).unwrap();
        let text = Value::time_as_text(&time);
        assert_eq!(text, "2026-01-02T03:04:05.678901Z");
        assert_eq!(DateTime::<Utc>::from_value(Value::Text(text)), Ok(time));
        let uuid = Uuid::from_u128(7);
        assert_eq!(Uuid::from_value(Value::Text(uuid.to_string())), Ok(uuid));
        assert_eq!(bool::from_value(Value::Integer(1)), Ok(true));
        assert!(bool::from_value(Value::Integer(2)).is_err());
    }
}
