//! Frequent writes are sets: all starts, steps and ends of a batch are one statement. It is one round trip and its own
//! transaction.

use std::sync::LazyLock;

use super::connection::{Connection, Statement};
use super::part::{Found, joined, query};
use super::steps::{self, RECORD, RECORD_ONE, Steps};
use super::workflows::{self, ENDS, End, Ends, SETTLE, START, STARTS, Starts};
use crate::sysdb::DbResult;
use crate::sysdb::write::NewWorkflow;
use crate::sysdb::{Owner, StepRow, Verdict};

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

static MIXED: LazyLock<Statement> = LazyLock::new(|| joined("commit_batch", &[START, RECORD, SETTLE]));

#[cfg(test)]
pub(super) fn all() -> [&'static Statement; 4] {
    [&STARTS, &steps::STEPS, &ENDS, &MIXED]
}

/// Applies a set with one round trip, and further ones where it meets traces of an earlier try.
pub(super) fn apply(connection: &mut Connection, set: &Set<'_>) -> DbResult<Verdicts> {
    let (starts, steps, ends) = (Starts::of(&set.starts), Steps::of(&set.steps)?, Ends::of(&set.ends));
    let [started, recorded, settled] = match (set.starts.len(), set.steps.len(), set.ends.len()) {
        (_, 0, 0) => query(connection, &STARTS, &starts.params())?,
        (0, _, 0) => [Found::default(), steps::record(connection, &steps, &RECORD_ONE)?, Found::default()],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_of_all_parts_are_counted_on() {
        for statement in all() {
            assert!(!statement.sql.contains("$0"), "{}", statement.sql);
        }
        assert!(MIXED.sql.contains("$31::text[]") && !MIXED.sql.contains("$32"));
    }
}
