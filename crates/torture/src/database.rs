//! The database under torture: a file in the directory of the torture, or one on a PostgreSQL server.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use engine::postgres::{Client, NoTls, SimpleQueryMessage};
use engine::rusqlite::Connection;
use engine::rusqlite::types::ValueRef;
use engine::{Engine, EngineOptions};

/// The database, as the judge and the audit reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A file, by its path.
    Sqlite(std::path::PathBuf),
    /// A database on a server, by its URL.
    Postgres(String),
}

/// A row as texts.
pub type Row = Vec<Option<String>>;

impl Database {
    /// The file in this directory.
    pub fn in_directory(dir: &Path) -> Self {
        Self::Sqlite(dir.join("torture.db"))
    }

    /// The database that a worker's `--database-url` names; without it the file in this directory.
    pub fn named(dir: &Path, url: Option<&str>) -> Self {
        url.map_or_else(|| Self::in_directory(dir), |url| Self::Postgres(url.to_owned()))
    }

    /// Arguments that make a worker use this database.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Sqlite(_) => Vec::new(),
            Self::Postgres(url) => vec!["--database-url".to_owned(), url.clone()],
        }
    }

    /// Opens an engine on this database.
    ///
    /// # Errors
    /// The error of the engine.
    pub fn open(&self, options: EngineOptions) -> engine::Result<Engine> {
        match self {
            Self::Sqlite(path) => options.open_file(path),
            Self::Postgres(url) => options.open(url),
        }
    }

    /// Runs statements.
    ///
    /// # Errors
    /// The error of the database.
    pub fn run(&self, sql: &str) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(path) => Ok(sqlite(path)?.execute_batch(sql)?),
            Self::Postgres(url) => Ok(postgres(url)?.batch_execute(sql)?),
        }
    }

    /// The rows of one query. Names of the engine's tables need no schema before them.
    ///
    /// # Errors
    /// The error of the database.
    pub fn rows(&self, sql: &str) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Sqlite(path) => {
                let connection = sqlite(path)?;
                let mut statement = connection.prepare(sql)?;
                let columns = statement.column_count();
                let rows = statement.query_map([], |row| {
                    (0..columns).map(|column| row.get_ref(column).map(text)).collect::<Result<Row, _>>()
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            }
            Self::Postgres(url) => {
                let rows = postgres(url)?.simple_query(sql)?;
                let row = |message| match message {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect())
                    }
                    _ => None,
                };
                Ok(rows.into_iter().filter_map(row).collect())
            }
        }
    }

    /// The first column of the first row.
    ///
    /// # Errors
    /// The error of the database, or that there is no row.
    pub fn value(&self, sql: &str) -> anyhow::Result<String> {
        let row = self.rows(sql)?.into_iter().next().context("no row")?;
        row.into_iter().next().flatten().context("nothing in the row")
    }

    /// The first column of the first row, as a count.
    ///
    /// # Errors
    /// As [`Database::value`].
    pub fn number(&self, sql: &str) -> anyhow::Result<u64> {
        Ok(self.value(sql)?.parse()?)
    }
}

fn sqlite(path: &Path) -> engine::rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    Ok(connection)
}

fn postgres(url: &str) -> anyhow::Result<Client> {
    let mut client = Client::connect(url, NoTls)?;
    client.batch_execute("SET search_path = public, dbos")?;
    Ok(client)
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    }
}
