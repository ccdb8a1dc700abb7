//! Errors of a program's own statements.

use crate::pure::error::BoxError;

/// The reason why a call of a [`Tx`](crate::Tx) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The database refused the statement. On PostgreSQL the transaction takes no further statements.
    #[error("{message}")]
    Database {
        /// The constraint that was violated, if the statement violated one.
        violation: Option<Violation>,
        /// The text of the database.
        message: String,
        /// The error of the driver: a `rusqlite::Error` or a `postgres::Error`.
        #[source]
        source: BoxError,
    },
    /// A value cannot be bound, or a column cannot be read as the type that was asked for.
    #[error("{what}: {reason}")]
    Value {
        /// The parameter or the column.
        what: String,
        /// The reason, and what to write instead.
        reason: String,
    },
    /// A query that was to return one row returned another number of rows.
    #[error("the query returned {found} rows, where one was expected")]
    Rows {
        /// How many rows the query returned.
        found: usize,
    },
}

/// A constraint of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// `PRIMARY KEY` or `UNIQUE`: there is such a row already.
    Unique,
    /// `REFERENCES`: the row that is referred to is missing, or still referred to.
    ForeignKey,
    /// `NOT NULL`.
    NotNull,
    /// `CHECK`.
    Check,
}

impl SqlError {
    /// The constraint that the statement violated, if it was refused for that.
    pub fn violation(&self) -> Option<Violation> {
        match self {
            Self::Database { violation, .. } => *violation,
            _ => None,
        }
    }

    pub(crate) fn value(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { what: what.into(), reason: reason.into() }
    }
}
