//! The ends of waits of this process, also when the wall clock is set.
//!
//! A wake-up time is recorded as a date, because only a date means something to another process. The process that made
//! the date also knows how long the wait is, and its steady clock tells when that time has passed. So a wall clock that
//! is set back makes no wait longer. A wait that is not noted here goes by the date.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use crate::pure::clock::{Clock, Timestamp};
use crate::pure::id::WorkflowId;
use crate::pure::limits::{DUE_NOTES_MAX, WALL_CLOCK_LAG};
use crate::pure::sync::lock;

/// The end of a wait, by both clocks of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The date, as it is recorded.
    pub(crate) date: Timestamp,
    /// The end of the wait on the steady clock.
    pub(crate) steady: Timestamp,
}

impl Due {
    /// The end of a wait that is over at once.
    pub(crate) fn now(clock: &Clock) -> Self {
        Self { date: clock.now(), steady: clock.steady().now() }
    }

    /// The end of a wait of `time` from now; `None` when there is no such date.
    pub(crate) fn after(clock: &Clock, time: Duration) -> Option<Self> {
        let steady = clock.steady().now();
        Some(Self { date: clock.now().checked_add(time)?, steady: steady.checked_add(time)? })
    }

    /// The end of a wait of which only the recorded date is known.
    fn at(clock: &Clock, date: Timestamp) -> Self {
        let steady = clock.steady().now();
        Self { date, steady: steady.checked_add(date.since(clock.now())).unwrap_or(date) }
    }

    /// The time that is left of the wait.
    pub(crate) fn left(self, clock: &Clock) -> Duration {
        self.steady.since(clock.steady().now())
    }
}

/// The ends of waits of the workflows that this process suspended until a time.
#[derive(Default)]
pub(crate) struct Dues(Mutex<Notes>);

#[derive(Default)]
struct Notes {
    /// The dues of each workflow, the earliest first.
    of: HashMap<WorkflowId, Vec<Due>>,
    /// Workflows that were not woken yet, the earliest first.
    asleep: BTreeSet<(Timestamp, WorkflowId)>,
}

impl Dues {
    /// Call this before the waits are recorded. Beyond the limit nothing is noted.
    pub(crate) fn note(&self, workflow: &WorkflowId, mut dues: Vec<Due>) {
        dues.sort_by_key(|due| due.steady);
        let Some(first) = dues.first().copied() else { return };
        let mut notes = lock(&self.0);
        if let Some(before) = notes.of.remove(workflow) {
            notes.asleep.remove(&(before[0].steady, workflow.clone()));
        }
        if notes.of.len() < DUE_NOTES_MAX {
            notes.of.insert(workflow.clone(), dues);
            notes.asleep.insert((first.steady, workflow.clone()));
        }
    }

    /// The end of this workflow's wait until a recorded date, by the clock that comes to it first.
    pub(crate) fn of(&self, workflow: &WorkflowId, date: Timestamp, clock: &Clock) -> Due {
        let by_date = Due::at(clock, date);
        let find = |dues: &Vec<Due>| dues.iter().copied().find(|due| due.date == date);
        let noted = lock(&self.0).of.get(workflow).and_then(find);
        noted.map_or(by_date, |due| Due { date, steady: due.steady.min(by_date.steady) })
    }

    /// Workflows whose time has passed while the date has not come, because the wall clock was set back. Each is
    /// returned once. Other workflows are woken by their date.
    pub(crate) fn overdue(&self, clock: &Clock) -> Vec<WorkflowId> {
        let (steady, wall) = (clock.steady().now(), clock.now());
        let mut notes = lock(&self.0);
        let mut overdue = Vec::new();
        while let Some((_, workflow)) = notes.asleep.first().filter(|(due, _)| *due <= steady).cloned() {
            let date = notes.of.get(&workflow).map_or(wall, |dues| dues[0].date);
            let lag = date.since(wall);
            if !lag.is_zero() && lag <= WALL_CLOCK_LAG {
                // The two clocks do not tick as one; the date comes in a moment.
                break;
            }
            notes.asleep.pop_first();
            if lag.is_zero() {
                notes.of.remove(&workflow);
            } else {
                // The note stays for the run, which asks how much time is left.
                overdue.push(workflow);
            }
        }
        overdue
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sysdb::testing::FakeClock;

    const HOUR: Duration = Duration::from_secs(3600);
    const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn noted() -> (FakeClock, Clock, Dues, WorkflowId, Due) {
        let fake = FakeClock::at(START);
        let clock = Clock::new(Arc::new(fake.clone()));
        let (dues, workflow) = (Dues::default(), WorkflowId::new("w").unwrap());
        let due = Due::after(&clock, HOUR).unwrap();
        dues.note(&workflow, vec![due]);
        (fake, clock, dues, workflow, due)
    }

    #[test]
    fn a_wall_clock_that_went_back_leaves_a_wait_as_long_as_it_was() {
        let (fake, clock, dues, workflow, due) = noted();
        fake.set(START.saturating_sub(HOUR));
        assert_eq!(dues.of(&workflow, due.date, &clock).left(&clock), HOUR);
        assert_eq!(dues.overdue(&clock), []);
        fake.advance(HOUR);
        assert_eq!(dues.overdue(&clock), std::slice::from_ref(&workflow));
        assert_eq!(dues.overdue(&clock), [], "each once");
        assert_eq!(dues.of(&workflow, due.date, &clock).left(&clock), Duration::ZERO);
    }

    #[test]
    fn a_wait_whose_date_has_come_is_over() {
        let (fake, clock, dues, workflow, due) = noted();
        fake.set(due.date);
        assert_eq!(dues.of(&workflow, due.date, &clock).left(&clock), Duration::ZERO);
        fake.advance(HOUR);
        assert_eq!(dues.overdue(&clock), [], "the date wakes it");
        assert!(lock(&dues.0).of.is_empty());
    }

    #[test]
    fn another_date_of_the_same_workflow_is_not_the_noted_one() {
        let (_, clock, dues, workflow, due) = noted();
        let other = due.date.checked_add(HOUR).unwrap();
        assert_eq!(dues.of(&workflow, other, &clock).left(&clock), 2 * HOUR);
    }

    #[test]
    fn what_would_take_too_much_memory_goes_by_the_date() {
        let (_, clock, dues, ..) = noted();
        for n in 0..DUE_NOTES_MAX + 10 {
            dues.note(&WorkflowId::new(format!("w{n}")).unwrap(), vec![Due::after(&clock, HOUR).unwrap()]);
        }
        let notes = lock(&dues.0);
        assert_eq!((notes.of.len(), notes.asleep.len()), (DUE_NOTES_MAX, DUE_NOTES_MAX));
    }
}
