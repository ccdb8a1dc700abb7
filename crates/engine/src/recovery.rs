//! What became of workflows whose executor is gone: a loop in every live executor, not only at its launch.

use std::sync::Arc;

use crate::clock::{Stopwatch, Timestamp};
use crate::committer::Caller;
use crate::core::Core;
use crate::error::{Failure, NOT_REGISTERED};
use crate::id::ExecutorId;
use crate::limits::{REFUSED_RETRY_MIN, TRACELESS_EVERY, UNKNOWN_AFTER};
use crate::observer::Event;
use crate::registry::listed;
use crate::sync::say;
use crate::sysdb::write::{Attempt, Unknown};
use crate::sysdb::{DbResult, Identity, Served, Verdict, Write};
use crate::{codec, workflow};

/// Every now and then. `unknown_since` is for the next sweep: since when workflows wait whose names nobody knows.
pub(crate) fn sweep(core: &Core, unknown_since: &mut Option<Stopwatch>) -> DbResult<()> {
    // One that is not launched runs nothing, and takes nothing over.
    let Ok(served) = core.served() else { return Ok(()) };
    let identity = &served.identity;
    if let Err(error) = core.liveness.uphold(&identity.executor) {
        say!(warn, "this executor cannot show the others that it lives: {error}");
    }
    for executor in core.liveness.dead() {
        take_over(core, &executor);
    }
    release_the_lost(core, identity)?;
    refuse_the_unknown(core, served, unknown_since)
}

/// Conditional statements: a second one, here or in another process, finds nothing. Failures are logged by the
/// committer; the next sweep finds the dead one again.
pub(crate) fn take_over(core: &Core, dead: &ExecutorId) {
    let mut workflows = 0;
    loop {
        let requeue = Write::Requeue { executor: dead.clone(), at: core.options.clock.now() };
        let requeued = core.committer.commit(requeue, Caller::Engine);
        match requeued {
            Ok(Verdict::Changed(some)) if !some.is_empty() => workflows += some.len(),
            Ok(_) => break,
            Err(_) => return,
        }
    }
    core.liveness.forget(dead);
    if workflows > 0 {
        say!(info, "executor {} died; {workflows} workflows go on", dead.as_str());
        core.options.observers.tell(|| Event::Recovered { workflows });
    }
}

/// What was refused because nobody knew its name goes on, for these are known. It takes several commits if there is much.
pub(crate) fn revive<E>(
    identity: &Arc<Identity>,
    known: &[String],
    at: Timestamp,
    commit: impl Fn(Write) -> Result<Verdict, E>,
) -> Result<(), E> {
    loop {
        match commit(Write::Revive { identity: identity.clone(), known: known.to_vec(), at })? {
            Verdict::Changed(revived) if !revived.is_empty() => {}
            _ => return Ok(()),
        }
    }
}

/// Executors that have workflows and of which there is no trace, as after a restore from a backup. One of them may be
/// about to put its trace back.
pub(crate) fn without_trace(core: &Core) -> DbResult<Vec<ExecutorId>> {
    Ok(core.liveness.without_trace(core.reader.busy_executors()?))
}

/// Workflows that are `PENDING` under this process and that it does not run: it could neither end them nor give
/// them back when the database failed.
fn release_the_lost(core: &Core, identity: &Identity) -> DbResult<()> {
    for owner in core.reader.owned_by(&identity.executor)? {
        if !core.runs.has(&owner) {
            let run = crate::core::Run::new(owner);
            if workflow::release(core, &run, Attempt::Counted, Some(REFUSED_RETRY_MIN), Caller::Engine) {
                say!(warn, "workflow {} was left behind; it goes on", run.workflow());
            }
        }
    }
    Ok(())
}

/// Workflows that wait for a name which no living executor of this application knows.
fn refuse_the_unknown(core: &Core, served: &Served, unknown_since: &mut Option<Stopwatch>) -> DbResult<()> {
    let identity = &served.identity;
    let at = core.options.clock.now();
    let waiting_since = at.saturating_sub(UNKNOWN_AFTER);
    if !core.reader.unknown_wait(served, waiting_since)? {
        *unknown_since = None;
        return Ok(());
    }
    // While it is not known who knows what, nothing is refused.
    let Some(known) = known_names(core, identity) else { return Ok(()) };
    let all = Served { names: known.clone(), ..served.clone() };
    if !core.reader.unknown_wait(&all, waiting_since)? {
        *unknown_since = None;
        return Ok(());
    }
    // A living one whose traces were removed puts them back meanwhile.
    if unknown_since.get_or_insert_with(Stopwatch::start).elapsed() < TRACELESS_EVERY {
        return Ok(());
    }
    let failure = Failure::by_engine(
        NOT_REGISTERED,
        format!(
            "no running program of application {} registers this workflow; registered are: {}. It goes on when one \
             does",
            identity.app,
            listed(known.iter())
        ),
    );
    let error = codec::encode_failure(&failure);
    let refuse = Write::RefuseUnknown(Unknown { served: all, error, waiting_since, at });
    let refused = match core.committer.commit(refuse, Caller::Engine) {
        Ok(Verdict::Changed(refused)) if !refused.is_empty() => refused,
        _ => return Ok(()),
    };
    for workflow in refused {
        say!(error, "workflow {workflow}: {failure}");
    }
    // A program that was launched in between has looked for such workflows before they were refused.
    let mut new = known_names(core, identity).unwrap_or_default();
    new.retain(|name| !known.contains(name));
    if !new.is_empty() {
        // Failures are logged by the committer.
        let _ = revive(identity, &new, at, |write| core.committer.commit(write, Caller::Engine));
    }
    Ok(())
}

/// What the living executors of this application and version can run.
fn known_names(core: &Core, identity: &Identity) -> Option<Vec<String>> {
    let members = core.liveness.members();
    let peers = match members {
        Ok(members) => members.into_iter(),
        Err(error) => {
            say!(warn, "cannot see what the other executors can run: {error}");
            return None;
        }
    };
    let peers = peers.filter(|peer| *peer.app == *identity.app && *peer.version == *identity.version);
    let mut known: Vec<String> =
        peers.flat_map(|peer| peer.workflows).chain(core.registry.freeze().iter().cloned()).collect();
    known.sort();
    known.dedup();
    Some(known)
}
