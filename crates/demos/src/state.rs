//! The directory of an example: its files, and how they are forgotten.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use engine::{Engine, EngineOptions, PgConnector};
use store::Store;

use crate::{Common, Example};

const SYSTEM_DB: &str = "system.db";
/// The files that a demo may have left in its directory.
const FILES: [&str; 10] = [
    SYSTEM_DB,
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

pub(crate) struct State {
    pub(crate) dir: PathBuf,
    pub(crate) database: Database,
}

/// The system database.
pub(crate) enum Database {
    /// In the directory of the example: a path, which may have any name.
    Own(PathBuf),
    /// A database of the user's own, by its URL.
    Named(String),
    /// On a server, where the users have a table too.
    OnServer { url: String, connector: Box<PgConnector>, users: String },
}

impl State {
    pub(crate) fn open(example: &Example, common: &Common) -> anyhow::Result<Self> {
        let dir = common.dir.clone().unwrap_or_else(|| default_dir(example));
        let database = match common.database_url.clone() {
            None => Database::Own(dir.join(SYSTEM_DB)),
            Some(url) if url.starts_with("sqlite:") => Database::Named(url),
            // A text that is no URL is refused here, too: before any file is forgotten.
            Some(url) => Database::OnServer {
                connector: Box::new(PgConnector::new(&url)?),
                url,
                users: format!("{}_users", example.name),
            },
        };
        if common.fresh {
            forget(&dir)?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir, database })
    }

    fn users_db(&self) -> PathBuf {
        self.dir.join("users.db")
    }

    /// Opens the application database. This comes after the system database was opened, because the two may be one.
    pub(crate) fn open_store(&self, example: &Example) -> anyhow::Result<Store> {
        match &self.database {
            Database::OnServer { connector, users, .. } => {
                let connector = connector.clone();
                Ok(Store::on_postgres(users, example.key, move || connector.connect())?)
            }
            Database::Own(_) | Database::Named(_) => Ok(Store::open(&self.users_db(), example.key)?),
        }
    }

    /// The place of the users, for people.
    pub(crate) fn users_place(&self) -> String {
        match &self.database {
            Database::OnServer { users, .. } => format!("table {users}"),
            Database::Own(_) | Database::Named(_) => self.users_db().display().to_string(),
        }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.join("journal.jsonl")
    }
}

impl Database {
    pub(crate) fn open(&self, options: EngineOptions) -> engine::Result<Engine> {
        match self {
            Self::Own(path) => options.open_file(path),
            Self::Named(url) | Self::OnServer { url, .. } => options.open(url),
        }
    }

    /// The activity of this executor, in words, if its process lives. A lease does not tell: it outlives its process.
    pub(crate) fn served_by(&self, executor: &str) -> Option<&'static str> {
        let path = match self {
            Self::Own(path) => path,
            Self::Named(url) => {
                let path = url.strip_prefix("sqlite:").unwrap_or(url);
                Path::new(path.strip_prefix("///").unwrap_or(path))
            }
            Self::OnServer { connector, .. } => {
                return has_lease(connector, executor).then_some(
                    "is running in another process, or that process died just now; waiting until the workflow or the lease ends",
                );
            }
        };
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // Other programs may write any text into this column.
        let is_name = !executor.contains(std::path::is_separator);
        let lives = is_name && is_held(&locks_of(&path).join(format!("{executor}.lock")));
        lives.then_some("is running in another process; waiting for it")
    }
}

/// In doubt no executor lives: then the run is adopted, and the text is true in either case.
fn has_lease(connector: &PgConnector, executor: &str) -> bool {
    const LIVES: &str =
        "SELECT 1 FROM dbos.piton_executors WHERE executor_id = $1 AND lease_until >= clock_timestamp()";
    let found = connector.connect().map(|mut client| client.query(LIVES, &[&executor]));
    matches!(found, Ok(Ok(rows)) if !rows.is_empty())
}

/// The directory beside the program's own build: `target/demos/exN`, from every working directory.
fn default_dir(example: &Example) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|path| path.join("CACHEDIR.TAG").exists());
    target.unwrap_or_else(|| Path::new("target")).join("demos").join(example.name)
}

/// Forgets the files that a demo made. A database that was named by its URL belongs to the user and stays.
fn forget(dir: &Path) -> anyhow::Result<()> {
    let locks = locks_of(&dir.join(SYSTEM_DB));
    // Without the directory no executor lives there.
    for lock in fs::read_dir(&locks).into_iter().flatten().flatten() {
        let lock = lock.path();
        ensure!(
            lock.extension().is_none_or(|extension| extension != "lock") || !is_held(&lock),
            "another process works in {}, and --fresh would delete its files. Wait until that process ends, or name \
             another directory with --dir",
            dir.display()
        );
    }
    let gone = |path: &Path, result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("--fresh cannot remove {}", path.display()))
        }
        _ => Ok(()),
    };
    for path in FILES.map(|name| dir.join(name)) {
        gone(&path, fs::remove_file(&path))?;
    }
    gone(&locks, fs::remove_dir_all(&locks))
}

/// The directory where each living executor of a database holds a lock.
fn locks_of(database: &Path) -> PathBuf {
    let mut locks = database.as_os_str().to_owned();
    locks.push("-executors");
    locks.into()
}

fn is_held(lock: &Path) -> bool {
    match File::open(lock) {
        Ok(file) => file.try_lock_shared().is_err(),
        // In doubt an executor lives.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The time. In a workflow, take it in a step, or it differs after a crash.
#[expect(clippy::disallowed_methods, reason = "the one place of the demos that reads the clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
