//! Queues: what waits in them, and who takes it.

use rusqlite::{Connection, Row, params};

use super::column::{self, StoredId};
use super::statement::Statement;
use super::{attempts, json_array, served_version, workflows};
use crate::clock::Timestamp;
use crate::codec;
use crate::error::{Failure, UNREADABLE};
use crate::id::OwnerToken;
use crate::listing::held;
use crate::outage::Outage;
use crate::queue::QueueOptions;
use crate::sysdb::names::INTERNAL_QUEUE;
use crate::sysdb::write::{Claim, ClaimedRow, Refusal};
use crate::sysdb::{DbResult, Identity, OpenQueue, Outlook, Served, Verdict};

/// Unlike PostgreSQL there is no SKIP LOCKED: one process writes at a time, so nobody else has these rows, and their count
/// is right until the commit.
///
/// ?1 queue, ?2 application, ?3 version, ?4 names as a JSON array, ?5 limit, ?6 executor, ?7 token, ?8 now, ?9 how many
/// may run at once
const CLAIM: Statement = Statement {
    name: "claim",
    sql: concat!(
        "
        UPDATE workflow_status
           SET status = 'PENDING', executor_id = ?6, owner_xid = ?7, application_name = ?2,
               application_version = ?3, started_at_epoch_ms = ?8, updated_at = ?8,
               recovery_attempts = ",
        attempts!(),
        " + 1
         WHERE rowid IN (
               SELECT rowid FROM workflow_status
                WHERE status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ?1
                  AND (application_name = ?2 OR application_name IS NULL)
                  AND ",
        served_version!(),
        "
                  AND name IN (SELECT value FROM json_each(?4))
                ORDER BY priority, created_at, workflow_uuid
                LIMIT CASE WHEN ?9 IS NULL THEN ?5
                           ELSE min(?5, max(0, ?9 - (SELECT count(*) FROM workflow_status
                                                      WHERE status = 'PENDING' AND status IN ('ENQUEUED', 'PENDING')
                                                        AND queue_name = ?1))) END)"
    ),
};

/// What an executor holds under a token: also what an earlier try of the same claim took. ?1 executor, ?2 token, ?3 queue
const CLAIMED: Statement = Statement {
    name: "claimed",
    sql: "
        SELECT workflow_uuid, name, recovery_attempts, rowid FROM workflow_status
         WHERE status = 'PENDING' AND status IN ('ENQUEUED', 'PENDING') AND queue_name = ?3
           AND executor_id = ?1 AND owner_xid = ?2
         ORDER BY priority, created_at, workflow_uuid",
};

/// A queue that nobody registered, or that was removed, is closed; the engine's own has no row.
///
/// ?1 queues, ?2 application, ?3 version, ?4 names as a JSON array, ?5 the engine's own queue
const OUTLOOK: Statement = Statement {
    name: "outlook",
    sql: concat!(
        "
        SELECT asked.value, q.concurrency, q.worker_concurrency
          FROM json_each(?1) AS asked LEFT JOIN queues q ON q.name = asked.value
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
                                       AND queue_name = asked.value))"
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

/// ?1 name
const OWNER: Statement =
    Statement { name: "owner_of_queue", sql: "SELECT application_name FROM queues WHERE name = ?1" };

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[CLAIM, CLAIMED, OUTLOOK, NEXT_DUE, ODD_DUE, REGISTER, OWNER];

/// Takes the first of the waiting workflows that this executor can run. The attempt is counted here, before anything
/// of them is looked at.
pub(super) fn claim(connection: &Connection, claim: &Claim) -> DbResult<Verdict> {
    let Identity { executor, app, version } = claim.served.identity.as_ref();
    CLAIM.execute(
        connection,
        params![
            claim.queue,
            app,
            version,
            json_array(&claim.served.names),
            claim.limit,
            executor.as_str(),
            claim.token.as_str(),
            claim.at.as_millis(),
            claim.concurrency,
        ],
    )?;
    let read = |row: &Row<'_>| {
        let name = column::text(row, 1)?.unwrap_or_default();
        Ok((column::id(row, 0)?, name, column::count(row, 2)?, row.get::<_, i64>(3)?))
    };
    let params = [executor.as_str(), claim.token.as_str(), &claim.queue];
    let mut rows = Vec::new();
    for (id, name, attempts, rowid) in CLAIMED.all(connection, params, read)? {
        let unreadable = matches!(id, StoredId::Unreadable(_));
        if unreadable {
            let reason = "its id is no text, so its input and its steps cannot be told from those of others";
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
        Ok(OpenQueue { name: row.get(0)?, concurrency: limit(row, 1)?, worker_concurrency: limit(row, 2)? })
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
    let QueueOptions { concurrency, worker_concurrency } = options;
    let params = params![id.as_str(), app, version, queue, concurrency, worker_concurrency, at.as_millis()];
    if REGISTER.execute(connection, params)? == 1 {
        return Ok(Verdict::Done);
    }
    let owner = OWNER.first(connection, [queue], |row| column::text(row, 0))?.flatten();
    Ok(match owner {
        Some(name) if name != **app => Verdict::Refused(Refusal::OtherApplication { name }),
        _ => Verdict::Done,
    })
}
