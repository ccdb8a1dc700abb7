//! Async workflows. Each is a task of the runtime in which the engine was launched, or of a runtime of the engine's
//! own.
//!
//! Does not know: workflows, SQL.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::machines::slots::Slots;
use crate::pure::clock::Stopwatch;
use crate::pure::sync::{lock, say, wait_for};

pub(crate) struct Tasks {
    pub(crate) slots: Arc<Slots>,
    runtime: Mutex<Option<Handle>>,
    /// The engine's own runtime, if the engine was launched outside of any.
    own: Mutex<Option<Runtime>>,
    running: Mutex<usize>,
    ended: Condvar,
    /// The time of a shutdown is over: bodies are dropped where they stand.
    hurry: AtomicBool,
    gone: AtomicBool,
}

impl Tasks {
    pub(crate) fn new(slots_max: usize) -> Self {
        Self {
            slots: Slots::new(slots_max),
            runtime: Mutex::default(),
            own: Mutex::default(),
            running: Mutex::default(),
            ended: Condvar::new(),
            hurry: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    /// Takes the runtime of the caller, if the caller is in one. The launch calls this.
    pub(crate) fn take_the_callers_runtime(&self) {
        if let Ok(handle) = Handle::try_current() {
            lock(&self.runtime).get_or_insert(handle);
        }
    }

    /// Makes a runtime, unless there is one.
    pub(crate) fn ensure_a_runtime(&self) -> io::Result<()> {
        self.take_the_callers_runtime();
        let mut runtime = lock(&self.runtime);
        if runtime.is_none() {
            let own = Builder::new_multi_thread().enable_all().thread_name("piton-task").build()?;
            *runtime = Some(own.handle().clone());
            *lock(&self.own) = Some(own);
        }
        Ok(())
    }

    /// Runs a task, which calls [`Tasks::one_ended`] at its end, also after a panic or a drop. Without a runtime the
    /// task is dropped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let runtime = lock(&self.runtime).clone();
        if let Some(runtime) = runtime {
            drop(runtime.spawn(task));
        }
    }

    pub(crate) fn one_began(&self) {
        *lock(&self.running) += 1;
    }

    pub(crate) fn one_ended(&self) {
        *lock(&self.running) -= 1;
        self.ended.notify_all();
    }

    /// Notes that a task was dropped before its end: its runtime has shut down. No more async workflows are taken up.
    pub(crate) fn lost_one(&self) {
        self.slots.close();
        if !self.gone.swap(true, Ordering::SeqCst) {
            say!(
                warn,
                "the async runtime in which the engine was launched has shut down: async workflows go on in another \
                 process, or after the next launch (said once)"
            );
        }
    }

    /// Whether bodies are to be dropped before their end.
    pub(crate) fn is_in_a_hurry(&self) -> bool {
        self.hurry.load(Ordering::SeqCst)
    }

    /// Whether all tasks had ended when `patience` was over.
    pub(crate) fn wait_until_all_ended(&self, patience: Duration) -> bool {
        let watch = Stopwatch::start();
        let mut running = lock(&self.running);
        while *running > 0 {
            let Some(left) = patience.checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) else {
                return false;
            };
            running = wait_for(&self.ended, running, left);
        }
        true
    }

    /// From now on bodies are dropped before their end.
    pub(crate) fn hurry(&self) {
        self.hurry.store(true, Ordering::SeqCst);
    }

    /// From now on no task begins. Running tasks go on.
    pub(crate) fn take_no_more(&self) {
        lock(&self.runtime).take();
    }

    /// Lets go of the runtime. The rest of a runtime of the engine's own ends by itself.
    pub(crate) fn close(&self) {
        self.take_no_more();
        let own = lock(&self.own).take();
        if let Some(own) = own {
            own.shutdown_background();
        }
    }
}
