//! Threads for plain workflows: one thread each, reused. A workflow that waits lends its slot and keeps its thread.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::machines::slots::{Slot, Slots};
use crate::pure::clock::Stopwatch;
use crate::pure::limits::WORKER_KEEP_ALIVE;
use crate::pure::sync::{contained, lock, wait, wait_for};

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Workers {
    pub(crate) slots: Arc<Slots>,
    pool: Arc<Pool>,
    stack_bytes: usize,
}

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    /// Raised when a thread ends.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    threads: usize,
    /// Threads without a job, the last to become idle on top: it is the warmest.
    idle: Vec<Arc<Mailbox>>,
    closed: bool,
}

/// The place where an idle thread gets its next job.
#[derive(Default)]
struct Mailbox {
    job: Mutex<Option<Job>>,
    filled: Condvar,
}

thread_local! {
    /// The slot of the workflow that runs on this thread, or whose task is polled on it.
    static HELD: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

/// The slot of the workflow whose code runs on this thread, for a wait that outlasts a poll.
#[cfg(feature = "tokio")]
pub(crate) fn held() -> Option<Arc<Slot>> {
    HELD.with_borrow(Clone::clone)
}

/// Whether a workflow runs on this thread.
pub(crate) fn is_worker() -> bool {
    HELD.with_borrow(Option::is_some)
}

/// Waits. If a workflow runs on this thread, its slot is lent meanwhile, so that the awaited workflow can run.
pub(crate) fn lending_the_slot<T>(wait: impl FnOnce() -> T) -> T {
    match HELD.with_borrow(Clone::clone) {
        Some(slot) => {
            let _lent = slot.lend();
            wait()
        }
        None => wait(),
    }
}

/// Runs a workflow in this slot, on this thread.
pub(crate) fn holding<T>(slot: &Arc<Slot>, work: impl FnOnce() -> T) -> T {
    let _returns = Returns(HELD.replace(Some(slot.clone())));
    work()
}

impl Workers {
    pub(crate) fn new(slots_max: usize, stack_bytes: usize) -> Self {
        Self { slots: Slots::new(slots_max), pool: Arc::default(), stack_bytes }
    }

    /// Runs the job on a thread of its own. The job is not run when the system has no thread left; that error is
    /// returned. It is not run after the close, which needs no error.
    pub(crate) fn run(&self, job: Job) -> Result<(), Option<io::Error>> {
        let mut state = lock(&self.pool.state);
        if state.closed {
            return Err(None);
        }
        if let Some(idle) = state.idle.pop() {
            drop(state);
            *lock(&idle.job) = Some(job);
            idle.filled.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let pool = self.pool.clone();
        let builder = thread::Builder::new().name("piton-worker".to_owned()).stack_size(self.stack_bytes);
        let spawned = builder.spawn(move || pool.work(job));
        spawned.map(|_| ()).map_err(|error| {
            lock(&self.pool.state).threads -= 1;
            Some(error)
        })
    }

    /// Lets idle threads end, and busy threads after their job. Returns whether all had ended when `patience` was over.
    pub(crate) fn close(&self, patience: Duration) -> bool {
        let idle = {
            let mut state = lock(&self.pool.state);
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        for mailbox in idle {
            *lock(&mailbox.job) = Some(Box::new(|| {}));
            mailbox.filled.notify_one();
        }
        let watch = Stopwatch::start();
        let mut state = lock(&self.pool.state);
        while state.threads > 0 {
            let Some(left) = patience.checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) else {
                return false;
            };
            state = wait_for(&self.pool.ended, state, left);
        }
        true
    }
}

impl Pool {
    /// The life of a thread: jobs, until there has been none for a while.
    fn work(self: Arc<Self>, mut job: Job) {
        let mailbox = Arc::new(Mailbox::default());
        loop {
            // A job catches the panics of user code itself; this is the last net.
            contained(job);
            {
                let mut state = lock(&self.state);
                if state.closed {
                    break;
                }
                state.idle.push(mailbox.clone());
            }
            match self.next_job(&mailbox) {
                Some(next) => job = next,
                None => break,
            }
        }
        lock(&self.state).threads -= 1;
        self.ended.notify_all();
    }

    fn next_job(&self, mailbox: &Arc<Mailbox>) -> Option<Job> {
        let mut job = lock(&mailbox.job);
        if job.is_none() {
            job = wait_for(&mailbox.filled, job, WORKER_KEEP_ALIVE);
        }
        if job.is_some() {
            return job.take();
        }
        drop(job);
        let mut state = lock(&self.state);
        let before = state.idle.len();
        state.idle.retain(|idle| !Arc::ptr_eq(idle, mailbox));
        if state.idle.len() < before {
            return None;
        }
        // The thread was taken from the stack in the last moment: its job is on its way.
        drop(state);
        let mut job = lock(&mailbox.job);
        while job.is_none() {
            job = wait(&mailbox.filled, job);
        }
        job.take()
    }
}

/// Returns the slot, also after a panic: the thread is used again.
struct Returns(Option<Arc<Slot>>);

impl Drop for Returns {
    fn drop(&mut self) {
        HELD.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_is_used_again() {
        let workers = Workers::new(1, 64 * 1024);
        let (sender, receiver) = mpsc::channel();
        for _ in 0..50 {
            let sender = sender.clone();
            let job = Box::new(move || sender.send(thread::current().id()).unwrap());
            assert!(workers.run(job).is_ok());
            receiver.recv().unwrap();
            // The thread becomes idle just after it has sent.
            while lock(&workers.pool.state).idle.is_empty() {
                thread::yield_now();
            }
        }
        assert_eq!(lock(&workers.pool.state).threads, 1);
    }

    #[test]
    fn closing_ends_the_idle_threads() {
        let workers = Workers::new(4, 64 * 1024);
        for _ in 0..4 {
            assert!(workers.run(Box::new(|| {})).is_ok());
        }
        assert!(workers.close(Duration::from_secs(60)));
    }
}
