//! The directory of an example: where its files are, and how they are forgotten.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use crate::{Common, Example};

/// What a demo may have left in its directory.
const FILES: [&str; 10] = [
    "system.db",
    "system.db-wal",
    "system.db-shm",
    "users.db",
    "users.db-wal",
    "users.db-shm",
    "journal.jsonl",
    "main_profile.prof",
    "main_profile.svg",
    "main_profile.folded",
];
const LOCKS: &str = "system.db-executors";

pub(crate) struct State {
    pub(crate) dir: PathBuf,
    pub(crate) database_url: String,
}

impl State {
    pub(crate) fn open(example: &Example, common: &Common) -> anyhow::Result<Self> {
        let dir = common.dir.clone().unwrap_or_else(|| default_dir(example));
        if common.fresh {
            forget(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let own = || format!("sqlite:{}", dir.join("system.db").display());
        let database_url = common.database_url.clone().unwrap_or_else(own);
        Ok(Self { dir, database_url })
    }

    pub(crate) fn users_db(&self) -> PathBuf {
        self.dir.join("users.db")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.join("journal.jsonl")
    }
}

/// Beside the program's own build: `target/demos/exN`, wherever it is called from.
fn default_dir(example: &Example) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|path| path.join("CACHEDIR.TAG").exists());
    target.unwrap_or_else(|| Path::new("target")).join("demos").join(example.name)
}

/// Only what a demo made; a database that was named by its URL is somebody's and stays.
fn forget(dir: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    FILES.iter().try_for_each(|name| gone(fs::remove_file(dir.join(name))))?;
    gone(fs::remove_dir_all(dir.join(LOCKS)))
}

/// The time. In a workflow, take it in a step, or it is another one after a crash.
#[expect(clippy::disallowed_methods, reason = "the one place of the demos that reads the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
