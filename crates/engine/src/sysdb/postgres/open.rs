//! Opening: the server is looked at before anything is changed, and the tables are brought up.

use std::sync::Arc;
use std::time::Duration;

use postgres::error::SqlState;

use super::IDENTIFIER_BYTES_MAX;
use super::connection::{Connection, Statement, column, outside_async};
use super::connector::{Connector, Purpose};
use super::lease::{Leases, Terms};
use super::news::News;
use super::pool::Pool;
use super::reader::Readers;
use super::schema;
use super::transaction::TransactionSteps;
use super::trouble::code;
use super::writer::PostgresWriter;
use crate::pure::clock::{Stopwatch, block_for};
use crate::pure::error::{Error, Result};
use crate::pure::limits::{BRING_UP_WITHIN, OPEN_WITHIN};
use crate::pure::sync::{Signal, say};
use crate::sysdb::outage::Outage;
use crate::sysdb::{DbError, DbResult, PostgresUrl, SystemDatabase};

/// The settings of [`open`].
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) schema: String,
    pub(crate) migrate: bool,
    pub(crate) listen: bool,
    pub(crate) takeover_within: Duration,
    /// Within which time each statement is to be answered, if a test says so.
    pub(crate) answers_within: Option<Duration>,
}

/// The pool's size when the URL says nothing.
const CONNECTIONS_MAX: usize = 8;

/// The conditions for durable commits, and for any writes.
const SERVER: Statement = Statement {
    name: "look_at_server",
    sql: "
        SELECT pg_is_in_recovery(), current_setting('server_encoding'), current_setting('fsync'),
               current_setting('full_page_writes'), current_setting('synchronous_commit'),
               current_setting('server_version_num')::int4, current_setting('server_version')",
};

/// The oldest server whose behaviour the tests know.
const SERVER_VERSION_MIN: i32 = 130_000;

/// Opens the system database, and creates it and its tables if they are not there.
pub(crate) fn open(url: &PostgresUrl, settings: &Settings) -> Result<SystemDatabase> {
    let refuse = |reason: String| Error::Open { database: url.to_string(), reason };
    if settings.schema.len() > IDENTIFIER_BYTES_MAX {
        return Err(refuse(format!("the name of the schema has more than {IDENTIFIER_BYTES_MAX} bytes")));
    }
    url.check_tls(cfg!(feature = "tls")).map_err(refuse)?;
    let connector = Connector::new(url, &settings.schema, settings.answers_within).map_err(refuse)?;
    let ready = outside_async("open", || Ok(ready_connection(&connector, settings)));
    let connection = ready.map_err(|e| refuse(e.to_string()))?.map_err(refuse)?;

    let connections_max = url.pool_max.unwrap_or(CONNECTIONS_MAX);
    let outage = Arc::new(Outage::of(url.to_string()));
    let pool = Arc::new(Pool::of_readers(connector.clone(), connections_max, outage.clone()));
    let fleet = Arc::<Signal>::default();
    let news = News::new(&settings.schema, fleet.clone());
    let hears = connection.keeps_its_session();
    if settings.listen && !hears {
        say!(
            info,
            "{url} leads to a pooler that gives each transaction another session: NOTIFY does not arrive, and changes \
             by other processes are found within a second"
        );
    }
    news.spawn(&pool, &connector, settings.listen, hears)?;
    let terms = Terms::within(settings.takeover_within);
    Ok(SystemDatabase {
        writer: Box::new(PostgresWriter::new(connector.clone(), connection, news.clone())),
        reader: Arc::new(Readers::new(pool.clone())),
        liveness: Arc::new(Leases::new(pool, &connector, news, terms, outage.clone())),
        transactions: crate::sysdb::TransactionSteps::Postgres(TransactionSteps::new(
            connector,
            connections_max,
            outage.clone(),
        )),
        fleet,
        sweep_every: Duration::from_secs(1),
        outage,
    })
}

/// To a database that was found fit and has the tables.
fn ready_connection(connector: &Connector, settings: &Settings) -> std::result::Result<Connection, String> {
    let watch = Stopwatch::start();
    let mut connection = connect(connector, settings.migrate)?;
    connection.until(Some((watch, OPEN_WITHIN)));
    check(&mut connection).map_err(|e| e.to_string())??;
    schema::bring_up(&mut connection, &settings.schema, settings.migrate)?;
    connection.until(None);
    Ok(connection)
}

/// A server that starts up or that others bring the database up on is waited for.
fn connect(connector: &Connector, create: bool) -> std::result::Result<Connection, String> {
    const NAP: Duration = Duration::from_millis(50);
    let watch = Stopwatch::start();
    loop {
        let connected = connector.connect(Purpose::Writer).and_then(|connection| {
            if connection.keeps_its_session() {
                Ok(connection)
            } else {
                behind_a_pooler(connector, connection)
            }
        });
        let error = match connected {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        match code(&error) {
            Some(code) if code == SqlState::INVALID_CATALOG_NAME && create => {
                if let Err(error) = create_database(connector)
                    && (!error.may_pass || watch.elapsed() >= BRING_UP_WITHIN)
                {
                    return Err(format!("the database is not there and cannot be created: {}", error.source));
                }
            }
            Some(code) if code == SqlState::INVALID_CATALOG_NAME => {
                return Err(format!(
                    "{}; create it first, or let the engine do it with migrate(true)",
                    error.source
                ));
            }
            Some(code) if code == SqlState::CANNOT_CONNECT_NOW || code == SqlState::TOO_MANY_CONNECTIONS => {
                if watch.elapsed() >= BRING_UP_WITHIN {
                    return Err(error.source.to_string());
                }
            }
            _ => return Err(error.source.to_string()),
        }
        block_for(NAP);
    }
}

/// Finds out whether the pooler keeps sessions, and connects again if it does. A pooler that lends no second connection
/// meanwhile is taken for one without sessions that stay: that is right behind either.
fn behind_a_pooler(connector: &Connector, mut connection: Connection) -> DbResult<Connection> {
    let tells = connector.connect(Purpose::Reader);
    let stay = tells.and_then(|mut tells| connector.road.test(&mut connection, &mut tells));
    match connection.if_sound() {
        Some(connection) if !stay.unwrap_or(false) => Ok(connection),
        _ => connector.connect(Purpose::Writer),
    }
}

/// Others may create it at the same time; the later process finds it there.
fn create_database(connector: &Connector) -> DbResult<()> {
    let sql = format!("CREATE DATABASE {}", super::connection::quoted(connector.database()));
    let created = connector.to_database("postgres").connect(Purpose::Writer);
    created.and_then(|mut connection| connection.run("create_database", &sql)).map_err(|error| {
        let others_did = code(&error)
            .is_some_and(|code| code == SqlState::DUPLICATE_DATABASE || code == SqlState::UNIQUE_VIOLATION);
        DbError { may_pass: error.may_pass || others_did, ..error }
    })
}

fn check(connection: &mut Connection) -> std::result::Result<std::result::Result<(), String>, DbError> {
    let row = connection.first(&SERVER, &[])?;
    let Some(row) = row else { return Ok(Err("the server does not say what it is".to_owned())) };
    let text = |index| column::<String>(&SERVER, &row, index);
    let refusal = if column(&SERVER, &row, 0)? {
        Some("the server is a standby and takes no writes; name the primary, or add target_session_attrs=read-write".to_owned())
    } else if text(1)? != "UTF8" {
        Some(format!(
            "its encoding is {}, and texts of workflows are UTF-8; create the database with ENCODING 'UTF8'",
            text(1)?
        ))
    } else if text(2)? != "on" {
        Some("fsync is off on the server: acknowledged commits could be lost; switch it on".to_owned())
    } else if text(3)? != "on" {
        Some(
            "full_page_writes is off on the server: a crash could damage the database; switch it on"
                .to_owned(),
        )
    } else if text(4)? == "off" {
        Some(
            "synchronous_commit is off and the engine cannot switch it on, so acknowledged commits could be lost; allow this role to set it"
                .to_owned(),
        )
    } else if column::<i32>(&SERVER, &row, 5)? < SERVER_VERSION_MIN {
        Some(format!("the server is PostgreSQL {}; 13 or newer is needed", text(6)?))
    } else {
        None
    };
    Ok(refusal.map_or(Ok(()), Err))
}
