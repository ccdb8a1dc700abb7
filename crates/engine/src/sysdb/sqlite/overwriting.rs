//! Whether the database was written over in place, as by `cp` with a backup: the file stays, with other contents.
//!
//! In WAL mode nothing but a checkpoint writes to the file. So a change of its time or size that no checkpoint explains
//! is looked into, with a connection that has nothing in its cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension};

use super::open::connect;
use super::schema::{Problem, check_for_damage};
use crate::pure::id::WorkflowId;
use crate::pure::sync::lock;

/// The state of the file at the last look.
#[derive(Debug)]
pub(super) struct Overwriting {
    path: PathBuf,
    /// SQLite has no POSIX locks on the log, so it may be opened beside it.
    log: Option<File>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    stamp: Option<(SystemTime, u64)>,
    /// Which round the log is in: it begins anew after a checkpoint of all of it.
    round: Option<[u8; 12]>,
    /// How much of the log is in the file.
    checkpointed: i64,
    /// A row that is there.
    started: Option<WorkflowId>,
}

impl Overwriting {
    pub(super) fn of(path: &Path, log: &Path) -> Self {
        let log = File::open(log).ok();
        let round = log.as_ref().and_then(round_of);
        // Of a log that is in the middle nothing is known yet, so the first change is looked into.
        let seen = Seen { stamp: stamp_of(path), round, checkpointed: i64::MAX, started: None };
        Self { path: path.to_owned(), log, seen: Mutex::new(seen) }
    }

    /// Remembers a workflow that was committed.
    pub(super) fn note_start(&self, workflow: &WorkflowId) {
        lock(&self.seen).started = Some(workflow.clone());
    }

    /// The reason why the file is not the old one; `None` when it is. One look at a directory and a few bytes of the
    /// log, unless something was written.
    pub(super) fn look(&self, connection: &Connection) -> rusqlite::Result<Option<String>> {
        let (stamp, round) = (stamp_of(&self.path), self.log.as_ref().and_then(round_of));
        let mut seen = lock(&self.seen);
        if stamp == seen.stamp {
            if round != seen.round {
                (seen.round, seen.checkpointed) = (round, 0);
            }
            return Ok(None);
        }
        let checkpointed = checkpoint(connection, "NOOP")?.1;
        let explained = round != seen.round || checkpointed > seen.checkpointed;
        if !explained {
            if checkpoint(connection, "PASSIVE")?.0 {
                // A checkpoint of another process is under way; the next commit looks again.
                return Ok(None);
            }
            if let Some(reason) = self.compare(connection, seen.started.as_ref())? {
                return Ok(Some(reason));
            }
        }
        (seen.stamp, seen.round) = (stamp_of(&self.path), round);
        seen.checkpointed = checkpoint(connection, "NOOP")?.1;
        Ok(None)
    }

    /// A checkpoint may have died half way. Then a new connection sees the same contents as an old one.
    fn compare(
        &self,
        connection: &Connection,
        started: Option<&WorkflowId>,
    ) -> rusqlite::Result<Option<String>> {
        let fresh = connect(&self.path)?;
        match check_for_damage(&fresh) {
            Ok(()) => {}
            Err(Problem::Refused(reason)) => return Ok(Some(reason)),
            Err(Problem::Sqlite(e)) => return Err(e),
        }
        let Some(started) = started else { return Ok(None) };
        let lost = !has(&fresh, started)? && has(connection, started)?;
        Ok(lost.then(|| format!("workflow {started}, which was committed, is no longer in it")))
    }
}

fn has(connection: &Connection, workflow: &WorkflowId) -> rusqlite::Result<bool> {
    const SQL: &str = "SELECT 1 FROM workflow_status WHERE workflow_uuid = ?1";
    Ok(connection.query_row(SQL, [workflow.as_str()], |_| Ok(())).optional()?.is_some())
}

/// Says whether another one was in the way, and how much of the log is in the file.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(bool, i64)> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(2)?)))
}

fn stamp_of(path: &Path) -> Option<(SystemTime, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

/// The count of checkpoints and the salts in the header of a log.
fn round_of(log: &File) -> Option<[u8; 12]> {
    let mut round = [0; 12];
    #[cfg(unix)]
    std::os::unix::fs::FileExt::read_exact_at(log, &mut round, 12).ok()?;
    #[cfg(not(unix))]
    let _ = log;
    Some(round)
}
