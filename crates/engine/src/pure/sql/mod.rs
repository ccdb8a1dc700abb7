//! Parameters, values and rows of a program's own SQL.
//!
//! Does not know: drivers.

mod error;
mod params;
mod row;
mod value;

pub use error::{SqlError, Violation};
pub use params::Params;
pub use row::{Column, Row};
pub use value::{FromValue, ToValue, Value};
