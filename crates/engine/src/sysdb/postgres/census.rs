//! Waiting workflows that no executor can take up, or that wait in a circle. Looks at all that waits, so they are made
//! now and then.

use postgres::Row;

use super::connection::{Connection, Statement, column};
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
               (SELECT version_name FROM dbos.application_versions v WHERE v.application_name = s.application_name
                 ORDER BY version_timestamp DESC LIMIT 1),
               name, queue_name,
               COALESCE(queue_name = $2, FALSE) OR EXISTS (SELECT 1 FROM dbos.queues q WHERE q.name = s.queue_name),
               count(*), min(created_at)
          FROM dbos.workflow_status s
         WHERE ",
            $of,
            " AND (executor_id IS NULL OR starts_with(executor_id, $1))
         GROUP BY application_name, application_version, name, queue_name"
        )
    };
}

/// $1 prefix of this engine's ids, $2 the engine's own queue
const CENSUS: Statement = Statement {
    name: "census",
    sql: concat!(
        groups!("status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING')"),
        " UNION ALL ",
        groups!("status = 'DELAYED'")
    ),
};

/// $1 prefix of this engine's ids
const OTHERS: Statement = Statement {
    name: "executors_of_others",
    sql: "
        SELECT DISTINCT application_name FROM dbos.workflow_status
         WHERE status = 'PENDING' AND NOT starts_with(executor_id, $1)",
};

/// $1 application, $2 limit
const WAITS: Statement = Statement {
    name: "waits",
    sql: r#"
        WITH waiting AS MATERIALIZED (
             SELECT workflow_uuid AS id, mark #>> '{}' AS mark,
                    CASE WHEN attributes -> 'piton.awaits' ? 'any'
                         THEN (SELECT count(*) FROM jsonb_path_query(attributes,
                                    '$."piton.awaits"[*] ? (@ starts with "workflow ")'))
                         ELSE 1 END AS stuck_with
               FROM dbos.workflow_status
              CROSS JOIN LATERAL jsonb_path_query(attributes, '$."piton.awaits"[*]') AS mark
              WHERE status = 'DELAYED' AND (application_name = $1 OR application_name IS NULL)
                AND (NOT attributes -> 'piton.awaits' ? 'any'
                     OR (delay_until_epoch_ms IS NULL
                         AND NOT jsonb_path_exists(attributes,
                                 '$."piton.awaits"[*] ? (@.type() != "string" || (@ != "any" && !(@ starts with "workflow ")))'))))
        SELECT w.id, a.workflow_uuid, CASE WHEN a.status = 'ENQUEUED' THEN a.queue_name END, w.stuck_with
          FROM waiting w
          JOIN dbos.workflow_status a ON a.workflow_uuid = substr(w.mark, 10)
         WHERE w.mark LIKE 'workflow %'
           AND (a.status = 'DELAYED'
                OR (a.status = 'ENQUEUED'
                    AND 0 < (SELECT count(*) FROM dbos.piton_queues l WHERE l.name = a.queue_name)
                    AND 0 = (SELECT count(*) FROM dbos.piton_places p
                              WHERE p.queue_name = a.queue_name AND p.workflow_uuid = a.workflow_uuid))) IS TRUE
         LIMIT $2::int8"#,
};

/// $1 queues
const HOLDERS: Statement = Statement {
    name: "holders_of_places",
    sql: "
        SELECT l.name, l.in_flight, s.workflow_uuid
          FROM unnest($1::text[]) AS asked (name)
          JOIN dbos.piton_queues l ON l.name = asked.name
          JOIN dbos.piton_places p ON p.queue_name = l.name
          JOIN dbos.workflow_status s ON s.workflow_uuid = p.workflow_uuid
         WHERE (s.queue_name = p.queue_name AND s.status IN ('PENDING', 'ENQUEUED', 'DELAYED')) IS TRUE",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[CENSUS, OTHERS, WAITS, HOLDERS];

pub(super) fn census(connection: &mut Connection) -> DbResult<Census> {
    let mut census = Census::default();
    for row in connection.query(&CENSUS, &[&ExecutorId::PREFIX, &INTERNAL_QUEUE])? {
        let text = |index| column::<Option<String>>(&CENSUS, &row, index);
        census.groups.push(OpenGroup {
            app: text(0)?,
            version: text(1)?,
            newest: text(2)?,
            name: text(3)?,
            queue: text(4)?,
            queue_exists: column(&CENSUS, &row, 5)?,
            count: u64::try_from(column::<i64>(&CENSUS, &row, 6)?).unwrap_or_default(),
            oldest: Timestamp::from_millis(column(&CENSUS, &row, 7)?),
        });
    }
    for row in connection.query(&OTHERS, &[&ExecutorId::PREFIX])? {
        census.of_others.push(column(&OTHERS, &row, 0)?);
    }
    Ok(census)
}

pub(super) fn waits(connection: &mut Connection, app: &str) -> DbResult<WaitGraph> {
    let wait = |row: &Row| {
        let (waiter, awaited) = (id(&WAITS, row, 0)?, id(&WAITS, row, 1)?);
        let stuck_with = usize::try_from(column::<i64>(&WAITS, row, 3)?).unwrap_or(usize::MAX);
        Ok(WaitEdge { waiter, awaited, in_queue: column(&WAITS, row, 2)?, stuck_with })
    };
    let found = connection.query(&WAITS, &[&app, &i64::from(WAITS_MAX)])?;
    let waits: Vec<WaitEdge> = found.iter().map(wait).collect::<DbResult<_>>()?;
    let asked = WaitGraph::queues_of(&waits);
    let held = if asked.is_empty() { Vec::new() } else { connection.query(&HOLDERS, &[&asked])? };
    let read = |row: &Row| {
        let in_flight = column::<i32>(&HOLDERS, row, 1)?.max(0);
        Ok((column(&HOLDERS, row, 0)?, in_flight.unsigned_abs(), id(&HOLDERS, row, 2)?))
    };
    let held = held.iter().map(read).collect::<DbResult<Vec<_>>>()?;
    Ok(WaitGraph::of(waits, held))
}

fn id(statement: &Statement, row: &Row, index: usize) -> DbResult<WorkflowId> {
    Ok(WorkflowId::stored(column::<String>(statement, row, index)?))
}
