//! `operation_outputs`: the outcome of each durable operation of a workflow.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use postgres::Row;
use postgres::error::SqlState;
use postgres::types::ToSql;

use super::connection::{Connection, Session, Statement, column, source_of, trouble};
use super::part::{Found, Part, joined, query};
use crate::pure::clock::Timestamp;
use crate::pure::id::{StepId, WorkflowId};
use crate::pure::limits::{PASTS_BYTES_MAX, PASTS_ROWS_MAX};
use crate::sysdb::write::{BEFORE_FIRST_STEP, Refusal};
use crate::sysdb::{DbError, DbResult, Owner, Past, StepRow, StoredInput, Verdict};

/// Records outcomes once, and only for the owner, whose row is locked meanwhile: no executor takes the workflow over
/// between the look and the commit. No row: not the owner. False: recorded before.
///
/// Arrays: $1 workflow, $2 token, $3 step id, $4 name, $5 output, $6 error, $7 child, $8 started, $9 completed,
/// $10 serialization
pub(super) const RECORD: Part = Part {
    ctes: "
        owned AS MATERIALIZED (
             SELECT a.*, s.application_name
               FROM unnest($1::text[], $2::text[], $3::int4[], $4::text[], $5::text[], $6::text[], $7::text[],
                           $8::int8[], $9::int8[], $10::text[])
                    AS a (id, token, step, name, output, error, child, started, completed, serialization)
               JOIN dbos.workflow_status s ON s.workflow_uuid = a.id
              WHERE (s.status = 'PENDING') IS TRUE AND s.owner_xid = a.token
                FOR SHARE OF s),
        recorded AS (
             INSERT INTO dbos.operation_outputs
                    (workflow_uuid, function_id, function_name, output, error, child_workflow_id,
                     started_at_epoch_ms, completed_at_epoch_ms, serialization, application_name,
                     retention_timestamp)
             SELECT id, step, name, output, error, child, started, completed, serialization, application_name,
                    completed
               FROM owned
                 ON CONFLICT (workflow_uuid, function_id) DO NOTHING
             RETURNING workflow_uuid AS id)",
    found: "SELECT 2, id, id IN (SELECT id FROM recorded) FROM owned",
    params: 10,
};

/// Records the outcome of one step. It takes the server a good deal less than a set of one. If it records nothing, the
/// set says why.
///
/// $1 workflow, $2 token, $3 step id, $4 name, $5 output, $6 error, $7 child, $8 started, $9 completed, $10 serialization
macro_rules! record_one {
    () => {
        "
        INSERT INTO dbos.operation_outputs
               (workflow_uuid, function_id, function_name, output, error, child_workflow_id,
                started_at_epoch_ms, completed_at_epoch_ms, serialization, application_name,
                retention_timestamp)
        SELECT $1, $3, $4, $5, $6, $7, $8, $9::int8, $10, application_name, $9
          FROM dbos.workflow_status
         WHERE workflow_uuid = $1 AND (status = 'PENDING') IS TRUE AND owner_xid = $2
           FOR SHARE"
    };
}

/// Inside a transaction.
pub(super) const RECORD_ONE: Statement = Statement {
    name: "record_one_step",
    sql: concat!(record_one!(), " ON CONFLICT (workflow_uuid, function_id) DO NOTHING"),
};

/// As a transaction of its own, so that the conflict may be an error: the clause costs every step.
const RECORD_LONE: Statement = Statement { name: "record_lone_step", sql: record_one!() };

/// $1 workflow, $2 step id from which on to read, $3 limit
const READ: Statement = Statement {
    name: "read_steps",
    sql: "
        SELECT workflow_uuid, function_id, function_name, output, error, child_workflow_id,
               started_at_epoch_ms, completed_at_epoch_ms, serialization
          FROM dbos.operation_outputs
         WHERE workflow_uuid = $1 AND function_id >= $2
         ORDER BY function_id LIMIT $3",
};

/// Reads the steps of several workflows in the order of their ids, up to a number of rows and a size. Of each workflow
/// first a row without a step, which has the input in the place of an output, then its steps.
///
/// $1 ids, $2 rows at most, $3 bytes at most
const READ_PASTS: Statement = Statement {
    name: "read_pasts",
    sql: "
        WITH sized AS (
             SELECT id, sum(rows) OVER before AS rows, sum(bytes) OVER before AS bytes
               FROM unnest($1::text[]) AS a (id)
              CROSS JOIN LATERAL (
                    SELECT count(*) AS rows,
                           COALESCE(sum(octet_length(output)), 0) + COALESCE(sum(octet_length(error)), 0) AS bytes
                      FROM dbos.operation_outputs WHERE workflow_uuid = a.id) AS past
             WINDOW before AS (ORDER BY id)),
        taken AS MATERIALIZED (SELECT id FROM sized WHERE rows <= $2::int8 AND bytes <= $3::int8)
        SELECT id, NULL::int4 AS step, NULL::text, COALESCE(i.inputs, s.inputs), NULL::text, NULL::text, NULL::int8,
               NULL::int8, s.serialization
          FROM taken JOIN dbos.workflow_status s ON s.workflow_uuid = id
          LEFT JOIN dbos.workflow_input i ON i.workflow_uuid = id
         UNION ALL
        SELECT id, o.function_id, o.function_name, o.output, o.error, o.child_workflow_id, o.started_at_epoch_ms,
               o.completed_at_epoch_ms, o.serialization
          FROM taken JOIN dbos.operation_outputs o ON o.workflow_uuid = id
         ORDER BY id, step NULLS FIRST",
};

/// Many steps at once.
pub(super) static STEPS: LazyLock<Statement> = LazyLock::new(|| joined("record_step", &[RECORD]));

#[cfg(test)]
pub(super) const ALL: &[Statement] = &[RECORD_ONE, RECORD_LONE, READ, READ_PASTS];

/// Records steps, and says which. A single step has the statement `one`.
pub(super) fn record(session: &mut impl Session, steps: &Steps<'_>, one: &Statement) -> DbResult<Found> {
    if let Some((id, params)) = steps.of_one() {
        match session.execute(one, &params) {
            Ok(1) => return Ok(Found::of(id)),
            Err(error) if !is_duplicate(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    let [_, found, _] = query(session, &STEPS, &steps.params())?;
    Ok(found)
}

fn is_duplicate(error: &DbError) -> bool {
    source_of::<postgres::Error>(error.source.as_ref())
        .is_some_and(|error| error.code() == Some(&SqlState::UNIQUE_VIOLATION))
}

/// Records one step, in a transaction of its own.
pub(super) fn record_lone(connection: &mut Connection, owner: &Owner, step: &StepRow) -> DbResult<Verdict> {
    let found = record(connection, &Steps::of(&[(owner, step)])?, &RECORD_LONE)?;
    verdict(connection, owner, step, &found)
}

/// Records one step inside a transaction.
pub(super) fn record_one(connection: &mut Connection, owner: &Owner, step: &StepRow) -> DbResult<Verdict> {
    let found = record(connection, &Steps::of(&[(owner, step)])?, &RECORD_ONE)?;
    verdict(connection, owner, step, &found)
}

/// Records a step in the transaction that a user wrote in. False when the workflow is not the owner's, or when there is
/// a record already. Then the user's writes must not be committed.
pub(super) fn is_recorded_now(session: &mut impl Session, owner: &Owner, step: &StepRow) -> DbResult<bool> {
    let steps = [(owner, step)];
    let steps = Steps::of(&steps)?;
    let Some((_, params)) = steps.of_one() else { return Ok(false) };
    Ok(session.execute(&RECORD_ONE, &params)? == 1)
}

/// The verdicts on steps, of which these were found.
pub(super) fn recorded(
    session: &mut impl Session,
    steps: &[(&Owner, &StepRow)],
    found: &Found,
) -> DbResult<Vec<Verdict>> {
    steps.iter().map(|(owner, step)| verdict(session, owner, step, found)).collect()
}

fn verdict(session: &mut impl Session, owner: &Owner, step: &StepRow, found: &Found) -> DbResult<Verdict> {
    Ok(match found.get(owner.workflow.as_str()) {
        Some(true) => Verdict::Done,
        None => Verdict::NotOwner,
        // Only the owner writes here, and it takes each step id once: what is there is its own earlier try.
        Some(false) => match recorded_at(session, owner, step.step_id)? {
            Some(found) if step.is_same_write(&found) => Verdict::Done,
            Some(found) => Verdict::Refused(Refusal::OtherStep { recorded: found.name.into_owned() }),
            None => return Err(trouble(RECORD_ONE.name, "the record that stood in its place was deleted")),
        },
    })
}

/// The record in this place.
pub(super) fn recorded_at(
    session: &mut impl Session,
    owner: &Owner,
    at: StepId,
) -> DbResult<Option<StepRow>> {
    let rows = session.query(&READ, &[&owner.workflow.as_str(), &place(at)?, &1_i64])?;
    let found = rows.first().map(|row| step_row(&READ, row)).transpose()?;
    Ok(found.filter(|found| found.step_id == at))
}

/// The recorded steps after `after`, in order. From the first row on, with rows in places that no step can have.
pub(super) fn read(
    connection: &mut Connection,
    workflow: &WorkflowId,
    after: StepId,
    limit: u32,
) -> DbResult<Vec<StepRow>> {
    let from = if after == BEFORE_FIRST_STEP { Some(i32::MIN) } else { place(after)?.checked_add(1) };
    // After the last place that a step can have there is none.
    let Some(from) = from else { return Ok(Vec::new()) };
    let rows = connection.query(&READ, &[&workflow.as_str(), &from, &i64::from(limit)])?;
    rows.iter().map(|row| step_row(&READ, row)).collect()
}

/// The inputs and the steps of many workflows, until there is enough: a workflow that is missing has too many.
pub(super) fn read_pasts(
    connection: &mut Connection,
    ids: &[WorkflowId],
) -> DbResult<HashMap<WorkflowId, Past>> {
    let ids: Vec<&str> = ids.iter().map(WorkflowId::as_str).collect();
    let rows_max = i64::try_from(PASTS_ROWS_MAX).unwrap_or(i64::MAX);
    let bytes_max = i64::try_from(PASTS_BYTES_MAX).unwrap_or(i64::MAX);
    let mut pasts: HashMap<WorkflowId, Past> = HashMap::new();
    for row in connection.query(&READ_PASTS, &[&ids, &rows_max, &bytes_max])? {
        let id = WorkflowId::stored(column(&READ_PASTS, &row, 0)?);
        if column::<Option<i32>>(&READ_PASTS, &row, 1)?.is_none() {
            let (text, serialization) = (column(&READ_PASTS, &row, 3)?, column(&READ_PASTS, &row, 8)?);
            pasts.insert(id, Past { input: StoredInput { text, serialization }, steps: Vec::new() });
        } else if let Some(past) = pasts.get_mut(&id) {
            past.steps.push(step_row(&READ_PASTS, &row)?);
        }
    }
    Ok(pasts)
}

/// A place below the first reads as 0: no run asks for it, so each run finds it left over and ends with a reason.
fn step_row(statement: &Statement, row: &Row) -> DbResult<StepRow> {
    let time = |index| column::<Option<i64>>(statement, row, index).map(|ms| ms.map(Timestamp::from_millis));
    let step_id: i32 = column(statement, row, 1)?;
    Ok(StepRow {
        step_id: StepId(u32::try_from(step_id).unwrap_or_default()),
        name: Cow::Owned(column(statement, row, 2)?),
        output: column(statement, row, 3)?,
        error: column(statement, row, 4)?,
        child: column::<Option<String>>(statement, row, 5)?.map(WorkflowId::stored),
        started_at: time(6)?,
        completed_at: time(7)?,
        serialization: column::<Option<String>>(statement, row, 8)?.map(Cow::Owned),
    })
}

/// A step id as the column has it.
fn place(step: StepId) -> DbResult<i32> {
    i32::try_from(step.0)
        .map_err(|_| DbError::lasting("record_step", "a workflow has at most 2,147,483,647 steps"))
}

/// The columns of steps.
pub(super) struct Steps<'s> {
    ids: Vec<&'s str>,
    tokens: Vec<&'s str>,
    places: Vec<i32>,
    names: Vec<&'s str>,
    outputs: Vec<Option<&'s str>>,
    errors: Vec<Option<&'s str>>,
    children: Vec<Option<&'s str>>,
    started: Vec<Option<i64>>,
    completed: Vec<Option<i64>>,
    serializations: Vec<Option<&'s str>>,
}

impl<'s> Steps<'s> {
    pub(super) fn of(steps: &[(&'s Owner, &'s StepRow)]) -> DbResult<Self> {
        fn each<'s, T>(steps: &[(&'s Owner, &'s StepRow)], get: impl Fn(&'s StepRow) -> T) -> Vec<T> {
            steps.iter().map(|(_, step)| get(step)).collect()
        }
        Ok(Self {
            ids: steps.iter().map(|(owner, _)| owner.workflow.as_str()).collect(),
            tokens: steps.iter().map(|(owner, _)| owner.token.as_str()).collect(),
            places: steps.iter().map(|(_, step)| place(step.step_id)).collect::<DbResult<_>>()?,
            names: each(steps, |step| &*step.name),
            outputs: each(steps, |step| step.output.as_deref()),
            errors: each(steps, |step| step.error.as_deref()),
            children: each(steps, |step| step.child.as_ref().map(WorkflowId::as_str)),
            started: each(steps, |step| step.started_at.map(Timestamp::as_millis)),
            completed: each(steps, |step| step.completed_at.map(Timestamp::as_millis)),
            serializations: each(steps, |step| step.serialization.as_deref()),
        })
    }

    /// Of a lone step, with its workflow.
    pub(super) fn of_one(&self) -> Option<(&str, [&(dyn ToSql + Sync); 10])> {
        let ([id], [token], [place], [name]) =
            (&self.ids[..], &self.tokens[..], &self.places[..], &self.names[..])
        else {
            return None;
        };
        let params: [&(dyn ToSql + Sync); 10] = [
            id,
            token,
            place,
            name,
            self.outputs.first()?,
            self.errors.first()?,
            self.children.first()?,
            self.started.first()?,
            self.completed.first()?,
            self.serializations.first()?,
        ];
        Some((id, params))
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 10] {
        [
            &self.ids,
            &self.tokens,
            &self.places,
            &self.names,
            &self.outputs,
            &self.errors,
            &self.children,
            &self.started,
            &self.completed,
            &self.serializations,
        ]
    }
}
