//! How connections are made: to whom, and with which settings of the session.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postgres::{Client, Config};

use super::config;
use super::connection::{Connection, failed, outside_async};
use super::tls::Encryption;
use crate::sysdb::{DbResult, PostgresUrl};

/// A server that is not there is noticed within these times, and not within the minutes of the system's defaults.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVES_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVES_RETRIES: u32 = 3;

/// How long a body may leave its transaction alone, as the settings below say.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The engine's own statements: short, and none may hold a lock for long if its process is stopped.
    Engine,
    /// Transaction steps: a user's statements take as long as the user's server lets them.
    Steps,
}

/// Makes connections to one database.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    encryption: Encryption,
    schema: Arc<str>,
}

impl Connector {
    /// What the URL does not say of time-outs is said here.
    pub(super) fn new(url: &PostgresUrl, schema: &str) -> Result<Self, String> {
        let mut config = config::of(url);
        if url.connect_timeout.is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if url.tcp_user_timeout.is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        if url.keepalives_idle.is_none() {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        if url.keepalives_interval.is_none() {
            config.keepalives_interval(KEEPALIVES_INTERVAL);
        }
        if url.keepalives_count.is_none() {
            config.keepalives_retries(KEEPALIVES_RETRIES);
        }
        if url.application_name.is_none() {
            config.application_name("piton");
        }
        Ok(Self { config, encryption: Encryption::of(url)?, schema: schema.into() })
    }

    /// To the database of that name on the same server.
    pub(super) fn to_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.config.dbname(name);
        other
    }

    /// For one who would rather try again than wait.
    pub(super) fn hurried(&self, timeout: Duration) -> Self {
        let mut other = self.clone();
        other.config.connect_timeout(timeout).tcp_user_timeout(timeout);
        other
    }

    pub(super) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    pub(super) fn connect(&self, purpose: Purpose) -> DbResult<Connection> {
        const NAME: &str = "connect";
        outside_async(NAME, || {
            let client = self.client().map_err(|e| failed(NAME, e))?;
            let mut connection = Connection::new(client, self.schema.clone());
            connection.run("settings", settings(purpose))?;
            Ok(connection)
        })
    }

    /// Without any setting.
    pub(super) fn client(&self) -> Result<Client, postgres::Error> {
        self.encryption.connect(&self.config)
    }
}

impl fmt::Debug for Connector {
    /// Without the driver's view of the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("database", &self.database()).finish_non_exhaustive()
    }
}

/// What a session must have, whatever the server or the role has as its default.
///
/// The engine looks rows up by their keys, and a plan is made once for each connection, perhaps when the tables are empty:
/// without the last settings it would be one that reads them whole, and would stay so while they grow.
pub(super) fn settings(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Engine => {
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
             SET default_transaction_isolation = 'read committed';
             SET default_transaction_read_only = off;
             SET statement_timeout = '30s';
             SET lock_timeout = '10s';
             SET idle_in_transaction_session_timeout = '5s';
             SET client_min_messages = warning;
             SET plan_cache_mode = force_generic_plan;
             SET jit = off;
             SET enable_seqscan = off;
             SET enable_hashjoin = off;
             SET enable_mergejoin = off;
             SET enable_material = off"
        }
        Purpose::Steps => {
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
             SET default_transaction_read_only = off;
             SET lock_timeout = '30s';
             SET idle_in_transaction_session_timeout = '60s'"
        }
    }
}
