//! Blocking calls of tasks: a few threads make the calls, and the tasks wait for the results.
//!
//! Does not know: SQL, workflows.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Poll, Waker};
use std::thread;

use crate::pure::limits::{ERRANDS_MAX, WORKER_KEEP_ALIVE};
use crate::pure::sync::{contained, lock, wait_for, wake};

type Errand = Box<dyn FnOnce() + Send>;

/// The threads, and the calls that wait for a thread.
#[derive(Default)]
pub(crate) struct Errands(Arc<Pool>);

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Errand>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// The result of a call, and the waker of the task that waits for it.
struct Answer<T> {
    given: Option<thread::Result<T>>,
    waiter: Option<Waker>,
}

impl Errands {
    /// Makes the call on one of the threads. The call is made also when its task waits no longer.
    pub(crate) fn run<T, C>(&self, call: C) -> impl Future<Output = T> + Send + use<T, C>
    where
        T: Send + 'static,
        C: FnOnce() -> T + Send + 'static,
    {
        let answer = Arc::new(Mutex::new(Answer { given: None, waiter: None }));
        let answering = answer.clone();
        self.0.hand_over(Box::new(move || {
            let given = catch_unwind(AssertUnwindSafe(call));
            let mut answer = lock(&answering);
            answer.given = Some(given);
            let waiter = answer.waiter.take();
            drop(answer);
            waiter.into_iter().for_each(wake);
        }));
        poll_fn(move |context| {
            let mut answer = lock(&answer);
            match answer.given.take() {
                Some(Ok(given)) => Poll::Ready(given),
                // The call panicked, by a fault of the engine. The panic goes on in the task, which catches it.
                Some(Err(payload)) => resume_unwind(payload),
                None => {
                    answer.waiter = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// Lets the threads end when they have no more calls to make.
    pub(crate) fn close(&self) {
        lock(&self.0.state).closed = true;
        self.0.filled.notify_all();
    }
}

impl Pool {
    fn hand_over(self: &Arc<Self>, errand: Errand) {
        let mut state = lock(&self.state);
        state.waiting.push_back(errand);
        if state.idle >= state.waiting.len() || state.threads >= ERRANDS_MAX {
            drop(state);
            self.filled.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let pool = self.clone();
        let spawned = thread::Builder::new().name("piton-errand".to_owned()).spawn(move || pool.work());
        if spawned.is_err() {
            let mut state = lock(&self.state);
            state.threads -= 1;
            // Without any thread the call is made here: late is better than never.
            if state.threads == 0 {
                let waiting = std::mem::take(&mut state.waiting);
                drop(state);
                waiting.into_iter().for_each(contained);
            }
        }
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(errand) = state.waiting.pop_front() {
                drop(state);
                contained(errand);
                state = lock(&self.state);
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            state = wait_for(&self.filled, state, WORKER_KEEP_ALIVE);
            state.idle -= 1;
            if state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}
