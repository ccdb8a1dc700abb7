//! Waiting workflows that no executor can take up, or that wait in a circle. Looks at all that waits, so they are made
//! now and then.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::statement::Statement;
use super::{AWAITS_PATH, json_array};
use crate::pure::clock::Timestamp;
use crate::pure::id::{ExecutorId, WorkflowId};
use crate::pure::limits::WAITS_MAX;
use crate::sysdb::names::INTERNAL_QUEUE;
use crate::sysdb::{Census, DbResult, OpenGroup, WaitEdge, WaitGraph};

/// A workflow whose last executor is of another program is for that program.
macro_rules! groups {
    ($of:literal) => {
        concat!(
            "
        SELECT application_name, application_version,
               (SELECT version_name FROM application_versions v WHERE v.application_name = s.application_name
                 ORDER BY version_timestamp DESC LIMIT 1),
               name, queue_name,
               queue_name = ?2 OR EXISTS (SELECT 1 FROM queues q WHERE q.name = s.queue_name),
               count(*), min(created_at)
          FROM workflow_status s
         WHERE ",
            $of,
            " AND (executor_id IS NULL OR substr(executor_id, 1, length(?1)) = ?1)
         GROUP BY application_name, application_version, name, queue_name"
        )
    };
}

/// ?1 prefix of this engine's ids, ?2 the engine's own queue
const CENSUS: Statement = Statement {
    name: "census",
    sql: concat!(
        groups!("status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING')"),
        " UNION ALL ",
        groups!("status = 'DELAYED'")
    ),
};

/// ?1 prefix of this engine's ids
const OTHERS: Statement = Statement {
    name: "executors_of_others",
    sql: "
        SELECT DISTINCT application_name FROM workflow_status
         WHERE status = 'PENDING' AND executor_id IS NOT NULL AND substr(executor_id, 1, length(?1)) <> ?1",
};

/// ?1 path of the marks, ?2 application, ?3 limit
const WAITS: Statement = Statement {
    name: "waits",
    sql: "
        WITH waiting AS (
             SELECT workflow_uuid AS id, delay_until_epoch_ms AS due,
                    CASE WHEN json_valid(attributes) THEN attributes -> ?1 END AS marks
               FROM workflow_status
              WHERE status = 'DELAYED' AND (application_name = ?2 OR application_name IS NULL))
        SELECT w.id, a.workflow_uuid, CASE WHEN a.status = 'ENQUEUED' THEN a.queue_name END,
               CASE WHEN 'any' IN (SELECT value FROM json_each(w.marks))
                    THEN (SELECT count(*) FROM json_each(w.marks) WHERE value LIKE 'workflow %') ELSE 1 END
          FROM waiting w
          JOIN json_each(w.marks) AS mark
          JOIN workflow_status a ON a.workflow_uuid = substr(mark.value, 10)
         WHERE mark.value LIKE 'workflow %'
           AND ('any' NOT IN (SELECT value FROM json_each(w.marks))
                OR (w.due IS NULL
                    AND NOT EXISTS (SELECT 1 FROM json_each(w.marks)
                                     WHERE value <> 'any' AND value NOT LIKE 'workflow %')))
           AND (a.status = 'DELAYED'
                OR (a.status = 'ENQUEUED' AND EXISTS (SELECT 1 FROM piton_queues l WHERE l.name = a.queue_name)
                    AND NOT EXISTS (SELECT 1 FROM piton_places p
                                     WHERE p.queue_name = a.queue_name AND p.workflow_uuid = a.workflow_uuid)))
         LIMIT ?3",
};

/// ?1 queues as a JSON array
const HOLDERS: Statement = Statement {
    name: "holders_of_places",
    sql: "
        SELECT l.name, l.in_flight, s.workflow_uuid
          FROM json_each(?1) AS asked
          JOIN piton_queues l ON l.name = asked.value
          JOIN piton_places p ON p.queue_name = l.name
          JOIN workflow_status s ON s.workflow_uuid = p.workflow_uuid
         WHERE s.queue_name = p.queue_name AND s.status IN ('PENDING', 'ENQUEUED', 'DELAYED')",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[CENSUS, OTHERS, WAITS, HOLDERS];

pub(super) fn census(connection: &Connection) -> DbResult<Census> {
    let group = |row: &Row<'_>| {
        Ok(OpenGroup {
            app: text(row, 0)?,
            version: text(row, 1)?,
            newest: text(row, 2)?,
            name: text(row, 3)?,
            queue: text(row, 4)?,
            queue_exists: row.get::<_, Option<bool>>(5)?.unwrap_or_default(),
            count: row.get(6)?,
            oldest: Timestamp::from_millis(row.get_ref(7)?.as_i64().unwrap_or_default()),
        })
    };
    let groups = CENSUS.all(connection, [ExecutorId::PREFIX, INTERNAL_QUEUE], group)?;
    let of_others = OTHERS.all(connection, [ExecutorId::PREFIX], |row| text(row, 0))?;
    Ok(Census { groups, of_others })
}

/// A text of any program, as far as it can be read: it is only shown.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    })
}

pub(super) fn waits(connection: &Connection, app: &str) -> DbResult<WaitGraph> {
    let wait = |row: &Row<'_>| {
        let (waiter, awaited, in_queue) = (id(row, 0)?, id(row, 1)?, text(row, 2)?);
        Ok(WaitEdge { waiter, awaited, in_queue, stuck_with: row.get(3)? })
    };
    let waits = WAITS.all(connection, params![AWAITS_PATH, app, WAITS_MAX], wait)?;
    let asked = WaitGraph::queues_of(&waits);
    let held = if asked.is_empty() {
        Vec::new()
    } else {
        let read = |row: &Row<'_>| {
            let in_flight = row.get_ref(1)?.as_i64().unwrap_or_default().max(0);
            let in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
            Ok((text(row, 0)?.unwrap_or_default(), in_flight, id(row, 2)?))
        };
        HOLDERS.all(connection, [json_array(&asked)], read)?
    };
    Ok(WaitGraph::of(waits, held))
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<WorkflowId> {
    Ok(WorkflowId::stored(text(row, column)?.unwrap_or_default()))
}
