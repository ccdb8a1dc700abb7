//! Calls for operators: look at workflows, cancel them, let them go on.

use serde::de::DeserializeOwned;

use crate::api::engine::Engine;
use crate::api::handle::Handle;
use crate::fleet::stranded;
use crate::flow::core::tell_to_stop;
use crate::pure::error::{Error, Result, Stop};
use crate::pure::id::{OwnerToken, WorkflowId};
use crate::pure::listing::{Progress, StepRecord, Stranded, WorkflowFilter, WorkflowInfo};
use crate::pure::status::WorkflowStatus;
use crate::sysdb::write::{BEFORE_FIRST_STEP, Refusal};
use crate::sysdb::{Verdict, Write};

impl Engine {
    /// A handle to a workflow that was started before, in this process or in another.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such workflow, [`Error::InvalidName`], [`Error::Database`].
    pub fn retrieve<O: DeserializeOwned>(&self, id: &str) -> Result<Handle<O>> {
        let id = WorkflowId::new(id)?;
        let handle = Handle::new(self.core(), id).attached();
        handle.status()?;
        Ok(handle)
    }

    /// Lists the workflows that match the filter, with inputs and outcomes.
    ///
    /// The list includes rows that another program left half readable. [`WorkflowInfo::unreadable`] says what is wrong
    /// with such a row, and the log says so once.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn list(&self, filter: &WorkflowFilter) -> Result<Vec<WorkflowInfo>> {
        let core = self.core();
        core.enter("Engine::list")?;
        let found = core.reader.list(&core.options.app, filter)?;
        for info in found.iter().filter(|info| !info.unreadable.is_empty()) {
            core.outage.names_row(&info.id, &info.unreadable.join(", "));
        }
        Ok(found)
    }

    /// Counts the workflows that match the filter. The filter's limit and offset are ignored.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn count(&self, filter: &WorkflowFilter) -> Result<u64> {
        self.core().enter("Engine::count")?;
        Ok(self.core().reader.count(&self.core().options.app, filter)?)
    }

    /// Lists the recorded steps of a workflow, in the order of their ids. An unknown id has no steps.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn steps(&self, id: &WorkflowId) -> Result<Vec<StepRecord>> {
        self.core().enter("Engine::steps")?;
        let all = u32::MAX >> 1;
        let rows = self.core().reader.steps(id, BEFORE_FIRST_STEP, all)?;
        Ok(rows.into_iter().map(StepRecord::from).collect())
    }

    /// The open workflows of this database that no living executor can take up. They are grouped by the part that is
    /// missing: their application, its version, their queue, or their name. Empty when there are none.
    ///
    /// The log says the same at the launch of an engine, and within some ten seconds of a change.
    ///
    /// | workflows | judged |
    /// |---|---|
    /// | of this application, `ENQUEUED` or `DELAYED` | yes |
    /// | of another application | after 30 s, because its program may be about to start |
    /// | of an application of which a program in another language runs anything | no: its executors are not seen here |
    ///
    /// The call reads all waiting workflows, so do not make it in a loop. The engine need not be launched.
    ///
    /// # Errors
    /// [`Error::Database`], also when it is not known which executors live.
    ///
    /// # Example
    /// ```
    /// # use engine::{Absent, Context, Engine, Error, Queue, Result};
    /// # fn main() -> Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let file = dir.path().join("shop.db");
    /// let open = |version: &str| Engine::options().app("shop").version(version).open_file(&file);
    /// let old = open("1")?;
    /// let order = old.register("order", |_: &mut Context, n: u32| Ok::<_, Error>(n))?;
    /// order.enqueue(&old, &Queue::named("orders"), 1)?;
    /// drop(old);
    ///
    /// let new = open("2")?;
    /// new.launch()?;
    /// let stranded = new.waiting_for_nobody()?;
    /// assert_eq!((stranded[0].absent, stranded[0].count), (Absent::Version, 1));
    /// assert!(stranded[0].to_string().starts_with("1 open workflow of version 1 of application shop: no living"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn waiting_for_nobody(&self) -> Result<Vec<Stranded>> {
        stranded::look(self.core())
    }

    /// How far a workflow has come: its status and its number of recorded steps.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such workflow, [`Error::Database`].
    pub fn progress(&self, id: &WorkflowId) -> Result<Progress> {
        self.core().enter("Engine::progress")?;
        let progress = self.core().reader.progress(id)?;
        progress.ok_or_else(|| Error::NotFound { workflow: id.clone() })
    }

    /// Cancels a workflow of any status, and returns the status after that. It is `CANCELLED`, or the status
    /// with which the workflow ended first. A running step ends, but nothing more is recorded.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such workflow, [`Error::ShuttingDown`], [`Error::Database`].
    pub fn cancel(&self, id: &WorkflowId) -> Result<WorkflowStatus> {
        self.cancel_some(id, false)
    }

    /// Cancels a workflow and all workflows below it: its children, their children, and so on.
    ///
    /// # Errors
    /// As [`Engine::cancel`].
    pub fn cancel_with_children(&self, id: &WorkflowId) -> Result<WorkflowStatus> {
        self.cancel_some(id, true)
    }

    fn cancel_some(&self, id: &WorkflowId, children: bool) -> Result<WorkflowStatus> {
        let core = self.core();
        let write = Write::Cancel { workflow: id.clone(), children, at: core.options.clock.now() };
        // The runs of this moment: a run that is claimed after another caller's resume must not be stopped.
        let running = core.runs.all();
        match core.commit_from_outside(write)? {
            Verdict::Changed(cancelled) => {
                tell_to_stop(&running, &cancelled, &Stop::Cancelled);
                Ok(WorkflowStatus::Cancelled)
            }
            verdict => stands(id, &verdict),
        }
    }

    /// Lets a workflow go on from its last recorded step, with its attempts counted anew. Returns the status after
    /// that: `ENQUEUED`, or `SUCCESS` when there is nothing left to do.
    ///
    /// | workflow | resume |
    /// |---|---|
    /// | cancelled or parked | goes on |
    /// | ended because the program did not fit it: name not registered, steps changed, values not decodable | goes on |
    /// | `PENDING` | is taken from its executor and goes on |
    /// | ended with an error of the work itself | [`Error::Final`]: its records would lead to the same error again |
    /// | ended with success | returns `SUCCESS` |
    ///
    /// After [`Error::Final`] start a run under another id.
    ///
    /// # Errors
    /// [`Error::Final`], [`Error::NotFound`] when there is no such workflow, [`Error::ShuttingDown`],
    /// [`Error::Database`].
    pub fn resume(&self, id: &WorkflowId) -> Result<WorkflowStatus> {
        let core = self.core();
        let (workflow, token) = (id.clone(), OwnerToken::generate());
        let write = Write::Resume { workflow, token, at: core.options.clock.now() };
        // The runs of this moment: the resumed workflow may be claimed here before this thread goes on.
        let running = core.runs.all();
        match core.commit_from_outside(write)? {
            Verdict::Changed(resumed) => {
                tell_to_stop(&running, &resumed, &Stop::NotOwner);
                core.hub.resumed(id);
                Ok(WorkflowStatus::Enqueued)
            }
            Verdict::Refused(Refusal::Stands(WorkflowStatus::Error)) => {
                let outcome = core.reader.outcome(id)?;
                let outcome = outcome.ok_or_else(|| Error::NotFound { workflow: id.clone() })?;
                Err(Error::Final { workflow: id.clone(), failure: outcome.failure().of_the_work() })
            }
            verdict => stands(id, &verdict),
        }
    }
}

fn stands(id: &WorkflowId, verdict: &Verdict) -> Result<WorkflowStatus> {
    match verdict {
        Verdict::Refused(Refusal::Stands(status)) => Ok(*status),
        _ => Err(Error::NotFound { workflow: id.clone() }),
    }
}
