use std::path::{Path, PathBuf};

use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};

/// Why a call on the application database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The row is there already. Nothing of the page was stored. Carries SQLite's own message, which names the
    /// columns of the key: `UNIQUE constraint failed: users.id, ...`.
    #[error("{message}")]
    UniqueViolation {
        /// What SQLite says.
        message: String,
    },
    /// The file holds a `users` table of the other shape, or of none that this crate knows.
    #[error(
        "table users in {file} has the key ({found}), but ({wanted}) is wanted; use another file or drop the table"
    )]
    WrongKey {
        /// Which file.
        file: String,
        /// The columns of the key in the file.
        found: String,
        /// The columns that [`crate::Key`] asks for.
        wanted: String,
    },
    /// The file could not be opened.
    #[error("cannot open the application database {}: {reason}", .path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Any other failure of SQLite.
    #[error("application database: {0}")]
    Database(rusqlite::Error),
}

/// What the calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn opening(path: &Path, reason: impl Into<String>) -> Self {
        Self::Open { path: path.to_owned(), reason: reason.into() }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::SqliteFailure(code, Some(message)) = &error
            && [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE].contains(&code.extended_code)
        {
            return Self::UniqueViolation { message: message.clone() };
        }
        Self::Database(error)
    }
}
