//! Starting a workflow from outside: one commit, then it runs.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::committer::Caller;
use crate::core::Run;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::id::{OwnerToken, WorkflowId, check_name};
use crate::registry::Workflow;
use crate::sync::say;
use crate::sysdb::write::{NewWorkflow, Refusal};
use crate::sysdb::{Owner, Verdict, Write};
use crate::workflow::{self, Assignment};
use crate::{codec, inside};

impl<I, O> Workflow<I, O>
where
    I: Serialize + DeserializeOwned,
    O: DeserializeOwned,
{
    /// Starts a run under a new id. When this returns, the run is recorded: it ends, whatever happens to this
    /// process. One commit.
    ///
    /// # Errors
    /// [`Error::NotLaunched`], [`Error::NotRegistered`], [`Error::Unencodable`] for an input that cannot be
    /// recorded, [`Error::ShuttingDown`], [`Error::Database`].
    pub fn start(&self, engine: &Engine, input: I) -> Result<Handle<O>> {
        self.start_with_id(engine, &WorkflowId::generate(), input)
    }

    /// Starts the run of this id, or attaches to it if it is there already: then its first input stands. So a
    /// caller may repeat a start whose answer it did not get.
    ///
    /// # Errors
    /// As [`Workflow::start`], [`Error::InvalidName`], and [`Error::IdInUse`] when the id belongs to a run of
    /// another workflow.
    pub fn start_as(&self, engine: &Engine, id: &str, input: I) -> Result<Handle<O>> {
        self.start_with_id(engine, &WorkflowId::new(id)?, input)
    }

    fn start_with_id(&self, engine: &Engine, id: &WorkflowId, input: I) -> Result<Handle<O>> {
        let core = engine.core();
        inside::refuse()?;
        check_name("workflow name", self.name())?;
        core.registry.get(self.name())?;
        let identity = core.identity()?.clone();
        let input = codec::encode_input(self.name(), input)?;
        let _under_way = core.starts.enter();
        if core.is_stopping() {
            return Err(Error::ShuttingDown);
        }
        let handle = Handle::new(core, id.clone());
        let slot = core.workers.try_slot();
        let owner = Owner { workflow: id.clone(), token: OwnerToken::generate() };
        let new = NewWorkflow {
            id: id.clone(),
            name: self.shared_name(),
            input: input.clone(),
            parent: None,
            identity,
            token: owner.token.clone(),
            claimed: slot.is_some(),
            at: core.options.clock.now(),
        };
        let assignment = Assignment::fresh(Run::new(owner), self.shared_name(), input);
        core.runs.enter(&assignment.run);
        let verdict = core.commit_from_outside(Write::StartWorkflow(new));
        match (verdict, slot) {
            (Ok(Verdict::Done), Some(slot)) => {
                workflow::dispatch(core, assignment, slot, Caller::Outside);
                Ok(handle)
            }
            (Ok(Verdict::Done), None) => {
                core.runs.leave(&assignment.run);
                core.expect_backlog();
                Ok(handle)
            }
            (verdict, _) => {
                core.runs.leave(&assignment.run);
                self.attach(handle, verdict?)
            }
        }
    }

    /// The id was taken before.
    fn attach(&self, handle: Handle<O>, verdict: Verdict) -> Result<Handle<O>> {
        match verdict {
            Verdict::AlreadyThere(existing) => {
                if !existing.same_input {
                    say!(
                        warn,
                        "workflow {} was started before with another input; the first one stands",
                        handle.id()
                    );
                }
                Ok(handle.attached())
            }
            Verdict::Refused(Refusal::OtherWorkflow { name }) => Err(Error::IdInUse {
                workflow: handle.id().clone(),
                recorded: name,
                asked: self.name().to_owned(),
            }),
            _ => Err(Error::NotFound { workflow: handle.id().clone() }),
        }
    }
}
