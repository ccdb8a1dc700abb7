//! One run of an example: open, adopt or start, wait, tell.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Engine, Handle, Workflow, WorkflowFilter, WorkflowId, WorkflowStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::Store;

use crate::chaos::{Chaos, forbid_core_files};
use crate::finish::{Counts, Finish};
use crate::journal::Journal;
use crate::profile::Profile;
use crate::state::{State, now};
use crate::story::{LogPipe, Story, one_line};
use crate::{App, Common, Example};

/// How long a demo that is told to stop waits for its running steps.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// A run of an example.
pub struct Demo {
    /// Open, not launched.
    pub engine: Engine,
    pub(crate) example: &'static Example,
    pub(crate) store: Arc<Store>,
    pub(crate) story: Arc<Story>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) json: bool,
    pub(crate) began: Instant,
    chaos: Arc<Chaos>,
    profile: Option<Arc<Profile>>,
    dir: PathBuf,
}

impl Demo {
    pub(crate) fn open(
        example: &'static Example,
        common: &Common,
        profile: Option<Arc<Profile>>,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let state = State::open(example, common)?;
        let journal = Arc::new(Journal::open(&state.journal())?);
        let run = journal.begin_run()?;
        let story = Arc::new(Story::new(example, common.json, journal.clone()));
        start_logging(&story);
        forbid_core_files();
        story.open(&state, common.seed, run);

        let mut options = Engine::options().app(example.name).executor(example.name).observer(story.clone());
        if let Some(profile) = &profile {
            options = options.observer(profile.clone());
        }
        let engine = options.open(&state.database_url)?;
        let users_db = Arc::new(Store::open(&state.users_db(), example.key)?);
        users_db.users(|users| users.create())?;
        let chaos = Arc::new(Chaos::new(common.seed, run, story.clone()));
        let (json, dir) = (common.json, state.dir);
        Ok(Self { engine, example, store: users_db, story, journal, json, began, chaos, profile, dir })
    }

    /// What to hand to the workflows.
    pub fn app<O>(&self, options: O) -> Arc<App<O>> {
        Arc::new(App { store: self.store.clone(), chaos: self.chaos.clone(), options })
    }

    pub(crate) fn play<O>(&self, workflow: &Workflow<(), O>) -> anyhow::Result<ExitCode>
    where
        O: Serialize + DeserializeOwned + Clone + Into<Counts>,
    {
        self.stop_on_signals()?;
        let waiting = Instant::now();
        let (handle, outcome) = self.adopt_or_start(workflow)?;
        if let Some(profile) = &self.profile {
            let profile = profile.finish(workflow.name(), waiting.elapsed());
            profile.write(&self.dir)?;
            self.story.profile(&profile.table(), &self.dir);
        }
        let code = Finish { demo: self }.tell(handle.id(), &outcome)?;
        self.engine.shutdown(STOP_DEADLINE);
        Ok(code)
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
        if let Some(info) = left.first() {
            self.story.adopts(&info.id, &self.engine.progress(&info.id)?);
            self.note_workflow(&info.id);
        }
        self.engine.launch()?;
        if let Some(info) = left.first() {
            let handle = self.engine.retrieve::<O>(info.id.as_str())?;
            let outcome = handle.result();
            if !matches!(outcome, Err(engine::Error::RecoveryAttemptsExceeded { .. })) {
                return Ok((handle, outcome));
            }
            self.story.parked(&info.id);
        }
        let handle = workflow.start(&self.engine, ())?;
        self.story.starts(handle.id());
        self.note_workflow(handle.id());
        let outcome = handle.result();
        Ok((handle, outcome))
    }

    fn note_workflow(&self, id: &WorkflowId) {
        self.journal.note("workflow", &serde_json::json!({ "id": id.as_str() }));
    }

    /// INT and TERM: no new work, running steps end and are recorded, the rest is for the next start.
    fn stop_on_signals(&self) -> anyhow::Result<()> {
        let (engine, story) = (self.engine.clone(), self.story.clone());
        ctrlc::set_handler(move || {
            story.stopping();
            engine.shutdown(STOP_DEADLINE);
        })?;
        Ok(())
    }
}

/// Errors of the engine, above the progress bar. `RUST_LOG` says more.
fn start_logging(story: &Arc<Story>) {
    use std::io::Write as _;
    let env = env_logger::Env::default().default_filter_or("error");
    let target = env_logger::Target::Pipe(Box::new(LogPipe(story.clone())));
    let format = |buffer: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        let time = now().format("%H:%M:%S%.3f");
        writeln!(buffer, "{time} {:<5} {}", record.level(), one_line(&record.args().to_string()))
    };
    // A logger that is there already stays.
    let _ = env_logger::Builder::from_env(env).target(target).format(format).try_init();
}
