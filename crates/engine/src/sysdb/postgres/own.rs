//! A program's own connections to the server of the engine.

use postgres::Client;

use super::connector::{Connector, Purpose};
use super::line::Line;
use crate::pure::error::{Error, Result};
use crate::sysdb::{DbError, Url};

/// Connections of a program's own to the database of an engine's URL. The engine's options and refusals for the URL
/// hold for them, too.
///
/// # Example
/// ```no_run
/// # fn main() -> engine::Result<()> {
/// let connector = engine::PgConnector::new("postgresql://app@localhost/shop")?;
/// let mut client = connector.connect()?;
/// # drop(client); Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PgConnector {
    connector: Connector,
    /// Without the password.
    database: String,
}

impl PgConnector {
    /// Reads the URL. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`] when it cannot be read; [`Error::Open`] when it is one of a file, or needs a feature that
    /// this program was built without.
    pub fn new(url: &str) -> Result<Self> {
        let url = match Url::parse(url)? {
            Url::Postgres(url) => url,
            Url::Sqlite(path) => {
                let reason = "a file has no server; write postgresql://USER@HOST/DATABASE".to_owned();
                return Err(Error::Open { database: path.display().to_string(), reason });
            }
        };
        let refuse = |reason: String| Error::Open { database: url.to_string(), reason };
        url.check_tls(cfg!(feature = "tls")).map_err(refuse)?;
        let connector = Connector::new(&url, super::connection::SCHEMA, None).map_err(refuse)?;
        Ok(Self { connector, database: url.to_string() })
    }

    /// Connects. The session has the server's own settings. The driver blocks: not for the inside of an async runtime.
    ///
    /// # Errors
    /// [`Error::Open`] with the error of the server or the network.
    pub fn connect(&self) -> Result<Client> {
        let refuse = |error: DbError| Error::Open {
            database: self.database.clone(),
            reason: error.source.to_string(),
        };
        self.connector.client(Purpose::Own, &Line::of_a_login()).map_err(refuse)
    }
}
