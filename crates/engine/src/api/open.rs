//! How an engine is opened: by a URL, or by the path of a file.

use std::path::Path;

use crate::api::engine::Engine;
use crate::flow::options::EngineOptions;
#[cfg(not(feature = "sqlite"))]
use crate::pure::error::Error;
use crate::pure::error::Result;
use crate::sysdb::{SystemDatabase, Url};

impl EngineOptions {
    /// Opens the system database. Creates the database and its tables where they are missing.
    ///
    /// | URL | names |
    /// |---|---|
    /// | `sqlite:PATH` | a file |
    /// | `sqlite:///RELATIVE`, `sqlite:////ABSOLUTE` | a file, in the form of `SQLAlchemy`, which the DBOS SDKs use |
    /// | `postgresql://USER@HOST/DATABASE` | a PostgreSQL database (feature `postgres`) |
    ///
    /// # Errors
    /// - [`Error::InvalidUrl`](crate::Error::InvalidUrl), [`Error::InvalidOption`](crate::Error::InvalidOption).
    /// - [`Error::Open`](crate::Error::Open) when the database belongs to another program, is damaged, or cannot be
    ///   made durable. Such a database is not changed.
    pub fn open(self, url: &str) -> Result<Engine> {
        match Url::parse(url)? {
            Url::Sqlite(path) => self.open_file(path),
            #[cfg(feature = "postgres")]
            Url::Postgres(url) => {
                self.check()?;
                let database = crate::sysdb::postgres::open(&url, &self.postgres_settings())?;
                Engine::assemble(self, database)
            }
        }
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn postgres_settings(&self) -> crate::sysdb::postgres::Settings {
        crate::sysdb::postgres::Settings {
            schema: self.schema.clone(),
            migrate: self.migrate,
            listen: self.listen,
            takeover_within: self.takeover_within,
            answers_within: self.answers_within,
        }
    }

    /// Opens an SQLite file by its path, which may have any characters. As [`EngineOptions::open`].
    ///
    /// # Errors
    /// As [`EngineOptions::open`].
    pub fn open_file(self, path: impl AsRef<Path>) -> Result<Engine> {
        self.check()?;
        let database = self.open_sqlite(path.as_ref())?;
        Engine::assemble(self, database)
    }

    #[cfg(feature = "sqlite")]
    fn open_sqlite(&self, path: &Path) -> Result<SystemDatabase> {
        crate::sysdb::sqlite::open(path, self.shared_with_application)
    }

    #[cfg(not(feature = "sqlite"))]
    fn open_sqlite(&self, path: &Path) -> Result<SystemDatabase> {
        let _ = self.shared_with_application;
        let reason = "this program was built without the feature `sqlite`".to_owned();
        Err(Error::Open { database: path.display().to_string(), reason })
    }
}
