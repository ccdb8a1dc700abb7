//! Whether the files that were opened are still the ones at their paths, and whether they are sound.
//!
//! SQLite goes on writing to a file that was deleted or replaced, and commits that it acknowledges then are lost. A
//! commit lives in the `-wal` until a checkpoint, and other processes find it there by the `-shm`. So these two count
//! as much as the database itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rusqlite::{Connection, ErrorCode};

use super::overwriting::Overwriting;
use super::path::beside;
use super::statement::failed;
use crate::pure::id::WorkflowId;
use crate::pure::sync::say;
use crate::sysdb::{DbError, DbResult};

/// The files of a database, as they were when it was opened.
#[derive(Debug)]
pub(super) struct FileIdentity {
    files: Vec<(PathBuf, Number)>,
    damage: OnceLock<String>,
    overwriting: Overwriting,
}

/// Device and inode; on other systems nothing is compared.
type Number = Option<(u64, u64)>;

impl FileIdentity {
    /// Of a database in WAL mode that is open: its `-wal` and `-shm` are there.
    pub(super) fn of(path: &Path) -> Self {
        let numbered = |suffix| {
            let path = beside(path, suffix);
            let number = number_of(&path).ok().flatten();
            (path, number)
        };
        let overwriting = Overwriting::of(path, &beside(path, "-wal"));
        Self { files: ["", "-wal", "-shm"].map(numbered).into(), damage: OnceLock::new(), overwriting }
    }

    /// Refuses for good when another file is at one of the paths, or none, and when damage was seen. Three looks at a
    /// directory.
    pub(super) fn check(&self) -> DbResult<()> {
        if let Some(damage) = self.damage.get() {
            return Err(refused(damage.clone(), false));
        }
        for (path, number) in self.files.iter().filter(|(_, number)| number.is_some()) {
            match number_of(path) {
                Ok(found) if found == *number => {}
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(refused(format!("{} cannot be looked at: {e}", path.display()), true));
                }
                _ => {
                    let reason = "was deleted or replaced while it was open; nothing more is written. Stop all \
                                  programs that use the database, restore its files and start the programs again";
                    return Err(refused(format!("{} {reason}", path.display()), false));
                }
            }
        }
        Ok(())
    }

    /// Checks the files before a commit on this connection. Refuses also when the file was written over.
    pub(super) fn check_content(&self, connection: &Connection) -> DbResult<()> {
        self.check()?;
        let looked = self.overwriting.look(connection).map_err(|e| failed("check_file", e));
        match self.note_damage(looked)? {
            None => Ok(()),
            Some(reason) => Err(self.is_damaged(&format!("another program wrote over the file: {reason}"))),
        }
    }

    /// Remembers a workflow that was committed: as long as its row is there, the file is the same.
    pub(super) fn note_start(&self, workflow: &WorkflowId) {
        self.overwriting.note_start(workflow);
    }

    /// Remembers damage that a connection has met: nothing is written after it.
    pub(super) fn note_damage<T>(&self, result: DbResult<T>) -> DbResult<T> {
        match result {
            Err(error) if is_damage(&error) => Err(self.is_damaged(&error.to_string())),
            other => other,
        }
    }

    fn is_damaged(&self, error: &str) -> DbError {
        let mut is_new = false;
        let damage = self.damage.get_or_init(|| {
            is_new = true;
            let database = self.files.first().map(|(path, _)| path.display().to_string()).unwrap_or_default();
            format!(
                "{database} is damaged ({error}); nothing more is written to it. Stop all programs that use it. Then restore \
                 a backup, or salvage the file with `sqlite3 FILE .recover`"
            )
        });
        if is_new {
            say!(error, "{damage}");
        }
        refused(damage.clone(), false)
    }
}

fn is_damage(error: &DbError) -> bool {
    let error = error.source.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    matches!(error, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn refused(reason: String, may_pass: bool) -> DbError {
    DbError { may_pass, ..DbError::lasting("check_file", reason) }
}

fn number_of(path: &Path) -> io::Result<Number> {
    let metadata = std::fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(Some((metadata.dev(), metadata.ino())))
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Ok(None)
    }
}
