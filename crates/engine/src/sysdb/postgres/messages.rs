//! `notifications`: messages to workflows.

use postgres::Row;

use super::connection::{Connection, Statement, column, trouble};
use super::{steps, workflows};
use crate::pure::id::WorkflowId;
use crate::sysdb::write::{Awaited, NewMessage, Refusal};
use crate::sysdb::{DbResult, Owner, StepRow, Verdict};

/// A message id is sent once. The message's time is the server's, so that messages of several hosts have one order.
/// Wakes a receiver that waits without a thread.
///
/// $1 id, $2 destination, $3 topic, $4 message, $5 now, $6 mark of the wait
const SEND: Statement = Statement {
    name: "send",
    sql: "
        WITH sent AS (
             INSERT INTO dbos.notifications
                    (message_uuid, destination_uuid, topic, message, created_at_epoch_ms, serialization)
             SELECT $1, workflow_uuid, $3, $4, (EXTRACT(epoch FROM clock_timestamp()) * 1000.0)::bigint, 'portable_json'
               FROM dbos.workflow_status WHERE workflow_uuid = $2
                 ON CONFLICT (message_uuid) DO NOTHING
             RETURNING destination_uuid),
        woken AS (
             UPDATE dbos.workflow_status
                SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = $5,
                    attributes = attributes - 'piton.awaits'
              WHERE workflow_uuid IN (SELECT destination_uuid FROM sent) AND (status = 'DELAYED') IS TRUE
                AND jsonb_typeof(attributes) = 'object' AND attributes -> 'piton.awaits' ? $6
             RETURNING 1)
        SELECT EXISTS (SELECT 1 FROM dbos.workflow_status WHERE workflow_uuid = $2), EXISTS (SELECT 1 FROM woken)",
};

/// $1 destination
const DESTINATION: Statement = Statement {
    name: "message_destination",
    sql: "SELECT 1 FROM dbos.workflow_status WHERE workflow_uuid = $1",
};

/// In the order of their times, and within a millisecond in that of their transactions. Each send of a caller is a
/// transaction of its own, begun after the commit of the last. So messages of one caller arrive in order. Ids do not
/// tell: callers choose them.
///
/// $1 receiver, $2 topic, $3 step id
const TAKE: Statement = Statement {
    name: "take_message",
    sql: "
        UPDATE dbos.notifications
           SET consumed = TRUE, consumed_by_function_id = $3
         WHERE message_uuid = (
               SELECT message_uuid FROM dbos.notifications
                WHERE destination_uuid = $1 AND topic = $2 AND consumed = FALSE
                ORDER BY created_at_epoch_ms, age(xmin) DESC, message_uuid COLLATE \"C\" LIMIT 1)
        RETURNING message, serialization",
};

/// Arrays: $1 receiver, $2 topic
const WITH_MESSAGES: Statement = Statement {
    name: "with_messages_among",
    sql: "
        SELECT DISTINCT n.destination_uuid, n.topic
          FROM unnest($1::text[], $2::text[]) AS asked (id, topic)
          JOIN dbos.notifications n ON n.destination_uuid = asked.id AND n.topic = asked.topic
         WHERE n.consumed = FALSE",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[SEND, DESTINATION, TAKE, WITH_MESSAGES];

/// The message and the step that sent it, both or neither.
pub(super) fn send(
    connection: &mut Connection,
    message: &NewMessage,
    sender: Option<&(Owner, StepRow)>,
) -> DbResult<Verdict> {
    let Some((owner, step)) = sender else { return send_alone(connection, message) };
    connection.atomically(|connection| {
        if !workflows::hold(connection, owner)? {
            return Ok(Verdict::NotOwner);
        }
        if connection.first(&DESTINATION, &[&message.destination.as_str()])?.is_none() {
            return Ok(Verdict::Refused(Refusal::NoSuchWorkflow));
        }
        match steps::record_one(connection, owner, step)? {
            Verdict::Done => send_alone(connection, message),
            other => Ok(other),
        }
    })
}

fn send_alone(connection: &mut Connection, message: &NewMessage) -> DbResult<Verdict> {
    let mark = Awaited::Message(message.destination.clone(), message.topic.clone()).mark();
    let (destination, at) = (message.destination.as_str(), message.at.as_millis());
    let row =
        connection.first(&SEND, &[&message.id, &destination, &message.topic, &message.text, &at, &mark])?;
    let Some(row) = row else { return Ok(Verdict::Refused(Refusal::NoSuchWorkflow)) };
    if !column::<bool>(&SEND, &row, 0)? {
        return Ok(Verdict::Refused(Refusal::NoSuchWorkflow));
    }
    Ok(if column(&SEND, &row, 1)? { Verdict::Woke } else { Verdict::Done })
}

/// Takes the oldest message of a topic. It is consumed exactly when the step that took it is recorded.
pub(super) fn receive(
    connection: &mut Connection,
    owner: &Owner,
    topic: &str,
    step: &StepRow,
) -> DbResult<Verdict> {
    connection.atomically(|connection| {
        if !workflows::hold(connection, owner)? {
            return Ok(Verdict::NotOwner);
        }
        if let Some(earlier) = earlier_try(connection, owner, step)? {
            return Ok(earlier);
        }
        let place = i32::try_from(step.step_id.0).unwrap_or(i32::MAX);
        let Some(row) = connection.first(&TAKE, &[&owner.workflow.as_str(), &topic, &place])? else {
            return Ok(Verdict::Refused(Refusal::NoMessage));
        };
        let (text, serialization): (String, Option<String>) =
            (column(&TAKE, &row, 0)?, column(&TAKE, &row, 1)?);
        let step = StepRow {
            output: Some(text.clone()),
            serialization: serialization.clone().map(Into::into),
            ..step.clone()
        };
        match steps::record_one(connection, owner, &step)? {
            Verdict::Done => Ok(Verdict::Received { text, serialization }),
            // Rolled back, so that the message is there for the next receive.
            _ => Err(trouble(TAKE.name, "the place of its record was taken meanwhile")),
        }
    })
}

/// The message that an earlier try of this receive took, whose answer was lost.
fn earlier_try(connection: &mut Connection, owner: &Owner, step: &StepRow) -> DbResult<Option<Verdict>> {
    let found = steps::recorded_at(connection, owner, step.step_id)?;
    Ok(found.map(|found| found.received_before(step)))
}

pub(super) fn with_messages_among(
    connection: &mut Connection,
    asked: &[(WorkflowId, String)],
) -> DbResult<Vec<(WorkflowId, String)>> {
    let ids: Vec<&str> = asked.iter().map(|(workflow, _)| workflow.as_str()).collect();
    let topics: Vec<&str> = asked.iter().map(|(_, topic)| topic.as_str()).collect();
    let read = |row: &Row| {
        Ok((WorkflowId::stored(column(&WITH_MESSAGES, row, 0)?), column(&WITH_MESSAGES, row, 1)?))
    };
    connection.query(&WITH_MESSAGES, &[&ids, &topics])?.iter().map(read).collect()
}
