//! Questions about workflows, and the rows that answer them. Plain data.

use crate::clock::Timestamp;
use crate::error::Failure;
use crate::id::{StepId, WorkflowId};
use crate::status::WorkflowStatus;

/// Which workflows to list or count. Every condition narrows; none means all of this application.
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
    /// All workflows of this application, oldest first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those in this state. Called again, it adds a state. [`WorkflowStatus::Unknown`] means all that this program
    /// does not know.
    #[must_use]
    pub fn status(mut self, status: WorkflowStatus) -> Self {
        self.statuses.push(status);
        self
    }

    /// Only runs of the workflow registered under this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only those whose id starts with this text, taken literally.
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

    /// Only those created at this time or later.
    #[must_use]
    pub fn created_from(mut self, from: impl Into<Timestamp>) -> Self {
        self.created_from = Some(from.into());
        self
    }

    /// Only those created before this time.
    #[must_use]
    pub fn created_before(mut self, before: impl Into<Timestamp>) -> Self {
        self.created_before = Some(before.into());
        self
    }

    /// At most this many.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Skips this many first.
    #[must_use]
    pub fn offset(mut self, offset: u32) -> Self {
        self.offset = offset;
        self
    }

    /// Newest first; workflows created in the same millisecond are ordered by id.
    #[must_use]
    pub fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// Also those of other applications in the same database.
    #[must_use]
    pub fn all_applications(mut self) -> Self {
        self.all_applications = true;
        self
    }
}

/// One workflow as it stands in the database.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WorkflowInfo {
    /// Its id.
    pub id: WorkflowId,
    /// The name it was registered under.
    pub name: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// How often an executor took it up since it started or was resumed: 1 for a run that never crashed.
    pub attempts: u32,
    /// The executor that has it or had it last.
    pub executor: Option<String>,
    /// The workflow that started it.
    pub parent: Option<WorkflowId>,
    /// Application it belongs to; none for a row that anyone may claim.
    pub application: Option<String>,
    /// Version of the program that runs it.
    pub version: Option<String>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When its row changed last.
    pub updated_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// When it wakes up, if it is `DELAYED` until a time.
    pub delayed_until: Option<Timestamp>,
    /// Encoded input, as recorded.
    pub input: Option<String>,
    /// Encoded output, as recorded.
    pub output: Option<String>,
    /// What it ended with instead of an output.
    pub failure: Option<Failure>,
    /// What of its row could not be read, as `COLUMN holds VALUE`; empty for a sound row. Such a number is missing
    /// above (or zero), such a text is shown as SQL writes it.
    pub unreadable: Vec<String>,
}

/// What a column holds that should hold something else. Long values are cut.
pub(crate) fn held(column: &str, value: &str) -> String {
    format!("{column} holds {}", brief(value, 80))
}

/// The start of a text, in one line of a log.
pub(crate) fn brief(text: &str, chars_max: usize) -> String {
    let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let shown: String = text.chars().take(chars_max).map(visible).collect();
    if text.chars().nth(chars_max).is_some() { format!("{shown}..") } else { shown }
}

/// One durable operation of a workflow as it is recorded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepRecord {
    /// Its place in the workflow.
    pub step_id: StepId,
    /// Name of the step, or of the operation (`DBOS.sleep`), or of the child workflow.
    pub name: String,
    /// Encoded output, as recorded.
    pub output: Option<String>,
    /// The error it ended with.
    pub failure: Option<Failure>,
    /// The workflow it started or waited for.
    pub child: Option<WorkflowId>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it was recorded; for a sleep, when it ends.
    pub completed_at: Option<Timestamp>,
    /// How the output is written down.
    pub serialization: Option<String>,
}

/// How far a workflow has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Where it stands.
    pub status: WorkflowStatus,
    /// How often an executor took it up.
    pub attempts: u32,
    /// How many durable operations it has recorded.
    pub steps_recorded: u64,
    /// Name of the last of them.
    pub last_step: Option<String>,
    /// How many workflows it has started.
    pub children: u64,
    /// How many of those have ended.
    pub children_done: u64,
}
