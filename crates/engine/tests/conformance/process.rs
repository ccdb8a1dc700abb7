//! Another process for a test: this program again, at one of its tests, which is then an errand.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

const PATH: &str = "PITON_TEST_ERRAND_PATH";
const SAYS: &str = "errand: ";
/// No errand takes as long, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// In the errand: where its database is. `None` when the test runs as one of the suite; then it has nothing to do.
pub(crate) fn path_of_the_errand() -> Option<PathBuf> {
    let path = std::env::var_os(PATH)?.into();
    end_after(PATIENCE);
    Some(path)
}

/// Ends this process by then, so that nobody waits for it for ever.
pub(crate) fn end_after(patience: Duration) {
    std::thread::spawn(move || {
        let (_sender, nothing) = channel::<()>();
        let _ = nothing.recv_timeout(patience);
        say("took too long");
        std::process::abort();
    });
}

/// In the errand: tells the test.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "\n{SAYS}{line}");
}

/// In the errand: tells the test every warning of the engine.
pub(crate) fn tell_warnings() {
    struct Tell;

    impl log::Log for Tell {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Warn && metadata.target().starts_with("engine")
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                say(&format!("warning: {}", record.args()));
            }
        }

        fn flush(&self) {}
    }

    log::set_logger(&Tell).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
}

/// A process that has not ended.
pub(crate) struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

/// Prepares this program, or a copy of it, to run an errand on a database.
pub(crate) fn errand(program: &Path, name: &str, database: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture"]).env(PATH, database);
    command
}

pub(crate) fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// Runs an errand to its end and gives what it said.
pub(crate) fn run(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stdout}{stderr}", output.status);
    stdout.lines().filter_map(|line| line.strip_prefix(SAYS)).map(str::to_owned).collect()
}

pub(crate) fn start(command: &mut Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Running { child, lines }
}

impl Running {
    /// Waits until it says so.
    pub(crate) fn wait_for(&mut self, line: &str) {
        let said = self.lines.by_ref().map_while(Result::ok);
        let mut said = said.filter_map(|said| said.strip_prefix(SAYS).map(str::to_owned));
        assert!(said.any(|said| said == line), "it ended without saying `{line}`");
    }

    /// With SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
