//! What makes a workflow claimable again, and what became of those that were claimed.
//!
//! SQLite uses a partial index only where the query repeats the index's own condition, so some conditions on the
//! status are said twice.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::statement::Statement;
use super::{AWAITS_PATH, json_array, served_version, workflows};
use crate::clock::Timestamp;
use crate::error::{NOT_REGISTERED, Stop};
use crate::id::{ExecutorId, OwnerToken, WorkflowId};
use crate::sysdb::names::INTERNAL_QUEUE;
use crate::sysdb::write::Unknown;
use crate::sysdb::{DbResult, Identity, Owner, Served, Verdict, loss};

/// ?1 now, ?2 path of the mark, ?3 application
const WAKE_DUE: Statement = Statement {
    name: "wake_due",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = ?1,
               attributes = CASE WHEN json_valid(attributes) THEN json_remove(attributes, ?2) ELSE attributes END
         WHERE status = 'DELAYED' AND delay_until_epoch_ms <= ?1
           AND (application_name = ?3 OR application_name IS NULL)
        RETURNING workflow_uuid",
};

/// What others did may have ended a wait without waking it: a workflow that is the child of somebody else, a message
/// that another program wrote. One that has lost its mark, and has no time to wake at either, looks for itself.
///
/// ?1 path of the mark, ?2 application
const SERVED_WAITS: Statement = Statement {
    name: "served_waits",
    sql: "
        WITH waiting AS (
             SELECT workflow_uuid AS id, delay_until_epoch_ms AS due,
                    CASE WHEN json_valid(attributes) THEN json_extract(attributes, ?1) END AS mark
               FROM workflow_status
              WHERE status = 'DELAYED' AND (application_name = ?2 OR application_name IS NULL))
        SELECT id FROM waiting
         WHERE (due IS NULL AND mark IS NULL)
            OR (mark LIKE 'workflow %'
                AND NOT EXISTS (SELECT 1 FROM workflow_status awaited
                                 WHERE awaited.workflow_uuid = substr(mark, 10)
                                   AND awaited.status IN ('PENDING', 'ENQUEUED', 'DELAYED')))
            OR (mark LIKE 'message %'
                AND EXISTS (SELECT 1 FROM notifications
                             WHERE destination_uuid = id AND topic = substr(mark, 9) AND consumed = FALSE))",
};

/// One that waits for something else by now looks in vain and waits on. ?1 JSON array of ids, ?2 path of the mark, ?3 now
const WAKE_SERVED: Statement = Statement {
    name: "wake_served",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = ?3,
               attributes = CASE WHEN json_valid(attributes) THEN json_remove(attributes, ?2) ELSE attributes END
         WHERE workflow_uuid IN (SELECT value FROM json_each(?1))
           AND status = 'DELAYED'
        RETURNING workflow_uuid",
};

/// Idempotent: what is claimed by somebody else in the meantime has another executor. ?1 executor, ?2 queue, ?3 now
const REQUEUE: Statement = Statement {
    name: "requeue",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', queue_name = COALESCE(queue_name, ?2), owner_xid = NULL,
               started_at_epoch_ms = NULL, updated_at = ?3
         WHERE status = 'PENDING' AND executor_id = ?1
        RETURNING workflow_uuid",
};

/// ?1 queues, ?2 application, ?3 version, ?4 known names as a JSON array, ?5 now, ?6 since when it waits at the latest
const REFUSE_UNKNOWN: Statement = Statement {
    name: "refuse_unknown",
    sql: concat!(
        "
        UPDATE workflow_status
           SET status = 'ERROR', completed_at = ?5, updated_at = ?5, deduplication_id = NULL,
               serialization = COALESCE(serialization, 'portable_json')
         WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING')
           AND queue_name IN (SELECT value FROM json_each(?1))
           AND application_name = ?2
           AND ",
        served_version!(),
        "
           AND name NOT IN (SELECT value FROM json_each(?4)) AND updated_at <= ?6
        RETURNING workflow_uuid, parent_workflow_id"
    ),
};

/// The work may have failed under that name, too; then the text begins in another way.
///
/// ?1 application, ?2 version, ?3 known names as a JSON array, ?4 name of the failure, ?5 queue, ?6 now
const REVIVE: Statement = Statement {
    name: "revive",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', queue_name = COALESCE(queue_name, ?5), completed_at = NULL, updated_at = ?6,
               recovery_attempts = 0
         WHERE status = 'ERROR' AND status IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
           AND application_name = ?1
           AND (application_version = ?2 OR application_version IS NULL)
           AND name IN (SELECT value FROM json_each(?3))
           AND EXISTS (SELECT 1 FROM workflow_output o
                        WHERE o.workflow_uuid = workflow_status.workflow_uuid
                          AND json_valid(o.error) AND json_extract(o.error, '$.name') = ?4
                          AND substr(o.error, 1, 2) <> '{ ')
        RETURNING workflow_uuid",
};

/// ?1 id
const FORGET_OUTPUT: Statement =
    Statement { name: "forget_output", sql: "DELETE FROM workflow_output WHERE workflow_uuid = ?1" };

/// The name is unique across applications: the first one keeps it. ?1 id, ?2 version, ?3 now, ?4 application
const REGISTER_VERSION: Statement = Statement {
    name: "register_version",
    sql: "
        INSERT INTO application_versions (version_id, version_name, version_timestamp, created_at, application_name)
        VALUES (?1, ?2, ?3, ?3, ?4) ON CONFLICT DO NOTHING",
};

/// ?1 queues, ?2 application, ?3 version, ?4 known names as a JSON array, ?5 since when it waits at the latest
const UNKNOWN_WAIT: Statement = Statement {
    name: "unknown_wait",
    sql: concat!(
        "
        SELECT 1 FROM workflow_status
         WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING')
           AND queue_name IN (SELECT value FROM json_each(?1))
           AND application_name = ?2
           AND ",
        served_version!(),
        "
           AND name NOT IN (SELECT value FROM json_each(?4)) AND updated_at <= ?5
         LIMIT 1"
    ),
};

/// ?1 prefix of this engine's ids
const BUSY_EXECUTORS: Statement = Statement {
    name: "busy_executors",
    sql: "
        SELECT DISTINCT executor_id FROM workflow_status
         WHERE status = 'PENDING' AND substr(executor_id, 1, length(?1)) = ?1",
};

/// ?1 executor
const OWNED_BY: Statement = Statement {
    name: "owned_by",
    sql: "
        SELECT workflow_uuid, owner_xid FROM workflow_status
         WHERE status = 'PENDING' AND executor_id = ?1 AND owner_xid IS NOT NULL",
};

/// Without a status: there is no row. ?1 JSON array of [id, token]
const LOST_AMONG: Statement = Statement {
    name: "lost_among",
    sql: "
        SELECT json_extract(owner.value, '$[0]'), json_extract(owner.value, '$[1]'),
               CASE WHEN s.workflow_uuid IS NOT NULL THEN COALESCE(s.status, '') END
          FROM json_each(?1) AS owner
          LEFT JOIN workflow_status s ON s.workflow_uuid = json_extract(owner.value, '$[0]')
         WHERE s.status IS NOT 'PENDING' OR s.owner_xid IS NOT json_extract(owner.value, '$[1]')",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[
    WAKE_DUE,
    SERVED_WAITS,
    WAKE_SERVED,
    REQUEUE,
    REFUSE_UNKNOWN,
    REVIVE,
    FORGET_OUTPUT,
    REGISTER_VERSION,
    UNKNOWN_WAIT,
    BUSY_EXECUTORS,
    OWNED_BY,
    LOST_AMONG,
];

pub(super) fn wake_due(connection: &Connection, app: &str, now: Timestamp) -> DbResult<Verdict> {
    Ok(Verdict::Changed(WAKE_DUE.all(connection, params![now.as_millis(), AWAITS_PATH, app], id_column)?))
}

pub(super) fn served_waits(connection: &Connection, app: &str) -> DbResult<Vec<WorkflowId>> {
    SERVED_WAITS.all(connection, [AWAITS_PATH, app], id_column)
}

pub(super) fn wake_served(
    connection: &Connection,
    waiting: &[WorkflowId],
    now: Timestamp,
) -> DbResult<Verdict> {
    let params = params![json_array(waiting), AWAITS_PATH, now.as_millis()];
    Ok(Verdict::Changed(WAKE_SERVED.all(connection, params, id_column)?))
}

pub(super) fn requeue(connection: &Connection, executor: &ExecutorId, at: Timestamp) -> DbResult<Verdict> {
    let params = params![executor.as_str(), INTERNAL_QUEUE, at.as_millis()];
    Ok(Verdict::Changed(REQUEUE.all(connection, params, id_column)?))
}

pub(super) fn refuse_unknown(connection: &Connection, unknown: &Unknown) -> DbResult<Verdict> {
    let Unknown { served, error, waiting_since, at } = unknown;
    let (since, now) = (waiting_since.as_millis(), at.as_millis());
    let Identity { app, version, .. } = served.identity.as_ref();
    let params = params![json_array(&served.queues), app, version, json_array(&served.names), now, since];
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
    let refused = REFUSE_UNKNOWN.all(connection, params, read)?;
    for (id, parent) in &refused {
        workflows::set_error(connection, id, error, *at)?;
        workflows::wake_parent(connection, parent.as_deref(), id, *at)?;
    }
    Ok(Verdict::Changed(refused.into_iter().map(|(id, _)| WorkflowId::stored(id)).collect()))
}

pub(super) fn revive(
    connection: &Connection,
    identity: &Identity,
    known: &[String],
    at: Timestamp,
) -> DbResult<Verdict> {
    let Identity { app, version, .. } = identity;
    let params = params![app, version, json_array(known), NOT_REGISTERED, INTERNAL_QUEUE, at.as_millis()];
    let revived = REVIVE.all(connection, params, id_column)?;
    for workflow in &revived {
        forget_output(connection, workflow)?;
    }
    Ok(Verdict::Changed(revived))
}

/// A workflow that goes on has not ended with anything.
pub(super) fn forget_output(connection: &Connection, workflow: &WorkflowId) -> DbResult<()> {
    FORGET_OUTPUT.execute(connection, [workflow.as_str()])?;
    Ok(())
}

pub(super) fn register_version(
    connection: &Connection,
    identity: &Identity,
    at: Timestamp,
) -> DbResult<Verdict> {
    let id = OwnerToken::generate();
    REGISTER_VERSION
        .execute(connection, params![id.as_str(), identity.version, at.as_millis(), identity.app])?;
    Ok(Verdict::Done)
}

pub(super) fn unknown_wait(connection: &Connection, served: &Served, since: Timestamp) -> DbResult<bool> {
    let Identity { app, version, .. } = served.identity.as_ref();
    let (queues, names) = (json_array(&served.queues), json_array(&served.names));
    let params = params![queues, app, version, names, since.as_millis()];
    Ok(UNKNOWN_WAIT.first(connection, params, |_| Ok(()))?.is_some())
}

pub(super) fn busy_executors(connection: &Connection) -> DbResult<Vec<ExecutorId>> {
    let read = |row: &Row<'_>| Ok(ExecutorId::stored(&row.get::<_, String>(0)?));
    BUSY_EXECUTORS.all(connection, [ExecutorId::PREFIX], read)
}

pub(super) fn owned_by(connection: &Connection, executor: &ExecutorId) -> DbResult<Vec<Owner>> {
    OWNED_BY.all(connection, [executor.as_str()], owner_row)
}

pub(super) fn lost_among(connection: &Connection, owners: &[Owner]) -> DbResult<Vec<(Owner, Stop)>> {
    let pairs: Vec<_> = owners.iter().map(|owner| [owner.workflow.as_str(), owner.token.as_str()]).collect();
    let read = |row: &Row<'_>| {
        let status = row.get_ref(2)?;
        let status = (status != ValueRef::Null).then(|| status.as_str().unwrap_or_default());
        Ok((owner_row(row)?, loss(status)))
    };
    LOST_AMONG.all(connection, [serde_json::json!(pairs).to_string()], read)
}

fn owner_row(row: &Row<'_>) -> rusqlite::Result<Owner> {
    Ok(Owner { workflow: WorkflowId::stored(row.get(0)?), token: OwnerToken::stored(row.get(1)?) })
}

/// A count that others may have written: what is below or beyond all counts reads as the nearest one, so that one
/// odd row does not keep the others from being claimed.
pub(super) fn count_column(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    let count: i64 = row.get::<_, Option<i64>>(column)?.unwrap_or_default();
    Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

pub(super) fn id_column(row: &Row<'_>) -> rusqlite::Result<WorkflowId> {
    Ok(WorkflowId::stored(row.get(0)?))
}
