//! A private PostgreSQL server, made from the installed programs, in a directory of its own, on a unix socket. It ends
//! with the process that started it, also when that process is killed.
//!
//! ```no_run
//! let cluster = cluster::Cluster::start(&cluster::Settings::default())?;
//! let url = cluster.url("shop"); // a database that does not exist yet; the engine creates it
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Tests share one server for each test process, see [`shared`].

#![cfg(unix)]

mod binaries;
mod owner;
mod pooler;
mod proxy;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use binaries::Binaries;
use owner::Owner;
pub use pooler::{Mode, Pooler, try_pooler};
pub use proxy::{Moment, Proxy};

/// The place and the configuration of a server.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The directory in which the server makes its own; `None` for the system's directory for temporary files.
    pub parent: Option<PathBuf>,
    /// `NAME=VALUE` lines of `postgresql.conf`. Settings for durability are on unless they are switched off here.
    pub options: Vec<String>,
    /// Files to put into its data directory, by name and content.
    pub files: Vec<(String, String)>,
}

/// A running server. It stops, and its directory is deleted, when this is dropped or its process dies.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    owner: Owner,
    dir: PathBuf,
    /// Stops the server when its standard input ends.
    watchdog: Child,
}

/// Cleans up after the death of a starter: stops the server and deletes its directory once standard input ends.
const WATCHDOG: &str = "read -r _; \"$1\" stop -D \"$2/data\" -m immediate -s; rm -rf \"$2\"";

impl Cluster {
    /// Makes a server and waits until it answers.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when PostgreSQL is not installed; otherwise the error of its programs.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let binaries = Binaries::find()?;
        let owner = Owner::of_servers()?;
        let dir = fresh_directory(&settings.parent.clone().unwrap_or_else(std::env::temp_dir))?;
        owner.give(&dir)?;
        let watchdog = owner
            .command(Path::new("/bin/sh"))
            .args(["-c", WATCHDOG, "watchdog"])
            .args([binaries.path("pg_ctl").as_path(), &dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let cluster = Self { binaries, owner, dir, watchdog };
        cluster.run(
            "initdb",
            &["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"],
        )?;
        cluster.configure(settings)?;
        cluster.resume()?;
        Ok(cluster)
    }

    fn configure(&self, settings: &Settings) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf"))?;
        writeln!(file, "listen_addresses = ''")?;
        writeln!(file, "unix_socket_directories = '{}'", self.dir.display())?;
        writeln!(file, "max_connections = 400")?;
        settings.options.iter().try_for_each(|option| writeln!(file, "{option}"))?;
        for (name, content) in &settings.files {
            let path = self.data().join(name);
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(content.as_bytes())?;
            self.owner.give(&path)?;
        }
        Ok(())
    }

    /// The URL of a database on this server, for a superuser without a password.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@/{database}?host={}", self.dir.display())
    }

    /// The directory of the server's socket.
    pub fn socket(&self) -> &Path {
        &self.dir
    }

    /// A name for a database that no other call gives.
    pub fn fresh_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!("d{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// Stops the server as a crash would: connections are cut, and unwritten data is lost.
    ///
    /// # Errors
    /// The error of `pg_ctl`.
    pub fn crash(&self) -> io::Result<()> {
        self.run("pg_ctl", &["stop", "-s", "-m", "immediate", "-D"])
    }

    /// Starts the server again, and waits until it answers.
    ///
    /// # Errors
    /// The error of `pg_ctl`.
    pub fn resume(&self) -> io::Result<()> {
        let log = self.dir.join("log").display().to_string();
        self.run("pg_ctl", &["start", "-s", "-w", "-t", "60", "-l", &log, "-D"])
    }

    /// A program of PostgreSQL, as the user that the server runs under.
    pub fn command(&self, program: &str) -> Command {
        self.owner.command(&self.binaries.path(program))
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Runs a program of PostgreSQL on the data directory, which is its last argument.
    fn run(&self, program: &str, args: &[&str]) -> io::Result<()> {
        // A file and not a pipe: the server would keep the pipe open.
        let said = self.dir.join(format!("{program}.out"));
        let out = fs::File::create(&said)?;
        self.owner.give(&said)?;
        let mut command = self.command(program);
        command.args(args).arg(self.data()).stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let status = command.status()?;
        if status.success() {
            return Ok(());
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let said = format!("{program}: {status}\n{}{}", read(&said), read(&self.dir.join("log")));
        Err(io::Error::other(said))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Short, because the path of a socket has at most about 100 bytes.
fn fresh_directory(parent: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("piton-pg-{}-{number}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| dir),
        }
    }
}

/// With this variable set, a missing PostgreSQL is a failure.
pub const REQUIRE: &str = "PITON_REQUIRE_POSTGRES";

/// The server of this test process, started by the first call. Where PostgreSQL is not installed, `None`, and the test
/// output says so.
///
/// # Panics
/// When the server cannot be started. With [`REQUIRE`] set, also when there is none.
pub fn try_shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    let started = || match Cluster::start(&Settings::default()) {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            not_installed(&error, "PostgreSQL server");
            None
        }
    };
    SHARED.get_or_init(started).as_ref()
}

/// Says that tests are skipped for want of a program.
///
/// # Panics
/// When the error has another reason, or the program is required.
fn not_installed(error: &io::Error, what: &str) {
    let may_be_missing = error.kind() == io::ErrorKind::NotFound && std::env::var_os(REQUIRE).is_none();
    assert!(may_be_missing, "no {what} for the tests: {error}");
    let program = std::env::args().next().unwrap_or_default();
    // This goes past the capture of test output.
    let _ =
        writeln!(io::stderr(), "\nSKIPPED tests of {program}: {error}; {REQUIRE}=1 makes this a failure\n");
}

/// The server of a test program all of whose tests need it. Where there is none, the process ends as if its tests had
/// passed.
///
/// # Panics
/// As [`try_shared`].
#[expect(clippy::disallowed_methods, reason = "all tests of the process need what is missing")]
pub fn shared() -> &'static Cluster {
    try_shared().unwrap_or_else(|| std::process::exit(0))
}
