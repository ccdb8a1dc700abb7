//! Messages to workflows. A message is consumed exactly when the step that took it is recorded.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::codec::{self, Codec};
use crate::context::{Context, Place};
use crate::engine::Engine;
use crate::error::{Error, Failure, Result};
use crate::id::{WorkflowId, check_name};
use crate::sysdb::write::{NewMessage, Refusal, Wake};
use crate::sysdb::{StepRow, Verdict, Write};
use crate::waiter::Topic;

/// Names under which these are recorded, as DBOS has them.
const SEND: &str = "DBOS.send";
const RECV: &str = "DBOS.recv";
const NO_SUCH_WORKFLOW: &str = "DBOSNonExistentWorkflowError";

/// What DBOS stores for a message without a topic.
const NO_TOPIC: &str = "__null__topic__";

impl Engine {
    /// Sends a message to a workflow. It waits there until the workflow asks for one of its topic; `""` is the
    /// topic of messages without one. One commit.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidName`], [`Error::Unencodable`], [`Error::ShuttingDown`],
    /// [`Error::Database`].
    pub fn send<T>(&self, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        self.send_as(Uuid::now_v7().to_string(), destination, topic, message)
    }

    /// The same, but at most once for each key and destination: a caller may repeat a send whose answer it did
    /// not get.
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub fn send_once<T>(&self, key: &str, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        check_name("idempotency key", key)?;
        self.send_as(format!("{}::{destination}", unambiguous(key)), destination, topic, message)
    }

    fn send_as<T>(&self, id: String, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        let core = self.core();
        let message = new_message(id, destination, topic, message, core.options.clock.now())?;
        let sent = Topic::Message(destination.clone(), message.topic.clone());
        if let Verdict::Refused(_) = core.commit_from_outside(Write::Send { message, sender: None })? {
            return Err(Error::NotFound { workflow: destination.clone() });
        }
        core.hub.wake(&sent);
        Ok(())
    }
}

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
        let now = self.now();
        let mut message = new_message(String::new(), destination, topic, message, now)?;
        let place = self.place_unchecked(SEND)?;
        if let Some(recorded) = self.replayed(&place)? {
            return recorded.failure().map_or(Ok(()), |failure| Err(failure.into_step_error(SEND)));
        }
        let sent = Topic::Message(destination.clone(), message.topic.clone());
        // Ids of one sender sort as it sends.
        message.id = format!("{}-{:010}::{destination}", self.workflow_id(), place.step_id.0);
        let sender = Some((self.run.owner.clone(), place.row(now)));
        match self.commit(Write::Send { message, sender })? {
            Verdict::Refused(Refusal::NoSuchWorkflow) => {
                let missing = Error::NotFound { workflow: destination.clone() };
                let (row, error) = self.failure(&place, Failure::new(NO_SUCH_WORKFLOW, missing.to_string()));
                self.record(row)?;
                Err(error)
            }
            Verdict::Refused(Refusal::OtherStep { recorded }) => {
                Err(self.not_deterministic(place.step_id, &recorded, SEND))
            }
            _ => {
                self.tell_recorded(place.step_id, SEND, true);
                self.core.hub.wake(&sent);
                Ok(())
            }
        }
    }

    /// Takes the oldest message of a topic that no receive has taken yet; waits for one at most `timeout`, and
    /// returns `None` when none has come. The time is recorded before the first wait, so a recovered workflow
    /// waits only for the rest. A long wait takes no thread. Takes two step ids.
    ///
    /// A message of JSON `null` reads as none.
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
        let place = self.place_unchecked(RECV)?;
        let recorded = self.replayed(&place)?;
        let deadline = self.recorded_deadline("timeout of recv", timeout)?;
        if let Some(StepRow { output, serialization, .. }) = recorded {
            return decode(output.as_deref(), serialization.as_deref());
        }
        self.recv_until(&place, topic, deadline)
    }

    fn recv_until<T: DeserializeOwned>(
        &mut self,
        place: &Place<'_>,
        topic: &str,
        deadline: Timestamp,
    ) -> Result<Option<T>> {
        let hub = self.core.hub.clone();
        let awaited = Topic::Message(self.workflow_id().clone(), topic.to_owned());
        let _subscription = hub.subscribe(awaited, self.run.signal.clone());
        let patience = self.now().checked_add(self.core.options.suspend_after).unwrap_or(deadline);
        loop {
            let seen = self.run.signal.now();
            let step = place.row(self.now());
            let write = Write::Receive { owner: self.run.owner.clone(), topic: topic.to_owned(), step };
            match self.commit(write)? {
                Verdict::Received { text, serialization } => {
                    self.tell_recorded(place.step_id, RECV, true);
                    return decode(Some(&text), serialization.as_deref());
                }
                Verdict::Refused(Refusal::OtherStep { recorded }) => {
                    return Err(self.not_deterministic(place.step_id, &recorded, RECV));
                }
                _ => {}
            }
            let now = self.now();
            if now >= deadline {
                self.record(self.success(place, "null".to_owned(), Codec::PortableJson.name()))?;
                return Ok(None);
            }
            let signal = self.run.signal.clone();
            let called = self.wait_until(Some(patience.min(deadline)), || signal.now() != seen)?;
            if !called && patience < deadline {
                self.suspend(Wake::WhenMessage { topic: topic.to_owned(), deadline })?;
            }
        }
    }
}

/// A key that contains the separator could end in the middle of another's destination; its hash cannot.
fn unambiguous(key: &str) -> Cow<'_, str> {
    if key.contains("::") || key.ends_with(':') {
        return Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes()).to_string().into();
    }
    key.into()
}

fn checked_topic(topic: &str) -> Result<&str> {
    if topic.is_empty() {
        return Ok(NO_TOPIC);
    }
    check_name("topic", topic)?;
    Ok(topic)
}

fn new_message<T>(
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
    Ok(NewMessage { id, destination: destination.clone(), topic: checked_topic(topic)?.to_owned(), text, at })
}

fn decode<T: DeserializeOwned>(text: Option<&str>, serialization: Option<&str>) -> Result<Option<T>> {
    match text {
        None | Some("null") => Ok(None),
        text => codec::decode("message", serialization, text).map(Some),
    }
}
