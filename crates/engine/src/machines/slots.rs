//! Slots: the right to run, counted, up to a limit.
//!
//! A workflow that waits lends its slot, so a parent that waits for a child cannot keep the child from running.
//!
//! Does not know: threads, workflows.

use std::sync::atomic::{AtomicUsize, Ordering};
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

/// The right to run one workflow; given back when dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    /// How many waits of its holder lend it. They change under the lock of the count.
    waits: AtomicUsize,
}

/// A slot that others may have meanwhile; its holder takes it again when its last wait is dropped.
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
        (0..free).map(|_| self.taken()).collect()
    }

    fn taken(self: &Arc<Self>) -> Slot {
        Slot { slots: self.clone(), waits: AtomicUsize::new(0) }
    }

    pub(crate) fn many_are_free(&self) -> bool {
        let count = lock(&self.count);
        let free = count.max.saturating_sub(count.taken);
        free * 4 >= count.max
    }

    /// One more than the limit allows, if it must be: for what runs in the place of a holder that waits.
    #[cfg(feature = "tokio")]
    pub(crate) fn one_more(self: &Arc<Self>) -> Slot {
        lock(&self.count).taken += 1;
        self.taken()
    }

    /// From now on none is free.
    #[cfg(feature = "tokio")]
    pub(crate) fn close(&self) {
        lock(&self.count).max = 0;
    }
}

impl Slot {
    /// Lends the slot for the time of a wait. It is taken again afterwards even if there is none left by then: whoever
    /// was woken goes on. Several waits of one workflow lend its slot once.
    pub(crate) fn lend(&self) -> Lent<'_> {
        let mut count = lock(&self.slots.count);
        if self.waits.fetch_add(1, Ordering::Relaxed) == 0 {
            count.taken -= 1;
        }
        Lent(self)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut count = lock(&self.0.slots.count);
        if self.0.waits.fetch_sub(1, Ordering::Relaxed) == 1 {
            count.taken += 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.count).taken -= 1;
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
    fn a_slot_is_lent_once_however_many_waits_its_holder_has() {
        let slots = Slots::new(1);
        let slot = slots.try_one().unwrap();
        let (first, second) = (slot.lend(), slot.lend());
        assert_eq!(lock(&slots.count).taken, 0);
        drop(first);
        let other = slots.try_one();
        assert!(other.is_some(), "it still waits");
        drop(second);
        assert_eq!(lock(&slots.count).taken, 2, "whoever was woken goes on");
        drop((other, slot));
        assert_eq!(lock(&slots.count).taken, 0);
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
}
