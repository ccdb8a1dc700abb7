//! What became of workflows whose executor is gone: a loop in every live executor, not only at its launch.

use std::sync::Arc;

use crate::committer::Caller;
use crate::core::Core;
use crate::error::{Failure, NOT_REGISTERED, Result};
use crate::id::ExecutorId;
use crate::limits::REFUSED_RETRY_MIN;
use crate::observer::Event;
use crate::registry::listed;
use crate::sync::say;
use crate::sysdb::write::Attempt;
use crate::sysdb::{DbResult, Identity, Verdict, Write};
use crate::{codec, workflow};

/// Once at the launch, before the engine takes up work: also for those whose traces are gone, as in a database
/// that was restored from a backup.
pub(crate) fn at_launch(core: &Core, identity: &Identity) -> Result<()> {
    for executor in core.reader.busy_executors()? {
        if executor != identity.executor && !core.liveness.is_alive(&executor) {
            take_over(core, &executor, core.commit_from_outside(requeue(core, &executor))?);
        }
    }
    Ok(())
}

fn requeue(core: &Core, dead: &ExecutorId) -> Write {
    Write::Requeue { executor: dead.clone(), at: core.options.clock.now() }
}

/// Every now and then.
pub(crate) fn sweep(core: &Core) -> DbResult<()> {
    // One that is not launched runs nothing, and takes nothing over.
    let Ok(identity) = core.identity() else { return Ok(()) };
    if let Err(error) = core.liveness.uphold(&identity.executor) {
        say!(warn, "this executor cannot show the others that it lives: {error}");
    }
    for executor in core.liveness.dead() {
        // Failures are logged by the committer; the next sweep finds it again.
        if let Ok(verdict) = core.committer.commit(requeue(core, &executor), Caller::Engine) {
            take_over(core, &executor, verdict);
        }
    }
    release_the_lost(core, identity)?;
    refuse_the_unknown(core, identity)
}

/// The requeue was one conditional statement: a second one, here or in another process, finds nothing.
fn take_over(core: &Core, dead: &ExecutorId, requeued: Verdict) {
    let Verdict::Changed(workflows) = requeued else { return };
    core.liveness.forget(dead);
    if !workflows.is_empty() {
        say!(info, "executor {} died; {} workflows go on", dead.as_str(), workflows.len());
        core.options.observers.tell(|| Event::Recovered { workflows: workflows.len() });
    }
}

/// Workflows that are `PENDING` under this process and that it does not run: it could neither end them nor give
/// them back when the database failed.
fn release_the_lost(core: &Core, identity: &Identity) -> DbResult<()> {
    for owner in core.reader.owned_by(&identity.executor)? {
        if !core.runs.has(&owner.token) {
            let again_at = core.options.clock.now().checked_add(REFUSED_RETRY_MIN);
            let run = crate::core::Run::new(owner);
            if workflow::release(core, &run, Attempt::Counted, again_at, Caller::Engine) {
                say!(warn, "workflow {} was left behind; it goes on", run.workflow());
            }
        }
    }
    Ok(())
}

/// Workflows that wait for a name which no living executor of this application knows.
fn refuse_the_unknown(core: &Core, identity: &Arc<Identity>) -> DbResult<()> {
    let registered = core.registry.freeze();
    if !core.reader.unknown_wait(identity, registered)? {
        return Ok(());
    }
    let known = known_names(core, identity);
    let failure = Failure::new(
        NOT_REGISTERED,
        format!(
            "no running program of application {} registers this workflow; registered are: {}. It goes on when one \
             does",
            identity.app,
            listed(known.iter())
        ),
    );
    let at = core.options.clock.now();
    let error = codec::encode_failure(&failure);
    let refuse = Write::RefuseUnknown { identity: identity.clone(), known: known.clone(), error, at };
    let refused = match core.committer.commit(refuse, Caller::Engine) {
        Ok(Verdict::Changed(refused)) if !refused.is_empty() => refused,
        _ => return Ok(()),
    };
    for workflow in refused {
        say!(error, "workflow {workflow}: {failure}");
    }
    // A program that was launched in between has looked for such workflows before they were refused.
    let mut new = known_names(core, identity);
    new.retain(|name| !known.contains(name));
    if !new.is_empty() {
        let _ = core
            .committer
            .commit(Write::Revive { identity: identity.clone(), known: new, at }, Caller::Engine);
    }
    Ok(())
}

/// What the living executors of this application and version can run.
fn known_names(core: &Core, identity: &Identity) -> Vec<String> {
    let peers = core.liveness.members().into_iter();
    let peers = peers.filter(|peer| peer.app == identity.app && peer.version == identity.version);
    let mut known: Vec<String> =
        peers.flat_map(|peer| peer.workflows).chain(core.registry.freeze().iter().cloned()).collect();
    known.sort();
    known.dedup();
    known
}
