//! Values of either database, for the side door.

/// What a column holds, and what a parameter is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

pub(crate) trait FromValue {
    fn from_value(value: Value) -> Self;
}

impl FromValue for i64 {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Int(number) => number,
            other => panic!("no number: {other:?}"),
        }
    }
}

impl FromValue for u32 {
    fn from_value(value: Value) -> Self {
        i64::from_value(value).try_into().unwrap()
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Text(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Self {
        (value != Value::Null).then(|| T::from_value(value))
    }
}

/// `[]`, `[a, b]` of one type, `(a, b)` of several.
pub(crate) trait Params {
    fn values(self) -> Vec<Value>;
}

impl Params for () {
    fn values(self) -> Vec<Value> {
        Vec::new()
    }
}

impl Params for [Value; 0] {
    fn values(self) -> Vec<Value> {
        Vec::new()
    }
}

impl<T: Into<Value>> Params for [T; 1] {
    fn values(self) -> Vec<Value> {
        self.map(Into::into).into()
    }
}

impl<T: Into<Value>> Params for [T; 2] {
    fn values(self) -> Vec<Value> {
        self.map(Into::into).into()
    }
}

impl<A: Into<Value>, B: Into<Value>> Params for (A, B) {
    fn values(self) -> Vec<Value> {
        vec![self.0.into(), self.1.into()]
    }
}
