//! A worker: a process that runs workflows until it is killed, or told to finish.

use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use engine::testing::Moment;
use engine::{Engine, EngineOptions, Handle, WorkflowFilter, WorkflowId, WorkflowStatus};

use crate::at_once::LATE;
use crate::database::Database;
use crate::kinds::Kind;
use crate::ledger::Ledger;
use crate::points::{Killer, Point, die};
use crate::workload::{Seen, Workflows, Workload};

/// The message that comes to a race from outside.
pub const OUTSIDE: &str = "from outside";

/// What a worker is to do.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Where the ledgers are, and the database if none is named
    #[arg(long)]
    pub dir: PathBuf,
    /// A database on a PostgreSQL server
    #[arg(long)]
    pub database_url: Option<String>,
    /// Start workflows of all kinds with these numbers: FROM..TO
    #[arg(long, value_parser = range)]
    pub start: Option<std::ops::Range<u64>>,
    /// Start the workflow that does everything under this id
    #[arg(long)]
    pub everything: Option<String>,
    /// Kill this process at this crash point
    #[arg(long)]
    pub kill_at: Option<Point>,
    /// How often to pass the point of --kill-at or --message-at before acting
    #[arg(long, default_value_t = 0)]
    pub skip: u64,
    /// Send a message to the workflow with this id, before the process is killed
    #[arg(long, requires = "message_at")]
    pub message_to: Option<String>,
    /// Send the message at this crash point, after --skip passes
    #[arg(long)]
    pub message_at: Option<Point>,
    /// At the crash point, wait for a line on standard input instead of dying
    #[arg(long)]
    pub hold: bool,
    /// Say what is in each commit before it is made
    #[arg(long)]
    pub tell_commits: bool,
    /// How long the lease of this worker lasts (PostgreSQL only)
    #[arg(long, default_value = "short")]
    pub lease: LeaseLength,
    /// Say what the workflow that does everything returned
    #[arg(long)]
    pub tell_result: bool,
    /// How long a workflow waits on its thread before it leaves it, in milliseconds
    #[arg(long, default_value_t = 5000)]
    pub suspend_after: u64,
    /// Wait for a line on standard input before the launch
    #[arg(long)]
    pub wait_for_go: bool,
    /// End when no workflow is left; otherwise run until killed
    #[arg(long)]
    pub finish: bool,
    /// How many workflows of either kind run at once
    #[arg(long, default_value_t = 16)]
    pub workers: usize,
    /// Whether its workflows are plain functions or async ones
    #[arg(long, default_value = "mixed")]
    pub kind: Kind,
    /// Seed that decides which workflows are async, for --kind mixed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("write FROM..TO")?;
    let number = |text: &str| text.parse::<u64>().map_err(|e| e.to_string());
    Ok(number(from)?..number(to)?)
}

/// The effects ledger of a directory.
pub fn ledger(dir: &Path) -> PathBuf {
    dir.join("effects.log")
}

/// The time within which other processes take over from a dead one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LeaseLength {
    /// A second, the least that the engine allows. A busy machine may make a live process lose it.
    Short,
    /// The default of the engine.
    Default,
    /// Half a minute: no machine is so busy that a live process loses its lease. After the start of the server such a
    /// process waits as long before it takes over.
    Long,
}

impl LeaseLength {
    /// Gives these options a lease of this length.
    pub fn of(self, options: EngineOptions) -> EngineOptions {
        match self {
            Self::Short => options.takeover_within(Duration::from_secs(1)),
            Self::Default => options,
            Self::Long => options.takeover_within(Duration::from_secs(30)),
        }
    }
}

/// The body of a worker process.
///
/// # Errors
/// The error of the engine. A worker that fails is a finding.
pub fn work(args: &WorkerArgs) -> anyhow::Result<()> {
    let killer = Arc::new(Killer::new(args.kill_at, args.skip, if args.hold { hold } else { die }));
    let (hook, tell_commits) = (killer.clone(), args.tell_commits);
    let database = Database::named(&args.dir, args.database_url.as_deref());
    let sender = sender(args, &database)?;
    let options = Engine::options()
        .app("torture")
        .workers_max(args.workers)
        .tasks_max(args.workers)
        .suspend_after(Duration::from_millis(args.suspend_after))
        .commit_hook(Arc::new(move |point| {
            if tell_commits && point.moment == Moment::Before {
                let _ = say(&format!("commit {} {}", point.number, point.kinds.join(" ")));
            }
            sender.at_commit(point);
            hook.at_commit(point)
        }));
    let engine = database.open(args.lease.of(options))?;
    let workload = Workload::new(Ledger::open(&ledger(&args.dir))?, killer);
    let workflows = workload.register(&engine, args.kind.by(args.seed))?;
    if args.wait_for_go {
        say("ready")?;
        io::stdin().lock().lines().next().context("the judge went away")??;
    }
    engine.launch()?;
    say("launched")?;
    let everything = start(args, &engine, &workflows)?;
    say("started")?;
    if args.tell_result
        && let Some(handle) = everything
    {
        say(&format!("result {}", handle.result()?.join(",")))?;
    }
    if args.finish {
        wait_until_nothing_is_left(&engine)?;
        engine.shutdown(Duration::from_secs(30));
        say("finished")?;
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}

/// Sends a message where it is told to, over an engine of its own.
fn sender(args: &WorkerArgs, database: &Database) -> anyhow::Result<Killer> {
    let Some(to) = &args.message_to else { return Ok(Killer::new(None, 0, || {})) };
    let (engine, to) = (database.open(Engine::options().app("torture"))?, WorkflowId::new(to)?);
    let is_done = AtomicBool::new(false);
    let send = move || {
        if !is_done.swap(true, Ordering::SeqCst)
            && let Err(error) = engine.send(&to, LATE, OUTSIDE.to_owned())
        {
            let _ = say(&format!("no message to {to}: {error}"));
        }
    };
    Ok(Killer::new(args.message_at, args.skip, send))
}

/// Starts the workflows. Each start that returned is acknowledged on standard output before the next. Returns the
/// handle of the workflow with all kinds of operations.
fn start(args: &WorkerArgs, engine: &Engine, workflows: &Workflows) -> anyhow::Result<Option<Handle<Seen>>> {
    let mut everything = None;
    if let Some(id) = &args.everything {
        everything = Some(workflows.all().start_as(engine, id, 0)?);
        say(&format!("ack {id}"))?;
    }
    for number in args.start.clone().into_iter().flatten() {
        let id = format!("w{number}");
        workflows.of(number).start_as(engine, &id, number)?;
        say(&format!("ack {id}"))?;
    }
    Ok(everything)
}

fn wait_until_nothing_is_left(engine: &Engine) -> anyhow::Result<()> {
    let left = WorkflowFilter::new()
        .status(WorkflowStatus::Pending)
        .status(WorkflowStatus::Enqueued)
        .status(WorkflowStatus::Delayed)
        .limit(1);
    while let Some(info) = engine.list(&left)?.pop() {
        // This waits for the end alone. The audit looks at the outcome.
        let _ = engine.retrieve::<serde_json::Value>(info.id.as_str())?.wait(Duration::from_secs(60));
    }
    Ok(())
}

/// Holds this process until a line tells it to go on.
fn hold() {
    let _ = say("held");
    io::stdin().lock().lines().next();
}

/// Writes one line, at once.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
