//! Wakes tasks at a time of the engine's clock.
//!
//! Does not know: workflows, SQL.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use crate::pure::clock::{Clock, Timestamp};
use crate::pure::sync::{Signal, lock, wake};

/// The times for which tasks wait, on the steady clock.
pub(crate) struct Timer {
    clock: Clock,
    state: Mutex<State>,
    /// Raised when the first of the times has changed.
    changed: Signal,
}

#[derive(Default)]
struct State {
    alarms: BTreeMap<(Timestamp, u64), Waker>,
    numbers: u64,
    closed: bool,
}

/// One wait of a task. Its entry in the timer is removed when it is dropped.
pub(crate) struct Alarm<'t> {
    timer: &'t Timer,
    deadline: Timestamp,
    number: Option<u64>,
}

impl Timer {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self { clock: clock.steady(), state: Mutex::default(), changed: Signal::default() }
    }

    /// Waits until the signal was raised since `seen`, or the time has come.
    pub(crate) async fn raised_past(&self, signal: &Signal, seen: u64, deadline: Option<Timestamp>) {
        let mut alarm = deadline.map(|deadline| self.at(deadline));
        poll_fn(|context| {
            let is_raised = signal.poll_past(seen, context.waker());
            match &mut alarm {
                _ if is_raised => Poll::Ready(()),
                Some(alarm) => alarm.poll(context),
                None => Poll::Pending,
            }
        })
        .await;
    }

    pub(crate) fn at(&self, deadline: Timestamp) -> Alarm<'_> {
        Alarm { timer: self, deadline, number: None }
    }

    /// The body of the timer's thread, until it closes.
    pub(crate) fn serve(&self) {
        loop {
            let seen = self.changed.now();
            let (due, next, closed) = self.take_due();
            due.into_iter().for_each(wake);
            if closed {
                return;
            }
            self.changed.wait_past(seen, &self.clock, next);
        }
    }

    /// The wakers whose time has come (at the end all of them), and the next time.
    fn take_due(&self) -> (Vec<Waker>, Option<Timestamp>, bool) {
        let mut state = lock(&self.state);
        let mut due = Vec::new();
        while let Some(first) = state.alarms.first_entry()
            && self.clock.now() >= first.key().0
        {
            due.push(first.remove());
        }
        if state.closed {
            due.extend(std::mem::take(&mut state.alarms).into_values());
        }
        (due, state.alarms.first_key_value().map(|((time, _), _)| *time), state.closed)
    }

    /// Makes each time count as come: waiting tasks are to see that the engine has stopped.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.raise();
    }
}

impl Alarm<'_> {
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.timer.clock.now() >= self.deadline {
            return Poll::Ready(());
        }
        let mut state = lock(&self.timer.state);
        if state.closed {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            state.numbers += 1;
            state.numbers
        });
        let key = (self.deadline, number);
        let is_first = state.alarms.first_key_value().is_none_or(|(first, _)| key < *first);
        state.alarms.insert(key, context.waker().clone());
        drop(state);
        if is_first {
            self.timer.changed.raise();
        }
        Poll::Pending
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.timer.state).alarms.remove(&(self.deadline, number));
        }
    }
}
