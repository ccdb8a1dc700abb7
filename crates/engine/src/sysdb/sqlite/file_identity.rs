//! Whether the file that was opened is still the one at its path.
//!
//! SQLite goes on writing to a file that was deleted or replaced, and what it acknowledges then is gone.

use std::path::{Path, PathBuf};

use crate::sysdb::{DbError, DbResult};

/// A file, as it was when it was opened.
#[derive(Debug, Clone)]
pub(super) struct FileIdentity {
    path: PathBuf,
    number: Option<(u64, u64)>,
}

impl FileIdentity {
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), number: number_of(path) }
    }

    /// Refuses for good when another file is at the path, or none. One look at a directory.
    pub(super) fn check(&self) -> DbResult<()> {
        if self.number.is_none() || number_of(&self.path) == self.number {
            return Ok(());
        }
        let reason = format!(
            "{} was deleted or replaced while it was open; nothing more is written, restart the program",
            self.path.display()
        );
        Err(DbError {
            statement: "check_file",
            may_pass: false,
            source: Box::<dyn std::error::Error + Send + Sync>::from(reason).into(),
        })
    }
}

/// Device and inode; on other systems nothing is compared.
fn number_of(path: &Path) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
