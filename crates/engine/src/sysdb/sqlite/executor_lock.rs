//! Who lives, told by the kernel: each executor holds the lock of a file of its own.
//!
//! The files lie beside the database in `NAME-executors/`. The kernel frees the lock when the process dies, for any
//! reason, and keeps it while the process is merely stopped. No clock is involved, so a living executor is never taken
//! for dead. The lock is per kernel: all processes must run on one machine.
//!
//! The files have the owner and the rights of the database, as SQLite's own files beside it: so every user of the
//! database can tell whether an executor lives.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::path::{EXECUTORS, beside, owned};
use crate::pure::clock::Stopwatch;
use crate::pure::error::{Error, Result};
use crate::pure::id::ExecutorId;
use crate::pure::sync::{lock, say};
use crate::sysdb::{Liveness, Membership};

const SUFFIX: &str = ".lock";

/// The lock files of one database.
pub(super) struct ExecutorLocks {
    database: PathBuf,
    directory: PathBuf,
    held: Mutex<HashMap<ExecutorId, Held>>,
    /// Files that could not be looked at, and were named in the log.
    doubted: Mutex<HashSet<PathBuf>>,
}

/// The lock of an executor of this process.
struct Held {
    file: File,
    card: Card,
}

/// The contents of a lock file, for the other processes and for people.
#[derive(Serialize, Deserialize)]
struct Card {
    pid: u32,
    about: Membership,
}

impl ExecutorLocks {
    pub(super) fn beside(database: &Path) -> Self {
        let directory = beside(database, EXECUTORS);
        Self { database: database.to_owned(), directory, held: Mutex::default(), doubted: Mutex::default() }
    }

    /// Refuses a directory that other programs would not find.
    pub(super) fn refuse_another_directory(&self) -> Result<(), String> {
        let directory = self.directory.display();
        let found = match fs::symlink_metadata(&self.directory) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(format!("directory {directory}: {e}")),
        };
        if !found.is_dir() {
            let kind = if found.is_symlink() { "is a symbolic link" } else { "is no directory" };
            return Err(format!(
                "executors keep their lock files in {directory}, which {kind}; remove it, and the engine makes the \
                 directory"
            ));
        }
        Ok(())
    }

    /// Warns of a directory that others can write to.
    pub(super) fn warn_of_the_directory(&self) {
        let (Ok(found), Ok(model)) = (fs::metadata(&self.directory), fs::metadata(&self.database)) else {
            return;
        };
        if is_open_to_more(&found, &model) {
            let directory = self.directory.display();
            say!(
                warn,
                "directory {directory} {}, but the database {}; others can remove its lock files. A living executor \
                 would then count as dead. Give the directory the owner of the database, and `chmod 700` it",
                owned(&found),
                owned(&model)
            );
        }
    }

    fn path(&self, executor: &ExecutorId) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", executor.as_str()))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutorId, Held>> {
        lock(&self.held)
    }

    /// Puts a lock file in its place that is locked from the first moment in which others can see it. An unlocked file
    /// would be taken for a dead executor's.
    fn put_in_place(&self, executor: &ExecutorId, card: &Card) -> io::Result<File> {
        self.make_directory()?;
        let unseen = self.directory.join(format!("{}.new", executor.as_str()));
        let mut file = private().write(true).create(true).truncate(true).open(&unseen)?;
        file.try_lock()?;
        self.give_the_rights_of_the_database(&file, 0);
        file.write_all(serde_json::to_string(card).map_err(io::Error::other)?.as_bytes())?;
        fs::rename(&unseen, self.path(executor))?;
        Ok(file)
    }

    fn make_directory(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(&self.directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            Err(_) => Ok(()),
            Ok(()) => {
                self.give_the_rights_of_the_database(&File::open(&self.directory)?, 0o111);
                Ok(())
            }
        }
    }

    /// As far as the system lets this process: only the superuser gives a file to another user. Who may read gets the
    /// rights in `to_readers` too.
    fn give_the_rights_of_the_database(&self, file: &File, to_readers: u32) {
        #[cfg(unix)]
        if let Ok(model) = fs::metadata(&self.database) {
            use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
            let (user, group) = (model.uid(), model.gid());
            if file.metadata().is_ok_and(|own| (own.uid(), own.gid()) != (user, group)) {
                let _ = fchown(file, Some(user), Some(group)).or_else(|_| fchown(file, None, Some(group)));
            }
            let mode = model.mode() & 0o666;
            let readers = (mode & 0o444) >> 2;
            let _ = file.set_permissions(fs::Permissions::from_mode(mode | (to_readers & readers)));
        }
        #[cfg(not(unix))]
        let _ = (file, to_readers);
    }

    /// All executors with a file here.
    fn known(&self) -> io::Result<Vec<ExecutorId>> {
        let mut known = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // To open a pipe would wait for its other end.
            if !entry.file_type()?.is_file() {
                continue;
            }
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            known.extend(id.filter(|id| id.starts_with(ExecutorId::PREFIX)).map(ExecutorId::stored));
        }
        Ok(known)
    }

    fn is_alive(&self, executor: &ExecutorId) -> bool {
        if self.holds(executor) {
            return true;
        }
        let path = self.path(executor);
        let locked = File::open(&path).and_then(|file| match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(e)) => Err(e),
        });
        locked.unwrap_or_else(|e| e.kind() != io::ErrorKind::NotFound && self.doubt(&path, &e))
    }

    /// In doubt no executor is declared dead; the log says so once.
    fn doubt(&self, path: &Path, reason: &io::Error) -> bool {
        if lock(&self.doubted).insert(path.to_owned()) {
            let found = fs::symlink_metadata(path).map(|found| format!(", which {},", owned(&found)));
            let way_out = match reason.kind() {
                io::ErrorKind::PermissionDenied => {
                    ". If those processes have ended, `chown` it to the owner of the database, or remove it"
                }
                _ => "",
            };
            say!(
                warn,
                "{}{} cannot be read ({reason}), so it is not known whether its executors live. Their workflows \
                 wait{way_out}",
                path.display(),
                found.unwrap_or_default()
            );
        }
        true
    }

    fn holds(&self, executor: &ExecutorId) -> bool {
        self.held().contains_key(executor)
    }
}

impl Liveness for ExecutorLocks {
    fn join(&self, label: Option<&str>, about: &Membership) -> Result<ExecutorId> {
        let refuse = |e: io::Error| Error::Open {
            database: self.directory.display().to_string(),
            reason: match fs::symlink_metadata(&self.directory) {
                Ok(found) => format!(
                    "the engine cannot make its lock file in this directory: {e}. The directory {}. Give it to the owner of \
                     the database with `chown -R`",
                    owned(&found)
                ),
                Err(_) => format!("the engine cannot make its lock file in this directory: {e}"),
            },
        };
        let card = Card { pid: std::process::id(), about: about.clone() };
        let executor = ExecutorId::generate(label);
        let file = self.put_in_place(&executor, &card).map_err(refuse)?;
        self.held().insert(executor.clone(), Held { file, card });
        Ok(executor)
    }

    /// The kernel keeps the lock as long as the process is there.
    fn covers(&self, _executor: &ExecutorId, _since: Stopwatch) -> bool {
        true
    }

    fn uphold(&self, executor: &ExecutorId) -> io::Result<()> {
        let path = self.path(executor);
        let mut held = self.held();
        let Some(held) = held.get_mut(executor).filter(|held| !is_still_at(&held.file, &path)) else {
            return Ok(());
        };
        held.file = self.put_in_place(executor, &held.card)?;
        Ok(())
    }

    fn leave(&self, executor: &ExecutorId, without_trace: bool) {
        let file = self.held().remove(executor);
        if file.is_some() && without_trace {
            // Removed while locked: no process can take it for the file of a dead executor.
            let _ = fs::remove_file(self.path(executor));
        }
        drop(file);
    }

    fn dead(&self) -> Vec<ExecutorId> {
        // Executors that cannot be seen now are seen by the next sweep.
        let known = self.known().unwrap_or_else(|e| {
            let _ = e.kind() != io::ErrorKind::NotFound && self.doubt(&self.directory, &e);
            Vec::new()
        });
        known.into_iter().filter(|executor| !self.is_alive(executor)).collect()
    }

    fn without_trace(&self, mut executors: Vec<ExecutorId>) -> Vec<ExecutorId> {
        executors.retain(|executor| {
            let found = fs::metadata(self.path(executor));
            !self.holds(executor) && found.is_err_and(|e| cannot_be_there(&e))
        });
        executors
    }

    /// Nothing tells of a lock that is free but a look at it.
    fn calls_for_a_sweep(&self) -> bool {
        true
    }

    fn forget(&self, executor: &ExecutorId) {
        let path = self.path(executor);
        let Ok(file) = File::open(&path) else { return };
        // Held while it is removed, so that the file of a process that just starts is left alone.
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(&path);
        }
    }

    fn members(&self) -> io::Result<Vec<Membership>> {
        let known = self.known()?.into_iter();
        let living = known.filter(|executor| self.is_alive(executor));
        let member = |executor: ExecutorId| {
            let text = match fs::read_to_string(self.path(&executor)) {
                // It has left in this moment.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                text => text?,
            };
            Ok(Some(serde_json::from_str::<Card>(&text)?.about))
        };
        living.filter_map(|executor| member(executor).transpose()).collect()
    }
}

/// No file of that name, or a name that no file has: a row may hold any.
fn cannot_be_there(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | InvalidFilename | InvalidInput | NotADirectory)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Whether users can write to the directory who cannot write to the database, or it belongs to another one.
fn is_open_to_more(directory: &fs::Metadata, database: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let more = directory.mode() & !database.mode() & 0o022 != 0;
        let by_the_same = directory.uid() == database.uid() || directory.uid() == 0;
        let within_a_group = directory.gid() == database.gid() && database.mode() & 0o020 != 0;
        more || !(by_the_same || within_a_group)
    }
    #[cfg(not(unix))]
    {
        let _ = (directory, database);
        false
    }
}

/// The file may have been removed, or replaced.
fn is_still_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let ours = file.metadata().map(|m| (m.dev(), m.ino()));
        let there = fs::metadata(path).map(|m| (m.dev(), m.ino()));
        matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(workflow: &str) -> Membership {
        let workflows = vec![workflow.into()];
        Membership { app: "a".into(), version: "1".into(), workflows, queues: Vec::new() }
    }

    /// Two processes on one database; flock does not care that it is one here.
    fn two() -> (tempfile::TempDir, ExecutorLocks, ExecutorLocks) {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("x.db");
        (dir, ExecutorLocks::beside(&database), ExecutorLocks::beside(&database))
    }

    #[test]
    fn an_executor_lives_until_its_lock_is_gone() {
        let (_dir, first, second) = two();
        let executor = first.join(Some("web"), &about("w")).unwrap();
        assert!(executor.as_str().starts_with("piton-web-"));
        assert!(second.is_alive(&executor) && first.is_alive(&executor));
        assert_eq!(second.dead(), []);

        drop(first); // as when the process dies: the lock goes, the file stays
        assert!(!second.is_alive(&executor));
        assert_eq!(second.dead(), std::slice::from_ref(&executor));
        second.forget(&executor);
        assert_eq!(second.dead(), []);
    }

    #[test]
    fn one_that_leaves_is_not_dead_but_gone() {
        let (_dir, first, second) = two();
        let executor = first.join(None, &about("w")).unwrap();
        first.leave(&executor, true);
        assert_eq!(second.dead(), []);
        assert!(!second.is_alive(&executor));
    }

    #[test]
    fn one_that_leaves_work_behind_is_one_of_the_dead() {
        let (_dir, first, second) = two();
        let executor = first.join(None, &about("w")).unwrap();
        first.leave(&executor, false);
        assert_eq!(second.dead(), [executor]);
    }

    #[test]
    fn one_without_a_trace_is_told_from_the_dead_and_forgetting_the_living_does_nothing() {
        let (_dir, first, second) = two();
        let gone = ExecutorId::stored("piton-from-a-backup");
        assert!(first.without_trace(vec![gone.clone()]) == [gone.clone()] && !first.is_alive(&gone));
        for never in ["piton-\0", "piton-a/../b", &format!("piton-{}", "x".repeat(10_000))] {
            let never = ExecutorId::stored(never);
            assert_eq!(first.without_trace(vec![never.clone()]), [never], "no file can have this name");
        }
        let executor = first.join(None, &about("w")).unwrap();
        second.forget(&executor);
        assert!(second.is_alive(&executor));
    }

    #[test]
    fn the_living_tell_what_they_can_run() {
        let (_dir, first, second) = two();
        let _one = first.join(None, &about("one")).unwrap();
        let _two = second.join(None, &about("two")).unwrap();
        let mut names: Vec<String> =
            second.members().unwrap().into_iter().flat_map(|m| m.workflows).collect();
        names.sort();
        assert_eq!(names, ["one", "two"]);
    }

    #[cfg(unix)]
    #[test]
    fn one_whose_file_was_removed_puts_it_back() {
        let (_dir, first, second) = two();
        let executor = first.join(None, &about("w")).unwrap();
        fs::remove_dir_all(&first.directory).unwrap();
        assert!(!second.is_alive(&executor));
        first.uphold(&executor).unwrap();
        assert!(second.is_alive(&executor));
        assert_eq!(second.members().unwrap().len(), 1);
        fs::remove_file(first.path(&executor)).unwrap();
        fs::write(first.path(&executor), "from a backup").unwrap();
        first.uphold(&executor).unwrap();
        assert!(second.is_alive(&executor));
        assert_eq!(second.known().unwrap().len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, first, _second) = two();
        let executor = first.join(None, &about("w")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&first.directory), 0o700);
        assert_eq!(mode(&first.path(&executor)), 0o600);
    }
}
