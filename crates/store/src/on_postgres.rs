//! The table on PostgreSQL. Texts compare byte by byte there as they do on SQLite, so both list the same order.

use std::cell::RefCell;

use chrono::{DateTime, SecondsFormat, Utc};
use model::User;
use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, GenericClient, Row};
use uuid::Uuid;

use crate::users::{Table, UserRow};
use crate::{Database, Error, Key, Result, Users, created_at};

/// The table over a client, or inside the transaction that is open on it.
pub(crate) struct OnPostgres<'c, C> {
    client: RefCell<&'c mut C>,
    table: String,
    key: Key,
}

/// A client that is replaced when its connection was lost.
pub(crate) struct Reconnecting {
    client: Client,
    again: Box<dyn FnMut() -> Option<Client> + Send>,
    table: String,
}

impl Reconnecting {
    pub(crate) fn new(client: Client, again: Box<dyn FnMut() -> Option<Client> + Send>, table: &str) -> Self {
        Self { client, again, table: table.to_owned() }
    }
}

impl Database for Reconnecting {
    fn users(&mut self, key: Key) -> Users<'_> {
        // Without a new client, the old client gives the error.
        if self.client.is_valid(std::time::Duration::from_secs(5)).is_err()
            && let Some(client) = (self.again)()
        {
            self.client = client;
        }
        Users::on_postgres(&mut self.client, &self.table, key)
    }
}

impl<'c, C: GenericClient> OnPostgres<'c, C> {
    pub(crate) fn new(client: &'c mut C, table: &str, key: Key) -> Self {
        Self { client: RefCell::new(client), table: format!("\"{}\"", table.replace('"', "\"\"")), key }
    }

    fn rows(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        Ok(self.client.borrow_mut().query(&sql.replace("{users}", &self.table), params)?)
    }

    fn count_of(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        let rows = self.rows(sql, params)?;
        let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    fn key_there(&self) -> Result<String> {
        const KEY: &str = "
            SELECT a.attname::text
              FROM pg_index i
              CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
              JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE i.indisprimary AND i.indrelid = to_regclass($1)
             ORDER BY k.place";
        let columns = self.client.borrow_mut().query(KEY, &[&self.table])?;
        let names = columns.iter().map(|row| row.try_get::<_, String>(0));
        Ok(names.collect::<Result<Vec<_>, _>>()?.join(", "))
    }

    /// The workflow that wrote last.
    fn most_recent_workflow(&self) -> Result<Option<String>> {
        let rows = self.rows("SELECT workflow_id FROM {users} ORDER BY created_at DESC LIMIT 1", &[])?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }
}

/// One transaction, in which creators take turns: IF NOT EXISTS alone fails for one of two creators at once.
const CREATE: &str = "
    SELECT pg_advisory_xact_lock(hashtextextended('create users', 0));
    CREATE TABLE IF NOT EXISTS {users} (
        id text COLLATE \"C\" NOT NULL,
        external_id text COLLATE \"C\" NOT NULL,
        name text COLLATE \"C\" NOT NULL,
        workflow_id text COLLATE \"C\" NOT NULL,
        analyzed_at text COLLATE \"C\" NOT NULL,
        created_at text COLLATE \"C\" NOT NULL,
        PRIMARY KEY ({key}))";

/// Arrays: $1 id, $2 external id, $3 name, $6 creation; of all rows: $4 workflow, $5 analysis
const INSERT: &str = "
    INSERT INTO {users} (id, external_id, name, workflow_id, analyzed_at, created_at)
    SELECT id, external_id, name, $4, $5, created_at
      FROM unnest($1::text[], $2::text[], $3::text[], $6::text[]) AS a (id, external_id, name, created_at)";

const LIST: &str = "
    SELECT id, external_id, name, workflow_id, analyzed_at, created_at FROM {users} ORDER BY created_at, id";

/// As on SQLite: partitioned without `analyzed_at`.
const COUNT_LATEST: &str = "
    WITH ranked_users AS (
        SELECT ROW_NUMBER() OVER (PARTITION BY id, workflow_id ORDER BY created_at DESC) AS version_rank
          FROM {users}
         WHERE workflow_id = $1)
    SELECT COUNT(*) FROM ranked_users WHERE version_rank = 1";

impl<C: GenericClient> Table for OnPostgres<'_, C> {
    fn create(&self) -> Result<()> {
        let columns = self.key.columns();
        if self.key_there()?.is_empty() {
            let sql = CREATE.replace("{users}", &self.table).replace("{key}", columns);
            self.client.borrow_mut().batch_execute(&sql)?;
        }
        let found = self.key_there()?;
        if found == columns {
            return Ok(());
        }
        let database =
            self.client.borrow_mut().query_one("SELECT current_database()::text", &[])?.try_get(0)?;
        Err(Error::WrongKey { table: self.table.clone(), database, found, wanted: columns.to_owned() })
    }

    fn truncate(&self) -> Result<usize> {
        let gone = self.client.borrow_mut().execute(&format!("DELETE FROM {}", self.table), &[])?;
        Ok(usize::try_from(gone).unwrap_or_default())
    }

    fn insert_page(&self, users: &[User], workflow_id: &str, analyzed_at: DateTime<Utc>) -> Result<()> {
        let analyzed_at = analyzed_at.to_rfc3339_opts(SecondsFormat::Micros, false);
        let column = |of: fn(&User) -> String| users.iter().map(of).collect::<Vec<_>>();
        let (ids, external_ids) = (column(|u| u.id.to_string()), column(|u| u.external_id.to_string()));
        let names = column(|u| u.name.clone());
        let created_at = column(|_| created_at::next().format("%Y-%m-%d %H:%M:%S%.6f").to_string());
        // A savepoint, where a transaction is open already.
        let mut client = self.client.borrow_mut();
        let mut transaction = client.transaction()?;
        let sql = INSERT.replace("{users}", &self.table);
        transaction.execute(&sql, &[&ids, &external_ids, &names, &workflow_id, &analyzed_at, &created_at])?;
        Ok(transaction.commit()?)
    }

    fn count(&self) -> Result<u64> {
        self.count_of("SELECT COUNT(*) FROM {users}", &[])
    }

    fn count_of_workflow(&self, workflow_id: &str) -> Result<u64> {
        self.count_of("SELECT COUNT(*) FROM {users} WHERE workflow_id = $1", &[&workflow_id])
    }

    fn count_latest(&self, workflow_id: Option<&str>) -> Result<u64> {
        let most_recent = match workflow_id {
            Some(id) => Some(id.to_owned()),
            None => self.most_recent_workflow()?,
        };
        most_recent.map_or(Ok(0), |id| self.count_of(COUNT_LATEST, &[&id]))
    }

    fn list(&self) -> Result<Vec<UserRow>> {
        let row = |row: &Row| {
            Ok(UserRow {
                user: User { id: uuid(row, 0)?, external_id: uuid(row, 1)?, name: row.try_get(2)? },
                workflow_id: row.try_get(3)?,
                analyzed_at: row.try_get(4)?,
                created_at: row.try_get(5)?,
            })
        };
        self.rows(LIST, &[])?.iter().map(row).collect()
    }
}

fn uuid(row: &Row, column: usize) -> Result<Uuid> {
    let text: &str = row.try_get(column)?;
    Uuid::parse_str(text).map_err(|error| Error::Database(error.into()))
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        match error.as_db_error() {
            Some(told) if *told.code() == SqlState::UNIQUE_VIOLATION => {
                Self::UniqueViolation { message: told.message().to_owned() }
            }
            // The driver's own text is only "db error".
            Some(told) => Self::Database(format!("{} [{}]", told.message(), told.code().code()).into()),
            None => Self::Database(error.into()),
        }
    }
}
