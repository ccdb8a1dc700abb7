//! Queues: what waits in them, and who takes it.

use postgres::Row;

use super::claims::count_column;
use super::connection::{Connection, Statement, column};
use super::served_version;
use crate::clock::Timestamp;
use crate::id::{OwnerToken, WorkflowId};
use crate::queue::QueueOptions;
use crate::sysdb::names::INTERNAL_QUEUE;
use crate::sysdb::write::{Claim, ClaimedRow, Refusal};
use crate::sysdb::{DbResult, Identity, OpenQueue, Outlook, Served, Verdict};

/// Rows of a queue that are `PENDING`, in words that only the index of queues fits, and not the one of all that run.
macro_rules! running {
    () => {
        "status IN ('ENQUEUED', 'PENDING') AND status BETWEEN 'PENDING' AND 'PENDING'"
    };
}

/// Rows that another executor is taking right now are passed over. What an earlier try of the same claim took is found
/// by the token. Where there is a limit, the queue is locked, so that the count is right until the commit.
///
/// $1 queue, $2 application, $3 version, $4 names, $5 limit, $6 executor, $7 token, $8 now, $9 how many may run at once
const CLAIM: Statement = Statement {
    name: "claim",
    sql: concat!(
        "
        WITH earlier AS MATERIALIZED (
             SELECT workflow_uuid, name, recovery_attempts, priority, created_at FROM dbos.workflow_status
              WHERE queue_name = $1 AND ",
        running!(),
        " AND executor_id = $6 AND owner_xid = $7),
        picked AS MATERIALIZED (
             SELECT workflow_uuid FROM dbos.workflow_status
              WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = $1
                AND (application_name = $2 OR application_name IS NULL)
                AND ",
        served_version!(),
        "
                AND name = ANY ($4)
              ORDER BY priority, created_at, workflow_uuid
              LIMIT greatest(0, CASE WHEN $9::int8 IS NULL THEN $5::int8 - (SELECT count(*) FROM earlier)
                                     ELSE least($5::int8 - (SELECT count(*) FROM earlier),
                                                $9::int8 - (SELECT count(*) FROM dbos.workflow_status
                                                             WHERE queue_name = $1 AND ",
        running!(),
        ")) END)
                FOR UPDATE SKIP LOCKED),
        taken AS (
             UPDATE dbos.workflow_status s
                SET status = 'PENDING', executor_id = $6, owner_xid = $7, application_name = $2,
                    application_version = $3, started_at_epoch_ms = $8, updated_at = $8,
                    recovery_attempts = greatest(0, least(COALESCE(s.recovery_attempts, 0), 4294967294)) + 1
               FROM picked p WHERE s.workflow_uuid = p.workflow_uuid
             RETURNING s.workflow_uuid, s.name, s.recovery_attempts, s.priority, s.created_at)
        SELECT workflow_uuid, name, recovery_attempts
          FROM (SELECT * FROM earlier UNION ALL SELECT * FROM taken) AS claimed
         ORDER BY priority, created_at, workflow_uuid"
    ),
};

/// Held until the end of the transaction: claims of a queue with a limit take turns. $1 name
const LOCK: Statement =
    Statement { name: "lock_queue", sql: "SELECT 1 FROM dbos.queues WHERE name = $1 FOR NO KEY UPDATE" };

/// A queue that nobody registered, or that was removed, is closed; the engine's own has no row. The first row says when
/// the next wait is over.
///
/// $1 queues, $2 application, $3 version, $4 names, $5 the engine's own queue
const OUTLOOK: Statement = Statement {
    name: "outlook",
    sql: concat!(
        "
        SELECT NULL AS queue, NULL::int4, NULL::int4, min(delay_until_epoch_ms)
          FROM dbos.workflow_status
         WHERE status = 'DELAYED' AND (application_name = $2 OR application_name IS NULL)
         UNION ALL
        SELECT asked.name, q.concurrency, q.worker_concurrency, NULL
          FROM unnest($1::text[]) AS asked (name) LEFT JOIN dbos.queues q ON q.name = asked.name
         WHERE (asked.name = $5 OR q.name IS NOT NULL)
           AND EXISTS (SELECT 1 FROM dbos.workflow_status s
                        WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = asked.name
                          AND (s.application_name = $2 OR s.application_name IS NULL)
                          AND ",
        served_version!(),
        "
                          AND s.name = ANY ($4))
           AND (q.concurrency IS NULL
                OR q.concurrency > (SELECT count(*) FROM dbos.workflow_status
                                     WHERE queue_name = asked.name AND ",
        running!(),
        "))"
    ),
};

/// The limits of the newest version hold. $1 id, $2 application, $3 version, $4 name, $5 concurrency, $6 of one worker,
/// $7 now
const REGISTER: Statement = Statement {
    name: "register_queue",
    sql: "
        INSERT INTO dbos.queues AS q
               (queue_id, name, concurrency, worker_concurrency, priority_enabled, created_at, updated_at,
                application_name)
        VALUES ($1, $4, $5, $6, TRUE, $7, $7, $2)
            ON CONFLICT (name)
            DO UPDATE SET concurrency = excluded.concurrency, worker_concurrency = excluded.worker_concurrency,
                          priority_enabled = TRUE, updated_at = excluded.updated_at,
                          application_name = excluded.application_name
             WHERE (q.application_name = $2 OR q.application_name IS NULL)
               AND $3::text = COALESCE((SELECT version_name FROM dbos.application_versions
                                         WHERE application_name = $2
                                         ORDER BY version_timestamp DESC LIMIT 1), $3::text)",
};

/// $1 name
const OWNER: Statement =
    Statement { name: "owner_of_queue", sql: "SELECT application_name FROM dbos.queues WHERE name = $1" };

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[CLAIM, LOCK, OUTLOOK, REGISTER, OWNER];

/// Takes the first of the waiting workflows that this executor can run. The attempt is counted here, before anything
/// of them is looked at.
pub(super) fn claim(connection: &mut Connection, claim: &Claim) -> DbResult<Verdict> {
    if claim.concurrency.is_none() {
        return claim_unlocked(connection, claim);
    }
    connection.atomically(|connection| {
        connection.query(&LOCK, &[&claim.queue])?;
        claim_unlocked(connection, claim)
    })
}

fn claim_unlocked(connection: &mut Connection, claim: &Claim) -> DbResult<Verdict> {
    let Identity { executor, app, version } = claim.served.identity.as_ref();
    let limit = i64::try_from(claim.limit).unwrap_or(i64::MAX);
    let rows = connection.query(
        &CLAIM,
        &[
            &claim.queue,
            &&**app,
            &&**version,
            &claim.served.names,
            &limit,
            &executor.as_str(),
            &claim.token.as_str(),
            &claim.at.as_millis(),
            &claim.concurrency.map(i64::from),
        ],
    )?;
    let read = |row: &Row| {
        let workflow = WorkflowId::stored(column(&CLAIM, row, 0)?);
        let name: Option<String> = column(&CLAIM, row, 1)?;
        let attempts = count_column(&CLAIM, row, 2)?;
        Ok(ClaimedRow { workflow, name: name.unwrap_or_default(), attempts, unreadable: false })
    };
    Ok(Verdict::Claimed(rows.iter().map(read).collect::<DbResult<_>>()?))
}

pub(super) fn outlook(connection: &mut Connection, served: &Served) -> DbResult<Outlook> {
    let Identity { app, version, .. } = served.identity.as_ref();
    let params: super::connection::Params<'_> =
        &[&served.queues, &&**app, &&**version, &served.names, &INTERNAL_QUEUE];
    let mut outlook = Outlook::default();
    for row in connection.query(&OUTLOOK, params)? {
        let limit = |index| {
            let limit: Option<i32> = column(&OUTLOOK, &row, index)?;
            Ok::<_, crate::sysdb::DbError>(limit.map(|limit| u32::try_from(limit).unwrap_or_default()))
        };
        match column::<Option<String>>(&OUTLOOK, &row, 0)? {
            None => {
                outlook.next_due = column::<Option<i64>>(&OUTLOOK, &row, 3)?.map(Timestamp::from_millis);
            }
            Some(name) => {
                outlook.open.push(OpenQueue { name, concurrency: limit(1)?, worker_concurrency: limit(2)? });
            }
        }
    }
    Ok(outlook)
}

pub(super) fn register(
    connection: &mut Connection,
    identity: &Identity,
    queue: &str,
    options: QueueOptions,
    at: Timestamp,
) -> DbResult<Verdict> {
    let Identity { app, version, .. } = identity;
    let id = OwnerToken::generate();
    let limit = |limit: Option<u32>| limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX));
    let (all, one) = (limit(options.concurrency), limit(options.worker_concurrency));
    let params: super::connection::Params<'_> =
        &[&id.as_str(), &&**app, &&**version, &queue, &all, &one, &at.as_millis()];
    if connection.execute(&REGISTER, params)? == 1 {
        return Ok(Verdict::Done);
    }
    let row = connection.first(&OWNER, &[&queue])?;
    let owner = row.map(|row| column::<Option<String>>(&OWNER, &row, 0)).transpose()?.flatten();
    Ok(match owner {
        Some(name) if name != **app => Verdict::Refused(Refusal::OtherApplication { name }),
        _ => Verdict::Done,
    })
}
