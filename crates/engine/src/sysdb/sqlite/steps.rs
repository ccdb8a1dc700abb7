//! `operation_outputs`: the outcome of each durable operation of a workflow.

use std::borrow::Cow;
use std::collections::HashMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::statement::{Statement, failed};
use super::workflows::is_owner;
use super::{column, json_array};
use crate::pure::clock::Timestamp;
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::limits::{PASTS_BYTES_MAX, PASTS_ROWS_MAX};
use crate::sysdb::write::{BEFORE_FIRST_STEP, Refusal};
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Verdict};

/// Records an outcome once, and only for the owner. Zero rows: not the owner, or recorded before.
///
/// ?1 workflow, ?2 step id, ?3 name, ?4 output, ?5 error, ?6 child, ?7 started, ?8 completed, ?9 serialization,
/// ?10 token
const RECORD: Statement = Statement {
    name: "record_step",
    sql: "
        INSERT INTO operation_outputs
               (workflow_uuid, function_id, function_name, output, error, child_workflow_id,
                started_at_epoch_ms, completed_at_epoch_ms, serialization, application_name, retention_timestamp)
        SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, application_name, ?8
          FROM workflow_status
         WHERE workflow_uuid = ?1 AND status = 'PENDING' AND owner_xid = ?10
            ON CONFLICT (workflow_uuid, function_id) DO NOTHING",
};

/// ?1 workflow, ?2 step id from which on to read, ?3 limit
const READ: Statement = Statement {
    name: "read_steps",
    sql: "
        SELECT function_id, function_name, output, error, child_workflow_id,
               started_at_epoch_ms, completed_at_epoch_ms, serialization
          FROM operation_outputs
         WHERE workflow_uuid = ?1 AND function_id >= ?2
         ORDER BY function_id LIMIT ?3",
};

/// ?1 JSON array of ids
const READ_PASTS: Statement = Statement {
    name: "read_pasts",
    sql: "
        SELECT function_id, function_name, output, error, child_workflow_id,
               started_at_epoch_ms, completed_at_epoch_ms, serialization, workflow_uuid
          FROM operation_outputs
         WHERE workflow_uuid IN (SELECT value FROM json_each(?1))
         ORDER BY workflow_uuid, function_id",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[RECORD, READ, READ_PASTS];

/// Records one step.
pub(super) fn record(connection: &Connection, owner: &Owner, step: &StepRow) -> DbResult<Verdict> {
    let inserted = RECORD.execute(
        connection,
        params![
            owner.workflow.as_str(),
            step.step_id.0,
            step.name,
            step.output,
            step.error,
            step.child.as_ref().map(WorkflowId::as_str),
            step.started_at.map(Timestamp::as_millis),
            step.completed_at.map(Timestamp::as_millis),
            step.serialization,
            owner.token.as_str(),
        ],
    )?;
    if inserted == 1 {
        return Ok(Verdict::Done);
    }
    if !is_owner(connection, owner)? {
        return Ok(Verdict::NotOwner);
    }
    // Only the owner writes here, and it takes each step id once: a row that is there is its own earlier try.
    match read_at(connection, &owner.workflow, step.step_id)? {
        Some(found) if step.is_same_write(&found) => Ok(Verdict::Done),
        Some(found) => Ok(Verdict::Refused(Refusal::OtherStep { recorded: found.name.into_owned() })),
        None => Err(DbError::lasting(RECORD.name, "a record that conflicts is not there")),
    }
}

/// The record in this place.
pub(super) fn read_at(
    connection: &Connection,
    workflow: &WorkflowId,
    at: StepId,
) -> DbResult<Option<StepRow>> {
    let found = READ.first(connection, params![workflow.as_str(), at.0, 1], step_row)?;
    Ok(found.filter(|found| found.step_id == at))
}

/// The recorded steps after `after`, in order. From the first row on, with rows in places that no step can have.
pub(super) fn read(
    connection: &Connection,
    workflow: &WorkflowId,
    after: StepId,
    limit: u32,
) -> DbResult<Vec<StepRow>> {
    let from = if after == BEFORE_FIRST_STEP { i64::MIN } else { i64::from(after.0) + 1 };
    READ.all(connection, params![workflow.as_str(), from, limit], step_row)
}

/// The steps of many workflows, until there is enough: a workflow that is missing has too many.
pub(super) fn read_pasts(
    connection: &Connection,
    ids: &[WorkflowId],
) -> DbResult<HashMap<WorkflowId, Vec<StepRow>>> {
    let mut pasts: HashMap<WorkflowId, Vec<StepRow>> =
        ids.iter().map(|id| (id.clone(), Vec::new())).collect();
    let (mut rows, mut bytes) = (0, 0);
    let mut statement = READ_PASTS.prepare(connection)?;
    let failed = |e| failed(READ_PASTS.name, e);
    let mut found = statement.query([json_array(ids)]).map_err(failed)?;
    while let Some(row) = found.next().map_err(failed)? {
        let workflow = column::id(row, 8).map_err(failed)?.shown();
        if rows >= PASTS_ROWS_MAX || bytes >= PASTS_BYTES_MAX {
            // In the order of their ids: this one and those behind it are not whole.
            pasts.retain(|id, _| *id < workflow);
            break;
        }
        let step = step_row(row).map_err(failed)?;
        rows += 1;
        bytes += step.output.as_ref().map_or(0, String::len) + step.error.as_ref().map_or(0, String::len);
        pasts.entry(workflow).or_default().push(step);
    }
    Ok(pasts)
}

/// A place that is no step id reads as one before the first or beyond the last. No run asks for it, so each run finds
/// it left over and ends with a reason.
fn step_row(row: &Row<'_>) -> rusqlite::Result<StepRow> {
    let place = match row.get_ref(0)? {
        ValueRef::Integer(place) => u32::try_from(place.max(0)).unwrap_or(u32::MAX),
        _ => u32::MAX,
    };
    Ok(StepRow {
        step_id: StepId(place),
        name: Cow::Owned(column::text(row, 1)?.unwrap_or_default()),
        output: column::text(row, 2)?,
        error: column::text(row, 3)?,
        child: column::text(row, 4)?.map(WorkflowId::stored),
        started_at: column::time(row, 5)?,
        completed_at: column::time(row, 6)?,
        serialization: column::serialization(row, 7)?,
    })
}
