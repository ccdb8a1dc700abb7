//! PgBouncer before the server, where it is installed.

use std::fs;
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Cluster, not_installed};

/// Names the program, for one in an unusual place.
const VARIABLE: &str = "PITON_PGBOUNCER";
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];

/// How the pooler shares the sessions of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A client has a session for as long as it is connected.
    Session,
    /// A client has a session for as long as its transaction lasts.
    Transaction,
}

/// A running PgBouncer on a loopback port. It ends with this value, or with the process.
#[derive(Debug)]
pub struct Pooler {
    program: PathBuf,
    config: PathBuf,
    port: u16,
    owner: crate::Owner,
    running: Option<Child>,
}

/// Ends the program when standard input ends.
const WATCHDOG: &str = "\"$1\" -q \"$2\" & read -r _; kill -9 $!";

impl Pooler {
    /// Starts a pooler with so many sessions for each database, and waits until it accepts connections.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where PgBouncer is not installed; otherwise the system's error.
    pub fn before(cluster: &Cluster, mode: Mode, sessions: u32) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let program = find()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (dir, number) = (cluster.socket(), COUNT.fetch_add(1, Ordering::Relaxed));
        let write = |name: String, content: String| -> io::Result<PathBuf> {
            let path = dir.join(name);
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(content.as_bytes())?;
            cluster.owner.give(&path)?;
            Ok(path)
        };
        let users = write(format!("users-{number}"), "\"postgres\" \"\"\n".to_owned())?;
        let mode = if mode == Mode::Session { "session" } else { "transaction" };
        let config = format!(
            "[databases]\n* = host={} port=5432\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n\
             default_pool_size = {sessions}\nmax_client_conn = 500\nlogfile = {}\n",
            dir.display(),
            users.display(),
            dir.join(format!("pooler-{number}.log")).display(),
        );
        let config = write(format!("pooler-{number}.ini"), config)?;
        let mut pooler = Self { program, config, port, owner: cluster.owner, running: None };
        pooler.start()?;
        Ok(pooler)
    }

    /// The URL of a database behind the pooler. The pooler does not create the database.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Ends the pooler as a crash would: all connections are cut.
    pub fn crash(&mut self) {
        if let Some(mut running) = self.running.take() {
            drop(running.stdin.take());
            let _ = running.wait();
        }
    }

    /// Starts the pooler again.
    ///
    /// # Errors
    /// The system's error, or that no port accepts connections within 30 s.
    pub fn start(&mut self) -> io::Result<()> {
        let mut command = self.owner.command(Path::new("/bin/sh"));
        command.args(["-c", WATCHDOG, "watchdog"]).args([&self.program, &self.config]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(command.spawn()?);
        let watch = Instant::now();
        while let Err(error) = TcpStream::connect(("127.0.0.1", self.port)) {
            if watch.elapsed() > Duration::from_secs(30) {
                return Err(error);
            }
            pause();
        }
        Ok(())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.crash();
    }
}

#[expect(clippy::disallowed_methods, reason = "a program that starts has no signal to wait for")]
fn pause() {
    thread::sleep(Duration::from_millis(5));
}

fn find() -> io::Result<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = PLACES.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    let found = named.or_else(|| dirs.map(|dir| dir.join("pgbouncer")).find(|program| program.is_file()));
    found.ok_or_else(|| {
        let reason = format!("no PgBouncer was found (install it, or name the program by {VARIABLE})");
        io::Error::new(io::ErrorKind::NotFound, reason)
    })
}

/// A pooler for a test. Where PgBouncer is not installed, `None`, and the test output says so.
///
/// # Panics
/// When the pooler cannot be started. With [`crate::REQUIRE`] set, also when PgBouncer is not installed.
pub fn try_pooler(cluster: &Cluster, mode: Mode, sessions: u32) -> Option<Pooler> {
    match Pooler::before(cluster, mode, sessions) {
        Ok(pooler) => Some(pooler),
        Err(error) => {
            not_installed(&error, "pooler");
            None
        }
    }
}
