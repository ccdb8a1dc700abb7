//! The application database of the demos: one `users` table on SQLite or on PostgreSQL.
//!
//! A user may be stored many times: once per analysis, and again whenever a step that stores users is repeated. Two
//! table shapes answer that differently (see [`Key`]). [`Users::count_latest`] counts each user once in any case.
//!
//! ```
//! # #[cfg(feature = "sqlite")] {
//! use store::{Key, Store};
//!
//! let dir = tempfile::tempdir()?;
//! let store = Store::open(&dir.path().join("users.db"), Key::Append)?;
//! let page = model::fake_users(0, 10);
//! let analyzed_at = "2026-01-02T03:04:05Z".parse()?;
//! store.users(|users| {
//!     users.create()?;
//!     users.insert_page(&page, "workflow-1", analyzed_at)?;
//!     users.insert_page(&page, "workflow-1", analyzed_at)?; // a step that ran twice
//!     assert_eq!(users.count()?, 20);
//!     assert_eq!(users.count_latest(Some("workflow-1"))?, 10);
//!     Ok::<_, store::Error>(())
//! })?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Users`] works on any connection of `rusqlite` or `postgres`. So the same calls serve inside a transaction of the
//! caller. Features: `sqlite` (default) and `postgres`.
//!
//! Does not know: workflows (a workflow id is a text here).

mod created_at;
mod error;
#[cfg(feature = "postgres")]
mod on_postgres;
#[cfg(feature = "sqlite")]
mod on_sqlite;
#[cfg(feature = "sqlite")]
mod open;
mod users;

use std::sync::{Mutex, PoisonError};

/// The type of `analyzed_at`.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

pub use error::{Error, Result};
#[cfg(feature = "postgres")]
pub use postgres;
#[cfg(feature = "sqlite")]
pub use rusqlite;
pub use users::{Key, UserRow, Users};

/// A connection to the application database that threads may share.
pub struct Store {
    database: Mutex<Box<dyn Database>>,
    key: Key,
}

/// A connection to one kind of database.
trait Database: Send {
    fn users(&mut self, key: Key) -> Users<'_>;
    fn leave_one_file(&mut self) {}
}

impl Store {
    /// Opens or creates a file of SQLite. The file is readable by its owner alone. WAL and `synchronous=FULL` let a
    /// committed page survive power loss.
    ///
    /// # Errors
    /// [`Error::Open`] when the file cannot be opened or is not a database.
    #[cfg(feature = "sqlite")]
    pub fn open(path: &std::path::Path, key: Key) -> Result<Self> {
        Ok(Self::over(open::open(path)?, key))
    }

    /// Opens a table of this name on PostgreSQL. `connect` is called now, and again when a connection was lost.
    ///
    /// # Errors
    /// The error of `connect`.
    #[cfg(feature = "postgres")]
    pub fn on_postgres<E>(
        table: &str,
        key: Key,
        mut connect: impl FnMut() -> std::result::Result<postgres::Client, E> + Send + 'static,
    ) -> std::result::Result<Self, E> {
        let client = connect()?;
        let again = Box::new(move || connect().ok());
        Ok(Self::over(on_postgres::Reconnecting::new(client, again, table), key))
    }

    /// Puts all data beside the file of SQLite into it, so that a copy of the one file is whole. The next use makes a
    /// log again. Does nothing while another thread or process uses the file, nor on PostgreSQL.
    pub fn leave_one_file(&self) {
        if let Ok(mut database) = self.database.try_lock() {
            database.leave_one_file();
        }
    }

    fn over(database: impl Database + 'static, key: Key) -> Self {
        Self { database: Mutex::new(Box::new(database)), key }
    }

    /// Runs `work` on the table. Calls from several threads take turns.
    pub fn users<R>(&self, work: impl FnOnce(Users<'_>) -> R) -> R {
        // A panic in `work` rolls its transaction back, so the connection behind a poisoned lock is sound.
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        work(database.users(self.key))
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(feature = "sqlite")]
impl Database for rusqlite::Connection {
    fn users(&mut self, key: Key) -> Users<'_> {
        Users::new(self, key)
    }

    fn leave_one_file(&mut self) {
        open::leave_one_file(self);
    }
}
