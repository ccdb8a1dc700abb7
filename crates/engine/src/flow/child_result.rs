//! How a parent awaits the outcome of a workflow, and the result or error that it gets.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::flow::core::Core;
use crate::flow::drive::{Flow, Waited};
use crate::flow::execution::{Ended, Execution};
use crate::flow::operation::{Begun, Entry, Replayed};
use crate::flow::waits::Wait;
use crate::machines::waiter::Subscription;
use crate::pure::codec::{self, Codec};
use crate::pure::due::Due;
use crate::pure::error::{
    AWAITED_CANCELLED, AWAITED_PARKED, CIRCULAR_WAIT, Error, Failure, NOT_FOUND, Result, Stop,
};
use crate::pure::id::WorkflowId;
use crate::pure::status::WorkflowStatus;
use crate::sysdb::write::Awaited;
use crate::sysdb::{Outcome, StepRow, Write};
/// The name under which the outcome of a child is recorded in its parent, as DBOS has it.
pub(super) const GET_RESULT: &str = "DBOS.getResult";

impl Flow {
    /// The output of the child. If it is not recorded, waits for it, in memory for at most `patience`.
    pub(crate) fn child_result<O: DeserializeOwned>(
        &self,
        child: &WorkflowId,
        patience: Option<Duration>,
    ) -> impl Future<Output = Result<O>> + use<O> {
        let entry = self.begin(GET_RESULT);
        let (flow, child) = (self.clone(), child.clone());
        async move { flow.finish_child_result(entry?, child, patience).await }
    }

    pub(super) async fn finish_child_result<O: DeserializeOwned>(
        &self,
        entry: Entry,
        child: WorkflowId,
        patience: Option<Duration>,
    ) -> Result<O> {
        let begun = match entry {
            Entry::Replayed(recorded) => return result_before(&recorded, &child),
            Entry::Fresh(begun) => begun,
        };
        let patience = patience.unwrap_or(self.core().options.suspend_after);
        let row = match self.await_outcome(&child, patience).await? {
            Ok(outcome) => outcome_row(begun.row(), &outcome),
            Err(failure) => failure_row(begun.row(), &child, &failure),
        };
        self.record_result(begun, row, &child).await
    }

    /// Records an outcome of a child that is at hand, and returns the result.
    pub(super) async fn record_child_result<O: DeserializeOwned>(
        &self,
        child: &WorkflowId,
        outcome: &Outcome,
    ) -> Result<O> {
        match self.begin(GET_RESULT)? {
            Entry::Replayed(recorded) => result_before(&recorded, child),
            Entry::Fresh(begun) => {
                let row = outcome_row(begun.row(), outcome);
                self.record_result(begun, row, child).await
            }
        }
    }

    async fn record_result<O: DeserializeOwned>(
        &self,
        begun: Begun,
        row: StepRow,
        child: &WorkflowId,
    ) -> Result<O> {
        let result = result_of(&row, self.execution.workflow(), child);
        self.record(begun.end(row)).await?;
        result
    }

    /// Waits for the end of a workflow: in memory for a while, as a row after that. A failure is that of the wait:
    /// nothing can end it.
    async fn await_outcome(
        &self,
        workflow: &WorkflowId,
        patience: Duration,
    ) -> Result<Result<Outcome, Failure>> {
        let (core, signal) = (self.core(), self.execution.run.signal.clone());
        let awaited = Awaited::Settled(workflow.clone());
        let subscription = Arc::new(core.hub.subscribe(awaited.clone(), signal));
        let patience = Due::after(&core.options.clock, patience);
        loop {
            let calls = subscription.calls();
            if let Some(outcome) = subscription.take_success() {
                return Ok(Ok(outcome));
            }
            let (of, subscribed) = (workflow.clone(), subscription.clone());
            match self.call(move |execution| ended(&execution.core, &of, &subscribed)).await {
                Ok(Some(outcome)) => return Ok(Ok(outcome)),
                Ok(None) => {}
                Err(error @ Error::NotFound { .. }) => {
                    return Ok(Err(Failure::by_engine(NOT_FOUND, error.to_string())));
                }
                // Not the workflow's failure, so not its outcome.
                Err(error) => {
                    let reason = match error {
                        Error::Database { statement, source } => format!("{statement}: {source}"),
                        other => other.to_string(),
                    };
                    return Err(self.execution.end(Ended::Stopped(Stop::Database(reason.into()))));
                }
            }
            let wait = Wait { awaited: Some(awaited.clone()), due: None, any: self.branch().is_some() };
            if let Waited::InACircle(others) = self.wait(wait, Some((&subscription, calls)), patience).await?
            {
                return Ok(Err(self.circular_wait(workflow, others)));
            }
        }
    }

    fn circular_wait(&self, awaited: &WorkflowId, others: Vec<WorkflowId>) -> Failure {
        let data: Vec<_> = others.iter().map(WorkflowId::as_str).collect();
        let data = serde_json::json!(data);
        let (workflow, awaited) = (self.execution.workflow().clone(), awaited.clone());
        let error = Error::CircularWait { workflow, awaited, others };
        Failure::by_engine(CIRCULAR_WAIT, error.to_string()).with_data(data)
    }

    /// The workflows through which an awaited one waits for this workflow, as far as they wait without a thread. A look
    /// that fails has seen nothing; the workflow looks again when it is woken. A race goes on without this branch.
    pub(super) async fn circle_of(&self, wait: &Wait) -> Option<Vec<WorkflowId>> {
        let Some(Awaited::Settled(awaited)) = wait.awaited.clone().filter(|_| !wait.any) else { return None };
        let look = {
            let awaited = awaited.clone();
            move |execution: &Execution| execution.core.reader.waits_of(&awaited).unwrap_or_default()
        };
        let waits = self.call(look).await;
        path(&waits, &awaited, self.execution.workflow())
    }

    /// Wakes this workflow again, which has left, if it waits in a circle. The others have left at the same time, so none
    /// has seen it before. The workflow that sees the whole circle looks again, and then it is told.
    pub(super) async fn wake_out_of_a_circle(&self) {
        for wait in self.execution.waits.left_with() {
            if self.circle_of(&wait).await.is_some() {
                let (waiting, now) = (vec![self.execution.workflow().clone()], self.execution.now());
                // Failures are logged by the committer.
                let _ = self.commit(Write::WakeFulfilled { waiting, now }).await;
                return;
            }
        }
    }
}

/// What lies on a way from one workflow to another along these waits.
fn path(waits: &[(WorkflowId, WorkflowId)], from: &WorkflowId, to: &WorkflowId) -> Option<Vec<WorkflowId>> {
    let mut came_from = HashMap::from([(from, None)]);
    let mut next = VecDeque::from([from]);
    while let Some(waiter) = next.pop_front() {
        for (_, awaited) in waits.iter().filter(|(id, _)| id == waiter) {
            came_from.entry(awaited).or_insert_with(|| {
                next.push_back(awaited);
                Some(waiter)
            });
        }
    }
    let mut way = Vec::new();
    let mut last = (*came_from.get(to)?)?;
    while let Some(before) = came_from[last] {
        way.push(last.clone());
        last = before;
    }
    way.reverse();
    Some(way)
}

/// The record of an outcome in the workflow that waited for it.
fn outcome_row(row: StepRow, outcome: &Outcome) -> StepRow {
    let id = &outcome.workflow;
    let failure = match outcome.status {
        WorkflowStatus::Success => {
            let (output, serialization) = (outcome.output.clone(), outcome.serialization.clone());
            return StepRow { output, serialization, child: Some(id.clone()), ..row };
        }
        WorkflowStatus::Cancelled => {
            Failure::by_engine(AWAITED_CANCELLED, format!("workflow {id} was cancelled"))
        }
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            Failure::by_engine(AWAITED_PARKED, outcome.failure().message())
        }
        WorkflowStatus::Error
        | WorkflowStatus::Pending
        | WorkflowStatus::Enqueued
        | WorkflowStatus::Delayed
        | WorkflowStatus::Unknown => outcome.failure().of_the_work(),
    };
    failure_row(row, id, &failure)
}

/// The record of a wait that ended with an error.
fn failure_row(row: StepRow, awaited: &WorkflowId, failure: &Failure) -> StepRow {
    let error = Some(codec::encode_failure(failure));
    let serialization = Some(Codec::PortableJson.name().into());
    StepRow { error, serialization, child: Some(awaited.clone()), ..row }
}

/// The result that an earlier run recorded in this place.
fn result_before<O: DeserializeOwned>(recorded: &Replayed, awaited: &WorkflowId) -> Result<O> {
    recorded.is_about(awaited)?;
    result_of(&recorded.row, recorded.execution.workflow(), awaited)
}

/// The result of such a record for the workflow that waited.
fn result_of<O: DeserializeOwned>(row: &StepRow, waiting: &WorkflowId, awaited: &WorkflowId) -> Result<O> {
    let Some(failure) = row.failure() else {
        return output_of(awaited, row.serialization.as_deref(), row.output.as_deref());
    };
    let workflow = awaited.clone();
    Err(if failure.is(AWAITED_CANCELLED) {
        Error::WorkflowCancelled { workflow }
    } else if failure.is(AWAITED_PARKED) {
        Error::RecoveryAttemptsExceeded { workflow, reason: failure.message().to_owned() }
    } else if failure.is(NOT_FOUND) {
        Error::NotFound { workflow }
    } else if failure.is(CIRCULAR_WAIT) {
        let others = Vec::<String>::deserialize(failure.data_value()).unwrap_or_default();
        let others = others.into_iter().map(WorkflowId::stored).collect();
        Error::CircularWait { workflow: waiting.clone(), awaited: workflow, others }
    } else {
        Error::WorkflowFailed { workflow, failure: failure.of_the_work() }
    })
}

/// The result of an ended workflow for a handle. Its status decides; its error may have any name.
pub(crate) fn result_of_outcome<O: DeserializeOwned>(outcome: &Outcome) -> Result<O> {
    let workflow = outcome.workflow.clone();
    Err(match outcome.status {
        WorkflowStatus::Success => {
            return output_of(&workflow, outcome.serialization.as_deref(), outcome.output.as_deref());
        }
        WorkflowStatus::Cancelled => Error::WorkflowCancelled { workflow },
        WorkflowStatus::MaxRecoveryAttemptsExceeded => {
            Error::RecoveryAttemptsExceeded { workflow, reason: outcome.failure().message().to_owned() }
        }
        WorkflowStatus::Error
        | WorkflowStatus::Pending
        | WorkflowStatus::Enqueued
        | WorkflowStatus::Delayed
        | WorkflowStatus::Unknown => {
            Error::WorkflowFailed { workflow, failure: outcome.failure().of_the_work() }
        }
    })
}

fn output_of<O: DeserializeOwned>(
    workflow: &WorkflowId,
    serialization: Option<&str>,
    output: Option<&str>,
) -> Result<O> {
    codec::decode(&format!("output of workflow {workflow}"), serialization, output)
}

/// The outcome of a workflow that has ended: as its waker had it, or as the database has it. A look that fails in a way
/// that may pass has seen nothing; the hub wakes the waiter for another look.
pub(crate) fn ended(
    core: &Core,
    workflow: &WorkflowId,
    subscription: &Subscription,
) -> Result<Option<Outcome>> {
    if let Some(outcome) = subscription.take_success() {
        return Ok(Some(outcome));
    }
    match core.reader.outcome(workflow) {
        Ok(Some(outcome)) => {
            if outcome.status == WorkflowStatus::Unknown {
                let what = "this program does not know its status. The engine leaves the row alone, and workflows that await it keep waiting";
                core.outage.names_row(workflow, what);
            }
            Ok(outcome.status.is_terminal().then_some(outcome))
        }
        Ok(None) => Err(Error::NotFound { workflow: workflow.clone() }),
        Err(error) if error.may_pass => Ok(None),
        Err(error) => Err(error.into()),
    }
}
