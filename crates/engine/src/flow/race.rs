//! A race: several operations at once, of which the first that ends decides.
//!
//! The verdict and what the winner records are one conditional write. A loser that comes to its end at the same moment is
//! refused by the database, so it records nothing and takes no message.
//!
//! Does not know: SQL, commits, what an operation does.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::flow::drive::Flow;
use crate::flow::execution::Ended;
use crate::flow::join::{Changed, Deferred, Running};
use crate::flow::operation::{Begun, Entry, Recorded, Recording};
use crate::pure::codec::Codec;
use crate::pure::error::{Error, Result, Stop};
use crate::sysdb::write::{Refusal, Winner};
use crate::sysdb::{StepRow, Write};

/// The name under which the verdict of a race is recorded.
const NAME: &str = "Piton.race";

/// A race that has begun.
pub(crate) struct Race {
    /// The place of the verdict, until an earlier run decided.
    verdict: Option<Begun>,
    branches: usize,
    over: OnceLock<Over>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    WonBy(usize),
    /// It came to no verdict: the execution ended.
    Undecided,
}

/// A race and its operations, all of which have their places.
pub(crate) struct Branches<'o, T> {
    pub(crate) race: Arc<Race>,
    pub(crate) running: Vec<Running<'o, Changed<'o, T>>>,
    pub(crate) losses: Losses<'o>,
}

/// What is to be done for each operation that loses.
pub(crate) struct Losses<'o>(Vec<Option<Running<'o, ()>>>);

/// One of the operations of a race, by its number.
#[derive(Clone)]
pub(crate) struct Branch {
    race: Arc<Race>,
    number: usize,
}

/// As it is recorded.
#[derive(Serialize, Deserialize)]
struct RecordedVerdict {
    winner: usize,
    of: usize,
}

impl Race {
    /// The branch that won, if there is a verdict.
    pub(crate) fn winner(&self) -> Option<usize> {
        match self.over.get() {
            Some(Over::WonBy(number)) => Some(*number),
            Some(Over::Undecided) | None => None,
        }
    }

    /// A branch until its end. If the execution has ended, no other one decides either.
    pub(crate) async fn ends<T>(
        self: &Arc<Self>,
        flow: &Flow,
        number: usize,
        branch: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut ended = branch.await;
        if ended.as_ref().is_err_and(|error| !is_lost(error)) && self.winner() != Some(number) {
            // One that could not begin has ended as well. Without a verdict a replay may have another winner.
            let branch = flow.in_branch(Branch { race: self.clone(), number });
            if let Err(error) = branch.decide_without_a_record().await {
                ended = Err(error);
            }
        }
        let has_lost = ended.as_ref().is_err_and(is_lost);
        if !has_lost && self.winner() != Some(number) && self.over.set(Over::Undecided).is_ok() {
            flow.execution.run.signal.raise();
        }
        ended
    }

    /// What the race returns after its branches have ended like this.
    pub(crate) fn result<T>(&self, flow: &Flow, ended: &mut Vec<Result<T>>) -> Result<T> {
        if let Some(winner) = self.winner() {
            return ended.swap_remove(winner);
        }
        let refused = ended.iter().position(|ended| ended.as_ref().is_err_and(|error| !is_lost(error)));
        match refused {
            Some(number) => ended.swap_remove(number),
            None => Err(decided_elsewhere(flow)),
        }
    }

    /// The result, after all has been done for the operations that lost.
    pub(crate) async fn after_losses<'o, T>(
        &self,
        Losses(losses): Losses<'_>,
        result: impl Future<Output = Result<Changed<'o, T>>>,
    ) -> Result<T> {
        if let Some(winner) = self.winner() {
            let lost = losses.into_iter().enumerate().filter(|(number, _)| *number != winner);
            for loss in lost.filter_map(|(_, loss)| loss) {
                loss.await?;
            }
        }
        Ok(result.await?())
    }

    /// The verdict for this branch.
    fn row(&self, begun: &Begun, winner: usize) -> StepRow {
        let verdict = RecordedVerdict { winner, of: self.branches };
        begun.success(serde_json::json!(verdict).to_string(), Codec::PortableJson.name())
    }
}

/// The verdict that stands in the database was made by no run of this process.
pub(crate) fn decided_elsewhere(flow: &Flow) -> Error {
    let reason = "another program wrote the verdict of a race that was under way";
    flow.execution.end(Ended::Stopped(Stop::Database(reason.into())))
}

impl Branch {
    /// Whether another branch has won, or none will.
    pub(crate) fn has_lost(&self) -> bool {
        self.race.over.get().is_some_and(|over| *over != Over::WonBy(self.number))
    }

    /// Whether this branch has won, in this run or an earlier one.
    pub(crate) fn has_won(&self) -> bool {
        self.race.winner() == Some(self.number)
    }

    /// What becomes of the end of this branch: it decides the race.
    pub(crate) fn decides(&self, recording: Recording) -> Recording {
        let Some(begun) = &self.race.verdict else { return recording };
        let verdict = self.race.row(begun, self.number);
        recording.map_write(|write| match write {
            Write::RecordStep { owner, step } => Write::Decide { owner, verdict, winner: Winner::Step(step) },
            Write::Receive { owner, topic, step } => {
                Write::Decide { owner, verdict, winner: Winner::Receive { topic, step } }
            }
            other => other,
        })
    }

    /// What the answer means to the race. If the winner has a record, only that was told to the observers yet.
    pub(crate) fn was_recorded(&self, flow: &Flow, recorded: Recorded, has_record: bool) -> Result<Recorded> {
        match recorded {
            Recorded::Refused(_, Refusal::Decided) => Err(lost(flow)),
            Recorded::Done(verdict) => {
                if self.race.over.set(Over::WonBy(self.number)).is_ok()
                    && let Some(begun) = &self.race.verdict
                {
                    if has_record {
                        begun.tell_recorded(true);
                    }
                    // The other branches wait on threads of their own.
                    flow.execution.run.signal.raise();
                }
                Ok(Recorded::Done(verdict))
            }
            refused @ Recorded::Refused(..) => Ok(refused),
        }
    }
}

/// How an operation ends that has lost. Only its race sees this error.
pub(crate) fn lost(flow: &Flow) -> Error {
    Error::Stopped { workflow: flow.execution.workflow().clone(), reason: Stop::Returned }
}

pub(crate) fn is_lost(error: &Error) -> bool {
    matches!(error, Error::Stopped { reason: Stop::Returned, .. })
}

impl Flow {
    /// Takes the places of a race and of its branches, in their order.
    pub(crate) fn begin_branches<'o, T>(
        &self,
        operations: impl Iterator<Item = Deferred<'o, T>>,
    ) -> Result<Branches<'o, T>> {
        let operations: Vec<_> = operations.collect();
        let race = self.begin_race(operations.len())?;
        let (mut running, mut losses) = (Vec::new(), Vec::new());
        for (number, Deferred { begin, if_lost }) in operations.into_iter().enumerate() {
            running.push(begin(&self.in_branch(Branch { race: race.clone(), number })));
            losses.push(if_lost.map(|begin| begin(self)));
        }
        Ok(Branches { race, running, losses: Losses(losses) })
    }

    fn begin_race(&self, branches: usize) -> Result<Arc<Race>> {
        if branches == 0 {
            let (what, reason) =
                ("race".to_owned(), "without an operation it would never end; add at least one".to_owned());
            return Err(Error::InvalidOption { what, reason });
        }
        let race = match self.begin(NAME)? {
            Entry::Fresh(begun) => Race { verdict: Some(begun), branches, over: OnceLock::new() },
            Entry::Replayed(recorded) => {
                let before: RecordedVerdict = recorded.outcome()?;
                let many = |count: usize| format!("a race of {count} operations");
                if before.of != branches {
                    return Err(recorded.misfit(&many(before.of), &many(branches)));
                }
                if before.winner >= branches {
                    let won = format!("a race that operation {} of {branches} won", before.winner);
                    return Err(recorded.misfit(&won, &many(branches)));
                }
                Race { verdict: None, branches, over: OnceLock::from(Over::WonBy(before.winner)) }
            }
        };
        Ok(Arc::new(race))
    }

    /// Decides a race by an end that has no record: of a sleep, whose time is recorded already, or of an operation that
    /// could not begin.
    pub(crate) async fn decide_without_a_record(&self) -> Result<()> {
        let Some(branch) = self.branch() else { return Ok(()) };
        self.refuse_if_over()?;
        let Some(begun) = branch.race.verdict.clone() else { return Ok(()) };
        let row = branch.race.row(&begun, branch.number);
        let verdict =
            begun.end_by(row, |owner, verdict| Write::Decide { owner, verdict, winner: Winner::Unrecorded });
        let recorded = self.record_alone(verdict).await?;
        branch.was_recorded(self, recorded, false).map(drop)
    }
}
