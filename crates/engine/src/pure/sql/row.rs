//! One row of a query.

use std::sync::Arc;

use super::{FromValue, SqlError, Value};

/// One row that a query returned.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Value>,
}

/// A column of a row, by its place from 0 on, or by its name.
pub trait Column {
    /// The place of the column among these columns.
    fn place(&self, columns: &[String]) -> Option<usize>;
    /// The column as messages name it.
    fn named(&self) -> String;
}

impl Column for usize {
    fn place(&self, columns: &[String]) -> Option<usize> {
        (*self < columns.len()).then_some(*self)
    }

    fn named(&self) -> String {
        format!("column {self}")
    }
}

impl Column for &str {
    fn place(&self, columns: &[String]) -> Option<usize> {
        columns.iter().position(|column| column == self)
    }

    fn named(&self) -> String {
        format!("column `{self}`")
    }
}

impl Row {
    pub(crate) fn new(columns: &Arc<[String]>, values: Vec<Value>) -> Self {
        Self { columns: columns.clone(), values }
    }

    /// The value of a column, by its name or by its place from 0 on.
    ///
    /// # Errors
    /// [`SqlError::Value`] when there is no such column, or its value is no `T`.
    #[expect(clippy::needless_pass_by_value, reason = "a column is a text or a number, by the caller")]
    pub fn get<T: FromValue>(&self, column: impl Column) -> Result<T, SqlError> {
        let value = column.place(&self.columns).and_then(|place| self.values.get(place));
        let Some(value) = value else {
            let reason = format!("the query returned no such column, but {}", self.columns.join(", "));
            return Err(SqlError::value(column.named(), reason));
        };
        T::from_value(value.clone()).map_err(|reason| SqlError::value(column.named(), reason))
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}
