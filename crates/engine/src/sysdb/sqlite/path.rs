//! The path of a database: the checks before SQLite opens it, and the reasons why SQLite cannot.
//!
//! A file that is there is never opened here, only looked at. To close any other handle on it would free the locks of
//! all connections of this process (<https://sqlite.org/howtocorrupt.html>, 2.2), and another process could then remove
//! the WAL under them.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::pure::sync::say;

/// The files beside a database while it is used.
pub(super) const EXECUTORS: &str = "-executors";
const BESIDE: [&str; 3] = ["-wal", "-shm", EXECUTORS];

/// The longest path that SQLite takes, in bytes: 512, less the endings of the names beside it.
const PATH_BYTES_MAX: usize = 504;

/// The path with something at the end of its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The one name of the file, so that all processes agree on the files beside it.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, String> {
    let resolved = match fs::metadata(path) {
        Ok(found) => {
            refuse_other_kinds(&found)?;
            path.canonicalize().map_err(|e| e.to_string())?
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => place_of_a_new_file(path)?,
        Err(e) => return Err(e.to_string()),
    };
    let bytes = resolved.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(format!(
            "its path has {bytes} bytes, and SQLite takes {PATH_BYTES_MAX} at most; choose a shorter path"
        ));
    }
    for suffix in BESIDE {
        if let Err(e) = fs::symlink_metadata(beside(&resolved, suffix))
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(format!("a name beside it, which ends with `{suffix}`, is not possible: {e}"));
        }
    }
    Ok(resolved)
}

fn refuse_other_kinds(found: &Metadata) -> Result<(), String> {
    let kind = found.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err("it is a directory; name a file".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kinds = [
            (kind.is_fifo(), "a pipe"),
            (kind.is_socket(), "a socket"),
            (kind.is_char_device() || kind.is_block_device(), "a device"),
        ];
        if let Some((_, name)) = kinds.into_iter().find(|(is, _)| *is) {
            return Err(format!("it is {name}; name a file"));
        }
    }
    Err("it is not a regular file; name a file".to_owned())
}

fn place_of_a_new_file(path: &Path) -> Result<PathBuf, String> {
    if let Ok(target) = fs::read_link(path) {
        return Err(format!(
            "it is a symbolic link to {}, which does not exist; create the directory of the target and name the target itself",
            target.display()
        ));
    }
    let name = path.file_name().ok_or_else(|| "it names no file".to_owned())?;
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let parent = parent.canonicalize().map_err(|e| format!("directory {}: {e}", parent.display()))?;
    Ok(parent.join(name))
}

/// Creates the file readable by its owner alone; SQLite gives its companions the same rights. Refuses a file that is
/// there and cannot be used, and a file that cannot be made.
pub(super) fn create_private(path: &Path) -> Result<(), String> {
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
            let found = fs::metadata(path).map_err(|e| e.to_string())?;
            refuse_unusable(&found)?;
            warn_if_readable_by_others(path, &found);
            Ok(())
        }
        Err(e) => Err(format!("directory {}: {e}", directory_of(path).display())),
    }
}

fn refuse_unusable(found: &Metadata) -> Result<(), String> {
    /// SQLite takes a shorter file for an empty one and writes over it.
    const PAGE_BYTES_MIN: u64 = 512;
    if (1..PAGE_BYTES_MIN).contains(&found.len()) {
        return Err("it is not an SQLite database; name another file".to_owned());
    }
    #[cfg(unix)]
    {
        let names = std::os::unix::fs::MetadataExt::nlink(found);
        if names > 1 {
            return Err(format!(
                "it has {names} hard links, and each would have a WAL and locks of its own; keep one name of it"
            ));
        }
    }
    Ok(())
}

fn warn_if_readable_by_others(path: &Path, found: &Metadata) {
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o077 != 0 {
        say!(warn, "{} can be read by others; `chmod 600` keeps its data private", path.display());
    }
    #[cfg(not(unix))]
    let _ = (path, found);
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Why the system does not let SQLite use the file, where that can be found out. Makes a file in its directory, and
/// removes it again.
pub(super) fn why_not(path: &Path) -> Option<String> {
    let directory = directory_of(path);
    let probe = directory.join(format!(".piton-{}", uuid::Uuid::now_v7()));
    let made = OpenOptions::new().write(true).create_new(true).open(&probe).and_then(|file| file.metadata());
    let _ = fs::remove_file(&probe);
    let ours = match made {
        Ok(ours) => ours,
        Err(e) => {
            let directory = directory.display();
            return Some(format!("SQLite keeps files beside it, and directory {directory} takes none: {e}"));
        }
    };
    ["", "-wal", "-shm"].into_iter().find_map(|suffix| {
        let path = beside(path, suffix);
        match fs::metadata(&path) {
            Ok(found) if is_closed_to(&ours, &found) => Some(format!(
                "this process may not read and write {}, which {}; run it as that user, or change the permissions",
                path.display(),
                owned(&found)
            )),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Some(format!("{}: {e}", path.display())),
            _ => None,
        }
    })
}

/// Whether the user of a file of `ours` may not read and write the file that was found. Of several groups of the user
/// only the first is known.
#[cfg(unix)]
fn is_closed_to(ours: &Metadata, found: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let shift = match (ours.uid(), ours.gid()) {
        (0, _) => return false,
        (uid, _) if uid == found.uid() => 6,
        (_, gid) if gid == found.gid() => 3,
        _ => 0,
    };
    (found.mode() >> shift) & 0o6 != 0o6
}

#[cfg(not(unix))]
fn is_closed_to(_ours: &Metadata, found: &Metadata) -> bool {
    found.permissions().readonly()
}

/// Whose a file is, in words.
pub(super) fn owned(found: &Metadata) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        format!(
            "belongs to user {} and group {} (mode {:o})",
            found.uid(),
            found.gid(),
            found.mode() & 0o7777
        )
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        "belongs to somebody else".to_owned()
    }
}
