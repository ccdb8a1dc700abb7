//! A statement and its name, which travels with it into every error.

use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, Params, Row};

use crate::sysdb::{DbError, DbResult};

/// SQL text under a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

impl Statement {
    pub(super) fn prepare<'c>(&self, connection: &'c Connection) -> DbResult<CachedStatement<'c>> {
        connection.prepare_cached(self.sql).map_err(|e| failed(self.name, e))
    }

    /// Runs it and says how many rows changed.
    pub(super) fn execute(&self, connection: &Connection, params: impl Params) -> DbResult<usize> {
        self.prepare(connection)?.execute(params).map_err(|e| failed(self.name, e))
    }

    /// The first row, if there is one.
    pub(super) fn first<T>(
        &self,
        connection: &Connection,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> DbResult<Option<T>> {
        self.prepare(connection)?.query_row(params, read).optional().map_err(|e| failed(self.name, e))
    }

    /// All rows.
    pub(super) fn all<T>(
        &self,
        connection: &Connection,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> DbResult<Vec<T>> {
        let mut statement = self.prepare(connection)?;
        let rows = statement.query_map(params, read).and_then(Iterator::collect);
        rows.map_err(|e| failed(self.name, e))
    }
}

/// The error of a statement, with the verdict whether it may work later.
pub(super) fn failed(statement: &'static str, error: rusqlite::Error) -> DbError {
    let may_pass = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::OutOfMemory
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::SchemaChanged
        )
    );
    DbError { statement, may_pass, source: Arc::new(error) }
}
