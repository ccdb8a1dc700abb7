//! A process that runs workflows, ours or one of the official package. It prints a line for each event of its
//! workflows, and ends with its standard input, or when it is killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Program {
    child: Child,
    lines: Receiver<String>,
    /// Its output so far.
    said: Vec<String>,
}

impl Program {
    /// Starts the process and waits until it is ready.
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take();
        thread::spawn(move || {
            let lines = stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines());
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut program = Self { child, lines, said: Vec::new() };
        program.wait_for("ready")?;
        Ok(program)
    }

    /// Waits until the process has printed this line.
    pub(super) fn wait_for(&mut self, line: &str) -> anyhow::Result<()> {
        self.wait_for_times(line, 1)
    }

    /// Waits until the process has printed this line so many times.
    pub(super) fn wait_for_times(&mut self, line: &str, times: usize) -> anyhow::Result<()> {
        let watch = Instant::now();
        while self.count(line) < times {
            let left = PATIENCE.saturating_sub(watch.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(said) => self.said.push(said),
                Err(_) => bail!("expected the line {line:?} {times} times, seen {:?}", self.said),
            }
        }
        Ok(())
    }

    /// How often the process has printed this line by now.
    pub(super) fn count(&mut self, line: &str) -> usize {
        self.said.extend(self.lines.try_iter());
        self.said.iter().filter(|said| *said == line).count()
    }

    /// Lets a held workflow go on.
    pub(super) fn release(&mut self, workflow: &str) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("it has no standard input")?;
        writeln!(stdin, "release {workflow}")?;
        Ok(stdin.flush()?)
    }

    /// SIGKILL: it has no time for anything.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    /// The process is killed: a held workflow would keep it, and its output is not needed any more.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
