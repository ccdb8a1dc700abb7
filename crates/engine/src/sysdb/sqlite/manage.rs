//! What an operator does to workflows: look, cancel, resume.

use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::claims::{count_column, forget_output};
use super::statement::{Statement, failed};
use super::workflows::{status_column, wake_parent};
use super::{AWAITS_PATH, RESUMED_PATH, json_array};
use crate::clock::Timestamp;
use crate::codec;
use crate::error::RESUMABLE;
use crate::id::{OwnerToken, WorkflowId};
use crate::listing::{Progress, WorkflowFilter, WorkflowInfo};
use crate::sysdb::names::INTERNAL_QUEUE;
use crate::sysdb::write::Refusal;
use crate::sysdb::{DbResult, Verdict};

/// The workflow, and with ?2 its descendants. ?1 id, ?2 with descendants, ?3 now, ?4 path of the mark
const CANCEL: Statement = Statement {
    name: "cancel",
    sql: "
        WITH RECURSIVE tree (id) AS (
            SELECT ?1
             UNION
            SELECT child.workflow_uuid FROM workflow_status child JOIN tree ON child.parent_workflow_id = tree.id
             WHERE ?2)
        UPDATE workflow_status
           SET status = 'CANCELLED', completed_at = ?3, updated_at = ?3, queue_name = NULL,
               deduplication_id = NULL, owner_xid = NULL, started_at_epoch_ms = NULL,
               delay_until_epoch_ms = NULL,
               attributes = CASE WHEN json_valid(attributes) THEN json_remove(attributes, ?4)
                                 ELSE attributes END
         WHERE workflow_uuid IN (SELECT id FROM tree)
           AND status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED')
        RETURNING workflow_uuid, parent_workflow_id",
};

/// An ERROR may go on when its failure is about the program, not about the work. The token stays, so that a resume whose
/// answer was lost does not undo what came after it.
///
/// ?1 id, ?2 queue, ?3 now, ?4 names of such failures as a JSON array, ?5 path of the mark, ?6 path of the token, ?7 token
const RESUME: Statement = Statement {
    name: "resume",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', queue_name = ?2, recovery_attempts = 0, workflow_deadline_epoch_ms = NULL,
               deduplication_id = NULL, started_at_epoch_ms = NULL, completed_at = NULL, owner_xid = NULL,
               delay_until_epoch_ms = NULL, updated_at = ?3,
               attributes = CASE WHEN json_valid(attributes) AND json_type(attributes) = 'object'
                                 THEN json_set(json_remove(attributes, ?5), ?6, ?7)
                                 ELSE json_set('{}', ?6, ?7) END
         WHERE workflow_uuid = ?1 AND status <> 'SUCCESS'
           AND (status <> 'ERROR'
                OR EXISTS (SELECT 1 FROM workflow_output o
                            WHERE o.workflow_uuid = ?1 AND json_valid(o.error)
                              AND json_extract(o.error, '$.name') IN (SELECT value FROM json_each(?4))))",
};

/// ?1 id, ?2 path of the token, ?3 token
const RESUMED: Statement = Statement {
    name: "resumed",
    sql: "
        SELECT 1 FROM workflow_status
         WHERE workflow_uuid = ?1 AND json_valid(attributes) AND json_extract(attributes, ?2) = ?3",
};

/// ?1 id
const STATUS: Statement =
    Statement { name: "read_status", sql: "SELECT status FROM workflow_status WHERE workflow_uuid = ?1" };

/// ?1 id
const PROGRESS: Statement = Statement {
    name: "read_progress",
    sql: "
        SELECT status, COALESCE(recovery_attempts, 0),
               (SELECT count(*) FROM operation_outputs WHERE workflow_uuid = ?1),
               (SELECT function_name FROM operation_outputs WHERE workflow_uuid = ?1
                 ORDER BY function_id DESC LIMIT 1),
               (SELECT count(*) FROM workflow_status WHERE parent_workflow_id = ?1),
               (SELECT count(*) FROM workflow_status WHERE parent_workflow_id = ?1
                   AND status NOT IN ('PENDING', 'ENQUEUED', 'DELAYED'))
          FROM workflow_status WHERE workflow_uuid = ?1",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[CANCEL, RESUME, RESUMED, STATUS, PROGRESS];

/// Columns that [`workflow_info`] reads.
const COLUMNS: &str = "
    s.workflow_uuid, s.name, s.status, s.recovery_attempts, s.executor_id, s.parent_workflow_id, s.application_name,
    s.application_version, s.created_at, s.updated_at, s.completed_at, s.delay_until_epoch_ms,
    COALESCE(i.inputs, s.inputs), COALESCE(o.output, s.output), COALESCE(o.error, s.error), s.serialization";

pub(super) fn cancel(
    connection: &Connection,
    workflow: &WorkflowId,
    children: bool,
    at: Timestamp,
) -> DbResult<Verdict> {
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
    let cancelled =
        CANCEL.all(connection, params![workflow.as_str(), children, at.as_millis(), AWAITS_PATH], read)?;
    for (id, parent) in &cancelled {
        wake_parent(connection, parent.as_deref(), id, at)?;
    }
    if cancelled.is_empty() {
        return stands(connection, workflow);
    }
    Ok(Verdict::Changed(cancelled.into_iter().map(|(id, _)| WorkflowId::stored(id)).collect()))
}

pub(super) fn resume(
    connection: &Connection,
    workflow: &WorkflowId,
    token: &OwnerToken,
    at: Timestamp,
) -> DbResult<Verdict> {
    let (id, token) = (workflow.as_str(), token.as_str());
    if RESUMED.first(connection, [id, RESUMED_PATH, token], |_| Ok(()))?.is_some() {
        return Ok(Verdict::Changed(vec![workflow.clone()]));
    }
    let resumable = json_array(&RESUMABLE);
    let params = params![id, INTERNAL_QUEUE, at.as_millis(), resumable, AWAITS_PATH, RESUMED_PATH, token];
    if RESUME.execute(connection, params)? == 0 {
        return stands(connection, workflow);
    }
    forget_output(connection, workflow)?;
    Ok(Verdict::Changed(vec![workflow.clone()]))
}

/// Why nothing was done.
fn stands(connection: &Connection, workflow: &WorkflowId) -> DbResult<Verdict> {
    let status = STATUS.first(connection, [workflow.as_str()], |row| status_column(row, 0))?;
    Ok(Verdict::Refused(status.map_or(Refusal::NoSuchWorkflow, Refusal::Stands)))
}

pub(super) fn progress(connection: &Connection, workflow: &WorkflowId) -> DbResult<Option<Progress>> {
    PROGRESS.first(connection, [workflow.as_str()], |row| {
        Ok(Progress {
            status: status_column(row, 0)?,
            attempts: count_column(row, 1)?,
            steps_recorded: row.get(2)?,
            last_step: row.get(3)?,
            children: row.get(4)?,
            children_done: row.get(5)?,
        })
    })
}

pub(super) fn list(
    connection: &Connection,
    app: &str,
    filter: &WorkflowFilter,
) -> DbResult<Vec<WorkflowInfo>> {
    const NAME: &str = "list_workflows";
    let (conditions, mut values) = conditions(app, filter);
    // Within a millisecond, in the order of the commits.
    let direction = if filter.newest_first { "DESC" } else { "ASC" };
    // SQLite reads a limit of -1 as none.
    values.push(Value::Integer(filter.limit.map_or(-1, i64::from)));
    values.push(Value::Integer(filter.offset.into()));
    let sql = format!(
        "SELECT {COLUMNS}
           FROM workflow_status s
           LEFT JOIN workflow_input i USING (workflow_uuid) LEFT JOIN workflow_output o USING (workflow_uuid)
          WHERE {conditions}
          ORDER BY s.created_at {direction}, s.rowid {direction} LIMIT ? OFFSET ?"
    );
    let mut statement = connection.prepare(&sql).map_err(|e| failed(NAME, e))?;
    let rows = statement.query_map(params_from_iter(values), workflow_info).and_then(Iterator::collect);
    rows.map_err(|e| failed(NAME, e))
}

pub(super) fn count(connection: &Connection, app: &str, filter: &WorkflowFilter) -> DbResult<u64> {
    let (conditions, values) = conditions(app, filter);
    let sql = format!("SELECT count(*) FROM workflow_status s WHERE {conditions}");
    let count = connection.query_row(&sql, params_from_iter(values), |row| row.get(0));
    count.map_err(|e| failed("count_workflows", e))
}

/// The filter as SQL with anonymous parameters, and their values in order. Texts of users are only values.
fn conditions(app: &str, filter: &WorkflowFilter) -> (String, Vec<Value>) {
    let mut sql = "TRUE".to_owned();
    let mut values: Vec<Value> = Vec::new();
    let mut narrow = |condition: &str, new: &[Value]| {
        // Writing to a String cannot fail.
        let _ = write!(sql, " AND {condition}");
        values.extend_from_slice(new);
    };
    let text = |text: &str| Value::Text(text.to_owned());
    if !filter.all_applications {
        narrow("(s.application_name = ? OR s.application_name IS NULL)", &[text(app)]);
    }
    if !filter.statuses.is_empty() {
        let statuses: Vec<_> = filter.statuses.iter().map(|status| status.as_str()).collect();
        narrow("s.status IN (SELECT value FROM json_each(?))", &[Value::Text(json_array(&statuses))]);
    }
    if let Some(name) = &filter.name {
        narrow("s.name = ?", &[text(name)]);
    }
    if let Some(prefix) = &filter.id_prefix {
        narrow(
            "s.workflow_uuid >= ? AND substr(s.workflow_uuid, 1, length(?)) = ?",
            &[text(prefix), text(prefix), text(prefix)],
        );
    }
    if let Some(parent) = &filter.parent {
        narrow("s.parent_workflow_id = ?", &[text(parent.as_str())]);
    }
    if let Some(from) = filter.created_from {
        narrow("s.created_at >= ?", &[Value::Integer(from.as_millis())]);
    }
    if let Some(before) = filter.created_before {
        narrow("s.created_at < ?", &[Value::Integer(before.as_millis())]);
    }
    (sql, values)
}

fn workflow_info(row: &Row<'_>) -> rusqlite::Result<WorkflowInfo> {
    let time = |column: usize| row.get::<_, Option<i64>>(column).map(|ms| ms.map(Timestamp::from_millis));
    let error: Option<String> = row.get(14)?;
    let serialization: Option<String> = row.get(15)?;
    Ok(WorkflowInfo {
        id: WorkflowId::stored(row.get(0)?),
        name: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
        status: status_column(row, 2)?,
        attempts: count_column(row, 3)?,
        executor: row.get(4)?,
        parent: row.get::<_, Option<String>>(5)?.map(WorkflowId::stored),
        application: row.get(6)?,
        version: row.get(7)?,
        created_at: Timestamp::from_millis(row.get(8)?),
        updated_at: Timestamp::from_millis(row.get(9)?),
        completed_at: time(10)?,
        delayed_until: time(11)?,
        input: row.get(12)?,
        output: row.get(13)?,
        failure: error.map(|error| codec::decode_failure(serialization.as_deref(), &error)),
    })
}
