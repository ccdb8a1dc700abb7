//! `workflow_status` and its payload tables: how runs begin, end, and leave their thread.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use postgres::Row;
use postgres::types::ToSql;

use super::connection::{Connection, Statement, column};
use super::part::{Found, Part, joined, query};
use super::steps;
use crate::pure::clock::Timestamp;
use crate::pure::codec;
use crate::pure::id::{ExecutorId, WorkflowId};
use crate::pure::limits::WAITS_LOOKED_AT;
use crate::pure::status::WorkflowStatus;
use crate::sysdb::names::{INTERNAL_QUEUE, ended};
use crate::sysdb::write::{Existing, NewWorkflow, RecoveryAttempt, Refusal, Wake};
use crate::sysdb::{DbError, DbResult, Outcome, Owner, StepRow, StoredInput, Verdict};

/// Inserts the workflows that are new; for a taken id, no row comes back. In the order of their ids, so that two
/// processes that start the same ones do not wait for each other in a circle.
///
/// Arrays: $1 id, $2 status, $3 name, $4 executor, $5 now, $6 version, $7 attempts, $8 queue, $9 owner, $10 parent,
/// $11 application, $12 creator, $13 input, $14 priority
pub(super) const START: Part = Part {
    ctes: "
        new AS (
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int8[], $6::text[], $7::int8[],
                                  $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
                                  $14::int4[])
                    AS a (id, status, name, executor, at, version, attempts, queue, owner, parent, app, creator, input,
                          priority)),
        started AS (
             INSERT INTO dbos.workflow_status
                    (workflow_uuid, status, name, executor_id, created_at, updated_at, application_version,
                     recovery_attempts, queue_name, owner_xid, parent_workflow_id, application_name, creator_xid,
                     priority, serialization)
             SELECT id, status, name, executor, at, at, version, attempts, queue, owner, parent, app, creator,
                    priority, 'portable_json'
               FROM new ORDER BY id
                 ON CONFLICT (workflow_uuid) DO NOTHING
             RETURNING workflow_uuid AS id),
        new_input AS (
             INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
             SELECT id, input, at FROM new WHERE (id IN (SELECT id FROM started)) IS TRUE
                 ON CONFLICT (workflow_uuid) DO NOTHING)",
    found: "SELECT 1, id, TRUE FROM started",
    params: 14,
};

/// $1 ids
const TAKEN_BY: Statement = Statement {
    name: "workflow_id_taken_by",
    sql: "
        SELECT s.workflow_uuid, s.name, s.creator_xid, COALESCE(i.inputs, s.inputs)
          FROM dbos.workflow_status s LEFT JOIN dbos.workflow_input i USING (workflow_uuid)
         WHERE s.workflow_uuid = ANY ($1)",
};

/// Locks the row until the end of the transaction, so the workflow stays with its owner. An earlier try of the same
/// write that still commits is waited for.
///
/// $1 id, $2 token
const HOLD: Statement = Statement {
    name: "is_owner",
    sql: "
        SELECT 1 FROM dbos.workflow_status
         WHERE workflow_uuid = $1 AND (status = 'PENDING') IS TRUE AND owner_xid = $2 FOR NO KEY UPDATE",
};

/// Ends the workflows that are the owner's; for others no row comes back. A parent that waits without a thread for one
/// of these is woken, and then the row says so.
///
/// Arrays: $1 id, $2 token, $3 status, $4 now, $5 serialization, $6 output, $7 error
pub(super) const SETTLE: Part = Part {
    ctes: "
        ends AS (
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::text[], $6::text[], $7::text[])
                    AS a (id, token, status, at, serialization, output, error)),
        settled AS (
             UPDATE dbos.workflow_status s
                SET status = a.status, updated_at = a.at, completed_at = a.at, deduplication_id = NULL,
                    owner_xid = NULL, serialization = a.serialization
               FROM ends a
              WHERE s.workflow_uuid = a.id AND (s.status = 'PENDING') IS TRUE AND s.owner_xid = a.token
             RETURNING s.workflow_uuid AS id, s.parent_workflow_id AS parent, a.at, a.output, a.error),
        output AS (
             INSERT INTO dbos.workflow_output (workflow_uuid, output, error, retention_timestamp)
             SELECT id, output, error, at FROM settled
                 ON CONFLICT (workflow_uuid)
                 DO UPDATE SET output = excluded.output, error = excluded.error,
                               retention_timestamp = excluded.retention_timestamp),
        woken AS (
             UPDATE dbos.workflow_status p
                SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = c.at,
                    attributes = p.attributes - 'piton.awaits'
               FROM settled c
              WHERE p.workflow_uuid = c.parent AND (p.status = 'DELAYED') IS TRUE
                AND jsonb_typeof(p.attributes) = 'object'
                AND p.attributes -> 'piton.awaits' ? ('workflow ' || c.id)
             RETURNING c.id)",
    found: "SELECT 3, id, id IN (SELECT id FROM woken) FROM settled",
    params: 7,
};

/// $1 ids, $2 their parents, $3 now
const WAKE_PARENTS: Statement = Statement {
    name: "wake_parents",
    sql: "
        UPDATE dbos.workflow_status p
           SET status = 'ENQUEUED', delay_until_epoch_ms = NULL, updated_at = $3,
               attributes = p.attributes - 'piton.awaits'
          FROM unnest($1::text[], $2::text[]) AS c (id, parent)
         WHERE p.workflow_uuid = c.parent AND (p.status = 'DELAYED') IS TRUE
                AND jsonb_typeof(p.attributes) = 'object'
           AND p.attributes -> 'piton.awaits' ? ('workflow ' || c.id)",
};

/// The attempt is given back: leaving a thread in order is not a crash. Attributes that are no JSON object cannot
/// carry the marks, and without them nothing wakes the workflow, so they take their place. The awaited rows are locked: a
/// workflow that is being ended right now is waited for, and is seen to have ended.
///
/// $1 id, $2 token, $3 due, $4 queue, $5 now, $6 marks as JSON, $7 awaited workflows, $8 awaited topics
const SUSPEND: Statement = Statement {
    name: "suspend",
    sql: concat!(
        "
        WITH awaited AS MATERIALIZED (
             SELECT status FROM dbos.workflow_status WHERE workflow_uuid = ANY ($7::text[])
              ORDER BY workflow_uuid FOR SHARE)
        UPDATE dbos.workflow_status
           SET status = 'DELAYED', delay_until_epoch_ms = $3::int8, queue_name = COALESCE(queue_name, $4),
               owner_xid = NULL, started_at_epoch_ms = NULL, updated_at = $5,
               recovery_attempts = greatest(recovery_attempts, 1) - 1,
               attributes = CASE WHEN $6::text IS NULL THEN attributes
                                 WHEN jsonb_typeof(attributes) = 'object'
                                 THEN attributes || jsonb_build_object('piton.awaits', $6::text::jsonb)
                                 ELSE jsonb_build_object('piton.awaits', $6::text::jsonb) END
         WHERE workflow_uuid = $1 AND (status = 'PENDING') IS TRUE AND owner_xid = $2
           AND NOT EXISTS (SELECT 1 FROM awaited WHERE status IN ",
        ended!(),
        ")
           AND NOT EXISTS (SELECT 1 FROM dbos.notifications
                            WHERE destination_uuid = $1 AND topic = ANY ($8::text[]) AND consumed = FALSE)"
    ),
};

/// $1 id, $2 token, $3 queue, $4 now, $5 attempts to give back, $6 the time from which on it may be claimed
const RELEASE: Statement = Statement {
    name: "release",
    sql: "
        UPDATE dbos.workflow_status
           SET status = CASE WHEN $6::int8 IS NULL THEN 'ENQUEUED' ELSE 'DELAYED' END, delay_until_epoch_ms = $6,
               queue_name = COALESCE(queue_name, $3), owner_xid = NULL,
               started_at_epoch_ms = NULL, updated_at = $4,
               recovery_attempts = greatest(recovery_attempts, $5::int8) - $5::int8
         WHERE workflow_uuid = $1 AND (status = 'PENDING') IS TRUE AND owner_xid = $2",
};

/// $1 workflow, $2 an id that may be of an ancestor
const DESCENDS_FROM: Statement = Statement {
    name: "descends_from",
    sql: "
        WITH RECURSIVE line (id) AS (
             SELECT $1::text
              UNION
             SELECT s.parent_workflow_id FROM line JOIN dbos.workflow_status s ON s.workflow_uuid = line.id
              WHERE s.parent_workflow_id IS NOT NULL)
        SELECT 1 FROM line WHERE id = $2",
};

/// Which workflows the first one waits for without a thread, and which those wait for, and so on: waiter and awaited. A
/// workflow in a race can go on without one of them, so it is left out.
///
/// $1 id, $2 how many at most
const WAITS_OF: Statement = Statement {
    name: "waits_of",
    sql: "
        WITH RECURSIVE waits (waiter, awaited) AS (
             SELECT NULL::text, $1::text
              UNION
             SELECT s.workflow_uuid, substr(mark #>> '{}', 10)
               FROM waits
               JOIN dbos.workflow_status s ON s.workflow_uuid = waits.awaited AND (s.status = 'DELAYED') IS TRUE
              CROSS JOIN LATERAL jsonb_path_query(s.attributes, '$.\"piton.awaits\"[*]') AS mark
              WHERE mark #>> '{}' LIKE 'workflow %' AND NOT s.attributes -> 'piton.awaits' ? 'any')
        SELECT waiter, awaited FROM waits WHERE waiter IS NOT NULL LIMIT $2",
};

/// $1 id
const INPUT: Statement = Statement {
    name: "read_input",
    sql: "
        SELECT COALESCE(i.inputs, s.inputs), s.serialization
          FROM dbos.workflow_status s LEFT JOIN dbos.workflow_input i USING (workflow_uuid)
         WHERE s.workflow_uuid = $1",
};

/// $1 ids
const OUTCOMES: Statement = Statement {
    name: "read_outcomes",
    sql: "
        SELECT s.workflow_uuid, s.status, COALESCE(o.output, s.output), COALESCE(o.error, s.error), s.serialization
          FROM dbos.workflow_status s LEFT JOIN dbos.workflow_output o USING (workflow_uuid)
         WHERE s.workflow_uuid = ANY ($1)",
};

/// Many starts at once.
pub(super) static STARTS: LazyLock<Statement> = LazyLock::new(|| joined("start_workflow", &[START]));

/// Many ends at once.
pub(super) static ENDS: LazyLock<Statement> = LazyLock::new(|| joined("settle", &[SETTLE]));

#[cfg(test)]
pub(super) const ALL: &[Statement] =
    &[TAKEN_BY, HOLD, WAKE_PARENTS, SUSPEND, DESCENDS_FROM, WAITS_OF, RELEASE, INPUT, OUTCOMES];

/// Holds the workflow for its owner until the end of the transaction; false if it is another owner's.
pub(super) fn hold(connection: &mut Connection, owner: &Owner) -> DbResult<bool> {
    Ok(connection.first(&HOLD, &[&owner.workflow.as_str(), &owner.token.as_str()])?.is_some())
}

/// The verdicts of new workflows, of which these were inserted.
pub(super) fn started(
    connection: &mut Connection,
    new: &[&NewWorkflow],
    found: &Found,
) -> DbResult<Vec<Verdict>> {
    let missing: Vec<_> = new.iter().filter(|new| found.get(new.id.as_str()).is_none()).copied().collect();
    let mut taken = if missing.is_empty() { HashMap::new() } else { taken(connection, &missing)? };
    let verdict = |new: &&NewWorkflow| taken.remove(&new.id).unwrap_or(Verdict::Done);
    Ok(new.iter().map(verdict).collect())
}

/// Whose the ids of these new workflows are already.
fn taken(connection: &mut Connection, new: &[&NewWorkflow]) -> DbResult<HashMap<WorkflowId, Verdict>> {
    let ids: Vec<&str> = new.iter().map(|new| new.id.as_str()).collect();
    let mut found = HashMap::new();
    for row in connection.query(&TAKEN_BY, &[&ids])? {
        let id: String = column(&TAKEN_BY, &row, 0)?;
        let name: Option<String> = column(&TAKEN_BY, &row, 1)?;
        let creator: Option<String> = column(&TAKEN_BY, &row, 2)?;
        let input: Option<String> = column(&TAKEN_BY, &row, 3)?;
        found.insert(id, (name.unwrap_or_default(), creator, input));
    }
    let verdict = |new: &NewWorkflow| match found.get(new.id.as_str()) {
        None => Verdict::Refused(Refusal::NoSuchWorkflow),
        Some((_, Some(creator), _)) if creator == new.token.as_str() => Verdict::Done,
        Some((name, _, _)) if **name != *new.name => {
            Verdict::Refused(Refusal::OtherWorkflow { name: name.clone() })
        }
        Some((_, _, input)) => Verdict::AlreadyThere(Existing {
            same_input: input.as_deref().is_some_and(|input| codec::same_input(input, &new.input)),
        }),
    };
    Ok(new.iter().map(|new| (new.id.clone(), verdict(new))).collect())
}

/// Starts one workflow.
pub(super) fn start(connection: &mut Connection, new: &NewWorkflow) -> DbResult<Verdict> {
    let [found, ..] = query(connection, &STARTS, &Starts::of(&[new]).params())?;
    let mut verdicts = started(connection, &[new], &found)?;
    verdicts.pop().ok_or_else(|| DbError::lasting(STARTS.name, "it has no verdict"))
}

/// The child and the parent's step that started it, both or neither.
pub(super) fn start_child(
    connection: &mut Connection,
    parent: &Owner,
    step: &StepRow,
    child: &NewWorkflow,
) -> DbResult<Verdict> {
    connection.atomically(|connection| {
        if !hold(connection, parent)? {
            return Ok(Verdict::NotOwner);
        }
        let started = start(connection, child)?;
        if matches!(started, Verdict::AlreadyThere(_)) {
            let ids: [&(dyn ToSql + Sync); 2] = [&parent.workflow.as_str(), &child.id.as_str()];
            if connection.first(&DESCENDS_FROM, &ids)?.is_some() {
                return Ok(Verdict::Refused(Refusal::Ancestor));
            }
        }
        if matches!(started, Verdict::Refused(_)) {
            return Ok(started);
        }
        match steps::record_one(connection, parent, step)? {
            Verdict::Done => Ok(started),
            other => Ok(other),
        }
    })
}

/// One end of a workflow, as its owner reports it.
pub(super) type End<'e> = (&'e Owner, &'e Outcome, Timestamp);

/// The verdicts of ends, of which these were written.
pub(super) fn settled(
    connection: &mut Connection,
    ends: &[End<'_>],
    found: &Found,
) -> DbResult<Vec<Verdict>> {
    let ids = ends.iter().map(|(owner, ..)| owner.workflow.as_str());
    let left: Vec<&str> = ids.filter(|id| found.get(id).is_none()).collect();
    // An earlier try that was committed left exactly this outcome; then there is nothing more to say.
    let mut stands = HashMap::new();
    if !left.is_empty() {
        for row in connection.query(&OUTCOMES, &[&left])? {
            let outcome = outcome_row(&row)?;
            stands.insert(outcome.workflow.clone(), outcome);
        }
    }
    let verdict = |(owner, outcome, _): &End<'_>| match found.get(owner.workflow.as_str()) {
        Some(true) => Verdict::Woke,
        Some(false) => Verdict::Done,
        None if stands.get(&owner.workflow) == Some(*outcome) => Verdict::Done,
        None => Verdict::NotOwner,
    };
    Ok(ends.iter().map(verdict).collect())
}

/// Ends one workflow.
pub(super) fn settle(connection: &mut Connection, end: End<'_>) -> DbResult<Verdict> {
    let [_, _, found] = query(connection, &ENDS, &Ends::of(&[end]).params())?;
    let mut verdicts = settled(connection, &[end], &found)?;
    verdicts.pop().ok_or_else(|| DbError::lasting(ENDS.name, "it has no verdict"))
}

/// Call it whenever workflows end other than by a settlement: their parents may wait without a thread.
pub(super) fn wake_parents(
    connection: &mut Connection,
    ended: &[(String, Option<String>)],
    at: Timestamp,
) -> DbResult<()> {
    let with_parents = || ended.iter().filter_map(|(id, parent)| Some((id.as_str(), parent.as_deref()?)));
    let (ids, parents): (Vec<&str>, Vec<&str>) = with_parents().unzip();
    if !ids.is_empty() {
        connection.execute(&WAKE_PARENTS, &[&ids, &parents, &at.as_millis()])?;
    }
    Ok(())
}

pub(super) fn suspend(
    connection: &mut Connection,
    owner: &Owner,
    until: &Wake,
    at: Timestamp,
) -> DbResult<Verdict> {
    let (id, token) = (owner.workflow.as_str(), owner.token.as_str());
    let (due, at) = (until.at.map(Timestamp::as_millis), at.as_millis());
    let (marks, awaited, topics) = (until.marks(), until.workflows(), until.topics());
    let left = connection
        .execute(&SUSPEND, &[&id, &token, &due, &INTERNAL_QUEUE, &at, &marks, &awaited, &topics])?;
    if left == 1 {
        return Ok(Verdict::Done);
    }
    let owner = hold(connection, owner)?;
    Ok(if owner { Verdict::Refused(Refusal::NoNeedToWait) } else { Verdict::NotOwner })
}

pub(super) fn release(
    connection: &mut Connection,
    owner: &Owner,
    attempt: RecoveryAttempt,
    again_at: Option<Timestamp>,
    at: Timestamp,
) -> DbResult<Verdict> {
    let given_back = i64::from(attempt == RecoveryAttempt::GivenBack);
    let again_at = again_at.map(Timestamp::as_millis);
    let (id, token) = (owner.workflow.as_str(), owner.token.as_str());
    let released = connection
        .execute(&RELEASE, &[&id, &token, &INTERNAL_QUEUE, &at.as_millis(), &given_back, &again_at])?;
    Ok(if released == 1 { Verdict::Done } else { Verdict::NotOwner })
}

pub(super) fn waits_of(
    connection: &mut Connection,
    workflow: &WorkflowId,
) -> DbResult<Vec<(WorkflowId, WorkflowId)>> {
    let rows = connection.query(&WAITS_OF, &[&workflow.as_str(), &WAITS_LOOKED_AT])?;
    let id = |row, index| Ok(WorkflowId::stored(column(&WAITS_OF, row, index)?));
    rows.iter().map(|row| Ok((id(row, 0)?, id(row, 1)?))).collect()
}

/// Nothing where there is no such workflow.
pub(super) fn read_input(connection: &mut Connection, workflow: &WorkflowId) -> DbResult<StoredInput> {
    match connection.first(&INPUT, &[&workflow.as_str()])? {
        Some(row) => {
            Ok(StoredInput { text: column(&INPUT, &row, 0)?, serialization: column(&INPUT, &row, 1)? })
        }
        None => Ok(StoredInput { text: None, serialization: None }),
    }
}

pub(super) fn read_outcome(connection: &mut Connection, workflow: &WorkflowId) -> DbResult<Option<Outcome>> {
    let ids = [workflow.as_str()];
    connection.first(&OUTCOMES, &[&ids.as_slice()])?.as_ref().map(outcome_row).transpose()
}

fn outcome_row(row: &Row) -> DbResult<Outcome> {
    Ok(Outcome {
        workflow: WorkflowId::stored(column(&OUTCOMES, row, 0)?),
        status: status_column(&OUTCOMES, row, 1)?,
        output: column(&OUTCOMES, row, 2)?,
        error: column(&OUTCOMES, row, 3)?,
        serialization: column::<Option<String>>(&OUTCOMES, row, 4)?.map(Cow::Owned),
    })
}

pub(super) fn status_column(statement: &Statement, row: &Row, index: usize) -> DbResult<WorkflowStatus> {
    let text: Option<&str> = column(statement, row, index)?;
    Ok(text.and_then(WorkflowStatus::parse).unwrap_or(WorkflowStatus::Unknown))
}

/// The columns of new workflows.
pub(super) struct Starts<'n> {
    ids: Vec<&'n str>,
    statuses: Vec<&'static str>,
    names: Vec<&'n str>,
    executors: Vec<Option<&'n str>>,
    times: Vec<i64>,
    versions: Vec<Option<&'n str>>,
    attempts: Vec<i64>,
    queues: Vec<Option<&'n str>>,
    owners: Vec<Option<&'n str>>,
    parents: Vec<Option<&'n str>>,
    apps: Vec<&'n str>,
    creators: Vec<&'n str>,
    inputs: Vec<&'n str>,
    priorities: Vec<i32>,
}

impl<'n> Starts<'n> {
    pub(super) fn of(new: &[&'n NewWorkflow]) -> Self {
        fn each<'n, T>(new: &[&'n NewWorkflow], get: impl Fn(&'n NewWorkflow) -> T) -> Vec<T> {
            new.iter().map(|new| get(new)).collect()
        }
        let status = |new: &NewWorkflow| {
            if new.claimed_by.is_some() { WorkflowStatus::Pending } else { WorkflowStatus::Enqueued }.as_str()
        };
        Self {
            ids: each(new, |new| new.id.as_str()),
            statuses: each(new, status),
            names: each(new, |new| &*new.name),
            executors: each(new, |new| new.claimed_by.as_ref().map(ExecutorId::as_str)),
            times: each(new, |new| new.at.as_millis()),
            versions: each(new, |new| new.version.as_deref()),
            attempts: each(new, |new| i64::from(new.claimed_by.is_some())),
            queues: each(new, |new| match new.claimed_by {
                Some(_) => None,
                None => Some(new.queue.as_deref().unwrap_or(INTERNAL_QUEUE)),
            }),
            owners: each(new, |new| new.claimed_by.as_ref().map(|_| new.token.as_str())),
            parents: each(new, |new| new.parent.as_ref().map(WorkflowId::as_str)),
            apps: each(new, |new| &*new.app),
            creators: each(new, |new| new.token.as_str()),
            inputs: each(new, |new| new.input.as_str()),
            priorities: each(new, |new| i32::try_from(new.priority).unwrap_or(i32::MAX)),
        }
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 14] {
        [
            &self.ids,
            &self.statuses,
            &self.names,
            &self.executors,
            &self.times,
            &self.versions,
            &self.attempts,
            &self.queues,
            &self.owners,
            &self.parents,
            &self.apps,
            &self.creators,
            &self.inputs,
            &self.priorities,
        ]
    }
}

/// The columns of ends.
pub(super) struct Ends<'e> {
    ids: Vec<&'e str>,
    tokens: Vec<&'e str>,
    statuses: Vec<&'static str>,
    times: Vec<i64>,
    serializations: Vec<Option<&'e str>>,
    outputs: Vec<Option<&'e str>>,
    errors: Vec<Option<&'e str>>,
}

impl<'e> Ends<'e> {
    pub(super) fn of(ends: &[End<'e>]) -> Self {
        fn each<'e, T>(ends: &[End<'e>], get: impl Fn(&End<'e>) -> T) -> Vec<T> {
            ends.iter().map(get).collect()
        }
        Self {
            ids: each(ends, |(owner, ..)| owner.workflow.as_str()),
            tokens: each(ends, |(owner, ..)| owner.token.as_str()),
            statuses: each(ends, |(_, outcome, _)| outcome.status.as_str()),
            times: each(ends, |(.., at)| at.as_millis()),
            serializations: each(ends, |(_, outcome, _)| outcome.serialization.as_deref()),
            outputs: each(ends, |(_, outcome, _)| outcome.output.as_deref()),
            errors: each(ends, |(_, outcome, _)| outcome.error.as_deref()),
        }
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 7] {
        let Self { ids, tokens, statuses, times, serializations, outputs, errors } = self;
        [ids, tokens, statuses, times, serializations, outputs, errors]
    }
}
