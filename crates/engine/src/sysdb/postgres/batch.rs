//! Frequent writes are sets: all starts, steps and ends of a batch are one statement. It is one round trip and its own
//! transaction.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use postgres::error::SqlState;

use super::connection::{Connection, Params, Session, Statement, column, source_of};
use super::steps::{self, RECORD, RECORD_LONE, RECORD_ONE, Steps};
use super::workflows::{self, End, Ends, SETTLE, START, Starts};
use crate::sysdb::write::NewWorkflow;
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Verdict};

/// A kind of write, as a part of a statement. Its parameters are counted from 1.
pub(super) struct Part {
    pub(super) ctes: &'static str,
    /// Returns rows of kind, workflow id, flag.
    pub(super) found: &'static str,
    pub(super) params: usize,
}

/// The flag of a part for each workflow that it wrote.
#[derive(Default)]
pub(super) struct Found(HashMap<String, bool>);

impl Found {
    pub(super) fn get(&self, id: &str) -> Option<bool> {
        self.0.get(id).copied()
    }
}

/// The writes of a batch that are applied together. No two of them may be of the same workflow.
#[derive(Default)]
pub(super) struct Set<'b> {
    pub(super) starts: Vec<&'b NewWorkflow>,
    pub(super) steps: Vec<(&'b Owner, &'b StepRow)>,
    pub(super) ends: Vec<End<'b>>,
}

/// The verdicts of the writes, in their order.
#[derive(Default)]
pub(super) struct Verdicts {
    pub(super) starts: Vec<Verdict>,
    pub(super) steps: Vec<Verdict>,
    pub(super) ends: Vec<Verdict>,
}

static STARTS: LazyLock<Statement> = LazyLock::new(|| joined("start_workflow", &[START]));
static STEPS: LazyLock<Statement> = LazyLock::new(|| joined("record_step", &[RECORD]));
static ENDS: LazyLock<Statement> = LazyLock::new(|| joined("settle", &[SETTLE]));
static MIXED: LazyLock<Statement> = LazyLock::new(|| joined("commit_batch", &[START, RECORD, SETTLE]));

#[cfg(test)]
pub(super) fn all() -> [&'static Statement; 4] {
    [&STARTS, &STEPS, &ENDS, &MIXED]
}

/// One statement of several parts, made once.
fn joined(name: &'static str, parts: &[Part]) -> Statement {
    let (mut ctes, mut found, mut before) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        ctes.push(renumbered(part.ctes, before));
        found.push(part.found);
        before += part.params;
    }
    let sql = format!("WITH {} {}", ctes.join(","), found.join(" UNION ALL "));
    Statement { name, sql: Box::leak(sql.into_boxed_str()) }
}

/// Its parameters counted on from so many.
fn renumbered(sql: &str, before: usize) -> String {
    let mut parts = sql.split('$');
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let number: usize = part[..digits].parse().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(all, "${}{}", number + before, &part[digits..]);
    }
    all
}

/// Applies a set with one round trip, and further ones where it meets traces of an earlier try.
pub(super) fn apply(connection: &mut Connection, set: &Set<'_>) -> DbResult<Verdicts> {
    let (starts, steps, ends) = (Starts::of(&set.starts), Steps::of(&set.steps)?, Ends::of(&set.ends));
    let one = if connection.is_in_transaction() { &RECORD_ONE } else { &RECORD_LONE };
    let [started, recorded, settled] = match (set.starts.len(), set.steps.len(), set.ends.len()) {
        (_, 0, 0) => query(connection, &STARTS, &starts.params())?,
        (0, _, 0) => record(connection, &steps, one)?,
        (0, 0, _) => query(connection, &ENDS, &ends.params())?,
        _ => {
            let all = [&starts.params()[..], &steps.params(), &ends.params()].concat();
            query(connection, &MIXED, &all)?
        }
    };
    let steps = steps::recorded(connection, &set.steps, &recorded)?;
    Ok(Verdicts {
        steps,
        starts: workflows::started(connection, &set.starts, &started)?,
        ends: workflows::settled(connection, &set.ends, &settled)?,
    })
}

/// Steps and nothing else.
fn record(session: &mut impl Session, steps: &Steps<'_>, one: &Statement) -> DbResult<[Found; 3]> {
    if let Some((id, params)) = steps.of_one() {
        match session.execute(one, &params) {
            Ok(1) => return Ok([Found::default(), Found([(id.to_owned(), true)].into()), Found::default()]),
            Err(error) if !is_duplicate(&error) => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    query(session, &STEPS, &steps.params())
}

fn is_duplicate(error: &DbError) -> bool {
    source_of::<postgres::Error>(error.source.as_ref())
        .is_some_and(|error| error.code() == Some(&SqlState::UNIQUE_VIOLATION))
}

/// The flags of the parts, by their kinds.
fn query(session: &mut impl Session, statement: &Statement, params: Params<'_>) -> DbResult<[Found; 3]> {
    let mut all = <[Found; 3]>::default();
    for row in session.query(statement, params)? {
        let (kind, id): (i32, String) = (column(statement, &row, 0)?, column(statement, &row, 1)?);
        if let Some(found) = usize::try_from(kind - 1).ok().and_then(|kind| all.get_mut(kind)) {
            found.0.insert(id, column(statement, &row, 2)?);
        }
    }
    Ok(all)
}

/// Starts one workflow.
pub(super) fn start(connection: &mut Connection, new: &NewWorkflow) -> DbResult<Verdict> {
    let verdicts = apply(connection, &Set { starts: vec![new], ..Set::default() })?;
    Ok(verdicts.starts.into_iter().next().unwrap_or(Verdict::NotOwner))
}

/// Records one step.
pub(super) fn record_one(connection: &mut Connection, owner: &Owner, step: &StepRow) -> DbResult<Verdict> {
    let steps = [(owner, step)];
    let [_, found, _] = record(connection, &Steps::of(&steps)?, &RECORD_ONE)?;
    let verdicts = steps::recorded(connection, &steps, &found)?;
    Ok(verdicts.into_iter().next().unwrap_or(Verdict::NotOwner))
}

/// Records a step in the transaction that a user wrote in. False when the workflow is not the owner's, or when there is
/// a record already. Then the user's writes must not be committed.
pub(super) fn is_recorded_now(session: &mut impl Session, owner: &Owner, step: &StepRow) -> DbResult<bool> {
    let steps = [(owner, step)];
    let steps = Steps::of(&steps)?;
    let Some((_, params)) = steps.of_one() else { return Ok(false) };
    Ok(session.execute(&RECORD_ONE, &params)? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_on() {
        assert_eq!(renumbered("a $1, $12::text[] $2", 10), "a $11, $22::text[] $12");
        assert_eq!(renumbered("nothing", 3), "nothing");
        for statement in all() {
            assert!(!statement.sql.contains("$0"), "{}", statement.sql);
        }
        assert!(MIXED.sql.contains("$31::text[]") && !MIXED.sql.contains("$32"));
    }
}
