//! Bringing the tables up, and recognising what is in the database.

use super::connection::{Connection, Statement, column, quoted};
use super::open::words;
use crate::sysdb::{DbError, DbResult};

/// The schema version that this engine writes, shared by all DBOS SDKs.
const VERSION: i64 = 125;
const CREATE: &str = include_str!("schema_v125.sql");
/// Tables of this engine beside them.
const OWN: &str = include_str!("own_tables.sql");

/// The lock under which every DBOS program brings the tables up.
const LOCK: Statement = Statement { name: "bring_up_lock", sql: "SELECT pg_advisory_xact_lock(1234567890)" };

/// One view of them: another process may create them between two looks. $1 schema
const LOOK: Statement = Statement {
    name: "look_at_schema",
    sql: "
        SELECT count(*) FILTER (WHERE relname = 'dbos_migrations') > 0,
               count(*) FILTER (WHERE relname = 'workflow_status') > 0,
               count(*) FILTER (WHERE relname = 'piton_executors') > 0
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE nspname = $1",
};

const READ_VERSION: Statement =
    Statement { name: "schema_version", sql: "SELECT max(version) FROM dbos.dbos_migrations" };

/// What the schema holds.
struct Content {
    /// The version of the DBOS tables; `None` when there are none.
    version: Option<i64>,
    /// Whether our own tables are there.
    own: bool,
}

/// Looks, and creates what is missing if `migrate` is set. All in one transaction: it is there as a whole or not at
/// all, whenever the process dies.
pub(super) fn bring_up(connection: &mut Connection, schema: &str, migrate: bool) -> Result<(), String> {
    let content = look(connection, schema).map_err(|e| words(&e))??;
    if refuse_unless_usable(&content)? {
        return Ok(());
    }
    if !migrate {
        let what = if content.version.is_none() { "the DBOS tables" } else { "the table piton_executors" };
        return Err(format!(
            "{what} are not there in schema {schema}, and this engine was told not to create any; open it once with \
             migrate(true)"
        ));
    }
    // A database of many tables may take longer than a statement of the engine's may.
    let unhurried = connection.run("bring_up", "SET statement_timeout = 0; SET lock_timeout = 0");
    let created = unhurried.and_then(|()| connection.atomically(|connection| create(connection, schema)));
    let hurried = connection.run("bring_up", "SET statement_timeout = '30s'; SET lock_timeout = '10s'");
    created.map_err(|e| format!("its tables cannot be created: {}", words(&e)))??;
    hurried.map_err(|e| words(&e))
}

fn create(connection: &mut Connection, schema: &str) -> DbResult<Result<(), String>> {
    connection.query(&LOCK, &[])?;
    // Another process may have done it while this one waited.
    let content = match look(connection, schema)? {
        Ok(content) => content,
        Err(refused) => return Ok(Err(refused)),
    };
    match refuse_unless_usable(&content) {
        Ok(false) => {}
        Ok(true) => return Ok(Ok(())),
        Err(refused) => return Ok(Err(refused)),
    }
    if content.version.is_none() {
        connection.run("create_tables", &CREATE.replace("{schema}", &quoted(schema)))?;
    }
    if !content.own {
        connection.run("create_own_tables", &OWN.replace("{schema}", &quoted(schema)))?;
    }
    Ok(Ok(()))
}

/// Whether nothing is missing.
fn refuse_unless_usable(content: &Content) -> Result<bool, String> {
    match content.version {
        None => Ok(false),
        Some(version) if version >= VERSION => Ok(content.own),
        Some(version) => Err(format!(
            "it is at schema version {version}, and this engine needs {VERSION}; bring it up with `dbos migrate` of DBOS \
             Python 3.4 while no older program runs on it"
        )),
    }
}

fn look(connection: &mut Connection, schema: &str) -> Result<Result<Content, String>, DbError> {
    let Some(row) = connection.first(&LOOK, &[&schema])? else { return Ok(Err("no answer".to_owned())) };
    let (migrations, workflows, own) =
        (column(&LOOK, &row, 0)?, column(&LOOK, &row, 1)?, column::<bool>(&LOOK, &row, 2)?);
    if migrations {
        let row = connection.first(&READ_VERSION, &[])?;
        let version: Option<i64> = row.map(|row| column(&READ_VERSION, &row, 0)).transpose()?.flatten();
        // The tables of a migration that died half way are not there; version 0 says so.
        return Ok(Ok(Content { version: Some(version.unwrap_or(0)), own }));
    }
    if workflows {
        return Ok(Err(format!(
            "schema {schema} has a table workflow_status without dbos_migrations, so it is not one of DBOS; name another \
             schema"
        )));
    }
    Ok(Ok(Content { version: None, own }))
}
