//! Messages to workflows. A message is consumed exactly when the step that took it is recorded.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::flow::context::Context;
use crate::flow::drive::{self, Flow};
use crate::flow::operation::{Begun, Entry, Recorded};
use crate::flow::sleep::Deadline;
use crate::flow::waits::Wait;
use crate::pure::clock::Timestamp;
use crate::pure::codec::{self, Codec};
use crate::pure::due::Due;
use crate::pure::error::{Error, Failure, Result};
use crate::pure::id::{WorkflowId, check_name};
use crate::sysdb::write::Awaited;
use crate::sysdb::write::NewMessage;
use crate::sysdb::{Verdict, Write};

/// Names under which these are recorded, as DBOS has them.
const SEND: &str = "DBOS.send";
const RECV: &str = "DBOS.recv";
const NO_SUCH_WORKFLOW: &str = "DBOSNonExistentWorkflowError";

/// The topic that DBOS stores for a message without one.
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
        drive::now(self.flow.send(destination, topic, message))
    }

    /// Takes the oldest message of a topic that no receive has taken yet. Waits for one at most `timeout`, and returns
    /// `None` when no message has come. The time is recorded before the first wait, so a recovered workflow waits only
    /// for the rest. A long wait takes no thread. Takes two step ids.
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
        drive::now(self.flow.recv(topic, timeout))
    }
}

impl Flow {
    pub(crate) fn send<T>(
        &self,
        destination: &WorkflowId,
        topic: &str,
        message: T,
    ) -> impl Future<Output = Result<()>> + use<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let begun = new_message(String::new(), destination, topic, message, self.execution.now())
            .and_then(|message| Ok((message, self.begin(SEND)?)));
        let flow = self.clone();
        async move {
            let (message, begun) = match begun? {
                (_, Entry::Replayed(recorded)) => return recorded.error().map_or(Ok(()), Err),
                (message, Entry::Fresh(begun)) => (message, begun),
            };
            flow.record_send(begun, message).await
        }
    }

    async fn record_send(&self, begun: Begun, mut message: NewMessage) -> Result<()> {
        let destination = message.destination.clone();
        // The same in every run, so that it is one message.
        let step = begun.place.step_id.0;
        message.id = format!("{}-{step:010}::{destination}", self.execution.workflow());
        let row = begun.row();
        let recording = begun.end_by(row, |owner, step| Write::Send { message, sender: Some((owner, step)) });
        match self.record(recording).await? {
            Recorded::Refused(begun, _) => {
                let missing = Error::NotFound { workflow: destination };
                let (refusal, error) = begun.fail(Failure::new(NO_SUCH_WORKFLOW, missing.to_string()));
                self.record(refusal).await?;
                Err(error)
            }
            Recorded::Done(_) => Ok(()),
        }
    }

    pub(crate) fn recv<T: DeserializeOwned>(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<T>>> + use<T> {
        let begun = self.begin_recv(topic, timeout);
        let flow = self.clone();
        async move {
            let (topic, entry, deadline) = begun?;
            let due = flow.record_deadline(deadline).await?;
            match entry {
                Entry::Replayed(recorded) => {
                    decode(recorded.row.output.as_deref(), recorded.row.serialization.as_deref())
                }
                Entry::Fresh(begun) => flow.recv_until(begun, topic, due).await,
            }
        }
    }

    /// A receive and its timeout take two places, one after the other.
    fn begin_recv(&self, topic: &str, timeout: Duration) -> Result<(String, Entry, Deadline)> {
        let topic = checked_topic(topic)?.to_owned();
        let entry = self.begin(RECV)?;
        Ok((topic, entry, self.begin_deadline("timeout of recv", timeout)?))
    }

    async fn recv_until<T: DeserializeOwned>(
        &self,
        mut begun: Begun,
        topic: String,
        due: Due,
    ) -> Result<Option<T>> {
        let core = self.core();
        let awaited = Awaited::Message(self.execution.workflow().clone(), topic.clone());
        let subscription = core.hub.subscribe(awaited.clone(), self.execution.run.signal.clone());
        let clock = &core.options.clock;
        let patience = Due::after(clock, core.options.suspend_after);
        loop {
            let calls = subscription.calls();
            let row = begun.row();
            let receive =
                begun.end_by(row, |owner, step| Write::Receive { owner, topic: topic.clone(), step });
            begun = match self.record(receive).await? {
                Recorded::Done(Verdict::Received { text, serialization }) => {
                    return decode(Some(&text), serialization.as_deref());
                }
                Recorded::Done(other) => return Err(self.execution.misanswered(RECV, &other)),
                Recorded::Refused(begun, _) => begun,
            };
            if due.left(clock).is_zero() {
                let row = begun.success("null".to_owned(), Codec::PortableJson.name());
                self.record(begun.end(row)).await?;
                return Ok(None);
            }
            let wait = Wait { awaited: Some(awaited.clone()), due: Some(due), any: self.branch().is_some() };
            self.wait(wait, Some((&subscription, calls)), patience).await?;
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
        let reason =
            "it is `null`, which a receiver reads as no message; send a value, such as `true`".to_owned();
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
