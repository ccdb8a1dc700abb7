//! The transaction that a program writes its own tables with, alike on both databases.

use crate::pure::sql::{Params, Row, SqlError};

/// An open transaction of the system database, lent to the body of a transaction step.
///
/// The writes of the body become durable together with the record of the step, or not at all. The body must leave the
/// engine's tables and the transaction itself alone: no `COMMIT`, no `ROLLBACK`.
///
/// Placeholders are `$1` to `$n`, in any order and as often as you like. A parameter is bound as a quoted literal would
/// be: the place where it stands decides its type. Where nothing else does, say it: `SELECT CAST($1 AS BIGINT)`.
///
/// ```
/// # use engine::{Context, Result};
/// # use engine::sql::SqlError;
/// fn deposit(ctx: &mut Context, (account, cents): (u32, i64)) -> Result<i64> {
///     ctx.transaction("deposit", |tx| -> Result<i64, SqlError> {
///         tx.execute("UPDATE account SET cents = cents + $2 WHERE id = $1", (account, cents))?;
///         tx.query_one("SELECT cents FROM account WHERE id = $1", [account])?.get("cents")
///     })
/// }
/// ```
pub struct Tx<'t>(Open<'t>);

/// The transaction of the driver that a [`Tx`] writes with.
pub enum Native<'a, 't> {
    /// On SQLite.
    #[cfg(feature = "sqlite")]
    Sqlite(&'a rusqlite::Transaction<'t>),
    /// On PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(&'a mut postgres::Transaction<'t>),
}

/// The driver's transaction, as a [`Tx`] holds it.
enum Open<'t> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'t rusqlite::Transaction<'t>),
    #[cfg(feature = "postgres")]
    Postgres(postgres::Transaction<'t>),
}

impl<'t> Tx<'t> {
    #[cfg(feature = "sqlite")]
    pub(crate) fn on_sqlite(transaction: &'t rusqlite::Transaction<'t>) -> Self {
        Self(Open::Sqlite(transaction))
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn on_postgres(transaction: postgres::Transaction<'t>) -> Self {
        Self(Open::Postgres(transaction))
    }

    /// The transaction that [`Tx::on_postgres`] was made of.
    #[cfg(feature = "postgres")]
    #[cfg_attr(
        not(feature = "sqlite"),
        expect(clippy::unnecessary_wraps, reason = "there is another database")
    )]
    pub(crate) fn into_postgres(self) -> Option<postgres::Transaction<'t>> {
        match self.0 {
            #[cfg(feature = "sqlite")]
            Open::Sqlite(_) => None,
            Open::Postgres(transaction) => Some(transaction),
        }
    }

    /// Runs one statement and says how many rows it changed, or how many it returned if it only reads. One round trip
    /// on PostgreSQL.
    ///
    /// # Errors
    /// [`SqlError::Database`] with the database's message, [`SqlError::Value`] for a parameter that cannot be bound.
    pub fn execute(&mut self, sql: &str, params: impl Params) -> Result<u64, SqlError> {
        let values = params.values()?;
        match &mut self.0 {
            #[cfg(feature = "sqlite")]
            Open::Sqlite(transaction) => super::sqlite::tx::execute(transaction, sql, &values),
            #[cfg(feature = "postgres")]
            Open::Postgres(transaction) => super::postgres::tx::execute(transaction, sql, &values),
        }
    }

    /// Runs one statement and returns its rows. One round trip on PostgreSQL.
    ///
    /// # Errors
    /// As [`Tx::execute`], and [`SqlError::Value`] for a column of a type that [`Value`](crate::sql::Value) does not have.
    pub fn query(&mut self, sql: &str, params: impl Params) -> Result<Vec<Row>, SqlError> {
        let values = params.values()?;
        match &mut self.0 {
            #[cfg(feature = "sqlite")]
            Open::Sqlite(transaction) => super::sqlite::tx::query(transaction, sql, &values),
            #[cfg(feature = "postgres")]
            Open::Postgres(transaction) => super::postgres::tx::query(transaction, sql, &values),
        }
    }

    /// The row of a query that returns one row or none.
    ///
    /// # Errors
    /// As [`Tx::query`], and [`SqlError::Rows`] when there is more than one row.
    pub fn query_opt(&mut self, sql: &str, params: impl Params) -> Result<Option<Row>, SqlError> {
        let mut rows = self.query(sql, params)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            found => Err(SqlError::Rows { found }),
        }
    }

    /// The row of a query that returns exactly one.
    ///
    /// # Errors
    /// As [`Tx::query`], and [`SqlError::Rows`] when there is another number of rows.
    pub fn query_one(&mut self, sql: &str, params: impl Params) -> Result<Row, SqlError> {
        self.query_opt(sql, params)?.ok_or(SqlError::Rows { found: 0 })
    }

    /// Runs several statements without parameters, separated by semicolons.
    ///
    /// # Errors
    /// [`SqlError::Database`].
    pub fn batch(&mut self, sql: &str) -> Result<(), SqlError> {
        match &mut self.0 {
            #[cfg(feature = "sqlite")]
            Open::Sqlite(transaction) => Ok(transaction.execute_batch(sql)?),
            #[cfg(feature = "postgres")]
            Open::Postgres(transaction) => Ok(transaction.batch_execute(sql)?),
        }
    }

    /// The transaction of the driver, for code that is written for a driver.
    pub fn native(&mut self) -> Native<'_, 't> {
        match &mut self.0 {
            #[cfg(feature = "sqlite")]
            Open::Sqlite(transaction) => Native::Sqlite(transaction),
            #[cfg(feature = "postgres")]
            Open::Postgres(transaction) => Native::Postgres(transaction),
        }
    }

    /// The transaction of the driver, for features that only SQLite has; `None` on PostgreSQL.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(&self) -> Option<&rusqlite::Transaction<'t>> {
        match &self.0 {
            Open::Sqlite(transaction) => Some(transaction),
            #[cfg(feature = "postgres")]
            Open::Postgres(_) => None,
        }
    }

    /// The transaction of the driver, for features that only PostgreSQL has; `None` on SQLite.
    #[cfg(feature = "postgres")]
    pub fn postgres(&mut self) -> Option<&mut postgres::Transaction<'t>> {
        match &mut self.0 {
            #[cfg(feature = "sqlite")]
            Open::Sqlite(_) => None,
            Open::Postgres(transaction) => Some(transaction),
        }
    }
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            #[cfg(feature = "sqlite")]
            Open::Sqlite(_) => "Tx(SQLite)",
            #[cfg(feature = "postgres")]
            Open::Postgres(_) => "Tx(PostgreSQL)",
        })
    }
}
