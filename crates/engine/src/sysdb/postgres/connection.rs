//! One connection of the engine's: each request has a limit, no transaction is left open, errors are judged.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::join3;
use postgres::types::Type;
use postgres::{Notification, Row, SimpleQueryMessage};

use super::link::{Fault, Link};
use super::pooler::{Process, Road};
use super::statements::{Manner, Types, ask_for_types, typed, types_told};
pub(super) use super::statements::{Params, SCHEMA, Session, Statement, in_schema, quoted};
pub(super) use super::trouble::{failed, in_words, source_of, trouble};
use super::trouble::{faulted, is_of_another_session, is_stale};
use crate::pure::clock::Stopwatch;
use crate::sysdb::{DbError, DbResult};

/// A connection that was used within this time is not checked before it is used again.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// An open connection.
pub(super) struct Connection {
    link: Link,
    manner: Manner,
    /// The beginning of each transaction, where no session stays.
    begin: Option<String>,
    schema: Arc<str>,
    road: Arc<Road>,
    in_transaction: bool,
    broken: bool,
    /// How long a request may take, and how long it may without another limit.
    limit: Duration,
    usual: Duration,
    /// How many others had fallen silent when it was made.
    silences: u64,
    /// The process of the server that serves this connection alone.
    process: Option<Process>,
    /// When all must be done.
    deadline: Option<(Stopwatch, Duration)>,
    used: Stopwatch,
}

impl Connection {
    /// `begin` is the beginning of each transaction, if the session does not stay.
    pub(super) fn new(
        link: Link,
        road: Arc<Road>,
        schema: Arc<str>,
        begin: Option<String>,
        limit: Duration,
    ) -> Self {
        let manner = if begin.is_some() { Manner::Whole(road.types.clone()) } else { Manner::prepared() };
        let silences = road.silences();
        Self {
            link,
            manner,
            begin,
            schema,
            road,
            in_transaction: false,
            broken: false,
            limit,
            usual: limit,
            silences,
            process: None,
            deadline: None,
            used: Stopwatch::start(),
        }
    }

    /// The first row, if there is one.
    pub(super) fn first(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<Option<Row>> {
        Ok(self.query(statement, params)?.into_iter().next())
    }

    pub(super) fn query(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<Vec<Row>> {
        if let Manner::Whole(types) = &self.manner {
            let (sql, types) = self.whole(statement, &types.clone())?;
            return self.query_whole(statement.name, &sql, params, &types);
        }
        let prepared = self.prepared(statement)?;
        self.ask(statement.name, async |client| client.query(&prepared, params).await)
    }

    /// Runs it and says how many rows changed.
    pub(super) fn execute(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<u64> {
        if let Manner::Whole(types) = &self.manner {
            let (sql, known) = self.whole(statement, &types.clone())?;
            let paired = typed(params, &known);
            return match self.alone() {
                None => self.ask(statement.name, async |client| client.execute_typed(&sql, &paired).await),
                Some(begin) => self.ask(statement.name, async |client| {
                    let changed = client.execute_typed(&sql, &paired);
                    let all = join3(client.batch_execute(&begin), changed, client.batch_execute("COMMIT"));
                    let (opened, changed, committed) = all.await;
                    opened.and(changed).and_then(|changed| committed.map(|()| changed))
                }),
            };
        }
        let prepared = self.prepared(statement)?;
        self.ask(statement.name, async |client| client.execute(&prepared, params).await)
    }

    /// A statement that is composed for one use.
    pub(super) fn query_once(
        &mut self,
        name: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> DbResult<Vec<Row>> {
        let sql = in_schema(sql, &self.schema);
        if matches!(self.manner, Manner::Whole(_)) {
            let types = self.types_of(name, &sql)?;
            return self.query_whole(name, &sql, params, &types);
        }
        self.ask(name, async |client| client.query(&sql, params).await)
    }

    /// Statements without parameters and without results.
    pub(super) fn run(&mut self, name: &'static str, sql: &str) -> DbResult<()> {
        self.ask(name, async |client| client.batch_execute(sql).await)
    }

    /// Runs a query whose results are texts.
    pub(super) fn ask_simply(&mut self, name: &'static str, sql: &str) -> DbResult<Vec<SimpleQueryMessage>> {
        self.ask(name, async |client| client.simple_query(sql).await)
    }

    /// The next word that was told on a channel that this connection listens to, if one comes within this time.
    pub(super) fn hear(&mut self, name: &'static str, within: Duration) -> DbResult<Option<Notification>> {
        self.link.hear(within).map_err(|fault| faulted(name, fault))
    }

    /// All that `work` does, or nothing. Inside another one it is a part of that.
    pub(super) fn atomically<T>(&mut self, work: impl FnOnce(&mut Self) -> DbResult<T>) -> DbResult<T> {
        if self.in_transaction {
            return work(self);
        }
        let begin = self.begin.clone();
        // A part of it may have failed after the transaction had begun.
        self.run("begin", begin.as_deref().unwrap_or("BEGIN")).inspect_err(|_| self.broken = true)?;
        self.in_transaction = true;
        let done = work(self).and_then(|value| self.run("commit", "COMMIT").map(|()| value));
        self.in_transaction = false;
        if done.is_err() {
            // A transaction that does not roll back here is rolled back by the server when the connection goes.
            self.broken |= self.link.is_closed() || self.run("rollback", "ROLLBACK").is_err();
        }
        done
    }

    /// Whether the session is this connection's own for as long as it lives.
    pub(super) fn keeps_its_session(&self) -> bool {
        self.begin.is_none()
    }

    /// The process of the server that serves this connection alone.
    pub(super) fn is_served_by(&mut self, process: Process) {
        self.process = Some(process);
    }

    /// Runs `work` with another limit for each request.
    pub(super) fn within<T>(
        &mut self,
        limit: Duration,
        work: impl FnOnce(&mut Self) -> DbResult<T>,
    ) -> DbResult<T> {
        let before = std::mem::replace(&mut self.limit, limit);
        let done = work(self);
        self.limit = before;
        done
    }

    /// From now on all must be done within this time, or until that is lifted.
    pub(super) fn until(&mut self, deadline: Option<(Stopwatch, Duration)>) {
        self.deadline = deadline;
    }

    /// Runs `work`; after an error that a fresh connection would not have, this one is not used again.
    pub(super) fn watched<T>(&mut self, work: impl FnOnce(&mut Self) -> DbResult<T>) -> DbResult<T> {
        work(self).inspect_err(|error| {
            self.broken |= is_stale(error);
            if is_of_another_session(error) {
                self.road.sessions_do_not_stay();
            }
        })
    }

    /// This connection, if it can be used again. A connection that was closed while it was idle is no trouble. Not
    /// inside an async runtime.
    pub(super) fn if_sound(mut self) -> Option<Self> {
        let trusted = !self.is_spent() && !self.is_doubtful();
        (trusted && (self.used.elapsed() < FRESH || self.link.is_open())).then_some(self)
    }

    /// Whether another one fell silent since it was made.
    pub(super) fn is_doubtful(&self) -> bool {
        self.road.silences() != self.silences
    }

    /// Whether it is known that it cannot.
    pub(super) fn is_spent(&self) -> bool {
        self.broken || self.in_transaction || self.link.is_closed()
    }

    fn ask<T>(
        &mut self,
        name: &'static str,
        request: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, postgres::Error>,
    ) -> DbResult<T> {
        let left = self.deadline.map(|(watch, within)| within.saturating_sub(watch.elapsed()));
        let limit = left.map_or(self.limit, |left| left.min(self.limit));
        let answer = self.link.ask(limit, request);
        self.used = Stopwatch::start();
        if matches!(answer, Err(Fault::Silence(_))) {
            if let Some(process) = self.process.take() {
                self.road.leave_behind(process);
            }
            // In a shorter time it may only have been slow, and the others may be in the middle of their work.
            if limit >= self.usual {
                self.road.fell_silent();
            }
        }
        answer.map_err(|fault| faulted(name, fault))
    }

    /// The beginning of the transaction that a lone statement needs.
    fn alone(&self) -> Option<String> {
        self.begin.clone().filter(|_| !self.in_transaction)
    }

    fn prepared(&mut self, statement: &Statement) -> DbResult<postgres::Statement> {
        if let Manner::Prepared(known) = &self.manner
            && let Some(prepared) = known.get(statement.name)
        {
            return Ok(prepared.clone());
        }
        let sql = in_schema(statement.sql, &self.schema);
        let prepared = self.ask(statement.name, async |client| client.prepare(&sql).await)?;
        if let Manner::Prepared(known) = &mut self.manner {
            known.insert(statement.name, prepared.clone());
        }
        Ok(prepared)
    }

    fn whole(&mut self, statement: &Statement, types: &Types) -> DbResult<(String, Arc<[Type]>)> {
        let sql = in_schema(statement.sql, &self.schema);
        let known = if let Some(known) = types.get(statement) {
            known
        } else {
            let told = self.types_of(statement.name, &sql)?;
            types.keep(statement, &told);
            told
        };
        Ok((sql, known))
    }

    fn types_of(&mut self, name: &'static str, sql: &str) -> DbResult<Arc<[Type]>> {
        let told = self.ask_simply(name, &ask_for_types(sql))?;
        types_told(name, &told)
    }

    /// One round trip: a lone statement is sent together with the beginning and the end of its transaction.
    fn query_whole(
        &mut self,
        name: &'static str,
        sql: &str,
        params: Params<'_>,
        types: &[Type],
    ) -> DbResult<Vec<Row>> {
        let paired = typed(params, types);
        match self.alone() {
            None => self.ask(name, async |client| client.query_typed(sql, &paired).await),
            Some(begin) => self.ask(name, async |client| {
                let rows = client.query_typed(sql, &paired);
                let all = join3(client.batch_execute(&begin), rows, client.batch_execute("COMMIT"));
                let (opened, rows, committed) = all.await;
                opened.and(rows).and_then(|rows| committed.map(|()| rows))
            }),
        }
    }
}

impl Session for Connection {
    fn query(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<Vec<Row>> {
        Self::query(self, statement, params)
    }

    fn execute(&mut self, statement: &Statement, params: Params<'_>) -> DbResult<u64> {
        Self::execute(self, statement, params)
    }
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

/// Of a connection that is not there.
pub(super) fn gone(name: &'static str) -> DbError {
    trouble(name, "the connection is gone")
}
