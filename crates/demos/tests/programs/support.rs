//! An example in a directory of its own: runs it, reads what it says, and looks into its tables.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use engine::rusqlite::Connection;
use engine::rusqlite::types::FromSql;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A demo that takes longer hangs, and is killed, which no test expects.
const DEADLINE: Duration = Duration::from_secs(120);
/// A test runs many of them.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// More crashes in a row than any seed here has.
const RESTARTS_MAX: usize = 20;

pub(crate) struct Demo {
    name: &'static str,
    home: tempfile::TempDir,
}

impl Demo {
    pub(crate) fn new(name: &'static str) -> Self {
        watch::test(LIMIT);
        Self { name, home: tempfile::tempdir().unwrap() }
    }

    /// Another example with the state of this one.
    pub(crate) fn in_directory_of(name: &'static str, other: Self) -> Self {
        Self { name, home: other.home }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.home.path().join("state").join(file)
    }

    /// The directory above its state, where it works in, too.
    pub(crate) fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_in(&self.path(""), args)
    }

    /// With its state elsewhere. A command that does not see the environment of the test's caller.
    pub(crate) fn command_in(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program(self.name));
        command.arg("--dir").arg(dir).args(args).current_dir(self.home.path());
        command.env_remove("DBOS_DATABASE_URL").env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// One process, to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Ended::of(&mut self.command(args))
    }

    /// Again and again until it no longer dies of a signal. Each process, the last one at the end.
    pub(crate) fn run_until_it_ends(&self, args: &[&str]) -> Vec<Ended> {
        let mut runs = Vec::new();
        while runs.len() <= RESTARTS_MAX {
            let run = self.run(args);
            let ended = run.status.signal().is_none();
            runs.push(run);
            if ended {
                return runs;
            }
        }
        panic!("{} still crashes after {RESTARTS_MAX} restarts: {runs:#?}", self.name);
    }

    /// One process, to its crash.
    pub(crate) fn crash(&self, args: &[&str]) -> Ended {
        let run = self.run(args);
        assert!(run.crashed(), "{run:#?}");
        run
    }

    /// With `--json`, so that its story comes on stderr.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { _watchdog: Watchdog::over(&child), child, stderr, told: String::new() }
    }

    /// The files that SQLite has left beside its own.
    pub(crate) fn logs(&self) -> Vec<String> {
        let files = fs::read_dir(self.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        files.filter_map(|file| file.into_string().ok()).filter(|file| file.ends_with("-wal")).collect()
    }

    /// A connection to `users.db` or `system.db`.
    pub(crate) fn sql(&self, file: &str) -> Connection {
        let path = self.path(file);
        assert!(path.exists(), "{} is not there", path.display());
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        connection
    }

    pub(crate) fn value<T: FromSql>(&self, file: &str, sql: &str) -> T {
        self.sql(file).query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// All rows of `users.db`, and how many users they are.
    pub(crate) fn users(&self) -> (u64, u64) {
        let sql = "SELECT count(*), count(DISTINCT id) FROM users";
        self.sql("users.db").query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    }

    pub(crate) fn workflow_status(&self, id: &str) -> String {
        let sql = "SELECT status FROM workflow_status WHERE workflow_uuid = ?1";
        self.sql("system.db").query_row(sql, [id], |row| row.get(0)).unwrap()
    }

    /// Locks the database against other writers until it is dropped, and so keeps a demo in the middle.
    pub(crate) fn lock(&self, file: &str) -> Connection {
        let connection = self.sql(file);
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection
    }
}

/// A process and all it said. Whatever happens, it does not panic.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _watchdog = Watchdog::over(&child);
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self::new(output.status, text(output.stdout), text(output.stderr))
    }

    fn new(status: ExitStatus, stdout: String, stderr: String) -> Self {
        let ended = Self { status, stdout, stderr };
        assert!(!ended.stderr.contains("panicked") && !ended.stdout.contains("panicked"), "{ended:#?}");
        ended
    }

    pub(crate) fn crashed(&self) -> bool {
        self.status.signal() == Some(Signal::SIGSEGV as i32)
    }

    /// Asserts that the program ended by itself with this code.
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    /// The one line of stdout.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:#?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The workflow that the story says was started or adopted.
    pub(crate) fn workflow(&self) -> &str {
        let line = self.stderr.lines().rfind(|line| line.starts_with("> workflow ")).unwrap();
        line.split(' ').nth(2).unwrap()
    }

    /// The lines of the story that begin so.
    pub(crate) fn lines(&self, begin: &str) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with(begin)).collect()
    }
}

/// A process that is not at its end yet. Dropped before that, it is killed.
pub(crate) struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    told: String,
    _watchdog: Watchdog,
}

impl Running {
    /// Waits for the line with this text.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let bytes = self.stderr.read_line(&mut line).unwrap();
            assert_ne!(bytes, 0, "it ended before it said {text:?}: {}", self.told);
            self.told.push_str(&line);
        }
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(pid(&self.child), signal).unwrap();
    }

    pub(crate) fn end(mut self) -> Ended {
        let mut stdout = String::new();
        self.stderr.read_to_string(&mut self.told).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let status = self.child.wait().unwrap();
        Ended::new(status, stdout, std::mem::take(&mut self.told))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a process that hangs.
struct Watchdog {
    _until_dropped: Sender<()>,
}

impl Watchdog {
    fn over(child: &Child) -> Self {
        let pid = pid(child);
        let (until_dropped, dropped) = mpsc::channel();
        std::thread::spawn(move || {
            if dropped.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Self { _until_dropped: until_dropped }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

fn program(name: &str) -> &'static str {
    match name {
        "ex1" => env!("CARGO_BIN_EXE_ex1"),
        "ex2" => env!("CARGO_BIN_EXE_ex2"),
        "ex3" => env!("CARGO_BIN_EXE_ex3"),
        "ex4" => env!("CARGO_BIN_EXE_ex4"),
        "ex5" => env!("CARGO_BIN_EXE_ex5"),
        "ex6" => env!("CARGO_BIN_EXE_ex6"),
        "ex7" => env!("CARGO_BIN_EXE_ex7"),
        _ => panic!("no example is called {name}"),
    }
}

/// The names in a directory and what its files hold, in order.
pub(crate) fn snapshot(dir: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, entry.path().is_file().then(|| fs::read(entry.path()).unwrap()))
        })
        .collect();
    files.sort();
    files
}
