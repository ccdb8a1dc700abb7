//! Every durable change is a value: a [`Write`] goes in, a [`Verdict`] comes out.
//!
//! Two rules hold for each of them. Its commit is conditional: on the owner's token where it is the write of an
//! execution, on the state of the row elsewhere. And it can be repeated: if the first try was committed and the
//! answer lost, the second finds its own traces and changes nothing more.

use std::sync::Arc;

use super::names::{MARK_OF_A_RACE, mark_of_message, mark_of_workflow};
use super::{Identity, Outcome, Owner, Served, StepRow};
use crate::pure::clock::Timestamp;
use crate::pure::id::{ExecutorId, OwnerToken, StepId, WorkflowId};
use crate::pure::queue::QueueOptions;
use crate::pure::status::WorkflowStatus;

/// Every kind of durable write of the engine.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// A row for a new workflow, unless its id is taken.
    StartWorkflow(NewWorkflow),
    /// A row for a new child, together with the record of the parent's step that started it.
    StartChild { parent: Owner, step: StepRow, child: NewWorkflow },
    /// The outcome of a step.
    RecordStep { owner: Owner, step: StepRow },
    /// The outcome of a workflow. Wakes a parent that waits for it without a thread.
    Settle { owner: Owner, outcome: Outcome, at: Timestamp },
    /// Leaves the thread until something happens.
    Suspend { owner: Owner, until: Wake, at: Timestamp },
    /// The verdict of a race, and what its winner records: both if there is no verdict yet, or neither.
    Decide { owner: Owner, verdict: StepRow, winner: Winner },
    /// Gives a claimed workflow back, to be claimed at once or from a time on.
    Release { owner: Owner, attempt: RecoveryAttempt, again_at: Option<Timestamp>, at: Timestamp },
    /// Takes waiting workflows: the one door to execution.
    Claim(Claim),
    /// `DELAYED` workflows of the application whose time has come become claimable.
    WakeDue { identity: Arc<Identity>, now: Timestamp },
    /// These `DELAYED` workflows become claimable, if the awaited end or message is there.
    WakeFulfilled { waiting: Vec<WorkflowId>, now: Timestamp },
    /// The workflows of a dead executor become claimable.
    Requeue { executor: ExecutorId, at: Timestamp },
    /// Workflows that wait, since then or longer, and that no living program knows, end with an error that says so.
    RefuseUnknown(Unknown),
    /// Workflows refused that way, and known to this program, become claimable again.
    Revive { identity: Arc<Identity>, known: Vec<String>, at: Timestamp },
    /// This program's version becomes known to clients.
    RegisterVersion { identity: Arc<Identity>, at: Timestamp },
    /// So does a queue that it serves, with its limits.
    RegisterQueue { identity: Arc<Identity>, queue: Arc<str>, options: QueueOptions, at: Timestamp },
    /// Stops a workflow and its descendants, and records the step of the execution that stops them.
    CancelChild { owner: Owner, step: StepRow, child: WorkflowId, at: Timestamp },
    /// Stops a workflow, and its descendants if asked to.
    Cancel { workflow: WorkflowId, children: bool, at: Timestamp },
    /// Makes a workflow claimable, from any status but a final one.
    Resume { workflow: WorkflowId, token: OwnerToken, at: Timestamp },
    /// A message to a workflow, and the step that sent it if a workflow did.
    Send { message: NewMessage, sender: Option<(Owner, StepRow)> },
    /// Takes the oldest waiting message, and records the step that took it.
    Receive { owner: Owner, topic: String, step: StepRow },
}

impl Write {
    /// The workflow of the execution that makes the write, and the workflow that it starts.
    #[cfg(feature = "postgres")]
    pub(crate) fn workflows(&self) -> impl Iterator<Item = &WorkflowId> {
        let (by, started) = match self {
            Self::StartWorkflow(new) => (None, Some(&new.id)),
            Self::StartChild { parent, child, .. } => (Some(parent), Some(&child.id)),
            Self::RecordStep { owner, .. }
            | Self::Settle { owner, .. }
            | Self::Suspend { owner, .. }
            | Self::Release { owner, .. }
            | Self::Decide { owner, .. }
            | Self::CancelChild { owner, .. }
            | Self::Receive { owner, .. }
            | Self::Send { sender: Some((owner, _)), .. } => (Some(owner), None),
            _ => (None, None),
        };
        by.map(|owner| &owner.workflow).into_iter().chain(started)
    }

    /// Tells what came true when this was committed with this verdict: waits for it in this process are over. Of a workflow
    /// that has ended it tells the outcome, where the write has it.
    pub(crate) fn fulfils(&self, verdict: &Verdict, mut tell: impl FnMut(&Awaited, Option<&Outcome>)) {
        match self {
            Self::Settle { owner, outcome, .. } if matches!(verdict, Verdict::Done | Verdict::Woke) => {
                tell(&Awaited::Settled(owner.workflow.clone()), Some(outcome));
            }
            Self::Send { message, .. } if matches!(verdict, Verdict::Done | Verdict::Woke) => {
                tell(&Awaited::Message(message.destination.clone(), message.topic.clone()), None);
            }
            Self::Cancel { .. } | Self::CancelChild { .. } | Self::RefuseUnknown(_) => {
                if let Verdict::Changed(ended) = verdict {
                    for workflow in ended {
                        tell(&Awaited::Settled(workflow.clone()), None);
                    }
                }
            }
            Self::StartWorkflow(_)
            | Self::StartChild { .. }
            | Self::RecordStep { .. }
            | Self::Settle { .. }
            | Self::Suspend { .. }
            | Self::Decide { .. }
            | Self::Release { .. }
            | Self::Claim(_)
            | Self::WakeDue { .. }
            | Self::WakeFulfilled { .. }
            | Self::Requeue { .. }
            | Self::Revive { .. }
            | Self::RegisterVersion { .. }
            | Self::RegisterQueue { .. }
            | Self::Resume { .. }
            | Self::Send { .. }
            | Self::Receive { .. } => {}
        }
    }

    /// Whether something may be claimed, or goes on, since this was committed with this verdict.
    pub(crate) fn leaves_work(&self, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Woke => true,
            Verdict::Changed(changed) if changed.is_empty() => false,
            _ => self.makes_claimable(),
        }
    }

    /// Whether the write may leave a workflow that can be claimed, or that wakes up at a time.
    fn makes_claimable(&self) -> bool {
        match self {
            Self::StartWorkflow(new) | Self::StartChild { child: new, .. } => new.claimed_by.is_none(),
            Self::RecordStep { .. }
            | Self::Settle { .. }
            | Self::Decide { .. }
            | Self::Claim(_)
            | Self::RegisterVersion { .. }
            | Self::RegisterQueue { .. }
            | Self::Send { .. }
            | Self::Receive { .. } => false,
            Self::Suspend { .. }
            | Self::Release { .. }
            | Self::WakeDue { .. }
            | Self::WakeFulfilled { .. }
            | Self::Requeue { .. }
            | Self::RefuseUnknown(_)
            | Self::Revive { .. }
            | Self::CancelChild { .. }
            | Self::Cancel { .. }
            | Self::Resume { .. } => true,
        }
    }
}

/// The kinds by name, and their makers. A write of an execution is bound to its token, and has its rows in the tests of
/// the fences.
macro_rules! kinds {
    ($($kind:ident $name:literal by $who:ident,)*) => {
        impl Write {
            /// For logs, tests and the bench.
            pub(crate) fn kind(&self) -> &'static str {
                match self {
                    $(Self::$kind { .. } => $name,)*
                }
            }
        }

        /// The kinds that an execution makes.
        #[cfg(any(test, feature = "testing"))]
        pub(crate) fn fenced() -> impl Iterator<Item = &'static str> {
            [$(($name, kinds!(@$who))),*].into_iter().filter_map(|(kind, fenced)| fenced.then_some(kind))
        }
    };
    (@execution) => { true };
    (@anybody) => { false };
}

kinds! {
    StartWorkflow "start_workflow" by anybody,
    StartChild "start_child" by execution,
    RecordStep "record_step" by execution,
    Settle "settle" by execution,
    Suspend "suspend" by execution,
    Decide "decide" by execution,
    Release "release" by execution,
    Claim "claim" by anybody,
    WakeDue "wake_due" by anybody,
    WakeFulfilled "wake_fulfilled" by anybody,
    Requeue "requeue" by anybody,
    RefuseUnknown "refuse_unknown" by anybody,
    Revive "revive" by anybody,
    RegisterVersion "register_version" by anybody,
    RegisterQueue "register_queue" by anybody,
    CancelChild "cancel_child" by execution,
    Cancel "cancel" by anybody,
    Resume "resume" by anybody,
    Send "send" by execution,
    Receive "receive" by execution,
}

/// The values of a new row in `workflow_status`.
#[derive(Debug, Clone)]
pub(crate) struct NewWorkflow {
    pub(crate) id: WorkflowId,
    pub(crate) name: Arc<str>,
    pub(crate) input: String,
    pub(crate) parent: Option<WorkflowId>,
    pub(crate) app: Arc<str>,
    /// Without one, the newest program of the application takes it.
    pub(crate) version: Option<Arc<str>>,
    /// Marks the row as ours, so that a repeated start knows its own.
    pub(crate) token: OwnerToken,
    /// Started as claimed, to run at once; otherwise it waits for a worker.
    pub(crate) claimed_by: Option<ExecutorId>,
    /// The queue in which it waits; the engine's own queue if none is named.
    pub(crate) queue: Option<Arc<str>>,
    pub(crate) priority: u32,
    pub(crate) at: Timestamp,
}

/// The workflows of unknown names, and the error that they end with.
#[derive(Debug, Clone)]
pub(crate) struct Unknown {
    /// With all names that are known.
    pub(crate) served: Served,
    pub(crate) error: String,
    pub(crate) waiting_since: Timestamp,
    pub(crate) at: Timestamp,
}

/// The executor of a claim, its queue, and its number of workflows.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) served: Arc<Served>,
    pub(crate) queue: String,
    /// How many of the queue's workflows may run at once, everywhere.
    pub(crate) concurrency: Option<u32>,
    /// How many of them may have begun and not ended, everywhere.
    pub(crate) in_flight: Option<u32>,
    pub(crate) token: OwnerToken,
    pub(crate) limit: usize,
    pub(crate) at: Timestamp,
}

/// Whether the attempt that a claim has counted still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecoveryAttempt {
    Counted,
    GivenBack,
}

/// What a workflow can wait for, besides a time. It is the key of a waiter in this process, the mark in the row of a
/// workflow that waits without a thread, and the condition under which that wait is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Awaited {
    /// The end of this workflow.
    Settled(WorkflowId),
    /// A message of this topic to this workflow.
    Message(WorkflowId, String),
}

impl Awaited {
    pub(super) fn mark(&self) -> String {
        match self {
            Self::Settled(workflow) => mark_of_workflow(workflow.as_str()),
            Self::Message(_, topic) => mark_of_message(topic),
        }
    }
}

/// What ends a wait without a thread: whichever of these is first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake {
    pub(crate) at: Option<Timestamp>,
    pub(crate) awaited: Vec<Awaited>,
    /// The workflow is in a race: it can go on although some of what it waits for never comes.
    pub(crate) any: bool,
}

impl Wake {
    /// The marks of all that is awaited, as JSON: a string for one, an array for several.
    pub(super) fn marks(&self) -> Option<String> {
        let mut marks: Vec<_> = self.awaited.iter().map(Awaited::mark).collect();
        if self.any {
            marks.push(MARK_OF_A_RACE.to_owned());
        }
        match marks.as_slice() {
            [] => None,
            [mark] => Some(serde_json::json!(mark).to_string()),
            marks => Some(serde_json::json!(marks).to_string()),
        }
    }

    /// The ids of the workflows whose end is awaited.
    pub(super) fn workflows(&self) -> Vec<&str> {
        self.awaited
            .iter()
            .filter_map(|awaited| match awaited {
                Awaited::Settled(workflow) => Some(workflow.as_str()),
                Awaited::Message(..) => None,
            })
            .collect()
    }

    /// The topics of the messages that are awaited.
    pub(super) fn topics(&self) -> Vec<&str> {
        self.awaited
            .iter()
            .filter_map(|awaited| match awaited {
                Awaited::Message(_, topic) => Some(topic.as_str()),
                Awaited::Settled(_) => None,
            })
            .collect()
    }
}

/// What the winner of a race records.
#[derive(Debug, Clone)]
pub(crate) enum Winner {
    /// Nothing: the time of a sleep was recorded before the wait, and an operation that could not begin has no record.
    Unrecorded,
    /// The outcome of a step or of a child.
    Step(StepRow),
    /// That it took the oldest waiting message.
    Receive { topic: String, step: StepRow },
}

/// The values of a new row in `notifications`.
#[derive(Debug, Clone)]
pub(crate) struct NewMessage {
    /// Unique: a message with the same id is sent once.
    pub(crate) id: String,
    pub(crate) destination: WorkflowId,
    pub(crate) topic: String,
    pub(crate) text: String,
    pub(crate) at: Timestamp,
}

/// The result of a write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It is in the database.
    Done,
    /// It is in the database, and a workflow that waited for it without a thread can go on.
    Woke,
    /// The workflow id is taken, by this workflow.
    AlreadyThere(Existing),
    /// The writer does not own the workflow (any more). Nothing was written.
    NotOwner,
    /// The condition it was bound to does not hold. Nothing was written.
    Refused(Refusal),
    /// The claimed workflows, oldest first.
    Claimed(Vec<ClaimedRow>),
    /// The workflows that it changed.
    Changed(Vec<WorkflowId>),
    /// The message taken, with its serialization.
    Received { text: String, serialization: Option<String> },
}

/// A workflow that was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Existing {
    pub(crate) same_input: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The workflow id belongs to a run of another workflow.
    OtherWorkflow { name: String },
    /// There is no such workflow.
    NoSuchWorkflow,
    /// The new child's id is that of a workflow from which its parent descends.
    Ancestor,
    /// The workflow has a status that does not allow the write.
    Stands(WorkflowStatus),
    /// The end or the message for which the workflow would have waited is there.
    NoNeedToWait,
    /// No message is waiting.
    NoMessage,
    /// Another branch of the race has won.
    Decided,
    /// Another outcome stands in the place of this step.
    OtherStep { recorded: String },
    /// The name of the queue belongs to another application.
    OtherApplication { name: String },
}

/// A workflow that this executor now owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimedRow {
    pub(crate) workflow: WorkflowId,
    pub(crate) name: String,
    pub(crate) attempts: u32,
    /// No statement can name its id: the claim has ended the workflow, and no executor runs it.
    pub(crate) unreadable: bool,
}

impl StepRow {
    /// Whether a row found in the place of `self` is an earlier try of the same write.
    pub(crate) fn is_same_write(&self, found: &Self) -> bool {
        self.name == found.name
            && self.output == found.output
            && self.error == found.error
            && self.child == found.child
    }
}

/// Nothing is recorded below step 1.
pub(crate) const BEFORE_FIRST_STEP: StepId = StepId(0);
