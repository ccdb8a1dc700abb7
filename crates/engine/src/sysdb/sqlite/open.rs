//! Opening the file: what is there is looked at before anything is changed.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::executor_lock::ExecutorLocks;
use super::file_identity::FileIdentity;
use super::reader::Readers;
use super::schema;
use super::transaction::TransactionSteps;
use super::writer::SqliteWriter;
use crate::clock::block_for;
use crate::error::{Error, Result};
use crate::limits::SWEEP_EVERY;
use crate::outage::Outage;
use crate::sync::say;
use crate::sysdb::SystemDatabase;

/// Older ones can lose committed transactions when one connection writes while another checkpoints
/// (<https://sqlite.org/wal.html#walresetbug>).
const SQLITE_VERSION_MIN: i32 = 3_051_003;
const CACHED_STATEMENTS: usize = 128;
/// The WAL file is cut back to this size after a checkpoint, in bytes.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// Opens or creates the system database at `path`.
pub(crate) fn open(path: &Path, shared_with_application: bool) -> Result<SystemDatabase> {
    let path = resolve(path)?;
    let refuse = |reason: String| Error::Open { database: path.display().to_string(), reason };
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(refuse(format!(
            "this program is linked with SQLite {}, which can lose committed transactions; 3.51.3 is needed",
            rusqlite::version()
        )));
    }
    create_private(&path).map_err(|e| refuse(e.to_string()))?;
    if let Some(reason) = second_name(&path) {
        return Err(refuse(reason));
    }
    if is_too_short(&path) {
        return Err(refuse("it is not an SQLite database; name another file".to_owned()));
    }
    let mut writer = connect(&path).map_err(|e| refuse(in_words(&e)))?;
    schema::bring_up(&mut writer, shared_with_application).map_err(|problem| match problem {
        schema::Problem::Sqlite(e) => refuse(in_words(&e)),
        schema::Problem::Refused(reason) => refuse(reason),
    })?;
    let outage = Arc::new(Outage::of(path.display().to_string()));
    Ok(SystemDatabase {
        writer: Box::new(SqliteWriter::new(writer, FileIdentity::of(&path))),
        liveness: Arc::new(ExecutorLocks::beside(&path)),
        sqlite: Some(TransactionSteps::new(&path, FileIdentity::of(&path))),
        #[cfg(feature = "postgres")]
        postgres: None,
        fleet: Arc::default(),
        sweep_every: SWEEP_EVERY,
        reader: Arc::new(Readers::new(path, outage.clone())),
        outage,
    })
}

/// The one name of the file, so that all processes agree on what lies beside it.
fn resolve(path: &Path) -> Result<PathBuf> {
    let refuse = |reason: String| Error::Open { database: path.display().to_string(), reason };
    if path.is_dir() {
        return Err(refuse("it is a directory".to_owned()));
    }
    if path.exists() {
        return path.canonicalize().map_err(|e| refuse(e.to_string()));
    }
    let name = path.file_name().ok_or_else(|| refuse("it names no file".to_owned()))?;
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let parent = parent.canonicalize().map_err(|e| refuse(format!("directory {}: {e}", parent.display())))?;
    Ok(parent.join(name))
}

/// Creates the file readable by its owner alone; SQLite gives its companions the same rights.
///
/// A file that is there is never opened but by SQLite: to close any other handle on it would free the locks of all
/// connections of this process (<https://sqlite.org/howtocorrupt.html>, 2.2), and another process could then remove
/// the WAL under them.
fn create_private(path: &Path) -> io::Result<()> {
    /// Held until the handle on a new file is closed, so that no other thread has opened it by then.
    static CREATING: Mutex<()> = Mutex::new(());
    let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            warn_if_readable_by_others(path);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// SQLite takes a file shorter than its smallest page for an empty one and writes over it.
fn is_too_short(path: &Path) -> bool {
    const PAGE_BYTES_MIN: u64 = 512;
    fs::metadata(path).is_ok_and(|metadata| (1..PAGE_BYTES_MIN).contains(&metadata.len()))
}

/// A hard link is another name for the file, and SQLite would give it a WAL of its own.
fn second_name(path: &Path) -> Option<String> {
    #[cfg(unix)]
    {
        let names = std::os::unix::fs::MetadataExt::nlink(&fs::metadata(path).ok()?);
        let reason = "hard links, and each would have a WAL and locks of its own; keep one name of it";
        (names > 1).then(|| format!("it has {names} {reason}"))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

fn warn_if_readable_by_others(path: &Path) {
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(path)
        && std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
    {
        say!(warn, "{} can be read by others; `chmod 600` keeps its data private", path.display());
    }
}

/// A connection as all of ours are: patient, durable, with a cache of statements.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_lock))?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // The partial indexes make SQLite build small tables while it writes; in memory each costs one page and not
    // the start of a page cache.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// What makes a connection durable. Changes the file (to WAL), so only after it was recognised.
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

/// SQLite calls this while another process holds the lock. Short naps, because commits are short; after about
/// five seconds the statement fails and the caller decides.
fn wait_for_lock(tries: i32) -> bool {
    const NAP: Duration = Duration::from_millis(1);
    const TRIES_MAX: i32 = 5_000;
    block_for(NAP);
    tries < TRIES_MAX
}

/// SQLite's message, with what to do where that can be said.
fn in_words(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            format!("it is not an SQLite database, or it is encrypted ({error}); name another file")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!(
                "it is damaged ({error}); restore it from a backup, or look at it with `sqlite3 FILE .recover`"
            )
        }
        _ => error.to_string(),
    }
}
