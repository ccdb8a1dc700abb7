//! Bringing the tables up, and recognising the tables in the file.

use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};

use super::open::make_durable;
use crate::pure::clock::{Stopwatch, block_for};
use crate::pure::limits::{BRING_UP_WITHIN, FULL_CHECK_BYTES_MAX};

/// The schema version that this engine writes, shared by all DBOS SDKs.
const VERSION: i64 = 125;
const CREATE: &str = include_str!("schema_v125.sql");
/// Tables of this engine beside them.
const OWN: &str = include_str!("own_tables.sql");

/// Why the file cannot be used. Nothing was changed.
pub(super) enum Problem {
    Sqlite(rusqlite::Error),
    Refused(String),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The contents of the file.
enum Content {
    Nothing,
    /// Tables of another program, none of them ours.
    OtherTables(String),
    /// The tables of DBOS at this version, and whether those of this engine are beside them.
    Version(i64, bool),
}

/// Recognises the file, then makes the connection durable and creates the tables if there are none.
///
/// While other processes do the same, SQLite may answer that the file is locked without asking the busy handler. Two
/// processes that both want WAL mode could wait for each other for ever. Each of them steps back and tries again.
pub(super) fn bring_up(connection: &mut Connection, shared_with_application: bool) -> Result<(), Problem> {
    const NAP: Duration = Duration::from_millis(2);
    let watch = Stopwatch::start();
    loop {
        match try_to_bring_up(connection, shared_with_application) {
            Err(Problem::Sqlite(e)) if is_busy(&e) && watch.elapsed() < BRING_UP_WITHIN => block_for(NAP),
            done => return done,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn try_to_bring_up(connection: &mut Connection, shared_with_application: bool) -> Result<(), Problem> {
    check_for_damage(connection)?;
    // One view of the file: another process may create the tables between two looks.
    let view = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let content = look(&view)?;
    drop(view);
    refuse_unless_usable(&content, shared_with_application)?;
    make_durable(connection)?.map_err(Problem::Refused)?;
    if matches!(content, Content::Version(_, true)) {
        return Ok(());
    }
    // Another process may do the same: the process that gets the lock first creates the tables, the others find them.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let content = look(&transaction)?;
    refuse_unless_usable(&content, shared_with_application)?;
    if !matches!(content, Content::Version(..)) {
        transaction.execute_batch(CREATE)?;
    }
    transaction.execute_batch(OWN)?;
    Ok(transaction.commit()?)
}

fn refuse_unless_usable(content: &Content, shared_with_application: bool) -> Result<(), Problem> {
    let reason = match content {
        Content::Nothing => return Ok(()),
        Content::OtherTables(_) if shared_with_application => return Ok(()),
        Content::Version(version, _) if *version >= VERSION => return Ok(()),
        Content::OtherTables(table) => format!(
            "it belongs to another program: it has a table `{table}` and no DBOS tables. Name another file, or call \
             shared_with_application() to add the engine's tables"
        ),
        Content::Version(version, _) => format!(
            "it is at schema version {version}, and this engine needs {VERSION}; bring it up with `dbos migrate` \
             of DBOS Python 3.4"
        ),
    };
    Err(Problem::Refused(reason))
}

fn look(connection: &Connection) -> Result<Content, Problem> {
    let table = |name: &str| -> rusqlite::Result<bool> {
        connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)",
            [name],
            |row| row.get(0),
        )
    };
    if table("dbos_migrations")? {
        let version: Option<i64> =
            connection.query_row("SELECT max(version) FROM dbos_migrations", [], |row| row.get(0))?;
        // The tables of a migration that died half way are not there; version 0 says so.
        let own = table("piton_queues")? && table("piton_places")?;
        return Ok(Content::Version(version.unwrap_or(0), own));
    }
    if table("workflow_status")? {
        return Err(Problem::Refused(
            "it has a table `workflow_status` without `dbos_migrations`, so it is not a DBOS database; name \
             another file"
                .to_owned(),
        ));
    }
    let other = connection
        .query_row("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name LIMIT 1", [], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(other.map_or(Content::Nothing, Content::OtherTables))
}

/// A small file is checked whole. Of a large one a row of each table is read.
pub(super) fn check_for_damage(connection: &Connection) -> Result<(), Problem> {
    let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let page_bytes: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    if pages.saturating_mul(page_bytes) <= FULL_CHECK_BYTES_MAX
        && let Some(report) =
            checked(connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)))?
    {
        if report != "ok" {
            return Err(Problem::Refused(format!(
                "it is damaged ({report}); restore it from a backup, or look at it with `sqlite3 FILE .recover`"
            )));
        }
        return Ok(());
    }
    let mut tables =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")?;
    for name in tables.query_map([], |row| row.get::<_, String>(0))? {
        let quoted = name?.replace('"', "\"\"");
        let one = format!("SELECT 1 FROM \"{quoted}\" LIMIT 1");
        checked(connection.query_row(&one, [], |_| Ok(())).optional())?;
    }
    Ok(())
}

/// A check evaluates expressions of the program's own tables, such as a `CHECK` that calls a function. A failure there
/// is no damage, and the check says nothing.
fn checked<T>(result: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match result {
        Err(rusqlite::Error::SqlInputError { error, .. } | rusqlite::Error::SqliteFailure(error, _))
            if error.code == ErrorCode::Unknown =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Extra columns or tables of ours would be harmless to DBOS, missing ones would not.
    #[test]
    fn the_schema_is_one_script_with_one_version_row() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(CREATE).unwrap();
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM sqlite_schema WHERE type = 'table'"), 12);
        assert_eq!(count("SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"), 23);
        assert_eq!(count("SELECT version FROM dbos_migrations"), VERSION);
    }

    #[test]
    fn a_table_that_needs_a_function_of_its_program_is_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop.db");
        let program = Connection::open(&path).unwrap();
        // As a program leaves it that has the function.
        program
            .execute_batch(
                "CREATE TABLE goods (sku TEXT); INSERT INTO goods VALUES ('a'); PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = 'CREATE TABLE goods (sku TEXT CHECK (is_sku(sku)))'",
            )
            .unwrap();
        drop(program);
        assert!(check_for_damage(&Connection::open(&path).unwrap()).is_ok());
    }

    #[test]
    fn rows_of_other_programs_get_the_time_in_milliseconds() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(CREATE).unwrap();
        connection.execute_batch("INSERT INTO workflow_status (workflow_uuid) VALUES ('w')").unwrap();
        let sql = "SELECT abs(created_at - unixepoch('subsec') * 1000) < 10000 FROM workflow_status";
        assert!(connection.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap());
    }
}
