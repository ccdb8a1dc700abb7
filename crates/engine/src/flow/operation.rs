//! One durable operation as a value: begun, ended, recorded.
//!
//! ```text
//!   Execution::begin ──> Entry::Replayed ──> the recorded outcome
//!                   └──> Entry::Fresh(Begun) ──> Recording ──(commit)──> Pending::conclude ──> Recorded
//! ```
//!
//! The effect of a replay, a conflict or an observer on an operation is decided here, once for all kinds. Who commits
//! and who waits meanwhile is decided by the driver.
//!
//! Does not know: threads, SQL, what an operation does.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::flow::execution::{Ended, Execution, Unrecorded};
use crate::machines::committer::CommitError;
use crate::pure::clock::Timestamp;
use crate::pure::codec::{self, Codec};
use crate::pure::error::{Error, Failure, Result};
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::observer::Event;
use crate::sysdb::write::Refusal;
use crate::sysdb::{Owner, StepRow, Verdict, Write};

/// Where an operation stands in its workflow: its id, its name, and when it began.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) step_id: StepId,
    pub(crate) name: Cow<'static, str>,
    pub(crate) started_at: Timestamp,
}

impl Place {
    /// The record of the operation, as yet without an outcome.
    pub(crate) fn row(&self, completed_at: Timestamp) -> StepRow {
        StepRow {
            step_id: self.step_id,
            name: self.name.clone(),
            output: None,
            error: None,
            child: None,
            started_at: Some(self.started_at),
            completed_at: Some(completed_at),
            serialization: None,
        }
    }
}

/// The state of an operation's place: recorded, or free.
pub(crate) enum Entry {
    Replayed(Replayed),
    Fresh(Begun),
}

impl Entry {
    pub(crate) fn place(&self) -> &Place {
        match self {
            Self::Replayed(recorded) => &recorded.place,
            Self::Fresh(begun) => &begun.place,
        }
    }
}

/// An operation that an earlier run recorded.
pub(crate) struct Replayed {
    pub(crate) place: Place,
    pub(crate) row: StepRow,
    pub(crate) execution: Arc<Execution>,
}

impl Replayed {
    /// The result that the operation had when it ran: an equal value or an equal error.
    pub(crate) fn outcome<T: DeserializeOwned>(&self) -> Result<T> {
        read_outcome(&self.execution, &self.place, &self.row)
    }

    /// The recorded error, if the operation failed.
    pub(crate) fn error(&self) -> Option<Error> {
        self.row.failure().map(|failure| failure.into_step_error(&self.place.name))
    }

    /// Ends the execution if the record is about another workflow than this one.
    pub(crate) fn is_about(&self, workflow: &WorkflowId) -> Result<()> {
        match &self.row.child {
            // Programs of others may write an empty text for none.
            Some(recorded) if recorded != workflow && !recorded.as_str().is_empty() => {
                Err(self.misfit(&format!("workflow {recorded}"), &format!("workflow {workflow}")))
            }
            _ => Ok(()),
        }
    }

    /// Ends the execution: the record is of an operation with the same name that did something else.
    pub(crate) fn misfit(&self, recorded: &str, asked: &str) -> Error {
        self.execution.not_deterministic(self.place.step_id, recorded, asked)
    }
}

/// An operation without a record. It owns its place, so it may live beside others.
#[derive(Clone)]
pub(crate) struct Begun {
    pub(crate) place: Place,
    pub(crate) execution: Arc<Execution>,
}

impl Begun {
    /// The record of the operation, as yet without an outcome.
    pub(crate) fn row(&self) -> StepRow {
        self.place.row(self.execution.now())
    }

    /// The record of a success with this encoded output.
    pub(crate) fn success(&self, output: String, codec: &'static str) -> StepRow {
        StepRow { output: Some(output), serialization: Some(codec.into()), ..self.row() }
    }

    /// The outcome that an earlier try of this run recorded, whose answer was lost.
    pub(crate) fn outcome_of<T: DeserializeOwned>(&self, row: &StepRow) -> Result<T> {
        read_outcome(&self.execution, &self.place, row)
    }

    /// Ends the operation with this record.
    pub(crate) fn end(self, row: StepRow) -> Recording {
        let owner = self.execution.run.owner.clone();
        let success = row.error.is_none();
        Recording { pending: Pending { begun: self, success }, write: Write::RecordStep { owner, step: row } }
    }

    /// Ends the operation with a failure, and gives the error as a replay returns it: a text that is cut is cut for
    /// both.
    pub(crate) fn fail(self, failure: Failure) -> (Recording, Error) {
        let row = StepRow {
            error: Some(codec::encode_failure(&failure)),
            serialization: Some(Codec::PortableJson.name().into()),
            ..self.row()
        };
        let error = row.failure().unwrap_or(failure).into_step_error(&self.place.name);
        (self.end(row), error)
    }

    /// Ends the operation with a write of its own kind, which holds the record.
    pub(crate) fn end_by(self, row: StepRow, write: impl FnOnce(Owner, StepRow) -> Write) -> Recording {
        let write = write(self.execution.run.owner.clone(), row);
        Recording { pending: Pending { begun: self, success: true }, write }
    }

    /// Tells the observers that the record is in the database.
    pub(crate) fn tell_recorded(&self, success: bool) {
        let (workflow, Place { step_id, name, .. }) = (self.execution.workflow(), &self.place);
        self.execution.tell(|| Event::StepRecorded { workflow, step_id: *step_id, name, success });
    }
}

/// The outcome of an operation, on its way into the database.
pub(crate) struct Recording {
    write: Write,
    pending: Pending,
}

impl Recording {
    /// The recording with another write in the place of its own.
    pub(crate) fn map_write(self, write: impl FnOnce(Write) -> Write) -> Self {
        Self { write: write(self.write), ..self }
    }

    /// The write for the committer, and the operation that its answer concludes.
    pub(crate) fn into_parts(self) -> (Write, Pending) {
        (self.write, self.pending)
    }
}

/// An operation whose write is being committed.
pub(crate) struct Pending {
    begun: Begun,
    success: bool,
}

/// The result of an operation's write.
pub(crate) enum Recorded {
    /// The record is in the database.
    Done(Verdict),
    /// The condition of the write does not hold. Nothing was written, and the operation may still end otherwise.
    Refused(Begun, Refusal),
}

impl Pending {
    /// The result that follows from the committer's answer.
    pub(crate) fn conclude(self, answer: Result<Verdict, CommitError>) -> Result<Recorded, Unrecorded> {
        let execution = &self.begun.execution;
        match answer {
            Ok(Verdict::NotOwner) => Err(Unrecorded::Lost),
            Ok(Verdict::Refused(Refusal::OtherStep { recorded })) => {
                let Place { step_id, name, .. } = &self.begun.place;
                Err(Unrecorded::Ended(execution.not_deterministic(*step_id, &recorded, name)))
            }
            Ok(Verdict::Refused(refusal)) => Ok(Recorded::Refused(self.begun, refusal)),
            Ok(verdict) => {
                self.begun.tell_recorded(self.success);
                Ok(Recorded::Done(verdict))
            }
            Err(error) => Err(Unrecorded::Ended(execution.commit_failed(&error))),
        }
    }
}

/// A value that cannot be decoded ends the execution: the program does not fit the record.
fn read_outcome<T: DeserializeOwned>(execution: &Execution, place: &Place, row: &StepRow) -> Result<T> {
    if let Some(failure) = row.failure() {
        return Err(failure.into_step_error(&place.name));
    }
    let what = format!("recorded output of step {} ({})", place.step_id, place.name);
    codec::decode(&what, row.serialization.as_deref(), row.output.as_deref())
        .map_err(|error: Error| execution.end(Ended::Faulty(error)))
}
