//! Statements that make a workflow claimable again, and the claims themselves.
//!
//! Some conditions on the status are said twice: the partial indexes ask for their own condition.

use postgres::Row;

use super::connection::{Connection, Statement, column};
use super::served_version;
use super::workflows;
use crate::pure::clock::Timestamp;
use crate::pure::error::{NOT_REGISTERED, Stop};
use crate::pure::id::{ExecutorId, OwnerToken, WorkflowId};
use crate::sysdb::names::{INTERNAL_QUEUE, ended};
use crate::sysdb::write::Unknown;
use crate::sysdb::{BusyExecutor, DbResult, Identity, Membership, Owner, Served, Verdict, loss};

/// A thousand at a time, the earliest first. So a statement ends before the server's patience does, and other processes
/// go on with rows that it does not lock. The rest is still due.
///
/// $1 now, $2 application
const WAKE_DUE: Statement = Statement {
    name: "wake_due",
    sql: "
        UPDATE dbos.workflow_status s
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = $1,
               attributes = CASE WHEN jsonb_typeof(attributes) = 'object' THEN attributes - 'piton.awaits'
                                 ELSE attributes END
          FROM (SELECT workflow_uuid FROM dbos.workflow_status
                 WHERE status = 'DELAYED' AND delay_until_epoch_ms <= $1
                   AND (application_name = $2 OR application_name IS NULL)
                 ORDER BY delay_until_epoch_ms LIMIT 1000
                   FOR UPDATE SKIP LOCKED) AS due
         WHERE s.workflow_uuid = due.workflow_uuid
        RETURNING s.workflow_uuid",
};

/// A wait may have ended without being woken. Its workflow is a child of another, its message came from another
/// program, or the commit came while the wait began. A workflow that has lost its marks, and has no time to wake at
/// either, looks for itself. A wait for a workflow in a state that is not known goes on.
///
/// $1 application
const FULFILLED_WAITS: Statement = Statement {
    name: "fulfilled_waits",
    sql: concat!(
        "
        WITH waiting AS MATERIALIZED (
             SELECT workflow_uuid AS id, delay_until_epoch_ms AS due,
                    CASE WHEN jsonb_typeof(attributes) = 'object' THEN attributes -> 'piton.awaits' END AS marks
               FROM dbos.workflow_status
              WHERE status = 'DELAYED' AND (application_name = $1 OR application_name IS NULL))
        SELECT id FROM waiting
         WHERE (due IS NULL
                AND NOT EXISTS (SELECT 1 FROM jsonb_path_query(marks, '$[*]') AS mark
                                 WHERE mark #>> '{}' LIKE 'workflow %' OR mark #>> '{}' LIKE 'message %'))
            OR (marks IS NOT NULL
                AND EXISTS (SELECT 1 FROM jsonb_path_query(marks, '$[*]') AS mark
                     WHERE (mark #>> '{}' LIKE 'workflow %'
                            AND NOT EXISTS (SELECT 1 FROM dbos.workflow_status awaited
                                             WHERE awaited.workflow_uuid = substr(mark #>> '{}', 10)
                                               AND COALESCE(awaited.status, '') NOT IN ",
        ended!(),
        "))
                        OR (mark #>> '{}' LIKE 'message %'
                            AND EXISTS (SELECT 1 FROM dbos.notifications
                                         WHERE destination_uuid = waiting.id AND topic = substr(mark #>> '{}', 9)
                                           AND consumed = FALSE))))"
    ),
};

/// A workflow that waits for another end or message by now looks in vain and waits on. $1 ids, $2 now
const WAKE_FULFILLED: Statement = Statement {
    name: "wake_fulfilled",
    sql: "
        UPDATE dbos.workflow_status
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = $2,
               attributes = CASE WHEN jsonb_typeof(attributes) = 'object' THEN attributes - 'piton.awaits'
                                 ELSE attributes END
         WHERE workflow_uuid = ANY ($1) AND (status = 'DELAYED') IS TRUE
        RETURNING workflow_uuid",
};

/// Idempotent: a row that was claimed in the meantime has another executor. An executor that lives again keeps its
/// workflows. A row that a commit of the dead one still holds is taken by the next sweep. A thousand at a time.
///
/// $1 executor, $2 queue, $3 now
const REQUEUE: Statement = Statement {
    name: "requeue",
    sql: "
        UPDATE dbos.workflow_status s
           SET status = 'ENQUEUED', queue_name = COALESCE(s.queue_name, $2), owner_xid = NULL,
               started_at_epoch_ms = NULL, updated_at = $3
          FROM (SELECT workflow_uuid FROM dbos.workflow_status
                 WHERE status = 'PENDING' AND executor_id = $1
                   AND NOT EXISTS (SELECT 1 FROM dbos.piton_executors
                                    WHERE executor_id = $1 AND lease_until >= clock_timestamp())
                 LIMIT 1000
                   FOR UPDATE SKIP LOCKED) AS left_behind
         WHERE s.workflow_uuid = left_behind.workflow_uuid
        RETURNING s.workflow_uuid",
};

/// A thousand at a time.
///
/// $1 queues, $2 application, $3 version, $4 known names, $5 now, $6 since when it waits at the latest, $7 error
const REFUSE_UNKNOWN: Statement = Statement {
    name: "refuse_unknown",
    sql: concat!(
        "
        WITH unknown AS MATERIALIZED (
             SELECT workflow_uuid FROM dbos.workflow_status
              WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ANY ($1)
                AND application_name = $2
                AND ",
        served_version!(),
        "
                AND (name IS NULL OR name <> ALL ($4)) AND updated_at <= $6
              LIMIT 1000
                FOR UPDATE SKIP LOCKED),
        refused AS (
             UPDATE dbos.workflow_status s
                SET status = 'ERROR', completed_at = $5, updated_at = $5, deduplication_id = NULL,
                    serialization = COALESCE(serialization, 'portable_json')
               FROM unknown WHERE s.workflow_uuid = unknown.workflow_uuid
             RETURNING s.workflow_uuid, s.parent_workflow_id),
        output AS (
             INSERT INTO dbos.workflow_output (workflow_uuid, error, retention_timestamp)
             SELECT workflow_uuid, $7, $5 FROM refused
                 ON CONFLICT (workflow_uuid)
                 DO UPDATE SET output = NULL, error = excluded.error,
                               retention_timestamp = excluded.retention_timestamp)
        SELECT workflow_uuid, parent_workflow_id FROM refused"
    ),
};

/// The workflows that were refused because no executor knew their names.
///
/// $1 application, $2 version, $3 known names, $4 start of the error
macro_rules! refused {
    () => {
        "FROM dbos.workflow_status s
              WHERE status = 'ERROR' AND status IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
                AND application_name = $1
                AND (application_version = $2 OR application_version IS NULL)
                AND name = ANY ($3)
                AND EXISTS (SELECT 1 FROM dbos.workflow_output o
                             WHERE o.workflow_uuid = s.workflow_uuid AND starts_with(o.error, $4))"
    };
}

const ANY_REFUSED: Statement =
    Statement { name: "any_refused", sql: concat!("SELECT 1 ", refused!(), " LIMIT 1") };

/// The start of an error's text is compared, because a text of another program need not be JSON. Ten thousand at a
/// time, because each time all errors are looked at; a locked row is looked at again by the next launch.
///
/// $1 application, $2 version, $3 known names, $4 start of the error, $5 queue, $6 now
const REVIVE: Statement = Statement {
    name: "revive",
    sql: concat!(
        "
        WITH refused AS MATERIALIZED (
             SELECT workflow_uuid ",
        refused!(),
        "
              LIMIT 10000
                FOR UPDATE SKIP LOCKED),
        revived AS (
             UPDATE dbos.workflow_status s
                SET status = 'ENQUEUED', queue_name = COALESCE(s.queue_name, $5), completed_at = NULL,
                    updated_at = $6, recovery_attempts = 0
               FROM refused WHERE s.workflow_uuid = refused.workflow_uuid
             RETURNING s.workflow_uuid),
        forgotten AS (
             DELETE FROM dbos.workflow_output o USING revived r WHERE o.workflow_uuid = r.workflow_uuid)
        SELECT workflow_uuid FROM revived"
    ),
};

/// The name is unique across applications: the first one keeps it. $1 id, $2 version, $3 now, $4 application
const REGISTER_VERSION: Statement = Statement {
    name: "register_version",
    sql: "
        INSERT INTO dbos.application_versions
               (version_id, version_name, version_timestamp, created_at, application_name)
        VALUES ($1, $2, $3, $3, $4) ON CONFLICT DO NOTHING",
};

/// $1 queues, $2 application, $3 version, $4 known names, $5 since when it waits at the latest
const UNKNOWN_WAIT: Statement = Statement {
    name: "unknown_wait",
    sql: concat!(
        "
        SELECT 1 FROM dbos.workflow_status
         WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ANY ($1)
           AND application_name = $2
           AND ",
        served_version!(),
        "
           AND (name IS NULL OR name <> ALL ($4)) AND updated_at <= $5
         LIMIT 1"
    ),
};

/// And that there is none of some. $1 prefix of this engine's ids
const BUSY_EXECUTORS: Statement = Statement {
    name: "busy_executors",
    sql: "
        SELECT DISTINCT executor_id FROM dbos.workflow_status
         WHERE status = 'PENDING' AND (starts_with(executor_id, $1) OR executor_id IS NULL)",
};

/// $1 executor
const OWNED_BY: Statement = Statement {
    name: "owned_by",
    sql: "
        SELECT workflow_uuid, owner_xid FROM dbos.workflow_status
         WHERE status = 'PENDING' AND executor_id = $1 AND owner_xid IS NOT NULL",
};

/// Without a status: there is no row. Arrays: $1 id, $2 token
const LOST_AMONG: Statement = Statement {
    name: "lost_among",
    sql: "
        SELECT o.id, o.token, CASE WHEN s.workflow_uuid IS NOT NULL THEN COALESCE(s.status, '') END
          FROM unnest($1::text[], $2::text[]) AS o (id, token)
          LEFT JOIN dbos.workflow_status s ON s.workflow_uuid = o.id
         WHERE s.status IS DISTINCT FROM 'PENDING' OR s.owner_xid IS DISTINCT FROM o.token",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[
    WAKE_DUE,
    FULFILLED_WAITS,
    WAKE_FULFILLED,
    REQUEUE,
    REFUSE_UNKNOWN,
    ANY_REFUSED,
    REVIVE,
    REGISTER_VERSION,
    UNKNOWN_WAIT,
    BUSY_EXECUTORS,
    OWNED_BY,
    LOST_AMONG,
];

pub(super) fn wake_due(connection: &mut Connection, app: &str, now: Timestamp) -> DbResult<Verdict> {
    let woken = connection.query(&WAKE_DUE, &[&now.as_millis(), &app])?;
    Ok(Verdict::Changed(ids(&WAKE_DUE, &woken)?))
}

pub(super) fn fulfilled_waits(connection: &mut Connection, app: &str) -> DbResult<Vec<WorkflowId>> {
    ids(&FULFILLED_WAITS, &connection.query(&FULFILLED_WAITS, &[&app])?)
}

pub(super) fn wake_fulfilled(
    connection: &mut Connection,
    waiting: &[WorkflowId],
    now: Timestamp,
) -> DbResult<Verdict> {
    let waiting: Vec<&str> = waiting.iter().map(WorkflowId::as_str).collect();
    let woken = connection.query(&WAKE_FULFILLED, &[&waiting, &now.as_millis()])?;
    Ok(Verdict::Changed(ids(&WAKE_FULFILLED, &woken)?))
}

pub(super) fn requeue(
    connection: &mut Connection,
    executor: &ExecutorId,
    at: Timestamp,
) -> DbResult<Verdict> {
    let rows = connection.query(&REQUEUE, &[&executor.as_str(), &INTERNAL_QUEUE, &at.as_millis()])?;
    Ok(Verdict::Changed(ids(&REQUEUE, &rows)?))
}

pub(super) fn refuse_unknown(connection: &mut Connection, unknown: &Unknown) -> DbResult<Verdict> {
    let Unknown { served, error, waiting_since, at } = unknown;
    let Identity { app, version, .. } = served.identity.as_ref();
    let (since, now) = (waiting_since.as_millis(), at.as_millis());
    connection.atomically(|connection| {
        let rows = connection.query(
            &REFUSE_UNKNOWN,
            &[&served.queues, &&**app, &&**version, &served.names, &now, &since, error],
        )?;
        let read = |row: &Row| Ok((column(&REFUSE_UNKNOWN, row, 0)?, column(&REFUSE_UNKNOWN, row, 1)?));
        let refused = rows.iter().map(read).collect::<DbResult<Vec<(String, Option<String>)>>>()?;
        workflows::wake_parents(connection, &refused, *at)?;
        Ok(Verdict::Changed(refused.into_iter().map(|(id, _)| WorkflowId::stored(id)).collect()))
    })
}

pub(super) fn revive(
    connection: &mut Connection,
    identity: &Identity,
    known: &[String],
    at: Timestamp,
) -> DbResult<Verdict> {
    let Identity { app, version, .. } = identity;
    let error = start_of_error(NOT_REGISTERED);
    let params: [&(dyn postgres::types::ToSql + Sync); 6] =
        [&&**app, &&**version, &known, &error, &INTERNAL_QUEUE, &at.as_millis()];
    Ok(Verdict::Changed(ids(&REVIVE, &connection.query(&REVIVE, &params)?)?))
}

/// Whether there is anything to revive. It looks at all errors.
pub(super) fn any_refused(connection: &mut Connection, about: &Membership) -> DbResult<bool> {
    let Membership { app, version, workflows, .. } = about;
    let error = start_of_error(NOT_REGISTERED);
    Ok(connection.first(&ANY_REFUSED, &[app, version, workflows, &error])?.is_some())
}

/// How the text of a failure of that name begins, as we write it.
pub(super) fn start_of_error(name: &str) -> String {
    format!("{{\"name\":\"{name}\"")
}

pub(super) fn register_version(
    connection: &mut Connection,
    identity: &Identity,
    at: Timestamp,
) -> DbResult<Verdict> {
    let id = OwnerToken::generate();
    connection
        .execute(&REGISTER_VERSION, &[&id.as_str(), &&*identity.version, &at.as_millis(), &&*identity.app])?;
    Ok(Verdict::Done)
}

pub(super) fn unknown_wait(connection: &mut Connection, served: &Served, since: Timestamp) -> DbResult<bool> {
    let Identity { app, version, .. } = served.identity.as_ref();
    let found = connection
        .first(&UNKNOWN_WAIT, &[&served.queues, &&**app, &&**version, &served.names, &since.as_millis()])?;
    Ok(found.is_some())
}

pub(super) fn busy_executors(connection: &mut Connection) -> DbResult<Vec<BusyExecutor>> {
    let read = |row: &Row| {
        let id: Option<&str> = column(&BUSY_EXECUTORS, row, 0)?;
        let unreadable = || BusyExecutor::Unreadable("NULL".to_owned());
        Ok(id.map_or_else(unreadable, |id| BusyExecutor::Known(ExecutorId::stored(id))))
    };
    connection.query(&BUSY_EXECUTORS, &[&ExecutorId::PREFIX])?.iter().map(read).collect()
}

pub(super) fn owned_by(connection: &mut Connection, executor: &ExecutorId) -> DbResult<Vec<Owner>> {
    connection.query(&OWNED_BY, &[&executor.as_str()])?.iter().map(|row| owner_row(&OWNED_BY, row)).collect()
}

pub(super) fn lost_among(connection: &mut Connection, owners: &[Owner]) -> DbResult<Vec<(Owner, Stop)>> {
    let ids: Vec<&str> = owners.iter().map(|owner| owner.workflow.as_str()).collect();
    let tokens: Vec<&str> = owners.iter().map(|owner| owner.token.as_str()).collect();
    let read = |row: &Row| {
        let status: Option<String> = column(&LOST_AMONG, row, 2)?;
        Ok((owner_row(&LOST_AMONG, row)?, loss(status.as_deref())))
    };
    connection.query(&LOST_AMONG, &[&ids, &tokens])?.iter().map(read).collect()
}

fn owner_row(statement: &Statement, row: &Row) -> DbResult<Owner> {
    Ok(Owner {
        workflow: WorkflowId::stored(column(statement, row, 0)?),
        token: OwnerToken::stored(column(statement, row, 1)?),
    })
}

/// A count that another program may have written. A number that is no count reads as the nearest one, so that one odd
/// row does not stop the claims of the others.
pub(super) fn count_column(statement: &Statement, row: &Row, index: usize) -> DbResult<u32> {
    let count: i64 = column::<Option<i64>>(statement, row, index)?.unwrap_or_default();
    Ok(u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

/// The first column of each row.
pub(super) fn ids(statement: &Statement, rows: &[Row]) -> DbResult<Vec<WorkflowId>> {
    rows.iter().map(|row| Ok(WorkflowId::stored(column(statement, row, 0)?))).collect()
}
