//! The connection that a transaction step writes over: its session as new for each body, its waits watched.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator as _;

use super::connection::{FRESH, Statement, column, outside_async, trouble};
use super::connector::{Connector, Purpose, Scope};
use super::line::{Line, Look, Serving};
use super::pool::Pooled;
use super::statements::Manner;
use super::trouble::{code, is_of_another_session, is_stale, silent};
use crate::pure::clock::Stopwatch;
use crate::pure::sync::say;
use crate::sysdb::DbResult;

/// Settings, temporary tables and locks of one body are not there for the next, which may be another workflow's. Statements
/// that it prepared stay: ours would go with them.
const FORGET: &str = "
    RESET ROLE; RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
    SELECT pg_advisory_unlock_all();";

/// Where each transaction has another session, statements that the driver prepares stay behind there. A statement of
/// another process may have the same name.
const FORGET_PREPARED: &str = "
    DO $$ DECLARE left_behind text; BEGIN
        FOR left_behind IN SELECT name FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$' LOOP
            EXECUTE 'DEALLOCATE ' || left_behind;
        END LOOP;
    END $$;";

pub(super) struct StepSession {
    pub(super) client: Option<Client>,
    pub(super) manner: Manner,
    pub(super) schema: Arc<str>,
    pub(super) line: Arc<Line>,
    /// The statements that make the session as new, inside of the transaction.
    pub(super) renew: String,
    keeps_its_session: bool,
    connector: Connector,
    broken: bool,
    used: Stopwatch,
    /// How many connections had fallen silent when it was made.
    silences: u64,
}

impl StepSession {
    pub(super) fn connect(connector: &Connector, look: Arc<Lookout>) -> DbResult<Self> {
        let limits = connector.limits;
        let line = Line::new(Some(look), limits.silence(), limits.answer(Purpose::Steps));
        let client = logged_in(connector, &line)?;
        let keeps_its_session = connector.road.do_sessions_stay();
        let (manner, scope, forget) = if keeps_its_session {
            (Manner::prepared(), Scope::Session, "")
        } else {
            (Manner::Whole(connector.road.types.clone()), Scope::Transaction, FORGET_PREPARED)
        };
        let settings = super::connector::settings(Purpose::Steps, Duration::ZERO, scope);
        Ok(Self {
            client: Some(client),
            manner,
            schema: connector.schema.clone(),
            line,
            renew: format!("{FORGET}{forget}{settings}"),
            keeps_its_session,
            connector: connector.clone(),
            broken: false,
            used: Stopwatch::start(),
            silences: connector.road.silences(),
        })
    }

    /// It is not used again.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
    }

    /// How long nothing had come when the server was taken for silent.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.line.silence()
    }

    /// Runs `work`; after an error that a fresh connection would not have, this one is not used again.
    pub(super) fn watched<T>(&mut self, work: impl FnOnce(&mut Self) -> DbResult<T>) -> DbResult<T> {
        let done = work(self);
        self.used = Stopwatch::start();
        done.inspect_err(|error| {
            self.broken |= is_stale(error);
            if is_of_another_session(error) {
                self.connector.road.sessions_do_not_stay();
            }
        })
    }
}

impl Pooled for StepSession {
    /// A connection that was closed while it was idle is no trouble.
    fn if_sound(mut self) -> Option<Self> {
        if self.used.elapsed() >= FRESH
            && let Some(client) = &mut self.client
        {
            // Reads the bytes that have come, which may be the end.
            let _ = client.notifications().timeout_iter(Duration::from_millis(1)).next();
        }
        (!self.is_spent()).then_some(self)
    }

    /// Where sessions do not stay, the driver remembers statements that are elsewhere.
    fn is_spent(&self) -> bool {
        self.broken
            || !self.keeps_its_session
            || self.silences != self.connector.road.silences()
            || self.silence().is_some()
            || self.client.as_ref().is_none_or(Client::is_closed)
    }
}

impl Drop for StepSession {
    /// To close a connection is to wait for it, too.
    fn drop(&mut self) {
        let client = self.client.take();
        if self.broken {
            self.line.give_up();
        }
        let _ = outside_async("close", move || {
            drop(client);
            Ok(())
        });
    }
}

/// On a thread that is left alone if the login takes too long: on a socket of this machine nothing else could end it.
fn logged_in(connector: &Connector, line: &Arc<Line>) -> DbResult<Client> {
    const NAME: &str = "connect";
    let (tells, told) = mpsc::channel();
    let (by, line) = (connector.clone(), line.clone());
    let connect = move || {
        let _ = tells.send(by.client(Purpose::Steps, &line));
    };
    let spawned = thread::Builder::new().name("piton-connect".to_owned()).spawn(connect);
    spawned.map_err(|error| trouble(NAME, &error.to_string()))?;
    let limit = connector.limits.connect;
    // Of several servers each has this time.
    let all = limit * u32::try_from(connector.servers()).unwrap_or(1) + limit / 4;
    told.recv_timeout(all).map_err(|_| silent(NAME, limit))?
}

/// Whether the server has nothing to do in a transaction whose answer does not come; then it is ended. A transaction that
/// is not there has ended. $1 process, $2 when the transaction began
const LOOK: Statement = Statement {
    name: "look_at_transaction",
    sql: "
        WITH session AS MATERIALIZED (
             SELECT pid, (state LIKE 'idle%' OR wait_event_type = 'Client') IS TRUE AS lost
               FROM pg_catalog.pg_stat_activity
              WHERE pid = $1 AND (extract(epoch FROM xact_start) * 1000000)::int8 = $2)
        SELECT lost, CASE WHEN lost THEN pg_terminate_backend(pid) END FROM session",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[LOOK];

/// Looks at the sessions of steps over a connection of its own.
pub(super) struct Lookout {
    connector: Connector,
}

impl Lookout {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector }
    }

    /// A refusal is an answer: the server is there, and says nothing of the session.
    fn look(&self, serving: Serving) -> DbResult<bool> {
        let mut connection = self.connector.connect(Purpose::Watch)?;
        let limit = self.connector.limits.connect;
        let row = connection
            .within(limit, |connection| connection.first(&LOOK, &[&serving.process, &serving.since]))?;
        row.map_or(Ok(true), |row| column(&LOOK, &row, 0))
    }
}

impl Look for Lookout {
    fn is_lost(&self, serving: Serving) -> bool {
        // A long statement is worth a second look when the server cannot be reached at all.
        let looked = match self.look(serving) {
            Err(error) if code(&error).is_none() => self.look(serving),
            looked => looked,
        };
        let lost = looked.unwrap_or_else(|error| {
            say!(debug, "{error}; a transaction step waits");
            code(&error).is_none()
        });
        if lost {
            self.connector.road.fell_silent();
        }
        lost
    }
}
