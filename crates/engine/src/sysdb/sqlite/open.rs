//! Opening the file, which is looked at before it is changed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::executor_lock::ExecutorLocks;
use super::file_identity::FileIdentity;
use super::path::{create_private, resolve, why_not};
use super::reader::Readers;
use super::schema;
use super::statement::failed;
use super::transaction::TransactionSteps;
use super::writer::SqliteWriter;
use crate::pure::clock::block_for;
use crate::pure::error::{Error, Result};
use crate::pure::limits::SWEEP_EVERY;
use crate::sysdb::outage::Outage;
use crate::sysdb::{DbError, DbResult, SystemDatabase};

/// Older ones can lose committed transactions when one connection writes while another checkpoints
/// (<https://sqlite.org/wal.html#walresetbug>).
const SQLITE_VERSION_MIN: i32 = 3_051_003;
const CACHED_STATEMENTS: usize = 128;
/// The WAL file is cut back to this size after a checkpoint, in bytes.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// Opens or creates the system database at `path`.
pub(crate) fn open(path: &Path, shared_with_application: bool) -> Result<SystemDatabase> {
    let path = resolve(path).map_err(|reason| refused(path, reason))?;
    let refuse = |reason: String| refused(&path, reason);
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(refuse(format!(
            "this program is linked with SQLite {}, which can lose committed transactions; 3.51.3 is needed",
            rusqlite::version()
        )));
    }
    let liveness = ExecutorLocks::beside(&path);
    liveness.refuse_another_directory().map_err(refuse)?;
    create_private(&path).map_err(refuse)?;
    liveness.warn_of_the_directory();
    let writer = bring_up(&path, shared_with_application).map_err(|problem| match problem {
        schema::Problem::Sqlite(e) => refuse(in_words(&path, &e)),
        schema::Problem::Refused(reason) => refuse(reason),
    })?;
    let outage = Arc::new(Outage::of(path.display().to_string()));
    let file = Arc::new(FileIdentity::of(&path));
    Ok(SystemDatabase {
        writer: Box::new(SqliteWriter::new(writer, file.clone())),
        liveness: Arc::new(liveness),
        transactions: crate::sysdb::TransactionSteps::Sqlite(TransactionSteps::new(&path, file.clone())),
        fleet: Arc::default(),
        sweep_every: SWEEP_EVERY,
        reader: Arc::new(Readers::new(path, file, outage.clone())),
        outage,
    })
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Open { database: path.display().to_string(), reason }
}

fn bring_up(path: &Path, shared_with_application: bool) -> Result<Connection, schema::Problem> {
    let mut writer = connect(path)?;
    // SQLite opens a file that it may not write for reading, and says nothing.
    if writer.is_readonly("main")? {
        let reason = why_not(path).unwrap_or_else(|| "the system lets this process only read it".to_owned());
        return Err(schema::Problem::Refused(reason));
    }
    schema::bring_up(&mut writer, shared_with_application)?;
    Ok(writer)
}

/// A connection as all of ours are: patient, durable, with a cache of statements.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    // In older versions of the driver it takes a shared reference.
    Connection::busy_handler(&mut connection, Some(wait_for_lock))?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // The partial indexes make SQLite build small tables while it writes; in memory each costs one page and not
    // the start of a page cache.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// The settings that make a connection durable. Changes the file (to WAL), so only after it was recognised.
pub(super) fn make_durable(connection: &Connection) -> rusqlite::Result<Result<(), String>> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    if mode.eq_ignore_ascii_case("wal") && synchronous == 2 {
        return Ok(Ok(()));
    }
    Ok(Err(format!(
        "it does not become durable: journal_mode is {mode} and synchronous is {synchronous}, where WAL and 2 \
         (FULL) are needed; is the file on a network file system?"
    )))
}

/// Reads back the settings that make a connection durable, before each commit. About a microsecond.
pub(super) fn still_durable(connection: &Connection) -> DbResult<()> {
    const NAME: &str = "synchronous";
    const FULL: i64 = 2;
    let mut pragma = connection.prepare_cached("PRAGMA synchronous").map_err(|e| failed(NAME, e))?;
    let synchronous: i64 = pragma.query_row([], |row| row.get(0)).map_err(|e| failed(NAME, e))?;
    if synchronous == FULL {
        return Ok(());
    }
    let reason = format!(
        "the connection is no longer durable: PRAGMA synchronous is {synchronous}, but 2 (FULL) is needed"
    );
    Err(DbError::lasting(NAME, reason))
}

/// Puts the contents of the log into the one file, as far as that needs no wait for other users of it.
pub(super) fn fold_the_log(connection: &Connection) {
    let _ = connection.busy_timeout(Duration::ZERO);
    // The first checkpoint holds up no writer, and leaves little to the second.
    for checkpoint in ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"] {
        let _ = connection.query_row(checkpoint, [], |_| Ok(()));
    }
}

/// SQLite calls this while another process holds the lock. Short naps, because commits are short; after about
/// five seconds the statement fails and the caller decides.
fn wait_for_lock(tries: i32) -> bool {
    const NAP: Duration = Duration::from_millis(1);
    const TRIES_MAX: i32 = 5_000;
    block_for(NAP);
    tries < TRIES_MAX
}

/// SQLite's message, with the way out and the system's reason, where there are any.
fn in_words(path: &Path, error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            format!("it is not an SQLite database, or it is encrypted ({error}); name another file")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!(
                "it is damaged ({error}); restore it from a backup, or look at it with `sqlite3 FILE .recover`"
            )
        }
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure
            | ErrorCode::PermissionDenied,
        ) => why_not(path).unwrap_or_else(|| error.to_string()),
        _ => error.to_string(),
    }
}
