//! Questions about workflows, and the rows that answer them. Plain data.

use std::fmt;

use crate::pure::clock::Timestamp;
use crate::pure::error::Failure;
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::status::WorkflowStatus;

/// Which workflows to list or count. Every condition narrows the list; without conditions it has all of this
/// application.
///
/// ```
/// use engine::{WorkflowFilter, WorkflowStatus};
/// let stuck = WorkflowFilter::new()
///     .name("checkout")
///     .status(WorkflowStatus::Pending)
///     .status(WorkflowStatus::Enqueued)
///     .limit(20);
/// # let _ = stuck;
/// ```
#[derive(Debug, Clone, Default)]
pub struct WorkflowFilter {
    pub(crate) statuses: Vec<WorkflowStatus>,
    pub(crate) name: Option<String>,
    pub(crate) id_prefix: Option<String>,
    pub(crate) parent: Option<WorkflowId>,
    pub(crate) created_from: Option<Timestamp>,
    pub(crate) created_before: Option<Timestamp>,
    pub(crate) limit: Option<u32>,
    pub(crate) offset: u32,
    pub(crate) newest_first: bool,
    pub(crate) all_applications: bool,
}

impl WorkflowFilter {
    /// All workflows of this application, oldest first. Workflows that one caller started in order are listed in order,
    /// also within one millisecond.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only workflows of this status. Call it again to add another status. [`WorkflowStatus::Unknown`] means every
    /// status that this program does not know.
    #[must_use]
    pub fn status(mut self, status: WorkflowStatus) -> Self {
        self.statuses.push(status);
        self
    }

    /// Only runs of the workflow that is registered under this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only workflows whose id starts with this text, taken literally.
    #[must_use]
    pub fn id_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.id_prefix = Some(prefix.into());
        self
    }

    /// Only the children of this workflow.
    #[must_use]
    pub fn parent(mut self, parent: WorkflowId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Only workflows created at this time or later.
    #[must_use]
    pub fn created_from(mut self, from: impl Into<Timestamp>) -> Self {
        self.created_from = Some(from.into());
        self
    }

    /// Only workflows created before this time.
    #[must_use]
    pub fn created_before(mut self, before: impl Into<Timestamp>) -> Self {
        self.created_before = Some(before.into());
        self
    }

    /// At most this many workflows.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Skips this many workflows first.
    #[must_use]
    pub fn offset(mut self, offset: u32) -> Self {
        self.offset = offset;
        self
    }

    /// Lists the newest workflow first.
    #[must_use]
    pub fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// Includes workflows of other applications in the same database.
    #[must_use]
    pub fn all_applications(mut self) -> Self {
        self.all_applications = true;
        self
    }
}

/// One workflow, as it stands in the database.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkflowInfo {
    /// The workflow's id.
    pub id: WorkflowId,
    /// The name under which it is registered.
    pub name: String,
    /// Its status.
    pub status: WorkflowStatus,
    /// How often an executor took it up since it started or was resumed: 1 for a run that never crashed.
    pub attempts: u32,
    /// The executor that has it, or had it last.
    pub executor: Option<String>,
    /// The workflow that started it.
    pub parent: Option<WorkflowId>,
    /// The application to which it belongs; `None` for a row that any application may claim.
    pub application: Option<String>,
    /// The version of the program that runs it.
    pub version: Option<String>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// When it wakes up, if it is `DELAYED` until a time.
    pub delayed_until: Option<Timestamp>,
    /// Encoded input, as recorded.
    pub input: Option<String>,
    /// Encoded output, as recorded.
    pub output: Option<String>,
    /// The error with which it ended, if it ended with one.
    pub failure: Option<Failure>,
    /// The columns of its row that could not be read, as `COLUMN holds VALUE`; empty for a sound row. A number that
    /// could not be read is missing above, or zero. A text that could not be read is shown as SQL writes it.
    pub unreadable: Vec<String>,
}

/// Tells that a column holds a value of the wrong kind. Long values are cut.
pub(crate) fn held(column: &str, value: &str) -> String {
    format!("{column} holds {}", brief(value, 80))
}

/// The start of a text, as one line of a log.
pub(crate) fn brief(text: &str, chars_max: usize) -> String {
    let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let shown: String = text.chars().take(chars_max).map(visible).collect();
    if text.chars().nth(chars_max).is_some() { format!("{shown}..") } else { shown }
}

/// One durable operation of a workflow, as it is recorded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepRecord {
    /// The place of the operation in its workflow.
    pub step_id: StepId,
    /// The name of the step, of the operation (`DBOS.sleep`), or of the child workflow.
    pub name: String,
    /// Encoded output, as recorded.
    pub output: Option<String>,
    /// The error with which it ended, if it ended with one.
    pub failure: Option<Failure>,
    /// The workflow that it started or awaited.
    pub child: Option<WorkflowId>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it was recorded; for a sleep, when the sleep ends.
    pub completed_at: Option<Timestamp>,
    /// The codec of the output.
    pub serialization: Option<String>,
}

/// How far a workflow has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The workflow's status.
    pub status: WorkflowStatus,
    /// How often an executor took it up.
    pub attempts: u32,
    /// How many durable operations it has recorded.
    pub steps_recorded: u64,
    /// The name of the last recorded operation.
    pub last_step: Option<String>,
    /// How many workflows it has started.
    pub children: u64,
    /// How many of these workflows have ended.
    pub children_done: u64,
}

/// Open workflows that no living executor can take up, from [`crate::Engine::waiting_for_nobody`]. `Display` says what
/// is missing, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stranded {
    /// The part that is missing.
    pub absent: Absent,
    /// The application of the workflows; `None` when any application may claim them.
    pub application: Option<String>,
    /// The version for which the workflows wait. For workflows that name no version, it is the newest of their
    /// application. `None` where the application is absent.
    pub version: Option<String>,
    /// The queue in which they wait, where the queue or the name is absent.
    pub queue: Option<String>,
    /// The name of the workflows, where the name is absent.
    pub name: Option<String>,
    /// How many workflows there are.
    pub count: u64,
    /// When the oldest of them was started.
    pub oldest: Timestamp,
}

/// The part that every living executor lacks of those it needs to take a workflow up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Absent {
    /// No executor of the application lives.
    Application,
    /// Executors of the application live, but none of the version.
    Version,
    /// Executors of the version live, but none serves the queue, or the queue was removed.
    Queue,
    /// Executors serve the queue, but none registers the workflow's name.
    Name,
}

impl Stranded {
    /// The description of the workflows, without their count.
    pub(crate) fn what(&self) -> String {
        let mut what = String::from(if self.count == 1 { "open workflow" } else { "open workflows" });
        let mut add = |part: &str, name: &Option<String>| {
            if let Some(name) = name {
                what.push_str(part);
                what.push_str(name);
            }
        };
        add(" named ", &self.name);
        add(" of version ", &self.version);
        add(" of application ", &self.application);
        add(" in queue ", &self.queue);
        what
    }
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, oldest, .. } = self;
        let (app, version) = (self.application.as_deref(), self.version.as_deref());
        let (app, version) = (app.unwrap_or("NAME"), version.unwrap_or("VERSION"));
        write!(f, "{count} {}: ", self.what())?;
        match self.absent {
            Absent::Application => {
                write!(f, "no living executor runs that application; start a program with app(\"{app}\")")
            }
            Absent::Version => write!(
                f,
                "no living executor runs that version; start a program with version(\"{version}\") until the workflows \
                 have ended, or cancel them. A new program with the same steps may declare that version"
            ),
            Absent::Queue => write!(
                f,
                "no living executor serves that queue, or it was removed; start a program that calls register_queue \
                 with its name, or cancel them"
            ),
            Absent::Name => write!(
                f,
                "no living executor of the queue registers that workflow name; start a program that registers it, or \
                 cancel the workflows"
            ),
        }?;
        write!(f, ". The oldest was started at {oldest}")
    }
}
