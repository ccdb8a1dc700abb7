use std::path::PathBuf;

/// Why a call on the application database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The row is there already. Nothing of the page was stored. Carries the database's own message, which names the
    /// key: `UNIQUE constraint failed: users.id, ...` on SQLite.
    #[error("{message}")]
    UniqueViolation {
        /// What the database says.
        message: String,
    },
    /// The database holds a `users` table of the other shape, or of none that this crate knows.
    #[error(
        "table {table} in {database} has the key ({found}), but ({wanted}) is wanted; use another database or drop the table"
    )]
    WrongKey {
        /// Which table.
        table: String,
        /// Which file, or which database on a server.
        database: String,
        /// The columns of the key that it has.
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
    /// Any other failure of the database.
    #[error("application database: {0}")]
    Database(Box<dyn std::error::Error + Send + Sync>),
}

/// What the calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
