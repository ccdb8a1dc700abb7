//! A gate where workflows are held while the test acts on them.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use engine::{BoxError, StepInfo};

/// How often a held body looks whether it was told to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The workflows that were released, by id.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<HashSet<String>>, Condvar)>);

impl Gate {
    pub(crate) fn release(&self, workflow: &str) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).insert(workflow.to_owned());
        self.0.1.notify_all();
    }

    /// The body of a step that says it has begun. It ends when its workflow is released or told to stop.
    pub(crate) fn hold(&self, step: &StepInfo) -> Result<(), BoxError> {
        let id = step.workflow_id().as_str();
        println!("held {id} {}", step.step_id());
        let mut released = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !released.contains(id) {
            if step.cancelled() {
                println!("stopped {id} {}", step.step_id());
                return Err("told to stop".into());
            }
            let waited = self.0.1.wait_timeout(released, LOOK_EVERY);
            released = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}
