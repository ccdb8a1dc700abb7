//! Opening the file. Each error has its reason and the way out.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Error, Result};

/// How long a write waits for a writer in another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an opening is tried again while other processes open the file as well.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

const NOT_A_DATABASE: &str = "it is not an SQLite database, or it is encrypted; name another file";

/// Opens the file. While several processes open it, SQLite may answer that it is locked without asking the busy
/// handler. Two processes that both want WAL mode could wait for each other for ever. Each of them steps back and tries
/// again.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    const NAP: Duration = Duration::from_millis(2);
    if let Some(reason) = unusable(path) {
        return Err(opening(path, reason));
    }
    create_private(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => opening(path, "its directory is not there; create it first"),
        _ => opening(path, error.to_string()),
    })?;
    if is_too_short(path) {
        return Err(opening(path, NOT_A_DATABASE));
    }
    // SQLite takes a path that begins with `file:` for a URL, but never an absolute path.
    let absolute = std::path::absolute(path).map_err(|error| opening(path, error.to_string()))?;
    let begin = Instant::now();
    loop {
        match connect(&absolute) {
            Err(error) if is_busy(&error) && begin.elapsed() < OPEN_WITHIN => block_for(NAP),
            done => return done.map_err(|error| opening(path, in_words(&error))),
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Leaves WAL mode and enters it again. SQLite then removes the log, and makes another one when the file is used again.
pub(crate) fn leave_one_file(connection: &Connection) {
    let _ = connection.busy_timeout(Duration::ZERO);
    for mode in ["DELETE", "WAL"] {
        let _ = connection.pragma_update(None, "journal_mode", mode);
    }
    let _ = connection.busy_timeout(BUSY_TIMEOUT);
}

/// Creates the file readable by its owner alone. SQLite gives its companions the same rights.
///
/// Only SQLite opens a file that exists: closing any other handle on it frees the locks of all connections of this
/// process (<https://sqlite.org/howtocorrupt.html>, 2.2).
fn create_private(path: &Path) -> io::Result<()> {
    /// Held until the handle on a new file is closed, so that no other thread has opened it by then.
    static CREATING: Mutex<()> = Mutex::new(());
    let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The reason why SQLite cannot use the file, where SQLite itself would not give one.
fn unusable(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Some("it is a directory; name a file".to_owned()),
        Ok(found) if !found.is_file() => {
            return Some("it is a pipe, a socket or a device; name a file".to_owned());
        }
        Ok(_) => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Some(error.to_string()),
        Err(_) => {
            if let Ok(target) = fs::read_link(path) {
                let target = target.display();
                return Some(format!(
                    "it is a symbolic link to {target}, which does not exist; name the target itself"
                ));
            }
        }
    }
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let error = fs::symlink_metadata(log).err()?;
    let why = "the name of its log file, which ends with `-wal`, is not possible";
    (error.kind() != io::ErrorKind::NotFound).then(|| format!("{why}: {error}"))
}

/// SQLite takes a file shorter than its smallest page for an empty one and writes over it.
fn is_too_short(path: &Path) -> bool {
    const PAGE_BYTES_MIN: u64 = 512;
    fs::metadata(path).is_ok_and(|metadata| (1..PAGE_BYTES_MIN).contains(&metadata.len()))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// SQLite's message, with the way out where there is one.
fn in_words(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => NOT_A_DATABASE.to_owned(),
        Some(ErrorCode::DatabaseCorrupt) => {
            format!(
                "it is damaged ({error}); restore it from a backup, or look at it with `sqlite3 FILE .recover`"
            )
        }
        // SQLite's own text repeats the path.
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            "SQLite cannot open it for writing; check the permissions of the file and its directory"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place of this crate that sleeps")]
fn block_for(duration: Duration) {
    std::thread::sleep(duration);
}

fn opening(path: &Path, reason: impl Into<String>) -> Error {
    Error::Open { path: path.to_owned(), reason: reason.into() }
}
