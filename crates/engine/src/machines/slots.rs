//! Slots: the right to run, counted, up to a limit.
//!
//! A workflow that waits lends its slot, so a parent that waits for a child cannot keep the child from running.
//!
//! Does not know: threads, workflows.

use std::sync::{Arc, Mutex};

use crate::pure::sync::lock;

/// The slots of one kind of workflows.
pub(crate) struct Slots {
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    taken: usize,
    max: usize,
}

/// The right to run one workflow. It is given back when dropped, or before, by [`Slot::give_back`].
pub(crate) struct Slot {
    of: Arc<Slots>,
    holder: Mutex<Holder>,
}

/// The state of a slot's holder.
#[derive(Debug, Default)]
struct Holder {
    /// The number of waits that the holder is in: operations of an async workflow wait at once.
    waits: usize,
    has_ended: bool,
}

/// A slot that other workflows may have meanwhile. Its holder takes it again when the last of these is dropped.
pub(crate) struct Lent<'s>(&'s Slot);

impl Slots {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { count: Mutex::new(Count { taken: 0, max }) })
    }

    /// A slot, if one is free.
    pub(crate) fn try_one(self: &Arc<Self>) -> Option<Slot> {
        self.take(1).pop()
    }

    /// As many slots as are free, at most `max`.
    pub(crate) fn take(self: &Arc<Self>, max: usize) -> Vec<Slot> {
        let mut count = lock(&self.count);
        let free = count.max.saturating_sub(count.taken).min(max);
        count.taken += free;
        (0..free).map(|_| Slot::of(self)).collect()
    }

    pub(crate) fn many_are_free(&self) -> bool {
        let count = lock(&self.count);
        let free = count.max.saturating_sub(count.taken);
        free * 4 >= count.max
    }

    /// A slot beyond the limit, if there is no free one: for a child that runs in the place of a waiting holder.
    #[cfg(feature = "tokio")]
    pub(crate) fn one_more(self: &Arc<Self>) -> Slot {
        lock(&self.count).taken += 1;
        Slot::of(self)
    }

    /// Makes every slot count as taken from now on.
    #[cfg(feature = "tokio")]
    pub(crate) fn close(&self) {
        lock(&self.count).max = 0;
    }
}

impl Slot {
    fn of(slots: &Arc<Slots>) -> Self {
        Self { of: slots.clone(), holder: Mutex::default() }
    }

    /// Lends the slot for the time of a wait. It is taken again afterwards even if no slot is free by then: a workflow
    /// that was woken goes on.
    pub(crate) fn lend(&self) -> Lent<'_> {
        let mut holder = lock(&self.holder);
        holder.waits += 1;
        if holder.waits == 1 && !holder.has_ended {
            lock(&self.of.count).taken -= 1;
        }
        Lent(self)
    }

    /// Gives the slot back, also while other parts still hold it: the workflow has ended.
    pub(crate) fn give_back(&self) {
        let mut holder = lock(&self.holder);
        if !std::mem::replace(&mut holder.has_ended, true) && holder.waits == 0 {
            lock(&self.of.count).taken -= 1;
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut holder = lock(&self.0.holder);
        holder.waits -= 1;
        if holder.waits == 0 && !holder.has_ended {
            lock(&self.0.of.count).taken += 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::sync::contained;

    #[test]
    fn slots_are_limited_and_come_back() {
        let slots = Slots::new(2);
        let taken = slots.take(5);
        assert_eq!(taken.len(), 2);
        assert!(slots.try_one().is_none());
        let lent = taken[0].lend();
        assert!(slots.try_one().is_some(), "one that waits lends its slot");
        drop(lent);
        assert!(slots.try_one().is_none());
        drop(taken);
        assert_eq!(slots.take(5).len(), 2);
    }

    #[test]
    fn a_slot_that_was_lent_is_given_back_once_after_a_panic() {
        let slots = Slots::new(2);
        let slot = slots.try_one().unwrap();
        contained(|| {
            let _lent = slot.lend();
            panic!("while it waits");
        });
        drop(slot);
        assert_eq!(lock(&slots.count).taken, 0);
    }

    #[test]
    fn a_slot_is_lent_once_however_many_waits_its_holder_is_in() {
        let slots = Slots::new(1);
        let slot = slots.try_one().unwrap();
        let (first, second) = (slot.lend(), slot.lend());
        assert_eq!(lock(&slots.count).taken, 0);
        drop(first);
        assert!(slots.try_one().is_some(), "it waits yet");
        drop(second);
        assert!(slots.try_one().is_none());
    }

    #[test]
    fn a_slot_is_given_back_once_whatever_its_holder_does() {
        let slots = Slots::new(1);
        let slot = slots.try_one().unwrap();
        let lent = slot.lend();
        slot.give_back();
        drop(lent);
        drop(slot.lend());
        drop(slot);
        assert_eq!(lock(&slots.count).taken, 0);
    }
}
