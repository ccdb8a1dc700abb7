use std::path::PathBuf;

/// The reason why a call on the application database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The row is there already. Nothing of the page was stored. Carries the database's own message, which names the
    /// key: `UNIQUE constraint failed: users.id, ...` on SQLite.
    #[error("{message}")]
    UniqueViolation {
        /// The database's message.
        message: String,
    },
    /// The database holds a `users` table of the other shape, or of a shape that this crate does not know.
    #[error(
        "table {table} in {database} has the key ({found}), but this program needs ({wanted}); use another database or drop the table"
    )]
    WrongKey {
        /// The table.
        table: String,
        /// The file, or the database on a server.
        database: String,
        /// The columns of the table's key.
        found: String,
        /// The columns that [`crate::Key`] asks for.
        wanted: String,
    },
    /// The file could not be opened.
    #[error("cannot open the application database {}: {reason}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason, and the way out.
        reason: String,
    },
    /// Any other failure of the database.
    #[error("application database: {0}")]
    Database(Box<dyn std::error::Error + Send + Sync>),
}

/// The result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
