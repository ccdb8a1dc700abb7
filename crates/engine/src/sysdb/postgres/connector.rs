//! How connections are made: to whom, within which times, and with which settings of the session.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postgres::Client;
use tokio_postgres::Config;

use super::config;
use super::connection::{Connection, failed, outside_async};
use super::line::{Line, Watched};
use super::link::{Fault, Link, Runtime};
use super::pooler::{self, Road};
use super::tls::Encryption;
use super::trouble::{faulted, silent, trouble};
use crate::pure::clock::Stopwatch;
use crate::sysdb::{DbResult, Host, PostgresUrl};

/// A server that is not there is noticed within these times, and not within the minutes of the system's defaults.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVES_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVES_RETRIES: u32 = 3;

/// How long a body may leave its transaction alone, as the settings below say.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Durable writes.
    Writer,
    /// Looks, and other calls that happen once.
    Reader,
    /// The beats.
    Lease,
    /// News of other processes.
    Listener,
    /// Transaction steps: a user's statements take as long as the user's server lets them.
    Steps,
    /// A look at a session that does not answer.
    Watch,
    /// Any use by the program.
    Own,
}

impl Purpose {
    /// As the server's views show it, unless the URL says how.
    fn application_name(self) -> &'static str {
        match self {
            Self::Writer => "piton-writer",
            Self::Reader => "piton-reader",
            Self::Lease => "piton-lease",
            Self::Listener => "piton-listener",
            Self::Steps => "piton-steps",
            Self::Watch => "piton-watch",
            Self::Own => "piton",
        }
    }
}

/// The times within which the server must do its requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A connection is made, its login included.
    pub(super) connect: Duration,
    /// A statement ends, as the server is told.
    statement: Duration,
}

impl Limits {
    /// A connection that writes is replaced before callers from outside give up.
    const WRITE: Duration = Duration::from_secs(20);
    const STATEMENT: Duration = Duration::from_secs(30);
    /// So that a statement which takes too long is ended by the server, which says so.
    const MARGIN_MAX: Duration = Duration::from_secs(2);

    fn statement(&self, purpose: Purpose) -> Duration {
        if purpose == Purpose::Writer { self.statement.min(Self::WRITE) } else { self.statement }
    }

    /// How long an answer is waited for.
    pub(super) fn answer(&self, purpose: Purpose) -> Duration {
        let statement = self.statement(purpose);
        statement + (statement / 4).min(Self::MARGIN_MAX)
    }

    /// After this time without a byte the session of a transaction step is looked at.
    pub(super) fn silence(&self) -> Duration {
        self.statement / 3
    }
}

/// Makes connections to one database.
#[derive(Clone)]
pub(super) struct Connector {
    /// Without a host.
    config: Config,
    hosts: Arc<[Host]>,
    named: bool,
    encryption: Encryption,
    pub(super) schema: Arc<str>,
    pub(super) limits: Limits,
    pub(super) road: Arc<Road>,
}

impl Connector {
    /// The defaults for time-outs that the URL does not give. `answers_within` is for tests.
    pub(super) fn new(
        url: &PostgresUrl,
        schema: &str,
        answers_within: Option<Duration>,
    ) -> Result<Self, String> {
        let mut config = config::of(url);
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
        let limits = Limits {
            connect: url.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            statement: answers_within.unwrap_or(Limits::STATEMENT),
        };
        Ok(Self {
            config,
            hosts: url.hosts.clone().into(),
            named: url.application_name.is_some(),
            encryption: Encryption::of(url)?,
            schema: schema.into(),
            limits,
            road: Arc::default(),
        })
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
        other.config.tcp_user_timeout(timeout);
        other.limits.connect = timeout;
        other
    }

    /// How many the URL names.
    pub(super) fn servers(&self) -> usize {
        self.hosts.len()
    }

    pub(super) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// A connection of the engine's own.
    pub(super) fn connect(&self, purpose: Purpose) -> DbResult<Connection> {
        const NAME: &str = "connect";
        outside_async(NAME, || {
            let watch = Stopwatch::start();
            let mut link = self.link(purpose).map_err(|fault| faulted(NAME, fault))?;
            // The limit is one for all that comes before the first request of the caller.
            let left = || self.limits.connect.saturating_sub(watch.elapsed());
            let answering = link.ask(left(), pooler::who_answers).map_err(|fault| faulted(NAME, fault))?;
            let answering =
                answering.ok_or_else(|| trouble(NAME, "the server does not say which process it is"))?;
            let (road, schema) = (self.road.clone(), self.schema.clone());
            let stays = road.stays(answering.direct);
            let begin = (!stays).then(|| self.begin(purpose));
            let mut connection = Connection::new(link, road, schema, begin, self.limits.answer(purpose));
            if stays {
                let settings = settings(purpose, self.limits.statement(purpose), Scope::Session);
                connection.within(left(), |connection| connection.run("settings", &settings))?;
            }
            if let Some(process) = answering.own_process() {
                connection.within(left(), |connection| self.road.end_left_behind(connection))?;
                connection.is_served_by(process);
            }
            Ok(connection)
        })
    }

    /// The beginning of a transaction in a session without known settings.
    fn begin(&self, purpose: Purpose) -> String {
        let settings = settings(purpose, self.limits.statement(purpose), Scope::Transaction);
        format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings}")
    }

    /// A session without any setting, with the first of the servers that answers.
    fn link(&self, purpose: Purpose) -> Result<Link, Fault> {
        let runtime = Runtime::new()?;
        let mut last = Fault::System(io::Error::other("the URL names no host"));
        for host in self.hosts.iter() {
            let addresses = match self.addresses(&runtime, host) {
                Ok(addresses) => addresses,
                Err(fault) => {
                    last = fault;
                    continue;
                }
            };
            for address in addresses {
                let config = self.config_of(purpose, &address);
                match runtime.within(self.limits.connect, self.encryption.connect(&config)) {
                    Ok(halves) => return Ok(Link::new(halves, runtime)),
                    Err(fault) => last = fault,
                }
            }
        }
        Err(last)
    }

    /// A blocking client without any setting. Its login has a limit, and so has each wait of its session if `line` is
    /// set, which watches the session.
    pub(super) fn client(&self, purpose: Purpose, line: &Arc<Line>) -> DbResult<Client> {
        const NAME: &str = "connect";
        let mut last = trouble(NAME, "the URL names no host");
        for host in self.hosts.iter() {
            let found = Runtime::new().and_then(|runtime| self.addresses(&runtime, host));
            let addresses = match found {
                Ok(addresses) => addresses,
                Err(fault) => {
                    last = faulted(NAME, fault);
                    continue;
                }
            };
            for address in addresses {
                let watched = Watched::new(line.clone(), &self.encryption, self.config.get_ssl_mode());
                let mut config = self.config_of(purpose, &address);
                Watched::prepare(&mut config, matches!(address, Address::Socket { .. }));
                config.connect_timeout(self.limits.connect);
                line.begin_login(self.limits.connect);
                match postgres::Config::from(config).connect(watched) {
                    Ok(client) => return Ok(client),
                    Err(error) => {
                        last = line.silence().map_or_else(|| failed(NAME, error), |time| silent(NAME, time));
                    }
                }
            }
        }
        Err(last)
    }

    /// Where a server is. A name may stand for several addresses.
    fn addresses(&self, runtime: &Runtime, host: &Host) -> Result<Vec<Address>, Fault> {
        match host {
            Host::Socket { directory, port } => {
                let directory = directory.to_string_lossy().into_owned();
                Ok(vec![Address::Socket { directory, port: *port }])
            }
            Host::Tcp { name, port } => {
                let look_up = async { Ok(tokio::net::lookup_host((name.as_str(), *port)).await) };
                let found = runtime.within(self.limits.connect, look_up)?.map_err(Fault::System)?;
                Ok(found.map(|at| Address::Tcp { name: name.clone(), at }).collect())
            }
        }
    }

    fn config_of(&self, purpose: Purpose, address: &Address) -> Config {
        let mut config = self.config.clone();
        match address {
            Address::Tcp { name, at } => config.host(name).hostaddr(at.ip()).port(at.port()),
            Address::Socket { directory, port } => config.host(directory).port(*port),
        };
        if !self.named {
            config.application_name(purpose.application_name());
        }
        config
    }
}

impl fmt::Debug for Connector {
    /// Without the driver's view of the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("database", &self.database()).finish_non_exhaustive()
    }
}

/// One server.
enum Address {
    Tcp { name: String, at: SocketAddr },
    Socket { directory: String, port: u16 },
}

/// For how long settings hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Session,
    Transaction,
}

/// The settings that a session must have, against any default of the server or the role.
///
/// The engine looks rows up by their keys. A plan is made once for each connection, perhaps while the tables are empty.
/// Without the last settings it would read them whole, and would stay so while they grow.
pub(super) fn settings(purpose: Purpose, statement: Duration, scope: Scope) -> String {
    let statement = format!("'{}ms'", statement.as_millis());
    let engine = [
        ("default_transaction_isolation", "'read committed'"),
        ("default_transaction_read_only", "off"),
        ("statement_timeout", statement.as_str()),
        ("lock_timeout", "'10s'"),
        ("idle_in_transaction_session_timeout", "'5s'"),
        ("client_min_messages", "warning"),
        ("plan_cache_mode", "force_generic_plan"),
        ("jit", "off"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_material", "off"),
    ];
    let steps = [
        ("default_transaction_read_only", "off"),
        // Longer than the transaction of a step lives whose process is gone: the next try of that step waits for its locks.
        ("lock_timeout", "'75s'"),
        ("idle_in_transaction_session_timeout", "'60s'"),
    ];
    let all: &[_] = if purpose == Purpose::Steps { &steps } else { &engine };
    let (set, local) = match scope {
        Scope::Session => ("SET", false),
        Scope::Transaction => ("SET LOCAL", true),
    };
    // The second is there from PostgreSQL 14 on.
    let conditional = format!(
        "SELECT set_config('synchronous_commit', 'on', {local}) WHERE current_setting('synchronous_commit') = 'off';
         SELECT set_config('idle_session_timeout', '0', {local})
          WHERE current_setting('idle_session_timeout', TRUE) IS NOT NULL;"
    );
    all.iter().fold(conditional, |sql, (name, value)| format!("{sql} {set} {name} = {value};"))
}
