//! A guest's code that runs while the engine waits for it, and the calls that it must not make.

use std::cell::Cell;

use crate::pure::error::{Error, Result};

thread_local! {
    static INSIDE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Marks this thread for as long as the guest's code runs.
pub(crate) struct Inside(Option<&'static str>);

impl Inside {
    /// Enters the guest's code. Its forbidden calls get an error that names `callback`.
    pub(crate) fn enter(callback: &'static str) -> Self {
        Self(INSIDE.replace(Some(callback)))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

#[cfg(feature = "tokio")]
thread_local! {
    /// Whether the body of an async workflow is polled on this thread, outside of its steps.
    static IN_A_WORKFLOW: Cell<bool> = const { Cell::new(false) };
}

/// Polls code of an async workflow, in one of its steps or outside of them.
#[cfg(feature = "tokio")]
pub(crate) fn polling<T>(outside_of_steps: bool, poll: impl FnOnce() -> T) -> T {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            IN_A_WORKFLOW.set(self.0);
        }
    }
    let _restored = Restored(IN_A_WORKFLOW.replace(outside_of_steps));
    poll()
}

#[cfg(feature = "tokio")]
pub(crate) fn is_in_a_workflow() -> bool {
    IN_A_WORKFLOW.get()
}

/// Refuses a call that would wait for itself.
pub(crate) fn refuse() -> Result<()> {
    INSIDE.get().map_or(Ok(()), |callback| Err(Error::InsideCallback { callback }))
}
