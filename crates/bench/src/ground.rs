//! The ground of a measurement: files in a directory, or databases on a PostgreSQL server.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cluster::{Cluster, Proxy, Settings};
use engine::PgConnector;
use engine::postgres::Client;
use engine::rusqlite::Connection;

use crate::floor::{ByHandOnPostgres, ByHandOnSqlite, Floor};

/// Databases by name, each made when it is first used.
pub(crate) trait Ground {
    /// The URL for the engine.
    fn url(&self, name: &str) -> String;

    /// The engine's statements by hand, in a database with the engine's tables.
    fn floor(&self, name: &str) -> anyhow::Result<Floor>;

    /// Leaves the workflows of this database as if their executor had died.
    fn abandon(&self, name: &str) -> anyhow::Result<()>;

    /// The targets on this ground.
    fn targets(&self) -> Targets;

    /// The accidents that a commit survives.
    fn durability(&self) -> anyhow::Result<String>;

    /// A counter of round trips, where there are any and they can be counted.
    fn counter(&self) -> anyhow::Result<Option<Counter>>;
}

/// The targets of one run on a machine with two cores. A number without a target is only shown.
pub(crate) struct Targets {
    /// Sequential steps: share of the rate of one commit for each row.
    pub(crate) steps: f64,
    /// 3-step workflows, 64 at once: share of the rate of the same statements in bare batches.
    pub(crate) bare_batches: Option<f64>,
    pub(crate) commits_per_write: Option<f64>,
    /// The rate at 256 at once: share of the rate at 16.
    pub(crate) rising: Option<f64>,
    /// Recovery: share of the rate by hand.
    pub(crate) recovery: Option<f64>,
    /// ex6: its time as a multiple of the time of the bare statements and bodies.
    pub(crate) ex6: Option<f64>,
    /// From a commit in one process to the waiter in another: median and 99th percentile, in milliseconds.
    pub(crate) wake_ms: Option<(f64, f64)>,
}

/// Counts the round trips and the statements of the connections that come through it.
pub(crate) struct Counter(Proxy);

impl Counter {
    pub(crate) fn url(&self, name: &str) -> String {
        self.0.url(name)
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.0.requests()
    }

    pub(crate) fn statements(&self) -> u64 {
        self.0.statements()
    }
}

/// Gives the workflows of this database to a dead executor.
const DEAD: &str = "UPDATE workflow_status SET name = 'steps', executor_id = 'piton-dead'";

/// The ground of files.
pub(crate) struct OnSqlite {
    dir: PathBuf,
}

impl OnSqlite {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name).with_extension("db")
    }
}

impl Ground for OnSqlite {
    fn url(&self, name: &str) -> String {
        format!("sqlite:{}", self.path(name).display())
    }

    fn floor(&self, name: &str) -> anyhow::Result<Floor> {
        // The engine makes the tables; from here on it is out of the way.
        drop(engine::Engine::options().open(&self.url(name))?);
        Ok(Floor::new(Box::new(ByHandOnSqlite::open(&self.path(name))?)))
    }

    /// The lock file is there, and no process holds it.
    fn abandon(&self, name: &str) -> anyhow::Result<()> {
        let database = self.path(name);
        Connection::open(&database)?.execute_batch(DEAD)?;
        let mut locks = database.into_os_string();
        locks.push("-executors");
        std::fs::create_dir_all(&locks)?;
        std::fs::write(Path::new(&locks).join("piton-dead.lock"), "")?;
        Ok(())
    }

    fn targets(&self) -> Targets {
        Targets {
            steps: 0.85,
            bare_batches: Some(0.6),
            commits_per_write: Some(0.1),
            rising: None,
            recovery: Some(0.5),
            ex6: Some(1.5),
            wake_ms: None,
        }
    }

    fn durability(&self) -> anyhow::Result<String> {
        Ok(format!("SQLite {}, WAL, synchronous=FULL", engine::rusqlite::version()))
    }

    fn counter(&self) -> anyhow::Result<Option<Counter>> {
        Ok(None)
    }
}

/// The ground of databases on a server.
pub(crate) struct OnPostgres {
    /// The server of this run, unless it was there before.
    cluster: Option<Cluster>,
    /// The parts of the server's URL before and after the name of a database.
    url: (String, String),
    /// The beginning of the names of the databases.
    prefix: String,
}

impl OnPostgres {
    /// Makes a server of its own.
    pub(crate) fn private() -> anyhow::Result<Self> {
        let cluster = Cluster::start(&Settings::default())?;
        let url = split(&cluster.url("postgres")).context("the server has no URL")?;
        Ok(Self { cluster: Some(cluster), url, prefix: String::new() })
    }

    /// Uses the server of this URL, in databases that are made for the run and dropped afterwards.
    pub(crate) fn at(url: &str) -> anyhow::Result<Self> {
        let url = split(url).context("--database-url: write postgresql://USER@HOST/DATABASE")?;
        let prefix = format!("piton_bench_{}_", std::process::id());
        Ok(Self { cluster: None, url, prefix })
    }

    fn database(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn url_of(&self, database: &str) -> String {
        format!("{}{database}{}", self.url.0, self.url.1)
    }

    fn client(&self, name: &str) -> anyhow::Result<Client> {
        Ok(PgConnector::new(&self.url(name))?.connect()?)
    }
}

impl Ground for OnPostgres {
    fn url(&self, name: &str) -> String {
        self.url_of(&self.database(name))
    }

    fn floor(&self, name: &str) -> anyhow::Result<Floor> {
        drop(engine::Engine::options().open(&self.url(name))?);
        Ok(Floor::new(Box::new(ByHandOnPostgres::open(&self.url(name))?)))
    }

    /// The lease has run out.
    fn abandon(&self, name: &str) -> anyhow::Result<()> {
        let mut client = self.client(name)?;
        client.batch_execute("SET search_path = dbos")?;
        client.batch_execute(DEAD)?;
        client.batch_execute(
            "INSERT INTO piton_executors
                    (executor_id, application_name, application_version, workflows, queues, lease_until)
             VALUES ('piton-dead', 'bench', '1', '[]', '[]', '-infinity')",
        )?;
        // As the autovacuum of a server that has run for a while has left them.
        client.batch_execute("ANALYZE")?;
        Ok(())
    }

    fn targets(&self) -> Targets {
        Targets {
            steps: 0.8,
            bare_batches: None,
            commits_per_write: None,
            rising: Some(1.0),
            recovery: None,
            ex6: None,
            wake_ms: Some((20.0, 100.0)),
        }
    }

    fn durability(&self) -> anyhow::Result<String> {
        let mut client = PgConnector::new(&self.url_of("postgres"))?.connect()?;
        let mut setting = |name: &str| -> anyhow::Result<String> {
            Ok(client.query_one("SELECT current_setting($1)", &[&name])?.try_get(0)?)
        };
        let (version, fsync) = (setting("server_version")?, setting("fsync")?);
        let (commit, pages) = (setting("synchronous_commit")?, setting("full_page_writes")?);
        Ok(format!(
            "PostgreSQL {version}, fsync={fsync}, synchronous_commit={commit}, full_page_writes={pages}"
        ))
    }

    fn counter(&self) -> anyhow::Result<Option<Counter>> {
        Ok(self.cluster.as_ref().map(Proxy::before).transpose()?.map(Counter))
    }
}

impl Drop for OnPostgres {
    /// A server that was there before is left as it was.
    fn drop(&mut self) {
        if self.cluster.is_some() {
            return;
        }
        let connected = PgConnector::new(&self.url_of("postgres")).and_then(|connector| connector.connect());
        let Ok(mut client) = connected else { return };
        let ours = "SELECT datname FROM pg_database WHERE starts_with(datname, $1)";
        for row in client.query(ours, &[&self.prefix]).unwrap_or_default() {
            let name: String = row.get(0);
            let _ = client.batch_execute(&format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
        }
    }
}

/// The parts of a URL before and after the name of the database.
fn split(url: &str) -> Option<(String, String)> {
    let host = url.find("://")? + 3;
    let name = host + url[host..].find('/')? + 1;
    let end = url[name..].find('?').map_or(url.len(), |question| name + question);
    Some((url[..name].to_owned(), url[end..].to_owned()))
}
