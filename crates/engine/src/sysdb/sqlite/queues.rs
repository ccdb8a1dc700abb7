//! Queues: their waiting workflows, and the claims.

use rusqlite::{Connection, Row, params};

use super::column::{self, StoredId};
use super::statement::Statement;
use super::{attempts, json_array, served_version, workflows};
use crate::pure::clock::Timestamp;
use crate::pure::codec;
use crate::pure::error::{Failure, UNREADABLE};
use crate::pure::id::{ExecutorId, OwnerToken};
use crate::pure::listing::held;
use crate::pure::queue::QueueOptions;
use crate::sysdb::names::INTERNAL_QUEUE;
use crate::sysdb::outage::Outage;
use crate::sysdb::write::{Claim, ClaimedRow, Refusal};
use crate::sysdb::{DbResult, Identity, OpenQueue, Outlook, Served, Verdict};

/// Rows of a queue ?1 that programs of version ?3 of application ?2 can take if they know the names ?4, a JSON array.
macro_rules! claimable {
    () => {
        concat!(
            "status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ?1
                  AND (application_name = ?2 OR application_name IS NULL)
                  AND ",
            served_version!(),
            "
                  AND name IN (SELECT value FROM json_each(?4))"
        )
    };
}

/// Unlike PostgreSQL there is no SKIP LOCKED. One process writes at a time, so no other claim has these rows, and their
/// count is right until the commit. Workflows that one caller enqueued in order are taken in order, also within a
/// millisecond.
///
/// ?1 queue, ?2 application, ?3 version, ?4 names as a JSON array, ?5 limit, ?6 executor, ?7 token, ?8 now, ?9 how many
/// may run at once
macro_rules! claim {
    ($which:literal) => {
        concat!(
            "
        UPDATE workflow_status
           SET status = 'PENDING', executor_id = ?6, owner_xid = ?7, application_name = ?2,
               application_version = ?3, started_at_epoch_ms = ?8, updated_at = ?8,
               recovery_attempts = ",
            attempts!(),
            " + 1
         WHERE rowid IN (
               SELECT rowid FROM workflow_status
                WHERE ",
            claimable!(),
            $which,
            "
                ORDER BY priority, created_at, rowid
                LIMIT CASE WHEN ?9 IS NULL THEN ?5
                           ELSE min(?5, max(0, ?9 - (SELECT count(*) FROM workflow_status
                                                      WHERE status = 'PENDING' AND status IN ('ENQUEUED', 'PENDING')
                                                        AND queue_name = ?1))) END)"
        )
    };
}

const CLAIM: Statement = Statement { name: "claim", sql: claim!("") };

/// For a queue with an `in_flight` limit: workflows that have a place already.
const CLAIM_BEGUN: Statement = Statement {
    name: "claim_begun",
    sql: claim!(" AND workflow_uuid IN (SELECT workflow_uuid FROM piton_places WHERE queue_name = ?1)"),
};

/// Workflows that need a place.
const CLAIM_FRESH: Statement = Statement {
    name: "claim_fresh",
    sql: claim!(" AND workflow_uuid NOT IN (SELECT workflow_uuid FROM piton_places WHERE queue_name = ?1)"),
};

/// Places of workflows that have ended, or left the queue. ?1 queue
const FREE_PLACES: Statement = Statement {
    name: "free_places",
    sql: "
        DELETE FROM piton_places
         WHERE queue_name = ?1
           AND NOT EXISTS (SELECT 1 FROM workflow_status s
                            WHERE s.workflow_uuid = piton_places.workflow_uuid AND s.queue_name = ?1
                              AND s.status IN ('PENDING', 'ENQUEUED', 'DELAYED'))",
};

/// The number of workflows of a queue that have begun and not ended: workflows with a place, and workflows that another
/// program claimed without one.
macro_rules! in_flight {
    ($queue:literal) => {
        concat!(
            "(SELECT count(*) FROM piton_places p JOIN workflow_status s ON s.workflow_uuid = p.workflow_uuid
                WHERE p.queue_name = ",
            $queue,
            " AND s.queue_name = p.queue_name AND s.status IN ('PENDING', 'ENQUEUED', 'DELAYED'))
              + (SELECT count(*) FROM workflow_status s
                  WHERE s.status = 'PENDING' AND s.status IN ('ENQUEUED', 'PENDING') AND s.queue_name = ",
            $queue,
            " AND NOT EXISTS (SELECT 1 FROM piton_places p
                              WHERE p.queue_name = s.queue_name AND p.workflow_uuid = s.workflow_uuid))"
        )
    };
}

/// ?1 queue
const IN_FLIGHT: Statement = Statement { name: "count_in_flight", sql: concat!("SELECT ", in_flight!("?1")) };

/// ?1 queue, ?2 executor, ?3 token
const TAKE_PLACES: Statement = Statement {
    name: "take_places",
    sql: "
        INSERT INTO piton_places (queue_name, workflow_uuid)
        SELECT ?1, workflow_uuid FROM workflow_status
         WHERE status = 'PENDING' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ?1
           AND executor_id = ?2 AND owner_xid = ?3 AND typeof(workflow_uuid) = 'text'
            ON CONFLICT DO NOTHING",
};

/// The workflows that an executor holds under a token, also those of an earlier try of the same claim. ?1 executor, ?2
/// token, ?3 queue
const CLAIMED: Statement = Statement {
    name: "claimed",
    sql: "
        SELECT workflow_uuid, name, recovery_attempts, rowid FROM workflow_status
         WHERE status = 'PENDING' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ?3
           AND executor_id = ?1 AND owner_xid = ?2
         ORDER BY priority, created_at, rowid",
};

/// A queue that is not registered, or that was removed, is closed; the engine's own has no row. A queue that is full of
/// begun workflows is open for them.
///
/// ?1 queues, ?2 application, ?3 version, ?4 names as a JSON array, ?5 the engine's own queue
const OUTLOOK: Statement = Statement {
    name: "outlook",
    sql: concat!(
        "
        SELECT asked.value, q.concurrency, q.worker_concurrency, l.in_flight
          FROM json_each(?1) AS asked LEFT JOIN queues q ON q.name = asked.value
               LEFT JOIN piton_queues l ON l.name = asked.value
         WHERE (asked.value = ?5 OR q.name IS NOT NULL)
           AND EXISTS (SELECT 1 FROM workflow_status
                        WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = asked.value
                          AND (application_name = ?2 OR application_name IS NULL)
                          AND ",
        served_version!(),
        "
                          AND name IN (SELECT value FROM json_each(?4)))
           AND (q.concurrency IS NULL
                OR q.concurrency > (SELECT count(*) FROM workflow_status
                                     WHERE status = 'PENDING' AND status IN ('ENQUEUED', 'PENDING')
                                       AND queue_name = asked.value))
           AND (l.in_flight IS NULL
                OR l.in_flight > ",
        in_flight!("asked.value"),
        "
                OR EXISTS (SELECT 1 FROM piton_places p JOIN workflow_status s ON s.workflow_uuid = p.workflow_uuid
                            WHERE p.queue_name = asked.value AND s.status = 'ENQUEUED' AND s.queue_name = p.queue_name
                              AND (s.application_name = ?2 OR s.application_name IS NULL)
                              AND ",
        served_version!(),
        "
                              AND s.name IN (SELECT value FROM json_each(?4))))"
    ),
};

/// ?1 application
const NEXT_DUE: Statement = Statement {
    name: "next_due",
    sql: "
        SELECT min(delay_until_epoch_ms) FROM workflow_status
         WHERE status = 'DELAYED' AND (application_name = ?1 OR application_name IS NULL)",
};

/// Those whose time is none: to SQLite, each text and each blob is greater than the empty text. ?1 application
const ODD_DUE: Statement = Statement {
    name: "odd_due",
    sql: "
        SELECT workflow_uuid, delay_until_epoch_ms FROM workflow_status
         WHERE status = 'DELAYED' AND delay_until_epoch_ms >= ''
           AND (application_name = ?1 OR application_name IS NULL)
         LIMIT 100",
};

/// The limits of the newest version hold. ?1 id, ?2 application, ?3 version, ?4 name, ?5 concurrency, ?6 of one worker,
/// ?7 now
const REGISTER: Statement = Statement {
    name: "register_queue",
    sql: "
        INSERT INTO queues (queue_id, name, concurrency, worker_concurrency, priority_enabled, created_at, updated_at,
                            application_name)
        VALUES (?1, ?4, ?5, ?6, TRUE, ?7, ?7, ?2)
            ON CONFLICT (name)
            DO UPDATE SET concurrency = excluded.concurrency, worker_concurrency = excluded.worker_concurrency,
                          priority_enabled = TRUE, updated_at = excluded.updated_at, application_name = ?2
             WHERE (application_name = ?2 OR application_name IS NULL)
               AND ?3 = COALESCE((SELECT version_name FROM application_versions
                                   WHERE application_name = ?2 AND typeof(version_name) = 'text'
                                     AND typeof(version_timestamp) = 'integer'
                                   ORDER BY version_timestamp DESC LIMIT 1), ?3)",
};

/// ?1 name, ?2 how many may be in flight
const LIMIT_IN_FLIGHT: Statement = Statement {
    name: "limit_in_flight",
    sql: "
        INSERT INTO piton_queues (name, in_flight) VALUES (?1, ?2)
            ON CONFLICT (name) DO UPDATE SET in_flight = excluded.in_flight",
};

/// Workflows that began before there was a limit get a place, too. ?1 queue, ?2 prefix of this engine's ids
const ADOPT: Statement = Statement {
    name: "adopt_begun",
    sql: "
        INSERT INTO piton_places (queue_name, workflow_uuid)
        SELECT queue_name, workflow_uuid FROM workflow_status
         WHERE status IN ('ENQUEUED', 'PENDING') AND queue_name = ?1 AND typeof(workflow_uuid) = 'text'
           AND (status = 'PENDING' OR substr(executor_id, 1, length(?2)) = ?2)
         UNION ALL
        SELECT queue_name, workflow_uuid FROM workflow_status
         WHERE status = 'DELAYED' AND queue_name = ?1 AND typeof(workflow_uuid) = 'text'
           AND substr(executor_id, 1, length(?2)) = ?2
            ON CONFLICT DO NOTHING",
};

/// ?1 name
const UNLIMIT_IN_FLIGHT: Statement =
    Statement { name: "unlimit_in_flight", sql: "DELETE FROM piton_queues WHERE name = ?1" };

/// ?1 queue
const FORGET_PLACES: Statement =
    Statement { name: "forget_places", sql: "DELETE FROM piton_places WHERE queue_name = ?1" };

/// ?1 name
const OWNER: Statement =
    Statement { name: "owner_of_queue", sql: "SELECT application_name FROM queues WHERE name = ?1" };

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[
    CLAIM,
    CLAIM_BEGUN,
    CLAIM_FRESH,
    FREE_PLACES,
    IN_FLIGHT,
    TAKE_PLACES,
    CLAIMED,
    OUTLOOK,
    NEXT_DUE,
    ODD_DUE,
    REGISTER,
    LIMIT_IN_FLIGHT,
    ADOPT,
    UNLIMIT_IN_FLIGHT,
    FORGET_PLACES,
    OWNER,
];

/// Takes the first of the waiting workflows that this executor can run. The attempt is counted here, before anything
/// of them is looked at.
pub(super) fn claim(connection: &Connection, claim: &Claim) -> DbResult<Verdict> {
    match claim.in_flight {
        None => take(connection, &CLAIM, claim, claim.limit).map(drop)?,
        Some(in_flight) => claim_places(connection, claim, in_flight)?,
    }
    claimed(connection, claim)
}

/// Workflows that have begun go on first. Others begin while there are places.
fn claim_places(connection: &Connection, claim: &Claim, in_flight: u32) -> DbResult<()> {
    FREE_PLACES.execute(connection, [&claim.queue])?;
    let begun = take(connection, &CLAIM_BEGUN, claim, claim.limit)?;
    let held = IN_FLIGHT.first(connection, [&claim.queue], |row| row.get::<_, u32>(0))?.unwrap_or_default();
    let places = in_flight.saturating_sub(held) as usize;
    take(connection, &CLAIM_FRESH, claim, claim.limit.saturating_sub(begun).min(places))?;
    let Identity { executor, .. } = claim.served.identity.as_ref();
    TAKE_PLACES.execute(connection, [claim.queue.as_str(), executor.as_str(), claim.token.as_str()])?;
    Ok(())
}

fn take(connection: &Connection, statement: &Statement, claim: &Claim, limit: usize) -> DbResult<usize> {
    let Identity { executor, app, version } = claim.served.identity.as_ref();
    statement.execute(
        connection,
        params![
            claim.queue,
            app,
            version,
            json_array(&claim.served.names),
            limit,
            executor.as_str(),
            claim.token.as_str(),
            claim.at.as_millis(),
            claim.concurrency,
        ],
    )
}

fn claimed(connection: &Connection, claim: &Claim) -> DbResult<Verdict> {
    let Identity { executor, .. } = claim.served.identity.as_ref();
    let read = |row: &Row<'_>| {
        let name = column::text(row, 1)?.unwrap_or_default();
        Ok((column::id(row, 0)?, name, column::count(row, 2)?, row.get::<_, i64>(3)?))
    };
    let params = [executor.as_str(), claim.token.as_str(), &claim.queue];
    let mut rows = Vec::new();
    for (id, name, attempts, rowid) in CLAIMED.all(connection, params, read)? {
        let unreadable = matches!(id, StoredId::Unreadable(_));
        if unreadable {
            let reason = "its id is not a text, so the engine cannot tell its input and steps from those of other workflows";
            let error = codec::encode_failure(&Failure::new(UNREADABLE, reason));
            workflows::end_unreadable(connection, rowid, &error, claim.at)?;
        }
        rows.push(ClaimedRow { workflow: id.shown(), name, attempts, unreadable });
    }
    Ok(Verdict::Claimed(rows))
}

pub(super) fn outlook(connection: &Connection, served: &Served, outage: &Outage) -> DbResult<Outlook> {
    let Identity { app, version, .. } = served.identity.as_ref();
    let (queues, names) = (json_array(&served.queues), json_array(&served.names));
    // A limit that is no number lets nothing run, as one below zero does.
    let limit = |row: &Row<'_>, place: usize| {
        let is_none = column::text(row, place)?.is_none();
        Ok::<_, rusqlite::Error>(if is_none { None } else { Some(column::count(row, place)?) })
    };
    let read = |row: &Row<'_>| {
        Ok(OpenQueue {
            name: row.get(0)?,
            concurrency: limit(row, 1)?,
            worker_concurrency: limit(row, 2)?,
            in_flight: limit(row, 3)?,
        })
    };
    let open = OUTLOOK.all(connection, params![queues, app, version, names, INTERNAL_QUEUE], read)?;
    let odd = ODD_DUE.all(connection, [app], |row| Ok((column::id(row, 0)?, column::text(row, 1)?)))?;
    let next_due = if odd.is_empty() {
        NEXT_DUE.first(connection, [app], |row| column::time(row, 0))?.flatten()
    } else {
        // They are woken at once, and wait on if they find that they must.
        Some(Timestamp::from_millis(0))
    };
    for (id, due) in odd {
        let held = held("delay_until_epoch_ms", &due.unwrap_or_default());
        outage.names_row(&id.shown(), &format!("{held}, which is no time; it goes on now"));
    }
    Ok(Outlook { open, next_due })
}

pub(super) fn register(
    connection: &Connection,
    identity: &Identity,
    queue: &str,
    options: QueueOptions,
    at: Timestamp,
) -> DbResult<Verdict> {
    let Identity { app, version, .. } = identity;
    let id = OwnerToken::generate();
    let QueueOptions { concurrency, worker_concurrency, in_flight } = options;
    let params = params![id.as_str(), app, version, queue, concurrency, worker_concurrency, at.as_millis()];
    if REGISTER.execute(connection, params)? == 1 {
        if let Some(max) = in_flight {
            LIMIT_IN_FLIGHT.execute(connection, params![queue, max])?;
            ADOPT.execute(connection, [queue, ExecutorId::PREFIX])?;
        } else {
            UNLIMIT_IN_FLIGHT.execute(connection, [queue])?;
            FORGET_PLACES.execute(connection, [queue])?;
        }
        return Ok(Verdict::Done);
    }
    let owner = OWNER.first(connection, [queue], |row| column::text(row, 0))?.flatten();
    Ok(match owner {
        Some(name) if name != **app => Verdict::Refused(Refusal::OtherApplication { name }),
        _ => Verdict::Done,
    })
}
