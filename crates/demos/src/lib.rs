//! What the examples share: arguments, a directory for their state, a story of what happens, chaos, and the
//! decision whether to go on with an earlier run or to start one.
//!
//! Each example is a binary in `src/bin/` with its workflow on top. [`run`] does the rest:
//!
//! 1. opens the system database and the application database in the example's directory;
//! 2. lets the example register its workflows, and launches the engine, which takes up what an earlier process
//!    left behind;
//! 3. adopts a pending run, or starts one when there is none;
//! 4. tells how it ended, in words or as one JSON object.
//!
//! Exit codes: 0 for success, 1 for a workflow that ended otherwise, 2 for wrong arguments, 3 when it could not
//! run, 130 when it was interrupted. A crash ends by a signal.

mod chaos;
mod finish;
mod journal;
pub mod profile;
mod state;
mod story;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, FromArgMatches, Parser};
use engine::{Engine, Handle, Workflow, WorkflowFilter, WorkflowStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Key, Store};

pub use chaos::Chaos;
pub use finish::Counts;
use finish::Finish;
use journal::Journal;
use state::State;
pub use state::now;
use story::Story;

/// How long a demo that is told to stop waits for its running steps.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What an example is.
pub struct Example {
    /// `ex1` to `ex7`.
    pub name: &'static str,
    /// One line: what it teaches.
    pub teaches: &'static str,
    /// The shape of its users table.
    pub key: Key,
    /// How many batches it has, if it has batches; otherwise each step is told.
    pub batches: Option<u64>,
    /// What to take home, told at the end.
    pub lesson: Option<&'static str>,
}

/// Arguments that every example takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where the example keeps its state [default: target/demos/NAME]
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// The system database [default: sqlite:DIR/system.db]
    #[arg(long, env = "DBOS_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Failures and crashes follow from this and from how often the program ran in its directory
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Forget earlier runs first
    #[arg(long)]
    fresh: bool,
    /// Tell the story on stderr, and print one JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
}

#[derive(Parser)]
#[command(disable_help_subcommand = true)]
struct Cli<A: Args> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    own: A,
}

/// A run of an example.
pub struct Demo {
    /// Open, not launched.
    pub engine: Engine,
    /// Where its files go.
    pub dir: std::path::PathBuf,
    store: Arc<Store>,
    chaos: Arc<Chaos>,
    story: Arc<Story>,
}

/// What the workflows of an example work with. It holds no engine, because the engine holds the workflows.
pub struct App<O> {
    /// The application database.
    pub store: Arc<Store>,
    /// Failures on demand.
    pub chaos: Arc<Chaos>,
    /// The example's own arguments.
    pub options: O,
}

/// Parses the arguments, lets `register` make the workflow, runs it, and tells how it ended.
pub fn run<A, O>(
    example: &'static Example,
    register: impl FnOnce(&Demo, A) -> anyhow::Result<Workflow<(), O>>,
) -> ExitCode
where
    A: Args,
    O: Serialize + DeserializeOwned + Clone + Into<Counts>,
{
    let command = Cli::<A>::command().name(example.name).about(example.teaches);
    let matches = command.get_matches();
    let cli = Cli::<A>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let json = cli.common.json;
    match play(example, cli, register) {
        Ok(code) => code,
        Err(error) => {
            let told = story::one_line(&format!("{error:#}"));
            eprintln!("{}: {told}", example.name);
            if json {
                finish::print_json(&serde_json::json!({ "example": example.name, "error": told }));
            }
            ExitCode::from(3)
        }
    }
}

fn play<A, O>(
    example: &'static Example,
    cli: Cli<A>,
    register: impl FnOnce(&Demo, A) -> anyhow::Result<Workflow<(), O>>,
) -> anyhow::Result<ExitCode>
where
    A: Args,
    O: Serialize + DeserializeOwned + Clone + Into<Counts>,
{
    let start = Instant::now();
    let state = State::open(example, &cli.common)?;
    let journal = Arc::new(Journal::open(&state.journal())?);
    let run = journal.begin_run()?;
    let story = Arc::new(Story::new(example, cli.common.json, journal.clone()));
    start_logging(&story);
    chaos::forbid_core_files();
    story.open(&state, cli.common.seed, run);

    let engine = Engine::options()
        .app(example.name)
        .executor(example.name)
        .observer(story.clone())
        .open(&state.database_url)?;
    let store = Store::open(&state.users_db(), example.key)?;
    store.users(|users| users.create())?;
    let chaos = Arc::new(Chaos::new(cli.common.seed, run, story.clone()));
    let demo = Demo { engine, store: Arc::new(store), chaos, dir: state.dir.clone(), story: story.clone() };
    let workflow = register(&demo, cli.own)?;
    stop_on_signals(&demo.engine, &story)?;

    let (handle, outcome) = demo.adopt_or_start(&workflow)?;
    let finish =
        Finish { example, demo: &demo, journal: &journal, wall: start.elapsed(), json: cli.common.json };
    let code = finish.tell(handle.id(), &outcome)?;
    demo.engine.shutdown(STOP_DEADLINE);
    Ok(code)
}

impl Demo {
    /// What to hand to the workflows.
    pub fn app<O>(&self, options: O) -> Arc<App<O>> {
        Arc::new(App { store: self.store.clone(), chaos: self.chaos.clone(), options })
    }

    /// Goes on with the run that an earlier process left pending; starts one when there is none, or when that one
    /// is parked.
    fn adopt_or_start<O: DeserializeOwned + Serialize>(
        &self,
        workflow: &Workflow<(), O>,
    ) -> anyhow::Result<(Handle<O>, engine::Result<O>)> {
        let pending = WorkflowFilter::new()
            .name(workflow.name())
            .status(WorkflowStatus::Pending)
            .status(WorkflowStatus::Enqueued)
            .status(WorkflowStatus::Delayed)
            .newest_first()
            .limit(1);
        let left = self.engine.list(&pending)?;
        self.engine.launch()?;
        if let Some(info) = left.first() {
            let progress = self.engine.progress(&info.id)?;
            self.story.adopts(&info.id, &progress);
            let handle = self.engine.retrieve::<O>(info.id.as_str())?;
            let outcome = handle.result();
            if !matches!(outcome, Err(engine::Error::RecoveryAttemptsExceeded { .. })) {
                return Ok((handle, outcome));
            }
            self.story.parked(&info.id);
        }
        let handle = workflow.start(&self.engine, ())?;
        self.story.starts(handle.id());
        let outcome = handle.result();
        Ok((handle, outcome))
    }
}

/// INT and TERM: no new work, running steps end and are recorded, the rest is for the next start.
fn stop_on_signals(engine: &Engine, story: &Arc<Story>) -> anyhow::Result<()> {
    let (engine, story) = (engine.clone(), story.clone());
    ctrlc::set_handler(move || {
        story.stopping();
        engine.shutdown(STOP_DEADLINE);
    })?;
    Ok(())
}

/// Warnings of the engine, above the progress bar. `RUST_LOG` says more.
fn start_logging(story: &Arc<Story>) {
    use std::io::Write as _;
    let env = env_logger::Env::default().default_filter_or("error");
    let target = env_logger::Target::Pipe(Box::new(story::LogPipe(story.clone())));
    let format = |buffer: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        let time = now().format("%H:%M:%S%.3f");
        writeln!(buffer, "{time} {:<5} {}", record.level(), story::one_line(&record.args().to_string()))
    };
    // A second engine in the same process would find the logger there; that is fine.
    let _ = env_logger::Builder::from_env(env).target(target).format(format).try_init();
}

/// A probability between 0 and 1, for arguments.
///
/// # Errors
/// A text that says what is wrong.
pub fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("a probability lies between 0 and 1, for example 0.4".to_owned()),
    }
}
