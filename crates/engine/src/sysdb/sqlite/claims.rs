//! Statements that make a workflow claimable again, and the claims themselves.
//!
//! SQLite uses a partial index only where the query repeats the index's own condition, so some conditions on the
//! status are said twice.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::column::StoredId;
use super::statement::Statement;
use super::{AWAITS_PATH, column, json_array, served_version, workflows};
use crate::pure::clock::Timestamp;
use crate::pure::error::{NOT_REGISTERED, Stop};
use crate::pure::id::{ExecutorId, OwnerToken, WorkflowId};
use crate::sysdb::names::{INTERNAL_QUEUE, ended};
use crate::sysdb::outage::Outage;
use crate::sysdb::write::Unknown;
use crate::sysdb::{BusyExecutor, DbResult, Identity, Owner, Served, Verdict, loss};

/// And those whose time is none: to SQLite, each text and each blob is greater than the empty text.
///
/// ?1 now, ?2 path of the mark, ?3 application
const WAKE_DUE: Statement = Statement {
    name: "wake_due",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = ?1,
               attributes = CASE WHEN json_valid(attributes) THEN json_remove(attributes, ?2) ELSE attributes END
         WHERE status = 'DELAYED' AND (delay_until_epoch_ms <= ?1 OR delay_until_epoch_ms >= '')
           AND (application_name = ?3 OR application_name IS NULL)
        RETURNING workflow_uuid",
};

/// A wait may have ended without being woken: its workflow is a child of another, or its message came from another
/// program. A workflow that has lost its marks, and has no time to wake at either, looks for itself. A wait for a
/// workflow in a state that is not known goes on.
///
/// ?1 path of the marks, ?2 application
const FULFILLED_WAITS: Statement = Statement {
    name: "fulfilled_waits",
    sql: concat!(
        "
        WITH waiting AS (
             SELECT workflow_uuid AS id, delay_until_epoch_ms AS due,
                    CASE WHEN json_valid(attributes) THEN attributes -> ?1 END AS marks
               FROM workflow_status
              WHERE status = 'DELAYED' AND (application_name = ?2 OR application_name IS NULL))
        SELECT id FROM waiting
         WHERE (due IS NULL
                AND NOT EXISTS (SELECT 1 FROM json_each(marks)
                                 WHERE value LIKE 'workflow %' OR value LIKE 'message %'))
            OR (marks IS NOT NULL
                AND EXISTS (SELECT 1 FROM json_each(marks) AS mark
                     WHERE (mark.value LIKE 'workflow %'
                            AND NOT EXISTS (SELECT 1 FROM workflow_status awaited
                                             WHERE awaited.workflow_uuid = substr(mark.value, 10)
                                               AND COALESCE(awaited.status, '') NOT IN ",
        ended!(),
        "))
                        OR (mark.value LIKE 'message %'
                            AND EXISTS (SELECT 1 FROM notifications
                                         WHERE destination_uuid = waiting.id AND topic = substr(mark.value, 9)
                                           AND consumed = FALSE))))"
    ),
};

/// A workflow that waits for another end or message by now looks in vain and waits on. ?1 JSON array of ids, ?2 path of
/// the mark, ?3 now
const WAKE_FULFILLED: Statement = Statement {
    name: "wake_fulfilled",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = ?3,
               attributes = CASE WHEN json_valid(attributes) THEN json_remove(attributes, ?2) ELSE attributes END
         WHERE workflow_uuid IN (SELECT value FROM json_each(?1))
           AND status = 'DELAYED'
        RETURNING workflow_uuid",
};

/// Idempotent: a row that was claimed in the meantime has another executor. ?1 executor, ?2 queue, ?3 now
const REQUEUE: Statement = Statement {
    name: "requeue",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', queue_name = COALESCE(queue_name, ?2), owner_xid = NULL,
               started_at_epoch_ms = NULL, updated_at = ?3
         WHERE status = 'PENDING' AND executor_id = ?1
        RETURNING workflow_uuid",
};

/// Those of a name that is none of ?4, or of none at all, which wait since then or since a time that is none.
macro_rules! unknown_name {
    ($since:literal) => {
        concat!(
            "(name IS NULL OR name NOT IN (SELECT value FROM json_each(?4)))
           AND (updated_at <= ",
            $since,
            " OR updated_at >= '')"
        )
    };
}

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
           AND ",
        unknown_name!("?6"),
        "
        RETURNING workflow_uuid, parent_workflow_id, rowid"
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
                          AND CASE WHEN json_valid(o.error) THEN json_extract(o.error, '$.name') END = ?4
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
           AND ",
        unknown_name!("?5"),
        " LIMIT 1"
    ),
};

/// And those whose ids are no texts. ?1 prefix of this engine's ids
const BUSY_EXECUTORS: Statement = Statement {
    name: "busy_executors",
    sql: "
        SELECT DISTINCT executor_id FROM workflow_status
         WHERE status = 'PENDING'
           AND (substr(executor_id, 1, length(?1)) = ?1 OR typeof(executor_id) <> 'text')",
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
    FULFILLED_WAITS,
    WAKE_FULFILLED,
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

/// Those whose ids a statement can name.
pub(super) fn fulfilled_waits(
    connection: &Connection,
    app: &str,
    outage: &Outage,
) -> DbResult<Vec<WorkflowId>> {
    let waiting = FULFILLED_WAITS.all(connection, [AWAITS_PATH, app], |row| column::id(row, 0))?;
    let named = waiting.into_iter().filter_map(|id| match id {
        // JSON, in which they are named, ends for SQLite where a NUL is.
        StoredId::Sound(id) if !id.contains('\0') => Some(WorkflowId::stored(id)),
        id => {
            let id = id.shown();
            outage.names_row(
                &id,
                "its wait has ended or is unknown, but its id is not a text or holds a NUL. The engine leaves the row alone",
            );
            None
        }
    });
    Ok(named.collect())
}

pub(super) fn wake_fulfilled(
    connection: &Connection,
    waiting: &[WorkflowId],
    now: Timestamp,
) -> DbResult<Verdict> {
    let params = params![json_array(waiting), AWAITS_PATH, now.as_millis()];
    Ok(Verdict::Changed(WAKE_FULFILLED.all(connection, params, id_column)?))
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
    let read = |row: &Row<'_>| Ok((column::id(row, 0)?, column::sound_text(row, 1)?, row.get::<_, i64>(2)?));
    let mut changed = Vec::new();
    for (id, parent, rowid) in REFUSE_UNKNOWN.all(connection, params, read)? {
        if let StoredId::Sound(id) = &id {
            workflows::set_error(connection, id, error, *at)?;
            workflows::wake_parent(connection, parent.as_deref(), id, *at)?;
        } else {
            workflows::end_unreadable(connection, rowid, error, *at)?;
        }
        changed.push(id.shown());
    }
    Ok(Verdict::Changed(changed))
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

pub(super) fn busy_executors(connection: &Connection) -> DbResult<Vec<BusyExecutor>> {
    BUSY_EXECUTORS.all(connection, [ExecutorId::PREFIX], |row| {
        Ok(match column::sound_text(row, 0)? {
            Some(id) => BusyExecutor::Known(ExecutorId::stored(&id)),
            None => BusyExecutor::Unreadable(column::text(row, 0)?.unwrap_or_else(|| "NULL".to_owned())),
        })
    })
}

/// Those whose ids and tokens a statement can name.
pub(super) fn owned_by(
    connection: &Connection,
    executor: &ExecutorId,
    outage: &Outage,
) -> DbResult<Vec<Owner>> {
    let read = |row: &Row<'_>| Ok((column::id(row, 0)?, column::sound_text(row, 1)?));
    let mut owners = Vec::new();
    for (id, token) in OWNED_BY.all(connection, [executor.as_str()], read)? {
        match (id, token) {
            (StoredId::Sound(id), Some(token)) => {
                owners.push(Owner { workflow: WorkflowId::stored(id), token: OwnerToken::stored(token) });
            }
            (id, _) => outage.names_row(
                &id.shown(),
                "its id or its owner token is not a text; the engine leaves the row alone",
            ),
        }
    }
    Ok(owners)
}

pub(super) fn lost_among(connection: &Connection, owners: &[Owner]) -> DbResult<Vec<(Owner, Stop)>> {
    let pairs: Vec<_> = owners.iter().map(|owner| [owner.workflow.as_str(), owner.token.as_str()]).collect();
    let read = |row: &Row<'_>| {
        let owner =
            Owner { workflow: WorkflowId::stored(row.get(0)?), token: OwnerToken::stored(row.get(1)?) };
        let status = row.get_ref(2)?;
        let status = (status != ValueRef::Null).then(|| status.as_str().unwrap_or_default());
        Ok((owner, loss(status)))
    };
    LOST_AMONG.all(connection, [serde_json::json!(pairs).to_string()], read)
}

/// For people: the value in the row in place of an id.
pub(super) fn id_column(row: &Row<'_>) -> rusqlite::Result<WorkflowId> {
    Ok(column::id(row, 0)?.shown())
}
