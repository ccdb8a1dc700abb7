//! What the open operations of one run wait for: the workflow leaves when each of them waits and may leave.
//!
//! Does not know: how anything is waited for, SQL.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::pure::due::Due;
use crate::pure::limits::WAITS_MARKED_MAX;
use crate::pure::sync::{Signal, lock};
use crate::sysdb::write::{Awaited, Wake};

/// The waits of one run.
#[derive(Default)]
pub(crate) struct Waits(Mutex<State>);

#[derive(Default)]
struct State {
    /// Operations that have begun and not ended. A plain function that has only one does not count it.
    open: usize,
    /// What those of them that may leave wait for.
    leaving: BTreeMap<u64, Wait>,
    last: u64,
    /// A suspension is being committed.
    is_leaving: bool,
    refused: u64,
    left_with: Vec<Wait>,
}

/// What one operation waits for.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    pub(crate) awaited: Option<Awaited>,
    /// When it ends at the latest.
    pub(crate) due: Option<Due>,
    /// It is a branch of a race.
    pub(crate) any: bool,
}

/// An operation that may leave, for as long as this exists.
pub(crate) struct Leaving<'w> {
    waits: &'w Waits,
    key: u64,
}

/// A suspension, until it is made, is refused, or is not wanted any more. Then the signal is raised: other operations
/// wait yet.
pub(crate) struct Departure<'w> {
    of: &'w Waits,
    signal: &'w Signal,
    pub(crate) waits: Vec<Wait>,
}

impl Waits {
    pub(crate) fn opened(&self, operations: usize) {
        lock(&self.0).open += operations;
    }

    /// Gives whether all others may leave now.
    pub(crate) fn closed(&self) -> bool {
        let mut state = lock(&self.0);
        state.open -= 1;
        state.open > 0 && state.leaving.len() >= state.open
    }

    /// An operation waits, and needs no memory for that.
    pub(crate) fn may_leave(&self, wait: Wait) -> Leaving<'_> {
        let mut state = lock(&self.0);
        state.last += 1;
        let key = state.last;
        state.leaving.insert(key, wait);
        Leaving { waits: self, key }
    }

    /// All that the workflow waits for, if it may leave. Nobody else is given it meanwhile.
    pub(crate) fn all_leave<'w>(&'w self, signal: &'w Signal) -> Option<Departure<'w>> {
        let mut state = lock(&self.0);
        let waits = state.leaving.len();
        if state.is_leaving || waits < state.open.max(1) || waits > WAITS_MARKED_MAX {
            return None;
        }
        state.is_leaving = true;
        Some(Departure { of: self, signal, waits: state.leaving.values().cloned().collect() })
    }

    /// Whether a suspension is being committed.
    pub(crate) fn is_leaving(&self) -> bool {
        lock(&self.0).is_leaving
    }

    /// The waits with which the workflow has left.
    pub(crate) fn left_with(&self) -> Vec<Wait> {
        std::mem::take(&mut lock(&self.0).left_with)
    }

    /// How many suspensions were refused. After each, every operation looks again.
    pub(crate) fn refused(&self) -> u64 {
        lock(&self.0).refused
    }
}

impl Departure<'_> {
    /// The suspension was refused: something that is awaited is there. Each operation has to look before the next one.
    pub(crate) fn was_refused(self) {
        let mut state = lock(&self.of.0);
        state.refused += 1;
        state.leaving.clear();
    }

    /// The workflow has left with these waits.
    pub(crate) fn was_made(&mut self) {
        lock(&self.of.0).left_with = std::mem::take(&mut self.waits);
    }
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        lock(&self.of.0).is_leaving = false;
        self.signal.raise();
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        lock(&self.waits.0).leaving.remove(&self.key);
    }
}

/// When a workflow with these waits is to wake up.
pub(crate) fn first_of(waits: &[Wait]) -> Wake {
    Wake {
        at: waits.iter().filter_map(|wait| wait.due).map(|due| due.date).min(),
        awaited: waits.iter().filter_map(|wait| wait.awaited.clone()).collect(),
        any: waits.iter().any(|wait| wait.any),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::id::WorkflowId;

    fn wait() -> Wait {
        let awaited = Some(Awaited::Settled(WorkflowId::stored("w".to_owned())));
        Wait { awaited, due: None, any: false }
    }

    #[test]
    fn the_only_operation_of_a_plain_function_leaves_alone() {
        let (waits, signal) = (Waits::default(), Signal::default());
        assert!(waits.all_leave(&signal).is_none(), "nothing waits");
        let _leaving = waits.may_leave(wait());
        let departure = waits.all_leave(&signal).unwrap();
        assert_eq!(departure.waits.len(), 1);
        assert!(waits.all_leave(&signal).is_none(), "one suspension at a time");
        drop(departure);
        assert!(waits.all_leave(&signal).is_some(), "the other one was not wanted any more");
    }

    #[test]
    fn a_workflow_leaves_when_all_its_open_operations_wait() {
        let (waits, signal) = (Waits::default(), Signal::default());
        waits.opened(3);
        let first = waits.may_leave(wait());
        let _second = waits.may_leave(wait());
        assert!(waits.all_leave(&signal).is_none(), "the third one runs");
        drop(first);
        assert!(!waits.closed(), "the first one has something to do");
        let _first = waits.may_leave(wait());
        assert_eq!(waits.all_leave(&signal).map(|all| all.waits.len()), Some(2));
    }

    #[test]
    fn the_end_of_the_last_one_that_runs_is_told() {
        let waits = Waits::default();
        waits.opened(2);
        let _leaving = waits.may_leave(wait());
        assert!(waits.closed());
        assert!(!waits.closed(), "there is none left");
    }

    #[test]
    fn after_a_refused_suspension_there_may_be_another() {
        let (waits, signal) = (Waits::default(), Signal::default());
        let _leaving = waits.may_leave(wait());
        let before = waits.refused();
        waits.all_leave(&signal).unwrap().was_refused();
        assert_ne!(waits.refused(), before);
        assert!(waits.all_leave(&signal).is_none(), "it has not looked yet");
        let _looked = waits.may_leave(wait());
        assert!(waits.all_leave(&signal).is_some());
    }

    #[test]
    fn more_waits_than_can_be_marked_stay_in_memory() {
        let (waits, signal) = (Waits::default(), Signal::default());
        waits.opened(WAITS_MARKED_MAX + 1);
        let mut leaving: Vec<_> = (0..=WAITS_MARKED_MAX).map(|_| waits.may_leave(wait())).collect();
        assert!(waits.all_leave(&signal).is_none());
        leaving.pop();
        waits.closed();
        assert!(waits.all_leave(&signal).is_some());
    }
}
