//! Code of a guest that runs where the engine waits for it: what it must not call there.

use std::cell::Cell;

use crate::pure::error::{Error, Result};

thread_local! {
    static INSIDE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Marks this thread for as long as the guest's code runs.
pub(crate) struct Inside(Option<&'static str>);

impl Inside {
    /// The guest is told as `callback` in the error that its call gets.
    pub(crate) fn enter(callback: &'static str) -> Self {
        Self(INSIDE.replace(Some(callback)))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

/// Refuses a call that would wait for itself.
pub(crate) fn refuse() -> Result<()> {
    INSIDE.get().map_or(Ok(()), |callback| Err(Error::InsideCallback { callback }))
}
