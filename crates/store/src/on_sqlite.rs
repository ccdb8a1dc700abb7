//! The table on SQLite.

use chrono::{DateTime, SecondsFormat, Utc};
use model::User;
use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use crate::users::{Table, UserRow};
use crate::{Error, Key, Result, created_at};

/// The table on a connection, or inside the transaction that is open on it.
pub(crate) struct OnSqlite<'c> {
    connection: &'c Connection,
    key: Key,
}

const INSERT: &str = "
    INSERT INTO users (id, external_id, name, workflow_id, analyzed_at, created_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

const LIST: &str = "
    SELECT id, external_id, name, workflow_id, analyzed_at, created_at
      FROM users ORDER BY created_at, id";

const MOST_RECENT_WORKFLOW: &str = "SELECT workflow_id FROM users ORDER BY created_at DESC LIMIT 1";

/// The latest version of each user of one workflow. It is partitioned without `analyzed_at`: a recovered run takes a
/// new `analyzed_at`, and its rows are versions of the same users.
const COUNT_LATEST: &str = "
    WITH ranked_users AS (
        SELECT ROW_NUMBER() OVER (PARTITION BY id, workflow_id ORDER BY created_at DESC) AS version_rank
          FROM users
         WHERE workflow_id = ?1)
    SELECT COUNT(*) FROM ranked_users WHERE version_rank = 1";

impl<'c> OnSqlite<'c> {
    pub(crate) const fn new(connection: &'c Connection, key: Key) -> Self {
        Self { connection, key }
    }

    fn key_in_file(&self) -> Result<String> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name FROM pragma_table_info('users') WHERE pk > 0 ORDER BY pk")?;
        let columns = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok(columns.collect::<rusqlite::Result<Vec<_>>>()?.join(", "))
    }

    fn insert_rows(&self, users: &[User], workflow_id: &str, analyzed_at: DateTime<Utc>) -> Result<()> {
        let mut insert = self.connection.prepare_cached(INSERT)?;
        let analyzed_at = analyzed_at.to_rfc3339_opts(SecondsFormat::Micros, false);
        for user in users {
            insert.execute(params![
                user.id.to_string(),
                user.external_id.to_string(),
                user.name,
                workflow_id,
                analyzed_at,
                created_at::next().format("%Y-%m-%d %H:%M:%S%.6f").to_string(),
            ])?;
        }
        Ok(())
    }

    /// The workflow that wrote last.
    fn most_recent_workflow(&self) -> Result<Option<String>> {
        Ok(self.connection.query_row(MOST_RECENT_WORKFLOW, [], |row| row.get(0)).optional()?)
    }

    fn count_of(&self, sql: &str, params: impl rusqlite::Params) -> Result<u64> {
        Ok(self.connection.prepare_cached(sql)?.query_row(params, |row| row.get(0))?)
    }
}

impl Table for OnSqlite<'_> {
    fn create(&self) -> Result<()> {
        let columns = self.key.columns();
        self.connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS users (
                 id TEXT NOT NULL,
                 external_id TEXT NOT NULL,
                 name TEXT NOT NULL,
                 workflow_id TEXT NOT NULL,
                 analyzed_at TEXT NOT NULL,
                 created_at TEXT NOT NULL,
                 PRIMARY KEY ({columns}))"
        ))?;
        let found = self.key_in_file()?;
        if found == columns {
            return Ok(());
        }
        let file = self.connection.path().filter(|path| !path.is_empty()).unwrap_or("memory").to_owned();
        Err(Error::WrongKey { table: "users".to_owned(), database: file, found, wanted: columns.to_owned() })
    }

    fn truncate(&self) -> Result<usize> {
        Ok(self.connection.execute("DELETE FROM users", [])?)
    }

    fn insert_page(&self, users: &[User], workflow_id: &str, analyzed_at: DateTime<Utc>) -> Result<()> {
        if self.connection.is_autocommit() {
            let transaction = Transaction::new_unchecked(self.connection, TransactionBehavior::Immediate)?;
            self.insert_rows(users, workflow_id, analyzed_at)?;
            return Ok(transaction.commit()?);
        }
        self.connection.execute_batch("SAVEPOINT insert_page")?;
        if let Err(error) = self.insert_rows(users, workflow_id, analyzed_at) {
            // This fails when SQLite has rolled the whole transaction back by itself. The first error has the reason.
            self.connection.execute_batch("ROLLBACK TO insert_page; RELEASE insert_page").ok();
            return Err(error);
        }
        Ok(self.connection.execute_batch("RELEASE insert_page")?)
    }

    fn count(&self) -> Result<u64> {
        self.count_of("SELECT COUNT(*) FROM users", [])
    }

    fn count_of_workflow(&self, workflow_id: &str) -> Result<u64> {
        self.count_of("SELECT COUNT(*) FROM users WHERE workflow_id = ?1", [workflow_id])
    }

    fn count_latest(&self, workflow_id: Option<&str>) -> Result<u64> {
        let most_recent = match workflow_id {
            Some(id) => Some(id.to_owned()),
            None => self.most_recent_workflow()?,
        };
        most_recent.map_or(Ok(0), |id| self.count_of(COUNT_LATEST, [id]))
    }

    fn list(&self) -> Result<Vec<UserRow>> {
        let mut statement = self.connection.prepare_cached(LIST)?;
        let rows = statement.query_map([], |row| {
            Ok(UserRow {
                user: User { id: uuid(row, 0)?, external_id: uuid(row, 1)?, name: row.get(2)? },
                workflow_id: row.get(3)?,
                analyzed_at: row.get(4)?,
                created_at: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

fn uuid(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    let text: String = row.get(column)?;
    Uuid::parse_str(&text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::SqliteFailure(code, Some(message)) = &error
            && [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE].contains(&code.extended_code)
        {
            return Self::UniqueViolation { message: message.clone() };
        }
        Self::Database(error.into())
    }
}
