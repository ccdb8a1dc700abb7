//! The application database of the demos: one `users` table on SQLite.
//!
//! A user may be stored many times: once per analysis, and once more whenever a step that stores users is run
//! again. Two table shapes answer that differently (see [`Key`]), and [`Users::count_latest`] counts each user
//! once whatever happened.
//!
//! ```
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
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Users`] works on any `rusqlite` connection, so the same calls serve inside a transaction of somebody else.
//!
//! Does not know: workflows (a workflow id is a text here).

mod created_at;
mod error;
mod open;
mod users;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The type of `analyzed_at`.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

pub use error::{Error, Result};
pub use rusqlite;
use rusqlite::Connection;
pub use users::{Key, UserRow, Users};

/// A connection to the application database that threads may share.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    key: Key,
}

impl Store {
    /// Opens or creates the file: readable by its owner alone, WAL, and `synchronous=FULL`, so a committed page
    /// survives power loss.
    ///
    /// # Errors
    /// [`Error::Open`] when the file cannot be opened or is not a database.
    pub fn open(path: &Path, key: Key) -> Result<Self> {
        Ok(Self { connection: Mutex::new(open::open(path)?), key })
    }

    /// Runs `work` on the table. Calls from several threads take turns.
    pub fn users<R>(&self, work: impl FnOnce(Users<'_>) -> R) -> R {
        // A panic in `work` rolls its transaction back, so the connection behind a poisoned lock is sound.
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(Users::new(&connection, self.key))
    }
}
