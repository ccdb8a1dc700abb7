//! Messages to workflows from outside.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::api::engine::Engine;
#[cfg(feature = "tokio")]
use crate::flow::core::Core;
use crate::flow::message::new_message;
use crate::pure::error::{Error, Result};
use crate::pure::id::{WorkflowId, check_name};
use crate::sysdb::{Verdict, Write};

impl Engine {
    /// Sends a message to a workflow. The message waits until the workflow asks for a message of its topic. Without a
    /// topic, pass `""`. One commit.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such workflow, [`Error::InvalidName`], [`Error::Unencodable`],
    /// [`Error::ShuttingDown`], [`Error::Database`].
    pub fn send<T>(&self, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        self.send_as(Uuid::now_v7().to_string(), destination, topic, message)
    }

    /// Sends a message to a workflow, as [`Engine::send`] does, at most once for each key and destination. A caller may
    /// repeat a send whose answer it did not get.
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub fn send_once<T>(&self, key: &str, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        self.send_as(id_of_key(key, destination)?, destination, topic, message)
    }

    fn send_as<T>(&self, id: String, destination: &WorkflowId, topic: &str, message: T) -> Result<()>
    where
        T: Serialize + DeserializeOwned,
    {
        let core = self.core();
        let message = new_message(id, destination, topic, message, core.options.clock.now())?;
        was_sent(destination, &core.commit_from_outside(Write::Send { message, sender: None })?)
    }
}

/// Sends a message for a task, at most once for each key if there is a key.
#[cfg(feature = "tokio")]
pub(crate) async fn send_as_a_task<T>(
    core: &Core,
    key: Option<&str>,
    destination: &WorkflowId,
    topic: &str,
    message: T,
) -> Result<()>
where
    T: Serialize + DeserializeOwned,
{
    let id = match key {
        Some(key) => id_of_key(key, destination)?,
        None => Uuid::now_v7().to_string(),
    };
    let message = new_message(id, destination, topic, message, core.options.clock.now())?;
    let verdict = core.commit_from_a_task(Write::Send { message, sender: None }).await?;
    was_sent(destination, &verdict)
}

fn was_sent(destination: &WorkflowId, verdict: &Verdict) -> Result<()> {
    match verdict {
        Verdict::Refused(_) => Err(Error::NotFound { workflow: destination.clone() }),
        _ => Ok(()),
    }
}

fn id_of_key(key: &str, destination: &WorkflowId) -> Result<String> {
    check_name("idempotency key", key)?;
    Ok(format!("{}::{destination}", unambiguous(key)))
}

/// A key that contains the separator could end in the middle of another key's destination. Its hash cannot.
fn unambiguous(key: &str) -> Cow<'_, str> {
    if key.contains("::") || key.ends_with(':') {
        return Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes()).to_string().into();
    }
    key.into()
}
