//! The calls of an operator: look, cancel, resume.

use std::fmt::Write as _;

use postgres::Row;
use postgres::types::ToSql;

use super::claims::{count_column, start_of_error};
use super::connection::{Connection, Statement, column};
use super::steps;
use super::workflows::{self, status_column, wake_parents};
use crate::pure::clock::Timestamp;
use crate::pure::codec;
use crate::pure::error::RESUMABLE;
use crate::pure::id::{OwnerToken, WorkflowId};
use crate::pure::listing::{Progress, WorkflowFilter, WorkflowInfo, held};
use crate::pure::status::WorkflowStatus;
use crate::sysdb::names::{INTERNAL_QUEUE, RESUMED, ended};
use crate::sysdb::write::Refusal;
use crate::sysdb::{DbResult, Owner, StepRow, Verdict};

/// The workflow, and with $2 its descendants. $1 id, $2 with descendants, $3 now
const CANCEL: Statement = Statement {
    name: "cancel",
    sql: "
        WITH RECURSIVE tree (id) AS (
            SELECT $1::text
             UNION
            SELECT child.workflow_uuid
              FROM dbos.workflow_status child JOIN tree ON child.parent_workflow_id = tree.id
             WHERE $2::bool)
        UPDATE dbos.workflow_status
           SET status = 'CANCELLED', completed_at = $3, updated_at = $3, queue_name = NULL,
               deduplication_id = NULL, owner_xid = NULL, started_at_epoch_ms = NULL,
               delay_until_epoch_ms = NULL,
               attributes = CASE WHEN jsonb_typeof(attributes) = 'object' THEN attributes - 'piton.awaits'
                                 ELSE attributes END
         WHERE workflow_uuid IN (SELECT id FROM tree)
           AND COALESCE(status, '') NOT IN ('SUCCESS', 'ERROR', 'CANCELLED')
        RETURNING workflow_uuid, parent_workflow_id",
};

/// An ERROR may go on when its failure is about the program, not about the work. The token stays, so that a resume
/// whose answer was lost does not undo later changes.
///
/// $1 id, $2 queue, $3 now, $4 starts of such errors, $5 attribute of the token, $6 token
const RESUME: Statement = Statement {
    name: "resume",
    sql: "
        WITH resumed AS (
             UPDATE dbos.workflow_status s
                SET status = 'ENQUEUED', queue_name = $2, recovery_attempts = 0,
                    workflow_deadline_epoch_ms = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL,
                    completed_at = NULL, owner_xid = NULL, delay_until_epoch_ms = NULL, updated_at = $3,
                    attributes = CASE WHEN jsonb_typeof(attributes) = 'object' THEN attributes - 'piton.awaits'
                                      ELSE '{}'::jsonb END || jsonb_build_object($5::text, $6::text)
              WHERE workflow_uuid = $1 AND status IS DISTINCT FROM 'SUCCESS'
                AND (jsonb_typeof(attributes) IS DISTINCT FROM 'object'
                     OR attributes ->> $5::text IS DISTINCT FROM $6::text)
                AND (status IS DISTINCT FROM 'ERROR'
                     OR EXISTS (SELECT 1 FROM dbos.workflow_output o, unnest($4::text[]) AS start
                                 WHERE o.workflow_uuid = $1 AND starts_with(o.error, start)))
             RETURNING workflow_uuid),
        forgotten AS (
             DELETE FROM dbos.workflow_output o USING resumed r WHERE o.workflow_uuid = r.workflow_uuid)
        SELECT 1 FROM resumed
         UNION ALL
        SELECT 1 FROM dbos.workflow_status
         WHERE workflow_uuid = $1 AND jsonb_typeof(attributes) = 'object' AND attributes ->> $5::text = $6::text",
};

/// $1 id
const STATUS: Statement = Statement {
    name: "read_status",
    sql: "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = $1",
};

/// $1 id
const PROGRESS: Statement = Statement {
    name: "read_progress",
    sql: concat!(
        "
        SELECT status, COALESCE(recovery_attempts, 0),
               (SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = $1),
               (SELECT function_name FROM dbos.operation_outputs WHERE workflow_uuid = $1
                 ORDER BY function_id DESC LIMIT 1),
               (SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id = $1),
               (SELECT count(*) FROM dbos.workflow_status WHERE parent_workflow_id = $1
                   AND status IN ",
        ended!(),
        ")
          FROM dbos.workflow_status WHERE workflow_uuid = $1"
    ),
};

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[CANCEL, RESUME, STATUS, PROGRESS];

const LIST: &str = "list_workflows";
const COUNT: &str = "count_workflows";

/// Columns that [`workflow_info`] reads.
const COLUMNS: &str = "
    s.workflow_uuid, s.name, s.status, s.recovery_attempts, s.executor_id, s.parent_workflow_id, s.application_name,
    s.application_version, s.created_at, s.updated_at, s.completed_at, s.delay_until_epoch_ms,
    COALESCE(i.inputs, s.inputs), COALESCE(o.output, s.output), COALESCE(o.error, s.error), s.serialization";

pub(super) fn cancel(
    connection: &mut Connection,
    workflow: &WorkflowId,
    children: bool,
    at: Timestamp,
) -> DbResult<Verdict> {
    connection.atomically(|connection| {
        let read = |row: &Row| Ok((column(&CANCEL, row, 0)?, column(&CANCEL, row, 1)?));
        let mut cancelled: Vec<(String, Option<String>)> = Vec::new();
        loop {
            let rows = connection.query(&CANCEL, &[&workflow.as_str(), &children, &at.as_millis()])?;
            for row in &rows {
                cancelled.push(read(row)?);
            }
            // A child whose start this waited for is seen by the next look, and a cancelled parent starts no more.
            if !children || rows.is_empty() {
                break;
            }
        }
        wake_parents(connection, &cancelled, at)?;
        if cancelled.is_empty() {
            return stands(connection, workflow);
        }
        Ok(Verdict::Changed(cancelled.into_iter().map(|(id, _)| WorkflowId::stored(id)).collect()))
    })
}

/// Records the step that cancels, and cancels if this is the first try.
pub(super) fn cancel_child(
    connection: &mut Connection,
    owner: &Owner,
    step: &StepRow,
    child: &WorkflowId,
    at: Timestamp,
) -> DbResult<Verdict> {
    connection.atomically(|connection| {
        if !workflows::hold(connection, owner)? {
            return Ok(Verdict::NotOwner);
        }
        let was_recorded = steps::recorded_at(connection, owner, step.step_id)?.is_some();
        match steps::record_one(connection, owner, step)? {
            Verdict::Done if was_recorded => Ok(Verdict::Changed(Vec::new())),
            Verdict::Done => match cancel(connection, child, true, at)? {
                cancelled @ Verdict::Changed(_) => Ok(cancelled),
                _ => Ok(Verdict::Changed(Vec::new())),
            },
            refused => Ok(refused),
        }
    })
}

pub(super) fn resume(
    connection: &mut Connection,
    workflow: &WorkflowId,
    token: &OwnerToken,
    at: Timestamp,
) -> DbResult<Verdict> {
    let resumable: Vec<String> = RESUMABLE.iter().map(|name| start_of_error(name)).collect();
    let resumed = connection.first(
        &RESUME,
        &[&workflow.as_str(), &INTERNAL_QUEUE, &at.as_millis(), &resumable, &RESUMED, &token.as_str()],
    )?;
    if resumed.is_none() {
        return stands(connection, workflow);
    }
    Ok(Verdict::Changed(vec![workflow.clone()]))
}

/// Why nothing was done.
fn stands(connection: &mut Connection, workflow: &WorkflowId) -> DbResult<Verdict> {
    let row = connection.first(&STATUS, &[&workflow.as_str()])?;
    let status = row.map(|row| status_column(&STATUS, &row, 0)).transpose()?;
    Ok(Verdict::Refused(status.map_or(Refusal::NoSuchWorkflow, Refusal::Stands)))
}

pub(super) fn progress(connection: &mut Connection, workflow: &WorkflowId) -> DbResult<Option<Progress>> {
    let Some(row) = connection.first(&PROGRESS, &[&workflow.as_str()])? else { return Ok(None) };
    let count = |index| count_column(&PROGRESS, &row, index);
    Ok(Some(Progress {
        status: status_column(&PROGRESS, &row, 0)?,
        attempts: count(1)?,
        steps_recorded: count(2)?.into(),
        last_step: column(&PROGRESS, &row, 3)?,
        children: count(4)?.into(),
        children_done: count(5)?.into(),
    }))
}

pub(super) fn list(
    connection: &mut Connection,
    app: &str,
    filter: &WorkflowFilter,
) -> DbResult<Vec<WorkflowInfo>> {
    let mut conditions = Conditions::of(app, filter);
    // Within a millisecond, the tokens that were made with the rows tell the order in which one process started
    // workflows.
    let direction = if filter.newest_first { "DESC" } else { "ASC" };
    let limit = conditions.value(filter.limit.map(i64::from));
    let offset = conditions.value(i64::from(filter.offset));
    let sql = format!(
        "SELECT {COLUMNS}
           FROM dbos.workflow_status s
           LEFT JOIN dbos.workflow_input i USING (workflow_uuid)
           LEFT JOIN dbos.workflow_output o USING (workflow_uuid)
          WHERE {}
          ORDER BY s.created_at {direction}, s.creator_xid COLLATE \"C\" {direction}, s.workflow_uuid {direction}
          LIMIT {limit}::int8 OFFSET {offset}::int8",
        conditions.sql
    );
    let rows = connection.query_once(LIST, &sql, &conditions.params())?;
    rows.iter().map(workflow_info).collect()
}

pub(super) fn count(connection: &mut Connection, app: &str, filter: &WorkflowFilter) -> DbResult<u64> {
    let conditions = Conditions::of(app, filter);
    let sql = format!("SELECT count(*) FROM dbos.workflow_status s WHERE {}", conditions.sql);
    let rows = connection.query_once(COUNT, &sql, &conditions.params())?;
    let count = rows.first().map(|row| column::<i64>(&named(COUNT), row, 0)).transpose()?;
    Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default())
}

/// A filter as SQL, and the values of its parameters in order. Texts of users are only values.
struct Conditions {
    sql: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Conditions {
    fn of(app: &str, filter: &WorkflowFilter) -> Self {
        let mut all = Self { sql: "TRUE".to_owned(), values: Vec::new() };
        if !filter.all_applications {
            let app = all.value(app.to_owned());
            all.narrow(&format!("(s.application_name = {app} OR s.application_name IS NULL)"));
        }
        if !filter.statuses.is_empty() {
            let statuses: Vec<_> = filter.statuses.iter().map(|status| status.as_str()).collect();
            let statuses = all.value(statuses);
            if filter.statuses.contains(&WorkflowStatus::Unknown) {
                let known = all.value(WorkflowStatus::ALL.map(WorkflowStatus::as_str).to_vec());
                all.narrow(&format!(
                    "(s.status = ANY ({statuses}) OR s.status IS NULL OR s.status <> ALL ({known}))"
                ));
            } else {
                all.narrow(&format!("s.status = ANY ({statuses})"));
            }
        }
        if let Some(name) = &filter.name {
            all.narrow_by(name, |name| format!("s.name = {name}"));
        }
        if let Some(prefix) = &filter.id_prefix {
            all.narrow_by(prefix, |prefix| format!("starts_with(s.workflow_uuid, {prefix})"));
        }
        if let Some(parent) = &filter.parent {
            let parent = all.value(parent.as_str().to_owned());
            all.narrow(&format!("s.parent_workflow_id = {parent}"));
        }
        if let Some(from) = filter.created_from {
            let from = all.value(from.as_millis());
            all.narrow(&format!("s.created_at >= {from}"));
        }
        if let Some(before) = filter.created_before {
            let before = all.value(before.as_millis());
            all.narrow(&format!("s.created_at < {before}"));
        }
        all
    }

    /// Takes a value and gives its place in the SQL.
    fn value(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
    }

    fn narrow(&mut self, condition: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.sql, " AND {condition}");
    }

    /// By a text of a user. The server has no text with a NUL in it, and refuses one as a value.
    fn narrow_by(&mut self, text: &str, condition: impl FnOnce(&str) -> String) {
        if text.contains('\0') {
            return self.narrow("FALSE");
        }
        let place = self.value(text.to_owned());
        self.narrow(&condition(&place));
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
    }
}

/// For errors of statements that are composed.
const fn named(name: &'static str) -> Statement {
    Statement { name, sql: "" }
}

/// The server keeps the types of the columns; besides, a row can hold an unknown status, or no name.
fn workflow_info(row: &Row) -> DbResult<WorkflowInfo> {
    const OF: Statement = named(LIST);
    let text = |index| column::<Option<String>>(&OF, row, index);
    let time = |index| column::<Option<i64>>(&OF, row, index).map(|ms| ms.map(Timestamp::from_millis));
    let serialization = text(15)?;
    let status = status_column(&OF, row, 2)?;
    let mut unreadable = Vec::new();
    if text(1)?.is_none() {
        unreadable.push(held("name", "NULL"));
    }
    if status == WorkflowStatus::Unknown {
        unreadable.push(held("status", text(2)?.as_deref().unwrap_or("NULL")));
    }
    Ok(WorkflowInfo {
        id: WorkflowId::stored(column(&OF, row, 0)?),
        name: text(1)?.unwrap_or_default(),
        status,
        attempts: count_column(&OF, row, 3)?,
        executor: text(4)?,
        parent: text(5)?.map(WorkflowId::stored),
        application: text(6)?,
        version: text(7)?,
        created_at: Timestamp::from_millis(column(&OF, row, 8)?),
        updated_at: Timestamp::from_millis(column(&OF, row, 9)?),
        completed_at: time(10)?,
        delayed_until: time(11)?,
        input: text(12)?,
        output: text(13)?,
        failure: text(14)?.map(|error| codec::decode_failure(serialization.as_deref(), &error)),
        unreadable,
    })
}
