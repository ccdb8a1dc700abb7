//! One run of an example: open, adopt or start, wait, tell.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use engine::{Engine, Error, Workflow, WorkflowFilter, WorkflowId, WorkflowInfo, WorkflowStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::Store;

use crate::chaos::{Chaos, forbid_core_files};
use crate::finish::{Counts, Finish};
use crate::journal::Journal;
use crate::profile::Profile;
use crate::state::{Database, State, now};
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
    state: State,
}

impl Demo {
    pub(crate) fn open(
        example: &'static Example,
        common: &Common,
        profile: Option<Arc<Profile>>,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let state = State::open(example, common)?;
        let journal = Journal::open(&state.journal());
        let journal = Arc::new(journal.with_context(|| unwritable(&state))?);
        let story = Arc::new(Story::new(example, common.json, journal.clone()));
        start_logging(&story);
        forbid_core_files();

        let mut options = Engine::options()
            .app(example.name)
            .executor(example.name)
            // A person watches: a crash on a server should not look like a hang.
            .takeover_within(Duration::from_secs(2))
            .observer(story.clone());
        if let Some(profile) = &profile {
            options = options.observer(profile.clone());
        }
        let engine = state.database.open(options)?;
        let users_db = Arc::new(state.open_store(example)?);
        users_db.users(|users| users.create()).map_err(|error| refused(&state, error))?;
        if common.fresh {
            forget_left_behind(example, &engine, &users_db, &state)?;
        }

        stop_on_signals(engine.clone(), story.clone())?;

        // This comes last: a run that cannot begin does not count, and does not change the chaos of the next run.
        let run = journal.begin_run().with_context(|| unwritable(&state))?;
        story.open(&state, common.seed, run);
        let chaos = Arc::new(Chaos::new(common.seed, run, story.clone()));
        let json = common.json;
        Ok(Self { engine, example, store: users_db, story, journal, json, began, chaos, profile, state })
    }

    /// The value to hand to the workflows.
    pub fn app<O>(&self, options: O) -> Arc<App<O>> {
        let table = match &self.state.database {
            Database::OnServer { users, .. } => users.clone(),
            Database::Own(_) | Database::Named(_) => "users".to_owned(),
        };
        let key = self.example.key;
        Arc::new(App { store: self.store.clone(), chaos: self.chaos.clone(), options, table, key })
    }

    pub(crate) fn play<O>(&self, workflow: &Workflow<(), O>) -> anyhow::Result<ExitCode>
    where
        O: Serialize + DeserializeOwned + Clone + Into<Counts>,
    {
        let waiting = Instant::now();
        let mut followed = self.left_behind(workflow)?;
        let outcome = match self.follow(workflow, &mut followed) {
            Ok(Err(Error::ShuttingDown)) | Err(Error::ShuttingDown) => {
                self.engine.shutdown(STOP_DEADLINE);
                return Ok(Finish { demo: self }.tell_stop(followed.as_ref()));
            }
            outcome => outcome?,
        };
        if let Some(profile) = &self.profile {
            let profile = profile.finish(workflow.name(), waiting);
            profile.write(&self.state.dir)?;
            self.story.profile(&profile.table(), &self.state.dir);
        }
        let id = followed.context("no workflow was started")?;
        let code = Finish { demo: self }.tell(&id, &outcome)?;
        self.engine.shutdown(STOP_DEADLINE);
        Ok(code)
    }

    /// The newest run that is not finished, if there is one.
    fn left_behind<O>(&self, workflow: &Workflow<(), O>) -> engine::Result<Option<WorkflowId>> {
        let pending = WorkflowFilter::new()
            .name(workflow.name())
            .status(WorkflowStatus::Pending)
            .status(WorkflowStatus::Enqueued)
            .status(WorkflowStatus::Delayed)
            .newest_first()
            .limit(1);
        let Some(info) = self.engine.list(&pending)?.into_iter().next() else { return Ok(None) };
        if let Some(words) = info.executor.and_then(|executor| self.state.database.served_by(&executor)) {
            self.story.waits_for(&info.id, words);
        } else {
            self.story.adopts(&info.id, &self.engine.progress(&info.id)?);
        }
        self.note_workflow(&info.id);
        Ok(Some(info.id))
    }

    /// Waits for the run that was left behind. Starts a run when there is none, or when that run is parked.
    fn follow<O: DeserializeOwned + Serialize>(
        &self,
        workflow: &Workflow<(), O>,
        followed: &mut Option<WorkflowId>,
    ) -> engine::Result<engine::Result<O>> {
        self.engine.launch()?;
        if let Some(id) = followed.as_ref() {
            let outcome = self.engine.retrieve::<O>(id.as_str())?.result();
            if !matches!(outcome, Err(Error::RecoveryAttemptsExceeded { .. })) {
                return Ok(outcome);
            }
            self.story.parked(id);
            *followed = None;
        }
        let handle = workflow.start(&self.engine, ())?;
        self.story.starts(handle.id());
        self.note_workflow(handle.id());
        *followed = Some(handle.id().clone());
        Ok(handle.result())
    }

    fn note_workflow(&self, id: &WorkflowId) {
        self.journal.note("workflow", &serde_json::json!({ "id": id.as_str() }));
    }
}

impl Drop for Demo {
    /// Both files are closed, although the handler of signals keeps a clone of the engine, and the workflows keep the
    /// users.
    fn drop(&mut self) {
        self.engine.shutdown(Duration::ZERO);
        self.store.leave_one_file();
    }
}

/// Forgets an earlier run in a database that belongs to the user: no unfinished run of this example and no users stay.
/// In a new file there is none of them.
fn forget_left_behind(
    example: &Example,
    engine: &Engine,
    store: &Store,
    state: &State,
) -> anyhow::Result<()> {
    let unfinished = WorkflowFilter::new()
        .status(WorkflowStatus::Pending)
        .status(WorkflowStatus::Enqueued)
        .status(WorkflowStatus::Delayed);
    let mut runs = engine.list(&unfinished)?;
    // The list has rows without an application, too, which are of other programs.
    runs.retain(|run| run.application.as_deref() == Some(example.name));
    let served =
        |run: &&WorkflowInfo| run.executor.as_ref().is_some_and(|id| state.database.served_by(id).is_some());
    if let Some(run) = runs.iter().find(served) {
        bail!(
            "another process is at workflow {}, and --fresh would cancel that workflow. Wait until the process ends, or \
             name another database",
            run.id
        );
    }
    for run in runs {
        engine.cancel(&run.id)?;
    }
    store.users(|users| users.truncate())?;
    Ok(())
}

/// Handles INT and TERM: takes no new work, lets running steps end and be recorded, and leaves the rest to the next
/// start.
fn stop_on_signals(engine: Engine, story: Arc<Story>) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || {
        story.stopping();
        engine.shutdown(STOP_DEADLINE);
    })
}

fn unwritable(state: &State) -> String {
    format!("cannot write the journal {}", state.journal().display())
}

/// The error for a users table that does not fit, with the way out, which only the demos know.
fn refused(state: &State, error: store::Error) -> anyhow::Error {
    match error {
        store::Error::WrongKey { .. } => anyhow!("{error}, or name another directory by --dir"),
        error => anyhow!(error).context(format!("cannot use {}", state.users_place())),
    }
}

/// Logs errors of the engine, above the progress bar. `RUST_LOG` shows more.
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
