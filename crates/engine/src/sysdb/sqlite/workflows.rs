//! `workflow_status` and its payload tables: how a run begins, ends, and leaves its thread.

use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::statement::Statement;
use super::{AWAITS_PATH, column, json_array, steps};
use crate::pure::clock::Timestamp;
use crate::pure::codec;
use crate::pure::id::{ExecutorId, WorkflowId};
use crate::pure::limits::WAITS_LOOKED_AT;
use crate::pure::status::WorkflowStatus;
use crate::sysdb::names::{INTERNAL_QUEUE, ended};
use crate::sysdb::write::{Awaited, Existing, NewWorkflow, RecoveryAttempt, Refusal, Wake};
use crate::sysdb::{DbResult, Outcome, Owner, StepRow, StoredInput, Verdict};

/// Zero rows: the id is taken.
///
/// ?1 id, ?2 status, ?3 name, ?4 executor, ?5 now, ?6 version, ?7 attempts, ?8 queue, ?9 owner, ?10 parent,
/// ?11 application, ?12 creator, ?13 priority
const INSERT: Statement = Statement {
    name: "start_workflow",
    sql: "
        INSERT INTO workflow_status
               (workflow_uuid, status, name, executor_id, created_at, updated_at, application_version,
                recovery_attempts, queue_name, owner_xid, parent_workflow_id, application_name, creator_xid,
                priority, serialization)
        VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 'portable_json')
            ON CONFLICT (workflow_uuid) DO NOTHING",
};

/// ?1 id, ?2 input, ?3 now
const INSERT_INPUT: Statement = Statement {
    name: "start_workflow_input",
    sql: "
        INSERT INTO workflow_input (workflow_uuid, inputs, retention_timestamp) VALUES (?1, ?2, ?3)
            ON CONFLICT (workflow_uuid) DO NOTHING",
};

/// ?1 id
const TAKEN_BY: Statement = Statement {
    name: "workflow_id_taken_by",
    sql: "
        SELECT s.name, s.creator_xid, COALESCE(i.inputs, s.inputs)
          FROM workflow_status s LEFT JOIN workflow_input i USING (workflow_uuid)
         WHERE s.workflow_uuid = ?1",
};

/// ?1 id, ?2 token
const IS_OWNER: Statement = Statement {
    name: "is_owner",
    sql: "SELECT 1 FROM workflow_status WHERE workflow_uuid = ?1 AND status = 'PENDING' AND owner_xid = ?2",
};

/// Without RETURNING: SQLite would build a table for its one row.
///
/// ?1 id, ?2 token, ?3 status, ?4 now, ?5 serialization
const SETTLE: Statement = Statement {
    name: "settle",
    sql: "
        UPDATE workflow_status
           SET status = ?3, updated_at = ?4, completed_at = ?4, deduplication_id = NULL, owner_xid = NULL,
               serialization = ?5
         WHERE workflow_uuid = ?1 AND status = 'PENDING' AND owner_xid = ?2",
};

/// ?1 id
const PARENT: Statement = Statement {
    name: "read_parent",
    sql: "SELECT parent_workflow_id FROM workflow_status WHERE workflow_uuid = ?1",
};

/// A row can be there: from an error that was resumed. ?1 id, ?2 output, ?3 error, ?4 now
const SET_OUTPUT: Statement = Statement {
    name: "settle_output",
    sql: "
        INSERT INTO workflow_output (workflow_uuid, output, error, retention_timestamp) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (workflow_uuid)
            DO UPDATE SET output = excluded.output, error = excluded.error,
                          retention_timestamp = excluded.retention_timestamp",
};

/// Of a row whose id no other table can name: the error stands in the row itself. ?1 rowid, ?2 error, ?3 now
const END_UNREADABLE: Statement = Statement {
    name: "end_unreadable",
    sql: "
        UPDATE workflow_status
           SET status = 'ERROR', error = ?2, completed_at = ?3, updated_at = ?3, deduplication_id = NULL,
               owner_xid = NULL, serialization = 'portable_json'
         WHERE rowid = ?1",
};

/// A workflow that waits without a thread, if this is among what it waits for.
///
/// ?1 id, ?2 mark, ?3 path of the marks, ?4 now
const WAKE: Statement = Statement {
    name: "wake",
    sql: "
        UPDATE workflow_status
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = ?4,
               attributes = json_remove(attributes, ?3)
         WHERE workflow_uuid = ?1 AND status = 'DELAYED'
           AND ?2 IN (SELECT value FROM json_each(CASE WHEN json_valid(attributes) THEN attributes -> ?3 END))",
};

/// The attempt is given back: leaving a thread in order is not a crash. Attributes that are no JSON object cannot carry
/// the marks, and without them nothing wakes the workflow, so they take their place.
///
/// ?1 id, ?2 token, ?3 due, ?4 queue, ?5 now, ?6 path of the marks, ?7 marks as JSON, ?8 awaited workflows, ?9 awaited topics,
/// both as JSON arrays
const SUSPEND: Statement = Statement {
    name: "suspend",
    sql: concat!(
        "
        UPDATE workflow_status
           SET status = 'DELAYED', delay_until_epoch_ms = ?3, queue_name = COALESCE(queue_name, ?4),
               owner_xid = NULL, started_at_epoch_ms = NULL, updated_at = ?5,
               recovery_attempts = max(recovery_attempts - 1, 0),
               attributes = CASE WHEN ?7 IS NULL THEN attributes
                                 WHEN json_valid(attributes) AND json_type(attributes) = 'object'
                                 THEN json_set(attributes, ?6, json(?7))
                                 ELSE json_set('{}', ?6, json(?7)) END
         WHERE workflow_uuid = ?1 AND status = 'PENDING' AND owner_xid = ?2
           AND NOT EXISTS (SELECT 1 FROM workflow_status awaited
                            WHERE awaited.workflow_uuid IN (SELECT value FROM json_each(?8))
                              AND awaited.status IN ",
        ended!(),
        ")
           AND NOT EXISTS (SELECT 1 FROM notifications
                            WHERE destination_uuid = ?1 AND topic IN (SELECT value FROM json_each(?9))
                              AND consumed = FALSE)"
    ),
};

/// ?1 id, ?2 token, ?3 queue, ?4 now, ?5 attempts to give back, ?6 the time from which on it may be claimed
const RELEASE: Statement = Statement {
    name: "release",
    sql: "
        UPDATE workflow_status
           SET status = CASE WHEN ?6 IS NULL THEN 'ENQUEUED' ELSE 'DELAYED' END, delay_until_epoch_ms = ?6,
               queue_name = COALESCE(queue_name, ?3), owner_xid = NULL,
               started_at_epoch_ms = NULL, updated_at = ?4,
               recovery_attempts = max(recovery_attempts - ?5, 0)
         WHERE workflow_uuid = ?1 AND status = 'PENDING' AND owner_xid = ?2",
};

/// ?1 workflow, ?2 an id that may be of an ancestor
const DESCENDS_FROM: Statement = Statement {
    name: "descends_from",
    sql: "
        WITH RECURSIVE tree (id) AS (
            SELECT ?1
             UNION
            SELECT s.parent_workflow_id FROM tree JOIN workflow_status s ON s.workflow_uuid = tree.id
             WHERE s.parent_workflow_id IS NOT NULL)
        SELECT 1 FROM tree WHERE id = ?2",
};

/// Which workflows the first one waits for without a thread, and which those wait for, and so on: waiter and awaited. A
/// workflow in a race can go on without one of them, so it is left out.
///
/// ?1 id, ?2 path of the marks, ?3 how many at most
const WAITS_OF: Statement = Statement {
    name: "waits_of",
    sql: "
        WITH RECURSIVE tree (waiter, awaited) AS (
            SELECT NULL, ?1
             UNION
            SELECT s.workflow_uuid, substr(mark.value, 10)
              FROM tree
              JOIN workflow_status s ON s.workflow_uuid = tree.awaited AND s.status = 'DELAYED'
              JOIN json_each(CASE WHEN json_valid(s.attributes) THEN s.attributes -> ?2 END) AS mark
             WHERE mark.value LIKE 'workflow %'
               AND 'any' NOT IN (SELECT value
                                   FROM json_each(CASE WHEN json_valid(s.attributes) THEN s.attributes -> ?2 END))
             LIMIT ?3)
        SELECT waiter, awaited FROM tree WHERE waiter IS NOT NULL",
};

/// ?1 id
const INPUT: Statement = Statement {
    name: "read_input",
    sql: "
        SELECT COALESCE(i.inputs, s.inputs), s.serialization
          FROM workflow_status s LEFT JOIN workflow_input i USING (workflow_uuid)
         WHERE s.workflow_uuid = ?1",
};

/// ?1 JSON array of ids
const INPUTS: Statement = Statement {
    name: "read_inputs",
    sql: "
        SELECT s.workflow_uuid, COALESCE(i.inputs, s.inputs), s.serialization
          FROM workflow_status s LEFT JOIN workflow_input i USING (workflow_uuid)
         WHERE s.workflow_uuid IN (SELECT value FROM json_each(?1))",
};

/// ?1 id
const OUTCOME: Statement = Statement {
    name: "read_outcome",
    sql: "
        SELECT s.workflow_uuid, s.status, COALESCE(o.output, s.output), COALESCE(o.error, s.error), s.serialization
          FROM workflow_status s LEFT JOIN workflow_output o USING (workflow_uuid)
         WHERE s.workflow_uuid = ?1",
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[
    INSERT,
    INSERT_INPUT,
    TAKEN_BY,
    IS_OWNER,
    SETTLE,
    SET_OUTPUT,
    END_UNREADABLE,
    WAKE,
    SUSPEND,
    RELEASE,
    INPUT,
    INPUTS,
    OUTCOME,
    PARENT,
    DESCENDS_FROM,
    WAITS_OF,
];

pub(super) fn is_owner(connection: &Connection, owner: &Owner) -> DbResult<bool> {
    let found = IS_OWNER.first(connection, [owner.workflow.as_str(), owner.token.as_str()], |_| Ok(()))?;
    Ok(found.is_some())
}

/// Inserts a workflow, or says whose the id is.
pub(super) fn start(connection: &Connection, new: &NewWorkflow) -> DbResult<Verdict> {
    let (status, attempts, queue, owner) = if new.claimed_by.is_some() {
        (WorkflowStatus::Pending, 1, None, Some(new.token.as_str()))
    } else {
        let queue = new.queue.as_deref().unwrap_or(INTERNAL_QUEUE);
        (WorkflowStatus::Enqueued, 0, Some(queue), None)
    };
    let at = new.at.as_millis();
    let inserted = INSERT.execute(
        connection,
        params![
            new.id.as_str(),
            status.as_str(),
            new.name,
            new.claimed_by.as_ref().map(ExecutorId::as_str),
            at,
            new.version,
            attempts,
            queue,
            owner,
            new.parent.as_ref().map(WorkflowId::as_str),
            new.app,
            new.token.as_str(),
            new.priority,
        ],
    )?;
    if inserted == 1 {
        INSERT_INPUT.execute(connection, params![new.id.as_str(), new.input, at])?;
        return Ok(Verdict::Done);
    }
    taken(connection, new)
}

/// Whose the id of a new workflow is already.
fn taken(connection: &Connection, new: &NewWorkflow) -> DbResult<Verdict> {
    let read = |row: &Row<'_>| {
        let name = column::text(row, 0)?.unwrap_or_default();
        Ok((name, column::text(row, 1)?, column::text(row, 2)?))
    };
    let Some((name, creator, input)) = TAKEN_BY.first(connection, [new.id.as_str()], read)? else {
        return Ok(Verdict::Refused(Refusal::NoSuchWorkflow));
    };
    if creator.as_deref() == Some(new.token.as_str()) {
        return Ok(Verdict::Done);
    }
    if name != *new.name {
        return Ok(Verdict::Refused(Refusal::OtherWorkflow { name }));
    }
    Ok(Verdict::AlreadyThere(Existing {
        same_input: input.is_some_and(|input| codec::same_input(&input, &new.input)),
    }))
}

/// The child and the parent's step that started it, both or neither.
pub(super) fn start_child(
    connection: &Connection,
    parent: &Owner,
    step: &StepRow,
    child: &NewWorkflow,
) -> DbResult<Verdict> {
    if !is_owner(connection, parent)? {
        return Ok(Verdict::NotOwner);
    }
    let started = start(connection, child)?;
    if matches!(started, Verdict::AlreadyThere(_)) {
        let ids = [parent.workflow.as_str(), child.id.as_str()];
        if DESCENDS_FROM.first(connection, ids, |_| Ok(()))?.is_some() {
            return Ok(Verdict::Refused(Refusal::Ancestor));
        }
    }
    if matches!(started, Verdict::Refused(_)) {
        return Ok(started);
    }
    match steps::record(connection, parent, step)? {
        Verdict::Done => Ok(started),
        other => Ok(other),
    }
}

/// Writes the outcome if the owner is still the owner.
pub(super) fn settle(
    connection: &Connection,
    owner: &Owner,
    outcome: &Outcome,
    at: Timestamp,
) -> DbResult<Verdict> {
    let id = owner.workflow.as_str();
    let status = outcome.status.as_str();
    let (token, serialization) = (owner.token.as_str(), &outcome.serialization);
    let settled = SETTLE.execute(connection, params![id, token, status, at.as_millis(), serialization])?;
    if settled == 0 {
        // An earlier try that was committed left exactly this outcome; then there is nothing more to say.
        let found = read_outcome(connection, &owner.workflow)?;
        return Ok(if found.as_ref() == Some(outcome) { Verdict::Done } else { Verdict::NotOwner });
    }
    SET_OUTPUT.execute(connection, params![id, outcome.output, outcome.error, at.as_millis()])?;
    let parent = PARENT.first(connection, [id], |row| column::sound_text(row, 0))?.flatten();
    let woke = wake_parent(connection, parent.as_deref(), id, at)?;
    Ok(if woke { Verdict::Woke } else { Verdict::Done })
}

/// Call it whenever a workflow ends, however it does.
pub(super) fn wake_parent(
    connection: &Connection,
    parent: Option<&str>,
    child: &str,
    at: Timestamp,
) -> DbResult<bool> {
    let settled = Awaited::Settled(WorkflowId::stored(child.to_owned()));
    parent.map_or(Ok(false), |parent| wake(connection, parent, &settled, at))
}

/// Wakes a workflow that waits without a thread, if its marks say that it waits for this.
pub(super) fn wake(connection: &Connection, id: &str, awaited: &Awaited, at: Timestamp) -> DbResult<bool> {
    Ok(WAKE.execute(connection, params![id, awaited.mark(), AWAITS_PATH, at.as_millis()])? > 0)
}

/// Ends a workflow with an error that no execution of it reported.
pub(super) fn set_error(connection: &Connection, id: &str, error: &str, at: Timestamp) -> DbResult<()> {
    SET_OUTPUT.execute(connection, params![id, None::<String>, error, at.as_millis()])?;
    Ok(())
}

/// Ends a workflow that no execution could name.
pub(super) fn end_unreadable(
    connection: &Connection,
    rowid: i64,
    error: &str,
    at: Timestamp,
) -> DbResult<()> {
    END_UNREADABLE.execute(connection, params![rowid, error, at.as_millis()])?;
    Ok(())
}

pub(super) fn suspend(
    connection: &Connection,
    owner: &Owner,
    until: &Wake,
    at: Timestamp,
) -> DbResult<Verdict> {
    let left = SUSPEND.execute(
        connection,
        params![
            owner.workflow.as_str(),
            owner.token.as_str(),
            until.at.map(Timestamp::as_millis),
            INTERNAL_QUEUE,
            at.as_millis(),
            AWAITS_PATH,
            until.marks(),
            json!(until.workflows()).to_string(),
            json!(until.topics()).to_string(),
        ],
    )?;
    if left == 1 {
        return Ok(Verdict::Done);
    }
    let owner = is_owner(connection, owner)?;
    Ok(if owner { Verdict::Refused(Refusal::NoNeedToWait) } else { Verdict::NotOwner })
}

pub(super) fn release(
    connection: &Connection,
    owner: &Owner,
    attempt: RecoveryAttempt,
    again_at: Option<Timestamp>,
    at: Timestamp,
) -> DbResult<Verdict> {
    let given_back = i64::from(attempt == RecoveryAttempt::GivenBack);
    let again_at = again_at.map(Timestamp::as_millis);
    let (id, token) = (owner.workflow.as_str(), owner.token.as_str());
    let released = RELEASE
        .execute(connection, params![id, token, INTERNAL_QUEUE, at.as_millis(), given_back, again_at])?;
    Ok(if released == 1 { Verdict::Done } else { Verdict::NotOwner })
}

pub(super) fn waits_of(
    connection: &Connection,
    workflow: &WorkflowId,
) -> DbResult<Vec<(WorkflowId, WorkflowId)>> {
    WAITS_OF.all(connection, params![workflow.as_str(), AWAITS_PATH, WAITS_LOOKED_AT], |row| {
        Ok((column::id(row, 0)?.shown(), column::id(row, 1)?.shown()))
    })
}

pub(super) fn read_input(connection: &Connection, workflow: &WorkflowId) -> DbResult<StoredInput> {
    let read =
        |row: &Row<'_>| Ok(StoredInput { text: column::text(row, 0)?, serialization: column::text(row, 1)? });
    let found = INPUT.first(connection, [workflow.as_str()], read)?;
    Ok(found.unwrap_or(StoredInput { text: None, serialization: None }))
}

pub(super) fn read_inputs(
    connection: &Connection,
    ids: &[WorkflowId],
) -> DbResult<Vec<(WorkflowId, StoredInput)>> {
    INPUTS.all(connection, [json_array(ids)], |row| {
        let input = StoredInput { text: column::text(row, 1)?, serialization: column::text(row, 2)? };
        Ok((WorkflowId::stored(row.get(0)?), input))
    })
}

pub(super) fn read_outcome(connection: &Connection, workflow: &WorkflowId) -> DbResult<Option<Outcome>> {
    OUTCOME.first(connection, [workflow.as_str()], outcome_row)
}

/// Columns: id, status, output, error, serialization.
pub(super) fn outcome_row(row: &Row<'_>) -> rusqlite::Result<Outcome> {
    Ok(Outcome {
        workflow: column::id(row, 0)?.shown(),
        status: column::status(row, 1)?,
        output: column::text(row, 2)?,
        error: column::text(row, 3)?,
        serialization: column::serialization(row, 4)?,
    })
}
