//! The parameters of a statement.

use super::{SqlError, ToValue, Value};

/// The parameters of a statement: `()` for none, a tuple of up to twelve values, an array, a slice or a `Vec`.
pub trait Params {
    /// The values of `$1`, `$2` and so on.
    ///
    /// # Errors
    /// [`SqlError::Value`] for a value that no column holds.
    fn values(&self) -> Result<Vec<Value>, SqlError>;
}

impl Params for () {
    fn values(&self) -> Result<Vec<Value>, SqlError> {
        Ok(Vec::new())
    }
}

impl<T: ToValue> Params for [T] {
    fn values(&self) -> Result<Vec<Value>, SqlError> {
        self.iter().map(ToValue::to_value).collect()
    }
}

impl<T: ToValue> Params for Vec<T> {
    fn values(&self) -> Result<Vec<Value>, SqlError> {
        self.as_slice().values()
    }
}

impl<T: ToValue, const N: usize> Params for [T; N] {
    fn values(&self) -> Result<Vec<Value>, SqlError> {
        self.as_slice().values()
    }
}

impl<P: Params + ?Sized> Params for &P {
    fn values(&self) -> Result<Vec<Value>, SqlError> {
        (**self).values()
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        tuples!(@impl [] $($name)+);
    };
    (@impl [$($before:ident)*]) => {};
    (@impl [$($before:ident)*] $next:ident $($rest:ident)*) => {
        #[expect(non_snake_case, reason = "a value is named as its type")]
        impl<$($before: ToValue,)* $next: ToValue> Params for ($($before,)* $next,) {
            fn values(&self) -> Result<Vec<Value>, SqlError> {
                let ($($before,)* $next,) = self;
                Ok(vec![$($before.to_value()?,)* $next.to_value()?])
            }
        }
        tuples!(@impl [$($before)* $next] $($rest)*);
    };
}

tuples!(A B C D E F G H I J K L);
