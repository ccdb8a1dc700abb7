//! Recovery of workflows whose executor is gone: a loop in every live executor, not only at its launch.

use std::sync::Arc;

use crate::flow::core::Core;
use crate::flow::registry::listed;
use crate::machines::committer::Caller;
use crate::pure::clock::{Stopwatch, Timestamp};
use crate::pure::error::{Failure, NOT_REGISTERED};
use crate::pure::id::{ExecutorId, WorkflowId};
use crate::pure::limits::{REFUSED_RETRY_MIN, TRACELESS_EVERY, UNKNOWN_AFTER};
use crate::pure::listing::brief;
use crate::pure::observer::Event;
use crate::pure::sync::say;
use crate::sysdb::write::{RecoveryAttempt, Unknown};
use crate::sysdb::{BusyExecutor, DbResult, Identity, Served, Verdict, Write};
use crate::{flow::workflow, pure::codec};

/// The operations that each sweep tries again, as the log names them.
const SHOW_LIFE: &str = "show_the_others_that_it_lives";
const SEE_OTHERS: &str = "see_what_the_others_can_run";

/// How many workflows one line of the log names.
const NAMED_MAX: usize = 5;

/// One sweep. `unknown_since` is for the next sweep: the time since which workflows wait whose names no executor knows.
pub(crate) fn sweep(core: &Core, unknown_since: &mut Option<Stopwatch>) -> DbResult<()> {
    // An executor that is not launched runs no workflow, and takes none over.
    let Ok(served) = core.served() else { return Ok(()) };
    let identity = &served.identity;
    match core.liveness.uphold(&identity.executor) {
        Ok(()) => core.outage.notices.passed(SHOW_LIFE),
        Err(error) => core.outage.notices.failed(SHOW_LIFE, &error.to_string()),
    }
    for executor in core.liveness.dead() {
        take_over(core, &executor);
    }
    release_the_lost(core, identity)?;
    refuse_the_unknown(core, served, unknown_since)
}

/// Takes over the workflows of a dead executor by conditional statements. A second takeover, here or in another
/// process, finds no rows. The committer logs failures; the next sweep finds the dead executor again.
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
        say!(info, "executor {} died; number of its workflows that go on: {workflows}", dead.as_str());
        core.options.observers.tell(|| Event::Recovered { workflows });
    }
}

/// Lets workflows go on that were refused because no executor knew their name: these names are known now. Many
/// workflows take several commits.
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

/// Executors that have workflows but no trace, as after a restore from a backup. A living executor may be about to put
/// its trace back. An id that cannot be read is left alone: it is not known whether such an executor lives.
pub(crate) fn without_trace(core: &Core) -> DbResult<Vec<ExecutorId>> {
    let mut busy = Vec::new();
    for executor in core.reader.busy_executors()? {
        match executor {
            BusyExecutor::Known(executor) => busy.push(executor),
            BusyExecutor::Unreadable(shown) => core.outage.notices.name(
                &format!("executor {shown}"),
                "this is not an executor id, but PENDING workflows carry it. The engine leaves these workflows alone; \
                 Engine::resume frees them",
            ),
        }
    }
    Ok(core.liveness.without_trace(busy))
}

/// Releases workflows that are `PENDING` under this process but do not run here. The database failed when they should
/// have been ended or given back.
fn release_the_lost(core: &Core, identity: &Identity) -> DbResult<()> {
    let mut released = Vec::new();
    for owner in core.reader.owned_by(&identity.executor)? {
        if !core.runs.has(&owner) {
            let run = crate::flow::core::Run::new(owner);
            if workflow::release(
                core,
                &run,
                RecoveryAttempt::Counted,
                Some(REFUSED_RETRY_MIN),
                Caller::Engine,
            ) {
                released.push(run.workflow().clone());
            }
        }
    }
    if !released.is_empty() {
        say!(
            warn,
            "found PENDING under this process, but not running, because an earlier write failed: {}. The engine lets them \
             go on",
            some_of(&released)
        );
    }
    Ok(())
}

/// Refuses workflows that wait for a name which no living executor of this application knows.
fn refuse_the_unknown(core: &Core, served: &Served, unknown_since: &mut Option<Stopwatch>) -> DbResult<()> {
    let identity = &served.identity;
    let at = core.options.clock.now();
    let waiting_since = at.saturating_sub(UNKNOWN_AFTER);
    if !core.reader.unknown_wait(served, waiting_since)? {
        *unknown_since = None;
        return Ok(());
    }
    // While it is not known which names the executors know, no workflow is refused.
    let Some(known) = known_names(core, identity) else { return Ok(()) };
    let all = Served { names: known.clone(), ..served.clone() };
    if !core.reader.unknown_wait(&all, waiting_since)? {
        *unknown_since = None;
        return Ok(());
    }
    // A living executor whose traces were removed puts them back meanwhile.
    if unknown_since.get_or_insert_with(Stopwatch::start).elapsed() < TRACELESS_EVERY {
        return Ok(());
    }
    let failure = Failure::by_engine(
        NOT_REGISTERED,
        format!(
            "no running program of application {} registers this workflow; registered workflows: {}. It goes on when \
             a program registers it",
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
    say!(error, "{}: {failure}", some_of(&refused));
    // A program that was launched in between looked for such workflows before they were refused.
    let mut new = known_names(core, identity).unwrap_or_default();
    new.retain(|name| !known.contains(name));
    if !new.is_empty() {
        // The committer logs failures.
        let _ = revive(identity, &new, at, |write| core.committer.commit(write, Caller::Engine));
    }
    Ok(())
}

/// The number of workflows, and the ids of the first.
fn some_of(workflows: &[WorkflowId]) -> String {
    let named: Vec<_> = workflows.iter().take(NAMED_MAX).map(|id| brief(id.as_str(), 300)).collect();
    let more = if workflows.len() > NAMED_MAX { ", .." } else { "" };
    let noun = if workflows.len() == 1 { "workflow" } else { "workflows" };
    format!("{} {noun} ({}{more})", workflows.len(), named.join(", "))
}

/// The names that the living executors of this application and version can run.
fn known_names(core: &Core, identity: &Identity) -> Option<Vec<String>> {
    let members = core.liveness.members();
    let peers = match members {
        Ok(members) => members.into_iter(),
        Err(error) => {
            core.outage.notices.failed(SEE_OTHERS, &error.to_string());
            return None;
        }
    };
    core.outage.notices.passed(SEE_OTHERS);
    let peers = peers.filter(|peer| *peer.app == *identity.app && *peer.version == *identity.version);
    let mut known: Vec<String> =
        peers.flat_map(|peer| peer.workflows).chain(core.registry.freeze().iter().cloned()).collect();
    known.sort();
    known.dedup();
    Some(known)
}
