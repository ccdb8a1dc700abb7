//! One execution of a workflow: who it is, whether it goes on, and the order of its operations.
//!
//! It is shared by the context of the workflow's function and by the operations that have begun. So it can still be
//! asked when that function has returned.
//!
//! Does not know: how anything is waited for, codecs, SQL.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use crate::flow::core::{Core, Run};
use crate::flow::history::History;
use crate::flow::operation::{Begun, Entry, Place, Replayed};
use crate::flow::sequence::Sequence;
use crate::machines::committer::CommitError;
use crate::pure::clock::Timestamp;
use crate::pure::error::{Error, Result, Stop};
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::observer::Event;
use crate::pure::status::WorkflowStatus;
use crate::pure::sync::lock;
use crate::sysdb::Verdict;

/// One execution of a workflow.
pub(crate) struct Execution {
    pub(crate) core: Arc<Core>,
    pub(crate) run: Arc<Run>,
    pub(crate) name: Arc<str>,
    /// Which run of the workflow this is, from 1 on.
    pub(crate) attempt: u32,
    sequence: Mutex<Sequence>,
    ended: Mutex<Option<Ended>>,
}

/// Why no further operation happens in this execution. Once set it stays, whatever the function does with the
/// error it got.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// Not an outcome: the execution leaves, the workflow goes on later or elsewhere.
    Stopped(Stop),
    /// The program does not fit the record: the workflow ends with this error.
    Faulty(Error),
}

/// Why a write of an operation is not in the database.
pub(crate) enum Unrecorded {
    /// The execution does not own its workflow any more.
    Lost,
    /// The execution has ended with this error.
    Ended(Error),
}

impl Execution {
    pub(crate) fn new(core: Arc<Core>, run: Arc<Run>, name: Arc<str>, attempt: u32) -> Arc<Self> {
        let (sequence, ended) = (Mutex::new(Sequence::fresh()), Mutex::default());
        Arc::new(Self { core, run, name, attempt, sequence, ended })
    }

    pub(crate) fn workflow(&self) -> &WorkflowId {
        self.run.workflow()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.core.options.clock.now()
    }

    pub(crate) fn tell<'e>(&self, event: impl FnOnce() -> Event<'e>) {
        self.core.options.observers.tell(event);
    }

    /// What earlier runs recorded. To be called before the first operation.
    pub(crate) fn replay(&self, history: History) {
        *lock(&self.sequence) = Sequence::replaying(history);
    }

    /// Begins the next operation, which has this name: it is recorded already, or it is to happen now.
    pub(crate) fn begin(self: &Arc<Self>, name: impl Into<Cow<'static, str>>) -> Result<Entry> {
        self.refuse_if_ended()?;
        let (step_id, recorded) = lock(&self.sequence).next();
        let place = Place { step_id, name: name.into(), started_at: self.now() };
        let Some(row) = recorded else {
            return Ok(Entry::Fresh(Begun { place, execution: self.clone() }));
        };
        if row.name != place.name {
            return Err(self.not_deterministic(step_id, &row.name, &place.name));
        }
        self.tell(|| Event::StepReplayed { workflow: self.workflow(), step_id, name: &place.name });
        Ok(Entry::Replayed(Replayed { place, row, execution: self.clone() }))
    }

    /// The first recorded operation that this run has not asked for, with its name.
    pub(crate) fn left_over(&self) -> Option<(StepId, String)> {
        lock(&self.sequence).left_over().map(|row| (row.step_id, row.name.to_string()))
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        lock(&self.ended).clone()
    }

    /// Ends the execution, and gives the error to return. The first end stays.
    pub(crate) fn end(&self, ended: Ended) -> Error {
        match lock(&self.ended).get_or_insert(ended).clone() {
            Ended::Stopped(reason) => Error::Stopped { workflow: self.workflow().clone(), reason },
            Ended::Faulty(error) => error,
        }
    }

    pub(crate) fn not_deterministic(&self, step: StepId, recorded: &str, asked: &str) -> Error {
        let (recorded, asked) = (recorded.to_owned(), asked.to_owned());
        self.end(Ended::Faulty(Error::NonDeterminism {
            workflow: self.workflow().clone(),
            step,
            recorded,
            asked,
        }))
    }

    /// Nothing more happens after the end, and an execution that was told to stop ends here.
    pub(crate) fn refuse_if_ended(&self) -> Result<()> {
        if let Some(ended) = self.ended() {
            return Err(self.end(ended));
        }
        let shutting_down = || self.core.is_stopping().then_some(Stop::ShuttingDown);
        match self.run.stop().or_else(shutting_down) {
            Some(reason) => Err(self.end(Ended::Stopped(reason))),
            None => Ok(()),
        }
    }

    /// Ends the execution because a write got no verdict.
    pub(crate) fn commit_failed(&self, error: &CommitError) -> Error {
        let reason = match error {
            CommitError::Closed => Stop::ShuttingDown,
            CommitError::Refused(error) => Stop::Database(error.to_string().into()),
            CommitError::Unanswered { reason, .. } => Stop::Database(reason.as_str().into()),
        };
        self.end(Ended::Stopped(reason))
    }

    /// Ends the execution because the database's verdict on a write makes no sense. It is a fault of the engine.
    pub(crate) fn misanswered(&self, what: &str, verdict: &Verdict) -> Error {
        let reason = format!("{what} was answered by {verdict:?}");
        self.end(Ended::Stopped(Stop::Database(reason.into())))
    }

    /// The error of an operation that was not recorded. Reads the database if the workflow was lost.
    pub(crate) fn explain(&self, unrecorded: Unrecorded) -> Error {
        match unrecorded {
            Unrecorded::Lost => self.lost(),
            Unrecorded::Ended(error) => error,
        }
    }

    /// Ends the execution and says why it lost its workflow: it was cancelled, somebody else has it, or its row was
    /// deleted. Reads the database.
    pub(crate) fn lost(&self) -> Error {
        let reason = match self.core.reader.outcome(self.workflow()) {
            Ok(None) => Stop::Deleted,
            Ok(Some(found)) if found.status == WorkflowStatus::Cancelled => Stop::Cancelled,
            Ok(Some(_)) | Err(_) => Stop::NotOwner,
        };
        self.end(Ended::Stopped(reason))
    }
}
