//! One connection: its statements prepared once, its transactions never left open, its errors judged.

use std::collections::HashMap;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, GenericClient, Row};

use crate::causes;
use crate::sysdb::{DbError, DbResult};

/// SQL text under a name, for the schema `dbos`; another schema's name is put in its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

pub(super) type Params<'p> = &'p [&'p (dyn ToSql + Sync)];

/// An open connection.
pub(super) struct Connection {
    client: Option<Client>,
    prepared: Prepared,
    in_transaction: bool,
    broken: bool,
}

/// The statements of one connection, and the schema that they name.
pub(super) struct Prepared {
    schema: Arc<str>,
    statements: HashMap<&'static str, postgres::Statement>,
}

impl Connection {
    pub(super) fn new(client: Client, schema: Arc<str>) -> Self {
        let prepared = Prepared { schema, statements: HashMap::new() };
        Self { client: Some(client), prepared, in_transaction: false, broken: false }
    }

    pub(super) fn query(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<Vec<Row>> {
        let (client, prepared) = self.parts(statement.name)?;
        prepared.query(client, statement, params)
    }

    /// The first row, if there is one.
    pub(super) fn first(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<Option<Row>> {
        Ok(self.query(statement, params)?.into_iter().next())
    }

    /// Runs it and says how many rows changed.
    pub(super) fn execute(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<u64> {
        let (client, prepared) = self.parts(statement.name)?;
        prepared.execute(client, statement, params)
    }

    /// One that is composed for this once.
    pub(super) fn query_once(
        &mut self,
        name: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> DbResult<Vec<Row>> {
        let (client, prepared) = self.parts(name)?;
        let sql = in_schema(sql, &prepared.schema);
        client.query(&sql, params).map_err(|e| failed(name, e))
    }

    /// Statements without parameters and without results.
    pub(super) fn run(&mut self, name: &'static str, sql: &str) -> DbResult<()> {
        self.parts(name)?.0.batch_execute(sql).map_err(|e| failed(name, e))
    }

    /// All that `work` does, or nothing. Inside another one it is a part of that.
    pub(super) fn atomically<T>(&mut self, work: impl FnOnce(&mut Self) -> DbResult<T>) -> DbResult<T> {
        if self.in_transaction {
            return work(self);
        }
        self.run("begin", "BEGIN")?;
        self.in_transaction = true;
        let done = work(self).and_then(|value| self.run("commit", "COMMIT").map(|()| value));
        self.in_transaction = false;
        if done.is_err() {
            // What does not roll back here is rolled back by the server when the connection goes.
            self.broken |= self.run("rollback", "ROLLBACK").is_err();
        }
        done
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Driver and statements, for a transaction that a user writes in.
    pub(super) fn parts(&mut self, statement: &'static str) -> DbResult<(&mut Client, &mut Prepared)> {
        match &mut self.client {
            Some(client) => Ok((client, &mut self.prepared)),
            None => Err(trouble(statement, "the connection is gone")),
        }
    }

    /// It is not used again.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Runs `work`; after an error that a fresh connection would not have, this one is not used again.
    pub(super) fn watched<T>(&mut self, work: impl FnOnce(&mut Self) -> DbResult<T>) -> DbResult<T> {
        work(self).inspect_err(|error| {
            let error = source_of::<postgres::Error>(error.source.as_ref());
            self.broken |= error.is_some_and(|error| match error.code() {
                Some(code) => STALE.contains(code),
                None => is_about_the_connection(error),
            });
        })
    }

    /// Whether it can be used again.
    pub(super) fn is_sound(&self) -> bool {
        !self.broken && !self.in_transaction && self.client.as_ref().is_some_and(|client| !client.is_closed())
    }
}

impl Drop for Connection {
    /// To close a connection is to wait for it, too.
    fn drop(&mut self) {
        let client = self.client.take();
        let _ = outside_async("close", move || {
            drop(client);
            Ok(())
        });
    }
}

impl Prepared {
    pub(super) fn query(
        &mut self,
        client: &mut impl GenericClient,
        statement: &Statement,
        params: Params<'_>,
    ) -> DbResult<Vec<Row>> {
        let prepared = self.get(client, statement)?;
        client.query(&prepared, params).map_err(|e| failed(statement.name, e))
    }

    pub(super) fn execute(
        &mut self,
        client: &mut impl GenericClient,
        statement: &Statement,
        params: Params<'_>,
    ) -> DbResult<u64> {
        let prepared = self.get(client, statement)?;
        client.execute(&prepared, params).map_err(|e| failed(statement.name, e))
    }

    fn get(
        &mut self,
        client: &mut impl GenericClient,
        statement: &Statement,
    ) -> DbResult<postgres::Statement> {
        if let Some(prepared) = self.statements.get(statement.name) {
            return Ok(prepared.clone());
        }
        let sql = in_schema(statement.sql, &self.schema);
        let prepared = client.prepare(&sql).map_err(|e| failed(statement.name, e))?;
        self.statements.insert(statement.name, prepared.clone());
        Ok(prepared)
    }
}

/// The schema that DBOS uses unless told otherwise, and that our SQL names.
pub(super) const SCHEMA: &str = "dbos";

/// The SQL for another schema.
pub(super) fn in_schema(sql: &str, schema: &str) -> String {
    if schema == SCHEMA { sql.to_owned() } else { sql.replace("dbos.", &format!("{}.", quoted(schema))) }
}

/// A name as an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether the driver would panic here.
pub(super) fn is_inside_async() -> bool {
    tokio::runtime::Handle::try_current().is_ok()
}

/// The driver blocks, and inside an async runtime a call that blocks panics: there it is made on a thread of its own.
pub(super) fn outside_async<T: Send>(
    what: &'static str,
    work: impl FnOnce() -> DbResult<T> + Send,
) -> DbResult<T> {
    if !is_inside_async() {
        return work();
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("piton-database".to_owned());
        let spawned = thread.spawn_scoped(scope, work).map_err(|e| trouble(what, &e.to_string()))?;
        spawned.join().unwrap_or_else(|payload| resume_unwind(payload))
    })
}

/// A column, by its place.
pub(super) fn column<'r, T: postgres::types::FromSql<'r>>(
    statement: &Statement,
    row: &'r Row,
    index: usize,
) -> DbResult<T> {
    row.try_get(index).map_err(|e| failed(statement.name, e))
}

/// Trouble that may pass, in our own words.
pub(super) fn trouble(statement: &'static str, reason: &str) -> DbError {
    DbError {
        statement,
        may_pass: true,
        source: Box::<dyn std::error::Error + Send + Sync>::from(reason).into(),
    }
}

/// The error of a statement, with the verdict whether it may work later.
pub(super) fn failed(statement: &'static str, error: postgres::Error) -> DbError {
    let may_pass = may_pass(&error);
    DbError { statement, may_pass, source: Arc::new(Told(error)) }
}

/// The server may come back, a conflict may not happen again; what is wrong with a value or a table stays wrong.
fn may_pass(error: &postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // Without an answer of the server it is the connection, unless it is a value that the driver refuses.
        return is_about_the_connection(error);
    };
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "57" | "58" | "40" | "55") || STALE.contains(code) || PASSING.contains(code)
}

const PASSING: [SqlState; 2] =
    [SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, SqlState::IN_FAILED_SQL_TRANSACTION];

/// What a fresh connection does not have: a prepared statement that is gone, as behind a pooler; one that no longer fits
/// tables which others have changed; a server that is a standby by now.
const STALE: [SqlState; 4] = [
    SqlState::INVALID_SQL_STATEMENT_NAME,
    SqlState::DUPLICATE_PSTATEMENT,
    SqlState::FEATURE_NOT_SUPPORTED,
    SqlState::READ_ONLY_SQL_TRANSACTION,
];

/// One that cannot be made, or that is gone.
fn is_about_the_connection(error: &postgres::Error) -> bool {
    let text = error.to_string();
    error.is_closed()
        || source_of::<std::io::Error>(error).is_some()
        || text.starts_with("error connecting")
        || text.starts_with("timeout")
}

/// The first of that type among the error and its sources.
pub(super) fn source_of<'e, T: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e T> {
    causes::chain(error).find_map(|error| error.downcast_ref::<T>())
}

/// What the server said; the driver's own text is only "db error".
#[derive(Debug)]
struct Told(postgres::Error);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_words(&self.0))
    }
}

impl std::error::Error for Told {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The server's message with its code, or the driver's with its causes.
pub(super) fn in_words(error: &postgres::Error) -> String {
    if let Some(told) = error.as_db_error() {
        let detail = told.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail} [{}]", told.message(), told.code().code());
    }
    causes::chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
