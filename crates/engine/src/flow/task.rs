//! An async workflow as a task: its life on a runtime, and the call of its function.
//!
//! The body is dropped at its next await when the workflow goes on elsewhere or not at all. If the task itself is
//! dropped, the workflow goes on later.
//!
//! Does not know: SQL, codecs, step ids.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context as Poller, Poll};

use crate::flow::async_context::AsyncContext;
use crate::flow::attempts::failure_of_panic;
use crate::flow::core::{Core, Run};
use crate::flow::drive::Flow;
use crate::flow::execution::{Ended, Execution};
use crate::flow::registry::{AsyncFunction, Kind};
use crate::flow::workflow::{self, Assignment};
use crate::machines::slots::Slot;
use crate::machines::worker;
use crate::pure::error::{Failure, Stop};
use crate::pure::inside;
use crate::pure::sync::contained;
use crate::sysdb::StoredInput;

/// One async workflow of this process, from its dispatch until its task is gone.
struct Life {
    core: Arc<Core>,
    run: Arc<Run>,
    slot: Arc<Slot>,
    finished: bool,
}

/// Runs a workflow as a task in this slot. Without a runtime the workflow is given back to wait.
pub(crate) fn run(core: &Arc<Core>, assignment: Assignment, slot: Slot) {
    core.tasks.one_began();
    let life =
        Life { core: core.clone(), run: assignment.run.clone(), slot: Arc::new(slot), finished: false };
    core.tasks.spawn(async move {
        let flow = Flow::of_a_task(assignment.execution(&life.core), life.slot.clone());
        workflow::execute(&flow, assignment, None).await;
        life.finish();
    });
}

impl Life {
    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if !self.finished {
            if !self.core.is_stopping() {
                self.core.tasks.lost_one();
            }
            // The row is still this executor's, but this executor does not run it.
            workflow::release_unheard(&self.core, &self.run, None);
            self.core.runs.leave(&self.run);
        }
        // A context that was moved out of the body may still be in use.
        self.slot.give_back();
        self.core.tasks.one_ended();
        self.core.slot_was_freed(&self.run, Kind::Async);
        if self.core.is_leaving() {
            // This call looks into the database.
            let core = self.core.clone();
            drop(self.core.errands.run(move || core.leave_if_last()));
        }
    }
}

/// Calls the user's function. A panic is a failure, also a panic in one of its values.
pub(crate) async fn call(
    flow: &Flow,
    function: &AsyncFunction,
    input: StoredInput,
) -> Result<String, Failure> {
    let ctx = AsyncContext::new(flow.clone());
    let mut body = match catch_unwind(AssertUnwindSafe(|| function(ctx, input))) {
        Ok(body) => body,
        Err(payload) => return Err(failure_of_panic(payload)),
    };
    let (execution, signal) = (&flow.execution, &flow.execution.run.signal);
    let returned = poll_fn(|context| {
        loop {
            let seen = signal.now();
            // A wait for another workflow, in a step, lends this slot.
            let polled = worker::holding(flow.slot(), || poll_caught(true, || body.as_mut().poll(context)));
            if let Poll::Ready(returned) = polled {
                return Poll::Ready(Some(returned.unwrap_or_else(Err)));
            }
            if is_to_be_dropped(execution) {
                return Poll::Ready(None);
            }
            if !signal.poll_past(seen, context.waker()) {
                return Poll::Pending;
            }
        }
    })
    .await;
    // A drop runs code of the user as well.
    contained(|| drop(body));
    execution.has_returned();
    // An execution that ends without an outcome does not look at this failure.
    returned.unwrap_or_else(|| Err(Failure::new("PitonStopped", "the body was dropped")))
}

/// Polls code of the user, in a step or outside of it. A panic ends the code.
pub(crate) fn poll_caught<T>(
    outside_of_steps: bool,
    poll: impl FnOnce() -> Poll<T>,
) -> Poll<Result<T, Failure>> {
    match catch_unwind(AssertUnwindSafe(|| inside::polling(outside_of_steps, poll))) {
        Ok(polled) => polled.map(Ok),
        Err(payload) => Poll::Ready(Err(failure_of_panic(payload))),
    }
}

/// Runs code of the user to its end, or until `is_over` says that its result is not needed any more.
pub(crate) async fn caught<T>(
    body: impl Future<Output = T>,
    mut is_over: impl FnMut(&Poller<'_>) -> bool,
) -> Option<Result<T, Failure>> {
    let mut body = Box::pin(body);
    let done = poll_fn(|context| match poll_caught(false, || body.as_mut().poll(context)) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if is_over(context) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    // A drop runs code of the user as well.
    contained(|| drop(body));
    done
}

/// Whether the body is to be dropped. A shutdown lets a running body come to its end, until its time is over. No other
/// stop does.
fn is_to_be_dropped(execution: &Execution) -> bool {
    let ended = match execution.ended() {
        Some(Ended::Stopped(reason)) => Some(reason),
        Some(Ended::Faulty(_)) | None => None,
    };
    match execution.run.stop().or(ended) {
        Some(Stop::ShuttingDown) => execution.core.tasks.is_in_a_hurry(),
        Some(_) => true,
        None => false,
    }
}
