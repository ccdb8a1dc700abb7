//! The judge: starts workers, kills them at random, lets the last worker finish, audits.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster::{Cluster, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

use crate::audit::{self, Breach, Verdict};
use crate::database::Database;
use crate::kinds::Kind;

/// The work of a judge.
#[derive(Debug, Clone, clap::Args)]
pub struct JudgeArgs {
    /// Seed of the times and victims of the kills
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many processes to kill
    #[arg(long, default_value_t = 300)]
    pub kills: u64,
    /// How many worker processes share the database
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub processes: u8,
    /// Directory for the database and the ledgers; it is kept [default: a temporary directory, kept only after a finding]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The database to torture. A server is started for the torture, and crashes now and then as well
    #[arg(long, value_enum, default_value = "sqlite")]
    pub backend: Backend,
    /// Whether the workers run plain functions, async ones, or both [default: chosen by the seed for each worker]
    #[arg(long)]
    pub kind: Option<Kind>,
}

/// The database to torture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// A file.
    Sqlite,
    /// A private server.
    Postgres,
}

/// The number of waiting workflows beyond which new workers start none.
const BACKLOG_MAX: u64 = 150;
const STARTS_EACH: u64 = 30;
/// A worker lives up to this long before the next kill.
const BETWEEN_KILLS_MS: u64 = 80;
/// A worker lives up to this long, where a lease that runs out tells of a death: there must be time for some takeovers.
const BETWEEN_KILLS_BY_LEASE_MS: u64 = 250;
/// Longer than a lease, so that a worker that is stopped for it finds its workflows taken.
const LONG_STOP_MS: std::ops::Range<u64> = 1_000..2_500;
/// How long workflows wait before they leave memory: not at all, less than some waits of the workload, and longer.
const SUSPEND_AFTER_MS: [u64; 3] = [0, 50, 5_000];
/// How long the last worker may take for the rest of the workflows.
const FINISH_WITHIN: Duration = Duration::from_secs(180);

/// A worker process, and the thread that reads its output.
pub struct WorkerProcess {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl WorkerProcess {
    /// Starts a worker. Its lines of output are sent to `said`.
    ///
    /// # Errors
    /// The error of the system.
    pub fn spawn(program: &Path, args: &[String], said: Sender<String>) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg("worker")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let lines = stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines());
            lines.map_while(Result::ok).for_each(|line| drop(said.send(line)));
        });
        Ok(Self { child, reader: Some(reader) })
    }

    /// The worker's standard input.
    pub fn stdin(&mut self) -> Option<&mut std::process::ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// Sends the worker a signal.
    ///
    /// # Errors
    /// The error of the system.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Kills the worker and reads the rest of its output.
    ///
    /// # Errors
    /// The error of the system.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.end().map(drop)
    }

    /// Waits for the worker's end and reads the rest of its output.
    ///
    /// # Errors
    /// The error of the system.
    pub fn end(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(status)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ids of the starts that were acknowledged so far.
pub fn acknowledged(said: &Receiver<String>, acks: &mut BTreeSet<String>) {
    acks.extend(said.try_iter().filter_map(|line| line.strip_prefix("ack ").map(str::to_owned)));
}

/// Makes the whole torture.
///
/// # Errors
/// The reason why it could not be made. Its findings are in the verdict.
pub fn judge(args: &JudgeArgs) -> anyhow::Result<Verdict> {
    let temporary = tempfile::Builder::new().prefix("piton-torture-").tempdir()?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    let cluster = match args.backend {
        Backend::Sqlite => None,
        Backend::Postgres => Some(Cluster::start(&Settings::default())?),
    };
    let database = cluster
        .as_ref()
        .map_or_else(|| Database::in_directory(&dir), |cluster| Database::Postgres(cluster.url("torture")));
    audit::prepare(&database)?;
    let mut torture = Torture::new(args, &dir, database, cluster.as_ref())?;
    while torture.verdict.kills < args.kills {
        torture.round()?;
    }
    let verdict = torture.finish()?;
    if !verdict.is_clean() && args.dir.is_none() {
        eprintln!("kept: {}", temporary.keep().display());
    }
    Ok(verdict)
}

struct Torture<'a> {
    args: &'a JudgeArgs,
    dir: &'a Path,
    database: Database,
    /// The server, if it can be crashed.
    cluster: Option<&'a Cluster>,
    program: PathBuf,
    rng: ChaCha12Rng,
    workers: Vec<WorkerProcess>,
    said: (Sender<String>, Receiver<String>),
    acks: BTreeSet<String>,
    next: u64,
    verdict: Verdict,
}

impl<'a> Torture<'a> {
    fn new(
        args: &'a JudgeArgs,
        dir: &'a Path,
        database: Database,
        cluster: Option<&'a Cluster>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            args,
            dir,
            database,
            cluster,
            program: std::env::current_exe()?,
            rng: ChaCha12Rng::seed_from_u64(args.seed),
            workers: Vec::new(),
            said: channel(),
            acks: BTreeSet::new(),
            next: 0,
            verdict: Verdict { seed: args.seed, ..Verdict::default() },
        })
    }

    /// Brings the workers up to their number, waits a random time, kills one. Now and then it stops one instead, or
    /// makes trouble for the server.
    fn round(&mut self) -> anyhow::Result<()> {
        while self.workers.len() < usize::from(self.args.processes) {
            self.spawn()?;
        }
        let between = if self.cluster.is_some() { BETWEEN_KILLS_BY_LEASE_MS } else { BETWEEN_KILLS_MS };
        self.wait(0..between);
        if let Some(cluster) = self.cluster {
            self.trouble(cluster)?;
        }
        let victim = self.rng.random_range(0..self.workers.len());
        if self.rng.random_range(0..10) == 0 {
            self.workers[victim].signal(Signal::SIGSTOP)?;
            self.verdict.stops += 1;
            let is_long = self.cluster.is_some() && self.rng.random_range(0..3) == 0;
            self.wait(if is_long { LONG_STOP_MS } else { 0..2 * BETWEEN_KILLS_MS });
            self.workers[victim].signal(Signal::SIGCONT)?;
            return Ok(());
        }
        self.workers.swap_remove(victim).kill()?;
        self.verdict.kills += 1;
        acknowledged(&self.said.1, &mut self.acks);
        if self.verdict.kills.is_multiple_of(500) {
            eprintln!("{} kills, {} starts acknowledged", self.verdict.kills, self.acks.len());
        }
        Ok(())
    }

    /// Now and then crashes the server, which comes back, or kills one of its connections.
    fn trouble(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        match self.rng.random_range(0..40) {
            0 => {
                cluster.crash()?;
                self.wait(0..BETWEEN_KILLS_BY_LEASE_MS);
                cluster.resume()?;
                self.verdict.server_crashes += 1;
            }
            1..=3 => {
                let one = "SELECT count(pg_terminate_backend(pid)) FROM (
                               SELECT pid FROM pg_stat_activity
                                WHERE datname = current_database() AND pid <> pg_backend_pid()
                                ORDER BY random() LIMIT 1) AS one";
                self.verdict.cut_connections += self.database.number(one)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits a random time until the next kill, and for nothing else. Meanwhile it takes in acknowledgements.
    fn wait(&mut self, millis: std::ops::Range<u64>) {
        let time = Duration::from_micros(self.rng.random_range(millis.start * 1000..millis.end * 1000));
        let start = Instant::now();
        while let Some(left) = time.checked_sub(start.elapsed())
            && let Ok(line) = self.said.1.recv_timeout(left)
        {
            self.acks.extend(line.strip_prefix("ack ").map(str::to_owned));
        }
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let mut args = vec!["--dir".to_owned(), self.dir.display().to_string()];
        args.extend(self.database.arguments());
        args.extend(self.chances());
        if self.waiting()? < BACKLOG_MAX {
            args.extend(["--start".to_owned(), format!("{}..{}", self.next, self.next + STARTS_EACH)]);
            self.next += STARTS_EACH;
        }
        let worker = WorkerProcess::spawn(&self.program, &args, self.said.0.clone())?;
        self.workers.push(worker);
        Ok(())
    }

    /// The arguments for the next worker's workflows: their kinds, because each kind goes on with workflows that another
    /// began, and how long they wait in memory.
    fn chances(&mut self) -> [String; 6] {
        let by_chance = Kind::ALL[self.rng.random_range(0..Kind::ALL.len())];
        let (kind, seed) = (self.args.kind.unwrap_or(by_chance), self.rng.random::<u64>());
        let suspend_after = SUSPEND_AFTER_MS[self.rng.random_range(0..SUSPEND_AFTER_MS.len())];
        [
            "--kind".to_owned(),
            kind.to_string(),
            "--seed".to_owned(),
            seed.to_string(),
            "--suspend-after".to_owned(),
            suspend_after.to_string(),
        ]
    }

    fn waiting(&self) -> anyhow::Result<u64> {
        let sql = "SELECT count(*) FROM workflow_status WHERE status IN ('PENDING', 'ENQUEUED', 'DELAYED')";
        self.database.number(sql)
    }

    /// Lets the last worker finish, without a kill. The judgement is about the rows that it leaves.
    fn finish(mut self) -> anyhow::Result<Verdict> {
        for worker in self.workers.drain(..) {
            worker.kill()?;
        }
        acknowledged(&self.said.1, &mut self.acks);
        let mut args = ["--dir", &self.dir.display().to_string(), "--finish"].map(str::to_owned).to_vec();
        args.extend(self.database.arguments());
        args.extend(self.chances());
        let (sender, said) = channel();
        let mut last = WorkerProcess::spawn(&self.program, &args, sender)?;
        let finished =
            std::iter::from_fn(|| said.recv_timeout(FINISH_WITHIN).ok()).any(|line| line == "finished");
        if !finished {
            self.verdict.breaches.push((Breach::Stuck, format!("not finished within {FINISH_WITHIN:?}")));
            last.signal(Signal::SIGKILL)?;
        }
        last.end()?;
        self.verdict.acks = self.acks.len();
        self.verdict.breaches.extend(audit::audit(&self.database, self.dir, &self.acks)?);
        self.verdict.count(&self.database, self.dir)?;
        Ok(self.verdict)
    }
}
