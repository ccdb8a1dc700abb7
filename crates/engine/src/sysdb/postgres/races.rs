//! Races: the verdict and what the winner records are one commit.

use super::connection::Connection;
use super::{messages, steps, workflows};
use crate::sysdb::write::{Refusal, Winner};
use crate::sysdb::{DbError, DbResult, Owner, StepRow, Verdict};

/// Lets the winner win, unless there is a verdict. The owner's row is held meanwhile, so nobody comes in between.
pub(super) fn decide(
    connection: &mut Connection,
    owner: &Owner,
    verdict: &StepRow,
    winner: &Winner,
) -> DbResult<Verdict> {
    connection.atomically(|connection| {
        if !workflows::hold(connection, owner)? {
            return Ok(Verdict::NotOwner);
        }
        if let Some(found) = steps::recorded_at(connection, owner, verdict.step_id)?
            && !verdict.is_same_write(&found)
        {
            return Ok(Verdict::Refused(Refusal::Decided));
        }
        // Of an earlier try, whose answer was lost, each part finds its own traces.
        let won = match winner {
            Winner::Unrecorded => Verdict::Done,
            Winner::Step(step) => steps::record_one(connection, owner, step)?,
            Winner::Receive { topic, step } => messages::receive(connection, owner, topic, step)?,
        };
        if !matches!(won, Verdict::Done | Verdict::Received { .. }) {
            return Ok(won);
        }
        match steps::record_one(connection, owner, verdict)? {
            Verdict::Done => Ok(won),
            other => Err(DbError::lasting("decide", format!("the verdict was answered by {other:?}"))),
        }
    })
}
