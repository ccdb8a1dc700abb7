//! Queues: their waiting workflows, and the claims.

use postgres::Row;
use postgres::types::ToSql;

use super::claims::count_column;
use super::connection::{Connection, Statement, column};
use super::served_version;
use crate::pure::clock::Timestamp;
use crate::pure::id::{ExecutorId, OwnerToken, WorkflowId};
use crate::pure::queue::QueueOptions;
use crate::sysdb::names::INTERNAL_QUEUE;
use crate::sysdb::write::{Claim, ClaimedRow, Refusal};
use crate::sysdb::{DbResult, Identity, OpenQueue, Outlook, Served, Verdict};

/// Rows of a queue that are `PENDING`, in words that only the index of queues fits, and not the one of all that run.
macro_rules! running {
    () => {
        "status IN ('ENQUEUED', 'PENDING') AND status BETWEEN 'PENDING' AND 'PENDING'"
    };
}

/// Rows that another executor is taking right now are passed over. The rows of an earlier try of this claim are found
/// by the token. Where there is a limit, the queue is locked, so that the count is right until the commit. Workflows
/// that one caller enqueued in order are taken in order: within a millisecond the tokens of their rows tell.
///
/// $1 queue, $2 application, $3 version, $4 names, $5 limit, $6 executor, $7 token, $8 now, $9 how many may run at once
macro_rules! claim {
    ($which:expr, $room:expr, $taken:expr) => {
        concat!(
            "
        WITH earlier AS MATERIALIZED (
             SELECT workflow_uuid, name, recovery_attempts, priority, created_at, creator_xid
               FROM dbos.workflow_status
              WHERE queue_name = $1 AND ",
            running!(),
            " AND executor_id = $6 AND owner_xid = $7),
        picked AS MATERIALIZED (
             SELECT workflow_uuid FROM dbos.workflow_status s
              WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = $1
                AND (application_name = $2 OR application_name IS NULL)
                AND ",
            served_version!(),
            "
                AND name = ANY ($4)",
            $which,
            "
              ORDER BY priority, created_at, creator_xid COLLATE \"C\", workflow_uuid
              LIMIT greatest(0, least($5::int8 - (SELECT count(*) FROM earlier),
                                      CASE WHEN $9::int8 IS NOT NULL
                                           THEN $9::int8 - (SELECT count(*) FROM dbos.workflow_status
                                                             WHERE queue_name = $1 AND ",
            running!(),
            ") END",
            $room,
            "))
                FOR UPDATE SKIP LOCKED),
        taken AS (
             UPDATE dbos.workflow_status s
                SET status = 'PENDING', executor_id = $6, owner_xid = $7, application_name = $2,
                    application_version = $3, started_at_epoch_ms = $8, updated_at = $8,
                    recovery_attempts = greatest(0, least(COALESCE(s.recovery_attempts, 0), 4294967294)) + 1
               FROM picked p WHERE s.workflow_uuid = p.workflow_uuid
             RETURNING s.workflow_uuid, s.name, s.recovery_attempts, s.priority, s.created_at, s.creator_xid)",
            $taken,
            "
        SELECT workflow_uuid, name, recovery_attempts
          FROM (SELECT * FROM earlier UNION ALL SELECT * FROM taken) AS claimed
         ORDER BY priority, created_at, creator_xid COLLATE \"C\", workflow_uuid"
        )
    };
}

const CLAIM: Statement = Statement { name: "claim", sql: claim!("", "", "") };

/// For a queue with an `in_flight` limit: workflows that have a place already.
const CLAIM_BEGUN: Statement = Statement {
    name: "claim_begun",
    sql: claim!(
        " AND EXISTS (SELECT 1 FROM dbos.piton_places p
                       WHERE p.queue_name = $1 AND p.workflow_uuid = s.workflow_uuid)",
        "",
        ""
    ),
};

/// The number of workflows of a queue that have begun and not ended: workflows with a place, and workflows that another
/// program claimed without one.
macro_rules! in_flight {
    ($queue:literal) => {
        concat!(
            "(SELECT count(*) FROM dbos.piton_places p JOIN dbos.workflow_status s ON s.workflow_uuid = p.workflow_uuid
                WHERE p.queue_name = ",
            $queue,
            " AND (s.queue_name = p.queue_name AND s.status IN ('PENDING', 'ENQUEUED', 'DELAYED')) IS TRUE)
              + (SELECT count(*) FROM dbos.workflow_status s
                  WHERE queue_name = ",
            $queue,
            " AND ",
            running!(),
            " AND NOT EXISTS (SELECT 1 FROM dbos.piton_places p
                              WHERE p.queue_name = s.queue_name AND p.workflow_uuid = s.workflow_uuid))"
        )
    };
}

/// The workflows that need a place, and take it. The statement returns all claimed rows. $10 how many may be in flight
const CLAIM_FRESH: Statement = Statement {
    name: "claim_fresh",
    sql: claim!(
        " AND NOT EXISTS (SELECT 1 FROM dbos.piton_places p
                           WHERE p.queue_name = $1 AND p.workflow_uuid = s.workflow_uuid)",
        concat!(", $10::int8 - (", in_flight!("$1"), ")"),
        ",
        placed AS (
             INSERT INTO dbos.piton_places (queue_name, workflow_uuid)
             SELECT $1, workflow_uuid FROM taken ON CONFLICT DO NOTHING)"
    ),
};

/// Places of workflows that have ended, or left the queue. $1 queue
const FREE_PLACES: Statement = Statement {
    name: "free_places",
    sql: "
        DELETE FROM dbos.piton_places p
         WHERE queue_name = $1
           AND NOT EXISTS (SELECT 1 FROM dbos.workflow_status s
                            WHERE s.workflow_uuid = p.workflow_uuid
                              AND (s.queue_name = $1 AND s.status IN ('PENDING', 'ENQUEUED', 'DELAYED')) IS TRUE)",
};

/// Held until the end of the transaction: claims of a queue with a limit take turns. $1 name
const LOCK: Statement =
    Statement { name: "lock_queue", sql: "SELECT 1 FROM dbos.queues WHERE name = $1 FOR NO KEY UPDATE" };

/// A queue that is not registered, or that was removed, is closed; the engine's own has no row. A queue that is full of
/// begun workflows is open for them. They are counted, because an EXISTS beside an OR is planned as a look at all
/// workflows. The first row says when the next wait is over.
///
/// $1 queues, $2 application, $3 version, $4 names, $5 the engine's own queue
const OUTLOOK: Statement = Statement {
    name: "outlook",
    sql: concat!(
        "
        SELECT NULL AS queue, NULL::int4, NULL::int4, NULL::int4, min(delay_until_epoch_ms)
          FROM dbos.workflow_status
         WHERE status = 'DELAYED' AND (application_name = $2 OR application_name IS NULL)
         UNION ALL
        SELECT asked.name, q.concurrency, q.worker_concurrency, l.in_flight, NULL
          FROM unnest($1::text[]) AS asked (name) LEFT JOIN dbos.queues q ON q.name = asked.name
               LEFT JOIN dbos.piton_queues l ON l.name = asked.name
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
        "))
           AND (l.in_flight IS NULL
                OR l.in_flight > ",
        in_flight!("asked.name"),
        "
                OR 0 < (SELECT count(*) FROM dbos.piton_places p
                             JOIN dbos.workflow_status s ON s.workflow_uuid = p.workflow_uuid
                            WHERE p.queue_name = asked.name
                              AND (s.status = 'ENQUEUED' AND s.queue_name = p.queue_name) IS TRUE
                              AND (s.application_name = $2 OR s.application_name IS NULL)
                              AND ",
        served_version!(),
        "
                              AND s.name = ANY ($4)))"
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

/// $1 name, $2 how many may be in flight
const LIMIT_IN_FLIGHT: Statement = Statement {
    name: "limit_in_flight",
    sql: "
        INSERT INTO dbos.piton_queues (name, in_flight) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET in_flight = excluded.in_flight",
};

/// Workflows that began before there was a limit get a place, too. $1 queue, $2 prefix of this engine's ids
const ADOPT: Statement = Statement {
    name: "adopt_begun",
    sql: "
        INSERT INTO dbos.piton_places (queue_name, workflow_uuid)
        SELECT queue_name, workflow_uuid FROM dbos.workflow_status
         WHERE status IN ('ENQUEUED', 'PENDING') AND queue_name = $1
           AND (status = 'PENDING' OR starts_with(executor_id, $2))
         UNION ALL
        SELECT queue_name, workflow_uuid FROM dbos.workflow_status
         WHERE status = 'DELAYED' AND queue_name = $1 AND starts_with(executor_id, $2)
            ON CONFLICT DO NOTHING",
};

/// $1 name
const UNLIMIT_IN_FLIGHT: Statement = Statement {
    name: "unlimit_in_flight",
    sql: "
        WITH forgotten AS (DELETE FROM dbos.piton_places WHERE queue_name = $1)
        DELETE FROM dbos.piton_queues WHERE name = $1",
};

/// $1 name
const OWNER: Statement =
    Statement { name: "owner_of_queue", sql: "SELECT application_name FROM dbos.queues WHERE name = $1" };

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[
    CLAIM,
    CLAIM_BEGUN,
    CLAIM_FRESH,
    FREE_PLACES,
    LOCK,
    OUTLOOK,
    REGISTER,
    LIMIT_IN_FLIGHT,
    ADOPT,
    UNLIMIT_IN_FLIGHT,
    OWNER,
];

/// Takes the first of the waiting workflows that this executor can run. The attempt is counted here, before anything
/// of them is looked at.
pub(super) fn claim(connection: &mut Connection, claim: &Claim) -> DbResult<Verdict> {
    if claim.concurrency.is_none() && claim.in_flight.is_none() {
        return take(connection, &CLAIM, claim);
    }
    connection.atomically(|connection| {
        connection.query(&LOCK, &[&claim.queue])?;
        if claim.in_flight.is_none() {
            return take(connection, &CLAIM, claim);
        }
        // Workflows that have begun go on first. Others begin while there are places.
        connection.execute(&FREE_PLACES, &[&claim.queue])?;
        take(connection, &CLAIM_BEGUN, claim)?;
        take(connection, &CLAIM_FRESH, claim)
    })
}

fn take(connection: &mut Connection, statement: &Statement, claim: &Claim) -> DbResult<Verdict> {
    let Identity { executor, app, version } = claim.served.identity.as_ref();
    let limit = i64::try_from(claim.limit).unwrap_or(i64::MAX);
    let (concurrency, in_flight) = (claim.concurrency.map(i64::from), claim.in_flight.map(i64::from));
    let (app, version, executor, token) = (&**app, &**version, executor.as_str(), claim.token.as_str());
    let at = claim.at.as_millis();
    let mut params: Vec<&(dyn ToSql + Sync)> =
        vec![&claim.queue, &app, &version, &claim.served.names, &limit, &executor, &token, &at, &concurrency];
    if statement.name == CLAIM_FRESH.name {
        params.push(&in_flight);
    }
    let rows = connection.query(statement, &params)?;
    let read = |row: &Row| {
        let workflow = WorkflowId::stored(column(statement, row, 0)?);
        let name: Option<String> = column(statement, row, 1)?;
        let attempts = count_column(statement, row, 2)?;
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
                outlook.next_due = column::<Option<i64>>(&OUTLOOK, &row, 4)?.map(Timestamp::from_millis);
            }
            Some(name) => {
                let (concurrency, worker_concurrency, in_flight) = (limit(1)?, limit(2)?, limit(3)?);
                outlook.open.push(OpenQueue { name, concurrency, worker_concurrency, in_flight });
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
    // The row stays locked until the commit, so no claim comes between the limit and the places.
    let registered = connection.atomically(|connection| {
        if connection.execute(&REGISTER, params)? == 0 {
            return Ok(false);
        }
        if let Some(max) = limit(options.in_flight) {
            connection.execute(&LIMIT_IN_FLIGHT, &[&queue, &max])?;
            connection.execute(&ADOPT, &[&queue, &ExecutorId::PREFIX])?;
        } else {
            connection.execute(&UNLIMIT_IN_FLIGHT, &[&queue])?;
        }
        Ok(true)
    })?;
    if registered {
        return Ok(Verdict::Done);
    }
    let row = connection.first(&OWNER, &[&queue])?;
    let owner = row.map(|row| column::<Option<String>>(&OWNER, &row, 0)).transpose()?.flatten();
    Ok(match owner {
        Some(name) if name != **app => Verdict::Refused(Refusal::OtherApplication { name }),
        _ => Verdict::Done,
    })
}
