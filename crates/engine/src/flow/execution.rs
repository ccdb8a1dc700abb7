//! One execution of a workflow: who it is, whether it goes on, and the order of its operations.
//!
//! It is shared by the context of the workflow's function and by the operations that have begun. So it can still be
//! asked when that function has returned.
//!
//! Does not know: how anything is waited for, codecs, SQL.

use std::borrow::Cow;
#[cfg(feature = "tokio")]
use std::sync::atomic::AtomicBool;
#[cfg(feature = "tokio")]
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::flow::core::{Core, Run};
use crate::flow::history::History;
use crate::flow::operation::{Begun, Entry, Place, Replayed};
use crate::flow::sequence::Sequence;
use crate::flow::waits::Waits;
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
    pub(crate) waits: Waits,
    /// The first operation that was dropped before its end.
    #[cfg(feature = "tokio")]
    dropped: Mutex<Option<(StepId, String)>>,
    /// The function has returned.
    #[cfg(feature = "tokio")]
    returned: AtomicBool,
}

/// An operation that has begun, until it ends.
pub(crate) struct Open(Arc<Execution>);

impl Open {
    pub(crate) fn new(execution: &Arc<Execution>) -> Self {
        execution.waits.opened(1);
        Self(execution.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The others may be all that is waited for now. A body whose execution has ended is to be looked at.
        if self.0.waits.closed() || self.0.ended().is_some() {
            self.0.run.signal.raise();
        }
    }
}

/// An operation of an async function, which is to come to its end.
#[cfg(feature = "tokio")]
pub(crate) struct ToTheEnd {
    open: Open,
    step: StepId,
    name: String,
    done: bool,
}

#[cfg(feature = "tokio")]
impl ToTheEnd {
    /// `Some` if a place was taken since `before`: an operation without a place may be dropped.
    pub(crate) fn since(execution: &Arc<Execution>, before: StepId, name: &str) -> Option<Self> {
        if execution.last_step() == before {
            return None;
        }
        let step = StepId(before.0 + 1);
        Some(Self { open: Open::new(execution), step, name: name.to_owned(), done: false })
    }

    pub(crate) fn finish(mut self) {
        self.done = true;
    }
}

#[cfg(feature = "tokio")]
impl Drop for ToTheEnd {
    fn drop(&mut self) {
        if !self.done {
            lock(&self.open.0.dropped).get_or_insert((self.step, std::mem::take(&mut self.name)));
        }
    }
}

/// Why no further operation happens in this execution. Once set it stays, also when the function ignores the error.
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
        Arc::new(Self {
            core,
            run,
            name,
            attempt,
            sequence: Mutex::new(Sequence::fresh()),
            ended: Mutex::default(),
            waits: Waits::default(),
            #[cfg(feature = "tokio")]
            dropped: Mutex::default(),
            #[cfg(feature = "tokio")]
            returned: AtomicBool::new(false),
        })
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

    /// Sets the records of earlier runs. To be called before the first operation.
    pub(crate) fn replay(&self, history: History) {
        *lock(&self.sequence) = Sequence::replaying(history);
    }

    /// Begins the next operation, which has this name: it is recorded already, or it is to happen now.
    pub(crate) fn begin(self: &Arc<Self>, name: impl Into<Cow<'static, str>>) -> Result<Entry> {
        #[cfg(feature = "tokio")]
        self.refuse_if_returned()?;
        self.refuse_if_ended()?;
        #[cfg(feature = "tokio")]
        self.refuse_if_dropped()?;
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

    /// Nothing more happens in it: a context that was moved elsewhere is of no use from here on.
    #[cfg(feature = "tokio")]
    pub(crate) fn has_returned(&self) {
        self.returned.store(true, Ordering::SeqCst);
    }

    /// The step id that was taken last.
    #[cfg(feature = "tokio")]
    pub(crate) fn last_step(&self) -> StepId {
        lock(&self.sequence).last()
    }

    /// Once its outcome is recorded it owns its workflow no more, which others may tell it before it is gone.
    #[cfg(feature = "tokio")]
    fn refuse_if_returned(&self) -> Result<()> {
        if self.returned.load(Ordering::SeqCst) && self.ended().is_none() {
            return Err(Error::Stopped { workflow: self.workflow().clone(), reason: Stop::Returned });
        }
        Ok(())
    }

    /// An operation that was dropped before its end is no outcome that a replay could know.
    #[cfg(feature = "tokio")]
    fn refuse_if_dropped(&self) -> Result<()> {
        let Some((step, name)) = lock(&self.dropped).clone() else { return Ok(()) };
        Err(self.end(Ended::Faulty(Error::Dropped { workflow: self.workflow().clone(), step, name })))
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

    /// Ends the execution and says why it lost its workflow: it was cancelled, another execution has it, or its row was
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
