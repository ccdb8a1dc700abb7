//! `notifications`: messages to workflows.

use rusqlite::{Connection, Row, params};

use super::statement::Statement;
use super::{column, steps, workflows};
use crate::pure::id::WorkflowId;
use crate::sysdb::write::{Awaited, NewMessage, Refusal};
use crate::sysdb::{DbResult, Owner, StepRow, Verdict};

/// ?1 destination
const DESTINATION: Statement =
    Statement { name: "message_destination", sql: "SELECT 1 FROM workflow_status WHERE workflow_uuid = ?1" };

/// A message id is sent once. ?1 id, ?2 destination, ?3 topic, ?4 message, ?5 now
const SEND: Statement = Statement {
    name: "send",
    sql: "
        INSERT INTO notifications
               (message_uuid, destination_uuid, topic, message, created_at_epoch_ms, serialization)
        VALUES (?1, ?2, ?3, ?4, ?5, 'portable_json')
            ON CONFLICT (message_uuid) DO NOTHING",
};

/// In the order of their commits, not of the clock. ?1 receiver, ?2 topic
const OLDEST: Statement = Statement {
    name: "oldest_message",
    sql: "
        SELECT rowid, message, serialization FROM notifications
         WHERE destination_uuid = ?1 AND topic = ?2 AND consumed = FALSE
         ORDER BY rowid LIMIT 1",
};

/// ?1 rowid of the message, ?2 step id
const CONSUME: Statement = Statement {
    name: "consume_message",
    sql: "UPDATE notifications SET consumed = TRUE, consumed_by_function_id = ?2 WHERE rowid = ?1",
};

/// ?1 JSON array of [id, topic]
const WITH_MESSAGES: Statement = Statement {
    name: "with_messages_among",
    sql: "
        SELECT DISTINCT n.destination_uuid, n.topic
          FROM json_each(?1) AS asked
          JOIN notifications n ON n.destination_uuid = json_extract(asked.value, '$[0]')
                              AND n.topic = json_extract(asked.value, '$[1]')
         WHERE n.consumed = FALSE",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[DESTINATION, SEND, OLDEST, CONSUME, WITH_MESSAGES];

/// The message and the step that sent it, both or neither.
pub(super) fn send(
    connection: &Connection,
    message: &NewMessage,
    sender: Option<&(Owner, StepRow)>,
) -> DbResult<Verdict> {
    if let Some((owner, _)) = sender
        && !workflows::is_owner(connection, owner)?
    {
        return Ok(Verdict::NotOwner);
    }
    let destination = message.destination.as_str();
    if DESTINATION.first(connection, [destination], |_| Ok(()))?.is_none() {
        return Ok(Verdict::Refused(Refusal::NoSuchWorkflow));
    }
    let recorded =
        sender.map_or(Ok(Verdict::Done), |(owner, step)| steps::record(connection, owner, step))?;
    if recorded != Verdict::Done {
        return Ok(recorded);
    }
    let at = message.at.as_millis();
    let sent = SEND.execute(connection, params![message.id, destination, message.topic, message.text, at])?;
    let awaited = Awaited::Message(message.destination.clone(), message.topic.clone());
    let woke = sent == 1 && workflows::wake(connection, destination, &awaited, message.at)?;
    Ok(if woke { Verdict::Woke } else { Verdict::Done })
}

/// Takes the oldest message of a topic. It is consumed exactly when the step that took it is recorded.
pub(super) fn receive(
    connection: &Connection,
    owner: &Owner,
    topic: &str,
    step: &StepRow,
) -> DbResult<Verdict> {
    if !workflows::is_owner(connection, owner)? {
        return Ok(Verdict::NotOwner);
    }
    let id = owner.workflow.as_str();
    if let Some(earlier) = earlier_try(connection, owner, step)? {
        return Ok(earlier);
    }
    let read = |row: &Row<'_>| {
        let text = column::text(row, 1)?.unwrap_or_default();
        Ok((row.get::<_, i64>(0)?, text, column::text(row, 2)?))
    };
    let Some((message, text, serialization)) = OLDEST.first(connection, [id, topic], read)? else {
        return Ok(Verdict::Refused(Refusal::NoMessage));
    };
    CONSUME.execute(connection, params![message, step.step_id.0])?;
    let step = StepRow {
        output: Some(text.clone()),
        serialization: serialization.clone().map(Into::into),
        ..step.clone()
    };
    match steps::record(connection, owner, &step)? {
        Verdict::Done => Ok(Verdict::Received { text, serialization }),
        other => Ok(other),
    }
}

/// The message that an earlier try of this receive took, whose answer was lost.
fn earlier_try(connection: &Connection, owner: &Owner, step: &StepRow) -> DbResult<Option<Verdict>> {
    let found = steps::read_at(connection, &owner.workflow, step.step_id)?;
    Ok(found.map(|found| found.received_before(step)))
}

pub(super) fn with_messages_among(
    connection: &Connection,
    asked: &[(WorkflowId, String)],
) -> DbResult<Vec<(WorkflowId, String)>> {
    let asked: Vec<_> = asked.iter().map(|(workflow, topic)| [workflow.as_str(), topic]).collect();
    WITH_MESSAGES.all(connection, [serde_json::json!(asked).to_string()], |row| {
        Ok((WorkflowId::stored(row.get(0)?), row.get(1)?))
    })
}
