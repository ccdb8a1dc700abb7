//! Races: the verdict and what the winner records are one commit.

use rusqlite::Connection;

use super::{messages, steps, workflows};
use crate::sysdb::write::{Refusal, Winner};
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Verdict};

/// Lets the winner win, unless there is a verdict. The transaction around it lets nobody in between.
pub(super) fn decide(
    connection: &Connection,
    owner: &Owner,
    verdict: &StepRow,
    winner: &Winner,
) -> DbResult<Verdict> {
    if !workflows::is_owner(connection, owner)? {
        return Ok(Verdict::NotOwner);
    }
    if let Some(found) = steps::read_at(connection, &owner.workflow, verdict.step_id)?
        && !verdict.is_same_write(&found)
    {
        return Ok(Verdict::Refused(Refusal::Decided));
    }
    // Of an earlier try, whose answer was lost, each part finds its own traces.
    let won = match winner {
        Winner::Unrecorded => Verdict::Done,
        Winner::Step(step) => steps::record(connection, owner, step)?,
        Winner::Receive { topic, step } => messages::receive(connection, owner, topic, step)?,
    };
    if !matches!(won, Verdict::Done | Verdict::Received { .. }) {
        return Ok(won);
    }
    match steps::record(connection, owner, verdict)? {
        Verdict::Done => Ok(won),
        other => Err(DbError::lasting("decide", format!("the verdict was answered by {other:?}"))),
    }
}
