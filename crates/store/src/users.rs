use chrono::{DateTime, Utc};
use model::User;

use crate::Result;

/// The key of the `users` table: its two shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `(id, workflow_id, analyzed_at)`: storing the same page twice in one analysis is refused.
    Strict,
    /// `(id, workflow_id, analyzed_at, created_at)`: every insert adds rows; count with
    /// [`Users::count_latest`].
    Append,
}

impl Key {
    pub(crate) const fn columns(self) -> &'static str {
        match self {
            Self::Strict => "id, workflow_id, analyzed_at",
            Self::Append => "id, workflow_id, analyzed_at, created_at",
        }
    }
}

/// The `users` table on a connection or inside an open transaction.
pub struct Users<'c>(Box<dyn Table + 'c>);

/// One stored version of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// The user.
    pub user: User,
    /// The workflow that stored this version.
    pub workflow_id: String,
    /// When that workflow looked at the user: ISO 8601 with microseconds and offset.
    pub analyzed_at: String,
    /// When the row was written, in UTC with microseconds.
    pub created_at: String,
}

/// The table on one kind of database.
pub(crate) trait Table {
    fn create(&self) -> Result<()>;
    fn truncate(&self) -> Result<usize>;
    fn insert_page(&self, users: &[User], workflow_id: &str, analyzed_at: DateTime<Utc>) -> Result<()>;
    fn count(&self) -> Result<u64>;
    fn count_of_workflow(&self, workflow_id: &str) -> Result<u64>;
    fn count_latest(&self, workflow_id: Option<&str>) -> Result<u64>;
    fn list(&self) -> Result<Vec<UserRow>>;
}

impl<'c> Users<'c> {
    /// The table with this key, on this connection to SQLite. Nothing is read or written yet.
    #[cfg(feature = "sqlite")]
    pub fn new(connection: &'c rusqlite::Connection, key: Key) -> Self {
        Self(Box::new(crate::on_sqlite::OnSqlite::new(connection, key)))
    }

    /// The table of this name with this key on PostgreSQL, over a client or inside a transaction. Nothing is read or
    /// written yet.
    #[cfg(feature = "postgres")]
    pub fn on_postgres(client: &'c mut impl postgres::GenericClient, table: &str, key: Key) -> Self {
        Self(Box::new(crate::on_postgres::OnPostgres::new(client, table, key)))
    }

    /// Creates the table if it is not there.
    ///
    /// # Errors
    /// [`crate::Error::WrongKey`] when there is a `users` table with another key.
    pub fn create(&self) -> Result<()> {
        self.0.create()
    }

    /// Deletes every row and returns how many there were.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn truncate(&self) -> Result<usize> {
        self.0.truncate()
    }

    /// Stores one page of users, all or nothing: one transaction of its own, or a savepoint inside the
    /// transaction that is open.
    ///
    /// # Errors
    /// [`crate::Error::UniqueViolation`] when a row is there already: with [`Key::Strict`] the same analysis stored the
    /// page before.
    pub fn insert_page(&self, users: &[User], workflow_id: &str, analyzed_at: DateTime<Utc>) -> Result<()> {
        self.0.insert_page(users, workflow_id, analyzed_at)
    }

    /// Counts the rows, with every version of every user.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn count(&self) -> Result<u64> {
        self.0.count()
    }

    /// Counts the rows that one workflow stored.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn count_of_workflow(&self, workflow_id: &str) -> Result<u64> {
        self.0.count_of_workflow(workflow_id)
    }

    /// Counts the users that one workflow stored, each user once by its latest version. `None` means the workflow that
    /// wrote last.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn count_latest(&self, workflow_id: Option<&str>) -> Result<u64> {
        self.0.count_latest(workflow_id)
    }

    /// Lists every row, oldest first.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn list(&self) -> Result<Vec<UserRow>> {
        self.0.list()
    }
}

impl std::fmt::Debug for Users<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Users")
    }
}
