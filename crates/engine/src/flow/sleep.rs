//! Durable sleep: the time to wake up is recorded before the first wait.

use std::time::Duration;

use crate::flow::context::Context;
use crate::flow::drive::{self, Flow};
use crate::flow::operation::{Begun, Entry, Place};
use crate::flow::race::Branch;
use crate::flow::waits::Wait;
use crate::pure::clock::Timestamp;
use crate::pure::codec::Codec;
use crate::pure::due::Due;
use crate::pure::error::{Error, Result};
use crate::sysdb::StepRow;

/// The name under which a sleep is recorded, as DBOS has it.
const NAME: &str = "DBOS.sleep";

impl Context {
    /// Sleeps until `duration` has passed, across any number of restarts.
    ///
    /// The wake-up time is recorded before the first wait, so a workflow that is recovered waits only for the rest, or
    /// not at all. In the process that recorded it, a wall clock that is set back makes no sleep longer. The rest of
    /// the sleep goes by a steady clock. Another process goes by the date. A sleep beyond
    /// [`crate::EngineOptions::suspend_after`] takes no thread: the workflow becomes `DELAYED` and is replayed when it
    /// wakes. Takes one step id and one commit, two when it leaves its thread; a duration of zero takes neither.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when there is no such date, [`Error::Stopped`] when the engine ends this
    /// execution; hand that on.
    ///
    /// # Example
    /// ```
    /// # use engine::{Context, Result}; use std::time::Duration;
    /// fn remind(ctx: &mut Context, user: String) -> Result<()> {
    ///     ctx.sleep(Duration::from_secs(72 * 3600))?; // three days, whatever happens
    ///     ctx.step("mail", |_| mail::send(&user))
    /// }
    /// # mod mail { pub fn send(_: &str) -> engine::Result<()> { Ok(()) } }
    /// ```
    pub fn sleep(&mut self, duration: Duration) -> Result<()> {
        drive::now(self.flow.sleep(duration))
    }
}

/// A time until which something waits, on its way into the database.
pub(crate) enum Deadline {
    Recorded(Due),
    Fresh(Begun, Due),
}

impl Flow {
    pub(crate) fn sleep(&self, duration: Duration) -> impl Future<Output = Result<()>> + use<> {
        let deadline = (!duration.is_zero()).then(|| self.begin_deadline("sleep", duration));
        let flow = self.clone();
        async move {
            let Some(deadline) = deadline else {
                flow.refuse_if_over()?;
                return flow.decide_without_a_record().await;
            };
            let due = flow.record_deadline(deadline?).await?;
            if flow.branch().is_some_and(Branch::has_won) {
                return Ok(());
            }
            let options = &flow.core().options;
            while !due.left(&options.clock).is_zero() {
                // A long sleep leaves at once, a short one never.
                let is_long = due.left(&options.clock) > options.suspend_after;
                let patience = is_long.then(|| Due::now(&options.clock));
                let wait = Wait { awaited: None, due: Some(due), any: flow.branch().is_some() };
                flow.wait(wait, None, patience).await?;
            }
            flow.decide_without_a_record().await
        }
    }

    /// The time `duration` from now, or from when this was first asked: one step id. An error names the time by `what`.
    pub(crate) fn begin_deadline(&self, what: &str, duration: Duration) -> Result<Deadline> {
        let clock = &self.core().options.clock;
        let begun = match self.begin(NAME)? {
            Entry::Replayed(recorded) => {
                let date = from_seconds(recorded.outcome()?);
                return Ok(Deadline::Recorded(self.core().dues.of(self.execution.workflow(), date, clock)));
            }
            Entry::Fresh(begun) => begun,
        };
        let due = Due::after(clock, duration).ok_or_else(|| Error::InvalidOption {
            what: what.to_owned(),
            reason: format!("{duration:?} from now is beyond the calendar"),
        })?;
        Ok(Deadline::Fresh(begun, due))
    }

    /// Records it before the first wait, if it is not recorded yet.
    pub(crate) async fn record_deadline(&self, deadline: Deadline) -> Result<Due> {
        match deadline {
            Deadline::Recorded(due) => Ok(due),
            Deadline::Fresh(begun, due) => {
                let row = deadline_row(&begun.place, due.date);
                self.record_alone(begun.end(row)).await?;
                Ok(due)
            }
        }
    }
}

/// Recorded as DBOS does: the wake-up time in seconds since the Unix epoch, completed when it will have come.
fn deadline_row(place: &Place, wake_at: Timestamp) -> StepRow {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of any calendar date fit a double exactly")]
    let seconds = wake_at.as_millis() as f64 / 1000.0;
    StepRow {
        output: Some(format!("{seconds:?}")),
        serialization: Some(Codec::PortableJson.name().into()),
        ..place.row(wake_at)
    }
}

fn from_seconds(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "a float that is no date saturates")]
    Timestamp::from_millis((seconds * 1000.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_wake_up_time_reads_back_to_the_millisecond() {
        let place =
            Place { step_id: crate::StepId(1), name: NAME.into(), started_at: Timestamp::from_millis(0) };
        for millis in [0, 1, 999, 1_767_323_045_678, 253_402_300_799_999] {
            let row = deadline_row(&place, Timestamp::from_millis(millis));
            let text = row.output.unwrap();
            assert_eq!(from_seconds(serde_json::from_str(&text).unwrap()).as_millis(), millis, "{text}");
        }
    }
}
