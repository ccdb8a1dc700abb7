//! The calls of an operator: look, cancel, resume.

use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::claims::forget_output;
use super::column::{self, Kind, StoredId};
use super::statement::{Statement, failed};
use super::workflows::wake_parent;
use super::{AWAITS_PATH, RESUMED_PATH, json_array, steps};
use crate::pure::clock::Timestamp;
use crate::pure::codec;
use crate::pure::error::RESUMABLE;
use crate::pure::id::{OwnerToken, WorkflowId};
use crate::pure::listing::{Progress, WorkflowFilter, WorkflowInfo};
use crate::pure::status::WorkflowStatus;
use crate::sysdb::names::{INTERNAL_QUEUE, ended};
use crate::sysdb::write::Refusal;
use crate::sysdb::{DbResult, Owner, StepRow, Verdict};

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
           AND COALESCE(status, '') NOT IN ('SUCCESS', 'ERROR', 'CANCELLED')
        RETURNING workflow_uuid, parent_workflow_id",
};

/// An ERROR may go on when its failure is about the program, not about the work. A record that begins as failures of
/// the work do is about the work, under any name. The token stays, so that a resume whose answer was lost does not undo
/// later changes.
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
         WHERE workflow_uuid = ?1 AND status IS NOT 'SUCCESS'
           AND (status IS NOT 'ERROR'
                OR EXISTS (SELECT 1 FROM workflow_output o
                            WHERE o.workflow_uuid = ?1
                              AND CASE WHEN json_valid(o.error) THEN json_extract(o.error, '$.name') END
                                  IN (SELECT value FROM json_each(?4))
                              AND substr(o.error, 1, 2) <> '{ '))",
};

/// ?1 id, ?2 path of the token, ?3 token
const RESUMED: Statement = Statement {
    name: "resumed",
    sql: "
        SELECT 1 FROM workflow_status
         WHERE workflow_uuid = ?1
           AND CASE WHEN json_valid(attributes) THEN json_extract(attributes, ?2) END = ?3",
};

/// ?1 id
const STATUS: Statement =
    Statement { name: "read_status", sql: "SELECT status FROM workflow_status WHERE workflow_uuid = ?1" };

/// ?1 id
const PROGRESS: Statement = Statement {
    name: "read_progress",
    sql: concat!(
        "
        SELECT status, recovery_attempts,
               (SELECT count(*) FROM operation_outputs WHERE workflow_uuid = ?1),
               (SELECT function_name FROM operation_outputs WHERE workflow_uuid = ?1
                 ORDER BY function_id DESC LIMIT 1),
               (SELECT count(*) FROM workflow_status WHERE parent_workflow_id = ?1),
               (SELECT count(*) FROM workflow_status WHERE parent_workflow_id = ?1
                   AND status IN ",
        ended!(),
        ")
          FROM workflow_status WHERE workflow_uuid = ?1"
    ),
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[CANCEL, RESUME, RESUMED, STATUS, PROGRESS];

/// Columns that [`workflow_info`] reads.
const COLUMNS: &str = "
    s.workflow_uuid, s.name, s.status, s.recovery_attempts, s.executor_id, s.parent_workflow_id, s.application_name,
    s.application_version, s.created_at, s.updated_at, s.completed_at, s.delay_until_epoch_ms,
    COALESCE(i.inputs, s.inputs) AS inputs, COALESCE(o.output, s.output) AS output,
    COALESCE(o.error, s.error) AS error, s.serialization";

pub(super) fn cancel(
    connection: &Connection,
    workflow: &WorkflowId,
    children: bool,
    at: Timestamp,
) -> DbResult<Verdict> {
    let read = |row: &Row<'_>| Ok((column::id(row, 0)?, column::sound_text(row, 1)?));
    let found =
        CANCEL.all(connection, params![workflow.as_str(), children, at.as_millis(), AWAITS_PATH], read)?;
    let mut cancelled = Vec::with_capacity(found.len());
    for (id, parent) in found {
        if let StoredId::Sound(id) = &id {
            wake_parent(connection, parent.as_deref(), id, at)?;
        }
        cancelled.push(id.shown());
    }
    if cancelled.is_empty() {
        return stands(connection, workflow);
    }
    Ok(Verdict::Changed(cancelled))
}

/// Records the step that cancels, and cancels if this is the first try.
pub(super) fn cancel_child(
    connection: &Connection,
    owner: &Owner,
    step: &StepRow,
    child: &WorkflowId,
    at: Timestamp,
) -> DbResult<Verdict> {
    let was_recorded = steps::read_at(connection, &owner.workflow, step.step_id)?.is_some();
    match steps::record(connection, owner, step)? {
        Verdict::Done if was_recorded => Ok(Verdict::Changed(Vec::new())),
        Verdict::Done => match cancel(connection, child, true, at)? {
            cancelled @ Verdict::Changed(_) => Ok(cancelled),
            _ => Ok(Verdict::Changed(Vec::new())),
        },
        refused => Ok(refused),
    }
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
    let status = STATUS.first(connection, [workflow.as_str()], |row| column::status(row, 0))?;
    Ok(Verdict::Refused(status.map_or(Refusal::NoSuchWorkflow, Refusal::Stands)))
}

pub(super) fn progress(connection: &Connection, workflow: &WorkflowId) -> DbResult<Option<Progress>> {
    PROGRESS.first(connection, [workflow.as_str()], |row| {
        Ok(Progress {
            status: column::status(row, 0)?,
            attempts: column::count(row, 1)?,
            steps_recorded: row.get(2)?,
            last_step: column::text(row, 3)?,
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
        let names = |statuses: &[WorkflowStatus]| {
            let names: Vec<_> = statuses.iter().map(|status| status.as_str()).collect();
            Value::Text(json_array(&names))
        };
        let asked = names(&filter.statuses);
        if filter.statuses.contains(&WorkflowStatus::Unknown) {
            narrow(
                "(s.status IN (SELECT value FROM json_each(?))
                  OR s.status IS NULL OR s.status NOT IN (SELECT value FROM json_each(?)))",
                &[asked, names(&WorkflowStatus::ALL)],
            );
        } else {
            narrow("s.status IN (SELECT value FROM json_each(?))", &[asked]);
        }
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

/// All that the row says, as far as it can be read.
fn workflow_info(row: &Row<'_>) -> rusqlite::Result<WorkflowInfo> {
    let serialization = column::text(row, 15)?;
    let error = column::text(row, 14)?;
    Ok(WorkflowInfo {
        id: column::id(row, 0)?.shown(),
        name: column::text(row, 1)?.unwrap_or_default(),
        status: column::status(row, 2)?,
        attempts: column::count(row, 3)?,
        executor: column::text(row, 4)?,
        parent: column::text(row, 5)?.map(WorkflowId::stored),
        application: column::text(row, 6)?,
        version: column::text(row, 7)?,
        created_at: column::time(row, 8)?.unwrap_or(Timestamp::from_millis(0)),
        updated_at: column::time(row, 9)?.unwrap_or(Timestamp::from_millis(0)),
        completed_at: column::time(row, 10)?,
        delayed_until: column::time(row, 11)?,
        input: column::text(row, 12)?,
        output: column::text(row, 13)?,
        failure: error.map(|error| codec::decode_failure(serialization.as_deref(), &error)),
        unreadable: faults(row)?,
    })
}

/// The expected type of each column of [`COLUMNS`], and whether it may be NULL.
fn faults(row: &Row<'_>) -> rusqlite::Result<Vec<String>> {
    const EXPECTED: [(Kind, bool); 16] = [
        (Kind::Text, false),
        (Kind::Text, false),
        (Kind::Status, false),
        (Kind::Number, true),
        (Kind::Text, true),
        (Kind::Text, true),
        (Kind::Text, true),
        (Kind::Text, true),
        (Kind::Number, false),
        (Kind::Number, false),
        (Kind::Number, true),
        (Kind::Number, true),
        (Kind::Text, true),
        (Kind::Text, true),
        (Kind::Text, true),
        (Kind::Text, true),
    ];
    let mut faults = Vec::new();
    for (place, (kind, null)) in EXPECTED.into_iter().enumerate() {
        faults.extend(column::fault(row, place, kind, null)?);
    }
    Ok(faults)
}
