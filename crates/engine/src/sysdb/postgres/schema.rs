//! Bringing the tables up, and recognising the tables that are there.

use std::time::Duration;

use super::connection::{Connection, Statement, column, quoted};
use super::trouble::words;
use crate::pure::clock::{Stopwatch, block_for};
use crate::pure::limits::MIGRATION_WITHIN;
use crate::sysdb::{DbError, DbResult};

/// The schema version that this engine writes, shared by all DBOS SDKs.
const VERSION: i64 = 125;
const CREATE: &str = include_str!("schema_v125.sql");
/// Tables of this engine beside them.
const OWN: &str = include_str!("own_tables.sql");
const OWN_TABLES: [&str; 3] = ["piton_executors", "piton_places", "piton_queues"];

/// The lock under which every DBOS program brings the tables up. Tried, not waited for: a statement that waits keeps a
/// snapshot, and the `CREATE INDEX CONCURRENTLY` of the lock's holder would wait for that.
const TRY_LOCK: Statement =
    Statement { name: "bring_up_lock", sql: "SELECT pg_try_advisory_xact_lock(1234567890)" };

/// One view of them: another process may create them between two looks. $1 schema, $2 tables of this engine
const LOOK: Statement = Statement {
    name: "look_at_schema",
    sql: "
        SELECT count(*) FILTER (WHERE relname = 'dbos_migrations') > 0,
               count(*) FILTER (WHERE relname = 'workflow_status') > 0,
               count(*) FILTER (WHERE relname = ANY ($2)) = cardinality($2)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE nspname = $1",
};

const READ_VERSION: Statement =
    Statement { name: "schema_version", sql: "SELECT max(version) FROM dbos.dbos_migrations" };

/// The contents of the schema.
struct Content {
    /// The version of the DBOS tables; `None` when there are none.
    version: Option<i64>,
    /// Whether our own tables are there.
    own: bool,
}

/// Looks at the schema, and creates missing parts if `migrate` is set, in one transaction: all of it or none, if the
/// process dies. A schema that is not usable may be half made by another program, so it is judged under the lock.
pub(super) fn bring_up(connection: &mut Connection, schema: &str, migrate: bool) -> Result<(), String> {
    const NAP: Duration = Duration::from_millis(50);
    let watch = Stopwatch::start();
    loop {
        let content = look(connection, schema).map_err(|e| words(&e))??;
        if matches!(refuse_unless_usable(&content), Ok(true)) {
            return Ok(());
        }
        if under_the_lock(connection, schema, migrate)? {
            return Ok(());
        }
        if watch.elapsed() >= MIGRATION_WITHIN {
            return Err(format!(
                "another program has been creating the tables for more than {} s. Find its session in pg_locks by advisory lock 1234567890",
                MIGRATION_WITHIN.as_secs()
            ));
        }
        block_for(NAP);
    }
}

/// Completes the tables, unless another program has the lock: `false`.
fn under_the_lock(connection: &mut Connection, schema: &str, migrate: bool) -> Result<bool, String> {
    let completed = connection.within(MIGRATION_WITHIN, |connection| {
        connection.atomically(|connection| {
            // A database of many tables may take longer than a statement of the engine's may.
            connection.run("bring_up", "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")?;
            let lock = connection.first(&TRY_LOCK, &[])?;
            match lock.map(|row| column(&TRY_LOCK, &row, 0)).transpose()? {
                Some(true) => Ok(complete(connection, schema, migrate)?.map(|()| true)),
                _ => Ok(Ok(false)),
            }
        })
    });
    completed.map_err(|e| format!("its tables cannot be created: {}", words(&e)))?
}

/// Creates the missing parts.
fn complete(connection: &mut Connection, schema: &str, migrate: bool) -> DbResult<Result<(), String>> {
    let content = match look(connection, schema)? {
        Ok(content) => content,
        Err(refused) => return Ok(Err(refused)),
    };
    match refuse_unless_usable(&content) {
        Ok(true) => return Ok(Ok(())),
        Ok(false) if migrate => {}
        Ok(false) => return Ok(Err(told_to_create_nothing(&content, schema))),
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

fn told_to_create_nothing(content: &Content, schema: &str) -> String {
    let own = || format!("the tables of this engine ({})", OWN_TABLES.join(", "));
    let what = content.version.map_or_else(|| "the DBOS tables".to_owned(), |_| own());
    format!(
        "{what} are not there in schema {schema}, and this engine was told not to create any; open it once with \
         migrate(true)"
    )
}

/// Whether nothing is missing.
fn refuse_unless_usable(content: &Content) -> Result<bool, String> {
    match content.version {
        None => Ok(false),
        Some(version) if version >= VERSION => Ok(content.own),
        Some(version) => Err(format!(
            "it is at schema version {version}, and this engine needs {VERSION}; bring it up with `dbos migrate` of DBOS \
             Python 3.4. Stop programs of older versions first"
        )),
    }
}

fn look(connection: &mut Connection, schema: &str) -> Result<Result<Content, String>, DbError> {
    let Some(row) = connection.first(&LOOK, &[&schema, &OWN_TABLES.as_slice()])? else {
        return Ok(Err("no answer".to_owned()));
    };
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
