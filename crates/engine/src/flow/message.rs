//! Messages to workflows. A message is consumed exactly when the step that took it is recorded.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::context::Context;
use crate::flow::operation::{Begun, Entry, Recorded};
use crate::machines::waiter::Topic;
use crate::pure::clock::Timestamp;
use crate::pure::codec::{self, Codec};
use crate::pure::due::Due;
use crate::pure::error::{Error, Failure, Result};
use crate::pure::id::{WorkflowId, check_name};
use crate::sysdb::write::{NewMessage, Wake};
use crate::sysdb::{Verdict, Write};

/// Names under which these are recorded, as DBOS has them.
const SEND: &str = "DBOS.send";
const RECV: &str = "DBOS.recv";
const NO_SUCH_WORKFLOW: &str = "DBOSNonExistentWorkflowError";

/// What DBOS stores for a message without a topic.
const NO_TOPIC: &str = "__null__topic__";

impl Context {
    /// Sends a message to a workflow, once: the message and the record of the step are one commit. Takes one
    /// step id.
    ///
    /// # Errors
    /// [`Error::StepFailed`] when there is no such workflow (recorded: a replay says the same),
    /// [`Error::InvalidName`], [`Error::Unencodable`], and [`Error::Stopped`]; hand that on.
    pub fn send<T>(&mut self, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        let mut message = new_message(String::new(), destination, topic, message, self.execution.now())?;
        let begun = match self.begin(SEND)? {
            Entry::Replayed(recorded) => return recorded.error().map_or(Ok(()), Err),
            Entry::Fresh(begun) => begun,
        };
        let sent = Topic::Message(destination.clone(), message.topic.clone());
        // The same in every run, so that it is one message.
        message.id = format!("{}-{:010}::{destination}", self.workflow_id(), begun.place.step_id.0);
        let row = begun.row();
        let recording = begun.end_by(row, |owner, step| Write::Send { message, sender: Some((owner, step)) });
        match self.record(recording)? {
            Recorded::Refused(begun, _) => {
                let missing = Error::NotFound { workflow: destination.clone() };
                let (refusal, error) = begun.fail(Failure::new(NO_SUCH_WORKFLOW, missing.to_string()));
                self.record(refusal)?;
                Err(error)
            }
            Recorded::Done(_) => {
                self.core().hub.wake(&sent);
                Ok(())
            }
        }
    }

    /// Takes the oldest message of a topic that no receive has taken yet; waits for one at most `timeout`, and
    /// returns `None` when none has come. The time is recorded before the first wait, so a recovered workflow
    /// waits only for the rest. A long wait takes no thread. Takes two step ids.
    ///
    /// A message of JSON `null`, which only other programs send, reads as none.
    ///
    /// # Errors
    /// [`Error::Undecodable`] for a message that is no `T` (it is consumed), [`Error::InvalidOption`] for a timeout
    /// beyond the calendar, [`Error::Stopped`]; hand that on.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result}; use std::time::Duration;
    /// fn payment(ctx: &mut Context, order: u32) -> Result<bool> {
    ///     let paid: Option<u64> = ctx.recv("paid", Duration::from_secs(24 * 3600))?;
    ///     Ok(paid.is_some())
    /// }
    /// ```
    pub fn recv<T: DeserializeOwned>(&mut self, topic: &str, timeout: Duration) -> Result<Option<T>> {
        let topic = checked_topic(topic)?;
        let entry = self.begin(RECV)?;
        let due = self.recorded_deadline("timeout of recv", timeout)?;
        match entry {
            Entry::Replayed(recorded) => {
                decode(recorded.row.output.as_deref(), recorded.row.serialization.as_deref())
            }
            Entry::Fresh(begun) => self.recv_until(begun, topic, due),
        }
    }

    fn recv_until<T: DeserializeOwned>(
        &mut self,
        mut begun: Begun,
        topic: &str,
        due: Due,
    ) -> Result<Option<T>> {
        let hub = self.core().hub.clone();
        let signal = self.execution.run.signal.clone();
        let awaited = Topic::Message(self.workflow_id().clone(), topic.to_owned());
        let _subscription = hub.subscribe(awaited, signal.clone());
        let clock = self.core().options.clock.clone();
        let patience = Due::after(&clock, self.core().options.suspend_after);
        loop {
            let seen = signal.now();
            let row = begun.row();
            let receive =
                begun.end_by(row, |owner, step| Write::Receive { owner, topic: topic.to_owned(), step });
            begun = match self.record(receive)? {
                Recorded::Done(Verdict::Received { text, serialization }) => {
                    return decode(Some(&text), serialization.as_deref());
                }
                Recorded::Done(other) => return Err(self.execution.misanswered(RECV, &other)),
                Recorded::Refused(begun, _) => begun,
            };
            let left = due.left(&clock);
            if left.is_zero() {
                let row = begun.success("null".to_owned(), Codec::PortableJson.name());
                self.record(begun.end(row))?;
                return Ok(None);
            }
            let on_the_thread = patience.map_or(left, |patience| patience.left(&clock).min(left));
            let called = self.wait_at_most(on_the_thread, || signal.now() != seen)?;
            if !called && on_the_thread < left {
                let (topic, deadline) = (topic.to_owned(), due.date);
                self.suspend(Wake::WhenMessage { topic, deadline }, Some(due))?;
            }
        }
    }
}

fn checked_topic(topic: &str) -> Result<&str> {
    if topic.is_empty() {
        return Ok(NO_TOPIC);
    }
    check_name("topic", topic)?;
    Ok(topic)
}

pub(crate) fn new_message<T>(
    id: String,
    destination: &WorkflowId,
    topic: &str,
    message: T,
    at: Timestamp,
) -> Result<NewMessage>
where
    T: Serialize + DeserializeOwned,
{
    let what = format!("message to workflow {destination}");
    let text = codec::encode(Codec::PortableJson, &what, message)?.text;
    if text == "null" {
        let reason = "it is `null`, which a receive takes for none; send a value, such as `true`".to_owned();
        return Err(Error::Unencodable { what, reason });
    }
    Ok(NewMessage { id, destination: destination.clone(), topic: checked_topic(topic)?.to_owned(), text, at })
}

fn decode<T: DeserializeOwned>(text: Option<&str>, serialization: Option<&str>) -> Result<Option<T>> {
    match text {
        None | Some("null") => Ok(None),
        text => codec::decode("message", serialization, text).map(Some),
    }
}
