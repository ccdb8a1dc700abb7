//! A directory with a database under audit, and workers on it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use engine::{Engine, EngineOptions};
use torture::audit;
use torture::database::Database;
use torture::judge::WorkerProcess;
use torture::kinds::Kind;
use torture::ledger::{Entry, Ledger};
use torture::points::Killer;
use torture::records::{Outcomes, Records};
use torture::worker::{LeaseLength, ledger};
use torture::workload::Workload;

const SIGKILL: i32 = 9;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// A test kills many processes, one after another.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Every case where there is time, else every n-th.
pub(crate) fn all_or_every(n: u64) -> u64 {
    if std::env::var_os("PITON_LONG_TESTS").is_some() { 1 } else { n }
}

pub(crate) struct Ground {
    dir: tempfile::TempDir,
    pub(crate) database: Database,
    pub(crate) acks: BTreeSet<String>,
}

/// A worker process and its output.
pub(crate) struct Worker {
    process: WorkerProcess,
    said: Receiver<String>,
}

/// What a worker found that finished after a kill, and what it did.
pub(crate) struct Rest {
    pub(crate) recorded: Outcomes,
    /// The steps whose bodies ran, by their workflows and names.
    pub(crate) bodies: Vec<(String, String)>,
}

/// The output of a worker until its end.
pub(crate) struct Ended {
    pub(crate) lines: Vec<String>,
    /// The signal by which the worker ended; `None` when it ended by itself.
    pub(crate) signal: Option<i32>,
}

impl Ground {
    /// A ground with the tables of the audit.
    pub(crate) fn new() -> Self {
        let ground = Self::bare();
        audit::prepare(&ground.database).unwrap();
        ground
    }

    /// A ground without a database.
    pub(crate) fn bare() -> Self {
        watch::test(LIMIT);
        let dir = tempfile::tempdir().unwrap();
        Self { database: crate::database(dir.path()), dir, acks: BTreeSet::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn spawn(&self, args: &str) -> Worker {
        let mut all = vec!["--dir".to_owned(), self.path().display().to_string()];
        all.extend(self.database.arguments());
        all.extend(args.split_whitespace().map(str::to_owned));
        let (sender, said) = channel();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_torture"));
        Worker { process: WorkerProcess::spawn(&program, &all, sender).unwrap(), said }
    }

    /// Runs a worker to its end.
    pub(crate) fn run(&mut self, args: &str) -> Ended {
        let worker = self.spawn(args);
        self.end(worker)
    }

    /// Waits for the worker's end and notes the acknowledged starts.
    pub(crate) fn end(&mut self, mut worker: Worker) -> Ended {
        let _waiting = watch::waiting("the end of a worker");
        let mut lines = Vec::new();
        while let Ok(line) = worker.said.recv_timeout(PATIENCE) {
            self.acks.extend(line.strip_prefix("ack ").map(str::to_owned));
            lines.push(line);
        }
        let status = worker.process.end().unwrap();
        let signal = status.signal();
        assert!(status.success() || signal == Some(SIGKILL), "a worker ended with {status}: {lines:?}");
        Ended { lines, signal }
    }

    /// Lets a worker with workflows of this kind end all workflows. It is not killed. What was recorded stays so, and no
    /// body of a recorded step runs again.
    pub(crate) fn finish_as(&mut self, kind: Kind) -> Rest {
        self.finish_with(&format!("--kind {kind}"))
    }

    /// Lets a worker with these arguments end all workflows.
    pub(crate) fn finish_with(&mut self, args: &str) -> Rest {
        let (recorded, lines) = (self.recorded(), self.ledger().len());
        assert!(!self.run(&format!("{args} --finish")).was_killed());
        let now = self.recorded();
        for (step, output) in &recorded {
            assert_eq!(now.get(step), Some(output), "the record of {step:?}");
        }
        let bodies: Vec<_> = self.ledger().into_iter().skip(lines).filter_map(body).collect();
        let again: Vec<_> = bodies.iter().filter(|step| recorded.contains_key(step)).collect();
        assert!(again.is_empty(), "recorded, and the bodies ran again: {again:?}");
        Rest { recorded, bodies }
    }

    /// The outcomes of steps that are in the database. A ground without tables has none.
    fn recorded(&self) -> Outcomes {
        Records::read(&self.database).map(|records| records.outcomes()).unwrap_or_default()
    }

    fn ledger(&self) -> Vec<Entry> {
        Ledger::read(&ledger(self.path())).unwrap()
    }

    /// What an ended workflow returned; `None` for one that was never started.
    pub(crate) fn returned(&self, workflow: &str) -> Option<Vec<String>> {
        let sql = format!("SELECT output FROM workflow_output WHERE workflow_uuid = '{workflow}'");
        let row = self.database.rows(&sql).unwrap().into_iter().next()?;
        Some(serde_json::from_str(&row.into_iter().next()??).unwrap())
    }

    /// Checks all invariants, by the tables and the ledgers.
    pub(crate) fn assert_clean(&self, what: &str) {
        let breaches = audit::audit(&self.database, self.path(), &self.acks).unwrap();
        assert!(breaches.is_empty(), "{what}: {breaches:#?}");
    }

    pub(crate) fn number(&self, sql: &str) -> u64 {
        self.database.number(sql).unwrap()
    }

    /// An executor in this process, which lives while others die.
    pub(crate) fn executor_here(&self) -> Engine {
        self.executor_with(LeaseLength::Long.of(Engine::options()))
    }

    pub(crate) fn executor_with(&self, options: EngineOptions) -> Engine {
        let engine = self.database.open(options.app("torture")).unwrap();
        let ledger = Ledger::open(&ledger(self.path())).unwrap();
        let killer = std::sync::Arc::new(Killer::new(None, 0, || {}));
        Workload::new(ledger, killer).register(&engine, Kind::Mixed.by(0)).unwrap();
        engine.launch().unwrap();
        engine
    }
}

fn body(entry: Entry) -> Option<(String, String)> {
    match entry {
        Entry::Body { workflow, step, .. } => Some((workflow, step)),
        Entry::Saw { .. } => None,
    }
}

impl Worker {
    /// Waits until the worker's output has a line that begins with `start`.
    pub(crate) fn wait_for(&self, start: &str) {
        self.wait_for_one_of(&[start]);
    }

    /// Waits until the worker's output has a line that begins with one of these texts. Returns the text.
    pub(crate) fn wait_for_one_of<'a>(&self, starts: &[&'a str]) -> &'a str {
        let _waiting = watch::waiting(format!("a worker to say one of {starts:?}"));
        std::iter::from_fn(|| self.said.recv_timeout(PATIENCE).ok())
            .find_map(|said| starts.iter().copied().find(|start| said.starts_with(start)))
            .unwrap_or_else(|| panic!("the worker ended without saying one of {starts:?}"))
    }

    /// Gives the worker a line.
    pub(crate) fn go(&mut self) {
        writeln!(self.process.stdin().unwrap(), "go").unwrap();
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.process.signal(signal).unwrap();
    }
}

impl Ended {
    pub(crate) fn was_killed(&self) -> bool {
        self.signal == Some(SIGKILL)
    }

    /// The kinds of the writes in the last commit that the worker began.
    pub(crate) fn last_commit(&self) -> Vec<String> {
        let last = self.lines.iter().rev().find_map(|line| line.strip_prefix("commit "));
        last.map(|line| line.split(' ').skip(1).map(str::to_owned).collect()).unwrap_or_default()
    }
}
